//! `landfall controller`: everything that runs in that process, from start to an orderly end.
//!
//! Invariant: health and metrics are served before leadership, caches are filled before leadership is asked for, and
//! nothing is written before it is had. When leadership is lost, or any task ends, the process ends.

use crate::controllers::caches::Caches;
use crate::controllers::connection::Connections;
use crate::controllers::credentials::Credentials;
use crate::controllers::deliveries::DealtWith;
use crate::controllers::shared::Shared;
use crate::controllers::{InFlight, Kinds, WorkspaceReports};
use crate::features::{Feature, Features};
use crate::gateway::messages;
use crate::git::AllowedHosts;
use crate::github::{Connect, PlainHttp};
use crate::guards::Guards;
use crate::internal::certificates::{Certificates, CertificatesError, Names, Served};
use crate::internal::server::InternalServer;
use crate::reports::ReportServer;
use crate::reports::identity::{Expected, PodIdentities};
use crate::runtime::clock::Clock;
use crate::runtime::due::DueQueue;
use crate::runtime::events::Events;
use crate::runtime::health::{Endpoints, HealthServer};
use crate::runtime::heartbeat::Liveness;
use crate::runtime::http_server::BindError;
use crate::runtime::jitter::Jitter;
use crate::runtime::lease::{Lease, LeaseError, LeaseLost, LeaseTimes};
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::{Check, Readiness};
use crate::runtime::shutdown::{ShutdownError, Tasks};
use crate::settings::{InternalSettings, Settings, WorkspaceSettings};
use crate::webhook::root_keys::KnownRootKeys;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The name of the Lease by which one of several controllers leads.
pub const LEASE: &str = "landfall-controller";
/// How long the due queue may be silent before the process counts as dead.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// How long what is under way may take after shutdown began. The chart's grace period is longer.
const GRACE: Duration = Duration::from_secs(25);

/// What was configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// The operator's own namespace: the Apps' credentials and the Lease are there.
    pub namespace: String,
    /// This process among several; the pod's name.
    pub identity: String,
    /// Where health and metrics are served.
    pub health_address: SocketAddr,
    /// The kinds that are served.
    pub features: Features,
    /// The namespaces in which Secrets may be read and written; empty for all.
    pub secret_namespaces: Vec<String>,
    /// Whether plain http to GitHub is accepted.
    pub plain_http: PlainHttp,
    /// The hosts whose repositories may be followed by their address alone.
    pub git_hosts: AllowedHosts,
    /// What workspaces are made of.
    pub workspaces: WorkspaceSettings,
    /// Where reports of workspaces are received.
    pub reports_address: SocketAddr,
    /// The API by which the gateway asks, where there is a gateway.
    pub internal: InternalSettings,
    /// Where it answers.
    pub internal_address: SocketAddr,
}

/// What the process stands in: everything that a test puts something else in place of.
pub struct Environment {
    /// Kubernetes, for everything but the Lease.
    pub kube: kube::Client,
    /// Kubernetes, for the Lease; none: no election, this process leads.
    pub lease: Option<(kube::Client, LeaseTimes)>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub jitter: Arc<dyn Jitter>,
    /// The way to GitHub.
    pub github: Arc<dyn Connect>,
    /// Cancelled when the process is to end.
    pub shutdown: CancellationToken,
    /// The guards, all in place but in some tests.
    pub guards: Guards,
}

/// Why the process ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Health and metrics, or reports, cannot be served.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The internal API cannot be served.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// A task ended that should not have.
    #[error(transparent)]
    Shutdown(#[from] ShutdownError),
}

/// Why the leading task ended.
#[derive(Debug, thiserror::Error)]
enum LeadError {
    #[error("the election of a leader failed")]
    Election(#[source] LeaseError),
    #[error("leadership was lost: {0}")]
    Lost(LeaseLost),
    #[error("a cache was never filled, for its watch ended")]
    Caches,
}

/// A controller that listens for health checks and has yet to be run.
pub struct Controller {
    tasks: Tasks,
    health_address: SocketAddr,
    reports_address: Option<SocketAddr>,
    internal_address: Option<SocketAddr>,
    activity: Activity,
}

/// Whether anything is going on: for tests, which wait for it to end.
#[derive(Clone)]
pub struct Activity {
    queue: DueQueue,
    in_flight: InFlight,
}

impl Activity {
    /// Nothing is being worked on and nothing is due.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.count() == 0 && self.queue.due_now() == 0
    }

