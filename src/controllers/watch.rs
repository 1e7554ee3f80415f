//! The watches: they keep the caches, and turn every change into a look at whatever it may concern.
//!
//! Invariant: a change is only ever a reason to look. What is done follows from what is then gathered, so that a change
//! that is announced twice, late, or together with others does no harm. All looks go through the due queue, in which an
//! object waits once, however many changes concern it.

use super::context::{Dues, Stores};
use super::workspace::{self, Workspaces};
use crate::api::{
    GitHubApp, GitHubInstallation, InstallationToken, MANAGED_BY, MANAGED_BY_LABEL, ProjectRepository, WORKSPACE_LABEL,
    Workspace,
};
use crate::features::{Feature, Features};
use crate::runtime::due::Due;
use crate::runtime::lenient::{Lenient, readable};
use crate::webhook::ROOT_KEYS_SECRET;
use crate::webhook::root_keys::KnownRootKeys;
use futures::future::OptionFuture;
use futures::{Stream, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

/// What a watch saw.
enum Seen<'a, K> {
    /// The object is there, or is another than before.
    Changed(&'a K),
    /// The object is gone.
    Gone(&'a K),
    /// A whole listing was taken; objects may have gone unseen before it.
    Listed,
}

/// The caches, not filled yet, and what fills them.
pub struct Watches {
    /// The caches.
    pub stores: Stores,
    writers: Writers,
}

struct Writers {
    apps: Writer<GitHubApp>,
    installations: Writer<GitHubInstallation>,
    tokens: Writer<InstallationToken>,
    repositories: Option<Writer<ProjectRepository>>,
    workspaces: Option<Writer<Workspace>>,
    pods: Option<Writer<Pod>>,
    claims: Option<Writer<PersistentVolumeClaim>>,
    jobs: Option<Writer<Job>>,
    namespaces: Writer<PartialObjectMeta<Namespace>>,
    secrets: Vec<(Option<String>, Writer<PartialObjectMeta<Secret>>)>,
}

impl Watches {
    /// Prepares them. `secret_namespaces`: the namespaces in which Secrets may be watched; empty for all.
    #[must_use]
    pub fn new(secret_namespaces: &[String], features: &Features) -> Self {
        let (apps, write_apps) = reflector::store();
        let (installations, write_installations) = reflector::store();
        let (tokens, write_tokens) = reflector::store();
        let (repositories, write_repositories) = store_if(features.has(Feature::Repositories));
        let (workspaces, write_workspaces) = store_if(features.has(Feature::Workspaces));
        let (pods, write_pods) = store_if(features.has(Feature::Workspaces));
        let (claims, write_claims) = store_if(features.has(Feature::Workspaces));
        let (jobs, write_jobs) = store_if(features.has(Feature::Workspaces));
        let (namespaces, write_namespaces) = reflector::store();
        let places: Vec<_> = if secret_namespaces.is_empty() {
            vec![None]
        } else {
            secret_namespaces.iter().cloned().map(Some).collect()
        };
        let (secrets, write_secrets) = places
            .into_iter()
            .map(|place| {
                let (store, writer) = reflector::store();
                (store, (place, writer))
            })
            .unzip();
        Self {
            stores: Stores {
                apps,
                installations,
                tokens,
                repositories,
                workspaces,
                pods,
                claims,
                jobs,
                namespaces,
                secrets,
            },
            writers: Writers {
                apps: write_apps,
                installations: write_installations,
                tokens: write_tokens,
                repositories: write_repositories,
                workspaces: write_workspaces,
                pods: write_pods,
                claims: write_claims,
                jobs: write_jobs,
                namespaces: write_namespaces,
                secrets: write_secrets,
            },
        }
    }

    /// Runs them all. Never ends by itself.
    pub async fn run(
        writers: WatchWriters,
        client: Client,
        stores: Arc<Stores>,
        due: Dues,
        keys: Arc<KnownRootKeys>,
        known: Arc<Workspaces>,
        namespace: String,
    ) {
        let Writers { apps, installations, tokens, repositories, workspaces, pods, claims, jobs, namespaces, secrets } =
            writers.0;
        let everything = watcher::Config::default();
        let ours = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
        let of_workspaces = watcher::Config::default().labels(WORKSPACE_LABEL);
        let secret_watches = futures::future::join_all(secrets.into_iter().map(|(place, writer)| {
            let api = match place {
                Some(place) => Api::namespaced(client.clone(), &place),
                None => Api::all(client.clone()),
            };
            let (stores, due) = (&stores, &due);
            let store = writer.as_reader();
            drive(reflected(api, ours.clone(), writer), store, move |seen| secret_seen(&seen, stores, due))
        }));
        let credentials: Api<Lenient<PartialObjectMeta<Secret>>> = Api::namespaced(client.clone(), &namespace);
        let (credentials_store, credentials_writer) = reflector::store();
        futures::join!(
            drive(reflected(Api::all(client.clone()), everything.clone(), apps), stores.apps.clone(), |seen| app_seen(
                &seen, &stores, &due
            )),
            drive(
                reflected(Api::all(client.clone()), everything.clone(), installations),
                stores.installations.clone(),
                |seen| installation_seen(&seen, &stores, &due)
            ),
            drive(reflected(Api::all(client.clone()), everything.clone(), tokens), stores.tokens.clone(), |seen| {
                token_seen(&seen, &stores, &due);
            }),
            OptionFuture::from(repositories.map(|writer| {
                let stream = reflected(Api::all(client.clone()), everything.clone(), writer);
                drive(stream, stores.repositories.clone(), |seen| repository_seen(&seen, &stores, &due))
            })),
            OptionFuture::from(workspaces.map(|writer| {
                let stream = reflected(Api::all(client.clone()), everything.clone(), writer);
                drive(stream, stores.workspaces.clone(), |seen| workspace_seen(&seen, &stores, &due))
            })),
            OptionFuture::from(pods.map(|writer| {
                let stream = reflected(Api::all(client.clone()), of_workspaces.clone(), writer);
                drive(stream, stores.pods.clone(), |seen| pod_seen(&seen, &stores, &due, &known))
            })),
            OptionFuture::from(claims.map(|writer| {
                let stream = reflected(Api::all(client.clone()), of_workspaces.clone(), writer);
                drive(stream, stores.claims.clone(), |seen| claim_seen(&seen, &stores, &due))
            })),
            OptionFuture::from(jobs.map(|writer| {
                let stream = reflected(Api::all(client.clone()), of_workspaces.clone(), writer);
                drive(stream, stores.jobs.clone(), |seen| part_seen(&seen, &stores, &due))
            })),
            drive(
                reflected(Api::all(client.clone()), everything.clone(), namespaces),
                stores.namespaces.clone(),
                |seen| {
                    namespace_seen(&seen, &stores, &due);
                }
            ),
            drive(reflected(credentials, everything.clone(), credentials_writer), credentials_store, |seen| {
                credentials_seen(&seen, &stores, &due, &keys);
            }),
            secret_watches,
        );
    }

    /// Takes the caches and what fills them apart.
    #[must_use]
    pub fn split(self) -> (Stores, WatchWriters) {
        (self.stores, WatchWriters(self.writers))
    }
}

/// What fills the caches.
pub struct WatchWriters(Writers);

impl Stores {
    /// Resolves when all caches were filled once.
    ///
    /// # Errors
    /// When a watch ended before.
    pub async fn wait_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.apps.wait_until_ready().await?;
        self.installations.wait_until_ready().await?;
        self.tokens.wait_until_ready().await?;
        self.repositories.wait_until_ready().await?;
        self.workspaces.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.jobs.wait_until_ready().await?;
        self.namespaces.wait_until_ready().await?;
        for secrets in &self.secrets {
            secrets.wait_until_ready().await?;
        }
        Ok(())
    }
}

/// A cache and what fills it; without its feature it is empty, has been filled, and nothing fills it.
fn store_if<K>(is_watched: bool) -> (Store<K>, Option<Writer<K>>)
where
    K: Resource<DynamicType: Eq + Hash + Clone + Default> + Clone + 'static,
{
    let (store, mut writer) = reflector::store();
    if is_watched {
        return (store, Some(writer));
    }
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
    (store, None)
}

/// A watch that keeps a cache, without the managed fields, which are of no use here and most of an object's size.
fn reflected<K>(
    api: Api<Lenient<K>>,
    config: watcher::Config,
    writer: Writer<K>,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource<DynamicType: Eq + Hash + Clone + Default + Debug + Unpin + Send + Sync>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    readable(watcher(api, config).default_backoff())
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
}

async fn drive<K>(stream: impl Stream<Item = watcher::Result<Event<K>>>, store: Store<K>, on: impl Fn(Seen<'_, K>))
where
    K: Resource<DynamicType: Eq + Hash + Clone> + Clone + 'static,
{
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Apply(object)) => on(Seen::Changed(&object)),
            Ok(Event::Delete(object)) => on(Seen::Gone(&object)),
            // kube announces a listing's objects before its cache holds them, so they are announced here at its end.
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone) => {
                for object in store.state() {
                    on(Seen::Changed(&object));
                }
                on(Seen::Listed);
            }
            Err(error) => tracing::warn!(%error, "a watch broke off and is taken up again"),
        }
    }
}

