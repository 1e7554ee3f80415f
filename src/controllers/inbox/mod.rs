//! `WebhookInbox`: wakes the objects that its deliveries are for, and lets it go once it is empty.
//!
//! Each object's own controller deals with the object's deliveries. This controller deals with the rest: deliveries for objects
//! that are gone, and those that are for all repositories of an App.

pub mod receiver;

use super::deliveries::{Announced, Waiting};
use super::object::{has_finalizer, set_finalizer};
use super::reconcile::{self, Done, Failure, Kind};
use super::repository::{RepositoryKind, RepositoryMemory};
use super::shared::Shared;
use super::standing::{Again, Standing};
use super::watches::{Place, Select, Turn, Watches};
use crate::api::{GitHubApp, INBOX_FINALIZER, ProjectRepository, WebhookInbox};
use crate::features::Feature;
use crate::manifests::{Rule, RuleSet};
use crate::runtime::due::Due;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::reflector::ObjectRef;
use std::convert::Infallible;
use std::sync::Arc;

/// The controller of the inboxes. It has no memory of its own.
pub struct InboxKind {
    shared: Arc<Shared>,
    lane: Due<WebhookInbox>,
    repositories: Arc<RepositoryMemory>,
}

/// The gathered state of an inbox.
pub struct Seen {
    inbox: Arc<WebhookInbox>,
    waits: Waits,
}

/// The deliveries in an inbox that were not taken out.
#[derive(Default)]
struct Waits {
    /// Deliveries for all repositories of an App: its name, and their numbers.
    for_all: Vec<(String, Announced)>,
    /// Deliveries for objects that do not exist.
    for_nobody: Vec<Announced>,
    /// How many others there are.
    others: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    AddFinalizer,
    RemoveFinalizer,
    /// Have every repository of these Apps looked at, and take the deliveries out.
    LookAtAll(Vec<(String, Announced)>),
    /// Take out deliveries for objects that do not exist.
    Drop(Vec<Announced>),
}

impl InboxKind {
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<WebhookInbox>, repositories: &RepositoryKind) -> Self {
        Self { shared: Arc::clone(shared), lane, repositories: Arc::clone(repositories.memory()) }
    }

    /// A request to look is kept in memory alone: a process that starts looks at every repository anyway.
    fn look_at_all(&self, app: &str) {
        self.shared.look_at_app(app);
        for repository in self.shared.caches.all::<ProjectRepository>() {
            if self.shared.app_of(&repository).as_deref() == Some(app) {
                self.repositories.look_again(&repository);
                self.shared.lanes.look_now(&ObjectRef::from_obj(&*repository));
            }
        }
    }

    fn exists(&self, waiting: &Waiting) -> bool {
        match waiting.delivery.repository() {
            Some((namespace, name)) => self.shared.caches.named::<ProjectRepository>(namespace, name).is_some(),
            None => self.shared.caches.get(&ObjectRef::<GitHubApp>::new(&waiting.delivery.app)).is_some(),
        }
    }
}

impl Kind for InboxKind {
    type Object = WebhookInbox;
    type Seen = Seen;
    type Step = Step;
    type Task = Infallible;

    const FEATURE: Feature = Feature::Tokens;
    const RULES: &'static [Rule] = &[
        Rule::new(RuleSet::Own, "landfall.dev", &["webhookinboxes"], &["get", "list", "watch", "create", "patch"]),
        Rule::new(RuleSet::Own, "landfall.dev", &["webhookinboxes/status"], &["patch"]),
        // The receiver faces the internet. It stores deliveries in its own inbox and changes nothing else. RBAC cannot restrict
        // it to its own, so the chart's ValidatingAdmissionPolicy does.
        Rule::new(RuleSet::ReceiverOwn, "landfall.dev", &["webhookinboxes"], &["get"]),
        Rule::new(RuleSet::ReceiverOwn, "landfall.dev", &["webhookinboxes/status"], &["patch"]),
    ];
    const DEFINITION: Option<fn() -> CustomResourceDefinition> = Some(crate::api::definition::<WebhookInbox>);
    const PLACE: Place = Place::OwnNamespace;

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lane(&self) -> &Due<WebhookInbox> {
        &self.lane
    }

    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, WebhookInbox>) {
        // A delivery for a repository that is deleted waits for nobody.
        watches.woken_by(Select::All, |shared, _: &ProjectRepository, turn| {
            if turn == Turn::Changed {
                return Vec::new();
            }
            let inboxes = shared.caches.all::<WebhookInbox>();
            inboxes.iter().map(|inbox| ObjectRef::from_obj(&**inbox)).collect()
        });
    }

    async fn gather(&self, inbox: &Arc<WebhookInbox>) -> Result<Seen, kube::Error> {
        self.shared.taking_out.prune(inbox);
        let mut waits = Waits::default();
        for waiting in self.shared.waiting_in(inbox) {
            if waiting.delivery.every_repository {
                waits.for_all.push((waiting.delivery.app.clone(), waiting.announced));
            } else if self.exists(&waiting) {
                waits.others += 1;
            } else {
                waits.for_nobody.push(waiting.announced);
            }
        }
        Ok(Seen { inbox: Arc::clone(inbox), waits })
    }

    fn plan(Seen { inbox, waits }: &Seen, _: Timestamp) -> reconcile::Plan<Step> {
        let is_going = inbox.metadata.deletion_timestamp.is_some();
        if !waits.for_all.is_empty() {
            return reconcile::Plan::Do(Step::LookAtAll(waits.for_all.clone()));
        }
        if !waits.for_nobody.is_empty() {
            return reconcile::Plan::Do(Step::Drop(waits.for_nobody.clone()));
        }
        match (is_going, has_finalizer(&**inbox, INBOX_FINALIZER)) {
            (false, false) => reconcile::Plan::Do(Step::AddFinalizer),
            (true, true) if waits.others == 0 => reconcile::Plan::Do(Step::RemoveFinalizer),
            _ => reconcile::Plan::nothing(),
        }
    }

    fn task(_: &Step) -> Option<Infallible> {
        None
    }

    async fn apply(&self, seen: &Seen, step: Step) -> Result<Done<WebhookInbox>, Failure> {
        let (client, inbox) = (&self.shared.client, &*seen.inbox);
        match step {
            Step::AddFinalizer => {
                return Ok(Done::Again(Some(set_finalizer(client, inbox, INBOX_FINALIZER, true).await?)));
            }
            Step::RemoveFinalizer => {
                // The patch names the version that was seen, so a delivery that the receiver adds meanwhile makes it fail.
                set_finalizer(client, inbox, INBOX_FINALIZER, false).await?;
                return Ok(Done::Finished);
            }
            Step::LookAtAll(deliveries) => {
                for (app, _) in &deliveries {
                    tracing::info!(app, "deliveries for many repositories were merged; all of the App are looked at");
                    self.look_at_all(app);
                }
                self.shared.take_out(deliveries.into_iter().map(|(_, announced)| announced)).await?;
            }
            Step::Drop(deliveries) => self.shared.take_out(deliveries).await?,
        }
        Ok(Done::Again(None))
    }

    fn succeeded(&self, _: &Seen, task: Infallible) {
        match task {}
    }

    fn failed(&self, _: &Seen, _: Option<Infallible>, _: Standing, _: Again) {}

    fn status(&self, _: &Seen, _: Option<&Standing>) {}
}
