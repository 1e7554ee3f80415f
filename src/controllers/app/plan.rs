//! Decides what to do next for a `GitHubApp`, as a pure function of the gathered state and of `now`.

use super::desired::{Desired, is_made_for};
use super::hook::{self, HookState};
use crate::api::{DeliveryResult, GitHubApp, GitHubInstallation, Reason};
use crate::controllers::access::LOOK_HOLDS;
use crate::controllers::connection::Connection;
use crate::controllers::deliveries::{Mark, Waiting};
use crate::controllers::dependents::waited_long_enough;
use crate::controllers::reconcile;
use crate::controllers::shared::PERSON_RECHECK;
use crate::controllers::standing::{Again, Standing, State};
use crate::webhook::RootKeys;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use std::fmt::Write as _;
use std::sync::Arc;

/// The gathered state of an App and its surroundings.
pub struct Seen {
    /// The object.
    pub app: Arc<GitHubApp>,
    pub has_finalizer: bool,
    /// The Secret with its credentials.
    pub secret: Option<Secret>,
    /// Digests of the App and its GitHub, and of everything that a connection is made from.
    pub made_from: (String, String),
    /// The connection of the App.
    pub connection: Option<Connection>,
    /// The root keys of webhooks, or the reason why there are none. `None`: the App has no webhook.
    pub keys: Option<Result<Arc<RootKeys>, Standing>>,
    /// The deliveries that wait for a look.
    pub waiting: Vec<Waiting>,
    pub installations: Vec<Arc<GitHubInstallation>>,
    /// The result of its grants.
    pub desired: Desired,
    /// The objects that still need it while it is being deleted.
    pub dependents: Vec<String>,
}

impl Seen {
    /// The deliveries that a look has covered.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        let heard = self.connection.as_ref().map(|connection| &connection.heard);
        let is_heard = |waiting: &&Waiting| heard.is_some_and(|heard| heard.contains(&waiting.announced));
        let going = self.app.metadata.deletion_timestamp.is_some();
        let heard = self.waiting.iter().filter(|_| !going).filter(is_heard).cloned();
        heard
            .map(|Waiting { announced, delivery }| Mark {
                announced,
                delivery,
                result: DeliveryResult::Handled,
                message: None,
            })
            .collect()
    }
}

#[derive(Debug)]
pub enum Step {
    /// Add the finalizer, which keeps the object while others depend on it.
    AddFinalizer,
    RemoveFinalizer {
        /// The objects that still needed it.
        forsaken: Vec<String>,
    },
    /// Create the connection to GitHub from the spec and the credentials.
    Connect,
    /// Look at GitHub.
    Look,
    /// Examine the webhook.
    EnsureHook,
    /// Create and remove `GitHubInstallation`s.
    Adjust,
    /// Delete the `GitHubInstallation`s that were made for a terminating App.
    Withdraw(Vec<Arc<GitHubInstallation>>),
}

pub type Plan = reconcile::Plan<Step>;

#[must_use]
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let is_going = seen.app.metadata.deletion_timestamp.is_some();
    if !seen.has_finalizer {
        return if is_going { Plan::nothing() } else { Plan::Do(Step::AddFinalizer) };
    }
    let connection = seen.connection.as_ref().filter(|connection| connection.made_from == seen.made_from.1);
    let Some(connection) = connection else { return Plan::Do(Step::Connect) };
    if can_look(connection) && connection.next_look.is_none_or(|at| is_due(at, now)) {
        return Plan::Do(Step::Look);
    }
    if is_going {
        return plan_removal(seen, connection, now);
    }
    if let HookState::Due = hook::state(seen, now) {
        return Plan::Do(Step::EnsureHook);
    }
    if connection.look.is_some() && !seen.app.spec.paused && !seen.desired.is_met() {
        return Plan::Do(Step::Adjust);
    }
    let (standing, again) = settled(seen, now);
    Plan::settled(standing, again)
}

/// Whether a look is due. A time that is further away than any wait was noted before the clock was set back.
fn is_due(at: Timestamp, now: Timestamp) -> bool {
    at <= now || at.duration_since(now) > LOOK_HOLDS
}

/// The reason is stored when the connection is made.
fn can_look(connection: &Connection) -> bool {
    connection.github.is_some() && !connection.is_broken
}

/// The standing of the object when there is nothing to do, and when to look again.
#[must_use]
pub fn settled(seen: &Seen, now: Timestamp) -> (Standing, Option<Again>) {
    let (trouble, next_hook) = match hook::state(seen, now) {
        HookState::Keyless(trouble) => (Some(trouble), None),
        HookState::Rests(hook) => (hook.trouble, hook.next),
        HookState::Unmanaged | HookState::Due => (None, None),
    };
    let is_keyless = matches!(seen.keys, Some(Err(_)));
    let standing = standing(seen, trouble);
    let Some(connection) = &seen.connection else { return (standing, None) };
    if is_keyless {
        return (standing, Some(Again::Backoff));
    }
    if !can_look(connection) {
        let is_sooner = |at: &Timestamp| now.checked_add(PERSON_RECHECK).is_ok_and(|recheck| *at < recheck);
        return (standing, Some(next_hook.filter(is_sooner).map_or(Again::Person, Again::At)));
    }
    (standing, [connection.next_look, next_hook].into_iter().flatten().min().map(Again::At))
}

/// The most namespaces that a message names.
const MOST_ABSENT: usize = 5;

