//! The metrics of the gateway, served with the process's other metrics (`/metrics`).
//!
//! | metric | type | labels | meaning |
//! |---|---|---|---|
//! | `landfall_gateway_pushes_total` | counter | `result` | pushes: GitHub `answered`, the gateway `refused` them, or the exchange with GitHub `failed` |
//! | `landfall_gateway_refused_refs_total` | counter | | refs of pushes that the gateway refused |
//! | `landfall_gateway_bytes_total` | counter | `direction` | bytes of git's bodies: `from_github`, `to_github` |
//! | `landfall_gateway_tokens` | gauge | | tokens of GitHub that the process holds |
//!
//! Invariant: no label has a value from a request.

use crate::runtime::metrics::Metrics as Process;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

/// How a push ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushResult {
    /// GitHub took or refused it.
    Answered,
    /// The gateway refused it.
    Refused,
    /// GitHub gave no answer of git's.
    Failed,
}

impl PushResult {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The gateway's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    pushes: Family<ResultLabel, Counter>,
    refused_refs: Counter,
    bytes: Family<DirectionLabel, Counter>,
    tokens: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

/// Adds the gateway's metrics to those of a process, each with a value, for the reference.
pub(crate) fn count_once(process: &Process) {
    let metrics = Metrics::new(process);
    metrics.pushed(PushResult::Answered);
    metrics.from_github().inc();
}

/// Metrics that nobody reads.
impl Default for Metrics {
    fn default() -> Self {
        Self::new(&Process::new())
    }
}

impl Metrics {
    /// Registers the metrics with the process's.
    #[must_use]
    pub fn new(process: &Process) -> Self {
        let metrics = Self {
            pushes: Family::default(),
            refused_refs: Counter::default(),
            bytes: Family::default(),
            tokens: Gauge::default(),
        };
        process.add(|registry| {
            registry.register("gateway_pushes", "Pushes by result", metrics.pushes.clone());
            registry.register(
                "gateway_refused_refs",
                "Refs of pushes that the gateway refused",
                metrics.refused_refs.clone(),
            );
            registry.register("gateway_bytes", "Bytes of git's bodies by direction", metrics.bytes.clone());
            registry.register("gateway_tokens", "Tokens of GitHub that the process holds", metrics.tokens.clone());
        });
        metrics
    }

    pub fn pushed(&self, result: PushResult) {
        self.pushes.get_or_create(&ResultLabel { result: result.as_str() }).inc();
    }

    /// How many pushes ended in this way.
    #[must_use]
    pub fn pushes(&self, result: PushResult) -> u64 {
        self.pushes.get_or_create(&ResultLabel { result: result.as_str() }).get()
    }

    pub fn refused_refs(&self, count: usize) {
        self.refused_refs.inc_by(count as u64);
    }

    /// The counter of bytes from GitHub.
    #[must_use]
    pub fn from_github(&self) -> Counter {
        self.bytes.get_or_create_owned(&DirectionLabel { direction: "from_github" })
    }

    /// The counter of bytes to GitHub.
    #[must_use]
    pub fn to_github(&self) -> Counter {
        self.bytes.get_or_create_owned(&DirectionLabel { direction: "to_github" })
    }

    /// Sets the number of tokens that are held.
    pub fn tokens(&self, count: usize) {
        self.tokens.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
