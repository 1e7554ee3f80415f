//! `ProjectRepository`: finds or forks a repository, follows its head, keeps its webhook, and rolls out pushes.

mod address;
mod answers;
mod apply;
mod followed;
mod fork;
mod gather;
mod hook;
mod listing;
mod memory;
mod plan;
mod readers;
pub(crate) mod rollout;
pub(crate) mod seen;
mod status;

pub use memory::{News, RepositoryMemory};

use super::caches;
use super::deliveries::{Mark, deliveries};
use super::dependents::woken_by_access;
use super::index::keep;
use super::newest::Newest;
use super::reconcile::{Done, Failure, Kind, Plan, Rationed};
use super::shared::Shared;
use super::standing::{Again, Standing, matters_to_app};
use super::watches::{Select, Watches};
use crate::api::{
    DeploymentResult, DeploymentStatus, ProjectRepository, ProjectRepositoryStatus, Reason, WaitingDelivery,
    WebhookInbox,
};
use crate::features::Feature;
use crate::manifests::{READ, Rule, RuleSet, WRITE};
use crate::runtime::due::{ADDRESSES, Due, Places, Urgency};
use crate::webhook::RootKeys;
use answers::Answers;
use apply::uid;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use listing::Listings;
use memory::{Failed, Task};
use plan::Step;
use readers::ReadTokens;
use seen::{Seen, own_status};
use std::sync::Arc;

pub struct RepositoryKind {
    shared: Arc<Shared>,
    lane: Due<ProjectRepository>,
    memory: Arc<RepositoryMemory>,
    /// The tokens that read repositories.
    readers: ReadTokens,
    /// The answers about branches.
    answers: Answers,
    /// The repositories of installations.
    listings: Listings,
    newest: Newest<ProjectRepository>,
}

impl RepositoryKind {
    /// A controller with an empty memory.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<ProjectRepository>) -> Self {
        Self {
            shared: Arc::clone(shared),
            lane,
            memory: Arc::default(),
            readers: ReadTokens::default(),
            answers: Answers::default(),
            listings: Listings::default(),
            newest: Newest::default(),
        }
    }

    /// The memory of this process about each repository.
    #[must_use]
    pub fn memory(&self) -> &Arc<RepositoryMemory> {
        &self.memory
    }
}

impl Kind for RepositoryKind {
    type Object = ProjectRepository;
    type Seen = Seen;
    type Step = Step;
    type Task = Task;

