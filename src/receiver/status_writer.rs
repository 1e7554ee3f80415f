//! Writing deliveries to the status of objects, before the sender hears that they were accepted.
//!
//! Each object has at most one status patch in progress. Deliveries that arrive for it meanwhile share the next patch: two
//! patches of one object at once would only conflict in the API server. For the same reason a few objects are written at
//! once. Invariant: `Ok` means that the API server stored the patch; and a queued delivery is written even if its sender
//! hangs up.

pub(super) mod patch;

use super::log_limiter::LogLimiter;
use super::metrics::Metrics;
use super::targets::{Object, Targets};
use crate::api::{GitHubApp, KEPT_DELIVERIES, ProjectRepository};
use futures::FutureExt as _;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use kube::client::Body;
use kube::{Client, Resource};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

/// The receiver's field manager.
pub const FIELD_MANAGER: &str = "landfall-receiver";

/// Limits for writing to status.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Objects that are written at once.
    pub concurrent: usize,
    /// Deliveries that wait to be written, for all objects together.
    pub waiting: usize,
    /// Time for one patch. GitHub gives up on a delivery after ten seconds.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrent: 16, waiting: 4096, timeout: Duration::from_secs(5) }
    }
}

/// The fields of a delivery that are written to status. They make the operator look, and nothing in them is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryHint {
    pub guid: String,
    pub event: String,
    pub action: Option<String>,
    /// The pushed ref.
    pub reference: Option<String>,
    /// The commit that the ref points to.
    pub sha: Option<String>,
    pub received_at: Timestamp,
}

/// Why a delivery was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("too many deliveries wait to be stored; try again")]
    Full,
    #[error("the object that the delivery is for was deleted a moment ago")]
    Gone,
    #[error("Kubernetes did not answer; try again")]
    Unreachable,
    #[error("Kubernetes refused to store it (status {0})")]
    Refused(u16),
}

impl StoreError {
    /// A retry may help. A refusal that is due to the object stays: it is too large, or an admission policy forbids it.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Full | Self::Unreachable | Self::Refused(408 | 409 | 429 | 502 | 503 | 504))
    }
}

/// Writes deliveries to status. Clones share the queue.
#[derive(Clone)]
pub struct StatusWriter(Arc<Inner>);

struct Inner {
    client: Client,
    targets: Targets,
    metrics: Metrics,
    limits: Limits,
    log_limiter: LogLimiter,
    slots: Semaphore,
    /// The deliveries that wait for the next patch of an object. An object is in here while a task writes to it.
    waiting: Mutex<Waiting>,
    writers: TaskTracker,
}

#[derive(Default)]
struct Waiting {
    by_object: HashMap<Object, Vec<Waiter>>,
    count: usize,
}

struct Waiter {
    hint: DeliveryHint,
    result: oneshot::Sender<Result<(), StoreError>>,
}

impl StatusWriter {
    pub fn new(client: Client, targets: Targets, metrics: Metrics, limits: Limits, log_limiter: LogLimiter) -> Self {
        let (slots, waiting, writers) = (Semaphore::new(limits.concurrent), Mutex::default(), TaskTracker::new());
        Self(Arc::new(Inner { client, targets, metrics, limits, log_limiter, slots, waiting, writers }))
    }

