//! Takes deliveries out of the inbox, as the controller does after it has dealt with them: several in one patch.

use futures::{StreamExt, TryStreamExt};
use json_patch::Patch as JsonPatch;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use landfall::api::WebhookInbox;
use landfall::controllers::deliveries::{TAKEN_OUT_AFTER, TAKEN_OUT_TOGETHER};
use serde_json::json;
use std::pin::pin;
use tokio::time::{Instant, sleep_until};

/// Runs until it is dropped. Deliveries that it cannot take out, because the receiver changed the list, come again with the next
/// event.
pub async fn drain(client: Client, namespace: &str) {
    let inboxes = Api::<WebhookInbox>::namespaced(client, namespace);
    let events = watcher::watcher(inboxes.clone(), watcher::Config::default()).default_backoff().applied_objects();
    let mut events = pin!(events.into_stream());
    // The newest state of the inbox, and the time by which its deliveries are taken out.
    let mut listed: Option<(WebhookInbox, Instant)> = None;
    loop {
        let due = listed.as_ref().map(|(_, due)| *due);
        let event = tokio::select! {
            event = events.next() => event,
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                if let Some((inbox, _)) = listed.take() {
                    take_out(&inboxes, &inbox).await;
                }
                continue;
            }
        };
        let Some(event) = event else { return };
        let Ok(inbox) = event else { continue };
        let count = inbox.status.as_ref().map_or(0, |status| status.deliveries.len());
        if count >= TAKEN_OUT_TOGETHER {
            listed = None;
            take_out(&inboxes, &inbox).await;
        } else if count > 0 {
            let due = due.unwrap_or_else(|| Instant::now() + TAKEN_OUT_AFTER.unsigned_abs());
            listed = Some((inbox, due));
        }
    }
}

async fn take_out(inboxes: &Api<WebhookInbox>, inbox: &WebhookInbox) {
    let entries = inbox.status.iter().flat_map(|status| &status.deliveries);
    let changes: Vec<_> = entries
        .flat_map(|entry| {
            [
                json!({"op": "test", "path": "/status/deliveries/0", "value": entry.text()}),
                json!({"op": "remove", "path": "/status/deliveries/0"}),
            ]
        })
        .collect();
    if let Ok(patch) = serde_json::from_value::<JsonPatch>(changes.into()) {
        let _ = inboxes.patch_status(&inbox.name_any(), &PatchParams::default(), &Patch::Json::<()>(patch)).await;
    }
}
