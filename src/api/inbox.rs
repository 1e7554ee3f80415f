//! `WebhookInbox`: the deliveries that a receiver took and that the operator has yet to deal with.
//!
//! Invariant: the receiver alone adds deliveries and the controller alone takes them out. The kind has no validation beyond its types, because the API server checks it at every delivery.

#![expect(clippy::duplicated_attributes, reason = "several printer columns have the same type")]

use super::without_status;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The deliveries that one receiver took and that the operator has yet to deal with. The operator makes one for each receiver's
/// pod, under the pod's name. Kubernetes removes it with the pod.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "landfall.dev",
    version = "v1alpha1",
    kind = "WebhookInbox",
    plural = "webhookinboxes",
    namespaced,
    shortname = "lfinbox",
    category = "landfall",
    status = "WebhookInboxStatus",
    derive = "PartialEq",
    doc = "The webhook deliveries that one receiver took and that the operator has yet to deal with. Made by the operator for each receiver's pod.",
    printcolumn(name = "Waiting-Since", type_ = "date", json_path = ".status.deliveries[0].receiptTime"),
    printcolumn(name = "Event", type_ = "string", json_path = ".status.deliveries[0].event"),
    printcolumn(name = "App", type_ = "string", json_path = ".status.deliveries[0].appName"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.deliveries[0].namespace"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".status.deliveries[0].repositoryName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct WebhookInboxSpec {}

/// The deliveries that wait.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WebhookInboxStatus {
    /// The deliveries that wait, in the order of their arrival.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub deliveries: Vec<WaitingDelivery>,
}

/// A delivery that waits for the operator, or several for one object.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WaitingDelivery {
    /// A number that no other delivery of this inbox has or had.
    pub id: i64,
    /// The name of the GitHubApp.
    #[serde(rename = "appName")]
    pub app: String,
    /// The namespace of the ProjectRepository that the delivery concerns. Absent if it concerns the App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of the ProjectRepository that the delivery concerns. Absent if it concerns the App.
    #[serde(default, rename = "repositoryName", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the delivery concerns every ProjectRepository of the App, because deliveries for too many of them waited.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub every_repository: bool,
    /// The delivery's GUID (`X-GitHub-Delivery`), as in the webhook's list of recent deliveries on GitHub.
    #[schemars(length(max = 64))]
    pub guid: String,
    /// The event (`X-GitHub-Event`): `push`.
    #[schemars(length(max = 64))]
    pub event: String,
    /// The action, for events that have one: `renamed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub action: Option<String>,
    /// The ref that was pushed: `refs/heads/main`. Absent where deliveries for several refs were merged, and where it is longer
    /// than 255 characters.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub reference: Option<String>,
    /// The commit the ref was at after the push, as the delivery says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sha: Option<String>,
    /// When the receiver accepted it, or the first of those that were merged.
    pub receipt_time: MicroTime,
    /// The number of deliveries that this entry stands for, if they are more than one. GUID, event and commit are those of the newest.
    #[serde(default, rename = "mergedCount", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub merged: Option<i64>,
}

impl WaitingDelivery {
    /// Namespace and name of the `ProjectRepository` that it concerns. `None`: it concerns the App.
    #[must_use]
    pub fn repository(&self) -> Option<(&str, &str)> {
        self.namespace.as_deref().zip(self.name.as_deref())
    }

    /// Whether it concerns the App itself, and no repository.
    #[must_use]
    pub fn is_for_app(&self) -> bool {
        self.repository().is_none() && !self.every_repository
    }
}

// The controller takes deliveries out of the status, and writes nothing else there. An inbox has no conditions.
without_status!(WebhookInbox);
