//! The controller's internal API, as the gateway calls it.
//!
//! The invariant: the gateway's own token, and the tokens that it holds, go to a server with a certificate of the operator's own
//! authority and to no other; the system's authorities do not count. An answer about a pod counts for a second, and for that pod
//! alone. It counts for as long as a token lives only while no controller can be reached. Any other answer ends it, so nobody can
//! keep a decision by making the next one impossible.

use super::identity::{Access, NoAccess, Workspaces};
use super::messages::{
    ACCESS, AccessAnswer, Caller, HeldToken, NOT_NOW, RELEASE, ReleaseRequest, TOKEN, TokenAnswer, TokenRequest,
};
use super::tokens::{DECISION, Issued, Issuer, LONGEST_LIFE, NotIssued, Wish, is_within};
use super::upstream::{NoUpstream, Upstream};
use crate::github::transport::Body;
use crate::github::{Connect, Endpoint, HttpsConnect, PlainHttp, Token, Transport};
use crate::runtime::clock::Clock;
use crate::runtime::pruned::Pruned;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use octocrab::OctoBody;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;
use zeroize::Zeroizing;

/// The most bytes of an answer.
const MOST_ANSWER: usize = 1 << 20;
/// The most bytes of the words of a refusal.
const MOST_WORDS: usize = 4 << 10;
/// Connections that are tried until one is to the replica that leads. Of three replicas, this many miss the leader once in 16,000
/// calls.
const ATTEMPTS: usize = 24;
/// Attempts without a pause. Later ones are for a change of the leader.
const AT_ONCE: usize = 12;
const PAUSE: Duration = Duration::from_millis(50);
/// Time for a call with all its attempts. A token's mint is in it.
const CALL: Duration = Duration::from_secs(15);
/// The most sets of certificate authorities for which a transport to GitHub is kept.
const MOST_WAYS: usize = 64;

/// Where the controller is, and the files by which the two sides know each other.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://HOST:PORT` of the controller's internal API.
    pub url: String,
    /// The certificates of the operator's authority, as PEM. Read at each call.
    pub authority: PathBuf,
    /// The gateway's own token for audience landfall-internal. Read at each call.
    pub token: PathBuf,
}

/// The controller, as the gateway knows it.
pub struct Controller {
    config: Config,
    connect: HttpsConnect,
    /// The transport to the controller, and the certificates that it was made with.
    transport: Mutex<Option<(Vec<u8>, Transport)>>,
    github: Arc<dyn Connect>,
    /// The transports to GitHub, by certificate authorities.
    ways: Mutex<HashMap<Option<String>, Transport>>,
    clock: Arc<dyn Clock>,
    known: Mutex<Pruned<Caller, (Arc<Access>, Timestamp)>>,
    /// When the controller was last not reached.
    away_at: Mutex<Option<Timestamp>>,
    /// The last call failed, which is logged as a warning once.
    is_failing: AtomicBool,
}

/// Why a call gave nothing.
enum Failed {
    /// A decision about the caller.
    Refused(String),
    /// A decision about the caller: the pod is gone, or not there yet.
    Unknown(String),
    /// A decision about the caller, which passes.
    NotNow(String),
    /// The controller, or a file of the gateway's, is at fault. Nothing was decided.
    Undecided(String),
    /// There was no connection, no answer in time, or no leader.
    Away(String),
}

impl Controller {
    #[must_use]
    pub fn new(config: Config, github: Arc<dyn Connect>, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            connect: HttpsConnect::without_system_roots(),
            transport: Mutex::default(),
            github,
            ways: Mutex::default(),
            clock,
            known: Mutex::default(),
            away_at: Mutex::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    async fn call<A: DeserializeOwned>(&self, path: &str, message: &impl Serialize) -> Result<A, Failed> {
        let called = timeout(CALL, self.answered(path, message)).await;
        let called = called.unwrap_or_else(|_| Err(Failed::Away("it gave no answer in time".into())));
        match &called {
            Err(Failed::Undecided(error) | Failed::Away(error)) => {
                if self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::debug!(error, path, "the controller did not answer");
                } else {
                    let url = &self.config.url;
                    tracing::warn!(error, url, "the controller did not answer; this is logged once until it does");
                }
            }
            _ => self.is_failing.store(false, Ordering::Relaxed),
        }
        called
    }

