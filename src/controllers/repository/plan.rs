//! Decides what to do next about a `ProjectRepository`, as a pure function of the gathered state and of `now`.
//!
//! Invariant: one step at a time, and each step can be repeated. A failed call waits for its time and delays nothing
//! else. A delivery causes a look, and only the result of the look decides.

use super::memory::{Failed, Task};
use super::rollout::plan::Next;
use super::rollout::{self, RolloutInput, Settlement, Stamp, Workload};
use super::seen::{HookWish, Seen, Way};
use crate::api::{DeploymentResult, DeploymentStatus, Reason};
use crate::controllers::dependents::waited_long_enough;
use crate::controllers::reconcile;
use crate::controllers::standing::{Again, Standing, State};
use crate::git::Head;
use crate::webhook::Hook;
use jiff::Timestamp;

pub type Plan = reconcile::Plan<Step>;

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Add the finalizer, which keeps the object until its webhook is removed.
    AddFinalizer,
    RemoveFinalizer,
    /// Report that the webhook stays, because it cannot be removed.
    LeaveHook(String),
    /// Find the fork, or create it.
    Fork,
    /// Read the head.
    Look,
    /// Ask GitHub by id whether the head belongs to the same repository.
    Confirm,
    /// Find, create or repair the webhook.
    EnsureHook,
    /// Remove the webhook.
    RemoveHook,
    /// Synchronize the fork.
    Sync,
    /// Write this to status, before acting on it.
    Record {
        /// The deployment that begins.
        deployment: DeploymentStatus,
        /// The handled value of the annotation that requests another deployment.
        handled: Option<String>,
    },
    /// Look at the workloads that a push restarts.
    LookAtWorkloads,
    /// Change the templates of workloads.
    Roll {
        /// The stamp to write into them.
        stamp: Stamp,
        /// The workloads as they were seen.
        workloads: Vec<Workload>,
    },
    /// Remember the standing of the deployment, and conclude.
    Settle {
        settlement: Box<Settlement>,
        /// The handled value of the annotation that requests another deployment.
        handled: Option<String>,
        /// The standing of the object.
        standing: Standing,
        /// When to look again.
        again: Option<Again>,
    },
}

impl Step {
    /// The task that failures of this step belong to.
    #[must_use]
    pub fn task(&self) -> Option<Task> {
        match self {
            Self::Fork => Some(Task::Fork),
            Self::Look | Self::Confirm => Some(Task::Look),
            Self::EnsureHook | Self::RemoveHook => Some(Task::Hook),
            Self::Sync => Some(Task::Sync),
            Self::Record { .. }
            | Self::LookAtWorkloads
            | Self::Roll { .. }
            | Self::Settle { .. }
            | Self::AddFinalizer
            | Self::RemoveFinalizer
            | Self::LeaveHook(_) => None,
        }
    }
}

