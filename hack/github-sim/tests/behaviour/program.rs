//! The program itself.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::world::client;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_github-sim"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn serves_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let (seed, ca) = (folder.path().join("seed.yaml"), folder.path().join("ca.pem"));
    std::fs::write(&seed, "accounts: [{login: acme, type: Organization}]\n").unwrap();
    let mut running = program()
        .args(["--tls", "--tls-san", "github.test", "--base-url", "https://github.test", "--listen", "127.0.0.1:0"])
        .args(["--webhook-resolve", "receiver.test:443=127.0.0.1:1", "--webhook-resolve", "[::1]:80=[::1]:8080"])
        .arg("--seed")
        .arg(&seed)
        .arg("--ca-file")
        .arg(&ca)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("github-sim listens on ").and_then(|rest| rest.split(',').next()).unwrap();
    let client = client(&std::fs::read_to_string(&ca).unwrap());
    let request = http::Request::get(format!("https://{address}/users/acme")).header("User-Agent", "tests");
    let answer = client.request(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(line.ends_with("https://github.test/api/v3"), "{line}");
    let pid = running.id().unwrap().to_string();
    assert!(Command::new("kill").arg(pid).status().await.unwrap().success());
    assert!(running.wait().await.unwrap().success());
}

#[tokio::test]
async fn says_what_is_wrong() {
    let output = program().args(["--seed", "/nowhere/seed.yaml"]).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("the seed /nowhere/seed.yaml cannot be read"), "{said}");
    let output = program().output().await.unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--seed"));
    for wrong in ["nonsense", "receiver.test=127.0.0.1:1", "receiver.test:443=127.0.0.1"] {
        let output = program().args(["--webhook-resolve", wrong]).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("--webhook-resolve"), "{said}");
    }
    let completions = program().args(["--completions", "bash"]).output().await.unwrap();
    assert!(String::from_utf8(completions.stdout).unwrap().contains("--state-dir"));
}
