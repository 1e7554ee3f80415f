//! The effects of a push in the cluster: `spec.onPush` of a `ProjectRepository`.
//!
//! Invariants: every request is made as the `ServiceAccount` that the spec names, in the object's own namespace,
//! without the operator's own permissions; and a commit is rolled out exactly once, wherever the operator stops and
//! starts again. [`plan`] ensures the second, [`account`] the first.

pub mod account;
pub mod apply;
pub mod plan;
pub mod progress;
pub mod seen;

pub use plan::{RolloutInput, Settlement};
pub use seen::{ConfirmedHead, Stamp, Targets, Workload};

use super::RepositoryKind;
use super::apply::uid;
use super::plan::Step;
use super::seen::Seen;
use super::status;
use crate::api::{ConditionType, DeploymentResult, DeploymentStatus, OnPush, ProjectRepository, Reason};
use crate::controllers::reconcile::Failure;
use account::{Account, Refused};
use kube::{Client, ResourceExt};
use seen::{Hindrance, Trouble};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How often a workload that others change at the same time is looked at again at once.
const CONFLICTS: u32 = 3;

/// The memory of this process about the rollout of an object.
#[derive(Clone, Debug, Default)]
pub struct RolloutMemory {
    /// The workloads, as they were just seen.
    targets: Option<Targets>,
    /// The sequence of the deployment, and the workloads that were changed for it.
    changed: Option<(i64, HashSet<String>)>,
    /// The refusals since the workloads were first seen in this reconcile.
    refusals: Refusals,
}

#[derive(Clone, Debug, Default)]
struct Refusals {
    conflicts: HashMap<String, u32>,
    given_up: HashMap<String, Trouble>,
}

impl Refusals {
    fn may_try_again(&mut self, workload: &Workload) -> bool {
        let conflicts = self.conflicts.entry(workload.uid.clone()).or_default();
        *conflicts += 1;
        *conflicts < CONFLICTS
    }
}

impl RolloutMemory {
    /// A memory with workloads that were just seen.
    #[cfg(test)]
    pub fn of(targets: Targets) -> Self {
        Self { targets: Some(targets), ..Self::default() }
    }

    /// The workloads, if they were just seen.
    #[must_use]
    pub fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref()
    }

    /// Called for each step. After any step except the look at workloads they are looked at again, and after any step
    /// except these two, refused changes are tried again.
    pub fn go_on(&mut self, step: &Step) {
        match step {
            Step::LookAtWorkloads => {}
            Step::Roll { .. } => self.targets = None,
            _ => self.begin(),
        }
    }

    /// Called when a reconcile begins.
    pub fn begin(&mut self) {
        self.targets = None;
        self.refusals = Refusals::default();
    }

    fn was_changed(&self, workload: &Workload, deployment: Option<&DeploymentStatus>) -> bool {
        self.changed.as_ref().is_some_and(|(sequence, workloads)| {
            let is_this = deployment.is_some_and(|deployment| deployment.sequence == *sequence);
            is_this && workloads.contains(&workload.uid)
        })
    }

    fn changed(&mut self, workload: &Workload, sequence: i64) {
        let changed = self.changed.get_or_insert_with(|| (sequence, HashSet::new()));
        if changed.0 != sequence {
            *changed = (sequence, HashSet::new());
        }
        changed.1.insert(workload.uid.clone());
    }
}

/// The account in the spec.
fn account<'a>(kind: &'a RepositoryKind, (on_push, namespace): (&'a OnPush, &'a str)) -> Result<Account<'a>, Trouble> {
    let client: &Client = &kind.shared.client;
    let (namespace, name) = kind.shared.guards.account((namespace, &*on_push.service_account_name));
    Account::new(client, namespace, name)
}

/// Looks at the workloads.
///
/// # Errors
/// Failures of the API server that will pass.
pub async fn look(kind: &RepositoryKind, seen: &Seen) -> Result<(), Failure> {
    let Some(on_push) = &seen.object.spec.on_push else { return Ok(()) };
    let namespace = seen.object.namespace().unwrap_or_default();
    let mut found = match account(kind, (on_push, &namespace)) {
        Ok(account) => apply::look(&account, &on_push.actions, seen.source().as_deref()).await?,
        Err(trouble) => Targets { troubles: vec![trouble], ..Targets::default() },
    };
    let memory = &seen.known.rollout;
    for workload in &mut found.workloads {
        let refused = memory.refusals.given_up.get(&workload.uid).cloned().map(Hindrance::Refused);
        let taken_over = || memory.was_changed(workload, seen.deployment()).then_some(Hindrance::TakenOver);
        workload.hindrance = refused.or_else(taken_over);
    }
    kind.memory.update(uid(&seen.object), |known| known.rollout.targets = Some(found));
    Ok(())
}

/// Writes the deployment that begins to status, before acting on it. Returns the object as it is afterwards.
///
/// # Errors
/// Kubernetes refused the patch.
pub async fn record(
    kind: &RepositoryKind,
    seen: &Seen,
    deployment: DeploymentStatus,
    handled: Option<String>,
) -> Result<ProjectRepository, Failure> {
    let deployment = kind.shared.guards.deployment(deployment, kind, seen).await?;
    Line::of(seen, &deployment).info("deploying");
    let mut seen = seen.clone();
    seen.known.deployment = Some(deployment);
    seen.known.redeploy = handled;
    seen.known.deployed = None;
    let status = status::with_conditions(&seen, status::status(&seen, kind.shared.now()));
    let written = kind.shared.write_status(&*seen.object, &status).await?;
    let known = seen.known;
    kind.memory.update(uid(&seen.object), |before| {
        before.deployment = known.deployment;
        before.redeploy = known.redeploy;
        before.deployed = None;
    });
    Ok(written)
}

