//! Decides the next effect of a push, as a pure function of the gathered state and of `now`.
//!
//! Invariants: a template changes at most once for one (sha, sequence); at most one deployment is followed at a time;
//! the newest head is deployed in the end; the deployed commit is not deployed again without a request. They hold
//! across restarts because Running is written before anything is changed, and because a deployment that a template
//! already has is continued instead of begun.
//!
//! Only the head that GitHub just confirmed is ever written into a template, even if status has another one as Running,
//! because tenants may be able to write status, and pods may run the commit in the annotation.
//!
//! The head may return to the deployed commit while the operator waits for further pushes. The templates show that
//! commit, so nothing is restarted. Only the commit that was the head when the object was created is not in the
//! templates, so that one is rolled out.

use super::progress::Progress;
use super::seen::{ConfirmedHead, Hindrance, Stamp, Targets, Trouble, Workload};
use crate::api::{DeploymentResult, DeploymentStatus, OnPush, Reason, SHA_ANNOTATION};
use crate::controllers::standing::{Standing, whole_second};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// How long to wait for things that have no deadline in Kubernetes: missing, refused or paused workloads, or kinds
/// without a deadline. It equals the default of a Deployment's `progressDeadlineSeconds`.
pub const DEADLINE: SignedDuration = SignedDuration::from_mins(10);

/// How long a newer head waits for the deployment before it. The next push often repairs a deployment that hangs, so it
/// does not wait for [`DEADLINE`]. If this were shorter, each push of a series would be rolled out, instead of the
/// newest now and then.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// How often the operator looks again for workloads that are missing before the first push.
const STOCK_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// The commit of a deployment that began when the branch had none, as git writes an object that does not exist.
pub const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// The most characters of a message in `status.deployment`. The API's limit is a little higher.
const LONGEST_MESSAGE: usize = 1000;

/// The state that a decision needs.
#[derive(Clone, Debug)]
pub struct RolloutInput<'a> {
    /// The spec.
    pub on_push: &'a OnPush,
    /// Nothing may be changed.
    pub is_paused: bool,
    /// The head. `None`: not looked at yet.
    pub head: Option<&'a ConfirmedHead>,
    /// The last deployment in status.
    pub stored: Option<&'a DeploymentStatus>,
    /// The condition shows that an action of it was forbidden.
    pub was_forbidden: bool,
    /// Another try of a failed deployment is requested.
    pub is_asked_again: bool,
    /// The workloads. `None`: not looked at yet.
    pub targets: Option<&'a Targets>,
}

/// The decision on what to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Look at the head on GitHub, then plan again: the newest wins.
    LookAtHead,
    /// Look at the workloads, then plan again.
    LookAtTargets,
    /// Write this to status, then plan again.
    Begin {
        /// The deployment, whose result is Running.
        deployment: DeploymentStatus,
        /// It handles the request for another try.
        handles_redeploy: bool,
    },
    /// Change these templates, then look at the workloads and plan again.
    Roll {
        /// The stamp to write into them.
        stamp: Stamp,
        /// The workloads as they were seen.
        workloads: Vec<Workload>,
    },
    /// Do nothing before `again`.
    Settle(Settlement),
}

/// The state of the deployment when nothing is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// The deployment for status. The stored one if nothing happened.
    pub deployment: Option<DeploymentStatus>,
    /// The request for another try is handled, or has no effect.
    pub handles_redeploy: bool,
    /// The standing for the condition Deployed. `None`: not known.
    pub standing: Option<Standing>,
    /// When to look again. `None`: at a new head or a new request.
    pub again: Option<Timestamp>,
}

/// Decides the next step.
#[must_use]
pub fn plan(seen: &RolloutInput<'_>, now: Timestamp) -> Next {
    match seen.stored {
        None => take_stock(seen, now),
        Some(stored) => match stored.result {
            DeploymentResult::Succeeded | DeploymentResult::Failed => at_rest(seen, stored, now),
            DeploymentResult::Waiting => waiting(seen, stored, now),
            DeploymentResult::Running => running(seen, stored, now),
        },
    }
}

