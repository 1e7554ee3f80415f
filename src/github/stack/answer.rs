//! Turns GitHub's refusals into [`Error`]s.
//!
//! The invariant: only `message` and `errors` of a body are read, and they are cut and redacted.
//! Shapes: <https://docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api>
use http::{Response, StatusCode, header};
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::auth::Credential;
use crate::github::block::Block;
use crate::github::error::{Error, FieldError, Target};
use crate::github::redact::shown;

const SHOWN_ERRORS: usize = 5;
/// A JWT is dated back by a minute, so a smaller difference does not matter.
const NOTABLE_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// The body of a refusal.
#[derive(Default)]
pub(super) struct RefusalBody {
    /// GitHub's `message`, unless the body is not JSON or has none.
    pub message: Option<String>,
    errors: Vec<FieldError>,
    block: Option<Block>,
}

#[derive(Deserialize)]
struct Refusal {
    message: Option<String>,
    #[serde(default)]
    block: Value,
    #[serde(default)]
    errors: Value,
}

impl RefusalBody {
    pub fn read(response: &Response<Bytes>) -> Self {
        if response.status().is_success() {
            return Self::default();
        }
        let Ok(refusal) = serde_json::from_slice::<Refusal>(response.body()) else { return Self::default() };
        let errors = match refusal.errors {
            Value::Array(errors) => errors,
            Value::String(error) => vec![Value::String(error)],
            _ => Vec::new(),
        };
        let message = refusal.message.as_deref().unwrap_or_default();
        let block = refusal.block["reason"].as_str().map(Block::of_reason).or_else(|| Block::of(message));
        Self {
            block,
            message: refusal.message.map(|message| shown(&message)).filter(|message| !message.is_empty()),
            errors: errors.iter().take(SHOWN_ERRORS).map(detail).filter(|it| *it != FieldError::default()).collect(),
        }
    }
}

/// One of `errors`: a string, or an object of `resource`, `field`, `code` and `message`.
fn detail(error: &Value) -> FieldError {
    if let Value::String(text) = error {
        return FieldError { message: shown(text), ..FieldError::default() };
    }
    let text = |name: &str| shown(error[name].as_str().unwrap_or_default());
    FieldError { resource: text("resource"), field: text("field"), code: text("code"), message: text("message") }
}

pub(super) fn judge(
    response: Response<Bytes>,
    said: RefusalBody,
    target: Target,
    credential: &Credential,
    now: Timestamp,
) -> Result<Response<Bytes>, Error> {
    let status = response.status();
    let code = status.as_u16();
    // GitHub's API answers in JSON, except for its own failures.
    if is_html(&response) && !status.is_server_error() {
        return Err(Error::Page { target, status: code });
    }
    if status.is_success() {
        return Ok(response);
    }
    let message = said.message.unwrap_or_else(|| status.canonical_reason().unwrap_or("no message").to_owned());
    Err(match (status, credential) {
        (StatusCode::UNAUTHORIZED, Credential::App) => {
            Error::CredentialsRefused { target, message, skew: skew(&response, now) }
        }
        // GitHub's answer to a well-formed JWT of an unknown issuer.
        (StatusCode::NOT_FOUND, Credential::App) if message == "Integration not found" => {
            Error::CredentialsRefused { target, message, skew: None }
        }
        (StatusCode::UNAUTHORIZED, Credential::Token(_)) => Error::TokenRefused { target, message },
        (StatusCode::NOT_FOUND | StatusCode::GONE, _) => Error::NotFound { target, message },
        (StatusCode::FORBIDDEN, _) if message.contains("installation has been suspended") => {
            Error::Suspended { target, message }
        }
        (StatusCode::FORBIDDEN, _) if message.contains("archived so is read-only") => {
            Error::Archived { target, message }
        }
        (StatusCode::FORBIDDEN | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, _) => match said.block {
            Some(block) => Error::Blocked { target, message, block },
            None => Error::Forbidden { target, message },
        },
        (StatusCode::CONFLICT, _) => Error::Conflict { target, message },
        // The layer for redirects has followed all other redirects.
        (StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT, _) => Error::Moved { target },
        (StatusCode::UNPROCESSABLE_ENTITY, _) => Error::Unprocessable { target, message, errors: said.errors },
        (StatusCode::REQUEST_TIMEOUT, _) => Error::Server { target, status: code },
        _ if status.is_server_error() => Error::Server { target, status: code },
        _ if status.is_client_error() => Error::Refused { target, status: code, message },
        _ => Error::Malformed { target, what: format!("it answered {code}, which is no answer to this call") },
    })
}

fn is_html(response: &Response<Bytes>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/html")
}

/// How far the clock here is ahead of GitHub's, by the `Date` of its answer.
fn skew(response: &Response<Bytes>, now: Timestamp) -> Option<SignedDuration> {
    let date = response.headers().get(header::DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let skew = now.duration_since(theirs);
    (skew.abs() > NOTABLE_SKEW).then_some(skew)
}