    /// When the next object falls due.
    #[must_use]
    pub fn next_due(&self) -> Option<jiff::Timestamp> {
        self.queue.next()
    }
}

/// Receives what the pods of workspaces report. Up before leadership; until this process leads it says so to who reports.
async fn serve_reports(
    tasks: &mut Tasks,
    address: SocketAddr,
    (shared, handler): (&Shared, WorkspaceReports),
    until: CancellationToken,
) -> Result<SocketAddr, Error> {
    let reports =
        ReportServer::bind(address, shared.client.clone(), Arc::new(handler), Arc::clone(&shared.clock)).await?;
    let address = reports.address();
    tasks.spawn::<Error>("the server for reports", async move {
        reports.serve(until).await;
        Ok(())
    });
    Ok(address)
}

/// Answers the gateway, and keeps the certificates. Up before leadership; until this process leads it says so to who asks.
async fn serve_gateway(
    tasks: &mut Tasks,
    address: SocketAddr,
    kinds: &Kinds,
    leads: &Arc<AtomicBool>,
) -> Result<Option<SocketAddr>, Error> {
    let shared = kinds.shared();
    let Some(gateway) = &shared.settings.workspaces.gateway else { return Ok(None) };
    let (namespace, internal) = (&shared.settings.namespace, &shared.settings.internal);
    let answers = kinds.gateway(Arc::clone(leads));
    let expected = Expected::account(messages::AUDIENCE, namespace, &internal.account);
    let gateways = PodIdentities::new(shared.client.clone(), Arc::clone(&shared.clock), expected);
    let served = Served::default();
    let server = InternalServer::bind(address, served.server()?, gateways, Arc::new(answers.clone())).await?;
    let address = server.address();
    let certificates = Certificates::new(
        shared.client.clone(),
        namespace.clone(),
        Arc::clone(&shared.clock),
        Names { gateway: vec![gateway.url.host()], internal: vec![internal.host.clone()] },
        (gateway.authority.clone(), kinds.when_gateway_changes()),
        (served, Arc::clone(leads)),
    );
    let until = tasks.shutdown();
    tasks.spawn::<Error>("the internal API", async move {
        server.serve(until).await;
        Ok(())
    });
    let until = tasks.shutdown();
    tasks.spawn::<Error>("the gateway's certificates", async move {
        certificates.run(until).await;
        Ok(())
    });
    let until = tasks.shutdown();
    tasks.spawn::<Error>("the gateway's tokens", async move {
        answers.run(until).await;
        Ok(())
    });
    Ok(Some(address))
}

/// The task that leads, and while it does, writes.
struct Leading {
    kinds: Kinds,
    in_flight: InFlight,
    lease: Option<Lease>,
    /// Set once this process is the one that writes.
    leads: Arc<AtomicBool>,
    shutdown: CancellationToken,
}

impl Leading {
    async fn run(self, caches: Check) -> Result<(), LeadError> {
        let Self { kinds, in_flight, lease, leads, shutdown } = self;
        tokio::select! {
            filled = kinds.shared().caches.wait_until_filled() => filled.map_err(|_| LeadError::Caches)?,
            () = shutdown.cancelled() => return Ok(()),
        }
        kinds.shared().caches.refused.report_to(caches);
        let Some(lease) = lease else {
            leads.store(true, Ordering::SeqCst);
            kinds.run(in_flight, shutdown).await;
            return Ok(());
        };
        let leadership = match lease.acquire(&shutdown).await {
            Ok(leadership) => leadership,
            Err(LeaseError::Stopped) => return Ok(()),
            Err(error) => return Err(LeadError::Election(error)),
        };
        leads.store(true, Ordering::SeqCst);
        tokio::select! {
            // No grace: whoever leads now may be writing already.
            lost = leadership.lost() => Err(LeadError::Lost(lost)),
            () = kinds.run(in_flight, shutdown) => {
                leadership.release().await;
                Ok(())
            }
        }
    }
}

