//! Tokens are revoked with their objects: after deletions, withdrawn grants and deleted namespaces, also while GitHub
//! does not answer.

use crate::scene::{connected, is_alive, only_token, publish, published, says, token_in, value};
use github_sim::{Fault, FaultKind};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::ResourceExt;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use landfall_world::{World, objects, ready};
use serde_json::json;

fn github_is_away(world: &World) {
    let answer = FaultKind::Status { status: 502, body: None, headers: [].into() };
    world.sim.inject(Fault { method: None, path: None, nth: 1, times: 100_000, kind: answer });
}

#[tokio::test]
async fn a_deleted_token_is_dead_and_its_secret_gone() {
    let (world, operator) = published(&json!({})).await;
    world.delete::<InstallationToken>("team-a", "shop").await;
    world.until_gone::<InstallationToken>("team-a", "shop").await;
    assert!(world.sim.live_tokens().is_empty());
    assert!(world.get::<Secret>("team-a", "shop-git").await.is_none());
    operator.settled().await;
    assert_eq!((world.mints(), world.calls("DELETE", "/installation/token")), (1, 1));
    operator.stop().await;
}

#[tokio::test]
async fn deleted_while_the_operator_was_away_it_goes_at_its_return() {
    let (world, operator) = published(&json!({})).await;
    operator.kill();
    world.delete::<InstallationToken>("team-a", "shop").await;
    assert!(world.get::<InstallationToken>("team-a", "shop").await.is_some(), "the finalizer holds it");
    let operator = world.operator().await;
    world.until_gone::<InstallationToken>("team-a", "shop").await;
    assert!(world.sim.live_tokens().is_empty());
    operator.stop().await;
}

#[tokio::test]
async fn while_github_is_away_it_waits_and_goes_when_the_token_expires_at_the_latest() {
    let (world, operator) = published(&json!({})).await;
    github_is_away(&world);
    world.delete::<InstallationToken>("team-a", "shop").await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "APIFailed").await;
    says(&message, &["revoking", "502", "retried by itself", "at the latest when the token expires"]);
    world.live_through(&operator, SignedDuration::from_mins(30)).await;
    let object = world.get::<InstallationToken>("team-a", "shop").await.expect("the finalizer holds it");
    assert_eq!(object.finalizers(), ["landfall.dev/revoke"]);
    let tries = world.calls("DELETE", "/installation/token");
    assert!((3..=20).contains(&tries), "with growing pauses, not {tries} times");
    world.live_through(&operator, SignedDuration::from_mins(35)).await;
    world.until_gone::<InstallationToken>("team-a", "shop").await;
    assert!(world.get::<Secret>("team-a", "shop-git").await.is_none());
    operator.stop().await;
}

#[tokio::test]
async fn it_goes_as_soon_as_github_is_back() {
    let (world, operator) = published(&json!({})).await;
    github_is_away(&world);
    world.delete::<InstallationToken>("team-a", "shop").await;
    world.until_reason::<InstallationToken>("team-a", "shop", "APIFailed").await;
    world.sim.clear_faults();
    world.live_through(&operator, SignedDuration::from_mins(6)).await;
    world.until_gone::<InstallationToken>("team-a", "shop").await;
    assert!(world.sim.live_tokens().is_empty());
    operator.stop().await;
}

#[tokio::test]
async fn a_withdrawn_grant_takes_the_token_back() {
    let (world, operator) = published(&json!({})).await;
    publish(&world, "libs", &json!({"repositories": [{"name": "lib-core"}]})).await;
    let narrower = json!([{
        "name": "acme", "account": "acme", "repositories": ["lib-*"], "maxPermissions": {"contents": "write"},
        "namespaces": {"names": ["team-a"]},
    }]);
    world.apply::<GitHubApp>(&objects::app(&world, &narrower)).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "RepositoryNotGranted").await;
    says(&message, &["team-a", "shop", "spec.tenants[].repositories"]);
    operator.settled().await;
    assert!(world.get::<Secret>("team-a", "shop-git").await.is_none());
    only_token(&world, "libs-git").await;

    world.apply::<GitHubApp>(&objects::app(&world, &json!([]))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "libs", "AccountNotGranted").await;
    says(&message, &["acme", "team-a", "spec.tenants"]);
    operator.settled().await;
    assert!(world.sim.live_tokens().is_empty());
    assert!(world.get::<Secret>("team-a", "libs-git").await.is_none());

    world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    world.until_reason::<InstallationToken>("team-a", "libs", "Published").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_secret_whose_label_was_removed_is_taken_back_too() {
    let (world, operator) = published(&json!({})).await;
    only_token(&world, "shop-git").await;
    operator.kill();
    // The watch of the next operator does not bring this Secret.
    let unlabelled = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}});
    world.merge::<Secret>("team-a", "shop-git", &unlabelled).await.unwrap();
    world.apply::<GitHubApp>(&objects::app(&world, &json!([]))).await;
    let operator = world.operator().await;
    operator.ready().await;
    // The revocation may have to wait for the first look at the App.
    world.live_through(&operator, SignedDuration::from_mins(5)).await;
    assert!(world.get::<Secret>("team-a", "shop-git").await.is_none());
    assert!(world.sim.live_tokens().is_empty());
    operator.stop().await;
}

