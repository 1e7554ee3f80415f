use super::super::memory::{Disbelieved, Failed, Remembered, Remote, Safe};
use super::super::objects::Target;
use super::super::pods::{Clone, Cloned, Ended};
use super::super::release::MOST_CALLS;
use super::super::seen::{JobEnd, JobSeen, Repository, Tools, Workflows};
use super::*;
use crate::agent::evidence::{Evidence, Listed};
use crate::api::Workspace;
use crate::guards::Guards;
use crate::ids::id;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use std::sync::Arc;

mod away;
mod emptied;
mod former;

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn object(spec: &Value, going: bool) -> Workspace {
    let mut whole = json!({"repositoryRef": {"name": "shop"}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let mut metadata = json!({"name": "fix", "namespace": "team-a", "uid": "u-1", "generation": 1});
    if going {
        metadata["deletionTimestamp"] = json!(now().to_string());
    }
    serde_json::from_value(json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "metadata": metadata, "spec": whole,
    }))
    .unwrap()
}

fn pod(going: bool) -> PodView {
    PodView {
        uid: "p-1".into(),
        name: "ws-fix".into(),
        node: Some("n".into()),
        going: going.then(now),
        failed: None,
        clone: Clone::Done(Cloned { branch: "landfall/fix-u-1".into(), head: SHA.into(), lacks: Vec::new() }),
        has_agent: true,
        is_ready: true,
        trouble: None,
        image: None,
        has_run: true,
        unscheduled: None,
        scheduled_at: None,
        cloned_at: None,
        ready_at: None,
    }
}

/// A running workspace with everything known about it.
fn seen(spec: &Value, going: bool) -> Seen {
    let repository = json!({"id": 5, "node_id": "R", "name": "shop", "full_name": "acme/shop", "private": true});
    let remote = Remote {
        listed: Listed { branch: Some(SHA.into()), ..Listed::default() },
        target: None,
        asked: "landfall/fix-u-1".into(),
        heard: None,
        heard_save: None,
        at: now(),
    };
    Seen {
        object: Arc::new(object(spec, going)),
        has_finalizer: true,
        is_paused: false,
        has_gateway: false,
        is_namespace_going: false,
        way: Way::Open(Repository { installation: "acme".into(), id: id(5) }),
        unreferenced: None,
        target: Ok(Target {
            url: "https://github.com/acme/shop.git".into(),
            gateway: None,
            has_ca: false,
            author_name: "a".into(),
            author_email: "a@b".into(),
        }),
        token: TokenSeen::Ours {
            state: TokenState::Ready,
            message: String::new(),
            is_going: false,
            is_held: true,
            is_right: true,
        },
        volume: VolumeSeen::Ours {
            volume: Some("pv".into()),
            is_going: false,
            is_held: true,
            is_kept: false,
            is_small: false,
        },
        workflows: Workflows::NotGranted,
        is_marked: true,
        pod: PodSeen::Ours(Box::new(pod(false))),
        job: None,
        guards: Guards::default(),
        tools: Tools::default(),
        ended: None,
        saver: None,
        known: Remembered {
            repository: Some((Arc::new(serde_json::from_value(repository).unwrap()), now())),
            remote: Some(remote),
            ..Remembered::default()
        },
    }
}

fn evidence(outcome: &str) -> Evidence {
    serde_json::from_value(
        json!({"outcome": outcome, "branch": "landfall/fix-u-1", "head": SHA, "remote": {"branch": SHA}}),
    )
    .unwrap()
}

fn gone(spec: &Value) -> Seen {
    Seen { pod: PodSeen::Absent, ..seen(spec, true) }
}

fn job(attempt: u32, is_success: Option<bool>) -> JobSeen {
    JobSeen {
        name: format!("ws-fix-save-{attempt}"),
        uid: Some(format!("j-{attempt}")),
        attempt,
        ended: is_success.map(|is_success| JobEnd { is_success, message: "m".into(), at: now() }),
        is_going: false,
        until: now() + SignedDuration::from_mins(5),
    }
}