impl Controller {
    /// Starts everything. Health and metrics are served when this returns.
    ///
    /// # Errors
    /// When the address for health and metrics cannot be listened on.
    pub async fn start(config: Config, environment: Environment) -> Result<Self, Error> {
        let Environment { kube, lease, clock, jitter, github, shutdown, guards } = environment;
        let metrics = Metrics::new();
        let readiness = Readiness::new();
        let liveness = Liveness::new();
        let queue = DueQueue::new(Arc::clone(&clock), Arc::clone(&jitter));
        liveness.watch("due-queue", queue.heartbeat(), LONGEST_SILENCE);
        metrics.watch_due_queue(queue.clone());
        metrics.watch_readiness(readiness.clone());
        let endpoints = Endpoints { liveness, readiness: readiness.clone(), metrics: metrics.clone() };
        let server = HealthServer::bind(config.health_address, endpoints).await?;
        let health_address = server.address();

        let mut tasks = Tasks::new(shutdown);
        let shutdown = tasks.shutdown();
        let until = shutdown.clone();
        tasks.spawn::<Error>("the server for health and metrics", async move {
            server.serve(until).await;
            Ok(())
        });
        let (fired, until) = (queue.clone(), shutdown.clone());
        tasks.spawn::<Error>("the due queue", async move {
            fired.run(until).await;
            Ok(())
        });

        let (namespace, features) = (config.namespace.clone(), config.features);
        let kinds = Kinds::new(&queue, &features, |lanes| Shared {
            events: Events::new(kube.clone(), config.identity.clone(), metrics.clone()),
            client: kube,
            clock,
            jitter,
            connect: github,
            settings: Settings {
                namespace: config.namespace,
                secret_namespaces: config.secret_namespaces.clone(),
                plain_http: config.plain_http,
                git_hosts: config.git_hosts,
                workspaces: config.workspaces,
                internal: config.internal,
            },
            metrics: metrics.clone(),
            connections: Connections::default(),
            credentials: Credentials::default(),
            rations: Arc::default(),
            root_keys: KnownRootKeys::default(),
            dealt_with: DealtWith::default(),
            caches: Caches::default(),
            lanes,
            guards,
        });
        kinds.count();
        kinds.count_deliveries();
        let watching = kinds.watch(config.secret_namespaces);
        let until = shutdown.clone();
        tasks.spawn::<Error>("the watches", async move {
            tokio::select! {
                () = watching => {}
                () = until.cancelled() => {}
            }
            Ok(())
        });

        let caches = readiness.check("caches");
        let leading = readiness.check("leadership");
        caches.not_ready("the caches of Kubernetes' objects are being filled");
        let lease = if let Some((client, times)) = lease {
            let lease = Lease::new(client, &namespace, LEASE, &config.identity, times);
            Some(lease.reporting(leading, metrics.clone()))
        } else {
            metrics.leader(true);
            leading.ready_but("no election: this process leads");
            None
        };
        let leads = Arc::new(AtomicBool::new(false));
        let reports_address = if features.has(Feature::Workspaces) {
            let (shared, handler) = (Arc::clone(kinds.shared()), kinds.reports(Arc::clone(&leads)));
            let (address, until) = (config.reports_address, shutdown.clone());
            Some(serve_reports(&mut tasks, address, (&shared, handler), until).await?)
        } else {
            None
        };
        let internal_address = if features.has(Feature::Workspaces) {
            serve_gateway(&mut tasks, config.internal_address, &kinds, &leads).await?
        } else {
            None
        };
        let in_flight = InFlight::default();
        let activity = Activity { queue, in_flight: in_flight.clone() };
        let leading = Leading { kinds, in_flight, lease, leads, shutdown };
        tasks.spawn("the controllers", async move { leading.run(caches).await });
        Ok(Self { tasks, health_address, reports_address, internal_address, activity })
    }

    /// Where health and metrics are served.
    #[must_use]
    pub fn health_address(&self) -> SocketAddr {
        self.health_address
    }

    /// Where reports of workspaces are received; nowhere without the feature `workspaces`.
    #[must_use]
    pub fn reports_address(&self) -> Option<SocketAddr> {
        self.reports_address
    }

    /// Where the internal API answers the gateway; nowhere without a gateway.
    #[must_use]
    pub fn internal_address(&self) -> Option<SocketAddr> {
        self.internal_address
    }

    /// Whether anything is going on.
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Runs until shutdown is asked for or a task ends.
    ///
    /// # Errors
    /// The task that ended.
    pub async fn run(self) -> Result<(), Error> {
        self.tasks.supervise(GRACE).await.map_err(Into::into)
    }
}
