//! `Workspace`: gather → plan → apply, one step at a time, then status.
//!
//! ```text
//!  ProjectRepository ─▶ InstallationToken ─▶ volume ─▶ pod: clone ─▶ agent + the person's container ─▶ pull request
//!                                              │                     │ SIGTERM: saves
//!                                              └── Job, where the pod did not ─▶ what was said is read back from the remote
//! ```
//!
//! Invariant: the volume goes when its work was read back from the remote, when it has none, or when somebody gave it up; else it
//! is kept. What pods say is a reason to look, and what is looked at decides ([`plan`]).

mod apply;
mod gather;
pub mod keep;
mod memory;
mod objects;
mod parting;
mod plan;
mod pods;
mod pull;
mod remote;
mod reports;
mod seen;
mod status;

pub use memory::Workspaces;
pub use objects::named;
pub use reports::WorkspaceReports;

use super::context::{Context, Settled};
use super::object::has_finalizer;
use super::standing::{Again, Standing, kubernetes_refusal};
use crate::api::{InstallationToken, Reason, WORK_FINALIZER, Workspace, WorkspaceStatus};
use crate::runtime::metrics::Outcome;
use apply::{Failure, apply, uid};
use gather::{Found, gather};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use memory::{Failed, Task};
use plan::{Plan, Step, plan};
use std::sync::Arc;

/// More steps than any way has: a plan that never settles is a bug, and must not become a loop.
const MOST_STEPS: usize = 20;

/// Whether a workspace that is going has yet to save its work with this token. Until then neither the token nor what it is made
/// by goes: when a namespace is deleted, all of them are deleted at once.
#[must_use]
pub fn needs(context: &Context, token: &InstallationToken, is_namespace_going: bool) -> bool {
    let namespace = token.namespace().unwrap_or_default();
    let owner = token.owner_references().iter().find(|owner| owner.kind == "Workspace");
    let workspace = owner.and_then(|owner| {
        let workspace = context.stores.workspaces.get(&ObjectRef::new(&owner.name).within(&namespace))?;
        (workspace.uid().as_ref() == Some(&owner.uid)).then_some(workspace)
    });
    let is_going = |workspace: &Workspace| workspace.metadata.deletion_timestamp.is_some() || is_namespace_going;
    has_finalizer(token, WORK_FINALIZER)
        && workspace.is_some_and(|workspace| is_going(&workspace) && has_finalizer(&*workspace, WORK_FINALIZER))
}

/// The object without a status that was written for another of its name.
fn own(object: Arc<Workspace>) -> Arc<Workspace> {
    let writes_for = object.status.as_ref().and_then(|status| status.uid.as_ref());
    if writes_for.is_none_or(|uid| Some(uid) == object.metadata.uid.as_ref()) {
        return object;
    }
    let mut object = Arc::unwrap_or_clone(object);
    object.status = None;
    Arc::new(object)
}

/// One reconcile.
///
/// # Errors
/// What Kubernetes refused.
pub async fn reconcile(workspace: Arc<Workspace>, context: Arc<Context>) -> Result<Outcome, kube::Error> {
    let context = &*context;
    let mut object = own(workspace);
    let uid = uid(&object).to_owned();
    let reference = ObjectRef::from_obj(&*object);
    context.workspaces.prune(&context.stores.workspaces);
    for _ in 0..MOST_STEPS {
        let found = gather(context, &object).await?;
        let step = match plan(&found.seen, context.clock.now()) {
            Plan::Settled { standing, again } => return conclude(context, &object, &found, standing, again).await,
            Plan::Do(step) => step,
        };
        if step.task().is_some()
            && let Err(until) = context.workspaces.spend(&uid, context.clock.now())
        {
            return conclude(context, &object, &found, None, Some(Again::At(until))).await;
        }
        tracing::debug!(?step, "step");
        let is_last = step == Step::RemoveFinalizer;
        let is_of_the_cluster = makes_others(&step) || (step == Step::ReleaseVolume && !found.seen.is_going());
        let task = step.task();
        match apply(context, &found, step).await {
            // What is known of it stays until the cache has forgotten it, too: a look that is due already still finds it
            // there, without its volume, and would take its work for lost.
            Ok(_) if is_last => return Ok(Outcome::Ok),
            // What was made or deleted comes by its watch; until then the caches show what was.
            Ok(_) if is_of_the_cluster => {
                let found = gather(context, &object).await?;
                let reason = if found.seen.is_wanted() { Reason::PodStarting } else { Reason::Saving };
                let standing = Standing::reconciling(reason, progress(&found));
                return conclude(context, &object, &found, Some(standing), None).await;
            }
            Ok(changed) => {
                if let Some(task) = task {
                    context.workspaces.update(&uid, |known| {
                        known.failed.remove(&task);
                    });
                }
                object = changed.map_or(object, Arc::new);
            }
            Err(failure) => {
                let (standing, again) = match failure {
                    Failure::Remote(standing, again) => (standing, again),
                    // What is not admitted may never be.
                    Failure::Kubernetes(error) => {
                        match kubernetes_refusal(&error, &object.namespace().unwrap_or_default()) {
                            Some(standing) if matches!(task, Some(Task::Make | Task::Grow)) => {
                                (standing, Again::Backoff)
                            }
                            _ => return refused(context, &object, &found, error).await,
                        }
                    }
                };
                tracing::warn!(reason = %standing.reason, message = standing.message, "a step failed");
                let until = context.resolve(&context.due.workspaces, &reference, again);
                let about = found.seen.about();
                let task = task.unwrap_or(Task::Make);
                context.workspaces.update(&uid, |known| {
                    let before = known.failed.get(&task).filter(|before| before.about == about);
                    let times = before.map_or(0, |before| before.times) + 1;
                    known.failed.insert(task, Failed { standing, until, times, about });
                });
            }
        }
    }
    let standing = Standing::reconciling(Reason::ApiFailed, "the steps do not come to an end");
    let found = gather(context, &object).await?;
    conclude(context, &object, &found, Some(standing), Some(Again::Backoff)).await
}

/// It makes or deletes an object whose cache has yet to show it.
fn makes_others(step: &Step) -> bool {
    matches!(
        step,
        Step::MakeToken
            | Step::RepairToken
            | Step::DropToken
            | Step::MakeVolume
            | Step::HoldVolume
            | Step::StartPod
            | Step::EndPod
            | Step::Save(_)
    )
}

fn progress(found: &Found) -> &'static str {
    if found.seen.is_going() {
        "it is being deleted; what is on its volume is saved first"
    } else if found.seen.is_wanted() {
        "its token, its volume and its pod are being made"
    } else {
        "its pod is being ended"
    }
}

async fn conclude(
    context: &Context,
    object: &Arc<Workspace>,
    found: &Found,
    standing: Option<Standing>,
    again: Option<Again>,
) -> Result<Outcome, kube::Error> {
    let settled = Settled { standing, again };
    let status: WorkspaceStatus = status::status(&found.seen, context.clock.now());
    context.conclude(&context.due.workspaces, &**object, status, &settled).await
}

/// Says in status what Kubernetes refused for good; what passes is only tried again.
async fn refused(
    context: &Context,
    object: &Arc<Workspace>,
    found: &Found,
    error: kube::Error,
) -> Result<Outcome, kube::Error> {
    let Some(standing) = kubernetes_refusal(&error, &object.namespace().unwrap_or_default()) else { return Err(error) };
    conclude(context, object, found, Some(standing), Some(Again::Backoff)).await
}
