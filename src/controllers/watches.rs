//! The watches: they keep the caches, and turn each change into a look at the objects that it may concern.
//!
//! A kind declares in `Kind::watches` which other objects wake its own. Invariant: a change is only ever a reason to
//! look. The action follows from the state that is gathered then, so a change that is announced twice, late, or
//! together with others does no harm. All looks go through the due queue, in which an object waits once, however many
//! changes concern it.

use super::caches::{Contents, Listener, News, Watched};
use super::object::ScopeApi;
use super::refused::RefusedNamespaces;
use super::shared::Shared;
use crate::api::{MANAGED_BY, MANAGED_BY_LABEL, WebhookInbox};
use crate::runtime::due::Due;
use crate::runtime::lenient::{Lenient, readable};
use crate::runtime::streamed::streamed;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Client, Resource, ResourceExt};
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Secrets without their data.
pub type SecretMeta = PartialObjectMeta<Secret>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Select {
    /// All of them.
    All,
    /// Those with this label.
    Labelled(&'static str),
    /// Those in the operator's own namespace, with this label if there is one.
    OwnNamespace(Option<&'static str>),
    /// The Secrets that the operator made, in the namespaces that it may use.
    OurSecrets,
    /// The Secrets in the operator's own namespace: the credentials of Apps, and the root keys.
    Credentials,
}

/// Where the objects of a kind are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Everywhere,
    /// In the operator's own namespace.
    OwnNamespace,
}

impl Select {
    /// The objects of a kind itself.
    #[must_use]
    pub fn own(place: Place, label: Option<&'static str>) -> Self {
        match place {
            Place::OwnNamespace => Self::OwnNamespace(label),
            Place::Everywhere => label.map_or(Self::All, Self::Labelled),
        }
    }
}

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The object was created or changed.
    Changed,
    /// The object was deleted.
    Gone,
}

/// All watches, while the kinds declare them.
pub struct AllWatches {
    client: Client,
    /// The operator's own namespace.
    namespace: String,
    secret_namespaces: Vec<String>,
    watches: BTreeMap<(TypeId, Select), Box<dyn Erased>>,
    contents: Contents,
    /// The kinds whose feature is off: the API server may refuse to list them, and may not know them.
    left_out: BTreeSet<TypeId>,
    refused: Arc<RefusedNamespaces>,
}

/// The watches that one kind declares.
pub struct Watches<'a, K> {
    all: &'a mut AllWatches,
    shared: Arc<Shared>,
    lane: Due<K>,
}

/// The objects of one watch, and the cache that it fills.
struct Source<T: Watched> {
    api: Api<Lenient<T>>,
    config: watcher::Config,
    store: Store<T>,
    writer: Writer<T>,
    /// The namespace, if the operator needs a RoleBinding in each.
    bound_in: Option<String>,
}

/// A watch of one type and selection.
struct Watch<T: Watched> {
    streams: Vec<Source<T>>,
    listeners: Vec<Listener<T>>,
    refused: Arc<RefusedNamespaces>,
}

trait Erased: Send {
    fn as_any(&mut self) -> &mut dyn Any;
    fn run(self: Box<Self>) -> Vec<BoxFuture<'static, ()>>;
}

impl<T: Watched> Erased for Watch<T> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn run(self: Box<Self>) -> Vec<BoxFuture<'static, ()>> {
        let listeners: Arc<[Listener<T>]> = self.listeners.into();
        let streams = self.streams.into_iter();
        streams
            .map(|Source { api, config, store, writer, bound_in }| -> BoxFuture<'static, ()> {
                let refused = bound_in.map(|namespace| (namespace, Arc::clone(&self.refused)));
                Box::pin(drive(watched(api, config), (store, writer), Arc::clone(&listeners), refused))
            })
            .collect()
    }
}