/// No deployment is known, so the current head counts as deployed, and nothing is restarted. If the templates have a
/// deployment, status was lost, and the deployment continues from there.
fn take_stock(seen: &RolloutInput<'_>, now: Timestamp) -> Next {
    let Some(head) = seen.head else { return Next::LookAtHead };
    let Some(targets) = seen.targets else { return Next::LookAtTargets };
    if targets.newest().is_some() {
        return if seen.is_paused { hold(seen, head) } else { begin(seen, targets, head, 0, now) };
    }
    let forbidden = targets.troubles.iter().find(|trouble| trouble.reason == Reason::ActionForbidden);
    let trouble = forbidden.or(targets.troubles.first());
    let (result, message) = match trouble {
        // No rollout is missed yet, but a person should know before the first push.
        Some(trouble) => (DeploymentResult::Failed, Some(bounded(&trouble.message))),
        None => (DeploymentResult::Succeeded, None),
    };
    let deployment = DeploymentStatus {
        sha: head.sha.clone(),
        sequence: 0,
        result,
        start_time: None,
        completion_time: Some(Time(whole_second(now))),
        message,
    };
    // The same result and message keep their time.
    let same = seen.stored.filter(|stored| stored.result == deployment.result && stored.message == deployment.message);
    let deployment = same.cloned().unwrap_or(deployment);
    let standing = match trouble {
        Some(trouble) => Standing::stalled(trouble.reason, trouble.message.clone()),
        None => standing(seen, &deployment),
    };
    let wait = if forbidden.is_some() { crate::controllers::shared::PERSON_RECHECK } else { STOCK_AGAIN };
    let again = trouble.map(|_| after(now, wait));
    Next::Settle(Settlement { deployment: Some(deployment), handles_redeploy: true, standing: Some(standing), again })
}

/// The branch has no commit yet, so its first one is a push.
#[must_use]
pub fn begin_without_commit(now: Timestamp) -> Settlement {
    let deployment = DeploymentStatus {
        sha: NO_COMMIT.to_owned(),
        sequence: 0,
        result: DeploymentResult::Succeeded,
        start_time: None,
        completion_time: Some(Time(whole_second(now))),
        message: None,
    };
    let standing = Standing::ready(Reason::RolledOut, WITHOUT_COMMIT);
    Settlement { deployment: Some(deployment), handles_redeploy: true, standing: Some(standing), again: None }
}

const WITHOUT_COMMIT: &str = "the branch had no commit when this began: its first one is rolled out";

/// Plans after the last deployment ended.
fn at_rest(seen: &RolloutInput<'_>, stored: &DeploymentStatus, now: Timestamp) -> Next {
    let has_failed = stored.result == DeploymentResult::Failed;
    match seen.head {
        Some(head) if head.sha != stored.sha && seen.is_paused => hold(seen, head),
        Some(head) if head.sha != stored.sha => wait(seen, stored, head, now),
        Some(head) if has_failed && seen.is_asked_again => match seen.targets {
            _ if seen.is_paused => hold(seen, head),
            None => Next::LookAtTargets,
            Some(targets) => begin(seen, targets, head, counted(stored) + 1, now),
        },
        Some(_) if has_failed && stored.sequence == 0 => take_stock(seen, now),
        head => {
            let mut settlement = keep(seen, stored);
            settlement.handles_redeploy = head.is_some();
            Next::Settle(settlement)
        }
    }
}

/// Waits for further pushes. The sequence increases only when the deployment begins.
fn wait(seen: &RolloutInput<'_>, stored: &DeploymentStatus, head: &ConfirmedHead, now: Timestamp) -> Next {
    let since = whole_microsecond(now);
    let deployment = DeploymentStatus {
        sha: head.sha.clone(),
        sequence: counted(stored),
        result: DeploymentResult::Waiting,
        start_time: Some(MicroTime(since)),
        completion_time: None,
        message: None,
    };
    let again = Some(after(since, debounce(seen.on_push)));
    let standing = standing(seen, &deployment);
    Next::Settle(Settlement { deployment: Some(deployment), handles_redeploy: false, standing: Some(standing), again })
}

fn waiting(seen: &RolloutInput<'_>, stored: &DeploymentStatus, now: Timestamp) -> Next {
    let Some(head) = seen.head else { return Next::LookAtHead };
    if seen.is_paused {
        return hold(seen, head);
    }
    let due = after(begun(stored, now), debounce(seen.on_push));
    if now < due {
        let deployment = DeploymentStatus { sha: head.sha.clone(), ..stored.clone() };
        let standing = standing(seen, &deployment);
        return Next::Settle(Settlement {
            deployment: Some(deployment),
            handles_redeploy: false,
            standing: Some(standing),
            again: Some(due),
        });
    }
    if head.looked_at < due {
        return Next::LookAtHead;
    }
    match seen.targets {
        None => Next::LookAtTargets,
        Some(targets) => begin(seen, targets, head, counted(stored), now),
    }
}