    const FEATURE: Feature = Feature::Repositories;
    // The operator has no permission to impersonate, and none to change workloads. A namespace that wants redeploys
    // grants the operator to act as one of its own ServiceAccounts, by name (config/samples/deployer.yaml).
    const RULES: &'static [Rule] = &[
        Rule::new(RuleSet::Cluster, "landfall.dev", &["projectrepositories"], &["get", "list", "watch", "patch"]),
        Rule::new(RuleSet::Cluster, "landfall.dev", &["projectrepositories/status"], &["patch"]),
        Rule::new(RuleSet::Cluster, "landfall.dev", &["projectrepositories/finalizers"], &["update"]),
        Rule::new(RuleSet::Receiver, "landfall.dev", &["projectrepositories"], READ),
        Rule::new(RuleSet::View, "landfall.dev", &["projectrepositories"], READ),
        // A ProjectRepository makes the operator act as the ServiceAccount that the object names: the operator only
        // restarts workloads, and only where the namespace let it impersonate that account. This role may restart
        // workloads, and impersonate every account of the namespace, anyway. On GitHub the object creates a fork or a
        // webhook, within the grant of the namespace.
        Rule::new(RuleSet::Edit, "landfall.dev", &["projectrepositories"], WRITE),
    ];
    const DEFINITION: Option<fn() -> CustomResourceDefinition> = Some(crate::api::definition::<ProjectRepository>);

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lane(&self) -> &Due<ProjectRepository> {
        &self.lane
    }

    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, ProjectRepository>) {
        let key = |repository: &ProjectRepository| {
            Some((repository.namespace()?, repository.spec.installation_ref.as_ref()?.name.clone()))
        };
        keep(watches, |index| &index.repositories, key);
        woken_by_access(watches, |index, namespace, name| index.repositories.of(namespace, name));
        watches.woken_by_deliveries(|_, inbox: &WebhookInbox| {
            let repositories = deliveries(inbox).filter_map(WaitingDelivery::repository);
            repositories.map(|(namespace, name)| ObjectRef::new(name).within(namespace)).collect()
        });
        let kind = Arc::clone(self);
        watches.hear(Select::own(Self::PLACE, Self::LABEL), move |news: &caches::News<'_, ProjectRepository>| {
            if let caches::News::Changed(object) = news {
                kind.memory.heard(uid(object), kind.answers.moment());
            }
        });
        // New root keys change the secrets of webhooks.
        watches.woken_by_announced::<RootKeys>();
    }

    /// The object without a status that was written for its predecessor.
    ///
    /// Status is written by name. A write for a deleted object may therefore reach its successor: another repository's
    /// id, and the deployment from it.
    fn begin(&self, object: Arc<ProjectRepository>) -> Arc<ProjectRepository> {
        self.memory.prune(&self.shared.caches);
        self.memory.update(uid(&object), |known| known.rollout.begin());
        if object.status.is_none() || own_status(&object).is_some() {
            return object;
        }
        let mut object = Arc::unwrap_or_clone(object);
        object.status = object.status.map(|_| ProjectRepositoryStatus::default());
        Arc::new(object)
    }

    /// The App's GitHub. The objects of a namespace share slots for all addresses, because it may name as many hosts as
    /// it likes.
    fn places(&self, object: &ProjectRepository) -> Places {
        match (&object.spec.installation_ref, &object.spec.source.url) {
            (Some(reference), _) => self.shared.place_of_app(object.namespace(), &reference.name),
            (None, Some(url)) => {
                let host = self.shared.settings.git_hosts.check(url).map(|address| format!("host {}", address.host()));
                let namespace = format!("addresses in {}", object.namespace().unwrap_or_default());
                host.into_iter().chain([namespace, ADDRESSES.to_owned()]).collect()
            }
            (None, None) => Places::new(),
        }
    }

    /// A push that is being rolled out is as urgent as the delivery that announced it. A tenant may have written the stored status,
    /// so only the one counts that this process wrote.
    fn urgency(seen: &Seen) -> Urgency {
        let is_under_way = |deployment: &DeploymentStatus| {
            matches!(deployment.result, DeploymentResult::Waiting | DeploymentResult::Running)
        };
        if seen.known.deployment.as_ref().is_some_and(is_under_way) { Urgency::Delivery } else { Urgency::Time }
    }

    async fn gather(&self, object: &Arc<ProjectRepository>) -> Result<Seen, kube::Error> {
        Ok(gather::gather(self, object))
    }

    fn newest(&self) -> Option<&Newest<ProjectRepository>> {
        Some(&self.newest)
    }

    fn plan(seen: &Seen, now: Timestamp) -> Plan<Step> {
        plan::plan(seen, now)
    }

    fn task(step: &Step) -> Option<Task> {
        step.task()
    }

    /// Takes a step that makes calls from the allowance of the object and its namespace.
    fn ration(&self, seen: &Seen, step: &Step) -> Result<(), Rationed> {
        let Some(task) = step.task() else { return Ok(()) };
        let (known, now) = (&seen.known, self.shared.now());
        let has_failed = known.failed.contains_key(&task);
        if *step == Step::Confirm && !has_failed {
            // This step follows a look, which was counted.
            return Ok(());
        }
        let is_polled = known.looked.as_ref().is_some_and(|looked| looked.next <= now);
        let is_its_turn = *step == Step::Look && is_polled && !has_failed;
        self.memory.spend(&seen.object, is_its_turn, now).map_err(|until| {
            let is_new = seen.object.status.as_ref().is_none_or(|status| status.conditions.is_empty());
            let message = "this namespace used up its part of GitHub's limits, which all tenants share: this goes on by itself. Find out what \
                           creates or changes ProjectRepositories all the time";
            Rationed { until, standing: is_new.then(|| Standing::reconciling(Reason::RateLimited, message)) }
        })
    }

    async fn apply(&self, seen: &Seen, step: Step) -> Result<Done<ProjectRepository>, Failure> {
        apply::apply(self, seen, step).await
    }

    fn succeeded(&self, seen: &Seen, task: Task) {
        self.memory.update(uid(&seen.object), |known| {
            known.failed.remove(&task);
        });
    }

    fn failed(&self, seen: &Seen, task: Option<Task>, standing: Standing, again: Again) {
        if matters_to_app(&standing)
            && let Some(app) = self.shared.app_of(&seen.object)
        {
            self.shared.look_at_app(&app);
        }
        let until = self.shared.resolve(&self.lane, &ObjectRef::from_obj(&*seen.object), again);
        let pending = seen.pending.iter().filter(|pending| pending.needs_look);
        let heard = pending.map(|pending| pending.mark.announced.clone()).collect();
        let failed = Failed { standing, until, about: seen.about(), heard, wanted: seen.known.wanted };
        if let Some(task) = task {
            self.memory.update(uid(&seen.object), |known| {
                known.failed.insert(task, failed);
            });
        }
    }

    /// The log has the deliveries now, so they can be taken out of their inboxes.
    fn concluded(&self, seen: &Seen) {
        let marks = seen.marks();
        if marks.is_empty() {
            return;
        }
        if seen.hindrance().is_some() {
            // They were not looked after, so a look comes first when that is possible again.
            let events = marks.iter().map(|mark| News::of(&mark.delivery.event));
            let about = events.max_by_key(|about| *about == News::Repository).unwrap_or(News::Push);
            self.memory.look_again(&seen.object, about);
        }
        for Mark { delivery, result, .. } in &marks {
            let (guid, sha) = (&delivery.guid, delivery.sha.as_deref());
            tracing::info!(delivery = guid, sha, ?result, "a delivery was dealt with");
        }
        self.shared.mark_dealt_with(marks.iter().map(|mark| mark.announced.clone()));
        self.memory.update(uid(&seen.object), |known| {
            known.heard.retain(|heard| !marks.iter().any(|mark| mark.announced == *heard));
        });
    }

    fn status(&self, seen: &Seen, _: Option<&Standing>) -> ProjectRepositoryStatus {
        status::status(seen, self.shared.now())
    }
}
