//! An operator within the test process, on a runtime of its own, so that it can be stopped as by SIGTERM and as by
//! SIGKILL.

use super::cluster::Cluster;
use super::{SYSTEM, until};
use jiff::Timestamp;
use landfall::features::Features;
use landfall::git::{AllowedHosts, Reach};
use landfall::github::{Connect, HttpsConnect, PlainHttp};
use landfall::guards::{Guards, Sabotage};
use landfall::operator::{Activity, Config, Controller, Environment};
use landfall::runtime::clock::ManualClock;
use landfall::runtime::jitter::FixedJitter;
use landfall::runtime::lease::{self, LeaseTimes};
use landfall::settings::{InternalSettings, WorkspaceSettings};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The options for the start of an operator.
pub struct Start {
    /// Its name among several.
    pub identity: String,
    /// Makes the client for Kubernetes.
    pub kube: Box<dyn Fn(kube::Config) -> kube::Client + Send + Sync>,
    /// Makes the transport to GitHub.
    pub github: Arc<dyn Connect>,
    /// Whether it uses a Lease.
    pub elects: bool,
    /// The destination of its log. `None`: no log.
    pub log: Option<tracing::Dispatch>,
    /// The kinds that it serves.
    pub features: Features,
    /// The namespaces in which it may use Secrets.
    pub secret_namespaces: Vec<String>,
    /// The hosts whose repositories may be followed by their address alone.
    pub git_hosts: AllowedHosts,
    pub workspaces: WorkspaceSettings,
    /// The API by which the gateway asks it. None: with the chart's names.
    pub internal: Option<InternalSettings>,
    /// Where it answers the gateway. None: at a free port.
    pub internal_address: Option<SocketAddr>,
    /// The guards to remove.
    pub sabotage: Sabotage,
}

/// The system's certificates are read once. An operator in a test needs none of them.
pub static HTTPS: LazyLock<Arc<HttpsConnect>> = LazyLock::new(Arc::default);

impl Default for Start {
    fn default() -> Self {
        Self {
            identity: "test-operator".into(),
            kube: Box::new(|config| kube::Client::try_from(config).expect("a client")),
            github: HTTPS.clone(),
            elects: false,
            log: None,
            features: Features::default(),
            secret_namespaces: Vec::new(),
            git_hosts: AllowedHosts::parse::<&str>(&[], Reach::Public).expect("no host"),
            workspaces: WorkspaceSettings::default(),
            internal: None,
            internal_address: None,
            sabotage: Sabotage::default(),
        }
    }
}

/// A running operator. Dropped, it is killed.
pub struct Operator {
    runtime: Option<Runtime>,
    running: JoinHandle<Result<(), landfall::operator::Error>>,
    shutdown: CancellationToken,
    activity: Activity,
    health: SocketAddr,
    reports: Option<SocketAddr>,
    internal: Option<SocketAddr>,
    admin: kube::Client,
}

impl Operator {
    pub(super) async fn start(cluster: &'static Cluster, clock: Arc<ManualClock>, start: Start) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        if let Some(log) = start.log.clone() {
            // Each thread of the operator logs there for as long as it lives.
            runtime.on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&log)));
        }
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let started = runtime.spawn(async move {
            // As on the command line. With shorter times, a machine that stalls for a moment would lose the Lease.
            let times = LeaseTimes::default();
            let base = cluster.operator();
            let lease = start.elects.then(|| (lease::client(base.clone(), times).expect("a client"), times));
            let config = Config {
                namespace: SYSTEM.into(),
                identity: start.identity,
                health_address: "127.0.0.1:0".parse().expect("an address"),
                features: start.features,
                secret_namespaces: start.secret_namespaces,
                plain_http: PlainHttp::OnLoopback,
                git_hosts: start.git_hosts,
                workspaces: start.workspaces,
                reports_address: "127.0.0.1:0".parse().expect("an address"),
                internal: start.internal.unwrap_or_else(|| InternalSettings::of(SYSTEM)),
                internal_address: start.internal_address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()),
            };
            let environment = Environment {
                kube: (start.kube)(base),
                lease,
                clock,
                jitter: Arc::new(FixedJitter(0.5)),
                github: start.github,
                shutdown: token,
                guards: Guards::without(start.sabotage),
            };
            Controller::start(config, environment).await.expect("an operator")
        });
        let controller = started.await.expect("an operator");
        let (activity, health) = (controller.activity(), controller.health_address());
        let (reports, internal) = (controller.reports_address(), controller.internal_address());
        let running = runtime.spawn(controller.run());
        Self { runtime: Some(runtime), running, shutdown, activity, health, reports, internal, admin: cluster.admin() }
    }

    /// The address for reports of workspaces.
    pub fn reports(&self) -> SocketAddr {
        self.reports.expect("the feature workspaces is on")
    }

    /// The address of the internal API for the gateway.
    pub fn internal(&self) -> SocketAddr {
        self.internal.expect("there is a gateway")
    }

    /// The current activity.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Waits until it has nothing to do: it is idle at several checks in a row, because a watch may still bring
    /// something. The API server answers a request between two checks, so they are further apart if it is slow.
    pub async fn settled(&self) {
        let mut quiet = 0;
        until("the operator has nothing to do", async || {
            self.admin.apiserver_version().await.ok()?;
            quiet = if self.activity.is_idle() { quiet + 1 } else { 0 };
            (quiet >= 4).then_some(())
        })
        .await;
    }

    /// A number while it has nothing to do. The number changes after any work.
    pub fn rest(&self) -> Option<u64> {
        let metrics = self.runtime.as_ref()?.metrics();
        let mut turns = (0..metrics.num_workers()).map(|worker| metrics.worker_park_unpark_count(worker));
        // A parked thread has an odd count: it has counted its parking, and not yet its waking.
        let sum = turns.try_fold(0, |sum, turns| (turns % 2 == 1).then_some(sum + turns))?;
        (self.activity.is_idle() && metrics.global_queue_depth() == 0).then_some(sum)
    }

    /// The time of its next look at any object.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.activity.next_due()
    }

    /// The answer at a path of its health address: status and body.
    pub async fn serves(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.health).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// Waits until it is ready, like a kubelet.
    pub async fn ready(&self) {
        until("the operator is ready", async || (self.serves("/readyz").await.0 == 200).then_some(())).await;
    }

    /// Stops it like SIGTERM.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.running).await.expect("no panic").expect("an orderly end");
        self.kill();
    }

    /// Stops it like SIGKILL: no part of it continues.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