/// Begins to deploy the head. If it is the newest deployment in the templates and not older than `least`, continues
/// that one.
fn begin(seen: &RolloutInput<'_>, targets: &Targets, head: &ConfirmedHead, least: i64, now: Timestamp) -> Next {
    let known = seen.stored.map_or(0, counted);
    let sequence = match targets.newest() {
        Some(newest) if newest.sha == head.sha && newest.sequence >= least.max(1) => newest.sequence,
        newest => newest.map_or(0, |newest| newest.sequence).max(known).saturating_add(1),
    };
    let deployment = DeploymentStatus {
        sha: head.sha.clone(),
        sequence,
        result: DeploymentResult::Running,
        start_time: Some(MicroTime(whole_microsecond(now))),
        completion_time: None,
        message: None,
    };
    Next::Begin { deployment, handles_redeploy: true }
}

fn running(seen: &RolloutInput<'_>, stored: &DeploymentStatus, now: Timestamp) -> Next {
    let Some(targets) = seen.targets else { return Next::LookAtTargets };
    let stamp = Stamp { sha: stored.sha.clone(), sequence: stored.sequence };
    let newer = seen.head.filter(|head| head.sha != stored.sha && !seen.is_paused);
    let is_late = is_over(stored, DEADLINE, now);
    let to_roll = |workload: &&Workload| workload.stamp.as_ref() != Some(&stamp) && workload.hindrance.is_none();
    let workloads: Vec<_> = targets.workloads.iter().filter(to_roll).cloned().collect();
    if !workloads.is_empty() && !seen.is_paused {
        return match (newer, seen.head) {
            (Some(newer), _) => wait(seen, stored, newer, now),
            (None, None) => Next::LookAtHead,
            // Status is older than the templates, because of a late cache or a restored backup. The operator does not
            // go back behind the templates.
            (None, Some(head)) if targets.newest().is_some_and(|n| n.sequence >= stamp.sequence && *n != stamp) => {
                begin(seen, targets, head, counted(stored), now)
            }
            // The operator was down, and nothing was tried yet. The time counts from now.
            (None, Some(_)) if is_late && stored.message.is_none() => {
                let deployment =
                    DeploymentStatus { start_time: Some(MicroTime(whole_microsecond(now))), ..stored.clone() };
                Next::Begin { deployment, handles_redeploy: false }
            }
            (None, Some(_)) => Next::Roll { stamp, workloads },
        };
    }
    let view = Followed::of(targets, &stamp);
    // The deployment could not continue before, and now it does. The time counts from now.
    let goes_on = stored.message.is_some() && view.troubles.is_empty();
    let is_late = is_late && !goes_on;
    if !view.failed.is_empty() || (is_late && view.is_stuck()) {
        return Next::Settle(fail(seen, stored, &view, now));
    }
    if view.is_done() {
        return Next::Settle(finish(seen, stored, &view, now));
    }
    match newer.filter(|_| !view.troubles.is_empty() || is_over(stored, PATIENCE, now)) {
        Some(newer) => wait(seen, stored, newer, now),
        None if goes_on => {
            let since_now = DeploymentStatus { start_time: Some(MicroTime(whole_microsecond(now))), ..stored.clone() };
            Next::Settle(go_on(seen, &since_now, &view, now))
        }
        None => Next::Settle(go_on(seen, stored, &view, now)),
    }
}

/// The settlement of a deployment that is looked at again.
fn go_on(seen: &RolloutInput<'_>, stored: &DeploymentStatus, view: &Followed, now: Timestamp) -> Settlement {
    let troubles: Vec<_> = view.troubles.iter().map(|trouble| trouble.message.as_str()).collect();
    let message = Some(bounded(&troubles.join("; "))).filter(|message| !message.is_empty());
    let standing = match (&message, view.reason()) {
        (Some(message), Some(reason)) => {
            Standing::reconciling(reason, format!("{message}. It is tried again by itself, for 10 minutes"))
        }
        _ => standing(seen, stored),
    };
    Settlement {
        deployment: Some(DeploymentStatus { message, ..stored.clone() }),
        handles_redeploy: false,
        standing: Some(standing),
        again: Some(after(now, pause(stored, now))),
    }
}

