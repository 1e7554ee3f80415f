//! Work that cannot be saved, or not now: the two are distinguished, and the message is that of the refusing side.

use github_sim::{Because, Fault, FaultKind};

use crate::scene::{BRANCH, Scene, WIP, heads_branch};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_git_cannot_keep_is_said() {
    let scene = Scene::cloned().await;
    let pipe = scene.shop().join("pipe");
    scene.write("tracked", "x");
    scene.git(&["add", "tracked"]).await;
    scene.git(&["commit", "--quiet", "--message", "x"]).await;
    std::fs::remove_file(scene.shop().join("tracked")).unwrap();
    for path in [&pipe, &scene.shop().join("tracked")] {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }
    let done = scene.save(&[]).await;
    assert_eq!((done.outcome(), done.code), ("Refused", Some(20)), "{done:?}");
    // git itself ignores an untracked pipe.
    assert_eq!(done.left(), [("tracked".to_owned(), "NotForGit".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protected_branch_sends_the_work_beside_it() {
    let scene = Scene::cloned().await;
    scene.refuse(&format!(
        "while read old new ref; do [ $ref != refs/heads/{BRANCH} ] || {{ echo 'error: GH006: Protected branch update failed' >&2; exit 1; }}; done"
    ));
    scene.write("new", "new");
    let done = scene.save_twice().await;
    assert_eq!(done.saved_as("working tree").0, format!("{WIP}/head"));
    assert!(done.saved("working tree").unwrap()["notOnBranch"].as_str().unwrap().contains("GH006"), "{done:?}");
    scene.compare(&format!("{WIP}/head"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_refuses_is_said_in_its_words() {
    let scene = Scene::cloned().await;
    let refs = scene.refs();
    // A rule of GitHub that the simulator has: workflows need a permission that this token does not have.
    scene.write(".github/workflows/ci.yaml", "on: push\n");
    let done = scene.save(&[]).await;
    assert_eq!((done.outcome(), done.code), ("Refused", Some(20)), "{done:?}");
    assert_eq!(done.left(), [("working tree".to_owned(), "Workflows".to_owned())]);
    assert!(done.said["left"][0]["message"].as_str().unwrap().contains("without `workflows` permission"), "{done:?}");
    assert_eq!(scene.refs(), refs);

    scene.refuse("echo 'error: GH001: Large files detected.' >&2; exit 1");
    let done = scene.save(&[]).await;
    assert_eq!(
        (done.outcome(), done.left()),
        ("Refused", vec![("working tree".to_owned(), "TooLarge".to_owned())]),
        "{done:?}"
    );
    std::fs::remove_file(scene.at("github/hooks/pre-receive")).unwrap();

    std::fs::remove_dir_all(scene.shop().join(".github")).unwrap();
    scene.write("new", "new");
    scene.renew("read").await;
    let done = scene.save(&[]).await;
    assert_eq!(
        (done.outcome(), done.left()),
        ("Refused", vec![("working tree".to_owned(), "Forbidden".to_owned())]),
        "{done:?}"
    );
    scene.renew("write").await;
    scene.sim.set_archived("acme/shop", true).unwrap();
    let done = scene.save(&[]).await;
    assert_eq!(done.left()[0].1, "Archived", "{done:?}");
    assert!(done.said["left"][0]["message"].as_str().unwrap().contains("archived"), "{done:?}");
    assert_eq!(scene.refs(), refs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_succeed_later_is_told_apart() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    let again = async |reason: &str| {
        let done = scene.save(&[]).await;
        assert_eq!((done.outcome(), done.code), ("TryAgain", Some(75)), "{done:?}");
        assert_eq!(done.left()[0].1, reason, "{done:?}");
    };
    let refs = scene.refs();
    let token = scene.token();
    std::fs::remove_file(scene.at("token")).unwrap();
    again("Unauthorized").await;
    std::fs::write(scene.at("token"), "ghs_x").unwrap();
    again("Unauthorized").await;
    std::fs::write(scene.at("token"), token).unwrap();
    let status = |status| FaultKind::Status { status, body: None, headers: std::collections::BTreeMap::new() };
    scene.sim.inject(Fault::new("GET", "/acme/shop.git/info/refs", status(502)));
    again("Unreachable").await;
    scene.sim.inject(Fault::new("POST", "/acme/shop.git/git-receive-pack", FaultKind::Cut).times(9));
    again("Unreachable").await;
    assert_eq!(scene.refs(), refs);
    scene.sim.clear_faults();
    let done = scene.save(&["--timeout", "0"]).await;
    assert_eq!((done.outcome(), done.left()[0].1.as_str()), ("TryAgain", "Late"), "{done:?}");
    assert_eq!(std::fs::read_dir(scene.at("scratch")).unwrap().count(), 0);
    // The answer to a successful push is lost.
    scene.sim.inject(Fault::new("POST", "/acme/shop.git/git-receive-pack", FaultKind::LoseResponse));
    let done = scene.save(&[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    scene.compare(&heads_branch());
    assert_eq!((done.saved_as("working tree").0, scene.refs().len()), (heads_branch(), 2), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_as_a_clone_is_said() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    scene.write(".git/index", "broken");
    let done = scene.save(&[]).await;
    assert_eq!(
        (done.outcome(), done.left()),
        ("Refused", vec![("index".to_owned(), "Unreadable".to_owned())]),
        "{done:?}"
    );
    scene.compare(&heads_branch());
    scene.write(".git/refs/heads/broken", "");
    assert!(scene.save(&[]).await.left()[1].0.ends_with("refs/heads/broken"));
    std::fs::rename(scene.shop().join(".git"), scene.at("volume/elsewhere")).unwrap();
    scene.write(".git", format!("gitdir: {}\n", scene.at("volume/elsewhere").display()));
    let done = scene.save(&[]).await;
    assert_eq!((done.outcome(), done.code), ("Refused", Some(20)), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_of_github_has_a_reason_of_its_own() {
    let scene = Scene::cloned().await;
    scene.write("new", "new");
    let refs = scene.refs();
    for (because, reason, outcome) in [
        (Because::LargeFile, "TooLarge", "Refused"),
        (Because::LargePack, "TooLarge", "Refused"),
        (Because::ProtectedBranch, "Refused", "Refused"),
        (Because::LockedBranch, "Locked", "Refused"),
        (Because::UnsignedCommits, "Unsigned", "Refused"),
        (Because::PrivateEmail, "Email", "Refused"),
        (Because::MissingLfs, "LargeFile", "Refused"),
        (Because::Ruleset, "Refused", "Refused"),
        (Because::PushProtection, "Secret", "Refused"),
        (Because::SingleSignOn, "SingleSignOn", "Refused"),
        (Because::IpAllowList, "IpAddress", "Refused"),
        (Because::Billing, "Billing", "Refused"),
        (Because::Terms, "Disabled", "Refused"),
        (Because::SecondaryLimit, "RateLimited", "TryAgain"),
        (Because::Outage, "Unreachable", "TryAgain"),
    ] {
        for (method, path) in [("GET", "*/info/refs"), ("POST", "*/git-receive-pack")] {
            scene.sim.inject(Fault::new(method, path, FaultKind::Refuse { because }).times(999));
        }
        let done = scene.save(&[]).await;
        assert_eq!((done.outcome(), done.left()[0].1.as_str()), (outcome, reason), "{because:?} {done:?}");
        assert_eq!(scene.refs(), refs, "{because:?}");
        scene.sim.clear_faults();
    }
    assert_eq!(scene.save(&[]).await.outcome(), "Saved");
}
