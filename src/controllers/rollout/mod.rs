//! What a push does in the cluster: `spec.onPush` of a `ProjectRepository`.
//!
//! Invariants: everything is done as the `ServiceAccount` that the spec names, in the object's own namespace, with no
//! right of the operator's own; and a commit is rolled exactly once, wherever the operator stops and starts again.
//! [`plan`] holds the second, [`account`] the first.

pub mod account;
pub mod apply;
pub mod plan;
pub mod progress;
pub mod seen;

pub use plan::Settlement;
pub use seen::Head;

use crate::api::{
    ConditionType, Deliveries, DeploymentResult, DeploymentStatus, ProjectRepository, REDEPLOY_ANNOTATION, Reason,
};
use crate::guards::Guards;
use account::{Account, Refused};
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use plan::{Next, Seen, plan};
use seen::{Hindrance, Stamp, Targets, Trouble, Workload};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often a workload that others change at the same time is looked at again at once.
const CONFLICTS: u32 = 3;

/// What this process knows of the rollouts it does.
#[derive(Debug, Default)]
pub struct Rollouts {
    /// For each object that is being deployed, by uid: the sequence, and the workloads that were changed for it.
    changed: Mutex<HashMap<String, (i64, HashSet<String>)>>,
}

/// What a step is given.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The object, for its spec, annotations and deliveries.
    pub object: &'a ProjectRepository,
    /// It, its installation or its App is paused.
    pub is_paused: bool,
    /// The head of the branch as GitHub said and confirmed it in this process's life. `None`: not looked at yet.
    pub head: Option<&'a Head>,
    /// The repository, as templates say whose commit they were changed for.
    pub source: Option<&'a str>,
    /// `status.deployment` as it was written last.
    pub deployment: Option<&'a DeploymentStatus>,
    /// `status.lastHandledRedeploy` as it was written last.
    pub handled: Option<&'a str>,
    /// The guards that tests take out.
    pub guards: Guards,
}

/// What is to be done with a step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Look at the head, confirm it if it is another than before, and ask for the next step. If it cannot be looked at,
    /// nothing goes on until it can.
    LookAtHead,
    /// Write this to status, and ask for the next step only when it is stored.
    Write {
        /// `status.deployment`.
        deployment: DeploymentStatus,
        /// `status.lastHandledRedeploy`.
        handled: Option<String>,
    },
    /// Write what differs, with the condition Deployed, and look again at the time it says.
    Settled {
        /// How it stands.
        settlement: Settlement,
        /// `status.lastHandledRedeploy`.
        handled: Option<String>,
    },
}

impl Rollouts {
    /// The next step. Looks at workloads and changes them, nothing else. `None`: the spec asks for nothing.
    ///
    /// # Errors
    /// The API server's, if it will pass.
    pub async fn step(&self, client: &Client, given: &Given<'_>, now: Timestamp) -> Result<Option<Step>, kube::Error> {
        let Some(on_push) = &given.object.spec.on_push else { return Ok(None) };
        let namespace = given.object.namespace().unwrap_or_default();
        let (namespace, name) = given.guards.account((&*namespace, &*on_push.service_account_name));
        let account = Account::new(client, namespace, name);
        let wish = given.object.annotations().get(REDEPLOY_ANNOTATION);
        let is_asked_again = wish.is_some_and(|wish| given.handled != Some(wish));
        let handled = |answers: bool| wish.filter(|_| answers).cloned().or_else(|| given.handled.map(str::to_owned));
        let mut refusals = Refusals::default();
        let mut targets: Option<Targets> = None;
        loop {
            let seen = Seen {
                on_push,
                is_paused: given.is_paused,
                head: given.head,
                stored: given.deployment,
                was_forbidden: was_forbidden(given.object),
                is_asked_again,
                targets: targets.as_ref(),
            };
            match plan(&seen, now) {
                Next::LookAtHead => return Ok(Some(Step::LookAtHead)),
                Next::LookAtTargets => {
                    let mut found = match &account {
                        Ok(account) => apply::look(account, &on_push.actions, given.source).await?,
                        Err(trouble) => Targets { troubles: vec![trouble.clone()], ..Targets::default() },
                    };
                    for workload in &mut found.workloads {
                        workload.hindrance = self.hindrance(given, workload, &refusals);
                    }
                    targets = Some(found);
                }
                Next::Begin { deployment, answers_wish } => {
                    let deployment = given.guards.deployment(deployment, self, &account, given, targets.as_ref());
                    let deployment = deployment.await?;
                    Line::of(given, &deployment).info("deploying");
                    return Ok(Some(Step::Write { deployment, handled: handled(answers_wish) }));
                }
                Next::Roll { stamp, workloads } => {
                    let Ok(account) = &account else { return Ok(None) };
                    for workload in &workloads {
                        self.roll(account, given, workload, &stamp, &mut refusals).await?;
                    }
                    targets = None;
                }
                Next::Settle(settlement) => {
                    self.settled(given, &settlement);
                    return Ok(Some(Step::Settled { handled: handled(settlement.answers_wish), settlement }));
                }
            }
        }
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.changed().remove(uid);
    }

