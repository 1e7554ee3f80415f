//! The exchange with GitHub, in the name of a workspace.
//!
//! The invariant: the token goes to the address of the workspace's repository and nowhere else. No redirect is followed, and the
//! client's own headers stay here but for the version of git's protocol and the encoding of its body. GitHub's words about a
//! refusal are passed on as they are, without the token if they repeat it; a 401 never is, because git would ask the person for a
//! password.

use super::identity::Access;
use super::refs::RefName;
use super::route::{Route, Service, Step};
use super::stream::{Encoding, EncodingError, Reader, TimeLimits};
use crate::git::{BasicAuth, FullNameError, Remote, Sha};
use crate::github::redact::shown;
use crate::github::transport::{Body, Transport, Unreached, reason};
use crate::github::{Endpoint, Token};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use octocrab::OctoBody;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;
use zeroize::Zeroizing;

const USER_AGENT: &str = concat!("landfall/", env!("CARGO_PKG_VERSION"));
const GIT_PROTOCOL: &str = "git-protocol";
const API_VERSION: &str = "2022-11-28";
/// Time for a change of a ref.
const CHANGE: Duration = Duration::from_secs(30);
/// The characters to escape in a path: all but those of names and slashes.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// The most bytes of a refusal of GitHub's that are passed on.
const LONGEST_REFUSAL: usize = 4 << 10;

/// The most bytes of a list of refs.
const LONGEST_LIST: u64 = 256 << 10;

/// A ref, as GitHub's REST API lists it.
#[derive(Deserialize)]
struct Ref {
    #[serde(rename = "ref")]
    name: String,
}

/// What a token may do with the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Right {
    Read,
    Write,
}

impl Right {
    #[must_use]
    pub fn of(service: Service) -> Self {
        match service {
            Service::UploadPack => Self::Read,
            Service::ReceivePack => Self::Write,
        }
    }
}

/// The way to a repository at GitHub.
pub struct Upstream {
    transport: Transport,
    remote: Remote,
    /// The address of the repository at the REST API.
    api: String,
    token: Token,
    credentials: BasicAuth,
}

/// Why there is no way to GitHub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoUpstream {
    /// 403: the grant, the installation or the repository is gone. The words are for the person.
    #[error("{0}")]
    Refused(String),
    /// 503: it passes.
    #[error("{0}")]
    Unavailable(String),
}

/// GitHub did not change a ref.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotMoved {
    pub name: RefName,
    pub reason: String,
}

/// The body of a refusal of the REST API.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Knows the way to GitHub for a workspace.
pub trait Upstreams: Send + Sync + 'static {
    fn open<'a>(&'a self, access: &'a Access, right: Right) -> BoxFuture<'a, Result<Arc<Upstream>, NoUpstream>>;

    /// GitHub refused the token of this one, or the repository is elsewhere by now.
    fn refused(&self, access: &Access, right: Right, upstream: &Arc<Upstream>);
}

/// The headers of a client that concern GitHub.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    protocol: Option<HeaderValue>,
    encoding: Option<HeaderValue>,
}

impl Passed {
    /// Those of a request whose body is passed on as it is.
    pub fn of(headers: &HeaderMap) -> Result<Self, EncodingError> {
        let encoding = match Encoding::of(headers)? {
            Encoding::Plain => None,
            Encoding::Gzip => Some(HeaderValue::from_static("gzip")),
        };
        Ok(Self { encoding, ..Self::decoded(headers) })
    }

    /// Those of a request whose body was decoded.
    #[must_use]
    pub fn decoded(headers: &HeaderMap) -> Self {
        let versions = ["version=0", "version=1", "version=2"].map(HeaderValue::from_static);
        let protocol = headers.get(GIT_PROTOCOL).filter(|value| versions.contains(value)).cloned();
        Self { protocol, encoding: None }
    }
}

/// An answer that is not passed to git as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// 401, or a redirect: another token or another address is needed.
    Stale,
    /// GitHub's refusal, in its own words.
    Refused { status: StatusCode, text: String, retry_after: Option<HeaderValue> },
    /// The answer is not git's.
    NotGit,
    /// No answer.
    Unreached(Unreached),
}

/// A media type of git's, such as `application/x-git-upload-pack-result`.
#[must_use]
pub fn media_type(service: Service, part: &str) -> String {
    format!("application/x-{}-{part}", service.as_str())
}

/// The media type of the answer.
#[must_use]
pub fn answer_type(route: &Route) -> String {
    media_type(route.service, if route.step == Step::Advertisement { "advertisement" } else { "result" })
}

impl Upstream {
    /// The way to the repository with this full name, by a token of an installation.
    pub fn new(
        endpoint: &Endpoint,
        full_name: &str,
        transport: Transport,
        token: Token,
    ) -> Result<Self, FullNameError> {
        let remote = Remote::github(endpoint, full_name)?;
        let api = format!("{}/repos/{full_name}", endpoint.api_url());
        Ok(Self { transport, remote, api, credentials: BasicAuth::installation(token.clone()), token })
    }

    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The address of the repository.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Sends a request.
    pub async fn send(&self, request: Request<OctoBody>) -> Result<Response<Body>, Failed> {
        self.transport.clone().oneshot(request).await.map_err(|error| Failed::Unreached(reason(&*error)))
    }

