//! Transfers that break off, and a gateway that ends meanwhile.

use super::raw::{EMPTY_PACK, Raw, ZERO, creation, head, packet};
use super::scene::{BRANCH, NAME, Scene, TOKEN, UID};
use http::{Request, header};
use landfall::gateway::metrics::PushResult;
use landfall::gateway::refs::{Origin, PushRefs};
use landfall::gateway::upstream::{Right, Upstreams as _};
use landfall::github::{Connect as _, HttpsConnect};
use landfall::reports::PodIdentity;
use octocrab::OctoBody;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use tower::ServiceExt as _;

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

/// The commit of the clone with what it needs beyond GitHub's main branch, as a pack.
fn packed(scene: &Scene) -> Vec<u8> {
    let mut git = Command::new("git");
    git.args(["pack-objects", "--quiet", "--stdout", "--revs"]).current_dir(scene.at("work/shop"));
    let mut git = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    git.stdin.take().unwrap().write_all(b"HEAD\n^origin/main\n").unwrap();
    git.wait_with_output().unwrap().stdout
}

/// A client that hangs up leaves no push without a record, and no ref of it behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_client_hangs_up_is_recorded_and_concluded() {
    let scene = Scene::plain(|_| {}).await;
    scene.git(&["clone", "--quiet", &scene.origin("shop"), "shop"]).await;
    let push = creation(&scene);
    let mut raw = Raw::open(scene.address).await;
    raw.send(head(&scene, &format!("content-length: {}\r\n", push.len()))).await;
    raw.send(push).await;
    raw.rest().await;
    assert!(is_pushed(&scene));
    // The branch may not be the workspace's from now on, so the gateway moves it after a push to a ref of its own.
    let pod = PodIdentity { namespace: "team-a".into(), name: "ws-try".into(), uid: "pod-1".into() };
    let access = || scene.access_of(NAME, UID, Origin::Unknown, (PushRefs::default(), vec![]));
    scene.pods.add(TOKEN, pod, access());
    let main = scene.refs("shop")["refs/heads/main"].clone();
    // Gateways that ended left these behind: an old one of another workspace's, and one of a push that may be under way.
    let github = HttpsConnect::new().connect(Some(scene.sim.ca_pem().as_bytes())).unwrap();
    let upstream = scene.upstreams.open(&access(), Right::Write).await.unwrap_or_else(|_| panic!("mint"));
    let now = jiff::Timestamp::now().as_second();
    let left = [
        "refs/landfall/incoming/9a1b2c3d/1700000000-00000000000000aa-0".to_owned(),
        format!("refs/landfall/incoming/9a1b2c3d/{now}-00000000000000ab-0"),
    ];
    for name in &left {
        let request = Request::post(format!("{}/repos/acme/shop/git/refs", scene.sim.api_url()))
            .header(header::USER_AGENT, "test")
            .header(header::AUTHORIZATION, format!("Bearer {}", upstream.token().expose()))
            .body(OctoBody::from(serde_json::json!({"ref": name, "sha": main}).to_string()));
        let made = github.clone().oneshot(request.unwrap()).await.unwrap_or_else(|_| panic!("{name}"));
        assert_eq!(made.status(), 201, "{name}");
    }

    let (begun, go) = (scene.at("begun"), scene.at("go"));
    let wait = format!("touch {}; while [ ! -e {} ]; do sleep 0.1; done\n", begun.display(), go.display());
    scene.refuse(&wait);
    let commit = scene.commit("a.txt", b"a").await;
    let line = packet(&format!("{main} {commit} refs/heads/{BRANCH}\0 report-status object-format=sha1"));
    let push = [line.as_bytes(), b"0000", &packed(&scene)].concat();
    let mut raw = Raw::open(scene.address).await;
    raw.send(head(&scene, &format!("content-length: {}\r\n", push.len()))).await;
    raw.send(push).await;
    until(|| begun.exists()).await;
    drop(raw);
    // Without the mend, the request ends in this time.
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::fs::write(&go, "").unwrap();
    until(|| scene.metrics.pushes(PushResult::Answered) == 2).await;
    until(|| scene.refs("shop")[&format!("refs/heads/{BRANCH}")] == commit).await;
    let incoming = || {
        let names = scene.refs("shop").into_keys();
        names.filter(|name| name.starts_with("refs/landfall/incoming/")).collect::<Vec<_>>()
    };
    until(|| incoming() == left[1..]).await;
}

