//! Decides what to do next for an `InstallationToken`, as a pure function of the gathered state and of `now`.
//!
//! Invariants: a token is published only after it was used once with success, or after a minute in which GitHub's rate
//! limit allowed no call with it; a Secret that is not the operator's is
//! never touched; a token whose scope is no longer wanted or granted is revoked before another takes its place; a good
//! token is kept. The plan has one step at a time, each with newly gathered state. The process can therefore stop
//! between any two steps without a change to the state that the object reaches in the end.

use super::scope::{Repositories, Scope};
use super::seen::{Failed, Known, Published, SecretSeen, Seen, Stage, Trial};
use crate::api::{InstallationToken, REVOKE_FINALIZER, Reason, Reconciled, WORK_FINALIZER};
use crate::controllers::dependents::waited_long_enough;
use crate::controllers::object::has_finalizer;
use crate::controllers::reconcile;
use crate::controllers::reference::Access;
use crate::controllers::shared::PERSON_RECHECK;
use crate::controllers::standing::{Again, Standing};
use crate::grant::{Grant, Reach, Refusal, excess};
use crate::ids::RepositoryId;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the Secret, because its cached or noted state is not enough for the next step.
    ReadSecret,
    /// Add the finalizer, so that the operator can revoke the token before the object is deleted.
    AddFinalizer,
    /// Ask GitHub for a token.
    Mint {
        /// The scope to request.
        scope: Scope,
        /// The ids of the names when they were first resolved, so that a repository that was created again under an old
        /// name is not taken for the old one.
        pinned: Vec<RepositoryId>,
    },
    /// Use the minted token once.
    Verify,
    /// Write the verified token into the Secret.
    Publish,
    /// Correct the Secret, which has the right token but differs from the spec.
    Repair,
    /// Revoke the minted token.
    RevokeHeld,
    /// Revoke the token in the Secret.
    RevokePublished,
    DeleteSecret,
    /// Delete a Secret of the operator under a name that the spec no longer has, and revoke the token in it.
    DeleteFormer(String),
    RemoveFinalizer,
}

pub type Plan = reconcile::Plan<Step>;

/// How often a fresh token may be refused before it is given up: about two minutes with the delays of the due queue.
pub const REFUSALS_UNTIL_GIVEN_UP: u32 = 6;

/// The longest life of a token: GitHub gives them an hour, and another hour allows for clocks that differ.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(2);

/// How long an absent Secret counts as absent when a token is minted for it. Somebody else may make one of its name.
const ABSENCE_HOLDS: SignedDuration = SignedDuration::from_mins(1);

/// The addition to the message about a token that was published without a trial.
const UNTRIED: &str = ". It was published without a call to try it, because GitHub's rate limit of the installation, which all of its \
                       tokens share, was reached";

/// Decides the next step.
#[must_use]
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let plan = next(seen, now);
    if !waits(seen, &plan, now) && lacks_reading(seen, &plan, now) {
        return Plan::Do(Step::ReadSecret);
    }
    let Plan::Do(step) = &plan else { return plan };
    match failed(seen, step, now) {
        Some(failed) if step.call() == Some(Call::Asks) => retrying(seen, &failed.standing, failed.until, now),
        Some(failed) => Plan::Settled { standing: Some(failed.standing.clone()), again: Some(Again::At(failed.until)) },
        None => plan,
    }
}

/// The failure for which a step waits.
fn failed<'a>(seen: &'a Seen, step: &Step, now: Timestamp) -> Option<&'a Failed> {
    let failed = match step.call() {
        Some(Call::Asks) => &seen.failed.asking,
        Some(Call::Revokes) => &seen.failed.revoking,
        None => &None,
    };
    // No wait is as long. A clock that was set back makes one of it.
    failed.as_ref().filter(|failed| failed.until > now && failed.until.duration_since(now) <= LONGEST_LIFE)
}

fn waits(seen: &Seen, plan: &Plan, now: Timestamp) -> bool {
    matches!(plan, Plan::Do(step) if failed(seen, step, now).is_some())
}