/// Changes the templates of workloads.
///
/// # Errors
/// Failures of the API server that will pass.
pub async fn roll(
    kind: &RepositoryKind,
    seen: &Seen,
    stamp: &Stamp,
    workloads: &[Workload],
) -> Result<(), kube::Error> {
    let (object, source) = (&*seen.object, seen.source());
    let Some(on_push) = &object.spec.on_push else { return Ok(()) };
    let namespace = object.namespace().unwrap_or_default();
    let Ok(account) = account(kind, (on_push, &namespace)) else { return Ok(()) };
    for workload in workloads {
        let line = Line { workload: Some(workload), ..Line::new(seen, &stamp.sha, stamp.sequence) };
        match apply::roll(&account, workload, stamp, source.as_deref()).await {
            Ok(()) => {
                line.info("rolled");
                kind.memory.update(uid(object), |known| known.rollout.changed(workload, stamp.sequence));
            }
            Err(Refused::Passing(error)) => {
                line.warn(&format!("the Kubernetes API could not roll it now: {error}"));
                return Err(error);
            }
            Err(refused) => {
                let mut may_try_again = false;
                if let Refused::Changed = refused {
                    kind.memory.update(uid(object), |known| {
                        may_try_again = known.rollout.refusals.may_try_again(workload);
                    });
                }
                if !may_try_again && let Some(trouble) = apply::trouble(refused, &workload.to_string()) {
                    line.warn(&trouble.message);
                    kind.memory.update(uid(object), |known| {
                        known.rollout.refusals.given_up.insert(workload.uid.clone(), trouble);
                    });
                }
            }
        }
    }
    Ok(())
}

/// Remembers the standing of the deployment, which then goes into status.
pub fn settle(kind: &RepositoryKind, seen: &Seen, settlement: Settlement, handled: Option<String>) {
    if let Some(deployment) = &settlement.deployment
        && seen.deployment() != Some(deployment)
    {
        tell(&Line::of(seen, deployment), deployment);
    }
    let result = settlement.deployment.as_ref().map(|deployment| deployment.result);
    kind.memory.update(uid(&seen.object), |known| {
        if matches!(result, Some(DeploymentResult::Succeeded | DeploymentResult::Failed)) {
            known.rollout.changed = None;
        }
        known.deployment = settlement.deployment;
        known.redeploy = handled;
        known.deployed = settlement.standing;
    });
}

fn tell(line: &Line<'_>, deployment: &DeploymentStatus) {
    let message = deployment.message.as_deref().unwrap_or_default();
    match deployment.result {
        DeploymentResult::Waiting => line.info("pushed; waits for further pushes"),
        DeploymentResult::Running => line.warn(&format!("cannot go on now: {message}")),
        DeploymentResult::Succeeded if deployment.sequence == 0 => line.info("begins with this head"),
        DeploymentResult::Succeeded => line.info("rolled out"),
        DeploymentResult::Failed => line.warn(&format!("failed: {message}")),
    }
}

/// Whether the condition shows that the deployment failed because an action was forbidden. `status.deployment` has no
/// reason.
#[must_use]
pub fn was_forbidden(object: &ProjectRepository) -> bool {
    let conditions = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    conditions.iter().any(|condition| {
        condition.type_ == ConditionType::Deployed.as_str() && condition.reason == Reason::ActionForbidden.as_str()
    })
}

/// The fields of a line in the log: the object, the commit, and the deliveries that announced it.
struct Line<'a> {
    seen: &'a Seen,
    sha: &'a str,
    sequence: i64,
    workload: Option<&'a Workload>,
}

impl<'a> Line<'a> {
    fn new(seen: &'a Seen, sha: &'a str, sequence: i64) -> Self {
        Self { seen, sha, sequence, workload: None }
    }

    fn of(seen: &'a Seen, deployment: &'a DeploymentStatus) -> Self {
        Self::new(seen, &deployment.sha, deployment.sequence)
    }

    fn info(&self, message: &str) {
        let (namespace, name) = (self.seen.object.namespace(), self.seen.object.name_any());
        let (sha, sequence, workload) = (self.sha, self.sequence, self.workload.map(tracing::field::display));
        tracing::info!(namespace, name, sha, sequence, workload, deliveries = self.deliveries(), "{message}");
    }

    fn warn(&self, message: &str) {
        let (namespace, name) = (self.seen.object.namespace(), self.seen.object.name_any());
        let (sha, sequence, workload) = (self.sha, self.sequence, self.workload.map(tracing::field::display));
        tracing::warn!(namespace, name, sha, sequence, workload, deliveries = self.deliveries(), "{message}");
    }

    /// The GUIDs of the deliveries that announced the commit. A text that is not a GUID was not written by the receiver.
    fn deliveries(&self) -> String {
        let is_guid = |text: &&str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let announced: BTreeSet<_> = self.seen.announcing(self.sha).filter(is_guid).collect();
        announced.into_iter().collect::<Vec<_>>().join(",")
    }
}
