//! A GitHub, a volume, a mounted token, and the programs of a workspace's pod.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::compare::{assert_same, committed, on_disk};
use github_sim::{
    AccountSeed, AccountType, AppKey, AppSeed, Install, Level, Options, RepositorySeed, Seed, Selection, Sim, Site,
};
use landfall::github::{
    AppCredentials, Connect as _, Endpoint, GitHub, HttpsConnect, Ignore, PlainHttp, Repositories, Scope, Token,
};
use landfall::runtime::clock::{Clock, ManualClock};
use serde_json::Value;

/// The workspace's name.
pub const NAME: &str = "try";
pub const UID: &str = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";
pub const BRANCH: &str = "landfall/try-0a1b2";
/// The prefix of refs for the workspace's other work.
pub const WIP: &str = "refs/heads/landfall-wip/try-0a1b2";

pub struct Scene {
    pub sim: Sim,
    github: GitHub,
    clock: Arc<ManualClock>,
    installation: u64,
    directory: tempfile::TempDir,
}

/// The result of a Landfall command.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub said: Value,
    pub words: String,
}

impl Scene {
    /// A GitHub with the repository acme/shop, and a token for it in its file.
    pub async fn new() -> Self {
        let key = AppKey::generate().unwrap();
        let permissions = [("contents".into(), Level::Write), ("metadata".into(), Level::Read)];
        let app = AppSeed {
            name: "Landfall".into(),
            owner: "acme".into(),
            id: Some(4711),
            public_key: Some(key.public_pem().into()),
            permissions: permissions.into(),
            ..AppSeed::default()
        };
        let files = [("README.md", "shop\n"), ("src/main.rs", "fn main() {}\n"), ("src/lib.rs", "pub fn f() {}\n")];
        let repository = |name: &str, empty: bool| RepositorySeed {
            owner: "acme".into(),
            name: name.into(),
            private: true,
            empty,
            files: if empty { [].into() } else { files.map(|(path, text)| (path.to_owned(), text.to_owned())).into() },
            ..RepositorySeed::default()
        };
        let account = AccountSeed { login: "acme".into(), kind: AccountType::Organization, ..AccountSeed::default() };
        let seed = Seed {
            accounts: vec![account],
            apps: vec![app],
            repositories: vec![repository("shop", false), repository("other", false), repository("blank", true)],
            ..Seed::default()
        };
        // The name has no dot, because branches are named after paths in it.
        let directory = tempfile::Builder::new().prefix("workspace-").tempdir().unwrap();
        let site = Site { state_dir: Some(directory.path().join("github")), ..Site::default() };
        let options = Options { listen: "127.0.0.1:0".parse().unwrap(), tls: true, seed };
        let sim = Sim::start_at(options, site).await.unwrap();
        let install =
            Install { app: "landfall".into(), account: "acme".into(), selection: Selection::All, permissions: None };
        let installation = sim.install(&install).unwrap();
        for name in ["volume", "scratch", "home"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("ca.pem"), sim.ca_pem()).unwrap();
        let clock = Arc::new(ManualClock::new(sim.now()));
        let endpoint = Endpoint::parse(&sim.api_url(), None, None, PlainHttp::OnLoopback).unwrap();
        let github = GitHub::new(
            endpoint,
            HttpsConnect::new().connect(Some(sim.ca_pem().as_bytes())).unwrap(),
            AppCredentials::parse("4711", key.private_pem().as_bytes(), None).unwrap(),
            Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>,
            Arc::new(Ignore),
        );
        let scene = Self { sim, github, clock, installation, directory };
        scene.renew("write").await;
        scene
    }

