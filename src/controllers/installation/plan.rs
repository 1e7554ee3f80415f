//! Decides what to do next for a `GitHubInstallation`, as a pure function of the gathered state and of `now`.

use super::super::access::{AccountAccess, Names};
use super::super::dependents::waited_long_enough;
use super::super::reconcile;
use super::super::standing::{Again, Standing};
use crate::api::{GitHubInstallation, Reason};
use jiff::Timestamp;
use kube::ResourceExt;
use std::sync::Arc;

/// The gathered state of an installation and its surroundings.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The object.
    pub installation: Arc<GitHubInstallation>,
    pub has_finalizer: bool,
    /// Whether its namespace may use the account. `None`: the namespace is not known yet, and its watch will bring it.
    pub access: Option<AccountAccess>,
    /// The objects that still need it while it is being deleted.
    pub dependents: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add the finalizer, which keeps the object while others depend on it.
    AddFinalizer,
    RemoveFinalizer {
        /// The objects that still needed it.
        forsaken: Vec<String>,
    },
}

pub type Plan = reconcile::Plan<Step>;

#[must_use]
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    if seen.installation.metadata.deletion_timestamp.is_some() {
        return plan_removal(seen, now);
    }
    if !seen.has_finalizer {
        return Plan::Do(Step::AddFinalizer);
    }
    let Some(access) = &seen.access else { return Plan::nothing() };
    let names = Names {
        app: &seen.installation.spec.app_ref.name,
        account: &seen.installation.spec.account,
        namespace: &seen.installation.namespace().unwrap_or_default(),
        was_installed: seen.installation.status.as_ref().is_some_and(|status| status.installation_id.is_some()),
    };
    Plan::Settled { standing: access.standing(names), again: None }
}

/// Waits until its tokens have withdrawn everything that was published for it, then removes the finalizer.
fn plan_removal(seen: &Seen, now: Timestamp) -> Plan {
    if !seen.has_finalizer {
        return Plan::nothing();
    }
    match waited_long_enough(&*seen.installation, now) {
        Some(until) if !seen.dependents.is_empty() => {
            let message = format!(
                "it is being deleted and waits, 15 minutes at most, until the tokens that were published for it are \
                 revoked and webhooks removed: {}",
                seen.dependents.join(", ")
            );
            Plan::settled(Standing::reconciling(Reason::WaitingForDependents, message), Some(Again::At(until)))
        }
        Some(_) => Plan::Do(Step::RemoveFinalizer { forsaken: Vec::new() }),
        None => Plan::Do(Step::RemoveFinalizer { forsaken: seen.dependents.clone() }),
    }
}