fn app_seen(seen: &Seen<'_, GitHubApp>, stores: &Stores, due: &Dues) {
    let (Seen::Changed(app) | Seen::Gone(app)) = seen else {
        wake_all(&stores.installations, &due.installations);
        wake_all(&stores.tokens, &due.tokens);
        wake_all(&stores.repositories, &due.repositories);
        wake_all(&stores.workspaces, &due.workspaces);
        return;
    };
    due.apps.look_now(&ObjectRef::from_obj(*app));
    let name = app.name_any();
    for installation in stores.installations.state() {
        if installation.spec.app_ref.name == name {
            due.installations.look_now(&ObjectRef::from_obj(&*installation));
            wake_tokens_of(&stores.tokens, &due.tokens, &installation);
            wake_repositories_of(&stores.repositories, &due.repositories, &installation);
            wake_workspaces_of(&stores.workspaces, &due.workspaces, &installation);
        }
    }
    if matches!(seen, Seen::Gone(_)) {
        due.apps.forget(&ObjectRef::from_obj(*app));
    }
}

fn installation_seen(seen: &Seen<'_, GitHubInstallation>, stores: &Stores, due: &Dues) {
    match seen {
        Seen::Changed(installation) | Seen::Gone(installation) => {
            due.apps.look_now(&ObjectRef::new(&installation.spec.app_ref.name));
            wake_tokens_of(&stores.tokens, &due.tokens, installation);
            wake_repositories_of(&stores.repositories, &due.repositories, installation);
            wake_workspaces_of(&stores.workspaces, &due.workspaces, installation);
            let reference = ObjectRef::from_obj(*installation);
            match seen {
                Seen::Gone(_) => due.installations.forget(&reference),
                _ => due.installations.look_now(&reference),
            }
        }
        Seen::Listed => wake_all(&stores.apps, &due.apps),
    }
}

