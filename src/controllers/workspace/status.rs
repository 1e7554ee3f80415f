//! The status of a workspace: from the gathered state, and from the stored status where this process knows nothing
//! newer.

use super::memory::Pull;
use super::pods::{Clone, Ended};
use super::seen::{PodSeen, Seen, TokenSeen, TokenState, VolumeSeen, Workflows};
use crate::agent::evidence::autosave_ref;
use crate::api::{
    ConditionType, OperatingMode, PullRequestMode, PullRequestState, PullRequestStatus, Reason, SaveStatus,
    WorkspaceGit, WorkspacePodStatus, WorkspaceStatus, WorkspaceTimings,
};
use crate::controllers::standing::{Truth, condition, whole_second};
use crate::github::PullState;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

#[must_use]
pub fn status(seen: &Seen, now: Timestamp) -> WorkspaceStatus {
    let stored = seen.object.status.clone().unwrap_or_default();
    let pod = if let PodSeen::Ours(pod) = &seen.pod { Some(pod) } else { None };
    let timings = pod.map_or_else(
        || stored.timings.clone(),
        |pod| {
            let time = |at: Option<Timestamp>| at.map(Time);
            Some(WorkspaceTimings {
                schedule_time: time(pod.scheduled_at),
                clone_time: time(pod.cloned_at),
                ready_time: time(pod.ready_at),
            })
        },
    );
    // The API server stores an empty object that owns no field as null, and then refuses it.
    let timings = timings.filter(|timings| *timings != WorkspaceTimings::default());
    WorkspaceStatus {
        uid: seen.object.metadata.uid.clone(),
        git: git(seen, stored.git.as_ref()),
        pull_request: pull(seen).or_else(|| stored.pull_request.clone()),
        save: save(seen, stored.save.as_ref()),
        pod: pod.map(|pod| WorkspacePodStatus { name: pod.name.clone(), uid: pod.uid.clone(), node: pod.node.clone() }),
        timings,
        last_handled_reconcile: seen.known.request.clone().or(stored.last_handled_reconcile),
        conditions: conditions(seen, &stored.conditions, now),
        ..WorkspaceStatus::default()
    }
}

fn git(seen: &Seen, stored: Option<&WorkspaceGit>) -> Option<WorkspaceGit> {
    let mut git = stored.cloned().unwrap_or_default();
    if seen.is_cloned() {
        git.branch = Some(seen.branch());
    }
    if let Some(remote) = &seen.known.remote {
        git.remote_sha.clone_from(&remote.listed.branch);
    }
    if let Some(report) = report(seen) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        git.head_sha.clone_from(&report.head);
        git.ahead_by = report.ahead.map(number);
        git.behind_by = report.behind.map(number);
        git.changed_files = Some(number(report.changed));
        git.untracked_files = Some(number(report.untracked));
        git.unpushed_commits = Some(number(report.unpushed));
    }
    (git != WorkspaceGit::default()).then_some(git)
}

/// The report of the current pod.
fn report(seen: &Seen) -> Option<&crate::agent::report::Report> {
    let PodSeen::Ours(pod) = &seen.pod else { return None };
    seen.known.report.as_ref().filter(|(uid, _)| *uid == pod.uid).map(|(_, report)| report)
}

fn pull(seen: &Seen) -> Option<PullRequestStatus> {
    let Some(Pull::Found(pull)) = &seen.known.pull else { return None };
    let state = match (&pull.state, pull.merged_at) {
        (_, Some(_)) => PullRequestState::Merged,
        (PullState::Closed, None) => PullRequestState::Closed,
        _ => PullRequestState::Open,
    };
    Some(PullRequestStatus {
        number: i64::try_from(pull.number).unwrap_or_default(),
        html_url: pull.html_url.clone(),
        state,
        draft: pull.draft,
    })
}

fn save(seen: &Seen, stored: Option<&SaveStatus>) -> Option<SaveStatus> {
    let uid = seen.object.metadata.uid.as_deref().unwrap_or_default();
    let safe = seen.known.safe.as_ref().and_then(|safe| Some((safe.commit.clone()?, safe.reference.clone(), safe.at)));
    let autosaved = seen
        .known
        .remote
        .as_ref()
        .and_then(|remote| Some((remote.listed.autosave.clone()?, autosave_ref(uid), remote.at)));
    let Some((commit, reference, at)) = safe.or(autosaved) else { return stored.cloned() };
    // The time of the save stays the same while the save does.
    let same = stored.filter(|stored| stored.sha == commit && stored.reference == reference);
    Some(same.cloned().unwrap_or(SaveStatus { sha: commit, reference, time: Time(whole_second(at)) }))
}

