//! git over smart HTTP. Access is decided as on GitHub; `git http-backend` does everything else.
//!
//! Bodies are streamed in both directions, except for the answer to a push: it is sent when the push is part of the
//! state, so that a client that sees its success finds it in the API.

use std::process::Stdio;
use std::sync::Arc;

use axum::body::Body;
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::access::Level;
use crate::bare;
use crate::because::{Because, PushRefusal};
use crate::credential::{self, Credential};
use crate::journal::Caller;
use crate::lock;
use crate::model::Repository;
use crate::rest::visible;
use crate::server::Hub;
use crate::state::State;

/// A request to git's own paths.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    owner: String,
    repository: String,
    /// The path after the repository, such as `info/refs`.
    rest: String,
    /// Whether it belongs to a push, even if it only asks for refs.
    push: bool,
}

/// The result of a request.
pub(crate) struct Served {
    pub(crate) response: Response<Body>,
    pub(crate) caller: Caller,
    pub(crate) route: String,
}

impl Target {
    /// The target of a path; `None` if it is not one of git's.
    pub(crate) fn of(path: &str, query: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_start_matches('/').splitn(3, '/').collect();
        let [owner, repository, rest] = parts[..] else { return None };
        let push = match rest {
            "git-upload-pack" => false,
            "git-receive-pack" => true,
            "info/refs" => query.contains("service=git-receive-pack"),
            _ => return None,
        };
        let repository = repository.strip_suffix(".git").unwrap_or(repository);
        Some(Self { owner: owner.into(), repository: repository.into(), rest: rest.into(), push })
    }

    /// Its name in the log.
    pub(crate) fn route(&self) -> String {
        format!("/{{owner}}/{{repo}}.git/{}", self.rest)
    }
}

/// An admitted request.
struct Admitted {
    repository: u64,
    pusher: u64,
    workflows: bool,
}

/// A refused request: a status and GitHub's message, which git shows after `remote:`.
struct Denied {
    status: StatusCode,
    text: String,
    header: Option<(HeaderName, String)>,
}

impl Denied {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), header: None }
    }

    fn unauthorized(text: &str) -> Self {
        let header = Some((header::WWW_AUTHENTICATE, "Basic realm=\"GitHub\"".to_owned()));
        Self { header, ..Self::new(StatusCode::UNAUTHORIZED, text) }
    }

    /// The answer for a fork that is still being copied: an error of the protocol, inside a 200.
    fn not_exported(target: &Target, repository: &Repository) -> Self {
        let error = format!("ERR access denied or repository not exported: /{}.git", repository.id);
        let mut text = format!("{:04x}{error}", error.len() + 4);
        let service = if target.push { "git-receive-pack" } else { "git-upload-pack" };
        let kind = if target.rest == "info/refs" {
            let opening = format!("# service={service}\n");
            text = format!("{:04x}{opening}0000{text}", opening.len() + 4);
            "advertisement"
        } else {
            "result"
        };
        let kind = format!("application/x-{service}-{kind}");
        Self { header: Some((header::CONTENT_TYPE, kind)), ..Self::new(StatusCode::OK, text) }
    }

    fn response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Serves one request of a git client.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    target: Target,
    head: request::Parts,
    body: Body,
    because: Option<Because>,
) -> Served {
    let (caller, admitted) = {
        let mut state = lock(&hub.state);
        let who = who(&mut state, &head.headers);
        let caller = who.as_ref().map_or(Caller::None, Credential::caller);
        (caller, who.and_then(|who| admit(&state, &target, &head, &who)))
    };
    let route = target.route();
    let refused = because.and_then(Because::of_git);
    let refusal = because.and_then(Because::of_push).filter(|_| target.push && head.method == Method::POST);
    let response = match admitted {
        Ok(_) if refused.is_some() => refused.unwrap_or_default(),
        Ok(admitted) => run(&hub, &target, &head, body, &admitted, refusal).await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "git http-backend failed");
            Denied::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error").response()
        }),
        Err(denied) => denied.response(),
    };
    Served { response, caller, route }
}

/// The identity of a git client. Only Basic is supported here.
fn who(state: &mut State, headers: &HeaderMap) -> Result<Credential, Denied> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Credential::Nobody) };
    let basic = value.to_str().is_ok_and(|value| value.to_ascii_lowercase().starts_with("basic "));
    let invalid = || {
        Denied::unauthorized("Invalid username or token. Password authentication is not supported for Git operations.")
    };
    let secret = credential::presented(headers).filter(|_| basic).ok_or_else(invalid)?;
    credential::installation(state, &secret).map_err(|refused| match refused.status {
        StatusCode::UNAUTHORIZED => invalid(),
        StatusCode::NOT_FOUND => Denied::new(refused.status, "Repository not found."),
        status => Denied::new(status, refused.message),
    })
}

