//! Saves the work: all of it, once, with a report.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use github_sim::Push;

use crate::compare::{assert_same, committed, on_disk};
use crate::scene::{BRANCH, Scene, UID, WIP, heads_branch};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_without_work_has_nothing_to_save() {
    let scene = Scene::cloned().await;
    let refs = scene.refs();
    for further in [&[][..], &["--autosave"]] {
        let done = scene.save(further).await;
        assert_eq!((done.outcome(), done.code), ("NothingToDo", Some(10)), "{done:?}");
    }
    assert_eq!(scene.refs(), refs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_is_saved_as_it_is_on_the_volume() {
    let scene = Scene::cloned().await;
    let shop = scene.shop();
    std::fs::remove_file(shop.join("src/lib.rs")).unwrap();
    scene.write("src/main.rs", b"\0binary\xff\r\n");
    // A file in place of a directory, and a directory in place of a file.
    scene.commit("was-a-file").await;
    scene.commit("was-a-directory/file").await;
    std::fs::remove_file(shop.join("was-a-file")).unwrap();
    scene.write("was-a-file/now/deep", "x");
    std::fs::remove_dir_all(shop.join("was-a-directory")).unwrap();
    scene.write("was-a-directory", "x");
    for (name, text) in [
        ("with space", &b"1"[..]),
        ("with\nnewline", b"2"),
        ("with\ttab\"and\\quotes", b"3"),
        (" -- leading", b"4"),
        ("-rf", b"5"),
        ("*", b"6"),
        (":(top)magic", b"7"),
        ("d\u{e9}j\u{e0}/vu", b"8"),
        ("empty", b""),
        ("crlf.txt", b"a\r\nb\r\n"),
    ] {
        scene.write(name, text);
    }
    std::fs::write(shop.join(OsStr::from_bytes(b"not\xffutf8")), "9").unwrap();
    std::fs::set_permissions(shop.join("README.md"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("with space", shop.join("link")).unwrap();
    symlink("/etc/passwd", shop.join("link-out")).unwrap();
    symlink("nowhere", shop.join("src/dangling")).unwrap();
    symlink("..", shop.join("src/up")).unwrap();
    std::fs::remove_file(shop.join("was-a-directory")).unwrap();
    symlink("src", shop.join("was-a-directory")).unwrap();
    scene.git(&["add", "empty"]).await;
    let (head, status) = (scene.git(&["rev-parse", "HEAD"]).await, scene.git(&["status", "--porcelain"]).await);
    let (index, objects) =
        (std::fs::read(shop.join(".git/index")).unwrap(), scene.git(&["count-objects", "--verbose"]).await);

    let done = scene.save_twice().await;
    let (name, commit) = done.saved_as("working tree");
    assert_eq!((name, &commit), (heads_branch(), &scene.sim.head("acme/shop", BRANCH).unwrap()));
    assert_eq!(scene.parents(&commit), [head.as_str()]);
    scene.compare(&heads_branch());
    assert!(done.said["untracked"].as_u64().unwrap() > 10 && done.left().is_empty(), "{done:?}");
    // Nothing changes in the clone.
    assert_eq!(std::fs::read(shop.join(".git/index")).unwrap(), index);
    assert_eq!(scene.git(&["rev-parse", "HEAD"]).await, head);
    assert_eq!(scene.git(&["status", "--porcelain"]).await, status);
    assert_eq!(scene.git(&["count-objects", "--verbose"]).await, objects);
}

/// A volume over SMB, for example: every file is executable, a link is a file with its target, and git is configured
/// for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_without_modes_and_links_changes_none() {
    let scene = Scene::cloned().await;
    let shop = scene.shop();
    scene.write("run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(shop.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("README.md", shop.join("link")).unwrap();
    scene.git(&["add", "--all"]).await;
    scene.git(&["commit", "--quiet", "--message", "modes"]).await;
    scene.git(&["push", "--quiet"]).await;
    let all_executable = || {
        for entry in ["README.md", "run.sh", "link", "src/lib.rs", "src/main.rs", "new.txt"] {
            if shop.join(entry).exists() {
                std::fs::set_permissions(shop.join(entry), std::fs::Permissions::from_mode(0o777)).unwrap();
            }
        }
    };
    for key in ["core.fileMode", "core.symlinks"] {
        scene.git(&["config", key, "false"]).await;
    }
    std::fs::remove_file(shop.join("link")).unwrap();
    scene.write("link", "README.md");
    all_executable();
    assert_eq!(scene.git(&["status", "--porcelain"]).await, "");
    let done = scene.save(&[]).await;
    assert_eq!((done.outcome(), done.code), ("NothingToDo", Some(10)), "{done:?}");

    for name in ["README.md", "run.sh", "new.txt"] {
        scene.write(name, "changed\n");
    }
    scene.write("link", "run.sh");
    all_executable();
    scene.save_twice().await;
    let saved = committed(&scene.bare("shop"), &scene.refs()[&heads_branch()]);
    let modes = ["README.md", "run.sh", "new.txt", "link"].map(|name| saved[name.as_bytes()].0.as_str());
    assert_eq!(modes, ["100644", "100755", "100644", "120000"]);
    assert_eq!(saved[&b"link"[..]].1, b"run.sh");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_change_no_byte_and_what_is_unchanged_stays_so() {
    let scene = Scene::cloned().await;
    scene.write(".gitattributes", "*.bat text eol=crlf\n*.u16 text working-tree-encoding=UTF-16\n*.id ident\n*.auto text=auto\n*.sub export-subst\n*.no export-ignore\n");
    scene.write("unchanged.bat", "a\r\nb\r\n");
    scene.git(&["add", "--all"]).await;
    scene.git(&["commit", "--quiet", "--message", "attributes"]).await;
    scene.git(&["push", "--quiet"]).await;
    // A checkout writes it again, as after any switch of branches.
    std::fs::remove_file(scene.shop().join("unchanged.bat")).unwrap();
    scene.git(&["checkout", "--", "unchanged.bat"]).await;
    assert_eq!(std::fs::read(scene.shop().join("unchanged.bat")).unwrap(), b"a\r\nb\r\n");
    let done = scene.save(&[]).await;
    assert_eq!(done.outcome(), "NothingToDo", "{done:?}");

    scene.write("new.bat", "a\r\nb\r\n");
    scene.write("new.u16", b"\xff\xfea\0\n\0");
    scene.write("new.id", "$Id: something of mine $\n");
    scene.write("new.auto", "a\r\nb\r\n");
    scene.write("new.sub", "$Format:%H$\n");
    scene.write("new.no", "x");
    scene.save_twice().await;
    let (saved, mut there) = (committed(&scene.bare("shop"), &scene.refs()[&heads_branch()]), on_disk(&scene.shop()));
    assert_eq!(saved[&b"unchanged.bat"[..]].1, b"a\nb\n");
    there.insert(b"unchanged.bat".to_vec(), saved[&b"unchanged.bat"[..]].clone());
    assert_same(&saved, &there);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_within_the_second_of_the_index_is_seen() {
    let scene = Scene::cloned().await;
    let (file, index) = (scene.shop().join("README.md"), scene.shop().join(".git/index"));
    let at = std::fs::metadata(&file).unwrap().modified().unwrap() - std::time::Duration::from_secs(100);
    let set = |path: &Path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_modified(at).unwrap();
    let changed = || std::os::unix::fs::MetadataExt::ctime(&std::fs::metadata(&file).unwrap());
    // The change has the same length and second as the entry in the index. The time of a change (ctime) cannot be set,
    // so the test repeats until it fits.
    for _ in 0..50 {
        scene.write("README.md", "shop\n");
        set(&file);
        let before = changed();
        scene.git(&["update-index", "-q", "--really-refresh"]).await;
        set(&index);
        scene.write("README.md", "SHOP\n");
        set(&file);
        if changed() == before {
            break;
        }
    }
    scene.save_twice().await;
    scene.compare(&heads_branch());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ignored_is_not_work_and_what_is_tracked_is() {
    let scene = Scene::cloned().await;
    scene.write(".gitignore", "target/\n*.log\n");
    scene.write("target/big", "x");
    scene.write("a.log", "x");
    scene.write("keep.log", "x");
    scene.git(&["add", "--force", "keep.log"]).await;
    scene.write("keep.log", "changed");
    scene.write(".git/info/exclude", "/mine\n");
    scene.write("mine", "x");
    scene.save_twice().await;
    let mut there = on_disk(&scene.shop());
    there.retain(|name, _| !matches!(&name[..], b"target/big" | b"a.log" | b"mine"));
    assert_same(&committed(&scene.bare("shop"), &scene.refs()[&heads_branch()]), &there);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_git_was_told_not_to_look_at_is_looked_at() {
    let scene = Scene::cloned().await;
    scene.git(&["update-index", "--assume-unchanged", "README.md"]).await;
    scene.write("README.md", "changed behind git's back");
    scene.git(&["update-index", "--split-index"]).await;
    scene.save_twice().await;
    scene.compare(&heads_branch());
    // A sparse checkout is not a deletion. A file that exists outside of it is work.
    scene.git(&["update-index", "--no-assume-unchanged", "README.md"]).await;
    scene.git(&["checkout", "--", "README.md"]).await;
    scene.git(&["pull", "--quiet"]).await;
    scene.git(&["sparse-checkout", "set", "--cone", "--sparse-index", "nothing"]).await;
    assert!(!scene.shop().join("src").exists());
    assert_eq!(scene.save(&[]).await.outcome(), "NothingToDo");
    scene.write("src/main.rs", "here again");
    let done = scene.save_twice().await;
    let saved = committed(&scene.bare("shop"), &done.saved_as("working tree").1);
    assert_eq!(saved[&b"src/main.rs"[..]].1, b"here again");
    assert_eq!(saved[&b"src/lib.rs"[..]].1, b"pub fn f() {}\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_ref_and_everything_stashed_or_staged_is_saved() {
    let scene = Scene::cloned().await;
    let first = scene.commit("first").await;
    scene.git(&["switch", "--quiet", "--create", "side/one"]).await;
    let side = scene.commit("side").await;
    scene.git(&["tag", "light"]).await;
    scene.git(&["tag", "--annotate", "--message", "x", "heavy"]).await;
    scene.git(&["update-ref", "refs/custom/x", "HEAD"]).await;
    scene.git(&["notes", "add", "--message", "note"]).await;
    scene.git(&["pack-refs", "--all"]).await;
    scene.git(&["switch", "--quiet", BRANCH]).await;
    for number in 0..2 {
        scene.write("stashed", format!("stash {number}"));
        scene.write("README.md", format!("stash {number}"));
        scene.git(&["stash", "push", "--quiet", "--include-untracked"]).await;
    }
    let stashes = [scene.git(&["rev-parse", "stash@{0}"]).await, scene.git(&["rev-parse", "stash@{1}"]).await];
    scene.write("README.md", "staged");
    scene.git(&["add", "README.md"]).await;
    scene.write("README.md", "on top of it");

    let done = scene.save_twice().await;
    let refs = scene.refs();
    assert_eq!(scene.parents(&refs[&heads_branch()]), [first]);
    scene.compare(&heads_branch());
    assert_eq!(refs[&format!("{WIP}/branch/side/one")], side);
    assert_eq!([&refs[&format!("{WIP}/stash-0")], &refs[&format!("{WIP}/stash-1")]], [&stashes[0], &stashes[1]]);
    let staged = &refs[&format!("{WIP}/index")];
    assert_eq!(committed(&scene.bare("shop"), staged)[&b"README.md"[..]].1, b"staged");
    let (name, tag) = done.saved_as("refs/tags/heavy");
    assert!(name.starts_with("refs/tags/landfall-wip/"), "{name}");
    assert_eq!(tag, scene.git(&["rev-parse", "heavy"]).await);
    assert!(done.saved("refs/notes/commits").is_some());
    // The branch that was pushed contains these commits already.
    assert!(done.saved("refs/tags/light").is_none() && done.saved("refs/heads/main").is_none(), "{done:?}");
    assert_eq!(scene.sim.head("acme/shop", "main"), Some(scene.git(&["rev-parse", "main"]).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_went_another_way_is_not_forced() {
    let scene = Scene::cloned().await;
    scene.commit("mine").await;
    let push = Push {
        repository: "acme/shop".into(),
        branch: Some(BRANCH.into()),
        path: "theirs".into(),
        content: "theirs".into(),
        message: None,
    };
    let theirs = scene.sim.push(&push).unwrap();
    scene.write("more", "uncommitted");
    let done = scene.save_twice().await;
    assert_eq!(scene.sim.head("acme/shop", BRANCH), Some(theirs));
    assert_eq!(done.saved_as("working tree").0, format!("{WIP}/head"));
    assert!(done.saved("working tree").unwrap()["notOnBranch"].as_str().unwrap().contains("[rejected]"), "{done:?}");
    scene.compare(&format!("{WIP}/head"));
    // Work that cannot follow the branch, and not the earlier work beside it, gets a ref of its own.
    scene.git(&["reset", "--quiet", "--hard", "main"]).await;
    scene.git(&["clean", "--quiet", "--force"]).await;
    scene.write("quite", "different");
    let done = scene.save_twice().await;
    assert_eq!(done.saved_as("working tree").0, heads_branch().replace(BRANCH, "landfall-wip/try-0a1b2/head-2"));
    scene.compare(&format!("{WIP}/head-2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_others_pushed_meanwhile_is_not_pushed_again() {
    let scene = Scene::cloned().await;
    scene.commit("mine").await;
    scene.git(&["push", "--quiet"]).await;
    // A commit on top of it that the clone does not have.
    let push = Push {
        repository: "acme/shop".into(),
        branch: Some(BRANCH.into()),
        path: "theirs".into(),
        content: "theirs".into(),
        message: None,
    };
    scene.sim.push(&push).unwrap();
    let refs = scene.refs();
    let done = scene.save(&[]).await;
    assert_eq!(done.outcome(), "NothingToDo", "{done:?}");
    assert_eq!(scene.refs(), refs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_in_conflict_is_saved_beside_the_branch() {
    let scene = Scene::cloned().await;
    scene.git(&["switch", "--quiet", "--create", "other"]).await;
    scene.write("README.md", "theirs");
    scene.git(&["commit", "--quiet", "--all", "--message", "theirs"]).await;
    let theirs = scene.git(&["rev-parse", "HEAD"]).await;
    scene.git(&["switch", "--quiet", BRANCH]).await;
    scene.write("README.md", "ours");
    scene.git(&["commit", "--quiet", "--all", "--message", "ours"]).await;
    let ours = scene.git(&["rev-parse", "HEAD"]).await;
    assert!(!scene.person(&scene.shop(), &["merge", "other"]).await.status.success());
    let done = scene.save_twice().await;
    let refs = scene.refs();
    assert_eq!(refs[&heads_branch()], ours);
    assert_eq!(done.saved_as("working tree").0, format!("{WIP}/head"));
    scene.compare(&format!("{WIP}/head"));
    assert!(refs.values().any(|commit| *commit == theirs));
    // For the conflicting file, the index has no content that the two branches do not have.
    assert!(!refs.contains_key(&format!("{WIP}/index")));
    // The clone is unchanged.
    assert!(scene.git(&["status", "--porcelain"]).await.contains("UU README.md"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebase_is_saved_with_what_it_began_from() {
    let scene = Scene::cloned().await;
    scene.commit("one").await;
    let before = scene.commit("two").await;
    scene.git(&["switch", "--quiet", "--create", "base", "main"]).await;
    scene.write("one", "conflict");
    scene.git(&["add", "one"]).await;
    scene.git(&["commit", "--quiet", "--message", "base"]).await;
    scene.git(&["switch", "--quiet", BRANCH]).await;
    assert!(!scene.person(&scene.shop(), &["rebase", "base"]).await.status.success());
    let done = scene.save_twice().await;
    // The branch's own ref stays, and the unfinished rebase goes beside it.
    assert_eq!(scene.refs()[&heads_branch()], before);
    assert_eq!(done.saved_as("working tree").0, format!("{WIP}/head"));
    scene.compare(&format!("{WIP}/head"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_a_branch_is_saved() {
    let scene = Scene::cloned().await;
    scene.git(&["checkout", "--quiet", "--detach"]).await;
    let commit = scene.commit("detached").await;
    let done = scene.save_twice().await;
    assert_eq!(done.saved_as("working tree"), (format!("{WIP}/head"), commit));
    assert!(done.said["branch"].is_null());
    assert_eq!(scene.sim.head("acme/shop", BRANCH), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clones_that_are_not_whole_are_saved_from() {
    for option in [["--depth", "1"], ["--filter", "blobs"]] {
        let scene = Scene::new().await;
        for number in 0..3 {
            let push = Push {
                repository: "acme/shop".into(),
                branch: None,
                path: "file".into(),
                content: format!("{number}"),
                message: None,
            };
            scene.sim.push(&push).unwrap();
        }
        assert_eq!(scene.clone(&option).await.code, Some(0));
        scene.commit("mine").await;
        scene.write("file", "changed");
        scene.save_twice().await;
        scene.compare(&heads_branch());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autosave_is_one_commit_that_follows_the_one_before() {
    let scene = Scene::cloned().await;
    let name = format!("refs/landfall/wip/{UID}");
    let head = scene.commit("committed").await;
    scene.git(&["switch", "--quiet", "--create", "side"]).await;
    let side = scene.commit("side").await;
    scene.git(&["switch", "--quiet", BRANCH]).await;
    scene.write("README.md", "first");
    let done = scene.save(&["--autosave"]).await;
    assert_eq!((done.outcome(), done.saved_as("everything").0), ("Saved", name.clone()), "{done:?}");
    let first = scene.refs()[&name].clone();
    assert_eq!(scene.parents(&first), [head.clone(), side.clone()]);
    scene.compare(&name);
    let again = scene.save(&["--autosave"]).await;
    assert_eq!((again.outcome(), again.code), ("NothingToDo", Some(10)), "{again:?}");
    scene.write("README.md", "second");
    assert_eq!(scene.save(&["--autosave"]).await.outcome(), "Saved");
    let second = scene.refs()[&name].clone();
    assert_eq!(scene.parents(&second), [head.clone(), first]);
    scene.compare(&name);
    assert_eq!(scene.refs().len(), 2, "{:?}", scene.refs());
    // An autosave is not on a branch that people look at.
    scene.git(&["fetch", "--quiet", "origin", &name]).await;
    let done = scene.save_twice().await;
    assert_eq!(done.saved_as("working tree").0, heads_branch());
    assert_eq!(scene.refs()[&format!("{WIP}/branch/side")], side);
    assert_eq!(scene.parents(&scene.refs()[&heads_branch()]), [head]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_no_remote_takes_have_another_name_there() {
    let scene = Scene::cloned().await;
    let commit = scene.commit("mine").await;
    scene.git(&["reset", "--quiet", "--hard", "main"]).await;
    let name = OsStr::from_bytes(b"refs/heads/\xff");
    std::fs::write(scene.shop().join(".git").join(Path::new(name)), format!("{commit}\n")).unwrap();
    let done = scene.save(&[]).await;
    assert_eq!(done.outcome(), "Saved", "{done:?}");
    assert!(scene.refs().iter().any(|(name, sha)| name.starts_with(WIP) && *sha == commit), "{done:?}");
}
