//! The layers between octocrab and the transport, for every call to GitHub.
//!
//! From the outside in: rate budget and errors ([`budget`], [`rate`], [`answer`]) · span and metric ([`observe`]) · one deadline for the
//! whole call · redirects ([`redirect`]) · credentials ([`auth`]) · the wire. Bodies are complete and in memory, so that a layer
//! can repeat a request.
//!
//! The invariants: credentials are added below the redirects and only for addresses of the API, so no hop takes them
//! elsewhere. No layer repeats a request on which GitHub may have acted, because the controllers have the one queue of
//! due times. Three requests are sent again, because GitHub refused them without acting on them: a redirected request;
//! a request with a reused JWT that was refused (401); and a request that was refused with the App's first key, with
//! the other key.
//!
//! There are no conditional requests: an `ETag` belongs to a token, a JWT lives for minutes, and an installation token
//! is used for few calls. GitHub would hardly ever answer 304, and a cache of bodies would hold answers of several
//! tenants.
mod answer;
pub(super) mod auth;
mod budget;
mod observe;
mod rate;
mod redirect;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use octocrab::OctoBody;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt, service_fn};

use self::auth::{Credential, Holder};
pub use self::observe::{Count, Exchange, Ignore, Observe};
use super::credentials::AppCredentials;
use super::endpoint::Endpoint;
use super::error::{Error, Route, Target};
use super::transport::{self, Transport, Unreached};
use crate::runtime::clock::Clock;

/// The version of the REST API for every call. Every supported GitHub knows this one: a GitHub Enterprise Server answers 400 to a
/// version that is newer than its release, and 2026-03-10 changes nothing that Landfall uses. Without the header the server's
/// default applies, which can become a version that no test here has seen.
/// <https://docs.github.com/en/rest/about-the-rest-api/api-versions>
pub const API_VERSION: &str = "2022-11-28";
const USER_AGENT: &str = concat!("landfall/", env!("CARGO_PKG_VERSION"));
/// For a call with its redirects, from the first byte sent to the last byte received.
const DEADLINE: Duration = Duration::from_secs(30);
/// A page of a hundred installations is about 300 KiB.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// A request on its way through the layers.
#[derive(Clone)]
struct Call {
    target: Target,
    credential: Credential,
    request: Request<Bytes>,
}

type Next = BoxCloneSyncService<Call, Response<Bytes>, Error>;

/// The layers around a [`Transport`].
#[derive(Clone)]
pub(super) struct Stack {
    pub endpoint: Arc<Endpoint>,
    pub host: Arc<str>,
    pub credentials: Arc<AppCredentials>,
    pub clock: Arc<dyn Clock>,
    pub observer: Arc<dyn Observe>,
}

impl Layer<Transport> for Stack {
    type Service = BoxCloneSyncService<Request<OctoBody>, Response<Full<Bytes>>, Error>;

    fn layer(&self, transport: Transport) -> Self::Service {
        let wire = BoxCloneSyncService::new(service_fn(move |call| wire(call, transport.clone())));
        let (endpoint, credentials, clock) = (self.endpoint.clone(), self.credentials.clone(), self.clock.clone());
        let authenticated = around(wire, move |call, next| {
            auth::authenticate(call, next, endpoint.clone(), credentials.clone(), clock.clone())
        });
        let redirected = around(authenticated, redirect::follow);
        let timed = around(redirected, deadline);
        let observer = self.observer.clone();
        let seen = around(timed, move |call, next| observe::observe(call, next, observer.clone()));
        let (budget, clock) = (Arc::new(budget::Budget::default()), self.clock.clone());
        let rate = self.endpoint.has_secondary_limits().then(|| Arc::new(rate::Rate::default()));
        let judged = around(seen, move |call, next| judge(call, next, (budget.clone(), rate.clone()), clock.clone()));
        let stack = self.clone();
        BoxCloneSyncService::new(service_fn(move |request| {
            let (stack, judged) = (stack.clone(), judged.clone());
            async move { Ok(judged.oneshot(stack.prepare(request).await?).await?.map(Full::new)) }
        }))
    }
}

