//! The metrics of Landfall, as Prometheus reads them.
//!
//! | metric | type | labels | meaning |
//! |---|---|---|---|
//! | `landfall_reconciles_total` | counter | `kind`, `outcome` | reconciles by outcome: `ok`, `waiting`, `retry`, `stalled` |
//! | `landfall_reconcile_duration_seconds` | histogram | `kind` | duration of reconciles |
//! | `landfall_objects` | gauge | `kind`, `ready`, `reason` | objects by their Ready condition |
//! | `landfall_github_requests_total` | counter | `method`, `route`, `code` | requests to GitHub by route template and status, or by the reason why there was no answer |
//! | `landfall_github_request_duration_seconds` | histogram | `route` | duration of requests to GitHub |
//! | `landfall_github_rate_limit_remaining` | gauge | `app` | requests left in the current window, by the last answer; `app` is the `GitHubApp`'s name |
//! | `landfall_tokens_total` | counter | `event` | installation tokens `minted`, `verified`, `revoked`, and mints that `failed` |
//! | `landfall_events_failed_total` | counter | | events that could not be published |
//! | `landfall_leader` | gauge | | 1 while this process leads |
//! | `landfall_due_objects` | gauge | `state` | objects with a due time in the future (`scheduled`), and objects that wait for their controller (`waiting`) |
//! | `landfall_ready` | gauge | `check` | 1 while a readiness check passes |
//! | `landfall_build_info` | info | `version` | the running version |
//!
//! Invariant: no label has a value that a tenant can choose. (Administrators choose the names of `GitHubApp`s.) Otherwise a
//! tenant could fill Prometheus by making objects. Objects, due times and readiness are counted when metrics are read, so
//! that they cannot drift from the truth.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{due::DueQueue, readiness::Readiness};
use jiff::SignedDuration;

/// The content type of [`Metrics::text`], by the `OpenMetrics` specification.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds. A reconcile without requests takes milliseconds; one that waits for GitHub, seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The object is in the desired state.
    Ok,
    /// It waits for a change that a watch reports.
    Waiting,
    /// It failed and is retried.
    Retry,
    /// It failed, and a person has to act.
    Stalled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenEvent {
    Minted,
    /// A new token worked before it was published.
    Verified,
    Revoked,
    /// A token could not be minted, or did not work.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Status(u16),
    /// There was no answer, for this reason, such as `timeout` or `connect`.
    None(&'static str),
}

/// The number of objects of a kind whose Ready condition has this status and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectCount {
    /// `True`, `False` or `Unknown`.
    pub ready: &'static str,
    /// A reason of this program, never a text from the cluster.
    pub reason: &'static str,
    pub objects: usize,
}

