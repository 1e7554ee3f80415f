//! The JSON patch that adds deliveries to an inbox.
//!
//! Invariant: no delivery is left out. While the inbox is short, the patch appends, which needs no look at the stored list: the
//! controller, which takes deliveries out, moves none of the others to the end. Otherwise it replaces the list by one with a
//! single entry for each object, at the version that the receiver has seen, so that it brings back nothing that was taken out.

use crate::api::{InboxEntry, WaitingDelivery};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The length up to which deliveries are appended. A longer list makes each patch dearer for the API server.
pub const APPENDED: usize = 64;
/// The most entries. More objects than this are merged into one entry for all repositories of the App.
pub const MOST: usize = 512;

/// An inbox at one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// `metadata.resourceVersion`.
    pub version: String,
    /// The texts in it.
    pub entries: Vec<String>,
}

impl Stored {
    /// The deliveries in it.
    pub fn deliveries(&self) -> impl Iterator<Item = WaitingDelivery> {
        self.entries.iter().filter_map(|text| InboxEntry::from(text.clone()).delivery().cloned())
    }

    /// The first entry that is no delivery. It makes the controller look at everything, and one of them suffices for that.
    fn unreadable(&self) -> Option<InboxEntry> {
        self.entries.iter().map(|text| InboxEntry::from(text.clone())).find(|entry| entry.delivery().is_none())
    }
}

/// The patch that adds these deliveries, in the order of their arrival.
pub fn patch(stored: &Stored, added: Vec<WaitingDelivery>) -> Value {
    let added = merged(added);
    if stored.entries.len() + added.len() <= APPENDED {
        let append =
            |delivery| json!({"op": "add", "path": "/status/deliveries/-", "value": InboxEntry::new(delivery)});
        return added.into_iter().map(append).collect();
    }
    let all = merged(stored.deliveries().chain(added).collect()).into_iter().map(InboxEntry::new);
    let all: Vec<_> = stored.unreadable().into_iter().chain(all).collect();
    json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": stored.version},
        {"op": "add", "path": "/status/deliveries", "value": all},
    ])
}

/// The object that an entry is for: the App, all of its repositories, or a `ProjectRepository`.
type Target = (String, bool, Option<String>, Option<String>);

fn target(delivery: &WaitingDelivery) -> Target {
    let WaitingDelivery { app, every_repository, namespace, name, .. } = delivery;
    (app.clone(), *every_repository, namespace.clone(), name.clone())
}

