//! Runs the controller of a kind on what the due queue brings.

use super::reconcile::{Kind, reconcile};
use crate::runtime::due::{Feed, Served, Turn};
use crate::runtime::metrics::Outcome;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How many objects of a kind are reconciled at once, at all places together. The slots of each place are fewer.
const CONCURRENCY: usize = 64;

/// The place of objects whose kind names none: the API server.
const KUBERNETES: &str = "kubernetes";

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

/// Runs the controller of a kind until `shutdown`, then finishes the reconciles under way. Without a feed, because the
/// kind's feature is off, it does nothing.
pub async fn drive<K: Kind>(
    kind: Arc<K>,
    feed: Option<Feed<K::Object>>,
    in_flight: &InFlight,
    shutdown: &CancellationToken,
) {
    let Some(mut feed) = feed else { return };
    {
        let _guard = in_flight.enter();
        tokio::select! {
            () = kind.prepare() => {}
            () = shutdown.cancelled() => return,
        }
    }
    let name = kind_name::<K>();
    let places = |object: &ObjectRef<K::Object>| {
        let object = kind.shared().caches.get(object)?;
        let places = kind.places(&object);
        Some(if places.is_empty() { vec![KUBERNETES.to_owned()] } else { places })
    };
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(()) = under_way.next() => {}
            turn = feed.next(places), if under_way.len() < CONCURRENCY => {
                let guard = in_flight.enter();
                let object = turn.object.to_string();
                let span = tracing::info_span!("reconciling object", object.ref = object);
                let kind = Arc::clone(&kind);
                under_way.push(async move {
                    let _guard = guard;
                    run(&*kind, name, turn).await;
                }.instrument(span));
            }
        }
    }
    while under_way.next().await.is_some() {}
}

async fn run<K: Kind>(kind: &K, name: &'static str, mut turn: Turn<K::Object>) {
    let Some(object) = kind.shared().caches.get(&turn.object) else { return };
    let reference = ObjectRef::from_obj(&*object);
    let began = Instant::now();
    let result = match tokio::time::timeout(LONGEST_RECONCILE, reconcile(kind, object)).await {
        Ok(result) => result,
        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
    };
    let outcome = result.as_ref().map_or(Outcome::Retry, |outcome| *outcome);
    kind.shared().metrics.reconciled(name, outcome, began.elapsed());
    turn.served = if outcome == Outcome::Waiting { Served::NotYet } else { Served::Yes };
    if let Err(error) = result {
        let again = kind.lane().retry(&reference);
        let (namespace, object, attempt) = (reference.namespace, reference.name, again.attempt);
        if matches!(&error, kube::Error::Api(status) if status.code == 409) {
            // Another client was faster, which is ordinary.
            tracing::debug!(kind = name, namespace, name = object, attempt, %error, "an object changed meanwhile");
        } else {
            tracing::warn!(
                kind = name, namespace, name = object, attempt, %error, "Kubernetes refused; it is tried again"
            );
        }
    }
}
