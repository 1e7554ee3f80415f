//! A webhook delivery in the log of status: the operator wrote it once it had dealt with the delivery.
//!
//! Invariant: the controller alone writes the log, and reads nothing out of it but the log. A delivery that waits is in a
//! [`WebhookInbox`](super::WebhookInbox).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How many deliveries are kept: the newest.
pub const KEPT_DELIVERIES: usize = 16;

/// A delivery that the operator dealt with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The delivery's GUID (`X-GitHub-Delivery`), as in the webhook's list of recent deliveries on GitHub.
    #[schemars(length(max = 64))]
    pub guid: String,
    /// The event (`X-GitHub-Event`): `push`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub event: Option<String>,
    /// The action, for events that have one: `renamed`.
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
    /// When the receiver accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_time: Option<MicroTime>,
    /// The number of times that GitHub delivered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attempts: Option<i64>,
    /// The effect of the delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<DeliveryResult>,
    /// The reason for `result`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// The effect of a delivery.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    /// The operator looked at GitHub after it.
    Handled,
    /// It does not concern this object: a push to another branch.
    Ignored,
    /// The operator could not look; the message says why.
    Failed,
}
