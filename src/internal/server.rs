//! The HTTP server of the internal API.
//!
//! The invariant: a caller is limited in time, number and memory before anything is known about it, and no token gets into the
//! log or into an error.

use super::{Denied, GatewayHandler};
use crate::gateway::identity::token;
use crate::gateway::messages::{ACCESS, Caller, NOT_NOW, RELEASE, ReleaseRequest, TOKEN, TokenRequest};
use crate::reports::PodIdentity;
use crate::reports::identity::{IdentityError, PodIdentities};
use crate::runtime::http_server::{BindError, BodyError, Client, Handler, HttpServer, Limits, Purpose, read_body};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls::ServerConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// The most bytes of a request. A token has about 520, and a request has sixteen of them at most.
const LARGEST: usize = 64 << 10;
const PURPOSE: Purpose = Purpose { name: "the gateway's requests", flag: "--internal-address" };
const LIMITS: Limits = Limits {
    connections: 256,
    connections_per_address: Some(128),
    head_bytes: 16 << 10,
    head: Duration::from_secs(5),
    // Another replica may lead soon, and a connection that is kept would lead to the wrong one.
    idle: None,
    write: Duration::from_secs(5),
    age: Duration::from_secs(30),
    shutdown_delay: Duration::ZERO,
    drain: Duration::from_secs(5),
};

/// A server that listens, and serves once [`serve`](InternalServer::serve) runs.
pub struct InternalServer {
    server: HttpServer,
    service: Arc<Service>,
}

struct Service {
    gateways: PodIdentities,
    handler: Arc<dyn GatewayHandler>,
}

/// Why a request is answered with an error.
enum Refusal {
    NotFound,
    Method,
    NoToken,
    Identity(IdentityError),
    Body(BodyError),
    NotAMessage,
    Denied(Denied),
}

impl InternalServer {
    /// Listens on `address`; port 0 takes a free one.
    pub async fn bind(
        address: SocketAddr,
        tls: Arc<ServerConfig>,
        gateways: PodIdentities,
        handler: Arc<dyn GatewayHandler>,
    ) -> Result<Self, BindError> {
        let server = HttpServer::bind(address, PURPOSE, LIMITS).await?.with_tls(tls);
        Ok(Self { server, service: Arc::new(Service { gateways, handler }) })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub async fn serve(self, shutdown: CancellationToken) {
        self.server.serve(self.service, shutdown).await;
    }
}

impl Handler for Arc<Service> {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>, client: Client) -> Response<Full<Bytes>> {
        self.answer(request, client).await.unwrap_or_else(Refusal::response)
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>, mut client: Client) -> Result<Response<Full<Bytes>>, Refusal> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if ![ACCESS, TOKEN, RELEASE].contains(&path) {
            return Err(Refusal::NotFound);
        }
        if head.method != Method::POST {
            return Err(Refusal::Method);
        }
        let token = token(&head.headers).ok_or(Refusal::NoToken)?;
        let body = Zeroizing::new(Vec::from(read_body(body, LARGEST, LIMITS.head).await.map_err(Refusal::Body)?));
        client.request.complete();
        let gateway = self.gateways.identify(&token, client.address).await.map_err(Refusal::Identity)?;
        self.decide(path, &gateway, &body).await
    }

    async fn decide(&self, path: &str, gateway: &PodIdentity, body: &[u8]) -> Result<Response<Full<Bytes>>, Refusal> {
        match path {
            ACCESS => {
                let caller: Caller = message(body)?;
                json(&self.handler.access(&caller).map_err(Refusal::Denied)?)
            }
            TOKEN => {
                let request: TokenRequest = message(body)?;
                json(&self.handler.token(gateway, request).await.map_err(Refusal::Denied)?)
            }
            _ => {
                let request: ReleaseRequest = message(body)?;
                self.handler.release(gateway, request).await.map_err(Refusal::Denied)?;
                json(&())
            }
        }
    }
}

/// Reads a message. serde's error could repeat a token.
fn message<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|_| Refusal::NotAMessage)
}

fn json(answer: &impl Serialize) -> Result<Response<Full<Bytes>>, Refusal> {
    let body = serde_json::to_vec(answer).map_err(|_| Refusal::NotAMessage)?;
    Ok(response(StatusCode::OK, "application/json", body))
}

fn response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Refusal {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, words) = match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not found".to_owned()),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "only POST is allowed".to_owned()),
            Self::NoToken => (StatusCode::UNAUTHORIZED, "no token of the gateway came with the request".to_owned()),
            Self::Identity(error @ IdentityError::Refused) => (StatusCode::UNAUTHORIZED, error.to_string()),
            Self::Identity(error @ IdentityError::TooMany) => (StatusCode::TOO_MANY_REQUESTS, error.to_string()),
            Self::Identity(error @ IdentityError::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Self::Body(BodyError::TooLarge) => (StatusCode::PAYLOAD_TOO_LARGE, "the request is too large".to_owned()),
            Self::Body(BodyError::Broken) => (StatusCode::BAD_REQUEST, "the request broke off".to_owned()),
            Self::Body(BodyError::Slow) => {
                (StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time".to_owned())
            }
            Self::NotAMessage => {
                (StatusCode::BAD_REQUEST, "the request is of another version of Landfall; upgrade both".to_owned())
            }
            Self::Denied(Denied::NotLeading) => (StatusCode::MISDIRECTED_REQUEST, "another replica leads".to_owned()),
            Self::Denied(Denied::Refused(words)) => (StatusCode::FORBIDDEN, words),
            Self::Denied(Denied::Unknown(words)) => (StatusCode::NOT_FOUND, words),
            Self::Denied(Denied::NotNow(words)) => (NOT_NOW, words),
        };
        response(status, "text/plain; charset=utf-8", words.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gateway goes on from memory when it is told of no decision, so nothing that a pod can bring about may look like that.
    #[test]
    fn a_decision_about_a_pod_has_a_status_of_its_own() {
        let words = || "words".to_owned();
        let of = |refusal: Refusal| refusal.response().status();
        let decisions = [Denied::Refused(words()), Denied::Unknown(words()), Denied::NotNow(words())];
        assert_eq!(decisions.map(|denied| of(Refusal::Denied(denied)).as_u16()), [403, 404, 409]);
        let failures = [
            of(Refusal::Identity(IdentityError::Unavailable)),
            of(Refusal::Identity(IdentityError::TooMany)),
            of(Refusal::Denied(Denied::NotLeading)),
        ];
        assert_eq!(failures.map(|status| status.as_u16()), [503, 429, 421]);
    }
}
