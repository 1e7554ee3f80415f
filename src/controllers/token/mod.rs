//! `InstallationToken`: gather → plan → apply, one step at a time, then status.

mod apply;
mod gather;
mod memory;
mod plan;
mod scope;
mod secret;
mod seen;

pub use memory::Memory;
pub use seen::{Gathered, SecretSeen};

use super::context::{Context, Settled};
use super::object::requested_look;
use super::standing::{Again, Standing, State, kubernetes_refusal};
use crate::api::{InstallationToken, InstallationTokenStatus, Reason};
use crate::runtime::metrics::Outcome;
use apply::{Failure, apply};
use gather::{Found, gather};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use plan::{Call, Plan, Step, plan};
use seen::{Failed, Stage};
use std::sync::Arc;

/// More steps than any way has: a plan that never settles is a bug, and must not become a loop.
const MOST_STEPS: usize = 12;

/// One reconcile.
///
/// # Errors
/// What Kubernetes refused.
pub async fn reconcile(token: Arc<InstallationToken>, context: Arc<Context>) -> Result<Outcome, kube::Error> {
    let context = &*context;
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
        let call = step.call();
        match apply(context, &found, step).await {
            Ok(changed) => {
                if is_last {
                    context.memory.forget(&uid);
                    return Ok(Outcome::Ok);
                }
                if let Some(call) = call {
                    context.memory.succeeded(&uid, call);
                }
                token = changed.map_or(token, Arc::new);
            }
            Err(Failure::GitHub(standing, again)) => {
                tracing::warn!(reason = %standing.reason, message = standing.message, "a step failed");
                if matters_to_the_app(&standing) {
                    look_at_the_app(context, &found);
                }
                let until = again_at(context, &found, &reference, again);
                context.memory.failed(&uid, call.unwrap_or(Call::Asks), Failed { standing, until }, found.about);
            }
            Err(Failure::Kubernetes(error)) => return refused(context, &token, error).await,
        }
    }
    let standing = Standing::reconciling(Reason::ApiFailed, "the steps to a good token do not come to an end");
    let settled = Settled { standing: Some(standing), again: Some(Again::Backoff) };
    let found = gather(context, &token).await?;
    context.conclude(&context.due.tokens, &*token, status(&found), &settled).await
}

/// A failure of one token that may be everybody's: the App is looked at, and while it does not work no token calls.
fn matters_to_the_app(standing: &Standing) -> bool {
    [Reason::ApiUnreachable, Reason::CredentialsInvalid, Reason::InstallationNotFound, Reason::InstallationSuspended]
        .contains(&standing.reason)
}

fn look_at_the_app(context: &Context, found: &Found) {
    if let Some(app) = &found.app {
        context.connections.request_look(app, context.clock.now());
        context.due.apps.look_now(&ObjectRef::new(app));
    }
}

/// When a failed call is tried again. What only a person can mend is tried again soon for some times, for a single odd
/// answer is not to cost half an hour; and while a published token is running out, never later than a third of what is
/// left of it.
fn again_at(context: &Context, found: &Found, reference: &ObjectRef<InstallationToken>, again: Again) -> Timestamp {
    const SOON: u32 = 3;
    let now = context.clock.now();
    let at = match again {
        Again::Person => {
            let retry = context.due.tokens.retry(reference);
            if retry.attempt <= SOON {
                retry.at
            } else {
                context.resolve(&context.due.tokens, reference, Again::Person)
            }
        }
        other => context.resolve(&context.due.tokens, reference, other),
    };
    let SecretSeen::Ours(published) = &found.gathered.secret else { return at };
    let left = published.expires_at.map(|end| end.duration_since(now)).filter(SignedDuration::is_positive);
    let soonest = left.map(|left| now + (left / 3).max(SignedDuration::from_secs(5)));
    match (again, soonest) {
        // Not before GitHub allows it.
        (Again::At(_), _) | (_, None) => at,
        (_, Some(soonest)) => at.min(soonest),
    }
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
        expiration_time: published.expires_at.map(Time),
        mint_time: published.minted_at.map(super::standing::whole_second).map(Time),
        repository_ids: published.repository_ids.clone(),
        permissions: published.scope.as_ref().map(|scope| scope.permissions.clone()).unwrap_or_default(),
        secret_name: Some(token.spec.secret.name.clone()),
        fingerprint: published.fingerprint.clone(),
        last_handled_reconcile,
        ..InstallationTokenStatus::default()
    }
}
