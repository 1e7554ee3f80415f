//! Clients that send too much, too slowly, or not to the end.

use crate::scene::{Scene, config, guid, metric};
use landfall::receiver::{Config, ServerLimits};
use landfall::webhook::Hook;
use landfall_world::delivery::{Delivery, PATIENCE, answer, exchange, kept_answer, until_closed};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const LARGEST: usize = 25 * 1024 * 1024;

fn with(change: impl FnOnce(&mut ServerLimits)) -> Config {
    let mut config = config();
    change(&mut config.server);
    config
}

#[tokio::test]
async fn a_body_may_be_as_large_as_githubs_and_no_larger() {
    let scene = Scene::new("large").await;
    let receiver = scene.receiver(with(|limits| limits.body = Duration::from_mins(5))).await;
    let push = scene.push();

    // A body that announces too large a size is refused before it arrives.
    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    let head = push.head(&format!("content-length: {}\r\n", LARGEST + 1));
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.result(), (413, "refused"));

    // A body without a size is counted.
    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    stream.write_all(push.head("transfer-encoding: chunked\r\n").as_bytes()).await.unwrap();
    let chunk = [b"100000\r\n", &vec![b' '; 0x10_0000][..], b"\r\n"].concat();
    let mut sent = 0;
    while sent <= LARGEST && stream.write_all(&chunk).await.is_ok() {
        sent += 0x10_0000;
    }
    assert_eq!(answer(&mut stream).await.result(), (413, "refused"));
    assert!(scene.shop().await.is_empty());

    let mut body = push.body.clone();
    body.resize(LARGEST, b' ');
    let whole = Delivery::new(&push.path, "push", &guid(), &body, &scene.secret(Hook::App));
    assert_eq!(whole.send(receiver.address).await.result(), (202, "accepted"));
}

#[tokio::test]
async fn all_bodies_share_a_memory_limit_and_usual_ones_have_their_own() {
    let scene = Scene::new("memory").await;
    let receiver = scene.receiver(with(|limits| limits.memory = 0)).await;
    let mut large = scene.push();
    large.body.resize(100_000, b' ');
    let large = Delivery::new(&large.path, "push", &guid(), &large.body, &scene.secret(Hook::App));
    let refused = large.send(receiver.address).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(scene.push().send(receiver.address).await.status, 202);
    assert_eq!(scene.shop().await.len(), 1);
}

