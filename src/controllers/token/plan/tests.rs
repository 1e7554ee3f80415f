//! Situations, and the one step that each calls for. No Kubernetes, no GitHub, no sleeping.

use super::super::memory::FailedFor;
use super::super::seen::{Failures, Held, Tools};
use super::*;
use crate::api::GitHubApp;
use crate::controllers::token::scope::Named;
use crate::grant::{NamespaceView, grant};
use crate::ids::id;
use serde_json::json;
use std::sync::Arc;

const UID: &str = "uid-1";

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
}

fn object(spec: &serde_json::Value, ready: Option<(&str, &str)>) -> InstallationToken {
    let mut whole = json!({
        "installationRef": {"name": "acme"}, "repositories": [{"name": "shop"}],
        "permissions": {"contents": "write"}, "secret": {"name": "git"},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let conditions = ready.map(|(status, reason)| {
        json!([{"type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": at(30).to_string()}])
    });
    serde_json::from_value(json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken",
        "metadata": {"name": "shop", "namespace": "team-a", "uid": UID, "finalizers": [REVOKE_FINALIZER]},
        "spec": whole, "status": {"conditions": conditions.unwrap_or_else(|| json!([]))},
    }))
    .unwrap()
}

fn granted(repositories: &[&str]) -> Access {
    let app: GitHubApp = serde_json::from_value(json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": "landfall"},
        "spec": {"appID": 1, "credentialsSecretRef": {"name": "s"}, "tenants": [{
            "name": "acme", "account": "acme", "repositories": repositories, "maxPermissions": {"contents": "write"},
            "namespaces": {"names": ["team-a"]}}]},
    }))
    .unwrap();
    let namespace = NamespaceView { name: "team-a".into(), labels: [].into(), terminating: false };
    Access::Granted {
        installation: id(501),
        account: "acme".into(),
        account_id: id(7),
        settings_url: "https://github.com/settings/installations/501".into(),
        grant: grant(&app, "acme", &namespace).unwrap(),
        permissions: [("contents".to_owned(), "write".into()), ("metadata".to_owned(), "read".into())].into(),
    }
}

fn scope() -> Scope {
    Scope::wanted(&object(&json!({}), None), id(501))
}

fn published() -> Published {
    Published {
        fingerprint: Some("00aa".into()),
        noted_fingerprint: Some("00aa".into()),
        scope: Some(scope()),
        repository_ids: vec![id(9001)],
        expires_at: Some(at(60)),
        minted_at: Some(at(0)),
        as_wanted: true,
        going: false,
    }
}

fn held(stage: Stage) -> Held {
    Held { fingerprint: "00bb".into(), scope: scope(), stage, trial: Trial::Accepted, expires_at: at(60) }
}

fn seen() -> Seen {
    Seen {
        token: Arc::new(object(&json!({}), None)),
        has_finalizer: true,
        is_paused: false,
        access: granted(&["shop"]),
        unwritable: None,
        secret: SecretSeen::Absent,
        known: Known::Read,
        is_needed: false,
        is_namespace_going: false,
        former_secrets: Vec::new(),
        held: None,
        revoked: None,
        failed: Failures::default(),
        about: FailedFor::default(),
        tools: Tools::default(),
    }
}

fn mint(pinned: &[i64]) -> Plan {
    Plan::Do(Step::Mint { scope: scope(), pinned: pinned.iter().copied().map(id).collect() })
}

#[track_caller]
fn settles(plan: &Plan, reason: Reason, state: crate::controllers::standing::State) -> String {
    let Plan::Settled { standing: Some(standing), .. } = plan else { panic!("it does not settle: {plan:?}") };
    assert_eq!((standing.reason, standing.state), (reason, state), "{}", standing.message);
    standing.message.clone()
}

use crate::controllers::standing::State::{Ready, ReadyButRetrying, Reconciling, Stalled};

#[test]
fn the_way_of_a_new_token() {
    let now = at(1);
    assert_eq!(plan(&Seen { has_finalizer: false, ..seen() }, now), Plan::Do(Step::AddFinalizer));
    assert_eq!(plan(&seen(), now), mint(&[]));
    let with = |stage| Seen { held: Some(held(stage)), ..seen() };
    assert_eq!(plan(&with(Stage::Minted { refusals: 0 }), now), Plan::Do(Step::Verify));
    assert_eq!(plan(&with(Stage::Verified), now), Plan::Do(Step::Publish));
    let done = Seen { secret: SecretSeen::Ours(published()), ..seen() };
    settles(&plan(&done, now), Reason::Published, Ready);
}

