//! The HTTP server to which the git of workspaces talks.
//!
//! The invariant: a request is routed, its pod identified and its repository compared before a byte of its body is read; and a push
//! is judged before anything of it is sent on. A transfer that has begun is waited for when the process ends, for as long as one may
//! take, so no push is cut by a rollout of the gateway.

use super::answer::{self, Body, Refusal};
use super::commands::{Command, Progress, Push, PushError, PushReader};
use super::fast_forward::{Staged, stageable};
use super::identity::{self, Access, Identities, Workspaces};
use super::limits::{Limits, Slot, Slots};
use super::messages::Caller;
use super::metrics::{Metrics, PushResult};
use super::report_status::refusal;
use super::route::{Route, Service, Step};
use super::stream::{Reader, StreamError, TimeLimits, pipe};
use super::upstream::{Failed, Passed, Right, Upstream, Upstreams, answer_type, media_type};
use crate::github::Unreached;
use crate::github::transport;
use crate::guards::Guards;
use crate::reports::PodIdentity;
use crate::runtime::http_server::{self, ActiveRequest, BindError, Client, Handler, HttpServer, Purpose};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Either;
use hyper::body::Incoming;
use octocrab::OctoBody;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The bytes of a request's head. A token has about 1000, and 1400 in Basic authentication.
const HEAD: usize = 16 << 10;
/// The bytes of a push's commands that need no place of their own: about 500 refs.
const SMALL_HEAD: usize = 64 << 10;
/// Pushes with more than that at once; each holds up to 16 MiB.
const LARGE_HEADS: usize = 8;
/// Time for such a place, and for the commands then.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The most bytes that are read of a request that was refused before its body.
const DISCARDED: u64 = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(30);
/// Time for the ends of connections, beyond the longest transfer.
const CLOSING: Duration = Duration::from_secs(5);
/// The most bytes of GitHub's answer to a push of which branches are moved afterwards.
const LONGEST_REPORT: u64 = 8 << 20;
/// The refs of a push that a line of the log names.
const MOST_NAMED: usize = 20;

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
    large_heads: Arc<Semaphore>,
    transfers: TaskTracker,
}

