//! `WebhookInbox`: has its deliveries dealt with, and takes them out.
//!
//! Each object's own controller deals with the object's deliveries. This controller deals with the rest: deliveries for objects
//! that are gone, those that are for all repositories of an App, entries that are no deliveries, and those in an inbox that is
//! deleted. It alone takes deliveries
//! out, several at a time: a removal competes with the receiver's patches for the object. Invariant: a requested
//! look is kept in memory alone, because a process that starts looks at everything anyway. So an inbox needs no finalizer, and
//! an uninstalled operator leaves nothing that cannot be deleted.

pub mod receiver;

use super::caches;
use super::deliveries::{Announced, Waiting};
use super::reconcile::{self, Done, Failure, Kind};
use super::repository::{News, RepositoryKind, RepositoryMemory};
use super::shared::Shared;
use super::standing::{Again, Standing};
use super::watches::{Place, Select, Turn, Watches};
use crate::api::{GitHubApp, ProjectRepository, WaitingDelivery, WebhookInbox};
use crate::features::Feature;
use crate::manifests::{Rule, RuleSet};
use crate::runtime::due::Due;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

/// The controller of the inboxes.
pub struct InboxKind {
    shared: Arc<Shared>,
    lane: Due<WebhookInbox>,
    repositories: Arc<RepositoryMemory>,
    /// The names of the inboxes that the watch has brought.
    brought: Mutex<BTreeSet<String>>,
}

/// The deliveries in an inbox that this controller deals with.
#[derive(Default)]
pub struct Seen {
    inbox: Option<Arc<WebhookInbox>>,
    /// Entries that are no deliveries.
    unreadable: Vec<Announced>,
    /// Deliveries for all repositories of an App.
    for_all: Vec<Waiting>,
    /// Deliveries for objects that do not exist.
    for_nobody: Vec<Waiting>,
    /// The deliveries that were dealt with, and when to take them out.
    dealt_with: Option<(BTreeSet<i64>, Timestamp)>,
}

#[derive(Debug)]
pub enum Step {
    /// Have everything looked at, because nobody knows what these entries were for.
    LookAtEverything(Vec<Announced>),
    /// Have every repository of the Apps looked at.
    LookAtAll(Vec<Waiting>),
    /// Forget deliveries for objects that do not exist.
    Drop(Vec<Waiting>),
    /// Take out deliveries that were dealt with.
    TakeOut(BTreeSet<i64>),
}

impl InboxKind {
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<WebhookInbox>, repositories: &RepositoryKind) -> Self {
        let repositories = Arc::clone(repositories.memory());
        Self { shared: Arc::clone(shared), lane, repositories, brought: Mutex::default() }
    }

    fn look_at(&self, repository: &ProjectRepository, about: News) {
        self.repositories.look_again(repository, about);
        self.shared.lanes.look_after_delivery(&ObjectRef::from_obj(repository));
    }

    /// Has an App and all of its repositories looked at.
    fn look_at_all(&self, app: &str, about: News) {
        self.shared.look_at_app(app);
        for repository in self.shared.caches.all::<ProjectRepository>() {
            if self.shared.app_of(&repository).as_deref() == Some(app) {
                self.look_at(&repository, about);
            }
        }
    }

    /// Has all Apps and all of their repositories looked at.
    fn look_at_everything(&self) {
        for app in self.shared.caches.all::<GitHubApp>() {
            self.look_at_all(&app.name_any(), News::Repository);
        }
    }

    /// Has looked at whatever a delivery is for.
    fn look_after(&self, delivery: &WaitingDelivery) {
        let about = News::of(&delivery.event);
        match delivery.repository() {
            Some((namespace, name)) => {
                if let Some(repository) = self.shared.caches.named::<ProjectRepository>(namespace, name) {
                    self.look_at(&repository, about);
                }
            }
            None if delivery.every_repository => self.look_at_all(&delivery.app, about),
            None => self.shared.look_at_app(&delivery.app),
        }
    }

    /// The object that a delivery is for exists, and is not being deleted.
    fn has_object(&self, delivery: &WaitingDelivery) -> bool {
        let caches = &self.shared.caches;
        match delivery.repository() {
            Some((namespace, name)) => caches
                .named::<ProjectRepository>(namespace, name)
                .is_some_and(|repository| repository.metadata.deletion_timestamp.is_none()),
            None => caches
                .get(&ObjectRef::<GitHubApp>::new(&delivery.app))
                .is_some_and(|app| app.metadata.deletion_timestamp.is_none()),
        }
    }

    /// Called with what the watch brings. The deliveries of an inbox that is deleted are dealt with from its last state.
    fn hear(&self, news: &caches::News<'_, WebhookInbox>) {
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        match news {
            caches::News::Changed(inbox) => {
                brought.insert(inbox.name_any());
            }
            caches::News::Gone(inbox) => {
                brought.remove(&inbox.name_any());
                for waiting in self.shared.waiting_in(inbox) {
                    self.look_after(&waiting.delivery);
                }
                if !self.shared.unreadable_in(inbox).is_empty() {
                    self.look_at_everything();
                }
                self.shared.dealt_with.forget(&inbox.name_any());
            }
            caches::News::Listed => {
                let listed: BTreeSet<_> =
                    self.shared.caches.all::<WebhookInbox>().iter().map(|inbox| inbox.name_any()).collect();
                // Nobody knows what an inbox had in it that was deleted while the watch was interrupted.
                let gone: Vec<_> = brought.difference(&listed).collect();
                for inbox in &gone {
                    self.shared.dealt_with.forget(inbox);
                }
                if !gone.is_empty() {
                    self.look_at_everything();
                }
                *brought = listed;
            }
        }
    }
}

