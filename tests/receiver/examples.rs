//! GitHub's example payloads, as octokit collects them: each is accepted, and its only effect is an entry in the inbox for
//! each object that it concerns.

use crate::scene::{Scene, config, guid};
use landfall::api::{GitHubApp, GitHubInstallation, ProjectRepository};
use landfall::receiver::Config;
use landfall::webhook::Hook;
use landfall_world::delivery::Delivery;
use landfall_world::payloads::{STORED, examples};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[tokio::test]
async fn every_example_is_accepted_and_changes_nothing_but_the_inbox() {
    let scene = Scene::new("examples").await;
    // Every repository and account of the examples is granted and bound, by id, name and owner.
    let events = examples();
    let mut repositories = BTreeSet::new();
    let mut owners = BTreeMap::new();
    for payload in events.iter().flat_map(|event| event["examples"].as_array().unwrap()) {
        let (repository, owner) = (&payload["repository"], &payload["repository"]["owner"]);
        if let (Some(id), Some(name), Some(owner_id), Some(login)) =
            (repository["id"].as_u64(), repository["name"].as_str(), owner["id"].as_u64(), owner["login"].as_str())
        {
            repositories.insert((id, name, owner_id));
            owners.insert(owner_id, login);
        }
        for account in [&payload["installation"]["account"], &payload["account"]] {
            if let (Some(id), Some(login)) = (account["id"].as_u64(), account["login"].as_str()) {
                owners.insert(id, login);
            }
        }
    }
    assert!(repositories.len() > 3, "{repositories:?}");
    let tenants = owners.iter().map(|(id, login)| {
        json!({"name": format!("o{id}"), "account": login, "accountID": id, "repositories": ["*"], "namespaces": {"names": [scene.name]}})
    });
    let tenants: Vec<Value> = tenants.collect();
    let app = json!({"appID": crate::scene::APP_ID, "credentialsSecretRef": {"name": "none"}, "tenants": tenants});
    scene.kind::<GitHubApp>("", &scene.name, &app).await;
    for (owner, login) in &owners {
        let spec = json!({"appRef": {"name": scene.name}, "account": login});
        scene.kind::<GitHubInstallation>(&scene.name, &format!("o{owner}"), &spec).await;
    }
    for (id, name, owner) in &repositories {
        let spec = json!({"installationRef": {"name": format!("o{owner}")}, "source": {"existing": {"name": name}}});
        let object = format!("r{id}-{owner}");
        scene.kind::<ProjectRepository>(&scene.name, &object, &spec).await;
        scene.status(&scene.name, &object, &json!({"repositoryID": id})).await;
    }
    let receiver = scene.receiver(Config { target_rate: 1e6, target_burst: 1e6, ..config() }).await;

    let before = scene.objects().await;
    let mut taken = 0;
    for event in &events {
        let name = event["name"].as_str().unwrap();
        for payload in event["examples"].as_array().unwrap() {
            let body = payload.to_string();
            let hook = Hook::App;
            let delivery = Delivery::new(&hook.path(&scene.name), name, &guid(), body.as_bytes(), &scene.secret(hook));
            let answer = delivery.send(receiver.address).await;
            let expected = match name {
                "ping" => (200, "pong"),
                _ if STORED.contains(&name) => (202, "accepted"),
                _ => (202, "ignored"),
            };
            assert_eq!(answer.result(), expected, "{name}: {answer:?} {body}");
            taken += 1;
        }
    }
    assert!(taken > 200, "{taken}");

    // The objects are as they were, and the deliveries wait for the operator.
    let after = scene.objects().await;
    let waiting: Vec<_> = scene.waiting().await.into_iter().filter(|delivery| delivery.app == scene.name).collect();
    assert!(waiting.iter().all(|delivery| STORED.contains(&delivery.event.as_str())), "{waiting:?}");
    assert!(waiting.len() > 5, "{waiting:?}");
    assert_eq!(before, after);
}
