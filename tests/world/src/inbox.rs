//! Deliveries as a receiver stores them, and the log of those that the operator dealt with.

use crate::operator::Operator;
use crate::{SYSTEM, World};
use jiff::SignedDuration;
use kube::Resource;
use landfall::api::WebhookInbox;
use landfall::controllers::deliveries::TAKEN_OUT_AFTER;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};

/// The inbox of a receiver that does not run.
pub const INBOX: &str = "landfall-receiver-test";

/// The entry about a delivery in an object's status. `null`: there is none.
pub fn logged(status: &Value, guid: &str) -> Value {
    let log = status["deliveries"].as_array().into_iter().flatten();
    log.into_iter().find(|delivery| delivery["guid"] == guid).cloned().unwrap_or_default()
}

impl World {
    /// Stores a delivery for a `ProjectRepository`, as a receiver does.
    pub async fn deliver(&self, (namespace, name): (&str, &str), guid: &str, delivery: &Value) {
        self.store(&json!({"namespace": namespace, "repositoryName": name}), guid, delivery).await;
    }

    /// Stores a delivery for the App itself.
    pub async fn deliver_to_app(&self, guid: &str, delivery: &Value) {
        self.store(&json!({}), guid, delivery).await;
    }

    async fn store(&self, object: &Value, guid: &str, delivery: &Value) {
        static NEXT: AtomicI64 = AtomicI64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        // No two arrive at the same time, although the clock stands still.
        let at = self.now().checked_add(SignedDuration::from_micros(id)).expect("in range");
        let receipt = format!("{at:.6}");
        let mut entry = json!({"id": id, "appName": "landfall", "guid": guid, "event": "push", "receiptTime": receipt});
        for fields in [object, delivery] {
            entry.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        }
        let path = WebhookInbox::url_path(&(), Some(SYSTEM));
        let inbox = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "WebhookInbox", "spec": {},
            "metadata": {"name": INBOX, "namespace": SYSTEM},
        });
        let create = http::Request::post(&path).header("content-type", "application/json");
        let create = create.body(serde_json::to_vec(&inbox).expect("json")).expect("a request");
        match self.admin.request::<Value>(create).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made.expect("an inbox")),
        }
        self.patch_inbox(INBOX, &json!([{"op": "add", "path": "/status/deliveries/-", "value": entry.to_string()}]))
            .await;
    }

    /// Patches the status of an inbox.
    pub async fn patch_inbox(&self, name: &str, patch: &Value) {
        let path = WebhookInbox::url_path(&(), Some(SYSTEM));
        let patch = http::Request::patch(format!("{path}/{name}/status?fieldManager=landfall-receiver"))
            .header("content-type", "application/json-patch+json")
            .body(serde_json::to_vec(patch).expect("json"))
            .expect("a request");
        let _: Value = self.admin.request(patch).await.expect("stored");
    }

    /// The names of all inboxes.
    pub async fn list_inboxes(&self) -> HashSet<String> {
        let list = http::Request::get(WebhookInbox::url_path(&(), Some(SYSTEM))).body(Vec::new()).expect("a request");
        let list: Value = self.admin.request(list).await.expect("a list");
        let inboxes = list["items"].as_array().expect("a list").iter();
        inboxes.map(|inbox| inbox["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Waits until no delivery is in an inbox. Deliveries that were dealt with are taken out together, a second later.
    pub async fn until_taken_out(&self, operator: &Operator) {
        let is_empty = async || {
            operator.settled().await;
            if self.waiting().await.is_empty() {
                return Some(());
            }
            self.advance(TAKEN_OUT_AFTER);
            None
        };
        self.until("no delivery is in an inbox", is_empty).await;
    }

    /// The deliveries in all inboxes.
    pub async fn waiting(&self) -> Vec<Value> {
        let list = http::Request::get(WebhookInbox::url_path(&(), Some(SYSTEM))).body(Vec::new()).expect("a request");
        let list: Value = self.admin.request(list).await.expect("a list");
        let inboxes = list["items"].as_array().expect("a list").iter();
        let entries = inboxes.flat_map(|inbox| inbox["status"]["deliveries"].as_array().expect("a list").clone());
        entries.map(|entry| serde_json::from_str(entry.as_str().expect("a text")).expect("json")).collect()
    }
}
