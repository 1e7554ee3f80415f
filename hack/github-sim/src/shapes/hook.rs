//! Hooks and their deliveries. Answers have asterisks in place of a secret.

use serde_json::{Value, json};

use super::Links;
use crate::clock::stamp;
use crate::model::{Delivery, Hook, HookConfig, HookOwner};
use crate::state::State;

/// `webhook-config`.
pub(crate) fn config(config: &HookConfig) -> Value {
    let mut shape = json!({"content_type": config.content_type, "insecure_ssl": config.insecure_ssl});
    if let Some(url) = &config.url {
        shape["url"] = json!(url);
    }
    if config.secret.is_some() {
        shape["secret"] = json!("********");
    }
    shape
}

/// `hook` of a repository.
pub(crate) fn hook(state: &State, hook: &Hook, links: &Links) -> Value {
    let repository = match hook.owner {
        HookOwner::Repository(id) => state.repositories.get(&id).map(|found| state.full_name(found)),
        HookOwner::App(_) => None,
    };
    let url = format!("{}/repos/{}/hooks/{}", links.api, repository.unwrap_or_default(), hook.id);
    let (code, status, message) = &hook.last_response;
    json!({
        "type": "Repository",
        "id": hook.id,
        "name": "web",
        "active": hook.active,
        "events": hook.events,
        "config": config(&hook.config),
        "updated_at": stamp(hook.updated),
        "created_at": stamp(hook.created),
        "url": url,
        "test_url": format!("{url}/test"),
        "ping_url": format!("{url}/pings"),
        "deliveries_url": format!("{url}/deliveries"),
        "last_response": {"code": code, "status": status, "message": message},
    })
}

/// `hook-delivery-item`.
pub(crate) fn delivery_item(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "guid": delivery.guid,
        "delivered_at": stamp(delivery.delivered),
        "redelivery": delivery.redelivery,
        "duration": delivery.duration,
        "status": delivery.status,
        "status_code": delivery.status_code,
        "event": delivery.event,
        "action": delivery.action,
        "installation_id": delivery.installation,
        "repository_id": delivery.repository,
        "throttled_at": null,
    })
}

/// `hook-delivery`.
pub(crate) fn delivery(delivery: &Delivery) -> Value {
    let mut shape = delivery_item(delivery);
    shape["url"] = json!(delivery.url);
    shape["request"] = json!({"headers": delivery.request_headers, "payload": delivery.payload});
    shape["response"] = json!({"headers": delivery.response_headers, "payload": delivery.response_body});
    shape
}
