//! The listener, and the path of a request to its answer and into the log.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use http::{HeaderName, StatusCode, header, request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::credential::Credential;
use crate::fault::FaultKind;
use crate::git_http::{self, Served, Target};
use crate::journal::{Caller, Entry};
use crate::lock;
use crate::refusal::Refusal;
use crate::rest::{self, Answer, Asked, Reply};
use crate::state::State;

/// The most bytes of a request to the API.
const MOST_BODY: usize = 25 * 1024 * 1024;
/// The longest delay of a fault.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The state that all requests share.
pub(crate) struct Hub {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) web: String,
    pub(crate) ca_pem: Option<String>,
    pub(crate) folder: PathBuf,
}

/// Marks a response that is not sent, because the connection is closed instead.
#[derive(Clone, Copy)]
struct Cut;

/// The connection was closed on purpose.
#[derive(Debug, thiserror::Error)]
#[error("cut by an injected fault")]
struct Severed;

/// Accepts connections until the stop. Open ones end with it.
pub(crate) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        tokio::spawn(async move {
            // Answers are small and a client waits for them. Without this they would be delayed until the client's
            // acknowledgement.
            let _ = stream.set_nodelay(true);
            let served = async {
                match tls {
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            connection(stream, router).await;
                        }
                    }
                    None => connection(stream, router).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = served => {}
            }
        });
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, router: Router) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move {
            let response = router.oneshot(request.map(Body::new)).await.map_err(|never| match never {})?;
            if response.extensions().get::<Cut>().is_some() { Err(Severed) } else { Ok(response) }
        }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended");
    }
}

/// Everything except the control API: REST, GraphQL and git. A client that disconnects does not cancel it.
pub(crate) async fn github(Shared(hub): Shared<Arc<Hub>>, request: Request) -> Response {
    let answered = tokio::spawn(async move { answered(&hub, request).await });
    answered.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a handler ended early");
        let mut response = Response::new(Body::from("{\"message\":\"Server Error\"}"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Fills the forks that are due at this request.
async fn settle(hub: &Hub) {
    if !lock(&hub.state).forks_due() {
        return;
    }
    let state = Arc::clone(&hub.state);
    let settled = tokio::task::spawn_blocking(move || lock(&state).settle_forks()).await;
    if let Err(error) = settled {
        tracing::error!(%error, "forks were not filled");
    }
}

async fn answered(hub: &Arc<Hub>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let (api, path) = api_of(&hub.web, head.uri.path());
    settle(hub).await;
    let (time, fault) = {
        let mut state = lock(&hub.state);
        (state.now(), state.faults.strike(head.method.as_str(), &path))
    };
    let text =
        |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut entry = Entry {
        sequence: 0,
        time,
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: query.clone(),
        status: None,
        caller: Caller::None,
        user_agent: text(header::USER_AGENT),
        route: None,
        unknown: false,
        fault: fault.as_ref().map(|fault| fault.name().to_owned()),
    };
    if let Some(FaultKind::Delay { milliseconds }) = fault {
        tokio::time::sleep(Duration::from_millis(milliseconds).min(LONGEST_DELAY)).await;
    }
    let lost = matches!(fault, Some(FaultKind::Cut | FaultKind::LoseResponse));
    let mut response = match (fault, Target::of(head.uri.path(), &query)) {
        (Some(kind @ (FaultKind::Cut | FaultKind::Status { .. })), target) => {
            let asked = asked(head, axum::body::Bytes::new(), api, path, None);
            let mut state = lock(&hub.state);
            let (caller, route) = rest::attribution(&state, &asked);
            entry.caller = caller;
            entry.route = target.as_ref().map(Target::route).or(route);
            match kind {
                FaultKind::Status { status, body, headers } => {
                    into_response(faulty(&mut state, &asked, status, body, headers))
                }
                _ => Response::new(Body::empty()),
            }
        }
        (_, Some(target)) => {
            let Served { response, caller, route } = git_http::serve(Arc::clone(hub), target, head, body).await;
            entry.caller = caller;
            entry.route = Some(route);
            response
        }
        (fault, None) => {
            let fresh = match fault {
                Some(FaultKind::FreshToken { uses, status }) => Some((uses, status)),
                _ => None,
            };
            let answer = api_answer(hub, head, body, (api, path), fresh).await;
            entry.caller = answer.caller;
            entry.route.clone_from(&answer.route);
            entry.unknown = answer.unknown;
            into_response(answer)
        }
    };
    if lost {
        response.extensions_mut().insert(Cut);
    } else {
        entry.status = Some(response.status().as_u16());
    }
    tracing::info!(
        method = entry.method, path = entry.path, status = entry.status, caller = ?entry.caller, fault = entry.fault, "request"
    );
    lock(&hub.state).journal.add(entry);
    response
}

async fn api_answer(
    hub: &Hub,
    head: request::Parts,
    body: Body,
    (api, path): (String, String),
    fresh: Option<(u32, u16)>,
) -> Answer {
    let body = axum::body::to_bytes(body, MOST_BODY).await;
    let too_large = body.is_err();
    let asked = asked(head, body.unwrap_or_default(), api, path, fresh);
    let state = Arc::clone(&hub.state);
    let answer = tokio::task::spawn_blocking(move || {
        let mut state = lock(&state);
        if too_large {
            let refused = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large");
            return rest::finish(&mut state, &asked, None, &Credential::Nobody, Err(refused));
        }
        rest::answer(&mut state, &asked)
    });
    answer.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a handler ended early");
        Answer::server_error()
    })
}

fn asked(
    head: request::Parts,
    body: axum::body::Bytes,
    api: String,
    path: String,
    fresh_token: Option<(u32, u16)>,
) -> Asked {
    let query = head.uri.query().unwrap_or_default().to_owned();
    Asked { method: head.method, path, query, headers: head.headers, body, api, fresh_token }
}

/// The API's base as the caller used it, and the path under it.
fn api_of(web: &str, path: &str) -> (String, String) {
    if path == "/api/graphql" {
        return (format!("{web}/api/v3"), "/graphql".to_owned());
    }
    match path.strip_prefix("/api/v3") {
        Some("") => (format!("{web}/api/v3"), "/".to_owned()),
        Some(rest) if rest.starts_with('/') => (format!("{web}/api/v3"), rest.to_owned()),
        _ => (web.to_owned(), path.to_owned()),
    }
}

/// An injected answer, with GitHub's usual headers.
fn faulty(
    state: &mut State,
    asked: &Asked,
    status: u16,
    body: Option<serde_json::Value>,
    headers: std::collections::BTreeMap<String, String>,
) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let refused = Refusal::new(status, status.canonical_reason().unwrap_or("Error"));
    let body = body.unwrap_or_else(|| refused.body(crate::refusal::DOCUMENTATION));
    let reply = Reply::new(status, body);
    let mut answer = rest::finish(state, asked, None, &Credential::Nobody, Ok(reply));
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value.parse()) {
            answer.headers.insert(name, value);
        }
    }
    answer
}

fn into_response(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