fn token_seen(seen: &Seen<'_, InstallationToken>, stores: &Stores, due: &Dues) {
    let (Seen::Changed(token) | Seen::Gone(token)) = seen else {
        wake_all(&stores.installations, &due.installations);
        wake_all(&stores.apps, &due.apps);
        wake_all(&stores.workspaces, &due.workspaces);
        return;
    };
    let reference = ObjectRef::from_obj(*token);
    match seen {
        Seen::Gone(_) => due.tokens.forget(&reference),
        _ => due.tokens.look_now(&reference),
    }
    let namespace = token.namespace().unwrap_or_default();
    // Be it made for that workspace, or in its way.
    if let Some(workspace) = workspace::named(&token.name_any()) {
        due.workspaces.look_now(&ObjectRef::new(workspace).within(&namespace));
    }
    let place = ObjectRef::new(&token.spec.installation_ref.name).within(&namespace);
    wake_what_is_going(&place, matches!(seen, Seen::Gone(_)), stores, due);
}

fn namespace_seen(seen: &Seen<'_, PartialObjectMeta<Namespace>>, stores: &Stores, due: &Dues) {
    let (Seen::Changed(namespace) | Seen::Gone(namespace)) = seen else { return };
    wake_all(&stores.apps, &due.apps);
    let name = Some(namespace.name_any());
    for installation in stores.installations.state() {
        if installation.namespace() == name {
            due.installations.look_now(&ObjectRef::from_obj(&*installation));
            wake_tokens_of(&stores.tokens, &due.tokens, &installation);
            wake_repositories_of(&stores.repositories, &due.repositories, &installation);
            wake_workspaces_of(&stores.workspaces, &due.workspaces, &installation);
        }
    }
}