fn conditions(seen: &Seen, stored: &[Condition], now: Timestamp) -> Vec<Condition> {
    let generation = seen.object.metadata.generation;
    let said: [(ConditionType, Option<Said>); 5] = [
        (ConditionType::CredentialsReady, Some(credentials(seen))),
        (ConditionType::CloneReady, clone(seen)),
        (ConditionType::PullRequestReady, pull_request(seen)),
        (ConditionType::Suspended, Some(suspended(seen))),
        (ConditionType::WorkSafe, work_safe(seen, stored, now)),
    ];
    said.into_iter()
        .filter_map(|(kind, said)| match said {
            Some((truth, reason, message)) => {
                Some(condition((kind, truth), (reason, &message), stored, generation, now))
            }
            // This process knows nothing newer than the stored condition.
            None => stored.iter().find(|before| before.type_ == kind.as_str()).cloned(),
        })
        .collect()
}

/// The status, reason and message of a condition.
type Said = (Truth, Reason, String);

fn credentials(seen: &Seen) -> Said {
    match &seen.token {
        TokenSeen::Ours { state: TokenState::Ready, .. } => {
            let refused = match seen.workflows {
                Workflows::Unknown | Workflows::Allowed => "",
                Workflows::NotGranted => {
                    "; GitHub refuses pushes that change .github/workflows, because the GitHubApp grants this namespace no \
                     workflows: write"
                }
                Workflows::NotInstalled => {
                    "; GitHub refuses pushes that change .github/workflows, because the account gives the App no workflows: write"
                }
            };
            (Truth::True, Reason::Published, format!("its token can be used and is renewed{refused}"))
        }
        TokenSeen::Ours { message, .. } => (Truth::False, Reason::WaitingForReference, message.clone()),
        TokenSeen::Foreign => {
            (Truth::False, Reason::NameTaken, "the InstallationToken of its name is not its own".to_owned())
        }
        TokenSeen::Absent => (Truth::False, Reason::WaitingForReference, "there is no token yet".to_owned()),
    }
}

fn clone(seen: &Seen) -> Option<Said> {
    let PodSeen::Ours(pod) = &seen.pod else { return None };
    Some(match &pod.clone {
        Clone::Done(cloned) => {
            let lacks = cloned.lacks.iter().map(|lack| match lack.as_str() {
                "Submodules" => "; its submodules are not checked out: git submodule update --init does that",
                "LargeFiles" => {
                    "; its files of Git LFS are pointers: git lfs pull fetches them, in an image with git-lfs"
                }
                _ => "",
            });
            let lacks = lacks.collect::<String>();
            (Truth::True, Reason::Cloned, format!("the repository is cloned, at branch {}{lacks}", seen.branch()))
        }
        Clone::Failed { words, .. } => (Truth::False, Reason::CloneFailed, words.clone()),
        Clone::Pending(_) => (Truth::Unknown, Reason::Cloning, "the repository is being cloned".to_owned()),
    })
}

fn pull_request(seen: &Seen) -> Option<Said> {
    if seen.object.spec.pull_request.mode == PullRequestMode::None {
        return None;
    }
    if let Some(status) = pull(seen) {
        let (truth, reason, word) = match status.state {
            PullRequestState::Open => (Truth::True, Reason::PullRequestOpen, "open"),
            PullRequestState::Closed => (Truth::False, Reason::PullRequestClosed, "closed"),
            PullRequestState::Merged => (Truth::False, Reason::PullRequestClosed, "merged"),
        };
        return Some((truth, reason, format!("{} is {word}", status.html_url)));
    }
    if let Some(failed) = seen.known.failed.get(&super::memory::Task::Pull) {
        return Some((Truth::False, failed.standing.reason, failed.standing.message.clone()));
    }
    let has_stored = seen.object.status.as_ref().is_some_and(|status| status.pull_request.is_some());
    (!has_stored).then(|| {
        let message = "it is opened when there is something on the branch that its target does not have";
        (Truth::False, Reason::PullRequestPending, message.to_owned())
    })
}

fn suspended(seen: &Seen) -> Said {
    let is_asked = seen.object.spec.operating_mode == OperatingMode::Suspended;
    let is_done = is_asked && seen.pod == PodSeen::Absent;
    match (is_asked, is_done) {
        (false, _) => (Truth::False, Reason::Running, "spec.operatingMode is Running".to_owned()),
        (true, false) => (Truth::False, Reason::Saving, "the pod is ending".to_owned()),
        (true, true) => (Truth::True, Reason::WorkspaceSuspended, "the pod ended, the volume is kept".to_owned()),
    }
}

