//! The inbox of this receiver: stores deliveries before their senders hear that they were accepted.
//!
//! At most one patch is under way. Deliveries that arrive meanwhile share the next one, whatever objects they are for. Where several
//! did, the next patch waits a moment for as many again: each patch costs the API server the most, and each entry in it little.
//! Invariant: `Ok` means that the API server stored the patch; and a queued delivery is written even if its sender hangs up.

mod patch;

use super::log_limiter::LogLimiter;
use super::metrics::Metrics;
use super::targets::Object;
use crate::api::{ID_LIMIT, WaitingDelivery, WebhookInbox};
use crate::runtime::readiness::Check;
use futures::FutureExt as _;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::client::Body;
use kube::{Client, Resource};
use patch::Stored;
use serde::Deserialize;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The receiver's field manager.
pub const FIELD_MANAGER: &str = "landfall-receiver";

/// How often the receiver asks for an inbox that is not there.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Limits for writing to the inbox.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Deliveries that wait to be written, once for each object that they concern.
    pub waiting: usize,
    /// Time for one patch. GitHub gives up on a delivery after ten seconds.
    pub timeout: Duration,
    /// The longest wait for further deliveries before a patch, where several have just shared one.
    pub gather: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { waiting: 4096, timeout: Duration::from_secs(5), gather: Duration::from_millis(2) }
    }
}

/// Namespace and name of a `WebhookInbox`.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

/// The fields of a delivery that are stored. They make the operator look, and nothing in them is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryHint {
    /// The `GitHubApp`.
    pub app: String,
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
    #[error("the receiver has no WebhookInbox yet; try again")]
    NoInbox,
    #[error("Kubernetes did not answer; try again")]
    Unreachable,
    #[error("Kubernetes refused to store it (status {0})")]
    Refused(u16),
}

impl StoreError {
    /// A retry may help. Another refusal stays: an admission policy forbids the patch, or the receiver's role does.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::Full | Self::NoInbox | Self::Unreachable | Self::Refused(408 | 409 | 429 | 502 | 503 | 504)
        )
    }
}

/// The inbox. Clones share the queue.
#[derive(Clone)]
pub struct Inbox(Arc<Inner>);

struct Inner {
    client: Client,
    place: Place,
    metrics: Metrics,
    limits: Limits,
    log_limiter: LogLimiter,
    check: Check,
    queue: Mutex<Queue>,
    /// A delivery was queued.
    queued: Notify,
    /// The inbox as the last answer showed it. `None`: it has to be read first.
    stored: Mutex<Option<Stored>>,
    /// The inbox was not found.
    lost: Notify,
    writers: TaskTracker,
}

#[derive(Default)]
struct Queue {
    waiters: Vec<Waiter>,
    /// The number of their entries.
    entries: usize,
    /// A task writes until nothing waits.
    is_written: bool,
    last_id: i64,
}

struct Waiter {
    entries: Vec<WaitingDelivery>,
    result: oneshot::Sender<Result<(), StoreError>>,
}

impl Inbox {
    pub fn new(
        client: Client,
        place: Place,
        metrics: Metrics,
        limits: Limits,
        (log_limiter, check): (LogLimiter, Check),
    ) -> Self {
        let (queue, stored) = (Mutex::default(), Mutex::default());
        let (queued, lost, writers) = (Notify::new(), Notify::new(), TaskTracker::new());
        Self(Arc::new(Inner {
            client,
            place,
            metrics,
            limits,
            log_limiter,
            check,
            queue,
            queued,
            stored,
            lost,
            writers,
        }))
    }

    /// Waits for the inbox, and again whenever it is lost.
    pub async fn run(&self, until: CancellationToken) {
        let waiting = async {
            loop {
                match self.0.read().await {
                    Ok(stored) => {
                        lock(&self.0.stored).get_or_insert(stored);
                        self.0.check.ready();
                        self.0.lost.notified().await;
                    }
                    Err(StoreError::NoInbox) => {
                        let Place { namespace, name } = &self.0.place;
                        self.0.check.not_ready(format!(
                            "there is no WebhookInbox {name} in namespace {namespace}: the controller makes it for this pod; its log says why not"
                        ));
                        sleep(ASK_EVERY).await;
                    }
                    Err(error) => {
                        self.0.check.not_ready(format!("the WebhookInbox cannot be read: {error}"));
                        sleep(ASK_EVERY).await;
                    }
                }
            }
        };
        tokio::select! {
            () = waiting => {}
            () = until.cancelled() => {}
        }
    }

