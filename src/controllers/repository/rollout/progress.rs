//! The progress of a workload's pods towards its template: the rules of `kubectl rollout status`, as a pure function.
//!
//! Source: `polymorphichelpers/rollout_status.go` of kubectl 1.36, with three more states that a person has to know
//! about: a paused Deployment, pods that are replaced only when somebody deletes them, and nothing to restart at zero
//! replicas.

use crate::api::WorkloadKind;
use serde::Deserialize;

/// The progress of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All pods have the template, or will have it without a wait, with a reason if that is not obvious.
    Done(Option<String>),
    /// The rollout is not complete.
    Underway {
        /// The observed state: "1 of 3 pods updated".
        what: String,
        /// Kubernetes has a deadline for it (`progressDeadlineSeconds`).
        has_deadline: bool,
    },
    /// Kubernetes gave up.
    Failed(String),
}

/// The relevant fields of the spec of a Deployment, a `StatefulSet` or a `DaemonSet`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The number of pods. The API server sets a default, so only a `DaemonSet` has none.
    pub replicas: Option<i64>,
    /// A paused Deployment does not roll out changes.
    pub paused: bool,
    pub template: Template,
    /// Of a `StatefulSet`: `Parallel`, or `OrderedReady`, which is the default.
    pub pod_management_policy: Option<String>,
    /// Of a `StatefulSet` or a `DaemonSet`.
    pub update_strategy: UpdateStrategy,
}

/// The template of the pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Template {
    pub metadata: TemplateMetadata,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TemplateMetadata {
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// The strategy by which a `StatefulSet` or a `DaemonSet` replaces its pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`.
    pub r#type: Option<String>,
    pub rolling_update: Option<RollingUpdate>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RollingUpdate {
    /// Of a `StatefulSet`: pods with lower ordinals keep the old template.
    pub partition: Option<i64>,
}

/// The relevant fields of the status.
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
    reason: String,
    message: String,
}

