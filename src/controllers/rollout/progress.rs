//! How far a workload's pods follow its template: the rules of `kubectl rollout status`, as a pure function.
//!
//! Source: `polymorphichelpers/rollout_status.go` of kubectl 1.36, with three states more that a person has to know of: a
//! paused Deployment, pods that are replaced only when somebody deletes them, and nothing to roll at zero replicas.

use crate::api::WorkloadKind;
use serde::Deserialize;

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All pods are of the template, or will be without anybody waiting for it; why, if that is not plain.
    Done(Option<String>),
    /// Not yet.
    Underway {
        /// What is seen: "1 of 3 pods updated".
        what: String,
        /// Kubernetes watches over a deadline of its own (`progressDeadlineSeconds`).
        has_deadline: bool,
    },
    /// Kubernetes gave it up.
    Failed(String),
}

/// The fields that tell it, of a Deployment, a `StatefulSet` or a `DaemonSet`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// How many pods. Defaulted by the API server, so always there but in a `DaemonSet`.
    pub replicas: Option<i64>,
    /// A Deployment whose changes wait.
    pub paused: bool,
    /// Of a Deployment, though its kind of strategy does not matter here.
    pub template: Template,
    /// Of a `StatefulSet` or a `DaemonSet`.
    pub update_strategy: UpdateStrategy,
}

/// A pods' template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Template {
    /// Its metadata.
    pub metadata: TemplateMetadata,
}

/// A template's metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TemplateMetadata {
    /// Its annotations.
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// How a `StatefulSet` or a `DaemonSet` replaces its pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`.
    pub r#type: Option<String>,
    /// Its details.
    pub rolling_update: Option<RollingUpdate>,
}

/// The details of a rolling update.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RollingUpdate {
    /// Of a `StatefulSet`: pods of lower ordinals stay as they are.
    pub partition: Option<i64>,
}

/// What its controller says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    observed_generation: i64,
    replicas: i64,
    updated_replicas: i64,
    ready_replicas: i64,
    available_replicas: i64,
    current_revision: String,
    update_revision: String,
    desired_number_scheduled: i64,
    updated_number_scheduled: i64,
    number_available: i64,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
}

/// How far it is.
#[must_use]
pub fn progress(kind: WorkloadKind, generation: i64, spec: &Spec, status: &Status) -> Progress {
    let is_deployment = kind == WorkloadKind::Deployment;
    if kind != WorkloadKind::DaemonSet && spec.replicas == Some(0) {
        return Progress::Done(Some("scaled to zero".to_owned()));
    }
    if status.observed_generation < generation {
        return underway("its controller has not seen the change yet".to_owned());
    }
    if is_deployment && spec.paused {
        return underway("it is paused (kubectl rollout resume)".to_owned());
    }
    if !is_deployment && spec.update_strategy.r#type.as_deref() == Some("OnDelete") {
        return Progress::Done(Some("its pods are replaced as they are deleted (OnDelete)".to_owned()));
    }
    match kind {
        WorkloadKind::Deployment => deployment(spec, status),
        WorkloadKind::StatefulSet => stateful_set(spec, status),
        WorkloadKind::DaemonSet => daemon_set(status),
    }
}

fn underway(what: String) -> Progress {
    Progress::Underway { what, has_deadline: false }
}

fn deployment(spec: &Spec, status: &Status) -> Progress {
    let progressing = status.conditions.iter().find(|condition| condition.r#type == "Progressing");
    if let Some(condition) =
        progressing.filter(|condition| condition.status == "False" && condition.reason == "ProgressDeadlineExceeded")
    {
        let seen = counts(status.updated_replicas, status.available_replicas, spec.replicas.unwrap_or(1));
        return Progress::Failed(format!("{seen}; {}", condition.message));
    }
    let replicas = spec.replicas.unwrap_or(1);
    let what = if status.updated_replicas < replicas {
        counts(status.updated_replicas, status.available_replicas, replicas)
    } else if status.replicas > status.updated_replicas {
        format!("{} pods of the former template are still ending", status.replicas - status.updated_replicas)
    } else if status.available_replicas < status.updated_replicas {
        counts(status.updated_replicas, status.available_replicas, replicas)
    } else {
        return Progress::Done(None);
    };
    Progress::Underway { what, has_deadline: progressing.is_some() }
}

fn stateful_set(spec: &Spec, status: &Status) -> Progress {
    let replicas = spec.replicas.unwrap_or(1);
    let partition = spec.update_strategy.rolling_update.as_ref().and_then(|rolling| rolling.partition).unwrap_or(0);
    let wanted = (replicas - partition).max(0);
    if status.ready_replicas < replicas || (partition > 0 && status.updated_replicas < wanted) {
        return underway(counts(status.updated_replicas, status.ready_replicas, wanted));
    }
    if partition > 0 {
        return Progress::Done(Some(format!("the {partition} pods below its partition stay as they are")));
    }
    if status.update_revision != status.current_revision {
        return underway(counts(status.updated_replicas, status.ready_replicas, replicas));
    }
    Progress::Done(None)
}

fn daemon_set(status: &Status) -> Progress {
    let desired = status.desired_number_scheduled;
    if status.updated_number_scheduled < desired || status.number_available < desired {
        return underway(counts(status.updated_number_scheduled, status.number_available, desired));
    }
    Progress::Done(None)
}

fn counts(updated: i64, available: i64, wanted: i64) -> String {
    format!("{updated} of {wanted} pods updated, {available} available")
}
