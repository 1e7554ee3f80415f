//! Puts credentials on requests.
//!
//! The invariant: a request leaves only for an address of the API ([`Endpoint::contains`]), with or without credentials. This
//! is below the redirects and below whatever follows pages, so there is no way around it.
use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Bytes;
use tower::ServiceExt;
use url::Url;

use super::{Next, subject};
use crate::github::endpoint::Endpoint;
use crate::github::error::{Error, Target};
use crate::github::jwt::AppCredentials;
use crate::github::secret::Token;
use crate::runtime::clock::Clock;

/// As whom a call is made.
#[derive(Clone)]
pub(in crate::github) enum Credential {
    /// As the App, by a JWT.
    App,
    /// As an installation, by its token.
    Token(Token),
    /// As nobody.
    None,
}

/// Whose budget a call is charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    App,
    /// By the token's fingerprint.
    Token(String),
    Nobody,
}

impl Credential {
    pub(super) fn holder(&self) -> Holder {
        match self {
            Self::App => Holder::App,
            Self::Token(token) => Holder::Token(token.fingerprint()),
            Self::None => Holder::Nobody,
        }
    }

    /// One word, fit for a metric's label.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Token(_) => "installation",
            Self::None => "none",
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

pub(super) async fn authenticate(
    mut request: Request<Bytes>,
    next: Next,
    endpoint: Arc<Endpoint>,
    credentials: Arc<AppCredentials>,
    clock: Arc<dyn Clock>,
) -> Result<Response<Bytes>, Error> {
    let (target, credential) = subject(&request);
    let url = Url::parse(&request.uri().to_string()).ok().filter(|url| endpoint.contains(url));
    if url.is_none() {
        let authority = request.uri().authority().map_or("", |authority| authority.host());
        let what = format!("it points to {authority}, outside of {}, and was not followed", endpoint.api_url());
        return Err(Error::Malformed { target, what });
    }
    match credential {
        Credential::None => next.oneshot(request).await,
        Credential::Token(token) => {
            carry(&mut request, &token, &target)?;
            next.oneshot(request).await
        }
        Credential::App => {
            let first = credentials.preferred();
            let sign = |key| {
                credentials
                    .sign(key, clock.now())
                    .ok_or_else(|| Error::Unsent { target: target.clone(), what: format!("{key} cannot sign") })
            };
            let mut again = request.clone();
            carry(&mut request, &sign(first)?, &target)?;
            let response = next.clone().oneshot(request).await?;
            let Some(other) = credentials.alternative(first).filter(|_| response.status() == StatusCode::UNAUTHORIZED)
            else {
                return Ok(response);
            };
            carry(&mut again, &sign(other)?, &target)?;
            let second = next.oneshot(again).await?;
            if second.status() == StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            tracing::info!(refused = %first, accepted = %other, "GitHub accepts the App's other private key; it is used from now on");
            credentials.prefer(other);
            Ok(second)
        }
    }
}

fn carry(request: &mut Request<Bytes>, token: &Token, target: &Target) -> Result<(), Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| Error::Unsent {
        target: target.clone(),
        what: "the token has characters that no header may carry".into(),
    })?;
    value.set_sensitive(true);
    request.headers_mut().insert(header::AUTHORIZATION, value);
    Ok(())
}
