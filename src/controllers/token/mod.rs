//! `InstallationToken`: gather → plan → apply, one step at a time, then status.

mod apply;
mod gather;
mod memory;
mod plan;
mod scope;
mod secret;

pub use memory::Memory;
pub use plan::{Gathered, SecretSeen};

use super::context::{Context, Settled, requested_look};
use super::standing::{Again, Standing, State, kubernetes_refusal};
use crate::api::{InstallationToken, InstallationTokenStatus, Reason};
use crate::runtime::metrics::Outcome;
use apply::{Failure, apply};
use gather::{Found, gather};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use plan::{Failed, Plan, Stage, Step, plan};
use std::sync::Arc;

/// More steps than any way has: a plan that never settles is a bug, and must not become a loop.
const MOST_STEPS: usize = 12;

/// One reconcile.
///
/// # Errors
/// What Kubernetes refused.
pub async fn reconcile(token: Arc<InstallationToken>, context: &Context) -> Result<Outcome, kube::Error> {
    let mut token = token;
    let reference = ObjectRef::from_obj(&*token);
    let uid = token.uid().unwrap_or_default();
    for _ in 0..MOST_STEPS {
        let found = match gather(context, &token).await {
            Ok(found) => found,
            Err(error) => return refused(context, &token, error).await,
        };
        let step = match plan(&found.gathered, context.clock.now()) {
            Plan::Settled { standing, again } => {
                if standing.as_ref().is_some_and(|standing| standing.state == State::Ready) {
                    adopt(context, &uid, &found);
                }
                let settled = Settled { standing, again };
                return context.conclude(&context.due.tokens, &*token, status(&found), &settled).await;
            }
            Plan::Do(step) => step,
        };
        tracing::debug!(?step, "step");
        let is_last = step == Step::RemoveFinalizer;
        let calls_github = step.calls_github();
        match apply(context, &found, step).await {
            Ok(changed) => {
                if is_last {
                    context.memory.forget(&uid);
                    context.due.tokens.forget(&reference);
                    return Ok(Outcome::Ok);
                }
                if calls_github {
                    context.memory.succeeded(&uid);
                }
                token = changed.map_or(token, Arc::new);
            }
            Err(Failure::GitHub(standing, again)) => {
                tracing::warn!(reason = %standing.reason, message = standing.message, "a step failed");
                let until = context.resolve(&context.due.tokens, &reference, again);
                context.memory.failed(&uid, Failed { standing, until }, found.about);
            }
            Err(Failure::Kubernetes(error)) => return refused(context, &token, error).await,
        }
    }
    let standing = Standing::reconciling(Reason::ApiFailed, "the steps to a good token do not come to an end");
    let settled = Settled { standing: Some(standing), again: Some(Again::Backoff) };
    let found = gather(context, &token).await?;
    context.conclude(&context.due.tokens, &*token, status(&found), &settled).await
}

/// Says in status what Kubernetes refused for good; what passes is only tried again.
async fn refused(context: &Context, token: &InstallationToken, error: kube::Error) -> Result<Outcome, kube::Error> {
    let Some(standing) = kubernetes_refusal(&error, &token.namespace().unwrap_or_default()) else { return Err(error) };
    let settled = Settled { standing: Some(standing), again: Some(Again::Backoff) };
    let status = token.status.clone().unwrap_or_default();
    context.conclude(&context.due.tokens, token, status, &settled).await
}

/// Remembers the good token in the Secret, should another process have minted it, so that it can be revoked when the Secret
/// goes first.
fn adopt(context: &Context, uid: &str, found: &Found) {
    if found.gathered.held.is_none()
        && let Some(content) = found.secret.as_ref().and_then(secret::content)
    {
        context.memory.minted(uid, content, Stage::Published);
    }
}

/// What is known of the published token, read from the Secret and not from what was planned.
fn status(found: &Found) -> InstallationTokenStatus {
    let token = &found.gathered.token;
    let last_handled_reconcile = requested_look(&**token).cloned();
    let SecretSeen::Ours(published) = &found.gathered.secret else {
        return InstallationTokenStatus { last_handled_reconcile, ..InstallationTokenStatus::default() };
    };
    InstallationTokenStatus {
        expires_at: published.expires_at.map(Time),
        minted_at: published.minted_at.map(super::standing::whole_second).map(Time),
        repository_ids: published.repository_ids.clone(),
        permissions: published.scope.as_ref().map(|scope| scope.permissions.clone()).unwrap_or_default(),
        secret_name: Some(token.spec.secret.name.clone()),
        fingerprint: published.fingerprint.clone(),
        last_handled_reconcile,
        ..InstallationTokenStatus::default()
    }
}