fn repository_seen(seen: &Seen<'_, ProjectRepository>, stores: &Stores, due: &Dues) {
    let (Seen::Changed(repository) | Seen::Gone(repository)) = seen else {
        wake_all(&stores.installations, &due.installations);
        return;
    };
    let reference = ObjectRef::from_obj(*repository);
    match seen {
        Seen::Gone(_) => due.repositories.forget(&reference),
        _ => due.repositories.look_now(&reference),
    }
    for workspace in stores.workspaces.state() {
        if workspace.namespace() == repository.namespace()
            && workspace.spec.repository_ref.name == repository.name_any()
            // Once it has a token, it is bound to what that is for.
            && workspace.status.as_ref().is_none_or(|status| status.pod.is_none())
        {
            due.workspaces.look_now(&ObjectRef::from_obj(&*workspace));
        }
    }
    if let Some(installation) = &repository.spec.installation_ref {
        let place = ObjectRef::new(&installation.name).within(&repository.namespace().unwrap_or_default());
        wake_what_is_going(&place, matches!(seen, Seen::Gone(_)), stores, due);
    }
}

fn workspace_seen(seen: &Seen<'_, Workspace>, stores: &Stores, due: &Dues) {
    let (Seen::Changed(workspace) | Seen::Gone(workspace)) = seen else {
        wake_all(&stores.tokens, &due.tokens);
        return;
    };
    let reference = ObjectRef::from_obj(*workspace);
    match seen {
        Seen::Gone(_) => {
            due.workspaces.forget(&reference);
            for claim in stores.claims.state() {
                if claim.namespace() == workspace.namespace() && workspace::keep::is_held_back(&claim) {
                    due.claims.look_now(&ObjectRef::from_obj(&*claim));
                }
            }
            // Its token may have waited for it.
            let namespace = workspace.namespace().unwrap_or_default();
            let uid = workspace.uid();
            for token in stores.tokens.state() {
                let is_its = token.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref());
                if token.namespace().as_deref() == Some(namespace.as_str()) && is_its {
                    due.tokens.look_now(&ObjectRef::from_obj(&*token));
                }
            }
        }
        _ => due.workspaces.look_now(&reference),
    }
}

/// How a pod ended is remembered here: the last of it is seen as it goes.
fn pod_seen(seen: &Seen<'_, Pod>, stores: &Stores, due: &Dues, known: &Workspaces) {
    if let Seen::Changed(pod) | Seen::Gone(pod) = seen {
        known.saw(pod, matches!(seen, Seen::Gone(_)));
    }
    part_seen(seen, stores, due);
}

/// One that is held for a workspace that is gone is nobody's else.
fn claim_seen(seen: &Seen<'_, PersistentVolumeClaim>, stores: &Stores, due: &Dues) {
    match seen {
        Seen::Changed(claim) if workspace::keep::is_held_back(claim) => {
            due.claims.look_now(&ObjectRef::from_obj(*claim));
        }
        Seen::Gone(claim) => due.claims.forget(&ObjectRef::from_obj(*claim)),
        Seen::Changed(_) | Seen::Listed => {}
    }
    part_seen(seen, stores, due);
}

