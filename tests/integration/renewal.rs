//! Renewal: on time, by the clock, and without a gap for users of the Secret.

use crate::scene::{connected, is_alive, only_token, publish, published, says, token_in, value};
use github_sim::{Fault, FaultKind, SecondaryLimits};
use jiff::SignedDuration;
use landfall::api::InstallationToken;
use landfall_world::{objects, ready};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_not_earlier_than_it_must() {
    let (world, operator) = published(&json!({"renewBefore": "10m"})).await;
    let first = only_token(&world, "shop-git").await;
    world.live_through(&operator, SignedDuration::from_mins(44)).await;
    assert_eq!(token_in(&world, "shop-git").await.unwrap(), first, "10 minutes and at most half as much again");
    world.live_through(&operator, SignedDuration::from_mins(7)).await;
    let second = token_in(&world, "shop-git").await.unwrap();
    assert_ne!(second, first);
    assert!(is_alive(&world, &first), "who still holds the old one can go on using it until it expires");
    assert_eq!((world.mints(), world.calls("GET", "/installation/repositories")), (2, 2));
    world.live_through(&operator, SignedDuration::from_mins(10)).await;
    assert_eq!(only_token(&world, "shop-git").await, second);
    operator.stop().await;
}

#[tokio::test]
async fn a_short_life_is_renewed_at_half_time_and_for_ever() {
    let (world, operator) = connected().await;
    world.sim.set_token_life(Duration::from_mins(5));
    publish(&world, "shop", &json!({})).await;
    world.live_through(&operator, SignedDuration::from_mins(30)).await;
    let token = token_in(&world, "shop-git").await.unwrap();
    assert!(is_alive(&world, &token));
    // Five minutes are renewed at half of them before their end, or up to half as much again earlier, so each lives
    // from 75 to 150 seconds.
    assert!((12..=25).contains(&world.mints()), "{}", world.mints());
    operator.stop().await;
}

#[tokio::test]
async fn a_renewal_due_while_the_operator_was_away_happens_at_its_return() {
    let (world, operator) = published(&json!({})).await;
    let first = only_token(&world, "shop-git").await;
    operator.kill();
    world.advance(SignedDuration::from_mins(70));
    assert!(!is_alive(&world, &first));
    let operator = world.operator().await;
    world.until("it is renewed", async || token_in(&world, "shop-git").await.filter(|token| *token != first)).await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    operator.stop().await;
}

#[tokio::test]
async fn while_github_is_away_the_token_stays_and_its_object_says_so() {
    let (world, operator) = published(&json!({})).await;
    let first = only_token(&world, "shop-git").await;
    let answer = FaultKind::Status { status: 503, body: None, headers: [].into() };
    world.sim.inject(Fault::new("POST", "/app/installations/*/access_tokens", answer).times(1000));
    world.live_through(&operator, SignedDuration::from_mins(52)).await;
    let object = value::<InstallationToken>(&world, "team-a", "shop").await;
    assert_eq!(ready(&object)["status"], "True", "the published token is still good");
    says(
        ready(&object)["message"].as_str().unwrap(),
        &["good until status.expirationTime", "503", "retried by itself"],
    );
    assert_eq!(only_token(&world, "shop-git").await, first);
    let tries = world.mints() - 1;
    assert!((2..=12).contains(&tries), "with growing pauses, not {tries} times");

    world.live_through(&operator, SignedDuration::from_mins(12)).await;
    let object = value::<InstallationToken>(&world, "team-a", "shop").await;
    assert_eq!(ready(&object)["status"], "False", "now it has expired");

    world.sim.clear_faults();
    world.live_through(&operator, SignedDuration::from_mins(6)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    only_token(&world, "shop-git").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_rate_limit_is_waited_out() {
    let (world, operator) = connected().await;
    let headers = [("retry-after".to_owned(), "120".to_owned())].into();
    let body =
        json!({"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."});
    let answer = FaultKind::Status { status: 403, body: Some(body), headers };
    world.sim.inject(Fault::new("POST", "/app/installations/*/access_tokens", answer));
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "RateLimited").await;
    says(&message, &["secondary rate limit", "retried by itself"]);
    world.live_through(&operator, SignedDuration::from_secs(110)).await;
    assert_eq!(world.mints(), 1, "not before its time");
    world.live_through(&operator, SignedDuration::from_secs(20)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    operator.stop().await;
}

/// The simulator enforces the limit itself here: the first token uses up the App's minute.
#[tokio::test]
async fn a_token_refused_by_the_secondary_limit_is_published_at_the_stated_time() {
    let (world, operator) = connected().await;
    world.sim.set_secondary_limits(Some(SecondaryLimits { points: 9, ..SecondaryLimits::default() }));
    publish(&world, "shop", &json!({})).await;
    world.apply::<InstallationToken>(&objects::token("second", &json!({}))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "second", "RateLimited").await;
    says(&message, &["secondary rate limit", "retried by itself as soon as GitHub allows it"]);
    world.live_through(&operator, SignedDuration::from_secs(40)).await;
    assert_eq!(world.mints(), 2, "not before its time");
    world.live_through(&operator, SignedDuration::from_secs(30)).await;
    world.until_reason::<InstallationToken>("team-a", "second", "Published").await;
    assert_eq!(world.mints(), 3);
    operator.stop().await;
}
