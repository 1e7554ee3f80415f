//! An API server within a test: real, its own, and gone with the test.
//!
//! Its processes are killed by the kernel when the test's process ends, however it ends; what a killed test leaves on
//! disk is removed by the next one. Without that, every interrupted run would leave three servers behind.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;

use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::audit::AuditLog;
use crate::cache::{Cache, NoCache};
use crate::certificates::{Authority, CertificateError};
use crate::control_plane::{self, Serving, StartError};
use crate::kubeconfig;
use crate::process::{Launcher, Process, Tie, log_file};
use crate::programs::{ProgramError, Programs};
use crate::tools::{self, MissingTools};

/// How an API server is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further arguments of kube-apiserver.
    pub api_server_arguments: Vec<String>,
    /// etcd syncs each write to disk before it answers, as it does in a real cluster: for benchmarks.
    pub durable: bool,
}

/// An API server could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// There is no place for its state.
    #[error(transparent)]
    Cache(#[from] NoCache),
    /// The machine lacks tools.
    #[error(transparent)]
    Tools(#[from] MissingTools),
    /// Its programs could not be had.
    #[error(transparent)]
    Programs(#[from] ProgramError),
    /// Its folder could not be made.
    #[error("no folder for the state of an API server could be made in {}", folder.display())]
    Folder {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A running API server with etcd and controllers; stopped when dropped.
pub struct ApiServer {
    authority: Authority,
    url: String,
    children: Vec<Child>,
    folder: TempDir,
    /// Keeps the port ours; none listens on it.
    _port: TcpSocket,
}

impl ApiServer {
    /// Starts one on a free port of the loopback interface and returns when it is ready. The first call on a machine
    /// builds the programs, which takes minutes and is shown on standard error.
    pub async fn start(options: Options) -> Result<Self, ApiServerError> {
        let cache = Cache::from_environment()?;
        tools::require(&tools::API)?;
        let programs = Programs::api(&cache)?;
        let parent = cache.run().join("tests");
        let in_parent = |source| ApiServerError::Folder { folder: parent.clone(), source };
        fs::create_dir_all(&parent).map_err(in_parent)?;
        remove_abandoned(&parent).map_err(in_parent)?;
        let folder = tempfile::Builder::new().prefix("api-").tempdir_in(&parent).map_err(in_parent)?;
        claim(folder.path()).map_err(in_parent)?;

        let launcher = Launcher { tie: Tie::Tied, folder: folder.path().to_owned() };
        let (port, held) = hold_port().map_err(StartError::Port)?;
        let mut serving = loopback(port, options.api_server_arguments);
        serving.durable = options.durable;
        let started = control_plane::start(&launcher, &programs, &serving, "test").await;
        let plane = started.inspect_err(|_| control_plane::end(folder.path()))?;
        Ok(Self {
            authority: plane.authority,
            url: serving.url(),
            children: plane.processes.into_iter().map(|(_, child)| child).collect(),
            folder,
            _port: held,
        })
    }

    /// The kubeconfig of an admin.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        control_plane::admin_kubeconfig(self.folder.path())
    }

    /// The content of a kubeconfig for a user of any name, who may what RBAC grants them: also for a service account,
    /// `system:serviceaccount:NAMESPACE:NAME`, whether or not it exists.
    pub fn kubeconfig_of(&self, user: &str, group: Option<&str>) -> Result<String, CertificateError> {
        let identity = self.authority.client(user, group)?;
        Ok(kubeconfig::render("test", &self.url, &self.authority.certificate(), &identity))
    }

    /// What it was asked.
    #[must_use]
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::at(&control_plane::audit_log(self.folder.path()))
    }

    /// What its programs wrote; the file is gone with the server.
    #[must_use]
    pub fn log(&self, program: &str) -> PathBuf {
        log_file(self.folder.path(), program)
    }

    /// The ids of its processes, in the order in which they were started.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Ends it and removes its state. Dropping does the same, and holds up the thread for it.
    pub async fn stop(self) {
        // The task only panics if dropping does, and then the test should see it.
        if let Err(error) = tokio::task::spawn_blocking(move || drop(self)).await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        control_plane::end(self.folder.path());
        for child in &mut self.children {
            // It has ended; this only lets the kernel forget it.
            let _ = child.wait();
        }
    }
}

/// An API server that only this machine reaches.
pub(crate) fn loopback(port: u16, mut arguments: Vec<String>) -> Serving {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    // Others may share the port that we hold; the Service `kubernetes` cannot have a loopback address as its endpoint.
    let own = ["--permit-port-sharing", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"];
    arguments.splice(0..0, own.map(str::to_owned));
    Serving {
        bind: address,
        port,
        reach: address,
        others: Vec::new(),
        arguments,
        identities: Vec::new(),
        durable: false,
    }
}

/// A free port, and the socket that keeps it free: bound with `SO_REUSEPORT` and never listening, it lets the API
/// server have the port and nobody else, so that two servers which start at once cannot be given the same.
pub(crate) fn hold_port() -> io::Result<(u16, TcpSocket)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok((socket.local_addr()?.port(), socket))
}

const OWNER: &str = "owner.json";

/// Says whose a folder is.
fn claim(folder: &Path) -> io::Result<()> {
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    fs::write(folder.join(OWNER), serde_json::to_vec(&Process::observe("test", pid)?)?)
}

/// Removes the folders of those who have ended without doing so.
fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let folder = entry?.path();
        // One without an owner is being made, or being removed by another.
        let Ok(owner) = fs::read(folder.join(OWNER)) else { continue };
        if serde_json::from_slice::<Process>(&owner).is_ok_and(|owner| !owner.is_running()) {
            control_plane::end(&folder);
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
