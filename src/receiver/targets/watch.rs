//! The watches that fill the cache.
//!
//! Invariant: everything is read through [`Lenient`], in pages, and cut down at once: neither an odd object nor ten
//! thousand of them make the receiver deaf or large.

use super::slim::SlimRepository;
use super::{App, Bound, Index, Installation, Log, Logged, Place, Targets, identity};
use crate::api::{Deliveries, Delivery, GitHubApp, GitHubAppStatus, GitHubInstallation, WebhookMode};
use crate::runtime::lenient::{Lenient, readable};
use crate::runtime::readiness::{Check, Readiness};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PartialObjectMeta};
use kube::core::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

/// Objects per page of a listing, all of which is there at once: an object can be 1.5 MB.
const PAGE: u32 = 16;

/// The kinds that are watched.
pub(super) const KINDS: usize = 4;

/// Keeps the cache until it is dropped. Each kind's check passes once all of it was listed; the checks are there when this
/// returns, before anything is polled, so that nothing is ready without them.
pub fn watch(targets: Targets, client: Client, readiness: &Readiness) -> impl Future<Output = ()> + use<> {
    let checks: [Check; KINDS] = [
        readiness.check("cache of GitHubApps"),
        readiness.check("cache of GitHubInstallations"),
        readiness.check("cache of namespaces"),
        readiness.check("cache of ProjectRepositories"),
    ];
    async move {
        let [apps, installations, namespaces, repositories] = checks;
        futures::join!(
            follow::<GitHubApp>(&targets, &client, apps),
            follow::<GitHubInstallation>(&targets, &client, installations),
            follow::<PartialObjectMeta<Namespace>>(&targets, &client, namespaces),
            follow::<SlimRepository>(&targets, &client, repositories),
        );
    }
}

/// A kind that the cache keeps something of.
trait Kept: Resource {
    /// Keeps what is needed of it.
    fn keep(self, place: Place, index: &mut Index);
    /// Forgets it.
    fn forget(place: &Place, index: &mut Index);
    /// All that are kept.
    fn places(index: &Index) -> Vec<Place>;
}

async fn follow<K>(targets: &Targets, client: &Client, check: Check)
where
    K: Kept<DynamicType: Default + Clone + Debug + Eq + Hash + Send + Sync>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let api: Api<Lenient<K>> = Api::all(client.clone());
    let config = watcher::Config::default().page_size(PAGE);
    let mut events = std::pin::pin!(readable(watcher(api, config).default_backoff()));
    let mut listed = HashSet::new();
    let mut was_listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) => {
                let place = place(object.meta());
                object.keep(place, &mut targets.write());
            }
            Ok(Event::Delete(object)) => K::forget(&place(object.meta()), &mut targets.write()),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                let place = place(object.meta());
                listed.insert(place.clone());
                object.keep(place, &mut targets.write());
            }
            Ok(Event::InitDone) => {
                let mut index = targets.write();
                for place in K::places(&index) {
                    if !listed.contains(&place) {
                        K::forget(&place, &mut index);
                    }
                }
                listed = HashSet::new();
                index.listed += usize::from(!was_listed);
                was_listed = true;
                check.ready();
            }
            Err(error) => {
                let kind = K::kind(&K::DynamicType::default()).into_owned();
                tracing::warn!(%error, kind, "a watch broke off and is taken up again");
            }
        }
    }
}

fn place(meta: &ObjectMeta) -> Place {
    let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
    (text(&meta.namespace), text(&meta.name))
}

fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

impl Kept for GitHubApp {
    fn keep(self, place: Place, index: &mut Index) {
        let mut object = self;
        let identity = identity(&object);
        let status = object.status.take().unwrap_or_default();
        let log =
            newer(log(version(&object.metadata), &status.deliveries), index.apps.remove(&place).map(|app| app.log));
        // Of status, the ids that accounts are pinned to.
        object.status = Some(GitHubAppStatus { tenants: status.tenants, ..GitHubAppStatus::default() });
        object.spec.ca_bundle = None;
        object.metadata =
            ObjectMeta { deletion_timestamp: object.metadata.deletion_timestamp.take(), ..ObjectMeta::default() };
        index.apps.insert(place, App { object, identity, log });
    }
    fn forget(place: &Place, index: &mut Index) {
        index.apps.remove(place);
    }
    fn places(index: &Index) -> Vec<Place> {
        index.apps.keys().cloned().collect()
    }
}

