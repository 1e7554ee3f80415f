//! `WebhookInbox`: the deliveries that a receiver took and that the operator has yet to deal with.
//!
//! Invariant: the receiver alone adds deliveries and the controller alone takes them out. Each delivery is one JSON text in a string,
//! because the API server walks every field of every object in a list at each patch, and a string is one value to it. The text is
//! printed and parsed here and nowhere else. Somebody with a stolen token of the receiver can write any text.

use super::without_status;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The most characters of an entry. A test prints the longest one.
const LONGEST_ENTRY: usize = 4096;
/// The most characters of a GUID, an event, an action or a commit id.
const LONGEST_WORD: usize = 64;
/// The most characters of a ref.
const LONGEST_REF: usize = 255;
/// The most characters of a name in Kubernetes.
const LONGEST_NAME: usize = 253;
/// The number of a delivery is below this. A receiver counts microseconds, and comes to half of it in 73,000 years.
pub const ID_LIMIT: i64 = 1 << 62;
/// The second, after 1970, before which a receiver accepted a delivery: the beginning of the year 2200.
const LATEST_RECEIPT: i64 = 7_258_118_400;

/// The deliveries that one receiver took and that the operator has yet to deal with. The operator makes one for each receiver's
/// pod, under the pod's name. Kubernetes removes it with the pod.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "landfall.dev",
    version = "v1alpha1",
    kind = "WebhookInbox",
    plural = "webhookinboxes",
    namespaced,
    shortname = "lfinbox",
    category = "landfall",
    status = "WebhookInboxStatus",
    derive = "PartialEq",
    doc = "The webhook deliveries that one receiver took and that the operator has yet to deal with. Made by the operator for each receiver's pod.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Oldest-Delivery", type_ = "string", json_path = ".status.deliveries[0]")
)]
pub struct WebhookInboxSpec {}

/// The deliveries that wait.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WebhookInboxStatus {
    /// The deliveries that wait, in the order of their arrival. Each is a JSON text.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub deliveries: Vec<InboxEntry>,
}

/// The JSON text of a delivery, and the delivery in it, if it can be parsed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(from = "String", into = "String")]
pub struct InboxEntry {
    text: String,
    delivery: Option<WaitingDelivery>,
}

impl InboxEntry {
    /// The entry of a delivery. Words that are too long for it are cut.
    #[must_use]
    pub fn new(delivery: WaitingDelivery) -> Self {
        let delivery = delivery.cut();
        Self { text: serde_json::to_string(&delivery).unwrap_or_default(), delivery: Some(delivery) }
    }

    /// The text as the API server has it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The delivery. `None`: the text is none, or has a time of receipt or a number that no receiver writes.
    #[must_use]
    pub fn delivery(&self) -> Option<&WaitingDelivery> {
        self.delivery.as_ref()
    }

    /// The number of the delivery. A text that is none has a negative one.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.delivery.as_ref().map_or_else(
            || {
                let mut hasher = DefaultHasher::new();
                self.text.hash(&mut hasher);
                -1 - (hasher.finish() >> 1).cast_signed()
            },
            |delivery| delivery.id,
        )
    }
}

impl From<String> for InboxEntry {
    fn from(text: String) -> Self {
        let delivery = WaitingDelivery::parse(&text);
        Self { text, delivery }
    }
}

impl From<InboxEntry> for String {
    fn from(entry: InboxEntry) -> Self {
        entry.text
    }
}

impl JsonSchema for InboxEntry {
    fn schema_name() -> Cow<'static, str> {
        "InboxEntry".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": LONGEST_ENTRY})
    }
}

/// A delivery that waits for the operator, or several for one object. The order of the fields is that in the text, which
/// `kubectl get` shows.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WaitingDelivery {
    /// When the receiver accepted it, or the first of those that were merged.
    pub receipt_time: MicroTime,
    /// The event (`X-GitHub-Event`): `push`.
    pub event: String,
    /// The action, for events that have one: `renamed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The name of the GitHubApp.
    #[serde(rename = "appName")]
    pub app: String,
    /// The namespace of the ProjectRepository that the delivery concerns. Absent if it concerns the App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name of the ProjectRepository that the delivery concerns. Absent if it concerns the App.
    #[serde(default, rename = "repositoryName", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the delivery concerns every ProjectRepository of the App, because deliveries for too many of them waited.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub every_repository: bool,
    /// The ref that was pushed: `refs/heads/main`. Absent where deliveries for several refs were merged, and where it is longer
    /// than 255 characters.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The commit the ref was at after the push, as the delivery says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha: Option<String>,
    /// The number of deliveries that this entry stands for, if they are more than one. GUID, event and commit are those of the newest.
    #[serde(default, rename = "mergedCount", skip_serializing_if = "Option::is_none")]
    pub merged: Option<i64>,
    /// The delivery's GUID (`X-GitHub-Delivery`), as in the webhook's list of recent deliveries on GitHub.
    pub guid: String,
    /// A number that no other delivery of this inbox has or had.
    pub id: i64,
}

