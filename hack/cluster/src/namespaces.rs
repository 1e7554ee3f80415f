//! The namespaces a node lives in: processes, mounts and network of its own, and one cable to the machine.
//!
//! All of a node's processes are in one pid namespace below its first process. When that one ends, the kernel ends the
//! rest, and with the last of them the mounts and the network go. So `down` leaves nothing, whatever state the node is in.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{CommandError, run};
use crate::process::{Process, log_file, only_child, pids};

/// The node's address, in the network of its namespace and nowhere else.
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The name under which the first process is recorded.
pub(crate) const FIRST: &str = "init";

/// Where the node's folder lies within its namespaces. Short, for sockets below it have at most 107 characters.
pub(crate) const INSIDE: &str = "/run/node";

/// What the first process does. `/run` is the node's own, so that containerd's state and the pods' network namespaces
/// are there and vanish with it; then it collects orphans for as long as the node lives.
const FIRST_PROCESS: &str = r#"
set -eu
mount -t tmpfs -o mode=755 run /run
mkdir /run/node
mount --bind "$1/node" /run/node
mount --bind /run/node/log /var/log
mount --make-rshared /
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
ip link add n0 type bridge
ip address add 10.99.0.1/24 dev n0
ip link set n0 up
ip route add default dev n0
: > /run/node/ready
while :; do sleep 3600 & wait; done
"#;

/// The namespaces could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The first process did not get to its end.
    #[error("the node's namespaces could not be made; see {}: {message}", log.display())]
    First {
        /// Its log.
        log: PathBuf,
        /// What it wrote.
        message: String,
    },
    /// Files or processes could not be read.
    #[error("the node's processes could not be looked at")]
    Io(#[from] io::Error),
    /// All addresses for cables are taken.
    #[error("256 nodes are up: take one down")]
    Full,
}

/// Makes the namespaces and returns the first process, recorded. `folder` has `node/log`, `logs` and `pids`.
pub(crate) fn create(folder: &Path) -> Result<Process, NamespaceError> {
    let log = log_file(folder, FIRST);
    let output = File::create(&log)?;
    let mut parent = Command::new("setsid")
        .args(["unshare", "--pid", "--mount", "--net", "--fork", "--kill-child", "--mount-proc", "--"])
        .args(["sh", "-c", FIRST_PROCESS, "sh"])
        .arg(folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    let pid = i32::try_from(parent.id()).map_err(io::Error::other)?;
    let failed = || NamespaceError::First { log: log.clone(), message: fs::read_to_string(&log).unwrap_or_default() };
    let first = Process::observe(FIRST, only_child(&mut parent, pid).map_err(|_| failed())?)?;
    first.record(folder)?;
    let deadline = Instant::now() + Duration::from_mins(1);
    while !folder.join("node/ready").exists() {
        if !first.is_running() || Instant::now() > deadline {
            return Err(failed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(first)
}

/// Lays a cable from the machine to the node and returns the node's address at its end, under which the machine reaches
/// the API server. The kernel removes the cable with the node's network.
///
/// The addresses are from 198.18.0.0/15, which no network routes (RFC 2544); the number is free if the name is.
pub(crate) fn connect(first: &Process) -> Result<IpAddr, NamespaceError> {
    let pid = first.pid.to_string();
    for number in 0..=u8::MAX {
        let cable = format!("lf{number}");
        if Path::new("/sys/class/net").join(&cable).exists() {
            continue;
        }
        let added = run(&mut ip(&["link", "add", &cable, "type", "veth", "peer", "name", "machine", "netns", &pid]));
        match added {
            // Another node took the number in between.
            Err(error) if error.message.contains("File exists") => continue,
            other => other?,
        }
        run(&mut ip(&["address", "add", &format!("198.18.{number}.0/31"), "dev", &cable]))?;
        run(&mut ip(&["link", "set", &cable, "up"]))?;
        let end = Ipv4Addr::new(198, 18, number, 1);
        run(&mut network_of(first, "ip", &["address", "add", &format!("{end}/31"), "dev", "machine"]))?;
        run(&mut network_of(first, "ip", &["link", "set", "machine", "up"]))?;
        return Ok(end.into());
    }
    Err(NamespaceError::Full)
}

/// A command in the network of a node, else as on the machine: same files, same processes.
pub(crate) fn network_of(first: &Process, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", first.pid)).arg("--").arg(program).args(arguments);
    command
}

/// A command in the network and among the mounts of a node.
pub(crate) fn mounts_of(first: &Process, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &first.pid.to_string(), "--net", "--mount", "--"]).arg(program);
    command
}

/// Ends the first process and with it all of the node, and then what others started in its network. Blocks.
pub(crate) fn end(first: &Process) -> Result<(), NamespaceError> {
    // Open, so that the number of the namespace cannot come to mean another.
    let path = format!("/proc/{}/ns/net", first.pid);
    let (Ok(_network), Ok(number)) = (File::open(&path), fs::read_link(&path)) else { return Ok(()) };
    if !first.is_running() {
        return Ok(());
    }
    first.end(Duration::ZERO);
    for pid in pids()?.filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other == number)) {
        // One that has ended meanwhile cannot be observed.
        if let Ok(guest) = Process::observe("guest", pid) {
            guest.end(Duration::from_secs(2));
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments);
    command
}
