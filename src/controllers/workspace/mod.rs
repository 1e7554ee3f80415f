//! `Workspace`: a pod in which a person works on a branch, with a volume whose work is saved before it goes.
//!
//! ```text
//!  ProjectRepository ─▶ InstallationToken ─▶ volume ─▶ pod: clone ─▶ agent + the person's container ─▶ pull request
//!                                              │                     │ SIGTERM: saves
//!                                              └── Job, where the pod did not ─▶ what was said is read back from the remote
//! ```
//!
//! Invariant: the volume is deleted when its work was read back from the remote, when it has none, or when somebody
//! gave it up; otherwise it is kept. Reports of pods are a reason to look, and only the result of the look decides
//! ([`plan`]).

mod apply;
pub mod claim;
mod gateway;
mod gather;
mod keep;
pub(crate) mod memory;
pub(crate) mod objects;
mod plan;
mod pods;
pub(crate) mod pull;
mod release;
mod remote;
mod reports;
pub(crate) mod seen;
mod status;
mod volume;

pub use gateway::GatewayAnswers;
pub use memory::WorkspaceMemory;
pub use reports::WorkspaceReports;

use super::dependents::woken_by_access;
use super::index::keep;
use super::reconcile::{Done, Failure, Kind, Plan, Rationed};
use super::repository::{RepositoryKind, RepositoryMemory};
use super::shared::Shared;
use super::standing::{Again, Standing};
use super::token::{TokenKind, TokenMemory};
use super::watches::{Select, Turn, Watches};
use crate::api::{InstallationToken, ProjectRepository, WORKSPACE_LABEL, Workspace, WorkspaceStatus};
use crate::features::Feature;
use crate::internal::certificates::{AUTHORITY_SECRET, GATEWAY_SECRET};
use crate::manifests::{READ, Rule, RuleSet, WRITE};
use crate::runtime::due::{Due, Places};
use apply::uid;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use memory::{Failed, Task};
use plan::Step;
use seen::Seen;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub struct WorkspaceKind {
    shared: Arc<Shared>,
    lane: Due<Workspace>,
    memory: Arc<WorkspaceMemory>,
    tokens: Arc<TokenMemory>,
    repositories: Arc<RepositoryMemory>,
}

impl WorkspaceKind {
    /// A controller with an empty memory. From other kinds it needs the minted tokens, because a Secret may be deleted
    /// first, and the ids of the repositories.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<Workspace>, tokens: &TokenKind, repositories: &RepositoryKind) -> Self {
        Self {
            shared: Arc::clone(shared),
            lane,
            memory: Arc::default(),
            tokens: Arc::clone(tokens.memory()),
            repositories: Arc::clone(repositories.memory()),
        }
    }

    /// Takes the reports of pods. `leads`: whether this process is the leader, which writes.
    #[must_use]
    pub fn reports(&self, leads: Arc<AtomicBool>) -> WorkspaceReports {
        WorkspaceReports::new(&self.shared, &self.memory, leads)
    }
}

/// The workspace of a pod, a claim or a Job.
fn of_part<K: Resource>(part: &K) -> Vec<ObjectRef<Workspace>> {
    let name = part.labels().get(WORKSPACE_LABEL);
    name.map(|name| ObjectRef::new(name).within(&part.namespace().unwrap_or_default())).into_iter().collect()
}

impl Kind for WorkspaceKind {
    type Object = Workspace;
    type Seen = Seen;
    type Step = Step;
    type Task = Task;

