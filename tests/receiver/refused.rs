//! Refusals, of which nothing is stored.

use crate::scene::{Scene, config, guid};
use landfall::webhook::Hook;
use landfall_world::delivery::{Delivery, answer, exchange, signature};
use landfall_world::{id, until};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_signature_is_complete_right_and_of_sha_256() {
    let scene = Scene::new("signature").await;
    let receiver = scene.receiver(config()).await;
    let push = scene.push();
    let right = signature(&scene.secret(Hook::App), &push.body);
    let others = scene.secret(Hook::Repository(id(9001)));
    let sha_1 = push.clone().without("x-hub-signature-256").with("x-hub-signature", &format!("sha1={}", &right[7..47]));
    for (what, refused) in [
        ("none", push.clone().without("x-hub-signature-256")),
        ("SHA-1 alone", sha_1),
        ("cut short", push.clone().with("x-hub-signature-256", &right[..70])),
        ("without its name", push.clone().with("x-hub-signature-256", &right[7..])),
        ("another secret's", push.clone().with("x-hub-signature-256", &signature(&others, &push.body))),
        ("of the empty secret", push.clone().with("x-hub-signature-256", &signature("", &push.body))),
        ("of another body", push.clone().with("x-hub-signature-256", &signature(&scene.secret(Hook::App), b"{}"))),
    ] {
        let answer = refused.send(receiver.address).await;
        assert_eq!(answer.result(), (401, "refused"), "{what}");
        assert!(!format!("{answer:?}").contains(&right[7..]), "{what}");
    }
    assert!(scene.shop().await.is_empty());
    assert_eq!(push.send(receiver.address).await.status, 202, "and this one is right");
}

#[tokio::test]
async fn the_previous_key_is_accepted_until_it_is_removed() {
    let scene = Scene::new("rotation").await;
    let old = scene.push();
    scene.rotate(2, Some(1));
    let receiver = scene.receiver(config()).await;
    assert_eq!(old.send(receiver.address).await.status, 202);
    assert_eq!(scene.push().send(receiver.address).await.status, 202);
    scene.rotate(3, Some(2));
    // Within a second after the keys were read it may be refused; a second attempt is accepted.
    let new = scene.push();
    until("the new key is accepted", async || (new.send(receiver.address).await.status == 202).then_some(())).await;
    assert_eq!(old.send(receiver.address).await.status, 401);
}

#[tokio::test]
async fn an_unknown_path_is_refused_before_the_body_is_sent() {
    let scene = Scene::new("unknown").await;
    let receiver = scene.receiver(config()).await;
    let push = scene.push();
    let app = &scene.name;
    for (path, status) in [
        ("/", 404),
        ("/webhooks/app/nobody", 404),
        ("/webhooks/repo/nobody/9001", 404),
        (&*format!("/webhooks/repo/{app}/9002"), 404),
        (&*format!("/webhooks/repo/{app}/09001"), 404),
        (&*format!("/webhooks/app/{app}/"), 404),
    ] {
        let request = Delivery { path: path.into(), ..push.clone() };
        // A body is announced and does not arrive.
        let mut stream = TcpStream::connect(receiver.address).await.unwrap();
        stream.write_all(request.head("content-length: 1000\r\n").as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await.status, status, "{path}");
    }
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", push.path);
        let answer = exchange(receiver.address, request.as_bytes()).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
    }
}

#[tokio::test]
async fn a_malformed_delivery_is_refused_with_a_reason() {
    let scene = Scene::new("malformed").await;
    let receiver = scene.receiver(config()).await;
    let push = scene.push();
    let with_body = |body: &[u8]| Delivery::new(&push.path, "push", &guid(), body, &scene.secret(Hook::App));
    for (what, refused, status) in [
        ("no event", push.clone().without("x-github-event"), 400),
        ("an odd event", push.clone().with("x-github-event", "../../x"), 400),
        ("no GUID", push.clone().without("x-github-delivery"), 400),
        ("an odd GUID", push.clone().with("x-github-delivery", "1"), 400),
        ("no type", push.clone().without("content-type"), 415),
        ("another type", push.clone().with("content-type", "text/plain"), 415),
        ("a form without payload", push.clone().with("content-type", "application/x-www-form-urlencoded"), 400),
        ("a ref with NUL", with_body(br#"{"ref": "refs/heads/\u0000"}"#), 400),
        ("a ref with ESC", with_body(br#"{"ref": "refs/heads/\u001b[2J"}"#), 400),
        ("a compressed body", push.clone().with("content-encoding", "gzip"), 415),
        ("no JSON", with_body(b"{"), 400),
        ("no object", with_body(b"[]"), 400),
        ("nothing", with_body(b""), 400),
    ] {
        assert_eq!(refused.send(receiver.address).await.result(), (status, "refused"), "{what}");
    }
    assert!(scene.shop().await.is_empty());
}

#[tokio::test]
async fn a_noisy_repository_uses_up_only_its_own_share() {
    let scene = Scene::new("rate").await;
    scene.repository("lib", "lib-core", Some(9002)).await;
    // One token in hours, so that none is added during the test.
    let receiver =
        scene.receiver(landfall::receiver::Config { target_rate: 0.0001, target_burst: 3.0, ..config() }).await;
    for _ in 0..3 {
        assert_eq!(scene.push().send(receiver.address).await.status, 202);
    }
    let refused = scene.push().send(receiver.address).await;
    assert_eq!(refused.result(), (429, "refused"));
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10_000).contains(&after), "{after}");
    assert_eq!(scene.shop().await.len(), 3);
    let body = json!({"repository": {"id": 9002, "name": "lib-core", "owner": {"id": 7001}}}).to_string();
    let path = Hook::App.path(&scene.name);
    let other = Delivery::new(&path, "push", &guid(), body.as_bytes(), &scene.secret(Hook::App));
    assert_eq!(other.send(receiver.address).await.status, 202);
    // A request with a wrong signature takes no token.
    let forged = other.clone().with("x-hub-signature-256", &signature("guess", &other.body));
    for _ in 0..5 {
        assert_eq!(forged.send(receiver.address).await.status, 401);
    }
    assert_eq!(other.send(receiver.address).await.status, 202);
}

#[tokio::test]
async fn a_rate_limited_delivery_is_stored_later() {
    let scene = Scene::new("later").await;
    let receiver = scene.receiver(landfall::receiver::Config { target_rate: 0.2, target_burst: 1.0, ..config() }).await;
    let refused = until("one is refused", async || {
        let guid = guid();
        let answer = scene.push().with("x-github-delivery", &guid).send(receiver.address).await;
        (answer.status == 429).then_some(guid)
    })
    .await;
    let stored = until("it is stored", async || scene.shop().await.remove(&refused)).await;
    assert_eq!((stored.event.as_str(), stored.reference, stored.sha), ("push", None, None));
}
