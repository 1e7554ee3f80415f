//! Attacks by people with a few rights: each attack fails, and succeeds when its guard is taken out.

use crate::scene::{Running, Scene, config, guid, push};
use landfall::guards::Sabotage;
use landfall::webhook::Hook;
use landfall_world::delivery::Delivery;
use landfall_world::id;
use serde_json::json;

/// A delivery of an event by a webhook, signed with the secret of another.
async fn sent(scene: &Scene, receiver: &Running, hook: Hook, signed_for: Hook, body: &str) -> u16 {
    let secret = scene.secret(signed_for);
    let delivery = Delivery::new(&hook.path(&scene.name), "push", &guid(), body.as_bytes(), &secret);
    delivery.send(receiver.address).await.status
}

const VAULT: u64 = 9103;
const TILL: u64 = 9104;

fn shop() -> Hook {
    Hook::Repository(id(9001))
}

fn lib() -> Hook {
    Hook::Repository(id(9002))
}

/// The secret of one webhook is of no use for another.
#[tokio::test]
async fn signed_with_the_secret_of_another_repository() {
    let scene = Scene::new("other-secret").await;
    scene.repository("lib", "lib-core", Some(9002)).await;
    let receiver = scene.receiver(config()).await;
    for (hook, signed_for) in [(shop(), lib()), (Hook::App, lib()), (shop(), Hook::App)] {
        assert_eq!(sent(&scene, &receiver, hook, signed_for, &push(9001)).await, 401, "{hook:?} {signed_for:?}");
    }
    assert!(scene.shop().await.is_empty());

    let open = scene.receiver_without(Sabotage { skip_signature: true, ..Sabotage::default() }, config()).await;
    assert_eq!(sent(&scene, &open, shop(), lib(), &push(9001)).await, 202);
    assert_eq!(scene.shop().await.len(), 1);
}

/// A valid signature of one repository over a payload about another.
#[tokio::test]
async fn the_id_of_another_repository_in_a_valid_payload() {
    let scene = Scene::new("other-id").await;
    scene.repository("lib", "lib-core", Some(9002)).await;
    let receiver = scene.receiver(config()).await;
    assert_eq!(sent(&scene, &receiver, lib(), lib(), &push(9001)).await, 422);
    assert_eq!(sent(&scene, &receiver, lib(), lib(), &json!({"ref": "refs/heads/main"}).to_string()).await, 422);
    assert!(scene.shop().await.is_empty() && scene.deliveries(&scene.name, "lib").await.is_empty());

    let open = scene.receiver_without(Sabotage { skip_repository: true, ..Sabotage::default() }, config()).await;
    assert_eq!(sent(&scene, &open, lib(), lib(), &push(9001)).await, 202);
    assert_eq!(scene.shop().await.len(), 1);
}

/// The owner of one repository's secret gives it the name that another object waits for.
#[tokio::test]
async fn the_name_that_another_waits_for_in_a_payload_of_ones_own_repository() {
    let scene = Scene::new("other-name").await;
    scene.repository("lib", "lib-core", None).await;
    let receiver = scene.receiver(config()).await;
    let repository = json!({"id": 9001, "name": "lib-core", "owner": {"id": 7001}});
    let body = json!({"action": "edited", "repository": repository}).to_string();
    let waiting = async |hook: Hook| {
        let event = Delivery::new(&hook.path(&scene.name), "repository", &guid(), body.as_bytes(), &scene.secret(hook));
        assert_eq!(event.send(receiver.address).await.result(), (202, "accepted"), "{hook:?}");
        scene.deliveries(&scene.name, "lib").await.len()
    };
    assert_eq!((waiting(shop()).await, waiting(Hook::App).await), (0, 1));
}

/// A tenant writes the id of another tenant's repository into status.
#[tokio::test]
async fn the_id_of_another_tenants_repository_in_status() {
    let scene = Scene::new("forged").await;
    // One object is in a namespace with other grants, one in a namespace whose installation belongs to another App. No other
    // test has these ids: without the guard, deliveries go to every object with the id.
    scene.repository("spy", "lib-core", Some(VAULT)).await;
    scene.repository("till", "lib-till", Some(TILL)).await;
    let other = Scene::new("forged-other").await;
    other.repository("spy", "lib-till", Some(TILL)).await;
    let attack = async |receiver: &Running| {
        for (id, name) in [(VAULT, "vault"), (TILL, "lib-till")] {
            let repository = json!({"id": id, "name": name, "owner": {"id": 7001}});
            let body = json!({"ref": "refs/heads/main", "repository": repository}).to_string();
            let status = sent(&scene, receiver, Hook::App, Hook::App, &body).await;
            assert_eq!(status, 202, "an App receives the events of all its repositories");
        }
        let spies = [scene.deliveries(&scene.name, "spy").await, other.deliveries(&other.name, "spy").await];
        spies.map(|log| log.len())
    };
    let receiver = scene.receiver(config()).await;
    assert_eq!(attack(&receiver).await, [0, 0]);
    assert_eq!(scene.deliveries(&scene.name, "till").await.len(), 1);

    let open = scene.receiver_without(Sabotage { skip_grant: true, ..Sabotage::default() }, config()).await;
    assert_eq!(attack(&open).await, [1, 1]);
}