    async fn answered<A: DeserializeOwned>(&self, path: &str, message: &impl Serialize) -> Result<A, Failed> {
        let failed = |error: &dyn std::fmt::Display| Failed::Undecided(error.to_string());
        let away = |error: &dyn std::fmt::Display| Failed::Away(error.to_string());
        let body = serde_json::to_string(message).map_err(|error| failed(&error))?;
        let authorization = self.authorization().map_err(Failed::Undecided)?;
        let transport = self.transport().map_err(Failed::Undecided)?;
        for attempt in 0..ATTEMPTS {
            if attempt >= AT_ONCE {
                sleep(PAUSE).await;
            }
            let request = Request::post(format!("{}{path}", self.config.url))
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::AUTHORIZATION, authorization.clone())
                .body(OctoBody::from(body.clone()))
                .map_err(|error| failed(&error))?;
            let response = transport.clone().oneshot(request).await.map_err(|error| away(&with_causes(&*error)))?;
            let status = response.status();
            // Another replica leads; the next connection may be to that one.
            if status == StatusCode::MISDIRECTED_REQUEST {
                continue;
            }
            // The gateway's own token is being reviewed for other calls.
            if status == StatusCode::TOO_MANY_REQUESTS && attempt + 1 < ATTEMPTS {
                sleep(PAUSE).await;
                continue;
            }
            if status == StatusCode::OK {
                let bytes = bytes(response, MOST_ANSWER).await?;
                return serde_json::from_slice(&bytes).map_err(|_| failed(&"its answer is of another version"));
            }
            let words = bytes(response, MOST_WORDS).await.unwrap_or_default();
            let words = String::from_utf8_lossy(&words).trim().to_owned();
            return Err(match status {
                StatusCode::FORBIDDEN => Failed::Refused(words),
                StatusCode::NOT_FOUND => Failed::Unknown(words),
                NOT_NOW => Failed::NotNow(words),
                _ => Failed::Undecided(words),
            });
        }
        Err(Failed::Away("no replica of the controller leads now".into()))
    }

    fn authorization(&self) -> Result<HeaderValue, String> {
        let path = &self.config.token;
        let failed = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
        let token = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| failed(&error))?;
        let value = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut value = HeaderValue::from_str(&value).map_err(|_| failed(&"it is no token"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn transport(&self) -> Result<Transport, String> {
        let path = &self.config.authority;
        let bundle = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut current = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, transport)) = &*current
            && *of == bundle
        {
            return Ok(transport.clone());
        }
        let transport = self
            .connect
            .connect(Some(&bundle))
            .map_err(|error| format!("{} has no certificate that can be trusted: {error}", path.display()))?;
        *current = Some((bundle, transport.clone()));
        Ok(transport)
    }

    fn way(&self, ca_bundle: Option<&String>) -> Result<Transport, NoUpstream> {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = ways.get(&ca_bundle.cloned()) {
            return Ok(way.clone());
        }
        let way = self.github.connect(ca_bundle.map(String::as_bytes));
        let way = way.map_err(|error| NoUpstream::Unavailable(error.to_string()))?;
        if ways.len() >= MOST_WAYS {
            ways.clear();
        }
        ways.insert(ca_bundle.cloned(), way.clone());
        Ok(way)
    }

    fn remembered(&self, caller: &Caller) -> Option<(Arc<Access>, Timestamp)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(caller).cloned()
    }

    fn remember(&self, caller: &Caller, access: &Arc<Access>, now: Timestamp) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.make_room(|(_, at)| is_within(*at, now, LONGEST_LIFE));
        known.insert(caller.clone(), (Arc::clone(access), now));
    }

    fn forget(&self, caller: &Caller) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(caller);
    }

    async fn asked(&self, caller: &Caller) -> Result<Arc<Access>, NoAccess> {
        let now = self.clock.now();
        let before = self.remembered(caller);
        if let Some((access, at)) = &before
            && is_within(*at, now, DECISION)
        {
            return Ok(Arc::clone(access));
        }
        let away_at = *self.away_at.lock().unwrap_or_else(PoisonError::into_inner);
        let answer: Result<AccessAnswer, Failed> = if away_at.is_some_and(|at| is_within(at, now, DECISION)) {
            Err(Failed::Away("it did not answer a moment ago".into()))
        } else {
            self.call(ACCESS, caller).await
        };
        let is_away = matches!(answer, Err(Failed::Away(_)));
        if away_at.is_none_or(|at| !is_within(at, now, DECISION)) {
            *self.away_at.lock().unwrap_or_else(PoisonError::into_inner) = is_away.then(|| self.clock.now());
        }
        match answer {
            Ok(answer) => {
                let access = answer.read(caller).map_err(|error| {
                    self.forget(caller);
                    NoAccess::Unavailable(error.to_string())
                })?;
                let access = Arc::new(access);
                self.remember(caller, &access, self.clock.now());
                Ok(access)
            }
            Err(Failed::Refused(words)) => {
                self.forget(caller);
                Err(NoAccess::Refused(words))
            }
            Err(Failed::Unknown(words) | Failed::NotNow(words)) => {
                self.forget(caller);
                Err(NoAccess::Unavailable(words))
            }
            Err(Failed::Undecided(words)) => Err(NoAccess::Unavailable(undecided(&words))),
            Err(Failed::Away(words)) => match before {
                Some((access, at)) if is_within(at, now, LONGEST_LIFE) => Ok(access),
                _ => Err(NoAccess::Unavailable(unavailable(&words))),
            },
        }
    }

    async fn issued(&self, wish: Wish<'_>) -> Result<Issued, NotIssued> {
        let request = TokenRequest {
            caller: wish.access.caller.clone(),
            right: wish.right,
            held: wish.held,
            refused: wish.refused,
        };
        let answer: TokenAnswer = self.call(TOKEN, &request).await.map_err(|failed| match failed {
            Failed::Refused(words) => NotIssued::Denied(NoUpstream::Refused(words)),
            Failed::Unknown(words) | Failed::NotNow(words) => NotIssued::Denied(NoUpstream::Unavailable(words)),
            Failed::Undecided(words) => NotIssued::Denied(NoUpstream::Unavailable(undecided(&words))),
            Failed::Away(words) => NotIssued::Away(unavailable(&words)),
        })?;
        let unusable =
            |error: &dyn std::fmt::Display| NoUpstream::Unavailable(format!("the controller's answer: {error}"));
        // The controller has decided whether plain http is allowed.
        let endpoint = Endpoint::parse(&answer.api_url, Some(&answer.web_url), None, PlainHttp::Anywhere)
            .map_err(|error| unusable(&error))?;
        let way = self.way(answer.ca_bundle.as_ref())?;
        let HeldToken { token, expires_at, key } = answer.issued;
        let upstream = Upstream::new(&endpoint, &answer.full_name, way, token).map_err(|error| unusable(&error))?;
        Ok(Issued { upstream, expires_at, key })
    }
}

