//! `InstallationToken`: created, changed, repaired, and continued after a restart.

use crate::scene::{connected, is_alive, look, only_token, publish, published, says, sha256, token_in, value};
use github_sim::{Fault, FaultKind};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use landfall_world::operator::Operator;
use landfall_world::{World, objects, ready, text};
use serde_json::{Value, json};

#[tokio::test]
async fn a_token_is_minted_verified_and_published() {
    let (world, operator) = published(&json!({})).await;
    let secret = world.get::<Secret>("team-a", "shop-git").await.expect("a Secret");
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/basic-auth"));
    assert_eq!(text(&secret, "username").as_deref(), Some("x-access-token"));
    assert_eq!(text(&secret, "ca.crt").as_deref(), Some(world.sim.ca_pem()));
    let token = only_token(&world, "shop-git").await;
    assert!(token.starts_with("ghs_4242_") && token.len() == 520, "all of a long token with dots is there");
    let alive = world.sim.live_tokens().remove(0);
    assert_eq!((alive.repository_ids, alive.uses), (Some(vec![9001]), 1), "used once, before it was published");
    assert_eq!(
        serde_json::to_value(alive.permissions).unwrap(),
        json!({"contents": "write", "metadata": "read"}),
        "no more than was asked for"
    );
    assert_eq!((world.mints(), world.calls("GET", "/installation/repositories")), (1, 1));
    let object = value::<InstallationToken>(&world, "team-a", "shop").await;
    let status = &object["status"];
    assert_eq!(status["repositoryIDs"], json!([9001]));
    assert_eq!(status["permissions"], json!({"contents": "write", "metadata": "read"}));
    assert_eq!((&status["secretName"], &status["observedGeneration"]), (&json!("shop-git"), &json!(1)));
    assert_eq!(status["fingerprint"], sha256(&token)[..16]);
    assert_eq!(ready(&object)["status"], "True");
    operator.stop().await;
}

#[tokio::test]
async fn the_secrets_format_labels_and_annotations_follow_the_spec() {
    let opaque = json!({"name": "shop-git", "format": "Opaque", "labels": {"team": "a"}, "annotations": {"note": "x"}});
    let (world, operator) = published(&json!({"secret": opaque})).await;
    let secret = world.get::<Secret>("team-a", "shop-git").await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_eq!(text(&secret, "password"), None);
    assert_eq!(secret.metadata.labels.as_ref().unwrap()["team"], "a");
    assert_eq!(secret.metadata.annotations.as_ref().unwrap()["note"], "x");
    let token = only_token(&world, "shop-git").await;

    // Another format and labels of the Secret need no other token.
    let other = json!({"name": "shop-git", "format": "Opaque", "labels": {"team": "b"}});
    world.apply::<InstallationToken>(&objects::token("shop", &json!({"secret": other}))).await;
    world
        .until("the labels follow", async || {
            let secret = world.get::<Secret>("team-a", "shop-git").await?;
            let annotations = secret.metadata.annotations.unwrap_or_default();
            (secret.metadata.labels?.get("team")? == "b" && !annotations.contains_key("note")).then_some(())
        })
        .await;
    operator.settled().await;
    assert_eq!(only_token(&world, "shop-git").await, token);
    assert_eq!(world.mints(), 1);

    // The type of a Secret cannot be changed, so it is replaced, with a good token in it.
    let basic = json!({"name": "shop-git", "format": "BasicAuth"});
    world.apply::<InstallationToken>(&objects::token("shop", &json!({"secret": basic}))).await;
    world
        .until("the format follows", async || {
            let secret = world.get::<Secret>("team-a", "shop-git").await?;
            (secret.type_? == "kubernetes.io/basic-auth").then_some(())
        })
        .await;
    operator.settled().await;
    only_token(&world, "shop-git").await;
    operator.stop().await;
}

#[tokio::test]
async fn another_scope_gets_another_token_and_the_old_one_dies() {
    let (world, operator) = published(&json!({})).await;
    let old = only_token(&world, "shop-git").await;
    for (spec, repositories, contents) in [
        (json!({"permissions": {"contents": "read"}}), vec![9001], "read"),
        (json!({"repositories": [{"name": "lib-core"}, {"name": "shop"}]}), vec![9001, 9002], "write"),
        (json!({"repositories": [{"id": 9002}]}), vec![9002], "write"),
    ] {
        publish(&world, "shop", &spec).await;
        world
            .until("the scope follows", async || {
                let alive = world.sim.live_tokens();
                let [alive] = alive.as_slice() else { return None };
                (alive.repository_ids == Some(repositories.clone())
                    && serde_json::to_value(&alive.permissions).ok()?["contents"] == contents)
                    .then_some(())
            })
            .await;
        operator.settled().await;
        only_token(&world, "shop-git").await;
    }
    assert!(!is_alive(&world, &old));
    operator.stop().await;
}

