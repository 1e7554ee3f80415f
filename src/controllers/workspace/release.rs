//! The end of a workspace, and of its volume.
//!
//! Invariant: [`plan_volume_release`] is [`Release::Done`] only if the work was read back from the remote, if there is
//! none, if the volume is kept, or if somebody gave the work up. Otherwise it waits, with a limit, or saves.

use super::memory::{Disbelieved, Failed, Safe, Task};
use super::objects;
use super::plan::{Plan, SLACK, Step, plan_resolve, plan_token, settled, silent, soon, wait};
use super::pods::Ended;
use super::seen::{PodSeen, Seen, TokenSeen, TokenState, VolumeSeen, Way};
use crate::agent::evidence::Evidence;
use crate::agent::save::Outcome;
use crate::api::{PullRequestMode, PullRequestOnDelete, Reason, SaveOnFailure};
use crate::controllers::object::requested_look;
use crate::controllers::shared::PERSON_RECHECK;
use crate::controllers::standing::{Again, Standing, State};
use jiff::{SignedDuration, Timestamp};

/// How many Jobs may try to save, if another try may help.
const MOST_SAVES: u32 = 3;
/// The delay before the second save. Each further delay is four times as long.
const PAUSE: SignedDuration = SignedDuration::from_secs(15);
/// How long to wait, at the end, for a problem that may pass by itself.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// How long the end of the pull request may wait for one retry.
const PULL_PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// How many calls may try to close or mark a pull request at the end.
pub const MOST_CALLS: u32 = 5;

/// Whether the volume may be deleted.
#[derive(Clone, Debug, PartialEq)]
pub enum Release {
    /// Yes: its work is safe, it is kept, or the work was given up.
    Done,
    /// Not yet.
    Next(Plan),
}

/// Plans the deletion of a workspace.
pub fn plan_removal(seen: &Seen, now: Timestamp) -> Plan {
    if !seen.has_finalizer {
        return Plan::Settled { standing: None, again: None };
    }
    match plan_volume_release(seen, now) {
        Release::Next(plan) => return plan,
        Release::Done => {}
    }
    if let Some(plan) = plan_last_pull(seen, now) {
        return plan;
    }
    match &seen.token {
        TokenSeen::Ours { is_going: false, .. } | TokenSeen::Ours { is_held: true, .. } => {
            return Plan::Do(Step::DropToken);
        }
        // The work is safe, so the volume does not wait for GitHub to revoke the token, which a spent rate limit delays.
        TokenSeen::Ours { .. } if matches!(seen.volume, VolumeSeen::Ours { is_kept: false, is_held: true, .. }) => {
            return Plan::Do(Step::ReleaseVolume);
        }
        TokenSeen::Ours { message, .. } => {
            let message = format!("its work is dealt with; its token is being revoked: {message}");
            return settled(Standing::reconciling(Reason::WaitingForDependents, message), None);
        }
        TokenSeen::Absent | TokenSeen::Foreign => {}
    }
    match seen.volume {
        VolumeSeen::Ours { is_kept: false, .. } => plan_claim_release(seen),
        _ => Plan::Do(Step::RemoveFinalizer),
    }
}

pub fn plan_claim_release(seen: &Seen) -> Plan {
    match seen.volume {
        VolumeSeen::Ours { is_held: false, is_going: true, .. } => {
            // Kubernetes' own finalizer: a pod mounts the volume.
            if seen.is_going() {
                Plan::Do(Step::RemoveFinalizer)
            } else {
                settled(Standing::reconciling(Reason::PodStarting, "the former volume is still going"), None)
            }
        }
        _ => Plan::Do(Step::ReleaseVolume),
    }
}

