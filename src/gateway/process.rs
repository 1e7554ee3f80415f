//! `landfall gateway`: everything that runs in that process, from start to an orderly end.
//!
//! Invariant: the process may have tokens reviewed and nothing else in Kubernetes, and the end of the process waits for the
//! transfers that have begun. It is ready while it has a certificate, whether the controller answers or not: held tokens serve on.

use super::certificate::{Certificate, CertificateError};
use super::controller::{Config as ControllerConfig, Controller};
use super::identity::AUDIENCE;
use super::limits::Limits;
use super::metrics::Metrics as GatewayMetrics;
use super::server::{GatewayServer, Surroundings};
use super::tokens::Tokens;
use crate::github::Connect;
use crate::guards::Guards;
use crate::reports::identity::{Expected, PodIdentities};
use crate::runtime::clock::Clock;
use crate::runtime::health::{Endpoints, HealthServer};
use crate::runtime::heartbeat::{BEAT_EVERY, Heartbeat, Liveness};
use crate::runtime::http_server::BindError;
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::Readiness;
use crate::runtime::shutdown::{ShutdownError, Tasks};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The process counts as dead after this long without a heartbeat.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// How often unused tokens are let go.
const SWEEP: Duration = Duration::from_mins(1);
/// Time for the health server, which stops last.
const LAST: Duration = Duration::from_secs(7);

#[derive(Clone, Debug)]
pub struct Config {
    /// The address that git talks to.
    pub address: SocketAddr,
    /// The address for health and metrics.
    pub health_address: SocketAddr,
    /// The directory in which the Secret of the gateway's certificate is mounted.
    pub certificate: PathBuf,
    pub controller: ControllerConfig,
    pub limits: Limits,
}

/// The surroundings of the process, which tests replace.
pub struct Environment {
    pub kube: kube::Client,
    /// The way to GitHub.
    pub github: Arc<dyn Connect>,
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
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Shutdown(#[from] ShutdownError),
}

/// A gateway that listens and has yet to be run.
pub struct Gateway {
    tasks: Tasks,
    address: SocketAddr,
    health_address: SocketAddr,
    grace: Duration,
}

impl Gateway {
    /// Starts all tasks. The gateway listens when this returns.
    pub async fn start(config: Config, environment: Environment) -> Result<Self, Error> {
        let Environment { kube, github, clock, shutdown, guards } = environment;
        let (process, readiness, liveness) = (Metrics::new(), Readiness::new(), Liveness::new());
        process.watch_readiness(readiness.clone());
        let metrics = GatewayMetrics::new(&process);
        let heartbeat = Heartbeat::new();
        liveness.watch("runtime", heartbeat.clone(), LONGEST_SILENCE);
        let certificate = Certificate::read(&config.certificate)?;
        let tls = certificate.server()?;
        let health = HealthServer::bind(
            config.health_address,
            Endpoints { liveness, readiness: readiness.clone(), metrics: process },
        )
        .await?;
        let health_address = health.address();
        let controller = Arc::new(Controller::new(config.controller, github, Arc::clone(&clock)));
        let tokens = Arc::new(Tokens::new(Arc::clone(&controller) as _, Arc::clone(&clock)));
        let surroundings = Surroundings {
            identities: Arc::new(PodIdentities::new(kube, clock, Expected::pods(AUDIENCE))),
            workspaces: controller,
            upstreams: Arc::clone(&tokens) as _,
            metrics: metrics.clone(),
            guards,
        };
        let server = GatewayServer::bind(config.address, Some(tls), config.limits, surroundings).await?;
        let address = server.address();
        let serving = readiness.check("serving");
        serving.ready();

        // Health is served to the end: probes must see that the process is not ready any more.
        let drained = CancellationToken::new();
        let mut tasks = Tasks::new(shutdown);
        let until = drained.clone();
        tasks.spawn::<Error>("the server for health and metrics", async move {
            health.serve(until).await;
            Ok(())
        });
        let until = tasks.shutdown();
        tasks.spawn::<Error>("the gateway's certificate", async move {
            certificate.run(until).await;
            Ok(())
        });
        let until = tasks.shutdown();
        tasks.spawn::<Error>("the tokens", async move {
            while until.run_until_cancelled(sleep(SWEEP)).await.is_some() {
                tokens.sweep().await;
                metrics.tokens(tokens.count().await);
            }
            Ok(())
        });
        let until = tasks.shutdown();
        tasks.spawn::<Error>("the heartbeat", async move {
            heartbeat.beat();
            while until.run_until_cancelled(sleep(BEAT_EVERY)).await.is_some() {
                heartbeat.beat();
            }
            Ok(())
        });
        let until = tasks.shutdown();
        tasks.spawn::<Error>("the server for git", async move {
            let asked = until.clone();
            let ending = async move {
                asked.cancelled().await;
                serving.not_ready("the process is ending");
            };
            tokio::join!(server.serve(until), ending);
            drained.cancel();
            Ok(())
        });
        let grace = config.limits.shutdown_delay + config.limits.transfer + LAST;
        Ok(Self { tasks, address, health_address, grace })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn health_address(&self) -> SocketAddr {
        self.health_address
    }

    /// Runs until shutdown, or until a task ends, which is an error.
    pub async fn run(self) -> Result<(), Error> {
        self.tasks.supervise(self.grace).await.map_err(Into::into)
    }
}
