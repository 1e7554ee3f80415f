//! Injected faults, each with its effect or the lack of it.

use std::collections::BTreeMap;
use std::time::Instant;

use github_sim::{Because, Fault, FaultKind};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{APP, World, refused, succeeded};

const MINT: &str = "/app/installations/*/access_tokens";

#[tokio::test]
async fn a_status_has_no_effect_and_strikes_as_often_as_told() {
    let world = World::new().await;
    let headers = BTreeMap::from([("retry-after".to_owned(), "7".to_owned())]);
    let body = Some(json!({"message": "You have exceeded a secondary rate limit."}));
    let kind = FaultKind::Status { status: 403, body, headers };
    world.sim.inject(Fault::new("POST", MINT, kind).nth(2).times(2));
    let statuses = [
        world.mint(json!({})).await,
        world.mint(json!({})).await,
        world.mint(json!({})).await,
        world.mint(json!({})).await,
    ];
    assert_eq!(statuses.each_ref().map(|answer| answer.status.as_u16()), [201, 403, 403, 201]);
    assert_eq!(statuses[1].header("retry-after"), "7");
    assert_eq!(statuses[1].message(), "You have exceeded a secondary rate limit.");
    assert_ne!(statuses[1].header("x-ratelimit-remaining"), "0");
    assert_eq!(world.sim.live_tokens().len(), 2);
    let log = world.sim.requests();
    assert_eq!((log[1].fault.as_deref(), log[1].unknown), (Some("status"), false));
    assert_eq!(log[1].caller, github_sim::Caller::App(APP));
    assert_eq!(log[1].route, log[0].route);
    assert_eq!(world.sim.faults()[0].struck, 2);
}

#[tokio::test]
async fn a_cut_connection_did_nothing_and_a_lost_answer_did() {
    let world = World::new().await;
    let mint = || world.try_ask(Method::POST, "/app/installations/4242/access_tokens", "", &[], json!({}));
    world.sim.inject(Fault::new("POST", MINT, FaultKind::Cut));
    mint().await.unwrap_err();
    assert!(world.sim.live_tokens().is_empty());
    world.sim.inject(Fault::new("POST", MINT, FaultKind::LoseResponse));
    let jwt = world.jwt();
    world.try_ask(Method::POST, "/app/installations/4242/access_tokens", &jwt, &[], json!({})).await.unwrap_err();
    assert_eq!(world.sim.live_tokens().len(), 1);
    let log = world.sim.requests();
    assert_eq!((log[0].status, log[1].status), (None, None));
    assert_eq!((log[0].fault.as_deref(), log[1].fault.as_deref()), (Some("cut"), Some("lose_response")));
    assert_eq!(log[0].route, log[1].route);
}

#[tokio::test]
async fn a_fresh_token_is_refused_at_first() {
    let world = World::new().await;
    world.sim.inject(Fault::new("POST", MINT, FaultKind::FreshToken { uses: 2, status: 401 }));
    let (fresh, other) = (world.token(json!({})).await, world.token(json!({})).await);
    let statuses = [
        world.get("/repos/acme/shop", &fresh).await.status.as_u16(),
        world.get("/repos/acme/shop", &fresh).await.status.as_u16(),
        world.get("/repos/acme/shop", &fresh).await.status.as_u16(),
    ];
    assert_eq!(statuses, [401, 401, 200]);
    assert_eq!(world.get("/repos/acme/shop", &other).await.status.as_u16(), 200);
    world.sim.inject(Fault::new("POST", MINT, FaultKind::FreshToken { uses: 1, status: 404 }));
    let hidden = world.token(json!({})).await;
    let at = world.folder.path();
    let said = refused(&world.git(at, &hidden, &["ls-remote", &world.url("acme/shop")]).await);
    assert!(said.contains("Repository not found"), "{said}");
    succeeded(&world.git(at, &hidden, &["ls-remote", &world.url("acme/shop")]).await);
}

#[tokio::test]
async fn git_can_be_struck_too() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let at = world.folder.path();
    succeeded(&world.git(at, &token, &["clone", "-q", &world.url("acme/shop"), "shop"]).await);
    let clone = at.join("shop");
    let status = |status| FaultKind::Status { status, body: None, headers: BTreeMap::new() };
    world.sim.inject(Fault::new("GET", "*/info/refs", status(503)));
    refused(&world.git(&clone, &token, &["fetch", "origin"]).await);
    let struck = world.sim.requests().pop().unwrap();
    assert_eq!(struck.route.as_deref(), Some("/{owner}/{repo}.git/info/refs"));
    assert_eq!((struck.status, struck.caller), (Some(503), github_sim::Caller::Installation(4242)));
    succeeded(&world.git(&clone, &token, &["fetch", "-q", "origin"]).await);
    // The push happened, though git was told nothing. git tries again by itself on a connection it used before.
    world.sim.inject(Fault::new("POST", "*/git-receive-pack", FaultKind::LoseResponse).times(9));
    refused(&world.git(&clone, &token, &["push", "origin", "main:lost"]).await);
    assert_eq!(world.sim.head("acme/shop", "lost"), world.sim.head("acme/shop", "main"));
    world.sim.clear_faults();
    world.sim.inject(Fault::new("POST", "*/git-receive-pack", FaultKind::Cut).times(9));
    refused(&world.git(&clone, &token, &["push", "origin", "main:cut"]).await);
    assert_eq!(world.sim.head("acme/shop", "cut"), None);
}

