//! Against an API server in memory that holds a Lease and behaves as the real one: a write needs the current
//! `resourceVersion`. tokio's time is paused and moves when no task can run, so a slow machine changes nothing. The tests
//! with a socket have real time.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use http::Method;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::runtime::{
    readiness::Readiness,
    scripted::{self, Call, refusal},
};

const BOUND: Duration = Duration::from_mins(1);
const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/landfall/leases";

fn seconds(seconds: u64) -> LeaseTimes {
    LeaseTimes::of_ttl(Duration::from_secs(seconds))
}

/// How the API server treats requests from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Well,
    /// Writes take effect and their answers are lost.
    AnswersLost,
    Silent,
    Refusing(u16),
}

#[derive(Default)]
struct Server {
    record: Option<Value>,
    version: u64,
    mood: Mood,
    writes: Vec<Call>,
}

#[derive(Clone, Default)]
struct Api(Arc<Mutex<Server>>);

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        scripted::client(move |call: Call| {
            let (answer, mood) = api.with(|server| {
                let mood = server.mood;
                let answer = match mood {
                    Mood::Refusing(status) => Some(refusal(status, "Refused")),
                    Mood::Silent => None,
                    Mood::Well | Mood::AnswersLost => Some(server.answer(&call)),
                };
                (answer, if call.method == Method::GET { Mood::Well } else { mood })
            });
            async move {
                match answer {
                    Some(answer) if mood != Mood::AnswersLost => answer,
                    _ => std::future::pending().await,
                }
            }
        })
    }

    fn candidate(&self, identity: &str, times: LeaseTimes) -> Lease {
        Lease::new(self.client(), "landfall", "leader", identity, times)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Server) -> T) -> T {
        look(&mut self.0.lock().expect("not poisoned"))
    }

    fn spec(&self) -> LeaseSpec {
        self.with(|server| {
            serde_json::from_value(server.record.as_ref().expect("there")["spec"].clone()).expect("a spec")
        })
    }

    /// The holder, without the random suffix.
    fn holder(&self) -> Option<String> {
        let holder = self.spec().holder_identity?;
        Some(holder.split_once('_').map_or(holder.clone(), |(name, _)| name.to_owned()))
    }

    fn writes(&self) -> usize {
        self.with(|server| server.writes.len())
    }

    fn set_mood(&self, mood: Mood) {
        self.with(|server| server.mood = mood);
    }

    /// Stores a record of another process.
    fn put(&self, spec: &Value) {
        self.with(|server| {
            server.store(&json!({"metadata": {"name": "leader", "namespace": "landfall"}, "spec": spec}))
        });
    }
}

