//! The patch that adds deliveries to the log in status, and the log in its answer.
//!
//! Invariant: the log keeps the newest [`KEPT_DELIVERIES`](crate::api::KEPT_DELIVERIES); the patch that adds an entry
//! removes the surplus. A merge patch changes only the entries that it names, so receivers and the controller can add and
//! mark entries at the same time without reading first.

use super::DeliveryHint;
use crate::api::{Delivery, DeliveryResult};
use crate::receiver::targets::{DeliveryLog, LoggedDelivery};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The merge patch of status that adds `hints`, in the order of their arrival, to the log.
pub fn merge_patch(log: &[LoggedDelivery], hints: &[&DeliveryHint], keep: usize) -> Value {
    // Each GUID counts once, at its last arrival.
    let mut added: Vec<(&DeliveryHint, u32)> = Vec::with_capacity(hints.len().min(keep));
    for hint in hints.iter().rev() {
        if let Some((_, attempts)) = added.iter_mut().find(|(newer, _)| newer.guid == hint.guid) {
            *attempts += 1;
        } else if added.len() < keep {
            added.push((hint, 1));
        }
        // An older one would be evicted by the others of this patch.
    }
    let mut deliveries = Map::new();
    let mut others: Vec<&LoggedDelivery> = Vec::new();
    for logged in log {
        match added.iter_mut().find(|(hint, _)| *hint.guid == *logged.guid) {
            Some((_, attempts)) => *attempts = attempts.saturating_add(logged.attempts),
            None => others.push(logged),
        }
    }
    // Evict handled entries before waiting ones, and the oldest first. An entry never outranks the added ones, whatever time
    // a tenant wrote into it.
    others.sort_by_key(|logged| (logged.waits, logged.received_at, &logged.guid));
    let beyond = (others.len() + added.len()).saturating_sub(keep);
    deliveries.extend(others.into_iter().take(beyond).map(|logged| (logged.guid.to_string(), Value::Null)));
    deliveries.extend(added.into_iter().map(|(hint, attempts)| {
        let DeliveryHint { guid, event, action, reference, sha, received_at } = hint;
        // A delivery that arrives again waits again, so its former result is removed.
        let entry = json!({
            "event": event, "action": action, "ref": reference, "sha": sha, "receiptTime": format!("{received_at:.6}"),
            "attempts": attempts, "result": "Pending", "message": null,
        });
        (guid.clone(), entry)
    }));
    json!({"status": {"deliveries": deliveries}})
}

