//! Decides what to do next about a `Workspace`, as a pure function of the gathered state and of `now`.
//!
//! Invariant: one step at a time, and each step can be repeated. A volume is released for one of four reasons: its work
//! was read back from the remote, it has no work, it is kept, or a person gave the work up. Only
//! [`plan_volume_release`] decides that.

use super::memory::{Pull, Task};
use super::objects;
use super::pods::{Clone, PodView};
use super::release::{Release, plan_claim_release, plan_removal, plan_volume_release};
use super::seen::{Holder, NoTarget, PodSeen, Seen, TokenSeen, TokenState, VolumeSeen, Way};
use crate::agent::evidence::Evidence;
use crate::api::{ADOPT_ANNOTATION, PullRequestMode, PullRequestOpenOn, Reason};
use crate::controllers::object::requested_look;
use crate::controllers::reconcile;
use crate::controllers::standing::{Again, Standing, State};
use crate::git::BranchName;
use jiff::{SignedDuration, Timestamp};

pub type Plan = reconcile::Plan<Step>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add the finalizer, which keeps the object until its work is safe.
    AddFinalizer,
    RemoveFinalizer,
    /// Ask GitHub for the repository's current name.
    Resolve,
    /// Create the `InstallationToken`.
    MakeToken,
    /// Correct the spec of the `InstallationToken`.
    RepairToken,
    /// Remove the workspace's finalizer from the token, and delete it. It is then revoked, and its Secret is deleted.
    DropToken,
    /// Create the volume's claim.
    MakeVolume,
    /// Add the finalizer to the claim.
    HoldVolume,
    /// Take over the claim of an earlier workspace of the same name, with this uid.
    AdoptVolume(String),
    /// Set the claim's requested size to that of the spec.
    GrowVolume,
    /// Put the mark of a clone on the volume.
    MarkVolume,
    /// Delete the claim, and remove its finalizer.
    ReleaseVolume,
    /// Keep the volume, because its work could not be pushed.
    KeepVolume(String),
    /// Report that the work is given up.
    GiveUp(String),
    StartPod,
    /// Delete the pod.
    EndPod,
    /// Start a Job that saves.
    Save(u32),
    /// List the workspace's branches on the remote.
    Look,
    /// Compare the evidence of a save with the remote.
    Believe(Box<Evidence>),
    /// Look for the pull request.
    FindPull,
    /// Open the pull request.
    OpenPull,
    /// Close or mark the pull request, as the spec wants at the end.
    FinishPull,
}

impl Step {
    /// The task that failures of this step belong to.
    #[must_use]
    pub fn task(&self) -> Option<Task> {
        match self {
            Self::Resolve => Some(Task::Resolve),
            Self::Look | Self::Believe(_) => Some(Task::Look),
            Self::GrowVolume => Some(Task::Grow),
            Self::FindPull | Self::OpenPull | Self::FinishPull => Some(Task::Pull),
            Self::MakeToken | Self::RepairToken | Self::MakeVolume | Self::StartPod | Self::Save(_) => Some(Task::Make),
            _ => None,
        }
    }
}

/// How long GitHub's answer about the repository is used.
const RESOLVED_FOR: SignedDuration = SignedDuration::from_mins(5);
/// How often the remote is looked at without a report of a change.
const LOOK_EVERY: SignedDuration = SignedDuration::from_mins(10);
/// How long after its deadline a pod that is being deleted may still exist.
pub const SLACK: SignedDuration = SignedDuration::from_secs(60);

#[must_use]
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    if lacks_the_name(seen) && seen.waits(Task::Resolve, now).is_none() {
        return Plan::Do(Step::Resolve);
    }
    let plan = next(seen, now);
    match &plan {
        Plan::Do(step) if step.task() == Some(Task::Make) => match seen.waits(Task::Make, now) {
            Some(failed) => settled(failed.standing, Some(Again::At(failed.until))),
            None => plan,
        },
        _ => plan,
    }
}

