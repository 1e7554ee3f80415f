//! Attacks on Landfall's programs in a workspace's pod, by the files on the volume or by a person who works there: each
//! fails, and succeeds without its guards.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::beside::Controller;
use crate::compare::committed;
use crate::hostile::Witness;
use crate::scene::{Done, Scene, executable};

/// Tries an attack with all guards, and without some.
async fn needs(guards: &str, attack: impl AsyncFn(&Scene, &str) -> bool) {
    let scene = Scene::cloned().await;
    assert!(!attack(&scene, "").await, "with its guards");
    let scene = Scene::cloned().await;
    assert!(attack(&scene, guards).await, "without {guards}, so this is no attack");
}

/// A save without some guards.
async fn save(scene: &Scene, without: &str, programs: Option<&Path>) -> Done {
    let done = scene.landfall_without(without, programs, scene.save_arguments(&[])).await;
    println!("without {without:?}: {done:?}");
    done
}

/// Whether a text is in any commit of the remote, or in its parents.
fn has(scene: &Scene, text: &str) -> bool {
    let is_in = |commit: &String| {
        committed(&scene.bare("shop"), commit).values().any(|(_, contents)| contents == text.as_bytes())
    };
    scene.refs().values().any(|commit| is_in(commit) || scene.parents(commit).iter().any(is_in))
}

/// Somebody else's program asks the helpers for the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_for_another_host_or_repository() {
    async fn asked(scene: &Scene, mut command: Command, question: String) -> bool {
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let said = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // It may have ended without reading.
            let _ = child.stdin.take().unwrap().write_all(question.as_bytes());
            child.wait_with_output().unwrap().stdout
        });
        String::from_utf8(said.await.unwrap()).unwrap().contains(&scene.token())
    }
    let attack = async |scene: &Scene, guards: &str| {
        // The clone writes the person's helper.
        let done = scene.landfall_without(guards, None, scene.clone_arguments("shop", &[])).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        let host = scene.sim.address();
        let mut given = Vec::new();
        for (host, path) in [
            (host.to_string(), "acme/other.git"),
            (format!("{host}.evil.example"), "acme/shop.git"),
            ("evil.example".to_owned(), "acme/shop.git"),
        ] {
            let question = format!("protocol=https\nhost={host}\npath={path}\n");
            let script = Command::new(scene.at("tools/git-credential-landfall"));
            let mut binary = Command::new(env!("CARGO_BIN_EXE_landfall"));
            binary.args(["workspace", "credential", "--url", &scene.url("shop"), "--token-file"]);
            binary.arg(scene.at("token")).env("LANDFALL_SABOTAGE", guards);
            for command in [script, binary] {
                given.push(asked(scene, command, question.clone()).await);
            }
        }
        assert!(given.iter().all(|its| *its == given[0]), "{given:?}");
        given[0]
    };
    needs("address", attack).await;
}

/// The clone's configuration redirects all addresses to another host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_host_by_instead_of() {
    let attack = async |scene: &Scene, guards: &str| {
        let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}/", elsewhere.local_addr().unwrap());
        let (heard, called) = (tokio_util::sync::CancellationToken::new(), tokio_util::sync::CancellationToken::new());
        let call = called.clone();
        let listening = heard.clone().drop_guard();
        tokio::spawn(heard.run_until_cancelled_owned(async move {
            // The server closes the connection: one call is enough.
            while let Ok((stream, _)) = elsewhere.accept().await {
                call.cancel();
                drop(stream);
            }
        }));
        for key in ["insteadOf", "pushInsteadOf"] {
            scene.git(&["config", &format!("url.{address}.{key}"), scene.sim.base_url()]).await;
        }
        scene.write("new", "work");
        let done = save(scene, guards, None).await;
        drop(listening);
        assert_eq!(done.outcome() == "Saved", guards.is_empty(), "{done:?}");
        called.is_cancelled()
    };
    needs("own-directory", attack).await;
}

/// Hooks in the clone that run during a save.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_a_save_runs() {
    for hook in ["post-index-change", "reference-transaction"] {
        let attack = async |scene: &Scene, guards: &str| {
            let witness = Witness::new(scene);
            std::fs::create_dir_all(scene.shop().join(".git/hooks")).unwrap();
            symlink(&witness.program, scene.shop().join(".git/hooks").join(hook)).unwrap();
            scene.write("new", "work");
            scene.write("README.md", "changed");
            save(scene, guards, None).await;
            witness.ran()
        };
        needs("own-directory,settings", attack).await;
    }
}