#[test]
fn a_pod_waits_for_the_certificates_of_the_gateway() {
    let seen = Seen { target: Err(NoTarget::Gateway), pod: PodSeen::Absent, ..seen(&json!({}), false) };
    let Plan::Settled { standing: Some(standing), again } = plan(&seen, now()) else {
        panic!("{:?}", plan(&seen, now()))
    };
    assert_eq!((standing.reason, again), (Reason::WaitingForReference, Some(Again::Backoff)));
    assert!(standing.message.contains("the certificates of Landfall's gateway"), "{}", standing.message);
    // A pod that runs goes on.
    let seen = Seen { target: Err(NoTarget::Gateway), ..self::seen(&json!({}), false) };
    assert_eq!(does(&seen), Step::FindPull);
}

fn does(seen: &Seen) -> Step {
    match plan(seen, now()) {
        Plan::Do(step) => step,
        settled @ Plan::Settled { .. } => panic!("{settled:?}"),
    }
}

fn says(seen: &Seen, at: Timestamp) -> Standing {
    match plan(seen, at) {
        Plan::Settled { standing: Some(standing), .. } => standing,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_way_to_a_running_pod_is_token_volume_address_pod() {
    let mut seen = seen(&json!({"pullRequest": {"mode": "None"}}), false);
    let volume = std::mem::replace(&mut seen.volume, VolumeSeen::Absent);
    let token = std::mem::replace(&mut seen.token, TokenSeen::Absent);
    let repository = seen.known.repository.take();
    seen.pod = PodSeen::Absent;
    seen.has_finalizer = false;
    assert_eq!(does(&seen), Step::AddFinalizer);
    seen.has_finalizer = true;
    assert_eq!(does(&seen), Step::MakeToken);
    seen.token = token;
    assert_eq!(does(&seen), Step::MakeVolume);
    seen.volume = volume;
    assert_eq!(does(&seen), Step::Resolve);
    seen.known.repository = repository;
    assert_eq!(does(&seen), Step::StartPod);
    seen.pod = PodSeen::Ours(Box::new(pod(false)));
    assert_eq!(says(&seen, now()).reason, Reason::Running);
}

#[test]
fn a_pull_request_is_looked_for_before_one_is_opened() {
    let mut seen = seen(&json!({}), false);
    assert_eq!(does(&seen), Step::FindPull);
    seen.known.pull = Some(Pull::None { tried: None });
    assert_eq!(does(&seen), Step::OpenPull);
    seen.known.pull = Some(Pull::None { tried: Some(SHA.into()) });
    assert_eq!(says(&seen, now()).reason, Reason::Running, "there is nothing to open one for");
    if let Some(remote) = &mut seen.known.remote {
        remote.listed.branch = None;
    }
    seen.known.pull = None;
    assert_eq!(says(&seen, now()).reason, Reason::Running, "there is no branch yet");
}

#[test]
fn a_volume_goes_after_its_work_was_read_back_and_not_before() {
    let mut seen = seen(&json!({}), true);
    assert_eq!(does(&seen), Step::EndPod);
    seen.pod = PodSeen::Ours(Box::new(pod(true)));
    assert_eq!(says(&seen, now()).reason, Reason::Saving);
    seen.pod = PodSeen::Absent;
    assert_eq!(does(&seen), Step::Save(1), "nobody knows how the pod ended");
    seen.ended = Some(Ended::Silent("killed".into()));
    assert_eq!(does(&seen), Step::Save(1));
    let autosaved = Evidence { only_autosaved: true, ..evidence("Saved") };
    seen.ended = Some(Ended::Said(autosaved));
    assert_eq!(does(&seen), Step::Save(1), "an autosave is not where people find it");
    seen.ended = Some(Ended::Said(evidence("Saved")));
    assert_eq!(does(&seen), Step::Believe(Box::new(evidence("Saved"))));
    let safe = Safe { commit: None, reference: String::new(), is_on_branch: true, at: now(), message: String::new() };
    seen.known.safe = Some(safe);
    assert_eq!(does(&seen), Step::DropToken);
    let token = |is_held| TokenSeen::Ours {
        state: TokenState::Pending,
        message: String::new(),
        is_going: true,
        is_held,
        is_right: true,
    };
    seen.token = token(true);
    assert_eq!(does(&seen), Step::DropToken, "its namespace is being deleted, and it is held for this workspace");
    seen.token = token(false);
    assert_eq!(does(&seen), Step::ReleaseVolume, "its volume does not wait for the token's revocation");
    seen.volume = VolumeSeen::Absent;
    assert_eq!(says(&seen, now()).reason, Reason::WaitingForDependents);
    seen.token = TokenSeen::Absent;
    assert_eq!(does(&seen), Step::RemoveFinalizer);
}

/// A process that has just started does not know the repository's name, and git of the pod gets nothing until it does.
#[test]
fn the_name_that_the_gateway_waits_for_is_asked_for_in_every_state_with_a_pod() {
    let states: [fn(&mut Seen); 6] = [
        |_| {},
        |seen| seen.is_paused = true,
        |seen| seen.is_namespace_going = true,
        |seen| {
            let clones = PodView { clone: Clone::Pending(None), is_ready: false, ..pod(false) };
            seen.pod = PodSeen::Ours(Box::new(clones));
        },
        |seen| seen.pod = PodSeen::Ours(Box::new(pod(true))),
        |seen| (seen.pod, seen.job) = (PodSeen::Absent, Some(job(1, None))),
    ];
    for (number, state) in states.into_iter().enumerate() {
        for going in [false, true] {
            let mut seen = seen(&json!({"pullRequest": {"mode": "None"}}), going);
            state(&mut seen);
            seen.has_gateway = true;
            let before = plan(&seen, now());
            seen.known.repository = None;
            assert_eq!(does(&seen), Step::Resolve, "{number} {going}");
            let standing = Standing::reconciling(Reason::WaitingForReference, "GitHub does not answer");
            let until = now() + SignedDuration::from_secs(9);
            seen.known.failed.insert(Task::Resolve, Failed { standing, until, times: 1, about: seen.about() });
            assert!(plan(&seen, now()) != Plan::Do(Step::Resolve), "{number} {going}: {before:?}");
        }
    }
}

#[test]
fn a_pull_request_is_finished_by_a_process_that_found_the_work_saved_but_not_without_end() {
    let mut seen = gone(&json!({"pullRequest": {"onDelete": "MarkReady"}}));
    seen.known.safe =
        Some(Safe { commit: None, reference: String::new(), is_on_branch: true, at: now(), message: String::new() });
    let repository = seen.known.repository.take();
    let way = std::mem::replace(&mut seen.way, Way::NotYetKnown);
    assert_eq!(plan(&seen, now()), Plan::Settled { standing: None, again: None });
    seen.way = way;
    assert_eq!(does(&seen), Step::Resolve);
    let standing = Standing::stalled(Reason::RepositoryNotFound, "deleted");
    let failed = Failed { standing, until: now(), times: MOST_CALLS, about: seen.about() };
    seen.known.failed.insert(Task::Resolve, failed);
    assert_eq!(does(&seen), Step::DropToken);
    seen.known.repository = repository;
    assert_eq!(does(&seen), Step::FinishPull);
    // A rate limit lasts for up to an hour, and any tenant of the installation can spend it.
    for (minutes, waits) in [(4, true), (40, false)] {
        let standing = Standing::reconciling(Reason::RateLimited, "the limit is spent");
        let until = now() + SignedDuration::from_mins(minutes);
        seen.known.failed.insert(Task::Pull, Failed { standing, until, times: 1, about: seen.about() });
        match plan(&seen, now()) {
            Plan::Settled { standing: Some(standing), .. } if waits => assert_eq!(standing.reason, Reason::RateLimited),
            plan => assert_eq!((plan, waits), (Plan::Do(Step::DropToken), false)),
        }
    }
    seen.known.failed.remove(&Task::Pull);
    seen.known.is_pull_settled = true;
    assert_eq!(does(&seen), Step::DropToken);
}

#[test]
fn what_cannot_be_pushed_ends_as_the_spec_says() {
    for (choice, last) in [("Retain", "KeepVolume"), ("Discard", "GiveUp"), ("Block", "blocked")] {
        let mut seen = gone(&json!({"save": {"onFailure": choice}}));
        for attempt in 1..=3 {
            assert_eq!(does(&seen), Step::Save(attempt));
            seen.job = Some(job(attempt, None));
            assert_eq!(says(&seen, now()).reason, Reason::Saving);
            let past = now() - SignedDuration::from_mins(5);
            let over = |at| {
                Some(JobSeen {
                    ended: Some(JobEnd { is_success: false, message: "m".into(), at }),
                    ..job(attempt, None)
                })
            };
            seen.job = over(now());
            if attempt < 3 {
                assert_eq!(says(&seen, now()).reason, Reason::Saving, "not at once");
                seen.job = over(past);
            }
        }
        match (plan(&seen, now()), last) {
            (Plan::Do(Step::KeepVolume(_)), "KeepVolume") | (Plan::Do(Step::GiveUp(_)), "GiveUp") => {}
            (Plan::Settled { standing: Some(standing), .. }, "blocked") => {
                assert_eq!(standing.reason, Reason::SaveFailed);
                assert!(standing.message.contains("landfall.dev/force-delete=u-1"), "{}", standing.message);
                assert_eq!(plan(&seen, now() + SignedDuration::from_mins(31)), Plan::Do(Step::Resolve));
            }
            (other, _) => panic!("{choice}: {other:?}"),
        }
    }
}

#[test]
fn a_job_whose_word_does_not_hold_is_followed_by_another() {
    let mut seen = gone(&json!({}));
    let past = now() - SignedDuration::from_mins(1);
    let success = JobEnd { is_success: true, message: "Complete".into(), at: past };
    seen.job = Some(JobSeen { ended: Some(success), ..job(1, None) });
    seen.saver = Some("j-1".into());
    seen.known.disbelieved = Some(Disbelieved { pod: Some("j-1".into()), why: "The remote does not have it".into() });
    assert_eq!(does(&seen), Step::Save(2));
    seen.job.as_mut().unwrap().attempt = 3;
    assert!(matches!(does(&seen), Step::KeepVolume(why) if why.contains("The remote does not have")));
}

#[test]
fn a_job_that_is_not_admitted_is_not_tried_without_end() {
    let mut seen = gone(&json!({}));
    let standing = Standing::reconciling(Reason::KubernetesRefused, "exceeded quota");
    let (soon, late) = (now() + SignedDuration::from_mins(1), now() + SignedDuration::from_hours(2));
    let failed = Failed { standing, until: soon, times: 1, about: seen.about() };
    seen.known.failed.insert(Task::Make, failed.clone());
    assert!(says(&seen, now()).message.ends_with(": exceeded quota"));
    assert_eq!(plan(&seen, soon), Plan::Do(Step::Save(1)));
    seen.known.failed.insert(Task::Make, Failed { until: late + SignedDuration::from_mins(1), ..failed });
    seen.known.repository.as_mut().unwrap().1 = late;
    assert!(matches!(plan(&seen, late), Plan::Do(Step::KeepVolume(why)) if why.contains("exceeded quota")));
}

#[test]
fn no_pod_is_started_without_the_repository_that_the_spec_names() {
    let mut seen = seen(&json!({}), false);
    seen.unreferenced = Some(Standing::reconciling(Reason::WaitingForReference, "there is no ProjectRepository shop"));
    assert_eq!(does(&seen), Step::FindPull, "a pod that runs goes on");
    seen.pod = PodSeen::Absent;
    assert_eq!(says(&seen, now()).reason, Reason::WaitingForReference);
    seen.object = Arc::new(object(&json!({"operatingMode": "Suspended"}), false));
    assert_eq!(says(&seen, now()).reason, Reason::WorkspaceSuspended);
}

#[test]
fn what_is_refused_is_not_tried_again() {
    let mut seen = gone(&json!({}));
    seen.job = Some(job(1, Some(false)));
    seen.ended = Some(Ended::Said(evidence("Refused")));
    assert!(matches!(does(&seen), Step::KeepVolume(_)));
}

#[test]
fn where_no_job_can_save_the_volume_is_kept() {
    let standing = Standing::stalled(Reason::Revoked, "uninstalled");
    let mut seen = gone(&json!({"save": {"onFailure": "Retain"}}));
    seen.way = Way::Blocked { standing, permanent: true };
    assert!(matches!(does(&seen), Step::KeepVolume(why) if why.contains("uninstalled")));
    let mut seen = gone(&json!({"save": {"onFailure": "Block"}}));
    seen.is_namespace_going = true;
    assert!(matches!(does(&seen), Step::KeepVolume(_)), "nothing can be waited for");
    let mut seen = gone(&json!({}));
    seen.pod = PodSeen::Ours(Box::new(pod(true)));
    let later = now() + SLACK + SignedDuration::from_secs(1);
    assert!(matches!(plan(&seen, later), Plan::Do(Step::KeepVolume(why)) if why.contains("does not answer")));
    // If no node ever had the volume, there is nothing to keep.
    seen.volume = VolumeSeen::Ours { volume: None, is_going: false, is_held: true, is_kept: false, is_small: false };
    assert_eq!(plan(&seen, later), Plan::Do(Step::DropToken));
    let mut seen = gone(&json!({}));
    seen.job = Some(JobSeen { is_going: true, ..job(1, None) });
    assert_eq!(says(&seen, now()).reason, Reason::Saving);
    let later = now() + SignedDuration::from_hours(2);
    assert!(matches!(plan(&seen, later), Plan::Do(Step::KeepVolume(why)) if why.contains("does not end")));
}

#[test]
fn waiting_for_github_has_an_end() {
    let mut seen = gone(&json!({}));
    let standing = Standing::reconciling(Reason::APIUnreachable, "GitHub is away");
    seen.way = Way::Blocked { standing, permanent: false };
    assert_eq!(says(&seen, now()).reason, Reason::APIUnreachable);
    let much_later = now() + SignedDuration::from_hours(2);
    assert!(matches!(plan(&seen, much_later), Plan::Do(Step::KeepVolume(why)) if why.contains("away")));
}

#[test]
fn work_is_given_up_by_the_uid_alone_and_that_is_told_first() {
    let mut seen = gone(&json!({"save": {"onFailure": "Block"}}));
    let forced = |uid: &str| {
        let mut object = object(&json!({}), true);
        object.metadata.annotations = Some([(crate::api::FORCE_DELETE_ANNOTATION.to_owned(), uid.to_owned())].into());
        Arc::new(object)
    };
    seen.object = forced("another");
    assert_eq!(does(&seen), Step::Save(1));
    seen.object = forced("u-1");
    assert!(matches!(does(&seen), Step::GiveUp(_)));
    seen.known.is_parted = true;
    assert_eq!(does(&seen), Step::DropToken);
}

#[test]
fn a_claim_that_was_deleted_by_hand_is_let_go_when_its_work_is_safe() {
    let mut seen = seen(&json!({}), false);
    seen.volume =
        VolumeSeen::Ours { volume: Some("pv".into()), is_going: true, is_held: true, is_kept: false, is_small: false };
    assert_eq!(does(&seen), Step::EndPod);
    seen.pod = PodSeen::Absent;
    seen.ended = Some(Ended::Said(evidence("NothingToDo")));
    assert!(matches!(does(&seen), Step::Believe(_)));
    seen.ended = None;
    assert!(matches!(does(&seen), Step::KeepVolume(why) if why.contains("PersistentVolumeClaim")));
}

#[test]
fn suspended_ends_the_pod_and_nothing_else() {
    let mut seen = seen(&json!({"operatingMode": "Suspended"}), false);
    assert_eq!(does(&seen), Step::EndPod);
    seen.pod = PodSeen::Absent;
    assert_eq!(says(&seen, now()).state, State::Suspended);
}

#[test]
fn a_pod_that_does_not_end_is_no_reason_to_wait_for_who_gave_its_work_up() {
    let mut seen = seen(&json!({"save": {"onFailure": "Discard"}}), true);
    seen.pod = PodSeen::Ours(Box::new(pod(true)));
    let later = now() + SLACK + SignedDuration::from_secs(1);
    assert!(matches!(plan(&seen, later), Plan::Do(Step::GiveUp(_))));
    seen.known.is_parted = true;
    assert_eq!(plan(&seen, later), Plan::Do(Step::DropToken));
}

#[test]
fn a_pod_that_never_ran_is_made_anew_when_its_image_is_corrected_and_one_that_did_is_left() {
    let mut seen = seen(&json!({"image": "debian:13"}), false);
    let with = |has_run| PodSeen::Ours(Box::new(PodView { image: Some("debain:13".into()), has_run, ..pod(false) }));
    seen.pod = with(false);
    assert_eq!(does(&seen), Step::EndPod);
    seen.pod = with(true);
    assert_ne!(plan(&seen, now()), Plan::Do(Step::EndPod));
}

#[test]
fn a_branch_is_not_merged_into_itself() {
    let mut seen = seen(&json!({"branch": {"name": "main"}}), false);
    seen.pod = PodSeen::Absent;
    assert_eq!(says(&seen, now()).reason, Reason::InvalidSpec);
    seen.object = Arc::new(object(&json!({"branch": {"name": "main"}, "pullRequest": {"mode": "None"}}), false));
    assert_eq!(does(&seen), Step::StartPod);
}

#[test]
fn names_that_the_api_server_did_not_check_are_named() {
    for (spec, field) in [
        (json!({"branch": {"name": "a//b"}}), "spec.branch.name"),
        (json!({"branch": {"from": "x.lock"}}), "spec.branch.from"),
        (json!({"pullRequest": {"target": "a@{b"}}), "spec.pullRequest.target"),
    ] {
        let told = says(&seen(&spec, false), now());
        assert_eq!(told.reason, Reason::InvalidSpec);
        assert!(told.message.contains(field), "{}", told.message);
    }
}

#[test]
fn pods_that_fail_one_after_the_other_are_given_time() {
    let mut seen = seen(&json!({}), false);
    seen.pod = PodSeen::Absent;
    let until = now() + SignedDuration::from_secs(8);
    let standing = Standing::reconciling(Reason::PodFailed, "pod ws-fix failed: Evicted");
    seen.known.failed.insert(Task::Run, Failed { standing: standing.clone(), until, times: 3, about: seen.about() });
    assert_eq!(says(&seen, now()), standing);
    assert_eq!(plan(&seen, until), Plan::Do(Step::StartPod));
}

#[test]
fn a_volume_grows_while_the_pod_goes_on() {
    let mut seen = seen(&json!({"storage": {"size": "20Gi"}, "pullRequest": {"mode": "None"}}), false);
    seen.volume =
        VolumeSeen::Ours { volume: Some("pv".into()), is_going: false, is_held: true, is_kept: false, is_small: true };
    assert_eq!(plan(&seen, now()), Plan::Do(Step::GrowVolume));
    let standing = Standing::reconciling(Reason::KubernetesRefused, "the storage class cannot");
    let until = now() + SignedDuration::from_mins(1);
    let failed = Failed { standing, until, times: 1, about: seen.about() };
    seen.known.failed.insert(Task::Grow, failed);
    let Plan::Settled { standing: Some(standing), again } = plan(&seen, now()) else { panic!("it goes on") };
    assert_eq!((standing.state, standing.reason), (State::ReadyButRetrying, Reason::KubernetesRefused));
    assert!(matches!(again, Some(Again::At(at)) if at <= until));
}

#[test]
fn sizes_are_compared_by_their_bytes() {
    let claim = |size: &str| {
        let spec = json!({"resources": {"requests": {"storage": size}}});
        serde_json::from_value(json!({"spec": spec})).unwrap()
    };
    for (asked, wanted, is_less) in [
        ("10Gi", "20Gi", true),
        ("10G", "10Gi", true),
        ("1Ti", "1024Gi", false),
        ("20Gi", "10Gi", false),
        ("1.5Gi", "1536Mi", false),
        ("1073741824", "2Gi", true),
    ] {
        let wanted = Quantity(wanted.into());
        assert_eq!(objects::asks_for_less(&claim(asked), &wanted), is_less, "{asked} {wanted:?}");
    }
}

#[test]
fn a_token_that_waits_for_the_workspace_is_not_waited_for() {
    let mut seen = seen(&json!({}), true);
    let TokenSeen::Ours { state, is_going, .. } = &mut seen.token else { panic!("it is the workspace's") };
    (*state, *is_going) = (TokenState::Pending, true);
    assert!(plan_token(&seen).is_none());
    let TokenSeen::Ours { is_held, .. } = &mut seen.token else { panic!("it is the workspace's") };
    *is_held = false;
    assert!(plan_token(&seen).is_some(), "nothing holds it: it goes, and another is made");
}