/// Whether git of a pod waits for the repository's name. Reading it is no change, so it is read in every state.
fn lacks_the_name(seen: &Seen) -> bool {
    let has_pod = matches!(seen.pod, PodSeen::Ours(_)) || seen.job.as_ref().is_some_and(|job| job.ended.is_none());
    let has_token = matches!(seen.token, TokenSeen::Ours { state: TokenState::Ready, .. });
    let can_ask = has_token && matches!(seen.way, Way::Open(_));
    seen.has_gateway && seen.has_finalizer && has_pod && can_ask && seen.known.repository.is_none()
}

fn next(seen: &Seen, now: Timestamp) -> Plan {
    if seen.is_going() {
        return plan_removal(seen, now);
    }
    if !seen.has_finalizer {
        return Plan::Do(Step::AddFinalizer);
    }
    if let VolumeSeen::Ours { is_going: true, .. } = seen.volume {
        return match plan_volume_release(seen, now) {
            Release::Done => plan_claim_release(seen),
            Release::Next(plan) => plan,
        };
    }
    if seen.was_cloned() && !seen.is_marked && matches!(seen.volume, VolumeSeen::Ours { volume: Some(_), .. }) {
        return Plan::Do(Step::MarkVolume);
    }
    if seen.is_paused {
        let message = "spec.paused: true, here, at the GitHubInstallation or the GitHubApp, holds back changes";
        return settled(Standing::ready(Reason::Paused, message), None);
    }
    let is_small = matches!(seen.volume, VolumeSeen::Ours { is_small: true, is_held: true, .. });
    if is_small && seen.waits(Task::Grow, now).is_none() {
        return Plan::Do(Step::GrowVolume);
    }
    if !seen.is_wanted() {
        return plan_rest(seen, now);
    }
    match &seen.way {
        Way::NotYetKnown => return Plan::Settled { standing: None, again: None },
        // A running pod keeps running.
        Way::Blocked { standing, .. } => return settled(standing.clone(), Some(Again::Person)),
        Way::Open(_) => {}
    }
    if seen.is_namespace_going {
        return settled(Standing::reconciling(Reason::WaitingForDependents, "its namespace is being deleted"), None);
    }
    if let Some(message) = invalid(seen) {
        return settled(Standing::stalled(Reason::InvalidSpec, message), None);
    }
    if let (PodSeen::Absent, Some(standing)) = (&seen.pod, &seen.unreferenced) {
        return settled(standing.clone(), Some(Again::Person));
    }
    plan_start(seen, now).unwrap_or_else(|pod| plan_running(seen, &pod, now))
}

/// The part of the spec that the API server does not validate.
fn invalid(seen: &Seen) -> Option<String> {
    let spec = &seen.object.spec;
    let branch = |field: &str, name: &str| {
        name.parse::<BranchName>().err().map(|error| format!("{field} {name:?} is no name of a branch: {error}"))
    };
    branch("spec.branch.name", &objects::wanted_branch(&seen.object))
        .or_else(|| branch("spec.branch.from", spec.branch.from.as_deref()?))
        .or_else(|| branch("spec.pullRequest.target", spec.pull_request.target.as_deref()?))
}

pub fn settled(standing: Standing, again: Option<Again>) -> Plan {
    Plan::Settled { standing: Some(standing), again }
}

pub fn wait(reason: Reason, message: impl Into<String>, until: Timestamp) -> Plan {
    settled(Standing::reconciling(reason, message), Some(Again::At(until)))
}