/// The results of following a deployment.
#[derive(Default)]
struct Followed {
    /// These will not be completed.
    failed: Vec<String>,
    /// These continue, and Kubernetes reports when they take too long.
    watched: Vec<String>,
    /// These continue without a deadline in Kubernetes.
    unwatched: Vec<String>,
    /// These cannot continue now.
    troubles: Vec<Trouble>,
    /// Notes on completed ones.
    notes: Vec<String>,
}

impl Followed {
    fn of(targets: &Targets, stamp: &Stamp) -> Self {
        let mut followed = Self { troubles: targets.troubles.clone(), ..Self::default() };
        for workload in &targets.workloads {
            followed.add(workload, stamp);
        }
        followed
    }

    fn add(&mut self, workload: &Workload, stamp: &Stamp) {
        let is_rolled = workload.stamp.as_ref() == Some(stamp);
        match (&workload.progress, &workload.hindrance) {
            (Progress::Done(note), _) if is_rolled => {
                self.notes.extend(note.iter().map(|note| format!("{workload}: {note}")));
            }
            (Progress::Underway { what, has_deadline }, _) if is_rolled => {
                let list = if *has_deadline { &mut self.watched } else { &mut self.unwatched };
                list.push(format!("{workload}: {what}"));
            }
            (Progress::Failed(what), _) if is_rolled => self.failed.push(format!("{workload}: {what}")),
            (_, Some(Hindrance::TakenOver)) => self.failed.push(format!(
                "{workload}: somebody changed the annotation {SHA_ANNOTATION} of its template since it was rolled. Let one \
                 ProjectRepository roll a workload, and let other tools leave that annotation as it is"
            )),
            (_, Some(Hindrance::Refused(trouble))) => self.troubles.push(trouble.clone()),
            // Otherwise it would have been rolled out.
            (_, None) => self
                .troubles
                .push(Trouble { reason: Reason::Paused, message: format!("{workload} is not rolled while changes are held back") }),
        }
    }

    fn is_done(&self) -> bool {
        self.failed.is_empty() && self.watched.is_empty() && self.unwatched.is_empty() && self.troubles.is_empty()
    }

    /// Whether something will not end by itself.
    fn is_stuck(&self) -> bool {
        !self.unwatched.is_empty() || self.troubles.iter().any(|trouble| trouble.reason != Reason::Paused)
    }

    /// The most important reason for a person.
    fn reason(&self) -> Option<Reason> {
        let forbidden = self.troubles.iter().find(|trouble| trouble.reason == Reason::ActionForbidden);
        forbidden.or(self.troubles.first()).map(|trouble| trouble.reason)
    }
}

fn fail(seen: &RolloutInput<'_>, stored: &DeploymentStatus, view: &Followed, now: Timestamp) -> Settlement {
    let troubles = view.troubles.iter().map(|trouble| trouble.message.as_str());
    let found: Vec<_> = view.failed.iter().chain(&view.unwatched).map(String::as_str).chain(troubles).collect();
    let message = format!(
        "{}. Look at it with kubectl rollout status and describe; a new commit is tried in any case, and any new value of \
         the annotation landfall.dev/redeploy asks for this one again",
        bounded_to(&found.join("; "), LONGEST_MESSAGE - 200)
    );
    let is_forbidden = view.failed.is_empty() && view.reason() == Some(Reason::ActionForbidden);
    let deployment = DeploymentStatus {
        result: DeploymentResult::Failed,
        completion_time: Some(Time(whole_second(now))),
        message: Some(bounded(&message)),
        ..stored.clone()
    };
    over(&RolloutInput { was_forbidden: is_forbidden, ..seen.clone() }, deployment, now)
}

fn finish(seen: &RolloutInput<'_>, stored: &DeploymentStatus, view: &Followed, now: Timestamp) -> Settlement {
    let deployment = DeploymentStatus {
        result: DeploymentResult::Succeeded,
        completion_time: Some(Time(whole_second(now))),
        message: Some(bounded(&view.notes.join("; "))).filter(|notes| !notes.is_empty()),
        ..stored.clone()
    };
    over(seen, deployment, now)
}

/// A deployment just ended, and a push or request that came meanwhile is next.
fn over(seen: &RolloutInput<'_>, deployment: DeploymentStatus, now: Timestamp) -> Settlement {
    let has_next = seen.is_asked_again || seen.head.is_some_and(|head| head.sha != deployment.sha);
    let standing = standing(seen, &deployment);
    Settlement {
        deployment: Some(deployment),
        handles_redeploy: false,
        standing: Some(standing),
        again: has_next.then_some(now),
    }
}

