//! Installation tokens: their scope, their end, and what they cost.

use std::time::Duration;

use github_sim::{Caller, Level, Selection};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{APP, World, permissions};

#[tokio::test]
async fn a_token_is_long_and_tells_its_scope() {
    let world = World::new().await;
    let minted = world.mint(json!({"repositories": ["shop"], "permissions": {"contents": "read"}})).await;
    assert_eq!(minted.status, StatusCode::CREATED);
    let token = minted.body["token"].as_str().unwrap();
    assert_eq!(token.len(), 520);
    assert!(token.starts_with(&format!("ghs_{APP}_")) && token.contains('.'));
    assert_eq!(minted.body["permissions"], json!({"contents": "read", "metadata": "read"}));
    assert_eq!(minted.body["repository_selection"], "selected");
    assert_eq!(minted.body["repositories"][0]["full_name"], "acme/shop");
    let wide = world.mint(json!({})).await;
    assert!(wide.body.get("repositories").is_none());
    let living = world.sim.live_tokens();
    assert_eq!(living.len(), 2);
    assert_eq!(living[0].repository_ids, world.sim.repository_id("acme/shop").map(|id| vec![id]));
    assert!(!serde_json::to_string(&living).unwrap().contains("ghs_"));
}

#[tokio::test]
async fn a_mint_stays_within_the_grant() {
    let world = World::new().await;
    let wider = "The permissions requested are not granted to this installation.";
    let unknown =
        "There is at least one repository that does not exist or is not accessible to the parent installation.";
    for (wish, status, message) in [
        (json!({"permissions": {"issues": "read"}}), 422, wider),
        (json!({"permissions": {"metadata": "write"}}), 422, wider),
        (json!({"repositories": ["nothing"]}), 422, unknown),
        (json!({"repositories": ["attic"]}), 422, unknown),
        (json!({"repository_ids": [1]}), 422, unknown),
        (json!("{oops"), 400, "Problems parsing JSON"),
    ] {
        let refused = world.mint(wish).await;
        assert_eq!((refused.status.as_u16(), refused.message()), (status, message));
    }
    assert!(world.sim.live_tokens().is_empty());
}

#[tokio::test]
async fn permissions_and_repositories_are_enforced() {
    let world = World::new().await;
    let token = world.token(json!({"repositories": ["shop"], "permissions": {"contents": "read"}})).await;
    let denied = "Resource not accessible by integration";
    for (method, path, status, message) in [
        (Method::GET, "/repos/acme/shop", 200, ""),
        (Method::GET, "/repos/acme/shop/branches/main", 200, ""),
        (Method::GET, "/repos/acme/attic", 404, "Not Found"),
        (Method::GET, "/repos/globex/vault", 404, "Not Found"),
        (Method::GET, "/repos/acme/site/branches/main", 200, ""),
        (Method::PATCH, "/repos/acme/shop", 403, denied),
        (Method::PATCH, "/repos/acme/site", 403, denied),
        (Method::GET, "/user", 403, denied),
        (Method::GET, "/nothing/here", 404, "Not Found"),
    ] {
        let answer = world.ask(method.clone(), path, &token, &[], Value::Null).await;
        assert_eq!((answer.status.as_u16(), answer.message()), (status, message), "{method} {path}");
    }
    let refused = world.ask(Method::PATCH, "/repos/acme/shop", &token, &[], json!({"archived": true})).await;
    assert_eq!(refused.header("x-accepted-github-permissions"), "administration=write");
    assert_eq!(world.get("/repos/acme/shop", &token).await.body["archived"], false);
    let listed = world.get("/installation/repositories", &token).await;
    assert_eq!((&listed.body["total_count"], &listed.body["repository_selection"]), (&json!(1), &json!("selected")));
    assert_eq!(world.get("/repos/acme/shop", "").await.status.as_u16(), 404);
    assert_eq!(world.get("/installation/repositories", &world.jwt()).await.status.as_u16(), 403);
}

#[tokio::test]
async fn a_living_token_follows_what_the_account_takes_back() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    world.sim.select_repositories(4242, &Selection::Selected(vec!["attic".into()])).unwrap();
    assert_eq!(world.get("/repos/acme/shop", &token).await.status.as_u16(), 404);
    assert_eq!(world.get("/repos/acme/attic", &token).await.status.as_u16(), 200);
    world.sim.grant(4242, permissions(&[("metadata", Level::Read)])).unwrap();
    assert_eq!(world.get("/repos/acme/attic/branches", &token).await.status.as_u16(), 403);
}

