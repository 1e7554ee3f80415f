//! The one loop of all kinds: gather, plan, ration, apply, one step at a time, and then status.
//!
//! Invariant: a kind decides in [`Kind::plan`] alone, which is pure, and acts in [`Kind::apply`] alone, one effect a step. So
//! a stop can fall between any two steps and changes nothing about where an object ends.

use super::caches::Watched;
use super::object::ScopeApi;
use super::shared::Shared;
use super::standing::{Again, Standing, kubernetes_refusal};
use super::watches::Watches;
use crate::api::{Reason, Reconciled};
use crate::features::Feature;
use crate::manifests::Rule;
use crate::runtime::due::Due;
use crate::runtime::metrics::Outcome;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use std::fmt::Debug;
use std::sync::Arc;

/// More steps than any way has: a plan that never settles is a bug, and must not become a loop.
const MOST_STEPS: usize = 32;

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan<S> {
    /// This step, and then gather and plan again.
    Do(S),
    /// Nothing now.
    Settled {
        /// How the object stands. `None`: nothing can be said, status stays as it is.
        standing: Option<Standing>,
        /// When to look again. `None`: when something changes.
        again: Option<Again>,
    },
}

impl<S> Plan<S> {
    /// Nothing now, and the object stands so.
    #[must_use]
    pub fn settled(standing: Standing, again: Option<Again>) -> Self {
        Self::Settled { standing: Some(standing), again }
    }

    /// Nothing, and nothing can be said.
    #[must_use]
    pub fn nothing() -> Self {
        Self::Settled { standing: None, again: None }
    }
}

/// How a step ended that worked.
pub enum Done<K> {
    /// Gather and plan again, with the object as the step left it, if it changed it.
    Again(Option<K>),
    /// Nothing more can be done in this reconcile: the object stands so until `again`, or until a watch brings what the step
    /// made.
    Waits {
        /// How the object stands.
        standing: Standing,
        /// When to look again. `None`: when something changes.
        again: Option<Again>,
    },
    /// The object was let go, or is no longer this kind's business.
    Finished,
}

/// How a step ended that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// GitHub, or the remote, did not do it. It is not tried again before its time.
    #[error("{}", .0.message)]
    Remote(Standing, Again),
    /// Kubernetes did not do it.
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
}

impl Failure {
    /// A person has to do something.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self::Remote(Standing::stalled(reason, message), Again::Person)
    }

    /// Something is not there yet.
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
    /// Until when.
    pub until: Timestamp,
    /// How the object stands meanwhile. `None`: as it does.
    pub standing: Option<Standing>,
}

/// A kind of object that the operator looks after. Its value is the controller of the kind, and owns what this process
/// remembers of its objects.
pub trait Kind: Send + Sync + Sized + 'static {
    /// The objects.
    type Object: Reconciled<Status: Send + Sync> + Watched + Resource<Scope: ScopeApi<Self::Object>> + Serialize;
    /// All that a decision about an object needs, and what acting on it takes.
    type Seen: Send + Sync;
    /// One step.
    type Step: Debug + Send;
    /// The calls whose failures are kept apart.
    type Task: Copy + Send;

    /// The feature that the kind belongs to. While that is off, the kind is neither watched nor reconciled.
    const FEATURE: Feature;
    /// What the operator, the receiver and people may do because of this kind.
    const RULES: &'static [Rule];
    /// The kind's definition; none for a kind of Kubernetes' own, whose status is not ours to write.
    const DEFINITION: Option<fn() -> CustomResourceDefinition>;
    /// The label that the watched objects have. `None`: all of the kind are watched.
    const LABEL: Option<&'static str> = None;

    /// What is shared by all kinds.
    fn shared(&self) -> &Arc<Shared>;

    /// The kind's lane in the queue.
    fn lane(&self) -> &Due<Self::Object>;

    /// Declares which other objects wake an object of this kind.
    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, Self::Object>);

    /// The object as it is at the beginning of a reconcile.
    fn begin(&self, object: Arc<Self::Object>) -> Arc<Self::Object> {
        object
    }

    /// Reads all that a decision needs.
    ///
    /// # Errors
    /// Kubernetes did not let it.
    fn gather(&self, object: &Arc<Self::Object>) -> impl Future<Output = Result<Self::Seen, kube::Error>> + Send;

    /// What to do next.
    fn plan(seen: &Self::Seen, now: Timestamp) -> Plan<Self::Step>;

    /// The kind of call that a step makes, if it makes one whose failures are remembered.
    fn task(step: &Self::Step) -> Option<Self::Task>;

    /// Takes a step out of what the object may have done.
    ///
    /// # Errors
    /// It has to wait.
    fn ration(&self, _: &Self::Seen, _: &Self::Step) -> Result<(), Rationed> {
        Ok(())
    }

    /// Carries a step out.
    ///
    /// # Errors
    /// It did not work.
    fn apply(
        &self,
        seen: &Self::Seen,
        step: Self::Step,
    ) -> impl Future<Output = Result<Done<Self::Object>, Failure>> + Send;

    /// A step of the task worked: what is remembered of its failures is forgotten.
    fn succeeded(&self, seen: &Self::Seen, task: Self::Task);

    /// A step failed: that is remembered, until it is tried again.
    fn failed(&self, seen: &Self::Seen, task: Option<Self::Task>, standing: Standing, again: Again);

    /// The plan is that nothing is to be done: what was seen may be remembered.
    fn settled(&self, _: &Self::Seen, _: Option<&Standing>) {}

    /// Whether a refusal of Kubernetes in a step of this task is remembered like one of GitHub's: what is not admitted may
    /// never be.
    fn remembers_refusals(_: Option<Self::Task>) -> bool {
        false
    }

    /// The status, without the conditions that every kind has.
    fn status(&self, seen: &Self::Seen, standing: Option<&Standing>) -> <Self::Object as Reconciled>::Status;
}

/// One reconcile.
///
/// # Errors
/// Kubernetes refused something, and will not for ever.
pub async fn reconcile<K: Kind>(kind: &K, object: Arc<K::Object>) -> Result<Outcome, kube::Error> {
    let shared = kind.shared();
    let mut object = kind.begin(object);
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
                    // It was made anew meanwhile: what was seen is not of that one.
                    Done::Again(Some(changed)) if changed.uid() != object.uid() => return Ok(Outcome::Ok),
                    Done::Again(changed) => object = changed.map_or(object, Arc::new),
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
    let standing = Standing::reconciling(Reason::ApiFailed, "the steps do not come to an end");
    stands(kind, &object, standing, Some(Again::Backoff)).await
}

/// What a refusal of Kubernetes means for an object, if it will not pass by itself.
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
    kind.shared().conclude(kind.lane(), &**object, status, (standing.as_ref(), again)).await
}

/// Concludes with what is seen by then.
async fn stands<K: Kind>(
    kind: &K,
    object: &Arc<K::Object>,
    standing: Standing,
    again: Option<Again>,
) -> Result<Outcome, kube::Error> {
    let seen = kind.gather(object).await?;
    conclude(kind, object, &seen, Some(standing), again).await
}

/// Says in status what Kubernetes refused for good when nothing could be seen; what passes is only tried again.
async fn unseen<K: Kind>(kind: &K, object: &Arc<K::Object>, error: kube::Error) -> Result<Outcome, kube::Error> {
    let Some(standing) = refusal(kind, object, &error) else { return Err(error) };
    let status = object.status().cloned().unwrap_or_default();
    kind.shared().conclude(kind.lane(), &**object, status, (Some(&standing), Some(Again::Backoff))).await
}
