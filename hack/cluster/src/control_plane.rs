//! etcd, the API server with its audit log, and the controllers: the common part of `up`, `up --api-only` and the
//! tests.
//!
//! etcd listens on a socket in the cluster's own folder, so that it takes no port and nobody else can reach it. The API
//! server has to end before etcd, because without etcd its shutdown hangs and it keeps its port.

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

/// How long a program may take until it serves. A warm start takes about 2 s, but the machine may be busy.
const START_LIMIT: Duration = Duration::from_mins(4);

/// The reason why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates cannot be made.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// A file of the cluster cannot be written.
    #[error("{} could not be written: look at its folder's permissions and the free space", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A program cannot be started.
    #[error("{program} could not be started")]
    Spawn {
        program: String,
        #[source]
        source: io::Error,
    },
    /// A program ended during the start.
    #[error("{program} ended while it was waited for; the end of its log {}:\n{tail}", log.display())]
    Ended {
        program: String,
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A program was not ready in time.
    #[error("{what} took more than {} s; the end of the log {}:\n{tail}", START_LIMIT.as_secs(), log.display())]
    Late {
        /// The condition that was waited for.
        what: String,
        /// The log of that program.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The API server refused an object of a new cluster.
    #[error("the API server refused a request of its own cluster")]
    Request(#[source] io::Error),
    /// There is no free port on the loopback interface.
    #[error("no free port on 127.0.0.1")]
    Port(#[source] io::Error),
}

/// The address of an API server, and its other settings.
pub(crate) struct Serving {
    /// The address to listen on.
    pub(crate) bind: IpAddr,
    pub(crate) port: u16,
    /// The address for clients on the machine.
    pub(crate) reach: IpAddr,
    /// Further addresses in its certificate.
    pub(crate) others: Vec<IpAddr>,
    /// Further arguments for this kind of cluster.
    pub(crate) arguments: Vec<String>,
    /// Further programs that get a kubeconfig: each one's name, user and group.
    pub(crate) identities: Vec<(&'static str, String, Option<&'static str>)>,
    /// etcd syncs each write to disk. The data of a test cluster need not survive a crash of the machine, and a sync is
    /// most of a write's time on a laptop.
    pub(crate) durable: bool,
}

impl Serving {
    /// The URL for clients on the machine.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.reach, self.port))
    }
}

/// The address range of Services; its first address is the API server's own Service.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// A running control plane.
pub(crate) struct ControlPlane {
    pub(crate) authority: Authority,
    pub(crate) api: Api,
    /// The processes in the order of their start, with the handles of our own children.
    pub(crate) processes: Vec<(Process, Child)>,
}

/// The admin's kubeconfig in the folder of its cluster.
pub(crate) fn admin_kubeconfig(folder: &Path) -> PathBuf {
    folder.join("kubeconfig")
}

/// The audit log in the folder of its cluster.
pub(crate) fn audit_log(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

/// Starts a control plane and returns when it serves. Processes that were started before an error are recorded.
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
    // The API server refuses pods until their namespace has a service account for them.
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

    /// Waits, while all programs run, until a condition is true that the named program causes.
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

/// Ends the processes that are recorded in a cluster's folder, without a graceful stop, because their state is removed
/// with them. The API server ends before etcd, which it needs. Blocks.
pub(crate) fn end(folder: &Path) {
    // Records are complete, so an unreadable one does not belong to a process that could still run.
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
    // Without durability, changes need not be committed every 100 ms either.
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
        // Marks in a rotated log would be lost. In megabytes; 0 is the default of 100.
        "--audit-log-maxsize=1000000".to_owned(),
    ];
    arguments.extend(serving.arguments.iter().cloned());
    arguments
}

fn controller_arguments(folder: &Path) -> Vec<String> {
    let pki = |file: &str| folder.join("pki").join(file).display().to_string();
    vec![
        format!("--kubeconfig={}", component_kubeconfig(folder, "kube-controller-manager").display()),
        // Nobody asks for its health, so it takes no port.
        "--secure-port=0".to_owned(),
        "--leader-elect=false".to_owned(),
        // With these, the audit log distinguishes the garbage collector from the rest.
        "--use-service-account-credentials".to_owned(),
        // Each controller first creates its service account. At the default of 20 requests per second that takes 5 s.
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        format!("--service-account-private-key-file={}", pki("service-accounts.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
    ]
}

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
