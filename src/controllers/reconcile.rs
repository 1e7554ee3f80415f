//! The one loop of all kinds: gather, plan, ration and apply, one step at a time, and then status.
//!
//! Invariant: a kind decides only in [`Kind::plan`], which is pure, and acts only in [`Kind::apply`], with one effect a
//! step. The process can therefore stop between any two steps without a change to the state that the object reaches in
//! the end.

use super::caches::Watched;
use super::newest::Newest;
use super::object::ScopeApi;
use super::shared::{Conclusion, Shared};
use super::standing::{Again, Standing, kubernetes_refusal};
use super::watches::{Place, Watches};
use crate::api::{Reason, Reconciled};
use crate::features::Feature;
use crate::manifests::Rule;
use crate::runtime::due::{Due, Places, Urgency};
use crate::runtime::metrics::Outcome;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use std::fmt::Debug;
use std::sync::Arc;

/// More steps than any reconcile needs. A plan that never settles is a bug and must not become an endless loop.
const MOST_STEPS: usize = 32;

/// The decision on what to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan<S> {
    /// Do this step, then gather and plan again.
    Do(S),
    /// Do nothing now.
    Settled {
        /// The standing of the object. `None`: not known, and status stays as it is.
        standing: Option<Standing>,
        /// When to look again. `None`: when something changes.
        again: Option<Again>,
    },
}

impl<S> Plan<S> {
    /// Do nothing now; the object has this standing.
    #[must_use]
    pub fn settled(standing: Standing, again: Option<Again>) -> Self {
        Self::Settled { standing: Some(standing), again }
    }

    /// Do nothing, and leave status as it is.
    #[must_use]
    pub fn nothing() -> Self {
        Self::Settled { standing: None, again: None }
    }
}

/// The result of a step that worked.
pub enum Done<K> {
    /// Gather and plan again, with the object as the step returned it, if the step changed it.
    Again(Option<K>),
    /// Nothing more can be done in this reconcile. The object has this standing until `again`, or until a watch brings
    /// the change that the step made.
    Waits {
        /// The standing of the object.
        standing: Standing,
        /// When to look again. `None`: when something changes.
        again: Option<Again>,
    },
    /// The finalizer was removed, or the object no longer belongs to this kind.
    Finished,
}

/// The result of a step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// GitHub or the remote failed. The step is not tried again before its time.
    #[error("{}", .0.message)]
    Remote(Standing, Again),
    /// Kubernetes failed.
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
}

impl Failure {
    /// A person has to do something.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self::Remote(Standing::stalled(reason, message), Again::Person)
    }

    /// A referenced object is missing.
    pub fn waiting(message: impl Into<String>) -> Self {
        Self::Remote(Standing::reconciling(Reason::WaitingForReference, message), Again::Backoff)
    }
}

impl From<(Standing, Again)> for Failure {
    fn from((standing, again): (Standing, Again)) -> Self {
        Self::Remote(standing, again)
    }
}

/// A step that has to wait for its turn.
pub struct Rationed {
    /// The end of the wait.
    pub until: Timestamp,
    /// The standing of the object meanwhile. `None`: unchanged.
    pub standing: Option<Standing>,
}

