//! Sends deliveries and logs their results.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use super::PATIENCE;
use super::connect::Connector;
use super::signature::{legacy, signature};
use crate::model::{Delivery, Hook, HookConfig, HookOwner};
use crate::state::State;
use crate::{lock, tls};

/// The most characters of an answer in the log.
const MOST_ANSWER: usize = 64 * 1024;

/// One delivery to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) id: u64,
    hook: u64,
    owner: HookOwner,
    config: HookConfig,
    guid: String,
    redelivery: bool,
    event: String,
    payload: Value,
    installation: Option<u64>,
}

impl Attempt {
    pub(super) fn new(id: u64, hook: &Hook, event: &str, payload: Value, installation: Option<u64>) -> Self {
        let (owner, config) = (hook.owner, hook.config.clone());
        let (event, guid) = (event.to_owned(), guid());
        Self { id, hook: hook.id, owner, config, guid, redelivery: false, event, payload, installation }
    }

    /// The same event again, with the same guid, to the current address of the hook.
    pub(crate) fn again(id: u64, delivery: &Delivery, hook: &Hook) -> Self {
        Self {
            id,
            hook: hook.id,
            owner: hook.owner,
            config: hook.config.clone(),
            guid: delivery.guid.clone(),
            redelivery: true,
            event: delivery.event.clone(),
            payload: delivery.payload.clone(),
            installation: delivery.installation,
        }
    }
}

fn guid() -> String {
    let text = hex::encode(rand::random::<[u8; 16]>());
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

type HttpsClient = Client<HttpsConnector<Connector>, Full<Bytes>>;

/// The sender of deliveries. Each delivery has a task of its own.
pub(crate) struct Sender {
    pub(crate) state: Arc<Mutex<State>>,
    client: HttpsClient,
    credulous: HttpsClient,
}

/// Each delivery has a connection of its own. A kept connection could be closed, or lead to an earlier address of the
/// name.
fn https(tls: ClientConfig, connector: Connector) -> HttpsClient {
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

impl Sender {
    /// A sender that trusts the authorities in a PEM text.
    pub(crate) fn new(state: Arc<Mutex<State>>, trusted: &str) -> Result<Self, tls::TlsError> {
        let connector = Connector::new(Arc::clone(&state));
        let (client, credulous) =
            (https(tls::client(trusted)?, connector.clone()), https(tls::credulous_client()?, connector));
        Ok(Self { state, client, credulous })
    }

    /// Sends deliveries until the channel is closed.
    pub(crate) async fn run(self, mut attempts: UnboundedReceiver<Attempt>) {
        let sender = Arc::new(self);
        while let Some(attempt) = attempts.recv().await {
            let sender = Arc::clone(&sender);
            tokio::spawn(async move { sender.deliver(attempt).await });
        }
    }

    async fn deliver(&self, attempt: Attempt) {
        let Some(url) = attempt.config.url.clone() else {
            lock(&self.state).under_way -= 1;
            return;
        };
        let body = body(&attempt);
        let headers = headers(&attempt, &body);
        let began = Instant::now();
        let sent = tokio::time::timeout(PATIENCE, self.send(&attempt.config, &headers, body)).await;
        let duration = began.elapsed().as_secs_f64();
        let (status, code, response_headers, response_body) = match sent {
            Ok(Ok(answer)) => (
                answer.0.canonical_reason().unwrap_or("Unknown").to_owned(),
                answer.0.as_u16(),
                answer.1,
                Some(answer.2),
            ),
            Ok(Err(Unsent(message))) => (message, 0, BTreeMap::new(), None),
            Err(_) => ("timed out".to_owned(), 0, BTreeMap::new(), None),
        };
        let mut state = lock(&self.state);
        state.under_way -= 1;
        let delivered = state.now();
        if let Some(hook) = state.hooks.get_mut(&attempt.hook) {
            let summary = if (200..300).contains(&code) { "active" } else { "unused" };
            hook.last_response = (Some(code).filter(|code| *code != 0), summary.to_owned(), Some(status.clone()));
        }
        let delivery = Delivery {
            id: attempt.id,
            hook: attempt.hook,
            guid: attempt.guid,
            delivered,
            redelivery: attempt.redelivery,
            duration: (duration * 100.0).round() / 100.0,
            status,
            status_code: code,
            action: attempt.payload["action"].as_str().map(str::to_owned),
            installation: attempt.installation,
            repository: attempt.payload["repository"]["id"].as_u64(),
            event: attempt.event,
            url,
            request_headers: headers,
            payload: attempt.payload,
            response_headers,
            response_body,
        };
        state.deliveries.insert(attempt.id, delivery);
        state.forget_old_deliveries();
    }

    async fn send(
        &self,
        config: &HookConfig,
        headers: &BTreeMap<String, String>,
        body: Vec<u8>,
    ) -> Result<Received, Unsent> {
        let url = config.url.as_deref().unwrap_or_default();
        let client = if config.insecure_ssl == "1" { &self.credulous } else { &self.client };
        let mut request = Request::post(url).body(Full::from(body)).map_err(|_| Unsent("invalid URL".to_owned()))?;
        for (name, value) in headers {
            let name = header::HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                request.headers_mut().insert(name, value);
            }
        }
        let answer = client.request(request).await.map_err(|error| {
            tracing::debug!(url, error = &error as &dyn std::error::Error, "a delivery failed");
            Unsent("failed to connect to host".to_owned())
        })?;
        let (parts, body) = answer.into_parts();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let body = Limited::new(body, MOST_ANSWER).collect().await.map(http_body_util::Collected::to_bytes);
        Ok((parts.status, headers, String::from_utf8_lossy(&body.unwrap_or_default()).into_owned()))
    }
}

type Received = (StatusCode, BTreeMap<String, String>, String);

/// The reason why nothing was received, in the terms of GitHub's log.
struct Unsent(String);

/// The bytes of the payload: JSON, or a form with one field that contains it.
fn body(attempt: &Attempt) -> Vec<u8> {
    let json = attempt.payload.to_string();
    if attempt.config.content_type == "json" {
        return json.into_bytes();
    }
    url::form_urlencoded::Serializer::new(String::new()).append_pair("payload", &json).finish().into_bytes()
}

fn headers(attempt: &Attempt, body: &[u8]) -> BTreeMap<String, String> {
    let (target, target_id) = match attempt.owner {
        HookOwner::App(id) => ("integration", id),
        HookOwner::Repository(id) => ("repository", id),
    };
    let json = attempt.config.content_type == "json";
    let mut headers: BTreeMap<String, String> = [
        ("Accept", "*/*".to_owned()),
        ("Content-Type", if json { "application/json" } else { "application/x-www-form-urlencoded" }.to_owned()),
        ("User-Agent", "GitHub-Hookshot/0a1b2c3".to_owned()),
        ("X-GitHub-Delivery", attempt.guid.clone()),
        ("X-GitHub-Event", attempt.event.clone()),
        ("X-GitHub-Hook-ID", attempt.hook.to_string()),
        ("X-GitHub-Hook-Installation-Target-ID", target_id.to_string()),
        ("X-GitHub-Hook-Installation-Target-Type", target.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if let Some(secret) = &attempt.config.secret {
        headers.insert("X-Hub-Signature".to_owned(), legacy(secret, body));
        headers.insert("X-Hub-Signature-256".to_owned(), signature(secret, body));
    }
    headers
}
