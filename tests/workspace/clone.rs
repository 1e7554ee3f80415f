//! The clone at the beginning of a workspace.

use std::os::unix::fs::symlink;

use github_sim::{Fault, FaultKind, Push};

use crate::compare::{assert_same, committed, on_disk};
use crate::scene::{BRANCH, Scene, executable, holding};

fn push(scene: &Scene, branch: &str, path: &str) -> String {
    let push = Push {
        repository: "acme/shop".into(),
        branch: Some(branch.into()),
        path: path.into(),
        content: branch.into(),
        message: None,
    };
    scene.sim.push(&push).unwrap()
}

fn fault(scene: &Scene, kind: FaultKind, times: u64) {
    scene.sim.inject(Fault::new("GET", "/acme/shop.git/info/refs", kind).times(times));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_works_in_it_with_plain_git() {
    let scene = Scene::new().await;
    let main = scene.sim.head("acme/shop", "main").unwrap();
    let done = scene.clone(&[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.said, serde_json::json!({"branch": BRANCH, "head": main, "cloned": true, "begun": true}));
    assert_same(&committed(&scene.bare("shop"), &main), &on_disk(&scene.shop()));
    assert_eq!(
        scene.git(&["status", "--porcelain=2", "--branch"]).await.lines().nth(1),
        Some(&*format!("# branch.head {BRANCH}"))
    );
    assert!(!scene.shop().join(".git/hooks").exists());
    assert_eq!(std::fs::read_dir(scene.at("volume")).unwrap().count(), 1);

    scene.write("new", "new\n");
    scene.git(&["add", "--all"]).await;
    scene.git(&["commit", "--message", "new"]).await;
    scene.git(&["push"]).await;
    let head = scene.git(&["rev-parse", "HEAD"]).await;
    assert_eq!(scene.sim.head("acme/shop", BRANCH).unwrap(), head);
    assert_eq!(scene.git(&["log", "-1", "--format=%an %ae %cn"]).await, "Mona mona@example.com Mona");
    let theirs = push(&scene, BRANCH, "theirs");
    scene.git(&["pull", "--ff-only"]).await;
    assert_eq!(scene.git(&["rev-parse", "HEAD"]).await, theirs);
    scene.git(&["fetch"]).await;

    // The token is only in its file.
    let token = scene.token();
    for place in ["volume", "scratch", "home"] {
        assert_eq!(holding(&scene.at(place), &token), Vec::<std::path::PathBuf>::new());
    }
    let config = std::fs::read_to_string(scene.at("tools/gitconfig")).unwrap();
    assert!(config.contains("credential") && !config.contains(&token));
    let config = std::fs::read_to_string(scene.shop().join(".git/config")).unwrap();
    assert!(!config.contains("credential") && config.contains(&scene.url("shop")), "{config}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_in_no_argument_and_no_environment() {
    let scene = Scene::new().await;
    let programs = scene.at("programs");
    let log = scene.at("called");
    // Every git process, including those that git starts, records its arguments and environment.
    let git =
        String::from_utf8(std::process::Command::new("sh").args(["-c", "command -v git"]).output().unwrap().stdout)
            .unwrap();
    let script =
        format!("#!/bin/sh\n{{ echo \"called: $*\"; env; }} >> '{}'\nexec {} \"$@\"\n", log.display(), git.trim());
    executable(&programs.join("git"), &script);
    let done = scene.landfall(Some(&programs), scene.clone_arguments("shop", &[])).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    scene.write("new", "new\n");
    let done = scene.landfall(Some(&programs), scene.save_arguments(&[])).await;
    assert_eq!(done.outcome(), "Saved", "{done:?}");
    let called = std::fs::read_to_string(&log).unwrap();
    assert!(called.contains("called: clone") && called.contains("called: push"), "{called}");
    assert!(!called.contains(&scene.token()) && !done.words.contains(&scene.token()));
    // git gets only those variables of Landfall's environment that it needs to find programs and the network.
    assert!(!called.lines().any(|line| line.starts_with("CARGO_")), "{called}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_is_there_is_resumed_refused_or_stepped_aside_from() {
    let scene = Scene::new().await;
    let there = push(&scene, BRANCH, "there");
    push(&scene, &format!("{BRANCH}-2"), "there");
    let done = scene.clone(&["--on-exists", "fail"]).await;
    assert_eq!(done.code, Some(21), "{done:?}");
    assert!(done.words.contains(BRANCH) && !scene.shop().exists(), "{done:?}");

    let main = scene.sim.head("acme/shop", "main").unwrap();
    let done = scene.clone(&["--on-exists", "suffix"]).await;
    let third = format!("{BRANCH}-3");
    assert_eq!(done.said, serde_json::json!({"branch": third, "head": main, "cloned": true, "begun": true}));
    std::fs::remove_dir_all(scene.shop()).unwrap();

    let done = scene.clone(&["--on-exists", "resume"]).await;
    assert_eq!(done.said, serde_json::json!({"branch": BRANCH, "head": there, "cloned": true, "begun": false}));
    assert!(scene.shop().join("there").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_begins_where_it_is_told_to() {
    let scene = Scene::new().await;
    let dev = push(&scene, "dev", "dev");
    let done = scene.clone(&["--from", "nowhere"]).await;
    assert_eq!(done.code, Some(22), "{done:?}");
    assert!(done.words.contains("nowhere") && !scene.shop().exists(), "{done:?}");
    let done = scene.clone(&["--from", "dev"]).await;
    assert_eq!((&done.said["head"], &done.said["begun"]), (&dev.into(), &true.into()), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_repository_has_a_branch_without_a_commit() {
    let scene = Scene::new().await;
    let done = scene.landfall(None, scene.clone_arguments("blank", &[])).await;
    assert_eq!(
        done.said,
        serde_json::json!({"branch": BRANCH, "head": null, "cloned": true, "begun": true}),
        "{done:?}"
    );
    let clone = scene.at("volume/blank");
    scene.git_in(&clone, &["commit", "--allow-empty", "--message", "first"]).await;
    scene.git_in(&clone, &["push"]).await;
    assert!(scene.sim.head("acme/blank", BRANCH).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_that_is_there_is_left_alone() {
    let scene = Scene::cloned().await;
    scene.git(&["switch", "--quiet", "--create", "mine"]).await;
    scene.write("README.md", "changed");
    scene.write(".git/hooks/post-checkout", "exit 1");
    std::fs::remove_file(scene.at("tools/gitconfig")).unwrap();
    let before = on_disk(&scene.shop());
    scene.sim.reset_requests();
    let done = scene.clone(&[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!((&done.said["cloned"], &done.said["branch"]), (&false.into(), &"mine".into()));
    assert_same(&before, &on_disk(&scene.shop()));
    assert!(scene.at("tools/gitconfig").exists() && scene.sim.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_attempt_left_is_removed_and_what_others_put_there_is_not() {
    let scene = Scene::new().await;
    let left = scene.at("volume/.shop.landfall-clone");
    std::fs::create_dir_all(left.join(".git/objects")).unwrap();
    // An empty directory may be a mount point.
    std::fs::create_dir(scene.shop()).unwrap();
    assert_eq!(scene.clone(&[]).await.code, Some(0));
    assert!(!left.exists());

    std::fs::remove_dir_all(scene.shop()).unwrap();
    std::fs::create_dir(scene.shop()).unwrap();
    scene.write("mine", "mine");
    let done = scene.clone(&[]).await;
    assert_eq!(done.code, Some(20), "{done:?}");
    assert_eq!(std::fs::read(scene.shop().join("mine")).unwrap(), b"mine");
    std::fs::remove_dir_all(scene.shop()).unwrap();
    symlink(scene.at("home"), scene.shop()).unwrap();
    assert_eq!(scene.clone(&[]).await.code, Some(20));
    assert_eq!(std::fs::read_dir(scene.at("home")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_that_passes_is_waited_for() {
    let scene = Scene::new().await;
    fault(&scene, FaultKind::Cut, 1);
    let status = |status| FaultKind::Status { status, body: None, headers: std::collections::BTreeMap::new() };
    fault(&scene, status(503), 1);
    fault(&scene, status(404), 1);
    let done = scene.clone(&[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.words.matches("retrying").count(), 3, "{done:?}");

    std::fs::remove_dir_all(scene.shop()).unwrap();
    fault(&scene, status(503), 2);
    let done = scene.clone(&["--attempts", "2"]).await;
    assert_eq!(done.code, Some(75), "{done:?}");
    assert!(done.words.contains("The requested URL returned error: 503"), "{done:?}");
    assert_eq!(std::fs::read_dir(scene.at("volume")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_that_stays_is_told_in_gits_own_words() {
    let scene = Scene::new().await;
    // The repository is not among the token's repositories.
    let done = scene.landfall(None, scene.clone_arguments("other", &["--attempts", "2"])).await;
    assert_eq!(done.code, Some(20), "{done:?}");
    assert!(done.words.contains("Repository not found"), "{done:?}");
    std::fs::write(scene.at("token"), "ghs_wrong.and-out").unwrap();
    let done = scene.clone(&["--attempts", "2"]).await;
    assert_eq!(done.code, Some(75), "{done:?}");
    assert!(done.words.contains("Authentication failed") && !done.words.contains("ghs_wrong"), "{done:?}");
    scene.renew("read").await;
    scene.sim.rename_repository("acme/shop", "store").unwrap();
    let done = scene.clone(&["--attempts", "1"]).await;
    assert_eq!(done.code, Some(20), "{done:?}");
    assert!(done.words.contains("301"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn less_can_be_fetched() {
    let scene = Scene::new().await;
    for number in 0..3 {
        push(&scene, "main", &format!("file-{number}"));
    }
    push(&scene, "dev", "dev");
    let done = scene.clone(&["--depth", "1", "--from", "dev"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(scene.git(&["rev-list", "--count", "origin/main"]).await, "1");
    std::fs::remove_dir_all(scene.shop()).unwrap();
    let done = scene.clone(&["--filter", "blobs"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_same(&committed(&scene.bare("shop"), "main"), &on_disk(&scene.shop()));
    assert!(!scene.git(&["rev-list", "--objects", "--missing=print", "origin/dev"]).await.is_empty());
    // Omitted objects are fetched when they are needed, with the person's credentials.
    scene.git(&["switch", "--quiet", "dev"]).await;
    assert!(scene.shop().join("dev").exists());
}
