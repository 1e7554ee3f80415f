//! The HTTP server of every process: one loop accepts the connections for health, reports and deliveries.
//!
//! Invariant: each client is limited in number, time and memory before anything is known about it. Without that, a
//! stranger on the pod network could keep out the kubelet's probes, the agents' reports or GitHub's deliveries.

mod connection;
mod limiter;

pub use connection::ActiveRequest;

use super::listen::listen;
use bytes::Bytes;
use connection::{Activity, TimedStream};
use http::{Request, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use limiter::ConnectionLimiter;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::BoxError;

/// How long to wait after a failed accept. Most likely no file descriptor is left, and accepting again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time, size and connection limits for clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections. For one more, the connection is closed that has let the server wait longest for a request.
    pub connections: usize,
    /// Open connections from one address; for one more, another of that address is closed. When all are taken, the address
    /// with the most gives one. None where a proxy connects on behalf of all clients.
    pub connections_per_address: Option<usize>,
    /// Bytes of a request's head, and of its body that are buffered at once. At least 8192.
    pub head_bytes: usize,
    /// Time for the head of a request, from its first byte; on a new connection, from the beginning.
    pub head: Duration,
    /// Time between two requests; none closes the connection after one request.
    pub idle: Option<Duration>,
    /// Time without progress while an answer is written, after which the connection ends.
    pub write: Duration,
    /// Age at which a connection is closed; the request in progress is still answered.
    pub age: Duration,
    /// How long connections are still accepted after shutdown began: clients learn about it late.
    pub shutdown_delay: Duration,
    /// Time for the requests in progress when their connection or the process ends.
    pub drain: Duration,
}

/// The least rate at which a client has to send.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time in which nothing has to arrive.
    pub grace: Duration,
    /// More than zero.
    pub bytes_per_second: u32,
}

impl Pace {
    /// When more has to have arrived of what began then, and of which so many bytes are here.
    pub fn due(self, begun: Instant, bytes: usize) -> Instant {
        let earned = bytes.saturating_mul(1000) / self.bytes_per_second.max(1) as usize;
        begun + self.grace + Duration::from_millis(earned as u64)
    }
}

/// What a server listens for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// For messages, as in "cannot listen on ADDRESS for NAME".
    pub name: &'static str,
    /// The option that sets the address.
    pub flag: &'static str,
}

/// The address is taken, or does not belong to this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {}; choose another with {}", .purpose.name, .purpose.flag)]
pub struct BindError {
    address: SocketAddr,
    purpose: Purpose,
    source: io::Error,
}

/// A client, as its connection shows it.
pub struct Client {
    pub address: IpAddr,
    /// Cancelled when the connection ends, before the bodies of its requests do.
    pub gone: CancellationToken,
    /// Is told when nothing more is expected from the client.
    pub request: ActiveRequest,
}

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of an answer.
    type Body: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    fn handle(&self, request: Request<Incoming>, client: Client) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Finishes the work that outlives its connections. Runs once, after the last connection, within the drain time.
    fn finish(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A server that listens, and serves once [`serve`](HttpServer::serve) runs.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    purpose: Purpose,
    limits: Limits,
    tls: Option<Arc<ServerConfig>>,
}

