//! Transfers that break off, and a gateway that ends meanwhile.

use super::raw::{Raw, creation, head};
use super::scene::{BRANCH, Scene};
use std::time::Duration;

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn is_pushed(scene: &Scene) -> bool {
    scene.refs("shop").contains_key(&format!("refs/heads/{BRANCH}"))
}

/// Waits for a condition.
async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it did not come about within a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_breaks_off_anywhere_changes_nothing_and_can_be_sent_again() {
    let scene = Scene::plain(|_| {}).await;
    let push = creation(&scene);
    for end in [0, 10, 100, push.len() - 33, push.len() - 32, push.len() - 20, push.len() - 1] {
        let mut raw = Raw::open(scene.address).await;
        assert!(raw.send(head(&scene, "transfer-encoding: chunked\r\n")).await);
        if end > 0 {
            raw.send(chunk(&push[..end])).await;
        }
        drop(raw);
    }
    // Also one whose chunks are complete and whose end is missing.
    let mut raw = Raw::open(scene.address).await;
    raw.send(head(&scene, "transfer-encoding: chunked\r\n")).await;
    raw.send(chunk(&push[..push.len() - 1])).await;
    raw.send("5\r\nab").await;
    drop(raw);
    let mut raw = Raw::open(scene.address).await;
    raw.send(head(&scene, "transfer-encoding: chunked\r\n")).await;
    raw.send(chunk(&push)).await;
    assert!(raw.send("0\r\n\r\n").await);
    let said = raw.rest().await;
    assert!(said.contains(&format!("ok refs/heads/{BRANCH}")), "none of the others had made it: {said}");
    assert!(is_pushed(&scene));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_push_ends() {
    let scene = Scene::plain(|limits| limits.stall = Duration::from_millis(300)).await;
    let push = creation(&scene);
    let mut raw = Raw::open(scene.address).await;
    raw.send(head(&scene, "transfer-encoding: chunked\r\n")).await;
    raw.send(chunk(&push[..push.len() - 5])).await;
    let said = raw.rest().await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(!is_pushed(&scene));
}

/// A gateway that is asked to end takes no new connection, and brings the push that has begun to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_has_begun_is_not_cut_by_the_end_of_the_gateway() {
    let mut scene = Scene::plain(|_| {}).await;
    let push = creation(&scene);
    let mut raw = Raw::open(scene.address).await;
    raw.send(head(&scene, "transfer-encoding: chunked\r\n")).await;
    raw.send(chunk(&push[..push.len() - 5])).await;
    // GitHub has the request before the end begins.
    let requests = scene.sim.requests().len();
    until(|| scene.sim.requests().len() >= requests && !scene.sim.live_tokens().is_empty()).await;
    scene.shutdown.cancel();
    until(|| std::net::TcpStream::connect(scene.address).is_err()).await;
    raw.send(chunk(&push[push.len() - 5..])).await;
    assert!(raw.send("0\r\n\r\n").await);
    let said = raw.rest().await;
    assert!(said.contains(&format!("ok refs/heads/{BRANCH}")), "{said}");
    assert!(is_pushed(&scene));
    let served = scene.served.take().unwrap();
    tokio::time::timeout(Duration::from_mins(1), served).await.expect("the server ends").unwrap();
}