    pub(crate) async fn roll(
        &self,
        account: &Account<'_>,
        given: &Given<'_>,
        workload: &Workload,
        stamp: &Stamp,
        refusals: &mut Refusals,
    ) -> Result<(), kube::Error> {
        let line = Line { workload: Some(workload), ..Line::new(given, &stamp.sha, stamp.sequence) };
        match apply::roll(account, workload, stamp, given.source).await {
            Ok(()) => {
                line.info("rolled");
                let mut changed = self.changed();
                let of_object = changed.entry(given.object.uid().unwrap_or_default()).or_default();
                if of_object.0 != stamp.sequence {
                    *of_object = (stamp.sequence, HashSet::new());
                }
                of_object.1.insert(workload.uid.clone());
            }
            Err(Refused::Passing(error)) => {
                line.warn(&format!("the Kubernetes API could not roll it now: {error}"));
                return Err(error);
            }
            Err(Refused::Changed) if refusals.may_try_again(workload) => {}
            Err(refused) => {
                if let Some(trouble) = apply::trouble(refused, &workload.to_string()) {
                    line.warn(&trouble.message);
                    refusals.given_up.insert(workload.uid.clone(), trouble);
                }
            }
        }
        Ok(())
    }

    fn hindrance(&self, given: &Given<'_>, workload: &Workload, refusals: &Refusals) -> Option<Hindrance> {
        let was_changed = || {
            let changed = self.changed();
            let (sequence, workloads) = changed.get(&given.object.uid()?)?;
            let is_this = given.deployment.is_some_and(|deployment| deployment.sequence == *sequence);
            (is_this && workloads.contains(&workload.uid)).then_some(Hindrance::TakenOver)
        };
        let refused = refusals.given_up.get(&workload.uid).cloned().map(Hindrance::Refused);
        refused.or_else(was_changed)
    }

    fn settled(&self, given: &Given<'_>, settlement: &Settlement) {
        let Some(deployment) = &settlement.deployment else { return };
        let is_over = matches!(deployment.result, DeploymentResult::Succeeded | DeploymentResult::Failed);
        if is_over && let Some(uid) = given.object.uid() {
            self.forget(&uid);
        }
        if given.deployment == Some(deployment) {
            return;
        }
        let line = Line::of(given, deployment);
        let message = deployment.message.as_deref().unwrap_or_default();
        match deployment.result {
            DeploymentResult::Waiting => line.info("pushed; waits for further pushes"),
            DeploymentResult::Running => line.warn(&format!("cannot go on now: {message}")),
            DeploymentResult::Succeeded if deployment.sequence == 0 => line.info("begins with this head"),
            DeploymentResult::Succeeded => line.info("rolled out"),
            DeploymentResult::Failed => line.warn(&format!("failed: {message}")),
        }
    }

    fn changed(&self) -> MutexGuard<'_, HashMap<String, (i64, HashSet<String>)>> {
        // No code that holds the lock can leave the state half changed.
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was refused within one step.
#[derive(Default)]
pub(crate) struct Refusals {
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

/// Whether the condition says that it failed because something was forbidden. `status.deployment` has no reason.
fn was_forbidden(object: &ProjectRepository) -> bool {
    let conditions = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    conditions.iter().any(|condition| {
        condition.type_ == ConditionType::Deployed.as_str() && condition.reason == Reason::ActionForbidden.as_str()
    })
}

/// A line of the log: whose, which commit, and which deliveries announced it.
struct Line<'a> {
    given: &'a Given<'a>,
    sha: &'a str,
    sequence: i64,
    workload: Option<&'a Workload>,
}

impl<'a> Line<'a> {
    fn new(given: &'a Given<'a>, sha: &'a str, sequence: i64) -> Self {
        Self { given, sha, sequence, workload: None }
    }

    fn of(given: &'a Given<'a>, deployment: &'a DeploymentStatus) -> Self {
        Self::new(given, &deployment.sha, deployment.sequence)
    }

    fn info(&self, message: &str) {
        let (namespace, name) = (self.given.object.namespace(), self.given.object.name_any());
        let (sha, sequence, workload) = (self.sha, self.sequence, self.workload.map(tracing::field::display));
        tracing::info!(namespace, name, sha, sequence, workload, deliveries = %self.deliveries(), "{message}");
    }

    fn warn(&self, message: &str) {
        let (namespace, name) = (self.given.object.namespace(), self.given.object.name_any());
        let (sha, sequence, workload) = (self.sha, self.sequence, self.workload.map(tracing::field::display));
        tracing::warn!(namespace, name, sha, sequence, workload, deliveries = %self.deliveries(), "{message}");
    }

    fn deliveries(&self) -> Guids<'_> {
        Guids(self.given.object.status.as_ref().map(|status| &status.deliveries), self.sha)
    }
}

/// The GUIDs of the deliveries that announced a commit. What is no GUID was not written by the receiver.
struct Guids<'a>(Option<&'a Deliveries>, &'a str);

impl fmt::Display for Guids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_guid = |text: &str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let announced = self
            .0
            .into_iter()
            .flatten()
            .filter(|(guid, delivery)| is_guid(guid) && delivery.sha.as_deref() == Some(self.1));
        for (number, (guid, _)) in announced.take(crate::api::KEPT_DELIVERIES).enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{guid}")?;
        }
        Ok(())
    }
}
