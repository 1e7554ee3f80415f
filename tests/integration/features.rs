//! An installation with only the feature `tokens`: it works, and its account has no further permissions.

use crate::scene::{only_token, publish};
use http::{Method, Request};
use kube::{Client, Config};
use landfall::api::{GitHubApp, GitHubInstallation};
use landfall_world::operator::Start;
use landfall_world::{World, objects, until};
use serde_json::{Value, json};

const RELEASE: &str = "tokens-only";
const USER: &str = "system:serviceaccount:landfall-system:tokens-only";
const VALUES: [&str; 2] = ["--set=features.repositories.enabled=false", "--set=features.workspaces.enabled=false"];

async fn with_account() -> (World, Config) {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    let account = world.release(RELEASE, &VALUES).await;
    let client = Client::try_from(account.clone()).unwrap();
    // A watch of the API server brings the binding to its authorizer.
    until("the account has its rights", async || {
        ask(&client, Method::GET, "/apis/landfall.dev/v1alpha1/githubapps", &Value::Null).await.ok()
    })
    .await;
    (world, account)
}

async fn ask(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json").body(body);
    client.request(request.unwrap()).await
}

#[tokio::test]
async fn a_token_is_published_by_an_operator_that_may_do_nothing_else() {
    let (world, account) = with_account().await;
    let kube = Box::new(move |_| Client::try_from(account.clone()).unwrap());
    let operator = world.start(Start { features: "tokens".parse().unwrap(), kube, ..Start::default() }).await;
    operator.ready().await;
    world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    publish(&world, "shop", &json!({})).await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    let asked = world.asked_by(USER);
    assert!(!asked.is_empty(), "the operator acts as its account");
    let refused: Vec<_> = asked.iter().filter(|entry| entry.code == 403).collect();
    assert!(refused.is_empty(), "it asks for nothing that it may not have: {refused:?}");
    operator.stop().await;
}

#[tokio::test]
async fn the_account_of_tokens_alone_is_refused_everything_else() {
    let (_world, account) = with_account().await;
    let client = Client::try_from(account).unwrap();
    let named = json!({"metadata": {"name": "a"}});
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": "a"}});
    let core = "/api/v1/namespaces/team-a";
    let ours = "/apis/landfall.dev/v1alpha1/namespaces/team-a";
    let mut places = vec![(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews".to_owned(), review)];
    for place in [
        format!("{core}/pods"),
        format!("{core}/persistentvolumeclaims"),
        "/apis/batch/v1/namespaces/team-a/jobs".to_owned(),
        "/api/v1/persistentvolumes".to_owned(),
        format!("{ours}/projectrepositories"),
        format!("{ours}/workspaces"),
    ] {
        places.push((Method::GET, place.clone(), Value::Null));
        places.push((Method::POST, place.clone(), named.clone()));
        places.push((Method::DELETE, format!("{place}/a"), Value::Null));
    }
    // People create tokens. The operator creates one only for a workspace.
    places.push((Method::POST, format!("{ours}/installationtokens"), named.clone()));
    places.push((Method::DELETE, format!("{ours}/installationtokens/a"), Value::Null));
    for (method, path, body) in places {
        match ask(&client, method.clone(), &path, &body).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {}
            other => panic!("{method} {path}: {other:?}"),
        }
    }
}