impl Kept for GitHubInstallation {
    fn keep(self, place: Place, index: &mut Index) {
        let Self { spec, .. } = self;
        let kept = Installation { app: spec.app_ref.name.into(), account: spec.account.into() };
        index.installations.insert(place, kept);
    }
    fn forget(place: &Place, index: &mut Index) {
        index.installations.remove(place);
    }
    fn places(index: &Index) -> Vec<Place> {
        index.installations.keys().cloned().collect()
    }
}

impl Kept for PartialObjectMeta<Namespace> {
    fn keep(self, place: Place, index: &mut Index) {
        let labels = self.metadata.labels.unwrap_or_default();
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        index.namespaces.insert(place, labels);
    }
    fn forget(place: &Place, index: &mut Index) {
        index.namespaces.remove(place);
    }
    fn places(index: &Index) -> Vec<Place> {
        index.namespaces.keys().cloned().collect()
    }
}

impl Kept for SlimRepository {
    fn keep(self, place: Place, index: &mut Index) {
        let installation = self.spec.installation_ref.name.as_deref();
        // What is polled only, and what is going, hears of nothing.
        let hears = self.spec.webhook.mode != WebhookMode::None && self.metadata.deletion_timestamp.is_none();
        let Some(installation) = installation.filter(|_| hears) else {
            index.remove_repository(&place);
            return;
        };
        let entries = self.status.deliveries.iter().map(|(guid, delivery)| Logged {
            guid: guid.as_str().into(),
            received_at: delivery.receipt_time,
            attempts: delivery.attempts.unwrap_or(1),
            waits: Delivery::waits(delivery.event.as_deref(), delivery.result),
        });
        let seen = Log { version: version(&self.metadata), entries: entries.collect() };
        let known = index.repositories.get_mut(&place).map(|bound| std::mem::take(&mut bound.log));
        let bound = Bound {
            installation: installation.into(),
            id: self.id(),
            awaited: self.awaited().map(Into::into),
            log: newer(seen, known),
        };
        index.put_repository(place, bound);
    }
    fn forget(place: &Place, index: &mut Index) {
        index.remove_repository(place);
    }
    fn places(index: &Index) -> Vec<Place> {
        index.repositories.keys().cloned().collect()
    }
}

/// The answer to a patch may be newer than what a watch brings.
fn newer(seen: Log, known: Option<Log>) -> Log {
    known.filter(|known| known.version > seen.version).unwrap_or(seen)
}

fn log(version: u64, deliveries: &Deliveries) -> Log {
    let entries = deliveries.iter().map(|(guid, delivery)| Logged {
        guid: guid.as_str().into(),
        received_at: delivery.receipt_time.as_ref().map(|at| at.0),
        attempts: delivery.attempts.and_then(|attempts| attempts.try_into().ok()).unwrap_or(1),
        waits: Delivery::waits(delivery.event.as_deref(), delivery.result),
    });
    Log { version, entries: entries.collect() }
}

/// Keeps an object as a watch would.
#[cfg(test)]
pub(super) fn keep(targets: &Targets, object: &serde_json::Value) {
    fn read<K: Kept + DeserializeOwned>(targets: &Targets, object: &serde_json::Value) {
        let mut object = object.clone();
        object["apiVersion"] = "landfall.dev/v1alpha1".into();
        let object = serde_json::from_value::<Lenient<K>>(object).unwrap().read().unwrap();
        let place = place(object.meta());
        object.keep(place, &mut targets.write());
    }
    match object["kind"].as_str().unwrap() {
        "GitHubApp" => read::<GitHubApp>(targets, object),
        "GitHubInstallation" => read::<GitHubInstallation>(targets, object),
        "Namespace" => read::<PartialObjectMeta<Namespace>>(targets, object),
        _ => read::<SlimRepository>(targets, object),
    }
}
