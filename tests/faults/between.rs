//! A layer between an operator and the world. It records the points, and causes one fault at one of them.
//!
//! Invariant: exactly one request is affected, and the operator cannot distinguish the fault from a real one. A kill
//! ends the operator within that request, so that no part of it continues.

use super::point::{self, Fault, Point, Side};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use kube::client::ClientBuilder;
use landfall::git::reach::Reach;
use landfall::github::{CaBundleError, Connect, Transport};
use landfall_world::operator::{HTTPS, Operator, Start};
use octocrab::OctoBody;
use serde_json::json;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use tower::{BoxError, Layer, Service};

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;
type Answering = BoxFuture<'static, Result<Answer, BoxError>>;

/// How many seconds GitHub's 429 asks to wait.
const RETRY_AFTER: u32 = 30;

/// Shared by all layers of all operators of one run.
pub struct Between {
    /// Whether a point is recorded.
    records: fn(&Point) -> bool,
    state: Mutex<State>,
    operator: Mutex<Option<Operator>>,
    /// Each request to Kubernetes without an answer holds a clone of it.
    unanswered: Arc<()>,
}

#[derive(Default)]
struct State {
    /// The planned fault, and its point.
    planned: Option<(Point, Fault)>,
    /// The fault has happened.
    struck: bool,
    /// The fault was a kill, and no operator was started since.
    killed: bool,
    /// The current act of the scenario. `None` when points are no longer recorded.
    act: Option<&'static str>,
    recorded: Vec<(Point, &'static str)>,
    seen: HashMap<String, Seen>,
    patches: Vec<Patch>,
}

/// A patch on its way to Kubernetes, or after it took effect there.
#[derive(Clone)]
pub struct Patch {
    /// As in [`Point::kind`].
    pub kind: String,
    /// The patch itself.
    pub body: Bytes,
    /// Whether it took effect; otherwise it is just being sent.
    pub is_effective: bool,
}

#[derive(Default)]
struct Seen {
    count: usize,
    last: Bytes,
}

impl Between {
    /// Causes this fault at this point. With `None` it only records the points.
    pub fn new(planned: Option<(Point, Fault)>, records: fn(&Point) -> bool) -> Arc<Self> {
        let state = State { planned, ..State::default() };
        Arc::new(Self { records, state: Mutex::new(state), operator: Mutex::default(), unanswered: Arc::default() })
    }

    /// Sets the act to which requests belong from now on. `None` ends the recording.
    pub fn act(&self, act: Option<&'static str>) {
        self.state().act = act;
    }

    /// The recorded points, in order, each with its act.
    pub fn recorded(&self) -> Vec<(Point, &'static str)> {
        self.state().recorded.clone()
    }

    /// The patches, in the order in which they were sent and took effect.
    pub fn patches(&self) -> Vec<Patch> {
        self.state().patches.clone()
    }

    /// Whether the fault has happened.
    pub fn struck(&self) -> bool {
        self.state().struck
    }

    /// The options for an operator with this layer.
    pub fn start(self: &Arc<Self>) -> Start {
        let (kube, github) = (Arc::clone(self), Arc::clone(self));
        Start {
            kube: Box::new(move |config| {
                let layer = Interposed { between: Arc::clone(&kube) };
                ClientBuilder::try_from(config).expect("a client").with_layer(&layer).build()
            }),
            github: Arc::new(InterposedConnect { between: github }),
            ..Start::default()
        }
    }

    /// A client with this layer.
    pub fn client(self: &Arc<Self>, config: kube::Config) -> kube::Client {
        (self.start().kube)(config)
    }

