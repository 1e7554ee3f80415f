//! The gateway's own answers to git: a status, and words that git shows after `remote:`.

use super::commands::PushError;
use super::identity::NoAccess;
use super::route::RouteError;
use super::stream::{EncodingError, Piped, StreamError};
use super::upstream::{Failed, NoUpstream};
use crate::github::Unreached;
use crate::reports::identity::IdentityError;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};

/// The body of an answer: the gateway's own, or GitHub's.
pub type Body = Either<Full<Bytes>, Piped>;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("the media type of the body must be {0}")]
    MediaType(String),
    #[error("no token of a workspace's pod came with the request; git in a workspace sends it by itself")]
    NoToken,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    NoAccess(#[from] NoAccess),
    /// The repository is not the workspace's. The answer is the same whether it exists or not.
    #[error("Repository not found. A workspace reaches its own repository only.")]
    OtherRepository,
    #[error("too many git commands of this workspace run at once; wait for the others")]
    TooMany,
    #[error("too many git commands of this namespace run at once; wait for the others")]
    TooManyOfNamespace,
    #[error("too many large pushes run at once; try again")]
    Busy,
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    #[error(transparent)]
    Push(#[from] PushError),
    #[error("the request was not taken: {0}")]
    Stream(#[from] StreamError),
    #[error(transparent)]
    NoUpstream(#[from] NoUpstream),
    #[error("{}", failed(.0))]
    Upstream(Failed),
}

fn failed(failed: &Failed) -> String {
    match failed {
        Failed::Stale => "GitHub refused the gateway's token, or the repository has moved; try again".into(),
        Failed::Refused { text, .. } => text.clone(),
        Failed::NotGit => "GitHub's answer is not git's; see https://www.githubstatus.com, and try again later".into(),
        Failed::Unreached(Unreached::TimedOut) => "GitHub gave no answer in time; try again".into(),
        Failed::Unreached(Unreached::Cut) => {
            "the connection to GitHub ended before its answer; look at the branch with git fetch, and try again".into()
        }
        Failed::Unreached(reason) => {
            format!("the gateway has no connection to GitHub ({}); tell the operator's administrator", reason.word())
        }
    }
}

impl Refusal {
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Route(RouteError::NotFound) | Self::OtherRepository => StatusCode::NOT_FOUND,
            Self::Route(RouteError::Method(_)) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Route(RouteError::Dumb | RouteError::UnknownService) | Self::NoAccess(NoAccess::Refused(_)) => {
                StatusCode::FORBIDDEN
            }
            Self::MediaType(_) | Self::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoToken | Self::Identity(IdentityError::Refused) => StatusCode::UNAUTHORIZED,
            Self::TooMany | Self::TooManyOfNamespace | Self::Identity(IdentityError::TooMany) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Identity(IdentityError::Unavailable)
            | Self::NoAccess(NoAccess::Unavailable(_))
            | Self::Busy
            | Self::NoUpstream(NoUpstream::Unavailable(_))
            | Self::Upstream(Failed::Stale) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Push(_) | Self::Stream(StreamError::Broken | StreamError::Compressed | StreamError::Unwanted) => {
                StatusCode::BAD_REQUEST
            }
            Self::Stream(StreamError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Stream(StreamError::Stalled | StreamError::Slow) => StatusCode::REQUEST_TIMEOUT,
            Self::NoUpstream(NoUpstream::Refused(_)) => StatusCode::FORBIDDEN,
            Self::Upstream(Failed::Refused { status, .. }) => *status,
            Self::Upstream(Failed::NotGit | Failed::Unreached(_)) => StatusCode::BAD_GATEWAY,
        }
    }

    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let text = self.to_string();
        let mut response = own(self.status(), "text/plain; charset=utf-8", format!("{}\n", text.trim_end()).into());
        let headers = response.headers_mut();
        match self {
            // git asks its credential helper after this.
            _ if self.status() == StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Landfall\""));
            }
            Self::Route(RouteError::Method(method)) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(method));
            }
            Self::Upstream(Failed::Refused { retry_after: Some(after), .. }) => {
                headers.insert(header::RETRY_AFTER, after.clone());
            }
            _ => {}
        }
        response
    }
}

/// An answer of the gateway's own.
#[must_use]
pub fn own(status: StatusCode, kind: &str, body: Bytes) -> Response<Body> {
    with(status, kind, Either::Left(Full::new(body)))
}

/// An answer with a body.
#[must_use]
pub fn with(status: StatusCode, kind: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(kind) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
