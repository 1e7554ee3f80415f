//! Deliveries as the controllers see them: what waits, and marking it.
//!
//! Invariant: marking changes the entries that were seen, as they were seen, so that it neither waits for what the receiver
//! adds meanwhile nor takes it away; and one that came again meanwhile is looked after again.

use super::object::ScopeApi;
use crate::api::{Deliveries, Delivery, DeliveryResult, FIELD_MANAGER};
use kube::api::{Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

/// A delivery that waits, and how often it came: one that comes again waits again.
pub type Announced = (String, i64);

/// What a delivery is marked as.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Which.
    pub announced: Announced,
    /// As it was seen.
    pub delivery: Delivery,
    /// What became of it.
    pub result: DeliveryResult,
    /// Why, where that is not plain.
    pub message: Option<String>,
}

/// The deliveries that were not dealt with.
pub fn waiting(deliveries: &Deliveries) -> impl Iterator<Item = (Announced, &Delivery)> {
    deliveries
        .iter()
        .filter(|(_, delivery)| delivery.is_waiting())
        .map(|(guid, delivery)| ((guid.clone(), delivery.attempts.unwrap_or(1)), delivery))
}

/// Marks deliveries. Gives back the object as it is then.
///
/// # Errors
/// What Kubernetes refused: a conflict, if one of them came again meanwhile or was evicted.
pub async fn mark<K>(client: &Client, object: &K, marks: impl IntoIterator<Item = Mark>) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = (), Scope: ScopeApi<K>> + Clone + DeserializeOwned + Debug,
{
    let mut changes = Vec::new();
    for Mark { announced: (guid, attempts), delivery: seen, result, message } in marks {
        let sha = seen.sha.as_deref();
        tracing::info!(delivery = guid, attempts, sha, ?result, "a delivery was dealt with");
        // As a JSON pointer has it (RFC 6901).
        let place = format!("/status/deliveries/{}", guid.replace('~', "~0").replace('/', "~1"));
        if let Some(attempts) = seen.attempts {
            changes.push(json!({"op": "test", "path": format!("{place}/attempts"), "value": attempts}));
        }
        changes.push(json!({"op": "add", "path": format!("{place}/result"), "value": result}));
        if let Some(message) = message {
            changes.push(json!({"op": "add", "path": format!("{place}/message"), "value": message}));
        } else if seen.message.is_some() {
            changes.push(json!({"op": "remove", "path": format!("{place}/message")}));
        }
    }
    let patch: json_patch::Patch = serde_json::from_value(changes.into()).map_err(kube::Error::SerdeError)?;
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let api = <K::Scope as ScopeApi<K>>::api(client.clone(), object);
    match api.patch_status(&object.name_any(), &params, &Patch::Json::<()>(patch)).await {
        // What the patch was made for is not there any more. It comes by the watch.
        Err(kube::Error::Api(mut status)) if status.code == 422 => {
            status.code = 409;
            Err(kube::Error::Api(status))
        }
        marked => marked?.read(),
    }
}
