//! A namespace with a repository that an App grants it, and a receiver. Each test has its own objects and its own receiver;
//! only the API server is shared.

use crate::proxy::Proxy;
use kube::Resource;
use kube::{Client, Config};
use landfall::api::{GitHubApp, GitHubInstallation, InboxEntry, ProjectRepository, WaitingDelivery, WebhookInbox};
use landfall::guards::{Guards, Sabotage};
use landfall::receiver::{self, InboxPlace, KeySource, Receiver, ServerLimits, WriteLimits};
use landfall::runtime::clock::SystemClock;
use landfall::webhook::{AppIdentity, Hook, RootKeys};
use landfall_world::cluster::{Cluster, cluster};
use landfall_world::delivery::{Delivery, until_closed};
use landfall_world::{SYSTEM, id, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The App's id on GitHub.
pub const APP_ID: u64 = 42;

pub struct Scene {
    /// The name of its App and its namespace.
    pub name: String,
    /// An administrator.
    pub admin: Client,
    /// The connection from the receiver to the API server.
    pub proxy: Proxy,
    keys: PathBuf,
    cluster: &'static Cluster,
}

/// A running receiver. Dropping it begins its shutdown.
pub struct Running {
    /// The name of its pod and its inbox.
    pub pod: String,
    pub address: SocketAddr,
    pub health: SocketAddr,
    pub shutdown: CancellationToken,
    pub ended: JoinHandle<Result<(), receiver::Error>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The configuration of receivers in tests.
pub fn config() -> receiver::Config {
    let local = ([127, 0, 0, 1], 0).into();
    receiver::Config {
        address: (local, "--address"),
        health_address: Some(local),
        // Replaced by that of the receiver's pod.
        inbox: InboxPlace { namespace: SYSTEM.to_owned(), name: String::new() },
        features: landfall::features::Features::default(),
        target_rate: 10.0,
        target_burst: 100.0,
        server: ServerLimits { shutdown_delay: Duration::ZERO, ..ServerLimits::default() },
        // A slow machine must not cause refusals.
        writes: WriteLimits { timeout: Duration::from_mins(5), ..WriteLimits::default() },
    }
}

/// A GUID that no other delivery of this process has.
pub fn guid() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("00000000-0000-4000-8000-0000{:08x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Scene {
    /// `name` must be unique among the tests.
    pub async fn new(name: &str) -> Self {
        let cluster = cluster(0);
        let server = cluster.operator().cluster_url;
        let server = format!("{}:{}", server.host().expect("a host"), server.port_u16().expect("a port"));
        let proxy = Proxy::to(server.parse().expect("an address")).await;
        let keys = std::env::temp_dir().join(format!("landfall-receiver-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&keys).expect("a directory");
        let scene = Self { name: name.into(), admin: cluster.admin(), proxy, keys, cluster };
        scene.rotate(1, None);
        scene
            .apply("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await;
        let tenant = json!({"name": "acme", "account": "acme", "accountID": 7001, "repositories": ["shop", "lib-*"], "namespaces": {"names": [name]}});
        scene
            .kind::<GitHubApp>(
                "",
                name,
                &json!({"appID": APP_ID, "credentialsSecretRef": {"name": "none"}, "tenants": [tenant]}),
            )
            .await;
        let installation = json!({"appRef": {"name": name}, "account": "acme"});
        scene.kind::<GitHubInstallation>(name, "acme", &installation).await;
        scene.repository("shop", "shop", Some(9001)).await;
        scene
    }

    /// A `ProjectRepository` of acme, bound to an id as the operator binds it.
    pub async fn repository(&self, name: &str, repository: &str, id: Option<u64>) {
        let spec = json!({"installationRef": {"name": "acme"}, "source": {"existing": {"name": repository}}});
        self.kind::<ProjectRepository>(&self.name, name, &spec).await;
        if let Some(id) = id {
            self.status(&self.name, name, &json!({"repositoryID": id})).await;
        }
    }

    /// Makes an admission policy refuse every delivery in a receiver's inbox, and waits until it does.
    pub async fn bar(&self, inbox: &str) {
        let (group, name) = ("admissionregistration.k8s.io", format!("bar-{}", self.name));
        let object = |kind: &str, spec: &Value| json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": name}, "spec": spec});
        let is_it = format!("object.metadata.name == '{inbox}'");
        let rule = json!({"apiGroups": ["landfall.dev"], "apiVersions": ["*"], "resources": ["webhookinboxes/status"], "operations": ["UPDATE"]});
        let policy = json!({
            "matchConstraints": {"resourceRules": [rule]}, "matchConditions": [{"name": "it", "expression": is_it}],
            "validations": [{"expression": "false"}],
        });
        let binding = json!({"policyName": name, "validationActions": ["Deny"]});
        let path = format!("/apis/{group}/v1");
        self.apply(&format!("{path}/validatingadmissionpolicies"), &object("ValidatingAdmissionPolicy", &policy)).await;
        let binding = object("ValidatingAdmissionPolicyBinding", &binding);
        self.apply(&format!("{path}/validatingadmissionpolicybindings"), &binding).await;
        let path = format!("{}/{inbox}/status?dryRun=All", WebhookInbox::url_path(&(), Some(SYSTEM)));
        until("the policy holds", async || {
            let patch = http::Request::patch(&path).header("content-type", "application/merge-patch+json");
            let patch = patch.body(br#"{"status": {"deliveries": []}}"#.to_vec()).expect("a request");
            self.admin.request::<Value>(patch).await.is_err().then_some(())
        })
        .await;
    }

    /// Makes the inbox of a pod, as the operator does.
    pub async fn make_inbox(&self, pod: &str) {
        landfall::controllers::make_inbox(&self.admin, SYSTEM, pod, None).await.expect("an inbox");
    }

    /// Applies an object of ours.
    pub async fn kind<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str, spec: &Value) {
        let path = K::url_path(&(), Some(namespace).filter(|namespace| !namespace.is_empty()));
        let metadata =
            if namespace.is_empty() { json!({"name": name}) } else { json!({"name": name, "namespace": namespace}) };
        let object =
            json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": metadata, "spec": spec});
        self.apply(&path, &object).await;
    }

    async fn apply(&self, path: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.patch(&format!("{path}/{name}?fieldManager=test&force=true"), "application/apply-patch+yaml", object)
            .await;
    }

    /// Writes status, as the operator does, or a tenant with the right to.
    pub async fn status(&self, namespace: &str, name: &str, status: &Value) {
        let path = format!("{}/{name}/status", ProjectRepository::url_path(&(), Some(namespace)));
        self.patch(&path, "application/merge-patch+json", &json!({"status": status})).await;
    }

    async fn patch(&self, path: &str, content_type: &str, body: &Value) {
        let patch = http::Request::patch(path).header("content-type", content_type);
        let patch = patch.body(serde_json::to_vec(body).expect("json")).expect("a request");
        let _: Value = self.admin.request(patch).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Sets the root keys, each made of one byte.
    pub fn rotate(&self, current: u8, previous: Option<u8>) {
        let write = |name: &str, content: &[u8]| std::fs::write(self.keys.join(name), content).expect("a file");
        write("current", &[current; 32]);
        write("current-id", format!("k{current}").as_bytes());
        if let Some(previous) = previous {
            write("previous", &[previous; 32]);
            write("previous-id", format!("k{previous}").as_bytes());
        }
    }

    /// The secret of a hook of this scene's App, from the current key.
    pub fn secret(&self, hook: Hook) -> String {
        secret(&self.keys, hook)
    }

    /// Starts a receiver, and waits until it is ready.
    pub async fn receiver(&self, config: receiver::Config) -> Running {
        self.receiver_without(Sabotage::default(), config).await
    }

    /// The same with guards taken out.
    pub async fn receiver_without(&self, sabotage: Sabotage, config: receiver::Config) -> Running {
        let running = self.started(sabotage, config).await;
        until("the receiver is ready", async || (ready(running.health).await == Some(200)).then_some(())).await;
        running
    }

    /// Starts a receiver, which listens and may have an empty cache.
    pub async fn started(&self, sabotage: Sabotage, config: receiver::Config) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let pod = format!("{}-{}", self.name, NEXT.fetch_add(1, Ordering::Relaxed));
        self.make_inbox(&pod).await;
        let config =
            receiver::Config { inbox: InboxPlace { namespace: SYSTEM.to_owned(), name: pod.clone() }, ..config };
        let mut kube = self.cluster.receiver(&pod).await;
        self.lead_through_proxy(&mut kube);
        let shutdown = CancellationToken::new();
        let environment = receiver::Environment {
            kube: Client::try_from(kube).expect("a client"),
            keys: KeySource::Directory(self.keys.clone()),
            clock: Arc::new(SystemClock),
            shutdown: shutdown.clone(),
            guards: Guards::without(sabotage),
        };
        let receiver = Receiver::start(config, environment).await.expect("a receiver");
        let (address, health) = (receiver.address(), receiver.health_address().expect("health is served"));
        Running { pod, address, health, shutdown, ended: tokio::spawn(receiver.run()) }
    }

    fn lead_through_proxy(&self, kube: &mut Config) {
        kube.default_retry = false;
        kube.cluster_url = format!("https://{}", self.proxy.address).parse().expect("an address");
    }

    /// A push to main of acme/shop, by the App's webhook.
    pub fn push(&self) -> Delivery {
        let hook = Hook::App;
        Delivery::new(&hook.path(&self.name), "push", &guid(), &push(9001).into_bytes(), &self.secret(hook))
    }

    /// The deliveries for a repository that wait, by GUID.
    pub async fn deliveries(&self, namespace: &str, name: &str) -> BTreeMap<String, WaitingDelivery> {
        let all = self.waiting().await.into_iter().filter(|one| one.repository() == Some((namespace, name)));
        all.map(|delivery| (delivery.guid.clone(), delivery)).collect()
    }

    /// The deliveries for the App itself that wait, by GUID.
    pub async fn app_deliveries(&self) -> BTreeMap<String, WaitingDelivery> {
        let all = self.waiting().await.into_iter().filter(|one| one.app == self.name && one.repository().is_none());
        all.map(|delivery| (delivery.guid.clone(), delivery)).collect()
    }

    /// The deliveries in all inboxes, those of other scenes included.
    pub async fn waiting(&self) -> Vec<WaitingDelivery> {
        let list = http::Request::get(WebhookInbox::url_path(&(), Some(SYSTEM))).body(Vec::new()).expect("a request");
        let list: Value = self.admin.request(list).await.expect("a list");
        let inboxes = list["items"].as_array().expect("a list").iter();
        let read = |inbox: &Value| -> Vec<WaitingDelivery> {
            let entries: Vec<InboxEntry> =
                serde_json::from_value(inbox["status"]["deliveries"].clone()).expect("entries");
            entries.iter().map(|entry| entry.delivery().expect("a delivery").clone()).collect()
        };
        inboxes.flat_map(read).collect()
    }

    /// All objects of our kinds in this scene, as they are stored.
    pub async fn objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        let namespaced = Some(self.name.as_str());
        for path in [
            GitHubApp::url_path(&(), None),
            GitHubInstallation::url_path(&(), namespaced),
            ProjectRepository::url_path(&(), namespaced),
        ] {
            let get = http::Request::get(&path).body(Vec::new()).expect("a request");
            let list: Value = self.admin.request(get).await.expect("a list");
            let items = list["items"].as_array().expect("items").iter();
            let ours =
                |item: &&Value| item["metadata"]["namespace"] == self.name || item["metadata"]["name"] == self.name;
            objects.extend(items.filter(ours).cloned());
        }
        objects
    }

    /// The deliveries for acme/shop that wait, by GUID.
    pub async fn shop(&self) -> BTreeMap<String, WaitingDelivery> {
        self.deliveries(&self.name, "shop").await
    }
}

/// The payload of a push to main.
pub fn push(repository: u64) -> String {
    let name = if repository == 9001 { "shop" } else { "plans" };
    json!({
        "ref": "refs/heads/main", "before": "1".repeat(40), "after": "2".repeat(40),
        "repository": {"id": repository, "name": name, "full_name": format!("acme/{name}"), "owner": {"id": 7001, "login": "acme"}},
        "installation": {"id": 501},
    })
    .to_string()
}

fn secret(keys: &Path, hook: Hook) -> String {
    let identity = AppIdentity { host: "api.github.com".into(), app_id: id(APP_ID) };
    RootKeys::read_directory(keys).expect("keys").current.secret(&identity, hook).expose().to_owned()
}

/// The status of /readyz, if it is served.
pub async fn ready(health: SocketAddr) -> Option<u16> {
    use tokio::io::AsyncReadExt;
    let mut stream = TcpStream::connect(health).await.ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// Waits until a line is among the metrics.
pub async fn metric(health: SocketAddr, line: &str) {
    until(line, async || {
        let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        let mut stream = TcpStream::connect(health).await.ok()?;
        stream.write_all(request).await.ok()?;
        let text = String::from_utf8(until_closed(&mut stream).await).ok()?;
        text.lines().any(|found| found == line).then_some(())
    })
    .await;
}
