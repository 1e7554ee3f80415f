//! The exchange with a remote over smart HTTP (gitprotocol-http(5)).
//!
//! The invariant: credentials go to the remote's own origin and nowhere else, and a token of GitHub's to its one
//! repository ([`Redirects`]). An exchange is limited in time ([`DEADLINE`]), in the bytes that it reads
//! ([`ANSWER_LIMIT`]) and in those that it holds (a packet and a chunk).
//!
//! An exchange is one request, while git itself makes two. git first asks for the server's capabilities, by
//! `GET info/refs`, then for refs. But over HTTP each request is independent, so the second needs only the capabilities
//! from the first. [`Capabilities::ASSUMED`] replaces them, which is correct for GitHub. Any other server answers with
//! nothing or an error (a repository with SHA-256 objects, a server that does not know `unborn`, one that speaks only
//! version 0 or 1). Only then is it asked for its capabilities. Polling is most of the operator's work, and this halves
//! it.
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
use super::ls_refs::{Advertisement, AnswerError, Capabilities, HeadSelection, Refs, advertisement, request};
use super::reach::Blocked;
use super::reading::{Reading, Selection};
use super::sha::Sha;
use crate::github::redact::shown;
use crate::github::secret::{REDACTED, Token};
use crate::github::transport::{self, Body, Transport};
use crate::github::{Block, Endpoint, Unreached};
use crate::runtime::clock::Clock;

/// For all requests about one remote, from the first byte out to the last byte in.
const DEADLINE: Duration = Duration::from_secs(30);
/// The answer for a branch whose name is a prefix of a hundred thousand others is about 8 MB.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
const ADVERTISEMENT_LIMIT: usize = 64 * 1024;
/// The most bytes of a refusal that a message shows.
const REFUSAL_LIMIT: usize = 4 * 1024;
/// The wait if a server names none, and the longest that Landfall accepts.
const SHORTEST_WAIT: SignedDuration = SignedDuration::from_mins(1);
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(1);
const USER_AGENT: &str = concat!("landfall/", env!("CARGO_PKG_VERSION"));

const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";
const REQUEST: &str = "application/x-git-upload-pack-request";
const RESULT: &str = "application/x-git-upload-pack-result";

/// The address of a repository, to which credentials may be sent. Prints as that address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    url: Url,
    redirects: Redirects,
}

/// The redirects of a remote that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Redirects {
    /// None: on GitHub another repository may have taken the name, and the operator finds a repository by its id.
    None,
    /// One redirect of the request for capabilities, to the same origin: as git does by default
    /// (`http.followRedirects`), and as GitLab answers for an address without `.git`.
    WithinOrigin,
}

/// A text is not the full name of a repository on GitHub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the full name of a repository: write owner/name in letters, digits, `.`, `_` and `-`")]
pub struct FullNameError;

impl Remote {
    /// A repository of a GitHub, by its current full name.
    pub fn github(endpoint: &Endpoint, full_name: &str) -> Result<Self, FullNameError> {
        let word = |word: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !word.is_empty() && word != "." && word != ".." && word.bytes().all(known)
        };
        let (owner, name) = full_name.split_once('/').ok_or(FullNameError)?;
        if !word(owner) || !word(name) {
            return Err(FullNameError);
        }
        let url = Url::parse(&format!("{}/{owner}/{name}.git", endpoint.web_url())).map_err(|_| FullNameError)?;
        Ok(Self { url, redirects: Redirects::None })
    }

    /// A repository at a checked address. Use a transport of [`crate::github::Connect::connect_within`] for it.
    #[must_use]
    pub fn manual(address: &Address) -> Self {
        Self { url: address.url().clone(), redirects: Redirects::WithinOrigin }
    }

    fn service(&self, path: &str) -> String {
        format!("{self}/{path}")
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

/// A user name and a password, or a token in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    username: String,
    password: Token,
}

/// A user name or password that Basic authentication cannot carry.
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

    /// None if a header cannot carry it, which [`BasicAuth::new`] rules out.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&Zeroizing::new(format!("Basic {}", self.encoded().as_str()))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// `text` without these credentials.
    pub(crate) fn cut_from(&self, text: &str) -> String {
        let secrets = [self.password.expose(), self.encoded().as_str()].map(str::to_owned).map(Zeroizing::new);
        secrets
            .iter()
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), REDACTED))
    }
}