/// How long an agent may be silent. It reports at least each 15 minutes.
const SILENCE: SignedDuration = SignedDuration::from_mins(40);

/// Nothing is known about work whose agent does not run, or does not report any more.
fn silent_agent(seen: &Seen, stored: &[Condition], now: Timestamp) -> Option<Said> {
    let PodSeen::Ours(pod) = &seen.pod else { return None };
    if !seen.is_cloned() || pod.going.is_some() {
        return None;
    }
    let unknown = |message: &str| Some((Truth::Unknown, Reason::Unsaved, message.to_owned()));
    let was_said = report(seen).is_some()
        || stored.iter().any(|said| said.type_ == ConditionType::WorkSafe.as_str() && said.status != "Unknown");
    if pod.has_run && !pod.has_agent {
        return unknown("the container agent of the pod does not run, so nobody looks at the work on the volume");
    }
    let heard = seen.known.heard.as_ref().filter(|(uid, _)| *uid == pod.uid).map(|(_, at)| *at)?;
    let is_silent = heard.checked_add(SILENCE).is_ok_and(|end| end <= now);
    if !(was_said && is_silent) {
        return None;
    }
    unknown(
        "the container agent of the pod does not report any more: see its log, and whether the pod reaches the Service \
         landfall-reports",
    )
}

fn work_safe(seen: &Seen, stored: &[Condition], now: Timestamp) -> Option<Said> {
    if let Some(safe) = &seen.known.safe {
        return Some((Truth::True, Reason::Saved, safe.message.clone()));
    }
    if matches!(seen.volume, VolumeSeen::Ours { is_kept: true, .. }) {
        return Some((
            Truth::False,
            Reason::VolumeKept,
            "the work on the volume could not be pushed, so the volume is kept".to_owned(),
        ));
    }
    if let Some(said) = silent_agent(seen, stored, now) {
        return Some(said);
    }
    let remote = seen.known.remote.as_ref().map(|remote| &remote.listed);
    if let PodSeen::Absent = seen.pod {
        // The volume is kept. This is the part that was pushed.
        let Some(Ended::Said(evidence)) = &seen.ended else { return None };
        let is_there = remote.is_some_and(|remote| {
            remote.autosave == evidence.remote.autosave && remote.branch == evidence.remote.branch
        });
        let is_complete = evidence.left.is_empty() && evidence.more == 0;
        return (is_there && is_complete).then(|| {
            let message = "the remote has, besides the volume, all that the pod left there".to_owned();
            (Truth::True, Reason::Saved, message)
        });
    }
    if let PodSeen::Ours(pod) = &seen.pod
        && report(seen).is_none()
    {
        // The report of an earlier pod does not apply to this one.
        let status = seen.object.status.as_ref();
        let is_same = status.and_then(|status| status.pod.as_ref()).is_some_and(|its| its.uid == pod.uid);
        let mut said = status.iter().flat_map(|status| &status.conditions);
        let is_said = is_same && said.any(|condition| condition.type_ == ConditionType::WorkSafe.as_str());
        return (!is_said).then(|| (Truth::Unknown, Reason::Unsaved, "the pod has not reported yet".to_owned()));
    }
    let report = report(seen)?;
    let (changed, untracked, unpushed) = (report.changed, report.untracked, report.unpushed);
    if changed + untracked + unpushed == 0 && report.trouble.is_none() {
        return Some((
            Truth::True,
            Reason::Saved,
            "the pod reports no changed file and no commit that the remote does not have".to_owned(),
        ));
    }
    let autosave = match &report.autosave {
        Some(autosave) if remote.is_some_and(|remote| remote.autosave.as_deref() == Some(autosave.commit.as_str())) => {
            let uid = seen.object.metadata.uid.as_deref().unwrap_or_default();
            format!(". The newest autosave is {} at {}", autosave.commit, autosave_ref(uid))
        }
        _ => String::new(),
    };
    let trouble = report.trouble.as_ref().map(|trouble| format!(". {trouble}")).unwrap_or_default();
    let message = format!(
        "on the volume alone: {changed} changed and {untracked} untracked files, {unpushed} commits{autosave}{trouble}"
    );
    Some((Truth::False, Reason::Unsaved, message))
}