fn keep(seen: &RolloutInput<'_>, stored: &DeploymentStatus) -> Settlement {
    Settlement {
        deployment: Some(stored.clone()),
        handles_redeploy: false,
        standing: Some(standing(seen, stored)),
        again: None,
    }
}

/// A deployment would begin, but `spec.paused` prevents it.
fn hold(seen: &RolloutInput<'_>, head: &ConfirmedHead) -> Next {
    Next::Settle(Settlement {
        deployment: seen.stored.cloned(),
        handles_redeploy: false,
        standing: Some(paused(&head.sha)),
        again: None,
    })
}

fn paused(sha: &str) -> Standing {
    Standing::reconciling(
        Reason::Paused,
        format!(
            "{sha} is not deployed while spec.paused: true, here, at the GitHubInstallation or the GitHubApp, holds back changes"
        ),
    )
}

/// The standing of a deployment for the condition.
fn standing(seen: &RolloutInput<'_>, deployment: &DeploymentStatus) -> Standing {
    let DeploymentStatus { sha, sequence, .. } = deployment;
    let said = deployment.message.clone();
    match deployment.result {
        DeploymentResult::Waiting => {
            Standing::reconciling(Reason::Debouncing, format!("{sha} was pushed; further pushes are waited for"))
        }
        DeploymentResult::Running => {
            Standing::reconciling(Reason::RollingOut, format!("{sha} is being rolled out, as deployment {sequence}"))
        }
        DeploymentResult::Succeeded if sha == NO_COMMIT => Standing::ready(Reason::RolledOut, WITHOUT_COMMIT),
        DeploymentResult::Succeeded if *sequence == 0 => Standing::ready(
            Reason::RolledOut,
            format!("{sha} was the head when this began: the next one is rolled out"),
        ),
        DeploymentResult::Succeeded => Standing::ready(
            Reason::RolledOut,
            said.map_or_else(|| format!("{sha} is rolled out"), |said| format!("{sha} is rolled out. {said}")),
        ),
        DeploymentResult::Failed => {
            let reason = if seen.was_forbidden { Reason::ActionForbidden } else { Reason::RolloutFailed };
            Standing::stalled(reason, said.unwrap_or_else(|| format!("{sha} could not be rolled out")))
        }
    }
}

/// Since when the deployment waits or runs. The operator did not write a time that is missing or lies in the future.
/// Waiting for it could take forever, so it counts as long past.
fn begun(stored: &DeploymentStatus, now: Timestamp) -> Timestamp {
    let latest = after(now, SignedDuration::from_secs(1));
    stored.start_time.as_ref().map(|since| since.0).filter(|since| *since <= latest).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn is_over(stored: &DeploymentStatus, span: SignedDuration, now: Timestamp) -> bool {
    now >= after(begun(stored, now), span)
}

/// The delay until the next look at a running deployment: a quarter of its duration so far, so that short ones are
/// reported soon and long ones cost few calls.
fn pause(stored: &DeploymentStatus, now: Timestamp) -> SignedDuration {
    (now.duration_since(begun(stored, now)) / 4).clamp(SignedDuration::from_secs(1), SignedDuration::from_secs(30))
}

/// The stored sequence, if the operator may have written it. A sequence near the largest number could not be increased.
fn counted(stored: &DeploymentStatus) -> i64 {
    if (0..=1 << 50).contains(&stored.sequence) { stored.sequence } else { 0 }
}

/// Status has microseconds, rounded up, so that the wait is at least as long as the spec says.
fn whole_microsecond(time: Timestamp) -> Timestamp {
    let up = after(time, SignedDuration::from_nanos(999));
    Timestamp::from_microsecond(up.as_microsecond()).unwrap_or(time)
}

fn debounce(on_push: &OnPush) -> SignedDuration {
    on_push.debounce.parse().unwrap_or(SignedDuration::from_secs(2))
}

fn after(time: Timestamp, span: SignedDuration) -> Timestamp {
    time.checked_add(span).unwrap_or(time)
}

fn bounded(message: &str) -> String {
    bounded_to(message, LONGEST_MESSAGE)
}

fn bounded_to(message: &str, most: usize) -> String {
    match message.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(in crate::controllers::repository) mod tests;