#[tokio::test]
async fn a_delay_takes_its_time_and_then_answers() {
    let world = World::new().await;
    world.sim.inject(Fault::new("GET", "/app", FaultKind::Delay { milliseconds: 150 }));
    let began = Instant::now();
    assert_eq!(world.get("/app", &world.jwt()).await.status, StatusCode::OK);
    assert!(began.elapsed().as_millis() >= 150);
    world.sim.inject(Fault::new("GET", "/app", FaultKind::Cut));
    world.sim.clear_faults();
    assert_eq!(world.ask(Method::GET, "/app", &world.jwt(), &[], Value::Null).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_api_refuses_in_githubs_words() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    for (because, status, words) in [
        (Because::SingleSignOn, 403, "SAML enforcement"),
        (Because::IpAllowList, 403, "IP allow list enabled"),
        (Because::Billing, 403, "Repository access blocked"),
        (Because::Terms, 403, "Repository access blocked"),
        (Because::Takedown, 451, "Repository access blocked"),
        (Because::Migration, 403, "locked for migration"),
        (Because::SecondaryLimit, 403, "secondary rate limit"),
        (Because::Outage, 503, "Unicorn!"),
        (Because::ProxyPage, 403, "Access Denied"),
    ] {
        world.sim.inject(Fault::new("GET", "/repos/acme/shop", FaultKind::Refuse { because }));
        let refused = world.get("/repos/acme/shop", &token).await;
        assert_eq!(refused.status.as_u16(), status, "{because:?}");
        assert!(refused.body.to_string().contains(words), "{because:?} {:?}", refused.body);
        let is_html = refused.header("content-type").starts_with("text/html");
        assert_eq!(is_html, matches!(because, Because::Outage | Because::ProxyPage), "{because:?}");
        assert_eq!(refused.header("retry-after"), "");
        assert_eq!(world.get("/repos/acme/shop", &token).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_push_is_refused_in_githubs_words() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let at = world.folder.path();
    succeeded(&world.git(at, &token, &["clone", "-q", &world.url("acme/shop"), "shop"]).await);
    let clone = at.join("shop");
    succeeded(&world.git(&clone, &token, &["commit", "-q", "--allow-empty", "-m", "x"]).await);
    for (because, words) in [
        (Because::LargeFile, "remote: error: GH001: Large files detected."),
        (Because::LargePack, "pack exceeds maximum allowed size"),
        (Because::ProtectedBranch, "remote: error: GH006: Protected branch update failed for refs/heads/work."),
        (Because::LockedBranch, "remote: error: - Cannot change this locked branch"),
        (Because::UnsignedCommits, "remote: - Commits must have verified signatures."),
        (Because::PrivateEmail, "remote: error: GH007: Your push would publish a private email address."),
        (Because::MissingLfs, "remote: error: GH008: Your push referenced at least 1 unknown Git LFS object"),
        (Because::Ruleset, "remote: error: GH013: Repository rule violations found for refs/heads/work."),
        (Because::PushProtection, "Push cannot contain secrets"),
        (Because::SingleSignOn, "SAML SSO"),
        (Because::IpAllowList, "IP allow list enabled"),
        (Because::Billing, "is disabled. Please ask the owner"),
        (Because::Migration, "locked for migration"),
        (Because::SecondaryLimit, "secondary rate limit"),
    ] {
        // git shows the text of a refusal only if it is refused before it pushes.
        world.sim.inject(Fault::new("GET", "*/info/refs", FaultKind::Refuse { because }));
        world.sim.inject(Fault::new("POST", "*/git-receive-pack", FaultKind::Refuse { because }));
        let said = refused(&world.git(&clone, &token, &["push", "origin", "main:work"]).await);
        assert!(said.contains(words), "{because:?}: {said}");
        assert_eq!(world.sim.head("acme/shop", "work"), None, "{because:?}");
        world.sim.clear_faults();
    }
    succeeded(&world.git(&clone, &token, &["push", "-q", "origin", "main:work"]).await);
}