/// Programs in the clone's configuration that a save would start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_or_monitor_that_a_save_starts() {
    for (key, guards) in [
        ("filter.evil.clean", "own-directory"),
        ("filter.evil.process", "own-directory"),
        ("core.fsmonitor", "own-directory,settings"),
    ] {
        let attack = async |scene: &Scene, guards: &str| {
            let witness = Witness::new(scene);
            scene.write(".gitattributes", "* filter=evil\n");
            scene.git(&["config", key, witness.path()]).await;
            // git compares a file with another time, and starts a filter for that.
            let touched = std::fs::OpenOptions::new().write(true).open(scene.shop().join("README.md")).unwrap();
            touched.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_hours(1)).unwrap();
            witness.ran();
            save(scene, guards, None).await;
            witness.ran()
        };
        needs(guards, attack).await;
    }
}

/// A directory is replaced by a link between its listing and its reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_exchanged_for_a_link() {
    let attack = async |scene: &Scene, guards: &str| {
        std::fs::create_dir(scene.at("home/etc")).unwrap();
        std::fs::write(scene.at("home/etc/secret"), "secret").unwrap();
        scene.write("dir/secret", "none");
        // The machine's git, and a process of the workspace with the best possible timing.
        let git =
            String::from_utf8(Command::new("sh").args(["-c", "command -v git"]).output().unwrap().stdout).unwrap();
        let (dir, etc) = (scene.shop().join("dir"), scene.at("home/etc"));
        let script = format!(
            "#!/bin/sh\n'{}' \"$@\"\nstatus=$?\ncase \" $* \" in *' --others '*) rm -r '{1}'; ln -s '{2}' '{1}' ;; esac\nexit $status\n",
            git.trim(),
            dir.display(),
            etc.display()
        );
        executable(&scene.at("programs/git"), &script);
        save(scene, guards, Some(&scene.at("programs"))).await;
        assert!(dir.is_symlink(), "it was exchanged");
        has(scene, "secret")
    };
    needs("links", attack).await;
}

/// The clone's `.git` is a link to that of somebody else's repository, and so are the files that are read there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_git_directory_that_is_a_link() {
    let attack = async |scene: &Scene, guards: &str| {
        let theirs = scene.at("home/theirs");
        std::fs::rename(scene.shop().join(".git"), scene.at("home/ours")).unwrap();
        scene.git_in(&scene.at("home"), &["init", "--quiet", theirs.to_str().unwrap()]).await;
        std::fs::write(theirs.join("file"), "secret").unwrap();
        scene.git_in(&theirs, &["add", "file"]).await;
        scene.git_in(&theirs, &["commit", "--quiet", "--message", "theirs"]).await;
        symlink(theirs.join(".git"), scene.shop().join(".git")).unwrap();
        save(scene, guards, None).await;
        has(scene, "secret")
    };
    needs("links,volume", attack).await;
}

/// The clone borrows the objects of another workspace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_objects_of_another_workspace() {
    let attack = async |scene: &Scene, guards: &str| {
        let theirs = scene.at("home/theirs");
        scene.git_in(&scene.at("home"), &["init", "--quiet", "--bare", theirs.to_str().unwrap()]).await;
        let file = scene.at("home/file");
        std::fs::write(&file, "secret").unwrap();
        let blob = scene.git_in(&theirs, &["hash-object", "-w", file.to_str().unwrap()]).await;
        scene.write(".git/objects/info/alternates", format!("{}\n", theirs.join("objects").display()));
        scene.git(&["update-index", "--add", "--cacheinfo", &format!("100644,{blob},stolen")]).await;
        scene.git(&["commit", "--quiet", "--message", "stolen"]).await;
        save(scene, guards, None).await;
        has(scene, "secret")
    };
    needs("volume", attack).await;
}

/// A branch of somebody else's was checked out when the pod moved. The uncommitted changes are not committed to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_for_the_branch_that_happens_to_be_checked_out() {
    let attack = async |scene: &Scene, guards: &str| {
        scene.git(&["checkout", "--quiet", "main"]).await;
        let record = scene.at("record");
        let done = scene.clone(&["--record", record.to_str().unwrap()]).await;
        assert_eq!((done.code, &done.said["branch"]), (Some(0), &"main".into()), "{done:?}");
        let main = scene.refs()["refs/heads/main"].clone();
        scene.write("new", "work");
        let controller = Controller::answering(200, r#"{"onStop":"Save"}"#).await;
        let mut agent = scene.agent_without(guards, Some(&controller.url), &["--record", record.to_str().unwrap()]);
        controller.until("it looked", |report| report["untracked"] == 1).await;
        let done = agent.stop().await;
        assert_eq!(done.outcome(), "Saved", "{done:?}");
        scene.refs()["refs/heads/main"] != main
    };
    needs("branch", attack).await;
}