fn unavailable(words: &str) -> String {
    format!("the operator's controller does not answer ({words}); try again")
}

fn undecided(words: &str) -> String {
    format!("the operator's controller did not decide ({words}); try again, and see the gateway's log")
}

async fn bytes(response: Response<Body>, most: usize) -> Result<Vec<u8>, Failed> {
    let (mut body, mut all) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| Failed::Away(error.to_string()))?.into_data() else { continue };
        if all.len() + data.len() > most {
            return Err(Failed::Undecided("its answer is too large".to_owned()));
        }
        all.extend_from_slice(&data);
    }
    Ok(all)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl Workspaces for Controller {
    fn access<'a>(&'a self, caller: &'a Caller) -> BoxFuture<'a, Result<Arc<Access>, NoAccess>> {
        Box::pin(self.asked(caller))
    }
}

impl Issuer for Controller {
    fn issue<'a>(&'a self, wish: Wish<'a>) -> BoxFuture<'a, Result<Issued, NotIssued>> {
        Box::pin(self.issued(wish))
    }

    fn release<'a>(&'a self, app: &'a str, token: &'a Token) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let request = ReleaseRequest { app: app.to_owned(), token: token.clone() };
            // A token that is not released ends within the hour.
            let _: Result<serde_json::Value, Failed> = self.call(RELEASE, &request).await;
        })
    }
}

#[cfg(test)]
mod tests;