impl AllWatches {
    /// No watches yet. `secret_namespaces`: the namespaces in which Secrets may be watched; empty for all. `refused` learns
    /// in which of them Kubernetes refuses it.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        secret_namespaces: Vec<String>,
        refused: &Arc<RefusedNamespaces>,
    ) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            secret_namespaces,
            watches: BTreeMap::new(),
            contents: Contents::default(),
            left_out: BTreeSet::new(),
            refused: Arc::clone(refused),
        }
    }

    /// Excludes this kind from all watches, whichever kind asks to be woken by it.
    pub fn leave_out<K: Watched>(&mut self) {
        self.left_out.insert(TypeId::of::<K>());
    }

    /// Watches a kind's own objects.
    pub fn own<K: Watched>(&mut self, select: Select, lane: &Due<K>) {
        let lane = lane.clone();
        let own = move |news: &News<'_, K>| match news {
            News::Changed(object) => lane.look_now(&ObjectRef::from_obj(*object)),
            News::Gone(object) => lane.forget(&ObjectRef::from_obj(*object)),
            News::Listed => {}
        };
        self.select(select, Arc::new(own));
    }

    /// The declarations of one kind.
    pub fn of<K: Watched>(&mut self, shared: &Arc<Shared>, lane: &Due<K>) -> Watches<'_, K> {
        Watches { all: self, shared: Arc::clone(shared), lane: lane.clone() }
    }

    /// Sets the caches, and returns a future that fills them and never ends by itself.
    pub fn start(self, shared: &Shared) -> impl Future<Output = ()> + Send + use<> {
        shared.caches.set(self.contents);
        let watches: Vec<_> = self.watches.into_values().flat_map(Erased::run).collect();
        async move {
            futures::future::join_all(watches).await;
        }
    }

    fn select<T: Watched>(&mut self, select: Select, listener: Listener<T>) {
        if self.left_out.contains(&TypeId::of::<T>()) {
            return;
        }
        let config = match select {
            Select::Labelled(label) | Select::OwnNamespace(Some(label)) => watcher::Config::default().labels(label),
            Select::All | Select::OwnNamespace(None) | Select::OurSecrets | Select::Credentials => {
                watcher::Config::default()
            }
        };
        let place = |all: &Self| match select {
            Select::OwnNamespace(_) => <T::Scope as ScopeApi<T>>::within(all.client.clone(), &all.namespace),
            _ => Api::all(all.client.clone()),
        };
        self.listen(select, |all| vec![(place(all), config, None)], listener);
    }

    fn listen<T: Watched>(
        &mut self,
        select: Select,
        places: impl FnOnce(&Self) -> Vec<(Api<Lenient<T>>, watcher::Config, Option<String>)>,
        listener: Listener<T>,
    ) {
        let key = (TypeId::of::<T>(), select);
        if !self.watches.contains_key(&key) {
            let mut streams = Vec::new();
            for (api, config, bound_in) in places(self) {
                let (store, writer) = reflector::store();
                if select == Select::Credentials {
                    self.contents.await_store(&store);
                } else {
                    self.contents.add_store(store.clone());
                }
                streams.push(Source { api, config, store, writer, bound_in });
            }
            let refused = Arc::clone(&self.refused);
            self.watches.insert(key, Box::new(Watch::<T> { streams, listeners: Vec::new(), refused }));
        }
        if let Some(watch) = self.watches.get_mut(&key).and_then(|watch| watch.as_any().downcast_mut::<Watch<T>>()) {
            watch.listeners.push(listener);
        }
    }
}

