//! A webhook delivery as status shows it: a hint that something happened, and what became of it.
//!
//! Invariant: the log is a plain map that is replaced or merged as a whole and never applied server-side, so that the
//! receiver adds to it and the controller marks it without reading it first. Every field may be absent, for an entry can
//! be marked in the moment in which it is evicted.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Deliveries by GUID (`X-GitHub-Delivery`).
pub type Deliveries = BTreeMap<String, Delivery>;

/// How many deliveries are kept: the newest.
pub const KEPT_DELIVERIES: usize = 16;

/// One delivery.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The event (`X-GitHub-Event`): `push`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub event: Option<String>,
    /// What was done, for events that say it: `renamed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub action: Option<String>,
    /// The ref that was pushed: `refs/heads/main`.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reference: Option<String>,
    /// The commit the ref was at after the push, as the delivery says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sha: Option<String>,
    /// When the receiver accepted it, or accepted it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_time: Option<Time>,
    /// How often it was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i64>,
    /// The state of the delivery. `Pending` makes the operator query GitHub, and does nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<DeliveryResult>,
    /// The reason for `result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

impl Delivery {
    /// Whether the operator has yet to look after it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        Self::waits(self.event.as_deref(), self.result)
    }

    /// Whether a delivery with this event and this result is waiting. An entry that was marked in the moment in which it was
    /// evicted has no event, and so nothing to look for.
    #[must_use]
    pub fn waits(event: Option<&str>, result: Option<DeliveryResult>) -> bool {
        event.is_some() && matches!(result, None | Some(DeliveryResult::Pending))
    }
}

/// The state of a delivery.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    /// The operator has yet to look.
    Pending,
    /// The operator looked at GitHub after it.
    Handled,
    /// It does not concern this object: a push to another branch.
    Ignored,
    /// The operator could not look; the message says why.
    Failed,
}
