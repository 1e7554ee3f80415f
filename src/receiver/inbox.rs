//! The way of a delivery into an object's status, before anybody is told that it was accepted.
//!
//! One status patch per object is under way at a time, and all that comes for the object meanwhile shares the next one:
//! two patches of one object at once cost the API server more than they bring. A few objects are written at once, for the
//! same reason. Invariant: whoever is told `Ok` was told so after the API server answered that the patch is stored; and
//! what was handed in is written whether or not anybody still waits to hear of it.

pub(super) mod patch;

use super::complaints::Complaints;
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

/// The field manager of what the receiver writes.
pub const FIELD_MANAGER: &str = "landfall-receiver";

/// How much is written at once, and for how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Objects written at once.
    pub writes: usize,
    /// Deliveries that wait to be written, over all objects.
    pub waiting: usize,
    /// For how long one patch may be under way. GitHub gives up on a delivery after ten seconds.
    pub patch: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { writes: 16, waiting: 4096, patch: Duration::from_secs(5) }
    }
}

/// What is written of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Its GUID.
    pub guid: String,
    /// The event.
    pub event: String,
    /// What was done.
    pub action: Option<String>,
    /// The ref that was pushed.
    pub reference: Option<String>,
    /// The commit it is at.
    pub sha: Option<String>,
    /// When it was received.
    pub received_at: Timestamp,
}

/// Why a delivery was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Too many wait already.
    #[error("too many deliveries wait to be stored")]
    Full,
    /// The object is gone.
    #[error("what the delivery is for was deleted a moment ago")]
    Gone,
    /// The API server did not answer, or not in time.
    #[error("Kubernetes did not answer")]
    Unreachable,
    /// The API server refused, with this status.
    #[error("Kubernetes refused to store it (status {0})")]
    Refused(u16),
}

impl StoreError {
    /// Whether it may be otherwise in a moment. What Kubernetes refuses for what the object is, is refused each time: it
    /// has become too large, or an admission policy is against it.
    #[must_use]
    pub fn will_pass(self) -> bool {
        matches!(self, Self::Full | Self::Unreachable | Self::Refused(408 | 409 | 429 | 502 | 503 | 504))
    }
}

/// The inbox. Clones share it.
#[derive(Clone)]
pub struct Inbox(Arc<Inner>);

struct Inner {
    client: Client,
    targets: Targets,
    metrics: Metrics,
    limits: Limits,
    complaints: Complaints,
    slots: Semaphore,
    /// By object, what waits for its next patch. An object is here while somebody writes to it.
    waiting: Mutex<Waiting>,
    writers: TaskTracker,
}

#[derive(Default)]
struct Waiting {
    by_object: HashMap<Object, Vec<Waiter>>,
    count: usize,
}

struct Waiter {
    hint: Hint,
    told: oneshot::Sender<Result<(), StoreError>>,
}

impl Inbox {
    /// An empty one.
    #[must_use]
    pub fn new(client: Client, targets: Targets, metrics: Metrics, limits: Limits, complaints: Complaints) -> Self {
        let (slots, waiting, writers) = (Semaphore::new(limits.writes), Mutex::default(), TaskTracker::new());
        Self(Arc::new(Inner { client, targets, metrics, limits, complaints, slots, waiting, writers }))
    }

    /// Stores a delivery in an object's status. Handed in when this is called; to drop the future takes nothing back.
    pub fn store(&self, object: Object, hint: Hint) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (told, hear) = oneshot::channel();
        let is_handed_in = self.hand_in(object, Waiter { hint, told });
        async move {
            is_handed_in?;
            // Nobody drops it without an answer but a process that is being killed.
            hear.await.unwrap_or(Err(StoreError::Unreachable))
        }
    }

    /// Waits until all that was handed in is written or given up, and takes nothing more.
    pub async fn flush(&self) {
        self.0.writers.close();
        self.0.writers.wait().await;
    }

    fn hand_in(&self, object: Object, waiter: Waiter) -> Result<(), StoreError> {
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
            // Never closed, so never refused.
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
            let hints: Vec<&Hint> = group.iter().map(|waiter| &waiter.hint).collect();
            let writing = AssertUnwindSafe(timeout(self.limits.patch, self.write(&object, &hints)));
            // Whatever goes wrong, the object is not left without a writer.
            let result = writing.catch_unwind().await.unwrap_or(Ok(Err(StoreError::Unreachable)));
            let result = result.unwrap_or(Err(StoreError::Unreachable));
            drop(slot);
            let word = match result {
                Ok(()) => "stored",
                Err(error) if error.will_pass() => "failed",
                Err(_) => "refused",
            };
            self.metrics.patched(word, group.len(), began.elapsed());
            self.metrics.waiting(-i64::try_from(group.len()).unwrap_or_default());
            for waiter in group {
                // Whoever hung up does not hear of it.
                let _ = waiter.told.send(result);
            }
        }
    }

    async fn write(&self, object: &Object, hints: &[&Hint]) -> Result<(), StoreError> {
        let body = patch::merge_patch(&self.targets.log(object).entries, hints, KEPT_DELIVERIES);
        let request = Request::patch(format!("{}/status?fieldManager={FIELD_MANAGER}", path(object)))
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .header(header::ACCEPT, "application/json")
            .body(Body::from(body.to_string().into_bytes()))
            .map_err(|_| StoreError::Unreachable)?;
        let answer = self.client.send(request).await.map_err(|error| {
            tracing::warn!(%error, "a delivery could not be stored");
            StoreError::Unreachable
        })?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        match status {
            status if status.is_success() => {
                // What is stored now is in the answer, with what others wrote. If that broke off, a watch brings it.
                if let Some(log) = body.ok().and_then(|body| patch::log_in(&body.to_bytes())) {
                    self.targets.saw(object, log);
                }
                Ok(())
            }
            StatusCode::NOT_FOUND => Err(StoreError::Gone),
            status => {
                let said = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let said = serde_json::from_slice::<serde_json::Value>(&said).unwrap_or_default();
                let message = said["message"].as_str().unwrap_or_default();
                if self.complaints.may() {
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

/// The object's address: names are the API server's own, which has checked them.
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
        let limits = Limits { patch: Duration::from_mins(5), ..Limits::default() };
        let complaints = Complaints::new(Arc::new(crate::runtime::clock::SystemClock));
        let inbox = Inbox::new(Client::new(server, "default"), Targets::default(), metrics, limits, complaints);
        let store = async || {
            let (guid, event) = (String::new(), "push".to_owned());
            let received_at = Timestamp::UNIX_EPOCH;
            let hint = Hint { guid, event, action: None, reference: None, sha: None, received_at };
            let stored = inbox.store(Object::App("landfall".into()), hint);
            timeout(Duration::from_mins(3), stored).await.expect("somebody writes it")
        };
        assert_eq!(store().await, Err(StoreError::Unreachable));
        assert_eq!(store().await, Ok(()));
    }
}
