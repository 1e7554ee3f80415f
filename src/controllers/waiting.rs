//! The deliveries that wait in the inboxes, and the way out of them.
//!
//! Invariant: a delivery leaves its inbox only after the log in status has it, and enters the log only after the operator has
//! dealt with it. A process that ends in between deals with it again.

use super::deliveries::{Announced, Waiting, deliveries};
use super::shared::Shared;
use crate::api::{WaitingDelivery, WebhookInbox};
use crate::runtime::lenient::Lenient;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// How often a patch is tried again while the receiver replaces the list.
const MOST_TRIES: usize = 5;

impl Shared {
    /// The deliveries in an inbox that were not taken out.
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

    /// The inboxes are as many as the receiver has replicas, and each is short.
    fn waiting(&self, concerns: impl Fn(&WaitingDelivery) -> bool) -> Vec<Waiting> {
        let inboxes = self.caches.all::<WebhookInbox>();
        inboxes.iter().flat_map(|inbox| self.left_in(inbox, &concerns)).collect()
    }

    fn left_in(&self, inbox: &WebhookInbox, concerns: impl Fn(&WaitingDelivery) -> bool) -> Vec<Waiting> {
        let (name, taken) = (inbox.name_any(), self.taking_out.taken());
        let concerned = deliveries(inbox).iter().filter(|delivery| concerns(delivery));
        let waiting = concerned.map(|delivery| ((name.clone(), delivery.id), delivery));
        let left = waiting.filter(|(announced, _)| !taken.contains(announced));
        left.map(|(announced, delivery)| Waiting { announced, delivery: delivery.clone() }).collect()
    }

    /// Takes deliveries out of their inboxes. Calls at the same time share one patch of each inbox.
    ///
    /// # Errors
    /// Kubernetes refused the patch.
    pub async fn take_out(&self, announced: impl IntoIterator<Item = Announced>) -> Result<(), kube::Error> {
        let own: BTreeSet<_> = announced.into_iter().collect();
        if own.is_empty() {
            return Ok(());
        }
        self.taking_out.wanted().extend(own.iter().cloned());
        let _turn = self.taking_out.turn.lock().await;
        let left = {
            let taken = self.taking_out.taken();
            own.into_iter().filter(|announced| !taken.contains(announced)).collect::<BTreeSet<_>>()
        };
        if left.is_empty() {
            // The patch of another call had them.
            return Ok(());
        }
        let mut by_inbox: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
        let wanted = std::mem::take(&mut *self.taking_out.wanted());
        for (inbox, id) in wanted.into_iter().chain(left) {
            by_inbox.entry(inbox).or_default().insert(id);
        }
        let mut refused = None;
        for (inbox, ids) in by_inbox {
            // One inbox that cannot be patched holds up no other.
            match self.take_out_of(&inbox, &ids).await {
                Ok(()) => self.taking_out.taken().extend(ids.into_iter().map(|id| (inbox.clone(), id))),
                Err(error) => refused = Some(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    async fn take_out_of(&self, name: &str, ids: &BTreeSet<i64>) -> Result<(), kube::Error> {
        let inboxes = Api::<Lenient<WebhookInbox>>::namespaced(self.client.clone(), &self.settings.namespace);
        let cached = self.caches.named::<WebhookInbox>(&self.settings.namespace, name);
        let mut listed: Vec<i64> = match cached {
            Some(inbox) => self.waiting_in(&inbox).into_iter().map(|waiting| waiting.announced.1).collect(),
            None => return Ok(()),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            // From the end, so that no removal moves one that follows.
            let places = listed.iter().enumerate().rev().filter(|(_, id)| ids.contains(id));
            let changes: Vec<_> = places
                .flat_map(|(at, id)| {
                    let place = format!("/status/deliveries/{at}");
                    [
                        json!({"op": "test", "path": format!("{place}/id"), "value": id}),
                        json!({"op": "remove", "path": place}),
                    ]
                })
                .collect();
            if changes.is_empty() {
                return Ok(());
            }
            let patch: json_patch::Patch = serde_json::from_value(changes.into()).map_err(kube::Error::SerdeError)?;
            match inboxes.patch_status(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await {
                Ok(_) => return Ok(()),
                // The receiver merged deliveries meanwhile, so they are at other places, or have other numbers.
                Err(kube::Error::Api(status)) if matches!(status.code, 409 | 422) && tries < MOST_TRIES => {
                    let Some(inbox) = inboxes.get_opt(name).await? else { return Ok(()) };
                    let inbox = inbox.read()?;
                    listed = deliveries(&inbox).iter().map(|delivery| delivery.id).collect();
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