/// The process's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    objects: Arc<Mutex<Vec<ObjectSource>>>,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_duration: Family<KindLabel, Histogram, fn() -> Histogram>,
    github_requests: Family<RequestLabels, Counter>,
    github_request_duration: Family<RouteLabel, Histogram, fn() -> Histogram>,
    github_rate_limit: Family<AppLabel, Gauge>,
    tokens: Family<TokenLabel, Counter>,
    events_failed: Counter,
    leader: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AppLabel {
    app: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabel {
    event: &'static str,
}

impl Metrics {
    /// All metrics at zero, with this build's version.
    #[must_use]
    pub fn new() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(BUCKETS);
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("landfall"))),
            objects: Arc::default(),
            reconciles: Family::default(),
            reconcile_duration: Family::new_with_constructor(durations),
            github_requests: Family::default(),
            github_request_duration: Family::new_with_constructor(durations),
            github_rate_limit: Family::default(),
            tokens: Family::default(),
            events_failed: Counter::default(),
            leader: Gauge::default(),
        };
        for event in [TokenEvent::Minted, TokenEvent::Verified, TokenEvent::Revoked, TokenEvent::Failed] {
            // A series that exists from the start has a rate from its first count on.
            drop(metrics.tokens.get_or_create(&event.label()));
        }
        metrics.register();
        metrics
    }

    fn register(&self) {
        let objects = self.objects.clone();
        self.gauge("objects", "Objects by their Ready condition", move || {
            let sources = objects.lock().unwrap_or_else(PoisonError::into_inner);
            sources.iter().flat_map(ObjectSource::samples).collect()
        });
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("reconciles", "Reconciles by outcome", self.reconciles.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of reconciles",
            Unit::Seconds,
            self.reconcile_duration.clone(),
        );
        registry.register(
            "github_requests",
            "Requests to GitHub by route template and status, or by the reason why there was no answer",
            self.github_requests.clone(),
        );
        registry.register_with_unit(
            "github_request_duration",
            "Duration of requests to GitHub",
            Unit::Seconds,
            self.github_request_duration.clone(),
        );
        registry.register(
            "github_rate_limit_remaining",
            "Requests left in the current rate limit window, by the last answer",
            self.github_rate_limit.clone(),
        );
        registry.register("tokens", "Installation tokens by event", self.tokens.clone());
        registry.register("events_failed", "Events that could not be published", self.events_failed.clone());
        registry.register("leader", "1 while this process leads", self.leader.clone());
        registry.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    }

    /// Adds the metrics of another part of the process.
    pub fn add(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn reconciled(&self, kind: &'static str, outcome: Outcome, took: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { kind, outcome: outcome.as_str() }).inc();
        self.reconcile_duration.get_or_create(&KindLabel { kind }).observe(took.as_secs_f64());
    }

    /// Counts a request to GitHub. `route` is a template such as `/app/installations/{installation_id}`.
    pub fn github_request(&self, method: &http::Method, route: &'static str, answer: Answer, took: Duration) {
        let code = match answer {
            Answer::Status(status) => status.to_string(),
            Answer::None(why) => why.to_owned(),
        };
        self.github_requests.get_or_create(&RequestLabels { method: method.to_string(), route, code }).inc();
        self.github_request_duration.get_or_create(&RouteLabel { route }).observe(took.as_secs_f64());
    }

    /// `app` is the name of a `GitHubApp`.
    pub fn github_rate_limit_remaining(&self, app: &str, remaining: u64) {
        self.github_rate_limit
            .get_or_create(&AppLabel { app: app.to_owned() })
            .set(i64::try_from(remaining).unwrap_or(i64::MAX));
    }

    /// Removes the series of a deleted `GitHubApp`.
    pub fn forget_app(&self, app: &str) {
        self.github_rate_limit.remove(&AppLabel { app: app.to_owned() });
    }

    pub fn token(&self, event: TokenEvent) {
        self.tokens.get_or_create(&event.label()).inc();
    }

    pub fn event_failed(&self) {
        self.events_failed.inc();
    }

    pub fn leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Counts the objects of `kind` in the controller's cache whenever metrics are read.
    pub fn count_objects(&self, kind: &'static str, count: impl Fn() -> Vec<ObjectCount> + Send + Sync + 'static) {
        let source = ObjectSource { kind, count: Box::new(count) };
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Counts the due queue whenever metrics are read. Call it once per process.
    pub fn watch_due_queue(&self, queue: DueQueue) {
        self.gauge(
            "due_objects",
            "Objects with a due time in the future, and objects that wait for their controller",
            move || {
                [("scheduled", queue.len()), ("waiting", queue.due_now())]
                    .map(|(state, objects)| Sample::new(&[("state", state)], objects))
                    .into()
            },
        );
    }

    /// Counts the deliveries in the inboxes, and the seconds that the oldest has waited, whenever metrics are read. Call it once per
    /// process.
    pub fn watch_inboxes(&self, waiting: impl Fn() -> Vec<SignedDuration> + Send + Sync + Clone + 'static) {
        let ages = waiting.clone();
        self.gauge("inbox_deliveries", "Deliveries that wait in the inboxes for the controller", move || {
            vec![Sample::new(&[], ages().len())]
        });
        self.gauge(
            "inbox_oldest_delivery_age_seconds",
            "Time for which the oldest delivery has waited for the controller; 0 if none waits",
            move || {
                let oldest = waiting().into_iter().max().unwrap_or_default();
                vec![Sample::new(&[], usize::try_from(oldest.as_secs()).unwrap_or_default())]
            },
        );
    }

    /// Reads the readiness checks whenever metrics are read. Call it once per process.
    pub fn watch_readiness(&self, readiness: Readiness) {
        self.gauge("ready", "1 while a readiness check passes", move || {
            let checks = readiness.checks().into_iter();
            checks.map(|(name, ready)| Sample::new(&[("check", name)], usize::from(ready))).collect()
        });
    }

    /// All metrics in the `OpenMetrics` text format ([`CONTENT_TYPE`]).
    ///
    /// # Errors
    /// None with this format; the encoder's signature has one.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn gauge(&self, name: &'static str, help: &'static str, read: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        let gauge = ReadGauge { name, help, read: Box::new(read) };
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(Box::new(gauge));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Outcome {
    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Waiting => "waiting",
            Self::Retry => "retry",
            Self::Stalled => "stalled",
        }
    }
}