#[test]
fn nothing_is_published_unverified_and_a_refused_token_is_given_up() {
    for refusals in 0..REFUSALS_UNTIL_GIVEN_UP {
        let seen = Seen { held: Some(held(Stage::Minted { refusals })), ..seen() };
        assert_eq!(plan(&seen, at(1)), Plan::Do(Step::Verify));
    }
    let tired = Seen { held: Some(held(Stage::Minted { refusals: REFUSALS_UNTIL_GIVEN_UP })), ..seen() };
    assert_eq!(plan(&tired, at(1)), Plan::Do(Step::RevokeHeld));
    let unfit = Seen { held: Some(held(Stage::Unfit)), ..seen() };
    assert_eq!(plan(&unfit, at(1)), Plan::Do(Step::RevokeHeld));
}

#[test]
fn a_good_token_is_adopted_and_renewed_in_time() {
    let adopted = Seen { secret: SecretSeen::Ours(published()), ..seen() };
    let due = renewal(&adopted, &published()).unwrap();
    assert!(due >= at(45) && due <= at(50), "10 to 15 minutes before expiry: {due}");
    let Plan::Settled { again, .. } = plan(&adopted, at(1)) else { panic!() };
    assert_eq!(again, Some(Again::At(due)));
    assert_eq!(plan(&adopted, due), mint(&[9001]), "by the ids that the names had");
}

#[test]
fn renewal_fits_the_tokens_life() {
    let short = Published { expires_at: Some(at(1)), minted_at: Some(at(0)), ..published() };
    let due = renewal(&seen(), &short).unwrap();
    assert!(due > at(0) && due < at(1), "a token of a minute is renewed within it: {due}");
    let last = Published { fingerprint: Some("ffff".into()), ..published() };
    assert_eq!(renewal(&seen(), &last), Some(at(45)), "the jitter is half of renewBefore at most");
}

#[test]
fn a_strangers_secret_is_left_alone() {
    let stranger = Seen { secret: SecretSeen::Foreign, ..seen() };
    settles(&plan(&stranger, at(1)), Reason::SecretNotOurs, Stalled);
    let with_token = Seen { held: Some(held(Stage::Verified)), ..stranger };
    assert_eq!(plan(&with_token, at(1)), Plan::Do(Step::RevokeHeld));
}

#[test]
fn an_edited_or_lost_secret_is_mended_with_another_token() {
    let edited = Published { fingerprint: Some("0bad".into()), ..published() };
    assert_eq!(plan(&Seen { secret: SecretSeen::Ours(edited.clone()), ..seen() }, at(1)), mint(&[9001]));
    let ours = Held { fingerprint: "00aa".into(), ..held(Stage::Published) };
    for secret in [SecretSeen::Ours(edited), SecretSeen::Absent] {
        let seen = Seen { secret, held: Some(ours.clone()), ..seen() };
        assert_eq!(plan(&seen, at(1)), Plan::Do(Step::RevokeHeld), "what was taken away does not come back");
    }
    let relabelled = Published { as_wanted: false, ..published() };
    assert_eq!(plan(&Seen { secret: SecretSeen::Ours(relabelled), ..seen() }, at(1)), Plan::Do(Step::Repair));
}

#[test]
fn another_scope_kills_the_old_token_before_it_publishes_the_new_one() {
    let wider = Scope { repositories: Repositories::Only(vec![Named::Name("old".into())]), ..scope() };
    let old = Published { scope: Some(wider), ..published() };
    let secret = SecretSeen::Ours(old);
    assert_eq!(plan(&Seen { secret: secret.clone(), ..seen() }, at(1)), mint(&[]), "and pins nothing of the old one");
    let verified = Seen { secret, held: Some(held(Stage::Verified)), ..seen() };
    assert_eq!(plan(&verified, at(1)), Plan::Do(Step::RevokePublished));
    let revoked = Seen { revoked: Some("00aa".into()), ..verified };
    assert_eq!(plan(&revoked, at(1)), Plan::Do(Step::Publish));
}

#[test]
fn a_renewal_leaves_the_old_token_to_those_who_are_using_it() {
    let due = Seen { secret: SecretSeen::Ours(published()), held: Some(held(Stage::Verified)), ..seen() };
    assert_eq!(plan(&due, at(50)), Plan::Do(Step::Publish));
}

