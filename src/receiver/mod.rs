//! `landfall receiver`: accepts webhook deliveries, and stores each as a hint for the objects that it concerns.
//!
//! Invariant: a delivery is answered with 2xx once it is stored, or if there is nothing to store; and its only effect is
//! that the operator looks. The process can read no Secret and write nothing but the status of its own `WebhookInbox`, so an
//! attacker who takes it over can do no more than make the operator look.

mod answer;
mod body;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzed;
mod inbox;
pub(crate) mod keys;
mod log_limiter;
mod metrics;
mod pipeline;
mod rate;
mod server;
mod signature;
mod targets;

pub use inbox::{FIELD_MANAGER, Limits as WriteLimits, Place as InboxPlace};
pub use keys::KeySource;
pub use server::Limits as ServerLimits;

use crate::features::Features;
use crate::guards::Guards;
use crate::runtime::clock::Clock;
use crate::runtime::health::{Endpoints, HealthServer};
use crate::runtime::heartbeat::{BEAT_EVERY, Heartbeat, Liveness};
use crate::runtime::http_server::BindError;
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::Readiness;
use crate::runtime::shutdown::{ShutdownError, Tasks};
use inbox::Inbox;
use keys::Keys;
use log_limiter::LogLimiter;
use pipeline::Pipeline;
use rate::Buckets;
use server::Server;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use targets::Targets;
use tokio_util::sync::CancellationToken;

/// The process counts as dead after this long without a heartbeat.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// Adds the receiver's metrics to those of a process, each with a value, for the reference.
pub(crate) fn count_once(process: &Metrics) {
    metrics::Metrics::new(process).count_once();
}

#[derive(Clone, Debug)]
pub struct Config {
    /// The address for deliveries, and the option that sets it.
    pub address: (SocketAddr, &'static str),
    /// The address for health and metrics; none if another part of the process serves them.
    pub health_address: Option<SocketAddr>,
    /// The `WebhookInbox` of this receiver.
    pub inbox: InboxPlace,
    /// The kinds that are served.
    pub features: Features,
    /// Deliveries per second that are stored for one repository. More than zero.
    pub target_rate: f64,
    /// The most of them at once.
    pub target_burst: f64,
    pub server: ServerLimits,
    pub writes: WriteLimits,
}

/// The surroundings of the process, which tests replace.
pub struct Environment {
    pub kube: kube::Client,
    /// The webhooks' root keys.
    pub keys: KeySource,
    pub clock: Arc<dyn Clock>,
    /// Cancelled when the process should end.
    pub shutdown: CancellationToken,
    /// The guards, all in place but in some tests.
    pub guards: Guards,
}

/// Why the process could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
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
    /// Starts all tasks. The receiver listens when this returns, and is ready once its caches are filled and it has the keys.
    pub async fn start(config: Config, environment: Environment) -> Result<Self, Error> {
        let Environment { kube, keys, clock, shutdown, guards } = environment;
        let (process, readiness, liveness) = (Metrics::new(), Readiness::new(), Liveness::new());
        process.watch_readiness(readiness.clone());
        let metrics = metrics::Metrics::new(&process);
        let heartbeat = Heartbeat::new();
        liveness.watch("runtime", heartbeat.clone(), LONGEST_SILENCE);
        // Health is served to the end: probes must see that the process is not ready any more.
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
        let inbox = Inbox::new(
            kube.clone(),
            config.inbox,
            metrics.clone(),
            config.writes,
            (LogLimiter::new(Arc::clone(&clock)), readiness.check("inbox")),
        );
        let pipeline = Pipeline {
            targets: targets.clone(),
            keys: Arc::clone(&keys),
            inbox: inbox.clone(),
            buckets: Arc::new(Buckets::new(config.target_rate, config.target_burst)),
            metrics,
            log_limiter: LogLimiter::new(Arc::clone(&clock)),
            clock,
            guards,
        };
        let (address, flag) = config.address;
        let server = Server::bind(address, flag, config.server, pipeline).await?;
        let address = server.address();

        let until = tasks.shutdown();
        let watches = targets::watch(targets, kube, &readiness, &config.features);
        tasks.spawn::<Error>("the watches", async move {
            tokio::select! {
                () = watches => {}
                () = until.cancelled() => {}
            }
            Ok(())
        });
        let until = tasks.shutdown();
        tasks.spawn::<Error>("the inbox", async move {
            inbox.run(until).await;
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
                heartbeat.beat();
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

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health_address
    }

    /// Runs until shutdown, or until a task ends, which is an error.
    pub async fn run(self) -> Result<(), Error> {
        self.tasks.supervise(self.grace).await.map_err(Into::into)
    }
}
