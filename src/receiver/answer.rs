//! What is answered to a delivery.
//!
//! Invariant: an answer says what was done and what to do, and nothing about the rest of the cluster; 2xx is said only
//! when nothing of the delivery is left to do. GitHub never delivers again by itself, so a refusal that will pass says
//! when (`Retry-After`) to those who do.

use super::event::EventError;
use super::inbox::StoreError;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use jiff::SignedDuration;
use serde_json::json;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// GitHub tried the webhook.
    Pong,
    /// It is stored.
    Accepted,
    /// There is nothing to do; why.
    Ignored(&'static str),
}

/// Why nothing was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is served at this path.
    #[error("there is nothing here; webhooks are at /webhooks/app/NAME and /webhooks/repo/NAME/REPOSITORY-ID")]
    Path,
    /// Deliveries are posted.
    #[error("deliveries are sent by POST")]
    Method,
    /// No such App, or nobody is bound to the repository.
    #[error("no such webhook: nothing here is bound to it")]
    Target,
    /// The body is larger than GitHub's are.
    #[error("the body is larger than {} MB, which is the most that GitHub delivers", super::body::LARGEST / (1024 * 1024))]
    TooLarge,
    /// The body took too long.
    #[error("the body did not arrive in time")]
    Slow,
    /// The body ended before its end, or was no HTTP.
    #[error("the body broke off")]
    Broken,
    /// Too much is being read already.
    #[error("too much is being received at once; try again")]
    Memory,
    /// The signature is missing or wrong.
    #[error("X-Hub-Signature-256 is missing or wrong: the webhook's secret is another one than here")]
    Signature,
    /// The keys are not there yet.
    #[error("the keys for signatures are not there yet; try again")]
    Keys,
    /// Not everything that deliveries can be for is known yet.
    #[error("the receiver is starting; try again")]
    Starting,
    /// It is no delivery.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The payload is of another repository than the webhook.
    #[error("the payload is not of the repository that this webhook is of")]
    OtherRepository,
    /// Too many deliveries for this target.
    #[error("too many deliveries for this target; try again")]
    Rate(SignedDuration),
    /// It could not be stored.
    #[error("not stored: {0}")]
    Store(#[from] StoreError),
    /// Our mistake.
    #[error("the receiver failed; its log says more")]
    Internal,
}

impl Refusal {
    /// A word for metrics and logs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Method => "method",
            Self::Target => "unknown_target",
            Self::TooLarge => "too_large",
            Self::Slow => "slow",
            Self::Broken => "broken",
            Self::Memory => "memory",
            Self::Signature => "signature",
            Self::Keys => "no_keys",
            Self::Starting => "starting",
            Self::Event(_) => "malformed",
            Self::OtherRepository => "other_repository",
            Self::Rate(_) => "rate",
            Self::Store(StoreError::Full) => "full",
            Self::Store(StoreError::Gone) => "gone",
            Self::Store(_) => "not_stored",
            Self::Internal => "internal",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Path | Self::Target | Self::Store(StoreError::Gone) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Event(EventError::ContentType) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Broken | Self::Event(_) => StatusCode::BAD_REQUEST,
            Self::Signature => StatusCode::UNAUTHORIZED,
            Self::OtherRepository => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Rate(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Memory | Self::Keys | Self::Starting | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whole seconds until another attempt makes sense.
    fn retry_after(&self) -> Option<i64> {
        match self {
            Self::Rate(after) => Some(after.as_secs().saturating_add(1)),
            Self::Memory => Some(1),
            Self::Keys
            | Self::Starting
            | Self::Store(StoreError::Full | StoreError::Unreachable | StoreError::Refused(_)) => Some(5),
            _ => None,
        }
    }
}

impl Outcome {
    /// A word for metrics and logs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pong => "pong",
            Self::Accepted => "accepted",
            Self::Ignored(_) => "ignored",
        }
    }
}

/// The answer over HTTP.
#[must_use]
pub fn response(result: &Result<Outcome, Refusal>) -> Response<Full<Bytes>> {
    let (status, word, message) = match result {
        Ok(Outcome::Pong) => (StatusCode::OK, "pong", "the webhook works".to_owned()),
        Ok(Outcome::Accepted) => (StatusCode::ACCEPTED, "accepted", "stored; the operator looks".to_owned()),
        Ok(Outcome::Ignored(why)) => (StatusCode::ACCEPTED, "ignored", (*why).to_owned()),
        Err(refusal) => (refusal.status(), "refused", refusal.to_string()),
    };
    let body = json!({"result": word, "message": message}).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Err(refusal) = result {
        if let Some(after) = refusal.retry_after() {
            headers.insert(header::RETRY_AFTER, after.into());
        }
        if *refusal == Refusal::Method {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        if matches!(refusal, Refusal::TooLarge | Refusal::Slow | Refusal::Broken | Refusal::Memory) {
            // The rest of the body is still to come, and is not waited for.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}