    /// Writes a delivery to an object's status. The call queues it; dropping the future does not cancel it.
    pub fn store(&self, object: Object, hint: DeliveryHint) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (result, written) = oneshot::channel();
        let queued = self.queue(object, Waiter { hint, result });
        async move {
            queued?;
            // Only a process that is being killed drops the sender without a result.
            written.await.unwrap_or(Err(StoreError::Unreachable))
        }
    }

    /// Waits until every queued delivery is written or has failed. Later ones are not accepted.
    pub async fn flush(&self) {
        self.0.writers.close();
        self.0.writers.wait().await;
    }

    fn queue(&self, object: Object, waiter: Waiter) -> Result<(), StoreError> {
        let mut waiting = self.0.lock();
        if waiting.count >= self.0.limits.waiting {
            return Err(StoreError::Full);
        }
        waiting.count += 1;
        self.0.metrics.waiting(1);
        if let Some(others) = waiting.by_object.get_mut(&object) {
            others.push(waiter);
            return Ok(());
        }
        waiting.by_object.insert(object.clone(), vec![waiter]);
        drop(waiting);
        let inner = Arc::clone(&self.0);
        self.0.writers.spawn(async move { inner.write_all(object).await });
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to an object until nothing waits for it.
    async fn write_all(&self, object: Object) {
        loop {
            // The semaphore is never closed, so this is never an error.
            let slot = self.slots.acquire().await;
            let group = {
                let mut waiting = self.lock();
                let group = waiting.by_object.get_mut(&object).map(std::mem::take).unwrap_or_default();
                if group.is_empty() {
                    waiting.by_object.remove(&object);
                    return;
                }
                waiting.count -= group.len();
                group
            };
            let began = Instant::now();
            let hints: Vec<&DeliveryHint> = group.iter().map(|waiter| &waiter.hint).collect();
            let writing = AssertUnwindSafe(timeout(self.limits.timeout, self.write(&object, &hints)));
            // Even after a panic the object keeps its writer.
            let result = writing.catch_unwind().await.unwrap_or(Ok(Err(StoreError::Unreachable)));
            let result = result.unwrap_or(Err(StoreError::Unreachable));
            drop(slot);
            let word = match result {
                Ok(()) => "stored",
                Err(error) if error.is_temporary() => "failed",
                Err(_) => "refused",
            };
            self.metrics.patched(word, group.len(), began.elapsed());
            self.metrics.waiting(-i64::try_from(group.len()).unwrap_or_default());
            for waiter in group {
                // A sender that hung up has no receiver any more.
                let _ = waiter.result.send(result);
            }
        }
    }

    async fn write(&self, object: &Object, hints: &[&DeliveryHint]) -> Result<(), StoreError> {
        let body = patch::merge_patch(&self.targets.log(object).entries, hints, KEPT_DELIVERIES);
        let request = Request::patch(format!("{}/status?fieldManager={FIELD_MANAGER}", path(object)))
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .header(header::ACCEPT, "application/json")
            .body(Body::from(body.to_string().into_bytes()))
            .map_err(|_| StoreError::Unreachable)?;
        let answer = self.client.send(request).await.map_err(|error| {
            tracing::warn!(%error, "cannot store a delivery");
            StoreError::Unreachable
        })?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        match status {
            status if status.is_success() => {
                // The answer has the whole status, with the writes of others. If it broke off, a watch brings it.
                if let Some(log) = body.ok().and_then(|body| patch::log_in(&body.to_bytes())) {
                    self.targets.update_log(object, log);
                }
                Ok(())
            }
            StatusCode::NOT_FOUND => Err(StoreError::Gone),
            status => {
                let said = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let said = serde_json::from_slice::<serde_json::Value>(&said).unwrap_or_default();
                let message = said["message"].as_str().unwrap_or_default();
                if self.log_limiter.allows() {
                    tracing::warn!(
                        ?object,
                        status = status.as_u16(),
                        message,
                        "Kubernetes refused to store a delivery"
                    );
                }
                Err(StoreError::Refused(status.as_u16()))
            }
        }
    }
}

/// The object's path. The names come from the API server, which has checked them.
fn path(object: &Object) -> String {
    match object {
        Object::App(name) => format!("{}/{name}", GitHubApp::url_path(&(), None)),
        Object::Repository((namespace, name)) => {
            format!("{}/{name}", ProjectRepository::url_path(&(), Some(namespace)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn an_object_whose_write_panicked_is_written_again() {
        let is_first = Arc::new(AtomicBool::new(true));
        let server = tower::service_fn(move |_: Request<Body>| {
            let is_first = Arc::clone(&is_first);
            async move {
                assert!(!is_first.swap(false, Ordering::Relaxed), "a test's panic");
                Ok::<_, std::io::Error>(Response::new(Body::from(b"{}".to_vec())))
            }
        });
        let metrics = Metrics::new(&crate::runtime::metrics::Metrics::new());
        let limits = Limits { timeout: Duration::from_mins(5), ..Limits::default() };
        let log_limiter = LogLimiter::new(Arc::new(crate::runtime::clock::SystemClock));
        let writer =
            StatusWriter::new(Client::new(server, "default"), Targets::default(), metrics, limits, log_limiter);
        let store = async || {
            let (guid, event) = (String::new(), "push".to_owned());
            let received_at = Timestamp::UNIX_EPOCH;
            let hint = DeliveryHint { guid, event, action: None, reference: None, sha: None, received_at };
            let stored = writer.store(Object::App("landfall".into()), hint);
            timeout(Duration::from_mins(3), stored).await.expect("a task writes it")
        };
        assert_eq!(store().await, Err(StoreError::Unreachable));
        assert_eq!(store().await, Ok(()));
    }
}
