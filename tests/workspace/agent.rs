//! The agent beside a person's work: its reports, its autosaves, and its save when the pod ends.

use landfall::agent::evidence::Evidence;
use landfall::agent::save::Outcome;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use crate::beside::{Agent, Controller, until};
use crate::compare::{assert_same, committed, on_disk};
use crate::hostile::Witness;
use crate::scene::{BRANCH, Done, Scene, heads_branch};

const SAVE: &str = r#"{"onStop":"Save"}"#;
const AUTOSAVE: &str = r#"{"onStop":"Autosave"}"#;

impl Scene {
    /// Checks that the tree of the newest autosave equals that of the volume.
    fn compare_autosave(&self) {
        assert_same(&committed(&self.bare("shop"), &self.autosaved().unwrap()), &on_disk(&self.shop()));
    }

    /// The last message of the container.
    fn last_message(&self) -> Evidence {
        serde_json::from_str(&std::fs::read_to_string(self.at("last-message")).unwrap()).unwrap()
    }

    /// All files of the clone's git directory except objects.
    fn git_files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut rest = vec![self.shop().join(".git")];
        let mut files = BTreeMap::new();
        while let Some(directory) = rest.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => rest.push(entry.path()),
                    _ => drop(files.insert(entry.path().display().to_string(), std::fs::read(entry.path()).unwrap())),
                }
            }
        }
        files
    }
}

/// Checks that the command succeeded and that only the ref of autosaves is new.
fn autosaved_only(scene: &Scene, done: &Done) {
    assert_eq!((done.code, done.outcome()), (Some(0), "Saved"), "{done:?}");
    scene.compare_autosave();
    let names: Vec<_> = scene.refs().into_keys().collect();
    assert_eq!(names, ["refs/heads/main".to_owned(), Scene::autosave_ref()]);
}