#[derive(Deserialize)]
struct Stored {
    metadata: Versioned,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versioned {
    resource_version: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    deliveries: BTreeMap<Box<str>, Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    receipt_time: Option<String>,
    attempts: Option<i64>,
    event: Option<String>,
    result: Option<DeliveryResult>,
}

/// The log in an object; nothing else of it is read.
pub fn log_in(object: &[u8]) -> Option<DeliveryLog> {
    let Stored { metadata, status } = serde_json::from_slice(object).ok()?;
    let entries = status.deliveries.into_iter().map(|(guid, entry)| LoggedDelivery {
        guid,
        received_at: entry.receipt_time.and_then(|at| at.parse::<Timestamp>().ok()),
        attempts: entry.attempts.and_then(|attempts| attempts.try_into().ok()).unwrap_or(1),
        waits: Delivery::waits(entry.event.as_deref(), entry.result),
    });
    Some(DeliveryLog { version: metadata.resource_version.parse().ok()?, entries: entries.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn hint(guid: &str, second: i64) -> DeliveryHint {
        let event = "push".to_owned();
        DeliveryHint { guid: guid.into(), event, action: None, reference: None, sha: None, received_at: at(second) }
    }

    fn logged(guid: &str, second: Option<i64>) -> LoggedDelivery {
        LoggedDelivery { guid: guid.into(), received_at: second.map(at), attempts: 2, waits: false }
    }

    /// The added GUIDs with their attempts, and the removed ones.
    fn patch(log: &[LoggedDelivery], hints: &[DeliveryHint], keep: usize) -> (Vec<(String, u64)>, Vec<String>) {
        let patch = merge_patch(log, &hints.iter().collect::<Vec<_>>(), keep);
        let entries = patch["status"]["deliveries"].as_object().unwrap();
        let added = entries.iter().filter(|(_, entry)| !entry.is_null());
        let gone = entries.iter().filter(|(_, entry)| entry.is_null());
        (
            added.map(|(guid, entry)| (guid.clone(), entry["attempts"].as_u64().unwrap())).collect(),
            gone.map(|(guid, _)| guid.clone()).collect(),
        )
    }

    #[test]
    fn the_oldest_are_removed_in_the_same_patch() {
        let log = [logged("c", Some(3)), logged("a", Some(1)), logged("strange", None), logged("b", Some(2))];
        let (added, gone) = patch(&log, &[hint("d", 4), hint("e", 5)], 4);
        assert_eq!(added, [("d".into(), 1), ("e".into(), 1)]);
        assert_eq!(gone, ["a", "strange"]);
        assert_eq!(patch(&log, &[hint("d", 4)], 5).1, Vec::<String>::new());
    }

    #[test]
    fn waiting_entries_stay_longer_than_handled_ones() {
        let waiting = LoggedDelivery { waits: true, ..logged("a", Some(1)) };
        let log = [waiting, logged("c", Some(3)), logged("b", Some(2))];
        assert_eq!(patch(&log, &[hint("d", 4)], 3).1, ["b"]);
        assert_eq!(patch(&log, &[hint("d", 4), hint("e", 5), hint("f", 6)], 3).1, ["a", "b", "c"]);
    }

    #[test]
    fn the_newest_of_one_patch_are_kept() {
        let hints: Vec<DeliveryHint> = (0..20).map(|n| hint(&format!("{n:02}"), n)).collect();
        let (added, gone) = patch(&[logged("old", Some(-1))], &hints, 16);
        assert_eq!(
            added.iter().map(|(guid, _)| guid.as_str()).collect::<Vec<_>>(),
            (4..20).map(|n| format!("{n:02}")).collect::<Vec<_>>()
        );
        assert_eq!(gone, ["old"]);
    }

    #[test]
    fn a_delivery_that_arrives_again_adds_an_attempt_and_waits_again() {
        let log = [logged("a", Some(1)), logged("b", Some(2))];
        let (added, gone) = patch(&log, &[hint("a", 9), hint("a", 10), hint("c", 11)], 3);
        assert_eq!(added, [("a".into(), 4), ("c".into(), 1)]);
        assert!(gone.is_empty());
        let entry = &merge_patch(&log, &[&hint("a", 9)], 3)["status"]["deliveries"]["a"];
        assert_eq!((&entry["result"], &entry["message"]), (&json!("Pending"), &Value::Null));
        assert_eq!(entry["receiptTime"], "2027-01-15T08:00:09.000000Z");
    }

    #[test]
    fn forged_times_do_not_evict_new_deliveries() {
        let log: Vec<LoggedDelivery> =
            (0..16).map(|n| logged(&format!("future-{n:02}"), Some(1_000_000_000))).collect();
        let (added, gone) = patch(&log, &[hint("new", 0)], 16);
        assert_eq!((added.len(), gone), (1, vec!["future-00".to_owned()]));
    }

    #[test]
    fn only_the_log_of_the_answer_is_read() {
        let answer = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "spec": {"odd": 1},
            "metadata": {"name": "x", "resourceVersion": "42"},
            "status": {"deliveries": {
                "a": {"event": "push", "receiptTime": "2027-01-15T08:00:09.5Z", "attempts": 2, "result": "Pending"},
                "c": {"event": "push", "result": "Handled"}, "b": {"receiptTime": "never"},
            }},
        });
        let log = log_in(answer.to_string().as_bytes()).unwrap();
        assert_eq!(log.version, 42);
        let a = LoggedDelivery {
            guid: "a".into(),
            received_at: "2027-01-15T08:00:09.5Z".parse().ok(),
            attempts: 2,
            waits: true,
        };
        let [b, c] =
            ["b", "c"].map(|guid| LoggedDelivery { guid: guid.into(), received_at: None, attempts: 1, waits: false });
        assert_eq!(*log.entries, [a, b, c]);
        assert!(log_in(b"{}").is_none());
    }
}