impl HttpServer {
    /// Listens on `address`; port 0 takes a free one.
    #[expect(clippy::unused_async, reason = "a listener of tokio needs its runtime, and an async function has one")]
    pub async fn bind(address: SocketAddr, purpose: Purpose, limits: Limits) -> Result<Self, BindError> {
        let failed = |source| BindError { address, purpose, source };
        let listener = listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, purpose, limits, tls: None })
    }

    /// The same server with TLS. A certificate that changes is a matter of the configuration's resolver.
    #[must_use]
    pub fn with_tls(self, tls: Arc<ServerConfig>) -> Self {
        Self { tls: Some(tls), ..self }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until shutdown and the shutdown delay after it; then the requests in progress have the drain time.
    pub async fn serve(self, handler: impl Handler, shutdown: CancellationToken) {
        let Self { listener, purpose, limits, tls, .. } = self;
        let mut limiter = ConnectionLimiter::new(purpose.name, &limits);
        let (connections, closing) = (TaskTracker::new(), CancellationToken::new());
        let closed = async {
            shutdown.cancelled().await;
            sleep(limits.shutdown_delay).await;
        };
        tokio::pin!(closed);
        loop {
            let accept = async {
                let (stream, address) = accept(&listener, purpose).await;
                let (activity, evicted) = (Activity::new(), CancellationToken::new());
                let slot = limiter.admit(address, &activity, &evicted).await?;
                Some((stream, address, activity, evicted, slot))
            };
            let accepted = tokio::select! {
                () = &mut closed => break,
                accepted = accept => accepted,
            };
            let Some((stream, address, activity, evicted, slot)) = accepted else { continue };
            let opened = Opened { address, limits, activity, leave: closing.child_token() };
            let connection = serve_connection(stream, tls.clone(), handler.clone(), opened);
            connections.spawn(async move {
                let ended = evicted.run_until_cancelled(connection).await;
                if let Some(Err(error)) = ended {
                    tracing::debug!(%error, server = purpose.name, "a connection broke");
                }
                drop(slot);
            });
        }
        drop(listener);
        closing.cancel();
        connections.close();
        let finish = async {
            connections.wait().await;
            handler.finish().await;
        };
        if timeout(limits.drain, finish).await.is_err() {
            tracing::warn!(server = purpose.name, "shutdown cut off requests that were still in progress");
        }
    }
}

async fn accept(listener: &TcpListener, purpose: Purpose) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer.ip().to_canonical()),
            Err(error) => {
                tracing::warn!(%error, server = purpose.name, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that was admitted.
struct Opened {
    address: IpAddr,
    limits: Limits,
    activity: Activity,
    leave: CancellationToken,
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    handler: impl Handler,
    opened: Opened,
) -> Result<(), BoxError> {
    // Answers are one small write each, or writes of whole buffers.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return Ok(serve_requests(stream, handler, opened).await?) };
    let handshake = timeout(opened.limits.head, TlsAcceptor::from(tls).accept(stream));
    let stream = tokio::select! {
        stream = handshake => stream??,
        () = opened.leave.cancelled() => return Ok(()),
    };
    Ok(serve_requests(stream, handler, opened).await?)
}

/// Serves one connection to its end. When it has to leave, or reaches its age, it ends after the request in progress.
async fn serve_requests<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    handler: impl Handler,
    opened: Opened,
) -> Result<(), hyper::Error> {
    let Opened { address, limits, activity, leave } = opened;
    let stream = TimedStream::new(stream, activity.clone(), limits.head, limits.write);
    let gone = CancellationToken::new();
    let of_clients = gone.clone();
    let service = service_fn(move |request| {
        let client = Client { address, gone: of_clients.clone(), request: activity.begin() };
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request, client).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.idle.unwrap_or(limits.head));
    http.keep_alive(limits.idle.is_some());
    // hyper's own limit for the buffer is 400 KiB, which a body makes use of.
    http.max_header_size(limits.head_bytes).max_buf_size(limits.head_bytes);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // Dropped before the connection, which ends the bodies that have not arrived as if they were complete.
    let _gone = gone.drop_guard();
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = leave.cancelled() => {}
        () = sleep(limits.age) => {}
    }
    connection.as_mut().graceful_shutdown();
    timeout(limits.drain, connection).await.unwrap_or(Ok(()))
}

/// The reason why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    /// It is incomplete, or is not HTTP.
    Broken,
    /// It did not arrive in time.
    Slow,
}

/// Reads a body of at most `most` bytes within this time. A body that announces more is refused before it arrives.
pub async fn read_body(body: Incoming, most: usize, time: Duration) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > most as u64 {
        return Err(BodyError::TooLarge);
    }
    let read = timeout(time, Limited::new(body, most).collect()).await.map_err(|_| BodyError::Slow)?;
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        if error.is::<LengthLimitError>() { BodyError::TooLarge } else { BodyError::Broken }
    };
    Ok(read.map_err(failed)?.to_bytes())
}
