//! Situations, and the one step that each calls for. No Kubernetes, no GitHub, no sleeping.

use super::super::memory::{Facts, HookSeen, Looked, Remembered};
use super::super::rollout::plan::tests::workload;
use super::super::rollout::progress::Progress;
use super::super::rollout::{RolloutMemory, Targets};
use super::super::seen::{Granted, Pending, Tools};
use super::*;
use crate::api::{DeliveryResult, GitHubApp, HeadStatus, ProjectRepository};
use crate::controllers::deliveries::{Announced, Mark};
use crate::git::Refs;
use crate::grant::{NamespaceView, grant};
use crate::ids::id;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::sync::Arc;

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
}

fn object(spec: &Value, metadata: &Value, status: &Value) -> Arc<ProjectRepository> {
    let mut whole = json!({"installationRef": {"name": "acme"}, "source": {"existing": {"name": "shop"}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let mut its = json!({"name": "shop", "namespace": "team-a", "uid": "uid-1"});
    for (key, value) in metadata.as_object().into_iter().flatten() {
        its[key] = value.clone();
    }
    let object = json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "ProjectRepository",
        "metadata": its, "spec": whole, "status": status,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn granted() -> Way {
    let app: GitHubApp = serde_json::from_value(json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": "landfall"},
        "spec": {"appID": 1, "credentialsSecretRef": {"name": "s"}, "tenants": [{
            "name": "acme", "account": "acme", "repositories": ["shop"], "namespaces": {"names": ["team-a"]}}]},
    }))
    .unwrap();
    let namespace = NamespaceView { name: "team-a".into(), labels: [].into(), terminating: false };
    Way::GitHub(Granted {
        app: "landfall".into(),
        installation: id(501),
        account: "acme".into(),
        account_id: id(7),
        settings_url: "https://github.com/settings/installations/501".into(),
        grant: grant(&app, "acme", &namespace).unwrap(),
        permissions: [].into(),
    })
}

fn blocked(permanent: bool) -> Way {
    Way::Blocked { standing: Standing::stalled(Reason::Revoked, "it is gone"), permanent }
}

fn seen(object: Arc<ProjectRepository>, known: Remembered) -> Seen {
    Seen {
        has_finalizer: object.metadata.finalizers.is_some(),
        object,
        is_paused: false,
        way: granted(),
        way_out: None,
        hook: HookWish::None,
        pending: Vec::new(),
        is_repository_news: false,
        allowed_at: Timestamp::MIN,
        known,
        tools: Tools::default(),
    }
}

fn plain() -> Arc<ProjectRepository> {
    object(&json!({}), &json!({}), &Value::Null)
}

fn facts(archived: bool) -> Facts {
    let repository = json!({
        "id": 9001, "node_id": "R", "name": "shop", "full_name": "acme/shop", "private": true, "archived": archived,
    });
    Facts { repository: Arc::new(serde_json::from_value(repository).unwrap()), at: at(0) }
}

fn refs(head: Head) -> Refs {
    Refs { default_branch: Some("main".parse().unwrap()), head }
}

/// Looked at in minute 0, and due again in minute 11.
fn looked() -> Remembered {
    let head = Head::At { branch: "main".parse().unwrap(), sha: "a".repeat(40).parse().unwrap() };
    let looked = Looked {
        refs: refs(head),
        asked: None,
        access: seen(plain(), Remembered::default()).access(),
        name: "acme/shop".into(),
        at: at(0),
        next: at(11),
    };
    Remembered { facts: Some(facts(false)), looked: Some(looked), ..Remembered::default() }
}

fn wish() -> HookWish {
    HookWish::Own { base: "https://l.example".into(), key_id: "k1".into() }
}

fn hook() -> HookSeen {
    HookSeen { id: id(5), url: "https://l.example/webhooks/repo/landfall/9001".into(), key_id: "k1".into() }
}

fn fail(seen: &mut Seen, task: Task, standing: Standing) {
    let wanted = seen.known.wanted;
    let failed = Failed { standing, until: at(5), about: seen.about(), heard: [].into(), wanted };
    seen.known.failed.insert(task, failed);
}

#[track_caller]
fn does(seen: &Seen, now: i64) -> Step {
    match plan(seen, at(now)) {
        Plan::Do(step) => step,
        other @ Plan::Settled { .. } => panic!("it rests: {other:?}"),
    }
}

/// Checks that nothing is done. Returns the standing, and when the object is looked at again.
#[track_caller]
fn rests(seen: &Seen, now: i64) -> (Reason, State, Option<Timestamp>) {
    match plan(seen, at(now)) {
        Plan::Settled { standing: Some(standing), again } => {
            let at = match again {
                Some(Again::At(at)) => Some(at),
                _ => None,
            };
            (standing.reason, standing.state, at)
        }
        other => panic!("it does not rest: {other:?}"),
    }
}

#[test]
fn the_way_of_a_repository_with_a_webhook() {
    assert_eq!(does(&seen(plain(), Remembered::default()), 0), Step::Look);
    assert_eq!(rests(&seen(plain(), looked()), 1), (Reason::Observed, State::Ready, Some(at(11))));
    assert_eq!(does(&seen(plain(), looked()), 11), Step::Look);
    let with_hook = Seen { hook: wish(), ..seen(plain(), looked()) };
    assert_eq!(does(&with_hook, 1), Step::AddFinalizer);
    let mut held = Seen { has_finalizer: true, ..with_hook };
    assert_eq!(does(&held, 1), Step::EnsureHook);
    held.known.hook = Some(hook());
    held.known.examine_hook_at = Some(at(9));
    assert_eq!(rests(&held, 1), (Reason::Observed, State::Ready, Some(at(9))));
    assert_eq!(does(&held, 9), Step::EnsureHook);
    for other in [
        HookWish::Own { base: "https://other.example".into(), key_id: "k1".into() },
        HookWish::Own { base: "https://l.example".into(), key_id: "k2".into() },
    ] {
        assert_eq!(does(&Seen { hook: other, ..held.clone() }, 1), Step::EnsureHook);
    }
    assert_eq!(rests(&Seen { is_paused: true, ..held }, 10).0, Reason::Paused);
}

#[test]
fn what_status_says_of_the_webhook_spares_no_examination_after_a_restart() {
    let webhook = json!({"id": 5, "url": hook().url, "keyID": "k1"});
    let object = object(&json!({}), &json!({}), &json!({"webhook": webhook}));
    let seen = Seen { hook: wish(), has_finalizer: true, ..seen(object, looked()) };
    assert_eq!(does(&seen, 1), Step::EnsureHook);
}

#[test]
fn a_webhook_that_is_not_wanted_any_more_goes_before_its_finalizer() {
    let unwanted = Seen { has_finalizer: true, ..seen(plain(), looked()) };
    assert_eq!(does(&unwanted, 1), Step::RemoveHook);
    assert_eq!(rests(&Seen { is_paused: true, ..unwanted.clone() }, 1).0, Reason::Paused);
    let mut removed = unwanted;
    removed.known.is_hook_removed = true;
    assert_eq!(does(&removed, 1), Step::RemoveFinalizer);
    // Only a finalizer shows that there may be one.
    let lie = object(&json!({}), &json!({}), &json!({"webhook": {"id": 5, "url": "x", "keyID": "k1"}}));
    assert_eq!(rests(&seen(lie, looked()), 1).0, Reason::Observed);
}

#[test]
fn a_failure_waits_for_its_time_and_says_what_it_means() {
    let gone = || Standing::stalled(Reason::RepositoryNotFound, "it is gone");
    let away = || Standing::reconciling(Reason::APIUnreachable, "GitHub is away");
    let mut unseen = seen(plain(), Remembered::default());
    fail(&mut unseen, Task::Look, gone());
    assert_eq!(rests(&unseen, 1), (Reason::RepositoryNotFound, State::Stalled, Some(at(5))));
    assert_eq!(does(&unseen, 5), Step::Look);
    // The earlier result is used for a while, but not once a person has to act; and then nothing else is done either.
    let mut known = Seen { hook: wish(), has_finalizer: true, ..seen(plain(), looked()) };
    fail(&mut known, Task::Look, away());
    assert_eq!(does(&known, 1), Step::EnsureHook);
    known.known.hook = Some(hook());
    known.known.examine_hook_at = Some(at(20));
    assert_eq!(rests(&known, 1), (Reason::APIUnreachable, State::ReadyButRetrying, Some(at(5))));
    known.known.hook = None;
    fail(&mut known, Task::Look, gone());
    assert_eq!(rests(&known, 1), (Reason::RepositoryNotFound, State::Stalled, Some(at(5))));
    // A webhook that cannot be created does not stop the head from being followed.
    let mut hookless = Seen { hook: wish(), has_finalizer: true, ..seen(plain(), looked()) };
    fail(&mut hookless, Task::Hook, Standing::stalled(Reason::WebhookRefused, "no"));
    assert_eq!(rests(&hookless, 1), (Reason::WebhookRefused, State::Stalled, Some(at(5))));
    assert_eq!(does(&hookless, 11), Step::Look);
    // A changed spec is tried at once.
    hookless.object = object(&json!({}), &json!({"generation": 2}), &Value::Null);
    assert_eq!(does(&hookless, 1), Step::EnsureHook);
}

#[test]
fn in_an_archived_repository_nothing_is_changed() {
    let mut archived = Seen { hook: wish(), has_finalizer: true, ..seen(plain(), looked()) };
    archived.known.facts = Some(facts(true));
    assert_eq!(rests(&archived, 1), (Reason::RepositoryArchived, State::Stalled, Some(at(11))));
}

#[test]
fn what_is_barred_is_not_looked_at() {
    let seen = |way| Seen { way, ..seen(plain(), Remembered::default()) };
    assert_eq!(rests(&seen(blocked(true)), 1).0, Reason::Revoked);
    assert!(matches!(plan(&seen(Way::NotYetKnown), at(1)), Plan::Settled { standing: None, again: None }));
}

#[test]
fn what_is_being_rolled_out_is_followed_though_the_source_is_lost() {
    let rolling = |result: &str| {
        let actions = json!([{"rolloutRestart": {"kind": "Deployment", "name": "shop"}}]);
        let deployment =
            json!({"sha": "a".repeat(40), "sequence": 1, "result": result, "startTime": at(0).to_string()});
        let on_push = json!({"onPush": {"serviceAccountName": "deployer", "actions": actions}});
        object(&on_push, &json!({}), &json!({"deployment": deployment}))
    };
    let mut gone = seen(rolling("Running"), Remembered::default());
    fail(&mut gone, Task::Look, Standing::stalled(Reason::RepositoryNotFound, "it is gone"));
    let mut archived = seen(rolling("Running"), looked());
    archived.known.facts = Some(facts(true));
    let suspended = Seen { way: blocked(false), ..seen(rolling("Running"), Remembered::default()) };
    let to_roll = Targets { workloads: vec![workload("shop", None, Progress::Done(None))], troubles: Vec::new() };
    for mut lost in [gone, archived, suspended] {
        assert_eq!(does(&lost, 1), Step::LookAtWorkloads);
        lost.known.rollout = RolloutMemory::of(to_roll.clone());
        // It would be rolled out if the source could be read.
        assert!(matches!(does(&lost, 1), Step::Settle { again: Some(_), .. }), "{:?}", plan(&lost, at(1)));
        for result in ["Waiting", "Succeeded", "Failed"] {
            rests(&Seen { object: rolling(result), ..lost.clone() }, 1);
        }
    }
    let mut fine = seen(rolling("Running"), looked());
    let head = HeadStatus { branch: "main".into(), sha: "a".repeat(40), observation_time: Time(at(0)) };
    fine.known.head = Some(head);
    assert_eq!(does(&fine, 1), Step::Confirm);
    fine.known.confirmed = Some(("a".repeat(40), at(0)));
    assert_eq!(does(&fine, 1), Step::LookAtWorkloads);
    fine.known.rollout = RolloutMemory::of(to_roll);
    assert!(matches!(does(&fine, 1), Step::Roll { .. }), "{:?}", plan(&fine, at(1)));
}

#[test]
fn a_head_that_is_not_there_is_said() {
    let mut seen = seen(plain(), looked());
    for (head, reason, state) in [
        (Head::Missing { branch: "next".parse().unwrap() }, Reason::BranchNotFound, State::Stalled),
        (Head::NoDefaultBranch, Reason::BranchNotFound, State::Stalled),
        (Head::Empty, Reason::RepositoryEmpty, State::Reconciling),
    ] {
        seen.known.looked.as_mut().unwrap().refs = refs(head);
        assert_eq!(rests(&seen, 1), (reason, state, Some(at(11))));
    }
    seen.object = object(&json!({"branch": "next"}), &json!({}), &Value::Null);
    assert_eq!(does(&seen, 1), Step::Look, "another branch is asked for");
}

#[test]
fn who_asks_for_looks_gets_a_few_at_once_and_then_has_to_wait() {
    let asking = object(&json!({}), &json!({"annotations": {"landfall.dev/reconcile": "1"}}), &Value::Null);
    let mut seen = seen(asking, looked());
    assert!(seen.is_asked());
    assert_eq!(does(&seen, 1), Step::Look);
    seen.allowed_at = at(2);
    assert_eq!(rests(&seen, 1).2, Some(at(2)));
    assert_eq!(does(&seen, 2), Step::Look);
    seen.known.request = Some("1".into());
    assert!(!seen.is_asked());
    assert_eq!(rests(&seen, 1).2, Some(at(11)));
}

fn announced(id: i64) -> Announced {
    ("receiver".to_owned(), id)
}

fn waiting(id: i64, needs_look: bool, result: DeliveryResult) -> Pending {
    let delivery = json!({
        "id": id, "appName": "landfall", "namespace": "team-a", "repositoryName": "shop", "guid": format!("guid-{id}"), "event": "push",
        "receiptTime": "2027-01-15T08:00:00.000000Z",
    });
    let delivery = serde_json::from_value(delivery).unwrap();
    Pending { mark: Mark { announced: announced(id), delivery, result, message: None }, needs_look }
}

#[test]
fn a_delivery_is_dealt_with_once_it_was_looked_after() {
    let mut seen = seen(plain(), looked());
    let dealt_with = |seen: &Seen| seen.marks().iter().map(|mark| mark.announced.1).collect::<Vec<_>>();
    seen.pending = vec![waiting(1, true, DeliveryResult::Handled)];
    assert_eq!((does(&seen, 1), dealt_with(&seen)), (Step::Look, vec![]));
    seen.known.heard = [announced(1)].into();
    rests(&seen, 1);
    assert_eq!(dealt_with(&seen), [1]);
    // The same delivery again waits again.
    seen.pending.push(waiting(2, true, DeliveryResult::Handled));
    assert_eq!((does(&seen, 1), dealt_with(&seen)), (Step::Look, vec![1]));
    seen.pending = vec![waiting(3, false, DeliveryResult::Ignored)];
    rests(&seen, 1);
    assert_eq!(dealt_with(&seen), [3]);
    // Nobody can look where the namespace has no access. A look comes first when it has.
    seen.pending = vec![waiting(4, true, DeliveryResult::Handled)];
    let way = seen.way.clone();
    let standing = Standing::stalled(Reason::AccountNotGranted, "not granted");
    seen.way = Way::Blocked { standing, permanent: true };
    let [mark] = seen.marks().try_into().unwrap();
    assert_eq!((mark.result, mark.message.as_deref()), (DeliveryResult::Failed, Some("not granted")));
    (seen.pending, seen.way, seen.known.wanted) = (Vec::new(), way, 1);
    assert_eq!(does(&seen, 1), Step::Look);
    seen.known.covered = 1;
    rests(&seen, 1);
}

/// A delivery says that a lost repository may exist again. A delivery from before the loss does not.
#[test]
fn a_delivery_ends_the_wait_for_a_person_and_no_other() {
    let delivery = |id| waiting(id, true, DeliveryResult::Handled);
    let gone = || Standing::stalled(Reason::RepositoryNotFound, "it is gone");
    for known in [Remembered::default(), looked()] {
        let mut seen = seen(plain(), known);
        fail(&mut seen, Task::Look, gone());
        seen.known.failed.get_mut(&Task::Look).unwrap().heard = [announced(1)].into();
        seen.pending = vec![delivery(1)];
        rests(&seen, 1);
        let [mark] = seen.marks().try_into().unwrap();
        assert_eq!((mark.result, mark.message.as_deref()), (DeliveryResult::Failed, Some("it is gone")));
        seen.pending = vec![delivery(2)];
        assert_eq!(does(&seen, 1), Step::Look);
        seen.allowed_at = at(2);
        assert_eq!(rests(&seen, 1).2, Some(at(2)), "as often as it may");
        seen.pending = vec![delivery(1), delivery(2)];
        assert_eq!(seen.marks().len(), 1);
        // So does a look that this process requested, once: it is not repeated because it failed, too.
        seen.pending = Vec::new();
        assert_eq!(rests(&seen, 1).2, Some(at(5)));
        seen.known.wanted += 1;
        assert_eq!(rests(&seen, 1).2, Some(at(2)));
        seen.known.failed.get_mut(&Task::Look).unwrap().wanted = seen.known.wanted;
        assert_eq!(rests(&seen, 1).2, Some(at(5)), "the request is not covered, and its look has failed");
        seen.known.covered = seen.known.wanted;
        seen.pending = vec![delivery(2)];
        // A failure that passes by itself waits for its time.
        seen.allowed_at = at(1);
        fail(&mut seen, Task::Look, Standing::reconciling(Reason::RateLimited, "later"));
        assert_eq!(rests(&seen, 1).2, Some(at(5)));
    }
    let fork = object(&json!({"source": {"fork": {"of": "globex/tools"}}}), &json!({}), &Value::Null);
    let mut fork = seen(fork, Remembered::default());
    fail(&mut fork, Task::Fork, Standing::stalled(Reason::ForkForbidden, "no"));
    fork.pending = vec![delivery(2)];
    assert_eq!(does(&fork, 1), Step::Fork);
}

#[test]
fn another_grant_is_looked_by() {
    let mut seen = seen(plain(), looked());
    let Way::GitHub(granted) = &mut seen.way else { panic!("by the App") };
    granted.permissions = [("contents".to_owned(), "read".into())].into();
    assert_eq!(does(&seen, 1), Step::Look);
}

#[test]
fn another_head_is_confirmed_before_it_is_shown() {
    let head = |sha: &str| HeadStatus { branch: "main".into(), sha: sha.repeat(40), observation_time: Time(at(0)) };
    let shows = |sha: &str| object(&json!({}), &json!({}), &json!({"head": head(sha)}));
    let mut other = seen(shows("b"), Remembered { head: Some(head("a")), ..looked() });
    assert_eq!(rests(&other, 1).0, Reason::Observed, "it was asked for as the head was read");
    other.known.looked.as_mut().unwrap().at = at(1);
    assert_eq!(does(&other, 1), Step::Confirm);
    assert_eq!(rests(&Seen { object: shows("a"), ..other.clone() }, 1).0, Reason::Observed);
    // The confirmation of the earlier read says that it is the same repository.
    other.known.confirmed = Some(("a".repeat(40), at(0)));
    assert_eq!(rests(&other, 1).0, Reason::Observed);
}

#[test]
fn another_spec_ends_a_wait_as_often_as_it_may() {
    let mut seen = seen(plain(), Remembered::default());
    fail(&mut seen, Task::Look, Standing::stalled(Reason::RepositoryNotFound, "it is gone"));
    seen.object = object(&json!({}), &json!({"generation": 2}), &Value::Null);
    assert_eq!(does(&seen, 1), Step::Look);
    seen.allowed_at = at(3);
    assert_eq!(rests(&seen, 1).2, Some(at(3)));
}

#[test]
fn a_fork_is_made_and_then_kept_in_step() {
    let fork = |interval: &str| {
        let fork = json!({"of": "globex/tools", "sync": {"interval": interval}});
        object(&json!({"source": {"fork": fork}}), &json!({}), &Value::Null)
    };
    let mut new = seen(fork("10m"), Remembered::default());
    assert_eq!(does(&new, 1), Step::Fork);
    assert_eq!(rests(&Seen { is_paused: true, ..new.clone() }, 1).0, Reason::Paused);
    fail(&mut new, Task::Fork, Standing::stalled(Reason::ForkForbidden, "no"));
    assert_eq!(rests(&new, 1), (Reason::ForkForbidden, State::Stalled, Some(at(5))));
    let mut made = seen(fork("10m"), Remembered { facts: Some(facts(false)), ..Remembered::default() });
    assert_eq!(does(&made, 1), Step::Look);
    made.known = looked();
    assert_eq!(does(&made, 1), Step::Sync);
    assert_eq!(rests(&Seen { is_paused: true, ..made.clone() }, 1).0, Reason::Paused);
    assert_eq!(rests(&Seen { object: fork("0s"), ..made.clone() }, 1).0, Reason::Observed);
    made.known.next_sync = Some(at(7));
    assert_eq!(rests(&made, 1).2, Some(at(7)));
    made.known.next_sync = None;
    made.known.looked.as_mut().unwrap().refs = refs(Head::Empty);
    assert_eq!(rests(&made, 6).0, Reason::ForkPending, "however long it takes, for what is empty is not forked");
}

#[test]
fn what_is_deleted_takes_its_webhook_along_or_tells_that_it_stays() {
    let deleted = |status: &Value| {
        let metadata = json!({"deletionTimestamp": at(0).to_string(), "finalizers": ["landfall.dev/webhook"]});
        seen(object(&json!({}), &metadata, status), Remembered::default())
    };
    let pinned = json!({"repositoryID": 9001});
    assert_eq!(does(&deleted(&Value::Null), 1), Step::RemoveHook, "one may have been made before status could say so");
    let mut seen = deleted(&pinned);
    assert_eq!(does(&seen, 1), Step::RemoveHook);
    fail(&mut seen, Task::Hook, Standing::reconciling(Reason::APIUnreachable, "away"));
    assert_eq!(rests(&seen, 1), (Reason::WaitingForDependents, State::Reconciling, Some(at(5))));
    assert_eq!(does(&seen, 5), Step::RemoveHook);
    let unlooked = Seen { way: Way::NotYetKnown, ..deleted(&pinned) };
    assert_eq!(rests(&unlooked, 1).2, Some(at(15)));
    assert!(matches!(does(&unlooked, 15), Step::LeaveHook(_)));
    assert!(matches!(does(&Seen { way: blocked(true), ..deleted(&pinned) }, 1), Step::LeaveHook(_)));
    assert_eq!(rests(&Seen { way: blocked(false), ..deleted(&pinned) }, 1).0, Reason::WaitingForDependents);
    let mut removed = deleted(&pinned);
    removed.known.is_hook_removed = true;
    assert_eq!(does(&removed, 1), Step::RemoveFinalizer);
}

#[test]
fn what_github_answered_goes_before_the_spec_and_that_before_status() {
    let status = json!({"repositoryID": 3});
    let by_id = object(&json!({"source": {"existing": {"id": 2}}}), &json!({}), &status);
    assert_eq!(seen(Arc::clone(&by_id), looked()).bound_id(), Some(id(9001)));
    assert_eq!(seen(by_id, Remembered::default()).bound_id(), Some(id(2)));
    assert_eq!(seen(object(&json!({}), &json!({}), &status), Remembered::default()).bound_id(), Some(id(3)));
    assert_eq!(seen(plain(), Remembered::default()).bound_id(), None);
}

#[test]
fn what_its_app_or_installation_leaves_behind_takes_its_webhook_along_first() {
    let Way::GitHub(granted) = granted() else { unreachable!() };
    let held = object(
        &json!({"webhook": {"mode": "Repository"}}),
        &json!({"finalizers": ["landfall.dev/webhook"]}),
        &json!({"repositoryID": 9001}),
    );
    let left =
        |known| Seen { way: blocked(true), way_out: Some(granted.clone()), hook: wish(), ..seen(held.clone(), known) };
    let mut going = left(looked());
    assert_eq!(does(&going, 1), Step::RemoveHook);
    fail(&mut going, Task::Hook, Standing::reconciling(Reason::APIUnreachable, "away"));
    assert_eq!(rests(&going, 1), (Reason::Revoked, State::Stalled, Some(at(5))));
    assert_eq!(does(&left(Remembered { is_hook_removed: true, ..looked() }), 1), Step::RemoveFinalizer);
    let free = Seen { object: plain(), has_finalizer: false, ..left(looked()) };
    assert_eq!(rests(&free, 1).0, Reason::Revoked);
    assert_eq!(rests(&Seen { way_out: None, ..left(looked()) }, 1).0, Reason::Revoked, "the grant alone was withdrawn");
}

#[test]
fn a_branch_without_a_commit_begins_there_except_that_of_a_fork() {
    let begins = |head: Head, source: &Value| {
        let on_push = json!({"serviceAccountName": "deployer", "actions": []});
        let known = Remembered { looked: looked().looked.map(|its| Looked { refs: refs(head), ..its }), ..looked() };
        let seen = seen(object(&json!({"onPush": on_push, "source": source}), &json!({}), &Value::Null), known);
        match plan(&seen, at(1)) {
            Plan::Do(Step::Settle { settlement, .. }) => settlement.deployment.map(|it| (it.sha, it.sequence)),
            _ => None,
        }
    };
    let existing = json!({"existing": {"name": "shop"}});
    let nothing = Some((rollout::plan::NO_COMMIT.to_owned(), 0));
    assert_eq!(begins(Head::Missing { branch: "next".parse().unwrap() }, &existing), nothing);
    assert_eq!(begins(Head::Empty, &existing), nothing);
    assert_eq!(begins(Head::Empty, &json!({"fork": {"of": "globex/shop"}})), None);
    assert_eq!(begins(Head::NoDefaultBranch, &existing), None);
}