/// A kind of object that the operator reconciles. Its value is the controller of the kind, and owns the memory of this
/// process about the kind's objects.
pub trait Kind: Send + Sync + Sized + 'static {
    type Object: Reconciled<Status: Send + Sync> + Watched + Resource<Scope: ScopeApi<Self::Object>> + Serialize;
    /// The state that decisions and steps need.
    type Seen: Send + Sync;
    type Step: Debug + Send;
    /// The calls whose failures are remembered separately.
    type Task: Copy + Send;

    /// The feature that the kind belongs to. Without it, the kind is neither watched nor reconciled.
    const FEATURE: Feature;
    /// The permissions that the operator, the receiver and people need because of this kind.
    const RULES: &'static [Rule];
    /// The kind's definition. `None` for a kind of Kubernetes, whose status the operator does not write.
    const DEFINITION: Option<fn() -> CustomResourceDefinition>;
    /// The label of the watched objects. `None`: all objects of the kind are watched.
    const LABEL: Option<&'static str> = None;
    /// Where the kind's objects are watched.
    const PLACE: Place = Place::Everywhere;
    /// Whether an event tells that an object is ready, if it has no condition yet. Later changes are always told.
    const TELLS_FIRST_READY: bool = true;

    /// The resources that all kinds share.
    fn shared(&self) -> &Arc<Shared>;

    /// The kind's lane in the queue.
    fn lane(&self) -> &Due<Self::Object>;

    /// Declares the other objects that wake an object of this kind.
    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, Self::Object>);

    /// Called once, before the first reconcile and after the caches were filled. Reads what would otherwise be read for
    /// each object.
    fn prepare(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// The object as it is at the beginning of a reconcile.
    fn begin(&self, object: Arc<Self::Object>) -> Arc<Self::Object> {
        object
    }

    /// The objects that this process wrote and the cache does not have yet. `None`: the kind begins with the cached
    /// object, and may write a status twice.
    fn newest(&self) -> Option<&Newest<Self::Object>> {
        None
    }

    /// The places that a reconcile of this object talks to: an App's GitHub, a git server. The objects of one place share
    /// a few slots, so that a place that does not answer delays no other one's. None: the API server alone.
    fn places(&self, _: &Self::Object) -> Places {
        Places::new()
    }

    /// How urgent the next look is that the plan asks for.
    fn urgency(_: &Self::Seen) -> Urgency {
        Urgency::Time
    }

    /// Reads everything that a decision needs.
    ///
    /// # Errors
    /// Kubernetes refused a read.
    fn gather(&self, object: &Arc<Self::Object>) -> impl Future<Output = Result<Self::Seen, kube::Error>> + Send;

    /// Decides what to do next.
    fn plan(seen: &Self::Seen, now: Timestamp) -> Plan<Self::Step>;

    /// The kind of call that a step makes, if its failures are remembered.
    fn task(step: &Self::Step) -> Option<Self::Task>;

    /// Takes a step out of the object's allowance.
    ///
    /// # Errors
    /// The step has to wait.
    fn ration(&self, _: &Self::Seen, _: &Self::Step) -> Result<(), Rationed> {
        Ok(())
    }

    /// Carries out a step.
    ///
    /// # Errors
    /// The step failed.
    fn apply(
        &self,
        seen: &Self::Seen,
        step: Self::Step,
    ) -> impl Future<Output = Result<Done<Self::Object>, Failure>> + Send;

    /// Called when a step of the task worked: forgets the task's failures.
    fn succeeded(&self, seen: &Self::Seen, task: Self::Task);

    /// Called when a step failed: remembers the failure until the step is tried again.
    fn failed(&self, seen: &Self::Seen, task: Option<Self::Task>, standing: Standing, again: Again);

    /// Called when the plan is to do nothing. The kind may remember what it saw.
    fn settled(&self, _: &Self::Seen, _: Option<&Standing>) {}

    /// Called once the status of a reconcile that came to an end is stored.
    fn concluded(&self, _: &Self::Seen) {}

    /// Whether a refusal by Kubernetes in a step of this task is remembered, like a refusal by GitHub, because an
    /// object that is not admitted may never be.
    fn remembers_refusals(_: Option<Self::Task>) -> bool {
        false
    }

    /// The status, without the conditions that every kind has.
    fn status(&self, seen: &Self::Seen, standing: Option<&Standing>) -> <Self::Object as Reconciled>::Status;
}