/// Whoever holds back the end of a push cannot send it after the access was withdrawn.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_under_way_ends_when_its_access_is_withdrawn() {
    for held_back in [5, 0] {
        let scene = Scene::plain(|limits| limits.recheck = Duration::ZERO).await;
        let push = creation(&scene);
        let mut raw = Raw::open(scene.address).await;
        raw.send(head(&scene, "transfer-encoding: chunked\r\n")).await;
        raw.send(chunk(&push[..push.len() - held_back])).await;
        // The push was judged.
        until(|| !scene.sim.live_tokens().is_empty()).await;
        scene.pods.forget("pod-1");
        // A byte behind the pack would pass the pack's end on, if only the end of the body was waited for.
        raw.send(chunk(&[&push[push.len() - held_back..], b"x"].concat())).await;
        raw.send(chunk(b"y")).await;
        assert!(raw.send("0\r\n\r\n").await);
        let said = raw.rest().await;
        assert!(said.starts_with("HTTP/1.1 403"), "{held_back}: {said}");
        assert!(!is_pushed(&scene), "{held_back}");
        assert_eq!(scene.metrics.pushes(PushResult::Failed), 1);
    }
}

/// A workspace whose commands arrive slowly is judged by its access at their end.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_judged_by_the_access_at_the_end_of_its_commands() {
    let scene = Scene::plain(|_| {}).await;
    let push = creation(&scene);
    let mut raw = Raw::open(scene.address).await;
    raw.send(head(&scene, "expect: 100-continue\r\ntransfer-encoding: chunked\r\n")).await;
    // The gateway asks for the body after it has admitted the request.
    let mut word = [0; 25];
    tokio::io::AsyncReadExt::read_exact(&mut raw.0, &mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    scene.pods.forget("pod-1");
    raw.send(chunk(&push)).await;
    assert!(raw.send("0\r\n\r\n").await);
    let said = raw.rest().await;
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    assert!(scene.sim.live_tokens().is_empty(), "GitHub was not asked");
}

/// A push with many commands gives its place to the next one as soon as they were judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_push_under_way_keeps_out_no_other() {
    let scene = Scene::plain(|_| {}).await;
    let main = scene.refs("shop")["refs/heads/main"].clone();
    let push = |below: &str| {
        let name = |n: usize| format!("refs/heads/{below}/b{n}");
        let mut lines = packet(&format!("{ZERO} {main} {}\0 report-status object-format=sha1", name(0)));
        for n in 1..800 {
            lines += &packet(&format!("{ZERO} {main} {}", name(n)));
        }
        [lines.as_bytes(), b"0000", &EMPTY_PACK].concat()
    };
    // The second is refused, which also takes a place, and no time of GitHub's.
    let (first, second) = (push("landfall-wip/try-0a1b2"), push("other"));
    assert!(first.len() > 64 << 10 && second.len() > 64 << 10);
    let mut slow = Raw::open(scene.address).await;
    slow.send(head(&scene, "transfer-encoding: chunked\r\n")).await;
    slow.send(chunk(&first[..first.len() - 5])).await;
    until(|| !scene.sim.live_tokens().is_empty()).await;
    let mut raw = Raw::open(scene.address).await;
    raw.send(head(&scene, &format!("content-length: {}\r\n", second.len()))).await;
    raw.send(second).await;
    let said = raw.rest().await;
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("ng refs/heads/other/b799"), "{said}");
    drop(slow);
}
