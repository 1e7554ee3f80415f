//! `InstallationToken`: created, changed, deleted, repaired, renewed, adopted, refused.

use crate::world::{World, objects, text};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use serde_json::json;

#[tokio::test]
async fn a_token_is_minted_verified_and_published() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    let operator = world.operator().await;
    world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    let app = world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    assert!(app.contains("installed on 1 accounts"), "{app}");
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    let secret = world.get::<Secret>("team-a", "shop-git").await.expect("a Secret");
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/basic-auth"));
    assert_eq!(text(&secret, "username").as_deref(), Some("x-access-token"));
    assert!(text(&secret, "password").unwrap().starts_with("ghs_4242_"));
    assert_eq!(text(&secret, "ca.crt").as_deref(), Some(world.sim.ca_pem()));
    operator.settled().await;
    assert_eq!(world.mints(), 1);
    assert_eq!(world.sim.live_tokens().len(), 1);
    assert_eq!(world.sim.live_tokens()[0].repository_ids, Some(vec![9001]));
    world.live_through(&operator, SignedDuration::from_mins(1)).await;
    operator.stop().await;
}