    /// Stores a delivery for each of these objects. The call queues it; dropping the future does not cancel it.
    pub fn store(
        &self,
        objects: Vec<Object>,
        hint: &DeliveryHint,
    ) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (result, written) = oneshot::channel();
        let queued = self.queue(objects, hint, result);
        async move {
            queued?;
            // Only a process that is being killed drops the sender without a result.
            written.await.unwrap_or(Err(StoreError::Unreachable))
        }
    }

    /// Waits until every queued delivery is written or has failed.
    pub async fn flush(&self) {
        self.0.writers.close();
        self.0.writers.wait().await;
    }

    fn queue(
        &self,
        objects: Vec<Object>,
        hint: &DeliveryHint,
        result: oneshot::Sender<Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let mut queue = lock(&self.0.queue);
        if queue.entries >= self.0.limits.waiting {
            return Err(StoreError::Full);
        }
        queue.entries += objects.len();
        let entries = objects.into_iter().map(|object| entry(object, hint, queue.next_id(hint.received_at))).collect();
        queue.waiters.push(Waiter { entries, result });
        self.0.metrics.waiting(1);
        let has_a_writer = std::mem::replace(&mut queue.is_written, true);
        drop(queue);
        if has_a_writer {
            self.0.queued.notify_one();
        } else {
            let inner = Arc::clone(&self.0);
            self.0.writers.spawn(async move { inner.write_all().await });
        }
        Ok(())
    }
}

impl Queue {
    /// A number that no delivery of this inbox had, also before a restart: the time in microseconds, or one more than the last.
    fn next_id(&mut self, now: Timestamp) -> i64 {
        self.last_id = now.as_microsecond().max(self.last_id.saturating_add(1));
        self.last_id
    }

    /// All that waits. The patch is bounded, because entries for one object are merged.
    fn take(&mut self) -> Vec<Waiter> {
        self.entries = 0;
        std::mem::take(&mut self.waiters)
    }
}

impl Inner {
    /// Writes until nothing waits.
    async fn write_all(&self) {
        loop {
            let group = {
                let mut queue = lock(&self.queue);
                let group = queue.take();
                if group.is_empty() {
                    queue.is_written = false;
                    return;
                }
                group
            };
            let began = Instant::now();
            let added: Vec<_> = group.iter().flat_map(|waiter| waiter.entries.iter().cloned()).collect();
            let writing = AssertUnwindSafe(timeout(self.limits.timeout, self.write(added)));
            // After a panic the next deliveries are still written.
            let result = writing.catch_unwind().await.unwrap_or(Ok(Err(StoreError::Unreachable)));
            let result = result.unwrap_or(Err(StoreError::Unreachable));
            if result.is_err() {
                // The patch may have been stored although no answer came.
                lock(&self.stored).take();
            }
            let word = match result {
                Ok(()) => "stored",
                Err(error) if error.is_temporary() => "failed",
                Err(_) => "refused",
            };
            self.metrics.patched(word, group.len(), began.elapsed());
            self.metrics.waiting(-i64::try_from(group.len()).unwrap_or_default());
            let expected = group.len() + lock(&self.queue).waiters.len();
            for waiter in group {
                // A sender that hung up has no receiver any more.
                let _ = waiter.result.send(result);
            }
            if expected > 1 {
                // Senders that have an answer send the next delivery at once.
                let _ = timeout(self.limits.gather, self.until_waiting(expected)).await;
            }
        }
    }

    /// Waits until so many deliveries wait.
    async fn until_waiting(&self, count: usize) {
        while lock(&self.queue).waiters.len() < count {
            self.queued.notified().await;
        }
    }

    /// Adds deliveries to the inbox. If the controller took some out meanwhile, the inbox is read and patched again.
    async fn write(&self, added: Vec<WaitingDelivery>) -> Result<(), StoreError> {
        loop {
            let known = lock(&self.stored).take();
            let stored = match known {
                Some(stored) => stored,
                None => self.read().await?,
            };
            let body = patch::patch(&stored, added.clone()).to_string();
            let request = Request::patch(format!("{}/status?fieldManager={FIELD_MANAGER}", self.path()))
                .header(header::CONTENT_TYPE, "application/json-patch+json");
            match self.send(request, body.into_bytes()).await? {
                (status, answer) if status.is_success() => {
                    *lock(&self.stored) = read(&answer);
                    return Ok(());
                }
                (StatusCode::CONFLICT, _) => {}
                (status, answer) => return Err(self.refused(status, &answer)),
            }
        }
    }

