//! Kubernetes events on transitions, for people who read `kubectl describe`.
//!
//! Invariant: an event is a courtesy. That it cannot be published is logged and counted, and never fails or delays a
//! reconcile by more than [`PUBLISH_TIMEOUT`].
//!
//! kube's `Recorder` takes events for the same that differ in their note alone, and then counts up the first one, with
//! its old note; it does so for six minutes, even if that event was deleted meanwhile and cannot be patched. Each event
//! here is therefore published by a `Recorder` that knows no other. What was said in the same words a short while ago is
//! not said again, so that an object that goes back and forth does not fill its namespace with events.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
pub use kube::runtime::events::EventType;
use kube::runtime::events::{Event, Recorder, Reporter};

use super::metrics::Metrics;

/// Who reports, in an event's `reportingController`.
const CONTROLLER: &str = "landfall.dev/controller";
/// The longest that publishing may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long the same is not said again.
const SILENCE: Duration = Duration::from_mins(6);
/// The longest note that the API server takes, in bytes (`events.k8s.io/v1`, `Event.note`).
const LONGEST_NOTE: usize = 1024;

/// Publishes events. Clones share what was said already.
#[derive(Clone)]
pub struct Events {
    client: kube::Client,
    reporter: Reporter,
    metrics: Metrics,
    said: Arc<Mutex<HashMap<Said, Instant>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Said {
    about: (Option<String>, Option<String>, Option<String>, Option<String>),
    type_: EventType,
    reason: String,
    note: String,
}

impl Events {
    /// Events reported by the process `instance`, which is its pod's name.
    #[must_use]
    pub fn new(client: kube::Client, instance: impl Into<String>, metrics: Metrics) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(instance.into()) };
        Self { client, reporter, metrics, said: Arc::default() }
    }

    /// Says that `object` came into a new state: `reason` is the condition's, `note` a sentence for people.
    pub async fn transition(&self, object: &ObjectReference, type_: EventType, reason: &str, note: &str) {
        let note = &note[..note.floor_char_boundary(LONGEST_NOTE)];
        let about = (object.kind.clone(), object.namespace.clone(), object.name.clone(), object.uid.clone());
        let said = Said { about, type_, reason: reason.to_owned(), note: note.to_owned() };
        if self.was_said(&said, Instant::now()) {
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
                self.said().insert(said, Instant::now());
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PUBLISH_TIMEOUT.as_secs()),
        };
        self.metrics.event_failed();
        let (kind, namespace, name) = (&object.kind, &object.namespace, &object.name);
        tracing::warn!(?kind, ?namespace, ?name, reason, note, error = problem, "an event could not be published");
    }

    fn was_said(&self, event: &Said, now: Instant) -> bool {
        let mut said = self.said();
        said.retain(|_, at| now.duration_since(*at) < SILENCE);
        said.contains_key(event)
    }

    fn said(&self) -> MutexGuard<'_, HashMap<Said, Instant>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Events against an API server that answers all with `status`, and what it was asked.
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
    async fn transitions_that_differ_in_their_note_are_each_told() {
        let (events, _, calls) = events(201);
        for note in ["The key is missing.", "The key is malformed.", "The key is missing."] {
            events.transition(&object("a"), EventType::Warning, "CredentialsInvalid", note).await;
        }
        events.transition(&object("b"), EventType::Warning, "CredentialsInvalid", "The key is missing.").await;
        let calls = calls.lock().expect("not poisoned");
        let told: Vec<_> = calls
            .iter()
            .map(|call| (call.method.as_str(), call.body["regarding"]["name"].as_str(), call.body["note"].as_str()))
            .collect();
        assert_eq!(
            told,
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
    async fn the_same_is_told_again_after_a_while() {
        let (events, _, _) = events(201);
        events.transition(&object("a"), EventType::Normal, "Ready", "Ready.").await;
        let said = events.said().keys().next().expect("said").clone();
        assert!(events.was_said(&said, Instant::now()));
        assert!(!events.was_said(&said, Instant::now() + SILENCE));
        assert!(events.said().is_empty(), "nothing is remembered for ever");
    }

    #[tokio::test]
    async fn an_event_that_is_refused_is_counted_and_tried_again_at_the_next_transition() {
        let (events, metrics, calls) = events(403);
        for _ in 0..2 {
            events.transition(&object("a"), EventType::Normal, "Ready", "Ready.").await;
        }
        assert_eq!(calls.lock().expect("not poisoned").len(), 2);
        assert!(metrics.text().expect("encodes").contains("landfall_events_failed_total 2"));
    }

    #[tokio::test]
    async fn a_note_is_cut_where_a_character_ends() {
        let (events, _, calls) = events(201);
        events.transition(&object("a"), EventType::Normal, "Ready", &"ä".repeat(600)).await;
        events.transition(&object("a"), EventType::Normal, "Ready", &format!("x{}", "ä".repeat(600))).await;
        let calls = calls.lock().expect("not poisoned");
        let lengths: Vec<_> = calls.iter().map(|call| call.body["note"].as_str().expect("a note").len()).collect();
        assert_eq!(lengths, [1024, 1023]);
    }
}