#[tokio::test]
async fn under_another_name_the_old_secret_goes() {
    let (world, operator) = published(&json!({})).await;
    let old = only_token(&world, "shop-git").await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({"secret": {"name": "elsewhere"}}))).await;
    world.until_gone::<Secret>("team-a", "shop-git").await;
    operator.settled().await;
    let new = only_token(&world, "elsewhere").await;
    assert_ne!(old, new);
    assert_eq!(value::<InstallationToken>(&world, "team-a", "shop").await["status"]["secretName"], "elsewhere");
    operator.stop().await;
}

#[tokio::test]
async fn a_secret_that_was_deleted_comes_back_with_another_token() {
    let (world, operator) = published(&json!({})).await;
    let old = only_token(&world, "shop-git").await;
    world.delete::<Secret>("team-a", "shop-git").await;
    world.until("the Secret is back", async || token_in(&world, "shop-git").await).await;
    operator.settled().await;
    let new = only_token(&world, "shop-git").await;
    assert_ne!(old, new, "whoever deleted it may have had a reason");
    operator.stop().await;
}

#[tokio::test]
async fn a_secret_that_was_edited_is_repaired() {
    let (world, operator) = published(&json!({})).await;
    let token = only_token(&world, "shop-git").await;
    // The other keys are restored without a call.
    let calls = world.sim.requests().len();
    let edit =
        json!({"data": {"username": "bm9ib2R5"}, "metadata": {"labels": {"app.kubernetes.io/managed-by": null}}});
    world.merge::<Secret>("team-a", "shop-git", &edit).await.unwrap();
    world
        .until("it is repaired", async || {
            let secret = world.get::<Secret>("team-a", "shop-git").await?;
            let is_labelled = secret.metadata.labels.as_ref()?.contains_key("app.kubernetes.io/managed-by");
            (text(&secret, "username")? == "x-access-token" && is_labelled).then_some(())
        })
        .await;
    operator.settled().await;
    assert_eq!(only_token(&world, "shop-git").await, token);
    assert_eq!(world.sim.requests().len(), calls);

    // Without the token, another one is minted.
    for edit in [
        json!({"data": {"password": "Z29uZQ=="}}),
        json!({"data": {"password": "bm8KdG9rZW4="}}),
        json!({"data": {"password": ""}}),
    ] {
        another_comes_after(&world, &operator, &edit).await;
    }
    // A running operator knows the notes about the token itself, and restores them.
    let notes = [
        json!({"landfall.dev/mint-time": null}),
        json!({"landfall.dev/scope": "{}"}),
        json!({"landfall.dev/fingerprint": "0000000000000000"}),
        json!({"landfall.dev/expiration-time": "2099-01-01T00:00:00Z"}),
    ];
    let before = world.get::<Secret>("team-a", "shop-git").await.unwrap();
    for note in &notes {
        let edit = json!({"metadata": {"annotations": note}});
        world.merge::<Secret>("team-a", "shop-git", &edit).await.unwrap();
        world
            .until(&format!("{edit} is undone"), async || {
                let secret = world.get::<Secret>("team-a", "shop-git").await?;
                (secret.metadata.annotations == before.metadata.annotations && secret.data == before.data).then_some(())
            })
            .await;
    }
    // After a restart only the notes are left. If they are invalid, another token is minted.
    let mut operator = operator;
    for note in &notes {
        operator.kill();
        world.merge::<Secret>("team-a", "shop-git", &json!({"metadata": {"annotations": note}})).await.unwrap();
        let before = token_in(&world, "shop-git").await.unwrap();
        operator = world.operator().await;
        world
            .until(&format!("there is another token after {note}"), async || {
                token_in(&world, "shop-git").await.filter(|new| *new != before)
            })
            .await;
        operator.settled().await;
        assert!(is_alive(&world, &token_in(&world, "shop-git").await.unwrap()), "{note}");
    }
    operator.stop().await;
}

