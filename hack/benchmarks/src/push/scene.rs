//! The scene: an API server, a simulated GitHub with many repositories of one account, and an object for each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use github_sim::{AppKey, Push, RepositorySeed, Sim};
use http::{HeaderValue, Request};
use http_body_util::Full;
use kube::Client;
use landfall::webhook::{AppIdentity, CURRENT, CURRENT_ID, Hook, KEY_LENGTH, ROOT_KEYS_SECRET, RootKeys};
use landfall_cluster::ApiServer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{self, SYSTEM};
use crate::load::{Until, drive};
use crate::program::INBOX;
use crate::{BenchmarkError, api_server, objects};

/// `spec.onPush.debounce` of the objects.
pub(crate) const DEBOUNCE: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 50;
/// How many repositories a namespace has.
pub(crate) const IN_A_NAMESPACE: u64 = 100;
const APP: &str = "landfall";
const APP_ID: u64 = 4242;
const INSTALLATION: u64 = 501;
const ROOT_KEY: [u8; KEY_LENGTH] = [7; KEY_LENGTH];
pub(crate) const OURS: &str = "/apis/landfall.dev/v1alpha1";

pub(crate) struct Scene {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    pub(crate) sim: Sim,
    /// How many there are, and to how many of them pushes come.
    pub(crate) repositories: u64,
    pub(crate) pushed: u64,
    /// The root keys of webhooks, for the receiver.
    pub(crate) keys: TempDir,
    ids: Vec<u64>,
    secret: hmac::Key,
    deliveries: AtomicU64,
}

impl Scene {
    pub(crate) async fn new(repositories: u64, pushed: u64) -> Result<Self, BenchmarkError> {
        let (server, client) = cluster::start().await?;
        let key = AppKey::generate().map_err(|error| BenchmarkError::GitHub(Box::new(error)))?;
        let sim = objects::simulator(&key, (APP_ID, INSTALLATION), "[]").await?;
        let mut ids = Vec::new();
        for number in 0..repositories {
            let seed =
                RepositorySeed { owner: "acme".into(), name: name(number), private: true, ..RepositorySeed::default() };
            ids.push(sim.create_repository(&seed).map_err(|error| BenchmarkError::GitHub(Box::new(error)))?);
        }
        let keys = tempfile::tempdir().map_err(BenchmarkError::Folder)?;
        for (name, content) in [(CURRENT, &ROOT_KEY[..]), (CURRENT_ID, b"bench")] {
            std::fs::write(keys.path().join(name), content).map_err(BenchmarkError::Folder)?;
        }
        let secret = app_secret(&sim)?;
        let scene =
            Self { server, client, sim, repositories, pushed, keys, ids, secret, deliveries: AtomicU64::new(0) };
        scene.objects(&key).await?;
        Ok(scene)
    }

    /// Pushes a commit to a repository. Returns the commit, and its delivery.
    pub(crate) fn push(&self, number: u64) -> Result<(String, Request<Full<Bytes>>), BenchmarkError> {
        let delivery = self.deliveries.fetch_add(1, Ordering::Relaxed);
        let push = Push {
            repository: format!("acme/{}", name(number)),
            branch: Some("main".into()),
            path: "README.md".into(),
            content: format!("push {delivery}"),
            message: None,
        };
        let commit = self.sim.push(&push).map_err(|error| BenchmarkError::GitHub(Box::new(error)))?;
        let id = usize::try_from(number).ok().and_then(|number| self.ids.get(number));
        let body = json!({
            "ref": "refs/heads/main", "before": "1".repeat(40), "after": commit,
            "installation": {"id": INSTALLATION},
            "repository": {"id": id, "name": name(number), "owner": {"id": 7001, "login": "acme"}},
        });
        let body = Bytes::from(body.to_string());
        let signature = format!("sha256={}", hex::encode(hmac::sign(&self.secret, &body)));
        let guid = format!("00000000-0000-4000-8000-{delivery:012x}");
        let mut request = Request::post(Hook::App.path(APP));
        for (name, value) in [
            ("host", "landfall"),
            ("content-type", "application/json"),
            ("x-github-event", "push"),
            ("x-github-delivery", &guid),
            ("x-hub-signature-256", &signature),
        ] {
            request = request.header(name, HeaderValue::from_str(value).map_err(kube_error)?);
        }
        Ok((commit, request.body(Full::new(body)).map_err(kube_error)?))
    }

    /// How many tokens the App asked for, and how many other REST calls came.
    pub(crate) fn rest_calls(&self) -> (u64, u64) {
        let (mut mints, mut others) = (0, 0);
        for entry in self.sim.requests() {
            if entry.path.ends_with("/access_tokens") {
                mints += 1;
            } else if entry.path.starts_with("/api/") {
                others += 1;
            }
        }
        (mints, others)
    }

