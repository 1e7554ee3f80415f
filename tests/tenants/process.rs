//! The processes of Landfall, started as in their pods.

use landfall_cluster::whole_lines;
use landfall_world::{SYSTEM, until};
use serde_json::Value;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// The pod of the receiver.
pub const RECEIVER_POD: &str = "landfall-receiver-0";

/// A running process. Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    pub health: SocketAddr,
    /// The address for those whom it serves: reports or deliveries.
    pub service: SocketAddr,
}

impl Process {
    /// Starts a controller that leads, and waits until it is ready.
    pub async fn controller(folder: &Path, kubeconfig: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
        // Without a Lease, which a machine that is busy with other things may lose.
        command.args(["controller", "--no-leader-election", "--health-address=127.0.0.1:0"]);
        command.args(["--reports-address=127.0.0.1:0"]).env("POD_NAME", "landfall-0");
        Self::start(folder, "controller", kubeconfig, command, "receiving reports").await
    }

    /// Starts a receiver with the root keys in this directory, and waits until it is ready.
    pub async fn receiver(folder: &Path, kubeconfig: &str, keys: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
        command
            .args(["receiver", "--address=127.0.0.1:0", "--health-address=127.0.0.1:0", "--key-directory"])
            .arg(keys);
        command.env("POD_NAME", RECEIVER_POD);
        Self::start(folder, "receiver", kubeconfig, command, "receiving deliveries").await
    }

    async fn start(folder: &Path, name: &str, kubeconfig: &str, mut command: Command, service: &str) -> Self {
        let (config, log) = (folder.join(format!("{name}.kubeconfig")), folder.join(format!("{name}.log")));
        std::fs::write(&config, kubeconfig).expect("written");
        command.env("KUBECONFIG", config).env("POD_NAMESPACE", SYSTEM).env("NO_PROXY", "*").env("no_proxy", "*");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
        let mut child = command.kill_on_drop(true).spawn().expect("the program runs");
        let mut address = async |message: &str| {
            until(message, async || {
                assert!(child.try_wait().expect("a child").is_none(), "{name} ended: {}", last_lines(&log));
                told(&log, message)
            })
            .await
        };
        let (health, service) = (address("serving health and metrics").await, address(service).await);
        until(&format!("{name} is ready"), async || (get(health, "/readyz").await? == 200).then_some(())).await;
        Self { child, log, health, service }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        last_lines(&self.log)
    }

    /// Ends it, as a node that fails does.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("killed");
    }

    /// The most memory that it had in RAM since it started, in bytes.
    pub fn peak(&self) -> u64 {
        let pid = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak.map(|kibibytes: u64| kibibytes * 1024).expect("the kernel counts it")
    }

    /// Fails if it has ended.
    pub fn has_not_ended(&mut self) {
        let ended = self.child.try_wait().expect("a child");
        assert!(ended.is_none(), "it ended: {ended:?}: {}", last_lines(&self.log));
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().take(12).collect::<Vec<_>>().join("\n")
}

/// The address in the line of a log with this message.
fn told(log: &Path, message: &str) -> Option<SocketAddr> {
    let text = whole_lines(log).expect("the log");
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["message"] == message)?["address"].as_str()?.parse().ok()
}

/// The status of the answer to a GET. `None` if the connection is closed without one.
pub async fn get(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    // Bytes that arrived before a reset still count.
    let _ = stream.read_to_string(&mut answer).await;
    answer.split(' ').nth(1)?.parse().ok()
}