impl<K: Watched> Watches<'_, K> {
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Queues the objects that `concerned` names when a `T` changes or is deleted, and all objects of this kind after a
    /// listing.
    pub fn woken_by<T: Watched>(
        &mut self,
        select: Select,
        concerned: impl Fn(&Shared, &T, Turn) -> Vec<ObjectRef<K>> + Send + Sync + 'static,
    ) {
        let listener = self.waking(concerned);
        self.all.contents.add_listener(Arc::clone(&listener));
        self.all.select(select, listener);
    }

    /// The same, for changes of a part of a `T` alone. Announcements that come from no watch always count.
    pub fn woken_by_part<T: Watched, P: PartialEq + Send + Sync + 'static>(
        &mut self,
        select: Select,
        part: impl Fn(&T) -> P + Send + Sync + 'static,
        concerned: impl Fn(&Shared, &T, Turn) -> Vec<ObjectRef<K>> + Send + Sync + 'static,
    ) {
        let listener = self.waking(concerned);
        self.all.contents.add_listener(Arc::clone(&listener));
        let parts: Mutex<HashMap<ObjectRef<T>, P>> = Mutex::default();
        let filtered = move |news: &News<'_, T>| {
            let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
            let is_news = match news {
                News::Changed(object) => {
                    let part = part(object);
                    let reference = ObjectRef::from_obj(*object);
                    let is_news = parts.get(&reference) != Some(&part);
                    parts.insert(reference, part);
                    is_news
                }
                News::Gone(object) => {
                    parts.remove(&ObjectRef::from_obj(*object));
                    true
                }
                News::Listed => true,
            };
            drop(parts);
            if is_news {
                listener(news);
            }
        };
        self.all.select(select, Arc::new(filtered));
    }

    /// Queues the objects that `concerned` names when an inbox changes, because deliveries for them wait in it, and all
    /// objects of this kind after a listing.
    pub fn woken_by_deliveries(
        &mut self,
        concerned: impl Fn(&Shared, &WebhookInbox) -> Vec<ObjectRef<K>> + Send + Sync + 'static,
    ) {
        let (shared, lane) = (Arc::clone(&self.shared), self.lane.clone());
        let listener = move |news: &News<'_, WebhookInbox>| match news {
            News::Changed(inbox) | News::Gone(inbox) => {
                for object in concerned(&shared, inbox) {
                    lane.look_after_delivery(&object);
                }
            }
            News::Listed => wake_all(&shared, &lane),
        };
        self.all.select(Select::OwnNamespace(None), Arc::new(listener));
    }

    /// Calls a function with each change of a `T`.
    pub fn hear<T: Watched>(&mut self, select: Select, hear: impl Fn(&News<'_, T>) + Send + Sync + 'static) {
        self.all.select(select, Arc::new(hear));
    }

    /// The same for the Secrets that the operator made.
    pub fn woken_by_our_secrets(
        &mut self,
        concerned: impl Fn(&Shared, &SecretMeta, Turn) -> Vec<ObjectRef<K>> + Send + Sync + 'static,
    ) {
        let listener = self.waking(concerned);
        self.listen_to_our_secrets(listener);
    }

    /// Calls a function with each change of the Secrets that the operator made. Functions and wake-ups are called in the
    /// order of their declaration.
    pub fn hear_our_secrets(&mut self, hear: impl Fn(&News<'_, SecretMeta>) + Send + Sync + 'static) {
        self.listen_to_our_secrets(Arc::new(hear));
    }

    fn listen_to_our_secrets(&mut self, listener: Listener<SecretMeta>) {
        let places = |all: &AllWatches| {
            let ours = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
            if all.secret_namespaces.is_empty() {
                return vec![(Api::all(all.client.clone()), ours, None)];
            }
            let place = |namespace: &String| {
                (Api::namespaced(all.client.clone(), namespace), ours.clone(), Some(namespace.clone()))
            };
            all.secret_namespaces.iter().map(place).collect()
        };
        self.all.listen(Select::OurSecrets, places, listener);
    }

    /// The same for the Secrets in the operator's own namespace: the credentials of Apps, and the root keys of webhooks.
    pub fn woken_by_credentials(
        &mut self,
        concerned: impl Fn(&Shared, &SecretMeta, Turn) -> Vec<ObjectRef<K>> + Send + Sync + 'static,
    ) {
        let listener = self.waking(concerned);
        let namespace = self.shared.settings.namespace.clone();
        let places = |all: &AllWatches| {
            vec![(Api::namespaced(all.client.clone(), &namespace), watcher::Config::default(), None)]
        };
        let shared = Arc::clone(&self.shared);
        // Declared before the wake-up, so that the look reads the Secret again.
        self.all.listen(Select::Credentials, places, Arc::new(move |news| shared.credentials.hear(news)));
        self.all.listen(Select::Credentials, places, listener);
    }

    /// Queues all objects of this kind when a `T`, which is not an object of Kubernetes, is announced.
    pub fn woken_by_announced<T: 'static>(&mut self) {
        let (shared, lane) = (Arc::clone(&self.shared), self.lane.clone());
        self.all.contents.add_listener::<T>(Arc::new(move |_| wake_all(&shared, &lane)));
    }

    fn waking<T: Watched>(
        &self,
        concerned: impl Fn(&Shared, &T, Turn) -> Vec<ObjectRef<K>> + Send + Sync + 'static,
    ) -> Listener<T> {
        let (shared, lane) = (Arc::clone(&self.shared), self.lane.clone());
        Arc::new(move |news| {
            let concerned = match news {
                News::Changed(object) => concerned(&shared, object, Turn::Changed),
                News::Gone(object) => concerned(&shared, object, Turn::Gone),
                News::Listed => return wake_all(&shared, &lane),
            };
            for object in concerned {
                lane.look_now(&object);
            }
        })
    }
}