#[must_use]
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    if seen.object.metadata.deletion_timestamp.is_some() {
        return plan_removal(seen, now);
    }
    match &seen.way {
        Way::NotYetKnown => return Plan::Settled { standing: None, again: None },
        Way::Blocked { standing, .. } if seen.way_out.is_some() && seen.has_finalizer => {
            return match seen.waits(Task::Hook, now) {
                Some(failed) => settled(standing.clone(), vec![failed.until]),
                None if seen.known.is_hook_removed => Plan::Do(Step::RemoveFinalizer),
                None => Plan::Do(Step::RemoveHook),
            };
        }
        Way::Blocked { standing, .. } => {
            return settled_or_followed(seen, (standing.clone(), Some(Again::Person)), now);
        }
        Way::GitHub(_) | Way::Address(_) => {}
    }
    let failed = |task: Task| seen.waits(task, now);
    if seen.object.spec.source.fork.is_some() && seen.bound_id().is_none() {
        return match failed(Task::Fork) {
            Some(failed) => settled(failed.standing, vec![failed.until]),
            None if seen.is_paused => Plan::Settled { standing: Some(paused()), again: None },
            None => Plan::Do(Step::Fork),
        };
    }
    let mut again = Vec::new();
    match (failed(Task::Look), look_due(seen, now)) {
        (Some(failed), _) if seen.known.looked.is_none() => {
            return settled_or_followed(seen, (failed.standing, Some(Again::At(failed.until))), now);
        }
        (Some(failed), _) => again.push(failed.until),
        (None, at) if at <= now => return Plan::Do(Step::Look),
        (None, _) if seen.is_doubtful() => return Plan::Do(Step::Confirm),
        (None, at) => again.push(at),
    }
    let source = source(seen, failed(Task::Look).as_ref());
    let mut troubles = Vec::new();
    let can_change = source.state != State::Stalled;
    if can_change {
        for part in
            [plan_hook(seen, failed(Task::Hook).as_ref(), now), plan_sync(seen, failed(Task::Sync).as_ref(), now)]
        {
            match part {
                Part::Do(step) => return Plan::Do(step),
                Part::Rests { until, trouble } => {
                    again.extend(until);
                    troubles.extend(trouble);
                }
            }
        }
    }
    let standing = summary(seen, source, troubles);
    let again = again.into_iter().min().map(Again::At);
    if seen.object.spec.on_push.is_some() && seen.deployment().is_none() && has_no_commit(seen) {
        let (settlement, handled) = (Box::new(rollout::plan::begin_without_commit(now)), seen.redeploy_wish().cloned());
        return Plan::Do(Step::Settle { settlement, handled, standing, again });
    }
    if can_change && seen.object.spec.on_push.is_some() {
        return plan_rollout(seen, (standing, again), Source::AtHand, now);
    }
    settled_or_followed(seen, (standing, again), now)
}

/// Whether the branch has no commit, so that the first push to it is one. The branches of a fork are copied first.
fn has_no_commit(seen: &Seen) -> bool {
    match seen.known.looked.as_ref().map(|looked| &looked.refs.head) {
        Some(Head::Missing { .. }) => true,
        Some(Head::Empty) => seen.object.spec.source.fork.is_none(),
        _ => false,
    }
}

/// Nothing is done now, except that a running rollout is followed and reported.
fn settled_or_followed(seen: &Seen, (standing, again): (Standing, Option<Again>), now: Timestamp) -> Plan {
    let is_under_way = seen.deployment().is_some_and(|deployment| deployment.result == DeploymentResult::Running);
    if is_under_way && seen.object.spec.on_push.is_some() {
        return plan_rollout(seen, (standing, again), Source::Lost, now);
    }
    Plan::settled(standing, again)
}

/// Whether the repository can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It can be read.
    AtHand,
    /// It cannot be read: there is no head, and no rollout begins. A running rollout is followed.
    Lost,
}

/// Plans the effects of a push, with the confirmed head, if there is one. `rest`: the standing of the other parts of
/// the object, and when to look again for them.
fn plan_rollout(seen: &Seen, rest: (Standing, Option<Again>), source: Source, now: Timestamp) -> Plan {
    let Some(on_push) = &seen.object.spec.on_push else { return Plan::settled(rest.0, rest.1) };
    let is_lost = source == Source::Lost;
    let head = seen.confirmed_head().filter(|_| !is_lost);
    let failed_look = || seen.waits(Task::Look, now);
    if !is_lost && head.is_none() && seen.known.head.is_some() && failed_look().is_none() {
        // The head is not the deployed commit. Before acting on it, confirm which repository it belongs to.
        return Plan::Do(Step::Confirm);
    }
    let input = RolloutInput {
        on_push,
        is_paused: seen.is_paused || is_lost,
        head: head.as_ref(),
        stored: seen.deployment(),
        was_forbidden: rollout::was_forbidden(&seen.object),
        is_asked_again: seen.is_redeploy_asked(),
        targets: seen.known.rollout.targets(),
    };
    let handled = |handles: bool| seen.redeploy_wish().filter(|_| handles).or(seen.handled_redeploy()).cloned();
    match rollout::plan::plan(&input, now) {
        Next::LookAtHead => match failed_look() {
            Some(failed) => Plan::settled(rest.0, sooner(rest.1, Some(failed.until))),
            // The repository has no commit yet.
            None if seen.known.head.is_none() => Plan::settled(rest.0, rest.1),
            None if seen.is_confirmed() => Plan::Do(Step::Look),
            None => Plan::Do(Step::Confirm),
        },
        Next::LookAtTargets => Plan::Do(Step::LookAtWorkloads),
        Next::Begin { deployment, handles_redeploy } => {
            Plan::Do(Step::Record { deployment, handled: handled(handles_redeploy) })
        }
        Next::Roll { stamp, workloads } => Plan::Do(Step::Roll { stamp, workloads }),
        Next::Settle(settlement) => Plan::Do(Step::Settle {
            handled: handled(settlement.handles_redeploy),
            standing: rest.0,
            again: sooner(rest.1, settlement.again),
            settlement: Box::new(settlement),
        }),
    }
}

