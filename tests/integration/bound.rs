//! The chart's value `secretNamespaces`: the operator has a RoleBinding in each namespace, and somebody deletes one.

use crate::scene::says;
use http::{Method, Request};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Client, Config};
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use landfall_world::operator::{Operator, Start};
use landfall_world::{World, objects, text, until};
use serde_json::{Value, json};

const RELEASE: &str = "bound";
/// The second one is deleted in a test.
const NAMESPACES: [&str; 2] = ["team-a", "team-bound"];

struct Scene {
    world: World,
    account: Config,
}

async fn ask(client: &Client, method: Method, path: &str) -> Result<Value, kube::Error> {
    client.request(Request::builder().method(method).uri(path).body(Vec::new()).unwrap()).await
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        for namespace in NAMESPACES {
            world.namespace(namespace, &[]).await;
        }
        let account = world.release(RELEASE, &["--set=secretNamespaces={team-a,team-bound}"]).await;
        let scene = Self { world, account };
        scene.until_bound(true).await;
        scene
    }

    async fn operator(&self) -> Operator {
        let account = self.account.clone();
        let kube = Box::new(move |_| Client::try_from(account.clone()).unwrap());
        let secret_namespaces = NAMESPACES.map(str::to_owned).to_vec();
        self.world.start(Start { kube, secret_namespaces, ..Start::default() }).await
    }

    /// Waits until the API server knows whether the operator may read Secrets in team-bound.
    async fn until_bound(&self, is_bound: bool) {
        let client = Client::try_from(self.account.clone()).unwrap();
        until("the API server knows the binding", async || {
            let answer = ask(&client, Method::GET, "/api/v1/namespaces/team-bound/secrets").await;
            (answer.is_ok() == is_bound).then_some(())
        })
        .await;
    }

    /// Deletes the RoleBinding in team-bound.
    async fn unbind(&self) {
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/team-bound/rolebindings";
        let listed = ask(&self.world.admin, Method::GET, bindings).await.unwrap();
        let names = listed["items"].as_array().unwrap().iter().filter_map(|it| it["metadata"]["name"].as_str());
        for name in names.filter(|name| name.starts_with(RELEASE)) {
            ask(&self.world.admin, Method::DELETE, &format!("{bindings}/{name}")).await.unwrap();
        }
        self.until_bound(false).await;
    }

    async fn publish(&self, namespace: &str, name: &str) {
        self.make(namespace, name).await;
        self.world.until_reason::<InstallationToken>(namespace, name, "Published").await;
    }

    async fn make(&self, namespace: &str, name: &str) {
        let mut token = objects::token(name, &json!({}));
        token["metadata"]["namespace"] = namespace.into();
        self.world.apply::<InstallationToken>(&token).await;
    }

    /// An operator, and a token in each namespace.
    async fn published(&self) -> Operator {
        let operator = self.operator().await;
        let mut tenants = objects::tenants();
        tenants[0]["namespaces"]["names"] = json!(NAMESPACES);
        self.world.apply::<GitHubApp>(&objects::app(&self.world, &tenants)).await;
        for namespace in NAMESPACES {
            self.world.until_reason::<GitHubInstallation>(namespace, "acme", "Active").await;
            self.publish(namespace, "shop").await;
        }
        operator.settled().await;
        operator
    }
}

#[tokio::test]
async fn a_namespace_without_its_binding_stops_no_other() {
    let scene = Scene::new().await;
    let world = &scene.world;
    scene.published().await.kill();
    scene.unbind().await;
    let operator = scene.operator().await;
    operator.ready().await;
    let (status, text) = operator.serves("/readyz").await;
    assert_eq!(status, 200);
    says(&text, &["[+]caches ok", "Secrets in team-bound", "helm upgrade"]);
    scene.publish("team-a", "another").await;
    scene.make("team-bound", "another").await;
    for name in ["another", "shop"] {
        let message = world.until_reason::<InstallationToken>("team-bound", name, "KubernetesRefused").await;
        says(&message, &["team-bound", "secretNamespaces", "helm upgrade"]);
    }
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    let secret = world.get::<Secret>("team-a", "shop-git").await.unwrap();
    let alive = world.sim.live_tokens();
    let sha256 = crate::scene::sha256(&text_of(&secret));
    assert!(alive.iter().any(|token| token.sha256 == sha256), "it was renewed");

    // The binding comes back.
    world.release(RELEASE, &["--set=secretNamespaces={team-a,team-bound}"]).await;
    for name in ["another", "shop"] {
        world.until_reason::<InstallationToken>("team-bound", name, "Published").await;
    }
    until("nothing is refused any more", async || {
        let (status, text) = operator.serves("/readyz").await;
        (status == 200 && !text.contains("team-bound")).then_some(())
    })
    .await;
    operator.stop().await;
}

fn text_of(secret: &Secret) -> String {
    text(secret, "password").unwrap()
}

#[tokio::test]
async fn a_deleted_namespace_goes_although_its_binding_went_first() {
    let scene = Scene::new().await;
    let world = &scene.world;
    let operator = scene.published().await;
    scene.unbind().await;
    world.delete::<Namespace>("", "team-bound").await;
    world.until_gone::<Namespace>("", "team-bound").await;
    operator.settled().await;
    assert_eq!(world.sim.live_tokens().len(), 1, "the token of team-bound was known, and revoked");
    operator.stop().await;
}

#[tokio::test]
async fn a_deleted_token_goes_after_a_while_although_its_secret_cannot_be_read() {
    let scene = Scene::new().await;
    let world = &scene.world;
    let operator = scene.published().await;
    scene.unbind().await;
    world.delete::<InstallationToken>("team-bound", "shop").await;
    let message = world.until_reason::<InstallationToken>("team-bound", "shop", "KubernetesRefused").await;
    says(&message, &["15 minutes", "secretNamespaces"]);
    assert_eq!(world.sim.live_tokens().len(), 1, "the token was known, and revoked at once");
    world.live_through(&operator, SignedDuration::from_mins(16)).await;
    world.until_gone::<InstallationToken>("team-bound", "shop").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_withdrawn_grant_revokes_a_token_whose_secret_cannot_be_read() {
    let scene = Scene::new().await;
    let world = &scene.world;
    let operator = scene.published().await;
    scene.unbind().await;
    world.apply::<GitHubApp>(&objects::app(world, &objects::tenants())).await;
    until("the token is revoked", async || (world.sim.live_tokens().len() == 1).then_some(())).await;
    operator.stop().await;
}
