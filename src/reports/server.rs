//! The HTTP server of the reports.
//!
//! Invariant: a caller is limited in time, number and memory before anything is known about it, since anybody who can run a
//! pod may call; and no token gets into the log or into an answer.

use super::identity::{Expected, IdentityError, PodIdentities};
use super::{AUDIENCE, Refused, ReportHandler};
use crate::agent::report::{Answer, Report};
use crate::github::Token;
use crate::runtime::clock::Clock;
use crate::runtime::http_server::{BindError, BodyError, Client, Handler, HttpServer, Limits, Purpose, read_body};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The path that agents report to.
const PATH: &str = "/v1/report";
/// The most bytes of a report.
pub const LARGEST: usize = 16 << 10;
const PURPOSE: Purpose = Purpose { name: "reports of workspaces", flag: "--reports-address" };
const LIMITS: Limits = Limits {
    connections: 256,
    // A proxy in front of many pods has one address for all of them.
    connections_per_address: Some(64),
    // A token has about 1000 bytes.
    head_bytes: 16 << 10,
    head: Duration::from_secs(5),
    // Agents report seldom: a connection that is kept open would keep others out.
    idle: None,
    write: Duration::from_secs(5),
    age: Duration::from_secs(15),
    shutdown_delay: Duration::ZERO,
    drain: Duration::from_secs(5),
};

/// A server that listens, and serves once [`serve`](ReportServer::serve) runs.
pub struct ReportServer {
    server: HttpServer,
    service: Arc<ReportService>,
}

struct ReportService {
    identities: PodIdentities,
    handler: Arc<dyn ReportHandler>,
}

/// Why a request is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NotFound,
    Method,
    NoToken,
    Identity(IdentityError),
    TooLarge,
    Broken,
    Slow,
    NotAReport,
    Refused(Refused),
}

impl ReportServer {
    /// Listens on `address`; port 0 takes a free one. `client` needs `create` on `tokenreviews`.
    pub async fn bind(
        address: SocketAddr,
        client: kube::Client,
        handler: Arc<dyn ReportHandler>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BindError> {
        let server = HttpServer::bind(address, PURPOSE, LIMITS).await?;
        let service = Arc::new(ReportService {
            identities: PodIdentities::new(client, clock, Expected::pods(AUDIENCE)),
            handler,
        });
        Ok(Self { server, service })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub async fn serve(self, shutdown: CancellationToken) {
        self.server.serve(self.service, shutdown).await;
    }
}

impl Handler for Arc<ReportService> {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>, client: Client) -> Response<Full<Bytes>> {
        respond(self.receive(request, client).await)
    }
}

impl ReportService {
    async fn receive(&self, request: Request<Incoming>, mut client: Client) -> Result<Answer, Refusal> {
        let (head, body) = request.into_parts();
        if head.uri.path() != PATH {
            return Err(Refusal::NotFound);
        }
        if head.method != Method::POST {
            return Err(Refusal::Method);
        }
        let token = bearer(&head.headers).ok_or(Refusal::NoToken)?;
        // A token whose report is refused anyway is not worth a review. And once the token is known, nothing waits for the
        // pod, so that pods with good tokens cannot hold connections either.
        let body = read_body(body, LARGEST, LIMITS.head).await.map_err(|error| match error {
            BodyError::TooLarge => Refusal::TooLarge,
            BodyError::Broken => Refusal::Broken,
            BodyError::Slow => Refusal::Slow,
        })?;
        client.request.complete();
        let pod = self.identities.identify(&token, client.address).await.map_err(Refusal::Identity)?;
        let report: Report = serde_json::from_slice(&body).map_err(|_| Refusal::NotAReport)?;
        self.handler.receive(&pod, report).map_err(Refusal::Refused)
    }
}

/// The token of a request (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<Token> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Token::new(token.to_owned()))
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoToken | Self::Identity(IdentityError::Refused) => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken | Self::NotAReport => StatusCode::BAD_REQUEST,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Refused(Refused::Unknown) => StatusCode::FORBIDDEN,
            Self::Identity(IdentityError::TooMany) | Self::Refused(Refused::TooMany) => StatusCode::TOO_MANY_REQUESTS,
            Self::Identity(IdentityError::Unavailable) | Self::Refused(Refused::NotLeading) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn message(self) -> String {
        let message = match self {
            Self::NotFound => "not found; reports are sent to /v1/report",
            Self::Method => "only POST is allowed",
            Self::NoToken => "no token of a pod for audience landfall; send it as Authorization: Bearer TOKEN",
            Self::Identity(error) => return format!("{error}\n"),
            Self::TooLarge => "the report is larger than 16384 bytes",
            Self::Broken => "the report broke off; send it again",
            Self::Slow => "the report did not arrive in time; send it again",
            Self::NotAReport => "the report is not the expected JSON object",
            Self::Refused(Refused::Unknown) => "this pod does not belong to a workspace",
            Self::Refused(Refused::TooMany) => "this pod reports too often; report less often",
            Self::Refused(Refused::NotLeading) => "another replica leads; try again",
        };
        format!("{message}\n")
    }
}

fn respond(result: Result<Answer, Refusal>) -> Response<Full<Bytes>> {
    let (status, content_type, body) = match result.map(|answer| serde_json::to_vec(&answer)) {
        Ok(Ok(answer)) => (StatusCode::OK, "application/json", answer),
        Ok(Err(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", Vec::new()),
        Err(refusal) => (refusal.status(), "text/plain; charset=utf-8", refusal.message().into_bytes()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match status {
        StatusCode::UNAUTHORIZED => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        StatusCode::METHOD_NOT_ALLOWED => headers.insert(header::ALLOW, HeaderValue::from_static("POST")),
        _ => None,
    };
    response
}