fn sooner(again: Option<Again>, at: Option<Timestamp>) -> Option<Again> {
    match (again, at) {
        (Some(Again::At(again)), Some(at)) => Some(Again::At(again.min(at))),
        (again, at) => at.map(Again::At).or(again),
    }
}

/// The result for one part of the object.
enum Part {
    Do(Step),
    Rests { until: Option<Timestamp>, trouble: Option<Standing> },
}

impl Part {
    const NOTHING: Self = Self::Rests { until: None, trouble: None };

    fn failed(failed: &Failed) -> Self {
        Self::Rests { until: Some(failed.until), trouble: Some(failed.standing.clone()) }
    }
}

fn settled(standing: Standing, again: Vec<Timestamp>) -> Plan {
    Plan::Settled { standing: Some(standing), again: again.into_iter().min().map(Again::At) }
}

fn paused() -> Standing {
    Standing::ready(
        Reason::Paused,
        "spec.paused: true, here, at the GitHubInstallation or the GitHubApp, holds back changes",
    )
}

/// When to look: at once if there may be something new, but not more often than the allowance permits.
pub fn look_due(seen: &Seen, now: Timestamp) -> Timestamp {
    let known = &seen.known;
    let Some(looked) = &known.looked else { return now };
    let is_other = looked.asked.as_deref() != seen.branch() || looked.access != seen.access();
    if is_other || known.failed.contains_key(&Task::Look) {
        return now;
    }
    if !seen.is_asked() && !seen.is_announced() && !seen.is_wanted() {
        return looked.next;
    }
    seen.allowed_at.min(looked.next.max(now))
}

/// The standing of the repository and its branch.
fn source(seen: &Seen, failed: Option<&Failed>) -> Standing {
    let known = &seen.known;
    let Some(looked) = &known.looked else {
        return Standing::reconciling(Reason::APIUnreachable, "the repository was not looked at yet");
    };
    let name = &looked.name;
    if let Some(facts) = &known.facts {
        let page = facts.repository.html_url.as_deref().unwrap_or(name);
        if facts.repository.archived == Some(true) {
            let message = format!(
                "{name} is archived, so nothing in it can change: unarchive it at {page}/settings, or remove this object"
            );
            return Standing::stalled(Reason::RepositoryArchived, message);
        }
        if facts.repository.disabled == Some(true) {
            return Standing::stalled(
                Reason::RepositoryDisabled,
                format!("GitHub disabled {name}: {page} says why, or ask GitHub's support"),
            );
        }
    }
    let standing = match &looked.refs.head {
        Head::At { branch, .. } => {
            Standing::ready(Reason::Observed, format!("{name} is known, and branch {branch} is followed"))
        }
        Head::Missing { branch } => Standing::stalled(
            Reason::BranchNotFound,
            format!("{name} has no branch {branch}: push it, or correct spec.branch; it is picked up when it is there"),
        ),
        // Empty repositories cannot be forked.
        Head::Empty if seen.object.spec.source.fork.is_some() => {
            Standing::reconciling(Reason::ForkPending, format!("GitHub is still copying the upstream of {name}"))
        }
        Head::Empty => Standing::reconciling(
            Reason::RepositoryEmpty,
            format!("{name} has no commit yet: push one; it is picked up when it is there"),
        ),
        Head::NoDefaultBranch => {
            Standing::stalled(Reason::BranchNotFound, format!("{name} has no default branch: name one in spec.branch"))
        }
    };
    match failed {
        Some(failed) if standing.state == State::Ready && failed.standing.state != State::Stalled => {
            failed.standing.clone().while_still_good(&standing.message)
        }
        Some(failed) => failed.standing.clone(),
        None => standing,
    }
}

