//! What the receiver counts. It is read together with the process's other metrics (`/metrics`).
//!
//! | metric | type | labels | what |
//! |---|---|---|---|
//! | `landfall_deliveries_total` | counter | `event`, `result` | deliveries with a right signature: `accepted`, `pong`, `ignored`, `refused` |
//! | `landfall_deliveries_refused_total` | counter | `reason` | requests that were refused, by why |
//! | `landfall_deliveries_in_flight` | gauge | | requests that are being read or worked on |
//! | `landfall_deliveries_waiting` | gauge | | deliveries on their way into a status, by object |
//! | `landfall_delivery_patches_total` | counter | `result` | status patches: `stored`; `failed`, which may be otherwise in a moment; `refused`, which will not |
//! | `landfall_delivery_patch_duration_seconds` | histogram | | how long a status patch took |
//! | `landfall_delivery_patch_deliveries` | histogram | | deliveries that shared a status patch |
//!
//! Invariant: no label takes a value from a request, but that of the few events that are known by name.

use crate::runtime::metrics::Metrics as Process;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::Unit;
use std::time::Duration;

/// Seconds: a patch takes a millisecond or two, and is given up after five seconds.
const SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Deliveries in one patch.
const GROUP: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The receiver's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    deliveries: Family<DeliveryLabels, Counter>,
    refused: Family<ReasonLabel, Counter>,
    in_flight: Gauge,
    waiting: Gauge,
    patches: Family<ResultLabel, Counter>,
    patch_duration: Histogram,
    patch_deliveries: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    event: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// A request that is being worked on, until it is dropped.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// All at zero, among the process's.
    #[must_use]
    pub fn new(process: &Process) -> Self {
        let metrics = Self {
            deliveries: Family::default(),
            refused: Family::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            patches: Family::default(),
            patch_duration: Histogram::new(SECONDS),
            patch_deliveries: Histogram::new(GROUP),
        };
        process.add(|registry| {
            registry.register("deliveries", "Deliveries with a right signature", metrics.deliveries.clone());
            registry.register("deliveries_refused", "Requests that were refused, by why", metrics.refused.clone());
            registry.register(
                "deliveries_in_flight",
                "Requests that are being read or worked on",
                metrics.in_flight.clone(),
            );
            registry.register(
                "deliveries_waiting",
                "Deliveries on their way into a status, by object",
                metrics.waiting.clone(),
            );
            registry.register("delivery_patches", "Status patches by result", metrics.patches.clone());
            registry.register_with_unit(
                "delivery_patch_duration",
                "How long a status patch took",
                Unit::Seconds,
                metrics.patch_duration.clone(),
            );
            registry.register(
                "delivery_patch_deliveries",
                "Deliveries that shared a status patch",
                metrics.patch_deliveries.clone(),
            );
        });
        metrics
    }

    /// Counts each of them once: a series is encoded only once it has a value.
    pub fn count_once(&self) {
        drop(self.began());
        self.delivered("push", "accepted");
        self.refused("signature");
        self.waiting(0);
        self.patched("stored", 1, Duration::ZERO);
    }

    /// A request began.
    #[must_use]
    pub fn began(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// A delivery was answered. `event` and `result` are words of ours.
    pub fn delivered(&self, event: &'static str, result: &'static str) {
        self.deliveries.get_or_create(&DeliveryLabels { event, result }).inc();
    }

    /// A request was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// So many more deliveries are on their way into a status, or fewer.
    pub fn waiting(&self, more: i64) {
        self.waiting.inc_by(more);
    }

    /// A status patch with so many deliveries ended. `result` is a word of ours.
    pub fn patched(&self, result: &'static str, deliveries: usize, took: Duration) {
        self.patches.get_or_create(&ResultLabel { result }).inc();
        self.patch_duration.observe(took.as_secs_f64());
        self.patch_deliveries.observe(f64::from(u32::try_from(deliveries).unwrap_or(u32::MAX)));
    }
}
