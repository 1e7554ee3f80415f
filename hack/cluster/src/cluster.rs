//! Clusters that have a name and outlive the command that started them.
//!
//! A cluster is its folder: its kind, the record of each process, logs and keys. `down` ends the recorded processes and
//! removes the folder last, so that after an interrupted command the next one finds the rest.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api_server::{hold_port, loopback};
use crate::audit::AuditLog;
use crate::cache::Cache;
use crate::control_plane::{self, StartError};
use crate::growing::write_whole;
use crate::namespaces;
use crate::node::{self, NodeError};
use crate::process::{Launcher, Process, Tie, log_file};
use crate::programs::{ProgramError, Programs};
use crate::tools::{self, MissingTools};

/// The name of a cluster: a DNS label of at most 30 characters, because the node has it, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

/// A name that is not allowed.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} names no cluster: take at most 30 small letters, digits and hyphens, a letter first and no hyphen last")]
pub struct InvalidName(String);

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = name.len() <= 30
            && name.bytes().all(allowed)
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('-');
        if valid { Ok(Self(name.to_owned())) } else { Err(InvalidName(name.to_owned())) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The parts of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// etcd, the API server and the controllers.
    ApiOnly,
    /// Those and a node that runs pods.
    Node,
}

/// The reason why a command about a cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The machine lacks tools.
    #[error(transparent)]
    Tools(#[from] MissingTools),
    /// Its programs cannot be found or built.
    #[error(transparent)]
    Programs(#[from] ProgramError),
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its node did not start, or a command in it failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// There is no cluster of this name.
    #[error("no cluster {0} is up: `cargo cluster up {0}` starts it, `cargo cluster status` lists those that are")]
    NotUp(Name),
    /// The command needs a node.
    #[error("cluster {0} has no node: `cargo cluster down {0}`, then `cargo cluster up {0}` without --api-only")]
    NoNode(Name),
    /// It has no such program.
    #[error("cluster {cluster} has no program {program}: `cargo cluster status {cluster}` lists those it has")]
    NoProgram {
        cluster: Name,
        /// The requested program.
        program: String,
    },
    /// A program cannot be started again.
    #[error("{program} of cluster {cluster} could not be started again")]
    Restart {
        cluster: Name,
        program: String,
        #[source]
        source: io::Error,
    },
    /// It is up as another kind.
    #[error("cluster {0} is up in another form: `cargo cluster down {0}` first, or take another name")]
    OtherKind(Name),
    /// A file of the cluster cannot be used.
    #[error("{} of cluster {name} could not be used", path.display())]
    File {
        name: Name,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The stored kind of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    kind: Kind,
}

/// The status of a cluster.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its kind. `None` if it was never completely up.
    pub kind: Option<Kind>,
    /// Its processes, and whether each is running.
    pub processes: Vec<(Process, bool)>,
}

impl Status {
    /// Whether it is completely up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.kind.is_some() && self.processes.iter().all(|(_, runs)| *runs)
    }
}

/// A named cluster, whether it is up or not.
#[derive(Debug, Clone)]
pub struct Cluster {
    name: Name,
    folder: PathBuf,
    cache: Cache,
}

impl Cluster {
    /// The cluster with this name.
    #[must_use]
    pub fn named(cache: &Cache, name: Name) -> Self {
        Self { folder: parent(cache).join(&name.0), name, cache: cache.clone() }
    }

    /// All clusters with a folder: those that are up, and the remains of others.
    pub fn all(cache: &Cache) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(parent(cache)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names: Vec<Name> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        Ok(names.into_iter().map(|name| Self::named(cache, name)).collect())
    }

    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Starts it and returns when it is ready. A running cluster is left unchanged; the remains of a broken one are
    /// taken down first.
    pub async fn up(&self, kind: Kind) -> Result<(), ClusterError> {
        let _lock = self.lock()?;
        let status = self.status()?;
        if status.is_up() {
            return if status.kind == Some(kind) { Ok(()) } else { Err(ClusterError::OtherKind(self.name.clone())) };
        }
        self.remove()?;
        fs::create_dir_all(&self.folder).map_err(self.in_file(&self.folder))?;
        let started = match kind {
            Kind::ApiOnly => self.start_api_server().await,
            Kind::Node => node::start(&self.cache, &self.name.0, &self.folder).await.map_err(Into::into),
        };
        // The logs show the cause. The processes are ended, and the folder stays until the next `up` or `down`.
        if let Err(error) = started {
            self.end()?;
            return Err(error);
        }
        let record = self.folder.join(RECORD);
        let content = serde_json::to_vec(&Record { kind }).map_err(io::Error::other);
        content.and_then(|content| write_whole(&record, &content)).map_err(self.in_file(&record))
    }

    async fn start_api_server(&self) -> Result<(), ClusterError> {
        tools::require(&tools::API)?;
        let programs = Programs::api(&self.cache)?;
        let launcher = Launcher { tie: Tie::Detached, folder: self.folder.clone() };
        // The reserved port is released after the server has it.
        let (port, _held) = hold_port().map_err(StartError::Port)?;
        control_plane::start(&launcher, &programs, &loopback(port, Vec::new()), &self.name.0).await?;
        let folder = self.programs();
        programs.with_kubectl(&self.cache)?.link_into(&folder).map_err(self.in_file(&folder))
    }

    /// Ends its processes and removes all its files.
    pub fn down(&self) -> Result<(), ClusterError> {
        let _lock = self.lock()?;
        self.remove()
    }

