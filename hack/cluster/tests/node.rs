//! A whole cluster against the machine: it runs pods and finds them by name, and when it is down nothing of it is left.
//!
//! Takes root and about half a minute, so it runs only when asked for: `cargo test -p landfall-cluster -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use landfall_cluster::{Cache, Cluster, ClusterError, Kind, Name, Process};

fn cluster(name: &str) -> Cluster {
    Cluster::named(&Cache::from_environment().unwrap(), name.parse::<Name>().unwrap())
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut kubectl = Command::new(cluster.programs().join("kubectl"));
    kubectl.env("KUBECONFIG", cluster.kubeconfig().unwrap()).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a script writes that runs in the node's network.
fn in_node(cluster: &Cluster, script: &str) -> String {
    text(&cluster.in_network(OsStr::new("bash")).unwrap().args(["-c", script]).output().unwrap())
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    // Far more than it takes: only a failing test waits so long.
    let deadline = Instant::now() + Duration::from_mins(2);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 2 min: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks the node's DNS as a pod would, with the system's own resolver.
const RESOLVE: &str = r"unshare --mount sh -c '
mount -t tmpfs none /mnt && echo nameserver 10.99.0.1 > /mnt/resolv.conf && mount --bind /mnt/resolv.conf /etc/resolv.conf
getent ahostsv4 web.default.svc.cluster.local'";

const CONNECT: &str = "exec 3<>/dev/tcp/10.96.0.1/443 && echo connected";

/// What the machine has that a cluster could leave.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    mounts: String,
    cables: Vec<String>,
    control_groups: Vec<PathBuf>,
    namespaces: Vec<PathBuf>,
}

impl Machine {
    fn look() -> Self {
        let names = |folder: &str| -> Vec<PathBuf> {
            let entries = fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
            entries.unwrap_or_default()
        };
        let ours =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("landfall-"));
        let mut groups = names("/sys/fs/cgroup");
        groups.extend(groups.clone().iter().flat_map(|group| names(&group.display().to_string())));
        groups.retain(ours);
        let links = names("/sys/class/net").into_iter().map(|path| path.display().to_string());
        let mut namespaces: Vec<_> =
            names("/proc").iter().filter_map(|process| fs::read_link(process.join("ns/net")).ok()).collect();
        namespaces.sort();
        namespaces.dedup();
        Self {
            mounts: fs::read_to_string("/proc/mounts").unwrap(),
            cables: links.filter(|link| link.contains("/lf")).collect(),
            control_groups: groups,
            namespaces,
        }
    }
}

const POD: &str = r#"
set -eu
"$1" create deployment web --image=localhost/pause:landfall --port=80
"$1" expose deployment web --port=80
"$1" wait --for=condition=Available deployment/web --timeout=180s
"#;

#[tokio::test]
#[ignore = "takes root and half a minute"]
async fn two_are_up_side_by_side_and_leave_nothing() {
    let (one, other) = (cluster("test-one"), cluster("test-other"));
    one.down().unwrap();
    other.down().unwrap();
    let before = Machine::look();

    one.up(Kind::Node).await.unwrap();
    other.up(Kind::Node).await.unwrap();
    one.up(Kind::Node).await.unwrap();
    assert!(matches!(one.up(Kind::ApiOnly).await, Err(ClusterError::OtherKind(_))));
    for cluster in [&one, &other] {
        let nodes = text(&kubectl(cluster, &["get", "nodes", "-o", "name"]));
        assert_eq!(nodes.trim(), format!("node/{}", cluster.name()));
    }

    let mut pod = Command::new("sh");
    pod.args(["-c", POD, "sh"]).arg(one.programs().join("kubectl")).env("KUBECONFIG", one.kubeconfig().unwrap());
    let output = pod.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let address = text(&kubectl(&one, &["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]));
    eventually("the Service's name is known to DNS", || in_node(&one, RESOLVE).contains(&address));
    eventually("the API server's Service leads to it", || in_node(&one, CONNECT) == "connected\n");

    // What somebody runs in the node's network ends with it.
    let mut guest = one.in_network(OsStr::new("sleep")).unwrap().arg("600").spawn().unwrap();
    let command = format!("/proc/{}/comm", guest.id());
    eventually("the guest is inside", || fs::read_to_string(&command).is_ok_and(|name| name == "sleep\n"));
    for cluster in [&one, &other] {
        let processes: Vec<_> = cluster.status().unwrap().processes.into_iter().map(|(process, _)| process).collect();
        assert_eq!(processes.len(), 9);
        cluster.down().unwrap();
        assert!(!cluster.status().unwrap().is_up());
        eventually("no process is left", || !processes.iter().any(Process::is_running));
    }
    eventually("the guest has ended", || guest.try_wait().unwrap().is_some());
    eventually("the machine is as before", || Machine::look() == before);
}
