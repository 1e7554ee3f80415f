//! What every controller works with: the clients, the caches, the queue, and the one way to conclude a reconcile.

use super::connection::Connections;
use super::object::ScopeApi;
use super::reference::{Access, Purpose, refer};
use super::repository::{ReadTokens, Repositories};
use super::rollout::Rollouts;
use super::standing::{Again, Standing, State};
use super::token::Memory;
use super::watch::wake_all;
use super::workspace::Workspaces;
use crate::api::{
    ConditionType, FIELD_MANAGER, GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository, Reason,
    Reconciled, Workspace, default_permissions,
};
use crate::github::{self, Connect};
use crate::grant::{Known, NamespaceView, Reach};
use crate::runtime::clock::Clock;
use crate::runtime::due::Due;
use crate::runtime::events::Events;
use crate::runtime::jitter::Jitter;
use crate::runtime::metrics::{Metrics, ObjectCount, Outcome};
use crate::settings::Settings;
use crate::webhook::RootKeys;
use crate::webhook::root_keys::{self, KnownRootKeys};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

/// How often something that only a person can mend is looked at all the same, should the news of it have got lost.
pub const PERSON_RECHECK: SignedDuration = SignedDuration::from_mins(30);

/// The caches, kept by the watches.
pub struct Stores {
    /// All `GitHubApp`s.
    pub apps: Store<GitHubApp>,
    /// All `GitHubInstallation`s.
    pub installations: Store<GitHubInstallation>,
    /// All `InstallationToken`s.
    pub tokens: Store<InstallationToken>,
    /// All `ProjectRepository`s.
    pub repositories: Store<ProjectRepository>,
    /// All `Workspace`s.
    pub workspaces: Store<Workspace>,
    /// The pods of workspaces.
    pub pods: Store<Pod>,
    /// The claims of workspaces' volumes.
    pub claims: Store<PersistentVolumeClaim>,
    /// The Jobs that save workspaces.
    pub jobs: Store<Job>,
    /// All namespaces, metadata only.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Metadata of the Secrets the operator made; a store for each namespace it is limited to, or one for all.
    pub secrets: Vec<Store<PartialObjectMeta<Secret>>>,
}

/// The say over when objects are looked at.
#[derive(Clone)]
pub struct Dues {
    /// `GitHubApp`s.
    pub apps: Due<GitHubApp>,
    /// `GitHubInstallation`s.
    pub installations: Due<GitHubInstallation>,
    /// `InstallationToken`s.
    pub tokens: Due<InstallationToken>,
    /// `ProjectRepository`s.
    pub repositories: Due<ProjectRepository>,
    /// `Workspace`s.
    pub workspaces: Due<Workspace>,
    /// Claims of workspaces that are gone.
    pub claims: Due<PersistentVolumeClaim>,
}

/// What every controller works with.
pub struct Context {
    /// Kubernetes.
    pub client: Client,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub jitter: Arc<dyn Jitter>,
    /// The way to GitHub.
    pub connect: Arc<dyn Connect>,
    /// What was configured.
    pub settings: Settings,
    /// Counters.
    pub metrics: Metrics,
    /// Events.
    pub events: Events,
    /// What is known of each App.
    pub connections: Connections,
    /// The tokens this process minted.
    pub memory: Memory,
    /// What is known of each repository.
    pub repositories: Repositories,
    /// The tokens by which repositories are read.
    pub readers: ReadTokens,
    /// What is known of each workspace.
    pub workspaces: Arc<Workspaces>,
    /// What is known of the rollouts that are under way.
    pub rollouts: Rollouts,
    /// The root keys of webhooks.
    pub root_keys: Arc<KnownRootKeys>,
    /// The caches.
    pub stores: Arc<Stores>,
    /// The queue.
    pub due: Dues,
    /// Guards of the operator that tests take out.
    #[cfg(feature = "sabotage")]
    pub sabotage: crate::operator::Sabotage,
}

/// How a reconcile ended.
#[derive(Clone, Debug)]
pub struct Settled {
    /// How the object stands. `None`: nothing can be said, status stays as it is.
    pub standing: Option<Standing>,
    /// When to look again. `None`: when something changes.
    pub again: Option<Again>,
}

