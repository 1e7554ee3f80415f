//! Deliveries that were dealt with: the log of them in status, and those of them that are still in an inbox.

use crate::api::{Delivery, DeliveryResult, InboxEntry, KEPT_DELIVERIES, WaitingDelivery, WebhookInbox};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
            guid: delivery.guid.clone(),
            event: Some(delivery.event.clone()),
            action: delivery.action.clone(),
            reference: delivery.reference.clone(),
            sha: delivery.sha.clone(),
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

/// So many deliveries in one inbox are taken out together as soon as they were dealt with. More of them make each patch of the
/// receiver dearer, and fewer take more patches that take them out.
pub const TAKEN_OUT_TOGETHER: usize = 32;
/// Fewer deliveries are taken out this long after the first of them was dealt with.
pub const TAKEN_OUT_AFTER: SignedDuration = SignedDuration::from_secs(1);

/// The deliveries that were dealt with and that an inbox still has, or that the cache still shows in it.
#[derive(Default)]
pub struct DealtWith(Mutex<HashMap<String, InInbox>>);

#[derive(Default)]
struct InInbox {
    /// The deliveries to take out, by number, with the time at which each was dealt with.
    left: BTreeMap<i64, Timestamp>,
    /// The deliveries that were taken out. The cache may still show them.
    taken: HashSet<i64>,
}

impl DealtWith {
    /// Remembers that a delivery was dealt with. It waits no longer.
    pub fn add(&self, (inbox, id): Announced, now: Timestamp) {
        let mut inboxes = self.inboxes();
        let its = inboxes.entry(inbox).or_default();
        if !its.taken.contains(&id) {
            its.left.entry(id).or_insert(now);
        }
    }

    /// Whether a delivery in an inbox was dealt with.
    #[must_use]
    pub fn has(&self, inbox: &str, id: i64) -> bool {
        self.inboxes().get(inbox).is_some_and(|its| its.left.contains_key(&id) || its.taken.contains(&id))
    }

    /// The deliveries to take out of an inbox, and the time for it. Forgets those that the inbox no longer lists.
    #[must_use]
    pub fn left_in(&self, inbox: &WebhookInbox) -> Option<(BTreeSet<i64>, Timestamp)> {
        let listed: HashSet<i64> = entries(inbox).iter().map(InboxEntry::id).collect();
        let mut inboxes = self.inboxes();
        let its = inboxes.get_mut(&inbox.name_any())?;
        its.taken.retain(|id| listed.contains(id));
        its.left.retain(|id, _| listed.contains(id));
        let first = *its.left.values().min()?;
        let at = if its.left.len() < TAKEN_OUT_TOGETHER { first.checked_add(TAKEN_OUT_AFTER).ok()? } else { first };
        Some((its.left.keys().copied().collect(), at))
    }

    /// Remembers that deliveries were taken out of an inbox.
    pub fn taken(&self, inbox: &str, ids: &BTreeSet<i64>) {
        if let Some(its) = self.inboxes().get_mut(inbox) {
            its.left.retain(|id, _| !ids.contains(id));
            its.taken.extend(ids);
        }
    }

    /// Forgets an inbox that is gone.
    pub fn forget(&self, inbox: &str) {
        self.inboxes().remove(inbox);
    }

    fn inboxes(&self) -> MutexGuard<'_, HashMap<String, InInbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of an inbox, as the cache has it.
#[must_use]
pub fn entries(inbox: &WebhookInbox) -> &[InboxEntry] {
    inbox.status.as_ref().map_or(&[], |status| &status.deliveries)
}

/// The deliveries in an inbox.
pub fn deliveries(inbox: &WebhookInbox) -> impl Iterator<Item = &WaitingDelivery> {
    entries(inbox).iter().filter_map(InboxEntry::delivery)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{WebhookInboxSpec, WebhookInboxStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use serde_json::json;

    fn mark(guid: &str, second: i64) -> Mark {
        let delivery = serde_json::from_value(json!({
            "id": second, "appName": "landfall", "namespace": "team-a", "repositoryName": "shop", "guid": guid, "event": "push",
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

    fn inbox(ids: impl IntoIterator<Item = i64>) -> WebhookInbox {
        let mut inbox = WebhookInbox::new("receiver", WebhookInboxSpec {});
        let deliveries = ids.into_iter().map(|id| InboxEntry::new(mark("a", id).delivery)).collect();
        inbox.status = Some(WebhookInboxStatus { deliveries });
        inbox
    }

    #[test]
    fn deliveries_are_taken_out_when_they_are_many_or_after_a_while() {
        let (dealt, at) = (DealtWith::default(), |second| Timestamp::from_second(second).unwrap());
        assert_eq!(dealt.left_in(&inbox(1..4)), None);
        dealt.add(("receiver".into(), 1), at(100));
        dealt.add(("receiver".into(), 2), at(110));
        assert_eq!(dealt.left_in(&inbox(1..4)), Some(([1, 2].into(), at(101))));
        for id in 3..=32 {
            dealt.add(("receiver".into(), id), at(120));
        }
        assert_eq!(dealt.left_in(&inbox(1..50)).map(|(ids, at)| (ids.len(), at)), Some((32, at(100))));
    }

    #[test]
    fn a_delivery_that_was_taken_out_waits_no_longer_although_the_cache_shows_it() {
        let (dealt, now) = (DealtWith::default(), Timestamp::UNIX_EPOCH);
        dealt.add(("receiver".into(), 1), now);
        assert!(dealt.has("receiver", 1) && !dealt.has("receiver", 2) && !dealt.has("other", 1));
        dealt.taken("receiver", &[1].into());
        dealt.add(("receiver".into(), 1), now);
        assert_eq!(dealt.left_in(&inbox([1, 2])), None);
        assert!(dealt.has("receiver", 1));
        // The cache has the patch now.
        assert_eq!(dealt.left_in(&inbox([2])), None);
        assert!(!dealt.has("receiver", 1));
    }
}
