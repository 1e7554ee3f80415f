//! A test's API server against the real programs: it serves, its audit log counts, and nothing of it stays.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use landfall_cluster::{ApiServer, Cache, Entry, Options};

fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> std::process::Output {
    let kubectl = landfall_cluster::kubectl(&Cache::from_environment().unwrap()).unwrap();
    Command::new(kubectl).arg("--kubeconfig").arg(kubeconfig).args(arguments).output().unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    // Far more than it takes: only a failing test waits so long.
    let deadline = Instant::now() + Duration::from_mins(2);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 2 min: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process of this id runs that was started for the tests of this crate.
fn is_ours_and_runs(pid: u32, folder: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
}

fn writes(entries: &[Entry]) -> Vec<(&str, &str, &str, u16)> {
    let ours = entries.iter().filter(|entry| entry.is_write() && entry.user == "admin");
    ours.map(|entry| (entry.verb.as_str(), entry.resource.as_str(), entry.name.as_str(), entry.code)).collect()
}

#[tokio::test]
async fn it_serves_counts_and_leaves_nothing() {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let folder = server.kubeconfig().parent().unwrap().to_owned();
    let log = server.audit_log();

    let mark = log.mark().unwrap();
    let secret = ["create", "secret", "generic", "hidden", "--from-literal=password=in-nobodys-log"];
    assert!(kubectl(&server.kubeconfig(), &secret).status.success());
    assert!(!kubectl(&server.kubeconfig(), &secret).status.success(), "it exists");
    assert!(kubectl(&server.kubeconfig(), &["get", "secret", "hidden"]).status.success());
    eventually("three requests are recorded", || {
        let entries = log.since(mark).unwrap();
        entries.iter().filter(|entry| entry.resource == "secrets" && entry.user == "admin").count() >= 3
    });
    let entries = log.since(mark).unwrap();
    assert_eq!(writes(&entries), [("create", "secrets", "hidden", 201), ("create", "secrets", "hidden", 409)]);
    assert!(entries.iter().any(|entry| entry.verb == "get" && entry.name == "hidden" && !entry.is_write()));
    let recorded = fs::read_to_string(folder.join("audit.log")).unwrap();
    assert!(!recorded.contains("in-nobodys-log") && !recorded.contains("aW4tbm9ib2R5cy1sb2c"));

    // The controllers run: a namespace gets its service account, and goes when it is deleted.
    assert!(kubectl(&server.kubeconfig(), &["create", "namespace", "team"]).status.success());
    eventually("the namespace has its service account", || {
        kubectl(&server.kubeconfig(), &["-n", "team", "get", "serviceaccount", "default"]).status.success()
    });
    assert!(kubectl(&server.kubeconfig(), &["delete", "namespace", "team", "--timeout=120s"]).status.success());

    let pids = server.pids();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| is_ours_and_runs(*pid, &folder)));
    server.stop().await;
    assert!(!pids.iter().any(|pid| is_ours_and_runs(*pid, &folder)), "stopped, and a process is left");
    assert!(!folder.exists(), "stopped, and its folder is left");
}

#[tokio::test]
async fn a_user_may_what_rbac_grants() {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let kubeconfig = tempfile::NamedTempFile::new().unwrap();
    let user = "system:serviceaccount:default:narrow";
    fs::write(kubeconfig.path(), server.kubeconfig_of(user, Some("system:serviceaccounts")).unwrap()).unwrap();
    let mark = server.audit_log().mark().unwrap();
    assert!(!kubectl(kubeconfig.path(), &["get", "configmaps"]).status.success());
    let role = ["create", "role", "narrow", "--verb=get,list", "--resource=configmaps"];
    assert!(kubectl(&server.kubeconfig(), &role).status.success());
    let binding = ["create", "rolebinding", "narrow", "--role=narrow", "--serviceaccount=default:narrow"];
    assert!(kubectl(&server.kubeconfig(), &binding).status.success());
    eventually("the grant counts", || kubectl(kubeconfig.path(), &["get", "configmaps"]).status.success());
    let codes = || -> Vec<u16> {
        let entries = server.audit_log().since(mark).unwrap();
        entries.iter().filter(|entry| entry.user == user && entry.verb == "list").map(|entry| entry.code).collect()
    };
    eventually("the list is recorded", || codes().last() == Some(&200));
    assert_eq!(codes()[0], 403);
}

/// Set in the process that [`what_a_killed_test_leaves_is_ended_and_removed`] starts and kills.
const TO_BE_KILLED: &str = "LANDFALL_CLUSTER_TO_BE_KILLED";

/// No test by itself.
#[tokio::test]
async fn start_and_wait_to_be_killed() {
    if std::env::var_os(TO_BE_KILLED).is_none() {
        return;
    }
    let server = ApiServer::start(Options::default()).await.unwrap();
    println!("folder {}", server.kubeconfig().parent().unwrap().display());
    println!("pids {}", server.pids().iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_a_killed_test_leaves_is_ended_and_removed() {
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "start_and_wait_to_be_killed", "--nocapture"])
        .env(TO_BE_KILLED, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut value = |key: &str| lines.find_map(|line| line.split_once(key).map(|(_, value)| value.to_owned())).unwrap();
    let folder = PathBuf::from(value("folder "));
    let pids: Vec<u32> = value("pids ").split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(folder.starts_with(Cache::from_environment().unwrap().run()));
    assert!(pids.iter().all(|pid| is_ours_and_runs(*pid, &folder)) && folder.exists());

    test.kill().unwrap();
    test.wait().unwrap();
    eventually("its processes ended with it", || !pids.iter().any(|pid| is_ours_and_runs(*pid, &folder)));
    // By this one, or by that of another test which started meanwhile.
    ApiServer::start(Options::default()).await.unwrap().stop().await;
    assert!(!folder.exists(), "the next one removes what it left");
}