    /// The same, with a clone of it on the volume.
    pub async fn cloned() -> Self {
        let scene = Self::new().await;
        let done = scene.clone(&[]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        scene
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn shop(&self) -> PathBuf {
        self.at("volume/shop")
    }

    pub fn url(&self, name: &str) -> String {
        format!("{}/acme/{name}.git", self.sim.base_url())
    }

    /// The directory in which the simulator stores a repository.
    pub fn bare(&self, name: &str) -> PathBuf {
        self.at(&format!("github/repositories/{}.git", self.sim.repository_id(&format!("acme/{name}")).unwrap()))
    }

    /// Mints a token for acme/shop, and writes it into its file like a kubelet: by a rename.
    pub async fn renew(&self, contents: &str) -> Token {
        self.clock.set(self.sim.now());
        let repositories = Repositories::Names(vec!["shop".into(), "blank".into()]);
        let scope = Scope { repositories, permissions: [("contents".into(), contents.into())].into() };
        let token = self.github.mint(self.installation.try_into().unwrap(), &scope).await.unwrap().token;
        std::fs::write(self.at("token.new"), token.expose()).unwrap();
        std::fs::rename(self.at("token.new"), self.at("token")).unwrap();
        token
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.at("token")).unwrap()
    }

    fn access(&self, name: &str) -> Vec<String> {
        let path = |name: &str| self.at(name).to_str().unwrap().to_owned();
        let all = [
            ("--url", self.url(name)),
            ("--token-file", path("token")),
            ("--ca-file", path("ca.pem")),
            ("--scratch", path("scratch")),
        ];
        all.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
    }

    /// Runs Landfall's binary, with this search path for programs.
    pub async fn landfall(&self, path: Option<&Path>, arguments: Vec<String>) -> Done {
        self.landfall_without("", path, arguments).await
    }

    /// The same without these guards.
    pub async fn landfall_without(&self, guards: &str, path: Option<&Path>, arguments: Vec<String>) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
        command.arg("workspace").args(arguments).env("no_proxy", "*").env("HOME", self.at("home"));
        command.env("LANDFALL_SABOTAGE", guards);
        if let Some(path) = path {
            let all = [path.as_os_str(), &std::env::var_os("PATH").unwrap()].join(OsStr::new(":"));
            command.env("PATH", all);
        }
        let output = output(command).await;
        let said = String::from_utf8(output.stdout).unwrap();
        Done {
            code: output.status.code(),
            said: serde_json::from_str(&said).unwrap_or(Value::String(said)),
            words: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn clone_arguments(&self, name: &str, further: &[&str]) -> Vec<String> {
        let mut arguments = vec!["clone".to_owned()];
        arguments.extend(self.access(name));
        let path = |name: &str| self.at(name).to_str().unwrap().to_owned();
        arguments.extend(["--directory".to_owned(), path(&format!("volume/{name}"))]);
        arguments.extend(["--tools".to_owned(), path("tools")]);
        arguments
            .extend(["--author-name", "Mona", "--author-email", "mona@example.com", "--wait", "1"].map(str::to_owned));
        if !further.contains(&"--branch") {
            arguments.extend(["--branch", BRANCH].map(str::to_owned));
        }
        arguments.extend(further.iter().map(|&word| word.to_owned()));
        arguments
    }

    pub async fn clone(&self, further: &[&str]) -> Done {
        self.landfall(None, self.clone_arguments("shop", further)).await
    }

    pub fn save_arguments(&self, further: &[&str]) -> Vec<String> {
        let mut arguments = vec!["save".to_owned()];
        arguments.extend(self.access("shop"));
        arguments.extend(["--directory".to_owned(), self.shop().to_str().unwrap().to_owned()]);
        arguments.extend(["--name", NAME, "--uid", UID, "--branch", BRANCH].map(str::to_owned));
        arguments.extend(["--author-name", "Mona", "--author-email", "mona@example.com"].map(str::to_owned));
        arguments.extend(further.iter().map(|&word| word.to_owned()));
        arguments
    }

    pub async fn save(&self, further: &[&str]) -> Done {
        self.landfall(None, self.save_arguments(further)).await
    }

    /// Runs the person's git in a directory of the volume.
    pub async fn person(&self, directory: &Path, arguments: &[&str]) -> Output {
        let mut git = Command::new("git");
        git.current_dir(directory)
            .args(arguments)
            .env_remove("GIT_SSL_CAINFO")
            .env("no_proxy", "*")
            .env("HOME", self.at("home"))
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_EDITOR", "true")
            .env("GIT_CONFIG_SYSTEM", self.at("tools/gitconfig"));
        output(git).await
    }

    /// The same in the clone. It must succeed. Returns the output.
    pub async fn git(&self, arguments: &[&str]) -> String {
        self.git_in(&self.shop(), arguments).await
    }

    pub async fn git_in(&self, directory: &Path, arguments: &[&str]) -> String {
        let output = self.person(directory, arguments).await;
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {words}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The remote's refs.
    pub fn refs(&self) -> BTreeMap<String, String> {
        let mut git = Command::new("git");
        let output = git.arg("--git-dir").arg(self.bare("shop")).arg("show-ref").output().unwrap();
        let line = |line: &str| line.split_once(' ').map(|(sha, name)| (name.to_owned(), sha.to_owned())).unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(line).collect()
    }

    /// The parents of a commit on the remote.
    pub fn parents(&self, commit: &str) -> Vec<String> {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(self.bare("shop")).args(["log", "-1", "--format=%P", commit]);
        let said = String::from_utf8(git.output().unwrap().stdout).unwrap();
        said.split_whitespace().map(str::to_owned).collect()
    }

    /// Writes a file. An existing file is not emptied first, because an agent may be saving it.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.shop().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all(text.as_ref()).unwrap();
        file.set_len(text.as_ref().len() as u64).unwrap();
    }

    /// Makes the remote refuse pushes by a script (pre-receive of githooks(5)).
    pub fn refuse(&self, script: &str) {
        executable(&self.at("github/hooks/pre-receive"), &format!("#!/bin/sh\n{script}"));
    }
}

impl Scene {
    /// Saves twice. The second save must find nothing new. Returns the result of the first.
    pub async fn save_twice(&self) -> Done {
        let done = self.save(&[]).await;
        assert_eq!((done.outcome(), done.code), ("Saved", Some(0)), "{done:?}");
        let refs = self.refs();
        let again = self.save(&[]).await;
        assert_eq!((again.outcome(), again.code), ("NothingToDo", Some(10)), "{again:?}");
        assert_eq!(self.refs(), refs);
        done
    }

    pub fn compare(&self, name: &str) {
        assert_same(&committed(&self.bare("shop"), &self.refs()[name]), &on_disk(&self.shop()));
    }

    pub async fn commit(&self, name: &str) -> String {
        self.write(name, name);
        self.git(&["add", "--", name]).await;
        self.git(&["commit", "--quiet", "--message", name, "--", name]).await;
        self.git(&["rev-parse", "HEAD"]).await
    }
}

/// Writes a program, through another process: if this process had it open for writing, a child that another test is
/// starting would inherit that, and Linux does not run a program that is open for writing.
pub fn executable(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-D", "-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut install = install.spawn().unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
}

/// The files below a directory that contain a text.
pub fn holding(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(holding(&path, text));
        } else if path.is_file() {
            let contents = std::fs::read(&path).unwrap();
            if contents.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

/// The full name of the workspace's branch.
pub fn heads_branch() -> String {
    format!("refs/heads/{BRANCH}")
}

/// The simulator runs on these threads, so a program that talks to it is waited for on another thread.
pub async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

impl Done {
    pub fn outcome(&self) -> &str {
        self.said["outcome"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }

    /// The reported location of a piece of work.
    pub fn saved(&self, what: &str) -> Option<&Value> {
        self.said["saved"].as_array().unwrap_or_else(|| panic!("{self:?}")).iter().find(|saved| saved["what"] == what)
    }

    pub fn saved_as(&self, what: &str) -> (String, String) {
        let saved = self.saved(what).unwrap_or_else(|| panic!("{what}: {self:?}"));
        (saved["ref"].as_str().unwrap().to_owned(), saved["commit"].as_str().unwrap().to_owned())
    }

    pub fn left(&self) -> Vec<(String, String)> {
        let left = self.said["left"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        left.iter().map(|left| (text(&left["what"]), text(&left["reason"]))).collect()
    }
}