/// Asks `remote` for the head of `branch`, or of its default branch, and for the name of the default branch.
///
/// `transport` restricts the networks of a connection; `clock` only turns a server's wait into a time.
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
        (request(branch.as_ref(), capabilities), HeadSelection::new(branch.clone(), capabilities.object_format))
    };
    exchange.in_time(question).await
}

/// Asks `remote` for its refs below `prefixes`: their full names and objects. Each prefix is a ref's full name, for that ref and
/// those under it, or ends with a slash, for those alone. Without a prefix nothing is sent. The answer is complete: the remote
/// has no other ref below the prefixes.
///
/// `transport` restricts the networks of a connection; `clock` only turns a server's wait into a time.
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

/// Whether the remote itself answered.
enum Place<T> {
    Here(T),
    /// It redirects to this one.
    Elsewhere(Remote),
}

#[derive(Clone, Copy)]
struct Exchange<'a> {
    transport: &'a Transport,
    remote: &'a Remote,
    credentials: Option<&'a BasicAuth>,
    clock: &'a dyn Clock,
}

impl Exchange<'_> {
    /// The answer to a question, which depends on the server's capabilities, within the deadline.
    async fn in_time<W: Selection>(
        &self,
        question: impl Fn(Capabilities) -> (String, Reading<W>),
    ) -> Result<W::Meaning, Error> {
        tokio::time::timeout(DEADLINE, self.answer(question)).await.unwrap_or_else(|elapsed| {
            let remote = self.remote.to_string();
            Err(Error::Unreachable { remote, reason: Unreached::TimedOut, source: Arc::new(elapsed) })
        })
    }

    async fn answer<W: Selection>(
        &self,
        question: impl Fn(Capabilities) -> (String, Reading<W>),
    ) -> Result<W::Meaning, Error> {
        match self.answer_here(&question).await? {
            Place::Here(meaning) => Ok(meaning),
            Place::Elsewhere(remote) => {
                let there = Exchange { remote: &remote, ..*self };
                match there.answer_here(&question).await? {
                    Place::Here(meaning) => Ok(meaning),
                    Place::Elsewhere(further) => Err(self.moved(Some(further.to_string()))),
                }
            }
        }
    }

    async fn answer_here<W: Selection>(
        &self,
        question: impl Fn(Capabilities) -> (String, Reading<W>),
    ) -> Result<Place<W::Meaning>, Error> {
        let error = match self.ls_refs(question(Capabilities::ASSUMED)).await {
            Ok(meaning) => return Ok(Place::Here(meaning)),
            Err(error) => error,
        };
        let is_not_understood =
            matches!(error, Error::Protocol { source: AnswerError::Cut, .. } | Error::Refused { .. });
        // Some servers answer a request to an address without `.git` as if there were no repository.
        let may_be_elsewhere = self.remote.redirects == Redirects::WithinOrigin
            && matches!(error, Error::NotFound { .. } | Error::Moved { .. });
        if !is_not_understood && !may_be_elsewhere {
            return Err(error);
        }
        let mut response = match self.advertised().await? {
            Place::Here(response) => response,
            Place::Elsewhere(remote) => return Ok(Place::Elsewhere(remote)),
        };
        let (advertisement, read) = self.advertisement(response.body_mut()).await?;
        match advertisement {
            Advertisement::Capabilities(Capabilities::ASSUMED) => Err(error),
            Advertisement::Capabilities(capabilities) => self.ls_refs(question(capabilities)).await.map(Place::Here),
            Advertisement::Refs(object_format) => {
                let (_, reading) = question(Capabilities { object_format, unborn: false });
                self.read(reading.from_advertisement(), read, response.body_mut()).await.map(Place::Here)
            }
        }
    }

    async fn ls_refs<W: Selection>(&self, (body, reading): (String, Reading<W>)) -> Result<W::Meaning, Error> {
        let response = self.send(Method::POST, "git-upload-pack", RESULT, body).await?;
        let mut response = self.accepted(response, RESULT).await?;
        self.read(reading, Vec::new(), response.body_mut()).await
    }

    /// Reads a list of refs. `begun` is the part of it that was already read.
    async fn read<W: Selection>(
        &self,
        mut reading: Reading<W>,
        begun: Vec<u8>,
        body: &mut Body,
    ) -> Result<W::Meaning, Error> {
        let mut length = begun.len();
        let mut is_known = reading.push(&begun).map_err(|error| self.protocol(error))?;
        while !is_known && let Some(chunk) = self.chunk(body).await? {
            length += chunk.len();
            if length > ANSWER_LIMIT {
                return Err(self.protocol(AnswerError::Malformed("its answer is too long")));
            }
            is_known = reading.push(&chunk).map_err(|error| self.protocol(error))?;
        }
        reading.finish().map_err(|error| self.protocol(error))
    }

    /// Asks for the server's capabilities.
    async fn advertised(&self) -> Result<Place<Response<Body>>, Error> {
        let path = "info/refs?service=git-upload-pack";
        let response = self.send(Method::GET, path, ADVERTISEMENT, String::new()).await?;
        match self.redirected(&response) {
            Some(remote) => Ok(Place::Elsewhere(remote)),
            None => self.accepted(response, ADVERTISEMENT).await.map(Place::Here),
        }
    }

    /// The target of a redirect that may be followed.
    fn redirected(&self, response: &Response<Body>) -> Option<Remote> {
        if !response.status().is_redirection() || self.remote.redirects != Redirects::WithinOrigin {
            return None;
        }
        let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
        let mut url = self.remote.url.join(location).ok()?;
        if url.origin() != self.remote.url.origin() || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        let path = url.path().strip_suffix("/info/refs").filter(|path| !path.is_empty())?.to_owned();
        url.set_path(&path);
        url.set_query(None);
        url.set_fragment(None);
        Some(Remote { url, redirects: self.remote.redirects })
    }

    /// Reads as much of an advertisement as its classification needs. Returns the bytes as well.
    async fn advertisement(&self, body: &mut Body) -> Result<(Advertisement, Vec<u8>), Error> {
        let mut read = Vec::new();
        loop {
            match advertisement(&read) {
                Ok(advertisement) => return Ok((advertisement, read)),
                Err(AnswerError::Cut) if read.len() < ADVERTISEMENT_LIMIT => {}
                Err(error) => return Err(self.protocol(error)),
            }
            match self.chunk(body).await? {
                Some(chunk) => read.extend_from_slice(&chunk),
                None => return Err(self.protocol(AnswerError::Cut)),
            }
        }
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
        self.transport.clone().oneshot(request).await.map_err(|error| self.unreached(error))
    }

    /// The response, if it is a 200 of this type.
    async fn accepted(&self, response: Response<Body>, accept: &'static str) -> Result<Response<Body>, Error> {
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
            return self.limited(wait);
        }
        if status.is_redirection() {
            return self.moved(self.moved_to(response.headers()));
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return Error::Server { remote, status: status.as_u16() };
        }
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_html = kind.starts_with("text/html");
        let said = if kind.starts_with("text/plain") {
            self.bytes(response.body_mut(), REFUSAL_LIMIT).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        let said = self.said(&String::from_utf8_lossy(&said));
        let message = match said.as_str() {
            "" if is_html => {
                format!("{status}, with an HTML page, which may be that of a proxy or firewall")
            }
            "" => status.to_string(),
            _ => said,
        };
        if status == StatusCode::FORBIDDEN && message.to_ascii_lowercase().contains("rate limit") {
            return self.limited(None);
        }
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { remote, message },
            // Without credentials, GitHub does not show whether the repository exists.
            StatusCode::UNAUTHORIZED if self.credentials.is_none() => Error::NotFound { remote, message },
            StatusCode::UNAUTHORIZED => Error::CredentialsRefused { remote, message },
            StatusCode::FORBIDDEN | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => match Block::of(&message) {
                Some(block) => Error::Blocked { remote, message, block },
                None => Error::Forbidden { remote, message },
            },
            _ => Error::Refused { remote, message },
        }
    }

    fn limited(&self, wait: Option<SignedDuration>) -> Error {
        let wait = wait.unwrap_or(SHORTEST_WAIT).clamp(SignedDuration::from_secs(1), LONGEST_WAIT);
        let until = self.clock.now().checked_add(wait).unwrap_or(Timestamp::MAX);
        Error::RateLimited { remote: self.remote.to_string(), until }
    }

    /// The next bytes of a body. `None` at its end.
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

    fn moved(&self, to: Option<String>) -> Error {
        Error::Moved { remote: self.remote.to_string(), to }
    }

    fn moved_to(&self, headers: &HeaderMap) -> Option<String> {
        let location = headers.get(header::LOCATION)?.to_str().ok()?;
        let mut url = self.remote.url.join(location).ok()?;
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        let url = url.as_str();
        let repository = ["/git-upload-pack", "/info/refs"].into_iter().find_map(|path| url.strip_suffix(path));
        Some(self.said(repository.unwrap_or(url)))
    }

    /// A server's message, redacted and cut.
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
        if Blocked::is_in(&*error) {
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
