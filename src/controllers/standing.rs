//! The standing of an object, and the conditions that follow from it.
//!
//! This module owns the one mapping from an outcome to `Ready`, `Reconciling`, `Retrying` and `Stalled` (kstatus).
//! Invariant: the same outcome twice gives the same conditions, including transition times, so that nothing is written
//! when nothing changed. If it were broken, an idle cluster would write status forever.

use crate::api::{ConditionType, Reason};
use crate::git;
use crate::github;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The possible states of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The object does what its spec asks.
    Ready,
    /// The published token or state is still good, but something needed for the future is being retried.
    ReadyButRetrying,
    /// The state will pass, or is being retried.
    Reconciling,
    /// A person has to do something.
    Stalled,
    /// The object does nothing, as its spec asks.
    Suspended,
}

/// The state of an object, the reason, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    pub reason: Reason,
    /// What happened, to what, and what to do. It never contains a secret, and never a time that changes by itself.
    pub message: String,
}

/// When to look again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// With growing delays.
    Backoff,
    /// Not before this time.
    At(Timestamp),
    /// When a person has acted, and now and then in case an event was lost.
    Person,
}

impl Standing {
    /// The object does what its spec asks.
    pub fn ready(reason: Reason, message: impl Into<String>) -> Self {
        Self { state: State::Ready, reason, message: message.into() }
    }

    /// The state will pass, or is being retried.
    pub fn reconciling(reason: Reason, message: impl Into<String>) -> Self {
        Self { state: State::Reconciling, reason, message: message.into() }
    }

