//! A scripted GitHub, for answers that the simulator does not give.
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use jiff::Timestamp;
use octocrab::OctoBody;
use tower::service_fn;

use super::test_keys::KEYS;
use super::{AppCredentials, Endpoint, Exchange, GitHub, Observe, PlainHttp, Transport};
use crate::runtime::clock::ManualClock;

pub const NOW: &str = "2026-11-21T01:00:00Z";

/// A request that the client sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub method: String,
    pub url: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Sent {
    /// The token in the header `Authorization`.
    pub fn bearer(&self) -> Option<&str> {
        self.headers.get("authorization")?.to_str().unwrap().strip_prefix("Bearer ")
    }

    /// The test key that signed it.
    pub fn key(&self) -> Option<usize> {
        KEYS.iter().position(|key| key.verify(self.bearer().unwrap_or_default()).is_some())
    }

    /// `GET https://…`
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.url)
    }
}

pub struct Scripted {
    pub github: GitHub,
    pub clock: Arc<ManualClock>,
    pub sent: Arc<Mutex<Vec<Sent>>>,
    pub exchanges: Arc<Mutex<Vec<Exchange>>>,
}

struct Record(Arc<Mutex<Vec<Exchange>>>);

impl Observe for Record {
    fn observe(&self, exchange: &Exchange) {
        self.0.lock().unwrap().push(*exchange);
    }
}

impl Scripted {
    /// A client of `https://h.example/api/v3` with two keys; `answer` answers it.
    pub fn new(answer: impl Fn(&Sent) -> Response<String> + Send + Sync + 'static) -> Self {
        Self::at("https://h.example/api/v3", answer)
    }

    /// The same at another address.
    pub fn at(api_url: &str, answer: impl Fn(&Sent) -> Response<String> + Send + Sync + 'static) -> Self {
        let (sent, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let log = Arc::clone(&sent);
        let transport = Transport::new(service_fn(move |request: Request<OctoBody>| {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
                let (method, url) = (parts.method.to_string(), parts.uri.to_string());
                let sent = Sent { method, url, headers: parts.headers, body };
                log.lock().unwrap().push(sent.clone());
                Ok::<_, Infallible>(answer(&sent).map(|body| Full::new(Bytes::from(body))))
            }
        }));
        Self { sent, ..Self::over_at(api_url, transport) }
    }

    /// The same client over another transport, which does not record requests in `sent`.
    pub fn over(transport: Transport) -> Self {
        Self::over_at("https://h.example/api/v3", transport)
    }

    fn over_at(api_url: &str, transport: Transport) -> Self {
        let endpoint = Endpoint::parse(api_url, None, None, PlainHttp::OnLoopback).unwrap();
        let credentials = AppCredentials::parse("7", &KEYS[0].pkcs1(), Some(&KEYS[1].pkcs1())).unwrap();
        let clock = Arc::new(ManualClock::new(NOW.parse::<Timestamp>().unwrap()));
        let exchanges = Arc::new(Mutex::new(Vec::new()));
        let observer = Arc::new(Record(Arc::clone(&exchanges)));
        let github = GitHub::new(endpoint, transport, credentials, clock.clone(), observer);
        Self { github, clock, sent: Arc::default(), exchanges }
    }

    pub fn lines(&self) -> Vec<String> {
        self.sent.lock().unwrap().iter().map(Sent::line).collect()
    }

    pub fn keys(&self) -> Vec<Option<usize>> {
        self.sent.lock().unwrap().iter().map(Sent::key).collect()
    }
}

/// An answer with this status, these headers and this body.
pub fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<String> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.to_owned()).unwrap()
}

/// A refusal in GitHub's shape.
pub fn refusal(status: u16, message: &str) -> Response<String> {
    answer(
        status,
        &[],
        &serde_json::json!({"message": message, "documentation_url": "https://docs.github.com/rest"}).to_string(),
    )
}

pub const APP: &str = r#"{"id": 7, "client_id": "Iv1.x", "slug": "landfall", "name": "Landfall", "html_url": "https://h.example/apps/landfall",
    "owner": {"id": 1, "login": "acme", "type": "Organization"}, "permissions": {"contents": "write"}, "events": ["push"]}"#;
