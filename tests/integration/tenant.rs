//! Attempts of a tenant: it writes status, edits its Secrets, and names objects of others. None may lead to a token
//! beyond the grant; the simulator knows the reach of each live token.

use crate::scene::{connected, publish, published, token_in, value};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use landfall_world::operator::Operator;
use landfall_world::{World, objects, ready};
use serde_json::{Value, json};

/// The tenant's grant: shop and the libraries.
const GRANTED: [u64; 2] = [9001, 9002];

/// Checks that no live token reaches anything else.
fn nothing_else_is_reached(world: &World, after: &str) {
    for token in world.sim.live_tokens() {
        let reached = token.repository_ids.unwrap_or_else(|| panic!("after {after}: a token for everything"));
        assert!(reached.iter().all(|id| GRANTED.contains(id)), "after {after}: a token for {reached:?}");
    }
}

/// The same over the next hours, with renewals and a restart.
async fn nothing_comes_of_it(world: &World, operator: Operator, after: &str) {
    operator.settled().await;
    nothing_else_is_reached(world, after);
    for _ in 0..6 {
        world.live_through(&operator, SignedDuration::from_mins(11)).await;
        nothing_else_is_reached(world, after);
    }
    operator.kill();
    let operator = world.operator().await;
    operator.ready().await;
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    nothing_else_is_reached(world, after);
    operator.stop().await;
}

#[tokio::test]
async fn status_decides_nothing() {
    let (world, operator) = published(&json!({})).await;
    let before = value::<InstallationToken>(&world, "team-a", "shop").await["status"].clone();
    let lie = json!({
        "repositoryIDs": [9003], "fingerprint": "0123456789abcdef", "expirationTime": "2099-01-01T00:00:00Z",
        "permissions": {"contents": "admin", "metadata": "read"}, "secretName": "github-app",
    });
    world.merge_status::<InstallationToken>("team-a", "shop", &lie).await.unwrap();
    world
        .until("status says the truth again", async || {
            let status = value::<InstallationToken>(&world, "team-a", "shop").await["status"].clone();
            (status == before).then_some(())
        })
        .await;
    assert_eq!(world.mints(), 1);
    let lie = json!({"installationID": 777, "account": {"id": 7002, "login": "globex", "type": "Organization"},
        "granted": {"repositories": ["*"], "permissions": {"contents": "admin"}}});
    world.merge_status::<GitHubInstallation>("team-a", "acme", &lie).await.unwrap();
    nothing_comes_of_it(&world, operator, "status was edited").await;
}

#[tokio::test]
async fn what_a_secret_notes_is_held_against_the_grant() {
    let scope = |repositories: Value, contents: &str| {
        let permissions = json!({"contents": contents, "metadata": "read"});
        json!({"installation": 501, "repositories": repositories, "permissions": permissions}).to_string()
    };
    let vault = scope(json!({"only": [{"id": 9003}]}), "write");
    let all = scope(json!("all"), "write");
    let none = scope(json!({"only": []}), "write");
    let annotations = [
        json!({"landfall.dev/repository-ids": "9003", "landfall.dev/expiration-time": null}),
        json!({"landfall.dev/repository-ids": "9003", "landfall.dev/fingerprint": "x"}),
        json!({"landfall.dev/scope": vault, "landfall.dev/repository-ids": "9003"}),
        json!({"landfall.dev/scope": all, "landfall.dev/repository-ids": ""}),
        json!({"landfall.dev/scope": none, "landfall.dev/repository-ids": ""}),
        json!({"landfall.dev/expiration-time": "2099-01-01T00:00:00Z"}),
    ];
    // Paused, the noted scope is renewed. That is the most that a forged note can cause.
    for paused in [false, true] {
        let (world, operator) = connected().await;
        let edit = async || {
            for (number, annotations) in annotations.iter().enumerate() {
                let change = json!({"metadata": {"annotations": annotations}});
                let _ = world.merge::<Secret>("team-a", &format!("t{number}-git"), &change).await;
            }
        };
        for number in 0..annotations.len() {
            let name = format!("t{number}");
            publish(&world, &name, &json!({})).await;
            if paused {
                world.apply::<InstallationToken>(&objects::token(&name, &json!({"paused": true}))).await;
                world.until_reason::<InstallationToken>("team-a", &name, "Paused").await;
            }
        }
        edit().await;
        operator.settled().await;
        nothing_else_is_reached(&world, "notes were edited");
        operator.kill();
        // The next operator, which reads the notes, has no memory.
        edit().await;
        nothing_comes_of_it(&world, world.operator().await, &format!("notes were edited, paused: {paused}")).await;
    }
}

#[tokio::test]
async fn a_forged_secret_brings_no_token_and_takes_none() {
    let (world, operator) = published(&json!({})).await;
    let object = value::<InstallationToken>(&world, "team-a", "shop").await;
    let token = token_in(&world, "shop-git").await.unwrap();
    // A Secret that claims to belong to the object, under a name that the spec then uses.
    let forged = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": {
            "name": "forged", "namespace": "team-a", "labels": {"app.kubernetes.io/managed-by": "landfall"},
            "annotations": {"landfall.dev/scope": "{}", "landfall.dev/repository-ids": "9003"},
            "ownerReferences": [{"apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken", "name": "shop",
                "uid": object["metadata"]["uid"], "controller": true}],
        },
        "stringData": {"username": "x", "password": "ghs_forged"},
    });
    world.apply::<Secret>(&forged).await;
    operator.settled().await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({"secret": {"name": "forged"}}))).await;
    world
        .until("a token is there", async || {
            token_in(&world, "forged").await.filter(|now| *now != "ghs_forged" && *now != token)
        })
        .await;
    nothing_comes_of_it(&world, operator, "a Secret was forged").await;
}

