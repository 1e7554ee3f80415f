//! What every call to GitHub passes on its way: the layers between octocrab and the transport.
//!
//! From the outside in: refuse what the rate budget forbids and judge the answer ([`budget`], [`answer`]) · span and metric
//! ([`observe`]) · one deadline for the whole call · redirects ([`redirect`]) · credentials ([`auth`]) · the wire. Inside,
//! bodies are whole and in memory, so a layer that has to send a request once more can.
//!
//! The invariants: credentials are put on below the redirects and only for addresses of the API, so no hop takes them
//! elsewhere; nothing repeats a request that GitHub may have acted on, for the controllers have the one queue of due times.
//! Three things are sent again, all of which GitHub refused without acting on them: a redirected request, a request whose JWT
//! served before and was refused (401), and one that the App's first key was refused for, with the other key.
//!
//! Conditional requests are left out: an `ETag` belongs to the token that was used, every JWT is another token, and an
//! installation token is used for few calls. A 304 would hardly ever come, and a cache of bodies would hold one tenant's
//! answers next to another's.
mod answer;
pub(super) mod auth;
mod budget;
mod observe;
mod redirect;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use octocrab::OctoBody;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt, service_fn};

use self::auth::Credential;
pub use self::observe::{Count, Exchange, Ignore, Observe};
use super::credentials::AppCredentials;
use super::endpoint::Endpoint;
use super::error::{Error, Route, Target};
use super::transport::{self, Transport, Unreached};
use crate::runtime::clock::Clock;

/// The version of the REST API that is asked for with every call. Every supported GitHub knows this one: a GitHub Enterprise
/// Server answers 400 to a version that is younger than its release, and 2026-03-10 changes nothing that is used here.
/// Without the header the version is whatever the server takes for its default, some day one that no test here has seen.
/// <https://docs.github.com/en/rest/about-the-rest-api/api-versions>
pub const API_VERSION: &str = "2022-11-28";
const USER_AGENT: &str = concat!("landfall/", env!("CARGO_PKG_VERSION"));
/// For a call with its redirects, from the first byte out to the last byte in.
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

/// The layers, ready to be put around a [`Transport`].
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
        let judged = around(seen, move |call, next| judge(call, next, budget.clone(), clock.clone()));
        let stack = self.clone();
        BoxCloneSyncService::new(service_fn(move |request| {
            let (stack, judged) = (stack.clone(), judged.clone());
            async move { Ok(judged.oneshot(stack.prepare(request).await?).await?.map(Full::new)) }
        }))
    }
}

/// A layer out of a function.
fn around<F, Fut>(next: Next, layer: F) -> Next
where
    F: Fn(Call, Next) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Bytes>, Error>> + Send + 'static,
{
    BoxCloneSyncService::new(service_fn(move |call| layer(call, next.clone())))
}

impl Stack {
    /// Makes the address absolute, reads the body, and adds what all requests carry.
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
    budget: Arc<budget::Budget>,
    clock: Arc<dyn Clock>,
) -> Result<Response<Bytes>, Error> {
    let (target, credential) = (call.target.clone(), call.credential.clone());
    let limited = |stop: budget::Stop| Error::RateLimited {
        target: target.clone(),
        until: stop.until,
        secondary: stop.secondary,
    };
    let holder = credential.holder();
    budget.admit(&holder, clock.now()).map_err(limited)?;
    let response = next.oneshot(call).await?;
    let now = clock.now();
    let said = answer::Said::read(&response);
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

/// Boxed at once: with the type of [`Limited`] held over an `await`, the compiler cannot tell that the future is `Send`.
fn bounded(body: transport::Body) -> transport::Body {
    Limited::new(body, BODY_LIMIT).boxed()
}

fn unreachable(target: &Target, error: BoxError) -> Error {
    Error::Unreachable { target: target.clone(), reason: transport::reason(&*error), source: Arc::from(error) }
}

#[cfg(test)]
mod tests;
