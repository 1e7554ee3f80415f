//! The results of a clone besides itself: a branch that has begun on the remote, and a message about it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use github_sim::{Fault, FaultKind};
use serde_json::{Value, json};

use crate::compare::{assert_same, committed, on_disk};
use crate::scene::{BRANCH, Done, Scene, executable, heads_branch, output};

const MESSAGE: &str = "Begin try\n\nWorkspace: team-a/try 0a1b2c3d";
const FIRST: &[&str] = &["--first-commit", MESSAGE];

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Checks that the branch has begun with one commit, and that the clone exists.
async fn begun(scene: &Scene, done: &Done) {
    let main = scene.sim.head("acme/shop", "main").unwrap();
    let head = scene.sim.head("acme/shop", BRANCH).unwrap();
    assert_eq!(done.said, json!({"branch": BRANCH, "head": head, "cloned": true, "begun": true}), "{done:?}");
    assert_eq!(scene.parents(&head), std::slice::from_ref(&main));
    assert_eq!(scene.refs().len(), 2, "main and the branch: {:?}", scene.refs());
    let format = "%an <%ae> %cn <%ce>%n%B";
    let expected = format!("Mona <mona@example.com> Mona <mona@example.com>\n{MESSAGE}");
    assert_eq!(scene.git(&["log", "-1", &format!("--format={format}")]).await, expected);
    assert_eq!(scene.git(&["diff", "--stat", &main, "HEAD"]).await, "");
    assert_eq!(scene.git(&["status", "--porcelain=2", "--branch"]).await.lines().last(), Some("# branch.ab +0 -0"));
    assert_same(&committed(&scene.bare("shop"), &main), &on_disk(&scene.shop()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_begins_at_the_remote_with_a_commit_without_changes() {
    let scene = Scene::new().await;
    let (record, log) = (scene.at("record"), scene.at("termination-log"));
    std::fs::write(&record, "older").unwrap();
    let further = ["--record", record.to_str().unwrap(), "--termination-log", log.to_str().unwrap()];
    let done = scene.clone(&[FIRST, &further].concat()).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    begun(&scene, &done).await;
    assert_eq!((read(&record), read(&log)), (done.said.clone(), done.said.clone()));

    // Another volume continues with it, and begins nothing.
    scene.commit("work").await;
    scene.git(&["push", "--quiet"]).await;
    let refs = scene.refs();
    std::fs::remove_dir_all(scene.shop()).unwrap();
    let done = scene.clone(&[FIRST, &further].concat()).await;
    assert_eq!((&done.said["begun"], &done.said["head"]), (&json!(false), &json!(refs[&heads_branch()])), "{done:?}");
    assert_eq!(scene.refs(), refs);
    // So does a clone that finds the directory.
    let done = scene.clone(&[FIRST, &further].concat()).await;
    assert_eq!((&done.said["cloned"], scene.refs()), (&json!(false), refs));
    assert_eq!((read(&record), read(&log)), (done.said.clone(), done.said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_that_was_stopped_behind_its_push_begins_nothing_twice() {
    for further in
        [&["--on-exists", "resume"][..], &["--on-exists", "fail"], &["--on-exists", "suffix", "--depth", "1"]]
    {
        let scene = Scene::new().await;
        // git's next step kills the process that started it.
        let programs = scene.at("programs");
        let git = Command::new("sh").args(["-c", "command -v git"]).output().unwrap().stdout;
        let git = String::from_utf8(git).unwrap();
        let script = format!(
            "#!/bin/sh\ncase $* in *update-ref*refs/remotes/*) kill -KILL $PPID; exit 1 ;; esac\nexec {} \"$@\"\n",
            git.trim()
        );
        executable(&programs.join("git"), &script);
        let arguments = || scene.clone_arguments("shop", &[FIRST, further].concat());
        let done = scene.landfall(Some(&programs), arguments()).await;
        assert_eq!(done.code, None, "{done:?}");
        let refs = scene.refs();
        assert!(refs.contains_key(&heads_branch()) && !scene.shop().exists());

        // Another workspace with the same branch does not continue with it.
        let other = scene.clone(&["--first-commit", "Begin another", "--on-exists", "fail"]).await;
        assert_eq!((other.code, scene.refs()), (Some(21), refs.clone()), "{other:?}");

        let done = scene.landfall(None, arguments()).await;
        assert_eq!((done.code, scene.refs()), (Some(0), refs), "{done:?}");
        if !further.contains(&"--depth") {
            begun(&scene, &done).await;
        }
        assert_eq!((&done.said["branch"], &done.said["begun"]), (&json!(BRANCH), &json!(true)), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_answer_is_lost_is_not_pushed_again() {
    let scene = Scene::new().await;
    scene.sim.inject(Fault::new("POST", "/acme/shop.git/git-receive-pack", FaultKind::LoseResponse));
    let done = scene.clone(&[FIRST, &["--on-exists", "fail"]].concat()).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.words.contains("retrying"), "{done:?}");
    begun(&scene, &done).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_may_not_begin_is_said_in_the_hosts_words() {
    let scene = Scene::new().await;
    // A message that is longer than Kubernetes permits, with the reason at its end.
    scene.refuse("i=0; while [ $i -lt 200 ]; do echo 'much is said here' >&2; i=$((i+1)); done; echo 'GH013: rule violations' >&2; exit 1");
    let log = scene.at("termination-log");
    let done = scene.clone(&[FIRST, &["--termination-log", log.to_str().unwrap()]].concat()).await;
    assert_eq!(done.code, Some(20), "{done:?}");
    let words = &done.words;
    assert!(words.starts_with(&format!("landfall: the first commit of branch {BRANCH} cannot be pushed: ")), "{words}");
    assert!(words.contains("GH013: rule violations") && words.contains("[remote rejected]"), "{words}");
    assert!(words.len() <= 2048 && words.lines().count() <= 80, "{} {words}", words.len());
    assert!(!words.contains(&scene.token()) && !log.exists() && !scene.shop().exists());
    assert_eq!(std::fs::read_dir(scene.at("volume")).unwrap().count(), 0);

    // A token without the permission.
    std::fs::remove_file(scene.at("github/hooks/pre-receive")).unwrap();
    scene.renew("read").await;
    let done = scene.clone(FIRST).await;
    assert_eq!(done.code, Some(20), "{done:?}");
    assert!(done.words.contains("cannot be pushed") && done.words.contains("403"), "{done:?}");
    assert!(!scene.refs().contains_key(&heads_branch()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_without_a_commit_has_nothing_to_begin_from() {
    let scene = Scene::new().await;
    // A push would make the workspace's branch the repository's default branch.
    let done = scene.landfall(None, scene.clone_arguments("blank", FIRST)).await;
    assert_eq!(done.said, json!({"branch": BRANCH, "head": null, "cloned": true, "begun": true}), "{done:?}");
    assert_eq!(scene.sim.head("acme/blank", BRANCH), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_needed_but_the_volume_and_two_directories() {
    // /etc/passwd does not contain this user.
    const SOMEBODY: u32 = 23457;
    // Without root, the test runs as its own user, with a writable disk.
    let mounts = Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|done| done.status.success());
    let root = rustix::process::geteuid().is_root() && mounts;
    let scene = Scene::new().await;
    let program = scene.at("landfall");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_landfall-workspace")).arg(&program).status().unwrap();
    assert!(copied.success());
    std::fs::create_dir(scene.at("tools")).unwrap();
    let writable = ["volume", "scratch", "tools"].map(|name| scene.at(name));
    let parent = program.parent().unwrap();
    let mut command = if root {
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["landfall", "token", "ca.pem"] {
            std::fs::set_permissions(scene.at(name), std::fs::Permissions::from_mode(0o555)).unwrap();
        }
        for path in &writable {
            std::os::unix::fs::chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        }
        // It has its own mounts: the whole disk is read-only except for the three directories.
        let script = "set -e
            for path; do [ \"$path\" = -- ] && break; mount --bind \"$path\" \"$path\"; done
            mount -o remount,bind,ro /
            for mount in /tmp /var/tmp /dev/shm /run; do ! mountpoint -q $mount || mount -o remount,bind,ro $mount; done
            while [ \"$1\" != -- ]; do shift; done
            shift
            if touch /tmp/landfall-test 2>/dev/null; then exit 9; fi
            exec setpriv --reuid 23457 --regid 23457 --clear-groups --no-new-privs -- \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.args(&writable).arg("--").arg(&program);
        command
    } else {
        Command::new(&program)
    };
    command.arg("workspace").args(scene.clone_arguments("shop", FIRST));
    let environment = BTreeMap::from([("HOME", "/"), ("TMPDIR", "/nowhere"), ("no_proxy", "*")]);
    command.current_dir("/").env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(environment);
    let done = output(command).await;
    assert!(done.status.success(), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(said["begun"], json!(true));
    assert_eq!(scene.at("tools").read_dir().unwrap().count(), 3);
    assert_eq!(scene.at("scratch").read_dir().unwrap().count(), 0);
    let main = scene.sim.head("acme/shop", "main").unwrap();
    assert_same(&committed(&scene.bare("shop"), &main), &on_disk(&scene.shop()));
}