    /// Moves a branch to a commit that GitHub has, if that is a fast-forward.
    pub async fn fast_forward(&self, name: &RefName, to: &Sha) -> Result<(), NotMoved> {
        let body = json!({"sha": to.as_str(), "force": false}).to_string();
        self.change(Method::PATCH, name, body).await
    }

    /// Deletes a ref.
    pub async fn delete(&self, name: &RefName) -> Result<(), NotMoved> {
        self.change(Method::DELETE, name, String::new()).await
    }

    async fn change(&self, method: Method, name: &RefName, body: String) -> Result<(), NotMoved> {
        let not_moved = |reason: String| NotMoved { name: name.clone(), reason };
        let path = name.as_str().strip_prefix("refs/").unwrap_or_default();
        let request =
            self.rest(method, &format!("git/refs/{}", utf8_percent_encode(path, PATH)), body).map_err(not_moved)?;
        let changed = async {
            let response =
                self.send(request).await.map_err(|_| not_moved("GitHub gave no answer; push again".into()))?;
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            let time = TimeLimits { until: Instant::now() + CHANGE, stall: CHANGE };
            let text = Reader::plain(response.into_body(), u64::MAX, time).text(LONGEST_REFUSAL).await;
            let message = serde_json::from_str::<Refusal>(&text).map(|refusal| refusal.message).unwrap_or_default();
            Err(not_moved(match message.as_str() {
                "Update is not a fast forward" => {
                    "not a fast-forward, and the branch may not be this workspace's own; see spec.push.force".into()
                }
                "" => format!("GitHub answers {status}"),
                message => shown(&self.credentials.cut_from(message)),
            }))
        };
        let no_answer = || Err(not_moved("GitHub gave no answer in time; push again".into()));
        timeout(CHANGE, changed).await.unwrap_or_else(|_| no_answer())
    }

    /// The names of refs below a name, as many as GitHub gives at once.
    pub async fn refs_below(&self, name: &str) -> Result<Vec<RefName>, String> {
        let path = name.strip_prefix("refs/").unwrap_or_default();
        let path = format!("git/matching-refs/{}/?per_page=100", utf8_percent_encode(path, PATH));
        let request = self.rest(Method::GET, &path, String::new())?;
        let read = async {
            let response = self.send(request).await.map_err(|_| "GitHub gave no answer".to_owned())?;
            if !response.status().is_success() {
                return Err(format!("GitHub answers {}", response.status()));
            }
            let time = TimeLimits { until: Instant::now() + CHANGE, stall: CHANGE };
            let bytes = Reader::plain(response.into_body(), LONGEST_LIST, time).bytes().await;
            bytes.map_err(|error| format!("the list was not read: {error}"))
        };
        let bytes = timeout(CHANGE, read).await.map_err(|_| "GitHub gave no answer in time".to_owned())??;
        let refs: Vec<Ref> = serde_json::from_slice(&bytes).map_err(|error| format!("no list of refs: {error}"))?;
        Ok(refs.iter().filter_map(|found| found.name.parse().ok()).collect())
    }

    fn rest(&self, method: Method, path: &str, body: String) -> Result<Request<OctoBody>, String> {
        let mut authorization = HeaderValue::from_str(&Zeroizing::new(format!("Bearer {}", self.token.expose())))
            .map_err(|_| "the token does not fit into a header".to_owned())?;
        authorization.set_sensitive(true);
        Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.api))
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "application/vnd.github+json")
            .header("x-github-api-version", API_VERSION)
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(OctoBody::from(body))
            .map_err(|_| "its name makes no request".to_owned())
    }

    /// The request to GitHub. None if its parts make no request, which a [`Remote`] and a [`BasicAuth`] rule out.
    #[must_use]
    pub fn request(&self, route: &Route, passed: &Passed, body: OctoBody) -> Option<Request<OctoBody>> {
        let (remote, service) = (&self.remote, route.service.as_str());
        let (method, address) = match route.step {
            Step::Advertisement => (Method::GET, format!("{remote}/info/refs?service={service}")),
            Step::Exchange => (Method::POST, format!("{remote}/{service}")),
        };
        let mut request = Request::builder()
            .method(&method)
            .uri(address)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, answer_type(route))
            .header(header::AUTHORIZATION, self.credentials.header()?);
        if method == Method::POST {
            request = request.header(header::CONTENT_TYPE, media_type(route.service, "request"));
        }
        for (name, value) in [(GIT_PROTOCOL, &passed.protocol), ("content-encoding", &passed.encoding)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(body).ok()
    }

    /// The answer, if it is git's.
    pub async fn judge(
        &self,
        route: &Route,
        response: Response<Body>,
        time: TimeLimits,
    ) -> Result<Response<Body>, Failed> {
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if status == StatusCode::OK {
            return if kind == answer_type(route) { Ok(response) } else { Err(Failed::NotGit) };
        }
        if status == StatusCode::UNAUTHORIZED || status.is_redirection() {
            return Err(Failed::Stale);
        }
        if !status.is_client_error() && !status.is_server_error() {
            return Err(Failed::NotGit);
        }
        let retry_after = response.headers().get(header::RETRY_AFTER).cloned();
        let text = match kind.as_str() {
            "text/plain" => Reader::plain(response.into_body(), u64::MAX, time).text(LONGEST_REFUSAL).await,
            _ => String::new(),
        };
        let text = self.credentials.cut_from(&text);
        let text = if text.trim().is_empty() { format!("GitHub answers {status}") } else { text };
        Err(Failed::Refused { status, text, retry_after })
    }
}
