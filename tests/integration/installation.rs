//! `GitHubInstallation`: the grant of an account to a namespace, in each of its states.

use crate::scene::{connected, is_alive, look, only_token, publish, published, says, token_in, value};
use github_sim::{Install, Selection};
use jiff::SignedDuration;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use landfall_world::{World, objects};
use serde_json::{Value, json};

fn declared(namespace: &str, name: &str, account: &str) -> Value {
    json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"appRef": {"name": "landfall"}, "account": account},
    })
}

fn again() -> Install {
    Install { app: "landfall".into(), account: "acme".into(), ..Install::default() }
}

async fn until(world: &World, reason: &str) -> String {
    world.until_reason::<GitHubInstallation>("team-a", "acme", reason).await
}

#[tokio::test]
async fn active_it_shows_what_was_granted() {
    let (world, operator) = connected().await;
    let status = value::<GitHubInstallation>(&world, "team-a", "acme").await["status"].clone();
    assert_eq!(status["installationID"], 501);
    assert_eq!(status["account"], json!({"id": 7001, "login": "acme", "type": "Organization"}));
    assert_eq!(status["repositorySelection"], "All");
    assert_eq!(status["permissions"]["repository_hooks"], "write", "what the account lets the App do");
    assert_eq!(status["granted"]["repositories"], json!(["lib-*", "shop"]), "what this namespace may ask for");
    assert_eq!(status["granted"]["permissions"]["contents"], "write");

    // The account selects repositories. The next look finds that.
    world.sim.select_repositories(501, &Selection::Selected(vec!["shop".into()])).unwrap();
    look(&world).await;
    world
        .until("the selection follows", async || {
            let status = value::<GitHubInstallation>(&world, "team-a", "acme").await["status"].clone();
            (status["repositorySelection"] == "Selected").then_some(())
        })
        .await;
    world.apply::<InstallationToken>(&objects::token("libs", &json!({"repositories": [{"name": "lib-core"}]}))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "libs", "RepositoryNotFound").await;
    says(&message, &["let acme add the repository to the installation"]);
    operator.stop().await;
}

#[tokio::test]
async fn suspended_and_unsuspended() {
    let (world, operator) = published(&json!({})).await;
    world.sim.suspend(501).unwrap();
    look(&world).await;
    let message = until(&world, "InstallationSuspended").await;
    says(&message, &["suspended", "its tokens do not work", "unsuspended at https://"]);
    let status = value::<GitHubInstallation>(&world, "team-a", "acme").await["status"].clone();
    assert!(status["suspensionTime"].is_string() && status["suspendedBy"].is_string(), "{status}");
    world.until_reason::<InstallationToken>("team-a", "shop", "InstallationSuspended").await;
    let mints = world.mints();
    world.live_through(&operator, SignedDuration::from_mins(30)).await;
    assert_eq!(world.mints(), mints, "nothing is minted meanwhile");

    world.sim.unsuspend(501).unwrap();
    look(&world).await;
    until(&world, "Active").await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    operator.stop().await;
}

