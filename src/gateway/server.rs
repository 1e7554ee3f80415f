//! The HTTP server to which the git of workspaces talks.
//!
//! The invariant: a request is routed, its pod identified and its repository compared before a byte of its body is read; and a push
//! is judged before anything of it is sent on. A transfer that has begun is waited for when the process ends, for as long as one may
//! take, so no push is cut by a rollout of the gateway.

mod audit;
mod push;

use super::answer::{self, Body, Refusal};
use super::identity::{self, Access, Identities, Workspaces};
use super::limits::{LARGE_HEADS, Limits, Places, Slot, Slots};
use super::messages::Caller;
use super::metrics::Metrics;
use super::route::{Route, Service, Step};
use super::stream::{Reader, StreamError, TimeLimits, pipe};
use super::upstream::{Failed, Passed, Right, Upstream, Upstreams, answer_type, media_type};
use crate::github::Unreached;
use crate::github::transport;
use crate::guards::Guards;
use crate::reports::PodIdentity;
use crate::runtime::http_server::{self, ActiveRequest, BindError, Client, Handler, HttpServer, Purpose};
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Either;
use hyper::body::Incoming;
use octocrab::OctoBody;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The bytes of a request's head. A token has about 1000, and 1400 in Basic authentication.
const HEAD: usize = 16 << 10;
/// The most bytes that are read of a request that was refused before its body.
const DISCARDED: u64 = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(30);
/// Time for the ends of connections, beyond the longest transfer.
const CLOSING: Duration = Duration::from_secs(5);

/// The surroundings of the server, which tests replace.
pub struct Surroundings {
    pub identities: Arc<dyn Identities>,
    pub workspaces: Arc<dyn Workspaces>,
    pub upstreams: Arc<dyn Upstreams>,
    pub metrics: Metrics,
    /// The guards, all in place but in some tests.
    pub guards: Guards,
}

/// A server that listens, and serves once [`serve`](GatewayServer::serve) runs.
pub struct GatewayServer {
    server: HttpServer,
    service: Arc<GatewayService>,
}

struct GatewayService {
    surroundings: Surroundings,
    limits: Limits,
    slots: Slots,
    /// Places for pushes with many commands.
    large_heads: Places,
    transfers: TaskTracker,
}

/// A request whose pod and repository are proven.
struct Call {
    route: Route,
    pod: PodIdentity,
    caller: Caller,
    access: Arc<Access>,
    headers: HeaderMap,
    time: TimeLimits,
    /// Cancelled when the connection ends.
    gone: CancellationToken,
    /// Held to the end of the answer.
    held: (Slot, ActiveRequest),
}

impl GatewayServer {
    /// Listens on `address`; port 0 takes a free one. Without `tls` it speaks plain http, for tests.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        limits: Limits,
        surroundings: Surroundings,
    ) -> Result<Self, BindError> {
        let http = http_server::Limits {
            connections: limits.connections,
            connections_per_address: Some(limits.connections_per_address),
            head_bytes: HEAD,
            head: limits.head,
            idle: Some(limits.idle),
            write: limits.stall,
            age: limits.age,
            shutdown_delay: limits.shutdown_delay,
            drain: limits.transfer + CLOSING,
        };
        let purpose = Purpose { name: "git of workspaces", flag: "--address" };
        let server = HttpServer::bind(address, purpose, http).await?;
        let server = if let Some(tls) = tls { server.with_tls(tls) } else { server };
        let slots = Slots::new(limits.requests_per_pod, limits.requests_per_namespace);
        let large_heads = Places::new(LARGE_HEADS);
        let service = GatewayService { surroundings, limits, slots, large_heads, transfers: TaskTracker::new() };
        Ok(Self { server, service: Arc::new(service) })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves until shutdown and a little longer, then ends the transfers that have begun.
    pub async fn serve(self, shutdown: CancellationToken) {
        self.server.serve(self.service, shutdown).await;
    }
}

impl Handler for Arc<GatewayService> {
    type Body = Body;

    async fn handle(&self, request: Request<Incoming>, client: Client) -> Response<Body> {
        let (head, body) = request.into_parts();
        let waits = head.headers.contains_key(header::EXPECT);
        let answered = match self.admit(head, client).await {
            Ok(call) => self.serve(call, body).await,
            Err((refusal, active)) => {
                // A client that sent Expect waits for the word to send its body, which does not come.
                if !waits {
                    let time = TimeLimits { until: Instant::now() + DISCARD_TIME, stall: DISCARD_TIME };
                    self.transfers.spawn(async move {
                        let _ = Reader::plain(body, DISCARDED, time).discard().await;
                        drop(active);
                    });
                }
                Err(refusal)
            }
        };
        answered.unwrap_or_else(|refusal| {
            tracing::debug!(status = refusal.status().as_u16(), %refusal, "refused a request of git");
            refusal.response()
        })
    }

    async fn finish(&self) {
        self.transfers.close();
        self.transfers.wait().await;
    }
}

