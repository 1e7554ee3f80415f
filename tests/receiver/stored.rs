//! Valid deliveries, and their entries in the inbox.

use crate::scene::{Scene, config, guid, push};
use landfall::api::WaitingDelivery;
use landfall::guards::Sabotage;
use landfall::receiver::Config;
use landfall::webhook::Hook;
use landfall_world::delivery::{Delivery, signature};
use landfall_world::id;
use serde_json::json;
use std::collections::BTreeSet;

#[tokio::test]
async fn a_push_is_stored_as_a_hint_from_json_and_from_a_form() {
    let scene = Scene::new("push").await;
    let receiver = scene.receiver(config()).await;
    let json = scene.push().with("x-github-delivery", "72D3162E-cc78-11e3-81ab-4c9367dc0958");
    assert_eq!(json.send(receiver.address).await.result(), (202, "accepted"));
    let stored = &scene.shop().await["72d3162e-cc78-11e3-81ab-4c9367dc0958"];
    assert_eq!((stored.app.as_str(), stored.event.as_str()), ("push", "push"));
    assert_eq!(stored.reference.as_deref(), Some("refs/heads/main"));
    assert_eq!(stored.sha.as_deref(), Some(&*"2".repeat(40)));
    assert!(stored.action.is_none() && stored.merged.is_none() && !stored.every_repository);

    let body = format!("payload={}", url::form_urlencoded::byte_serialize(push(9001).as_bytes()).collect::<String>());
    let secret = scene.secret(Hook::App);
    let form = Delivery::new(&Hook::App.path(&scene.name), "push", &guid(), body.as_bytes(), &secret)
        .with("content-type", "application/x-www-form-urlencoded");
    assert_eq!(form.send(receiver.address).await.result(), (202, "accepted"));
    assert_eq!(scene.shop().await.len(), 2);

    // By the repository's own webhook.
    let hook = Hook::Repository(id(9001));
    let own = Delivery::new(&hook.path(&scene.name), "push", &guid(), push(9001).as_bytes(), &scene.secret(hook));
    assert_eq!(own.send(receiver.address).await.result(), (202, "accepted"));
    assert_eq!(scene.shop().await.len(), 3);
}

