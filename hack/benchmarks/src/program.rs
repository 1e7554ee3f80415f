//! A process of Landfall under measurement: the program that was built with this one, as a process of its own.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::Full;
use landfall_cluster::whole_lines;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::http_load::Connection;

/// How long it may take to be ready.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// How long it may take to end.
const ENDED_WITHIN: Duration = Duration::from_mins(1);
/// How often it is asked.
const ASKED_EVERY: Duration = Duration::from_millis(20);

/// There is no process to measure.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started, or watched.
    #[error("{} could not be run: build it beside landfall-bench", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended, or was never ready.
    #[error("landfall was not ready within {} s; it said: {log}", READY_WITHIN.as_secs())]
    NotReady {
        /// The end of its log.
        log: String,
    },
}

/// A running process. Killed when dropped.
pub struct Program {
    child: Child,
    pid: u32,
    address: SocketAddr,
    _folder: TempDir,
}

impl Program {
    /// Starts a receiver that limits nobody, and returns when it is ready.
    pub async fn receiver(kubeconfig: &Path, keys: &Path) -> Result<Self, ProgramError> {
        let program = std::env::current_exe().map(|own| own.with_file_name("landfall"));
        let program = program.unwrap_or_else(|_| PathBuf::from("landfall"));
        let failed = |source| ProgramError::Run { program: program.clone(), source };
        let folder = tempfile::tempdir().map_err(failed)?;
        let log = folder.path().join("log");
        let mut command = Command::new(&program);
        command.args(["receiver", "--address=127.0.0.1:0", "--health-address=127.0.0.1:0"]);
        command.args(["--target-rate=1000000", "--target-burst=1000000"]).arg("--key-directory").arg(keys);
        command.env("KUBECONFIG", kubeconfig).stdin(Stdio::null()).stderr(File::create(&log).map_err(failed)?);
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let began = Instant::now();
        while began.elapsed() < READY_WITHIN && child.try_wait().map_err(failed)?.is_none() {
            let said = whole_lines(&log).map_err(failed)?;
            let (address, health) = (told(&said, "receiving deliveries"), told(&said, "serving health and metrics"));
            if let (Some(address), Some(health), Some(pid)) = (address, health, child.id())
                && is_ready(health).await
            {
                return Ok(Self { child, pid, address, _folder: folder });
            }
            tokio::time::sleep(ASKED_EVERY).await;
        }
        let said = whole_lines(&log).unwrap_or_default();
        Err(ProgramError::NotReady { log: said.lines().last().unwrap_or_default().to_owned() })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it receives.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub async fn stop(mut self) {
        // Nothing of it is looked at any more, so it need not end in order.
        let _ = self.child.start_kill();
        let _ = tokio::time::timeout(ENDED_WITHIN, self.child.wait()).await;
    }
}

/// The address that a line of a log with this message tells.
fn told(log: &str, message: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).find_map(|line| line["address"].as_str()?.parse().ok())
}

async fn is_ready(health: SocketAddr) -> bool {
    let Ok(mut connection) = Connection::open(health).await else { return false };
    let Ok(request) = Request::get("/readyz").header("host", "landfall").body(Full::default()) else { return false };
    connection.send(request).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_the_log() {
        let log = "half a line\n{\"message\":\"starting\"}\n{\"message\":\"x\",\"address\":\"127.0.0.1:7\"}\n{\"mess";
        assert_eq!(told(log, "x"), Some("127.0.0.1:7".parse().unwrap()));
        assert_eq!((told(log, "starting"), told(log, "y")), (None, None));
    }
}
