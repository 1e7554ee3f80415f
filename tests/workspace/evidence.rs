//! The last message of a save, for programs that see only how its container ended.

use landfall::agent::evidence::{Evidence, MOST_MESSAGE, wip_digest};
use landfall::agent::save::Outcome;

use crate::scene::{Scene, UID, WIP, heads_branch};

impl Scene {
    /// Saves, and returns the status and the container's last message.
    async fn last_words(&self, further: &[&str]) -> (Option<i32>, Evidence) {
        let file = self.at("message");
        let done = self.save(&[&["--termination-log", file.to_str().unwrap()], further].concat()).await;
        let message = std::fs::read_to_string(&file).unwrap();
        assert!(message.len() <= MOST_MESSAGE, "{message}");
        std::fs::remove_file(&file).unwrap();
        (done.code, serde_json::from_str(&message).unwrap())
    }

    /// The digest of the remote's refs of the workspace beside its branch.
    fn wip(&self) -> Option<String> {
        let refs = self.refs();
        wip_digest(
            refs.iter().filter(|(name, _)| name.starts_with(&format!("{WIP}/"))).map(|(name, sha)| (&**name, &**sha)),
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_message_can_be_compared_with_the_remote() {
    let scene = Scene::cloned().await;
    let (code, evidence) = scene.last_words(&[]).await;
    assert_eq!((code, evidence.outcome, &evidence.remote.branch), (Some(10), Outcome::NothingToDo, &None));

    scene.write("new", "new");
    let (code, evidence) = scene.last_words(&["--autosave"]).await;
    assert_eq!((code, evidence.outcome), (Some(0), Outcome::Saved));
    assert_eq!(evidence.remote.autosave, scene.refs().get(&format!("refs/landfall/wip/{UID}")).cloned());
    assert!(evidence.remote.autosave.is_some() && evidence.remote.branch.is_none() && evidence.remote.wip.is_none());

    for number in 0..40 {
        scene.git(&["branch", &format!("{}-{number}", "long".repeat(20))]).await;
        scene.git(&["commit", "--quiet", "--allow-empty", "--message", "x"]).await;
    }
    scene.git(&["switch", "--quiet", "--detach"]).await;
    let (code, evidence) = scene.last_words(&[]).await;
    assert_eq!((code, evidence.outcome), (Some(0), Outcome::Saved), "{evidence:?}");
    assert_eq!(evidence.remote.branch.as_deref(), scene.refs().get(&heads_branch()).map(String::as_str));
    assert!(evidence.remote.wip.is_some() && evidence.remote.wip == scene.wip(), "{evidence:?}");
    assert!(evidence.branch.is_none() && evidence.head.is_some() && evidence.untracked == 1);
    for saved in &evidence.saved {
        assert_eq!(scene.refs()[&saved.name], saved.commit.as_str());
    }
    let (_, again) = scene.last_words(&[]).await;
    assert_eq!((again.outcome, &again.remote), (Outcome::NothingToDo, &evidence.remote));

    // A message about a remote that does not answer contains no earlier answers.
    std::fs::write(scene.at("token"), "ghs_x").unwrap();
    let (code, evidence) = scene.last_words(&[]).await;
    assert_eq!((code, evidence.outcome, evidence.left.len()), (Some(75), Outcome::TryAgain, 1));
    assert_eq!(evidence.remote, landfall::agent::evidence::Listed::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_succeeds_where_there_is_nothing_to_save() {
    let scene = Scene::cloned().await;
    assert_eq!(scene.save(&["--clean-is-success"]).await.code, Some(0));
    scene.write(".git/index", "broken");
    assert_eq!(scene.save(&["--clean-is-success"]).await.code, Some(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_that_was_never_made_has_no_work() {
    let scene = Scene::new().await;
    let nothing = async || {
        for further in [&[][..], &["--autosave"]] {
            let (code, evidence) = scene.last_words(further).await;
            assert_eq!((code, evidence.outcome), (Some(10), Outcome::NothingToDo), "{evidence:?}");
        }
        assert_eq!(scene.save(&["--clean-is-success"]).await.code, Some(0));
    };
    nothing().await;
    // The remains of an interrupted clone.
    std::fs::create_dir_all(scene.at("volume/.shop.landfall-clone/.git/objects")).unwrap();
    std::fs::create_dir_all(scene.at("volume/lost+found")).unwrap();
    nothing().await;
    std::fs::create_dir(scene.shop()).unwrap();
    nothing().await;

    // Any file there was put there by somebody.
    scene.write("file", "x");
    assert_eq!(scene.save(&[]).await.code, Some(20));
    std::fs::remove_dir_all(scene.shop()).unwrap();
    std::os::unix::fs::symlink("elsewhere", scene.shop()).unwrap();
    let done = scene.save(&["--clean-is-success"]).await;
    assert!(done.code != Some(0) && done.outcome() != "NothingToDo", "{done:?}");
    std::fs::remove_file(scene.shop()).unwrap();

    assert_eq!(scene.clone(&[]).await.code, Some(0));
    std::fs::rename(scene.shop(), scene.at("volume/moved")).unwrap();
    assert_eq!(scene.save(&["--clean-is-success"]).await.code, Some(20));
    std::fs::create_dir(scene.at("volume/old")).unwrap();
    std::fs::rename(scene.at("volume/moved"), scene.at("volume/old/shop")).unwrap();
    assert_eq!(scene.save(&["--clean-is-success"]).await.code, Some(20));
    std::fs::rename(scene.at("volume"), scene.at("gone")).unwrap();
    let (code, evidence) = scene.last_words(&["--clean-is-success"]).await;
    assert_eq!((code, evidence.outcome), (Some(75), Outcome::TryAgain), "{evidence:?}");
}
