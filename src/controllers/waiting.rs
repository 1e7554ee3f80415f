//! The deliveries that wait in the inboxes, and the way out of them.
//!
//! Invariant: a delivery leaves its inbox only after the log in status has it, and enters the log only after the operator has
//! dealt with it. A process that ends in between deals with it again.

use super::deliveries::{Announced, Waiting, deliveries, entries};
use super::shared::Shared;
use crate::api::{WaitingDelivery, WebhookInbox};
use crate::runtime::lenient::Lenient;
use jiff::SignedDuration;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use serde_json::json;
use std::collections::BTreeSet;

/// How often a patch is tried again while the receiver replaces the list.
const MOST_TRIES: usize = 5;

impl Shared {
    /// The deliveries in an inbox that were not dealt with.
    #[must_use]
    pub fn waiting_in(&self, inbox: &WebhookInbox) -> Vec<Waiting> {
        self.left_in(inbox, |_| true)
    }

    /// The deliveries that wait for an App itself.
    #[must_use]
    pub fn waiting_for_app(&self, app: &str) -> Vec<Waiting> {
        self.waiting(|delivery| delivery.app == app && delivery.is_for_app())
    }

    /// The deliveries that wait for a `ProjectRepository`.
    #[must_use]
    pub fn waiting_for_repository(&self, namespace: &str, name: &str) -> Vec<Waiting> {
        self.waiting(|delivery| delivery.repository() == Some((namespace, name)))
    }

    /// The time for which each delivery has waited.
    #[must_use]
    pub fn waiting_times(&self) -> Vec<SignedDuration> {
        let waiting = self.waiting(|_| true).into_iter();
        waiting.map(|waiting| self.now().duration_since(waiting.delivery.receipt_time.0)).collect()
    }

    /// The inboxes are as many as the receiver has replicas, and each is short.
    fn waiting(&self, concerns: impl Fn(&WaitingDelivery) -> bool) -> Vec<Waiting> {
        let inboxes = self.caches.all::<WebhookInbox>();
        inboxes.iter().flat_map(|inbox| self.left_in(inbox, &concerns)).collect()
    }

    fn left_in(&self, inbox: &WebhookInbox, concerns: impl Fn(&WaitingDelivery) -> bool) -> Vec<Waiting> {
        let name = inbox.name_any();
        let concerned = deliveries(inbox).filter(|delivery| concerns(delivery));
        let left = concerned.filter(|delivery| !self.dealt_with.has(&name, delivery.id));
        left.map(|delivery| Waiting { announced: (name.clone(), delivery.id), delivery: delivery.clone() }).collect()
    }

    /// The entries of an inbox that are no deliveries, and that nobody has dealt with.
    #[must_use]
    pub fn unreadable_in(&self, inbox: &WebhookInbox) -> Vec<Announced> {
        let name = inbox.name_any();
        let unreadable = entries(inbox).iter().filter(|entry| entry.delivery().is_none());
        unreadable.map(|entry| (name.clone(), entry.id())).filter(|(_, id)| !self.dealt_with.has(&name, *id)).collect()
    }

    /// Remembers that deliveries were dealt with. The controller of the inboxes takes them out.
    pub fn mark_dealt_with(&self, announced: impl IntoIterator<Item = Announced>) {
        let mut inboxes = BTreeSet::new();
        for (inbox, id) in announced {
            inboxes.insert(inbox.clone());
            self.dealt_with.add((inbox, id), self.now());
        }
        for inbox in inboxes {
            self.lanes.look_now(&ObjectRef::<WebhookInbox>::new(&inbox).within(&self.settings.namespace));
        }
    }

    /// Takes deliveries out of an inbox by one patch.
    ///
    /// # Errors
    /// Kubernetes refused the patch.
    pub async fn take_out(&self, inbox: &WebhookInbox, ids: &BTreeSet<i64>) -> Result<(), kube::Error> {
        let name = &inbox.name_any();
        let inboxes = Api::<Lenient<WebhookInbox>>::namespaced(self.client.clone(), &self.settings.namespace);
        let mut listed = entries(inbox).to_vec();
        let mut tries = 0;
        loop {
            tries += 1;
            // From the end, so that no removal moves one that follows.
            let places = listed.iter().enumerate().rev().filter(|(_, entry)| ids.contains(&entry.id()));
            let changes: Vec<_> = places
                .flat_map(|(at, entry)| {
                    let place = format!("/status/deliveries/{at}");
                    [
                        json!({"op": "test", "path": place, "value": entry.text()}),
                        json!({"op": "remove", "path": place}),
                    ]
                })
                .collect();
            if changes.is_empty() {
                break;
            }
            let patch: json_patch::Patch = serde_json::from_value(changes.into()).map_err(kube::Error::SerdeError)?;
            match inboxes.patch_status(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await {
                Ok(_) => break,
                // The receiver merged deliveries meanwhile, so they are at other places, or have other numbers.
                Err(kube::Error::Api(status)) if matches!(status.code, 409 | 422) && tries < MOST_TRIES => {
                    let Some(inbox) = inboxes.get_opt(name).await? else { break };
                    listed = entries(&inbox.read()?).to_vec();
                }
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                Err(error) => return Err(error),
            }
        }
        self.dealt_with.taken(name, ids);
        Ok(())
    }
}
