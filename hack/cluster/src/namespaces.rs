//! The namespaces of a node: its own processes, mounts and network, and one virtual cable to the machine.
//!
//! All of a node's processes are in one pid namespace below its first process. When that ends, the kernel ends the
//! rest, and with the last of them the mounts and the network disappear. `down` therefore leaves nothing behind, in any
//! state of the node.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{CommandError, run};
use crate::process::{Process, log_file, only_child, pids};

/// The node's address, which exists only in its network namespace.
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The recorded name of the first process.
pub(crate) const FIRST: &str = "init";

/// The path of the node's folder within its namespaces. It is short, because the path of a socket may have at most 107
/// characters.
pub(crate) const INSIDE: &str = "/run/node";

/// The script of the first process. `/run` is the node's own, so that containerd's state and the pods' network
/// namespaces are there and disappear with it. Then the process reaps orphans for as long as the node lives.
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

/// The reason why the namespaces cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The first process failed.
    #[error("the node's namespaces could not be made; see {}: {message}", log.display())]
    First {
        log: PathBuf,
        /// Its output.
        message: String,
    },
    /// Files or processes cannot be read.
    #[error("the node's processes could not be looked at")]
    Io(#[from] io::Error),
    /// All addresses for cables are in use.
    #[error("256 nodes are up: take one down")]
    Full,
}

/// Makes the namespaces and returns the recorded first process. `folder` has `node/log`, `logs` and `pids`.
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

/// Makes a cable from the machine to the node. Returns the node's address at its end, under which the machine reaches
/// the API server. The kernel removes the cable with the node's network.
///
/// The addresses are from 198.18.0.0/15, which no network routes (RFC 2544). A number is free if the cable's name is.
pub(crate) fn connect(first: &Process) -> Result<IpAddr, NamespaceError> {
    let pid = first.pid.to_string();
    for number in 0..=u8::MAX {
        let cable = format!("lf{number}");
        if Path::new("/sys/class/net").join(&cable).exists() {
            continue;
        }
        let added = run(&mut ip(&["link", "add", &cable, "type", "veth", "peer", "name", "machine", "netns", &pid]));
        match added {
            // Another node took the number in the meantime.
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

/// A command in the network of a node, with the machine's files and processes.
pub(crate) fn network_of(first: &Process, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", first.pid)).arg("--").arg(program).args(arguments);
    command
}

/// A command in the network and the mounts of a node.
pub(crate) fn mounts_of(first: &Process, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &first.pid.to_string(), "--net", "--mount", "--"]).arg(program);
    command
}

/// Ends the first process and with it the whole node, and then other processes in its network. Blocks.
pub(crate) fn end(first: &Process) -> Result<(), NamespaceError> {
    // An open file keeps the number of the namespace from being reused.
    let path = format!("/proc/{}/ns/net", first.pid);
    let (Ok(_network), Ok(number)) = (File::open(&path), fs::read_link(&path)) else { return Ok(()) };
    if !first.is_running() {
        return Ok(());
    }
    first.end(Duration::ZERO);
    for pid in pids()?.filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other == number)) {
        // A process that has ended meanwhile cannot be observed.
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
