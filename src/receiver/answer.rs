//! The answer to a delivery.
//!
//! Invariant: an answer names the result and the next step, and nothing else about the cluster. It is 2xx only when the
//! delivery is stored or there is nothing to store. GitHub never delivers again by itself; for senders that do, a temporary
//! refusal says when to try again (`Retry-After`).

use super::event::EventError;
use super::inbox::StoreError;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use jiff::SignedDuration;
use serde_json::json;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// GitHub tested the webhook.
    Pong,
    Accepted,
    /// There is nothing to store, for this reason.
    Ignored(&'static str),
}

/// Why a delivery was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("not found; webhooks are at /webhooks/app/NAME and /webhooks/repo/NAME/REPOSITORY-ID")]
    Path,
    #[error("only POST is allowed")]
    Method,
    #[error("no such webhook: no GitHubApp or ProjectRepository uses it")]
    Target,
    #[error("the body is larger than {} MB, the most that GitHub delivers", super::body::LARGEST / (1024 * 1024))]
    TooLarge,
    #[error("the body did not arrive in time; send the delivery again")]
    Slow,
    /// The body ended before its end, or is not HTTP.
    #[error("the body broke off; send the delivery again")]
    Broken,
    #[error("too many large bodies are arriving at once; try again")]
    Memory,
    #[error("Content-Encoding is not supported: send the body uncompressed, as GitHub signed it")]
    Encoding,
    #[error("X-Hub-Signature-256 is missing or wrong: the webhook has another secret than the receiver expects")]
    Signature,
    #[error("the receiver has no keys for signatures yet; try again")]
    Keys,
    /// The cache is not complete yet.
    #[error("the receiver is starting; try again")]
    Starting,
    #[error(transparent)]
    Event(#[from] EventError),
    #[error("the payload is about another repository than this webhook")]
    OtherRepository,
    /// Too many deliveries for this target; another is stored after this time.
    #[error("too many deliveries for this target; try again")]
    Rate(SignedDuration),
    #[error("not stored: {0}")]
    Store(#[from] StoreError),
    #[error("the receiver failed; see its log")]
    Internal,
}

impl Refusal {
    /// The label in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Method => "method",
            Self::Target => "unknown_target",
            Self::TooLarge => "too_large",
            Self::Slow => "slow",
            Self::Broken => "broken",
            Self::Memory => "memory",
            Self::Encoding => "encoding",
            Self::Signature => "signature",
            Self::Keys => "no_keys",
            Self::Starting => "starting",
            Self::Event(_) => "malformed",
            Self::OtherRepository => "other_repository",
            Self::Rate(_) => "rate",
            Self::Store(StoreError::Full) => "full",
            Self::Store(StoreError::NoInbox) => "no_inbox",
            Self::Store(_) => "not_stored",
            Self::Internal => "internal",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Path | Self::Target => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Encoding | Self::Event(EventError::ContentType) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Broken | Self::Event(_) => StatusCode::BAD_REQUEST,
            Self::Signature => StatusCode::UNAUTHORIZED,
            Self::OtherRepository => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Rate(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Memory | Self::Keys | Self::Starting | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Seconds after which another attempt makes sense.
    fn retry_after(&self) -> Option<i64> {
        match self {
            Self::Rate(after) => Some(after.as_secs().saturating_add(1)),
            Self::Memory => Some(1),
            Self::Keys
            | Self::Starting
            | Self::Store(StoreError::Full | StoreError::NoInbox | StoreError::Unreachable | StoreError::Refused(_)) => {
                Some(5)
            }
            _ => None,
        }
    }
}

impl Outcome {
    /// The label in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Pong => "pong",
            Self::Accepted => "accepted",
            Self::Ignored(_) => "ignored",
        }
    }
}

#[must_use]
pub fn response(result: &Result<Outcome, Refusal>) -> Response<Full<Bytes>> {
    let (status, word, message) = match result {
        Ok(Outcome::Pong) => (StatusCode::OK, "pong", "the webhook works".to_owned()),
        Ok(Outcome::Accepted) => (StatusCode::ACCEPTED, "accepted", "stored for the operator".to_owned()),
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
        if *refusal == Refusal::Encoding {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if *refusal == Refusal::Method {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        if matches!(refusal, Refusal::TooLarge | Refusal::Slow | Refusal::Broken | Refusal::Memory) {
            // The connection ends before the rest of the body arrives.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}