/// Whether the plan needs to know more of the Secret than the cache and the notes tell.
///
/// A Secret without the operator's label is not in the cache. A tenant can remove the label, and would otherwise keep
/// the token in it after the end of its grant. So nothing is concluded from an absence that was never read.
fn lacks_reading(seen: &Seen, plan: &Plan, now: Timestamp) -> bool {
    match (&seen.secret, plan) {
        // GitHub is asked for a token only if it has a place.
        (SecretSeen::Absent, Plan::Do(Step::Mint { .. })) => match seen.known {
            Known::Cached => true,
            Known::Noted(at) => at.checked_add(ABSENCE_HOLDS).is_ok_and(|end| end <= now),
            Known::Read => false,
        },
        // A POST never overwrites, so it reads as well.
        (
            SecretSeen::Absent,
            Plan::Do(Step::AddFinalizer | Step::Verify | Step::Publish) | Plan::Settled { standing: None, .. },
        ) => false,
        (SecretSeen::Absent, _) => seen.known == Known::Cached,
        // These change the Secret, or use the token in it.
        (SecretSeen::Ours(_), Plan::Do(Step::Publish | Step::Repair | Step::RevokePublished | Step::DeleteSecret)) => {
            seen.known != Known::Read
        }
        (SecretSeen::Ours(_) | SecretSeen::Foreign | SecretSeen::OutOfReach(_), _) => false,
    }
}

/// The kind of call to GitHub that a step makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// It requests a token.
    Asks,
    /// It revokes a token.
    Revokes,
}

impl Step {
    /// The kind of call that the step makes, if it makes one.
    #[must_use]
    pub fn call(&self) -> Option<Call> {
        match self {
            Self::Mint { .. } | Self::Verify => Some(Call::Asks),
            Self::RevokeHeld | Self::RevokePublished | Self::DeleteFormer(_) => Some(Call::Revokes),
            Self::ReadSecret
            | Self::AddFinalizer
            | Self::Publish
            | Self::Repair
            | Self::DeleteSecret
            | Self::RemoveFinalizer => None,
        }
    }
}

fn next(seen: &Seen, now: Timestamp) -> Plan {
    if seen.token.metadata.deletion_timestamp.is_some() {
        return plan_removal(seen, now);
    }
    if !seen.has_finalizer {
        return Plan::Do(Step::AddFinalizer);
    }
    match &seen.access {
        Access::NotYetKnown => Plan::Settled { standing: None, again: None },
        Access::Unavailable(standing) => {
            let until = now.checked_add(PERSON_RECHECK).unwrap_or(now);
            retrying(seen, standing, until, now)
        }
        Access::Dead(standing) => Plan::Settled { standing: Some(standing.clone()), again: Some(Again::Person) },
        Access::Denied(standing) => plan_denial(seen, standing, now),
        Access::Granted { installation, account, settings_url, grant, permissions, .. } => {
            let spec_scope = Scope::wanted(&seen.token, *installation);
            let wanted = match &seen.secret {
                // Paused: the published token is renewed, even if the spec changes meanwhile.
                SecretSeen::Ours(Published { scope: Some(scope), .. })
                    if seen.is_paused && scope.installation == *installation =>
                {
                    scope.clone()
                }
                _ => spec_scope,
            };
            if let Err(refusal) = allows(grant, &wanted) {
                let standing = refused(&refusal, account, &seen.token);
                // The old scope may still be granted. A mistake in the spec does not withdraw its token at once.
                let keeps = published(seen)
                    .and_then(|published| published.scope.as_ref())
                    .is_some_and(|scope| scope.installation == *installation && allows(grant, scope).is_ok());
                return if keeps {
                    Plan::Settled { standing: Some(standing), again: Some(Again::Person) }
                } else {
                    plan_denial(seen, &standing, now)
                };
            }
            let installed = permissions.iter().map(|(name, level)| (name.clone(), level.as_str().to_owned())).collect();
            let missing = excess(&wanted.permissions, &installed);
            if !missing.is_empty() {
                let standing = Standing::stalled(
                    Reason::InsufficientPermissions,
                    format!(
                        "the installation on {account} does not have {}: add it to the App's permissions and let {account} \
                         accept it at {settings_url}",
                        listed(&missing)
                    ),
                );
                return Plan::Settled { standing: Some(standing), again: Some(Again::Person) };
            }
            plan_token(seen, &wanted, now)
        }
    }
}

