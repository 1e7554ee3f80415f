//! The HTTP server that faces the internet, by way of an ingress.
//!
//! Invariant: every client is bounded in number, time and memory before anything is known of it; and once a body is
//! read, what becomes of it no longer depends on who sent it: it is worked on by a task of its own, which goes on when
//! the client hangs up, and which the end of the process waits for.

use super::answer::{Outcome, Refusal, response};
use super::body::{Body, Memory, pass_over};
use super::intake::Intake;
use super::patience::{Busy, Patience, Patient};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// When there are no more slots, nothing must have been going on on a connection for so long before it has to make room:
/// who has just connected is about to say something.
const SHORTEST_SILENCE: Duration = Duration::from_millis(500);
/// How often room is looked for.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(100);

/// For how long, and with how much, clients are borne with.
///
/// What strangers can take by default, so that it fits into the chart's limit of 256 MiB:
///
/// | MiB | what |
/// |---|---|
/// | 64 | connections, each with a body of usual size (32 KiB), hyper's buffer (16) and what else belongs to it (16) |
/// | 56 | bodies beyond that |
/// | 28 | the largest of them while it grows: the bytes are in two places |
/// | 64 | the process with a cache of 10,000 repositories |
/// | 36 | a page of 16 objects of 1.5 MB, as text and of one as values |
///
/// Whoever has a secret can take more for as long as a delivery is being read: as much again as it is long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; one more waits, and makes those leave on which nothing is going on.
    pub connections: usize,
    /// Bytes of a request up to its body, and of what is read of the body at once. At least 8192.
    pub header_bytes: usize,
    /// From the first byte of a request, and on a new connection from the beginning, until its headers are there.
    pub headers: Duration,
    /// Between two requests. Longer than proxies keep a connection for: one that is closed here just as a proxy uses it
    /// again loses a delivery, which no proxy repeats.
    pub idle: Duration,
    /// Until a body is there.
    pub body: Duration,
    /// After which a connection is closed between two requests, so that clients spread over replicas again.
    pub age: Duration,
    /// Bytes for bodies that are larger than usual.
    pub memory: usize,
    /// From the wish to end until no more connections are accepted: until then clients may not have heard of it.
    pub linger: Duration,
    /// Until answers under way are given up when the process ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connections: 1024,
            header_bytes: 16 * 1024,
            headers: seconds(10),
            idle: seconds(75),
            body: seconds(10),
            age: seconds(600),
            memory: 56 * 1024 * 1024,
            linger: seconds(3),
            drain: seconds(15),
        }
    }
}

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for deliveries; choose another with {flag}")]
pub struct BindError {
    address: SocketAddr,
    flag: &'static str,
    source: io::Error,
}

/// A server that listens, and serves once [`serve`](Server::serve) runs.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: Arc<Service>,
}

struct Service {
    intake: Intake,
    limits: Limits,
    memory: Memory,
    tasks: TaskTracker,
}

