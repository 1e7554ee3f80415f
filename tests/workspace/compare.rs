//! Compares two trees: that of a commit on the remote, and that on the volume. Modes, targets of links, bytes.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Files by their paths: git's mode, and the content.
pub type Tree = BTreeMap<Vec<u8>, (String, Vec<u8>)>;

/// The tree of a commit in a bare repository.
pub fn committed(bare: &Path, commit: &str) -> Tree {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let output = git.arg("--git-dir").arg(bare).args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let mut tree = Tree::new();
    for entry in git(&["ls-tree", "-r", "-z", commit]).split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
        let tab = entry.iter().position(|byte| *byte == b'\t').unwrap();
        let about = str::from_utf8(&entry[..tab]).unwrap();
        let [mode, kind, object] = about.split(' ').collect::<Vec<_>>()[..] else { panic!("{about}") };
        let contents = if kind == "blob" { git(&["cat-file", "blob", object]) } else { object.into() };
        tree.insert(entry[tab + 1..].to_vec(), (mode.to_owned(), contents));
    }
    tree
}

/// The tree of a directory without `.git`. Submodules are included as files.
pub fn on_disk(directory: &Path) -> Tree {
    let mut tree = Tree::new();
    walk(directory, b"", &mut tree);
    tree
}

fn walk(directory: &Path, prefix: &[u8], tree: &mut Tree) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == ".git" {
            continue;
        }
        let path = [prefix, name.as_bytes()].concat();
        let about = entry.path().symlink_metadata().unwrap();
        if about.is_dir() {
            walk(&entry.path(), &[&path[..], b"/"].concat(), tree);
        } else if about.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            tree.insert(path, ("120000".to_owned(), target.as_os_str().as_bytes().to_vec()));
        } else if about.is_file() {
            let mode = if about.permissions().mode() & 0o100 == 0 { "100644" } else { "100755" };
            tree.insert(path, (mode.to_owned(), std::fs::read(entry.path()).unwrap()));
        }
    }
}

/// Panics if they differ, and says where.
pub fn assert_same(committed: &Tree, on_disk: &Tree) {
    let names = committed.keys().chain(on_disk.keys());
    let differ: Vec<_> = names
        .filter(|name| committed.get(*name) != on_disk.get(*name))
        .map(|name| format!("{}: {:?} and {:?}", name.escape_ascii(), shown(committed, name), shown(on_disk, name)))
        .collect();
    assert!(differ.is_empty(), "the remote and the volume differ: {differ:#?}");
}

fn shown(tree: &Tree, name: &[u8]) -> Option<(String, String)> {
    let (mode, contents) = tree.get(name)?;
    Some((mode.clone(), String::from_utf8_lossy(&contents[..contents.len().min(60)]).into_owned()))
}
