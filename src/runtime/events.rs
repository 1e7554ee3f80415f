//! Kubernetes events on transitions, for people who read `kubectl describe`.
//!
//! Invariant: events are best effort. A failure to publish one is logged and counted; it never fails a reconcile, and never
//! delays one by more than [`PUBLISH_TIMEOUT`].
//!
//! kube's `Recorder` treats events that differ only in their note as the same, and increments the count of the first one,
//! with its old note; it does so for six minutes, even if that event was deleted meanwhile and cannot be patched. Each
//! event here is therefore published by a new `Recorder`. An event with the same text is not repeated for a while, so that
//! an object that flips between states does not fill its namespace with events.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
pub use kube::runtime::events::EventType;
use kube::runtime::events::{Event, Recorder, Reporter};

use super::{metrics::Metrics, pruned::Pruned};

/// An event's `reportingController`.
const CONTROLLER: &str = "landfall.dev/controller";
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the same event is not repeated.
const REPEAT_AFTER: Duration = Duration::from_mins(6);
/// How long it is not repeated that a namespace takes no events because it is being deleted.
const REPEAT_TERMINATING_AFTER: Duration = Duration::from_hours(1);
/// The longest note that the API server takes, in bytes (`events.k8s.io/v1`, `Event.note`).
const LONGEST_NOTE: usize = 1024;

/// Publishes events. Clones share the memory of recent events.
#[derive(Clone)]
pub struct Events {
    client: kube::Client,
    reporter: Reporter,
    metrics: Metrics,
    recent: Arc<Mutex<Pruned<Published, Instant>>>,
    /// The namespaces that took no events because they were being deleted, with the time of the line in the log.
    terminating: Arc<Mutex<Pruned<String, Instant>>>,
}

