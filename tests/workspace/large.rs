//! Files of Git LFS, and pushes that are too large: the machine has no git-lfs, and the clone may have its objects.

use std::path::Path;
use std::process::Command;

use crate::scene::{BRANCH, Done, Scene, heads_branch};

const ATTRIBUTES: &str = "*.bin filter=lfs diff=lfs merge=lfs -text\n";

fn digest(content: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    hex::encode(digest)
}

fn pointer(content: &[u8]) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n", digest(content), content.len())
}

impl Scene {
    /// Puts an object where git-lfs keeps it.
    fn keep_object(&self, content: &[u8]) {
        let oid = digest(content);
        let folder = self.shop().join(".git/lfs/objects").join(&oid[..2]).join(&oid[2..4]);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(&oid), content).unwrap();
    }

    /// Commits a pointer, and checks out its content as git-lfs does: the index has the pointer, with the times of the file.
    async fn check_out(&self, content: &[u8]) {
        self.write(".gitattributes", ATTRIBUTES);
        self.write("model.bin", pointer(content));
        self.git(&["add", "--all"]).await;
        self.git(&["commit", "--quiet", "--message", "a model"]).await;
        let blob = self.at("blob");
        std::fs::write(&blob, content).unwrap();
        // A stand-in for git-lfs.
        self.git(&["config", "filter.lfs.clean", "cat >/dev/null; git cat-file blob HEAD:model.bin"]).await;
        self.git(&["config", "filter.lfs.smudge", &format!("cat >/dev/null; cat {}", blob.display())]).await;
        std::fs::remove_file(self.shop().join("model.bin")).unwrap();
        self.git(&["checkout", "--", "model.bin"]).await;
        assert_eq!(std::fs::read(self.shop().join("model.bin")).unwrap(), content);
    }

    /// A file of a commit at the remote.
    fn at_remote(&self, reference: &str, name: &str) -> Vec<u8> {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(self.bare("shop")).args(["cat-file", "blob", &format!("{reference}:{name}")]);
        git.output().unwrap().stdout
    }
}

fn is_left(done: &Done) {
    assert_eq!((done.outcome(), done.code), ("Refused", Some(20)), "{done:?}");
    assert_eq!(done.left(), [("model.bin".to_owned(), "LargeFile".to_owned())], "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_only_the_volume_has_is_left() {
    let scene = Scene::cloned().await;
    let content = b"large ".repeat(50_000);
    scene.keep_object(&content);
    scene.check_out(&content).await;
    // The pointer is pushed, and the object is named as often as the save is repeated.
    for further in [&[][..], &[], &["--autosave"]] {
        is_left(&scene.save(further).await);
    }
    assert_eq!(scene.at_remote(&heads_branch(), "model.bin"), pointer(&content).as_bytes());
    // git-lfs uploads the objects before a push.
    scene.git(&["push", "--quiet"]).await;
    let done = scene.save(&[]).await;
    assert_eq!(done.outcome(), "NothingToDo", "{done:?}");
    // An object that is not on the volume is where it was before.
    std::fs::remove_dir_all(scene.shop().join(".git/lfs")).unwrap();
    scene.git(&["commit", "--quiet", "--allow-empty", "--message", "x"]).await;
    scene.write("other.bin", pointer(b"elsewhere"));
    scene.save_twice().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_whose_times_changed_is_unchanged() {
    let scene = Scene::cloned().await;
    let content = b"large ".repeat(50_000);
    scene.check_out(&content).await;
    scene.git(&["push", "--quiet"]).await;
    let touch = std::fs::OpenOptions::new().write(true).open(scene.shop().join("model.bin")).unwrap();
    touch.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)).unwrap();
    let refs = scene.refs();
    for further in [&[][..], &["--autosave"]] {
        let done = scene.save(further).await;
        assert_eq!((done.outcome(), &done.said["changed"]), ("NothingToDo", &0.into()), "{done:?}");
    }
    assert_eq!(scene.refs(), refs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_that_changed_is_saved_as_a_pointer_and_its_content_is_left() {
    let scene = Scene::cloned().await;
    scene.check_out(&b"large ".repeat(50_000)).await;
    scene.git(&["push", "--quiet"]).await;
    let content = b"other ".repeat(60_000);
    scene.write("model.bin", &content);
    scene.write("empty.bin", "");
    scene.write("notes.txt", "saved as it is");
    is_left(&scene.save(&[]).await);
    is_left(&scene.save(&["--autosave"]).await);
    let branch = heads_branch();
    assert_eq!(scene.at_remote(&branch, "model.bin"), pointer(&content).as_bytes());
    assert_eq!(scene.at_remote(&branch, "empty.bin"), b"");
    assert_eq!(scene.at_remote(&branch, "notes.txt"), b"saved as it is");
    // The same by the attributes that only this clone has.
    std::fs::remove_file(scene.shop().join(".gitattributes")).unwrap();
    std::fs::create_dir_all(scene.shop().join(".git/info")).unwrap();
    std::fs::write(scene.shop().join(".git/info/attributes"), ATTRIBUTES).unwrap();
    is_left(&scene.save(&[]).await);
}

/// GitHub takes no more than 2 GB in a push.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_is_too_large_for_one_push_is_pushed_in_parts() {
    let scene = Scene::cloned().await;
    let bare = scene.bare("shop");
    let limit = |bytes: &str| {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(&bare).args(["config", "receive.maxInputSize", bytes]);
        assert!(git.status().unwrap().success());
    };
    limit("300k");
    let mut noise = Noise(1);
    for number in 0..5 {
        scene.write(&format!("part-{number}"), noise.bytes(200_000));
        scene.git(&["add", "--all"]).await;
        scene.git(&["commit", "--quiet", "--message", "part"]).await;
    }
    scene.save_twice().await;
    assert_eq!(scene.sim.head("acme/shop", BRANCH).unwrap(), scene.git(&["rev-parse", "HEAD"]).await);
    // A single commit cannot be divided.
    scene.write("whole", noise.bytes(400_000));
    let done = scene.save(&[]).await;
    assert_eq!(done.left(), [("working tree".to_owned(), "TooLarge".to_owned())], "{done:?}");
}

/// Bytes that cannot be compressed.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, number: usize) -> Vec<u8> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_le_bytes()[3]
        };
        (0..number).map(|_| next()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_says_what_it_lacks() {
    let scene = Scene::cloned().await;
    let done = scene.clone(&[]).await;
    assert!(done.said.get("lacks").is_none(), "{done:?}");
    scene.write(".gitattributes", ATTRIBUTES);
    scene.write("model.bin", pointer(b"x"));
    scene.write(".gitmodules", "[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib.git\n");
    scene.git(&["add", "--all"]).await;
    scene.git(&["commit", "--quiet", "--message", "large"]).await;
    scene.git(&["push", "--quiet", "origin", "HEAD:main"]).await;
    std::fs::remove_dir_all(Path::new(&scene.shop())).unwrap();
    let done = scene.clone(&[]).await;
    assert_eq!(done.said["lacks"], serde_json::json!(["Submodules", "LargeFiles"]), "{done:?}");
}
