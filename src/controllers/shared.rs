//! The resources that the controllers of all kinds share: the clients, time, the caches, the queue, and the state of
//! each App.
//!
//! Invariant: nothing here belongs to one kind. A kind's own memory is in its folder, and another kind that needs it
//! gets it in its constructor.

use super::caches::Caches;
use super::connection::Connections;
use super::credentials::Credentials;
use super::deliveries::DealtWith;
use super::lanes::Lanes;
use super::object::ScopeApi;
use super::rations::Rations;
use super::standing::{Again, Standing, State};
use crate::api::{ConditionType, FIELD_MANAGER, GitHubApp, ProjectRepository, Reason, Reconciled};
use crate::github::Connect;
use crate::grant::NamespaceView;
use crate::guards::Guards;
use crate::manifests::{READ, Rule, RuleSet};
use crate::runtime::clock::Clock;
use crate::runtime::due::{Due, Places, Urgency};
use crate::runtime::events::Events;
use crate::runtime::jitter::Jitter;
use crate::runtime::metrics::{Metrics, ObjectCount, Outcome};
use crate::settings::Settings;
use crate::webhook::RootKeys;
use crate::webhook::root_keys::{self, KnownRootKeys};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// How often an object that only a person can repair is looked at anyway, in case an event was lost.
pub const PERSON_RECHECK: SignedDuration = SignedDuration::from_mins(30);

/// The RBAC rules that do not belong to a single kind.
pub const RULES: &[Rule] = &[
    // Grants name namespaces, or select them by label.
    Rule::new(RuleSet::Cluster, "", &["namespaces"], READ),
    Rule::new(RuleSet::Cluster, "events.k8s.io", &["events"], &["create", "patch"]),
    Rule::new(RuleSet::Own, "coordination.k8s.io", &["leases"], &["get", "create", "update"]),
    // The receiver faces the internet. It has no access to Secrets, because the root keys of webhooks are mounted. It
    // has no access to events, so that nobody who floods the receiver can flood a namespace with events.
    Rule::new(RuleSet::Receiver, "", &["namespaces"], READ),
];

/// The resources that the controllers of all kinds share.
pub struct Shared {
    pub client: Client,
    pub clock: Arc<dyn Clock>,
    pub jitter: Arc<dyn Jitter>,
    /// The way to GitHub.
    pub connect: Arc<dyn Connect>,
    pub settings: Settings,
    pub metrics: Metrics,
    pub events: Events,
    /// The connection of each App.
    pub connections: Connections,
    /// The Secrets with the credentials of Apps.
    pub credentials: Credentials,
    /// The mints of each App.
    pub rations: Arc<Rations>,
    /// The root keys of webhooks.
    pub root_keys: KnownRootKeys,
    /// The deliveries that were dealt with and are still in an inbox.
    pub dealt_with: DealtWith,
    pub caches: Caches,
    pub lanes: Lanes,
    /// The guards that tests can remove.
    pub guards: Guards,
}

/// Where to find out whether a namespace is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Cache,
    /// In the API server too. The deletion of a namespace also deletes its objects, and the watches may bring those
    /// deletions first.
    ApiServer,
}

/// The end of a reconcile.
pub struct Conclusion<'a, K: Reconciled> {
    /// The status, without the conditions that every kind has.
    pub status: K::Status,
    /// `None`: not known, and status stays as it is.
    pub standing: Option<&'a Standing>,
    /// When to look again. `None`: when something changes.
    pub again: Option<Again>,
    /// How urgent that look is.
    pub urgency: Urgency,
    /// Whether an event tells that an object without conditions is ready.
    pub tells_first_ready: bool,
}

impl Shared {
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The properties of a namespace that grants select by.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<NamespaceView> {
        let reference = ObjectRef::<PartialObjectMeta<Namespace>>::new(name);
        self.caches.get(&reference).map(|namespace| NamespaceView::of(&namespace))
    }

