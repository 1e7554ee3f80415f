//! What is seen of a call: a span and one report for a metric.
//!
//! The invariant: the route by its template, the kind of credential and the status; never an address, a header or a body.
//! Ids in a label make as many series as there are repositories, and headers and bodies hold tokens.
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Bytes;
use tower::ServiceExt;
use tracing::{Instrument, field};

use super::{Next, subject};
use crate::github::error::{Error, Route};

/// A call that went out, with all its redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Which call.
    pub route: Route,
    /// `app`, `installation` or `none`.
    pub credential: &'static str,
    /// The status code; none when no whole answer came.
    pub status: Option<u16>,
    /// From sending to the last byte of the answer.
    pub duration: Duration,
    /// What is left of the hour's budget of these credentials, where GitHub says it.
    pub remaining: Option<u64>,
}

/// Is told of every call that went out: the seam to the metrics.
pub trait Observe: Send + Sync {
    /// Called once per call, after it ended.
    fn observe(&self, exchange: &Exchange);
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignore;

impl Observe for Ignore {
    fn observe(&self, _: &Exchange) {}
}

pub(super) async fn observe(
    request: Request<Bytes>,
    next: Next,
    observer: Arc<dyn Observe>,
) -> Result<Response<Bytes>, Error> {
    let (target, credential) = subject(&request);
    let span = tracing::debug_span!(
        "github",
        host = %target.host,
        method = target.route.method,
        route = target.route.template,
        credential = credential.kind(),
        status = field::Empty,
        request_id = field::Empty,
    );
    let begun = Instant::now();
    let result = next.oneshot(request).instrument(span.clone()).await;
    let duration = begun.elapsed();
    let response = result.as_ref().ok();
    let header =
        |name: &str| response.and_then(|response| response.headers().get(name)).and_then(|value| value.to_str().ok());
    let status = response.map(|response| response.status().as_u16());
    if let Some(status) = status {
        span.record("status", status);
    }
    if let Some(id) = header("x-github-request-id") {
        span.record("request_id", id);
    }
    span.in_scope(|| {
        tracing::debug!(milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), "called GitHub");
    });
    let remaining = header("x-ratelimit-remaining").and_then(|remaining| remaining.parse().ok());
    observer.observe(&Exchange { route: target.route, credential: credential.kind(), status, duration, remaining });
    result
}
