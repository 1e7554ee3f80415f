//! Runs the controller of a kind on what the due queue brings.

use super::lanes::Fed;
use super::reconcile::{Kind, reconcile};
use crate::runtime::metrics::Outcome;
use futures::StreamExt;
use kube::runtime::controller::{self, Action, Error as ControllerError, ReconcileRequest, applier};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How many objects of a kind are reconciled at once. Each may wait for GitHub, so the number is larger than that of
/// cores. It is small enough to stay far below the 100 concurrent requests that GitHub's secondary limits allow an App.
const CONCURRENCY: u16 = 8;

/// The limit of one reconcile. All calls have limits of their own; this one is for an API server that accepts a request
/// and never answers.
const LONGEST_RECONCILE: Duration = Duration::from_mins(5);

/// The number of reconciles under way.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<AtomicUsize>);

impl InFlight {
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

/// The name of a kind in metrics and logs. Called once for each kind.
#[must_use]
pub fn kind_name<K: Kind>() -> &'static str {
    Box::leak(K::Object::kind(&()).into_owned().into_boxed_str())
}

/// Runs the controller of a kind until `shutdown`, then finishes the reconciles under way. Without a stream of objects,
/// because the kind's feature is off, it does nothing.
pub async fn drive<K: Kind>(
    kind: Arc<K>,
    fed: Option<Fed<K::Object>>,
    in_flight: &InFlight,
    shutdown: &CancellationToken,
) {
    let (Some(fed), Some(store)) = (fed, kind.shared().caches.store::<K::Object>()) else { return };
    let name = kind_name::<K>();
    {
        let _guard = in_flight.enter();
        tokio::select! {
            () = kind.prepare() => {}
            () = shutdown.cancelled() => return,
        }
    }
    let queue = fed.map(|reference| Ok::<_, Infallible>(ReconcileRequest::from(reference)));
    let queue = Box::pin(queue.take_until(shutdown.cancelled()));
    let run = |object: Arc<K::Object>, kind: Arc<K>| {
        let in_flight = in_flight.clone();
        Box::pin(async move {
            let _guard = in_flight.enter();
            let began = Instant::now();
            let result = match tokio::time::timeout(LONGEST_RECONCILE, reconcile(&*kind, object)).await {
                Ok(result) => result,
                Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
            };
            let outcome = result.as_ref().map_or(Outcome::Retry, |outcome| *outcome);
            kind.shared().metrics.reconciled(name, outcome, began.elapsed());
            result.map(|_| Action::await_change())
        })
    };
    let on_error = move |object: Arc<K::Object>, error: &kube::Error, kind: Arc<K>| {
        let again = kind.lane().retry(&ObjectRef::from_obj(&*object));
        tracing::warn!(
            kind = name, namespace = object.namespace(), name = object.name_any(), attempt = again.attempt, %error,
            "Kubernetes refused; it is tried again"
        );
        Action::await_change()
    };
    let config = controller::Config::default().concurrency(CONCURRENCY);
    applier(run, on_error, Arc::clone(&kind), store, queue, config)
        .for_each(|result| {
            match result {
                Err(ControllerError::ObjectNotFound(reference)) => kind.lane().unknown(&reference),
                Err(ControllerError::QueueError(never)) => match never {},
                Err(ControllerError::RunnerError(error)) => {
                    tracing::error!(kind = name, %error, "the controller's cache ended");
                }
                Err(ControllerError::ReconcilerFailed(..)) | Ok(_) => {}
            }
            std::future::ready(())
        })
        .await;
}