fn announced(deliveries: Vec<Waiting>) -> impl Iterator<Item = Announced> {
    deliveries.into_iter().map(|waiting| waiting.announced)
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
        let kind = Arc::clone(self);
        watches.hear(Select::OwnNamespace(None), move |news| kind.hear(news));
        // A delivery for an object that goes waits for nobody.
        watches.woken_by(Select::All, |shared, repository: &ProjectRepository, turn| {
            let is_going = turn == Turn::Gone || repository.metadata.deletion_timestamp.is_some();
            if is_going { all_inboxes(shared) } else { Vec::new() }
        });
        watches.woken_by(Select::All, |shared, app: &GitHubApp, turn| {
            let is_going = turn == Turn::Gone || app.metadata.deletion_timestamp.is_some();
            if is_going { all_inboxes(shared) } else { Vec::new() }
        });
    }

    async fn gather(&self, inbox: &Arc<WebhookInbox>) -> Result<Seen, kube::Error> {
        // Steps change it, and the watch brings it again.
        let name = inbox.name_any();
        let Some(inbox) = self.shared.caches.named::<WebhookInbox>(&self.shared.settings.namespace, &name) else {
            return Ok(Seen::default());
        };
        let dealt_with = self.shared.dealt_with.left_in(&inbox);
        let unreadable = self.shared.unreadable_in(&inbox);
        let waiting = self.shared.waiting_in(&inbox).into_iter();
        let (for_all, others): (Vec<_>, Vec<_>) = waiting.partition(|waiting| waiting.delivery.every_repository);
        let for_nobody = others.into_iter().filter(|waiting| !self.has_object(&waiting.delivery)).collect();
        Ok(Seen { inbox: Some(inbox), unreadable, for_all, for_nobody, dealt_with })
    }

    fn plan(seen: &Seen, now: Timestamp) -> reconcile::Plan<Step> {
        if !seen.unreadable.is_empty() {
            return reconcile::Plan::Do(Step::LookAtEverything(seen.unreadable.clone()));
        }
        if !seen.for_all.is_empty() {
            return reconcile::Plan::Do(Step::LookAtAll(seen.for_all.clone()));
        }
        if !seen.for_nobody.is_empty() {
            return reconcile::Plan::Do(Step::Drop(seen.for_nobody.clone()));
        }
        match &seen.dealt_with {
            Some((ids, at)) if *at <= now => reconcile::Plan::Do(Step::TakeOut(ids.clone())),
            Some((_, at)) => reconcile::Plan::Settled { standing: None, again: Some(Again::At(*at)) },
            None => reconcile::Plan::nothing(),
        }
    }

    fn task(_: &Step) -> Option<Infallible> {
        None
    }

    async fn apply(&self, seen: &Seen, step: Step) -> Result<Done<WebhookInbox>, Failure> {
        match step {
            Step::LookAtEverything(entries) => {
                let (name, count) = (seen.inbox.as_ref().map(|inbox| inbox.name_any()), entries.len());
                tracing::warn!(
                    name,
                    count,
                    "entries of a WebhookInbox are no deliveries; they are taken out, and everything is looked at"
                );
                self.look_at_everything();
                self.shared.mark_dealt_with(entries);
            }
            Step::LookAtAll(deliveries) => {
                for Waiting { delivery, .. } in &deliveries {
                    let WaitingDelivery { app, merged, .. } = delivery;
                    tracing::info!(app, merged, "deliveries for many repositories were merged; all are looked at");
                    self.look_after(delivery);
                }
                self.shared.mark_dealt_with(announced(deliveries));
            }
            Step::Drop(deliveries) => {
                for Waiting { delivery, .. } in &deliveries {
                    let WaitingDelivery { app, namespace, name, guid, .. } = delivery;
                    tracing::info!(app, namespace, name, delivery = guid, "a delivery is for an object that is gone");
                }
                self.shared.mark_dealt_with(announced(deliveries));
            }
            Step::TakeOut(ids) => {
                if let Some(inbox) = &seen.inbox {
                    self.shared.take_out(inbox, &ids).await?;
                }
            }
        }
        Ok(Done::Again(None))
    }

    fn succeeded(&self, _: &Seen, task: Infallible) {
        match task {}
    }

    fn failed(&self, _: &Seen, _: Option<Infallible>, _: Standing, _: Again) {}

    fn settled(&self, seen: &Seen, _: Option<&Standing>) {
        if let Some(inbox) = &seen.inbox {
            self.lane.succeeded(&ObjectRef::from_obj(&**inbox));
        }
    }

    fn status(&self, _: &Seen, _: Option<&Standing>) {}
}

fn all_inboxes(shared: &Shared) -> Vec<ObjectRef<WebhookInbox>> {
    shared.caches.all::<WebhookInbox>().iter().map(|inbox| ObjectRef::from_obj(&**inbox)).collect()
}
