//! What a program in a workspace may try by requests of its own making.

#![expect(clippy::cast_possible_truncation, reason = "the bits were masked")]

use super::raw::{EMPTY_PACK, Raw, ZERO, creation, head, packet};
use super::scene::{BRANCH, Scene, TOKEN};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use std::io::Write as _;
use std::time::Duration;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn answer(scene: &Scene, head: &str, body: &[u8]) -> String {
    let mut raw = Raw::open(scene.address).await;
    raw.send(head).await;
    raw.send(body).await;
    raw.rest().await
}

async fn with_length(scene: &Scene, headers: &str, body: &[u8]) -> String {
    answer(scene, &head(scene, &format!("{headers}content-length: {}\r\n", body.len())), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_read_plain_and_compressed() {
    let scene = Scene::plain(|_| {}).await;
    let full = format!("refs/heads/{BRANCH}");
    let said = with_length(&scene, "", &creation(&scene)).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.contains(&format!("ok {full}")), "{said}");
    assert!(scene.refs("shop").contains_key(&full));
    let commit = scene.refs("shop")["refs/heads/main"].clone();
    let wip = "refs/heads/landfall-wip/try-0a1b2/head";
    let push = [packet(&format!("{ZERO} {commit} {wip}\0report-status")).as_bytes(), b"0000", &EMPTY_PACK].concat();
    let said = with_length(&scene, "content-encoding: gzip\r\n", &gzip(&push)).await;
    assert!(said.contains(&format!("ok {wip}")), "{said}");
    assert!(scene.refs("shop").contains_key(wip));
    // git's probe request.
    let said = with_length(&scene, "", b"0000").await;
    assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("\r\n\r\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_git_does_not_send_reach_nobody() {
    let scene = Scene::plain(|_| {}).await;
    let commit = scene.refs("shop")["refs/heads/main"].clone();
    let own = format!("{ZERO} {commit} refs/heads/{BRANCH}");
    let to = |name: &str| format!("{ZERO} {commit} {name}");
    let before = scene.refs("shop");
    for lines in [
        vec![to("refs/heads/x\nrefs/heads/main")],
        vec![format!("{own}\n{ZERO} {commit} refs/heads/main\n\n")],
        vec![format!("{own}\0report-status\n"), format!("{}\0report-status push-options", to("refs/heads/main"))],
        vec![to("refs/heads/landfall/try-0a1b2.lock")],
        vec![to("refs/heads/../heads/main")],
        vec![to("HEAD")],
        vec!["push-cert\0report-status".into(), "certificate version 0.1\n".into(), own.clone()],
        vec![own.clone(), own.clone()],
        vec![own.to_uppercase()],
        vec![format!("shallow {commit}\n{}", to("refs/heads/main")), own.clone()],
    ] {
        let body: String = lines.iter().map(|line| packet(line)).collect();
        let said = with_length(&scene, "", &[body.as_bytes(), b"0000", &EMPTY_PACK].concat()).await;
        assert!(said.starts_with("HTTP/1.1 400"), "{lines:?}: {said}");
    }
    // A deletion has no pack. What follows it could be another request to a careless reader.
    let deletion = packet(&format!("{commit} {ZERO} refs/heads/landfall-wip/try-0a1b2/head\0report-status"));
    let smuggled = packet(&to("refs/heads/main"));
    let said = with_length(&scene, "", [&deletion, "0000", &smuggled, "0000"].concat().as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    assert_eq!((scene.refs("shop"), scene.pushes()), (before, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_within_another_reaches_nobody() {
    let scene = Scene::plain(|_| {}).await;
    let inner = head(&scene, "content-length: 4\r\n") + "0000";
    let length = inner.len();
    for headers in [
        format!("content-length: 4\r\ncontent-length: {}\r\n", length + 4),
        format!("content-length: {length}\r\ntransfer-encoding: xchunked\r\n"),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "transfer-encoding: \x0bchunked\r\n".to_owned(),
        format!("content-length: +{length}\r\n"),
        "content-length : 4\r\n".to_owned(),
        "x: y\r\n content-length: 4\r\n".to_owned(),
    ] {
        let said = answer(&scene, &head(&scene, &headers), format!("0000{inner}").as_bytes()).await;
        let answers = said.matches("HTTP/1.1 ").count();
        assert!(answers <= 1 && !said.starts_with("HTTP/1.1 200"), "{headers:?}: {said}");
    }
    // Of a length and chunks, the chunks count (RFC 9112, 6.1), and the connection ends after the answer.
    let both = head(&scene, "content-length: 4\r\ntransfer-encoding: chunked\r\n");
    let said = answer(&scene, &both, format!("4\r\n0000\r\n0\r\n\r\n{inner}").as_bytes()).await;
    assert!(said.matches("HTTP/1.1 ").count() <= 1, "{said}");
    assert_eq!(scene.pushes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_headers_that_name_another_repository_do_not() {
    let scene = Scene::plain(|_| {}).await;
    let (shop, other, host) = (scene.path("shop"), scene.path("other"), scene.host());
    let other_id = scene.id("other");
    for path in [
        format!("{other}/info/refs?service=git-upload-pack"),
        format!("{shop}/../{other_id}.git/info/refs?service=git-upload-pack"),
        format!("{shop}/%2e%2e/{other_id}.git/info/refs?service=git-upload-pack"),
        format!("//{host}/{other_id}.git/info/refs?service=git-upload-pack"),
        format!("{shop};/info/refs?service=git-upload-pack"),
        format!("http://gateway{shop}/info/refs?service=git-upload-pack"),
        format!("https://{host}/acme/other.git/info/refs?service=git-upload-pack"),
        format!("{shop}/info/refs?service=git-upload-pack&service=git-receive-pack"),
        format!("{shop}/objects/info/packs"),
        "/".to_owned(),
        "*".to_owned(),
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TOKEN}\r\nx-original-url: {other}\r\nconnection: close\r\n\r\n"
        );
        let said = answer(&scene, &request, b"").await;
        assert!(said.starts_with("HTTP/1.1 4") && !said.contains("# service"), "{path}: {said}");
    }
    for (headers, status) in [
        ("content-type: application/x-git-upload-pack-request\r\n", "400"),
        ("content-encoding: br\r\ncontent-length: 4\r\n", "415"),
        ("authorization: Bearer eyJ.other.x\r\ncontent-length: 4\r\n", "401"),
    ] {
        let said = answer(&scene, &head(&scene, headers), b"0000").await;
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status}")) || said.starts_with("HTTP/1.1 415"),
            "{headers}: {said}"
        );
    }
    let fetch = head(&scene, "content-encoding: br\r\ncontent-length: 4\r\n").replace("receive-pack", "upload-pack");
    let said = answer(&scene, &fetch, b"0000").await;
    assert!(said.starts_with("HTTP/1.1 415"), "{said}");
    assert!(scene.sim.requests().iter().all(|request| !request.path.contains("other")));
}

/// A push of one file of 64 MiB, which git reads to its end before it judges it.
fn endless(scene: &Scene) -> Vec<u8> {
    const SIZE: usize = 64 << 20;
    let commands = creation(scene);
    let mut push = commands[..commands.len() - EMPTY_PACK.len()].to_vec();
    push.extend_from_slice(b"PACK\0\0\0\x02\0\0\0\x01");
    // A blob, and its size in groups of four and then seven bits.
    push.push(0xb0 | (SIZE & 0xf) as u8);
    let mut left = SIZE >> 4;
    while left > 0x7f {
        push.push(0x80 | (left & 0x7f) as u8);
        left >>= 7;
    }
    push.push(left as u8);
    let mut stored = ZlibEncoder::new(push, Compression::none());
    stored.write_all(&vec![0; SIZE]).unwrap();
    stored.finish().unwrap()
}

/// A pack that expands without end is cut at the limit for pushes, and GitHub gets no complete request.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_expands_without_end_is_cut() {
    let scene = Scene::plain(|limits| limits.push = 4 << 20).await;
    let before = scene.refs("shop");
    let bomb = gzip(&endless(&scene));
    assert!(bomb.len() < 200 << 10);
    let said = with_length(&scene, "content-encoding: gzip\r\n", &bomb).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let refused = [
        packet(&format!("{ZERO} {} refs/heads/main\0report-status", "1".repeat(40))).as_bytes(),
        b"0000",
        &vec![0; 64 << 20],
    ]
    .concat();
    let said = with_length(&scene, "content-encoding: gzip\r\n", &gzip(&refused)).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let commands: Vec<u8> =
        std::iter::repeat_n(packet(&format!("shallow {}", "1".repeat(40))).into_bytes(), 20_000).flatten().collect();
    let said = with_length(&scene, "content-encoding: gzip\r\n", &gzip(&commands)).await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    assert_eq!(scene.refs("shop"), before);
}

/// Slow connections of one pod cost it its own requests, and another pod nothing.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_slow_connections_keep_nobody_out() {
    let scene = Scene::plain(|limits| limits.head = Duration::from_mins(5)).await;
    let mut slow = Vec::new();
    for number in 0..500 {
        let mut raw = Raw::open(scene.address).await;
        // Half of them within a head, half within a body.
        let text = if number % 2 == 0 { "POST /".to_owned() } else { head(&scene, "content-length: 100\r\n") + "00" };
        assert!(raw.send(text).await);
        slow.push(raw);
    }
    let mona =
        landfall::reports::PodIdentity { namespace: "team-b".into(), name: "ws-mona".into(), uid: "pod-2".into() };
    let access = scene.access(
        "mona",
        "9a1b2c3d-4e5f-6789-abcd-ef0123456789",
        landfall::gateway::refs::PushRefs::default(),
        vec![],
    );
    scene.pods.add("eyJ.pod.mona", mona, access);
    let request = format!(
        "GET {}/info/refs?service=git-upload-pack HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer eyJ.pod.mona\r\nconnection: close\r\n\r\n",
        scene.path("shop")
    );
    let said = answer(&scene, &request, b"").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let own = request.replace("eyJ.pod.mona", TOKEN);
    let said = answer(&scene, &own, b"").await;
    assert!(said.starts_with("HTTP/1.1 429"), "{said}");
    drop(slow);
}