#[test]
fn what_is_denied_is_taken_back() {
    let standing = Standing::stalled(Reason::AccountNotGranted, "no");
    let denied = Seen { access: Access::Denied(standing), secret: SecretSeen::Ours(published()), ..seen() };
    assert_eq!(plan(&denied, at(1)), Plan::Do(Step::RevokePublished));
    let revoked = Seen { revoked: Some("00aa".into()), ..denied.clone() };
    assert_eq!(plan(&revoked, at(1)), Plan::Do(Step::DeleteSecret));
    let gone = Seen { secret: SecretSeen::Absent, ..denied };
    settles(&plan(&gone, at(1)), Reason::AccountNotGranted, Stalled);
}

#[test]
fn a_narrowed_grant_takes_back_what_it_no_longer_covers_and_a_wrong_spec_does_not() {
    let narrowed = Seen { access: granted(&["other"]), secret: SecretSeen::Ours(published()), ..seen() };
    assert_eq!(plan(&narrowed, at(1)), Plan::Do(Step::RevokePublished));
    let mistaken = Seen {
        token: Arc::new(object(&json!({"repositories": [{"name": "vault"}]}), None)),
        secret: SecretSeen::Ours(published()),
        ..seen()
    };
    let message = settles(&plan(&mistaken, at(1)), Reason::RepositoryNotGranted, Stalled);
    assert!(message.contains("vault") && message.contains("tenants"), "{message}");
}

#[test]
fn more_than_the_installation_has_is_not_asked_for() {
    let Access::Granted { installation, account, account_id, settings_url, grant, .. } = granted(&["shop"]) else {
        panic!()
    };
    let read_only = [("contents".to_owned(), "read".into())].into();
    let access = Access::Granted { installation, account, account_id, settings_url, grant, permissions: read_only };
    let message = settles(&plan(&Seen { access, ..seen() }, at(1)), Reason::InsufficientPermissions, Stalled);
    assert!(message.contains("contents: write (has read)") && message.contains("settings"), "{message}");
}

#[test]
fn a_failed_call_waits_for_its_time_whatever_wakes_the_controller() {
    let failed = Failed { standing: Standing::reconciling(Reason::APIUnreachable, "away"), until: at(5) };
    let asking = |failed| Failures { asking: Some(failed), revoking: None };
    let waiting = Seen { failed: asking(failed.clone()), ..seen() };
    settles(&plan(&waiting, at(4)), Reason::APIUnreachable, Reconciling);
    assert_eq!(plan(&waiting, at(5)), mint(&[]));
    let renewing = Seen { secret: SecretSeen::Ours(published()), ..waiting };
    let renewing = Seen { failed: asking(Failed { until: at(70), ..failed }), ..renewing };
    let plan_then = plan(&renewing, at(55));
    settles(&plan_then, Reason::APIUnreachable, ReadyButRetrying);
    let Plan::Settled { again, .. } = plan_then else { panic!() };
    assert_eq!(again, Some(Again::At(at(60))), "Ready is not said longer than it is true");
    settles(&plan(&renewing, at(60)), Reason::APIUnreachable, Reconciling);
}

#[test]
fn nothing_is_said_or_done_before_the_app_was_looked_at() {
    let early = Seen { access: Access::NotYetKnown, secret: SecretSeen::Ours(published()), ..seen() };
    assert_eq!(plan(&early, at(1)), Plan::Settled { standing: None, again: None });
}

#[test]
fn a_suspension_makes_the_tokens_from_before_doubtful() {
    let doubted = Seen {
        token: Arc::new(object(&json!({}), Some(("False", "InstallationSuspended")))),
        secret: SecretSeen::Ours(published()),
        ..seen()
    };
    assert_eq!(plan(&doubted, at(1)), mint(&[9001]));
}

#[test]
fn paused_renews_what_is_there_and_changes_nothing() {
    let token = object(&json!({"paused": true, "repositories": [{"name": "lib"}]}), None);
    let paused = Seen {
        token: Arc::new(token),
        is_paused: true,
        access: granted(&["shop", "lib"]),
        secret: SecretSeen::Ours(published()),
        ..seen()
    };
    settles(&plan(&paused, at(1)), Reason::Paused, Ready);
    assert_eq!(plan(&paused, at(50)), mint(&[9001]));
}

