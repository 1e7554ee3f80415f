//! The patch that adds deliveries to a log, and the log in its answer.
//!
//! Invariant: what is added stays within the newest [`KEPT_DELIVERIES`](crate::api::KEPT_DELIVERIES), and what is beyond
//! goes in the same patch. A merge patch touches no entry that it does not name, so receivers and the controller add and
//! mark side by side, and nobody has to read before writing.

use super::Hint;
use crate::api::{Delivery, DeliveryResult};
use crate::receiver::targets::{Log, Logged};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The merge patch of status that adds `hints`, in the order in which they came, to what the log holds.
pub fn merge_patch(log: &[Logged], hints: &[&Hint], keep: usize) -> Value {
    // Each GUID once, where it came last.
    let mut added: Vec<(&Hint, u32)> = Vec::with_capacity(hints.len().min(keep));
    for hint in hints.iter().rev() {
        if let Some((_, attempts)) = added.iter_mut().find(|(newer, _)| newer.guid == hint.guid) {
            *attempts += 1;
        } else if added.len() < keep {
            added.push((hint, 1));
        }
        // Beyond what is kept it would be evicted by those that came with it.
    }
    let mut deliveries = Map::new();
    let mut others: Vec<&Logged> = Vec::new();
    for logged in log {
        match added.iter_mut().find(|(hint, _)| *hint.guid == *logged.guid) {
            Some((_, attempts)) => *attempts = attempts.saturating_add(logged.attempts),
            None => others.push(logged),
        }
    }
    // What was dealt with before what waits, and the oldest first. What has no time, or was given one by a stranger, is never newer than what is being added.
    others.sort_by_key(|logged| (logged.waits, logged.received_at, &logged.guid));
    let beyond = (others.len() + added.len()).saturating_sub(keep);
    deliveries.extend(others.into_iter().take(beyond).map(|logged| (logged.guid.to_string(), Value::Null)));
    deliveries.extend(added.into_iter().map(|(hint, attempts)| {
        let Hint { guid, event, action, reference, sha, received_at } = hint;
        // A delivery that comes again waits again: what was said of it before goes.
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

/// The log in an object, of which nothing else is read.
pub fn log_in(object: &[u8]) -> Option<Log> {
    let Stored { metadata, status } = serde_json::from_slice(object).ok()?;
    let entries = status.deliveries.into_iter().map(|(guid, entry)| Logged {
        guid,
        received_at: entry.receipt_time.and_then(|at| at.parse::<Timestamp>().ok()),
        attempts: entry.attempts.and_then(|attempts| attempts.try_into().ok()).unwrap_or(1),
        waits: Delivery::waits(entry.event.as_deref(), entry.result),
    });
    Some(Log { version: metadata.resource_version.parse().ok()?, entries: entries.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn hint(guid: &str, second: i64) -> Hint {
        let event = "push".to_owned();
        Hint { guid: guid.into(), event, action: None, reference: None, sha: None, received_at: at(second) }
    }

    fn logged(guid: &str, second: Option<i64>) -> Logged {
        Logged { guid: guid.into(), received_at: second.map(at), attempts: 2, waits: false }
    }

    /// What is added, with its attempts, and what goes.
    fn patch(log: &[Logged], hints: &[Hint], keep: usize) -> (Vec<(String, u64)>, Vec<String>) {
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
    fn the_oldest_go_in_the_same_patch() {
        let log = [logged("c", Some(3)), logged("a", Some(1)), logged("strange", None), logged("b", Some(2))];
        let (added, gone) = patch(&log, &[hint("d", 4), hint("e", 5)], 4);
        assert_eq!(added, [("d".into(), 1), ("e".into(), 1)]);
        assert_eq!(gone, ["a", "strange"]);
        assert_eq!(patch(&log, &[hint("d", 4)], 5).1, Vec::<String>::new());
    }

    #[test]
    fn what_waits_stays_longer_than_what_was_dealt_with() {
        let waiting = Logged { waits: true, ..logged("a", Some(1)) };
        let log = [waiting, logged("c", Some(3)), logged("b", Some(2))];
        assert_eq!(patch(&log, &[hint("d", 4)], 3).1, ["b"]);
        assert_eq!(patch(&log, &[hint("d", 4), hint("e", 5), hint("f", 6)], 3).1, ["a", "b", "c"]);
    }

    #[test]
    fn of_one_group_the_newest_are_kept_too() {
        let hints: Vec<Hint> = (0..20).map(|n| hint(&format!("{n:02}"), n)).collect();
        let (added, gone) = patch(&[logged("old", Some(-1))], &hints, 16);
        assert_eq!(
            added.iter().map(|(guid, _)| guid.as_str()).collect::<Vec<_>>(),
            (4..20).map(|n| format!("{n:02}")).collect::<Vec<_>>()
        );
        assert_eq!(gone, ["old"]);
    }

    #[test]
    fn a_delivery_that_comes_again_adds_an_attempt_and_waits_anew() {
        let log = [logged("a", Some(1)), logged("b", Some(2))];
        let (added, gone) = patch(&log, &[hint("a", 9), hint("a", 10), hint("c", 11)], 3);
        assert_eq!(added, [("a".into(), 4), ("c".into(), 1)]);
        assert!(gone.is_empty());
        let entry = &merge_patch(&log, &[&hint("a", 9)], 3)["status"]["deliveries"]["a"];
        assert_eq!((&entry["result"], &entry["message"]), (&json!("Pending"), &Value::Null));
        assert_eq!(entry["receiptTime"], "2027-01-15T08:00:09.000000Z");
    }

    #[test]
    fn times_of_a_stranger_do_not_push_out_what_is_new() {
        let log: Vec<Logged> = (0..16).map(|n| logged(&format!("future-{n:02}"), Some(1_000_000_000))).collect();
        let (added, gone) = patch(&log, &[hint("new", 0)], 16);
        assert_eq!((added.len(), gone), (1, vec!["future-00".to_owned()]));
    }

    #[test]
    fn the_answer_is_read_for_the_log_alone() {
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
        let a =
            Logged { guid: "a".into(), received_at: "2027-01-15T08:00:09.5Z".parse().ok(), attempts: 2, waits: true };
        let [b, c] = ["b", "c"].map(|guid| Logged { guid: guid.into(), received_at: None, attempts: 1, waits: false });
        assert_eq!(*log.entries, [a, b, c]);
        assert!(log_in(b"{}").is_none());
    }
}