    async fn read(&self) -> Result<Stored, StoreError> {
        match self.send(Request::get(self.path()), Vec::new()).await? {
            (status, answer) if status.is_success() => {
                let stored = read(&answer).ok_or_else(|| {
                    tracing::warn!(name = self.place.name, "the WebhookInbox cannot be parsed");
                    StoreError::Unreachable
                })?;
                // Numbers go up, also after a restart on a clock that was set back.
                // A forged number leaves enough of them.
                let ids = stored.deliveries().map(|delivery| delivery.id).filter(|id| *id < ID_LIMIT / 2);
                let last = ids.max().unwrap_or_default();
                let mut queue = lock(&self.queue);
                queue.last_id = queue.last_id.max(last);
                drop(queue);
                Ok(stored)
            }
            (status, answer) => Err(self.refused(status, &answer)),
        }
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
    ) -> Result<(StatusCode, bytes::Bytes), StoreError> {
        let request = request
            .header(header::ACCEPT, "application/json")
            .body(Body::from(body))
            .map_err(|_| StoreError::Unreachable)?;
        let answer = self.client.send(request).await.map_err(|error| {
            if self.log_limiter.allows() {
                tracing::warn!(%error, "cannot reach the WebhookInbox");
            }
            StoreError::Unreachable
        })?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        if let (true, Err(error)) = (status.is_success(), &body) {
            // The API server stored the patch; the next write reads the inbox again.
            tracing::debug!(%error, "the answer broke off");
        }
        Ok((status, body.map(http_body_util::Collected::to_bytes).unwrap_or_default()))
    }

    fn refused(&self, status: StatusCode, answer: &[u8]) -> StoreError {
        if status == StatusCode::NOT_FOUND {
            self.lost.notify_one();
            return StoreError::NoInbox;
        }
        let said = serde_json::from_slice::<serde_json::Value>(answer).unwrap_or_default();
        let message = said["message"].as_str().unwrap_or_default();
        if self.log_limiter.allows() {
            let Place { namespace, name } = &self.place;
            tracing::warn!(namespace, name, status = status.as_u16(), message, "Kubernetes refused the WebhookInbox");
        }
        StoreError::Refused(status.as_u16())
    }

    fn path(&self) -> String {
        let Place { namespace, name } = &self.place;
        format!("{}/{name}", WebhookInbox::url_path(&(), Some(namespace)))
    }
}

/// The entry for one object.
fn entry(object: Object, hint: &DeliveryHint, id: i64) -> WaitingDelivery {
    let (namespace, name) = match object {
        Object::App(_) => (None, None),
        Object::Repository((namespace, name)) => (Some(namespace.to_string()), Some(name.to_string())),
    };
    let DeliveryHint { app, guid, event, action, reference, sha, received_at } = hint.clone();
    WaitingDelivery {
        id,
        app,
        namespace,
        name,
        every_repository: false,
        guid,
        event,
        action,
        reference,
        sha,
        receipt_time: MicroTime(received_at),
        merged: None,
    }
}

/// The patch that adds a delivery for the App to an empty inbox, for the fuzzer.
#[cfg(any(test, feature = "fuzzing"))]
pub fn patched(hint: &DeliveryHint) -> String {
    patch::patch(&Stored::default(), vec![entry(Object::App("landfall".into()), hint, 1)]).to_string()
}

/// Parses the answer to a patch, for the fuzzer.
#[cfg(any(test, feature = "fuzzing"))]
pub fn parsed(answer: &[u8]) {
    assert!(read(answer).is_none_or(|stored| stored.deliveries().count() <= stored.entries.len()));
}