#[tokio::test]
async fn what_is_anothers_cannot_be_named() {
    let (world, operator) = connected().await;
    let two = json!([
        {"name": "acme", "account": "acme", "repositories": ["shop", "lib-*"], "maxPermissions": {"contents": "write"},
            "namespaces": {"names": ["team-a"]}},
        {"name": "acme-2", "account": "acme", "repositories": ["*"], "maxPermissions": {"contents": "write"},
            "namespaces": {"names": ["team-b"]}},
    ]);
    world.apply::<GitHubApp>(&objects::app(&world, &two)).await;
    world.until_reason::<GitHubInstallation>("team-b", "acme", "Active").await;
    let named = |reference: &str| {
        objects::token("one", &json!({"installationRef": {"name": reference}, "repositories": [{"name": "vault"}]}))
    };
    for reference in ["team-b/acme", "../team-b/acme"] {
        let refused = world.try_apply::<InstallationToken>(&named(reference)).await.expect_err("no name of an object");
        assert!(refused.to_string().contains("spec.installationRef.name must be the name"), "{refused}");
    }
    world.apply::<InstallationToken>(&named("acme.team-b")).await;
    world.until_reason::<InstallationToken>("team-a", "one", "WaitingForReference").await;
    // The names of accounts and Apps that were not granted.
    for (name, account) in [("globex", "globex"), ("acme-2", "acme-2")] {
        let declared = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
            "metadata": {"name": name, "namespace": "team-a"},
            "spec": {"appRef": {"name": "landfall"}, "account": account},
        });
        world.apply::<GitHubInstallation>(&declared).await;
        world.until_reason::<GitHubInstallation>("team-a", name, "AccountNotGranted").await;
        let spec = json!({"installationRef": {"name": name}, "repositories": [{"name": "plans"}]});
        world.apply::<InstallationToken>(&objects::token(name, &spec)).await;
        world.until_reason::<InstallationToken>("team-a", name, "AccountNotGranted").await;
    }
    // The names of team-a reach no further than its own grant, whatever others were granted of the same account.
    world.apply::<InstallationToken>(&objects::token("vault", &json!({"repositories": [{"name": "vault"}]}))).await;
    world.until_reason::<InstallationToken>("team-a", "vault", "RepositoryNotGranted").await;
    assert!(world.sim.live_tokens().is_empty());
    assert_eq!(ready(&value::<GitHubInstallation>(&world, "team-b", "acme").await)["status"], "True");
    nothing_comes_of_it(&world, operator, "names of others").await;
}

/// A time in `managedFields` that none of the operator's parsers accepts, on every object that a tenant can write. The
/// API server accepts it.
#[tokio::test]
async fn an_object_that_cannot_be_parsed_stops_nobody_and_is_not_logged() {
    async fn spoil<K: kube::Resource<DynamicType = ()>>(world: &World, name: &str) {
        let path = K::url_path(&(), Some("team-a"));
        let patch = json!([
            {"op": "replace", "path": "/metadata/managedFields/0/time", "value": "9999-12-31T23:59:59Z"},
            {"op": "add", "path": "/metadata/annotations/spoilt", "value": "yes"},
        ]);
        let annotate = json!({"metadata": {"annotations": {"there": "yes"}}});
        for (kind, body) in [("merge-patch+json", annotate), ("json-patch+json", patch)] {
            let request = http::Request::patch(format!("{path}/{name}"))
                .header("content-type", format!("application/{kind}"))
                .body(serde_json::to_vec(&body).unwrap())
                .unwrap();
            world.admin.request::<Value>(request).await.expect("the API server takes it");
        }
    }
    let (world, operator) = published(&json!({})).await;
    publish(&world, "libs", &json!({"repositories": [{"name": "lib-core"}]})).await;
    spoil::<Secret>(&world, "shop-git").await;
    spoil::<InstallationToken>(&world, "shop").await;
    spoil::<GitHubInstallation>(&world, "acme").await;
    operator.kill();
    let operator = world.operator().await;
    operator.ready().await;
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    assert!(world.mints() >= 4, "both tokens were renewed, not only {} mints", world.mints());
    // It is removed, because no other client can read it either.
    world.delete::<InstallationToken>("team-a", "libs").await;
    world.delete::<InstallationToken>("team-a", "shop").await;
    world.delete::<GitHubApp>("", "landfall").await;
    world.until_gone::<InstallationToken>("team-a", "libs").await;
    world.until_gone::<GitHubApp>("", "landfall").await;
    assert_eq!(world.sim.live_tokens().len(), 0);
    operator.stop().await;
}

/// Somebody's finalizer keeps the terminating Secret: tokens are not minted again and again, and a new Secret is made
/// when it is gone.
#[tokio::test]
async fn a_secret_that_does_not_go_makes_no_storm() {
    let (world, operator) = published(&json!({})).await;
    world
        .merge::<Secret>("team-a", "shop-git", &json!({"metadata": {"finalizers": ["example.com/held"]}}))
        .await
        .unwrap();
    world.delete::<Secret>("team-a", "shop-git").await;
    world.until_reason::<InstallationToken>("team-a", "shop", "SecretTerminating").await;
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    assert_eq!((world.mints(), world.sim.live_tokens().len()), (1, 0));
    world.merge::<Secret>("team-a", "shop-git", &json!({"metadata": {"finalizers": null}})).await.unwrap();
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    assert_eq!((world.mints(), world.sim.live_tokens().len()), (2, 1));
    operator.stop().await;
}
