//! The exchange with a remote over smart HTTP (gitprotocol-http(5)).
//!
//! The invariant: credentials go to the remote's own address and nowhere else, so a redirect is an error; and an exchange is
//! bounded in time ([`DEADLINE`]), in what is read ([`ANSWER_LIMIT`]) and in what is held (a packet and a chunk).
//!
//! One request where git itself makes two. git first asks what the server can do (`GET info/refs`), then asks for refs; but
//! over HTTP each request stands alone, so the second needs nothing from the first but what it taught. All that is assumed
//! instead is [`Capabilities::ASSUMED`], which holds for GitHub. A server that is otherwise says nothing of use (a
//! repository with SHA-256 objects, a server of version 0 and one that knows no `unborn` answer with nothing, or an error);
//! then, and only then, it is asked what it can do. Polling is most of what the operator does all day: this halves it.
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use octocrab::OctoBody;
use tower::{BoxError, ServiceExt as _};
use url::Url;
use zeroize::Zeroizing;

use super::address::Address;
use super::branch::BranchName;
use super::error::Error;
use super::listing::{self, Listing, RefPrefix};
use super::ls_refs::{Answer, AnswerError, Capabilities, Refs, advertisement, request};
use super::reach::Barred;
use super::reading::{Reading, Wanted};
use super::sha::Sha;
use crate::github::redact::shown;
use crate::github::secret::{REDACTED, Token};
use crate::github::transport::{self, Body, Transport};
use crate::github::{Endpoint, Unreached};
use crate::runtime::clock::Clock;

/// For all requests about one remote, from the first byte out to the last byte in.
const DEADLINE: Duration = Duration::from_secs(30);
/// A branch whose name begins a hundred thousand others' is about 8 MB.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
const ADVERTISEMENT_LIMIT: usize = 64 * 1024;
/// What is read of a refusal, to be shown.
const REFUSAL_LIMIT: usize = 4 * 1024;
/// How long to wait where a server does not say, and the longest that one is believed.
const SHORTEST_WAIT: SignedDuration = SignedDuration::from_mins(1);
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(1);
const USER_AGENT: &str = concat!("landfall/", env!("CARGO_PKG_VERSION"));

const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";
const REQUEST: &str = "application/x-git-upload-pack-request";
const RESULT: &str = "application/x-git-upload-pack-result";

/// The address of a repository, to which credentials may be sent. Prints as that address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote(Url);

/// A name that is no repository's on GitHub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the full name of a repository: write owner/name in letters, digits, `.`, `_` and `-`")]
pub struct RemoteError;

impl Remote {
    /// A repository of a GitHub, by the full name GitHub gave it just now.
    pub fn github(endpoint: &Endpoint, full_name: &str) -> Result<Self, RemoteError> {
        let word = |word: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !word.is_empty() && word != "." && word != ".." && word.bytes().all(known)
        };
        let (owner, name) = full_name.split_once('/').ok_or(RemoteError)?;
        if !word(owner) || !word(name) {
            return Err(RemoteError);
        }
        Url::parse(&format!("{}/{owner}/{name}.git", endpoint.web_url())).map(Self).map_err(|_| RemoteError)
    }

    /// A repository anywhere, by an address that was checked. Ask it over a transport that was made for such
    /// ([`crate::github::Connect::connect_within`]).
    #[must_use]
    pub fn manual(address: &Address) -> Self {
        Self(address.url().clone())
    }

    fn service(&self, path: &str) -> String {
        format!("{self}/{path}")
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// A user name and a password, or a token in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    username: String,
    password: Token,
}

/// A user name that Basic authentication cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user name cannot have a colon or a control character, and a password no control character")]
pub struct BasicAuthError;

impl BasicAuth {
    /// Any user and password (RFC 7617).
    pub fn new(username: String, password: Token) -> Result<Self, BasicAuthError> {
        let odd = username.contains(':') || username.chars().chain(password.expose().chars()).any(char::is_control);
        if odd { Err(BasicAuthError) } else { Ok(Self { username, password }) }
    }

    /// An installation token of a GitHub App.
    #[must_use]
    pub fn installation(token: Token) -> Self {
        Self { username: "x-access-token".into(), password: token }
    }

    /// `username:password` in base64.
    fn encoded(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(format!("{}:{}", self.username, self.password.expose()));
        Zeroizing::new(STANDARD.encode(pair.as_bytes()))
    }