/// The standing when an object with this name does not belong to the workspace.
pub fn taken(what: &str, name: &str, of: &Holder) -> Standing {
    let message = match of {
        Holder::Kept => format!(
            "{what} {name} is kept: it holds work of an earlier Workspace that could not be pushed, as its annotation \
             landfall.dev/retained-for says. Get that out first (README, \"Work that could not be pushed\"), or make a Workspace \
             of another name"
        ),
        Holder::Former(uid) if what == "PersistentVolumeClaim" => format!(
            "{what} {name} is of an earlier Workspace of this name, with uid {uid}, and may have work that was not pushed, so \
             it is left as it is. To go on with its volume, annotate this Workspace with {ADOPT_ANNOTATION}={uid}; to look at \
             it first, mount the claim in a pod; or make a Workspace of another name"
        ),
        Holder::Former(uid) => format!(
            "{what} {name} is of an earlier Workspace of this name, with uid {uid}. This goes on as soon as it is gone: see \
             what holds it back (its finalizers), or make a Workspace of another name"
        ),
        Holder::Other => format!(
            "{what} {name} exists and was not made for this workspace, so it is left as it is: delete it if nobody needs it, \
             or make a Workspace of another name"
        ),
    };
    Standing::stalled(Reason::NameTaken, message)
}

fn is_taken(what: &str, seen: &Seen, of: &Holder) -> Plan {
    settled(taken(what, &objects::name(&seen.object), of), Some(Again::Person))
}

/// Plans the steps up to a running pod. `Err`: the pod exists.
fn plan_start(seen: &Seen, now: Timestamp) -> Result<Plan, Box<PodView>> {
    if let Some(plan) = plan_token(seen) {
        if let PodSeen::Ours(pod) = &seen.pod
            && !matches!(plan, Plan::Do(_))
        {
            // The pod continues with its current token.
            return Err(pod.clone());
        }
        return Ok(plan);
    }
    match &seen.volume {
        VolumeSeen::Absent => return Ok(Plan::Do(Step::MakeVolume)),
        VolumeSeen::Foreign { of: Holder::Former(uid) } if seen.adopts() == Some(uid) => {
            return Ok(Plan::Do(Step::AdoptVolume(uid.clone())));
        }
        VolumeSeen::Foreign { of } => return Ok(is_taken("PersistentVolumeClaim", seen, of)),
        VolumeSeen::Ours { is_held: false, .. } => return Ok(Plan::Do(Step::HoldVolume)),
        VolumeSeen::Ours { .. } => {}
    }
    Ok(match &seen.pod {
        PodSeen::Foreign => is_taken("Pod", seen, &Holder::Other),
        PodSeen::Ours(pod) if pod.going.is_some() => ending(seen, pod, now, Reason::PodStarting),
        PodSeen::Ours(pod) if pod.failed.is_some() => Plan::Do(Step::EndPod),
        // Nobody has worked in this pod, and nobody will.
        PodSeen::Ours(pod)
            if !pod.has_run && seen.object.spec.image.is_some() && pod.image != seen.object.spec.image =>
        {
            Plan::Do(Step::EndPod)
        }
        PodSeen::Ours(pod) => return Err(pod.clone()),
        PodSeen::Absent => match plan_resolve(seen, now) {
            Some(plan) => plan,
            None => match seen.waits(Task::Run, now) {
                Some(failed) => settled(failed.standing, Some(Again::At(failed.until))),
                None => shares_branch(seen).map_or(Plan::Do(Step::StartPod), |told| settled(told, None)),
            },
        },
    })
}

pub fn soon(now: Timestamp) -> Timestamp {
    now.checked_add(SLACK).unwrap_or(now)
}

/// A branch cannot be merged into itself, and at the end uncommitted changes would be pushed to a branch where others
/// work.
fn shares_branch(seen: &Seen) -> Option<Standing> {
    let wish = &seen.object.spec.pull_request;
    let branch = seen.branch();
    (wish.mode != PullRequestMode::None && branch == seen.target_branch()).then(|| {
        let message = format!(
            "spec.branch.name {branch} is the branch that the pull request is to be merged into: choose another name, or set \
             spec.pullRequest.mode to None"
        );
        Standing::stalled(Reason::InvalidSpec, message)
    })
}