fn wake_all<K: Watched>(shared: &Shared, lane: &Due<K>) {
    for object in shared.caches.all::<K>() {
        lane.look_now(&ObjectRef::from_obj(&*object));
    }
}

/// The objects in a page of a listing, where the API server does not stream them. A tenant's object may have more than a megabyte, and while it is parsed it takes a
/// multiple of that.
const PAGE: u32 = 16;
/// The most bytes of annotations that a cache keeps of an object. The operator's own are a fraction of that.
const MOST_ANNOTATIONS: usize = 64 << 10;

/// Drops what nothing here reads: the managed fields, which are most of an object's size, and everybody's annotations, of
/// which a tenant can write 256 KiB into each object.
fn drop_unread<T: Resource>(object: &mut T) {
    object.managed_fields_mut().clear();
    let Some(annotations) = &mut object.meta_mut().annotations else { return };
    annotations.retain(|name, _| name.starts_with("landfall.dev/"));
    if annotations.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MOST_ANNOTATIONS {
        annotations.clear();
    }
}

/// A watch.
fn watched<T: Watched>(
    api: Api<Lenient<T>>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<T>>> + Send {
    readable(streamed(api, config.page_size(PAGE)).default_backoff()).modify(drop_unread)
}

/// Keeps a cache, and announces each change. `refused`: the namespace in which the operator needs a RoleBinding. If it has
/// none, the cache counts as empty, so that one namespace does not stop the others, until a list succeeds.
async fn drive<T: Watched>(
    stream: impl Stream<Item = watcher::Result<Event<T>>>,
    (store, mut writer): (Store<T>, Writer<T>),
    listeners: Arc<[Listener<T>]>,
    refused: Option<(String, Arc<RefusedNamespaces>)>,
) {
    let tell = |news: News<'_, T>| listeners.iter().for_each(|listener| listener(&news));
    let mut is_filled = false;
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        if let Ok(event) = &event {
            writer.apply_watcher_event(event);
        }
        match event {
            Ok(Event::Apply(object)) => tell(News::Changed(&object)),
            Ok(Event::Delete(object)) => tell(News::Gone(&object)),
            // kube announces the objects of a listing before its cache has them, so they are announced here at its end.
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone) => {
                is_filled = true;
                if let Some((namespace, refused)) = &refused {
                    refused.allowed(namespace);
                }
                for object in store.state() {
                    tell(News::Changed(&object));
                }
                tell(News::Listed);
            }
            Err(error) => {
                tracing::warn!(%error, "a watch broke off and is taken up again");
                let Some((namespace, refused)) = refused.as_ref().filter(|_| is_forbidden(&error)) else { continue };
                refused.refused(namespace);
                if !is_filled {
                    is_filled = true;
                    for event in [Event::Init, Event::InitDone] {
                        writer.apply_watcher_event(&event);
                    }
                }
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => super::standing::is_forbidden(error),
        watcher::Error::WatchError(status) => status.code == 403,
        watcher::Error::NoResourceVersion => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::InstallationToken;
    use serde_json::{Value, json};

    fn kept(annotations: &Value) -> Value {
        let mut object: InstallationToken = serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken",
            "metadata": {"name": "t", "annotations": annotations, "managedFields": [{"manager": "a"}]},
            "spec": {"installationRef": {"name": "acme"}, "repositories": [{"name": "shop"}], "secret": {"name": "git"}},
        }))
        .unwrap();
        drop_unread(&mut object);
        assert!(object.managed_fields().is_empty());
        json!(object.metadata.annotations)
    }

    #[test]
    fn a_cache_keeps_what_is_read() {
        let ours = json!({"landfall.dev/reconcile": "now"});
        assert_eq!(kept(&json!({"landfall.dev/reconcile": "now", "example.com/a": "b"})), ours);
        assert_eq!(kept(&Value::Null), Value::Null);
        assert_eq!(kept(&json!({"landfall.dev/a": "x".repeat(240 << 10), "landfall.dev/reconcile": "now"})), json!({}));
    }
}
