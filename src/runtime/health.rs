//! The endpoints for probes and Prometheus: `/livez`, `/readyz`, `/metrics`.
//!
//! They are served from the start of a process to its end, so that a standby and a process that is still starting can be
//! asked. Invariant: they are answered from memory alone, within the limits of [`super::http_server`], so that neither a
//! slow scraper nor a stranger on the pod network can make the kubelet's probes fail.

use super::heartbeat::Liveness;
use super::http_server::{BindError, Client, Handler, HttpServer, Limits, Purpose};
use super::metrics::{self, Metrics};
use super::readiness::{Readiness, Report};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PURPOSE: Purpose = Purpose { name: "health and metrics", flag: "--health-address" };
const LIMITS: Limits = Limits {
    connections: 128,
    // A Prometheus and the kubelet need few. Strangers on the node's network have the kubelet's address, and then its probe
    // is the youngest of their connections.
    connections_per_address: Some(64),
    head_bytes: 16 * 1024,
    head: Duration::from_secs(10),
    idle: Some(Duration::from_secs(10)),
    write: Duration::from_secs(10),
    age: Duration::from_secs(115),
    shutdown_delay: Duration::ZERO,
    drain: Duration::from_secs(5),
};

/// The sources of the answers.
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub liveness: Liveness,
    pub readiness: Readiness,
    pub metrics: Metrics,
}

/// A server that listens, and serves once [`serve`](HealthServer::serve) runs.
#[derive(Debug)]
pub struct HealthServer {
    server: HttpServer,
    endpoints: Endpoints,
}

impl HealthServer {
    /// Listens on `address`; port 0 takes a free one.
    pub async fn bind(address: SocketAddr, endpoints: Endpoints) -> Result<Self, BindError> {
        Self::bind_with(address, endpoints, LIMITS).await
    }

    async fn bind_with(address: SocketAddr, endpoints: Endpoints, limits: Limits) -> Result<Self, BindError> {
        Ok(Self { server: HttpServer::bind(address, PURPOSE, limits).await?, endpoints })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub async fn serve(self, shutdown: CancellationToken) {
        self.server.serve(self.endpoints, shutdown).await;
    }
}

impl Handler for Endpoints {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>, mut client: Client) -> Response<Full<Bytes>> {
        client.request.complete();
        self.answer(&request)
    }
}

impl Endpoints {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n");
        }
        match request.uri().path() {
            "/livez" => report(self.liveness.report()),
            "/readyz" => report(self.readiness.report()),
            "/metrics" => match self.metrics.text() {
                Ok(metrics) => respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "not found; the endpoints are /livez, /readyz and /metrics\n"),
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
    use super::*;
    use crate::runtime::heartbeat::Heartbeat;
    use std::net::IpAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    /// The chart's `timeoutSeconds` of probes.
    const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
    /// The kubelet restarts a container after so many failures in a row.
    const FAILURE_THRESHOLD: usize = 3;
    const BOUND: Duration = Duration::from_mins(1);

    fn endpoints() -> Endpoints {
        Endpoints { liveness: Liveness::new(), readiness: Readiness::new(), metrics: Metrics::new() }
    }

    async fn listening(limits: Limits) -> HealthServer {
        HealthServer::bind_with(([127, 0, 0, 1], 0).into(), endpoints(), limits).await.expect("a free port")
    }

    /// Sends `request` and reads until the server closes.
    async fn try_exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn exchange(address: SocketAddr, request: &str) -> String {
        timeout(BOUND, try_exchange(address, request)).await.expect("in time").expect("an answer")
    }

    fn request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: landfall\r\nConnection: close\r\n\r\n")
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(address, &request(path)).await
    }

    /// Whether the kubelet would leave the container alone.
    async fn passes_probe(address: SocketAddr, path: &str) -> bool {
        for _ in 0..FAILURE_THRESHOLD {
            let answer = timeout(PROBE_TIMEOUT, try_exchange(address, &request(path))).await;
            if let Ok(Ok(answer)) = answer
                && answer.starts_with("HTTP/1.1 200 ")
            {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn answers_are_current_and_shutdown_stops_the_server() {
        // The drain time is longer than this test waits, so it would notice a client that delays the end.
        let server = listening(Limits { drain: 2 * BOUND, ..LIMITS }).await;
        let endpoints = server.endpoints.clone();
        let check = endpoints.readiness.check("kubernetes caches");
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
        timeout(BOUND, dead).await.expect("a silent heartbeat fails /livez");

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
        let taken = listening(LIMITS).await;
        let error = HealthServer::bind(taken.address(), endpoints()).await.expect_err("taken");
        let message = error.to_string();
        assert!(message.contains(&taken.address().to_string()) && message.contains("--health-address"), "{message}");
    }

    #[tokio::test]
    async fn silent_clients_are_disconnected() {
        // Far longer than a request and its answer take.
        let brief = Duration::from_secs(5);
        let disconnects = async |limits: Limits| {
            let server = listening(limits).await;
            let address = server.address();
            let shutdown = CancellationToken::new();
            let serving = tokio::spawn(server.serve(shutdown.clone()));
            let silent = exchange(address, "");
            let idle = exchange(address, "GET /livez HTTP/1.1\r\nHost: landfall\r\n\r\n");
            let (nothing, answer) = tokio::join!(silent, idle);
            assert_eq!(nothing, "", "{limits:?}");
            assert!(answer.contains("livez check passed"), "answered, then closed: {answer}");
            shutdown.cancel();
            serving.await.expect("does not panic");
        };
        tokio::join!(
            disconnects(Limits { head: brief, idle: Some(brief), ..LIMITS }),
            disconnects(Limits { age: brief, ..LIMITS }),
        );
    }

    /// Keeps `count` silent connections from each address open, and replaces those that the server closes.
    async fn besiege(server: SocketAddr, from: IpAddr, count: usize) {
        let mut holding = JoinSet::new();
        for _ in 0..count {
            holding.spawn(async move {
                loop {
                    let socket = TcpSocket::new_v4().expect("a socket");
                    socket.bind((from, 0).into()).expect("an address of the loopback network");
                    if let Ok(mut stream) = socket.connect(server).await {
                        let _ = stream.read_u8().await;
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            });
        }
        holding.join_all().await;
    }

    /// The attack lasts as long as the probes do, and only the server's limits end its connections.
    async fn probes_are_answered_beside(count: usize, attackers: &[IpAddr]) {
        let long = 10 * BOUND;
        let server = listening(Limits { head: long, idle: Some(long), age: long, ..LIMITS }).await;
        let address = server.address();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        let mut attack = JoinSet::new();
        for attacker in attackers {
            attack.spawn(besiege(address, *attacker, count / attackers.len()));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        for path in ["/livez", "/metrics", "/livez", "/metrics", "/livez", "/metrics"] {
            assert!(passes_probe(address, path).await, "{path} beside {count}");
        }
        attack.shutdown().await;
        shutdown.cancel();
        timeout(BOUND, serving).await.expect("stops").expect("does not panic");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn probes_are_answered_beside_silent_connections() {
        let stranger = |n| IpAddr::from([127, 0, 1, n]);
        probes_are_answered_beside(540, &[stranger(1)]).await;
        probes_are_answered_beside(5_400, &[stranger(1), stranger(2), stranger(3)]).await;
        // A pod on the node's network has the address that the probes come from.
        probes_are_answered_beside(540, &[IpAddr::from([127, 0, 0, 1])]).await;
    }
}