    /// None if what is in it cannot be in a header; [`BasicAuth::new`] sees to that.
    fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&Zeroizing::new(format!("Basic {}", self.encoded().as_str()))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// `text` without these credentials, whatever they look like.
    fn cut_from(&self, text: &str) -> String {
        let secrets = [self.password.expose(), self.encoded().as_str()].map(str::to_owned).map(Zeroizing::new);
        secrets
            .iter()
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), REDACTED))
    }
}

/// Asks `remote` for the head of `branch`, or of its default branch, and which that is.
///
/// `transport` decides how far a connection may go; `clock` only turns a server's "later" into a time.
pub async fn refs(
    transport: &Transport,
    remote: &Remote,
    credentials: Option<&BasicAuth>,
    branch: Option<&str>,
    clock: &dyn Clock,
) -> Result<Refs, Error> {
    let branch = branch.map(str::parse::<BranchName>).transpose();
    let branch = branch.map_err(|source| Error::Branch { remote: remote.to_string(), source })?;
    let exchange = Exchange { transport, remote, credentials, clock };
    let question = |capabilities: Capabilities| {
        (request(branch.as_ref(), capabilities), Answer::new(branch.clone(), capabilities.object_format))
    };
    exchange.in_time(question).await
}

/// Asks `remote` which refs it has below `prefixes`: full names, and what they point to. Each prefix is a ref's full name,
/// for that ref and those under it, or ends with a slash, for those alone; none at all is no question, and nothing is sent.
/// What is not in the answer the remote does not have.
///
/// `transport` decides how far a connection may go; `clock` only turns a server's "later" into a time.
pub async fn listed(
    transport: &Transport,
    remote: &Remote,
    credentials: Option<&BasicAuth>,
    prefixes: &[&str],
    clock: &dyn Clock,
) -> Result<BTreeMap<String, Sha>, Error> {
    let prefixes = prefixes.iter().map(|prefix| RefPrefix::parse(prefix)).collect::<Result<Vec<_>, _>>();
    let prefixes = prefixes.map_err(|source| Error::Branch { remote: remote.to_string(), source })?;
    if prefixes.is_empty() {
        return Ok(BTreeMap::new());
    }
    let exchange = Exchange { transport, remote, credentials, clock };
    let question = |capabilities: Capabilities| {
        (listing::request(&prefixes, capabilities), Listing::new(prefixes.clone(), capabilities.object_format))
    };
    exchange.in_time(question).await
}

struct Exchange<'a> {
    transport: &'a Transport,
    remote: &'a Remote,
    credentials: Option<&'a BasicAuth>,
    clock: &'a dyn Clock,
}