    const FEATURE: Feature = Feature::Workspaces;
    const RULES: &'static [Rule] = &[
        Rule::new(RuleSet::Cluster, "landfall.dev", &["workspaces"], &["get", "list", "watch", "patch"]),
        Rule::new(RuleSet::Cluster, "landfall.dev", &["workspaces/status"], &["patch"]),
        Rule::new(RuleSet::Cluster, "landfall.dev", &["workspaces/finalizers"], &["update"]),
        // A workspace's token is created and deleted with it.
        Rule::new(RuleSet::Cluster, "landfall.dev", &["installationtokens"], &["create", "delete"]),
        // The pod of a workspace, and the Job that saves the work on its volume.
        Rule::new(RuleSet::Cluster, "", &["pods"], &["get", "list", "watch", "create", "delete"]),
        Rule::new(RuleSet::Cluster, "batch", &["jobs"], &["get", "list", "watch", "create", "delete"]),
        // A token review shows which pod sent a report.
        Rule::new(RuleSet::Cluster, "authentication.k8s.io", &["tokenreviews"], &["create"]),
        // The authority and the certificate of the gateway are renewed.
        Rule::new(RuleSet::Own, "", &["secrets"], &["update"]).named(&[AUTHORITY_SECRET, GATEWAY_SECRET]),
        // The gateway faces workspaces. A token review shows which pod a request comes from, and it has no other right.
        Rule::new(RuleSet::Gateway, "authentication.k8s.io", &["tokenreviews"], &["create"]),
        Rule::new(RuleSet::View, "landfall.dev", &["workspaces"], READ),
        // A Workspace creates a pod. This role may create pods anyway, with more than a Workspace may put into one.
        Rule::new(RuleSet::Edit, "landfall.dev", &["workspaces"], WRITE),
    ];
    const DEFINITION: Option<fn() -> CustomResourceDefinition> = Some(crate::api::definition::<Workspace>);

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lane(&self) -> &Due<Workspace> {
        &self.lane
    }

    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, Workspace>) {
        // The installation of a workspace follows from its repository or its token, so all workspaces of the namespace
        // are queued.
        keep(watches, |index| &index.workspaces, |workspace: &Workspace| Some((workspace.namespace()?, String::new())));
        woken_by_access(watches, |index, namespace, _| index.workspaces.under(namespace));
        watches.woken_by(Select::All, |_, token: &InstallationToken, _| {
            // The token may have been made for that workspace, or have its name by accident.
            let workspace = objects::named(&token.name_any()).map(ObjectRef::new);
            workspace.map(|it| it.within(&token.namespace().unwrap_or_default())).into_iter().collect()
        });
        watches.woken_by(Select::All, |shared, repository: &ProjectRepository, _| {
            let is_concerned = |workspace: &Workspace| {
                workspace.spec.repository_ref.name == repository.name_any()
                    // Once it has a token, it is bound to the token's repository.
                    && workspace.status.as_ref().is_none_or(|status| status.pod.is_none())
            };
            let mut workspaces = shared.caches.index.workspaces.under(&repository.namespace().unwrap_or_default());
            workspaces.retain(|it| shared.caches.get(it).is_some_and(|workspace| is_concerned(&workspace)));
            workspaces
        });
        let select = Select::Labelled(WORKSPACE_LABEL);
        let memory = Arc::clone(&self.memory);
        watches.woken_by(select, move |_, pod: &Pod, turn| {
            // The end of a pod is remembered here, because the last state of a deleted pod comes only with its
            // deletion.
            memory.saw(pod, turn == Turn::Gone);
            of_part(pod)
        });
        watches.woken_by(select, |_, claim: &PersistentVolumeClaim, _| of_part(claim));
        watches.woken_by(select, |_, job: &Job, _| of_part(job));
    }

    /// The object without a status that was written for its predecessor of the same name.
    fn begin(&self, object: Arc<Workspace>) -> Arc<Workspace> {
        self.memory.prune(&self.shared.caches);
        let writes_for = object.status.as_ref().and_then(|status| status.uid.as_ref());
        if writes_for.is_none_or(|uid| Some(uid) == object.metadata.uid.as_ref()) {
            return object;
        }
        let mut object = Arc::unwrap_or_clone(object);
        object.status = None;
        Arc::new(object)
    }

    fn places(&self, workspace: &Workspace) -> Places {
        let namespace = workspace.namespace().unwrap_or_default();
        let repository = self.shared.caches.named::<ProjectRepository>(&namespace, &workspace.spec.repository_ref.name);
        let reference = repository.and_then(|repository| repository.spec.installation_ref.clone());
        reference.map(|reference| self.shared.place_of_app(Some(namespace), &reference.name)).unwrap_or_default()
    }

    async fn gather(&self, object: &Arc<Workspace>) -> Result<Seen, kube::Error> {
        gather::gather(self, object).await
    }

    fn plan(seen: &Seen, now: Timestamp) -> Plan<Step> {
        plan::plan(seen, now)
    }

    fn task(step: &Step) -> Option<Task> {
        step.task()
    }

    fn ration(&self, seen: &Seen, step: &Step) -> Result<(), Rationed> {
        if step.task().is_none() {
            return Ok(());
        }
        let spent = self.memory.spend(uid(&seen.object), self.shared.now());
        spent.map_err(|until| Rationed { until, standing: None })
    }

    async fn apply(&self, seen: &Seen, step: Step) -> Result<Done<Workspace>, Failure> {
        apply::apply(self, seen, step).await
    }

    fn succeeded(&self, seen: &Seen, task: Task) {
        self.memory.update(uid(&seen.object), |known| {
            known.failed.remove(&task);
        });
    }

    fn failed(&self, seen: &Seen, task: Option<Task>, standing: Standing, again: Again) {
        let until = self.shared.resolve(&self.lane, &ObjectRef::from_obj(&*seen.object), again);
        let about = seen.about();
        let task = task.unwrap_or(Task::Make);
        self.memory.update(uid(&seen.object), |known| {
            let before = known.failed.get(&task).filter(|before| before.about == about);
            let times = before.map_or(0, |before| before.times) + 1;
            known.failed.insert(task, Failed { standing, until, times, about });
        });
    }

    fn remembers_refusals(task: Option<Task>) -> bool {
        matches!(task, Some(Task::Make | Task::Grow))
    }

    fn status(&self, seen: &Seen, _: Option<&Standing>) -> WorkspaceStatus {
        status::status(seen, self.shared.now())
    }
}
