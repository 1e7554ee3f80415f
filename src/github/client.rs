//! The calls to GitHub that the controllers make, for one GitHub App.
//!
//! The invariant: a call sends one request and returns a model or an [`Error`]; it neither sleeps nor retries. A request with a
//! wider effect than it says is not sent (GitHub reads an empty list of repositories as all of them). Names become segments of a
//! path in one place ([`GitHub::repository_path`]), so a name with a slash cannot reach another path.
//!
//! This file has the code that all calls share and the calls for the App and its tokens. The calls for a repository are in
//! [`repositories`], for hooks in [`hooks`], for forks in [`forks`], for pull requests in [`pulls`].
pub mod forks;
pub mod hooks;
pub mod pulls;
pub mod repositories;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use http::{HeaderMap, Request, Response, header};
use http_body_util::combinators::BoxBody;
use hyper::body::Bytes;
use octocrab::{AuthState, FromResponse, Octocrab, OctocrabBuilder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use url::Url;

use super::credentials::AppCredentials;
use super::endpoint::Endpoint;
use super::error::{Error, Route, Target, Unreached};
use super::models::{Account, App, Installation, Minted};
use super::redact::shown;
use super::secret::Token;
use super::stack::auth::Credential;
use super::stack::{Observe, Stack};
use super::transport::Transport;
use crate::ids::{InstallationId, RepositoryId};
use crate::runtime::clock::Clock;

const APP: Route = Route { method: "GET", template: "/app" };
const INSTALLATIONS: Route = Route { method: "GET", template: "/app/installations" };
const MINT: Route = Route { method: "POST", template: "/app/installations/{installation_id}/access_tokens" };
const VERIFY: Route = Route { method: "GET", template: "/installation/repositories" };
const REVOKE: Route = Route { method: "DELETE", template: "/installation/token" };
const USER: Route = Route { method: "GET", template: "/users/{username}" };

/// A hundred thousand installations.
const PAGES: usize = 1000;
/// The most repositories that GitHub accepts in one request for a token.
const MINTED_REPOSITORIES: usize = 500;

type Answer = Response<BoxBody<Bytes, octocrab::Error>>;

/// The repositories of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repositories {
    /// All repositories of the installation, also future ones.
    All,
    /// By name within the installation's account: one to 500.
    Names(Vec<String>),
    /// By id: one to 500.
    Ids(Vec<RepositoryId>),
}

/// The repositories and permissions of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub repositories: Repositories,
    /// Names and levels in GitHub's words; at least one.
    pub permissions: BTreeMap<String, String>,
}

/// The result of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// GitHub revoked the token.
    Revoked,
    /// The token had expired or was revoked before.
    AlreadyDead,
}

/// A client of one GitHub for one App. Clones share connections, the rate budget and the preference between two keys.
#[derive(Clone, Debug)]
pub struct GitHub {
    octocrab: Octocrab,
    endpoint: Arc<Endpoint>,
    host: Arc<str>,
}