/// Plans the steps that save or keep the work before the volume is deleted.
pub fn plan_volume_release(seen: &Seen, now: Timestamp) -> Release {
    let volume = match &seen.volume {
        VolumeSeen::Ours { volume, is_kept: false, .. } => volume,
        VolumeSeen::Absent | VolumeSeen::Foreign { .. } | VolumeSeen::Ours { .. } => {
            return end_pod(seen, now, Release::Done);
        }
    };
    if seen.known.is_parted {
        return end_pod(seen, now, Release::Done);
    }
    if seen.known.safe.is_some() && !matches!(seen.pod, PodSeen::Ours(_)) {
        return Release::Done;
    }
    if seen.is_going() && seen.is_forced() {
        let why = "the annotation landfall.dev/force-delete gives up the work that was not pushed";
        return Release::Next(Plan::Do(Step::GiveUp(why.to_owned())));
    }
    match &seen.pod {
        PodSeen::Ours(pod) => match pod.going {
            None => return Release::Next(Plan::Do(Step::EndPod)),
            Some(end) => {
                let end = seen.pod_end(pod, end).checked_add(SLACK).unwrap_or(now);
                if end > now {
                    let message = format!("pod {} saves the work on the volume, and ends", pod.name);
                    return Release::Next(wait(Reason::Saving, message, end));
                }
                // If no node ever had the volume, nothing was written.
                return if volume.is_none() { Release::Done } else { failed(seen, now, &silent(pod), None) };
            }
        },
        PodSeen::Absent | PodSeen::Foreign => {}
    }
    if volume.is_none() {
        return Release::Done;
    }
    if let Some(Ended::Said(evidence)) = &seen.ended
        && evidence.is_whole()
        && !is_emptied(seen, evidence)
    {
        return match seen.waits(Task::Look, now) {
            Some(failed_look) if is_patient(seen, now) => {
                let message = format!("the save has to be read back from the remote: {}", failed_look.standing.message);
                Release::Next(wait(Reason::Saving, message, failed_look.until))
            }
            Some(failed_look) => failed(
                seen,
                now,
                &format!("the save cannot be read back from the remote: {}", failed_look.standing.message),
                None,
            ),
            None => match prepared(seen, now) {
                Ok(()) => Release::Next(Plan::Do(Step::Believe(evidence.clone().into()))),
                Err(parting) => parting,
            },
        };
    }
    plan_save(seen, now)
}

/// Whether a save found nothing on a volume on which a clone was seen. Nothing shows then where its work is.
fn is_emptied(seen: &Seen, evidence: &Evidence) -> bool {
    evidence.is_of_nothing() && seen.was_cloned()
}

/// Plans the end of the pod when there is nothing to save; then returns `over`.
fn end_pod(seen: &Seen, now: Timestamp, over: Release) -> Release {
    match &seen.pod {
        PodSeen::Ours(pod) => match pod.going {
            None => Release::Next(Plan::Do(Step::EndPod)),
            // After that, only the node can end it.
            Some(end) if seen.pod_end(pod, end).checked_add(SLACK).is_ok_and(|end| end > now) => {
                let end = seen.pod_end(pod, end).checked_add(SLACK).unwrap_or(now);
                Release::Next(wait(Reason::Saving, format!("pod {} ends", pod.name), end))
            }
            Some(_) => over,
        },
        PodSeen::Absent | PodSeen::Foreign => over,
    }
}

/// Whether to wait longer for a problem that may pass by itself.
fn is_patient(seen: &Seen, now: Timestamp) -> bool {
    let since = seen.ending_since(now);
    let saves = i64::from(MOST_SAVES) * objects::job_seconds(&seen.object) + objects::grace(&seen.object);
    let patience = PATIENCE + SignedDuration::from_secs(saves);
    since.checked_add(patience).is_ok_and(|end| end > now)
}

