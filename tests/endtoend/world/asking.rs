//! The requests of a test to the API server: untyped objects, so that the test sees what a person would.

use kube::Client;
use serde_json::{Value, json};

use super::{SHARED, World};

/// A kind of object, by its path in the API.
#[derive(Clone, Copy)]
pub struct Kind {
    version: &'static str,
    plural: &'static str,
    namespaced: bool,
}

impl Kind {
    pub const NAMESPACE: Self = Self { namespaced: false, ..Self::core("namespaces") };
    pub const NODE: Self = Self { namespaced: false, ..Self::core("nodes") };
    pub const EVENT: Self = Self { version: "apis/events.k8s.io/v1", ..Self::core("events") };
    pub const VOLUME: Self = Self { namespaced: false, ..Self::core("persistentvolumes") };
    pub const CLAIM: Self = Self::core("persistentvolumeclaims");
    pub const POD: Self = Self::core("pods");
    pub const SECRET: Self = Self::core("secrets");
    pub const SERVICE_ACCOUNT: Self = Self::core("serviceaccounts");
    pub const GITHUB_APP: Self = Self { namespaced: false, ..Self::ours("githubapps") };
    pub const GITHUB_INSTALLATION: Self = Self::ours("githubinstallations");
    pub const INSTALLATION_TOKEN: Self = Self::ours("installationtokens");
    pub const WORKSPACE: Self = Self::ours("workspaces");

    const fn core(plural: &'static str) -> Self {
        Self { version: "api/v1", plural, namespaced: true }
    }

    const fn ours(plural: &'static str) -> Self {
        Self { version: "apis/landfall.dev/v1alpha1", plural, namespaced: true }
    }

    /// The path of the collection, or of one object in it.
    fn path(self, namespace: &str, name: Option<&str>) -> String {
        let Self { version, plural, namespaced } = self;
        let scope = if namespaced { format!("namespaces/{namespace}/") } else { String::new() };
        let name = name.map(|name| format!("/{name}")).unwrap_or_default();
        format!("/{version}/{scope}{plural}{name}")
    }
}

impl World {
    /// An object in the test's own namespace, or in the cluster. `None` if it does not exist.
    pub async fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        let path = kind.path(&self.name, Some(name));
        asked(&SHARED.client, "GET", &path, None).await
    }

    /// All objects of a kind in the test's own namespace, or in the cluster.
    pub async fn list(&self, kind: Kind) -> Vec<Value> {
        let found = asked(&SHARED.client, "GET", &kind.path(&self.name, None), None).await;
        found.and_then(|found| found["items"].as_array().cloned()).unwrap_or_default()
    }

    /// Applies an object, like `kubectl apply`.
    pub async fn apply(&self, object: &Value) {
        apply(&SHARED.client, object).await;
    }

    /// Deletes an object without waiting. A missing object is a success.
    pub async fn delete(&self, kind: Kind, name: &str) {
        asked(&SHARED.client, "DELETE", &kind.path(&self.name, Some(name)), None).await;
    }

    /// Deletes a pod without a grace period.
    pub async fn delete_at_once(&self, kind: Kind, name: &str) {
        let path = format!("{}?gracePeriodSeconds=0", kind.path(&self.name, Some(name)));
        asked(&SHARED.client, "DELETE", &path, None).await;
    }

    /// Changes an object by a JSON merge patch.
    pub async fn patch(&self, kind: Kind, name: &str, patch: &Value) {
        let path = kind.path(&self.name, Some(name));
        let patched = asked(&SHARED.client, "PATCH", &path, Some(("merge-patch+json", patch))).await;
        assert!(patched.is_some(), "{path} is not there");
    }

    /// Changes an object's status by a JSON merge patch.
    pub async fn patch_status(&self, kind: Kind, name: &str, patch: &Value) {
        let path = format!("{}/status", kind.path(&self.name, Some(name)));
        let patched = asked(&SHARED.client, "PATCH", &path, Some(("merge-patch+json", patch))).await;
        assert!(patched.is_some(), "{path} is not there");
    }

    /// Evicts a pod, like a drain of its node.
    pub async fn evict(&self, pod: &str) {
        let path = format!("{}/eviction", Kind::POD.path(&self.name, Some(pod)));
        let metadata = json!({"name": pod, "namespace": self.name});
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata});
        asked(&SHARED.client, "POST", &path, Some(("json", &eviction))).await;
    }
}

/// Applies an object by server-side apply.
pub(super) async fn apply(client: &Client, object: &Value) {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let (version, kind) = (word(&object["apiVersion"]), word(&object["kind"]).to_lowercase());
    let group = if version.contains('/') { "apis" } else { "api" };
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |kind| format!("{kind}ies"));
    let namespace = object["metadata"]["namespace"].as_str();
    let scope = namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
    let path = format!("/{group}/{version}/{scope}{plural}/{}", word(&object["metadata"]["name"]));
    let path = format!("{path}?fieldManager=endtoend&force=true");
    asked(client, "PATCH", &path, Some(("apply-patch+yaml", object))).await.expect("its collection is there");
}

/// Sends one request. Returns `None` if the object does not exist, and panics for any other refusal.
async fn asked(client: &Client, method: &str, path: &str, body: Option<(&str, &Value)>) -> Option<Value> {
    let mut request = http::Request::builder().method(method).uri(path);
    let mut content = Vec::new();
    if let Some((kind, body)) = body {
        request = request.header("content-type", format!("application/{kind}"));
        content = serde_json::to_vec(body).unwrap();
    }
    match client.request::<Value>(request.body(content).unwrap()).await {
        Ok(object) => Some(object),
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(error) => panic!("{method} {path}: {error}"),
    }
}
