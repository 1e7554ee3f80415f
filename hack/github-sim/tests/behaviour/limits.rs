//! The secondary rate limits: off at first, and then GitHub's, for each App and each installation.

use std::time::Duration;

use github_sim::{Fault, FaultKind, SecondaryLimits};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{Answer, World};

/// Asserts a refusal by a secondary limit, and returns the seconds to wait.
fn wait_of(answer: &Answer, status: StatusCode) -> u64 {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.message().starts_with("You have exceeded a secondary rate limit"), "{answer:?}");
    assert!(answer.header("x-ratelimit-remaining").parse::<u64>().unwrap() > 0, "the hour's budget is not empty");
    answer.header("retry-after").parse().unwrap()
}

#[tokio::test]
async fn the_defaults_are_githubs_and_off_at_first() {
    let world = World::new().await;
    let limits = SecondaryLimits::default();
    assert_eq!((limits.concurrent, limits.points, limits.graphql_points), (100, 900, 2000));
    assert_eq!((limits.content_per_minute, limits.content_per_hour), (80, 500));
    for _ in 0..181 {
        world.token(json!({})).await;
    }
    let control = format!("{}/_sim/secondary-limits", world.sim.base_url());
    assert_eq!(
        world.ask(Method::PUT, &control, "", &[("Content-Type", "application/json")], json!({})).await.status,
        204
    );
    for _ in 0..180 {
        world.token(json!({})).await;
    }
    assert!((1..=60).contains(&wait_of(&world.mint(json!({})).await, StatusCode::FORBIDDEN)));
    assert_eq!(world.ask(Method::DELETE, &control, "", &[], Value::Null).await.status, 204);
    world.token(json!({})).await;
}

#[tokio::test]
async fn reads_cost_one_point_and_writes_five_for_each_caller() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    world.sim.set_secondary_limits(Some(SecondaryLimits { points: 7, ..SecondaryLimits::default() }));
    world.token(json!({})).await;
    for _ in 0..2 {
        assert_eq!(world.get("/app", &world.jwt()).await.status, StatusCode::OK);
    }
    let wait = wait_of(&world.get("/app", &world.jwt()).await, StatusCode::FORBIDDEN);
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(
        world.get("/repos/acme/shop", &token).await.status,
        StatusCode::OK,
        "the installation has its own limit"
    );
    world.sim.advance(Duration::from_secs(wait));
    assert_eq!(world.get("/app", &world.jwt()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn created_content_is_limited_by_the_minute_and_by_the_hour() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let limits = SecondaryLimits { content_per_minute: 2, content_per_hour: 3, ..SecondaryLimits::default() };
    world.sim.set_secondary_limits(Some(limits));
    let sha = world.sim.head("acme/shop", "main").unwrap();
    let create = async |name: &str| {
        let wish = json!({"ref": format!("refs/heads/{name}"), "sha": sha});
        world.post("/repos/acme/shop/git/refs", &token, wish).await
    };
    for name in ["one", "two"] {
        assert_eq!(create(name).await.status, StatusCode::CREATED);
    }
    let refused = create("three").await;
    assert!(refused.message().contains("temporarily blocked from content creation"), "{refused:?}");
    let wait = wait_of(&refused, StatusCode::FORBIDDEN);
    assert!(wait <= 60 && world.get("/repos/acme/shop", &token).await.status == StatusCode::OK, "{wait}");
    world.sim.advance(Duration::from_secs(wait));
    assert_eq!(create("three").await.status, StatusCode::CREATED);
    let wait = wait_of(&create("four").await, StatusCode::FORBIDDEN);
    assert!((3000..=3600).contains(&wait), "{wait}");
}

#[tokio::test]
async fn too_many_concurrent_requests_are_refused() {
    let world = World::new().await;
    world.sim.set_secondary_limits(Some(SecondaryLimits { concurrent: 2, ..SecondaryLimits::default() }));
    world.sim.inject(Fault::new("GET", "/app/installations", FaultKind::Delay { milliseconds: 3000 }).times(2));
    let jwt = world.jwt();
    let slow = || world.get("/app/installations", &jwt);
    let third = async {
        while world.sim.faults()[0].struck < 2 {
            tokio::task::yield_now().await;
        }
        world.get("/app", &jwt).await
    };
    let (one, two, third) = tokio::join!(slow(), slow(), third);
    assert_eq!((one.status, two.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(wait_of(&third, StatusCode::TOO_MANY_REQUESTS), 60);
    assert_eq!(world.get("/app", &jwt).await.status, StatusCode::OK);
}