async fn another_comes_after(world: &World, operator: &Operator, edit: &Value) {
    let before = token_in(world, "shop-git").await.unwrap_or_default();
    world.merge::<Secret>("team-a", "shop-git", edit).await.unwrap();
    world
        .until(&format!("there is another token after {edit}"), async || {
            token_in(world, "shop-git").await.filter(|new| *new != before && new.starts_with("ghs_"))
        })
        .await;
    operator.settled().await;
    world.live_through(operator, SignedDuration::from_mins(1)).await;
    assert!(is_alive(world, &token_in(world, "shop-git").await.unwrap()), "{edit}");
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_left_alone() {
    let (world, operator) = connected().await;
    world.put_secret("team-a", "shop-git", &[("password", "mine")]).await;
    let before = world.get::<Secret>("team-a", "shop-git").await.unwrap();
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "SecretNotOurs").await;
    says(&message, &["Secret shop-git", "choose another spec.secret.name", "delete that Secret"]);
    operator.settled().await;
    assert_eq!(world.get::<Secret>("team-a", "shop-git").await.unwrap(), before);
    assert_eq!((world.mints(), world.sim.live_tokens().len()), (0, 0), "nothing is minted that has no place");

    // The object is deleted, and the Secret stays.
    world.delete::<InstallationToken>("team-a", "shop").await;
    world.until_gone::<InstallationToken>("team-a", "shop").await;
    assert_eq!(world.get::<Secret>("team-a", "shop-git").await.unwrap(), before);

    // Once the foreign Secret is gone, the operator creates its own without a request.
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "SecretNotOurs").await;
    world.delete::<Secret>("team-a", "shop-git").await;
    world.live_through(&operator, SignedDuration::from_mins(40)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_is_tried_again_before_it_is_published() {
    let (world, operator) = connected().await;
    let refused = FaultKind::FreshToken { uses: 2, status: 401 };
    world.sim.inject(Fault::new("POST", "/app/installations/*/access_tokens", refused));
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "TokenRefused").await;
    says(&message, &["tried again by itself"]);
    operator.settled().await;
    assert_eq!(token_in(&world, "shop-git").await, None, "what GitHub refuses is not published");
    world.live_through(&operator, SignedDuration::from_mins(1)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    only_token(&world, "shop-git").await;
    assert_eq!((world.mints(), world.calls("GET", "/installation/repositories")), (1, 3));

    // A token that is refused again and again is given up and revoked, and another is minted.
    let refused = FaultKind::FreshToken { uses: 1000, status: 401 };
    world.sim.inject(Fault::new("POST", "/app/installations/*/access_tokens", refused));
    world.apply::<InstallationToken>(&objects::token("libs", &json!({"repositories": [{"name": "lib-core"}]}))).await;
    world.until_reason::<InstallationToken>("team-a", "libs", "TokenRefused").await;
    world.live_through(&operator, SignedDuration::from_mins(15)).await;
    world.until_reason::<InstallationToken>("team-a", "libs", "Published").await;
    assert_eq!(world.mints(), 3);
    operator.stop().await;
}

#[tokio::test]
async fn a_restart_mints_nothing_and_writes_nothing() {
    let (world, operator) = published(&json!({})).await;
    let token = only_token(&world, "shop-git").await;
    operator.kill();
    let mark = world.audit.mark().unwrap();
    let operator = world.operator().await;
    operator.ready().await;
    look(&world).await;
    operator.settled().await;
    assert_eq!(only_token(&world, "shop-git").await, token);
    assert_eq!(world.mints(), 1);
    let writes = world.writes_since(mark);
    let about_the_look: Vec<_> = writes.iter().filter(|write| write.resource != "githubapps").collect();
    assert!(about_the_look.is_empty(), "{about_the_look:?}");
    operator.stop().await;
}

#[tokio::test]
async fn killed_between_any_two_steps_it_ends_with_one_live_token() {
    // The operator is killed at any point, in each round a bit later than in the one before.
    for later in 0..4 {
        let (world, operator) = connected().await;
        world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
        let calls = world.sim.requests().len();
        world.until("it has begun", async || (world.sim.requests().len() >= calls + later.min(2)).then_some(())).await;
        operator.kill();
        let operator = world.operator().await;
        world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
        operator.settled().await;
        let token = token_in(&world, "shop-git").await.unwrap();
        assert!(is_alive(&world, &token));
        let published = world.sim.live_tokens().iter().filter(|alive| alive.sha256 == sha256(&token)).count();
        assert_eq!(published, 1);
        operator.stop().await;
    }
}

#[tokio::test]
async fn paused_it_is_renewed_and_otherwise_left_as_it_is() {
    let (world, operator) = published(&json!({})).await;
    let first = only_token(&world, "shop-git").await;
    let paused = json!({"paused": true, "permissions": {"contents": "read"}});
    world.apply::<InstallationToken>(&objects::token("shop", &paused)).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "Paused").await;
    says(&message, &["is renewed", "spec.paused"]);
    operator.settled().await;
    assert_eq!(only_token(&world, "shop-git").await, first);
    world.live_through(&operator, SignedDuration::from_mins(55)).await;
    assert_ne!(token_in(&world, "shop-git").await.unwrap(), first);
    let newest = world.sim.live_tokens().into_iter().max_by_key(|token| token.minted_at).unwrap();
    assert_eq!(serde_json::to_value(newest.permissions).unwrap()["contents"], "write", "the scope is held back");
    publish(&world, "shop", &json!({"permissions": {"contents": "read"}})).await;
    operator.stop().await;
}

#[tokio::test]
async fn it_waits_for_what_comes_later() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    let operator = world.operator().await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "WaitingForReference").await;
    says(&message, &["there is no GitHubInstallation acme", "spec.installationRef.name"]);
    world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    operator.stop().await;
}