#[test]
fn deletion_revokes_everything_then_lets_go() {
    let mut token = object(&json!({}), None);
    token.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    let going = Seen {
        token: Arc::new(token),
        access: Access::NotYetKnown,
        secret: SecretSeen::Ours(published()),
        held: Some(held(Stage::Verified)),
        former_secrets: vec!["old".into()],
        ..seen()
    };
    assert_eq!(plan(&going, at(1)), Plan::Do(Step::RevokeHeld));
    let going = Seen { held: None, ..going };
    assert_eq!(plan(&going, at(1)), Plan::Do(Step::RevokePublished));
    assert_eq!(plan(&going, at(60)), Plan::Do(Step::DeleteSecret), "it has died by itself");
    let going = Seen { secret: SecretSeen::Absent, ..going };
    assert_eq!(plan(&going, at(1)), Plan::Do(Step::DeleteFormer("old".into())));
    let going = Seen { former_secrets: Vec::new(), ..going };
    assert_eq!(plan(&going, at(1)), Plan::Do(Step::RemoveFinalizer));
    let stranger = Seen { secret: SecretSeen::Foreign, ..going };
    assert_eq!(plan(&stranger, at(1)), Plan::Do(Step::RemoveFinalizer), "a stranger's Secret stays");
}

/// Carries out plans on the gathered state, as if everything succeeded at once, and returns the steps.
fn walk(mut seen: Seen, now: Timestamp) -> Vec<&'static str> {
    let mut done = Vec::new();
    let mut serial = 0;
    loop {
        let step = match plan(&seen, now) {
            Plan::Settled { standing, .. } => {
                done.push(standing.map_or("nothing", |standing| standing.reason.as_str()));
                return done;
            }
            Plan::Do(step) => step,
        };
        done.push(match step {
            Step::Mint { scope, .. } => {
                serial += 1;
                let (fingerprint, expires_at) = (format!("{serial:04x}"), now + SignedDuration::from_mins(60));
                let stage = Stage::Minted { refusals: 0 };
                seen.held = Some(Held { fingerprint, scope, stage, trial: Trial::Accepted, expires_at });
                "mint"
            }
            Step::Verify => {
                seen.held.as_mut().unwrap().stage = Stage::Verified;
                "verify"
            }
            Step::Publish => {
                let held = seen.held.as_mut().unwrap();
                held.stage = Stage::Published;
                seen.secret = SecretSeen::Ours(Published {
                    fingerprint: Some(held.fingerprint.clone()),
                    noted_fingerprint: Some(held.fingerprint.clone()),
                    scope: Some(held.scope.clone()),
                    repository_ids: vec![id(9001)],
                    expires_at: Some(held.expires_at),
                    minted_at: Some(now),
                    as_wanted: true,
                    going: matches!(&seen.secret, SecretSeen::Ours(published) if published.going),
                });
                "publish"
            }
            Step::RevokePublished => {
                let SecretSeen::Ours(published) = &seen.secret else { panic!("there is none") };
                seen.revoked.clone_from(&published.fingerprint);
                seen.held = seen.held.filter(|held| Some(&held.fingerprint) != seen.revoked.as_ref());
                "revoke published"
            }
            Step::RevokeHeld => {
                seen.revoked = seen.held.take().map(|held| held.fingerprint);
                "revoke held"
            }
            Step::DeleteFormer(_) => {
                seen.former_secrets.remove(0);
                "delete former"
            }
            Step::DeleteSecret => {
                seen.secret = SecretSeen::Absent;
                "delete"
            }
            Step::Repair => "repair",
            Step::ReadSecret => {
                seen.known = Known::Read;
                "read"
            }
            Step::AddFinalizer | Step::RemoveFinalizer => "finalizer",
        });
        assert!(done.len() < 12, "it does not settle: {done:?}");
    }
}

#[test]
fn every_way_settles_with_one_mint_at_most() {
    let after = |reason| Seen { token: Arc::new(object(&json!({}), Some(("False", reason)))), ..seen() };
    let there = || SecretSeen::Ours(published());
    let remembered = Held { fingerprint: "00aa".into(), ..held(Stage::Published) };
    let renamed = Seen { held: Some(remembered), former_secrets: vec!["old".into()], ..seen() };
    let going = Seen { secret: SecretSeen::Ours(Published { going: true, ..published() }), ..seen() };
    let new = ["mint", "verify", "publish", "Published"].as_slice();
    for (what, seen, now, steps) in [
        ("new", seen(), at(1), new),
        ("installed after the token was asked for", after("NotInstalled"), at(31), new),
        (
            "unsuspended",
            Seen { secret: there(), ..after("InstallationSuspended") },
            at(31),
            &["mint", "verify", "revoke published", "publish", "Published"],
        ),
        ("the Secret is held while it goes", going, at(1), &["revoke published", "SecretTerminating"]),
        ("another name", renamed.clone(), at(1), &["mint", "verify", "publish", "delete former", "Published"]),
        ("a stranger's name", Seen { secret: SecretSeen::Foreign, ..renamed }, at(1), &["SecretNotOurs"]),
        ("renewal", Seen { secret: there(), ..seen() }, at(50), new),
    ] {
        assert_eq!(walk(seen, now), steps, "{what}");
    }
}