impl Exchange<'_> {
    /// The answer to a question, which is made for what the server can do.
    async fn in_time<W: Wanted>(
        &self,
        question: impl Fn(Capabilities) -> (String, Reading<W>),
    ) -> Result<W::Meaning, Error> {
        tokio::time::timeout(DEADLINE, self.answer(question)).await.unwrap_or_else(|elapsed| {
            let remote = self.remote.to_string();
            Err(Error::Unreachable { remote, reason: Unreached::TimedOut, source: Arc::new(elapsed) })
        })
    }

    async fn answer<W: Wanted>(
        &self,
        question: impl Fn(Capabilities) -> (String, Reading<W>),
    ) -> Result<W::Meaning, Error> {
        match self.ls_refs(question(Capabilities::ASSUMED)).await {
            Err(error @ (Error::Protocol { source: AnswerError::Cut, .. } | Error::Refused { .. })) => {
                let capabilities = self.capabilities().await?;
                if capabilities == Capabilities::ASSUMED {
                    return Err(error);
                }
                self.ls_refs(question(capabilities)).await
            }
            answered => answered,
        }
    }

    async fn ls_refs<W: Wanted>(&self, (body, mut answer): (String, Reading<W>)) -> Result<W::Meaning, Error> {
        let mut response = self.send(Method::POST, "git-upload-pack", RESULT, body).await?;
        let mut length = 0;
        while let Some(chunk) = self.chunk(response.body_mut()).await? {
            length += chunk.len();
            if length > ANSWER_LIMIT {
                return Err(self.protocol(AnswerError::Malformed("its answer is too long")));
            }
            if answer.push(&chunk).map_err(|error| self.protocol(error))? {
                break;
            }
        }
        answer.finish().map_err(|error| self.protocol(error))
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let path = "info/refs?service=git-upload-pack";
        let mut response = self.send(Method::GET, path, ADVERTISEMENT, String::new()).await?;
        // A list of refs that goes on is not read to its end: it begins with what tells that it is one.
        let bytes = self.bytes(response.body_mut(), ADVERTISEMENT_LIMIT).await?;
        advertisement(&bytes).map_err(|error| self.protocol(error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: String,
    ) -> Result<Response<Body>, Error> {
        let refused = |message: &str| Error::Refused { remote: self.remote.to_string(), message: message.to_owned() };
        let mut request = Request::builder()
            .method(&method)
            .uri(self.remote.service(path))
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, accept)
            .header("git-protocol", "version=2");
        if method == Method::POST {
            request = request.header(header::CONTENT_TYPE, REQUEST);
        }
        if let Some(credentials) = self.credentials {
            let value = credentials.header().ok_or_else(|| refused("the credentials do not fit into a header"))?;
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(OctoBody::from(body)).map_err(|_| refused("its address makes no request"))?;
        let response = self.transport.clone().oneshot(request).await.map_err(|error| self.unreached(error))?;
        if response.status() != StatusCode::OK {
            return Err(self.judge(response).await);
        }
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(accept)) {
            return Ok(response);
        }
        Err(self.protocol(AnswerError::Malformed("what answers there is not git's smart HTTP")))
    }

    async fn judge(&self, mut response: Response<Body>) -> Error {
        let (remote, status) = (self.remote.to_string(), response.status());
        let wait = retry_after(response.headers(), self.clock.now());
        if status == StatusCode::TOO_MANY_REQUESTS || (status == StatusCode::FORBIDDEN && wait.is_some()) {
            let wait = wait.unwrap_or(SHORTEST_WAIT).clamp(SignedDuration::from_secs(1), LONGEST_WAIT);
            let until = self.clock.now().checked_add(wait).unwrap_or(Timestamp::MAX);
            return Error::RateLimited { remote, until };
        }
        if status.is_redirection() {
            return Error::Moved { remote, to: self.moved_to(response.headers()) };
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return Error::Server { remote, status: status.as_u16() };
        }
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let said = if kind.starts_with("text/plain") {
            self.bytes(response.body_mut(), REFUSAL_LIMIT).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        let said = self.said(&String::from_utf8_lossy(&said));
        let message = if said.is_empty() { status.to_string() } else { said };
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { remote, message },
            // To somebody it does not know GitHub does not say whether there is such a repository.
            StatusCode::UNAUTHORIZED if self.credentials.is_none() => Error::NotFound { remote, message },
            StatusCode::UNAUTHORIZED => Error::CredentialsRefused { remote, message },
            StatusCode::FORBIDDEN | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => Error::Forbidden { remote, message },
            _ => Error::Refused { remote, message },
        }
    }

    /// The next bytes of a body; none at its end.
    async fn chunk(&self, body: &mut Body) -> Result<Option<hyper::body::Bytes>, Error> {
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(|error| self.unreached(error))?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// A body up to its end or to `limit`.
    async fn bytes(&self, body: &mut Body, limit: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while bytes.len() < limit
            && let Some(chunk) = self.chunk(body).await?
        {
            bytes.extend_from_slice(&chunk[..chunk.len().min(limit - bytes.len())]);
        }
        Ok(bytes)
    }

    fn moved_to(&self, headers: &HeaderMap) -> Option<String> {
        let location = headers.get(header::LOCATION)?.to_str().ok()?;
        let mut url = self.remote.0.join(location).ok()?;
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        let url = url.as_str();
        let repository = ["/git-upload-pack", "/info/refs"].into_iter().find_map(|path| url.strip_suffix(path));
        Some(self.said(repository.unwrap_or(url)))
    }

    /// A server's words, fit to be shown.
    fn said(&self, text: &str) -> String {
        match self.credentials {
            Some(credentials) => shown(&credentials.cut_from(text)),
            None => shown(text),
        }
    }

    fn protocol(&self, source: AnswerError) -> Error {
        let remote = self.remote.to_string();
        match source {
            AnswerError::Refused(message) => Error::Refused { remote, message: self.said(&message) },
            source => Error::Protocol { remote, source },
        }
    }

    fn unreached(&self, error: BoxError) -> Error {
        let remote = self.remote.to_string();
        if Barred::is_in(&*error) {
            return Error::AddressRefused { remote };
        }
        Error::Unreachable { remote, reason: transport::reason(&*error), source: Arc::from(error) }
    }
}

/// RFC 9110, 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<SignedDuration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u32>() {
        Ok(seconds) => Some(SignedDuration::from_secs(seconds.into())),
        Err(_) => Some(jiff::fmt::rfc2822::parse(value).ok()?.timestamp().duration_since(now)),
    }
}

#[cfg(test)]
mod tests;
