//! `landfall receiver`: takes webhook deliveries, and leaves each as a hint in the status of what it concerns.
//!
//! Invariant: a delivery is answered with 2xx after it is stored, or when there is nothing to store; and all that it can
//! make anybody do is look. The process can read no Secret and write nothing but `status.deliveries`, so that whoever
//! takes it over has gained the power to make the operator look.

mod answer;
mod body;
mod complaints;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzed;
mod inbox;
mod intake;
pub(crate) mod keys;
mod metrics;
mod rate;
mod server;
mod signature;
mod targets;

pub use inbox::{FIELD_MANAGER, Limits as InboxLimits};
pub use keys::KeySource;
pub use server::Limits as ServerLimits;

use crate::guards::Guards;
use crate::runtime::clock::Clock;
use crate::runtime::health::{Endpoints, HealthServer};
use crate::runtime::heartbeat::{BEAT_EVERY, Heartbeat, Liveness};
use crate::runtime::http_server::BindError;
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::Readiness;
use crate::runtime::shutdown::{ShutdownError, Tasks};
use complaints::Complaints;
use inbox::Inbox;
use intake::Intake;
use keys::Keys;
use rate::Buckets;
use server::Server;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use targets::Targets;
use tokio_util::sync::CancellationToken;

/// For how long nothing may move before the process counts as dead.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// Adds the receiver's metrics to those of a process, each with a value, for the reference.
pub(crate) fn count_once(process: &Metrics) {
    metrics::Metrics::new(process).count_once();
}

/// What was configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where deliveries are received, and the option that says so.
    pub address: (SocketAddr, &'static str),
    /// Where health and metrics are served; none where another part of the process does.
    pub health_address: Option<SocketAddr>,
    /// Deliveries per second that one repository may have stored. More than zero.
    pub target_rate: f64,
    /// How many of them at once.
    pub target_burst: f64,
    /// What clients may take.
    pub server: ServerLimits,
    /// What is written at once.
    pub inbox: InboxLimits,
}

/// What the process stands in.
pub struct Environment {
    /// Kubernetes.
    pub kube: kube::Client,
    /// Where the webhooks' root keys are.
    pub keys: KeySource,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Cancelled when the process is to end.
    pub shutdown: CancellationToken,
    /// The guards, all in place but in some tests.
    pub guards: Guards,
}

/// Why the process ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Health and metrics, or deliveries, cannot be served.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A task ended that should not have.
    #[error(transparent)]
    Shutdown(#[from] ShutdownError),
}

/// A receiver that listens and has yet to be run.
pub struct Receiver {
    tasks: Tasks,
    address: SocketAddr,
    health_address: Option<SocketAddr>,
    grace: Duration,
}

impl Receiver {
    /// Starts everything. It listens when this returns, and is ready once its caches are filled and it has the keys.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn start(config: Config, environment: Environment) -> Result<Self, Error> {
        let Environment { kube, keys, clock, shutdown, guards } = environment;
        let (process, readiness, liveness) = (Metrics::new(), Readiness::new(), Liveness::new());
        process.watch_readiness(readiness.clone());
        let metrics = metrics::Metrics::new(&process);
        let heart = Heartbeat::new();
        liveness.watch("runtime", heart.clone(), LONGEST_SILENCE);
        // Health is served to the very end: that the process is not ready any more has to be heard.
        let drained = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown);
        let mut health_address = None;
        if let Some(address) = config.health_address {
            let health =
                HealthServer::bind(address, Endpoints { liveness, readiness: readiness.clone(), metrics: process })
                    .await?;
            health_address = Some(health.address());
            let until = drained.clone();
            tasks.spawn::<Error>("the server for health and metrics", async move {
                health.serve(until).await;
                Ok(())
            });
        }

        let serving = readiness.check("serving");
        serving.ready();
        let keys = Arc::new(Keys::new(keys, kube.clone(), readiness.check("webhook keys")));
        let targets = Targets::new(guards);
        let intake = Intake {
            targets: targets.clone(),
            keys: Arc::clone(&keys),
            inbox: Inbox::new(
                kube.clone(),
                targets.clone(),
                metrics.clone(),
                config.inbox,
                Complaints::new(Arc::clone(&clock)),
            ),
            buckets: Arc::new(Buckets::new(config.target_rate, config.target_burst)),
            metrics,
            complaints: Complaints::new(Arc::clone(&clock)),
            clock,
            guards,
        };
        let (address, flag) = config.address;
        let server = Server::bind(address, flag, config.server, intake).await?;
        let address = server.address();

        let until = tasks.shutdown();
        let watches = targets::watch(targets, kube, &readiness);
        tasks.spawn::<Error>("the watches", async move {
            tokio::select! {
                () = watches => {}
                () = until.cancelled() => {}
            }
            Ok(())
        });
        let until = tasks.shutdown();
        tasks.spawn::<Error>("the webhook keys", async move {
            keys.run(until).await;
            Ok(())
        });
        let until = tasks.shutdown();
        tasks.spawn::<Error>("the heartbeat", async move {
            while !until.is_cancelled() {
                heart.beat();
                tokio::select! {
                    () = tokio::time::sleep(BEAT_EVERY) => {}
                    () = until.cancelled() => {}
                }
            }
            Ok(())
        });
        let until = tasks.shutdown();
        tasks.spawn::<Error>("the server", async move {
            let asked = until.clone();
            let ending = async move {
                asked.cancelled().await;
                serving.not_ready("the process is ending");
            };
            tokio::join!(server.serve(until), ending);
            drained.cancel();
            Ok(())
        });
        let ServerLimits { shutdown_delay, drain, .. } = config.server;
        // The rest is for the health server, which stops last.
        Ok(Self { tasks, address, health_address, grace: shutdown_delay + drain + Duration::from_secs(7) })
    }

    /// Where deliveries are received.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where health and metrics are served.
    #[must_use]
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health_address
    }

    /// Runs until shutdown is asked for or a task ends.
    ///
    /// # Errors
    /// The task that ended.
    pub async fn run(self) -> Result<(), Error> {
        self.tasks.supervise(self.grace).await.map_err(Into::into)
    }
}
