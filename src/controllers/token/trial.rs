//! Tries a minted token before it is published.
//!
//! Invariant: a token that GitHub refuses is not published. A token that cannot be tried is published once all of GitHub
//! knows it, because the rate limit that forbids the trial belongs to all tenants of the installation.

use super::TokenKind;
use super::apply::{GETS_KNOWN, client};
use super::secret::Content;
use super::seen::{Seen, Stage};
use super::uid;
use crate::api::Reason;
use crate::controllers::reconcile::Failure;
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::git;
use crate::github;
use crate::runtime::metrics::TokenEvent;

pub async fn verify(kind: &TokenKind, seen: &Seen) -> Result<(), Failure> {
    let object = &seen.token;
    let Some(content) = kind.memory.content(uid(object)) else { return Ok(()) };
    match client(seen)?.verify(&content.token).await {
        Ok(()) => {
            kind.shared.metrics.token(TokenEvent::Verified);
            kind.memory.moved(uid(object), Stage::Verified);
            Ok(())
        }
        Err(error) => {
            if let (github::Error::TokenRefused { .. } | github::Error::NotFound { .. }, Some(held)) =
                (&error, &seen.held)
                && let Stage::Minted { refusals } = held.stage
            {
                kind.memory.moved(uid(object), Stage::Minted { refusals: refusals + 1 });
                let standing = Standing::reconciling(
                    Reason::TokenRefused,
                    format!("{error}. A fresh token can be refused for some seconds; it is tried again by itself"),
                );
                return Err(Failure::Remote(standing, Again::Backoff));
            }
            if let github::Error::RateLimited { .. } = &error {
                return under_limit(kind, seen, &content).await;
            }
            let (standing, again) = github_failure(&error, "trying a fresh token out");
            Err(Failure::Remote(standing, again))
        }
    }
}

/// Goes on without a call, because the rate limit of the installation was reached. Another tenant's tokens may have
/// used it up, and may do so for hours. git tries the token if it can, because git has no part in that limit. If it
/// cannot, the token is published untried once all of GitHub knows it.
async fn under_limit(kind: &TokenKind, seen: &Seen, content: &Content) -> Result<(), Failure> {
    let (uid, shared) = (uid(&seen.token), &kind.shared);
    match by_git(kind, seen, content).await {
        Some(Ok(_)) => {
            shared.metrics.token(TokenEvent::Verified);
            kind.memory.moved(uid, Stage::Verified);
            return Ok(());
        }
        Some(Err(error @ (git::Error::CredentialsRefused { .. } | git::Error::NotFound { .. }))) => {
            if let Some(Stage::Minted { refusals }) = seen.held.as_ref().map(|held| held.stage) {
                kind.memory.moved(uid, Stage::Minted { refusals: refusals + 1 });
            }
            let message =
                format!("{error}. A fresh token can be refused for some seconds; it is tried again by itself");
            return Err(Failure::Remote(Standing::reconciling(Reason::TokenRefused, message), Again::Backoff));
        }
        Some(Err(error)) => tracing::info!(error = &error as &dyn std::error::Error, "git cannot try a fresh token"),
        None => {}
    }
    let known = content.minted_at.checked_add(GETS_KNOWN).unwrap_or(content.minted_at);
    if known <= shared.now() {
        kind.memory.left_untried(uid);
        return Ok(());
    }
    let message = "a fresh token cannot be tried, because GitHub's rate limit of the installation, which all of its tokens share, \
                   was reached. The token is published without a trial a minute after GitHub made it";
    Err(Failure::Remote(Standing::reconciling(Reason::RateLimited, message), Again::At(known)))
}

/// Lists the refs of a repository with the token. `None`: no repository is known that it can read.
async fn by_git(kind: &TokenKind, seen: &Seen, content: &Content) -> Option<Result<git::Refs, git::Error>> {
    let (transport, github) = (seen.tools.git.as_ref()?, seen.tools.github.as_ref()?);
    let remote = git::Remote::github(github.endpoint(), &kind.memory.readable(uid(&seen.token))?).ok()?;
    let credentials = git::BasicAuth::installation(content.token.clone());
    Some(git::refs(transport, &remote, Some(&credentials), None, &*kind.shared.clock).await)
}