/// One reconcile.
///
/// # Errors
/// Kubernetes refused a request, and the refusal may pass.
pub async fn reconcile<K: Kind>(kind: &K, object: Arc<K::Object>) -> Result<Outcome, kube::Error> {
    let shared = kind.shared();
    let newest = kind.newest();
    let mut object = kind.begin(newest.map_or(Arc::clone(&object), |newest| newest.of(object)));
    for _ in 0..MOST_STEPS {
        let seen = match kind.gather(&object).await {
            Ok(seen) => seen,
            Err(error) => return unseen(kind, &object, error).await,
        };
        let step = match K::plan(&seen, shared.now()) {
            Plan::Settled { standing, again } => {
                kind.settled(&seen, standing.as_ref());
                return conclude(kind, &object, &seen, standing, again).await;
            }
            Plan::Do(step) => step,
        };
        if let Err(Rationed { until, standing }) = kind.ration(&seen, &step) {
            tracing::debug!(?step, %until, "a step has to wait for its turn");
            return conclude(kind, &object, &seen, standing, Some(Again::At(until))).await;
        }
        tracing::debug!(?step, "step");
        let task = K::task(&step);
        let failure = match kind.apply(&seen, step).await {
            Ok(done) => {
                if let Some(task) = task {
                    kind.succeeded(&seen, task);
                }
                match done {
                    Done::Finished => return Ok(Outcome::Ok),
                    Done::Waits { standing, again } => {
                        return stands(kind, &object, standing, again).await;
                    }
                    // The object was deleted and created again meanwhile. The gathered state is not that of the new
                    // one.
                    Done::Again(Some(changed)) if changed.uid() != object.uid() => return Ok(Outcome::Ok),
                    Done::Again(Some(changed)) => object = remember(kind, &object, changed),
                    Done::Again(None) => {}
                }
                continue;
            }
            Err(failure) => failure,
        };
        let (standing, again) = match failure {
            Failure::Remote(standing, again) => (standing, again),
            Failure::Kubernetes(error) => match refusal(kind, &*object, &error) {
                None => return Err(error),
                Some(standing) if K::remembers_refusals(task) => (standing, Again::Backoff),
                Some(standing) => return stands(kind, &object, standing, Some(Again::Backoff)).await,
            },
        };
        tracing::warn!(reason = %standing.reason, message = standing.message, "a step failed");
        kind.failed(&seen, task, standing, again);
    }
    let standing = Standing::reconciling(Reason::APIFailed, "the steps do not come to an end");
    stands(kind, &object, standing, Some(Again::Backoff)).await
}

/// The standing of an object after a refusal by Kubernetes that will not pass by itself.
fn refusal<K: Kind>(kind: &K, object: &K::Object, error: &kube::Error) -> Option<Standing> {
    K::DEFINITION?;
    let namespace = object.namespace().unwrap_or_else(|| kind.shared().settings.namespace.clone());
    kubernetes_refusal(error, &namespace)
}

async fn conclude<K: Kind>(
    kind: &K,
    object: &Arc<K::Object>,
    seen: &K::Seen,
    standing: Option<Standing>,
    again: Option<Again>,
) -> Result<Outcome, kube::Error> {
    let status = kind.status(seen, standing.as_ref());
    let concluded = Conclusion {
        status,
        standing: standing.as_ref(),
        again,
        urgency: K::urgency(seen),
        tells_first_ready: K::TELLS_FIRST_READY,
    };
    let (outcome, written) = kind.shared().conclude(kind.lane(), &**object, concluded).await?;
    written.map(|written| remember(kind, object, written));
    if standing.is_some() {
        kind.concluded(seen);
    }
    Ok(outcome)
}

/// Remembers an object as it was written, until the cache has it.
fn remember<K: Kind>(kind: &K, before: &K::Object, written: K::Object) -> Arc<K::Object> {
    let written = Arc::new(written);
    if let Some(newest) = kind.newest() {
        newest.wrote(before, &written);
    }
    written
}

/// Gathers once more, and concludes with this standing.
async fn stands<K: Kind>(
    kind: &K,
    object: &Arc<K::Object>,
    standing: Standing,
    again: Option<Again>,
) -> Result<Outcome, kube::Error> {
    let seen = kind.gather(object).await?;
    conclude(kind, object, &seen, Some(standing), again).await
}

/// Writes a permanent refusal by Kubernetes to status when the state could not be gathered. Other refusals are only
/// retried.
async fn unseen<K: Kind>(kind: &K, object: &Arc<K::Object>, error: kube::Error) -> Result<Outcome, kube::Error> {
    let Some(standing) = refusal(kind, object, &error) else { return Err(error) };
    let concluded = Conclusion {
        status: object.status().cloned().unwrap_or_default(),
        standing: Some(&standing),
        again: Some(Again::Backoff),
        urgency: Urgency::Time,
        tells_first_ready: K::TELLS_FIRST_READY,
    };
    Ok(kind.shared().conclude(kind.lane(), &**object, concluded).await?.0)
}