/// Plans the steps up to a good token in the Secret.
fn plan_token(seen: &Seen, wanted: &Scope, now: Timestamp) -> Plan {
    let name = &seen.token.spec.secret.name;
    if let SecretSeen::Foreign = seen.secret {
        if let Some(held) = seen.held.as_ref().filter(|held| held.expires_at > now)
            && (held.stage != Stage::Published || seen.former_secrets.is_empty())
        {
            return Plan::Do(Step::RevokeHeld);
        }
        let standing = Standing::stalled(
            Reason::SecretNotOurs,
            format!(
                "Secret {name} exists and was not made for this object, so it is left as it is: choose another \
                 spec.secret.name, or delete that Secret"
            ),
        );
        return Plan::Settled { standing: Some(standing), again: Some(Again::Person) };
    }
    if let SecretSeen::OutOfReach(standing) = &seen.secret {
        return Plan::Settled { standing: Some(standing.clone()), again: Some(Again::Backoff) };
    }
    let published = published(seen);
    if published.is_some_and(|published| published.going) {
        return plan_while_going(seen, now);
    }
    // A minted token waits in memory until the format is right, and a Secret in an earlier format stays as it is.
    let unwritable = seen
        .unwritable
        .as_ref()
        .map(|standing| Plan::Settled { standing: Some(standing.clone()), again: Some(Again::Person) });
    if let Some(held) = &seen.held {
        match held.stage {
            _ if held.expires_at <= now => {}
            Stage::Unfit => return Plan::Do(Step::RevokeHeld),
            Stage::Minted { .. } | Stage::Verified if held.scope != *wanted => return Plan::Do(Step::RevokeHeld),
            Stage::Minted { refusals } if refusals >= REFUSALS_UNTIL_GIVEN_UP => return Plan::Do(Step::RevokeHeld),
            Stage::Minted { .. } => return Plan::Do(Step::Verify),
            Stage::Verified => {
                return unwritable.unwrap_or(Plan::Do(match published {
                    Some(published) if must_die_first(seen, published, wanted, now) => Step::RevokePublished,
                    _ => Step::Publish,
                }));
            }
            // The Secret lost it. Whoever removed it may have had a reason, so it is not written again. A Secret under
            // a former name keeps the token until its successor is published.
            Stage::Published
                if published.is_none_or(|p| p.fingerprint.as_ref() != Some(&held.fingerprint))
                    && seen.former_secrets.is_empty() =>
            {
                return Plan::Do(Step::RevokeHeld);
            }
            Stage::Published => {}
        }
    }
    if let Some(unwritable) = unwritable {
        return unwritable;
    }
    match published {
        Some(published) if is_good(seen, published, wanted, now) => {
            if !published.as_wanted {
                return Plan::Do(Step::Repair);
            }
            if let Some(former) = seen.former_secrets.first() {
                return Plan::Do(Step::DeleteFormer(former.clone()));
            }
            let renewal = renewal(seen, published);
            let standing = if seen.is_paused {
                Standing::ready(
                    Reason::Paused,
                    format!(
                        "Secret {name} holds a good token, which is renewed; spec.paused, here or of the installation or App, holds back other changes"
                    ),
                )
            } else {
                let untried = seen.held.as_ref().filter(|held| {
                    held.trial == Trial::LeftOut && Some(&held.fingerprint) == published.fingerprint.as_ref()
                });
                let how = untried.map_or("", |_| UNTRIED);
                Standing::ready(
                    Reason::Published,
                    format!("Secret {name} holds a token for {}{how}", wanted.describe()),
                )
            };
            Plan::Settled { standing: Some(standing), again: renewal.map(Again::At) }
        }
        _ => {
            let pinned = published
                .filter(|published| published.scope.as_ref() == Some(wanted))
                .map(|published| published.repository_ids.clone())
                .unwrap_or_default();
            Plan::Do(Step::Mint { scope: wanted.clone(), pinned })
        }
    }
}

/// Whether the published token has the wanted scope and lives long enough.
fn is_good(seen: &Seen, published: &Published, wanted: &Scope, now: Timestamp) -> bool {
    published.is_intact()
        && !is_doubted(seen, published)
        && published.scope.as_ref() == Some(wanted)
        && published.fingerprint != seen.revoked
        // Without its date a token could not be written again. A date beyond the longest life did not come from GitHub.
        && published.minted_at.is_some()
        && published.expires_at.is_some_and(|at| at.duration_since(now) <= LONGEST_LIFE)
        && renewal(seen, published).is_some_and(|due| due > now)
}

