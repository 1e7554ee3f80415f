//! What somebody tries who has a little and wants more: each attack fails, and succeeds when its guard is taken out.

use crate::scene::{Running, Scene, config, guid, push};
use landfall::guards::Sabotage;
use landfall::webhook::Hook;
use landfall_world::delivery::Delivery;
use serde_json::json;

/// A delivery of an event by a webhook, signed with the secret of another.
async fn sent(scene: &Scene, receiver: &Running, hook: Hook, signed_for: Hook, body: &str) -> u16 {
    let secret = scene.secret(signed_for);
    let delivery = Delivery::new(&hook.path(&scene.name), "push", &guid(), body.as_bytes(), &secret);
    delivery.send(receiver.address).await.status
}

const SHOP: Hook = Hook::Repository(9001);
const LIB: Hook = Hook::Repository(9002);
const VAULT: u64 = 9103;
const TILL: u64 = 9104;

/// Whoever knows the secret of one webhook knows it of no other.
#[tokio::test]
async fn signed_with_the_secret_of_another_repository() {
    let scene = Scene::new("other-secret").await;
    scene.repository("lib", "lib-core", Some(9002)).await;
    let receiver = scene.receiver(config()).await;
    for (hook, signed_for) in [(SHOP, LIB), (Hook::App, LIB), (SHOP, Hook::App)] {
        assert_eq!(sent(&scene, &receiver, hook, signed_for, &push(9001)).await, 401, "{hook:?} {signed_for:?}");
    }
    assert!(scene.shop().await.is_empty());

    let open = scene.receiver_without(Sabotage { skip_signature: true, ..Sabotage::default() }, config()).await;
    assert_eq!(sent(&scene, &open, SHOP, LIB, &push(9001)).await, 202);
    assert_eq!(scene.shop().await.len(), 1);
}

/// A valid signature of the one repository, over a payload that speaks of another.
#[tokio::test]
async fn the_id_of_another_repository_in_a_valid_payload() {
    let scene = Scene::new("other-id").await;
    scene.repository("lib", "lib-core", Some(9002)).await;
    let receiver = scene.receiver(config()).await;
    assert_eq!(sent(&scene, &receiver, LIB, LIB, &push(9001)).await, 422);
    assert_eq!(sent(&scene, &receiver, LIB, LIB, &json!({"ref": "refs/heads/main"}).to_string()).await, 422);
    assert!(scene.shop().await.is_empty() && scene.deliveries(&scene.name, "lib").await.is_empty());

    let open = scene.receiver_without(Sabotage { skip_repository: true, ..Sabotage::default() }, config()).await;
    assert_eq!(sent(&scene, &open, LIB, LIB, &push(9001)).await, 202);
    assert_eq!(scene.shop().await.len(), 1);
}

/// Who has the secret of one repository's webhook calls it by the name that somebody else waits for.
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
    assert_eq!((waiting(SHOP).await, waiting(Hook::App).await), (0, 1));
}

/// Who may write status writes the id of a repository into it that somebody else was granted.
#[tokio::test]
async fn the_id_of_another_tenants_repository_in_status() {
    let scene = Scene::new("forged").await;
    // In the namespace that was granted others, and in one whose installation is of another App. No other test has these
    // ids: with the guard gone, deliveries go to whoever claims them.
    scene.repository("spy", "lib-core", Some(VAULT)).await;
    scene.repository("till", "lib-till", Some(TILL)).await;
    let other = Scene::new("forged-other").await;
    other.repository("spy", "lib-till", Some(TILL)).await;
    let attack = async |receiver: &Running| {
        for (id, name) in [(VAULT, "vault"), (TILL, "lib-till")] {
            let repository = json!({"id": id, "name": name, "owner": {"id": 7001}});
            let body = json!({"ref": "refs/heads/main", "repository": repository}).to_string();
            let status = sent(&scene, receiver, Hook::App, Hook::App, &body).await;
            assert_eq!(status, 202, "an App hears of all that it sees");
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