fn standing(seen: &Seen, hook_trouble: Option<Standing>) -> Standing {
    let (app, desired) = (&seen.app, &seen.desired);
    let connection = seen.connection.as_ref();
    let (look, trouble) =
        (connection.and_then(|its| its.look.as_ref()), connection.and_then(|its| its.trouble.as_ref()));
    match (look, trouble) {
        (_, Some(trouble)) if trouble.state == State::Stalled => trouble.clone(),
        (Some(_), Some(trouble)) => trouble.clone().while_still_good("GitHub accepted the App's credentials before"),
        (None, Some(trouble)) => trouble.clone(),
        (None, None) => Standing::reconciling(Reason::APIUnreachable, "the App was not looked at yet"),
        (Some(look), None) => {
            if let Some(trouble) = hook_trouble {
                return trouble;
            }
            let mut message = format!(
                "GitHub accepts the credentials of App {}, installed on {} accounts",
                look.app.slug().unwrap_or(&look.app.name),
                look.installations.len()
            );
            if app.spec.tenants.is_empty() {
                message.push_str("; spec.tenants grants it to nobody yet");
            }
            if !desired.clashes.is_empty() {
                message.push_str("; not created, because a GitHubInstallation with that name already exists: ");
                message.push_str(&desired.clashes.join(", "));
            }
            if !desired.absent.is_empty() {
                let shown = desired.absent.iter().take(MOST_ABSENT).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = match desired.absent.len().checked_sub(MOST_ABSENT) {
                    Some(more @ 1..) => format!(" and {more} more"),
                    _ => String::new(),
                };
                let _ = write!(
                    message,
                    "; spec.tenants names namespaces that do not exist: {shown}{more}. Correct the names, or create the namespaces"
                );
            }
            if app.spec.paused {
                Standing::ready(Reason::Paused, format!("{message}; spec.paused: true holds back changes"))
            } else {
                Standing::ready(Reason::Connected, message)
            }
        }
    }
}

/// Withdraws the grants: a terminating App grants nothing, so tokens are revoked, and Secrets and webhooks removed.
/// Then removes the objects that were made for the App, and finally its finalizer.
fn plan_removal(seen: &Seen, connection: &Connection, now: Timestamp) -> Plan {
    let name = seen.app.name_any();
    let is_left = |installation: &&Arc<GitHubInstallation>| {
        is_made_for(installation, &name)
            && installation.metadata.deletion_timestamp.is_none()
            && installation.uid().is_none_or(|uid| !connection.withdrawn.contains(&uid))
    };
    let left: Vec<_> = seen.installations.iter().filter(is_left).cloned().collect();
    let until = waited_long_enough(&*seen.app, now);
    // Kubernetes may refuse the deletion for ever, and the App does not wait for ever.
    if !left.is_empty() && until.is_some() {
        return Plan::Do(Step::Withdraw(left));
    }
    match until {
        Some(until) if !seen.dependents.is_empty() => {
            let message = format!(
                "it is being deleted and waits, 15 minutes at most, until its published tokens are revoked and the repositories' \
                 own webhooks removed: {}",
                seen.dependents.join(", ")
            );
            let again = connection.next_look.map_or(until, |next| next.min(until));
            Plan::settled(Standing::reconciling(Reason::WaitingForDependents, message), Some(Again::At(again)))
        }
        Some(_) => Plan::Do(Step::RemoveFinalizer { forsaken: Vec::new() }),
        None => {
            let place = |it: &Arc<GitHubInstallation>| {
                format!("GitHubInstallation {}/{}", it.namespace().unwrap_or_default(), it.name_any())
            };
            let forsaken = seen.dependents.iter().cloned().chain(left.iter().map(place)).collect();
            Plan::Do(Step::RemoveFinalizer { forsaken })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use serde_json::json;

    #[test]
    fn a_terminating_app_does_not_wait_for_ever_for_an_object_that_kubernetes_keeps() {
        let deleted: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
        let spec = json!({"appID": 1, "credentialsSecretRef": {"name": "s"}});
        let app = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "spec": spec,
            "metadata": {"name": "landfall", "deletionTimestamp": deleted.to_string()},
        });
        let installation = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
            "metadata": {"name": "acme", "namespace": "team-a", "uid": "1", "labels": {"landfall.dev/app": "landfall"}},
            "spec": {"appRef": {"name": "landfall"}, "account": "acme"},
        });
        let seen = Seen {
            app: Arc::new(serde_json::from_value(app).unwrap()),
            has_finalizer: true,
            secret: None,
            made_from: ("identity".into(), "input".into()),
            connection: Some(Connection { made_from: "input".into(), ..Connection::default() }),
            keys: None,
            waiting: Vec::new(),
            installations: vec![Arc::new(serde_json::from_value(installation).unwrap())],
            desired: Desired::default(),
            dependents: Vec::new(),
        };
        let after = |minutes| plan(&seen, deleted + SignedDuration::from_mins(minutes));
        assert!(matches!(after(14), Plan::Do(Step::Withdraw(left)) if left.len() == 1));
        let Plan::Do(Step::RemoveFinalizer { forsaken }) = after(15) else { panic!("it waits on") };
        assert_eq!(forsaken, ["GitHubInstallation team-a/acme"]);
    }

    #[test]
    fn a_look_is_due_at_its_time_and_when_the_clock_was_set_back() {
        let now: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
        let due = |minutes| is_due(now + SignedDuration::from_mins(minutes), now);
        assert!(due(0) && !due(1) && !due(61) && due(24 * 60));
    }
}
