//! When a delivery counts as stored: with an API server that is unreachable or slow, clients that hang up, and shutdown.

use crate::proxy::Line;
use crate::scene::{Running, Scene, config, guid, metric, ready};
use kube::Resource;
use landfall::api::WebhookInbox;
use landfall::guards::Sabotage;
use landfall::receiver::{Config, ServerLimits, WriteLimits};
use landfall_world::delivery::{Answer, answer, exchange};
use landfall_world::{SYSTEM, until};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Waits until this many deliveries wait to be written.
async fn waiting(health: SocketAddr, count: usize) {
    metric(health, &format!("landfall_deliveries_waiting {count}")).await;
}

/// A receiver whose patches may take as long as a test.
fn patient() -> Config {
    let server = ServerLimits { drain: Duration::from_mins(5), ..config().server };
    Config { server, ..config() }
}

fn send(scene: &Scene, guid: &str, address: SocketAddr) -> JoinHandle<Answer> {
    let bytes = scene.push().with("x-github-delivery", guid).bytes();
    tokio::spawn(async move { exchange(address, &bytes).await })
}

#[tokio::test]
async fn without_the_api_server_nothing_counts_as_accepted() {
    let scene = Scene::new("away").await;
    let writes = WriteLimits { timeout: Duration::from_millis(500), ..WriteLimits::default() };
    let receiver = scene.receiver(Config { writes, ..config() }).await;
    for away in [Line::Cut, Line::Held] {
        scene.proxy.set(away);
        let answer = scene.push().send(receiver.address).await;
        assert_eq!((answer.result(), answer.header("retry-after")), ((503, "refused"), Some("5")), "{away:?}");
        assert!(scene.shop().await.is_empty(), "{away:?}");
        // A refusal needs no API server.
        let unsigned = scene.push().without("x-hub-signature-256");
        assert_eq!(unsigned.send(receiver.address).await.status, 401);
        scene.proxy.set(Line::Cut);
    }
    scene.proxy.set(Line::Open);
    until("it is there again", async || (scene.push().send(receiver.address).await.status == 202).then_some(())).await;
    assert!(!scene.shop().await.is_empty());
}

