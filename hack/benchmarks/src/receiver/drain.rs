//! Takes deliveries out of the inbox, as the controller does after its look: by one patch for all that the watch shows.

use futures::{StreamExt, TryStreamExt};
use json_patch::Patch as JsonPatch;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use landfall::api::WebhookInbox;
use serde_json::json;
use std::pin::pin;

/// Runs until it is dropped. What it cannot take out, because the receiver changed the list, the next event brings again.
pub async fn drain(client: Client, namespace: &str) {
    let inboxes = Api::<WebhookInbox>::namespaced(client, namespace);
    let events = watcher::watcher(inboxes.clone(), watcher::Config::default()).default_backoff().applied_objects();
    let mut events = pin!(events.into_stream());
    while let Some(event) = events.next().await {
        let Ok(inbox) = event else { continue };
        let deliveries = inbox.status.iter().flat_map(|status| &status.deliveries);
        let changes: Vec<_> = deliveries
            .map(|delivery| {
                [
                    json!({"op": "test", "path": "/status/deliveries/0/id", "value": delivery.id}),
                    json!({"op": "remove", "path": "/status/deliveries/0"}),
                ]
            })
            .collect::<Vec<_>>()
            .concat();
        if changes.is_empty() {
            continue;
        }
        if let Ok(patch) = serde_json::from_value::<JsonPatch>(changes.into()) {
            let _ = inboxes.patch_status(&inbox.name_any(), &PatchParams::default(), &Patch::Json::<()>(patch)).await;
        }
    }
}
