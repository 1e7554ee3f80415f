//! The HTTP server of the reports.
//!
//! The invariant: a caller is bounded in time, number and memory before anything is known of it, as whoever can run a pod may call;
//! and a token is in no line of the log and in no answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::proof::{Proofs, Unproven};
use super::{Desk, Refused};
use crate::agent::report::{Answer, Report};
use crate::github::Token;
use crate::runtime::clock::Clock;

/// Where agents report.
pub const PATH: &str = "/v1/report";
/// The most bytes of a report.
pub const LARGEST: usize = 16 << 10;
/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// Of these, from one address: what stands before many pods has one for all of them.
const FROM_ONE: usize = 64;
/// Bytes of a request up to its body. A token has about 1000.
const MAX_HEADERS: usize = 16 << 10;
/// Until the headers of a request are there.
const HEADERS: Duration = Duration::from_secs(5);
/// Until a connection is closed, whatever goes on; each is for one report.
const CONNECTION: Duration = Duration::from_secs(20);
/// Until answers under way are given up when the process ends.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for the reports of workspaces")]
pub struct BindError {
    /// What should be listened on.
    address: SocketAddr,
    /// What the system says.
    #[source]
    source: io::Error,
}

/// A server that listens, and serves once [`serve`](Reports::serve) runs.
pub struct Reports {
    listener: TcpListener,
    address: SocketAddr,
    office: Arc<Office>,
}

struct Office {
    proofs: Proofs,
    desk: Arc<dyn Desk>,
}

/// What else a caller is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NotFound,
    Method,
    NoToken,
    Unproven(Unproven),
    TooLarge,
    Broken,
    NotAReport,
    Desk(Refused),
}

impl Reports {
    /// Listens on `address`; port 0 takes a free one. Tokens are reviewed by way of `client`, which needs `create` on `tokenreviews`.
    ///
    /// # Errors
    /// The address is taken, or not this machine's.
    pub async fn bind(
        address: SocketAddr,
        client: kube::Client,
        desk: Arc<dyn Desk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let office = Arc::new(Office { proofs: Proofs::new(client, clock), desk });
        Ok(Self { listener, address, office })
    }

    /// What is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets answers under way finish.
    pub async fn serve(self, shutdown: CancellationToken) {
        let mut http = http1::Builder::new();
        // Agents report seldom: a connection that is kept would keep others out.
        http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(MAX_HEADERS).keep_alive(false);
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        let callers = Callers::default();
        let graceful = GracefulShutdown::new();
        loop {
            let accept = async {
                let permit = free.clone().acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, stream, from) = tokio::select! {
                () = shutdown.cancelled() => break,
                (permit, accepted) = accept => match accepted {
                    Ok((stream, from)) => (permit, stream, from.ip()),
                    Err(error) => {
                        // No file descriptor left, most likely: accepting again at once would spin.
                        tracing::warn!(%error, "cannot accept a connection for reports");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Some(call) = callers.call(from) else { continue };
            let office = Arc::clone(&self.office);
            let service = service_fn(move |request| {
                let office = Arc::clone(&office);
                async move { Ok::<_, Infallible>(respond(office.take(request, from).await)) }
            });
            let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(async move {
                let _held = (permit, call);
                match timeout(CONNECTION, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a connection for reports broke"),
                    Err(_) => tracing::debug!("a connection for reports was closed for its age"),
                }
            });
        }
        drop(self.listener);
        if timeout(SHUTDOWN, graceful.shutdown()).await.is_err() {
            tracing::debug!("a report was given up");
        }
    }
}

/// How many connections there are from each address. Clones share it.
#[derive(Clone, Default)]
struct Callers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection from an address.
struct Call(Callers, IpAddr);

impl Callers {
    /// One more; none if there are too many.
    fn call(&self, from: IpAddr) -> Option<Call> {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = callers.entry(from).or_default();
        (*calls < FROM_ONE).then(|| {
            *calls += 1;
            Call(self.clone(), from)
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut callers = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut calls) = callers.entry(self.1) {
            *calls.get_mut() -= 1;
            if *calls.get() == 0 {
                calls.remove();
            }
        }
    }
}

impl Office {
    async fn take(&self, request: Request<Incoming>, from: IpAddr) -> Result<Answer, Refusal> {
        let (head, body) = request.into_parts();
        if head.uri.path() != PATH {
            return Err(Refusal::NotFound);
        }
        if head.method != Method::POST {
            return Err(Refusal::Method);
        }
        let token = bearer(&head.headers).ok_or(Refusal::NoToken)?;
        if body.size_hint().lower() > LARGEST as u64 {
            return Err(Refusal::TooLarge);
        }
        let pod = self.proofs.whose(&token, from).await.map_err(Refusal::Unproven)?;
        let body = Limited::new(body, LARGEST)
            .collect()
            .await
            .map_err(|error| if error.is::<LengthLimitError>() { Refusal::TooLarge } else { Refusal::Broken })?;
        let report: Report = serde_json::from_slice(&body.to_bytes()).map_err(|_| Refusal::NotAReport)?;
        self.desk.receive(&pod, report).map_err(Refusal::Desk)
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
            Self::NoToken | Self::Unproven(Unproven::Refused) => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken | Self::NotAReport => StatusCode::BAD_REQUEST,
            Self::Desk(Refused::Unknown) => StatusCode::FORBIDDEN,
            Self::Unproven(Unproven::TooMany) | Self::Desk(Refused::TooMany) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unproven(Unproven::Unavailable) | Self::Desk(Refused::NotLeading) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn words(self) -> String {
        let words = match self {
            Self::NotFound => "reports are taken at /v1/report",
            Self::Method => "only POST",
            Self::NoToken => "a pod's token for audience landfall is needed: Authorization: Bearer TOKEN",
            Self::Unproven(unproven) => return format!("{unproven}\n"),
            Self::TooLarge => "a report has at most 16384 bytes",
            Self::Broken => "the report did not arrive",
            Self::NotAReport => "a report is a JSON object",
            Self::Desk(Refused::Unknown) => "this pod is that of no workspace",
            Self::Desk(Refused::TooMany) => "this pod reports too often",
            Self::Desk(Refused::NotLeading) => "another process leads; try again",
        };
        format!("{words}\n")
    }
}

fn respond(result: Result<Answer, Refusal>) -> Response<Full<Bytes>> {
    let (status, content_type, body) = match result.map(|answer| serde_json::to_vec(&answer)) {
        Ok(Ok(answer)) => (StatusCode::OK, "application/json", answer),
        Ok(Err(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", Vec::new()),
        Err(refusal) => (refusal.status(), "text/plain; charset=utf-8", refusal.words().into_bytes()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others() {
        let callers = Callers::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut calls: Vec<_> = (0..FROM_ONE).map(|_| callers.call(one).unwrap()).collect();
        assert!(callers.call(one).is_none() && callers.call(other).is_some());
        calls.pop();
        calls.push(callers.call(one).unwrap());
        assert!(callers.call(one).is_none());
        drop(calls);
        assert!(callers.0.lock().unwrap().is_empty());
    }
}