/// A request whose pod and repository are proven.
struct Call {
    route: Route,
    pod: PodIdentity,
    access: Arc<Access>,
    headers: HeaderMap,
    time: TimeLimits,
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
        let slots = Slots::new(limits.requests_per_pod);
        let large_heads = Arc::new(Semaphore::new(LARGE_HEADS));
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
        let Client { address, request: mut active } = client;
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
            let access = self.surroundings.workspaces.access(&Caller::new(&pod, address)).await?;
            if !access.is_for(&route) {
                return Err(Refusal::OtherRepository);
            }
            let slot = self.slots.take(&pod.uid).ok_or(Refusal::TooMany)?;
            Ok((route, pod, access, slot))
        };
        match admitted.await {
            Ok((route, pod, access, slot)) => {
                // The pod's own limits hold from here on: no connection of a transfer is closed for another.
                active.complete();
                let time = TimeLimits { until: Instant::now() + self.limits.transfer, stall: self.limits.stall };
                Ok(Call { route, pod, access, headers: head.headers, time, held: (slot, active) })
            }
            Err(refusal) => Err((refusal, active)),
        }
    }

    async fn serve(&self, call: Call, body: Incoming) -> Result<Response<Body>, Refusal> {
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
        let upload = Reader::plain(body, self.limits.fetch, call.time);
        let upstream = self.open(&call).await?;
        let (sender, piped) = pipe();
        let mut upload: Option<Upload> = Some(Box::pin(upload.pump(sender, self.surroundings.metrics.to_github())));
        let response = self.exchange(&call, &upstream, &passed, OctoBody::new(piped), &mut upload).await?;
        Ok(self.passed_on(call, response, upload))
    }

    async fn push(&self, call: Call, body: Incoming) -> Result<Response<Body>, Refusal> {
        let mut upload = Reader::decoded(&call.headers, body, self.limits.push, call.time)?;
        let (push, pack, _large) = match self.commands(&mut upload).await {
            Ok(read) => read,
            Err(refusal @ Refusal::Push(_)) => {
                upload.discard().await?;
                return Err(refusal);
            }
            Err(refusal) => return Err(refusal),
        };
        let kind = answer_type(&call.route);
        if push.commands.is_empty() {
            // git's probe: it learns from the status whether it has to authenticate.
            upload.discard().await?;
            return Ok(answer::own(StatusCode::OK, &kind, Bytes::new()));
        }
        let judged = self.surroundings.guards.verdicts(call.access.policy.judge(&push));
        let verdicts = stageable(&push, judged);
        if verdicts.iter().any(Result::is_err) {
            upload.discard().await?;
            self.log_push(&call, &push, PushResult::Refused);
            self.surroundings.metrics.refused_refs(verdicts.iter().filter(|verdict| verdict.is_err()).count());
            return Ok(answer::own(StatusCode::OK, &kind, refusal(&push, &verdicts)));
        }
        let is_well_formed = push.has_pack() || (pack.is_empty() && upload.next().await?.is_none());
        if !is_well_formed {
            return Err(Refusal::Push(PushError::Malformed("what follows its deletions")));
        }
        let upstream = self.open(&call).await?;
        let staged = Staged::of(&push, &verdicts, &call.access.uid, rand::random());
        let (sender, piped) = pipe();
        let (time, head) = (call.time, staged.as_ref().map_or(&push, |staged| &staged.push).encode());
        let counted = self.surroundings.metrics.to_github();
        let mut sending: Option<Upload> = Some(Box::pin(async move {
            sender.send(head, time).await?;
            if !pack.is_empty() {
                counted.inc_by(pack.len() as u64);
                sender.send(pack, time).await?;
            }
            upload.pump(sender, counted).await
        }));
        let passed = Passed::decoded(&call.headers);
        let response = self.exchange(&call, &upstream, &passed, OctoBody::new(piped), &mut sending).await;
        self.log_push(&call, &push, if response.is_ok() { PushResult::Answered } else { PushResult::Failed });
        let response = response?;
        match staged {
            None => Ok(self.passed_on(call, response, sending)),
            Some(staged) => self.conclude(call, push, staged, (response, sending), upstream).await,
        }
    }

    /// Moves the branches of a push that GitHub has taken. A task of its own does it, so that a client that hangs up leaves no half
    /// of it.
    async fn conclude(
        &self,
        call: Call,
        push: Push,
        staged: Staged,
        (response, sending): (Response<transport::Body>, Option<Upload>),
        upstream: Arc<Upstream>,
    ) -> Result<Response<Body>, Refusal> {
        let kind = answer_type(&call.route);
        let concluded = self.transfers.spawn(async move {
            let answer = Reader::plain(response.into_body(), LONGEST_REPORT, call.time).bytes();
            let upload = async {
                if let Some(upload) = sending {
                    let _ = upload.await;
                }
                std::future::pending::<()>().await;
            };
            let answer = tokio::select! {
                biased;
                answer = answer => answer?,
                () = upload => return Err(Refusal::Upstream(Failed::NotGit)),
            };
            let told = staged.conclude(&push, &answer, &upstream).await;
            drop(call.held);
            told.ok_or(Refusal::Upstream(Failed::NotGit))
        });
        let told = concluded.await.map_err(|_| Refusal::Upstream(Failed::NotGit))??;
        Ok(answer::own(StatusCode::OK, &kind, told))
    }

    /// Reads a push up to its pack. One with many commands needs a place among those, and has to arrive soon.
    async fn commands(
        &self,
        upload: &mut Reader<Incoming>,
    ) -> Result<(Push, Bytes, Option<OwnedSemaphorePermit>), Refusal> {
        let (mut reader, mut large, mut until) = (PushReader::default(), None, None);
        loop {
            let next = upload.next();
            let bytes = match until {
                None => next.await?,
                Some(until) => timeout_at(until, next).await.map_err(|_| StreamError::Slow)??,
            };
            let Some(bytes) = bytes else { break };
            if reader.push(&bytes)? == Progress::Complete {
                break;
            }
            if large.is_none() && reader.read() > SMALL_HEAD {
                let place = Arc::clone(&self.large_heads).acquire_owned();
                let place = timeout(HEAD_TIME, place).await.map_err(|_| Refusal::Busy)?;
                // The semaphore is never closed, so there is always a permit.
                large = place.ok();
                until = Some(Instant::now() + HEAD_TIME);
            }
        }
        let (push, pack) = reader.finish()?;
        Ok((push, pack, large))
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
                            Ok(()) | Err(StreamError::Unwanted) => {}
                            Err(error) => return Err(Refusal::Stream(error)),
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

    /// Counts a push, and records it: who, and what where.
    fn log_push(&self, call: &Call, push: &Push, result: PushResult) {
        self.surroundings.metrics.pushed(result);
        let named = |command: &Command| format!("{}:{}..{}", command.name, command.old, command.new);
        let refs: Vec<_> = push.commands.iter().take(MOST_NAMED).map(named).collect();
        tracing::info!(
            audit = true,
            action = "push",
            result = result.as_str(),
            namespace = call.pod.namespace,
            workspace = call.access.workspace,
            pod = call.pod.name,
            pod_uid = call.pod.uid,
            host = call.access.host,
            repository = call.access.repository.get(),
            refs = refs.join(" "),
            count = push.commands.len(),
        );
    }
}

/// The body of a request on its way to GitHub.
type Upload = BoxFuture<'static, Result<(), StreamError>>;
