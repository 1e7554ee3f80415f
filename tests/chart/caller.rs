//! Whoever talks to the API server itself, where kubectl would ask for more than is meant.

use http::{Method, Request};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// How long a rule or a policy may take until it holds. Far more than it does.
const PATIENCE: Duration = Duration::from_mins(3);

pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const JSON: &str = "application/json";

/// Somebody who talks to the API server, perhaps in another's name.
pub struct Caller {
    client: Client,
    poses_as: Option<String>,
}

/// What the API server refused, with its code.
#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    pub message: String,
}

impl Refusal {
    /// Whether an admission policy refused, not a missing right: rights and policies begin to hold at different times.
    pub fn is_by_policy(&self) -> bool {
        self.message.contains("ValidatingAdmissionPolicy")
    }
}

impl Caller {
    pub async fn new(kubeconfig: &str) -> Self {
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Self { client: Client::try_from(config).unwrap(), poses_as: None }
    }

    /// Somebody with this token.
    pub async fn with_token(kubeconfig: &str, token: String) -> Self {
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        Self { client: Client::try_from(config).unwrap(), poses_as: None }
    }

    /// The same, in the name of this user.
    pub fn posing_as(&self, user: &str) -> Self {
        Self { client: self.client.clone(), poses_as: Some(user.to_owned()) }
    }

    pub async fn ask(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value, Refusal> {
        let body = if method == Method::GET || method == Method::DELETE { Vec::new() } else { body.to_string().into() };
        let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
        if let Some(user) = &self.poses_as {
            request = request.header("impersonate-user", user);
        }
        self.client.request(request.body(body).unwrap()).await.map_err(|error| match error {
            kube::Error::Api(status) => Refusal { code: status.code, message: status.message },
            other => panic!("no answer: {other}"),
        })
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, JSON, &Value::Null).await.unwrap()
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
    }
}
