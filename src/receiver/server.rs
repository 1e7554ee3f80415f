//! The HTTP server that faces the internet, through an ingress.
//!
//! Invariant: the limits of [`crate::runtime::http_server`] hold before anything is known about a client. Once a body is
//! read, its processing no longer depends on the client: a task of its own does it, goes on when the client hangs up, and
//! is waited for when the process ends.

use super::answer::{Outcome, Refusal, response};
use super::body::{Body, Memory, discard};
use super::pipeline::Pipeline;
use crate::runtime::http_server::{self, ActiveRequest, BindError, Client, Handler, HttpServer, Purpose};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time, size and connection limits for clients.
///
/// By default strangers can take this much, which fits into the chart's limit of 256 MiB:
///
/// | MiB | use |
/// |---|---|
/// | 64 | connections, each with a body of usual size (32 KiB), hyper's buffer (16) and its other state (16) |
/// | 56 | bodies beyond that |
/// | 28 | the largest of them while it grows, as its bytes are in two places |
/// | 64 | the process with a cache of 10,000 repositories |
/// | 36 | a page of 16 objects of 1.5 MB, as text, and one of them as values |
///
/// A body that grows beyond this takes the memory of bodies that began to arrive before it. The owner of a secret can take
/// more while a delivery is being read: as much again as it is long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections. For one more, the connection is closed that has let the server wait longest for a request.
    pub connections: usize,
    /// Bytes of a request's head, and of its body that are buffered at once. At least 8192.
    pub head_bytes: usize,
    /// Time for the head of a request, from its first byte; on a new connection, from the beginning.
    pub head: Duration,
    /// Time between two requests. Longer than proxies keep a connection: if the receiver closes one just as a proxy uses it
    /// again, a delivery is lost, and no proxy repeats it.
    pub idle: Duration,
    /// Time for a body.
    pub body: Duration,
    /// Age at which a connection is closed, so that clients spread over replicas again.
    pub age: Duration,
    /// Bytes for bodies that are larger than usual.
    pub memory: usize,
    /// How long connections are still accepted after shutdown began: clients learn about it late.
    pub shutdown_delay: Duration,
    /// Time for the requests in progress when the process ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connections: 1024,
            head_bytes: 16 * 1024,
            head: seconds(10),
            idle: seconds(75),
            body: seconds(10),
            age: seconds(600),
            memory: 56 * 1024 * 1024,
            shutdown_delay: seconds(3),
            drain: seconds(15),
        }
    }
}

/// A server that listens, and serves once [`serve`](Server::serve) runs.
pub struct Server {
    server: HttpServer,
    service: Arc<Service>,
}

struct Service {
    pipeline: Pipeline,
    limits: Limits,
    memory: Memory,
    tasks: TaskTracker,
}

impl Server {
    /// Listens on `address`, which the option `flag` sets; port 0 takes a free one.
    pub async fn bind(
        address: SocketAddr,
        flag: &'static str,
        limits: Limits,
        pipeline: Pipeline,
    ) -> Result<Self, BindError> {
        let http = http_server::Limits {
            connections: limits.connections,
            // The ingress connects on behalf of all clients.
            connections_per_address: None,
            head_bytes: limits.head_bytes,
            head: limits.head,
            idle: Some(limits.idle),
            write: limits.head,
            age: limits.age,
            shutdown_delay: limits.shutdown_delay,
            drain: limits.drain,
        };
        let server = HttpServer::bind(address, Purpose { name: "deliveries", flag }, http).await?;
        let service = Service { pipeline, limits, memory: Memory::of(limits.memory), tasks: TaskTracker::new() };
        Ok(Self { server, service: Arc::new(service) })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves until shutdown and a little longer, then finishes everything in progress, to the last write.
    pub async fn serve(self, shutdown: CancellationToken) {
        self.server.serve(self.service, shutdown).await;
    }
}

impl Handler for Arc<Service> {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>, client: Client) -> Response<Full<Bytes>> {
        let in_flight = self.pipeline.metrics.began();
        let result = self.receive(request, client.request).await;
        if let Err(refusal) = &result {
            self.pipeline.metrics.refused(refusal.label());
            tracing::debug!(reason = refusal.label(), "refused");
        }
        drop(in_flight);
        response(&result)
    }

    async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.pipeline.inbox.flush().await;
    }
}

impl Service {
    async fn receive(
        self: &Arc<Self>,
        request: Request<Incoming>,
        mut active: ActiveRequest,
    ) -> Result<Outcome, Refusal> {
        let (head, incoming) = request.into_parts();
        let waits = head.headers.contains_key(header::EXPECT);
        let addressed = match self.pipeline.address(head) {
            Ok(addressed) => addressed,
            Err(refusal) => {
                // A client that sent Expect waits for the word to send its body, which does not come.
                if !waits {
                    self.tasks.spawn(async move {
                        discard(incoming).await;
                        drop(active);
                    });
                }
                return Err(refusal);
            }
        };
        let body = Body::read(incoming, self.limits.body, &self.memory).await?;
        active.complete();
        let service = Arc::clone(self);
        let processed = self.tasks.spawn(async move { service.pipeline.process(addressed, &body.bytes).await });
        processed.await.unwrap_or(Err(Refusal::Internal))
    }
}
