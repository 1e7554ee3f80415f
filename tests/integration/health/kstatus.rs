//! The generic rules of kstatus, with which Flux and `kubectl wait`-like tools judge any kind.
//!
//! A port of `Compute`, `checkGenericProperties`, `checkGeneration` and `checkReadyCondition` of
//! <https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus/status>.

use serde_json::Value;

/// The status that kstatus computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Current,
    InProgress,
    Failed,
    Terminating,
}

pub fn compute(object: &Value) -> Status {
    if object["metadata"]["deletionTimestamp"].as_str().is_some_and(|time| !time.is_empty()) {
        return Status::Terminating;
    }
    let (generation, observed) = (&object["metadata"]["generation"], &object["status"]["observedGeneration"]);
    if generation.is_i64() && observed.is_i64() && generation.as_i64() != observed.as_i64() {
        return Status::InProgress;
    }
    let conditions = || object["status"]["conditions"].as_array().into_iter().flatten();
    for condition in conditions() {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Reconciling"), Some("True")) => return Status::InProgress,
            (Some("Stalled"), Some("True")) => return Status::Failed,
            _ => {}
        }
    }
    match conditions().find(|condition| condition["type"] == "Ready").map(|ready| &ready["status"]) {
        Some(status) if status != "True" => Status::InProgress,
        // An object without conditions counts as current.
        Some(_) | None => Status::Current,
    }
}
