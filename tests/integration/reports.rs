//! The reports of workspaces' agents: accepted from the pod whose token they have, and from nobody else.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use landfall::agent::report::{Answer, OnStop, Report};
use landfall::reports::{PodIdentity, Refused, ReportHandler, ReportServer};
use landfall::runtime::clock::ManualClock;
use landfall_world::{OPERATOR, World};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SPACE: &str = "team-a";
/// How long an agent waits for the answer to a report.
const AGENTS_PATIENCE: Duration = Duration::from_secs(5);
const FINE: &str = r#"{"branch":"landfall/try","changed":3}"#;

/// Records the accepted reports.
#[derive(Default)]
struct Book {
    taken: Mutex<Vec<(PodIdentity, Report)>>,
    refuses: Mutex<Option<Refused>>,
}

impl ReportHandler for Book {
    fn receive(&self, from: &PodIdentity, report: Report) -> Result<Answer, Refused> {
        if let Some(refused) = *self.refuses.lock().unwrap() {
            return Err(refused);
        }
        self.taken.lock().unwrap().push((from.clone(), report));
        Ok(Answer { on_stop: OnStop::Save })
    }
}

/// A namespace, and the address for reports.
struct Scene {
    world: World,
    book: Arc<Book>,
    address: SocketAddr,
    shutdown: CancellationToken,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        world.namespace(SPACE, &[]).await;
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": SPACE},
        });
        world.apply::<ServiceAccount>(&account).await;
        // With the permissions of the chart.
        let client = kube::Client::try_from(world.user(OPERATOR).await).unwrap();
        let mut scene = Self {
            world,
            book: Arc::default(),
            address: ([127, 0, 0, 1], 0).into(),
            shutdown: CancellationToken::new(),
        };
        scene.listen(client).await;
        scene
    }

    /// Accepts reports, and reviews their tokens with this client.
    async fn listen(&mut self, client: kube::Client) {
        let clock = Arc::<ManualClock>::clone(&self.world.clock);
        let book = Arc::<Book>::clone(&self.book);
        let reports = ReportServer::bind(([127, 0, 0, 1], 0).into(), client, book, clock).await.unwrap();
        self.address = reports.address();
        tokio::spawn(reports.serve(self.shutdown.clone()));
    }

    /// Creates a pod, which never runs.
    async fn pod(&self, name: &str) -> PodIdentity {
        let pod: Pod = self
            .world
            .try_apply(&json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SPACE},
                "spec": {"containers": [{"name": "main", "image": "none.invalid/none"}]},
            }))
            .await
            .unwrap();
        PodIdentity { namespace: SPACE.into(), name: name.into(), uid: pod.metadata.uid.unwrap() }
    }

    /// A token of the pod, as its kubelet requests it.
    async fn token(&self, pod: Option<&PodIdentity>, audience: &str) -> String {
        let bound = pod.map(|pod| json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}));
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound},
        });
        let path = format!("/api/v1/namespaces/{SPACE}/serviceaccounts/default/token");
        let request = http::Request::post(path).header("content-type", "application/json");
        let answer: Value =
            self.world.admin.request(request.body(serde_json::to_vec(&body).unwrap()).unwrap()).await.unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Status and body of the answer to this request.
    async fn say(&self, words: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A refused client may be disconnected before it has sent everything.
        let _ = stream.write_all(words.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(head.to_ascii_lowercase().contains("cache-control: no-store"), "{head}");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn report_with(&self, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.say(&format!(
            "POST /v1/report HTTP/1.1\r\nhost: landfall\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        ))
        .await
    }

    async fn report(&self, token: &str, body: &str) -> u16 {
        let (status, answer) = self.report_with(&format!("authorization: Bearer {token}\r\n"), body).await;
        assert_eq!(answer == r#"{"onStop":"Save"}"#, status == 200, "{status} {answer}");
        assert!(!answer.contains(token), "{answer}");
        status
    }

    fn taken(&self) -> Vec<(PodIdentity, Report)> {
        std::mem::take(&mut self.book.taken.lock().unwrap())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_report_is_that_of_the_pod_whose_token_came_with_it() {
    let scene = Scene::new().await;
    let (one, other) = (scene.pod("ws-one").await, scene.pod("ws-other").await);
    let token = scene.token(Some(&one), "landfall").await;
    let before = scene.world.audit.mark().unwrap();
    for _ in 0..5 {
        assert_eq!(scene.report(&token, FINE).await, 200);
    }
    let report = Report { branch: Some("landfall/try".into()), changed: 3, ..Report::default() };
    assert_eq!(scene.taken(), vec![(one.clone(), report); 5]);
    let reviews = scene.world.audit.since(before).unwrap().into_iter().filter(|entry| entry.resource == "tokenreviews");
    assert!(reviews.count() <= 1, "an answer is remembered");

    // Any other claim about the sender is ignored.
    let claims =
        format!("x-landfall-pod: {uid}\r\nx-remote-user: system:serviceaccount:{SPACE}:default\r\n", uid = other.uid);
    let body = json!({"branch": "b", "pod": other.name, "uid": other.uid, "namespace": "kube-system"}).to_string();
    let (status, _) = scene.report_with(&format!("{claims}authorization: Bearer {token}\r\n"), &body).await;
    let taken = scene.taken();
    assert_eq!((status, taken.len(), &taken[0].0), (200, 1, &one));
    let token = scene.token(Some(&other), "landfall").await;
    assert_eq!(scene.report(&token, FINE).await, 200);
    assert_eq!(scene.taken()[0].0, other);
}

#[tokio::test]
async fn no_other_token_is_taken() {
    let scene = Scene::new().await;
    let pod = scene.pod("ws-one").await;
    let fine = scene.token(Some(&pod), "landfall").await;
    let kubernetes = scene.token(Some(&pod), "https://kubernetes.default.svc").await;
    let no_pods = scene.token(None, "landfall").await;
    // The first character is changed, because the last one has unused bits.
    let (signed, signature) = fine.rsplit_once('.').unwrap();
    let other = if signature.starts_with('x') { 'y' } else { 'x' };
    let forged = format!("{signed}.{other}{}", &signature[1..]);
    for token in [&*kubernetes, &no_pods, &forged, "a.b.c", "x", "a b.c.d", &format!("a.b.{}", "c".repeat(9000))] {
        assert_eq!(scene.report(token, FINE).await, 401, "{token}");
    }
    for headers in ["", "authorization: Basic eA==\r\n", "authorization: Bearer\r\n"] {
        assert_eq!(scene.report_with(headers, FINE).await.0, 401, "{headers}");
    }
    let twice = format!("authorization: Bearer {fine}\r\n").repeat(2);
    assert_eq!(scene.report_with(&twice, FINE).await.0, 401);
    assert_eq!(scene.report(&fine, FINE).await, 200, "among all of these, the good one is");
    scene.taken();

    // A deleted pod is remembered for a minute here, and for some seconds by the API server.
    scene.world.delete::<Pod>(SPACE, &pod.name).await;
    scene.world.until_gone::<Pod>(SPACE, &pod.name).await;
    let refused = async || {
        scene.world.clock.advance(SignedDuration::from_secs(60));
        (scene.report(&fine, FINE).await == 401).then_some(())
    };
    scene.world.until("its token is refused", refused).await;
    // A new pod with the same name is another one.
    let again = scene.pod("ws-one").await;
    scene.taken();
    scene.world.clock.advance(SignedDuration::from_mins(10));
    assert_eq!(scene.report(&fine, FINE).await, 401);
    assert!(scene.taken().is_empty() && again.uid != pod.uid);
}

#[tokio::test]
async fn who_sends_wrong_tokens_is_not_asked_about_for_long() {
    let scene = Scene::new().await;
    let pod = scene.pod("ws-one").await;
    let known = scene.token(Some(&pod), "landfall").await;
    let unknown = scene.token(Some(&pod), "landfall").await;
    assert_eq!(scene.report(&known, FINE).await, 200);
    let mut refused = 0;
    while scene.report(&format!("a.b.{refused}"), FINE).await == 401 {
        refused += 1;
        assert!(refused < 1000, "each costs the API server a review");
    }
    assert_eq!(scene.report("a.b.x", FINE).await, 429);
    assert_eq!(scene.report(&unknown, FINE).await, 429, "nothing is asked about from there");
    assert_eq!(scene.report(&known, FINE).await, 200, "what is known need not be");
    scene.world.clock.advance(SignedDuration::from_secs(30));
    assert_eq!(scene.report(&unknown, FINE).await, 200);
}

#[tokio::test]
async fn what_is_no_report_is_refused() {
    let scene = Scene::new().await;
    let pod = scene.pod("ws-one").await;
    let token = scene.token(Some(&pod), "landfall").await;
    for body in ["", "{", "null", "7", "\"x\"", "{\"branch\":\"\u{1}\"}"] {
        assert_eq!(scene.report(&token, body).await, 400, "{body}");
    }
    // Meaningless fields count as missing.
    assert_eq!(scene.report(&token, r#"{"branch":7,"changed":-1,"head":"x","more":[]}"#).await, 200);
    assert_eq!(scene.taken()[0].1, Report::default());
    let most = landfall::reports::server::LARGEST;
    let padded = |length: usize| format!("{{}}{}", " ".repeat(length - 2));
    assert_eq!(scene.report(&token, &padded(most)).await, 200);
    assert_eq!(scene.report(&token, &padded(most + 1)).await, 413);
    // A body without a stated length is limited, too.
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", most + 1, padded(most + 1));
    let head = format!("host: landfall\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(scene.say(&format!("POST /v1/report HTTP/1.1\r\n{head}{chunk}")).await.0, 413);
    for (line, status) in [("GET /v1/report", 405), ("POST /", 404), ("POST /v1/report/x", 404)] {
        assert_eq!(scene.say(&format!("{line} HTTP/1.1\r\n{head}0\r\n\r\n")).await.0, status, "{line}");
    }
    scene.taken();

    for (refused, status) in [(Refused::NotLeading, 503), (Refused::Unknown, 403), (Refused::TooMany, 429)] {
        *scene.book.refuses.lock().unwrap() = Some(refused);
        assert_eq!(scene.report(&token, FINE).await, status);
    }
    assert!(scene.taken().is_empty());
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_not_taken_for_a_yes() {
    let mut scene = Scene::new().await;
    let pod = scene.pod("ws-one").await;
    let token = scene.token(Some(&pod), "landfall").await;
    // One client cannot reach the API server, and one may not request reviews.
    let nobody = scene.world.user("system:serviceaccount:team-a:nobody").await;
    let mut unreachable = nobody.clone();
    unreachable.cluster_url = "https://127.0.0.1:1".parse().unwrap();
    unreachable.default_retry = false;
    for config in [unreachable, nobody] {
        scene.listen(kube::Client::try_from(config).unwrap()).await;
        assert_eq!(scene.report(&token, FINE).await, 503);
    }
    assert!(scene.taken().is_empty());
}

/// Four pods that keep 80 connections each busy, with silence, a head or a body that does not end, and a good token.
fn besiege(server: SocketAddr, token: &str) -> JoinSet<()> {
    let mut strangers = JoinSet::new();
    for n in 0..320_u16 {
        let token = token.to_owned();
        strangers.spawn(async move {
            let pod = [127, 0, 2, u8::try_from(n % 4).unwrap() + 1];
            let beginning = match n % 3 {
                0 => String::new(),
                1 => "POST /v1/report HTTP/1.1\r\n".to_owned(),
                _ => format!(
                    "POST /v1/report HTTP/1.1\r\nhost: landfall\r\nauthorization: Bearer {token}\r\ncontent-length: 16000\r\n\r\n"
                ),
            };
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((pod, 0).into()).unwrap();
                if let Ok(mut stream) = socket.connect(server).await {
                    let mut sent = stream.write_all(beginning.as_bytes()).await;
                    while sent.is_ok() && !beginning.is_empty() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        sent = stream.write_all(b"x").await;
                    }
                    let _ = stream.read_u8().await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    strangers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_pods_do_not_keep_out_the_reports_of_others() {
    let scene = Scene::new().await;
    let (one, other) = (scene.pod("ws-one").await, scene.pod("ws-other").await);
    let (token, good) = (scene.token(Some(&one), "landfall").await, scene.token(Some(&other), "landfall").await);
    let mut strangers = besiege(scene.address, &token);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        let report = tokio::time::timeout(AGENTS_PATIENCE, scene.report(&good, FINE)).await;
        assert_eq!(report.expect("answered before the agent gives up"), 200);
    }
    assert!(scene.taken().iter().all(|(pod, _)| *pod == other));
    strangers.shutdown().await;
}
