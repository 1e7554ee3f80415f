//! etcd, the API server with its audit log, and the controllers: the part that `up`, `up --api-only` and the tests share.
//!
//! etcd is reached through a socket in the cluster's own folder, so that it takes no port and nobody else talks to it.
//! The API server has to end before etcd: without etcd it hangs in its shutdown and keeps its port.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::Api;
use crate::audit;
use crate::certificates::{Authority, CertificateError, write_private};
use crate::kubeconfig;
use crate::process::{Launcher, Process};
use crate::programs::Programs;

/// How long a program may take until it serves. A warm start takes about 2 s; the machine may be doing much else.
const START_LIMIT: Duration = Duration::from_mins(4);

/// A cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates could not be made.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// A file of the cluster could not be written.
    #[error("{} could not be written: look at its folder's permissions and the free space", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("{program} could not be started")]
    Spawn {
        /// Which program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program ended while others waited for it.
    #[error("{program} ended while it was waited for; the end of its log {}:\n{tail}", log.display())]
    Ended {
        /// Which program.
        program: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A program did not get ready in time.
    #[error("{what} took more than {} s; the end of the log {}:\n{tail}", START_LIMIT.as_secs(), log.display())]
    Late {
        /// What was waited for.
        what: String,
        /// The log of the program that was waited for.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The API server refused what a new cluster begins with.
    #[error("the API server refused a request of its own cluster")]
    Request(#[source] io::Error),
    /// No port of the loopback interface could be had.
    #[error("no free port on 127.0.0.1")]
    Port(#[source] io::Error),
}

/// Where an API server listens, and what it has to know of the rest.
pub(crate) struct Serving {
    /// Listened on.
    pub(crate) bind: IpAddr,
    pub(crate) port: u16,
    /// Under which clients of the machine reach it.
    pub(crate) reach: IpAddr,
    /// Further addresses of it, for its certificate.
    pub(crate) others: Vec<IpAddr>,
    /// What only this kind of cluster passes.
    pub(crate) arguments: Vec<String>,
    /// Further programs that get a kubeconfig: each one's name, user and group.
    pub(crate) identities: Vec<(&'static str, String, Option<&'static str>)>,
    /// etcd syncs each write to disk. Nothing of a cluster for tests has to survive the machine, and a sync is most of a
    /// write's time on a laptop.
    pub(crate) durable: bool,
}

impl Serving {
    /// Under which clients of the machine reach it.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.reach, self.port))
    }
}

/// The address range of Services; its first address is the API server's own Service.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// A control plane that runs.
pub(crate) struct ControlPlane {
    pub(crate) authority: Authority,
    pub(crate) api: Api,
    /// In the order in which they were started, with our own children's handles.
    pub(crate) processes: Vec<(Process, Child)>,
}

/// The admin's kubeconfig, below the folder of its cluster.
pub(crate) fn admin_kubeconfig(folder: &Path) -> PathBuf {
    folder.join("kubeconfig")
}

/// The audit log, below the folder of its cluster.
pub(crate) fn audit_log(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

/// Starts a control plane and returns when it serves. What was started when an error is returned is recorded.
pub(crate) async fn start(
    launcher: &Launcher,
    programs: &Programs,
    serving: &Serving,
    name: &str,
) -> Result<ControlPlane, StartError> {
    let folder = &launcher.folder;
    for part in ["pki", "logs", "pids"] {
        create_folder(&folder.join(part))?;
    }
    let authority = Authority::create(&folder.join("pki"))?;
    let hosts = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let ips = [&[serving.reach, SERVICE_ADDRESS, IpAddr::V4(Ipv4Addr::LOCALHOST)], serving.others.as_slice()].concat();
    authority.write_server("kube-apiserver", &hosts, &ips)?;
    write(&folder.join("audit-policy.json"), &audit::policy())?;
    let admin = authority.client("admin", Some("system:masters"))?;
    write_kubeconfig(
        &admin_kubeconfig(folder),
        &kubeconfig::render(name, &serving.url(), &authority.certificate(), &admin),
    )?;
    authority.write_identity("kubelet-client", &authority.client("kube-apiserver", Some("system:masters"))?)?;
    let controllers = ("kube-controller-manager", "system:kube-controller-manager".to_owned(), None);
    for (program, user, group) in std::iter::once(&controllers).chain(&serving.identities) {
        let identity = authority.client(user, *group)?;
        let content = kubeconfig::render(program, &serving.url(), &authority.certificate(), &identity);
        write_kubeconfig(&component_kubeconfig(folder, program), &content)?;
    }

    let address = SocketAddr::new(serving.reach, serving.port);
    let api = Api::new(address, &authority.certificate(), &admin).map_err(StartError::Request)?;
    let mut plane = ControlPlane { authority, api, processes: Vec::new() };
    plane.start(launcher, programs, "etcd", &etcd_arguments(serving.durable))?;
    plane.start(launcher, programs, "kube-apiserver", &api_server_arguments(folder, serving))?;
    plane
        .wait(launcher, "kube-apiserver", "the API server", async |api| {
            api.get("/readyz").await.is_ok_and(|answer| answer.status == 200)
        })
        .await?;
    plane.start(launcher, programs, "kube-controller-manager", &controller_arguments(folder))?;
    // The API server refuses pods until their namespace has an account for them.
    plane
        .wait(launcher, "kube-controller-manager", "the first service account", async |api| {
            let account = api.get("/api/v1/namespaces/default/serviceaccounts/default").await;
            account.is_ok_and(|answer| answer.status == 200)
        })
        .await?;
    Ok(plane)
}

impl ControlPlane {
    /// Starts a program that belongs to the cluster.
    pub(crate) fn start(
        &mut self,
        launcher: &Launcher,
        programs: &Programs,
        name: &str,
        arguments: &[String],
    ) -> Result<(), StartError> {
        let started = launcher.start(name, &programs.path(name), arguments);
        self.processes.push(started.map_err(|source| StartError::Spawn { program: name.to_owned(), source })?);
        Ok(())
    }

    /// Waits until a condition holds that the named program brings about, as long as all programs run.
    pub(crate) async fn wait(
        &self,
        launcher: &Launcher,
        name: &str,
        what: &str,
        condition: impl AsyncFn(&Api) -> bool,
    ) -> Result<(), StartError> {
        let deadline = Instant::now() + START_LIMIT;
        while !condition(&self.api).await {
            if let Some((ended, _)) = self.processes.iter().find(|(process, _)| !process.is_running()) {
                let log = launcher.log(&ended.name);
                return Err(StartError::Ended { program: ended.name.clone(), tail: tail(&log), log });
            }
            if Instant::now() > deadline {
                let log = launcher.log(name);
                return Err(StartError::Late { what: what.to_owned(), tail: tail(&log), log });
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }
}

/// Ends what was recorded below a cluster's folder. Nothing is asked to end in order, for its state goes with it, but
/// etcd is taken from under no one: the API server ends before it. Blocks.
pub(crate) fn end(folder: &Path) {
    // A folder whose records cannot be read holds none of a process that could still run: they are written at once.
    let mut processes = Process::recorded(folder).unwrap_or_default();
    processes.sort_by_key(|process| match process.name.as_str() {
        "etcd" => 2,
        "kube-apiserver" => 1,
        _ => 0,
    });
    for process in processes {
        process.end(Duration::ZERO);
    }
}

fn etcd_arguments(durable: bool) -> Vec<String> {
    let arguments = [
        "--name=etcd",
        "--data-dir=etcd",
        "--log-level=warn",
        "--listen-client-urls=unix://etcd.sock",
        "--advertise-client-urls=unix://etcd.sock",
        "--listen-peer-urls=unix://etcd-peer.sock",
        "--initial-advertise-peer-urls=unix://etcd-peer.sock",
        "--initial-cluster=etcd=unix://etcd-peer.sock",
    ];
    // Neither is a commit of what changed due every 100 ms, where nothing is to outlive a crash.
    let unsynced: &[_] = if durable { &[] } else { &["--unsafe-no-fsync", "--backend-batch-interval=1s"] };
    arguments.iter().chain(unsynced).map(|argument| (*argument).to_owned()).collect()
}

fn api_server_arguments(folder: &Path, serving: &Serving) -> Vec<String> {
    let pki = |file: &str| folder.join("pki").join(file).display().to_string();
    let mut arguments = vec![
        "--etcd-servers=unix://etcd.sock".to_owned(),
        format!("--bind-address={}", serving.bind),
        format!("--secure-port={}", serving.port),
        format!("--tls-cert-file={}", pki("kube-apiserver.crt")),
        format!("--tls-private-key-file={}", pki("kube-apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki("kubelet-client.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", pki("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        format!("--audit-policy-file={}", folder.join("audit-policy.json").display()),
        format!("--audit-log-path={}", audit_log(folder).display()),
        // A rotated log would lose what was marked. In megabytes; 0 is the default of 100.
        "--audit-log-maxsize=1000000".to_owned(),
    ];
    arguments.extend(serving.arguments.iter().cloned());
    arguments
}

fn controller_arguments(folder: &Path) -> Vec<String> {
    let pki = |file: &str| folder.join("pki").join(file).display().to_string();
    vec![
        format!("--kubeconfig={}", component_kubeconfig(folder, "kube-controller-manager").display()),
        // Its own health is not asked for, so it takes no port.
        "--secure-port=0".to_owned(),
        "--leader-elect=false".to_owned(),
        // So that the audit log tells the garbage collector from the rest.
        "--use-service-account-credentials".to_owned(),
        // Each controller begins by making its account; at the default 20 requests per second that takes 5 s.
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        format!("--service-account-private-key-file={}", pki("service-accounts.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
    ]
}

/// The kubeconfig of a part of the cluster.
pub(crate) fn component_kubeconfig(folder: &Path, component: &str) -> PathBuf {
    folder.join("pki").join(format!("{component}.kubeconfig"))
}

pub(crate) fn write_kubeconfig(path: &Path, content: &str) -> Result<(), StartError> {
    write_private(path, content).map_err(|source| StartError::File { path: path.to_owned(), source })
}

/// Writes a configuration file; JSON is YAML.
pub(crate) fn write(path: &Path, content: &Value) -> Result<(), StartError> {
    fs::write(path, format!("{content:#}\n")).map_err(|source| StartError::File { path: path.to_owned(), source })
}

pub(crate) fn create_folder(path: &Path) -> Result<(), StartError> {
    fs::create_dir_all(path).map_err(|source| StartError::File { path: path.to_owned(), source })
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
