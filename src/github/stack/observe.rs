//! Observes a call: a span and one entry for the metrics.
//!
//! The invariant: an observation has the template of the route, the kind of credential and the status; never an address, a header
//! or a body. An id in a label makes a series for each repository, and headers and bodies hold tokens.
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Response};
use hyper::body::Bytes;
use tower::ServiceExt;
use tracing::{Instrument, field};

use super::{Call, Next};
use crate::github::error::{Error, Route, Target};
use crate::runtime::metrics::{Answer, Metrics};

/// A call that was sent, with all its redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub route: Route,
    /// `app`, `installation` or `none`.
    pub credential: &'static str,
    /// The status code, or the reason for no answer.
    pub answer: Answer,
    /// Until the last byte of the answer.
    pub duration: Duration,
    /// The rest of the hour's budget of these credentials, if GitHub tells it.
    pub remaining: Option<u64>,
}

/// Receives an observation of every call that was sent: the seam to the metrics.
pub trait Observe: Send + Sync {
    /// Called once per call, after it ended.
    fn observe(&self, exchange: &Exchange);
}

/// Counts the calls of one `GitHubApp`.
#[derive(Clone, Debug)]
pub struct Count {
    pub metrics: Arc<Metrics>,
    /// The name of the `GitHubApp`, for the rest of its budget.
    pub app: String,
}

impl Observe for Count {
    fn observe(&self, exchange: &Exchange) {
        let Exchange { route, credential, answer, duration, remaining } = *exchange;
        let method = Method::from_bytes(route.method.as_bytes()).unwrap_or_default();
        self.metrics.github_request(&method, route.template, answer, duration);
        // Installations have budgets of their own; a series for each would be one for each tenant.
        if let Some(remaining) = remaining.filter(|_| credential == "app") {
            self.metrics.github_rate_limit_remaining(&self.app, remaining);
        }
    }
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignore;

impl Observe for Ignore {
    fn observe(&self, _: &Exchange) {}
}

pub(super) async fn observe(call: Call, next: Next, observer: Arc<dyn Observe>) -> Result<Response<Bytes>, Error> {
    let Call { target: Target { host, route }, .. } = call.clone();
    let credential = call.credential.kind();
    let span = tracing::debug_span!(
        "github",
        %host,
        method = route.method,
        route = route.template,
        credential,
        status = field::Empty,
        request_id = field::Empty,
    );
    let begun = Instant::now();
    let result = next.oneshot(call).instrument(span.clone()).await;
    let duration = begun.elapsed();
    let response = result.as_ref().ok();
    let header =
        |name: &str| response.and_then(|response| response.headers().get(name)).and_then(|value| value.to_str().ok());
    let answer = match &result {
        Ok(response) => Answer::Status(response.status().as_u16()),
        Err(Error::Unreachable { reason, .. }) => Answer::None(reason.word()),
        Err(_) => Answer::None("malformed"),
    };
    if let Answer::Status(status) = answer {
        span.record("status", status);
    }
    if let Some(id) = header("x-github-request-id") {
        span.record("request_id", id);
    }
    span.in_scope(|| {
        tracing::debug!(milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), "called GitHub");
    });
    let remaining = header("x-ratelimit-remaining").and_then(|remaining| remaining.parse().ok());
    observer.observe(&Exchange { route, credential, answer, duration, remaining });
    result
}
