//! The end of a namespace for which the chart's `secretNamespaces` has the operator bound: the RoleBinding goes first. The
//! operator may not read the token's Secret any more, and holds the namespace up in no case.

use super::Told;
use crate::judge::Counts;
use crate::point::{Fault, Point};
use crate::run::Run;
use http::{Method, Request};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Client, Resource};
use landfall::api::{GitHubInstallation, InstallationToken};
use landfall_world::objects;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

const LIVE: &str = "tokens live";
const RELEASE: &str = "bound";
const NAMESPACE: &str = "team-a";
/// Longer than all retries, and shorter than an object waits that is deleted alone.
const WITHIN: SignedDuration = SignedDuration::from_mins(3);

/// The points of the token. Which of the operator's other objects goes first depends on timing.
pub fn records(point: &Point) -> bool {
    point.kind.contains(" installationtokens team-a/") || point.kind.contains("/installation/token")
}

pub async fn life(run: &Run) -> Told {
    let world = &run.world;
    let account = world.release(RELEASE, &["--set=secretNamespaces={team-a}"]).await;
    let client = Client::try_from(account.clone()).expect("a client");
    assert!(run.account.set((account, vec![NAMESPACE.to_owned()])).is_ok(), "it is set once");
    until_bound(run, &client, true).await;
    run.begin().await;
    run.connect(&objects::app(world, &objects::tenants())).await?;
    world.apply::<InstallationToken>(&objects::token("a", &json!({}))).await;
    let is_published = async || run.is_ready::<InstallationToken>(NAMESPACE, "a", "Published").await;
    run.reach("the token is published", is_published).await?;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/team-a/rolebindings";
    for binding in
        ask(&world.admin, Method::GET, bindings).await.expect("bindings")["items"].as_array().expect("a list")
    {
        let name = binding["metadata"]["name"].as_str().expect("a name");
        if name.starts_with(RELEASE) {
            ask(&world.admin, Method::DELETE, &format!("{bindings}/{name}")).await.expect("deleted");
        }
    }
    until_bound(run, &client, false).await;

    run.act("the namespace is deleted");
    world.delete::<Namespace>("", NAMESPACE).await;
    // Kubernetes deletes one kind after the other, in its own time.
    world.until_gone::<Secret>(NAMESPACE, "a-git").await;
    until_deleted::<InstallationToken>(run, "a").await;
    until_deleted::<GitHubInstallation>(run, "acme").await;
    run.live_until(world.now() + WITHIN).await?;
    run.between.act(None);
    let tokens = run.state().await["tokens"].take();
    Ok(([(LIVE, world.sim.live_tokens().len())].into(), json!({"tokens": tokens})))
}

/// Waits until an object is gone, or is being deleted.
async fn until_deleted<K>(run: &Run, name: &str)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let is_deleted = async || {
        let object = run.world.get::<K>(NAMESPACE, name).await;
        object.is_none_or(|object| object.meta().deletion_timestamp.is_some()).then_some(())
    };
    run.world.until(&format!("{name} is deleted"), is_deleted).await;
}

/// An operator that is killed before it revokes the token leaves it to expire: nobody may read the Secret any more.
pub fn allowance(points: &[(Point, &'static str)], index: usize, fault: Fault) -> Counts {
    let is_lost = fault == Fault::KilledBefore && points[index].0.kind.contains("/installation/token");
    [(LIVE, usize::from(is_lost))].into()
}

async fn ask(client: &Client, method: Method, path: &str) -> Result<Value, kube::Error> {
    client.request(Request::builder().method(method).uri(path).body(Vec::new()).expect("a request")).await
}

/// Waits until the API server knows whether the operator may read Secrets.
async fn until_bound(run: &Run, client: &Client, is_bound: bool) {
    let knows = async || {
        let answer = ask(client, Method::GET, "/api/v1/namespaces/team-a/secrets").await;
        (answer.is_ok() == is_bound).then_some(())
    };
    run.world.until("the API server knows the binding", knows).await;
}
