//! The world of a test: a real API server, a simulated GitHub, a clock, and operators that it starts and stops.
//!
//! Invariant: the only difference from a cluster is a clock that is moved by hand. The operator talks to the API server
//! as the service account, with the rules of the chart, and to GitHub over TLS. Tests rely on independent records: the
//! API server's audit log and the simulator's request log.

#![cfg(feature = "sabotage")]
#![allow(
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    clippy::missing_panics_doc,
    reason = "tests are the only callers"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

pub mod cluster;
pub mod delivery;
pub mod inbox;
pub mod kubelet;
pub mod objects;
pub mod operator;
pub mod payloads;

use cluster::{Cluster, LANES, cluster};
use github_sim::{AppKey, AppSeed, Options, Push, Seed, Sim, Site};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository, WebhookInbox, Workspace};
use landfall::guards::Sabotage;
use landfall::ids::NotAnId;
use landfall::runtime::clock::{Clock, ManualClock};
use landfall_cluster::{AuditLog, Entry, Mark};
use operator::{Operator, Start};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// The operator's namespace.
pub const SYSTEM: &str = "landfall-system";
/// The operator's user name on the API server.
pub const OPERATOR: &str = "system:serviceaccount:landfall-system:landfall";
/// How long a condition may take, in real time. Far more than it does; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_mins(2);

/// One key for all tests of a process, because generating a key takes a while.
pub static KEY: LazyLock<AppKey> = LazyLock::new(|| AppKey::generate().expect("a key"));

/// The kinds whose controllers create pods again after a deletion.
const WORKLOADS: [&str; 3] = ["ReplicaSet", "StatefulSet", "DaemonSet"];

/// Tests of one process share a few API servers, and each uses one exclusively.
static TURNS: [Mutex<()>; LANES] = [const { Mutex::const_new(()) }; LANES];

pub struct World {
    /// The simulated GitHub.
    pub sim: Sim,
    /// The operator's clock.
    pub clock: Arc<ManualClock>,
    /// An administrator's client.
    pub admin: Client,
    /// The requests to the API server.
    pub audit: AuditLog,
    cluster: &'static Cluster,
    began: Mark,
    github: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// GitHub's initial state.
pub fn seed() -> Seed {
    let yaml = "
accounts:
- {login: acme, id: 7001, type: Organization}
- {login: globex, id: 7002, type: Organization}
- {login: monalisa, id: 7003, type: User}
repositories:
- {owner: acme, name: shop, id: 9001, private: true}
- {owner: acme, name: lib-core, id: 9002, private: true}
- {owner: acme, name: vault, id: 9003, private: true}
- {owner: globex, name: plans, id: 9101, private: true}
installations:
- {app: landfall, account: acme, id: 501}
";
    let app = AppSeed {
        name: "Landfall".into(),
        owner: "acme".into(),
        id: Some(4242),
        client_id: Some("Iv23liLandfallTests".into()),
        public_key: Some(KEY.public_pem().into()),
        permissions: serde_json::from_value(json!({
            "contents": "write", "metadata": "read", "pull_requests": "write", "repository_hooks": "write",
        }))
        .expect("permissions"),
        ..AppSeed::default()
    };
    Seed { apps: vec![app], ..Seed::from_yaml(yaml).expect("the seed") }
}

impl World {
    /// A fresh GitHub, and a cluster that contains only the definitions, the rules and the App's key.
    pub async fn new() -> Self {
        Self::with(seed()).await
    }

    /// The same with another initial state of GitHub.
    pub async fn with(seed: Seed) -> Self {
        for (lane, turn) in TURNS.iter().enumerate() {
            if let Ok(turn) = turn.try_lock() {
                return Self::begin(lane, turn, seed).await;
            }
        }
        Self::on(0, seed).await
    }

    /// The same on an API server of its own, one for each lane. Worlds on different lanes are independent.
    pub async fn on(lane: usize, seed: Seed) -> Self {
        Self::begin(lane, TURNS[lane].lock().await, seed).await
    }

