//! Clients that others wrote, unmodified, against the simulator: given a base URL, an authority, an App's id and its key,
//! they find what they find on GitHub. Needs what `conformance/fetch` fetches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "conformance/fetched.rs"]
mod fetched;
#[path = "behaviour/world.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod world;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use github_sim::Caller;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::fetched::{fetched, ours};
use crate::world::{APP, INSTALLATION, World, succeeded};

/// What both are seen to call, besides git.
const CALLED: &[&str] = &[
    "GET /app",
    "GET /app/installations",
    "POST /app/installations/{installation_id}/access_tokens",
    "GET /repos/{owner}/{repo}",
    "GET /repositories/{repository_id}",
    "PATCH /repos/{owner}/{repo}",
    "POST /repos/{owner}/{repo}/hooks",
    "GET /repos/{owner}/{repo}/hooks",
    "GET /repos/{owner}/{repo}/branches/{*branch}",
    "POST /repos/{owner}/{repo}/git/refs",
    "POST /repos/{owner}/{repo}/pulls",
    "GET /repos/{owner}/{repo}/pulls",
    "POST /graphql",
];
const PATIENCE: Duration = Duration::from_mins(3);

/// Runs a client in a world of its own; returns what it saw.
async fn run(world: &World, mut command: Command, api: &str) -> Value {
    let (key, ca) = (world.folder.path().join("key.pem"), world.folder.path().join("ca.pem"));
    std::fs::write(&key, world.key.private_pem()).unwrap();
    for (name, value) in [
        ("PATH", std::env::var_os("PATH").unwrap().as_os_str()),
        ("HOME", world.folder.path().as_os_str()),
        ("API_URL", OsStr::new(api)),
        ("APP_ID", OsStr::new(&APP.to_string())),
        ("APP_KEY_FILE", key.as_os_str()),
        ("NODE_EXTRA_CA_CERTS", ca.as_os_str()),
        ("REQUESTS_CA_BUNDLE", ca.as_os_str()),
        ("GIT_SSL_CAINFO", ca.as_os_str()),
        ("GIT_CONFIG_NOSYSTEM", OsStr::new("1")),
        ("GIT_TERMINAL_PROMPT", OsStr::new("0")),
    ] {
        command.env(name, value);
    }
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await.expect("it does not end");
    serde_json::from_str(&succeeded(&output.unwrap())).unwrap()
}

/// A program with nothing of this environment but what [`run`] gives it.
fn program(name: &str, script: &str) -> Command {
    let mut command = Command::new(name);
    command.arg(ours(script)).env_clear();
    command
}

/// What both see, and that the simulator knew every call and nobody else's.
fn check(world: &World, seen: &Value, agent: &str) {
    assert_eq!(seen["app"], json!({"id": APP, "slug": "landfall"}));
    assert_eq!(seen["installations"], json!([{"id": INSTALLATION, "account": "acme"}]));
    assert!(seen["token"]["length"].as_u64().unwrap() > 500, "{}", seen["token"]);
    let granted = json!({
        "contents": "write", "metadata": "read", "pull_requests": "write", "repository_hooks": "write",
    });
    assert_eq!(seen["token"]["permissions"], granted);
    let refused = json!({"status": 403, "message": "Resource not accessible by integration"});
    assert_eq!(seen["refused"], refused);
    assert_eq!(seen["repository"], json!({"byName": "acme/shop", "byId": "acme/shop"}));
    let url = format!("http://127.0.0.1:9/{}", agent.to_lowercase());
    assert_eq!(seen["hooks"], json!([{"id": seen["hook"], "url": url, "secret": "********"}]));
    let pull = json!({"number": 1, "draft": true, "pushed": true, "draftAfter": false, "open": 1});
    assert_eq!(seen["pull"], pull);

    let log = world.sim.requests();
    let unknown: Vec<String> =
        log.iter().filter(|entry| entry.unknown).map(|entry| format!("{} {}", entry.method, entry.path)).collect();
    assert!(unknown.is_empty(), "the simulator has no {unknown:?}");
    let called: BTreeSet<String> = log
        .iter()
        .filter(|entry| entry.user_agent.to_lowercase().contains(&agent.to_lowercase()))
        .map(|entry| format!("{} {}", entry.method, entry.route.clone().unwrap_or_default()))
        .collect();
    let missing: Vec<&&str> = CALLED.iter().filter(|call| !called.contains(**call)).collect();
    assert!(missing.is_empty(), "it did not call {missing:?}, but {called:?}");
    let pushed = log.iter().any(|entry| {
        entry.user_agent.starts_with("git/")
            && entry.path.ends_with("/git-receive-pack")
            && entry.caller == Caller::Installation(INSTALLATION)
    });
    assert!(pushed, "nothing was pushed");
}

/// As on api.github.com: the API is at the root.
#[tokio::test]
async fn octokit_finds_a_github() {
    let world = World::new().await;
    let mut node = program("node", "clients/octokit/main.mjs");
    node.env("PACKAGES", fetched("npm", "package-lock.json"));
    let seen = run(&world, node, world.sim.base_url()).await;
    assert_eq!(seen["reached"], json!(["acme/shop"]));
    check(&world, &seen, "octokit");
}

/// As on GitHub Enterprise Server: the API is under `/api/v3`.
#[tokio::test]
async fn pygithub_finds_a_github() {
    let world = World::new().await;
    let mut python = program("python3", "clients/pygithub/main.py");
    python.env("PYTHONPATH", fetched("python", "requirements.txt"));
    let seen = run(&world, python, &world.sim.api_url()).await;
    check(&world, &seen, "PyGithub");
}
