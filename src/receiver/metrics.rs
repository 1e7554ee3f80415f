//! The metrics of the receiver, served with the process's other metrics (`/metrics`).
//!
//! | metric | type | labels | meaning |
//! |---|---|---|---|
//! | `landfall_deliveries_total` | counter | `event`, `result` | deliveries with a valid signature by result: `accepted`, `pong`, `ignored`, `refused` |
//! | `landfall_deliveries_refused_total` | counter | `reason` | refused requests by reason |
//! | `landfall_deliveries_in_flight` | gauge | | requests in progress |
//! | `landfall_deliveries_waiting` | gauge | | deliveries that wait to be stored in the inbox |
//! | `landfall_delivery_patches_total` | counter | `result` | patches of the inbox by result: `stored`; `failed`, where a retry may help; `refused`, where it does not |
//! | `landfall_delivery_patch_duration_seconds` | histogram | | duration of the patches of the inbox |
//! | `landfall_delivery_patch_deliveries` | histogram | | deliveries per patch of the inbox |
//!
//! Invariant: no label has a value from a request, except the few known event names.

use crate::runtime::metrics::Metrics as Process;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::Unit;
use std::time::Duration;

/// Seconds: a patch takes a millisecond or two, and times out after five seconds.
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

/// A request is in progress until this is dropped.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers the metrics with the process's.
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
            registry.register("deliveries", "Deliveries with a valid signature by result", metrics.deliveries.clone());
            registry.register("deliveries_refused", "Refused requests by reason", metrics.refused.clone());
            registry.register("deliveries_in_flight", "Requests in progress", metrics.in_flight.clone());
            registry.register(
                "deliveries_waiting",
                "Deliveries that wait to be stored in the inbox",
                metrics.waiting.clone(),
            );
            registry.register("delivery_patches", "Patches of the inbox by result", metrics.patches.clone());
            registry.register_with_unit(
                "delivery_patch_duration",
                "Duration of the patches of the inbox",
                Unit::Seconds,
                metrics.patch_duration.clone(),
            );
            registry.register(
                "delivery_patch_deliveries",
                "Deliveries per patch of the inbox",
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

    #[must_use]
    pub fn began(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts an answered delivery. `event` and `result` are constants.
    pub fn delivered(&self, event: &'static str, result: &'static str) {
        self.deliveries.get_or_create(&DeliveryLabels { event, result }).inc();
    }

    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Adds to the number of deliveries that wait to be stored; negative to subtract.
    pub fn waiting(&self, more: i64) {
        self.waiting.inc_by(more);
    }

    /// Counts a patch of the inbox. `result` is a constant.
    pub fn patched(&self, result: &'static str, deliveries: usize, took: Duration) {
        self.patches.get_or_create(&ResultLabel { result }).inc();
        self.patch_duration.observe(took.as_secs_f64());
        self.patch_deliveries.observe(f64::from(u32::try_from(deliveries).unwrap_or(u32::MAX)));
    }
}
