//! Deliveries for the controllers: lists those that wait, and marks them.
//!
//! Invariant: marking changes the entries as they were seen. It does not wait for entries that the receiver adds
//! meanwhile, and it does not remove them. A delivery that came again meanwhile is handled again.

use super::object::ScopeApi;
use crate::api::{Deliveries, Delivery, DeliveryResult, FIELD_MANAGER};
use kube::api::{Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

/// A delivery that waits, and how often it came. A delivery that comes again waits again.
pub type Announced = (String, i64);

/// The result to write to a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub announced: Announced,
    /// The delivery as it was seen.
    pub delivery: Delivery,
    pub result: DeliveryResult,
    /// The reason, where it is not obvious.
    pub message: Option<String>,
}

pub fn waiting(deliveries: &Deliveries) -> impl Iterator<Item = (Announced, &Delivery)> {
    deliveries
        .iter()
        .filter(|(_, delivery)| delivery.is_waiting())
        .map(|(guid, delivery)| ((guid.clone(), delivery.attempts.unwrap_or(1)), delivery))
}

/// Marks deliveries. Returns the object as it is afterwards.
///
/// # Errors
/// Kubernetes refused the patch. It is a conflict if one of the deliveries came again meanwhile or was evicted.
pub async fn mark<K>(client: &Client, object: &K, marks: impl IntoIterator<Item = Mark>) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = (), Scope: ScopeApi<K>> + Clone + DeserializeOwned + Debug,
{
    let mut changes = Vec::new();
    for Mark { announced: (guid, attempts), delivery: seen, result, message } in marks {
        let sha = seen.sha.as_deref();
        tracing::info!(delivery = guid, attempts, sha, ?result, "a delivery was dealt with");
        // Escaped for a JSON pointer (RFC 6901).
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
        // The entry that the patch tests is gone or has changed. The watch brings the new one.
        Err(kube::Error::Api(mut status)) if status.code == 422 => {
            status.code = 409;
            Err(kube::Error::Api(status))
        }
        marked => marked?.read(),
    }
}
