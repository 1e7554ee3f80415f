//! A named API server by the command line, as a person calls it: up, asked about, down, and nothing left.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use landfall_cluster::{Cache, Cluster, Name, Process};

/// Calls the command with an environment in which nobody chose a cluster.
fn call(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_landfall-cluster")).args(arguments).env_remove("KUBECONFIG").output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = call(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn processes(name: &str) -> Vec<Process> {
    let cluster = Cluster::named(&Cache::from_environment().unwrap(), name.parse::<Name>().unwrap());
    cluster.status().unwrap().processes.into_iter().map(|(process, _)| process).collect()
}

#[test]
fn two_api_servers_by_the_command_line() {
    let names = ["test-api-one", "test-api-other"];
    for name in names {
        stdout(&["down", name]);
        assert!(!call(&["status", name]).status.success(), "not up yet");
        stdout(&["up", "--api-only", name]);
    }
    let kubeconfigs = names.map(|name| PathBuf::from(stdout(&["kubeconfig", name]).trim()));
    assert_ne!(fs::read(&kubeconfigs[0]).unwrap(), fs::read(&kubeconfigs[1]).unwrap());

    // What `env` prints is enough for a shell to reach the cluster.
    let script = format!("{}\nkubectl create namespace mine", stdout(&["env", names[0]]));
    assert!(Command::new("sh").args(["-c", &script]).output().unwrap().status.success());
    let namespaces = |name| {
        let script = format!("{}\nkubectl get namespaces -o name", stdout(&["env", name]));
        String::from_utf8(Command::new("sh").args(["-c", &script]).output().unwrap().stdout).unwrap()
    };
    assert!(namespaces(names[0]).contains("namespace/mine"));
    assert!(namespaces(names[1]).contains("namespace/default"));
    assert!(!namespaces(names[1]).contains("namespace/mine"), "each has its own");

    let load = call(&["load", "/dev/null", names[0]]);
    assert!(String::from_utf8_lossy(&load.stderr).contains("has no node"), "{load:?}");
    assert!(stdout(&["logs", names[0]]).contains("kube-apiserver.log"));

    // One that lost a process is not up, and `up` makes it whole.
    let etcd = processes(names[0]).into_iter().find(|process| process.name == "etcd").unwrap();
    etcd.end(Duration::ZERO);
    assert!(!etcd.is_running());
    assert!(!call(&["status", names[0]]).status.success());
    stdout(&["up", "--api-only", names[0]]);
    stdout(&["status", names[0]]);

    for name in names {
        let processes = processes(name);
        assert_eq!(processes.len(), 3);
        stdout(&["down", name]);
        assert!(!processes.iter().any(Process::is_running), "a process is left");
        assert!(!call(&["status", name]).status.success());
        assert!(!call(&["kubeconfig", name]).status.success());
    }
    assert!(kubeconfigs.iter().all(|path| !path.parent().unwrap().exists()), "a folder is left");
}

#[test]
fn a_chosen_cluster_is_used_as_it_is() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall-cluster"));
    let output = command.arg("up").env("KUBECONFIG", "/elsewhere/kubeconfig").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("using the cluster of KUBECONFIG=/elsewhere/kubeconfig"));
}