impl GitHub {
    /// Needs a tokio runtime.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        transport: Transport,
        credentials: AppCredentials,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observe>,
    ) -> Self {
        let (host, endpoint) = (Arc::from(endpoint.host()), Arc::new(endpoint));
        let stack = Stack {
            endpoint: Arc::clone(&endpoint),
            host: Arc::clone(&host),
            credentials: Arc::new(credentials),
            clock,
            observer,
        };
        let Ok(octocrab) =
            OctocrabBuilder::new_empty().with_service(transport).with_layer(&stack).with_auth(AuthState::None).build();
        Self { octocrab, endpoint, host }
    }

    /// The addresses of this GitHub.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `GET /app`: the App these credentials belong to.
    pub async fn app(&self) -> Result<App, Error> {
        let answer = self.send(APP, Credential::App, APP.template, NO_BODY).await?;
        self.read(APP, answer).await
    }

    /// `GET /app/installations`, every page, sorted by id. Suspended installations are included.
    pub async fn installations(&self) -> Result<Vec<Installation>, Error> {
        let found = self.pages(INSTALLATIONS, &Credential::App, INSTALLATIONS.template).await?;
        let by_id: BTreeMap<_, Installation> =
            found.into_iter().map(|installation: Installation| (installation.id, installation)).collect();
        Ok(by_id.into_values().collect())
    }

    /// `POST /app/installations/{installation_id}/access_tokens`: mints a token that expires after an hour.
    ///
    /// Not idempotent: if the answer is lost, a token that nobody holds may live for an hour.
    pub async fn mint(&self, installation_id: InstallationId, scope: &Scope) -> Result<Minted, Error> {
        let body = scope.body().map_err(|what| self.unsent(MINT, what))?;
        let path = format!("/app/installations/{installation_id}/access_tokens");
        let answer = self.send(MINT, Credential::App, &path, Some(&body)).await?;
        let minted: Minted = self.read(MINT, answer).await?;
        Ok(Minted { token: minted.token.of_installation(installation_id), ..minted })
    }

    /// `GET /installation/repositories` with the token: verifies that GitHub accepts it. GitHub may refuse a new token for seconds.
    pub async fn verify(&self, token: &Token) -> Result<(), Error> {
        let answer = self
            .send(VERIFY, Credential::Token(token.clone()), "/installation/repositories?per_page=1", NO_BODY)
            .await?;
        self.read::<IgnoredAny>(VERIFY, answer).await.map(drop)
    }

    /// `DELETE /installation/token` with the token.
    pub async fn revoke(&self, token: &Token) -> Result<Revocation, Error> {
        match self.send(REVOKE, Credential::Token(token.clone()), REVOKE.template, NO_BODY).await {
            Ok(_) => Ok(Revocation::Revoked),
            Err(Error::TokenRefused { .. }) => Ok(Revocation::AlreadyDead),
            Err(error) => Err(error),
        }
    }

    /// `GET /users/{slug}[bot]`: the user that commits for an App; its id is not the App's. The call has no
    /// credentials, because GitHub refuses a JWT here. A GitHub Enterprise Server in private mode answers 401.
    pub async fn bot_user(&self, slug: &str) -> Result<Account, Error> {
        let login = format!("{slug}[bot]");
        let path = format!("/users/{}", utf8_percent_encode(&login, SEGMENT));
        let answer = self.send(USER, Credential::None, &path, NO_BODY).await?;
        self.read(USER, answer).await
    }

    /// Sends one request through the stack, which turns a refusal into an error.
    async fn send<B: Serialize>(
        &self,
        route: Route,
        credential: Credential,
        path: &str,
        body: Option<&B>,
    ) -> Result<Answer, Error> {
        let request = Request::builder().method(route.method).uri(path).extension(route).extension(credential);
        let request = self.octocrab.build_request(request, body).map_err(|error| self.failed(route, error))?;
        self.octocrab.execute(request).await.map_err(|error| self.failed(route, error))
    }

    /// Every page of a list. An entry that moves to another page meanwhile is in it twice, or missing.
    async fn pages<T: DeserializeOwned>(
        &self,
        route: Route,
        credential: &Credential,
        path: &str,
    ) -> Result<Vec<T>, Error> {
        let mut found = Vec::new();
        let more = if path.contains('?') { '&' } else { '?' };
        let mut page = format!("{}{path}{more}per_page=100", self.endpoint.api_url());
        let mut seen = HashSet::new();
        for _ in 0..PAGES {
            if !seen.insert(page.clone()) {
                return Err(self.malformed(route, "its pages lead in circles".into()));
            }
            let answer = self.send(route, credential.clone(), &page, NO_BODY).await?;
            let next = next_page(answer.headers(), &page).map_err(|what| self.malformed(route, what.to_owned()))?;
            found.extend(self.read::<Vec<T>>(route, answer).await?);
            match next {
                Some(next) => page = next.into(),
                None => return Ok(found),
            }
        }
        Err(self.malformed(route, format!("it has more than {PAGES} pages")))
    }

    async fn read<T: FromResponse>(&self, route: Route, answer: Answer) -> Result<T, Error> {
        T::from_response(answer).await.map_err(|error| self.failed(route, error))
    }

    /// Converts an error of octocrab's: it wraps one of the stack's, or reports that a request or a response is malformed.
    fn failed(&self, route: Route, error: octocrab::Error) -> Error {
        match error {
            octocrab::Error::Service { source, .. } => match source.downcast::<Error>() {
                Ok(error) => *error,
                Err(source) => Error::Unreachable {
                    target: self.target(route),
                    reason: Unreached::NotConnected,
                    source: Arc::from(source),
                },
            },
            octocrab::Error::Json { source, .. } => {
                let what = format!("its answer cannot be read at `{}` ({})", source.path(), source.inner());
                self.malformed(route, shown(&what))
            }
            other => self.unsent(route, shown(&other.to_string())),
        }
    }

    fn malformed(&self, route: Route, what: String) -> Error {
        Error::Malformed { target: self.target(route), what }
    }

    fn unsent(&self, route: Route, what: impl Into<String>) -> Error {
        Error::Unsent { target: self.target(route), what: what.into() }
    }

    /// `/repos/{owner}/{name}`, each one segment. A URL resolves `.` and `..` even if they are escaped, so they are refused.
    fn repository_path(&self, route: Route, owner: &str, name: &str) -> Result<String, Error> {
        for segment in [owner, name] {
            if matches!(segment, "" | "." | "..") {
                return Err(self.unsent(route, format!("`{segment}` is no name of an account or a repository")));
            }
        }
        Ok(format!("/repos/{}/{}", utf8_percent_encode(owner, SEGMENT), utf8_percent_encode(name, SEGMENT)))
    }

    fn target(&self, route: Route) -> Target {
        Target { host: Arc::clone(&self.host), route }
    }
}

