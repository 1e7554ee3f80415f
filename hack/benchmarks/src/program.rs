//! A process under measurement: Landfall, or a reference. The programs are those that were built with this one.

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

use crate::cluster::SYSTEM;
use crate::http_load::Connection;
use crate::reference;

/// The name of the receiver's `WebhookInbox`.
pub const INBOX: &str = "receiver-bench";
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
    #[error("{} was not ready within {} s; the end of its log: {log}", program.display(), READY_WITHIN.as_secs())]
    NotReady {
        /// The program.
        program: PathBuf,
        /// The end of its log.
        log: String,
    },
    /// It ended too early.
    #[error("{} ended while it was measured; the end of its log: {log}", program.display())]
    Ended {
        /// The program.
        program: PathBuf,
        /// The end of its log.
        log: String,
    },
}

/// A running process. Killed when dropped.
pub struct Program {
    path: PathBuf,
    child: Child,
    pid: u32,
    log: PathBuf,
    _folder: TempDir,
}

impl Program {
    /// Starts a receiver that limits nobody, and returns it with its address when it is ready. Its inbox, [`INBOX`], must be
    /// there.
    pub async fn receiver(kubeconfig: &Path, keys: &Path) -> Result<(Self, SocketAddr), ProgramError> {
        let mut receiver = Self::start("landfall", |command| {
            command.args(["receiver", "--address=127.0.0.1:0", "--health-address=127.0.0.1:0"]);
            command.args(["--target-rate=1000000", "--target-burst=1000000"]).arg("--key-directory").arg(keys);
            command.env("KUBECONFIG", kubeconfig).env("POD_NAMESPACE", SYSTEM).env("POD_NAME", INBOX);
        })?;
        receiver.ready().await?;
        let address = receiver.until_told("receiving deliveries").await?;
        Ok((receiver, address))
    }

    /// Starts a controller that leads. It need not be ready yet.
    pub fn controller(kubeconfig: &Path) -> Result<Self, ProgramError> {
        Self::start("landfall", |command| {
            command.args(["controller", "--health-address=127.0.0.1:0", "--reports-address=127.0.0.1:0"]);
            command.args(["--no-leader-election", "--namespace", SYSTEM]);
            command.env("KUBECONFIG", kubeconfig).env("POD_NAME", "controller-bench");
        })
    }

    /// Starts the plain receiver, and returns it with its address.
    pub async fn plain_receiver(kubeconfig: &Path) -> Result<(Self, SocketAddr), ProgramError> {
        let mut receiver = Self::start("landfall-bench", |command| {
            command.arg("plain-receiver").arg("--kubeconfig").arg(kubeconfig);
        })?;
        let address = receiver.until_told(reference::receiver::LISTENS).await?;
        Ok((receiver, address))
    }

    /// Starts the plain tokens.
    pub fn plain_tokens(plain: &reference::tokens::Plain) -> Result<Self, ProgramError> {
        Self::start("landfall-bench", |command| {
            command.arg("plain-tokens").args(plain.to_arguments());
        })
    }

    fn start(name: &str, set_up: impl FnOnce(&mut Command)) -> Result<Self, ProgramError> {
        let program = std::env::current_exe().map(|own| own.with_file_name(name));
        let program = program.unwrap_or_else(|_| PathBuf::from(name));
        let failed = |source| ProgramError::Run { program: program.clone(), source };
        let folder = tempfile::tempdir().map_err(failed)?;
        let log = folder.path().join("log");
        let mut command = Command::new(&program);
        set_up(&mut command);
        // All servers are on this machine, whatever proxy the caller's shell names.
        for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(variable).env_remove(variable.to_lowercase());
        }
        // A reference ends with its input, if nobody is left to kill it.
        command.stdin(Stdio::piped()).stderr(File::create(&log).map_err(failed)?);
        let child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let pid = child.id().ok_or_else(|| failed(io::Error::other("it ended at once")))?;
        Ok(Self { path: program, child, pid, log, _folder: folder })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until its health address says that it is ready.
    pub async fn ready(&mut self) -> Result<(), ProgramError> {
        let health = self.until_told("serving health and metrics").await?;
        let began = Instant::now();
        while !is_ready(health).await {
            self.goes_on(began)?;
            tokio::time::sleep(ASKED_EVERY).await;
        }
        Ok(())
    }

    /// Waits for a line of its log that tells an address.
    async fn until_told(&mut self, message: &str) -> Result<SocketAddr, ProgramError> {
        let began = Instant::now();
        loop {
            if let Some(address) = told(&self.said()?, message) {
                return Ok(address);
            }
            self.goes_on(began)?;
            tokio::time::sleep(ASKED_EVERY).await;
        }
    }

    /// Whether its log has a line with this message.
    pub fn has_said(&self, message: &str) -> Result<bool, ProgramError> {
        Ok(lines(&self.said()?).any(|line| line["message"] == message))
    }

    /// An error if it has ended.
    pub fn runs(&mut self) -> Result<(), ProgramError> {
        let ended = self.child.try_wait().map_err(|source| ProgramError::Run { program: self.path.clone(), source });
        let Some(_) = ended? else { return Ok(()) };
        Err(ProgramError::Ended { program: self.path.clone(), log: self.last_line() })
    }

    fn goes_on(&mut self, began: Instant) -> Result<(), ProgramError> {
        self.runs()?;
        if began.elapsed() < READY_WITHIN {
            return Ok(());
        }
        Err(ProgramError::NotReady { program: self.path.clone(), log: self.last_line() })
    }

    fn said(&self) -> Result<String, ProgramError> {
        whole_lines(&self.log).map_err(|source| ProgramError::Run { program: self.path.clone(), source })
    }

    fn last_line(&self) -> String {
        let said = self.said().unwrap_or_default();
        said.lines().last().unwrap_or_default().to_owned()
    }

    /// Ends it.
    pub async fn stop(mut self) {
        // Nothing of it is looked at any more, so it need not end in order.
        let _ = self.child.start_kill();
        let _ = tokio::time::timeout(ENDED_WITHIN, self.child.wait()).await;
    }
}

fn lines(log: &str) -> impl Iterator<Item = Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// The address that a line of a log with this message tells.
fn told(log: &str, message: &str) -> Option<SocketAddr> {
    lines(log).filter(|line| line["message"] == message).find_map(|line| line["address"].as_str()?.parse().ok())
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