fn count(report: &Value) -> [u64; 3] {
    ["changed", "untracked", "unpushed"].map(|field| report[field].as_u64().unwrap_or_else(|| panic!("{report}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_is_reported_and_nothing_else() {
    let scene = Scene::cloned().await;
    let controller = Controller::answering(200, AUTOSAVE).await;
    let mut agent = scene.agent(Some(&controller.url), &[]);
    let clean = controller.until("the first report", |report| report["branch"] == BRANCH).await;
    let head = scene.git(&["rev-parse", "HEAD"]).await;
    assert_eq!(clean, json!({"branch": BRANCH, "head": head, "changed": 0, "untracked": 0, "unpushed": 0}));

    scene.write("new", "new");
    scene.write("new too", "new");
    controller.until("files that git does not know", |report| count(report) == [0, 2, 0]).await;
    scene.git(&["add", "new"]).await;
    controller.until("a staged file is a change", |report| count(report) == [1, 1, 0]).await;
    scene.write("README.md", "SHOP\n");
    controller.until("a changed file", |report| count(report) == [2, 1, 0]).await;
    scene.identify("two");
    scene.git(&["commit", "--quiet", "--all", "--message", "x"]).await;
    let commit = controller.until("a commit", |report| count(report) == [0, 1, 1]).await;
    assert_eq!(commit["head"], scene.git(&["rev-parse", "HEAD"]).await);
    assert!(commit["remoteHead"].is_null() && commit["ahead"].is_null() && commit["behind"].is_null());

    controller.answer(503, "another process leads");
    let before = controller.heard().len();
    scene.git(&["push", "--quiet"]).await;
    until("the report is refused", || (controller.heard().len() > before).then_some(())).await;
    controller.answer(200, AUTOSAVE);
    until("what was refused is sent again", || controller.heard().pop().filter(|(_, _, status)| *status == 200)).await;
    let pushed = controller.until("a push", |report| count(report) == [0, 1, 0]).await;
    assert_eq!((&pushed["remoteHead"], &pushed["ahead"], &pushed["behind"]), (&commit["head"], &json!(0), &json!(0)));
    scene.write("README.md", "stashed\n");
    scene.git(&["stash"]).await;
    controller.until("a stash is two commits that no remote has", |report| count(report) == [0, 1, 2]).await;
    scene.git(&["stash", "drop"]).await;
    controller.until("it is dropped", |report| count(report) == [0, 1, 0]).await;
    scene.git(&["commit", "--quiet", "--amend", "--message", "y"]).await;
    let amended = controller.until("another way", |report| count(report) == [0, 1, 1]).await;
    assert_eq!((&amended["ahead"], &amended["behind"]), (&json!(1), &json!(1)));
    scene.git(&["switch", "--quiet", "--detach", "main"]).await;
    let left = controller.until("another branch's commit is not pushed", |report| report["branch"].is_null()).await;
    assert_eq!((count(&left), &left["head"]), ([0, 1, 1], &json!(head)));

    // A look with the same result as the last one is not reported: git writes the index, and nothing else changes.
    scene.git(&["update-index", "--really-refresh"]).await;
    scene.write("new too", "as new as before");
    std::fs::write(scene.shop().join("newest"), "").unwrap();
    controller.until("something else", |report| count(report) == [0, 2, 1]).await;
    let taken: Vec<_> = controller.heard().into_iter().filter(|(_, _, status)| *status == 200).collect();
    // On a machine that stalled, a report whose answer came too late is sent again, and the agent says so.
    let is_repeated = taken.windows(2).any(|pair| pair[0].1 == pair[1].1);
    assert!(!is_repeated || agent.words().contains("no answer in time"), "{taken:?}");
    assert_eq!((&*taken[0].0, &*taken.last().unwrap().0), ("identity.one.x", "identity.two.x"));
    let files = scene.git_files();
    let done = agent.stop().await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(scene.git_files(), files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autosave_leaves_the_clone_alone() {
    let scene = Scene::cloned().await;
    let witness = Witness::new(&scene);
    std::fs::create_dir_all(scene.shop().join(".git/hooks")).unwrap();
    for hook in ["pre-commit", "post-commit", "pre-push", "post-index-change", "reference-transaction"] {
        symlink(&witness.program, scene.shop().join(".git/hooks").join(hook)).unwrap();
    }
    scene.write("staged", "1");
    scene.git(&["add", "staged"]).await;
    assert!(witness.ran());
    scene.write("new", "1");
    let files = scene.git_files();
    let controller = Controller::answering(200, SAVE).await;
    let mut agent = scene.agent(Some(&controller.url), &["--interval", "1"]);
    let report = controller.until("an autosave", |report| !report["autosave"].is_null()).await;
    assert_eq!(report["autosave"]["commit"], json!(scene.autosaved()));
    let at: jiff::Timestamp = report["autosave"]["at"].as_str().unwrap().parse().unwrap();
    assert!(at.subsec_nanosecond() == 0 && report["trouble"].is_null());
    scene.compare_autosave();

    let first = scene.autosaved();
    scene.write("new", "2");
    until("the next one", || scene.autosaved().filter(|newest| Some(newest) != first.as_ref())).await;
    scene.compare_autosave();
    assert_eq!(scene.parents(&scene.autosaved().unwrap()).last(), first.as_ref());
    assert_eq!(scene.git_files(), files);
    assert!(!witness.ran());
    assert_eq!(scene.refs().len(), 2, "nothing of it is where people look");

    // A failed save is reported, and is repeated when it can succeed.
    scene.refuse("echo 'error: GH013: Repository rule violations found' >&2; exit 1");
    scene.write("new", "3");
    let told = controller.until("a refusal", |report| report["trouble"].is_string()).await;
    assert!(told["trouble"].as_str().unwrap().contains("GH013"), "{told}");
    std::fs::remove_file(scene.at("github/hooks/pre-receive")).unwrap();
    scene.write("new", "4");
    controller.until("it is gone", |report| report["trouble"].is_null()).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_all_work_is_saved_if_the_controller_says_so() {
    let scene = Scene::cloned().await;
    let head = scene.commit("mine").await;
    scene.write("new", "new");
    let controller = Controller::answering(200, SAVE).await;
    let mut agent = scene.agent(Some(&controller.url), &[]);
    controller.until("the state", |report| count(report) == [0, 1, 1]).await;
    let done = agent.stop().await;
    assert_eq!((done.code, done.outcome()), (Some(0), "Saved"), "{done:?}");
    scene.compare(&heads_branch());
    assert_eq!(scene.parents(&scene.refs()[&heads_branch()]), [head]);
    assert_eq!(scene.refs().len(), 2);
    let evidence = scene.last_message();
    assert_eq!((evidence.outcome, evidence.remote.branch), (Outcome::Saved, scene.refs().remove(&heads_branch())));

    // Now there is nothing to do, which is a success as well.
    let mut agent = scene.agent(Some(&controller.url), &[]);
    let done = agent.stop().await;
    assert_eq!((done.code, scene.last_message().outcome), (Some(0), Outcome::NothingToDo), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_the_replica_that_leads_is_heard() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    let controller = Controller::answering(200, SAVE).await;
    controller.stand_by();
    let done = scene.agent(Some(&controller.url), &[]).stop().await;
    assert_eq!((done.code, done.outcome()), (Some(0), "Saved"), "{done:?}");
    scene.compare(&heads_branch());
    assert!(controller.heard().iter().any(|(_, _, status)| *status == 503));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_git_that_took_too_long() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    let go = scene.at("go");
    scene.refuse(&format!(
        "n=0; while [ ! -e '{}' ] && [ $n -lt 6000 ]; do sleep 0.05; n=$((n+1)); done; exit 1",
        go.display()
    ));
    let controller = Controller::answering(200, AUTOSAVE).await;
    let agent = scene.agent(Some(&controller.url), &["--interval", "1", "--timeout", "4"]);
    let late = |report: &Value| {
        report["trouble"].as_str().is_some_and(|trouble| trouble.contains("passed its deadline and was killed"))
    };
    controller.until("an autosave is late", late).await;
    until("all of it is gone", || (agent.left() == 0).then_some(())).await;
    std::fs::write(&go, "").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_work_is_autosaved_unless_the_controller_says_more() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    // The port is bound, so that no other process gets it, but nobody listens on it.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = format!("http://{}/v1/report", nobody.local_addr().unwrap());
    let controller = Controller::answering(200, AUTOSAVE).await;
    let url = Some(controller.url.as_str());
    let stopped = async |mut agent: Agent| {
        let done = agent.stop().await;
        autosaved_only(&scene, &done);
        assert_eq!(
            (scene.last_message().outcome, scene.last_message().remote.autosave),
            (Outcome::Saved, scene.autosaved())
        );
    };
    for (number, url, answer) in [
        (0, None, None),
        (1, Some(gone.as_str()), None),
        (2, url, Some((200, AUTOSAVE))),
        (3, url, Some((200, "what?"))),
        (4, url, Some((200, r#"{"onStop":"Discard"}"#))),
        (5, url, Some((401, SAVE))),
        (6, url, Some((503, SAVE))),
        (7, url, None),
    ] {
        scene.write("new", format!("new {number}"));
        match answer {
            // The last answer decides, not an earlier one.
            Some((status, answer)) => controller.answer(status, answer),
            None => controller.answer(200, SAVE),
        }
        let heard = controller.heard().len();
        let agent = scene.agent(url, &[]);
        if url.is_some_and(|url| url == controller.url) {
            until("a report", || (controller.heard().len() > heard).then_some(())).await;
        }
        if number == 7 {
            controller.be_silent();
        }
        stopped(agent).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_is_not_cut_short_by_further_signals() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    let (begun, go) = (scene.at("begun"), scene.at("go"));
    let gate = format!(
        "touch '{}'; n=0; while [ ! -e '{}' ] && [ $n -lt 6000 ]; do sleep 0.05; n=$((n+1)); done",
        begun.display(),
        go.display()
    );
    scene.refuse(&gate);
    let controller = Controller::answering(200, SAVE).await;
    let mut agent = scene.agent(Some(&controller.url), &[]);
    agent.hears().await;
    agent.signal(Signal::TERM);
    until("the push is under way", || begun.exists().then_some(())).await;
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        agent.signal(signal);
    }
    std::fs::write(&go, "").unwrap();
    let done = agent.ended().await;
    assert_eq!((done.code, done.outcome()), (Some(0), "Saved"), "{done:?}");
    scene.compare(&heads_branch());

    // Only its timeout ends it early.
    for file in [&begun, &go] {
        std::fs::remove_file(file).unwrap();
    }
    scene.write("new", "newer");
    let mut agent = scene.agent(Some(&controller.url), &["--timeout", "5"]);
    let done = agent.stop().await;
    std::fs::write(&go, "").unwrap();
    assert_eq!((done.code, done.outcome()), (Some(75), "TryAgain"), "{done:?}");
    assert_eq!(done.left()[0].1, "Late", "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autosave_under_way_gives_way_to_the_end() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    let (begun, go) = (scene.at("begun"), scene.at("go"));
    // Only the first push waits.
    scene.refuse(&format!(
        "mkdir '{}' 2>/dev/null || exit 0; n=0; while [ ! -e '{}' ] && [ $n -lt 6000 ]; do sleep 0.05; n=$((n+1)); done; exit 1",
        begun.display(),
        go.display()
    ));
    let controller = Controller::answering(200, SAVE).await;
    let mut agent = scene.agent(Some(&controller.url), &["--interval", "1"]);
    until("an autosave is under way", || begun.exists().then_some(())).await;
    let done = agent.stop().await;
    std::fs::write(&go, "").unwrap();
    assert_eq!((done.code, done.outcome()), (Some(0), "Saved"), "{done:?}");
    scene.compare(&heads_branch());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_clone_is_neither_obeyed_nor_followed() {
    let scene = Scene::cloned().await;
    let witness = Witness::new(&scene);
    let outside = scene.at("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "the operator's own").unwrap();
    for (key, value) in [
        ("core.fsmonitor", witness.path()),
        ("core.hooksPath", witness.path()),
        ("filter.evil.clean", witness.path()),
        ("diff.external", witness.path()),
        ("core.sshCommand", witness.path()),
        ("credential.helper", witness.path()),
        ("core.alternateRefsCommand", witness.path()),
        ("remote.origin.url", "https://evil.invalid/x"),
    ] {
        scene.git(&["-c", "core.fsmonitor=false", "config", key, value]).await;
    }
    let instead = format!("url.https://evil.invalid/.insteadOf {}", scene.sim.base_url());
    let (key, value) = instead.split_once(' ').unwrap();
    scene.git(&["-c", "core.fsmonitor=false", "config", key, value]).await;
    scene.write(".gitattributes", "* filter=evil diff=evil\n");
    scene.write("new", "new");
    symlink(&outside, scene.shop().join("out")).unwrap();
    let git = std::process::Command::new("git").current_dir(scene.shop()).args(["add", "--all"]).output().unwrap();
    assert!(witness.ran(), "plain git obeys: {git:?}");

    let controller = Controller::answering(200, SAVE).await;
    let mut agent = scene.agent(Some(&controller.url), &["--interval", "1"]);
    controller.until("an autosave", |report| !report["autosave"].is_null()).await;
    scene.compare_autosave();
    // A ref that leads out of the clone, and a git directory that does.
    symlink(outside.join("secret"), scene.shop().join(".git/refs/heads/evil")).unwrap();
    let told = controller.until("it is told", |report| report["trouble"].is_string()).await;
    std::fs::remove_file(scene.shop().join(".git/refs/heads/evil")).unwrap();
    assert!(!witness.ran());
    let done = agent.stop().await;
    assert_eq!((done.code, done.outcome()), (Some(0), "Saved"), "{done:?}");
    scene.compare(&heads_branch());
    assert!(!witness.ran());
    for text in [told.to_string(), done.words, done.said.to_string()] {
        assert!(!text.contains("the operator's own"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_is_in_what_it_says() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    // The answer repeats the token.
    let controller = Controller::answering(401, "the token identity.one.x is not known").await;
    let mut agent = scene.agent(Some(&controller.url), &["--interval", "1"]);
    until("a refusal is told", || agent.words().contains("401").then_some(())).await;
    scene.refuse(&format!("echo 'token {} is not welcome' >&2; exit 1", scene.token()));
    scene.write("new", "newer");
    let refused = |report: &Value| report["trouble"].as_str().is_some_and(|trouble| trouble.contains("not welcome"));
    let told = controller.until("a refused autosave", refused).await;
    let done = agent.stop().await;
    assert_eq!(done.code, Some(20), "{done:?}");
    let message = std::fs::read_to_string(scene.at("last-message")).unwrap();
    for text in [done.words, done.said.to_string(), message, told.to_string()] {
        assert!(!text.contains(&scene.token()) && !text.contains("identity.one.x"), "{text}");
    }
    assert!(controller.heard().iter().all(|(bearer, _, _)| bearer == "identity.one.x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_may_be_there_before_the_clone_which_says_what_its_branch_is() {
    let scene = Scene::new().await;
    let controller = Controller::answering(200, SAVE).await;
    let record = scene.at("record");
    let record = record.to_str().unwrap();
    let mut agent = scene.agent(Some(&controller.url), &["--record", record]);
    controller
        .until("there is nothing yet", |report| *report == json!({"changed": 0, "untracked": 0, "unpushed": 0}))
        .await;
    let done = agent.stop().await;
    assert_eq!((done.code, done.outcome()), (Some(0), "NothingToDo"), "{done:?}");

    let mut agent = scene.agent(Some(&controller.url), &["--record", record]);
    let taken = scene.refs()["refs/heads/main"].clone();
    let bare = scene.bare("shop");
    let git = std::process::Command::new("git").arg("--git-dir").arg(bare).args(["branch", BRANCH, &taken]).status();
    assert!(git.unwrap().success());
    let done = scene.clone(&["--on-exists", "suffix", "--record", record]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let other = format!("{BRANCH}-2");
    controller.until("the clone", |report| report["branch"] == other).await;
    scene.commit("mine").await;
    scene.git(&["push", "--quiet"]).await;
    let pushed = |report: &Value| report["remoteHead"] == report["head"] && report["ahead"] == 0;
    controller.until("its own branch's state", pushed).await;
    scene.write("new", "new");
    let done = agent.stop().await;
    assert_eq!((done.code, done.saved_as("working tree").0), (Some(0), format!("refs/heads/{other}")), "{done:?}");
    assert_eq!(scene.refs()[&heads_branch()], taken, "the other's branch is as it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_command_is_told() {
    let scene = Scene::cloned().await;
    for (further, words) in [
        (&["--report-url", "http://127.0.0.1:1/"][..], "--identity-file"),
        (&["--report-url", "https://h/", "--identity-file", "x"], "http://HOST:PORT"),
        (&["--interval", "often"], "--interval"),
    ] {
        let done = scene.agent(None, further).ended().await;
        assert!(done.code == Some(2) && done.words.contains(words), "{done:?}");
    }
}