/// Checks the requirements of a save and of reading the remote: access, the token, and the address.
fn prepared(seen: &Seen, now: Timestamp) -> Result<(), Release> {
    let waiting = |message: &str, plan: Plan| {
        if is_patient(seen, now) { Release::Next(plan) } else { failed(seen, now, message, None) }
    };
    if seen.is_namespace_going && seen.token == TokenSeen::Absent {
        return Err(failed(seen, now, "the namespace is being deleted, so its token is gone", None));
    }
    if let Some(refused) = seen.waits(Task::Make, now) {
        let message = format!("the work on the volume has to be saved: {}", refused.standing.message);
        let plan = settled(Standing::reconciling(refused.standing.reason, &message), Some(Again::At(refused.until)));
        return Err(waiting(&message, plan));
    }
    match &seen.way {
        Way::NotYetKnown => return Err(Release::Next(Plan::Settled { standing: None, again: None })),
        Way::Blocked { standing, permanent: true } => return Err(failed(seen, now, &standing.message, None)),
        Way::Blocked { standing, permanent: false } => {
            let message = format!("the work on the volume has to be saved: {}", standing.message);
            return Err(waiting(
                &message,
                settled(Standing::reconciling(standing.reason, &message), Some(Again::Backoff)),
            ));
        }
        Way::Open(_) => {}
    }
    if let Some(plan) = plan_token(seen) {
        return Err(match plan {
            Plan::Settled { standing: Some(standing), .. } if standing.state == State::Stalled => {
                failed(seen, now, &standing.message, None)
            }
            Plan::Settled { standing: Some(standing), .. } => {
                waiting(&standing.message.clone(), settled(standing, Some(Again::Backoff)))
            }
            plan => Release::Next(plan),
        });
    }
    match plan_resolve(seen, now) {
        None => Ok(()),
        Some(Plan::Settled { standing: Some(standing), .. }) if standing.state == State::Stalled => {
            Err(failed(seen, now, &standing.message, None))
        }
        Some(Plan::Settled { standing: Some(standing), again }) => {
            Err(waiting(&standing.message.clone(), settled(standing, again)))
        }
        Some(plan) => Err(Release::Next(plan)),
    }
}

/// Plans a save by a Job, because the pod did not report a complete save.
fn plan_save(seen: &Seen, now: Timestamp) -> Release {
    let left = match &seen.ended {
        Some(Ended::Said(evidence)) if is_emptied(seen, evidence) => {
            "the volume looks empty, though a clone was seen on it: the clone may have been removed or moved, or another \
             volume may have been mounted"
                .to_owned()
        }
        Some(Ended::Said(evidence)) => left(evidence),
        Some(Ended::Silent(how)) => how.clone(),
        None => match &seen.known.disbelieved {
            Some(Disbelieved { pod, why }) if seen.saver.is_some() && *pod == seen.saver => why.clone(),
            _ => String::new(),
        },
    };
    // A second look at an empty volume, by a Job, is enough.
    let is_final = matches!(&seen.ended, Some(Ended::Said(evidence))
        if evidence.outcome == Outcome::Refused || is_emptied(seen, evidence));
    let attempt = match &seen.job {
        None => 1,
        Some(job) if job.is_going => {
            if !is_patient(seen, now) {
                return failed(seen, now, &format!("Job {} is being deleted, and does not end", job.name), None);
            }
            return Release::Next(wait(Reason::Saving, "a Job that saved is still ending", soon(now)));
        }
        Some(job) => match &job.ended {
            None if job.until > now => {
                let message = format!("Job {} saves the work on the volume (attempt {})", job.name, job.attempt);
                return Release::Next(wait(Reason::Saving, message, job.until));
            }
            ended => {
                let said = ended.as_ref().map_or("it did not end in time", |end| end.message.as_str());
                let said = if left.is_empty() { said } else { &left };
                let why = format!("Job {} did not save all: {said}", job.name);
                if job.attempt >= MOST_SAVES || is_final {
                    return failed(seen, now, why.trim(), Some(ended.as_ref().map_or(job.until, |end| end.at)));
                }
                let pause = PAUSE * 4_i32.pow(job.attempt.saturating_sub(1));
                let next = ended.as_ref().and_then(|end| end.at.checked_add(pause).ok());
                if let Some(next) = next.filter(|next| *next > now) {
                    return Release::Next(wait(
                        Reason::Saving,
                        format!("{}. It is tried again soon", why.trim().trim_end_matches('.')),
                        next,
                    ));
                }
                job.attempt + 1
            }
        },
    };
    if seen.is_namespace_going {
        return failed(
            seen,
            now,
            format!("the namespace is being deleted, so no Job can save the work that the pod did not. {left}").trim(),
            None,
        );
    }
    if matches!(seen.volume, VolumeSeen::Ours { is_going: true, .. }) {
        let why = format!(
            "its PersistentVolumeClaim was deleted, so no Job can mount it to save the work that the pod did not. {left}"
        );
        return failed(seen, now, why.trim(), None);
    }
    match prepared(seen, now) {
        Ok(()) => Release::Next(Plan::Do(Step::Save(attempt))),
        Err(parting) => parting,
    }
}