#[tokio::test]
async fn revoked_and_installed_again_with_another_id() {
    let (world, operator) = published(&json!({})).await;
    let first = only_token(&world, "shop-git").await;
    world.sim.uninstall(501).unwrap();
    look(&world).await;
    let message = until(&world, "Revoked").await;
    says(&message, &["uninstalled from acme", "its tokens are dead", "install it again: https://"]);
    world.until_reason::<InstallationToken>("team-a", "shop", "Revoked").await;

    let id = world.sim.install(&again()).unwrap();
    assert_ne!(id, 501);
    look(&world).await;
    until(&world, "Active").await;
    world.until("another token is there", async || token_in(&world, "shop-git").await.filter(|t| *t != first)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    operator.settled().await;
    let token = only_token(&world, "shop-git").await;
    assert!(is_alive(&world, &token) && world.sim.live_tokens()[0].installation_id == id);
    let status = value::<GitHubInstallation>(&world, "team-a", "acme").await["status"].clone();
    assert_eq!(status["installationID"], id);
    operator.stop().await;
}

#[tokio::test]
async fn reinstalled_between_two_looks_its_tokens_are_minted_anew() {
    let (world, operator) = published(&json!({})).await;
    let first = only_token(&world, "shop-git").await;
    world.sim.uninstall(501).unwrap();
    let id = world.sim.install(&again()).unwrap();
    look(&world).await;
    world.until("another token is there", async || token_in(&world, "shop-git").await.filter(|t| *t != first)).await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    assert_eq!(world.sim.live_tokens()[0].installation_id, id);
    operator.stop().await;
}

#[tokio::test]
async fn not_installed_says_where_to_install_it() {
    let (world, operator) = connected().await;
    let tenants = json!([
        {"name": "acme", "account": "acme", "repositories": ["shop"], "namespaces": {"names": ["team-a"]}},
        {"name": "globex", "account": "globex", "repositories": ["plans"], "namespaces": {"names": ["team-a"]}},
    ]);
    world.apply::<GitHubApp>(&objects::app(&world, &tenants)).await;
    let message = world.until_reason::<GitHubInstallation>("team-a", "globex", "NotInstalled").await;
    says(&message, &["not installed on globex", "can install it: https://", "/apps/landfall/installations/new"]);
    let spec = json!({"installationRef": {"name": "globex"}, "repositories": [{"name": "plans"}],
        "permissions": {"contents": "read"}});
    world.apply::<InstallationToken>(&objects::token("plans", &spec)).await;
    world.until_reason::<InstallationToken>("team-a", "plans", "NotInstalled").await;

    // The look of every half hour finds it without a request.
    world.sim.install(&Install { account: "globex".into(), ..again() }).unwrap();
    world.live_through(&operator, SignedDuration::from_mins(40)).await;
    world.until_reason::<GitHubInstallation>("team-a", "globex", "Active").await;
    publish(&world, "plans", &spec).await;
    operator.stop().await;
}

#[tokio::test]
async fn who_was_not_granted_learns_nothing() {
    let (world, operator) = connected().await;
    world.apply::<GitHubInstallation>(&declared("team-b", "acme", "acme")).await;
    let message = world.until_reason::<GitHubInstallation>("team-b", "acme", "AccountNotGranted").await;
    says(&message, &["does not grant account acme to namespace team-b", "spec.tenants"]);
    operator.settled().await;
    let mut status = value::<GitHubInstallation>(&world, "team-b", "acme").await["status"].clone();
    let status = status.as_object_mut().unwrap();
    status.retain(|key, _| key != "conditions" && key != "observedGeneration");
    assert!(status.is_empty(), "{status:?}");
    // The message does not reveal whether the account exists: it is the same.
    world.apply::<GitHubInstallation>(&declared("team-b", "none", "no-such-account")).await;
    let other = world.until_reason::<GitHubInstallation>("team-b", "none", "AccountNotGranted").await;
    assert_eq!(other.replace("no-such-account", "acme"), message);
    operator.stop().await;
}

#[tokio::test]
async fn a_grant_that_is_withdrawn_clears_what_was_shown() {
    let (world, operator) = connected().await;
    world.apply::<GitHubInstallation>(&declared("team-a", "mine", "acme")).await;
    world.until_reason::<GitHubInstallation>("team-a", "mine", "Active").await;
    world.apply::<GitHubApp>(&objects::app(&world, &json!([]))).await;
    world.until_reason::<GitHubInstallation>("team-a", "mine", "AccountNotGranted").await;
    let status = value::<GitHubInstallation>(&world, "team-a", "mine").await["status"].clone();
    assert_eq!((&status["installationID"], &status["granted"]), (&Value::Null, &Value::Null));
    operator.stop().await;
}

#[tokio::test]
async fn its_annotation_makes_the_operator_look_now() {
    let (world, operator) = connected().await;
    operator.settled().await;
    let before = world.calls("GET", "/app/installations");
    world.sim.suspend(501).unwrap();
    let wish = json!({"metadata": {"annotations": {"landfall.dev/reconcile": "now"}}});
    world.merge::<GitHubInstallation>("team-a", "acme", &wish).await.unwrap();
    until(&world, "InstallationSuspended").await;
    operator.settled().await;
    assert_eq!(world.calls("GET", "/app/installations"), before + 1, "once, not for ever");
    let status = value::<GitHubInstallation>(&world, "team-a", "acme").await["status"].clone();
    assert_eq!(status["lastHandledReconcile"], "now");
    operator.stop().await;
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_with_what_to_do() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    world.apply::<GitHubInstallation>(&declared("team-a", "mine", "acme")).await;
    let mut other_app = declared("team-a", "mine", "acme");
    other_app["spec"]["appRef"]["name"] = "another".into();
    for (object, words) in [
        (declared("team-a", "mine", "globex"), "spec.account cannot be changed: make another GitHubInstallation"),
        (other_app, "spec.appRef cannot be changed: make another GitHubInstallation"),
        (declared("team-a", "new", "https://github.com/acme"), "without @ or a URL"),
        (declared("team-a", "new", ""), "spec.account"),
    ] {
        says(&world.try_apply::<GitHubInstallation>(&object).await.unwrap_err().to_string(), &[words]);
    }
}