#[test]
fn an_absence_counts_only_once_it_was_read() {
    let now = at(30);
    let read = Plan::Do(Step::ReadSecret);
    let cached = || Seen { known: Known::Cached, ..seen() };
    let noted = |minutes| Seen { known: Known::Noted(at(minutes)), ..seen() };
    // A new token: the finalizer needs nothing, the mint needs a place for the token, and the POST is a check itself.
    assert_eq!(plan(&Seen { has_finalizer: false, ..cached() }, now), Plan::Do(Step::AddFinalizer));
    assert_eq!(plan(&cached(), now), read);
    assert_eq!(plan(&noted(30), now), mint(&[]));
    assert_eq!(plan(&noted(29), now), read, "somebody may have made one in a minute");
    assert_eq!(plan(&Seen { held: Some(held(Stage::Verified)), ..cached() }, now), Plan::Do(Step::Publish));
    // A token that was published here is not revoked because the cache has lost its Secret.
    let lost = Seen { held: Some(held(Stage::Published)), ..cached() };
    assert_eq!(plan(&lost, now), read);
    assert_eq!(plan(&Seen { known: Known::Read, ..lost }, now), Plan::Do(Step::RevokeHeld));
    // A Secret whose label was removed is withdrawn, and its token is revoked with its object.
    let denied = |seen| Seen { access: Access::Denied(Standing::stalled(Reason::AccountNotGranted, "")), ..seen };
    assert_eq!(plan(&denied(cached()), now), read);
    settles(&plan(&denied(noted(0)), now), Reason::AccountNotGranted, Stalled);
    let mut token = object(&json!({}), None);
    token.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    let gone = |seen| Seen { token: Arc::new(token.clone()), ..seen };
    assert_eq!(plan(&gone(cached()), now), read);
    assert_eq!(plan(&gone(noted(0)), now), Plan::Do(Step::RemoveFinalizer));
    // While a failed call waits for its time, nothing is read.
    let failed = Failed { standing: Standing::reconciling(Reason::RateLimited, ""), until: at(40) };
    let waits = Seen { failed: Failures { asking: Some(failed), revoking: None }, ..cached() };
    settles(&plan(&waits, now), Reason::RateLimited, Reconciling);
}

#[test]
fn a_noted_secret_is_read_before_it_is_changed() {
    let there = |known| Seen { known, secret: SecretSeen::Ours(published()), ..seen() };
    let noted = Known::Noted(at(0));
    settles(&plan(&there(noted), at(1)), Reason::Published, Ready);
    assert_eq!(plan(&there(noted), at(50)), mint(&[9001]));
    let verified = |known| Seen { held: Some(held(Stage::Verified)), ..there(known) };
    assert_eq!(plan(&verified(noted), at(50)), Plan::Do(Step::ReadSecret));
    assert_eq!(plan(&verified(Known::Read), at(50)), Plan::Do(Step::Publish));
    let odd = |known| {
        let secret = SecretSeen::Ours(Published { as_wanted: false, ..published() });
        Seen { secret, ..there(known) }
    };
    assert_eq!(plan(&odd(noted), at(1)), Plan::Do(Step::ReadSecret));
    assert_eq!(plan(&odd(Known::Read), at(1)), Plan::Do(Step::Repair));
}

#[test]
fn a_format_that_cannot_be_written_costs_no_token() {
    let standing = Standing::stalled(Reason::InvalidTemplate, "");
    let seen = || Seen { unwritable: Some(standing.clone()), ..seen() };
    settles(&plan(&seen(), at(1)), Reason::InvalidTemplate, Stalled);
    // A minted token is tried, and waits for the format.
    let minted = Seen { held: Some(held(Stage::Minted { refusals: 0 })), ..seen() };
    assert_eq!(plan(&minted, at(1)), Plan::Do(Step::Verify));
    let verified = Seen { held: Some(held(Stage::Verified)), ..seen() };
    settles(&plan(&verified, at(1)), Reason::InvalidTemplate, Stalled);
    let other = Held { scope: Scope { installation: id(502), ..scope() }, ..held(Stage::Verified) };
    assert_eq!(plan(&Seen { held: Some(other), ..seen() }, at(1)), Plan::Do(Step::RevokeHeld));
    // A Secret in an earlier format stays as it is.
    let odd = SecretSeen::Ours(Published { as_wanted: false, ..published() });
    settles(&plan(&Seen { secret: odd, ..seen() }, at(1)), Reason::InvalidTemplate, Stalled);
}
