//! Deliveries that were dealt with: the log of them in status, and a record of those that were taken out of the inboxes.

use crate::api::{Delivery, DeliveryResult, KEPT_DELIVERIES, WaitingDelivery, WebhookInbox};
use kube::ResourceExt;
use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A delivery that waits: the name of its inbox, and its number there. A delivery that comes again has another number.
pub type Announced = (String, i64);

/// A delivery that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub announced: Announced,
    pub delivery: WaitingDelivery,
}

/// The effect of a delivery that waited.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub announced: Announced,
    pub delivery: WaitingDelivery,
    pub result: DeliveryResult,
    /// The reason, where it is not obvious.
    pub message: Option<String>,
}

impl Mark {
    /// Whether the log has this delivery already.
    fn is_in(&self, log: &[Delivery]) -> bool {
        log.iter().any(|logged| {
            logged.guid == self.delivery.guid
                && logged.receipt_time.as_ref().is_some_and(|at| at.0 >= self.delivery.receipt_time.0)
        })
    }
}

/// A word as a status may have it. The receiver's inbox may have been written by somebody with a stolen token.
fn shown(word: &str, longest: usize) -> String {
    word.chars().filter(|c| !c.is_control()).take(longest).collect()
}

/// The log with these deliveries, the newest first.
#[must_use]
pub fn log<'a>(stored: &[Delivery], marks: impl IntoIterator<Item = &'a Mark>) -> Vec<Delivery> {
    let mut log = stored.to_vec();
    let mut marks: Vec<_> = marks.into_iter().filter(|mark| !mark.is_in(stored)).collect();
    if marks.is_empty() {
        return log;
    }
    marks.sort_by_key(|mark| mark.delivery.receipt_time.0);
    for Mark { delivery, result, message, .. } in marks {
        let before = log.iter().position(|logged| logged.guid == delivery.guid).map(|at| log.remove(at));
        let merged = delivery.merged.map(|count| format!("stands for {count} deliveries that were merged"));
        let logged = Delivery {
            guid: shown(&delivery.guid, 64),
            event: Some(shown(&delivery.event, 64)),
            action: delivery.action.as_deref().map(|action| shown(action, 64)),
            reference: delivery.reference.as_deref().map(|reference| shown(reference, 255)),
            sha: delivery.sha.as_deref().map(|sha| shown(sha, 64)),
            receipt_time: Some(delivery.receipt_time.clone()),
            attempts: Some(before.and_then(|before| before.attempts).unwrap_or(0).saturating_add(1)),
            result: Some(*result),
            message: message.clone().or(merged),
        };
        log.insert(0, logged);
    }
    log.truncate(KEPT_DELIVERIES);
    log
}

/// The deliveries that were taken out of the inboxes, which the cache may still show, and those to take out next.
#[derive(Default)]
pub struct TakingOut {
    taken: Mutex<HashSet<Announced>>,
    wanted: Mutex<BTreeSet<Announced>>,
    /// One patch is under way. Deliveries that are dealt with meanwhile share the next one.
    pub turn: tokio::sync::Mutex<()>,
}

impl TakingOut {
    pub fn taken(&self) -> MutexGuard<'_, HashSet<Announced>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wanted(&self) -> MutexGuard<'_, BTreeSet<Announced>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets deliveries that the cache no longer shows either.
    pub fn prune(&self, inbox: &WebhookInbox) {
        let name = inbox.name_any();
        let listed: HashSet<i64> = deliveries(inbox).iter().map(|delivery| delivery.id).collect();
        self.taken().retain(|(of, id)| *of != name || listed.contains(id));
    }
}

/// The deliveries in an inbox, as the cache has it.
#[must_use]
pub fn deliveries(inbox: &WebhookInbox) -> &[WaitingDelivery] {
    inbox.status.as_ref().map_or(&[], |status| &status.deliveries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use serde_json::json;

    fn mark(guid: &str, second: i64) -> Mark {
        let delivery = serde_json::from_value(json!({
            "id": second, "app": "landfall", "namespace": "team-a", "name": "shop", "guid": guid, "event": "push",
            "receiptTime": MicroTime(Timestamp::from_second(1_800_000_000 + second).unwrap()),
        }));
        let announced = ("receiver".to_owned(), second);
        Mark { announced, delivery: delivery.unwrap(), result: DeliveryResult::Handled, message: None }
    }

    fn guids(log: &[Delivery]) -> Vec<(&str, i64)> {
        log.iter().map(|logged| (logged.guid.as_str(), logged.attempts.unwrap())).collect()
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let marks: Vec<_> = (0..20).rev().map(|n| mark(&format!("{n:02}"), n)).collect();
        let all = log(&[], &marks);
        assert_eq!(all.len(), KEPT_DELIVERIES);
        assert_eq!((all[0].guid.as_str(), all[15].guid.as_str()), ("19", "04"));
    }

    #[test]
    fn a_delivery_is_logged_once_until_it_comes_again() {
        let first = log(&[], &[mark("a", 1), mark("b", 2)]);
        assert_eq!(guids(&first), [("b", 1), ("a", 1)]);
        assert_eq!(log(&first, &[mark("a", 1)]), first, "it is not taken out yet");
        assert_eq!(guids(&log(&first, &[mark("a", 3)])), [("a", 2), ("b", 1)]);
    }
}
