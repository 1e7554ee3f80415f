//! A token expires again and again in a shell in which a person works: the operator renews it, a kubelet writes it into
//! its file, and git's helper reads it there.

use crate::scene::{connected, is_alive, publish, sha256, token_in};
use jiff::SignedDuration;
use landfall_world::World;
use landfall_world::operator::Operator;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How many tokens expire.
const EXPIRIES: usize = 30;
/// How often a machine may stall for longer than a token lives.
const STALLS: usize = 20;

/// Records what is visible of git while it talks to GitHub: all processes that the person's shell started, with their
/// arguments and environment.
const PRE_PUSH: &str = "#!/bin/sh
walk() {
  tr '\\0' '\\n' <\"/proc/$1/cmdline\"
  tr '\\0' '\\n' <\"/proc/$1/environ\"
  for child in $(cat \"/proc/$1/task/$1/children\"); do walk \"$child\"; done
}
walk \"$SHELL_PID\" >>\"$SEEN\" 2>/dev/null
exit 0
";

/// A volume, and a shell that stays open.
struct Workspace {
    directory: tempfile::TempDir,
    _shell: Child,
    commands: ChildStdin,
    ended: Lines<BufReader<ChildStdout>>,
}

impl Workspace {
    /// Clones, like a pod's first container, and opens the shell.
    async fn new(world: &World) -> Self {
        let directory = tempfile::Builder::new().prefix("workspace-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["volume", "scratch", "home"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("ca.pem"), world.sim.ca_pem()).unwrap();
        put(&at("token"), &token_in(world, "shop-git").await.unwrap());
        let mut clone = Command::new(env!("CARGO_BIN_EXE_landfall"));
        clone.args(["workspace", "clone", "--branch", "landfall/try", "--url"]);
        clone.arg(format!("{}/acme/shop.git", world.sim.base_url()));
        clone.args(["--author-name", "Mona", "--author-email", "mona@example.com"]);
        for (option, name) in [
            ("--token-file", "token"),
            ("--ca-file", "ca.pem"),
            ("--scratch", "scratch"),
            ("--directory", "volume/shop"),
            ("--tools", "tools"),
        ] {
            clone.arg(option).arg(at(name));
        }
        let done = clone.env("no_proxy", "*").output().await.unwrap();
        assert!(done.status.success(), "{done:?}");
        let hook = at("volume/shop/.git/hooks/pre-push");
        // Another process writes it, because no child of this process may have a program open that is to run.
        let mut install = Command::new("install");
        install.args(["-D", "-m", "755", "/dev/stdin"]).arg(&hook).stdin(Stdio::piped());
        let mut install = install.spawn().unwrap();
        install.stdin.take().unwrap().write_all(PRE_PUSH.as_bytes()).await.unwrap();
        assert!(install.wait().await.unwrap().success());
        let mut shell = Command::new("sh");
        shell.current_dir(at("volume/shop")).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", at("home")).env("no_proxy", "*");
        shell.env("GIT_CONFIG_SYSTEM", at("tools/gitconfig")).env("GIT_TERMINAL_PROMPT", "0");
        shell.env("GIT_TRACE", at("trace")).env("SEEN", at("seen"));
        let mut shell = shell.spawn().unwrap();
        let commands = shell.stdin.take().unwrap();
        let ended = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut workspace = Self { directory, _shell: shell, commands, ended };
        assert!(workspace.run("export SHELL_PID=$$").await);
        workspace
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a command in the shell. Returns whether it succeeded. Its output is in the file `said`.
    async fn run(&mut self, command: &str) -> bool {
        let said = self.at("said");
        let line = format!("{{ {command}; }} >>'{}' 2>&1; echo $?\n", said.display());
        self.commands.write_all(line.as_bytes()).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_mins(2), self.ended.next_line()).await;
        ended.expect("the shell answers").unwrap().expect("the shell is open") == "0"
    }

    /// Writes the token's file, like a kubelet.
    async fn mounted(&self, world: &World) -> String {
        let token = token_in(world, "shop-git").await.unwrap();
        put(&self.at("token"), &token);
        token
    }
}

fn put(file: &Path, token: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, token).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// The operator's clock stands while GitHub's continues. They must not differ by a token's life.
fn same_time(world: &World) {
    let behind = world.sim.now().duration_since(world.now());
    if behind > SignedDuration::ZERO {
        world.clock.advance(behind);
    }
}

/// Lets time pass until the next due time, and lets the due work be done.
async fn step(world: &World, operator: &Operator) {
    same_time(world);
    operator.settled().await;
    let life = SignedDuration::from_secs(30);
    let due = operator.next_due().map_or(life, |due| due.duration_since(world.now()));
    world.advance(due.clamp(SignedDuration::ZERO, life));
    operator.settled().await;
}

#[tokio::test]
async fn thirty_expiries_go_by_a_shell_that_fetches_and_pushes() {
    let (world, operator) = connected().await;
    world.sim.set_token_life(Duration::from_secs(30));
    publish(&world, "shop", &serde_json::json!({})).await;
    let mut workspace = Workspace::new(&world).await;
    let mut used: Vec<String> = Vec::new();
    let mut stalls = 0;
    while used.len() < EXPIRIES {
        same_time(&world);
        operator.settled().await;
        let token = workspace.mounted(&world).await;
        let command = format!(
            "git commit --quiet --allow-empty -m {} && git push --quiet && git fetch --quiet && git ls-remote --quiet && git config --list --show-origin && git remote --verbose",
            used.len()
        );
        if !workspace.run(&command).await {
            // It is not the fault of the renewal if the machine stalled for as long as a token lives.
            let said = std::fs::read_to_string(workspace.at("said")).unwrap();
            assert!(!is_alive(&world, &token) && stalls < STALLS, "expiry {}: {said}", used.len());
            stalls += 1;
            continue;
        }
        let mut steps = 0;
        while is_alive(&world, &token) {
            assert!(steps < 20, "it does not expire");
            steps += 1;
            step(&world, &operator).await;
        }
        assert!(!used.contains(&token), "it was renewed");
        used.push(token);
    }
    // GitHub received everything.
    let head = world.sim.head("acme/shop", "landfall/try").unwrap();
    assert!(workspace.run(&format!("[ \"$(git rev-parse HEAD)\" = {head} ]")).await);
    operator.stop().await;

    // No token was visible, although there was much to see.
    let said = std::fs::read_to_string(workspace.at("said")).unwrap();
    let trace = std::fs::read_to_string(workspace.at("trace")).unwrap();
    let seen = std::fs::read_to_string(workspace.at("seen")).unwrap();
    assert!(said.contains("credential.https://") && said.contains("(push)"), "{said}");
    let asked = trace.lines().filter(|line| line.contains("git-credential-landfall") && line.contains(" get"));
    assert!(asked.count() >= 2 * EXPIRIES, "{trace}");
    assert!(seen.matches("remote-https").count() >= EXPIRIES && seen.contains("GIT_CONFIG_SYSTEM="), "{seen}");
    for token in used {
        // In plain form, and as in a header.
        let header =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("x-access-token:{token}"));
        for text in [&said, &trace, &seen] {
            assert!(!text.contains(&token) && !text.contains(&header), "token {}", sha256(&token));
        }
        for place in ["volume", "scratch", "home", "tools"] {
            assert_eq!(holding(&workspace.at(place), &token), Vec::<PathBuf>::new());
        }
    }
}

/// The files below a directory that contain a text.
fn holding(directory: &Path, text: &str) -> Vec<PathBuf> {
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