#[tokio::test]
async fn a_head_that_is_slow_or_large_ends_the_connection() {
    let scene = Scene::new("head").await;
    let receiver = scene.receiver(with(|limits| limits.head = Duration::from_millis(500))).await;
    // A line every 50 ms, and never the last one: the head would never end by itself.
    let stream = TcpStream::connect(receiver.address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        let mut line = b"POST / HTTP/1.1\r\n".to_vec();
        while write.write_all(&line).await.is_ok() {
            line = b"x: y\r\n".to_vec();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut rest = Vec::new();
    timeout(PATIENCE, read.read_to_end(&mut rest)).await.expect("it is cut off").ok();
    dripping.abort();

    let receiver = scene.receiver(config()).await;
    let huge = scene.push().with("x-large", &"x".repeat(20_000));
    assert_eq!(huge.send(receiver.address).await.status, 431);
    let mut many = scene.push();
    many.headers.extend((0..200).map(|n| (format!("x-{n}"), "y".to_owned())));
    assert_eq!(many.send(receiver.address).await.status, 431);
    assert!(scene.shop().await.is_empty());
}

#[tokio::test]
async fn a_connection_is_kept_between_two_requests_for_longer_than_a_head_may_take() {
    let scene = Scene::new("kept").await;
    // Its own heads take far less.
    let receiver = scene.receiver(with(|limits| limits.head = Duration::from_secs(5))).await;
    let mut kept = TcpStream::connect(receiver.address).await.unwrap();
    let mut send = async || {
        let request = String::from_utf8(scene.push().bytes()).unwrap().replace("connection: close\r\n", "");
        kept.write_all(request.as_bytes()).await.expect("the connection is there");
        assert_eq!(kept_answer(&mut kept).await.status, 202);
    };
    send().await;
    // Wait until a head that began later is cut off.
    let mut slow = TcpStream::connect(receiver.address).await.unwrap();
    slow.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
    until_closed(&mut slow).await;
    send().await;
}

#[tokio::test]
async fn a_body_that_is_slow_or_breaks_off_is_refused() {
    let scene = Scene::new("slow").await;
    let receiver = scene.receiver(with(|limits| limits.body = Duration::from_millis(500))).await;
    let push = scene.push();
    let head = push.head(&format!("content-length: {}\r\n", push.body.len()));
    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&push.body[..10]).await.unwrap();
    assert_eq!(answer(&mut stream).await.result(), (408, "refused"));

    let mut stream = TcpStream::connect(receiver.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&push.body[..10]).await.unwrap();
    stream.shutdown().await.unwrap();
    until_closed(&mut stream).await;
    let broken = [push.head("transfer-encoding: chunked\r\n").as_bytes(), b"zz\r\n"].concat();
    assert_eq!(exchange(receiver.address, &broken).await.status, 400);
    assert!(scene.shop().await.is_empty());
    assert_eq!(push.send(receiver.address).await.status, 202);
}

/// Strangers who keep every slot busy: a head or a body that never ends, from a client that comes again when it is cut off.
fn besiege(address: SocketAddr, push: &Delivery, count: usize) -> JoinSet<()> {
    let mut strangers = JoinSet::new();
    for n in 0..count {
        let beginning = match n % 3 {
            0 => String::new(),
            1 => "POST / HTTP/1.1\r\n".to_owned(),
            _ => push.head("content-length: 1000000\r\n"),
        };
        strangers.spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(address).await {
                    let mut sent = stream.write_all(beginning.as_bytes()).await;
                    while sent.is_ok() && !beginning.is_empty() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        sent = stream.write_all(b"x").await;
                    }
                    let _ = stream.read_u8().await;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    strangers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_get_through_while_slow_strangers_want_all_connections() {
    let scene = Scene::new("besieged").await;
    // No head and no body times out within the test.
    let long = Duration::from_mins(30);
    let receiver = scene
        .receiver(with(|limits| {
            limits.connections = 256;
            (limits.head, limits.body, limits.idle) = (long, long, long);
        }))
        .await;
    let mut strangers = besiege(receiver.address, &scene.push(), 500);
    for _ in 0..20 {
        assert_eq!(scene.push().send(receiver.address).await.status, 202);
    }
    strangers.shutdown().await;
}

#[tokio::test]
async fn large_bodies_that_do_not_end_make_room_for_those_that_do() {
    let scene = Scene::new("greedy").await;
    let receiver = scene.receiver(with(|limits| limits.body = Duration::from_mins(5))).await;
    let mut greedy = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(receiver.address).await.unwrap();
        let head = scene.push().head(&format!("content-length: {LARGEST}\r\n"));
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; LARGEST - 1000]).await.unwrap();
        greedy.push(stream);
    }
    for size in [100_000, 2_000_000, LARGEST] {
        let mut large = scene.push();
        large.body.resize(size, b' ');
        let large = Delivery::new(&large.path, "push", &guid(), &large.body, &scene.secret(Hook::App));
        assert_eq!(large.send(receiver.address).await.result(), (202, "accepted"), "{size}");
    }
}

#[tokio::test]
async fn a_connection_beyond_the_limit_ends_the_one_that_waits_longest() {
    let scene = Scene::new("connections").await;
    let receiver = scene.receiver(with(|limits| limits.connections = 2)).await;
    let (push, address) = (scene.push(), receiver.address);
    let mut slow = Vec::new();
    for count in 1..=2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(push.head("content-length: 1000\r\n").as_bytes()).await.unwrap();
        slow.push(stream);
        metric(receiver.health, &format!("landfall_deliveries_in_flight {count}")).await;
    }
    assert_eq!(push.send(address).await.status, 202);
    assert_eq!(until_closed(&mut slow[0]).await, b"", "it is cut off");
    // The other one was within its time.
    slow[1].write_all(&[b' '; 1000]).await.unwrap();
    assert_eq!(answer(&mut slow[1]).await.status, 401);
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    let scene = Scene::new("silent").await;
    // No connection times out within the test.
    let receiver = scene
        .receiver(with(|limits| {
            limits.connections = 2;
            (limits.head, limits.idle) = (Duration::from_mins(10), Duration::from_mins(10));
        }))
        .await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(receiver.address).await.unwrap());
    }
    for _ in 0..3 {
        let mut kept = TcpStream::connect(receiver.address).await.unwrap();
        let request = String::from_utf8(scene.push().bytes()).unwrap().replace("connection: close\r\n", "");
        kept.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(kept_answer(&mut kept).await.status, 202);
        silent.push(kept);
    }
    assert_eq!(scene.push().send(receiver.address).await.status, 202);
}

#[tokio::test]
async fn a_connection_without_a_request_ends_sooner_than_an_idle_one() {
    let scene = Scene::new("mute").await;
    let change = |limits: &mut ServerLimits| {
        (limits.head, limits.idle) = (Duration::from_millis(100), Duration::from_mins(10));
    };
    let receiver = scene.receiver(with(change)).await;
    let mut mute = TcpStream::connect(receiver.address).await.unwrap();
    until_closed(&mut mute).await;
}
