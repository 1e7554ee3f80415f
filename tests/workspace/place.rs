//! The place of the clone and its branch: another repository there, and another branch in the way.

use github_sim::Push;
use serde_json::{Value, json};

use crate::beside::Controller;
use crate::scene::{BRANCH, Scene};

impl Scene {
    fn has_branch(&self, name: &str) {
        let push = Push {
            repository: "acme/shop".into(),
            branch: Some(name.into()),
            path: "a".into(),
            content: "a".into(),
            message: None,
        };
        self.sim.push(&push).unwrap();
    }

    fn other_url(&self) -> String {
        format!("file://{}", self.bare("other").display())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repository_in_the_place_of_the_clone_is_not_pushed() {
    let scene = Scene::cloned().await;
    std::fs::remove_dir_all(scene.shop()).unwrap();
    let volume = scene.at("volume");
    scene.git_in(&volume, &["clone", "--quiet", &scene.other_url(), "shop"]).await;
    scene.write("secret", "of another repository");
    let refs = scene.refs();
    for further in [&[][..], &["--autosave"]] {
        let done = scene.save(further).await;
        assert_eq!((done.outcome(), done.code), ("Refused", Some(20)), "{done:?}");
        assert_eq!(done.left(), [("shop".to_owned(), "Nested".to_owned())], "{done:?}");
        assert_eq!(scene.refs(), refs);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_of_the_same_repository_that_a_person_made_is_saved() {
    let scene = Scene::cloned().await;
    std::fs::remove_dir_all(scene.shop()).unwrap();
    let (volume, url) = (scene.at("volume"), scene.url("shop"));
    scene.git_in(&volume, &["clone", "--quiet", &url, "shop"]).await;
    scene.write("new", "new");
    scene.save_twice().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_whose_remote_a_person_changed_stays_the_workspaces() {
    let scene = Scene::cloned().await;
    scene.git(&["remote", "set-url", "origin", &scene.other_url()]).await;
    scene.write("new", "new");
    scene.save_twice().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_in_an_ignored_directory_is_found() {
    let scene = Scene::cloned().await;
    scene.write(".gitignore", "vendor/\n*.log/\n");
    scene.git(&["add", "--all"]).await;
    scene.git(&["commit", "--quiet", "--message", "ignore"]).await;
    scene.git(&["push", "--quiet"]).await;
    scene.write("vendor/deep/file", "ignored");
    let place = scene.shop().join("vendor/deep/lib");
    scene.git(&["clone", "--quiet", &scene.other_url(), place.to_str().unwrap()]).await;
    let done = scene.save(&[]).await;
    assert_eq!(done.outcome(), "NothingToDo", "{done:?}");
    scene.git_in(&place, &["commit", "--quiet", "--allow-empty", "--message", "own"]).await;
    let done = scene.save(&[]).await;
    assert_eq!(done.left(), [("vendor/deep/lib".to_owned(), "Nested".to_owned())], "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_in_the_way_is_named_before_anything_is_cloned() {
    for (other, branch) in [("landfall", BRANCH), ("main", "main/try"), ("work/a/b", "work/a"), ("landfall-wip", "try")]
    {
        let scene = Scene::new().await;
        scene.has_branch(other);
        let done = scene.clone(&["--branch", branch]).await;
        assert_eq!(done.code, Some(23), "{done:?}");
        assert!(done.words.contains(&format!("branch {other} of the remote is in the way")), "{done:?}");
        assert!(!scene.shop().exists());
        let fetched = scene.sim.requests().into_iter().filter(|asked| asked.path.ends_with("/git-upload-pack")).count();
        assert!(fetched <= 1, "the list of branches alone");
    }
    // Names that only begin alike are in nobody's way.
    let scene = Scene::new().await;
    for other in ["landfa", "landfall-x", "landfall/try-0a1b", "landfall/try-0a1b2x/y"] {
        scene.has_branch(other);
    }
    assert_eq!(scene.clone(&[]).await.code, Some(0));
}

/// The report counts what a save would collect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_sees_what_a_save_collects() {
    let scene = Scene::cloned().await;
    let controller = Controller::answering(200, r#"{"onStop":"Autosave"}"#).await;
    let mut agent = scene.agent(Some(&controller.url), &[]);
    let counts = |report: &Value| ["changed", "untracked", "unpushed"].map(|field| report[field].as_u64());
    controller.until("nothing", |report| counts(report) == [Some(0); 3] && report["trouble"].is_null()).await;
    // A commit that only another remote has.
    let copy = scene.at("copy.git");
    scene.git(&["init", "--quiet", "--bare", copy.to_str().unwrap()]).await;
    scene.git(&["remote", "add", "copy", copy.to_str().unwrap()]).await;
    scene.git(&["commit", "--quiet", "--allow-empty", "--message", "x"]).await;
    scene.git(&["push", "--quiet", "copy", "HEAD"]).await;
    controller.until("a push to another remote", |report| counts(report) == [Some(0), Some(0), Some(1)]).await;
    scene.git(&["push", "--quiet", "origin", "HEAD"]).await;
    controller.until("a push", |report| counts(report) == [Some(0); 3]).await;
    // A repository without a remote is part of the work.
    scene.git(&["init", "--quiet", "notes"]).await;
    scene.write("notes/a", "a");
    let of_nested = |report: &Value| counts(report)[1].is_some_and(|untracked| untracked > 0);
    controller.until("a file in a repository within", of_nested).await;
    std::fs::remove_dir_all(scene.shop().join("notes")).unwrap();
    controller.until("it is gone", |report| counts(report) == [Some(0); 3]).await;
    // So is one of another remote beside the clone.
    let beside = scene.at("volume/beside");
    scene.git(&["clone", "--quiet", &scene.other_url(), beside.to_str().unwrap()]).await;
    std::fs::write(beside.join("new"), "new").unwrap();
    let told = |report: &Value| report["trouble"].as_str().is_some_and(|trouble| trouble.contains("beside"));
    controller.until("work in a repository of another remote", told).await;
    std::fs::remove_dir_all(&beside).unwrap();
    controller.until("it is gone", |report| report["trouble"].is_null()).await;
    let done = agent.stop().await;
    assert_eq!(done.said["left"], json!([]), "{done:?}");
}
