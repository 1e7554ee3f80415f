//! A receiver of webhooks on this machine.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

#[derive(Clone, Debug)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn event(&self) -> &str {
        self.header("x-github-event")
    }

    /// The payload, also of a form.
    pub fn payload(&self) -> Value {
        if self.header("content-type") == "application/json" {
            return serde_json::from_slice(&self.body).unwrap();
        }
        let (_, payload) = url::form_urlencoded::parse(&self.body).find(|(name, _)| name == "payload").unwrap();
        serde_json::from_str(&payload).unwrap()
    }
}

#[derive(Clone)]
struct Shared {
    received: watch::Sender<Vec<Received>>,
    status: Arc<Mutex<StatusCode>>,
}

pub struct Receiver {
    shared: Shared,
    pub url: String,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::serve(None).await
    }

    /// One that serves TLS, and its certificate (PEM), which is its own authority.
    pub async fn start_tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        (Self::serve(Some(TlsAcceptor::from(Arc::new(config)))).await, made.cert.pem())
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let status = Arc::new(Mutex::new(StatusCode::ACCEPTED));
        let shared = Shared { received: watch::Sender::new(Vec::new()), status };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().fallback(receive).with_state(shared.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(router.clone());
                let tls = tls.clone();
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        Self { shared, url }
    }

    /// What it answers from now on.
    pub fn answers(&self, status: u16) {
        *self.shared.status.lock().unwrap() = StatusCode::from_u16(status).unwrap();
    }

    /// Waits until so many events of a name have come, and returns them.
    pub async fn events(&self, name: &str, count: usize) -> Vec<Received> {
        let of_name = |all: &Vec<Received>| all.iter().filter(|one| one.event() == name).cloned().collect::<Vec<_>>();
        let mut received = self.shared.received.subscribe();
        let enough = received.wait_for(|all| of_name(all).len() >= count);
        let waited = tokio::time::timeout(Duration::from_mins(1), enough).await;
        assert!(waited.is_ok(), "{count} {name} events did not come");
        drop(waited);
        of_name(&self.shared.received.borrow())
    }

    pub fn count(&self) -> usize {
        self.shared.received.borrow().len()
    }
}

async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    shared.received.send_modify(|all| all.push(Received { headers, body }));
    let status = *shared.status.lock().unwrap();
    (status, "seen")
}