/// The part of the evidence that lists work that could not be pushed.
fn left(evidence: &Evidence) -> String {
    let left = evidence.left.iter().map(|left| {
        let remedy = left.reason.remedy().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        format!("{} ({:?}: {}{remedy})", left.what, left.reason, left.message)
    });
    left.collect::<Vec<_>>().join("; ")
}

/// Plans for work that cannot be pushed, as the spec says.
fn failed(seen: &Seen, now: Timestamp, why: &str, at: Option<Timestamp>) -> Release {
    let choice = seen.object.spec.save.on_failure;
    // When waiting is impossible, the volume is kept.
    let is_blocked = choice == SaveOnFailure::Block && seen.is_going() && !seen.is_namespace_going;
    if is_blocked {
        let next = at.and_then(|at| at.checked_add(PERSON_RECHECK).ok());
        let is_asked = seen.known.request.as_ref() != requested_look(&*seen.object);
        if (is_asked || next.is_some_and(|next| next <= now))
            && let Some(job) = &seen.job
        {
            let can_ask = matches!(seen.way, Way::Open(_)) && plan_token(seen).is_none();
            let again = || plan_resolve(seen, now).unwrap_or(Plan::Do(Step::Save(job.attempt.saturating_add(1))));
            return Release::Next(if can_ask { again() } else { blocked(seen, why, None) });
        }
        return Release::Next(blocked(seen, why, next));
    }
    Release::Next(Plan::Do(match choice {
        SaveOnFailure::Discard => Step::GiveUp(why.to_owned()),
        SaveOnFailure::Retain | SaveOnFailure::Block => Step::KeepVolume(why.to_owned()),
    }))
}

fn blocked(seen: &Seen, why: &str, next: Option<Timestamp>) -> Plan {
    let uid = seen.object.metadata.uid.as_deref().unwrap_or_default();
    let why = why.trim_end_matches('.');
    let again = if next.is_some() { " It is tried again each half hour." } else { "" };
    let message = format!(
        "the work on the volume could not be pushed, and spec.save.onFailure is Block: {why}.{again} To keep the volume \
         instead, set spec.save.onFailure to Retain; to give the work up, annotate the Workspace with \
         landfall.dev/force-delete={uid}"
    );
    settled(Standing::stalled(Reason::SaveFailed, message), Some(next.map_or(Again::Person, Again::At)))
}

/// Plans the end of the pull request. `None`: nothing to do, or done.
fn plan_last_pull(seen: &Seen, now: Timestamp) -> Option<Plan> {
    let wish = &seen.object.spec.pull_request;
    let is_nothing = wish.on_delete == PullRequestOnDelete::Keep || wish.mode == PullRequestMode::None;
    // If work is elsewhere, the branch is not complete and should not be reviewed.
    let is_fit = |safe: &Safe| safe.is_on_branch || wish.on_delete != PullRequestOnDelete::MarkReady;
    if is_nothing || seen.known.is_pull_settled || !seen.known.safe.as_ref().is_some_and(is_fit) {
        return None;
    }
    if !matches!(seen.token, TokenSeen::Ours { is_held: true, state: TokenState::Ready, .. }) {
        return None;
    }
    match seen.way {
        Way::NotYetKnown => return Some(Plan::Settled { standing: None, again: None }),
        Way::Blocked { .. } => return None,
        Way::Open(_) => {}
    }
    let (task, step) = match seen.known.repository {
        // After a start of this process.
        None => (Task::Resolve, Step::Resolve),
        Some(_) => (Task::Pull, Step::FinishPull),
    };
    match seen.known.failed.get(&task) {
        Some(Failed { times, about, .. }) if *times >= MOST_CALLS && *about == seen.about() => None,
        _ => Some(match seen.waits(task, now) {
            // A rate limit, which any tenant of the installation can spend for an hour. The work is safe without a pull request.
            Some(failed) if seen.ending_since(now).checked_add(PULL_PATIENCE).is_ok_and(|end| end < failed.until) => {
                return None;
            }
            Some(failed) => settled(failed.standing, Some(Again::At(failed.until))),
            None => Plan::Do(step),
        }),
    }
}
