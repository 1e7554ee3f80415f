//! `ProjectRepository`: gather → plan → apply, one step at a time, then status.

mod apply;
mod fork;
mod gather;
mod hook;
mod memory;
mod plan;
mod readers;
mod seen;
mod status;

pub use gather::identity;
pub use memory::Repositories;
pub use readers::ReadTokens;

use super::context::{Context, Settled};
use super::standing::{Again, Standing, kubernetes_refusal};
use crate::api::{ProjectRepository, Reason};
use crate::runtime::metrics::Outcome;
use apply::{Failure, apply};
use gather::{Found, gather};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use memory::Failed;
use plan::{Plan, Step, plan};
use std::sync::Arc;

/// More steps than any way has: a plan that never settles is a bug, and must not become a loop.
const MOST_STEPS: usize = 20;

/// One reconcile.
///
/// # Errors
/// What Kubernetes refused.
pub async fn reconcile(repository: Arc<ProjectRepository>, context: &Context) -> Result<Outcome, kube::Error> {
    let mut object = repository;
    let uid = object.uid().unwrap_or_default();
    let reference = ObjectRef::from_obj(&*object);
    for _ in 0..MOST_STEPS {
        let found = gather(context, &object);
        let step = match plan(&found.seen, context.clock.now()) {
            Plan::Settled { standing, again } => return conclude(context, &object, &found, standing, again).await,
            Plan::Do(step) => step,
        };
        tracing::debug!(?step, "step");
        let is_last = step == Step::RemoveFinalizer && object.metadata.deletion_timestamp.is_some();
        let task = step.task();
        match apply(context, &found, step).await {
            Ok(changed) => {
                if is_last {
                    context.repositories.forget(&uid);
                    return Ok(Outcome::Ok);
                }
                if let Some(task) = task {
                    context.repositories.update(&uid, |known| {
                        known.failed.remove(&task);
                    });
                }
                object = changed.map_or(object, Arc::new);
            }
            Err(Failure::Remote(standing, again)) => {
                tracing::warn!(reason = %standing.reason, message = standing.message, "a step failed");
                look_at_the_app(context, &object, &standing);
                let until = context.resolve(&context.due.repositories, &reference, again);
                let failed = Failed { standing, until, about: found.seen.about() };
                if let Some(task) = task {
                    context.repositories.update(&uid, |known| {
                        known.failed.insert(task, failed);
                    });
                }
            }
            Err(Failure::Kubernetes(error)) => return refused(context, &object, error).await,
        }
    }
    let standing = Standing::reconciling(Reason::ApiFailed, "the steps do not come to an end");
    let found = gather(context, &object);
    conclude(context, &object, &found, Some(standing), Some(Again::Backoff)).await
}

async fn conclude(
    context: &Context,
    object: &Arc<ProjectRepository>,
    found: &Found,
    standing: Option<Standing>,
    again: Option<Again>,
) -> Result<Outcome, kube::Error> {
    let settled = Settled { standing, again };
    let status = status::status(&found.seen, context.clock.now());
    context.conclude(&context.due.repositories, &**object, status, &settled).await
}

/// A failure of one repository that may be everybody's.
fn look_at_the_app(context: &Context, object: &ProjectRepository, standing: &Standing) {
    let matters = [Reason::ApiUnreachable, Reason::CredentialsInvalid, Reason::InstallationNotFound, Reason::Suspended];
    if matters.contains(&standing.reason)
        && let Some((app, _)) = context.app_of(object)
    {
        context.connections.request_look(&app, context.clock.now());
        context.due.apps.look_now(&ObjectRef::new(&app));
    }
}

/// Says in status what Kubernetes refused for good; what passes is only tried again.
async fn refused(
    context: &Context,
    object: &Arc<ProjectRepository>,
    error: kube::Error,
) -> Result<Outcome, kube::Error> {
    let Some(standing) = kubernetes_refusal(&error, &object.namespace().unwrap_or_default()) else { return Err(error) };
    let found = gather(context, object);
    conclude(context, object, &found, Some(standing), Some(Again::Backoff)).await
}