fn admit(state: &State, target: &Target, head: &request::Parts, who: &Credential) -> Result<Admitted, Denied> {
    let missing = || match who {
        // GitHub does not reveal whether a repository exists to a client without credentials.
        Credential::Nobody => Denied::unauthorized("Repository not found."),
        _ => Denied::new(StatusCode::NOT_FOUND, "Repository not found."),
    };
    let seen = |found: &&Repository| visible(state, who, found).is_ok();
    let Some(repository) = state.repository(&target.owner, &target.repository) else {
        let moved = state.moved(&target.owner, &target.repository).filter(seen).ok_or_else(missing)?;
        return Err(redirect(state, target, head, moved));
    };
    if !seen(&repository) {
        return Err(missing());
    }
    let full_name = state.full_name(repository);
    let (token, pusher) = match who {
        Credential::Installation(_, token) => (token, bot(state, token.installation)),
        _ if target.push => return Err(missing()),
        _ if repository.forking.is_some() => return Err(Denied::not_exported(target, repository)),
        _ => return Ok(Admitted { repository: repository.id, pusher: state.person, workflows: false }),
    };
    let contents = state.token_level(token, "contents").filter(|_| state.token_reaches(token, repository));
    if target.push && contents < Some(Level::Write) {
        let text = format!("Permission to {full_name}.git denied to {}.", state.login(pusher));
        return Err(Denied::new(StatusCode::FORBIDDEN, text));
    }
    if !target.push && repository.private && contents.is_none() {
        return Err(Denied::new(StatusCode::FORBIDDEN, "Write access to repository not granted."));
    }
    if repository.forking.is_some() {
        return Err(Denied::not_exported(target, repository));
    }
    if target.push && repository.archived {
        return Err(Denied::new(StatusCode::FORBIDDEN, "This repository was archived so it is read-only."));
    }
    let workflows = state.token_level(token, "workflows") >= Some(Level::Write);
    Ok(Admitted { repository: repository.id, pusher, workflows })
}

fn bot(state: &State, installation: u64) -> u64 {
    let app = state.installations.get(&installation).and_then(|found| state.apps.get(&found.app));
    app.map_or(state.person, |app| app.bot)
}

fn redirect(state: &State, target: &Target, head: &request::Parts, moved: &Repository) -> Denied {
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let url = format!("{}/{}.git/{}{query}", state.web, state.full_name(moved), target.rest);
    Denied { header: Some((header::LOCATION, url)), ..Denied::new(StatusCode::MOVED_PERMANENTLY, "") }
}

async fn run(
    hub: &Hub,
    target: &Target,
    head: &request::Parts,
    body: Body,
    admitted: &Admitted,
    refusal: Option<PushRefusal>,
) -> std::io::Result<Response<Body>> {
    let mut child = backend(hub, target, head, admitted, refusal)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    if let Some(mut stdin) = stdin {
        tokio::spawn(async move {
            let mut body = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
            // A client that closes the connection, or a git that has read enough, ends this. git's answer shows the
            // result.
            let _ = tokio::io::copy(&mut body, &mut stdin).await;
        });
    }
    let mut stdout = BufReader::new(stdout.ok_or_else(|| std::io::Error::other("no output"))?);
    let mut response = cgi_head(&mut stdout).await?;
    if target.push && head.method == Method::POST {
        let mut answer = Vec::new();
        stdout.read_to_end(&mut answer).await?;
        child.wait().await?;
        let (state, repository, pusher) = (Arc::clone(&hub.state), admitted.repository, admitted.pusher);
        let taken = tokio::task::spawn_blocking(move || lock(&state).take_in(repository, pusher)).await;
        taken.map_err(std::io::Error::other)?.map_err(std::io::Error::other)?;
        *response.body_mut() = Body::from(answer);
    } else {
        tokio::spawn(async move { child.wait().await });
        *response.body_mut() = Body::from_stream(ReaderStream::new(stdout));
    }
    Ok(response)
}

fn backend(
    hub: &Hub,
    target: &Target,
    head: &request::Parts,
    admitted: &Admitted,
    refusal: Option<PushRefusal>,
) -> std::io::Result<Child> {
    let header = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .envs(bare::environment())
        .env("GIT_PROJECT_ROOT", hub.folder.join("repositories"))
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", format!("/{}.git/{}", admitted.repository, target.rest))
        .env("REQUEST_METHOD", head.method.as_str())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header(&header::CONTENT_TYPE))
        .env("HTTP_CONTENT_ENCODING", header(&header::CONTENT_ENCODING))
        .env("GIT_PROTOCOL", header(&HeaderName::from_static("git-protocol")))
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("GITHUB_SIM_WORKFLOWS", if admitted.workflows { "granted" } else { "refused" })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    match refusal {
        Some(PushRefusal::Lines(lines)) => {
            command.env("GITHUB_SIM_REFUSAL", lines);
        }
        Some(PushRefusal::PackSize) => {
            let setting = [("COUNT", "1"), ("KEY_0", "receive.maxInputSize"), ("VALUE_0", "1")];
            command.envs(setting.map(|(name, value)| (format!("GIT_CONFIG_{name}"), value)));
        }
        None => {}
    }
    let length = header(&header::CONTENT_LENGTH);
    if !length.is_empty() {
        command.env("CONTENT_LENGTH", length);
    }
    command.spawn()
}

/// The head of a CGI answer (RFC 3875): header lines, including `Status`, and an empty line.
async fn cgi_head(stdout: &mut BufReader<ChildStdout>) -> std::io::Result<Response<Body>> {
    let mut response = Response::new(Body::empty());
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).await? == 0 {
            return Err(std::io::Error::other("git http-backend ended before its headers did"));
        }
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else { return Ok(response) };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let status = value.split(' ').next().and_then(|code| StatusCode::from_bytes(code.as_bytes()).ok());
            *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        } else if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
}