impl Context {
    /// A namespace as grants see it.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<NamespaceView> {
        self.stores.namespaces.get(&ObjectRef::new(name)).map(|namespace| NamespaceView::of(&namespace))
    }

    /// Whether a namespace is being deleted. `asks`: the API server is asked; for what else is being deleted may be so because
    /// the namespace is, and be announced before it.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn is_namespace_going(&self, name: &str, asks: bool) -> Result<bool, kube::Error> {
        let known = self.namespace(name).is_some_and(|namespace| namespace.terminating);
        if known || !asks {
            return Ok(known);
        }
        let namespace = Api::<Namespace>::all(self.client.clone()).get_metadata_opt(name).await?;
        Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
    }

    /// All namespaces.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NamespaceView> {
        self.stores.namespaces.state().iter().map(|namespace| NamespaceView::of(namespace)).collect()
    }

    /// The `GitHubApp` and the account that a repository is reached by.
    #[must_use]
    pub fn app_of(&self, repository: &ProjectRepository) -> Option<(String, String)> {
        let reference = repository.spec.installation_ref.as_ref()?;
        let place = ObjectRef::new(&reference.name).within(&repository.namespace()?);
        let installation = self.stores.installations.get(&place)?;
        Some((installation.spec.app_ref.name.clone(), installation.spec.account.clone()))
    }

    /// The id that an object is bound to, as far as is known: a hint, for it may come from status.
    #[must_use]
    pub fn pinned(&self, repository: &ProjectRepository) -> Option<u64> {
        let known = self.repositories.get(repository.metadata.uid.as_deref().unwrap_or_default());
        let stored = || u64::try_from(repository.status.as_ref()?.id?).ok();
        known.facts.map(|facts| facts.repository.id).or_else(stored)
    }

    /// The ids of the repositories that are followed through an App's installation and granted to who follows them, but
    /// for those that are lost, by what this process knows or by what status says: one of them would have a token for all
    /// of them refused.
    #[must_use]
    pub fn followed_by(&self, app: &str, installation: u64) -> Vec<u64> {
        let repositories = self.stores.repositories.state();
        let ids: BTreeSet<_> =
            repositories.iter().filter_map(|repository| self.is_followed(repository, app, installation)).collect();
        ids.into_iter().collect()
    }

    fn is_followed(&self, repository: &ProjectRepository, app: &str, installation: u64) -> Option<u64> {
        let known = self.repositories.get(repository.metadata.uid.as_deref().unwrap_or_default());
        let reference = repository.spec.installation_ref.as_ref().filter(|_| !known.is_lost())?;
        let status = repository.status.as_ref();
        let conditions = status.map_or(&[][..], |status| &status.conditions);
        let lost = [Reason::RepositoryNotFound, Reason::RepositoryNotGranted].map(Reason::as_str);
        if conditions.iter().any(|its| its.type_ == "Ready" && lost.contains(&its.reason.as_str())) {
            return None;
        }
        let id = self.pinned(repository)?;
        let shown = || status?.full_name.as_ref()?.split_once('/').map(|(_, name)| name.to_owned());
        let name = known.facts.map(|facts| facts.repository.name.clone()).or_else(shown);
        let referred = refer(self, &repository.namespace()?, &reference.name, Purpose::Use);
        let Access::Granted { installation: its, grant, .. } = referred.access else { return None };
        let reach = [Known { name, id: i64::try_from(id).ok() }];
        (referred.app_name.as_deref() == Some(app)
            && u64::try_from(its) == Ok(installation)
            && grant.allows(&Reach::Only(&reach), &default_permissions()).is_ok())
        .then_some(id)
    }

    /// GitHub said this of repositories: whoever is bound to them knows it now.
    pub fn heard_of(&self, said: &[github::Repository], now: Timestamp) {
        self.repositories.heard_of(said, now);
    }

    /// The root keys of webhooks, made if there are none. When they are others than before, all repositories are looked at.
    ///
    /// # Errors
    /// There are none, and none can be made.
    pub async fn ensure_root_keys(&self) -> Result<Arc<RootKeys>, root_keys::Error> {
        let (keys, are_others) = self.root_keys.ensure(&self.client, &self.settings.namespace).await?;
        if are_others {
            wake_all(&self.stores.repositories, &self.due.repositories);
        }
        Ok(keys)
    }

    /// Whether the account is an organization, by the App's last look.
    #[must_use]
    pub fn is_organization(&self, app: &str, account_id: u64) -> bool {
        let look = self.connections.get(app).and_then(|connection| connection.look);
        look.is_some_and(|look| {
            let accounts = look.installations.iter().filter_map(|installation| installation.account.as_ref());
            accounts.into_iter().any(|account| account.id == account_id && account.kind == "Organization")
        })
    }

    /// The time at which to try or look again.
    #[must_use]
    pub fn resolve<K: Reconciled + 'static>(&self, due: &Due<K>, object: &ObjectRef<K>, again: Again) -> Timestamp {
        match again {
            Again::At(at) => at,
            Again::Backoff => due.retry(object).at,
            Again::Person => {
                let now = self.clock.now();
                now.checked_add(PERSON_RECHECK.mul_f64(self.jitter.between(1.0, 1.2))).unwrap_or(now)
            }
        }
    }

    /// Concludes a reconcile: writes status if it differs, tells of a transition, and queues the next look.
    ///
    /// # Errors
    /// When status could not be written.
    pub async fn conclude<K>(
        &self,
        due: &Due<K>,
        object: &K,
        mut status: K::Status,
        settled: &Settled,
    ) -> Result<Outcome, kube::Error>
    where
        K: Reconciled + Resource<Scope: ScopeApi<K>> + DeserializeOwned + Debug + 'static,
    {
        let reference = ObjectRef::from_obj(object);
        let Some(standing) = &settled.standing else {
            if let Some(again) = settled.again {
                due.look_at(&reference, self.resolve(due, &reference, again));
            }
            return Ok(Outcome::Waiting);
        };
        let stored = object.status().map_or(&[][..], K::conditions);
        let generation = object.meta().generation;
        let mut conditions = standing.conditions(stored, generation, self.clock.now());
        // Besides these a kind may have conditions of its own.
        let of_all = ConditionType::STANDING.map(ConditionType::as_str);
        conditions.extend(K::conditions(&status).iter().filter(|own| !of_all.contains(&own.type_.as_str())).cloned());
        K::set_conditions(&mut status, generation, conditions);
        if object.status() != Some(&status) {
            self.write_status(object, &status).await?;
            self.tell(object, stored, standing).await;
        }
        if matches!(standing.state, State::Ready | State::Suspended) {
            due.succeeded(&reference);
        }
        match settled.again {
            Some(again) => due.look_at(&reference, self.resolve(due, &reference, again)),
            None => due.succeeded(&reference),
        }
        Ok(match standing.state {
            State::Ready | State::Suspended => Outcome::Ok,
            State::ReadyButRetrying | State::Reconciling => Outcome::Retry,
            State::Stalled => Outcome::Stalled,
        })
    }

    /// Writes status, all of it but what the receiver adds. Gives back the object as it is then.
    ///
    /// # Errors
    /// When Kubernetes did not take it.
    pub async fn write_status<K>(&self, object: &K, status: &K::Status) -> Result<K, kube::Error>
    where
        K: Reconciled + Resource<Scope: ScopeApi<K>> + DeserializeOwned + Debug + 'static,
    {
        let mut patch = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status});
        // Applied, it would become ours: what the receiver adds meanwhile would be removed by the next write.
        patch["status"].as_object_mut().map(|status| status.remove("deliveries"));
        let api = <K::Scope as ScopeApi<K>>::api(self.client.clone(), object);
        api.patch_status(&object.name_any(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch))
            .await?
            .read()
    }

    /// An event, when Ready's status or reason is another than before.
    async fn tell<K: Reconciled>(
        &self,
        object: &K,
        stored: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
        standing: &Standing,
    ) {
        let is_ready = matches!(standing.state, State::Ready | State::ReadyButRetrying);
        let was = stored.iter().find(|condition| condition.type_ == "Ready");
        let same = was.is_some_and(|was| was.reason == standing.reason.as_str() && (was.status == "True") == is_ready);
        if same {
            return;
        }
        let severity = match standing.state {
            State::Ready | State::Suspended => kube::runtime::events::EventType::Normal,
            _ if standing.reason.is_progress() => kube::runtime::events::EventType::Normal,
            _ => kube::runtime::events::EventType::Warning,
        };
        self.events.transition(&object.object_ref(&()), severity, standing.reason.as_str(), &standing.message).await;
    }
}

/// How many objects stand how: what the metric `landfall_objects` shows, counted when it is asked for. Reasons are those
/// of this program; a status that says something else was not written by it.
#[must_use]
pub fn count<K: Reconciled + 'static>(store: &Store<K>) -> Vec<ObjectCount> {
    let mut counts: BTreeMap<(&'static str, &'static str), usize> = BTreeMap::new();
    for object in store.state() {
        let ready = object.status().and_then(|status| K::conditions(status).iter().find(|c| c.type_ == "Ready"));
        let status = ["True", "False"].into_iter().find(|word| ready.is_some_and(|ready| ready.status == *word));
        let reason = Reason::ALL.iter().find(|reason| ready.is_some_and(|ready| ready.reason == reason.as_str()));
        *counts.entry((status.unwrap_or("Unknown"), reason.map_or("", |reason| reason.as_str()))).or_default() += 1;
    }
    counts.into_iter().map(|((ready, reason), objects)| ObjectCount { ready, reason, objects }).collect()
}
