//! Secrets of the operator that somebody made immutable, or brought back from a backup.

use crate::scene::{is_alive, only_token, published, says, token_in, value};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use landfall::api::InstallationToken;
use landfall_world::{World, objects};
use serde_json::{Value, json};

#[tokio::test]
async fn a_secret_that_was_made_immutable_is_made_anew_for_the_next_token() {
    let (world, operator) = published(&json!({})).await;
    let first = only_token(&world, "shop-git").await;
    world.merge::<Secret>("team-a", "shop-git", &json!({"immutable": true})).await.unwrap();
    operator.settled().await;
    assert_eq!(token_in(&world, "shop-git").await.unwrap(), first, "nothing is to be written yet");
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    let second = token_in(&world, "shop-git").await.unwrap();
    assert!(second != first && is_alive(&world, &second));
    assert_eq!(world.mints(), 2);
    let secret = world.get::<Secret>("team-a", "shop-git").await.unwrap();
    assert_eq!(secret.immutable, None, "the new one is the operator's alone");
    operator.stop().await;
}

/// Removes the object and its Secret behind the operator's back, and returns the Secret as a backup has it.
async fn lost(world: &World) -> Value {
    let mut backup = value::<Secret>(world, "team-a", "shop-git").await;
    backup["apiVersion"] = "v1".into();
    backup["kind"] = "Secret".into();
    let metadata = backup["metadata"].as_object_mut().unwrap();
    for key in ["uid", "resourceVersion", "creationTimestamp", "ownerReferences", "managedFields"] {
        metadata.remove(key);
    }
    // Without an owner, the garbage collector leaves it to this test.
    world.merge::<Secret>("team-a", "shop-git", &json!({"metadata": {"ownerReferences": null}})).await.unwrap();
    world.delete::<Secret>("team-a", "shop-git").await;
    world.until_gone::<Secret>("team-a", "shop-git").await;
    let no_finalizers = json!({"metadata": {"finalizers": null}});
    world.merge::<InstallationToken>("team-a", "shop", &no_finalizers).await.unwrap();
    world.delete::<InstallationToken>("team-a", "shop").await;
    world.until_gone::<InstallationToken>("team-a", "shop").await;
    backup
}

#[tokio::test]
async fn a_secret_from_a_backup_is_taken_over() {
    let (world, operator) = published(&json!({})).await;
    let first = only_token(&world, "shop-git").await;
    operator.kill();
    let backup = lost(&world).await;
    world.apply::<Secret>(&backup).await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    let operator = world.operator().await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    operator.settled().await;
    assert_eq!((only_token(&world, "shop-git").await, world.mints()), (first, 1), "its token is still good");
    let object = value::<InstallationToken>(&world, "team-a", "shop").await;
    let secret = value::<Secret>(&world, "team-a", "shop-git").await;
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], object["metadata"]["uid"]);
    // It is the operator's again: it goes with its object.
    world.delete::<InstallationToken>("team-a", "shop").await;
    world.until_gone::<InstallationToken>("team-a", "shop").await;
    assert!(world.get::<Secret>("team-a", "shop-git").await.is_none());
    assert!(world.sim.live_tokens().is_empty());
    operator.stop().await;
}

#[tokio::test]
async fn a_secret_from_an_old_backup_gets_a_new_token() {
    let (world, operator) = published(&json!({})).await;
    operator.kill();
    let backup = lost(&world).await;
    world.advance(SignedDuration::from_hours(24));
    world.apply::<Secret>(&backup).await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    let operator = world.operator().await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    assert_eq!(world.mints(), 2);
    operator.stop().await;
}

#[tokio::test]
async fn a_secret_from_a_backup_that_somebody_else_owns_is_left_alone() {
    let (world, operator) = published(&json!({})).await;
    operator.kill();
    let mut backup = lost(&world).await;
    let owner =
        json!({"apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken", "name": "another", "uid": "1-2-3"});
    // The garbage collector would remove it if its owner were looked for and not found.
    world.apply::<InstallationToken>(&objects::token("another", &json!({"paused": true}))).await;
    let another = value::<InstallationToken>(&world, "team-a", "another").await;
    backup["metadata"]["ownerReferences"] = json!([owner]);
    backup["metadata"]["ownerReferences"][0]["uid"] = another["metadata"]["uid"].clone();
    world.apply::<Secret>(&backup).await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    let operator = world.operator().await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "SecretNotOurs").await;
    says(&message, &["shop-git", "choose another spec.secret.name, or delete that Secret"]);
    assert_eq!(token_in(&world, "shop-git").await.map(|token| token.len()), Some(520), "it is as it was");
    operator.stop().await;
}