/// Whether a published token must be revoked before its successor is published, because it reaches more than is wanted
/// now. Otherwise, a stop between the two steps would leave it alive and unknown.
fn must_die_first(seen: &Seen, published: &Published, wanted: &Scope, now: Timestamp) -> bool {
    published.is_intact()
        && (published.scope.as_ref() != Some(wanted) || is_doubted(seen, published))
        && published.fingerprint != seen.revoked
        && published.expires_at.is_some_and(|at| at > now)
}

/// Whether the token may be dead, because it was minted before the installation was seen not to work.
fn is_doubted(seen: &Seen, published: &Published) -> bool {
    let conditions: &[Condition] = seen.token.status().map_or(&[], InstallationToken::conditions);
    conditions.iter().any(|condition| {
        condition.type_ == "Ready"
            && condition.status == "False"
            && published.minted_at.is_none_or(|at| at < condition.last_transition_time.0)
            && [Reason::InstallationSuspended, Reason::Revoked, Reason::NotInstalled]
                .iter()
                .any(|r| r.as_str() == condition.reason)
    })
}

/// Plans the withdrawal of everything.
fn plan_denial(seen: &Seen, standing: &Standing, now: Timestamp) -> Plan {
    match take_back(seen, now) {
        Some(step) => Plan::Do(step),
        None => Plan::Settled { standing: Some(standing.clone()), again: Some(Again::Person) },
    }
}

fn plan_removal(seen: &Seen, now: Timestamp) -> Plan {
    // The second finalizer is that of the workspace that the token is made for.
    if ![REVOKE_FINALIZER, WORK_FINALIZER].iter().any(|name| has_finalizer(&*seen.token, name)) {
        return Plan::Settled { standing: None, again: None };
    }
    if seen.is_needed
        && let Some(deleted) = &seen.token.metadata.deletion_timestamp
        && let Ok(end) = deleted.0.checked_add(LONGEST_LIFE)
        && end > now
    {
        return Plan::Settled { standing: None, again: Some(Again::At(end)) };
    }
    let step = take_back(seen, now);
    if let (None, SecretSeen::OutOfReach(standing)) = (&step, &seen.secret)
        && !seen.is_namespace_going
        && let Some(until) = waited_long_enough(&*seen.token, now)
    {
        let mut standing = standing.clone();
        standing.message.push_str(". The object is deleted without its Secret after 15 minutes");
        return Plan::Settled { standing: Some(standing), again: Some(Again::At(until)) };
    }
    Plan::Do(step.unwrap_or(Step::RemoveFinalizer))
}

/// Plans for a Secret of the operator that is being deleted and has a finalizer. Nothing more is written into it.
fn plan_while_going(seen: &Seen, now: Timestamp) -> Plan {
    if let Some(step @ (Step::RevokeHeld | Step::RevokePublished)) = take_back(seen, now) {
        return Plan::Do(step);
    }
    let message = format!(
        "Secret {} is being deleted, and a finalizer of somebody's holds it (see its metadata.finalizers): a new one with \
         another token is made as soon as it is gone",
        seen.token.spec.secret.name
    );
    let standing = Standing::reconciling(Reason::SecretTerminating, message);
    Plan::Settled { standing: Some(standing), again: Some(Again::Person) }
}

/// The next step of a withdrawal, which ends without a live token and without a Secret.
fn take_back(seen: &Seen, now: Timestamp) -> Option<Step> {
    let published = published(seen);
    // The noted expiry can be edited, and must not hold the object forever. No token is minted for a terminating
    // object.
    let deleted = seen.token.metadata.deletion_timestamp.as_ref();
    let outlived = deleted.is_some_and(|deleted| now.duration_since(deleted.0) > LONGEST_LIFE);
    let published_print = published.and_then(|published| published.fingerprint.clone());
    if let Some(held) = &seen.held
        && held.expires_at > now
        && Some(&held.fingerprint) != published_print.as_ref()
    {
        return Some(Step::RevokeHeld);
    }
    if let Some(published) = published {
        if published.fingerprint.is_some()
            && published.fingerprint != seen.revoked
            && published.expires_at.is_none_or(|at| at > now)
            && !outlived
        {
            return Some(Step::RevokePublished);
        }
        if !published.going {
            return Some(Step::DeleteSecret);
        }
    }
    if let SecretSeen::OutOfReach(_) = seen.secret {
        return None;
    }
    // Kubernetes deletes them with their owner.
    seen.former_secrets.first().filter(|_| !outlived).cloned().map(Step::DeleteFormer)
}

