//! Deliveries as the controllers see them: what waits, and marking it.
//!
//! Invariant: marking is a merge patch of results alone, so that it neither waits for what the receiver adds meanwhile nor
//! takes it away. One that was evicted meanwhile comes back as a stump, which the receiver evicts first.

use super::context::{Context, ScopeApi};
use crate::api::{Deliveries, Delivery, DeliveryResult, FIELD_MANAGER};
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

/// A delivery that waits, and how often it came: one that comes again waits again.
pub type Announced = (String, i64);

/// What a delivery is marked as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which.
    pub announced: Announced,
    /// The commit it speaks of, for the log.
    pub sha: Option<String>,
    /// What became of it.
    pub result: DeliveryResult,
    /// Why, where that is not plain.
    pub message: Option<String>,
}

/// The deliveries that were not dealt with.
pub fn waiting(deliveries: &Deliveries) -> impl Iterator<Item = (Announced, &Delivery)> {
    let waits = |delivery: &Delivery| {
        // A stump has nothing to say.
        delivery.event.is_some() && matches!(delivery.result, None | Some(DeliveryResult::Pending))
    };
    deliveries
        .iter()
        .filter(move |(_, delivery)| waits(delivery))
        .map(|(guid, delivery)| ((guid.clone(), delivery.attempts.unwrap_or(1)), delivery))
}

/// Marks deliveries. Gives back the object as it is then.
///
/// # Errors
/// What Kubernetes refused.
pub async fn mark<K>(context: &Context, object: &K, marks: impl IntoIterator<Item = Mark>) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = (), Scope: ScopeApi<K>> + Clone + DeserializeOwned + Debug,
{
    let mut results = serde_json::Map::new();
    for Mark { announced: (guid, attempts), sha, result, message } in marks {
        tracing::info!(delivery = guid, attempts, sha, ?result, "a delivery was dealt with");
        results.insert(guid, json!({"result": result, "message": message}));
    }
    let patch = json!({"status": {"deliveries": results}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let api = <K::Scope as ScopeApi<K>>::api(context.client.clone(), object);
    api.patch_status(&object.name_any(), &params, &Patch::Merge(&patch)).await?.read()
}
