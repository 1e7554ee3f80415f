//! Adds credentials to requests.
//!
//! The invariant: a request, with or without credentials, goes only to an address of the API ([`Endpoint::contains`]). This layer
//! is below the redirects and below the code that follows pages, so nothing bypasses it.
use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Bytes;
use tower::ServiceExt;
use url::Url;

use super::{Call, Next};
use crate::github::credentials::{AppCredentials, Key};
use crate::github::endpoint::Endpoint;
use crate::github::error::Error;
use crate::github::jwt::Origin;
use crate::github::secret::Token;
use crate::ids::InstallationId;
use crate::runtime::clock::Clock;

/// The credential of a call.
#[derive(Clone)]
pub(in crate::github) enum Credential {
    /// The App's JWT.
    App,
    /// An installation's token.
    Token(Token),
    None,
}

/// The owner of the rate budget for a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    App,
    /// By its id, for all of its tokens.
    Installation(InstallationId),
    /// By the fingerprint of a token that another process minted.
    Token(String),
    Nobody,
}

impl Credential {
    pub(super) fn holder(&self) -> Holder {
        match self {
            Self::App => Holder::App,
            Self::Token(token) => {
                token.installation().map_or_else(|| Holder::Token(token.fingerprint()), Holder::Installation)
            }
            Self::None => Holder::Nobody,
        }
    }

    /// One word for a metric's label.
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
    call: Call,
    next: Next,
    endpoint: Arc<Endpoint>,
    credentials: Arc<AppCredentials>,
    clock: Arc<dyn Clock>,
) -> Result<Response<Bytes>, Error> {
    let uri = call.request.uri();
    if !Url::parse(&uri.to_string()).is_ok_and(|url| endpoint.contains(&url)) {
        let what = format!("it leads to {}, outside of {}", uri.host().unwrap_or("nowhere"), endpoint.api_url());
        return Err(Error::Malformed { target: call.target, what });
    }
    match call.credential.clone() {
        Credential::None => next.oneshot(call).await,
        Credential::Token(token) => next.oneshot(carrying(call, &token)?).await,
        Credential::App => {
            let app = AsApp { call, next, credentials: &credentials, clock: &*clock };
            let first = credentials.preferred();
            let response = app.send(first).await?;
            let refused = response.status() == StatusCode::UNAUTHORIZED;
            let Some(other) = credentials.alternative(first).filter(|_| refused) else { return Ok(response) };
            let second = app.send(other).await?;
            if second.status() == StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            if !second.status().is_server_error() {
                tracing::info!(refused = %first, accepted = %other, "GitHub accepts the App's other private key; it is used from now on");
                credentials.prefer(other);
            }
            Ok(second)
        }
    }
}

/// A call as the App.
struct AsApp<'a> {
    call: Call,
    next: Next,
    credentials: &'a AppCredentials,
    clock: &'a dyn Clock,
}

impl AsApp<'_> {
    /// Sends the call with a JWT of this key. If GitHub refuses a reused JWT, which may have expired by GitHub's clock,
    /// the call is sent once more with a new one.
    async fn send(&self, key: Key) -> Result<Response<Bytes>, Error> {
        let (response, origin) = self.send_once(key).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.credentials.forget(key).await;
        if origin == Origin::Signed {
            return Ok(response);
        }
        let (response, _) = self.send_once(key).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.credentials.forget(key).await;
        }
        Ok(response)
    }

    async fn send_once(&self, key: Key) -> Result<(Response<Bytes>, Origin), Error> {
        let jwt = self.credentials.jwt(key, self.clock.now()).await.map_err(|error| Error::Unsent {
            target: self.call.target.clone(),
            what: format!("{key} cannot sign: {error}"),
        })?;
        let response = self.next.clone().oneshot(carrying(self.call.clone(), &jwt.token)?).await?;
        Ok((response, jwt.origin))
    }
}

fn carrying(mut call: Call, token: &Token) -> Result<Call, Error> {
    let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", token.expose())) else {
        return Err(Error::Unsent {
            target: call.target,
            what: "the token has characters that no header may carry".into(),
        });
    };
    value.set_sensitive(true);
    call.request.headers_mut().insert(header::AUTHORIZATION, value);
    Ok(call)
}