fn plan_hook(seen: &Seen, failed: Option<&Failed>, now: Timestamp) -> Part {
    let stored = seen.object.status.as_ref().and_then(|status| status.webhook.as_ref());
    let (Way::GitHub(granted), Some(id)) = (&seen.way, seen.bound_id()) else { return Part::NOTHING };
    match &seen.hook {
        HookWish::Unknown(standing) => Part::Rests { until: None, trouble: Some(standing.clone()) },
        HookWish::None if seen.has_finalizer && seen.known.is_hook_removed => Part::Do(Step::RemoveFinalizer),
        _ if seen.is_paused || (seen.hook == HookWish::None && !seen.has_finalizer) => Part::NOTHING,
        // There may be a webhook that status does not have.
        HookWish::None => failed.map_or(Part::Do(Step::RemoveHook), Part::failed),
        HookWish::Own { .. } if !seen.has_finalizer => Part::Do(Step::AddFinalizer),
        HookWish::Own { base, key_id } => {
            let url = Hook::Repository(id).url(base, &granted.app);
            let is_there = match &seen.known.hook {
                Some(hook) => hook.url == url && hook.key_id == *key_id,
                None => stored.is_some_and(|stored| stored.url == url && stored.key_id == *key_id),
            };
            match (is_there, seen.known.examine_hook_at, failed) {
                (_, _, Some(failed)) => Part::failed(failed),
                (true, Some(at), None) if at > now => Part::Rests { until: Some(at), trouble: None },
                _ => Part::Do(Step::EnsureHook),
            }
        }
    }
}

fn plan_sync(seen: &Seen, failed: Option<&Failed>, now: Timestamp) -> Part {
    let Some(fork) = &seen.object.spec.source.fork else { return Part::NOTHING };
    let is_wanted = crate::api::duration(&fork.sync.interval).is_some_and(|interval| interval.is_positive());
    let is_readable = seen.known.looked.as_ref().is_some_and(|looked| looked.refs.head.sha().is_some());
    if !is_wanted || !is_readable || seen.is_paused {
        return Part::NOTHING;
    }
    match (failed, seen.known.next_sync) {
        (Some(failed), _) => Part::failed(failed),
        (None, Some(at)) if at > now => Part::Rests { until: Some(at), trouble: None },
        (None, _) => Part::Do(Step::Sync),
    }
}

/// The standing of the whole object: that of its source if it has a problem, else that of a part with a problem.
fn summary(seen: &Seen, source: Standing, troubles: Vec<Standing>) -> Standing {
    if source.state != State::Ready {
        return source;
    }
    match troubles.into_iter().max_by_key(|trouble| trouble.state == State::Stalled) {
        Some(trouble) => trouble,
        None if seen.is_paused => paused(),
        None => source,
    }
}

/// Removes the webhook, if that is possible, and then the finalizer.
fn plan_removal(seen: &Seen, now: Timestamp) -> Plan {
    if !seen.has_finalizer {
        return Plan::Settled { standing: None, again: None };
    }
    if seen.known.is_hook_removed {
        return Plan::Do(Step::RemoveFinalizer);
    }
    let (trouble, until) = match (&seen.way, seen.waits(Task::Hook, now)) {
        (Way::GitHub(_), None) => return Plan::Do(Step::RemoveHook),
        (Way::Address(_), _) => return Plan::Do(Step::RemoveFinalizer),
        (Way::GitHub(_), Some(failed)) => (failed.standing.message, Some(failed.until)),
        (Way::Blocked { standing, permanent: true }, _) => {
            return Plan::Do(Step::LeaveHook(standing.message.clone()));
        }
        (Way::Blocked { standing, permanent: false }, _) => (standing.message.clone(), None),
        (Way::NotYetKnown, _) => ("the App was not looked at yet".to_owned(), None),
    };
    let Some(end) = waited_long_enough(&*seen.object, now) else {
        return Plan::Do(Step::LeaveHook(format!("it was tried for 15 minutes: {trouble}")));
    };
    let message =
        format!("it is being deleted and waits, 15 minutes at most, until its webhook is removed on GitHub: {trouble}");
    let at = until.map_or(end, |until| until.min(end));
    settled(Standing::reconciling(Reason::WaitingForDependents, message), vec![at])
}

#[cfg(test)]
mod tests;