/// A pod, a claim or a Job of a workspace.
fn part_seen<K: Resource>(seen: &Seen<'_, K>, stores: &Stores, due: &Dues) {
    match seen {
        Seen::Changed(part) | Seen::Gone(part) => {
            if let Some(name) = part.labels().get(WORKSPACE_LABEL) {
                due.workspaces.look_now(&ObjectRef::new(name).within(&part.namespace().unwrap_or_default()));
            }
        }
        Seen::Listed => wake_all(&stores.workspaces, &due.workspaces),
    }
}

/// What is being deleted waits for what depends on it; and what was made for a grant that is no more goes with the last
/// that refers to it.
fn wake_what_is_going(place: &ObjectRef<GitHubInstallation>, is_gone: bool, stores: &Stores, due: &Dues) {
    let Some(installation) = stores.installations.get(place) else { return };
    if installation.meta().deletion_timestamp.is_some() {
        due.installations.look_now(place);
    }
    let app = ObjectRef::new(&installation.spec.app_ref.name);
    if is_gone || stores.apps.get(&app).is_some_and(|app| app.meta().deletion_timestamp.is_some()) {
        due.apps.look_now(&app);
    }
}

fn secret_seen(seen: &Seen<'_, PartialObjectMeta<Secret>>, stores: &Stores, due: &Dues) {
    match seen {
        Seen::Changed(secret) | Seen::Gone(secret) => {
            let namespace = secret.namespace().unwrap_or_default();
            for owner in secret.owner_references() {
                if owner.kind == "InstallationToken" {
                    due.tokens.look_now(&ObjectRef::new(&owner.name).within(&namespace));
                }
            }
        }
        Seen::Listed => wake_all(&stores.tokens, &due.tokens),
    }
}

fn credentials_seen(seen: &Seen<'_, PartialObjectMeta<Secret>>, stores: &Stores, due: &Dues, keys: &KnownRootKeys) {
    match seen {
        Seen::Changed(secret) | Seen::Gone(secret) => {
            let name = secret.name_any();
            let are_keys = name == ROOT_KEYS_SECRET;
            if are_keys {
                keys.changed();
            }
            for app in stores.apps.state() {
                if app.spec.credentials_secret_ref.name == name || (are_keys && app.spec.webhook.is_some()) {
                    due.apps.look_now(&ObjectRef::from_obj(&*app));
                }
            }
        }
        Seen::Listed => wake_all(&stores.apps, &due.apps),
    }
}

/// Looks at all of a kind.
pub fn wake_all<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>, due: &Due<K>) {
    for object in store.state() {
        due.look_now(&ObjectRef::from_obj(&*object));
    }
}

/// Looks at the tokens of an installation.
pub fn wake_tokens_of(
    tokens: &Store<InstallationToken>,
    due: &Due<InstallationToken>,
    installation: &GitHubInstallation,
) {
    for token in tokens.state() {
        if token.namespace() == installation.namespace() && token.spec.installation_ref.name == installation.name_any()
        {
            due.look_now(&ObjectRef::from_obj(&*token));
        }
    }
}

/// Looks at the repositories of an installation.
pub fn wake_repositories_of(
    repositories: &Store<ProjectRepository>,
    due: &Due<ProjectRepository>,
    installation: &GitHubInstallation,
) {
    for repository in repositories.state() {
        let reference = repository.spec.installation_ref.as_ref().map(|reference| &reference.name);
        if repository.namespace() == installation.namespace() && reference == Some(&installation.name_any()) {
            due.look_now(&ObjectRef::from_obj(&*repository));
        }
    }
}

/// Looks at the workspaces that may be of an installation: those of its namespace.
pub fn wake_workspaces_of(workspaces: &Store<Workspace>, due: &Due<Workspace>, installation: &GitHubInstallation) {
    for workspace in workspaces.state() {
        if workspace.namespace() == installation.namespace() {
            due.look_now(&ObjectRef::from_obj(&*workspace));
        }
    }
}
