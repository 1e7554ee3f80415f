//! Repositories that try to run a program, or to be followed elsewhere. Each trick first works on plain git. Then
//! Landfall neither runs nor follows it, and still saves the work.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::compare::{assert_same, committed, on_disk};
use crate::scene::{BRANCH, Done, Scene, executable, output};

/// A program that leaves a file when it runs.
pub struct Witness {
    pub program: PathBuf,
    mark: PathBuf,
}

impl Witness {
    pub fn new(scene: &Scene) -> Self {
        let (program, mark) = (scene.at("witness"), scene.at("mark"));
        // It also works as a filter, a helper and an editor.
        executable(&program, &format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\n[ $# -gt 0 ] || cat\n", mark.display()));
        Self { program, mark }
    }

    pub fn path(&self) -> &str {
        self.program.to_str().unwrap()
    }

    /// Whether it ran since the last call.
    pub fn ran(&self) -> bool {
        std::fs::remove_file(&self.mark).is_ok()
    }
}

/// Runs git in the clone, like a sidecar without precautions.
async fn plain(scene: &Scene, directory: &Path, arguments: &[&str]) {
    let mut git = Command::new("git");
    git.current_dir(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("GIT_SSL_CAINFO")
        .env("no_proxy", "*")
        .env("HOME", scene.at("home"))
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_SYSTEM", scene.at("tools/gitconfig"));
    // Its success does not matter, but helps when a test fails.
    let output = output(git).await;
    println!("git {arguments:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// A save with plain git.
async fn plain_save(scene: &Scene) {
    let shop = scene.shop();
    let index = scene.at("plain-index");
    std::fs::copy(shop.join(".git/index"), &index).unwrap();
    for arguments in [
        &["status"][..],
        &["add", "--all"],
        &["commit", "--quiet", "--message", "saved"],
        &["push", "--quiet", "origin", "HEAD:refs/heads/plain"],
    ] {
        plain(scene, &shop, arguments).await;
    }
    // Restores the state.
    plain(scene, &shop, &["-c", "core.fsmonitor=false", "reset", "--quiet", "--soft", "main"]).await;
    std::fs::rename(&index, shop.join(".git/index")).unwrap();
}

async fn saved(scene: &Scene) -> Done {
    let done = scene.save(&[]).await;
    assert_eq!(done.outcome(), "Saved", "{done:?}");
    let (name, commit) = done.saved_as("working tree");
    assert_eq!(scene.refs()[&name], commit);
    assert_same(&committed(&scene.bare("shop"), &commit), &on_disk(&scene.shop()));
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hook_runs() {
    let scene = Scene::cloned().await;
    let witness = Witness::new(&scene);
    std::fs::create_dir(scene.shop().join(".git/hooks")).unwrap();
    for hook in ["pre-commit", "post-commit", "pre-push", "post-index-change", "reference-transaction", "post-checkout"]
    {
        symlink(&witness.program, scene.shop().join(".git/hooks").join(hook)).unwrap();
    }
    scene.write("new", "new");
    plain_save(&scene).await;
    assert!(witness.ran());
    saved(&scene).await;
    assert!(!witness.ran());
}

/// Settings of a repository that make git start a program, with the attributes that make them effective.
const STARTERS: &[(&str, &str)] = &[
    ("core.fsmonitor", ""),
    ("core.hooksPath", ""),
    ("filter.evil.clean", "* filter=evil\n"),
    ("filter.evil.process", "* filter=evil\n"),
    ("credential.helper", ""),
    ("core.sshCommand", ""),
    ("core.gitProxy", ""),
    ("remote.origin.receivepack", ""),
    ("gpg.program", ""),
    ("core.alternateRefsCommand", ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_program_of_the_configuration_runs() {
    let scene = Scene::cloned().await;
    let witness = Witness::new(&scene);
    let config = scene.shop().join(".git/config");
    let before = std::fs::read(&config).unwrap();
    let hooks = scene.at("volume/hooks");
    std::fs::create_dir(&hooks).unwrap();
    symlink(&witness.program, hooks.join("pre-push")).unwrap();
    for (number, (key, attributes)) in STARTERS.iter().enumerate() {
        std::fs::write(&config, &before).unwrap();
        // A different tree for each, so that there is something to save.
        scene.write("new", format!("for {key} {number}"));
        scene.write(".gitattributes", attributes);
        // git compares a file with another time, and starts a filter for that.
        let touched = std::fs::OpenOptions::new().write(true).open(scene.shop().join("README.md")).unwrap();
        touched.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_hours(number as u64)).unwrap();
        // The further settings with which plain git uses each of them. The person also controls the address and how a
        // commit is made.
        let (value, others): (_, &[(&str, &str)]) = match *key {
            "core.hooksPath" => (hooks.to_str().unwrap(), &[]),
            "core.sshCommand" => (witness.path(), &[("remote.origin.pushurl", "ssh://nowhere.invalid/x")]),
            "core.gitProxy" => (witness.path(), &[("remote.origin.pushurl", "git://nowhere.invalid/x")]),
            "remote.origin.receivepack" => (witness.path(), &[("remote.origin.pushurl", "/nowhere")]),
            "gpg.program" => (witness.path(), &[("commit.gpgSign", "true")]),
            _ => (witness.path(), &[]),
        };
        if *key == "remote.origin.receivepack" {
            let local = scene.at("volume/local.git");
            scene.git(&["init", "--quiet", "--bare", local.to_str().unwrap()]).await;
            scene.git(&["config", "remote.origin.pushurl", local.to_str().unwrap()]).await;
        }
        for (key, value) in others {
            scene.git(&["config", key, value]).await;
        }
        if *key == "credential.helper" {
            // The person's own helper is used for addresses that Landfall's does not answer.
            scene.git(&["config", "remote.origin.pushurl", &scene.url("other")]).await;
        }
        if *key == "core.alternateRefsCommand" {
            let alternate = scene.at("volume/alternate");
            scene.git(&["init", "--quiet", alternate.to_str().unwrap()]).await;
            scene.write(".git/objects/info/alternates", format!("{}\n", alternate.join(".git/objects").display()));
        }
        scene.git(&["config", key, value]).await;
        if *key == "core.alternateRefsCommand" {
            plain(&scene, &scene.shop(), &["fetch", "--quiet", "origin", "main"]).await;
        } else {
            plain_save(&scene).await;
        }
        assert!(witness.ran(), "{key} is no trick: plain git does not run it");
        saved(&scene).await;
        assert!(!witness.ran(), "{key}: {:?}", std::fs::read_to_string(&witness.mark));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_included_configuration_is_read() {
    let scene = Scene::cloned().await;
    let witness = Witness::new(&scene);
    let further = scene.at("volume/further");
    std::fs::write(&further, format!("[core]\n\tfsmonitor = {}\n", witness.path())).unwrap();
    for key in ["include.path", "includeIf.gitdir:/**.path", "includeIf.onbranch:**.path"] {
        scene.git(&["config", key, further.to_str().unwrap()]).await;
        scene.write("new", key);
        plain_save(&scene).await;
        assert!(witness.ran(), "{key}");
        saved(&scene).await;
        assert!(!witness.ran(), "{key}");
        scene.git(&["-c", "core.fsmonitor=false", "config", "--unset", key]).await;
        witness.ran();
    }
    // The configuration of a worktree is a separate file.
    scene.git(&["config", "extensions.worktreeConfig", "true"]).await;
    scene.git(&["config", "--worktree", "core.fsmonitor", witness.path()]).await;
    scene.write("new", "worktree");
    plain_save(&scene).await;
    assert!(witness.ran());
    saved(&scene).await;
    assert!(!witness.ran());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_goes_where_the_configuration_points() {
    use std::io::{BufRead as _, BufReader};
    let scene = Scene::cloned().await;
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", elsewhere.local_addr().unwrap());
    let (log, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in elsewhere.incoming() {
            let mut line = String::new();
            let stream = stream.unwrap();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let _ = log.send(line);
        }
    });
    scene.write("new", "new");
    for key in ["insteadOf", "pushInsteadOf"] {
        scene.git(&["config", &format!("url.{address}/.{key}"), scene.sim.base_url()]).await;
        plain(&scene, &scene.shop(), &["push", "--quiet", "origin", "HEAD:refs/heads/plain"]).await;
        assert!(heard.try_iter().count() > 0, "{key} is no trick");
        scene.write("new", key);
        saved(&scene).await;
        assert_eq!(heard.try_iter().count(), 0, "{key}");
        scene.git(&["config", "--remove-section", &format!("url.{address}/")]).await;
    }
    for (key, value) in [
        ("http.proxy", &*address),
        ("remote.origin.pushurl", &*format!("{address}/x")),
        ("remote.origin.proxy", &*address),
    ] {
        scene.git(&["config", key, value]).await;
        // Plain git uses the proxy only if no variable overrides it.
        let mut git = Command::new("git");
        git.current_dir(scene.shop()).args(["push", "--quiet", "origin", "HEAD:refs/heads/plain"]);
        git.env("GIT_CONFIG_SYSTEM", scene.at("tools/gitconfig"))
            .env("GIT_TERMINAL_PROMPT", "0")
            .env_remove("GIT_SSL_CAINFO")
            .env_remove("no_proxy")
            .env_remove("NO_PROXY");
        output(git).await;
        assert!(heard.try_iter().count() > 0, "{key} is no trick");
        scene.write("new", key);
        saved(&scene).await;
        assert_eq!(heard.try_iter().count(), 0, "{key}");
        scene.git(&["config", "--unset", key]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_configuration_of_a_repository_within_takes_effect() {
    let scene = Scene::cloned().await;
    let witness = Witness::new(&scene);
    let url = format!("file://{}", scene.bare("other").display());
    scene.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &url, "sub"]).await;
    scene.git(&["commit", "--quiet", "--message", "submodule"]).await;
    let sub = scene.shop().join("sub");
    scene.git_in(&sub, &["config", "core.fsmonitor", witness.path()]).await;
    // An untracked repository, with hooks.
    scene.git(&["init", "--quiet", "own"]).await;
    scene.write("own/file", "x");
    scene.git_in(&scene.shop().join("own"), &["config", "core.fsmonitor", witness.path()]).await;
    witness.ran();
    plain(&scene, &scene.shop(), &["status"]).await;
    assert!(witness.ran(), "plain git does not look into the submodule");
    scene.write("new", "new");
    let done = scene.save(&[]).await;
    assert_eq!(done.outcome(), "Saved", "{done:?}");
    assert!(!witness.ran());
    assert!(done.saved("nested/own/working tree").is_some(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_submodule_is_fetched_whatever_its_address_is() {
    let scene = Scene::new().await;
    let witness = Witness::new(&scene);
    let push = |path: &str, content: String| {
        let push = github_sim::Push {
            repository: "acme/shop".into(),
            branch: None,
            path: path.into(),
            content,
            message: None,
        };
        scene.sim.push(&push).unwrap()
    };
    // git runs the command after ext:: (gitremote-helpers(7)).
    let address = format!("ext::{} %S", witness.path());
    push(".gitmodules", format!("[submodule \"sub\"]\n\tpath = sub\n\turl = {address}\n"));
    let main = scene.sim.head("acme/shop", "main").unwrap();
    let bare = scene.bare("shop");
    let index = scene.at("index");
    let with_link = format!(
        "export GIT_DIR='{}' GIT_INDEX_FILE='{}'; git read-tree main && git update-index --add --cacheinfo 160000,{main},sub && \
         tree=$(git write-tree) && git update-ref refs/heads/main $(git -c user.name=a -c user.email=b commit-tree -m sub -p main $tree)",
        bare.display(),
        index.display()
    );
    assert!(Command::new("sh").args(["-c", &with_link]).status().unwrap().success());
    let plain_clone = scene.at("plain");
    let arguments = [
        "-c",
        "protocol.ext.allow=always",
        "clone",
        "--quiet",
        "--recurse-submodules",
        bare.to_str().unwrap(),
        plain_clone.to_str().unwrap(),
    ];
    plain(&scene, &scene.at("home"), &arguments).await;
    assert!(witness.ran(), "plain git does not run it");
    std::fs::write(
        scene.at("home/.gitconfig"),
        "[protocol \"ext\"]\n\tallow = always\n[submodule]\n\trecurse = true\n",
    )
    .unwrap();
    let done = scene.clone(&[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!witness.ran());
    scene.git(&["config", "submodule.recurse", "true"]).await;
    scene.write("new", "new");
    assert_eq!(scene.save(&[]).await.outcome(), "Saved");
    assert!(!witness.ran());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_repository_brings_does_not_run_in_the_clone() {
    let scene = Scene::new().await;
    let witness = Witness::new(&scene);
    let push = |path: &str, content: &str| {
        let push = github_sim::Push {
            repository: "acme/shop".into(),
            branch: None,
            path: path.into(),
            content: content.into(),
            message: None,
        };
        scene.sim.push(&push).unwrap()
    };
    push(".gitattributes", "* filter=evil\n");
    // Settings in the home directories of its user, as an image could have them.
    let config = format!(
        "[filter \"evil\"]\n\tsmudge = {0}\n\tclean = {0}\n[core]\n\tfsmonitor = {0}\n\thooksPath = {1}\n[init]\n\ttemplateDir = {1}\n",
        witness.path(),
        scene.at("hooks").display()
    );
    std::fs::write(scene.at("home/.gitconfig"), config).unwrap();
    std::fs::create_dir_all(scene.at("hooks/hooks")).unwrap();
    symlink(&witness.program, scene.at("hooks/post-checkout")).unwrap();
    let bare = scene.bare("shop");
    plain(&scene, &scene.at("home"), &["clone", "--quiet", bare.to_str().unwrap(), "plain"]).await;
    assert!(witness.ran());
    assert_eq!(scene.clone(&[]).await.code, Some(0));
    assert!(!witness.ran());
    assert_same(&committed(&bare, "main"), &on_disk(&scene.shop()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_outside_of_the_volume_are_not_borrowed() {
    let scene = Scene::cloned().await;
    let refs = scene.refs();
    let alternates = ".git/objects/info/alternates";
    // A blob of another repository on this machine, named in a commit of the clone: plain git pushes it.
    let secret = scene.at("home/secret");
    scene.git(&["init", "--quiet", "--bare", secret.to_str().unwrap()]).await;
    std::fs::write(scene.at("home/file"), "secret").unwrap();
    let file = scene.at("home/file");
    let blob = scene.git_in(&secret, &["hash-object", "-w", file.to_str().unwrap()]).await;
    scene.write(alternates, format!("{}\n", secret.join("objects").display()));
    scene.git(&["update-index", "--add", "--cacheinfo", &format!("100644,{blob},stolen")]).await;
    scene.git(&["commit", "--quiet", "--message", "stolen"]).await;
    scene.git(&["push", "--quiet", "origin", "HEAD:refs/heads/plain"]).await;
    assert_eq!(committed(&scene.bare("shop"), "plain")[&b"stolen"[..]].1, b"secret");
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(scene.bare("shop")).args(["update-ref", "-d", "refs/heads/plain"]);
    assert!(output(git).await.status.success());

    let refused = async || {
        let done = scene.save(&[]).await;
        assert_eq!((done.outcome(), done.code), ("Refused", Some(20)), "{done:?}");
        assert!(done.said["left"][0]["message"].as_str().unwrap().contains("leads out of the volume"), "{done:?}");
        assert_eq!(scene.refs(), refs);
    };
    refused().await;
    // The same with links.
    std::fs::remove_file(scene.shop().join(alternates)).unwrap();
    let objects = scene.shop().join(".git/objects");
    std::fs::rename(objects.join("pack"), scene.at("home/pack")).unwrap();
    symlink(scene.at("home/pack"), objects.join("pack")).unwrap();
    refused().await;
    std::fs::rename(&objects, scene.at("home/objects")).unwrap();
    symlink(scene.at("home/objects"), &objects).unwrap();
    refused().await;
    // The whole git directory is elsewhere.
    std::fs::rename(scene.shop().join(".git"), scene.at("home/dot-git")).unwrap();
    symlink(scene.at("home/dot-git"), scene.shop().join(".git")).unwrap();
    let done = scene.save(&[]).await;
    assert_eq!((done.outcome(), done.code), ("Refused", Some(20)), "{done:?}");
    assert!(done.said["left"][0]["message"].as_str().unwrap().contains("not a directory"), "{done:?}");
    std::fs::remove_file(scene.shop().join(".git")).unwrap();
    scene.write(".git", format!("gitdir: {}\n", scene.at("home/dot-git").display()));
    assert_eq!(scene.save(&[]).await.code, Some(20));
    std::fs::rename(scene.shop(), scene.at("home/shop")).unwrap();
    symlink(scene.at("home/shop"), scene.shop()).unwrap();
    assert_eq!(scene.save(&[]).await.code, Some(20));
    assert_eq!(scene.refs(), refs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_link_out_of_the_tree_is_followed() {
    let scene = Scene::cloned().await;
    std::fs::create_dir(scene.at("home/dir")).unwrap();
    std::fs::write(scene.at("home/dir/secret"), "secret").unwrap();
    symlink(scene.at("home/dir"), scene.shop().join("out")).unwrap();
    // A tracked file below a directory that is now a link: git would find the file there if it followed the link.
    std::fs::remove_dir_all(scene.shop().join("src")).unwrap();
    std::fs::write(scene.at("home/dir/main.rs"), "secret").unwrap();
    symlink(scene.at("home/dir"), scene.shop().join("src")).unwrap();
    assert!(std::fs::read(scene.shop().join("src/main.rs")).is_ok());
    // Links in place of files that git reads itself.
    symlink(scene.at("home/dir/secret"), scene.shop().join(".gitignore")).unwrap();
    symlink(scene.at("home/dir/secret"), scene.shop().join(".gitattributes")).unwrap();
    let done = saved(&scene).await;
    let tree = committed(&scene.bare("shop"), &done.saved_as("working tree").1);
    assert!(!tree.values().any(|(_, contents)| contents == b"secret"));
    assert_eq!(tree[&b"src"[..]].0, "120000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_looks_like_an_option_is_a_branch() {
    let scene = Scene::new().await;
    let witness = Witness::new(&scene);
    // As an option, it does run.
    let url = scene.bare("shop");
    let option = format!("--upload-pack={}", witness.path());
    plain(&scene, &scene.at("home"), &["ls-remote", &option, url.to_str().unwrap()]).await;
    assert!(witness.ran());
    let head = scene.sim.head("acme/shop", "main").unwrap();
    let mut git = Command::new("git");
    git.arg("--git-dir").arg(scene.bare("shop")).args(["update-ref", &format!("refs/heads/{option}"), &head]);
    assert!(output(git).await.status.success());
    for name in [option.clone(), format!("--receive-pack={}", witness.path()), "-u".into(), "--".into()] {
        let done = scene.clone(&["--branch", &name, "--from", "main"]).await;
        assert_eq!(
            (done.code, &done.said["branch"], &done.said["head"]),
            (Some(0), &name.clone().into(), &head.clone().into()),
            "{done:?}"
        );
        scene.write("mine", &name);
        let mut arguments = scene.save_arguments(&[]);
        let at = arguments.iter().position(|argument| argument == BRANCH).unwrap();
        arguments[at].clone_from(&name);
        let done = scene.landfall(None, arguments).await;
        assert_eq!(
            (done.outcome(), done.saved_as("working tree").0),
            ("Saved", format!("refs/heads/{name}")),
            "{done:?}"
        );
        std::fs::remove_dir_all(scene.shop()).unwrap();
    }
    // Another local branch has the option as its name.
    assert_eq!(scene.clone(&[]).await.code, Some(0));
    scene.git(&["commit", "--quiet", "--allow-empty", "--message", "x"]).await;
    let commit = scene.git(&["rev-parse", "HEAD"]).await;
    scene.git(&["update-ref", &format!("refs/heads/{option}"), &commit]).await;
    scene.git(&["reset", "--quiet", "--hard", "main"]).await;
    assert_eq!(scene.save(&[]).await.outcome(), "Saved");
    assert!(scene.refs().values().any(|sha| *sha == commit));
    assert!(!witness.ran());
    // A name that is invalid for git is invalid for Landfall.
    for name in ["a..b", "a b", "a\nb", "a:b", "+a", "x.lock", "@{-1}"] {
        let done = scene.clone(&["--branch", name]).await;
        assert_eq!(done.code, if name == "+a" { Some(0) } else { Some(2) }, "{name}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_with_what_no_tree_may_have_makes_none() {
    let scene = Scene::cloned().await;
    let index = scene.shop().join(".git/index");
    // Entries of the index that git itself would not create: a path component named .git.
    scene.write("xgit/hooks/pre-commit", "exit 1");
    scene.git(&["add", "xgit"]).await;
    let mut bytes = std::fs::read(&index).unwrap();
    let at = bytes.windows(4).position(|window| window == b"xgit").unwrap();
    bytes[at] = b'.';
    let end = bytes.len() - 20;
    let digest = Command::new("sh")
        .args(["-c", &format!("head -c {end} '{}' | {{ dd bs=1 count={at} status=none; printf .; dd bs=1 count=1 of=/dev/null status=none; cat; }} | sha1sum", index.display())])
        .output()
        .unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    for (place, digit) in bytes[end..].iter_mut().zip(0..) {
        *place = u8::from_str_radix(&digest[digit * 2..digit * 2 + 2], 16).unwrap();
    }
    std::fs::write(&index, &bytes).unwrap();
    scene.write("new", "new");
    let done = scene.save(&[]).await;
    assert_eq!(done.left(), [("index".to_owned(), "Unreadable".to_owned())], "{done:?}");
    for commit in scene.refs().values() {
        let tree = committed(&scene.bare("shop"), commit);
        assert!(!tree.keys().any(|name| name.starts_with(b".git/")), "{done:?}");
    }
    assert_same(
        &committed(&scene.bare("shop"), &scene.refs()[&format!("refs/heads/{BRANCH}")]),
        &on_disk(&scene.shop()),
    );
}
