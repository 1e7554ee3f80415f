//! Saves the work in further repositories on the volume: worktrees, submodules, and repositories that a person cloned
//! or created there.

use std::path::{Path, PathBuf};

use github_sim::Push;

use crate::compare::{assert_same, committed, on_disk};
use crate::scene::{Scene, WIP, heads_branch};

impl Scene {
    /// Clones another repository on GitHub, or adds it as a submodule.
    async fn take_other(&self, how: &[&str], to: &Path) {
        let url = format!("file://{}", self.bare("other").display());
        let mut arguments = vec!["-c", "protocol.file.allow=always"];
        arguments.extend(how);
        arguments.extend(["--quiet", &url, to.to_str().unwrap()]);
        self.git(&arguments).await;
    }

    /// Commits a change in a repository on the volume.
    async fn commit_in(&self, directory: &Path) {
        self.git_in(directory, &["commit", "--quiet", "--allow-empty", "--message", "own"]).await;
    }

    /// A clone whose remote has a submodule that is checked out.
    async fn with_submodule(&self, how: &[&str], name: &str) -> PathBuf {
        let how: Vec<_> = ["submodule", "add"].iter().chain(how).copied().collect();
        self.take_other(&how, Path::new(name)).await;
        self.git(&["commit", "--quiet", "--message", "submodule"]).await;
        self.git(&["push", "--quiet"]).await;
        self.shop().join(name)
    }

    /// Saves, and checks that it is refused with exactly this complaint.
    async fn refused_for(&self, what: &str) {
        let refs = self.refs();
        let done = self.save(&[]).await;
        assert_eq!((done.outcome(), done.code), ("Refused", Some(20)), "{done:?}");
        assert_eq!(done.left(), [(what.to_owned(), "Nested".to_owned())], "{done:?}");
        assert_eq!(self.refs(), refs);
    }