    fn remove(&self) -> Result<(), ClusterError> {
        self.end()?;
        node::remove_remains(&self.name.0)?;
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.in_file(&self.folder)(error)),
            _ => Ok(()),
        }
    }

    /// Ends its processes. On a node, the end of the first process ends the rest.
    fn end(&self) -> Result<(), ClusterError> {
        if let Some(first) = node::first(&self.folder).map_err(self.in_file(&self.folder))? {
            namespaces::end(&first).map_err(NodeError::from)?;
        }
        control_plane::end(&self.folder);
        Ok(())
    }

    pub fn status(&self) -> Result<Status, ClusterError> {
        let processes = Process::recorded(&self.folder).map_err(self.in_file(&self.folder.join("pids")))?;
        let kind =
            fs::read(self.folder.join(RECORD)).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let mut processes: Vec<_> = processes.into_iter().map(|process| (process.is_running(), process)).collect();
        processes.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        let processes = processes.into_iter().map(|(runs, process)| (process, runs)).collect();
        Ok(Status { kind: kind.map(|record| record.kind), processes })
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> Result<PathBuf, ClusterError> {
        self.require_up()?;
        Ok(control_plane::admin_kubeconfig(&self.folder))
    }

    /// The requests to its API server.
    #[must_use]
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::at(&control_plane::audit_log(&self.folder))
    }

    /// The folder that contains its programs under their own names, including kubectl.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The folder, on this machine, of one of the volumes for claims.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        node::volume(&self.folder, name)
    }

    /// Imports the image in an OCI tar into the node.
    pub fn load(&self, image: &Path) -> Result<(), ClusterError> {
        Ok(node::import(&self.first()?, &self.programs().join("ctr"), image)?)
    }

    /// A command in the network of the node. Its files and processes are the machine's.
    pub fn in_network(&self, program: &OsStr) -> Result<Command, ClusterError> {
        let mut command = namespaces::network_of(&self.first()?, program, &[]);
        command.env("KUBECONFIG", self.kubeconfig()?);
        Ok(command)
    }

    /// A command in the network and the mounts of the node, which include containerd's socket.
    pub fn among_mounts(&self, program: &Path) -> Result<Command, ClusterError> {
        Ok(namespaces::mounts_of(&self.first()?, program))
    }

    /// Kills one of its programs, like the kernel when memory runs out. The cluster then counts as not up, but the rest
    /// runs. Blocks until the program is gone.
    pub fn kill(&self, program: &str) -> Result<(), ClusterError> {
        self.program(program)?.end(Duration::ZERO);
        Ok(())
    }

    /// Kills one of its programs if it runs, and starts it again with the same command. Returns when it is started and
    /// containerd answers, because a kubelet that starts before that exits. Blocks.
    pub fn restart(&self, program: &str) -> Result<(), ClusterError> {
        let process = self.program(program)?;
        process.end(Duration::ZERO);
        let first = node::first(&self.folder).map_err(self.in_file(&self.folder))?;
        let tie = first.map_or(Tie::Detached, |first| Tie::Inside(first.pid));
        let launcher = Launcher { tie, folder: self.folder.clone() };
        let failed = |source| ClusterError::Restart { cluster: self.name.clone(), program: program.to_owned(), source };
        let (command, arguments) = process.command().ok_or_else(|| self.no_program(program))?;
        let (_, mut child) = launcher.start(program, command, arguments).map_err(failed)?;
        // This process started it, so it reaps it if it ends first.
        std::thread::spawn(move || child.wait());
        match &launcher.tie {
            Tie::Inside(first) if program == "containerd" => node::answers(*first).map_err(failed),
            _ => Ok(()),
        }
    }

    fn program(&self, program: &str) -> Result<Process, ClusterError> {
        let processes = Process::recorded(&self.folder).map_err(self.in_file(&self.folder.join("pids")))?;
        let found = processes.into_iter().find(|process| process.name == program && process.command().is_some());
        found.ok_or_else(|| self.no_program(program))
    }

    fn no_program(&self, program: &str) -> ClusterError {
        ClusterError::NoProgram { cluster: self.name.clone(), program: program.to_owned() }
    }

    fn first(&self) -> Result<Process, ClusterError> {
        self.require_up()?;
        let first = node::first(&self.folder).map_err(self.in_file(&self.folder))?;
        first.ok_or_else(|| ClusterError::NoNode(self.name.clone()))
    }

    /// The logs of its programs.
    pub fn logs(&self) -> Result<Vec<PathBuf>, ClusterError> {
        let folder = self.folder.join("logs");
        let entries = fs::read_dir(&folder).map_err(|_| ClusterError::NotUp(self.name.clone()))?;
        let mut logs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        logs.sort();
        Ok(logs)
    }

    #[must_use]
    pub fn log(&self, program: &str) -> PathBuf {
        log_file(&self.folder, program)
    }

    fn require_up(&self) -> Result<Kind, ClusterError> {
        let status = self.status()?;
        status.kind.filter(|_| status.is_up()).ok_or_else(|| ClusterError::NotUp(self.name.clone()))
    }

    /// Held while the cluster changes, so that two commands do not start the same one.
    fn lock(&self) -> Result<File, ClusterError> {
        let parent = parent(&self.cache);
        fs::create_dir_all(&parent).map_err(self.in_file(&parent))?;
        let path = parent.join(format!(".{}.lock", self.name));
        let file = File::create(&path).map_err(self.in_file(&path))?;
        file.lock().map_err(self.in_file(&path))?;
        Ok(file)
    }

    fn in_file(&self, path: &Path) -> impl Fn(io::Error) -> ClusterError + use<> {
        let (name, path) = (self.name.clone(), path.to_owned());
        move |source| ClusterError::File { name: name.clone(), path: path.clone(), source }
    }
}

const RECORD: &str = "cluster.json";

fn parent(cache: &Cache) -> PathBuf {
    cache.run().join("clusters")
}