/// One entry for each object, in the order of the first arrival.
fn merged(deliveries: Vec<WaitingDelivery>) -> Vec<WaitingDelivery> {
    let mut by_object = joined(deliveries);
    if by_object.len() <= MOST {
        return by_object;
    }
    // The Apps with the most entries first, so that one App's deliveries make nobody look at all of another's.
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for delivery in &by_object {
        *counts.entry(delivery.app.clone()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let (mut left, mut whole) = (by_object.len(), BTreeSet::new());
    for (app, count) in counts {
        if left <= MOST {
            break;
        }
        left -= count - 1;
        whole.insert(app);
    }
    for delivery in by_object.iter_mut().filter(|delivery| whole.contains(&delivery.app)) {
        (delivery.namespace, delivery.name, delivery.every_repository) = (None, None, true);
    }
    joined(by_object)
}

fn joined(deliveries: Vec<WaitingDelivery>) -> Vec<WaitingDelivery> {
    let mut at: BTreeMap<Target, usize> = BTreeMap::new();
    let mut entries: Vec<WaitingDelivery> = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let target = target(&delivery);
        if let Some(entry) = at.get(&target).and_then(|at| entries.get_mut(*at)) {
            join(entry, delivery);
        } else {
            at.insert(target, entries.len());
            entries.push(delivery);
        }
    }
    entries
}

/// Makes an entry stand for a later delivery, too. Without a ref it concerns every branch; an event other than a push stays,
/// because it may concern the repository itself. It waits since the first of them arrived.
fn join(entry: &mut WaitingDelivery, later: WaitingDelivery) {
    let earlier = std::mem::replace(entry, later);
    if entry.event == "push" && earlier.event != "push" {
        (entry.event, entry.action) = (earlier.event, earlier.action);
    }
    if entry.reference != earlier.reference {
        entry.reference = None;
    }
    entry.receipt_time = earlier.receipt_time;
    entry.merged = Some(entry.merged.unwrap_or(1).saturating_add(earlier.merged.unwrap_or(1)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    fn push(id: i64, name: &str) -> WaitingDelivery {
        WaitingDelivery {
            id,
            app: "landfall".into(),
            namespace: Some("team-a".into()),
            name: Some(name.into()),
            every_repository: false,
            guid: format!("guid-{id}"),
            event: "push".into(),
            action: None,
            reference: Some("refs/heads/main".into()),
            sha: Some("a".repeat(40)),
            receipt_time: MicroTime(Timestamp::UNIX_EPOCH),
            merged: None,
        }
    }

    fn stored(count: usize) -> Stored {
        let entry = |n: usize| InboxEntry::new(push(i64::try_from(n).unwrap(), &format!("r{n}")));
        Stored { version: "7".into(), entries: (0..count).map(|n| entry(n).text().to_owned()).collect() }
    }

    fn replaced(patch: &Value) -> Vec<WaitingDelivery> {
        assert_eq!(patch[0], json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}));
        let entries: Vec<InboxEntry> = serde_json::from_value(patch[1]["value"].clone()).unwrap();
        entries.iter().filter_map(|entry| entry.delivery().cloned()).collect()
    }

    #[test]
    fn a_short_inbox_is_appended_to() {
        let patch = patch(&stored(62), vec![push(100, "shop"), push(101, "r1")]);
        assert_eq!(patch.as_array().unwrap().len(), 2);
        assert!(patch.as_array().unwrap().iter().all(|one| one["path"] == "/status/deliveries/-"));
        assert_eq!(InboxEntry::from(patch[1]["value"].as_str().unwrap().to_owned()).id(), 101);
    }

    #[test]
    fn a_long_inbox_gets_one_entry_for_each_object() {
        let entries = replaced(&patch(&stored(64), vec![push(100, "shop"), push(101, "r1"), push(102, "r1")]));
        assert_eq!(entries.len(), 65);
        let joined = &entries[1];
        assert_eq!((joined.id, joined.name.as_deref(), joined.merged), (102, Some("r1"), Some(3)));
        assert_eq!((joined.reference.as_deref(), joined.guid.as_str()), (Some("refs/heads/main"), "guid-102"));
        assert_eq!(entries[0], push(0, "r0"), "an entry for one delivery stays as it is");
        assert_eq!(entries[64], push(100, "shop"));
    }

    #[test]
    fn one_entry_that_is_no_delivery_stays_for_the_controller() {
        let mut stored = stored(64);
        stored.entries.splice(3..3, ["forged".to_owned(), "as well".to_owned()]);
        let patch = patch(&stored, vec![push(100, "shop")]);
        assert_eq!(patch[1]["value"][0], "forged");
        assert_eq!((patch[1]["value"].as_array().unwrap().len(), replaced(&patch).len()), (66, 65));
    }

    #[test]
    fn a_change_of_the_repository_is_not_hidden_by_a_push() {
        let renamed = WaitingDelivery { event: "repository".into(), action: Some("renamed".into()), ..push(1, "shop") };
        let entry = merged(vec![renamed, push(2, "shop")]).remove(0);
        assert_eq!((entry.event.as_str(), entry.action.as_deref(), entry.id), ("repository", Some("renamed"), 2));
    }

    #[test]
    fn pushes_to_several_branches_may_concern_any() {
        let other = WaitingDelivery { reference: Some("refs/heads/other".into()), ..push(2, "shop") };
        let entry = merged(vec![push(1, "shop"), other]).remove(0);
        assert_eq!((entry.reference, entry.sha, entry.merged), (None, Some("a".repeat(40)), Some(2)));
    }

    #[test]
    fn too_many_objects_become_all_of_the_app() {
        let other = WaitingDelivery { app: "other".into(), ..push(2, "shop") };
        let entries = replaced(&patch(&stored(MOST), vec![push(1000, "shop"), other]));
        let of = |entry: &WaitingDelivery| (entry.app.clone(), entry.every_repository, entry.merged);
        let count = i64::try_from(MOST + 1).unwrap();
        let expected = [("landfall".to_owned(), true, Some(count)), ("other".to_owned(), false, None)];
        assert_eq!(entries.iter().map(of).collect::<Vec<_>>(), expected);
        // A later delivery for one repository stands beside it, because the look at all may have begun.
        let after = merged(entries.into_iter().chain([push(1001, "shop")]).collect());
        assert_eq!(after.len(), 3);
    }
}