    /// A person has to do something.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self { state: State::Stalled, reason, message: message.into() }
    }

    /// The object does nothing, as its spec asks.
    pub fn suspended(reason: Reason, message: impl Into<String>) -> Self {
        Self { state: State::Suspended, reason, message: message.into() }
    }

    /// The same problem while the earlier published state is still good.
    #[must_use]
    pub fn while_still_good(self, good: &str) -> Self {
        Self { state: State::ReadyButRetrying, reason: self.reason, message: format!("{good}. But: {}", self.message) }
    }

    /// The conditions of this standing, given the stored ones.
    #[must_use]
    pub fn conditions(&self, stored: &[Condition], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
        let say = |kind, truth| condition((kind, truth), (self.reason, &self.message), stored, generation, now);
        match self.state {
            State::Ready => vec![say(ConditionType::Ready, Truth::True)],
            State::ReadyButRetrying => {
                vec![say(ConditionType::Ready, Truth::True), say(ConditionType::Retrying, Truth::True)]
            }
            State::Reconciling => {
                vec![say(ConditionType::Ready, Truth::False), say(ConditionType::Reconciling, Truth::True)]
            }
            State::Stalled => vec![say(ConditionType::Ready, Truth::False), say(ConditionType::Stalled, Truth::True)],
            State::Suspended => vec![say(ConditionType::Ready, Truth::False)],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    /// Not known yet.
    Unknown,
}

/// A condition with this status, reason and message. Its transition time is that of the stored condition if the status
/// is the same.
#[must_use]
pub fn condition(
    (kind, truth): (ConditionType, Truth),
    (reason, message): (Reason, &str),
    stored: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = match truth {
        Truth::True => "True",
        Truth::False => "False",
        Truth::Unknown => "Unknown",
    };
    let since = stored.iter().find(|c| c.type_ == kind.as_str() && c.status == status);
    Condition {
        type_: kind.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: bounded(message),
        observed_generation: generation,
        last_transition_time: since.map_or(Time(whole_second(now)), |c| c.last_transition_time.clone()),
    }
}

fn blocked(block: github::Block) -> Reason {
    match block {
        github::Block::SingleSignOn => Reason::SingleSignOnRequired,
        github::Block::IpAddress => Reason::IPAddressNotAllowed,
        github::Block::Billing => Reason::BillingLocked,
        github::Block::Withdrawn => Reason::RepositoryDisabled,
        github::Block::Locked => Reason::RepositoryLocked,
    }
}

/// The standing of an object after a failed call to GitHub. `what` is the attempt: "minting a token for acme".
#[must_use]
pub fn github_failure(error: &github::Error, what: &str) -> (Standing, Again) {
    let reason = match error {
        github::Error::CredentialsRefused { .. } => Reason::CredentialsInvalid,
        github::Error::TokenRefused { .. } => Reason::TokenRefused,
        github::Error::NotFound { .. } => Reason::InstallationNotFound,
        github::Error::Suspended { .. } => Reason::InstallationSuspended,
        github::Error::Forbidden { .. } => Reason::InsufficientPermissions,
        github::Error::Unprocessable { .. } => Reason::RepositoryNotFound,
        github::Error::Blocked { block, .. } => blocked(*block),
        github::Error::Archived { .. } => Reason::RepositoryArchived,
        github::Error::RateLimited { .. } => Reason::RateLimited,
        github::Error::Unreachable { .. } => Reason::APIUnreachable,
        github::Error::Page { .. }
        | github::Error::Conflict { .. }
        | github::Error::Moved { .. }
        | github::Error::Server { .. }
        | github::Error::Refused { .. }
        | github::Error::Malformed { .. }
        | github::Error::Unsent { .. } => Reason::APIFailed,
    };
    match error.outlook() {
        github::Outlook::Passes => (
            Standing::reconciling(
                reason,
                format!("{what}: {error}. It is retried by itself, with growing pauses of at most 5 minutes"),
            ),
            Again::Backoff,
        ),
        github::Outlook::Waits(until) => {
            // The message has no time, because that would be different each time.
            let secondary = matches!(error, github::Error::RateLimited { secondary: true, .. });
            let limit = if secondary { "a secondary rate limit" } else { "the rate limit" };
            let message =
                format!("{what}: {limit} of GitHub was reached. It is retried by itself as soon as GitHub allows it");
            (Standing::reconciling(reason, message), Again::At(until))
        }
        github::Outlook::Stalls => (Standing::stalled(reason, format!("{what}: {error}")), Again::Person),
    }
}

/// Whether the failure of one object may affect every object that uses the App.
#[must_use]
pub fn matters_to_app(standing: &Standing) -> bool {
    const OF_ALL: [Reason; 5] = [
        Reason::APIUnreachable,
        Reason::CredentialsInvalid,
        Reason::InstallationNotFound,
        Reason::InstallationSuspended,
        // The list of the App's owner refuses the App's own calls, too.
        Reason::IPAddressNotAllowed,
    ];
    OF_ALL.contains(&standing.reason)
}

/// The standing of an object after a failure to read a remote.
#[must_use]
pub fn git_failure(error: &git::Error) -> (Standing, Again) {
    let reason = match error {
        git::Error::Branch { .. } => Reason::InvalidSpec,
        git::Error::NotFound { .. } | git::Error::Moved { .. } => Reason::RepositoryNotFound,
        git::Error::CredentialsRefused { .. } => Reason::TokenRefused,
        git::Error::Forbidden { .. } => Reason::InsufficientPermissions,
        git::Error::Blocked { block, .. } => blocked(*block),
        git::Error::AddressRefused { .. } => Reason::URLNotAllowed,
        git::Error::RateLimited { .. } => Reason::RateLimited,
        git::Error::Unreachable { .. } => Reason::APIUnreachable,
        git::Error::Server { .. } | git::Error::Refused { .. } | git::Error::Protocol { .. } => Reason::APIFailed,
    };
    match error.outlook() {
        github::Outlook::Passes => (
            Standing::reconciling(reason, format!("{error}. It is retried by itself, with growing pauses")),
            Again::Backoff,
        ),
        github::Outlook::Waits(until) => {
            let message = "the server asked to wait; it is retried as soon as it allows it";
            (Standing::reconciling(reason, message), Again::At(until))
        }
        github::Outlook::Stalls => (Standing::stalled(reason, error.to_string()), Again::Person),
    }
}

/// Whether Kubernetes does not let the operator do something. The operator may do everything that it does, unless a
/// RoleBinding is missing.
#[must_use]
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// The standing of an object after a refusal by the Kubernetes API that will not pass. Conflicts, limits and failures
/// of the API server pass.
#[must_use]
pub fn kubernetes_refusal(error: &kube::Error, namespace: &str) -> Option<Standing> {
    let kube::Error::Api(status) = error else { return None };
    let remedy = match status.code {
        404 | 409 | 429 | 500.. => return None,
        403 if status.message.contains("being terminated") => "the namespace is being deleted",
        403 if status.message.contains("exceeded quota") => "raise the ResourceQuota, or delete what takes it up",
        403 if status.message.contains(" cannot ") => {
            "grant it to the operator: if the chart's value secretNamespaces is set, it has to list this namespace, and \
             `helm upgrade` makes a RoleBinding again that was deleted"
        }
        _ => "correct the field that it names",
    };
    let message = format!("in namespace {namespace} the Kubernetes API refused: {}; {remedy}", status.message);
    Some(Standing::reconciling(Reason::KubernetesRefused, message))
}

/// A condition's message may have 32,768 characters; a person reads fewer.
fn bounded(message: &str) -> String {
    const MOST: usize = 1024;
    match message.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// Kubernetes stores condition times in whole seconds; a finer time would differ from what is read back.
#[must_use]
pub fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_allow_list_that_may_refuse_the_app_itself_makes_the_operator_look_at_the_app() {
        let of = |block| Standing::stalled(blocked(block), "refused");
        assert!(matters_to_app(&of(github::Block::IpAddress)));
        assert!(!matters_to_app(&of(github::Block::Billing)), "a bill is of one account");
    }

    #[test]
    fn the_same_outcome_gives_the_same_conditions_at_another_time() {
        let standing = Standing::stalled(Reason::InstallationSuspended, "the account suspended the App");
        let first = standing.conditions(&[], Some(1), at(100));
        assert_eq!(standing.conditions(&first, Some(1), at(900)), first);
    }

    #[test]
    fn a_transition_gets_its_own_time() {
        let first = Standing::reconciling(Reason::APIUnreachable, "x").conditions(&[], Some(1), at(100));
        let then = Standing::ready(Reason::Published, "y").conditions(&first, Some(1), at(200));
        assert_eq!(then.len(), 1);
        assert_eq!(then[0].last_transition_time.0, at(200));
    }

    #[test]
    fn each_state_has_its_conditions() {
        let types = |standing: Standing| {
            standing.conditions(&[], None, at(0)).into_iter().map(|c| (c.type_, c.status)).collect::<Vec<_>>()
        };
        let pairs = |v: &[(&str, &str)]| v.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        assert_eq!(types(Standing::ready(Reason::Active, "")), pairs(&[("Ready", "True")]));
        assert_eq!(
            types(Standing::reconciling(Reason::RateLimited, "")),
            pairs(&[("Ready", "False"), ("Reconciling", "True")])
        );
        assert_eq!(types(Standing::suspended(Reason::WorkspaceSuspended, "")), pairs(&[("Ready", "False")]));
        assert_eq!(types(Standing::stalled(Reason::Revoked, "")), pairs(&[("Ready", "False"), ("Stalled", "True")]));
        assert_eq!(
            types(Standing::reconciling(Reason::RateLimited, "").while_still_good("fine")),
            pairs(&[("Ready", "True"), ("Retrying", "True")])
        );
    }
}