#[tokio::test]
async fn a_ping_is_answered_and_nothing_is_stored() {
    let scene = Scene::new("ping").await;
    let receiver = scene.receiver(config()).await;
    for hook in [Hook::App, Hook::Repository(id(9001))] {
        let body = json!({"zen": "Design for failure.", "hook_id": 1}).to_string();
        let ping = Delivery::new(&hook.path(&scene.name), "ping", &guid(), body.as_bytes(), &scene.secret(hook));
        let answer = ping.send(receiver.address).await;
        assert_eq!(answer.result(), (200, "pong"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header("server").is_none(), "{}", answer.headers);
    }
    assert!(scene.shop().await.is_empty() && scene.app_deliveries().await.is_empty());
}

/// The operator may have looked after the first already.
#[tokio::test]
async fn a_repeated_delivery_waits_again() {
    let scene = Scene::new("again").await;
    let receiver = scene.receiver(config()).await;
    let push = scene.push();
    for _ in 0..2 {
        assert_eq!(push.send(receiver.address).await.status, 202);
    }
    let stored = scene.waiting().await.into_iter().filter(|delivery| delivery.app == scene.name);
    let ids: BTreeSet<_> = stored.map(|delivery| (delivery.id, delivery.guid)).collect();
    let guids: BTreeSet<_> = ids.iter().map(|(_, guid)| guid).collect();
    assert_eq!((ids.len(), guids.len()), (2, 1), "{ids:?}");
}

/// The inbox stays short, however many deliveries come while the operator is away.
#[tokio::test]
async fn deliveries_for_one_object_are_merged_before_the_inbox_grows_long() {
    let scene = Scene::new("merged").await;
    let receiver = scene.receiver(Config { target_rate: 1e6, target_burst: 1e6, ..config() }).await;
    for _ in 0..100 {
        assert_eq!(scene.push().send(receiver.address).await.status, 202);
    }
    let stored: Vec<_> = scene.waiting().await.into_iter().filter(|delivery| delivery.app == scene.name).collect();
    let merged = |delivery: &WaitingDelivery| delivery.merged.unwrap_or(1);
    assert_eq!(stored.iter().map(merged).sum::<i64>(), 100, "none is forgotten");
    assert!(stored.len() <= 64, "{}", stored.len());
    let first = &stored[0];
    assert!(merged(first) > 1 && first.reference.is_some(), "all are for one branch: {first:?}");
}

#[tokio::test]
async fn events_reach_the_objects_that_they_concern() {
    let scene = Scene::new("events").await;
    scene.repository("lib", "lib-core", None).await;
    let receiver = scene.receiver(config()).await;
    let secret = scene.secret(Hook::App);
    let send = async |event: &str, body: serde_json::Value| {
        let body = body.to_string();
        let delivery = Delivery::new(&Hook::App.path(&scene.name), event, &guid(), body.as_bytes(), &secret);
        let answer = delivery.send(receiver.address).await;
        (answer.status, answer.body["result"].as_str().unwrap().to_owned())
    };
    let accepted = (202, "accepted".to_owned());
    let ignored = (202, "ignored".to_owned());
    for event in ["installation", "installation_repositories", "installation_target", "meta"] {
        assert_eq!(send(event, json!({"action": "created"})).await, accepted, "{event}");
    }
    assert_eq!(scene.app_deliveries().await.len(), 4);
    // Where an App is public, anybody can install it, rename an account, or authorize it.
    let stranger = json!({"id": 666, "login": "stranger"});
    for (event, body) in [
        ("installation", json!({"action": "created", "installation": {"id": 1, "account": stranger}})),
        ("installation_repositories", json!({"action": "added", "installation": {"id": 1, "account": stranger}})),
        ("installation_target", json!({"action": "renamed", "account": stranger, "installation": {"id": 1}})),
        ("github_app_authorization", json!({"action": "revoked", "sender": stranger})),
    ] {
        assert_eq!(send(event, body.clone()).await, ignored, "{event} {body}");
    }
    assert_eq!(scene.app_deliveries().await.len(), 4);
    let acme = json!({"id": 7001, "login": "acme-renamed"});
    let body = json!({"action": "renamed", "account": acme, "installation": {"id": 501}});
    assert_eq!(send("installation_target", body).await, accepted, "a granted account is known by its id");

    let repository = |id: u64, name: &str, owner: u64| json!({"id": id, "name": name, "owner": {"id": owner}});
    let body = json!({"action": "archived", "repository": repository(9001, "shop", 7001)});
    assert_eq!(send("repository", body).await, accepted);
    let stored = scene.shop().await.into_values().next().unwrap();
    assert_eq!((stored.event.as_str(), stored.action.as_deref()), ("repository", Some("archived")));
    // An object that waits for a repository of this name gets the delivery.
    let body = json!({"action": "created", "repository": repository(9002, "lib-core", 7001)});
    assert_eq!(send("repository", body).await, accepted);
    assert_eq!(scene.deliveries(&scene.name, "lib").await.len(), 1);
    // A transferred repository is matched by its former owner.
    let changes = json!({"owner": {"from": {"organization": {"id": 7001}}}});
    let body = json!({"action": "transferred", "changes": changes, "repository": repository(9001, "shop", 7009)});
    assert_eq!(send("repository", body).await, accepted);
    assert_eq!(scene.shop().await.len(), 2);

    for (event, body) in [
        ("issues", json!({"action": "opened", "repository": repository(9001, "shop", 7001)})),
        ("push", json!({"repository": repository(9009, "shop", 7001)})),
        ("push", json!({"repository": repository(9001, "shop", 7009)})),
        ("push", json!({"repository": repository(9001, "vault", 7001)})),
        ("push", json!({"repository": null})),
        ("repository", json!({"action": "created", "repository": repository(9003, "lib-core", 7009)})),
    ] {
        assert_eq!(send(event, body.clone()).await, ignored, "{event} {body}");
    }
    assert_eq!((scene.shop().await.len(), scene.app_deliveries().await.len()), (2, 5), "nothing else was stored");
}

#[tokio::test]
async fn githubs_own_headers_of_an_enterprise_server_change_nothing() {
    let scene = Scene::new("enterprise").await;
    let receiver = scene.receiver(config()).await;
    let forged =
        scene.push().with("x-github-enterprise-host", "evil.example").with("x-github-enterprise-version", "3.99");
    assert_eq!(forged.send(receiver.address).await.result(), (202, "accepted"));
    let get =
        http::Request::get(format!("/apis/landfall.dev/v1alpha1/namespaces/{}/projectrepositories/shop", scene.name));
    let object: serde_json::Value = scene.admin.request(get.body(Vec::new()).unwrap()).await.unwrap();
    assert!(!object.to_string().contains("evil.example"));
    // They do not make a signature for another host right either.
    let identity = landfall::webhook::AppIdentity { host: "evil.example".into(), app_id: id(crate::scene::APP_ID) };
    let keys = landfall::webhook::RootKeys::read(|name| match name {
        "current" => Some(&[1; 32][..]),
        "current-id" => Some(b"k1"),
        _ => None,
    });
    let other = keys.unwrap().current.secret(&identity, Hook::App);
    let forged = forged.clone().with("x-hub-signature-256", &signature(other.expose(), &forged.body));
    assert_eq!(forged.send(receiver.address).await.status, 401);
    // Without this guard, the owner of an App with the same id on another server could sign deliveries.
    let open = scene.receiver_without(Sabotage { believe_host: true, ..Sabotage::default() }, config()).await;
    assert_eq!(forged.send(open.address).await.result(), (202, "accepted"));
}
