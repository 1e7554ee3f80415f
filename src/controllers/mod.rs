//! The controllers: for each kind gather → plan → apply → status.
//!
//! Owns how they are fed and run. Invariant: every reconcile comes from the due queue, one at a time for an object, and
//! says there when it wants to come again; kube's own requeueing is not used.

pub mod access;
mod app;
pub mod connection;
pub mod context;
pub mod deliveries;
mod installation;
pub mod object;
pub mod reference;
pub mod repository;
pub mod rollout;
pub mod standing;
pub mod token;
pub mod watch;
pub mod workspace;

use crate::runtime::due::{Due, DueQueue};
use crate::runtime::metrics::Outcome;
use context::{Context, Dues};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::runtime::controller::{self, Action, Error as ControllerError, ReconcileRequest, applier};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How many objects of a kind are worked on at once. Each may wait for GitHub, so more than there are cores; few enough
/// to stay far below the 100 requests at once that GitHub's secondary limits allow an App.
const CONCURRENCY: u16 = 8;

/// The longest that one reconcile may take. All calls have limits of their own; this is for an API server that takes
/// a request and never answers.
const LONGEST_RECONCILE: Duration = Duration::from_mins(5);

/// How many reconciles are under way.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// The number.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn enter(&self) -> InFlightGuard {
        self.0.fetch_add(1, Ordering::SeqCst);
        InFlightGuard(Arc::clone(&self.0))
    }
}

struct InFlightGuard(Arc<AtomicUsize>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The queues' streams: what each controller is fed with.
pub struct Streams {
    apps: Fed<crate::api::GitHubApp>,
    installations: Fed<crate::api::GitHubInstallation>,
    tokens: Fed<crate::api::InstallationToken>,
    repositories: Fed<crate::api::ProjectRepository>,
    workspaces: Fed<crate::api::Workspace>,
    claims: Fed<PersistentVolumeClaim>,
}

type Fed<K> = BoxStream<'static, ObjectRef<K>>;

/// Gives each kind its lane in the queue: the say over its due times, and what its controller is fed with.
#[must_use]
pub fn register(queue: &DueQueue) -> (Dues, Streams) {
    let (apps, app_stream) = queue.register();
    let (installations, installation_stream) = queue.register();
    let (tokens, token_stream) = queue.register();
    let (repositories, repository_stream) = queue.register();
    let (workspaces, workspace_stream) = queue.register();
    let (claims, claim_stream) = queue.register();
    let streams = Streams {
        apps: app_stream.boxed(),
        installations: installation_stream.boxed(),
        tokens: token_stream.boxed(),
        repositories: repository_stream.boxed(),
        workspaces: workspace_stream.boxed(),
        claims: claim_stream.boxed(),
    };
    (Dues { apps, installations, tokens, repositories, workspaces, claims }, streams)
}

/// Runs all controllers until `shutdown`, then finishes what is under way.
pub async fn run(context: Arc<Context>, streams: Streams, in_flight: InFlight, shutdown: CancellationToken) {
    let c = &context;
    if let Err(error) = c.ensure_root_keys().await {
        // Only webhooks need it. Whoever does tries again, and says so in status.
        tracing::warn!(error = &error as &dyn std::error::Error, "there is no root key for webhooks yet");
    }
    let drive = Drive { context: c, in_flight: &in_flight, shutdown: &shutdown };
    let (stores, due) = (&c.stores, &c.due);
    futures::join!(
        drive.kind(&stores.apps, &due.apps, streams.apps, app::reconcile),
        drive.kind(&stores.installations, &due.installations, streams.installations, installation::reconcile),
        drive.kind(&stores.tokens, &due.tokens, streams.tokens, token::reconcile),
        drive.kind(&stores.repositories, &due.repositories, streams.repositories, repository::reconcile),
        drive.kind(&stores.workspaces, &due.workspaces, streams.workspaces, workspace::reconcile),
        drive.kind(&stores.claims, &due.claims, streams.claims, workspace::keep::reconcile),
    );
}

/// What all controllers run with.
struct Drive<'a> {
    context: &'a Arc<Context>,
    in_flight: &'a InFlight,
    shutdown: &'a CancellationToken,
}

impl Drive<'_> {
    /// Runs one controller.
    async fn kind<K, F>(
        &self,
        store: &Store<K>,
        due: &Due<K>,
        stream: Fed<K>,
        reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Clone,
    ) where
        K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Outcome, kube::Error>> + Send,
    {
        let kind: &'static str = Box::leak(K::kind(&()).into_owned().into_boxed_str());
        let queue = stream.map(|reference| Ok::<_, Infallible>(ReconcileRequest::from(reference)));
        let retry = due.clone();
        let run = |object: Arc<K>, context: Arc<Context>| {
            let (reconcile, in_flight) = (reconcile.clone(), self.in_flight.clone());
            Box::pin(async move {
                let _guard = in_flight.enter();
                let began = Instant::now();
                let result =
                    match tokio::time::timeout(LONGEST_RECONCILE, reconcile(object, Arc::clone(&context))).await {
                        Ok(result) => result,
                        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
                    };
                let outcome = result.as_ref().map_or(Outcome::Retry, |outcome| *outcome);
                context.metrics.reconciled(kind, outcome, began.elapsed());
                result.map(|_| Action::await_change())
            })
        };
        let on_error = move |object: Arc<K>, error: &kube::Error, _: Arc<Context>| {
            let reference = ObjectRef::from_obj(&*object);
            let again = retry.retry(&reference);
            tracing::warn!(
                kind, namespace = object.namespace(), name = object.name_any(), attempt = again.attempt, %error,
                "Kubernetes refused; it is tried again"
            );
            Action::await_change()
        };
        let config = controller::Config::default().concurrency(CONCURRENCY);
        let queue = Box::pin(queue.take_until(self.shutdown.cancelled()));
        applier(run, on_error, Arc::clone(self.context), store.clone(), queue, config)
            .for_each(|result| {
                match result {
                    Err(ControllerError::ObjectNotFound(reference)) => due.unknown(&reference),
                    Err(ControllerError::QueueError(never)) => match never {},
                    Err(ControllerError::RunnerError(error)) => {
                        tracing::error!(kind, %error, "the controller's cache ended");
                    }
                    Err(ControllerError::ReconcilerFailed(..)) | Ok(_) => {}
                }
                std::future::ready(())
            })
            .await;
    }
}
