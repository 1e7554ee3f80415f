//! When a delivery counts as stored: with an API server that is away or slow, clients that hang up, and an end meanwhile.

use crate::proxy::Line;
use crate::scene::{Scene, config, guid, metric, ready};
use landfall::guards::Sabotage;
use landfall::receiver::{Config, InboxLimits, ServerLimits};
use landfall_world::delivery::{Answer, answer, exchange};
use landfall_world::until;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Waits until so many deliveries are on their way into a status.
async fn waiting(health: SocketAddr, count: usize) {
    metric(health, &format!("landfall_deliveries_waiting {count}")).await;
}

/// A receiver whose patches may be held for as long as a test takes.
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
    let inbox = InboxLimits { patch: Duration::from_millis(500), ..InboxLimits::default() };
    let receiver = scene.receiver(Config { inbox, ..config() }).await;
    for away in [Line::Cut, Line::Held] {
        scene.proxy.set(away);
        let answer = scene.push().send(receiver.address).await;
        assert_eq!((answer.result(), answer.header("retry-after")), ((503, "refused"), Some("5")), "{away:?}");
        assert!(scene.shop().await.is_empty(), "{away:?}");
        // What is known by heart is still refused.
        let unsigned = scene.push().without("x-hub-signature-256");
        assert_eq!(unsigned.send(receiver.address).await.status, 401);
        scene.proxy.set(Line::Cut);
    }
    scene.proxy.set(Line::Open);
    until("it is there again", async || (scene.push().send(receiver.address).await.status == 202).then_some(())).await;
    assert!(!scene.shop().await.is_empty());
}

#[tokio::test]
async fn a_receiver_that_does_not_know_everything_yet_denies_nothing() {
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

/// What one tenant's object is refused for does not become the others' matter.
#[tokio::test]
async fn an_object_that_is_refused_for_good_fails_no_other() {
    let scene = Scene::new("refused").await;
    scene.repository("barred", "shop", Some(9001)).await;
    scene.bar("barred").await;
    let receiver = scene.receiver(config()).await;
    assert_eq!(scene.push().send(receiver.address).await.result(), (202, "accepted"));
    assert_eq!(scene.shop().await.len(), 1);
    assert!(scene.deliveries(&scene.name, "barred").await.is_empty());
    metric(receiver.health, "landfall_delivery_patches_total{result=\"refused\"} 1").await;

    // Alone it is not said to be stored.
    let path = format!("/apis/landfall.dev/v1alpha1/namespaces/{}/projectrepositories/shop", scene.name);
    let delete = http::Request::delete(path).body(Vec::new()).unwrap();
    let _: serde_json::Value = scene.admin.request(delete).await.unwrap();
    until("it is forgotten", async || (scene.push().send(receiver.address).await.status == 503).then_some(())).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_nothing_back() {
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
async fn what_comes_at_once_shares_patches_and_the_newest_stay() {
    let scene = Scene::new("group").await;
    let receiver = scene.receiver(patient()).await;
    let old = guid();
    assert_eq!(send(&scene, &old, receiver.address).await.unwrap().status, 202);
    scene.proxy.set(Line::Held);
    let first = guid();
    let mut answers = vec![send(&scene, &first, receiver.address)];
    waiting(receiver.health, 1).await;
    let mut later = BTreeSet::new();
    for count in 2..22 {
        let guid = guid();
        answers.push(send(&scene, &guid, receiver.address));
        later.insert(guid);
        waiting(receiver.health, count).await;
    }
    let before = version(&scene).await;
    scene.proxy.set(Line::Open);
    for answer in answers {
        assert_eq!(answer.await.unwrap().status, 202);
    }
    let stored: BTreeSet<String> = scene.shop().await.into_keys().collect();
    assert_eq!(stored.len(), 16);
    assert!(stored.is_subset(&later) && !stored.contains(&old) && !stored.contains(&first), "{stored:?}");
    let newest: BTreeSet<String> = later.into_iter().skip(4).collect();
    assert_eq!(stored, newest);
    let patches = patches_since(&scene, before).await;
    assert!(patches <= 3, "{patches} patches for 21 deliveries");
    // One more, alone, puts out the oldest of what others and it have written.
    let last = guid();
    assert_eq!(send(&scene, &last, receiver.address).await.unwrap().status, 202);
    let stored = scene.shop().await;
    assert_eq!((stored.len(), stored.contains_key(&last)), (16, true));
}

async fn object(scene: &Scene) -> serde_json::Value {
    let path = format!("/apis/landfall.dev/v1alpha1/namespaces/{}/projectrepositories/shop", scene.name);
    scene.admin.request(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
}

async fn version(scene: &Scene) -> String {
    object(scene).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// How often the object changed since a version.
async fn patches_since(scene: &Scene, version: String) -> usize {
    let path = format!(
        "/apis/landfall.dev/v1alpha1/namespaces/{}/projectrepositories?watch=1&resourceVersion={version}&timeoutSeconds=1",
        scene.name
    );
    let text = scene.admin.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
    text.lines().filter(|line| line.contains("MODIFIED")).count()
}

#[tokio::test]
async fn two_receivers_keep_one_log() {
    let scene = Scene::new("two").await;
    let (one, other) = (scene.receiver(config()).await, scene.receiver(config()).await);
    for _ in 0..15 {
        for receiver in [&one, &other] {
            assert_eq!(scene.push().send(receiver.address).await.status, 202);
        }
    }
    // What the other wrote a moment ago may be seen with the next patch only.
    until("the newest 16", async || {
        assert_eq!(scene.push().send(one.address).await.status, 202);
        (scene.shop().await.len() == 16).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_under_way_is_finished_before_the_end() {
    let scene = Scene::new("drain").await;
    let server = ServerLimits { shutdown_delay: Duration::from_secs(1), ..patient().server };
    let mut receiver = scene.receiver(Config { server, ..patient() }).await;
    // A connection that is kept, and one that is being used.
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
async fn what_nobody_waits_for_any_more_is_stored_before_the_end_too() {
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
    // It ends in its own time, and not before this is stored.
    let early = timeout(Duration::from_millis(500), &mut receiver.ended).await;
    assert!(early.is_err(), "it ended with a delivery that was not stored: {early:?}");
    scene.proxy.set(Line::Open);
    (&mut receiver.ended).await.unwrap().expect("an orderly end");
    assert!(scene.shop().await.contains_key(&guid));
}

#[tokio::test]
async fn what_was_deleted_is_gone() {
    let scene = Scene::new("gone").await;
    let receiver = scene.receiver(config()).await;
    let path = format!("/apis/landfall.dev/v1alpha1/namespaces/{}/projectrepositories/shop", scene.name);
    let delete = http::Request::delete(path).body(Vec::new()).unwrap();
    let _: serde_json::Value = scene.admin.request(delete).await.unwrap();
    // Gone from the API server at once (404), and a moment later from the cache.
    until("it is forgotten", async || {
        let answer = scene.push().send(receiver.address).await;
        assert!(answer.status == 404 || answer.status == 202, "{answer:?}");
        (answer.result() == (202, "ignored")).then_some(())
    })
    .await;
}