/// When the published token is renewed: `renewBefore`, and up to half as much, before its expiry. The token's
/// fingerprint determines the part of that half, so it needs no memory and does not change at a restart.
#[must_use]
pub fn renewal(seen: &Seen, published: &Published) -> Option<Timestamp> {
    let expires_at = published.expires_at?;
    let asked = parse_duration(&seen.token.spec.renew_before);
    let before = match published.minted_at {
        Some(minted_at) => asked.min(expires_at.duration_since(minted_at) / 2),
        None => asked,
    };
    let part = published
        .fingerprint
        .as_deref()
        .and_then(|print| print.get(..4))
        .and_then(|digits| u16::from_str_radix(digits, 16).ok())
        .unwrap_or(0);
    let jitter = before.mul_f64(0.5 * f64::from(part) / f64::from(u16::MAX));
    expires_at.checked_sub(before.checked_add(jitter).unwrap_or(before)).ok()
}

/// `10m`, `90s`, `1h30m`. The API server refuses everything else; if it did not, the result is ten minutes.
fn parse_duration(text: &str) -> SignedDuration {
    crate::api::duration(text).unwrap_or(SignedDuration::from_mins(10))
}

/// The settled plan for a failure. While the published token is good, the standing says so, and the object is looked at
/// again when the token expires.
fn retrying(seen: &Seen, standing: &Standing, until: Timestamp, now: Timestamp) -> Plan {
    let good_until = published(seen)
        .filter(|published| published.is_intact() && published.fingerprint != seen.revoked)
        .and_then(|published| published.expires_at)
        .filter(|at| *at > now);
    let (standing, at) = match good_until {
        Some(end) => (standing.clone().while_still_good(&good_words(&seen.token)), until.min(end)),
        None => (standing.clone(), until),
    };
    Plan::Settled { standing: Some(standing), again: Some(Again::At(at)) }
}

/// The message about a Secret whose token still works.
#[must_use]
pub fn good_words(token: &InstallationToken) -> String {
    format!("Secret {} holds a token that is good until status.expirationTime", token.spec.secret.name)
}

/// The Secret, if it is the operator's.
fn published(seen: &Seen) -> Option<&Published> {
    match &seen.secret {
        SecretSeen::Ours(published) => Some(published),
        SecretSeen::Absent | SecretSeen::Foreign | SecretSeen::OutOfReach(_) => None,
    }
}

fn allows(grant: &Grant, scope: &Scope) -> Result<(), Refusal> {
    match (&scope.repositories, scope.known()) {
        (Repositories::Only(_), Some(known)) => {
            // Ids cannot be matched with names before GitHub was asked. The minted token is then compared with the
            // grant.
            let named: Vec<_> = known.into_iter().filter(|known| known.name.is_some()).collect();
            grant.allows(&Reach::Only(&named), &scope.permissions)
        }
        _ => grant.allows(&Reach::All, &scope.permissions),
    }
}

/// The standing when the grant does not allow the scope.
#[must_use]
pub fn refused(refusal: &Refusal, account: &str, token: &InstallationToken) -> Standing {
    let namespace = token.metadata.namespace.as_deref().unwrap_or_default();
    match refusal {
        Refusal::Repositories(missing) if missing == &["*"] => Standing::stalled(
            Reason::RepositoryNotGranted,
            format!(
                "spec.repositorySelection All needs a grant of \"*\", and namespace {namespace} has none for {account}: name \
                 spec.repositories, or ask the GitHubApp's administrator"
            ),
        ),
        Refusal::Repositories(missing) => Standing::stalled(
            Reason::RepositoryNotGranted,
            format!(
                "namespace {namespace} was not granted {} of {account}: see status.granted of the GitHubInstallation, or \
                 ask the GitHubApp's administrator to add it to spec.tenants[].repositories",
                missing.join(", ")
            ),
        ),
        Refusal::Permissions(missing) => Standing::stalled(
            Reason::InsufficientPermissions,
            format!(
                "spec.permissions asks for {}, which exceeds the grant: see status.granted of the GitHubInstallation, or ask \
                 the GitHubApp's administrator to raise spec.tenants[].maxPermissions",
                listed(missing)
            ),
        ),
    }
}

fn listed(missing: &[(String, String, Option<String>)]) -> String {
    let each = missing.iter().map(|(name, asked, has)| match has {
        Some(has) => format!("{name}: {asked} (has {has})"),
        None => format!("{name}: {asked}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