    /// How many repositories are Ready, and the message of one that is not.
    pub(crate) async fn ready(&self) -> Result<(u64, Option<String>), kube::Error> {
        let get = Request::get(format!("{OURS}/projectrepositories?resourceVersion=0")).body(Vec::new());
        let list: Value = self.client.request(get.map_err(kube::Error::HttpError)?).await?;
        Ok(objects::ready(list["items"].as_array().into_iter().flatten()))
    }

    async fn objects(&self, key: &AppKey) -> Result<(), BenchmarkError> {
        let secrets = format!("/api/v1/namespaces/{SYSTEM}/secrets");
        let credentials = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "github-app"},
            "stringData": {"private-key.pem": key.private_pem()},
        });
        self.post(&secrets, &credentials).await?;
        let text = String::from_utf8_lossy(&ROOT_KEY);
        let keys = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": ROOT_KEYS_SECRET},
            "stringData": {CURRENT: text, CURRENT_ID: "bench"},
        });
        self.post(&secrets, &keys).await?;
        landfall::controllers::make_inbox(&self.client, SYSTEM, INBOX, None).await?;
        let namespaces: Vec<_> = (0..self.repositories.div_ceil(IN_A_NAMESPACE)).map(namespace).collect();
        let app = json!({
            "appID": APP_ID, "apiURL": self.sim.api_url(), "credentialsSecretRef": {"name": "github-app"},
            "tenants": [{
                "name": "acme", "account": "acme", "repositories": ["*"], "namespaces": {"names": namespaces},
            }],
        });
        self.post(&format!("{OURS}/githubapps"), &ours("GitHubApp", APP, &app)).await?;
        for namespace in &namespaces {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            self.post("/api/v1/namespaces", &object).await?;
            let installation = json!({"appRef": {"name": APP}, "account": "acme"});
            let path = format!("{OURS}/namespaces/{namespace}/githubinstallations");
            self.post(&path, &ours("GitHubInstallation", "acme", &installation)).await?;
            self.deployer(namespace).await?;
        }
        drive(&mut [(); AT_ONCE], Until::Calls(self.repositories), async |(): &mut (), number| {
            let (namespace, name) = (namespace(number / IN_A_NAMESPACE), name(number));
            let mut spec = json!({
                "installationRef": {"name": "acme"}, "source": {"existing": {"name": name}}, "pollInterval": "24h",
            });
            if number < self.pushed {
                spec["onPush"] = json!({
                    "serviceAccountName": "deployer", "debounce": format!("{}s", DEBOUNCE.as_secs()),
                    "actions": [{"rolloutRestart": {"kind": "Deployment", "name": name}}],
                });
                self.post(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &deployment(&name)).await?;
            }
            let path = format!("{OURS}/namespaces/{namespace}/projectrepositories");
            self.post(&path, &ours("ProjectRepository", &name, &spec)).await
        })
        .await?;
        Ok(())
    }

    /// The account that restarts the workloads of a namespace.
    async fn deployer(&self, namespace: &str) -> Result<(), kube::Error> {
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "deployer"}});
        self.post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account).await?;
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "deployer"},
            "rules": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "patch"]}],
        });
        self.post(&format!("{rbac}/roles"), &role).await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "deployer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer"},
            "subjects": [{"kind": "ServiceAccount", "name": "deployer", "namespace": namespace}],
        });
        self.post(&format!("{rbac}/rolebindings"), &binding).await
    }

    async fn post(&self, path: &str, object: &Value) -> Result<(), kube::Error> {
        api_server::write(&self.client, "POST", path, "application/json", object).await
    }
}

fn kube_error(error: impl Into<http::Error>) -> kube::Error {
    kube::Error::HttpError(error.into())
}

pub(crate) fn name(number: u64) -> String {
    format!("repository-{number:05}")
}

pub(crate) fn namespace(number: u64) -> String {
    format!("team-{number:03}")
}

pub(crate) fn ours(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "landfall.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "example.com/app"}]},
            },
        },
    })
}

/// The secret of the App's webhook.
fn app_secret(sim: &Sim) -> Result<hmac::Key, BenchmarkError> {
    let keys = RootKeys::read(|file| match file {
        CURRENT => Some(&ROOT_KEY[..]),
        CURRENT_ID => Some(b"bench"),
        _ => None,
    })?;
    let host = sim.api_url().parse::<http::Uri>().ok().and_then(|url| url.authority().map(ToString::to_string));
    let identity = AppIdentity { host: host.unwrap_or_default(), app_id: APP_ID.try_into()? };
    let secret = keys.current.secret(&identity, Hook::App);
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()))
}