/// Whether Kubernetes refused to create an object because its namespace is being deleted, or is gone.
/// <https://github.com/kubernetes/apiserver/blob/v0.36.3/pkg/admission/plugin/namespace/lifecycle/admission.go>
#[must_use]
pub fn is_terminating(status: &kube::core::Status) -> bool {
    let is_gone = || status.details.as_ref().is_some_and(|details| details.kind == "namespaces");
    (status.code == 403 && status.message.contains("being terminated")) || (status.code == 404 && is_gone())
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Published {
    object: (Option<String>, Option<String>, Option<String>, Option<String>),
    type_: EventType,
    reason: String,
    note: String,
}

impl Events {
    /// Events reported by the process `instance`, which is its pod's name.
    #[must_use]
    pub fn new(client: kube::Client, instance: impl Into<String>, metrics: Metrics) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(instance.into()) };
        Self { client, reporter, metrics, recent: Arc::default(), terminating: Arc::default() }
    }

    /// Reports that `object` changed its state: `reason` is the condition's, `note` a sentence for people.
    pub async fn transition(&self, object: &ObjectReference, type_: EventType, reason: &str, note: &str) {
        let note = &note[..note.floor_char_boundary(LONGEST_NOTE)];
        let identity = (object.kind.clone(), object.namespace.clone(), object.name.clone(), object.uid.clone());
        let key = Published { object: identity, type_, reason: reason.to_owned(), note: note.to_owned() };
        if self.is_recent(&key, Instant::now()) {
            return;
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.to_owned()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let problem = match tokio::time::timeout(PUBLISH_TIMEOUT, recorder.publish(&event, object)).await {
            Ok(Ok(())) => {
                self.recent().insert(key, Instant::now());
                return;
            }
            Ok(Err(kube::Error::Api(status))) if is_terminating(&status) => {
                let namespace = object.namespace.as_deref().unwrap_or_default();
                if self.is_first(namespace, Instant::now()) {
                    tracing::info!(namespace, "the namespace is being deleted and takes no more events");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PUBLISH_TIMEOUT.as_secs()),
        };
        self.metrics.event_failed();
        let (kind, namespace, name) = (&object.kind, &object.namespace, &object.name);
        tracing::warn!(?kind, ?namespace, ?name, reason, note, error = problem, "cannot publish an event");
    }

    /// Whether no line in the log has named the namespace for a while.
    fn is_first(&self, namespace: &str, now: Instant) -> bool {
        let mut terminating = self.terminating.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.duration_since(*at) < REPEAT_TERMINATING_AFTER;
        if terminating.get(namespace).is_some_and(is_recent) {
            return false;
        }
        terminating.make_room(is_recent);
        terminating.insert(namespace.to_owned(), now);
        true
    }

    fn is_recent(&self, event: &Published, now: Instant) -> bool {
        let mut recent = self.recent();
        let is_recent = |at: &Instant| now.duration_since(*at) < REPEAT_AFTER;
        recent.make_room(is_recent);
        recent.get(event).is_some_and(is_recent)
    }

    fn recent(&self) -> MutexGuard<'_, Pruned<Published, Instant>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("reporter", &self.reporter).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::scripted::{Call, client, refusal};
    use serde_json::json;

    fn object(name: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some("landfall.dev/v1alpha1".to_owned()),
            kind: Some("InstallationToken".to_owned()),
            name: Some(name.to_owned()),
            namespace: Some("team-a".to_owned()),
            uid: Some(format!("uid-of-{name}")),
            ..ObjectReference::default()
        }
    }

    /// Events sent to an API server that answers every request with `status`, and the requests it got.
    fn events(status: u16) -> (Events, Metrics, Arc<Mutex<Vec<Call>>>) {
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let seen = calls.clone();
        let client = client(move |call: Call| {
            seen.lock().expect("not poisoned").push(call.clone());
            std::future::ready(if status < 300 { (status, call.body) } else { refusal(status, "Forbidden") })
        });
        let metrics = Metrics::new();
        (Events::new(client, "landfall-0", metrics.clone()), metrics, calls)
    }

    #[tokio::test]
    async fn transitions_that_differ_in_their_note_are_each_published() {
        let (events, _, calls) = events(201);
        for note in ["The key is missing.", "The key is malformed.", "The key is missing."] {
            events.transition(&object("a"), EventType::Warning, "CredentialsInvalid", note).await;
        }
        events.transition(&object("b"), EventType::Warning, "CredentialsInvalid", "The key is missing.").await;
        let calls = calls.lock().expect("not poisoned");
        let published: Vec<_> = calls
            .iter()
            .map(|call| (call.method.as_str(), call.body["regarding"]["name"].as_str(), call.body["note"].as_str()))
            .collect();
        assert_eq!(
            published,
            [
                ("POST", Some("a"), Some("The key is missing.")),
                ("POST", Some("a"), Some("The key is malformed.")),
                ("POST", Some("b"), Some("The key is missing.")),
            ]
        );
        assert_eq!(calls[0].path, "/apis/events.k8s.io/v1/namespaces/team-a/events");
        assert_eq!(calls[0].body["reportingController"], CONTROLLER);
        assert_eq!(calls[0].body["reportingInstance"], "landfall-0");
    }

    #[tokio::test]
    async fn the_same_event_is_published_again_after_a_while() {
        let (events, _, _) = events(201);
        events.transition(&object("a"), EventType::Normal, "Ready", "Ready.").await;
        let published = events.recent().keys().next().expect("published").clone();
        assert!(events.is_recent(&published, Instant::now()));
        assert!(!events.is_recent(&published, Instant::now() + REPEAT_AFTER));
        // Old events are forgotten when there are many.
        for number in 1..128 {
            events.transition(&object(&number.to_string()), EventType::Normal, "Ready", "Ready.").await;
        }
        events.is_recent(&published, Instant::now() + REPEAT_AFTER);
        assert!(events.recent().is_empty());
    }

    #[tokio::test]
    async fn a_refused_event_is_counted_and_published_at_the_next_transition() {
        let (events, metrics, calls) = events(403);
        for _ in 0..2 {
            events.transition(&object("a"), EventType::Normal, "Ready", "Ready.").await;
        }
        assert_eq!(calls.lock().expect("not poisoned").len(), 2);
        assert!(metrics.text().expect("encodes").contains("landfall_events_failed_total 2"));
    }

    #[tokio::test]
    async fn a_namespace_that_is_being_deleted_is_told_once_and_counts_as_no_failure() {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
            "message": "events \"a\" is forbidden: unable to create new content in namespace team-a because it is being terminated",
        });
        let metrics = Metrics::new();
        let client = client(move |_: Call| std::future::ready((403, status.clone())));
        let events = Events::new(client, "landfall-0", metrics.clone());
        for number in 0..3 {
            events.transition(&object("a"), EventType::Normal, "Ready", &format!("Ready {number}.")).await;
        }
        assert!(metrics.text().expect("encodes").contains("landfall_events_failed_total 0"));
        assert_eq!(events.terminating.lock().expect("not poisoned").keys().collect::<Vec<_>>(), ["team-a"]);
        let now = Instant::now();
        assert!(!events.is_first("team-a", now) && events.is_first("team-b", now));
        assert!(events.is_first("team-a", now + REPEAT_TERMINATING_AFTER));
    }

    #[tokio::test]
    async fn a_note_is_cut_at_the_end_of_a_character() {
        let (events, _, calls) = events(201);
        events.transition(&object("a"), EventType::Normal, "Ready", &"ä".repeat(600)).await;
        events.transition(&object("a"), EventType::Normal, "Ready", &format!("x{}", "ä".repeat(600))).await;
        let calls = calls.lock().expect("not poisoned");
        let lengths: Vec<_> = calls.iter().map(|call| call.body["note"].as_str().expect("a note").len()).collect();
        assert_eq!(lengths, [1024, 1023]);
    }
}