/// Waits for a terminating pod.
fn ending(seen: &Seen, pod: &PodView, now: Timestamp, reason: Reason) -> Plan {
    let end = pod.going.and_then(|end| seen.pod_end(pod, end).checked_add(SLACK).ok()).unwrap_or(now);
    if end > now {
        return wait(reason, format!("pod {} saves the work on the volume, and ends", pod.name), end);
    }
    wait(Reason::PodFailed, format!("{}: see to the node, or delete its Node object", silent(pod)), soon(now))
}

/// The message for a pod that exceeded its time to end.
pub fn silent(pod: &PodView) -> String {
    format!("node {} does not answer, so pod {} does not end", pod.node.as_deref().unwrap_or("unknown"), pod.name)
}

/// Plans the steps up to a usable token. `None`: it is ready, or the workspace ends and there is nothing to wait for.
pub fn plan_token(seen: &Seen) -> Option<Plan> {
    Some(match &seen.token {
        TokenSeen::Absent => Plan::Do(Step::MakeToken),
        TokenSeen::Foreign => is_taken("InstallationToken", seen, &Holder::Other),
        // It is revoked only after the work is saved or kept. Until then a save can use it in any state.
        // The namespace may have taken its Secret: it then waits for this workspace's finalizer, and a wait would not end.
        TokenSeen::Ours { state: TokenState::Ready, .. } | TokenSeen::Ours { is_going: true, is_held: true, .. }
            if seen.is_going() =>
        {
            return None;
        }
        TokenSeen::Ours { is_going: true, .. } => {
            settled(Standing::reconciling(Reason::WaitingForReference, "the former token is being revoked"), None)
        }
        TokenSeen::Ours { is_right: false, .. } => Plan::Do(Step::RepairToken),
        TokenSeen::Ours { state, message, .. } => {
            let message = format!("InstallationToken {}: {message}", objects::name(&seen.object));
            let asks_for_pull_request = seen.object.spec.pull_request.mode != PullRequestMode::None;
            settled(
                match state {
                    TokenState::Ready => return None,
                    TokenState::SecretNameTaken => return Some(is_taken("Secret", seen, &Holder::Other)),
                    TokenState::Pending => Standing::reconciling(Reason::WaitingForReference, message),
                    TokenState::Stalled(Reason::InsufficientPermissions) if asks_for_pull_request => Standing::stalled(
                        Reason::InsufficientPermissions,
                        message + "; pull_requests: write is not needed if spec.pullRequest.mode is None",
                    ),
                    TokenState::Stalled(reason) => Standing::stalled(*reason, message),
                },
                None,
            )
        }
    })
}

/// Plans a look for the repository's current name. `None`: it is known.
pub fn plan_resolve(seen: &Seen, now: Timestamp) -> Option<Plan> {
    let is_known =
        seen.known.repository.as_ref().is_some_and(|(_, at)| at.checked_add(RESOLVED_FOR).is_ok_and(|end| end > now));
    if !is_known {
        return Some(match seen.waits(Task::Resolve, now) {
            Some(failed) => settled(failed.standing, Some(Again::At(failed.until))),
            None => Plan::Do(Step::Resolve),
        });
    }
    seen.target.as_ref().err().map(|lacks| {
        let message = match lacks {
            NoTarget::Gateway => {
                "the certificates of Landfall's gateway are not made yet; the operator's log says why, and this goes on as soon as \
                 they are"
            }
            NoTarget::Repository | NoTarget::App => {
                "the App's credentials cannot be used, or its bot is not known yet: `kubectl describe githubapp` says why"
            }
        };
        settled(Standing::reconciling(Reason::WaitingForReference, message), Some(Again::Backoff))
    })
}