impl GatewayService {
    /// Finds out whose the request is, and whether it may be for this repository.
    async fn admit(&self, head: http::request::Parts, client: Client) -> Result<Call, (Refusal, ActiveRequest)> {
        let Client { address, request: mut active, gone } = client;
        let admitted = async {
            let route = Route::of(&head.method, &head.uri)?;
            if route.step == Step::Exchange {
                let expected = media_type(route.service, "request");
                if head.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind.as_bytes() != expected.as_bytes()) {
                    return Err(Refusal::MediaType(expected));
                }
            }
            let token = identity::token(&head.headers).ok_or(Refusal::NoToken)?;
            let pod = self.surroundings.identities.identify(&token, address).await?;
            let caller = Caller::new(&pod, address);
            let access = self.current(&caller, &route).await?;
            let slot = self.slots.take(&pod)?;
            Ok((route, pod, caller, access, slot))
        };
        match admitted.await {
            Ok((route, pod, caller, access, slot)) => {
                // The pod's own limits hold from here on: no connection of a transfer is closed for another.
                active.complete();
                let time = TimeLimits { until: Instant::now() + self.limits.transfer, stall: self.limits.stall };
                Ok(Call { route, pod, caller, access, headers: head.headers, time, gone, held: (slot, active) })
            }
            Err(refusal) => Err((refusal, active)),
        }
    }

    async fn serve(self: &Arc<Self>, call: Call, body: Incoming) -> Result<Response<Body>, Refusal> {
        match (call.route.step, call.route.service) {
            (Step::Advertisement, _) => self.advertise(call).await,
            (Step::Exchange, Service::UploadPack) => self.fetch(call, body).await,
            (Step::Exchange, Service::ReceivePack) => self.push(call, body).await,
        }
    }

    /// Asks GitHub for the refs or the capabilities; once more if the token or the address was stale.
    async fn advertise(&self, call: Call) -> Result<Response<Body>, Refusal> {
        let passed = Passed::decoded(&call.headers);
        match self.advertised(&call, &passed).await {
            Err(Refusal::Upstream(Failed::Stale)) => {
                let response = self.advertised(&call, &passed).await?;
                Ok(self.passed_on(call, response, None))
            }
            response => Ok(self.passed_on(call, response?, None)),
        }
    }

    async fn advertised(&self, call: &Call, passed: &Passed) -> Result<Response<transport::Body>, Refusal> {
        let upstream = self.open(call).await?;
        self.exchange(call, &upstream, passed, OctoBody::empty(), &mut None).await
    }

    async fn fetch(&self, call: Call, body: Incoming) -> Result<Response<Body>, Refusal> {
        let passed = Passed::of(&call.headers)?;
        let upload = Reader::plain(body, self.limits.fetch, call.time).of_connection(call.gone.clone());
        let upstream = self.open(&call).await?;
        let (sender, piped) = pipe();
        let pumped = upload.pump(sender, self.surroundings.metrics.to_github());
        let mut upload: Option<Upload> = Some(Box::pin(async { Ok(pumped.await?) }));
        let response = self.exchange(&call, &upstream, &passed, OctoBody::new(piped), &mut upload).await?;
        Ok(self.passed_on(call, response, upload))
    }

    /// The access of a pod as it is now, if it is for this repository.
    async fn current(&self, caller: &Caller, route: &Route) -> Result<Arc<Access>, Refusal> {
        let access = self.surroundings.workspaces.access(caller).await?;
        if access.is_for(route) { Ok(access) } else { Err(Refusal::OtherRepository) }
    }

    async fn open(&self, call: &Call) -> Result<Arc<Upstream>, Refusal> {
        Ok(self.surroundings.upstreams.open(&call.access, Right::of(call.route.service)).await?)
    }

    /// Sends a request to GitHub, and its body meanwhile. Returns when the answer begins; what is left of `upload` then has to go
    /// on.
    async fn exchange(
        &self,
        call: &Call,
        upstream: &Arc<Upstream>,
        passed: &Passed,
        body: OctoBody,
        upload: &mut Option<Upload>,
    ) -> Result<Response<transport::Body>, Refusal> {
        let request = upstream.request(&call.route, passed, body).ok_or(Refusal::Upstream(Failed::NotGit))?;
        let answer = upstream.send(request);
        tokio::pin!(answer);
        let exchanged = async {
            loop {
                let Some(sending) = upload.as_mut() else { return Ok(answer.as_mut().await) };
                tokio::select! {
                    answer = &mut answer => return Ok(answer),
                    sent = sending => {
                        *upload = None;
                        match sent {
                            // GitHub closed its end: its answer says why.
                            Ok(()) | Err(Refusal::Stream(StreamError::Unwanted)) => {}
                            Err(refusal) => return Err(refusal),
                        }
                    }
                }
            }
        };
        let answer = match timeout_at(call.time.until, exchanged).await {
            Ok(answer) => answer?.map_err(Refusal::Upstream)?,
            Err(_) => return Err(Refusal::Upstream(Failed::Unreached(Unreached::TimedOut))),
        };
        let judged = upstream.judge(&call.route, answer, call.time).await;
        if matches!(judged, Err(Failed::Stale)) {
            self.surroundings.upstreams.refused(&call.access, Right::of(call.route.service), upstream);
        }
        judged.map_err(Refusal::Upstream)
    }

    /// Passes GitHub's answer on.
    fn passed_on(&self, call: Call, response: Response<transport::Body>, upload: Option<Upload>) -> Response<Body> {
        let kind = answer_type(&call.route);
        let (sender, piped) = pipe();
        let Call { time, held, .. } = call;
        let counted = self.surroundings.metrics.from_github();
        self.transfers.spawn(async move {
            let download = Reader::plain(response.into_body(), u64::MAX, time).pump(sender, counted);
            let upload = async {
                if let Some(upload) = upload {
                    let _ = upload.await;
                }
            };
            // The end of the answer ends the exchange, even if GitHub did not take all of the request.
            tokio::select! {
                biased;
                ended = download => if let Err(error) = ended {
                    tracing::debug!(%error, "an answer to git broke off");
                },
                () = async { upload.await; std::future::pending::<()>().await; } => {}
            }
            drop(held);
        });
        answer::with(StatusCode::OK, &kind, Either::Right(piped))
    }
}

/// The body of a request on its way to GitHub.
type Upload = BoxFuture<'static, Result<(), Refusal>>;