/// Computes the progress of a rollout.
#[must_use]
pub fn progress(kind: WorkloadKind, generation: i64, spec: &Spec, status: &Status) -> Progress {
    let is_deployment = kind == WorkloadKind::Deployment;
    if kind != WorkloadKind::DaemonSet && spec.replicas == Some(0) {
        return Progress::Done(Some("scaled to zero".to_owned()));
    }
    if status.observed_generation < generation {
        return underway("its controller has not seen the change yet".to_owned());
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
    let replicas = spec.replicas.unwrap_or(1);
    let seen = counts(status.updated_replicas, status.available_replicas, replicas);
    let progressing = status.conditions.iter().find(|condition| condition.r#type == "Progressing");
    let timed_out = |condition: &&Condition| condition.reason == "ProgressDeadlineExceeded";
    if let Some(condition) = progressing.filter(timed_out) {
        return Progress::Failed(format!("{seen}; {}", condition.message));
    }
    let ending = status.replicas - status.updated_replicas;
    let what = if status.updated_replicas >= replicas && ending > 0 {
        format!("{seen}, {ending} of the former template are still ending")
    } else if status.updated_replicas < replicas || status.available_replicas < status.updated_replicas {
        seen
    } else {
        return Progress::Done(None);
    };
    if spec.paused {
        return underway(format!("{what}; it is paused: kubectl rollout resume"));
    }
    // After a rollout was complete once, Kubernetes no longer checks the deadline for its pods.
    let has_deadline = progressing.is_some_and(|condition| condition.reason != "NewReplicaSetAvailable");
    Progress::Underway { what, has_deadline }
}

fn stateful_set(spec: &Spec, status: &Status) -> Progress {
    let replicas = spec.replicas.unwrap_or(1);
    let partition = spec.update_strategy.rolling_update.as_ref().and_then(|rolling| rolling.partition).unwrap_or(0);
    let wanted = (replicas - partition).max(0);
    if status.ready_replicas < replicas || (partition > 0 && status.updated_replicas < wanted) {
        let seen = counts(status.updated_replicas, status.ready_replicas, wanted);
        // https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback
        return underway(match spec.pod_management_policy.as_deref() {
            Some("Parallel") => seen,
            _ if status.updated_replicas >= wanted => seen,
            _ => format!(
                "{seen}; as long as a pod with a former template is not ready, Kubernetes replaces none \
                 (podManagementPolicy OrderedReady): if one stays so, delete it with kubectl delete pod"
            ),
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use WorkloadKind::{DaemonSet, Deployment, StatefulSet};
    use serde_json::{Value, json};

    fn of(kind: WorkloadKind, generation: i64, spec: Value, status: Value) -> Progress {
        let status: Status = serde_json::from_value(status).unwrap();
        progress(kind, generation, &serde_json::from_value(spec).unwrap(), &status)
    }

    fn going_on(what: &str) -> Progress {
        underway(what.to_owned())
    }

    fn deployment_of(spec: Value, updated: i64, replicas: i64, available: i64, reason: &str) -> Progress {
        let conditions = json!([
            {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": ""},
            {"type": "Progressing", "status": "True", "reason": reason, "message": "ReplicaSet \"shop-1\" has timed out"},
        ]);
        let status = json!({
            "observedGeneration": 4, "updatedReplicas": updated, "replicas": replicas, "availableReplicas": available,
            "conditions": if reason.is_empty() { json!([]) } else { conditions },
        });
        of(Deployment, 4, spec, status)
    }

    #[test]
    fn a_deployment_is_done_when_all_its_pods_are_new_and_available() {
        let three = || json!({"replicas": 3});
        let watched = |what: &str| Progress::Underway { what: what.to_owned(), has_deadline: true };
        let progressing = "ReplicaSetUpdated";
        assert_eq!(deployment_of(three(), 1, 4, 3, progressing), watched("1 of 3 pods updated, 3 available"));
        assert_eq!(
            deployment_of(three(), 3, 4, 3, progressing),
            watched("3 of 3 pods updated, 3 available, 1 of the former template are still ending")
        );
        assert_eq!(deployment_of(three(), 3, 3, 2, progressing), watched("3 of 3 pods updated, 2 available"));
        assert_eq!(deployment_of(three(), 3, 3, 3, progressing), Progress::Done(None));
        // Kubernetes checks no deadline with these reasons.
        for reason in ["", "NewReplicaSetAvailable"] {
            assert_eq!(deployment_of(three(), 3, 3, 2, reason), going_on("3 of 3 pods updated, 2 available"));
        }
        let Progress::Failed(what) = deployment_of(three(), 1, 4, 3, "ProgressDeadlineExceeded") else {
            panic!("Kubernetes gave it up")
        };
        assert_eq!(what, "1 of 3 pods updated, 3 available; ReplicaSet \"shop-1\" has timed out");
    }

    #[test]
    fn a_paused_deployment_waits_only_if_something_is_missing() {
        let spec = || json!({"replicas": 3, "paused": true});
        assert_eq!(
            deployment_of(spec(), 0, 3, 3, "DeploymentPaused"),
            going_on("0 of 3 pods updated, 3 available; it is paused: kubectl rollout resume")
        );
        assert_eq!(deployment_of(spec(), 3, 3, 3, "DeploymentPaused"), Progress::Done(None));
    }

    #[test]
    fn what_its_controller_has_not_seen_is_not_done() {
        let status = json!({"observedGeneration": 3, "updatedReplicas": 1, "replicas": 1, "availableReplicas": 1});
        for kind in [Deployment, StatefulSet, DaemonSet] {
            let unseen = going_on("its controller has not seen the change yet");
            assert_eq!(of(kind, 4, json!({"replicas": 1}), status.clone()), unseen);
            assert_eq!(of(kind, 4, json!({"replicas": 1}), json!({})), unseen);
        }
    }

    #[test]
    fn at_zero_replicas_there_is_nothing_to_wait_for() {
        for kind in [Deployment, StatefulSet] {
            let zero = json!({"replicas": 0, "paused": true});
            assert_eq!(of(kind, 4, zero, json!({})), Progress::Done(Some("scaled to zero".to_owned())));
        }
    }

    #[test]
    fn a_stateful_set_is_done_when_its_revision_is_everywhere_or_down_to_its_partition() {
        let status = |ready: i64, updated: i64, current: &str| {
            json!({"observedGeneration": 4, "readyReplicas": ready, "updatedReplicas": updated,
                "currentRevision": current, "updateRevision": "new"})
        };
        let spec = |partition: i64| json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
        let blocked = |of: Progress, seen: &str| {
            let Progress::Underway { what, has_deadline: false } = of else { panic!("{of:?}") };
            assert!(what.starts_with(seen) && what.contains("kubectl delete pod"), "{what}");
        };
        blocked(of(StatefulSet, 4, spec(0), status(2, 1, "old")), "1 of 3 pods updated, 2 available");
        let mut parallel = spec(0);
        parallel["podManagementPolicy"] = json!("Parallel");
        assert_eq!(of(StatefulSet, 4, parallel, status(2, 1, "old")), going_on("1 of 3 pods updated, 2 available"));
        assert_eq!(of(StatefulSet, 4, spec(0), status(2, 3, "old")), going_on("3 of 3 pods updated, 2 available"));
        assert_eq!(of(StatefulSet, 4, spec(0), status(3, 2, "old")), going_on("2 of 3 pods updated, 3 available"));
        assert_eq!(of(StatefulSet, 4, spec(0), status(3, 3, "new")), Progress::Done(None));
        blocked(of(StatefulSet, 4, spec(2), status(3, 0, "old")), "0 of 1 pods updated, 3 available");
        assert_eq!(of(StatefulSet, 4, spec(2), status(2, 1, "old")), going_on("1 of 1 pods updated, 2 available"));
        for partition in [2, 9] {
            let done = of(StatefulSet, 4, spec(partition), status(3, 1, "old"));
            assert!(matches!(done, Progress::Done(Some(_))), "{done:?}");
        }
    }

    #[test]
    fn a_daemon_set_is_done_when_it_is_new_on_all_nodes() {
        let status = |updated: i64, available: i64| {
            json!({"observedGeneration": 4, "desiredNumberScheduled": 3, "updatedNumberScheduled": updated,
                "numberAvailable": available})
        };
        assert_eq!(of(DaemonSet, 4, json!({}), status(2, 3)), going_on("2 of 3 pods updated, 3 available"));
        assert_eq!(of(DaemonSet, 4, json!({}), status(3, 2)), going_on("3 of 3 pods updated, 2 available"));
        assert_eq!(of(DaemonSet, 4, json!({}), status(3, 3)), Progress::Done(None));
    }

    #[test]
    fn pods_that_somebody_else_deletes_are_not_waited_for() {
        for kind in [StatefulSet, DaemonSet] {
            let spec = json!({"replicas": 3, "updateStrategy": {"type": "OnDelete"}});
            let status = json!({"observedGeneration": 4, "desiredNumberScheduled": 3});
            let Progress::Done(Some(note)) = of(kind, 4, spec, status) else { panic!("it is done") };
            assert!(note.contains("OnDelete"), "{note}");
        }
    }
}
