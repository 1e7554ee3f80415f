//! The watches that fill the cache.
//!
//! Invariant: every object is read through [`Lenient`], one by one or in pages, and reduced at once to the fields that are needed, so that
//! neither an odd object nor ten thousand objects stop the receiver or fill its memory.

use super::slim::SlimRepository;
use super::{App, Bound, Index, Installation, ObjectKey, Targets, identity};
use crate::api::{GitHubApp, GitHubAppStatus, GitHubInstallation, WebhookMode};
use crate::features::{Feature, Features};
use crate::runtime::lenient::{Lenient, readable};
use crate::runtime::readiness::{Check, Readiness};
use crate::runtime::streamed::streamed;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PartialObjectMeta};
use kube::core::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

/// Objects per page of a list, where the API server does not stream them; a page is in memory at once, and an object can be 1.5 MB.
const PAGE: u32 = 16;

/// The number of watched kinds.
pub(super) const KINDS: usize = 4;

/// Updates the cache until it is dropped. Each kind's check passes once its list is complete. The checks exist when this
/// returns, before anything is polled, so that the process is not ready without them.
///
/// Without the feature `repositories` it watches no `ProjectRepositories`, and needs no right to.
pub fn watch(
    targets: Targets,
    client: Client,
    readiness: &Readiness,
    features: &Features,
) -> impl Future<Output = ()> + use<> {
    let has_repositories = features.has(Feature::Repositories);
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
            async {
                if has_repositories {
                    follow::<SlimRepository>(&targets, &client, repositories).await;
                } else {
                    targets.write().listed += 1;
                    repositories.ready_but("the feature repositories is off");
                }
            },
        );
    }
}

/// A kind in the cache, which keeps the fields that it needs.
trait Indexed: Resource {
    fn insert(self, key: ObjectKey, index: &mut Index);
    fn remove(key: &ObjectKey, index: &mut Index);
    fn keys(index: &Index) -> Vec<ObjectKey>;
}

async fn follow<K>(targets: &Targets, client: &Client, check: Check)
where
    K: Indexed<DynamicType: Default + Clone + Debug + Eq + Hash + Send + Sync>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let api: Api<Lenient<K>> = Api::all(client.clone());
    let config = watcher::Config::default().page_size(PAGE);
    let mut events = std::pin::pin!(readable(streamed(api, config).default_backoff()));
    let mut listed = HashSet::new();
    let mut was_listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) => {
                let key = object_key(object.meta());
                object.insert(key, &mut targets.write());
            }
            Ok(Event::Delete(object)) => K::remove(&object_key(object.meta()), &mut targets.write()),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                let key = object_key(object.meta());
                listed.insert(key.clone());
                object.insert(key, &mut targets.write());
            }
            Ok(Event::InitDone) => {
                let mut index = targets.write();
                for key in K::keys(&index) {
                    if !listed.contains(&key) {
                        K::remove(&key, &mut index);
                    }
                }
                listed = HashSet::new();
                index.listed += usize::from(!was_listed);
                was_listed = true;
                check.ready();
            }
            Err(error) => {
                let kind = K::kind(&K::DynamicType::default()).into_owned();
                tracing::warn!(%error, kind, "a watch broke off; retrying");
            }
        }
    }
}

fn object_key(meta: &ObjectMeta) -> ObjectKey {
    let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
    (text(&meta.namespace), text(&meta.name))
}

impl Indexed for GitHubApp {
    fn insert(self, key: ObjectKey, index: &mut Index) {
        let mut object = self;
        let identity = identity(&object);
        let status = object.status.take().unwrap_or_default();
        // The cache needs the ids that accounts are pinned to, and nothing else of status.
        object.status = Some(GitHubAppStatus { tenants: status.tenants, ..GitHubAppStatus::default() });
        object.spec.ca_bundle = None;
        object.metadata =
            ObjectMeta { deletion_timestamp: object.metadata.deletion_timestamp.take(), ..ObjectMeta::default() };
        index.apps.insert(key, App { object, identity });
    }
    fn remove(key: &ObjectKey, index: &mut Index) {
        index.apps.remove(key);
    }
    fn keys(index: &Index) -> Vec<ObjectKey> {
        index.apps.keys().cloned().collect()
    }
}

impl Indexed for GitHubInstallation {
    fn insert(self, key: ObjectKey, index: &mut Index) {
        let Self { spec, .. } = self;
        let kept = Installation { app: spec.app_ref.name.into(), account: spec.account.into() };
        index.installations.insert(key, kept);
    }
    fn remove(key: &ObjectKey, index: &mut Index) {
        index.installations.remove(key);
    }
    fn keys(index: &Index) -> Vec<ObjectKey> {
        index.installations.keys().cloned().collect()
    }
}

impl Indexed for PartialObjectMeta<Namespace> {
    fn insert(self, key: ObjectKey, index: &mut Index) {
        let labels = self.metadata.labels.unwrap_or_default();
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        index.namespaces.insert(key, labels);
    }
    fn remove(key: &ObjectKey, index: &mut Index) {
        index.namespaces.remove(key);
    }
    fn keys(index: &Index) -> Vec<ObjectKey> {
        index.namespaces.keys().cloned().collect()
    }
}

impl Indexed for SlimRepository {
    fn insert(self, key: ObjectKey, index: &mut Index) {
        let installation = self.spec.installation_ref.name.as_deref();
        // An object that only polls, or that is being deleted, gets no deliveries.
        let receives = self.spec.webhook.mode != WebhookMode::None && self.metadata.deletion_timestamp.is_none();
        let Some(installation) = installation.filter(|_| receives) else {
            index.remove_repository(&key);
            return;
        };
        let bound = Bound {
            installation: installation.into(),
            id: self.id(),
            awaited_name: self.awaited_name().map(Into::into),
        };
        index.put_repository(key, bound);
    }
    fn remove(key: &ObjectKey, index: &mut Index) {
        index.remove_repository(key);
    }
    fn keys(index: &Index) -> Vec<ObjectKey> {
        index.repositories.keys().cloned().collect()
    }
}

/// Adds an object as a watch would.
#[cfg(test)]
pub(super) fn insert(targets: &Targets, object: &serde_json::Value) {
    fn read<K: Indexed + DeserializeOwned>(targets: &Targets, object: &serde_json::Value) {
        let mut object = object.clone();
        object["apiVersion"] = "landfall.dev/v1alpha1".into();
        let object = serde_json::from_value::<Lenient<K>>(object).unwrap().read().unwrap();
        let key = object_key(object.meta());
        object.insert(key, &mut targets.write());
    }
    match object["kind"].as_str().unwrap() {
        "GitHubApp" => read::<GitHubApp>(targets, object),
        "GitHubInstallation" => read::<GitHubInstallation>(targets, object),
        "Namespace" => read::<PartialObjectMeta<Namespace>>(targets, object),
        _ => read::<SlimRepository>(targets, object),
    }
}