    /// All namespaces.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NamespaceView> {
        let namespaces = self.caches.all::<PartialObjectMeta<Namespace>>();
        namespaces.iter().map(|namespace| NamespaceView::of(namespace)).collect()
    }

    /// Whether a namespace is being deleted.
    ///
    /// # Errors
    /// The namespace cannot be read.
    pub async fn is_namespace_going(&self, name: &str, asked: Asked) -> Result<bool, kube::Error> {
        let known = self.namespace(name).is_some_and(|namespace| namespace.terminating);
        if known || asked == Asked::Cache {
            return Ok(known);
        }
        let namespace = Api::<Namespace>::all(self.client.clone()).get_metadata_opt(name).await?;
        Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
    }

    /// The `GitHubApp` through which a repository is reached.
    #[must_use]
    pub fn app_of(&self, repository: &ProjectRepository) -> Option<String> {
        let reference = repository.spec.installation_ref.as_ref()?;
        let place = ObjectRef::<crate::api::GitHubInstallation>::new(&reference.name).within(&repository.namespace()?);
        Some(self.caches.get(&place)?.spec.app_ref.name.clone())
    }

    /// The place that an object talks to through the `GitHubInstallation` of this name in its namespace: the App's GitHub.
    #[must_use]
    pub fn place_of_app(&self, namespace: Option<String>, installation: &str) -> Places {
        let installation =
            self.caches.named::<crate::api::GitHubInstallation>(&namespace.unwrap_or_default(), installation);
        installation.map(|installation| format!("app {}", installation.spec.app_ref.name)).into_iter().collect()
    }

    /// Queues a look at the App soon, because a failure of one object may affect all objects of the App.
    pub fn look_at_app(&self, app: &str) {
        self.connections.request_look(app, self.now());
        self.lanes.look_now(&ObjectRef::<GitHubApp>::new(app));
    }

    /// The root keys of webhooks, which are made if there are none. Announces keys that differ from the last ones.
    ///
    /// # Errors
    /// There are no root keys, and none can be made.
    pub async fn ensure_root_keys(&self) -> Result<Arc<RootKeys>, root_keys::Error> {
        let (keys, are_others) = self.root_keys.ensure(&self.client, &self.settings.namespace).await?;
        if are_others {
            self.caches.announce(&*keys);
        }
        Ok(keys)
    }

    /// The time at which to try or look again.
    #[must_use]
    pub fn resolve<K: Resource<DynamicType = ()> + 'static>(
        &self,
        lane: &Due<K>,
        object: &ObjectRef<K>,
        again: Again,
    ) -> Timestamp {
        match again {
            Again::At(at) => at,
            Again::Backoff => lane.retry(object).at,
            Again::Person => {
                let now = self.now();
                now.checked_add(PERSON_RECHECK.mul_f64(self.jitter.between(1.0, 1.2))).unwrap_or(now)
            }
        }
    }

    /// A time from now, extended by up to a fifth, so that objects that were created together do not come back
    /// together.
    #[must_use]
    pub fn spread(&self, from: Timestamp, wait: SignedDuration) -> Option<Timestamp> {
        from.checked_add(wait.mul_f64(self.jitter.between(1.0, 1.2))).ok()
    }

    /// Concludes a reconcile: writes status if it changed, publishes an event on a transition, and queues the next
    /// look. Returns the object, if its status was written.
    ///
    /// # Errors
    /// Status could not be written.
    pub async fn conclude<K>(
        &self,
        lane: &Due<K>,
        object: &K,
        Conclusion { mut status, standing, again, urgency, tells_first_ready }: Conclusion<'_, K>,
    ) -> Result<(Outcome, Option<K>), kube::Error>
    where
        K: Reconciled + Resource<Scope: ScopeApi<K>> + DeserializeOwned + Debug + 'static,
    {
        let reference = ObjectRef::from_obj(object);
        let Some(standing) = standing else {
            if let Some(again) = again {
                lane.look_at(&reference, self.resolve(lane, &reference, again), urgency);
            }
            return Ok((Outcome::Waiting, None));
        };
        let stored = object.status().map_or(&[][..], K::conditions);
        let generation = object.meta().generation;
        let mut conditions = standing.conditions(stored, generation, self.now());
        // A kind may have conditions of its own in addition.
        conditions.extend(K::conditions(&status).iter().filter(|own| !is_of_all(own)).cloned());
        K::set_conditions(&mut status, generation, conditions);
        let mut written = None;
        if object.status() != Some(&status) {
            written = Some(self.write_status(object, &status).await?);
            let is_first = stored.iter().all(|condition| condition.type_ != ConditionType::Ready.as_str());
            if tells_first_ready || !is_first || standing.state != State::Ready {
                self.tell(object, stored, standing).await;
            }
        }
        if matches!(standing.state, State::Ready | State::Suspended) {
            lane.succeeded(&reference);
        }
        match again {
            Some(again) => lane.look_at(&reference, self.resolve(lane, &reference, again), urgency),
            None => lane.succeeded(&reference),
        }
        let outcome = match standing.state {
            State::Ready | State::Suspended => Outcome::Ok,
            State::ReadyButRetrying | State::Reconciling => Outcome::Retry,
            State::Stalled => Outcome::Stalled,
        };
        Ok((outcome, written))
    }

    /// Writes status. Returns the object as it is afterwards.
    ///
    /// # Errors
    /// Kubernetes refused the patch.
    pub async fn write_status<K>(&self, object: &K, status: &K::Status) -> Result<K, kube::Error>
    where
        K: Reconciled + Resource<Scope: ScopeApi<K>> + DeserializeOwned + Debug + 'static,
    {
        let patch = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status});
        let api = <K::Scope as ScopeApi<K>>::api(self.client.clone(), object);
        api.patch_status(&object.name_any(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch))
            .await?
            .read()
    }

    /// Publishes an event when the status or reason of Ready changed.
    async fn tell<K: Reconciled>(&self, object: &K, stored: &[Condition], standing: &Standing) {
        let is_ready = matches!(standing.state, State::Ready | State::ReadyButRetrying);
        let was = stored.iter().find(|condition| condition.type_ == "Ready");
        let same = was.is_some_and(|was| was.reason == standing.reason.as_str() && (was.status == "True") == is_ready);
        if same {
            return;
        }
        let severity = match standing.state {
            State::Ready | State::Suspended => EventType::Normal,
            _ if standing.reason.is_progress() => EventType::Normal,
            _ => EventType::Warning,
        };
        self.events.transition(&object.object_ref(&()), severity, standing.reason.as_str(), &standing.message).await;
    }

    /// Publishes a warning event.
    pub async fn warn<K: Resource<DynamicType = ()>>(&self, object: &K, reason: Reason, message: &str) {
        self.events.transition(&object.object_ref(&()), EventType::Warning, reason.as_str(), message).await;
    }

    /// The number of objects by standing, for the metric `landfall_objects`, counted at each scrape. A reason that this
    /// program does not have counts as empty, because this program did not write that status.
    #[must_use]
    pub fn count<K: Reconciled + super::caches::Watched>(&self) -> Vec<ObjectCount> {
        let mut counts: BTreeMap<(&'static str, &'static str), usize> = BTreeMap::new();
        for object in self.caches.all::<K>() {
            let ready = object.status().and_then(|status| K::conditions(status).iter().find(|c| c.type_ == "Ready"));
            let status = ["True", "False"].into_iter().find(|word| ready.is_some_and(|ready| ready.status == *word));
            let reason = Reason::ALL.iter().find(|reason| ready.is_some_and(|ready| ready.reason == reason.as_str()));
            *counts.entry((status.unwrap_or("Unknown"), reason.map_or("", |reason| reason.as_str()))).or_default() += 1;
        }
        counts.into_iter().map(|((ready, reason), objects)| ObjectCount { ready, reason, objects }).collect()
    }
}

/// Whether every kind has a condition of this type.
#[must_use]
pub fn is_of_all(condition: &Condition) -> bool {
    ConditionType::STANDING.iter().any(|kind| kind.as_str() == condition.type_)
}
