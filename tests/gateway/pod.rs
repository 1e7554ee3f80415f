//! A workspace's pod: Landfall's commands, and the person's git with the files that they wrote.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use landfall::gateway::identity::Access;
use landfall::gateway::refs::PushRefs;
use landfall::gateway::upstream::{Right, Upstreams as _};
use landfall::reports::PodIdentity;
use serde_json::Value;

use super::scene::{BRANCH, NAME, Scene, UID, output, words};

/// The token of the pod's ServiceAccount.
pub const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJwb2QiOiJ3cy10cnktMTIzNDU2In0.c2lnbmVkLWJ5LXRoZS1hcGktc2VydmVy";
/// A proxy that nobody is.
const NO_PROXY: &str = "http://127.0.0.1:1";

/// The way of the pod's git to GitHub.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the gateway, with the token of the pod's ServiceAccount.
    Gateway,
    /// By itself, with a token of GitHub's in a file.
    Token,
}

pub struct Pod<'a> {
    pub scene: &'a Scene,
    way: Way,
    directory: PathBuf,
}

/// The result of a command of Landfall's.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub said: Value,
    pub words: String,
}

impl<'a> Pod<'a> {
    pub async fn new(scene: &'a Scene, way: Way) -> Self {
        let directory = scene.at(if way == Way::Gateway { "pod" } else { "pod-with-token" });
        for name in ["volume", "scratch", "home", "run"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
        }
        let pod = Self { scene, way, directory };
        match way {
            Way::Gateway => {
                pod.identify(TOKEN);
                pod.mount(TOKEN);
                std::fs::copy(scene.at("gateway-ca.pem"), pod.at("run/ca.crt")).unwrap();
            }
            Way::Token => {
                let upstream =
                    scene.upstreams.open(&pod.access(), Right::Write).await.unwrap_or_else(|_| panic!("mint"));
                pod.mount(upstream.token().expose());
                std::fs::write(pod.at("run/ca.crt"), scene.sim.ca_pem()).unwrap();
            }
        }
        pod
    }

    /// The same, with a clone on the volume.
    pub async fn cloned(scene: &'a Scene, way: Way) -> Self {
        let pod = Self::new(scene, way).await;
        let done = pod.clone(&[]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        pod
    }

    fn access(&self) -> Access {
        self.scene.access(NAME, UID, PushRefs::default(), vec![])
    }

    /// The API server knows a token to be this pod's.
    pub fn identify(&self, token: &str) {
        let pod = PodIdentity { namespace: "team-a".into(), name: "ws-try".into(), uid: "pod-2".into() };
        self.scene.pods.add(token, pod, self.access());
    }

    /// The kubelet writes a token.
    pub fn mount(&self, token: &str) {
        std::fs::write(self.at("run/new"), token).unwrap();
        std::fs::rename(self.at("run/new"), self.at("run/token")).unwrap();
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn shop(&self) -> PathBuf {
        self.at("volume/shop")
    }

    /// Runs a command of Landfall's.
    pub async fn landfall(&self, name: &str, further: &[&str]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
        command.args(["workspace", name, "--url", &self.scene.origin("shop")]);
        for (option, path) in [
            ("--token-file", "run/token"),
            ("--ca-file", "run/ca.crt"),
            ("--scratch", "scratch"),
            ("--directory", "volume/shop"),
        ] {
            command.arg(option).arg(self.at(path));
        }
        match self.way {
            Way::Gateway => command.args(["--gateway", &self.scene.url("shop")]).env("https_proxy", NO_PROXY),
            Way::Token => command.env("no_proxy", "*"),
        };
        command.args(["--author-name", "Mona", "--author-email", "mona@example.com"]);
        command.args(further).env("HOME", self.at("home"));
        let output = output(command).await;
        let said = String::from_utf8(output.stdout).unwrap();
        Done {
            code: output.status.code(),
            said: serde_json::from_str(&said).unwrap_or(Value::String(said)),
            words: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub async fn clone(&self, further: &[&str]) -> Done {
        let tools = self.at("tools");
        let own = ["--branch", BRANCH, "--wait", "1", "--tools", tools.to_str().unwrap()];
        self.landfall("clone", &[&own, further].concat()).await
    }

    pub async fn save(&self, branch: &str, further: &[&str]) -> Done {
        let own = ["--name", NAME, "--uid", UID, "--branch", branch];
        self.landfall("save", &[&own, further].concat()).await
    }

    /// The person's git in the clone.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut git = Command::new("git");
        let directory = if self.shop().exists() { self.shop() } else { self.at("volume") };
        git.args(arguments)
            .current_dir(directory)
            .env_remove("GIT_SSL_CAINFO")
            .env("HOME", self.at("home"))
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSH_COMMAND", "false")
            .env("GIT_CONFIG_SYSTEM", self.at("tools/gitconfig"))
            .env("LC_ALL", "C");
        match self.way {
            Way::Gateway => git.env_remove("no_proxy").env("https_proxy", NO_PROXY),
            Way::Token => git.env("no_proxy", "*"),
        };
        git
    }

    pub async fn person(&self, arguments: &[&str]) -> Output {
        output(self.command(arguments)).await
    }

    /// The same. It must succeed. Returns its output.
    pub async fn git(&self, arguments: &[&str]) -> String {
        let output = self.person(arguments).await;
        assert!(output.status.success(), "git {arguments:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The same. It must fail. Returns its words.
    pub async fn fails(&self, arguments: &[&str]) -> String {
        let output = self.person(arguments).await;
        assert!(!output.status.success(), "git {arguments:?} succeeded: {}", words(&output));
        words(&output)
    }

    /// The answer of git's credential helpers for an address.
    pub async fn filled(&self, url: &str) -> String {
        let mut git = self.command(&["credential", "fill"]);
        let question = self.at("home/question");
        std::fs::write(&question, format!("url={url}\n\n")).unwrap();
        git.stdin(std::fs::File::open(question).unwrap());
        String::from_utf8(output(git).await.stdout).unwrap()
    }

    /// Commits a file.
    pub async fn commit(&self, name: &str) -> String {
        // Each pod of a test has its own.
        std::fs::write(self.shop().join(name), format!("{name} of {}", self.directory.display())).unwrap();
        self.git(&["add", "--", name]).await;
        self.git(&["commit", "--quiet", "--message", name]).await;
        self.git(&["rev-parse", "HEAD"]).await
    }

    /// The files of the pod.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        below(&self.directory, &mut files);
        files
    }
}

fn below(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            below(&path, files);
        } else if path.is_file() {
            files.push(path);
        }
    }
}

impl Done {
    /// The saved pieces: what, ref, and why it is not on the branch.
    pub fn saved(&self) -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let saved = self.said["saved"].as_array().unwrap_or_else(|| panic!("{self:?}")).iter();
        saved.map(|it| (text(&it["what"]), text(&it["ref"]), text(&it["notOnBranch"]))).collect()
    }

    /// The reasons and messages of work that is not saved.
    pub fn left(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let left = self.said["left"].as_array().unwrap_or_else(|| panic!("{self:?}")).iter();
        left.map(|it| (text(&it["reason"]), text(&it["message"]))).collect()
    }
}

/// Withdraws the grant, or gives it again.
pub fn withdraw(scene: &Scene, is_withdrawn: bool) {
    Arc::clone(&scene.upstreams).withdrawn.store(is_withdrawn, std::sync::atomic::Ordering::SeqCst);
}
