//! The status of a [`Workspace`](super::Workspace).

#![allow(clippy::struct_field_names, reason = "times end in Time in the APIs of Kubernetes")]

use super::Workspace;
use crate::api::reconciled;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The observed state of the workspace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The `metadata.uid` of the object. If it differs, this status belongs to an earlier object of the same name and is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// `Ready` is True while a person can work in the pod. `Reconciling` (the operator is working on it), `Retrying` (it will
    /// repeat a failed call) and `Stalled` (a person must act) are present only while they are True. `CredentialsReady`,
    /// `CloneReady`, `PullRequestReady` and `WorkSafe` are True in normal operation. `Suspended` is True while
    /// `spec.operatingMode` is `Suspended` and the pod is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The state of the clone, as the pod reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<WorkspaceGit>,
    /// The pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequestStatus>,
    /// The last save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save: Option<SaveStatus>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<WorkspacePodStatus>,
    /// The times at which the pod reached each stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<WorkspaceTimings>,
    /// The last value of the annotation `landfall.dev/reconcile` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile: Option<String>,
}

/// The state of a clone, as the pod reports it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceGit {
    /// The workspace's branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit of HEAD.
    #[serde(default, rename = "headSHA", skip_serializing_if = "Option::is_none")]
    pub head_sha: Option<String>,
    /// The commit of the branch at the remote, as it answered the operator.
    #[serde(default, rename = "remoteSHA", skip_serializing_if = "Option::is_none")]
    pub remote_sha: Option<String>,
    /// The number of commits of HEAD that the remote's branch lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ahead_by: Option<i64>,
    /// The number of commits of the remote's branch that HEAD lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub behind_by: Option<i64>,
    /// The number of changed files that git tracks. Absent until the pod has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub changed_files: Option<i64>,
    /// The number of files that git neither tracks nor ignores. Absent until the pod has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub untracked_files: Option<i64>,
    /// The number of commits that the remote does not have. Absent until the pod has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub unpushed_commits: Option<i64>,
}

/// Whether a pull request is open.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullRequestState {
    /// It can be merged.
    #[default]
    Open,
    /// It was closed and not merged.
    Closed,
    /// It was merged.
    Merged,
}

/// A pull request.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PullRequestStatus {
    /// Its number.
    #[schemars(range(min = 1))]
    pub number: i64,
    /// Its page on GitHub.
    #[serde(rename = "htmlURL")]
    pub html_url: String,
    /// Whether it is open.
    pub state: PullRequestState,
    /// Whether it is a draft.
    pub draft: bool,
}

/// A save.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SaveStatus {
    /// The commit.
    pub sha: String,
    /// Where it is at the remote.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The time at which the commit was first seen at the remote.
    pub time: Time,
}

/// A workspace's pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspacePodStatus {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The node that it is on.
    #[serde(default, rename = "nodeName", skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// The times at which a pod reached each stage.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceTimings {
    /// The time at which it was assigned to a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_time: Option<Time>,
    /// The time at which the clone was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_time: Option<Time>,
    /// The time at which it was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_time: Option<Time>,
}

reconciled!(Workspace, WorkspaceStatus);