impl Server {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn bind(
        address: SocketAddr,
        flag: &'static str,
        limits: Limits,
        intake: Intake,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { address, flag, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let service = Service { intake, limits, memory: Memory::of(limits.memory), tasks: TaskTracker::new() };
        Ok(Self { listener, address, service: Arc::new(service) })
    }

    /// What is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` and a little longer, then lets everything under way finish, to the last write.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { listener, service, .. } = self;
        let limits = service.limits;
        let free = Arc::new(Semaphore::new(limits.connections));
        let (connections, closing) = (TaskTracker::new(), CancellationToken::new());
        let lingered = async {
            shutdown.cancelled().await;
            sleep(limits.linger).await;
        };
        tokio::pin!(lingered);
        let mut open: Vec<Open> = Vec::new();
        loop {
            let accept = async {
                let accepted = listener.accept().await;
                (room(&free, &mut open).await, accepted)
            };
            let (permit, stream) = tokio::select! {
                () = &mut lingered => break,
                (permit, accepted) = accept => match accepted {
                    Ok((stream, _)) => (permit, stream),
                    Err(error) => {
                        // No file descriptor left, most likely: accepting again at once would spin.
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            if open.len() >= limits.connections {
                open.retain(|open| open.permit.strong_count() > 0);
            }
            let (patience, leave, permit) = (Patience::new(), closing.child_token(), Arc::new(permit));
            let kept = Open { patience: patience.clone(), leave: leave.clone(), permit: Arc::downgrade(&permit) };
            open.push(kept);
            let connection = Arc::clone(&service).talk(stream, patience, leave);
            connections.spawn(async move {
                connection.await;
                drop(permit);
            });
        }
        drop(listener);
        closing.cancel();
        connections.close();
        service.tasks.close();
        let finish = async {
            connections.wait().await;
            service.tasks.wait().await;
            service.intake.inbox.flush().await;
        };
        if timeout(limits.drain, finish).await.is_err() {
            tracing::warn!("deliveries under way were given up");
        }
    }
}

/// A connection, as it is seen by who needs room.
struct Open {
    patience: Patience,
    leave: CancellationToken,
    permit: Weak<Option<OwnedSemaphorePermit>>,
}

/// Waits for a slot. Meanwhile connections on which nothing is going on have to leave, the one that was silent longest
/// first: to be silent costs a stranger nothing, and must not keep deliveries out.
async fn room(free: &Arc<Semaphore>, open: &mut Vec<Open>) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(free).try_acquire_owned() {
        return Some(permit);
    }
    loop {
        open.retain(|open| open.permit.strong_count() > 0);
        let silent = open.iter().filter(|open| !open.leave.is_cancelled());
        let silent = silent.filter_map(|open| open.patience.idle_since().map(|since| (since, open)));
        let longest = silent.min_by_key(|(since, _)| *since);
        if let Some((_, open)) = longest.filter(|(since, _)| since.elapsed() >= SHORTEST_SILENCE) {
            open.leave.cancel();
        }
        if let Ok(permit) = timeout(LOOK_FOR_ROOM, Arc::clone(free).acquire_owned()).await {
            // Never closed, so never refused.
            return permit.ok();
        }
    }
}

impl Service {
    /// Serves one connection to its end, which is soon when it is told to leave.
    async fn talk(self: Arc<Self>, stream: TcpStream, patience: Patience, leave: CancellationToken) {
        let limits = self.limits;
        // Answers are one small write each.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, patience.clone(), limits.headers);
        let service = service_fn(move |request| {
            let (service, busy) = (Arc::clone(&self), patience.busy());
            async move { Ok::<_, Infallible>(service.answer(request, busy).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(limits.idle).max_header_size(limits.header_bytes);
        // hyper's own bound is 400 KiB, which a body makes use of.
        http.max_buf_size(limits.header_bytes);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { tokio::select! { () = leave.cancelled() => {}, () = sleep(limits.age) => {} } } => {
                connection.as_mut().graceful_shutdown();
                timeout(limits.drain, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, busy: Busy) -> Response<Full<Bytes>> {
        let in_flight = self.intake.metrics.began();
        let result = self.receive(request, busy).await;
        if let Err(refusal) = &result {
            self.intake.metrics.refused(refusal.word());
            tracing::debug!(reason = refusal.word(), "refused");
        }
        drop(in_flight);
        response(&result)
    }

    async fn receive(self: &Arc<Self>, request: Request<Incoming>, busy: Busy) -> Result<Outcome, Refusal> {
        let (head, incoming) = request.into_parts();
        let waits = head.headers.contains_key(header::EXPECT);
        let addressed = match self.intake.address(head) {
            Ok(addressed) => addressed,
            Err(refusal) => {
                // Who waits to be asked for the body is not asked.
                if !waits {
                    self.tasks.spawn(async move {
                        pass_over(incoming).await;
                        drop(busy);
                    });
                }
                return Err(refusal);
            }
        };
        let body = Body::read(incoming, self.limits.body, &self.memory).await?;
        let service = Arc::clone(self);
        let taken = self.tasks.spawn(async move { service.intake.take(addressed, &body.bytes).await });
        taken.await.unwrap_or(Err(Refusal::Internal))
    }
}
