//! Several operators, health and metrics: which one leads, and the answers for a kubelet and a scraper.

use crate::scene::{only_token, publish};
use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use landfall::api::{GitHubApp, GitHubInstallation};
use landfall_world::operator::{Operator, Start};
use landfall_world::{SYSTEM, World, objects};
use serde_json::json;
use std::time::Duration;

async fn candidate(world: &World, name: &str) -> Operator {
    world.start(Start { identity: name.into(), elects: true, ..Start::default() }).await
}

/// The holder of the Lease.
async fn holder(world: &World) -> Option<String> {
    world.get::<Lease>(SYSTEM, "landfall-controller").await?.spec?.holder_identity
}

async fn until_leads(world: &World, name: &str) {
    world.until(&format!("{name} leads"), async || holder(world).await.filter(|who| who.starts_with(name))).await;
}

#[tokio::test]
async fn one_leads_and_another_takes_over_from_who_stops_or_dies() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    let first = candidate(&world, "first").await;
    until_leads(&world, "first").await;
    let second = candidate(&world, "second").await;
    second.ready().await;
    assert!(second.serves("/metrics").await.1.contains("landfall_leader 0"), "who waits is ready, and does not lead");
    world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    publish(&world, "shop", &json!({})).await;
    let token = only_token(&world, "shop-git").await;
    assert!(first.serves("/metrics").await.1.contains("landfall_leader 1"));

    // An operator that stops releases the Lease.
    first.stop().await;
    until_leads(&world, "second").await;
    publish(&world, "libs", &json!({"repositories": [{"name": "lib-core"}]})).await;
    assert_eq!(world.mints(), 2, "what the other published is taken up, not minted again");

    // An operator that is killed lets it expire.
    second.kill();
    let third = candidate(&world, "third").await;
    until_leads(&world, "third").await;
    third.settled().await;
    world.live_through(&third, SignedDuration::from_mins(5)).await;
    assert_eq!(world.mints(), 2);
    assert_eq!(crate::scene::token_in(&world, "shop-git").await.unwrap(), token);
    third.stop().await;
}

#[tokio::test]
async fn readiness_tells_the_truth() {
    let world = World::new().await;
    // If the API server cannot be reached, the operator is alive and not ready, and says why.
    let unreachable = Start {
        kube: Box::new(|config| {
            let mut config = config;
            config.cluster_url = "https://127.0.0.1:1".parse().unwrap();
            config.connect_timeout = Some(Duration::from_secs(1));
            kube::Client::try_from(config).unwrap()
        }),
        ..Start::default()
    };
    let operator = world.start(unreachable).await;
    let (status, body) = operator.serves("/readyz").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("caches"), "{body}");
    assert_eq!(operator.serves("/livez").await.0, 200);
    operator.kill();

    let operator = world.operator().await;
    operator.ready().await;
    assert_eq!(operator.serves("/livez").await.0, 200);
    assert_eq!(operator.serves("/").await.0, 404);
    operator.stop().await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let (world, operator) = crate::scene::published(&json!({})).await;
    world.delete::<landfall::api::InstallationToken>("team-a", "shop").await;
    world.until_gone::<landfall::api::InstallationToken>("team-a", "shop").await;
    operator.settled().await;
    let (status, metrics) = operator.serves("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        r#"landfall_tokens_total{event="minted"} 1"#,
        r#"landfall_tokens_total{event="verified"} 1"#,
        r#"landfall_tokens_total{event="revoked"} 1"#,
        r#"landfall_objects{kind="GitHubApp",ready="True",reason="Connected"} 1"#,
        r#"landfall_objects{kind="GitHubInstallation",ready="True",reason="Active"} 1"#,
        r#"landfall_github_requests_total{method="POST",route="/app/installations/{installation_id}/access_tokens",code="201"} 1"#,
        r#"landfall_reconciles_total{kind="InstallationToken",outcome="ok"}"#,
        r#"landfall_ready{check="caches"} 1"#,
        "landfall_leader 1",
        "landfall_events_failed_total 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("team-a") && !metrics.contains("shop"), "no label that a tenant could fill");
    operator.stop().await;
}