#[tokio::test]
async fn a_token_ends_with_the_clock_and_by_revocation() {
    let world = World::new().await;
    let first = world.token(json!({})).await;
    // Its clock goes on by itself, too.
    world.sim.advance(Duration::from_mins(50));
    assert_eq!(world.get("/repos/acme/shop", &first).await.status.as_u16(), 200);
    world.sim.advance(Duration::from_mins(10));
    let ended = world.get("/repos/acme/shop", &first).await;
    let date = jiff::fmt::rfc2822::parse(ended.header("date")).unwrap().timestamp();
    assert!(world.sim.now().duration_since(date).as_secs() <= 600, "the Date is of the simulator's clock");
    assert_eq!((ended.status.as_u16(), ended.message()), (401, "Bad credentials"));

    world.sim.set_token_life(Duration::from_secs(90));
    let before = world.sim.now();
    let minted = world.mint(json!({})).await;
    let expires: jiff::Timestamp = minted.body["expires_at"].as_str().unwrap().parse().unwrap();
    // It is written in whole seconds.
    let possible = before.as_second() + 90..=world.sim.now().as_second() + 90;
    assert!(possible.contains(&expires.as_second()), "{expires} is not in {possible:?}");
    let second = minted.body["token"].as_str().unwrap();
    let revoked = world.ask(Method::DELETE, "/installation/token", second, &[], Value::Null).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get("/repos/acme/shop", second).await.status.as_u16(), 401);
    assert!(world.sim.live_tokens().is_empty());
}

#[tokio::test]
async fn etags_belong_to_a_token_and_a_304_is_free() {
    let world = World::new().await;
    let (one, other) = (world.token(json!({})).await, world.token(json!({})).await);
    let path = "/repos/acme/shop/branches/main";
    let first = world.get(path, &one).await;
    let tag = first.header("etag").to_owned();
    let with = [("If-None-Match", tag.as_str())];
    let again = world.ask(Method::GET, path, &one, &with, Value::Null).await;
    assert_eq!((again.status.as_u16(), &again.body), (304, &Value::Null));
    assert_eq!(again.header("x-ratelimit-used"), first.header("x-ratelimit-used"));
    assert_eq!(world.ask(Method::GET, path, &other, &with, Value::Null).await.status.as_u16(), 200);
}

#[tokio::test]
async fn requests_use_up_the_installations_budget() {
    let world = World::new().await;
    world.sim.set_rate_limit(3);
    let (one, other) = (world.token(json!({})).await, world.token(json!({})).await);
    for remaining in ["2", "1", "0"] {
        let token = if remaining == "1" { &other } else { &one };
        assert_eq!(world.get("/repos/acme/shop", token).await.header("x-ratelimit-remaining"), remaining);
    }
    let refused = world.ask(Method::DELETE, "/installation/token", &one, &[], Value::Null).await;
    assert_eq!(refused.status.as_u16(), 403);
    assert!(refused.message().starts_with("API rate limit exceeded for installation ID 4242"), "{}", refused.message());
    assert_eq!(world.sim.live_tokens().len(), 2, "what is refused has no effect");
    world.sim.advance(Duration::from_hours(1));
    world.sim.set_token_life(Duration::from_hours(1));
    let later = world.token(json!({})).await;
    assert_eq!(world.get("/repos/acme/shop", &later).await.status.as_u16(), 200);
}

#[tokio::test]
async fn the_log_tells_who_asked_what() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    world.get("/repos/acme/shop?x=1", &token).await;
    world.get("/no/such/route", &token).await;
    let log = world.sim.requests();
    assert_eq!(log.len(), 3);
    assert_eq!(log[0].route.as_deref(), Some("/app/installations/{installation_id}/access_tokens"));
    assert_eq!((log[0].status, log[0].caller), (Some(201), Caller::App(APP)));
    assert_eq!((log[1].query.as_str(), log[1].caller), ("x=1", Caller::Installation(4242)));
    assert_eq!((log[1].user_agent.as_str(), log[1].sequence), ("tests", 2));
    assert!(log[2].unknown && !log[1].unknown);
    assert!(!serde_json::to_string(&log).unwrap().contains("ghs_"));
    let counts = world.sim.request_counts();
    assert!(counts.iter().any(|count| count.route == "/repos/{owner}/{repo}" && count.count == 1), "{counts:?}");
    world.sim.reset_requests();
    assert!(world.sim.requests().is_empty());
}
