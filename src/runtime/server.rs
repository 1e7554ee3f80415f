//! The HTTP server for whoever watches over the process: `/livez`, `/readyz`, `/metrics`.
//!
//! It is up from the start to the end of a process, so that a standby and a process that is still starting can be
//! asked. Invariant: it answers from memory alone and bounds every client in time and number, so that neither a slow
//! scraper nor a stranger on the pod network can make the kubelet's probes fail.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    heartbeat::Liveness,
    metrics::{self, Metrics},
    readiness::{Readiness, Report},
};

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 64;
/// Bytes of a request up to its body.
const MAX_HEADERS: usize = 16 * 1024;

/// For how long a client is borne with.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Until the headers of a request are there, the wait between two requests included.
    headers: Duration,
    /// Until a connection is closed, so that a client that does not read its answer goes as well.
    connection: Duration,
    /// Until answers under way are given up when the process ends.
    shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { headers: seconds(10), connection: seconds(120), shutdown: seconds(5) }
    }
}

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address} for health and metrics; choose another with --health-address")]
    Bind {
        /// What should be listened on.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What the server answers from.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// `/livez`
    pub liveness: Liveness,
    /// `/readyz`
    pub readiness: Readiness,
    /// `/metrics`
    pub metrics: Metrics,
}

/// A server that listens, and serves once [`serve`](Server::serve) runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    endpoints: Endpoints,
    limits: Limits,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one.
    pub async fn bind(address: SocketAddr, endpoints: Endpoints) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, endpoints, limits: Limits::default() })
    }

    /// What is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets answers under way finish.
    pub async fn serve(self, shutdown: CancellationToken) {
        let limits = self.limits;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(limits.headers).max_buf_size(MAX_HEADERS);
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        let graceful = GracefulShutdown::new();
        loop {
            let accept = async {
                let permit = free.clone().acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, stream) = tokio::select! {
                () = shutdown.cancelled() => break,
                (permit, accepted) = accept => match accepted {
                    Ok((stream, _)) => (permit, stream),
                    Err(error) => {
                        // No file descriptor left, most likely: accepting again at once would spin.
                        tracing::warn!(%error, "cannot accept a connection for health and metrics");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), self.endpoints.clone()));
            tokio::spawn(async move {
                let _permit = permit;
                match timeout(limits.connection, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a connection for health and metrics broke"),
                    Err(_) => tracing::debug!("a connection for health and metrics was closed for its age"),
                }
            });
        }
        drop(self.listener);
        if timeout(limits.shutdown, graceful.shutdown()).await.is_err() {
            tracing::debug!("a client of health and metrics did not finish in time");
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Endpoints {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}

impl Endpoints {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            "/livez" => report(self.liveness.report()),
            "/readyz" => report(self.readiness.report()),
            "/metrics" => match self.metrics.text() {
                Ok(metrics) => respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "/livez, /readyz and /metrics are here\n"),
        }
    }
}

fn report(Report { passed, text: lines }: Report) -> Response<Full<Bytes>> {
    text(if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::runtime::heartbeat::Heartbeat;

    const BOUND: Duration = Duration::from_mins(1);

    fn endpoints() -> Endpoints {
        Endpoints { liveness: Liveness::new(), readiness: Readiness::new(), metrics: Metrics::new() }
    }

    async fn listening(endpoints: Endpoints) -> Server {
        Server::bind(([127, 0, 0, 1], 0).into(), endpoints).await.expect("a free port")
    }

    /// Sends `request` and reads until the server closes.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = String::new();
        timeout(BOUND, stream.read_to_string(&mut answer)).await.expect("in time").expect("reads");
        answer
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: landfall\r\nConnection: close\r\n\r\n")).await
    }

    #[tokio::test]
    async fn it_answers_what_is_true_now_and_stops_when_told() {
        let endpoints = endpoints();
        let check = endpoints.readiness.check("kubernetes caches");
        let mut server = listening(endpoints.clone()).await;
        // Longer than this test waits: it would notice who is waited for.
        server.limits.shutdown = 2 * BOUND;
        let address = server.address();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(shutdown.clone()));

        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("[-]kubernetes caches failed"), "{answer}");
        check.ready();
        let answer = get(address, "/readyz?verbose").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("[+]kubernetes caches ok"), "{answer}");

        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200 "));
        endpoints.liveness.watch("due queue", Heartbeat::new(), Duration::ZERO);
        let dead = async { while !get(address, "/livez").await.starts_with("HTTP/1.1 503 ") {} };
        timeout(BOUND, dead).await.expect("a silent heart fails /livez");

        let answer = get(address, "/metrics").await;
        assert!(
            answer.contains("content-type: application/openmetrics-text") && answer.ends_with("# EOF\n"),
            "{answer}"
        );
        assert!(get(address, "/secrets").await.starts_with("HTTP/1.1 404 "));
        let answer = exchange(
            address,
            "POST /readyz HTTP/1.1\r\nHost: landfall\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");

        // A client between two requests does not keep the server from stopping.
        let mut idle = TcpStream::connect(address).await.expect("connects");
        idle.write_all(b"GET /livez HTTP/1.1\r\nHost: landfall\r\n\r\n").await.expect("sends");
        assert!(idle.read_u8().await.is_ok());
        shutdown.cancel();
        timeout(BOUND, serving).await.expect("stops").expect("does not panic");
        timeout(BOUND, idle.read_to_end(&mut Vec::new())).await.expect("is closed").expect("reads");
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_names_the_flag() {
        let taken = listening(endpoints()).await;
        let error = Server::bind(taken.address(), endpoints()).await.expect_err("taken");
        let message = error.to_string();
        assert!(message.contains(&taken.address().to_string()) && message.contains("--health-address"), "{message}");
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_sent_away() {
        // Far more than it takes to ask and to be answered.
        let brief = Duration::from_secs(5);
        let sends_away = async |limits: Limits| {
            let mut server = listening(endpoints()).await;
            server.limits = limits;
            let address = server.address();
            let shutdown = CancellationToken::new();
            let serving = tokio::spawn(server.serve(shutdown.clone()));
            let silent = exchange(address, "");
            let idle = exchange(address, "GET /livez HTTP/1.1\r\nHost: landfall\r\n\r\n");
            let (nothing, answer) = tokio::join!(silent, idle);
            assert_eq!(nothing, "", "{limits:?}");
            assert!(answer.contains("livez check passed"), "answered, then closed for its silence: {answer}");
            shutdown.cancel();
            serving.await.expect("does not panic");
        };
        tokio::join!(
            sends_away(Limits { headers: brief, ..Limits::default() }),
            sends_away(Limits { connection: brief, ..Limits::default() }),
        );
    }
}