/// Plans for an existing pod: its state, the remote, and the pull request.
fn plan_running(seen: &Seen, pod: &PodView, now: Timestamp) -> Plan {
    if let Some(standing) = unready(seen, pod) {
        return settled(standing, None);
    }
    let mut again = Vec::new();
    match (seen.waits(Task::Look, now), look_due(seen, now)) {
        (Some(failed), _) => again.push(failed.until),
        // After a start of this process, or when the repository was renamed.
        (None, at) if at <= now && seen.known.repository.is_none() => match seen.waits(Task::Resolve, now) {
            Some(failed) => again.push(failed.until),
            None => return Plan::Do(Step::Resolve),
        },
        (None, at) if at <= now => return Plan::Do(Step::Look),
        (None, at) => again.push(at),
    }
    let ready = Standing::ready(Reason::Running, format!("pod {} runs at branch {}", pod.name, seen.branch()));
    let standing = match plan_pull(seen, now) {
        Part::Do(step) => return Plan::Do(step),
        Part::Rests { until, trouble } => {
            again.extend(until);
            match trouble {
                Some(trouble) if trouble.state == State::Ready => ready,
                Some(trouble) => trouble.while_still_good(&ready.message),
                None => ready,
            }
        }
    };
    let standing = match seen.waits(Task::Grow, now) {
        Some(failed) if standing.state == State::Ready => {
            again.push(failed.until);
            failed.standing.while_still_good(&standing.message)
        }
        _ => standing,
    };
    settled(standing, again.into_iter().min().map(Again::At))
}

/// The reason why nobody can work in the pod.
fn unready(seen: &Seen, pod: &PodView) -> Option<Standing> {
    let name = &pod.name;
    Some(match &pod.clone {
        Clone::Failed { code, words } => clone_failed(*code, words),
        Clone::Pending(Some(trouble)) => {
            let message = format!("pod {name} does not start: {}: {}", trouble.reason, trouble.message);
            Standing::reconciling(Reason::PodFailed, message)
        }
        Clone::Pending(None) => match &pod.unscheduled {
            Some(why) => {
                let unbound = matches!(seen.volume, VolumeSeen::Ours { volume: None, .. });
                let more = if unbound {
                    format!(" (`kubectl describe pvc {name}` says why it has no volume)")
                } else {
                    String::new()
                };
                Standing::reconciling(Reason::PodFailed, format!("pod {name} has no node: {why}{more}"))
            }
            None => Standing::reconciling(Reason::Cloning, format!("pod {name} starts, and clones the repository")),
        },
        Clone::Done(_) if pod.is_ready => return None,
        Clone::Done(_) => match &pod.trouble {
            Some(trouble) => {
                let image = seen.object.spec.image.as_deref().map(|image| format!(" (spec.image: {image})"));
                let image = image.unwrap_or_default();
                let message = format!("pod {name} does not start{image}: {}: {}", trouble.reason, trouble.message);
                Standing::reconciling(Reason::PodFailed, message)
            }
            None => Standing::reconciling(Reason::PodStarting, format!("pod {name} starts")),
        },
    })
}

/// The standing after a failed clone: git's message, and what to do.
fn clone_failed(code: i32, words: &str) -> Standing {
    use crate::agent::exit;
    let is = |known: u8| code == i32::from(known);
    let retried = "It is tried again by itself, with growing pauses of at most 5 minutes";
    if is(exit::BRANCH_EXISTS) {
        let message = format!(
            "the branch is there already, and spec.branch.onExists is Fail: {words} Remove the branch, or make a Workspace \
             with another spec.branch"
        );
        Standing::stalled(Reason::BranchExists, message)
    } else if is(exit::BRANCH_NOT_FOUND) {
        let message = format!(
            "there is no branch to begin from: {words} Push it, or make a Workspace with another spec.branch.from"
        );
        Standing::stalled(Reason::BranchNotFound, message)
    } else if is(exit::BRANCH_IN_THE_WAY) {
        Standing::stalled(Reason::BranchExists, format!("nothing is cloned, because no push could succeed: {words}"))
    } else if is(exit::AGAIN) {
        Standing::reconciling(Reason::CloneFailed, format!("the repository could not be cloned: {words} {retried}"))
    } else {
        Standing::stalled(Reason::CloneFailed, format!("the repository cannot be cloned: {words} {retried}"))
    }
}