impl TokenEvent {
    fn label(self) -> TokenLabel {
        let event = match self {
            Self::Minted => "minted",
            Self::Verified => "verified",
            Self::Revoked => "revoked",
            Self::Failed => "failed",
        };
        TokenLabel { event }
    }
}

struct ObjectSource {
    kind: &'static str,
    count: Box<dyn Fn() -> Vec<ObjectCount> + Send + Sync>,
}

impl ObjectSource {
    fn samples(&self) -> Vec<Sample> {
        let count = |count: ObjectCount| {
            Sample::new(&[("kind", self.kind), ("ready", count.ready), ("reason", count.reason)], count.objects)
        };
        (self.count)().into_iter().map(count).collect()
    }
}

/// A gauge that is computed when metrics are read.
struct ReadGauge {
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

struct Sample {
    labels: Vec<(&'static str, &'static str)>,
    value: i64,
}

impl Sample {
    fn new(labels: &[(&'static str, &'static str)], value: usize) -> Self {
        Self { labels: labels.to_vec(), value: i64::try_from(value).unwrap_or(i64::MAX) }
    }
}

impl fmt::Debug for ReadGauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadGauge").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for ReadGauge {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for sample in (self.read)() {
            ConstGauge::new(sample.value).encode(family.encode_family(&sample.labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::{clock::ManualClock, jitter::FixedJitter};

    #[test]
    fn every_metric_of_the_table_has_its_name_and_labels() {
        let metrics = Metrics::new();
        metrics.reconciled("GitHubApp", Outcome::Waiting, Duration::from_millis(20));
        metrics.github_request(&http::Method::GET, "/app", Answer::Status(200), Duration::from_secs(1));
        metrics.github_request(&http::Method::GET, "/app", Answer::None("timeout"), Duration::from_secs(10));
        metrics.github_rate_limit_remaining("landfall", 4999);
        metrics.token(TokenEvent::Minted);
        metrics.event_failed();
        metrics.leader(true);
        metrics.count_objects("GitHubApp", || vec![ObjectCount { ready: "True", reason: "Active", objects: 2 }]);
        metrics.count_objects("InstallationToken", Vec::new);
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        metrics.watch_due_queue(DueQueue::new(clock, Arc::new(FixedJitter(0.0))));
        let readiness = Readiness::new();
        readiness.check("caches").ready();
        metrics.watch_readiness(readiness);
        metrics.watch_inboxes(|| vec![SignedDuration::from_secs(3), SignedDuration::from_mins(7)]);

        let text = metrics.text().expect("encodes");
        for line in [
            r#"landfall_reconciles_total{kind="GitHubApp",outcome="waiting"} 1"#,
            r#"landfall_reconcile_duration_seconds_count{kind="GitHubApp"} 1"#,
            r#"landfall_objects{kind="GitHubApp",ready="True",reason="Active"} 2"#,
            r#"landfall_github_requests_total{method="GET",route="/app",code="200"} 1"#,
            r#"landfall_github_requests_total{method="GET",route="/app",code="timeout"} 1"#,
            r#"landfall_github_request_duration_seconds_sum{route="/app"} 11.0"#,
            r#"landfall_github_rate_limit_remaining{app="landfall"} 4999"#,
            r#"landfall_tokens_total{event="minted"} 1"#,
            r#"landfall_tokens_total{event="failed"} 0"#,
            "landfall_events_failed_total 1",
            "landfall_leader 1",
            r#"landfall_due_objects{state="scheduled"} 0"#,
            r#"landfall_due_objects{state="waiting"} 0"#,
            r#"landfall_ready{check="caches"} 1"#,
            "landfall_inbox_deliveries 2",
            "landfall_inbox_oldest_delivery_age_seconds 420",
            concat!(r#"landfall_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
        assert_eq!(text.matches("# TYPE landfall_objects gauge").count(), 1, "{text}");

        metrics.forget_app("landfall");
        let text = metrics.text().expect("encodes");
        assert!(!text.contains(r#"app="landfall""#), "{text}");
    }
}