/// The inbox in an answer; nothing else of it is read.
fn read(object: &[u8]) -> Option<Stored> {
    #[derive(Deserialize)]
    struct Answer {
        metadata: Versioned,
        #[serde(default)]
        status: Status,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        resource_version: String,
    }
    #[derive(Default, Deserialize)]
    struct Status {
        #[serde(default)]
        deliveries: Vec<String>,
    }
    let Answer { metadata, status } = serde_json::from_slice(object).ok()?;
    Some(Stored { version: metadata.resource_version, entries: status.deliveries })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::readiness::Readiness;
    use http::Response;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// An inbox whose API server answers the requests by their number.
    fn inbox(answer: impl Fn(usize) -> (u16, &'static str) + Clone + Send + 'static) -> (Inbox, Readiness) {
        let count = Arc::new(AtomicUsize::new(0));
        let server = tower::service_fn(move |_: Request<Body>| {
            let (answer, count) = (answer.clone(), Arc::clone(&count));
            async move {
                let (status, body) = answer(count.fetch_add(1, Ordering::SeqCst));
                let body = Body::from(body.as_bytes().to_vec());
                Response::builder().status(status).body(body)
            }
        });
        let metrics = Metrics::new(&crate::runtime::metrics::Metrics::new());
        let limits = Limits { timeout: Duration::from_mins(5), ..Limits::default() };
        let log_limiter = LogLimiter::new(Arc::new(crate::runtime::clock::SystemClock));
        let place = Place { namespace: "landfall-system".into(), name: "receiver-1".into() };
        let readiness = Readiness::new();
        let check = readiness.check("inbox");
        (Inbox::new(Client::new(server, "default"), place, metrics, limits, (log_limiter, check)), readiness)
    }

    async fn stored(inbox: &Inbox) -> Result<(), StoreError> {
        let hint = DeliveryHint {
            app: "landfall".into(),
            guid: String::new(),
            event: "push".into(),
            action: None,
            reference: None,
            sha: None,
            received_at: Timestamp::UNIX_EPOCH,
        };
        let stored = inbox.store(vec![Object::App("landfall".into())], &hint);
        timeout(Duration::from_mins(3), stored).await.expect("a task writes it")
    }

    const THERE: &str = r#"{"metadata": {"resourceVersion": "7"}}"#;

    #[tokio::test]
    async fn deliveries_after_one_whose_write_panicked_are_written() {
        let (inbox, _) = inbox(|number| {
            assert!(number > 0, "a test's panic");
            (200, THERE)
        });
        assert_eq!(stored(&inbox).await, Err(StoreError::Unreachable));
        assert_eq!(stored(&inbox).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn senders_that_shared_a_patch_share_the_next_one() {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let (inbox, _) = inbox(move |number| {
            counted.store(number + 1, Ordering::SeqCst);
            (200, THERE)
        });
        let sends = async |pause: Duration| {
            for _ in 0..3 {
                assert_eq!(stored(&inbox).await, Ok(()));
                sleep(pause).await;
            }
        };
        // The second one answers a little later than the first.
        tokio::join!(sends(Duration::ZERO), sends(Duration::from_millis(1)));
        assert_eq!(requests.load(Ordering::SeqCst), 4, "one read and a patch for each pair");
    }

    #[tokio::test]
    async fn an_inbox_that_changed_meanwhile_is_read_and_patched_again() {
        let (inbox, _) = inbox(|number| if number == 1 { (409, "{}") } else { (200, THERE) });
        assert_eq!(stored(&inbox).await, Ok(()));
    }

    #[tokio::test]
    async fn without_an_inbox_nothing_is_stored_and_the_receiver_waits_for_it() {
        let (inbox, readiness) = inbox(|number| if number < 2 { (404, "{}") } else { (200, THERE) });
        assert_eq!(stored(&inbox).await, Err(StoreError::NoInbox));
        let until = CancellationToken::new();
        let running = tokio::spawn({
            let (inbox, until) = (inbox.clone(), until.clone());
            async move { inbox.run(until).await }
        });
        timeout(Duration::from_mins(3), async {
            while !readiness.report().passed {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the inbox is found");
        assert_eq!(stored(&inbox).await, Ok(()));
        until.cancel();
        running.await.expect("it ends");
    }

    #[test]
    fn numbers_are_never_used_twice() {
        let mut queue = Queue::default();
        let at = |micro| Timestamp::from_microsecond(micro).unwrap();
        assert_eq!([5, 5, 3, 9].map(|micro| queue.next_id(at(micro))), [5, 6, 7, 9]);
    }
}