/// When to list the workspace's branches: at once if the pod reports a push, or a person requests it.
fn look_due(seen: &Seen, now: Timestamp) -> Timestamp {
    let Some(remote) = &seen.known.remote else { return now };
    let is_asked = seen.known.request.as_ref() != requested_look(&*seen.object);
    let told = seen.known.report.as_ref().and_then(|(_, report)| report.remote_head.as_deref());
    let autosaved = seen.known.report.as_ref().and_then(|(_, report)| report.autosave.as_ref());
    let is_news =
        told.is_some_and(|told| remote.listed.branch.as_deref() != Some(told)) && remote.heard.as_deref() != told;
    let is_saved = autosaved.is_some_and(|saved| remote.listed.autosave.as_deref() != Some(saved.commit.as_str()))
        && remote.heard_save.as_ref() != autosaved.map(|saved| &saved.commit);
    if is_asked || is_news || is_saved || remote.asked != seen.branch() {
        return now;
    }
    remote.at.checked_add(LOOK_EVERY).unwrap_or(now)
}

/// The result for one part of the object.
enum Part {
    Do(Step),
    Rests { until: Option<Timestamp>, trouble: Option<Standing> },
}

fn plan_pull(seen: &Seen, now: Timestamp) -> Part {
    let wish = &seen.object.spec.pull_request;
    if wish.mode == PullRequestMode::None {
        return Part::Rests { until: None, trouble: None };
    }
    let branch = seen.known.remote.as_ref().and_then(|remote| remote.listed.branch.as_ref());
    let waiting = |message: &str| Part::Rests {
        until: None,
        trouble: Some(match wish.open_on {
            // It is normal that nothing was pushed yet.
            PullRequestOpenOn::FirstPush => Standing::ready(Reason::PullRequestPending, message),
            PullRequestOpenOn::Create => Standing::reconciling(Reason::PullRequestPending, message),
        }),
    };
    let Some(branch) = branch else { return waiting("it is opened when something was pushed") };
    match (&seen.known.pull, seen.waits(Task::Pull, now)) {
        (Some(Pull::Found(_)), _) => Part::Rests { until: None, trouble: None },
        (_, Some(failed)) => Part::Rests { until: Some(failed.until), trouble: Some(failed.standing) },
        (None, None) => Part::Do(Step::FindPull),
        (Some(Pull::None { tried }), None) if tried.as_ref() == Some(branch) => {
            waiting("there is nothing on the branch yet that its target does not have")
        }
        (Some(Pull::None { .. }), None) => Part::Do(Step::OpenPull),
    }
}

/// Plans for a suspended workspace: the pod ends, the volume stays.
fn plan_rest(seen: &Seen, now: Timestamp) -> Plan {
    match &seen.pod {
        PodSeen::Ours(pod) => match pod.going {
            None => Plan::Do(Step::EndPod),
            Some(_) => ending(seen, pod, now, Reason::Saving),
        },
        PodSeen::Absent | PodSeen::Foreign => {
            let can_look = matches!(seen.way, Way::Open(_))
                && matches!(seen.token, TokenSeen::Ours { state: TokenState::Ready, .. });
            let has_work = matches!(seen.volume, VolumeSeen::Ours { volume: Some(_), .. });
            if can_look && has_work && seen.known.remote.is_none() {
                let (task, step) = match seen.known.repository {
                    // After a start of this process.
                    None => (Task::Resolve, Step::Resolve),
                    Some(_) => (Task::Look, Step::Look),
                };
                match seen.waits(task, now) {
                    None => return Plan::Do(step),
                    Some(failed) => {
                        let standing = Standing::suspended(Reason::WorkspaceSuspended, RESTS);
                        return settled(standing, Some(Again::At(failed.until)));
                    }
                }
            }
            settled(Standing::suspended(Reason::WorkspaceSuspended, RESTS), None)
        }
    }
}

const RESTS: &str = "spec.operatingMode is Suspended: the pod ended and the volume is kept; Running starts it again";

#[cfg(test)]
mod tests;
