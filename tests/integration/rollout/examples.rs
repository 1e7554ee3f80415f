//! GitHub's example payloads, signed, sent to a receiver beside an operator with a workload to restart. Whatever event
//! they report, the operator looks, finds that nothing happened, and does nothing else.

use super::Team;
use crate::inlet::Inlet;
use crate::repository::{changes, looks};
use landfall::api::{Delivery, GitHubApp};
use landfall_world::payloads;
use serde_json::{Value, json};

/// The same payload with the names and ids of this world.
fn as_if_here(payload: &Value) -> Value {
    let mut payload = payload.clone();
    let account = json!({"id": 7001, "login": "acme", "type": "Organization"});
    if let Some(repository) = payload.get_mut("repository").and_then(Value::as_object_mut) {
        for (field, value) in [("id", json!(9001)), ("name", json!("shop")), ("full_name", json!("acme/shop"))] {
            repository.insert(field.into(), value);
        }
        repository.insert("owner".into(), account.clone());
    }
    if let Some(installation) = payload.get_mut("installation").and_then(Value::as_object_mut) {
        installation.insert("id".into(), json!(501));
        installation.insert("account".into(), account);
    }
    if payload.get("ref").is_some() {
        payload["ref"] = json!("refs/heads/main");
    }
    payload
}

async fn deliveries(team: &Team) -> Vec<Vec<Delivery>> {
    let app = team.world.get::<GitHubApp>("", "landfall").await.and_then(|app| app.status);
    let repository = team.object().await.status;
    [app.map(|status| status.deliveries), repository.map(|status| status.deliveries)].into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_example_makes_the_operator_do_more_than_look() {
    let team = Team::new("examples").await;
    let world = &team.world;
    let inlet = Inlet::of(world).await;
    let rolled = team.rolled().await;
    let asked = team.asked_as_the_account().len();
    let mark = world.audit.mark().unwrap();
    world.sim.reset_requests();

    let mut sent = 0;
    for event in payloads::examples() {
        let name = event["name"].as_str().unwrap();
        for payload in event["examples"].as_array().unwrap() {
            sent += 1;
            let guid = format!("00000000-0000-4000-8000-{sent:012x}");
            let status = inlet.send(name, &guid, &as_if_here(payload)).await;
            assert!((200..300).contains(&status), "{name}: {status} {payload}");
            team.operator.settled().await;
        }
        if payloads::STORED.contains(&name) {
            // The clock limits the number of looks.
            team.lives(120).await;
            world.until_taken_out(&team.operator).await;
        }
    }
    team.lives(120).await;

    assert!(sent > 200, "{sent}");
    assert!(deliveries(&team).await.iter().all(|log| !log.is_empty()), "App and repository were told of something");
    assert!(looks(world) > 5, "{} looks", looks(world));
    assert!(changes(world).is_empty(), "{:?}", changes(world));
    assert_eq!(team.rolled().await, rolled);
    assert_eq!(team.asked_as_the_account().len(), asked, "not even the workload was looked at");
    let is_status = |entry: &landfall_cluster::Entry| entry.group == "landfall.dev" && entry.subresource == "status";
    let others: Vec<_> = world.writes_since(mark).into_iter().filter(|entry| !is_status(entry)).collect();
    assert!(others.is_empty(), "{others:?}");
    inlet.end().await;
    team.operator.stop().await;
}