impl WaitingDelivery {
    /// The delivery in a text. `None` also for a time of receipt before 1970 or in the far future: the log in the status of an
    /// object would have it, and the API server refuses years of five digits.
    fn parse(text: &str) -> Option<Self> {
        let delivery: Self = serde_json::from_str(text).ok()?;
        let is_receipt = (0..LATEST_RECEIPT).contains(&delivery.receipt_time.0.as_second())
            && delivery.receipt_time.0 >= Timestamp::UNIX_EPOCH;
        let is_number = (0..ID_LIMIT).contains(&delivery.id);
        (is_receipt && is_number).then(|| delivery.cut())
    }

    /// The delivery with words as a status may have them.
    fn cut(self) -> Self {
        let words = |words: Option<String>, longest| words.map(|word| cut(&word, longest));
        let Self { receipt_time, every_repository, id, .. } = self;
        Self {
            receipt_time,
            event: cut(&self.event, LONGEST_WORD),
            action: words(self.action, LONGEST_WORD),
            app: cut(&self.app, LONGEST_NAME),
            namespace: words(self.namespace, LONGEST_NAME),
            name: words(self.name, LONGEST_NAME),
            every_repository,
            // A part of a ref is another ref. Without one, the operator looks at all branches.
            reference: self.reference.filter(|it| it.chars().count() <= LONGEST_REF).map(|it| cut(&it, LONGEST_REF)),
            sha: words(self.sha, LONGEST_WORD),
            merged: self.merged.filter(|count| *count > 1),
            guid: cut(&self.guid, LONGEST_WORD),
            id,
        }
    }

    /// Namespace and name of the `ProjectRepository` that it concerns. `None`: it concerns the App.
    #[must_use]
    pub fn repository(&self) -> Option<(&str, &str)> {
        self.namespace.as_deref().zip(self.name.as_deref())
    }

    /// Whether it concerns the App itself, and no repository.
    #[must_use]
    pub fn is_for_app(&self) -> bool {
        self.repository().is_none() && !self.every_repository
    }
}

// The controller takes deliveries out of the status, and writes nothing else there. An inbox has no conditions.
without_status!(WebhookInbox);

/// The first characters of a word, without control characters.
fn cut(word: &str, longest: usize) -> String {
    word.chars().filter(|c| !c.is_control()).take(longest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn written(changed: &Value) -> InboxEntry {
        let mut entry = json!({
            "id": 7, "appName": "landfall", "namespace": "team-a", "repositoryName": "shop", "guid": "g", "event": "push",
            "ref": "refs/heads/main", "receiptTime": "2026-01-01T00:00:00.000001Z",
        });
        entry.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        serde_json::from_value(json!(entry.to_string())).unwrap()
    }

    #[test]
    fn an_entry_is_a_text_that_reads_as_its_delivery() {
        let entry = written(&json!({"mergedCount": 3}));
        let delivery = entry.delivery().unwrap().clone();
        assert_eq!((entry.id(), delivery.repository(), delivery.merged), (7, Some(("team-a", "shop")), Some(3)));
        let printed = InboxEntry::new(delivery);
        assert!(printed.text().starts_with(r#"{"receiptTime":"2026-01-01T00:00:00.000001Z","event":"push","appName""#));
        assert_eq!(json!(printed), json!(printed.text()));
        assert_eq!(InboxEntry::from(printed.text().to_owned()), printed);
    }

    #[test]
    fn the_longest_entry_is_within_the_schema() {
        let long = |number: usize| "\"".repeat(number);
        let delivery = WaitingDelivery {
            receipt_time: MicroTime(Timestamp::UNIX_EPOCH),
            event: long(9999),
            action: Some(long(9999)),
            app: long(9999),
            namespace: Some(long(9999)),
            name: Some(long(9999)),
            every_repository: true,
            reference: Some(long(LONGEST_REF)),
            sha: Some("\u{1}".repeat(9999)),
            merged: Some(i64::MAX),
            guid: long(9999),
            id: i64::MAX,
        };
        let text = InboxEntry::new(delivery).text;
        assert!((2500..LONGEST_ENTRY).contains(&text.len()), "{}", text.len());
    }

    #[test]
    fn a_forged_entry_is_no_delivery_and_has_a_number_all_the_same() {
        let forged = [
            json!({"receiptTime": "1969-12-31T23:59:59.999999Z"}),
            json!({"receiptTime": "-009999-01-02T00:00:00Z"}),
            json!({"receiptTime": "9999-12-30T00:00:00Z"}),
            json!({"receiptTime": "2200-01-01T00:00:00Z"}),
            json!({"receiptTime": null}),
            json!({"id": -1}),
            json!({"id": i64::MAX}),
            json!({"id": "7"}),
        ];
        for forged in forged {
            let entry = written(&forged);
            assert!(entry.delivery().is_none() && entry.id() < 0, "{forged}");
            assert_eq!(entry.id(), written(&forged).id());
        }
        assert!(InboxEntry::from(String::new()).delivery().is_none());
        for real in ["1970-01-01T00:00:00Z", "2199-12-31T23:59:59.999999Z"] {
            assert!(written(&json!({"receiptTime": real})).delivery().is_some(), "{real}");
        }
    }

    #[test]
    fn words_are_cut() {
        let entry = written(&json!({"guid": "a\u{7}".repeat(99), "ref": "r".repeat(256), "mergedCount": -4}));
        let delivery = entry.delivery().unwrap();
        assert_eq!((delivery.guid.as_str(), &delivery.reference, delivery.merged), (&*"a".repeat(64), &None, None));
    }
}