    async fn begin(lane: usize, turn: MutexGuard<'static, ()>, seed: Seed) -> Self {
        let cluster = cluster(lane);
        let admin = cluster.admin();
        let github = TempDir::with_prefix("github-sim-").expect("a folder");
        let options = Options { listen: "127.0.0.1:0".parse().expect("an address"), tls: true, seed };
        let site = Site { state_dir: Some(github.path().to_owned()), ..Site::default() };
        let sim = Sim::start_at(options, site).await.expect("the simulator");
        let clock = Arc::new(ManualClock::new(sim.now()));
        let audit = cluster.audit_log();
        let mut world = Self {
            began: audit.mark().expect("the audit log"),
            sim,
            clock,
            admin,
            audit,
            cluster,
            github,
            _turn: turn,
        };
        world.cluster.bind_policy().await;
        world.clear().await;
        world.namespace(SYSTEM, &[]).await;
        world.put_key(KEY.private_pem()).await;
        world.began = world.audit.mark().expect("the audit log");
        world
    }

    /// Removes the objects of an earlier test, with their finalizers. Objects are read untyped, because some tests
    /// create objects that no type of the operator can parse.
    async fn clear(&self) {
        async fn all<K: Resource<DynamicType = ()>>(client: &Client) -> usize {
            let everywhere = http::Request::get(K::url_path(&(), None)).body(Vec::new()).expect("a request");
            let mut found = client.request::<Value>(everywhere).await.expect("a list");
            let found = found["items"].as_array_mut().expect("a list");
            // The workload of another test would create its pods again.
            let is_workload = |owner: &Value| owner["kind"].as_str().is_some_and(|kind| WORKLOADS.contains(&kind));
            found.retain(|object| {
                !object["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(is_workload)
            });
            for object in &*found {
                let metadata = &object["metadata"];
                let path = K::url_path(&(), metadata["namespace"].as_str());
                let target = format!("{path}/{}", metadata["name"].as_str().expect("a name"));
                let body = serde_json::to_vec(&json!({"metadata": {"finalizers": null}})).expect("json");
                let patch = http::Request::patch(&target)
                    .header("content-type", "application/merge-patch+json")
                    .body(body)
                    .expect("a request");
                let _ = client.request::<Value>(patch).await;
                // There is no kubelet that would end a pod.
                let target = format!("{target}?gracePeriodSeconds=0&propagationPolicy=Background");
                let delete = http::Request::delete(target).body(Vec::new()).expect("a request");
                let _ = client.request::<Value>(delete).await;
            }
            found.len()
        }
        self.until("earlier tests' objects are gone", async || {
            let mut left = all::<Workspace>(&self.admin).await;
            left += all::<Job>(&self.admin).await;
            left += all::<Pod>(&self.admin).await;
            left += all::<PersistentVolumeClaim>(&self.admin).await;
            left += all::<PersistentVolume>(&self.admin).await;
            left += all::<Node>(&self.admin).await;
            left += all::<WebhookInbox>(&self.admin).await;
            left += all::<ProjectRepository>(&self.admin).await;
            left += all::<InstallationToken>(&self.admin).await;
            left += all::<GitHubInstallation>(&self.admin).await;
            left += all::<GitHubApp>(&self.admin).await;
            (left == 0).then_some(())
        })
        .await;
        all::<Secret>(&self.admin).await;
    }

    /// Makes a namespace, or sets its labels. Waits until a former one of the name is gone.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        if self.get::<Namespace>("", name).await.is_some_and(|former| former.metadata.deletion_timestamp.is_some()) {
            self.until_gone::<Namespace>("", name).await;
        }
        let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        Api::<Namespace>::all(self.admin.clone())
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&namespace))
            .await
            .expect("a namespace");
    }

    /// Writes the App's key into the Secret that the operator reads.
    pub async fn put_key(&self, pem: &str) {
        self.put_secret(SYSTEM, "github-app", &[("private-key.pem", pem)]).await;
    }

    /// Writes a Secret as a person would.
    pub async fn put_secret(&self, namespace: &str, name: &str, data: &[(&str, &str)]) {
        let data: std::collections::BTreeMap<_, _> = data.iter().copied().collect();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        Api::<Secret>::namespaced(self.admin.clone(), namespace)
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&secret))
            .await
            .expect("a Secret");
    }

    /// Applies an object as a person would.
    pub async fn apply<K>(&self, object: &Value) -> K
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        self.try_apply(object).await.unwrap_or_else(|error| panic!("{object} was refused: {error}"))
    }

    /// The same, for an object that may be refused.
    pub async fn try_apply<K>(&self, object: &Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let path = K::url_path(&(), object["metadata"]["namespace"].as_str());
        let name = object["metadata"]["name"].as_str().expect("a name");
        let patch = http::Request::patch(format!("{path}/{name}?fieldManager=test&force=true"))
            .header("content-type", "application/apply-patch+yaml")
            .body(serde_json::to_vec(object).expect("json"))
            .expect("a request");
        self.admin.request(patch).await
    }

    /// Reads an object.
    pub async fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let path = K::url_path(&(), Some(namespace).filter(|namespace| !namespace.is_empty()));
        let get = http::Request::get(format!("{path}/{name}")).body(Vec::new()).expect("a request");
        match self.admin.request(get).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("{path}/{name}: {error}"),
        }
    }

    /// Changes some fields of an object as a person would.
    pub async fn merge<K>(&self, namespace: &str, name: &str, change: &Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        self.merge_at::<K>(namespace, name, "", change).await
    }

    /// Changes status like somebody with too many permissions.
    pub async fn merge_status<K>(&self, namespace: &str, name: &str, status: &Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        self.merge_at::<K>(namespace, name, "/status", &json!({"status": status})).await
    }

    async fn merge_at<K>(&self, namespace: &str, name: &str, part: &str, change: &Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let path = K::url_path(&(), Some(namespace).filter(|namespace| !namespace.is_empty()));
        let patch = http::Request::patch(format!("{path}/{name}{part}?fieldManager=tenant"))
            .header("content-type", "application/merge-patch+json")
            .body(serde_json::to_vec(change).expect("json"))
            .expect("a request");
        self.admin.request(patch).await
    }

    /// Waits until an object is gone.
    pub async fn until_gone<K>(&self, namespace: &str, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let what = format!("{} {namespace}/{name} is gone", K::kind(&()));
        self.until(&what, async || self.get::<K>(namespace, name).await.is_none().then_some(())).await;
    }

    /// Deletes an object as a person would, without waiting.
    pub async fn delete<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) {
        let path = K::url_path(&(), Some(namespace).filter(|namespace| !namespace.is_empty()));
        let delete = http::Request::delete(format!("{path}/{name}")).body(Vec::new()).expect("a request");
        self.admin.request::<Value>(delete).await.expect("deleted");
    }

    /// Deletes an object without a grace period, because no node would end it.
    pub async fn delete_now<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) {
        let path = K::url_path(&(), Some(namespace));
        let delete = http::Request::delete(format!("{path}/{name}?gracePeriodSeconds=0"));
        match self.admin.request::<Value>(delete.body(Vec::new()).expect("a request")).await {
            // The garbage collector was faster.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            done => drop(done.expect("deleted")),
        }
    }

    /// Starts an operator.
    pub async fn operator(&self) -> Operator {
        self.start(Start::default()).await
    }

    /// Starts an operator with these options. Without a guard of its own, the operator has no admission policy either, which would
    /// refuse the same.
    pub async fn start(&self, start: Start) -> Operator {
        if start.sabotage != Sabotage::default() {
            self.cluster.lift_policy().await;
        }
        Operator::start(self.cluster, Arc::clone(&self.clock), start).await
    }

    /// Moves the operator's clock and GitHub's.
    pub fn advance(&self, by: SignedDuration) {
        self.sim.advance(Duration::try_from(by).expect("forward"));
        self.clock.advance(by);
    }

    /// Commits a file to a branch on GitHub. Returns the commit.
    pub fn push(&self, repository: &str, branch: &str) -> String {
        let content = format!("{:016x}", rand::random::<u64>());
        let push = Push {
            repository: repository.into(),
            branch: Some(branch.into()),
            path: "pushed.txt".into(),
            content,
            message: Some("A change".into()),
        };
        self.sim.push(&push).expect("pushed")
    }

    /// The directory of a repository on GitHub's disk, by `owner/name`.
    pub fn bare(&self, repository: &str) -> PathBuf {
        let id = self.sim.repository_id(repository).expect("a repository");
        self.github.path().join(format!("repositories/{id}.git"))
    }

    /// The time by the operator's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns after the API server has answered a request.
    pub async fn answered(&self) -> kube::Result<()> {
        let ping = http::Request::get("/livez/ping").body(Vec::new()).expect("a request");
        self.admin.request_text(ping).await.map(drop)
    }

    /// Waits, in real time, until `condition` returns a value.
    pub async fn until<T>(&self, what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
        until(what, condition).await
    }

    /// Waits until an object's Ready condition has this reason. Returns its message.
    pub async fn until_reason<K>(&self, namespace: &str, name: &str, reason: &str) -> String
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + serde::Serialize,
    {
        let mut last = String::new();
        let began = Instant::now();
        loop {
            if let Some(object) = self.get::<K>(namespace, name).await {
                let value = serde_json::to_value(&object).expect("json");
                let ready = ready(&value);
                if ready["reason"] == reason {
                    return ready["message"].as_str().unwrap_or_default().to_owned();
                }
                last = ready.to_string();
            }
            assert!(began.elapsed() < PATIENCE, "{name} did not come to {reason}; it is {last}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Moves the clock from due time to due time, over `by` in total, and waits for the operator at each.
    pub async fn live_through(&self, operator: &Operator, by: SignedDuration) {
        let end = self.now().checked_add(by).expect("in range");
        loop {
            operator.settled().await;
            let next = operator.activity().next_due().unwrap_or(end).min(end).max(self.now());
            let step = next.duration_since(self.now());
            if step > SignedDuration::ZERO {
                self.advance(step);
            }
            operator.settled().await;
            if self.now() >= end {
                return;
            }
        }
    }

    /// The account of another release of the chart, with the rules for these values.
    pub async fn release(&self, name: &str, values: &[&str]) -> kube::Config {
        self.cluster.release(name, values).await
    }

    /// The configuration of another service account's client.
    pub async fn user(&self, name: &str) -> kube::Config {
        self.cluster.user(name).await
    }

    /// A kubeconfig of another service account, for a process of its own.
    pub fn kubeconfig_of(&self, name: &str) -> String {
        self.cluster.kubeconfig_of(name)
    }

    /// The client's configuration of a receiver in a pod of this name, which is made.
    pub async fn receiver(&self, pod: &str) -> kube::Config {
        self.cluster.receiver(pod).await
    }

    /// The file of an administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.cluster.admin_kubeconfig()
    }

    /// The kubeconfig of a receiver in a pod of this name, which is made.
    pub async fn receiver_kubeconfig(&self, pod: &str) -> String {
        self.cluster.receiver_kubeconfig(pod).await
    }

    /// The operator's writes to the API server since a mark, successful or not.
    pub fn writes_since(&self, mark: Mark) -> Vec<Entry> {
        let entries = self.audit.since(mark).expect("the audit log");
        entries.into_iter().filter(|entry| entry.user == OPERATOR && entry.is_write()).collect()
    }

    /// The same since this world began.
    pub fn writes(&self) -> Vec<Entry> {
        self.writes_since(self.began)
    }

    /// All of the operator's requests to the API server since this world began.
    pub fn asked(&self) -> Vec<Entry> {
        self.asked_by(OPERATOR)
    }

    /// The requests of this user to the API server since this world began.
    pub fn asked_by(&self, user: &str) -> Vec<Entry> {
        let entries = self.audit.since(self.began).expect("the audit log");
        entries.into_iter().filter(|entry| entry.user == user).collect()
    }

    /// The number of calls to GitHub, by method and route.
    pub fn calls(&self, method: &str, route: &str) -> usize {
        let is_it = |entry: &&github_sim::Entry| entry.method == method && entry.route.as_deref() == Some(route);
        self.sim.requests().iter().filter(is_it).count()
    }

    /// The number of minted tokens.
    pub fn mints(&self) -> usize {
        self.calls("POST", "/app/installations/{installation_id}/access_tokens")
    }
}

/// The Ready condition of any object.
pub fn ready(object: &Value) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or(Value::Null)
}

/// Waits, in real time, until `condition` returns a value.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(result) = condition().await {
            return result;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} and not yet: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The id with this number.
pub fn id<I: TryFrom<u64, Error = NotAnId>>(number: u64) -> I {
    number.try_into().expect("an id")
}

/// A Secret's value as text.
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(key)?.0;
    Some(String::from_utf8_lossy(bytes).into_owned())
}