/// Makes a layer from a function.
fn around<F, Fut>(next: Next, layer: F) -> Next
where
    F: Fn(Call, Next) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Bytes>, Error>> + Send + 'static,
{
    BoxCloneSyncService::new(service_fn(move |call| layer(call, next.clone())))
}

impl Stack {
    /// Makes the address absolute, reads the body, and adds the common headers.
    async fn prepare(&self, request: Request<OctoBody>) -> Result<Call, Error> {
        let (mut parts, body) = request.into_parts();
        let route = parts.extensions.remove().unwrap_or(Route { method: "*", template: "other" });
        let credential = parts.extensions.remove().unwrap_or(Credential::None);
        let target = Target { host: self.host.clone(), route };
        let unsent = |what: &str| Error::Unsent { target: target.clone(), what: what.to_owned() };
        if parts.uri.authority().is_none() {
            parts.uri = format!("{}{}", self.endpoint.api_url(), parts.uri)
                .parse::<Uri>()
                .map_err(|_| unsent("its path does not make an address"))?;
        }
        for (name, value) in [
            (header::USER_AGENT, USER_AGENT),
            (header::ACCEPT, "application/vnd.github+json"),
            (HeaderName::from_static("x-github-api-version"), API_VERSION),
        ] {
            parts.headers.insert(name, HeaderValue::from_static(value));
        }
        let body = body.collect().await.map_err(|_| unsent("its body could not be read"))?.to_bytes();
        Ok(Call { target, credential, request: Request::from_parts(parts, body) })
    }
}

async fn judge(
    call: Call,
    next: Next,
    (budget, rate): (Arc<budget::Budget>, Option<Arc<rate::Rate>>),
    clock: Arc<dyn Clock>,
) -> Result<Response<Bytes>, Error> {
    let (target, credential) = (call.target.clone(), call.credential.clone());
    let limited_until = |until, secondary| Error::RateLimited { target: target.clone(), until, secondary };
    let limited = |stop: budget::Limit| limited_until(stop.until, stop.secondary);
    let holder = credential.holder();
    let now = clock.now();
    budget.admit(&holder, now).map_err(limited)?;
    let _under_way = rate
        .filter(|_| holder == Holder::App)
        .map(|rate| rate.admit(call.request.method(), now).map_err(|turn| limited_until(turn, true)))
        .transpose()?;
    let response = next.oneshot(call).await?;
    let now = clock.now();
    let said = answer::RefusalBody::read(&response);
    budget.learn(&holder, &response, &said, now).map_err(limited)?;
    answer::judge(response, said, target, &credential, now)
}

async fn deadline(call: Call, next: Next) -> Result<Response<Bytes>, Error> {
    let target = call.target.clone();
    tokio::time::timeout(DEADLINE, next.oneshot(call)).await.unwrap_or_else(|elapsed| {
        Err(Error::Unreachable { target, reason: Unreached::TimedOut, source: Arc::new(elapsed) })
    })
}

async fn wire(Call { target, request, .. }: Call, transport: Transport) -> Result<Response<Bytes>, Error> {
    let response = transport.oneshot(request.map(OctoBody::from)).await.map_err(|error| unreachable(&target, error))?;
    let (parts, body) = response.into_parts();
    let body = bounded(body).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Error::Malformed {
                target: target.clone(),
                what: format!("its answer is larger than {} MiB", BODY_LIMIT >> 20),
            }
        } else {
            unreachable(&target, error)
        }
    })?;
    Ok(Response::from_parts(parts, body.to_bytes()))
}

/// Boxed at once: with the type of [`Limited`] across an `await`, the compiler cannot prove that the future is `Send`.
fn bounded(body: transport::Body) -> transport::Body {
    Limited::new(body, BODY_LIMIT).boxed()
}

fn unreachable(target: &Target, error: BoxError) -> Error {
    Error::Unreachable { target: target.clone(), reason: transport::reason(&*error), source: Arc::from(error) }
}

#[cfg(test)]
mod tests;