    async fn nothing_to_do(&self) {
        let done = self.save(&[]).await;
        assert_eq!(done.outcome(), "NothingToDo", "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_worktree_is_saved() {
    let scene = Scene::cloned().await;
    let further = scene.at("volume/further");
    scene.git(&["worktree", "add", "--quiet", "--detach", further.to_str().unwrap()]).await;
    std::fs::write(further.join("new"), "in the further one").unwrap();
    scene.git_in(&further, &["commit", "--quiet", "--allow-empty", "--message", "further"]).await;
    scene.save_twice().await;
    let refs = scene.refs();
    assert_same(&committed(&scene.bare("shop"), &refs[&format!("{WIP}/worktree/further/head")]), &on_disk(&further));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_in_the_repository_is_saved_if_it_is_nobody_elses() {
    let scene = Scene::cloned().await;
    let own = scene.shop().join("own");
    std::fs::create_dir(&own).unwrap();
    scene.git_in(&own, &["init", "--quiet", "--initial-branch", "main"]).await;
    std::fs::write(own.join("file"), "committed").unwrap();
    scene.git_in(&own, &["add", "--all"]).await;
    scene.git_in(&own, &["commit", "--quiet", "--message", "own"]).await;
    std::fs::write(own.join("file"), "changed").unwrap();
    let done = scene.save_twice().await;
    let (name, commit) = done.saved_as("nested/own/working tree");
    assert_eq!(name, format!("{WIP}/nested/own/head"));
    assert_same(&committed(&scene.bare("shop"), &commit), &on_disk(&own));

    // A repository with a remote of its own is not pushed to the workspace's, whose readers may not be permitted to
    // read it.
    let foreign = scene.shop().join("foreign");
    scene.take_other(&["clone"], &foreign).await;
    scene.nothing_to_do().await;
    std::fs::write(foreign.join("README.md"), "changed").unwrap();
    scene.refused_for("foreign").await;
    scene.git_in(&foreign, &["commit", "--quiet", "--all", "--message", "own"]).await;
    scene.refused_for("foreign").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_beside_the_clone_is_looked_into_too() {
    let scene = Scene::cloned().await;
    let (own, foreign) = (scene.at("volume/own"), scene.at("volume/foreign"));
    std::fs::create_dir(&own).unwrap();
    scene.git_in(&own, &["init", "--quiet", "--initial-branch", "main"]).await;
    std::fs::write(own.join("file"), "x").unwrap();
    let done = scene.save_twice().await;
    let (name, commit) = done.saved_as("nested/own/working tree");
    assert_eq!(name, format!("{WIP}/nested/own/head"));
    assert_same(&committed(&scene.bare("shop"), &commit), &on_disk(&own));

    scene.take_other(&["clone"], &foreign).await;
    scene.nothing_to_do().await;
    scene.commit_in(&foreign).await;
    scene.refused_for("foreign").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submodule_is_looked_into() {
    let scene = Scene::cloned().await;
    let sub = scene.with_submodule(&[], "sub").await;
    scene.nothing_to_do().await;
    std::fs::write(sub.join("README.md"), "changed").unwrap();
    scene.refused_for("sub").await;
    scene.git_in(&sub, &["checkout", "--quiet", "."]).await;
    // Another commit in the submodule is work in the outer repository.
    scene.commit_in(&sub).await;
    let new = scene.git_in(&sub, &["rev-parse", "HEAD"]).await;
    let done = scene.save(&[]).await;
    assert_eq!(done.left(), [("sub".to_owned(), "Nested".to_owned())], "{done:?}");
    let saved = committed(&scene.bare("shop"), &scene.refs()[&heads_branch()]);
    assert_eq!(saved[&b"sub"[..]], ("160000".to_owned(), new.into_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submodule_that_is_no_longer_checked_out_is_looked_into() {
    let scene = Scene::cloned().await;
    let sub = scene.with_submodule(&["--name", "libs/sub"], "sub").await;
    scene.git(&["submodule", "--quiet", "deinit", "sub"]).await;
    assert!(!sub.join(".git").exists());
    scene.nothing_to_do().await;

    scene.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init"]).await;
    scene.commit_in(&sub).await;
    scene.git_in(&sub, &["branch", "mine"]).await;
    scene.git(&["submodule", "--quiet", "deinit", "--force", "sub"]).await;
    scene.refused_for(".git/modules/libs/sub").await;
    // A broken repository does not count as empty either.
    let module = scene.shop().join(".git/modules/libs/sub");
    std::fs::remove_dir_all(module.join("refs")).unwrap();
    scene.refused_for(".git/modules/libs/sub").await;
    std::fs::remove_dir_all(module).unwrap();
    scene.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submodule_of_a_submodule_that_is_no_longer_checked_out_is_looked_into() {
    let scene = Scene::cloned().await;
    let sub = scene.with_submodule(&[], "sub").await;
    // A repository that a submodule has brought, in git's layout.
    let inner = scene.shop().join(".git/modules/sub/modules/inner");
    scene.take_other(&["clone", "--bare"], &inner).await;
    scene.refused_for(".git/modules/sub/modules/inner").await;
    // As far as it knows, its remote has everything.
    scene.git_in(&inner, &["update-ref", "refs/remotes/origin/main", "HEAD"]).await;
    scene.nothing_to_do().await;
    std::fs::remove_dir_all(&sub).unwrap();
    scene.git(&["checkout", "--quiet", "sub"]).await;
    scene.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worktree_in_the_clone_is_saved_once() {
    let scene = Scene::cloned().await;
    scene.git(&["worktree", "add", "--quiet", "-b", "inner", "inner"]).await;
    let inner = scene.shop().join("inner");
    std::fs::write(inner.join("new"), "in the inner one").unwrap();
    // In the format of git 2.48 and later, if it is configured so.
    std::fs::write(scene.shop().join(".git/worktrees/inner/gitdir"), "../../../inner/.git\n").unwrap();
    let done = scene.save_twice().await;
    let (_, commit) = done.saved_as("worktree/inner/working tree");
    assert_same(&committed(&scene.bare("shop"), &commit), &on_disk(&inner));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worktree_that_was_moved_by_hand_is_saved() {
    let scene = Scene::cloned().await;
    for (place, name) in [("volume/moved", "moved"), ("volume/shop/inside", "inside")] {
        let further = scene.at("volume/further");
        scene.git(&["worktree", "add", "--quiet", "--detach", further.to_str().unwrap()]).await;
        std::fs::write(further.join("new"), place).unwrap();
        std::fs::rename(&further, scene.at(place)).unwrap();
        let done = scene.save_twice().await;
        let (_, commit) = done.saved_as(&format!("worktree/{name}/working tree"));
        assert_same(&committed(&scene.bare("shop"), &commit), &on_disk(&scene.at(place)));
        std::fs::remove_dir_all(scene.at(place)).unwrap();
        scene.git(&["worktree", "prune"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repository_where_a_worktree_was_is_not_taken_for_that() {
    let scene = Scene::cloned().await;
    for further in [scene.at("volume/further"), scene.shop().join("further")] {
        scene.git(&["worktree", "add", "--quiet", "--detach", further.to_str().unwrap()]).await;
        std::fs::remove_dir_all(&further).unwrap();
        scene.take_other(&["clone"], &further).await;
        scene.nothing_to_do().await;
        std::fs::write(further.join("secret"), "of the other").unwrap();
        scene.refused_for("further").await;
        scene.commit_in(&further).await;
        scene.refused_for("further").await;
        std::fs::remove_dir_all(&further).unwrap();
        scene.git(&["worktree", "prune"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worktree_that_cannot_be_read_keeps_nothing_else_from_being_saved() {
    let scene = Scene::cloned().await;
    let further = scene.at("volume/further");
    scene.git(&["worktree", "add", "--quiet", "--detach", further.to_str().unwrap()]).await;
    std::fs::write(scene.shop().join(".git/worktrees/further/HEAD"), "").unwrap();
    scene.write("new", "new");
    let done = scene.save(&[]).await;
    assert_eq!(done.left(), [("worktree/further".to_owned(), "Unreadable".to_owned())], "{done:?}");
    scene.compare(&heads_branch());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_worktree_that_is_not_on_the_volume_what_is_in_the_clone_is_saved() {
    let scene = Scene::cloned().await;
    let elsewhere = scene.at("elsewhere");
    scene.git(&["worktree", "add", "--quiet", "--detach", elsewhere.to_str().unwrap()]).await;
    scene.nothing_to_do().await;
    std::fs::write(elsewhere.join("staged"), "staged").unwrap();
    scene.git_in(&elsewhere, &["add", "staged"]).await;
    std::fs::remove_dir_all(&elsewhere).unwrap();
    let done = scene.save_twice().await;
    let (name, commit) = done.saved_as("worktree/elsewhere/index");
    assert_eq!(name, format!("{WIP}/worktree/elsewhere/index"));
    assert!(committed(&scene.bare("shop"), &commit).contains_key(&b"staged"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submodule_in_a_worktree_is_looked_into() {
    let scene = Scene::cloned().await;
    scene.with_submodule(&[], "sub").await;
    let further = scene.at("volume/further");
    scene.git(&["worktree", "add", "--quiet", "--detach", further.to_str().unwrap()]).await;
    let update = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init"];
    scene.git_in(&further, &update).await;
    scene.nothing_to_do().await;
    std::fs::write(further.join("sub/new"), "new").unwrap();
    scene.refused_for("further/sub").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_repository_beside_the_clone_is_looked_into() {
    let scene = Scene::cloned().await;
    let bare = scene.at("volume/other.git");
    scene.take_other(&["clone", "--bare"], &bare).await;
    // In this clone, git stores the remote's branches as local ones, so nobody knows whose they are.
    scene.refused_for("other.git").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_a_repository_within_is_named_by_where_it_is() {
    let scene = Scene::cloned().await;
    let own = scene.shop().join("own");
    std::fs::create_dir(&own).unwrap();
    scene.git_in(&own, &["init", "--quiet", "--initial-branch", "main"]).await;
    scene.commit_in(&own).await;
    std::fs::write(own.join(".git/index"), "nonsense").unwrap();
    let done = scene.save(&[]).await;
    assert_eq!(done.left(), [("nested/own/index".to_owned(), "Unreadable".to_owned())], "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submodule_that_is_not_whole_is_looked_into() {
    let scene = Scene::cloned().await;
    let push = |number: u8| Push {
        repository: "acme/other".into(),
        branch: None,
        path: "file".into(),
        content: format!("{number}"),
        message: None,
    };
    for number in 0..3 {
        scene.sim.push(&push(number)).unwrap();
    }
    let sub = scene.with_submodule(&["--depth", "1"], "sub").await;
    assert!(scene.shop().join(".git/modules/sub/shallow").exists());
    scene.nothing_to_do().await;
    scene.git_in(&sub, &["checkout", "--quiet", "-b", "mine"]).await;
    scene.commit_in(&sub).await;
    scene.git_in(&sub, &["checkout", "--quiet", "main"]).await;
    scene.refused_for("sub").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_was_made_amidst_files_of_the_clone_is_saved() {
    let scene = Scene::cloned().await;
    let src = scene.shop().join("src");
    scene.git_in(&src, &["init", "--quiet", "--initial-branch", "main"]).await;
    scene.git_in(&src, &["add", "main.rs"]).await;
    scene.commit_in(&src).await;
    let head = scene.git_in(&src, &["rev-parse", "HEAD"]).await;
    let done = scene.save_twice().await;
    let (_, commit) = done.saved_as("nested/src/working tree");
    assert_eq!(scene.parents(&commit), [head]);
    assert_same(&committed(&scene.bare("shop"), &commit), &on_disk(&src));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_further_down_beside_the_clone_is_looked_into() {
    let scene = Scene::cloned().await;
    let dep = scene.at("volume/src/example.com/acme/dep");
    scene.take_other(&["clone"], &dep).await;
    scene.nothing_to_do().await;
    scene.commit_in(&dep).await;
    scene.refused_for("src/example.com/acme/dep").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_from_a_remote_without_a_branch_is_not_taken_for_work() {
    let scene = Scene::cloned().await;
    let other = scene.bare("other");
    let release = scene.git_in(&other, &["commit-tree", "main^{tree}", "-p", "main", "-m", "Release"]).await;
    scene.git_in(&other, &["tag", "v1", &release]).await;
    for how in [&["clone", "--branch", "v1", "--depth", "1"][..], &["clone", "--branch", "v1"]] {
        let beside = scene.at("volume/tool");
        scene.take_other(how, &beside).await;
        scene.nothing_to_do().await;
        scene.commit_in(&beside).await;
        scene.refused_for("tool").await;
        std::fs::remove_dir_all(beside).unwrap();
    }
    let tool = scene.at("volume/.cache/tool");
    std::fs::create_dir_all(&tool).unwrap();
    scene.git_in(&tool, &["init", "--quiet"]).await;
    let url = format!("file://{}", other.display());
    scene.git_in(&tool, &["-c", "protocol.file.allow=always", "fetch", "--quiet", "--depth", "1", &url, "v1"]).await;
    scene.git_in(&tool, &["remote", "add", "origin", &url]).await;
    scene.git_in(&tool, &["checkout", "--quiet", "FETCH_HEAD"]).await;
    scene.nothing_to_do().await;

    let sub = scene.with_submodule(&[], "sub").await;
    scene.git_in(&sub, &["checkout", "--quiet", "v1"]).await;
    scene.git(&["commit", "--quiet", "--all", "--message", "pinned"]).await;
    // The remote of the outer repository does not have it yet, so only the person says whose it is.
    assert_eq!(scene.save(&[]).await.left(), [("sub".to_owned(), "Nested".to_owned())]);
    scene.git(&["fetch", "--quiet"]).await;
    scene.nothing_to_do().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worktree_of_another_repository_is_looked_into() {
    let scene = Scene::cloned().await;
    let (other, tree) = (scene.at("volume/other"), scene.at("volume/other-tree"));
    scene.take_other(&["clone"], &other).await;
    scene.git_in(&other, &["worktree", "add", "--quiet", "--detach", tree.to_str().unwrap()]).await;
    scene.nothing_to_do().await;
    scene.commit_in(&tree).await;
    scene.refused_for("other-tree").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_that_looks_like_a_git_directory_is_a_clone() {
    let scene = Scene::cloned().await;
    scene.write("HEAD", "x");
    scene.write("objects/x", "x");
    scene.save_twice().await;
    scene.compare(&heads_branch());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_that_are_not_applied_yet_keep_the_volume() {
    let scene = Scene::cloned().await;
    for way in ["one way\n", "another way\n"] {
        scene.write("README.md", way);
        scene.git(&["commit", "--quiet", "--all", "--message", way]).await;
    }
    let patches = scene.at("patches");
    scene.git(&["format-patch", "--quiet", "-1", "--output-directory", patches.to_str().unwrap()]).await;
    scene.git(&["reset", "--quiet", "--hard", "HEAD~2"]).await;
    let patch = std::fs::read_dir(patches).unwrap().next().unwrap().unwrap().path();
    assert!(!scene.person(&scene.shop(), &["am", "--quiet", patch.to_str().unwrap()]).await.status.success());
    let done = scene.save(&[]).await;
    assert_eq!(done.left(), [("am".to_owned(), "Unreadable".to_owned())], "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_leads_to_no_repository_is_said() {
    let scene = Scene::cloned().await;
    let odd = scene.shop().join("odd");
    std::fs::create_dir(&odd).unwrap();
    scene.git_in(&odd, &["init", "--quiet"]).await;
    std::fs::rename(odd.join(".git"), scene.at("gone")).unwrap();
    std::fs::write(odd.join(".git"), format!("gitdir: {}\n", "x/".repeat(100_000))).unwrap();
    std::fs::write(odd.join("file"), "x").unwrap();
    let beside = scene.at("volume/beside");
    std::fs::create_dir(&beside).unwrap();
    std::fs::copy(odd.join(".git"), beside.join(".git")).unwrap();
    let done = scene.save(&[]).await;
    assert_eq!(done.left(), [("beside".to_owned(), "Unreadable".to_owned())], "{done:?}");
    // A directory that git treats as ordinary is saved as such.
    assert!(committed(&scene.bare("shop"), &heads_branch()).contains_key(&b"odd/file"[..]));
}
