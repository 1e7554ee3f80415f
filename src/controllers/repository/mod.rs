//! `ProjectRepository`: gather → plan → apply, one step at a time, then status.

mod address;
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
use super::rollout::{self, Given};
use super::standing::{Again, Standing, kubernetes_refusal};
use crate::api::{ProjectRepository, ProjectRepositoryStatus, Reason};
use crate::runtime::metrics::Outcome;
use apply::{Failure, apply};
use gather::{Found, gather};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use memory::{Failed, Task};
use plan::{Plan, Step, plan};
use std::sync::Arc;

/// More steps than any way has: a plan that never settles is a bug, and must not become a loop.
const MOST_STEPS: usize = 20;

/// The object without a status that was written for another.
///
/// Status is written without asking which object has the name by then, so what came to one that was deleted meanwhile may
/// be written into its successor: another repository's id, and what was deployed from it.
fn own(object: Arc<ProjectRepository>) -> Arc<ProjectRepository> {
    let writes_for = object.status.as_ref().and_then(|status| status.uid.as_ref());
    if writes_for.is_none_or(|uid| Some(uid) == object.metadata.uid.as_ref()) {
        return object;
    }
    let mut object = Arc::unwrap_or_clone(object);
    object.status = object
        .status
        .map(|status| ProjectRepositoryStatus { deliveries: status.deliveries, ..ProjectRepositoryStatus::default() });
    Arc::new(object)
}

/// One reconcile.
///
/// # Errors
/// What Kubernetes refused.
pub async fn reconcile(repository: Arc<ProjectRepository>, context: Arc<Context>) -> Result<Outcome, kube::Error> {
    let context = &*context;
    let mut object = own(repository);
    let uid = object.uid().unwrap_or_default();
    let reference = ObjectRef::from_obj(&*object);
    context.repositories.prune(&context.stores.repositories);
    for _ in 0..MOST_STEPS {
        let found = gather(context, &object);
        let step = match plan(&found.seen, context.clock.now()) {
            Plan::Settled { standing, again } => return conclude(context, &object, &found, standing, again).await,
            Plan::Roll { standing, again, is_lost } => match roll(context, &found, is_lost).await {
                Ok(Rolled::Do(step)) => step,
                Ok(Rolled::Rests(at)) => {
                    let again = match (again, at) {
                        (Some(Again::At(again)), Some(at)) => Some(Again::At(again.min(at))),
                        (again, at) => at.map(Again::At).or(again),
                    };
                    // With what the rollout came to.
                    let found = gather(context, &object);
                    return conclude(context, &object, &found, Some(standing), again).await;
                }
                Err(error) => return refused(context, &object, error).await,
            },
            Plan::Do(step) => step,
        };
        if let Err(until) = spend(context, &found, &step) {
            tracing::debug!(?step, %until, "a step has to wait for its turn");
            return conclude(context, &object, &found, rationed(&object), Some(Again::At(until))).await;
        }
        tracing::debug!(?step, "step");
        let is_last = step == Step::RemoveFinalizer && object.metadata.deletion_timestamp.is_some();
        let task = step.task();
        match apply(context, &found, step).await {
            Ok(changed) => {
                if is_last {
                    context.repositories.forget(&uid);
                    context.rollouts.forget(&uid);
                    return Ok(Outcome::Ok);
                }
                if let Some(task) = task {
                    context.repositories.update(&uid, |known| {
                        known.failed.remove(&task);
                    });
                }
                if changed.as_ref().is_some_and(|changed| changed.metadata.uid != object.metadata.uid) {
                    // It was made anew meanwhile: what was seen is not of that one.
                    return Ok(Outcome::Ok);
                }
                object = changed.map_or(object, Arc::new);
            }
            Err(Failure::Remote(standing, again)) => {
                tracing::warn!(reason = %standing.reason, message = standing.message, "a step failed");
                look_at_the_app(context, &object, &standing);
                let until = context.resolve(&context.due.repositories, &reference, again);
                let pending = found.seen.pending.iter().filter(|pending| pending.needs_look);
                let heard = pending.map(|pending| pending.mark.announced.clone()).collect();
                let failed = Failed { standing, until, about: found.seen.about(), heard };
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

/// Takes a step that calls somebody out of what the object and its namespace may take.
fn spend(context: &Context, found: &Found, step: &Step) -> Result<(), Timestamp> {
    let Some(task) = step.task() else { return Ok(()) };
    let (known, now) = (&found.seen.known, context.clock.now());
    let has_failed = known.failed.contains_key(&task);
    if *step == Step::Confirm && !has_failed {
        // It follows a look, which was counted.
        return Ok(());
    }
    let is_polled = known.looked.as_ref().is_some_and(|looked| looked.next <= now);
    context.repositories.spend(&found.seen.object, *step == Step::Look && is_polled && !has_failed, now)
}

/// What is said of one that has to wait before anything else can be.
fn rationed(object: &ProjectRepository) -> Option<Standing> {
    let is_new = object.status.as_ref().is_none_or(|status| status.conditions.is_empty());
    let message = "more was asked for in this namespace at once than its part of GitHub's limits, which are everybody's: this                    goes on by itself. See what makes or changes ProjectRepositories all the time";
    is_new.then(|| Standing::reconciling(Reason::RateLimited, message))
}

/// What a step of the rollout comes to.
enum Rolled {
    Do(Step),
    Rests(Option<Timestamp>),
}

/// The next step of what a push does, with the head as it was confirmed, if it was. Where the source is lost, there is no
/// head, and nothing is begun.
async fn roll(context: &Context, found: &Found, is_lost: bool) -> Result<Rolled, kube::Error> {
    let seen = &found.seen;
    let known = &seen.known;
    let uid = apply::uid(&seen.object);
    let stored = seen.object.status.as_ref();
    let handled = known.redeploy.as_ref().or_else(|| stored.and_then(|status| status.last_handled_redeploy.as_ref()));
    let head = seen.confirmed_head().filter(|_| !is_lost);
    let source = seen.source();
    let now = context.clock.now();
    if !is_lost && head.is_none() && known.head.is_some() && seen.waits(Task::Look, now).is_none() {
        // Another head than the one that is deployed: before anything is done about it, whose it is.
        return Ok(Rolled::Do(Step::Confirm));
    }
    let given = Given {
        object: &seen.object,
        head: head.as_ref(),
        source: source.as_deref(),
        deployment: seen.deployment(),
        handled: handled.map(String::as_str),
        is_paused: seen.is_paused || is_lost,
        #[cfg(feature = "sabotage")]
        sabotage: context.sabotage,
    };
    Ok(match context.rollouts.step(&context.client, &given, now).await? {
        None => Rolled::Rests(None),
        Some(rollout::Step::LookAtHead) => match seen.waits(Task::Look, now) {
            Some(failed) => Rolled::Rests(Some(failed.until)),
            // There is no commit yet.
            None if known.head.is_none() => Rolled::Rests(None),
            None if seen.is_confirmed() => Rolled::Do(Step::Look),
            None => Rolled::Do(Step::Confirm),
        },
        Some(rollout::Step::Write { deployment, handled }) => Rolled::Do(Step::Record { deployment, handled }),
        Some(rollout::Step::Settled { settlement, handled }) => {
            let again = settlement.again;
            context.repositories.update(uid, |known| {
                known.deployment = settlement.deployment;
                known.redeploy = handled;
                known.deployed = settlement.standing;
            });
            Rolled::Rests(again)
        }
    })
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
    let matters = [
        Reason::ApiUnreachable,
        Reason::CredentialsInvalid,
        Reason::InstallationNotFound,
        Reason::InstallationSuspended,
    ];
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