impl Server {
    fn store(&mut self, record: &Value) -> Value {
        self.version += 1;
        let mut record = record.clone();
        record["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.record.insert(record).clone()
    }

    fn answer(&mut self, call: &Call) -> (u16, Value) {
        if call.method != Method::GET {
            self.writes.push(call.clone());
        }
        let one = format!("{PATH}/leader");
        match (&call.method, call.path.as_str()) {
            (&Method::GET, path) if path == one => match &self.record {
                Some(record) => (200, record.clone()),
                None => refusal(404, "NotFound"),
            },
            (&Method::POST, PATH) if self.record.is_some() => refusal(409, "AlreadyExists"),
            (&Method::POST, PATH) => (201, self.store(&call.body)),
            (&Method::PUT, path) if path == one => match &self.record {
                None => refusal(404, "NotFound"),
                Some(record) if record["metadata"]["resourceVersion"] != call.body["metadata"]["resourceVersion"] => {
                    refusal(409, "Conflict")
                }
                Some(_) => (200, self.store(&call.body)),
            },
            other => panic!("unexpected {other:?}"),
        }
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("within the bound")
}

async fn acquired(lease: &Lease) -> Leadership {
    in_time(lease.acquire(&CancellationToken::new())).await.expect("leads")
}

/// It has not noticed the loss of its leadership.
fn leads(leadership: &Leadership) -> bool {
    leadership.lost.borrow().is_none()
}

async fn until(condition: impl Fn() -> bool) {
    in_time(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_absent_lease_is_created_and_then_replaced_at_the_version_that_was_read() {
    let api = Api::default();
    let leadership = acquired(&api.candidate("a", seconds(3))).await;
    assert!(leads(&leadership));
    let first = api.spec();
    assert_eq!((api.holder().as_deref(), first.lease_duration_seconds), (Some("a"), Some(3)));
    assert_eq!((first.lease_transitions, first.acquire_time.is_some()), (Some(0), true));

    until(|| api.writes() >= 3).await;
    let renewed = api.spec();
    assert!(renewed.renew_time.as_ref().map(|time| time.0) > first.renew_time.as_ref().map(|time| time.0));
    assert_eq!((renewed.acquire_time, renewed.lease_transitions), (first.acquire_time, Some(0)));
    let written = api.with(|server| server.writes.clone());
    assert_eq!(written[0].method, Method::POST);
    for (number, write) in written.iter().enumerate().skip(1) {
        assert_eq!(write.method, Method::PUT);
        assert_eq!(write.body["metadata"]["resourceVersion"], number.to_string());
    }
    assert!(leads(&leadership));
}

#[tokio::test(start_paused = true)]
async fn a_standby_names_the_leader_and_leads_at_once_when_the_lease_is_released() {
    let api = Api::default();
    let (readiness, metrics) = (Readiness::new(), Metrics::new());
    let leader = acquired(&api.candidate("a", seconds(3))).await;
    let standby = api.candidate("b", seconds(3)).reporting(readiness.check("leadership"), metrics.clone());
    let waiting = tokio::spawn(async move { standby.acquire(&CancellationToken::new()).await });
    until(|| readiness.report().text.contains("[+]leadership ok: standby, a_")).await;
    assert!(metrics.text().expect("encodes").contains("landfall_leader 0"));
    assert!(!waiting.is_finished());

    let released = Instant::now();
    in_time(leader.release()).await;
    let leadership = in_time(waiting).await.expect("does not panic").expect("leads");
    assert!(released.elapsed() < Duration::from_secs(3), "it did not wait for the Lease to expire");
    assert!(readiness.report().text.contains("[+]leadership ok\n"));
    assert!(metrics.text().expect("encodes").contains("landfall_leader 1"));
    assert_eq!((api.holder().as_deref(), api.spec().lease_transitions), (Some("b"), Some(1)));
    drop(leadership);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_after_the_lease_was_released() {
    let api = Api::default();
    let leadership = acquired(&api.candidate("a", seconds(1))).await;
    let lost = leadership.lost();
    in_time(leadership.release()).await;
    assert_eq!(api.spec().holder_identity, None);
    let writes = api.writes();
    assert!(timeout(Duration::from_secs(1), lost).await.is_err(), "a released Lease is not a lost one");
    assert_eq!(api.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_replaced_after_the_whole_lease_duration_whatever_its_wall_clock_was() {
    for renewed in ["1970-01-01T00:00:00.000000Z", "2970-01-01T00:00:00.000000Z"] {
        let api = Api::default();
        api.put(
            &json!({"holderIdentity": "dead", "leaseDurationSeconds": 1, "leaseTransitions": 4, "renewTime": renewed}),
        );
        let started = Instant::now();
        let leadership = acquired(&api.candidate("a", seconds(1))).await;
        assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!((api.holder().as_deref(), api.spec().lease_transitions), (Some("a"), Some(5)));
        drop(leadership);
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_that_see_an_expired_lease_one_leads() {
    let api = Api::default();
    api.put(&json!({"holderIdentity": "dead", "leaseDurationSeconds": 1}));
    let (a, b) = (api.candidate("a", seconds(3)), api.candidate("b", seconds(3)));
    let shutdown = CancellationToken::new();
    let mut first = Box::pin(a.acquire(&shutdown));
    let mut second = Box::pin(b.acquire(&shutdown));
    let leadership = in_time(async {
        tokio::select! {
            won = &mut first => (won, second),
            won = &mut second => (won, first),
        }
    })
    .await;
    let (won, mut other) = leadership;
    let leadership = won.expect("one leads");
    until(|| api.writes() >= 4).await;
    assert!(futures::poll!(&mut other).is_pending());
    assert!(leads(&leadership));
    shutdown.cancel();
    assert!(matches!(in_time(other).await, Err(LeaseError::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn two_processes_of_one_name_do_not_share_a_lease() {
    let api = Api::default();
    let leader = acquired(&api.candidate("landfall-0", seconds(3))).await;
    let shutdown = CancellationToken::new();
    let other = api.candidate("landfall-0", seconds(3));
    let mut waiting = Box::pin(other.acquire(&shutdown));
    in_time(async {
        tokio::select! {
            _ = &mut waiting => panic!("both lead"),
            () = until(|| api.writes() >= 4) => {}
        }
    })
    .await;
    assert!(leads(&leader));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_another_holder_ends_leadership() {
    let api = Api::default();
    let (readiness, metrics) = (Readiness::new(), Metrics::new());
    let lease = api.candidate("a", seconds(3)).reporting(readiness.check("leadership"), metrics.clone());
    let leadership = acquired(&lease).await;
    api.put(&json!({"holderIdentity": "b", "leaseDurationSeconds": 3}));
    let lost = in_time(leadership.lost()).await;
    assert_eq!(lost, LeaseLost::Taken { lease: "landfall/leader".to_owned(), holder: "b".to_owned() });
    assert!(!leads(&leadership));
    assert!(!readiness.report().passed);
    assert!(metrics.text().expect("encodes").contains("landfall_leader 0"));
    in_time(leadership.release()).await;
    assert_eq!(api.holder().as_deref(), Some("b"), "another holder's Lease is not released");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_lost() {
    let api = Api::default();
    let leadership = acquired(&api.candidate("a", seconds(3))).await;
    api.with(|server| server.record = None);
    assert!(matches!(in_time(leadership.lost()).await, LeaseLost::Gone { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_is_recognised() {
    let api = Api::default();
    let leadership = acquired(&api.candidate("a", seconds(6))).await;
    api.set_mood(Mood::AnswersLost);
    until(|| api.writes() >= 2).await;
    api.set_mood(Mood::Well);
    // The next write conflicts with the one that arrived; the one after it does not.
    until(|| api.writes() >= 5).await;
    assert!(leads(&leadership));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_another_may_lead() {
    let api = Api::default();
    let leadership = acquired(&api.candidate("a", seconds(3))).await;
    let last_success = Instant::now();
    api.set_mood(Mood::Silent);
    let lost = in_time(leadership.lost()).await;
    assert!(matches!(lost, LeaseLost::NotRenewed { .. }), "{lost}");
    assert!(last_success.elapsed() < Duration::from_secs(3), "{:?}", last_success.elapsed());
    assert!(!leads(&leadership));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_stays_is_an_error_and_a_temporary_failure_is_not() {
    let api = Api::default();
    api.set_mood(Mood::Refusing(403));
    let lease = api.candidate("a", seconds(1));
    let error = in_time(lease.acquire(&CancellationToken::new())).await.expect_err("refused");
    assert!(
        error.to_string().contains("landfall/leader") && error.to_string().contains("grant get, create and update"),
        "{error}"
    );

    api.set_mood(Mood::Refusing(503));
    let readiness = Readiness::new();
    let lease = lease.reporting(readiness.check("leadership"), Metrics::new());
    let waiting = tokio::spawn(async move { lease.acquire(&CancellationToken::new()).await });
    until(|| readiness.report().text.contains("cannot reach the Lease")).await;
    api.set_mood(Mood::Well);
    in_time(waiting).await.expect("does not panic").expect("leads");
}

/// An API server on a real socket that answers each connection once with `answer`, or never, and counts connections.
async fn socket(answer: Option<&'static str>, times: LeaseTimes) -> (Lease, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let connections: Arc<AtomicUsize> = Arc::default();
    let counted = connections.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            } else {
                open.push(stream);
            }
        }
    });
    let client = client(kube::Config::new(url.parse().expect("a URL")), times).expect("a client");
    (Lease::new(client, "landfall", "leader", "a", times), connections)
}

#[tokio::test]
async fn the_client_for_the_lease_does_not_retry() {
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let (lease, connections) = socket(Some(unavailable), seconds(300)).await;
    let error = in_time(lease.api.get("leader")).await.expect_err("unavailable");
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 503), "{error}");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_client_for_the_lease_does_not_wait_for_ever() {
    let (lease, connections) = socket(None, seconds(1)).await;
    assert!(in_time(lease.api.get("leader")).await.is_err());
    // The client may time out before the server has accepted the connection.
    until(|| connections.load(Ordering::SeqCst) > 0).await;
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
