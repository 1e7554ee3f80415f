//! All files on the volume, in any state that a person left: they are on the remote when the workspace is gone.

use serde_json::json;

use super::super::world::run;

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn what_nobody_committed_goes_to_the_branch() {
    run("uncommitted", async |world| {
        let work = world.work("w", &json!({})).await;
        work.scribble().await;
        let committed = work.sh("git rev-parse HEAD").await;
        assert!(!world.refs().contains_key(&work.branch()), "nothing was pushed yet");
        work.delete_and_wait().await;
        work.assert_saved_at(&work.branch());
        // The staged content differs from the file.
        assert_eq!(work.found_beside().into_keys().collect::<Vec<_>>(), ["index"]);
        // On top of the person's commit, which is unchanged.
        assert_eq!(world.git(&["rev-parse", &format!("{}~1", work.branch())]), committed);
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn what_is_pushed_already_is_not_pushed_again() {
    run("pushed", async |world| {
        let work = world.work("w", &json!({})).await;
        work.sh("echo done >done && git add done && git commit -qm done && git push -q").await;
        let refs = world.refs();
        assert_eq!(refs[&work.branch()], work.sh("git rev-parse HEAD").await);
        work.delete_and_wait().await;
        assert_eq!(world.refs(), refs);
        work.assert_saved_at(&work.branch());
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn the_midst_of_a_rebase_goes_beside_the_branch() {
    run("rebase", async |world| {
        let work = world.work("w", &json!({})).await;
        work.sh(
            "echo one >file && git add file && git commit -qm one && git push -q && git branch other && \
             echo two >file && git commit -qam two && git checkout -q other && echo three >file && git commit -qam three && \
             git checkout -q - && ! git rebase -q other && test -d .git/rebase-merge && echo resolved >file",
        )
        .await;
        let (pushed, mine, theirs) = (
            world.refs()[&work.branch()].clone(),
            work.sh("git rev-parse ORIG_HEAD").await,
            work.sh("git rev-parse other").await,
        );
        work.delete_and_wait().await;
        // During a rebase, the branch is not where its person left it.
        assert!(world.is_ancestor(&pushed, &work.branch()), "never forced");
        let beside = work.found_beside();
        assert!(beside.values().any(|commit| world.is_ancestor(&theirs, commit)), "{beside:#?}");
        let all: Vec<_> = beside.keys().map(|name| format!("{}{name}", work.beside())).chain([work.branch()]).collect();
        assert!(all.iter().any(|name| world.is_ancestor(&mine, name)), "what is being rebased: {beside:#?}");
        let is_the_tree = |name: &&String| world.git(&["show", &format!("{name}:file")]) == "resolved";
        work.assert_saved_at(all.iter().find(is_the_tree).expect("the tree as it was left"));
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn a_detached_head_goes_beside_the_branch() {
    run("detached", async |world| {
        let work = world.work("w", &json!({})).await;
        work.sh("git push -q && git checkout -q --detach && echo a >a && git add a && git commit -qm a && echo b >b")
            .await;
        let (pushed, head) = (world.refs()[&work.branch()].clone(), work.sh("git rev-parse HEAD").await);
        work.delete_and_wait().await;
        assert_eq!(world.refs()[&work.branch()], pushed);
        let name = work.beside() + "head";
        work.assert_saved_at(&name);
        assert!(world.is_ancestor(&head, &name));
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn what_went_another_way_than_the_remote_goes_beside_the_branch() {
    run("diverged", async |world| {
        let work = world.work("w", &json!({})).await;
        work.sh("git push -q").await;
        let branch = work.branch();
        let theirs = world.push(branch.strip_prefix("refs/heads/").unwrap(), "theirs", "theirs");
        work.sh("echo mine >mine && git add mine && git commit -qm mine && echo more >>mine").await;
        let mine = work.sh("git rev-parse HEAD").await;
        work.delete_and_wait().await;
        assert_eq!(world.refs()[&branch], theirs, "never forced");
        let saved = work.found_beside();
        let name = work.beside() + "head";
        assert!(saved.contains_key("head") && world.is_ancestor(&mine, &name), "{saved:#?}");
        work.assert_saved_at(&name);
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn stashes_and_other_branches_go_beside_the_branch() {
    run("stash", async |world| {
        let work = world.work("w", &json!({})).await;
        work.sh(
            "git push -q && echo stashed >>README.md && git stash -q && git checkout -qb other && echo o >o && git add o && \
             git commit -qm other && git tag mine && git checkout -q - && echo last >last",
        )
        .await;
        let (stash, other) = (work.sh("git rev-parse stash@{0}").await, work.sh("git rev-parse other").await);
        work.delete_and_wait().await;
        let saved = work.found_beside();
        for (what, commit) in [("the stash", &stash), ("the other branch", &other)] {
            assert!(saved.values().any(|at| world.is_ancestor(commit, at)), "{what}: {saved:#?}");
        }
        work.assert_saved_at(&work.branch());
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn where_the_branch_is_protected_it_goes_beside_it() {
    run("protected", async |world| {
        let work = world.work("w", &json!({})).await;
        let branch = work.branch();
        world.refuse(&format!(
            "while read old new ref; do [ \"$ref\" != {branch} ] || {{ echo 'error: GH006: Protected branch update failed' >&2; exit 1; }}; done"
        ));
        work.scribble().await;
        work.delete_and_wait().await;
        assert!(!world.refs().contains_key(&branch));
        work.assert_saved_at(&(work.beside() + "head"));
        work.assert_let_go().await;
    });
}

#[test]
#[ignore = "takes a node: hack/endtoend"]
fn an_image_without_git_and_a_user_without_a_name_are_saved_like_others() {
    run("plain", async |world| {
        let spec = json!({"image": super::super::node::PLAIN, "runAsUser": 12_345});
        let work = world.work("w", &spec).await;
        let said = work.sh("id -u && ! command -v git && pwd && cat README.md >/dev/null && echo new >new").await;
        assert_eq!(said, "12345\n/workspace/shop");
        work.delete_and_wait().await;
        work.assert_saved_at(&work.branch());
        work.assert_let_go().await;
    });
}