#[tokio::test]
async fn a_receiver_with_an_incomplete_cache_denies_nothing() {
    let scene = Scene::new("starting").await;
    scene.proxy.set(Line::Held);
    let receiver = scene.started(Sabotage::default(), config()).await;
    let answer = scene.push().send(receiver.address).await;
    assert_eq!((answer.result(), answer.header("retry-after")), ((503, "refused"), Some("5")));
    assert_eq!(ready(receiver.health).await, Some(503));
    scene.proxy.set(Line::Open);
    until("it is stored", async || {
        let answer = scene.push().send(receiver.address).await;
        assert!(matches!(answer.result(), (503, "refused") | (202, "accepted")), "{answer:?}");
        (answer.status == 202).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_delivery_that_kubernetes_refuses_to_store_is_not_accepted() {
    let scene = Scene::new("refused").await;
    let receiver = scene.receiver(config()).await;
    scene.bar(&receiver.pod).await;
    assert_eq!(scene.push().send(receiver.address).await.result(), (503, "refused"));
    assert!(scene.shop().await.is_empty());
    metric(receiver.health, "landfall_delivery_patches_total{result=\"refused\"} 1").await;
}

/// A person deletes the inbox. The operator makes another.
#[tokio::test]
async fn without_its_inbox_a_receiver_accepts_nothing() {
    let scene = Scene::new("no-inbox").await;
    let receiver = scene.receiver(config()).await;
    let path = format!("{}/{}", WebhookInbox::url_path(&(), Some(SYSTEM)), receiver.pod);
    let delete = http::Request::delete(&path).body(Vec::new()).unwrap();
    let _: serde_json::Value = scene.admin.request(delete).await.unwrap();
    let answer = scene.push().send(receiver.address).await;
    assert_eq!((answer.result(), answer.header("retry-after")), ((503, "refused"), Some("5")));
    until("it is not ready", async || (ready(receiver.health).await == Some(503)).then_some(())).await;
    scene.make_inbox(&receiver.pod).await;
    until("it is ready", async || (ready(receiver.health).await == Some(200)).then_some(())).await;
    assert_eq!(scene.push().send(receiver.address).await.result(), (202, "accepted"));
    assert_eq!(scene.shop().await.len(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_nothing() {
    let scene = Scene::new("hang-up").await;
    let receiver = scene.receiver(patient()).await;
    scene.proxy.set(Line::Held);
    let guid = guid();
    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    stream.write_all(&scene.push().with("x-github-delivery", &guid).bytes()).await.unwrap();
    waiting(receiver.health, 1).await;
    drop(stream);
    scene.proxy.set(Line::Open);
    until("it is stored", async || scene.shop().await.contains_key(&guid).then_some(())).await;
}

#[tokio::test]
async fn simultaneous_deliveries_share_patches_whatever_object_they_are_for() {
    let scene = Scene::new("group").await;
    scene.repository("again", "shop", Some(9001)).await;
    let receiver = scene.receiver(patient()).await;
    scene.proxy.set(Line::Held);
    let mut sent = BTreeSet::new();
    let mut answers = Vec::new();
    for count in 1..22 {
        let guid = guid();
        answers.push(send(&scene, &guid, receiver.address));
        sent.insert(guid);
        waiting(receiver.health, count).await;
    }
    let before = version(&scene, &receiver).await;
    scene.proxy.set(Line::Open);
    for answer in answers {
        assert_eq!(answer.await.unwrap().status, 202);
    }
    // Those of one patch are merged for each object.
    let stored = scene.shop().await;
    assert!(stored.keys().all(|guid| sent.contains(guid)), "{stored:?}");
    for name in ["shop", "again"] {
        let stored = scene.deliveries(&scene.name, name).await;
        assert_eq!(stored.values().map(|one| one.merged.unwrap_or(1)).sum::<i64>(), 21, "{name}: {stored:?}");
    }
    let patches = patches_since(&scene, before).await;
    assert!(patches <= 3, "{patches} patches for 21 deliveries");
}

async fn version(scene: &Scene, receiver: &Running) -> String {
    let path = format!("{}/{}", WebhookInbox::url_path(&(), Some(SYSTEM)), receiver.pod);
    let get = http::Request::get(path).body(Vec::new()).unwrap();
    let inbox: serde_json::Value = scene.admin.request(get).await.unwrap();
    inbox["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// How often the scene's inboxes changed since a version.
async fn patches_since(scene: &Scene, version: String) -> usize {
    let path = WebhookInbox::url_path(&(), Some(SYSTEM));
    let path = format!("{path}?watch=1&resourceVersion={version}&timeoutSeconds=1");
    let text = scene.admin.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
    let own = format!("\"name\":\"{}-", scene.name);
    text.lines().filter(|line| line.contains("MODIFIED") && line.contains(&own)).count()
}

#[tokio::test]
async fn each_receiver_has_its_own_inbox() {
    let scene = Scene::new("two").await;
    let (one, other) = (scene.receiver(config()).await, scene.receiver(config()).await);
    for _ in 0..15 {
        for receiver in [&one, &other] {
            assert_eq!(scene.push().send(receiver.address).await.status, 202);
        }
    }
    assert_eq!(scene.shop().await.len(), 30);
}

#[tokio::test]
async fn deliveries_in_progress_are_stored_before_the_end() {
    let scene = Scene::new("drain").await;
    let server = ServerLimits { shutdown_delay: Duration::from_secs(1), ..patient().server };
    let mut receiver = scene.receiver(Config { server, ..patient() }).await;
    // An idle connection, and a busy one.
    let idle = TcpStream::connect(receiver.address).await.unwrap();
    scene.proxy.set(Line::Held);
    let guid = guid();
    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    stream.write_all(&scene.push().with("x-github-delivery", &guid).bytes()).await.unwrap();
    waiting(receiver.health, 1).await;
    receiver.shutdown.cancel();
    until("it is not ready any more", async || (ready(receiver.health).await == Some(503)).then_some(())).await;
    until("it accepts no more", async || TcpStream::connect(receiver.address).await.is_err().then_some(())).await;
    scene.proxy.set(Line::Open);
    assert_eq!(answer(&mut stream).await.status, 202);
    assert!(scene.shop().await.contains_key(&guid));
    (&mut receiver.ended).await.unwrap().expect("an orderly end");
    drop(idle);
    assert!(ready(receiver.health).await.is_none());
}

#[tokio::test]
async fn a_delivery_whose_client_hung_up_is_stored_before_the_end_too() {
    let scene = Scene::new("drain-alone").await;
    let mut receiver = scene.receiver(patient()).await;
    scene.proxy.set(Line::Held);
    let guid = guid();
    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    stream.write_all(&scene.push().with("x-github-delivery", &guid).bytes()).await.unwrap();
    waiting(receiver.health, 1).await;
    drop(stream);
    receiver.shutdown.cancel();
    until("it accepts no more", async || TcpStream::connect(receiver.address).await.is_err().then_some(())).await;
    // It does not end before this delivery is stored.
    let early = timeout(Duration::from_millis(500), &mut receiver.ended).await;
    assert!(early.is_err(), "it ended with a delivery that was not stored: {early:?}");
    scene.proxy.set(Line::Open);
    (&mut receiver.ended).await.unwrap().expect("an orderly end");
    assert!(scene.shop().await.contains_key(&guid));
}

#[tokio::test]
async fn a_deleted_object_gets_no_deliveries() {
    let scene = Scene::new("gone").await;
    let receiver = scene.receiver(config()).await;
    let path = format!("/apis/landfall.dev/v1alpha1/namespaces/{}/projectrepositories/shop", scene.name);
    let delete = http::Request::delete(path).body(Vec::new()).unwrap();
    let _: serde_json::Value = scene.admin.request(delete).await.unwrap();
    // It is missing in the API server at once, and a moment later in the cache. The operator drops the deliveries in between.
    until("it is forgotten", async || {
        let answer = scene.push().send(receiver.address).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        (answer.result() == (202, "ignored")).then_some(())
    })
    .await;
}