/// Characters to escape in a segment of a path: all but RFC 3986's unreserved ones.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const NO_BODY: Option<&()> = None;

/// The body of a request for a token.
#[derive(Serialize)]
struct AccessTokenRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    repositories: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository_ids: Option<&'a [RepositoryId]>,
    permissions: &'a BTreeMap<String, String>,
}

impl Scope {
    fn body(&self) -> Result<AccessTokenRequest<'_>, String> {
        let (repositories, repository_ids, count) = match &self.repositories {
            Repositories::All => (None, None, 1),
            Repositories::Names(names) => (Some(names.as_slice()), None, names.len()),
            Repositories::Ids(ids) => (None, Some(ids.as_slice()), ids.len()),
        };
        match count {
            0 => Err("no repository was named, which GitHub takes for all of them; name one, or ask for all".into()),
            1..=MINTED_REPOSITORIES if self.permissions.is_empty() => {
                Err("no permission was named, which GitHub takes for all that the installation has; name one, like metadata: read".into())
            }
            1..=MINTED_REPOSITORIES => Ok(AccessTokenRequest { repositories, repository_ids, permissions: &self.permissions }),
            _ => Err(format!("{count} repositories were named, and GitHub takes {MINTED_REPOSITORIES}; name fewer, or ask for all")),
        }
    }
}

/// The next page's address in the `Link` header (RFC 8288). The layer that adds credentials checks that it is in the API.
fn next_page(headers: &HeaderMap, page: &str) -> Result<Option<Url>, &'static str> {
    for value in headers.get_all(header::LINK) {
        let mut rest = value.to_str().map_err(|_| "its Link header is not text")?;
        while let Some((_, link)) = rest.split_once('<') {
            let (address, parameters) = link.split_once('>').ok_or("its Link header has no `>`")?;
            let end = parameters.find('<').unwrap_or(parameters.len());
            let is_next = parameters[..end]
                .split([';', ','])
                .any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
            if is_next {
                let from = Url::parse(page).map_err(|_| "its own address cannot be read")?;
                return from.join(address).map(Some).map_err(|_| "its Link header names no address");
            }
            rest = &parameters[end..];
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