    /// Returns when the fault was a kill.
    pub async fn killed(&self) {
        while !self.state().killed {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// Stores the operator. One of its first requests may have killed it already.
    pub fn put(&self, operator: Operator) {
        *self.operator() = Some(operator);
        if self.state().killed {
            self.kill();
        }
    }

    /// Takes the operator out, to be stopped in order.
    pub fn take(&self) -> Option<Operator> {
        self.operator().take()
    }

    /// Inspects the running operator. `None`: it was killed.
    pub fn with<T>(&self, look: impl FnOnce(&Operator) -> T) -> Option<T> {
        self.operator().as_ref().map(look)
    }

    /// Whether Kubernetes has answered all requests. The events of a watch come after its answer.
    pub fn awaits_nothing(&self) -> bool {
        Arc::strong_count(&self.unanswered) == 1
    }

    /// Called before a new operator is started in place of the killed one.
    pub fn bury(&self) {
        self.state().killed = false;
    }

    fn kill(&self) {
        if let Some(operator) = self.take() {
            operator.kill();
        }
    }

    /// Records a request, and returns its fault.
    fn pass(&self, side: Side, kind: String, body: &Bytes) -> Option<Fault> {
        let mut state = self.state();
        let act = state.act?;
        let seen = state.seen.entry(kind.clone()).or_default();
        // A repeated identical patch, because the cache was late, is not a separate point. Whether it happens depends
        // on milliseconds.
        if side == Side::Kubernetes && kind.starts_with("PATCH ") && seen.last == body {
            return None;
        }
        seen.last = body.clone();
        seen.count += 1;
        let point = Point { side, ordinal: seen.count, kind };
        if !(self.records)(&point) {
            return None;
        }
        let strikes = !state.struck && state.planned.as_ref().is_some_and(|(planned, _)| *planned == point);
        state.recorded.push((point, act));
        if !strikes {
            return None;
        }
        state.struck = true;
        let fault = state.planned.as_ref().map(|(_, fault)| *fault);
        state.killed = fault.is_some_and(Fault::kills);
        fault
    }

    /// Sends the request, with the fault.
    fn interfere(self: &Arc<Self>, fault: Option<Fault>, side: Side, send: impl FnOnce() -> Answering) -> Answering {
        let between = Arc::clone(self);
        match fault {
            None => send(),
            Some(Fault::KilledBefore) => async move { between.die().await }.boxed(),
            Some(Fault::KilledAfter) => {
                let sent = send();
                async move {
                    drop(whole(sent.await?).await?);
                    between.die().await
                }
                .boxed()
            }
            Some(Fault::Lost) => {
                let sent = send();
                async move {
                    drop(whole(sent.await?).await?);
                    Err(broken())
                }
                .boxed()
            }
            Some(Fault::Cut) => std::future::ready(Err(broken())).boxed(),
            Some(Fault::Conflict) => std::future::ready(Ok(refusal(side, StatusCode::CONFLICT))).boxed(),
            Some(Fault::TooMany) => std::future::ready(Ok(refusal(side, StatusCode::TOO_MANY_REQUESTS))).boxed(),
            Some(Fault::Unavailable) => std::future::ready(Ok(refusal(side, StatusCode::SERVICE_UNAVAILABLE))).boxed(),
        }
    }

    async fn die(&self) -> Result<Answer, BoxError> {
        self.kill();
        std::future::pending().await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn operator(&self) -> MutexGuard<'_, Option<Operator>> {
        self.operator.lock().expect("not poisoned")
    }
}

fn broken() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

/// Waits for the end of the answer, so that the effect is complete.
async fn whole(answer: Answer) -> Result<Bytes, BoxError> {
    Ok(answer.into_body().collect().await?.to_bytes())
}

/// A refusal in the format of this side.
fn refusal(side: Side, status: StatusCode) -> Answer {
    let reason = match status {
        StatusCode::CONFLICT => "Conflict",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        _ => "ServiceUnavailable",
    };
    let (body, wait) = match side {
        Side::Kubernetes => (
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status.as_u16(),
                "reason": reason, "message": "put in the way by a test",
            }),
            1,
        ),
        Side::GitHub => (json!({"message": "You have exceeded a secondary rate limit."}), RETRY_AFTER),
    };
    let mut answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    if status == StatusCode::TOO_MANY_REQUESTS {
        answer = answer.header(header::RETRY_AFTER, wait);
    }
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    answer.body(body).expect("an answer")
}

/// The layer on the way to Kubernetes.
struct Interposed {
    between: Arc<Between>,
}

impl<S> Layer<S> for Interposed {
    type Service = InterposedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        InterposedService { between: Arc::clone(&self.between), inner }
    }
}

struct InterposedService<S> {
    between: Arc<Between>,
    inner: S,
}

impl<S, B> Service<Request<kube::client::Body>> for InterposedService<S>
where
    S: Service<Request<kube::client::Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Answering {
        let body = request.body().try_clone().and_then(|body| body.collect_bytes().now_or_never()?.ok());
        let body = body.unwrap_or_default();
        let kind = point::kubernetes(request.method(), request.uri(), &body);
        let patch = kind.clone().filter(|_| request.method() == Method::PATCH);
        let fault = kind.and_then(|kind| self.between.pass(Side::Kubernetes, kind, &body));
        let (between, noting, inner) = (Arc::clone(&self.between), Arc::clone(&self.between), &mut self.inner);
        let unanswered = Arc::clone(&self.between.unanswered);
        let answering = between.interfere(fault, Side::Kubernetes, || {
            let patch = patch.map(|kind| Patch { kind, body, is_effective: false });
            noting.state().patches.extend(patch.clone());
            let sent = inner.call(request);
            async move {
                let answer = sent.await.map_err(Into::into)?;
                if answer.status().is_success() {
                    noting.state().patches.extend(patch.map(|patch| Patch { is_effective: true, ..patch }));
                }
                Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
            }
            .boxed()
        });
        async move {
            let answer = answering.await;
            drop(unanswered);
            answer
        }
        .boxed()
    }
}

/// The layer on the way to GitHub.
struct InterposedConnect {
    between: Arc<Between>,
}

impl Connect for InterposedConnect {
    fn connect_within(&self, reach: Reach, ca_bundle: Option<&[u8]>) -> Result<Transport, CaBundleError> {
        let (between, inner) = (Arc::clone(&self.between), HTTPS.connect_within(reach, ca_bundle)?);
        Ok(Transport::new(tower::service_fn(move |request: Request<OctoBody>| {
            let kind = point::github(request.method(), request.uri());
            let fault = between.pass(Side::GitHub, kind, &Bytes::new());
            let mut inner = inner.clone();
            let answering = between.interfere(fault, Side::GitHub, || {
                async move {
                    let answer = inner.call(request).await?;
                    Ok(answer.map(BodyExt::boxed_unsync))
                }
                .boxed()
            });
            async move {
                // The transport needs a body that threads can share, so the body is read completely.
                let (head, body) = answering.await?.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok::<_, BoxError>(Response::from_parts(head, Full::new(body)))
            }
        })))
    }
}
