//! An API server within a test: a real one for the test alone, which ends with the test.
//!
//! The kernel kills its processes when the test's process ends for any reason. The next test removes the files that a
//! killed test leaves on disk. Without that, every interrupted run would leave three servers behind.

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

/// The options of an API server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further arguments of kube-apiserver.
    pub api_server_arguments: Vec<String>,
    /// etcd syncs each write to disk before it answers, as in a real cluster. This is for benchmarks.
    pub durable: bool,
}

/// The reason why there is no API server.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// There is no directory for its state.
    #[error(transparent)]
    Cache(#[from] NoCache),
    /// The machine lacks tools.
    #[error(transparent)]
    Tools(#[from] MissingTools),
    /// Its programs cannot be found or built.
    #[error(transparent)]
    Programs(#[from] ProgramError),
    /// Its folder cannot be created.
    #[error("no folder for the state of an API server could be made in {}", folder.display())]
    Folder {
        folder: PathBuf,
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
    /// Keeps the port reserved. Nothing listens on it.
    _port: TcpSocket,
}

impl ApiServer {
    /// Starts an API server on a free port of the loopback interface, and returns when it is ready. The first call on a
    /// machine builds the programs, which takes minutes, with progress on standard error.
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

    /// The content of a kubeconfig for a user of any name, with the permissions that RBAC grants them. A service
    /// account, `system:serviceaccount:NAMESPACE:NAME`, need not exist.
    pub fn kubeconfig_of(&self, user: &str, group: Option<&str>) -> Result<String, CertificateError> {
        let identity = self.authority.client(user, group)?;
        Ok(kubeconfig::render("test", &self.url, &self.authority.certificate(), &identity))
    }

    /// The requests to it.
    #[must_use]
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::at(&control_plane::audit_log(self.folder.path()))
    }

    /// The output of one of its programs. The file is removed with the server.
    #[must_use]
    pub fn log(&self, program: &str) -> PathBuf {
        log_file(self.folder.path(), program)
    }

    /// The ids of its processes, in the order in which they were started.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Stops it and removes its state. Dropping does the same, and blocks the thread meanwhile.
    pub async fn stop(self) {
        // The task panics only if dropping does, and then the test should see the panic.
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
            // It has ended. This only reaps it.
            let _ = child.wait();
        }
    }
}

/// An API server that only this machine reaches.
pub(crate) fn loopback(port: u16, mut arguments: Vec<String>) -> Serving {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    // Others may share the reserved port. The Service `kubernetes` cannot have a loopback address as its endpoint.
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

/// A free port, and the socket that reserves it. The socket is bound with `SO_REUSEPORT` and never listens, so only the
/// API server can use the port, and two servers that start at the same time cannot get the same one.
pub(crate) fn hold_port() -> io::Result<(u16, TcpSocket)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    Ok((socket.local_addr()?.port(), socket))
}

const OWNER: &str = "owner.json";

/// Records the process that owns a folder.
fn claim(folder: &Path) -> io::Result<()> {
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    fs::write(folder.join(OWNER), serde_json::to_vec(&Process::observe("test", pid)?)?)
}

/// Removes the folders of processes that ended without doing so.
fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let folder = entry?.path();
        // A folder without an owner is being created, or removed by another process.
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
