//! `tests/endtoend/compare`: an independent script that compares a volume with a commit, so that the test does not rely
//! on the tested save.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

/// The differences between a volume and a commit in a bare repository: none, or a line for each path.
pub fn differences(volume: &Path, bare: &Path, commit: &str) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/endtoend/compare");
    let output = Command::new("python3").arg(script).arg(volume).arg(bare).arg(commit).output().unwrap();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => panic!("{}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").arg("-C").arg(directory);
    let output = git.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

type Act = Box<dyn Fn()>;

#[test]
fn each_difference_is_found_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().join("work");
    git(folder.path(), &["init", "--quiet", "work"]);
    let at = |name: &str| work.join(name);
    let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    write("folder/text", "text\r\n");
    write("program", "#!/bin/sh\n");
    write("a\nb", "newline");
    write(".gitignore", "*.log\nkept.log\n");
    write("kept.log", "tracked though it is ignored");
    symlink("../outside", at("link")).unwrap();
    std::fs::set_permissions(at("program"), std::fs::Permissions::from_mode(0o755)).unwrap();
    git(&work, &["add", "--force", "."]);
    git(&work, &["commit", "--quiet", "--message", "all"]);
    write("ignored.log", "ignored");
    write(".git/info/exclude", "excluded\n");
    write("excluded", "ignored by what is not in the tree");
    let bare = at(".git");
    let seen = || differences(&work, &bare, "HEAD");
    assert_eq!(seen(), Ok(()));

    let mut changes: Vec<(&str, Act, Act)> = Vec::new();
    let text = at("folder/text");
    let (one, other) = (text.clone(), text.clone());
    changes.push((
        "folder/text: other bytes",
        Box::new(move || std::fs::write(&one, "text\n").unwrap()),
        Box::new(move || std::fs::write(&other, "text\r\n").unwrap()),
    ));
    let mode = |path: std::path::PathBuf, mode| -> Act {
        Box::new(move || std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap())
    };
    changes.push(("program: mode", mode(at("program"), 0o644), mode(at("program"), 0o755)));
    let relink = |path: std::path::PathBuf, target: &'static str| -> Act {
        Box::new(move || {
            std::fs::remove_file(&path).unwrap();
            symlink(target, &path).unwrap();
        })
    };
    changes.push(("link: other target", relink(at("link"), "elsewhere"), relink(at("link"), "../outside")));
    let put = |path: std::path::PathBuf, text: &'static str| -> Act {
        Box::new(move || std::fs::write(&path, text).unwrap())
    };
    let remove = |path: std::path::PathBuf| -> Act { Box::new(move || std::fs::remove_file(&path).unwrap()) };
    changes.push(("new: not in the commit", put(at("new"), ""), remove(at("new"))));
    changes.push((
        "kept.log: not on the volume",
        remove(at("kept.log")),
        put(at("kept.log"), "tracked though it is ignored"),
    ));
    changes.push(("a\\nb: not on the volume", remove(at("a\nb")), put(at("a\nb"), "newline")));
    for (expected, make, undo) in changes {
        make();
        let found = seen().unwrap_err();
        assert!(found.starts_with(expected) && found.lines().count() == 1, "{expected}: {found}");
        undo();
        assert_eq!(seen(), Ok(()), "after {expected}");
    }
}