#[tokio::test]
async fn less_than_it_may_now_a_token_dies_with_the_grant_for_more() {
    let (world, operator) = published(&json!({})).await;
    let writes = only_token(&world, "shop-git").await;
    let reads = json!([{
        "name": "acme", "account": "acme", "repositories": ["shop"], "maxPermissions": {"contents": "read"},
        "namespaces": {"names": ["team-a"]},
    }]);
    world.apply::<GitHubApp>(&objects::app(&world, &reads)).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "InsufficientPermissions").await;
    says(&message, &["contents: write (has read)", "maxPermissions"]);
    operator.settled().await;
    assert!(!is_alive(&world, &writes));
    assert_eq!(token_in(&world, "shop-git").await, None);
    operator.stop().await;
}

#[tokio::test]
async fn a_deleted_installation_takes_its_tokens_along() {
    let (world, operator) = published(&json!({})).await;
    let declared = json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
        "metadata": {"name": "ours", "namespace": "team-a"},
        "spec": {"appRef": {"name": "landfall"}, "account": "acme"},
    });
    world.apply::<GitHubInstallation>(&declared).await;
    publish(&world, "libs", &json!({"installationRef": {"name": "ours"}})).await;
    assert_eq!(world.sim.live_tokens().len(), 2);
    world.delete::<GitHubInstallation>("team-a", "ours").await;
    world.until_gone::<GitHubInstallation>("team-a", "ours").await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    assert!(world.get::<Secret>("team-a", "libs-git").await.is_none());
    let message = world.until_reason::<InstallationToken>("team-a", "libs", "WaitingForReference").await;
    says(&message, &["there is no GitHubInstallation ours", "there are: acme"]);

    // The installation that the grants need is created again, and so is its token.
    let first = value::<GitHubInstallation>(&world, "team-a", "acme").await["metadata"]["uid"].clone();
    let token = only_token(&world, "shop-git").await;
    world.delete::<GitHubInstallation>("team-a", "acme").await;
    world
        .until("another is made", async || {
            let now = world.get::<GitHubInstallation>("team-a", "acme").await?;
            (now.uid()? != first).then_some(())
        })
        .await;
    world.until("another token is there", async || token_in(&world, "shop-git").await.filter(|t| *t != token)).await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_deleted_app_leaves_no_token_no_secret_and_no_installation() {
    let (world, operator) = published(&json!({})).await;
    world.delete::<GitHubApp>("", "landfall").await;
    world.until_gone::<GitHubApp>("", "landfall").await;
    world.until_gone::<GitHubInstallation>("team-a", "acme").await;
    assert!(world.sim.live_tokens().is_empty());
    assert!(world.get::<Secret>("team-a", "shop-git").await.is_none());
    world.until_reason::<InstallationToken>("team-a", "shop", "WaitingForReference").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_deleted_app_does_not_wait_for_ever() {
    let (world, operator) = published(&json!({})).await;
    github_is_away(&world);
    world.delete::<GitHubApp>("", "landfall").await;
    let message = world.until_reason::<GitHubApp>("", "landfall", "WaitingForDependents").await;
    says(&message, &["team-a/shop", "15 minutes at most"]);
    world.live_through(&operator, SignedDuration::from_mins(16)).await;
    world.until_gone::<GitHubApp>("", "landfall").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_deleted_namespace_leaves_no_token_behind() {
    let (world, operator) = connected().await;
    world.namespace("team-gone", &[]).await;
    let tenants = json!([{
        "name": "acme", "account": "acme", "repositories": ["shop"], "maxPermissions": {"contents": "write"},
        "namespaces": {"names": ["team-gone"]},
    }]);
    world.apply::<GitHubApp>(&objects::app(&world, &tenants)).await;
    world.until_reason::<GitHubInstallation>("team-gone", "acme", "Active").await;
    let mut token = objects::token("shop", &json!({}));
    token["metadata"]["namespace"] = "team-gone".into();
    world.apply::<InstallationToken>(&token).await;
    world.until_reason::<InstallationToken>("team-gone", "shop", "Published").await;
    world.delete::<Namespace>("", "team-gone").await;
    world.until_gone::<Namespace>("", "team-gone").await;
    operator.settled().await;
    // Its Secret may be deleted first, as long as the token is revoked.
    assert!(world.sim.live_tokens().is_empty());
    let app = value::<GitHubApp>(&world, "", "landfall").await;
    assert_eq!(ready(&app)["reason"], "Connected");
    operator.stop().await;
}
