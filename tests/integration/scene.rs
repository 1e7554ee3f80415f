//! The common beginning of most tests, and the checks that most of them use.

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use landfall_world::operator::Operator;
use landfall_world::{World, objects, text};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// A world with the namespaces team-a and team-b, an operator, and an App that grants acme to team-a.
pub async fn connected() -> (World, Operator) {
    granted(&objects::tenants()).await
}

/// The same with these grants, one of which must give acme to team-a.
pub async fn granted(tenants: &Value) -> (World, Operator) {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    world.namespace("team-b", &[]).await;
    let operator = world.operator().await;
    world.apply::<GitHubApp>(&objects::app(&world, tenants)).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    (world, operator)
}

/// The same, with InstallationToken shop published.
pub async fn published(spec: &Value) -> (World, Operator) {
    let (world, operator) = connected().await;
    publish(&world, "shop", spec).await;
    operator.settled().await;
    (world, operator)
}

/// Applies an InstallationToken and waits until it is published.
pub async fn publish(world: &World, name: &str, spec: &Value) {
    world.apply::<InstallationToken>(&objects::token(name, spec)).await;
    world.until_reason::<InstallationToken>("team-a", name, "Published").await;
}

/// Requests a look at GitHub by the annotation on the GitHubApp, and waits for it.
pub async fn look(world: &World) {
    let wish = format!("{:016x}", rand::random::<u64>());
    let change = json!({"metadata": {"annotations": {"landfall.dev/reconcile": wish}}});
    world.merge::<GitHubApp>("", "landfall", &change).await.expect("annotated");
    world
        .until("the operator looked", async || {
            let app = world.get::<GitHubApp>("", "landfall").await?;
            (app.status?.last_handled_reconcile.as_ref() == Some(&wish)).then_some(())
        })
        .await;
}

/// Any object as JSON.
pub async fn value<K>(world: &World, namespace: &str, name: &str) -> Value
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + serde::Serialize,
{
    let object = world.get::<K>(namespace, name).await.unwrap_or_else(|| panic!("there is no {namespace}/{name}"));
    serde_json::to_value(object).expect("json")
}

/// The token in a Secret of team-a.
pub async fn token_in(world: &World, secret: &str) -> Option<String> {
    let secret = world.get::<Secret>("team-a", secret).await?;
    text(&secret, "password").or_else(|| text(&secret, "token"))
}

/// The digest that the simulator uses to name a token.
pub fn sha256(token: &str) -> String {
    hex::encode(digest(&SHA256, token.as_bytes()))
}

/// Whether GitHub still accepts a token.
pub fn is_alive(world: &World, token: &str) -> bool {
    world.sim.live_tokens().iter().any(|alive| alive.sha256 == sha256(token))
}

/// Checks that the token in this Secret of team-a is good and the only live one. Returns it.
pub async fn only_token(world: &World, secret: &str) -> String {
    let token = token_in(world, secret).await.unwrap_or_else(|| panic!("there is no token in {secret}"));
    let alive: Vec<_> = world.sim.live_tokens().into_iter().map(|alive| alive.sha256).collect();
    assert_eq!(alive, [sha256(&token)], "the token in {secret} and no other is alive");
    token
}

/// Checks that a message contains these words.
pub fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}
