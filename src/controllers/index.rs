//! The objects of a cache by another object that they refer to: installations by App, and the rest by installation.
//!
//! A walk over a whole cache for each change would make the cost of a change grow with the number of objects. Invariant:
//! every object that a watch has announced is in its index. An entry may be stale, so the cache decides.

use super::caches::{News, Watched};
use super::watches::{Select, Watches};
use crate::api::{GitHubInstallation, InstallationToken, ProjectRepository, Workspace};
use kube::runtime::reflector::ObjectRef;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The name of the object that is referred to, in two parts.
type Key = (String, String);
/// Namespace and name.
type Place = (String, String);

/// The indexes of all caches that need one.
#[derive(Default)]
pub struct Index {
    /// By App and namespace.
    pub by_app: By<GitHubInstallation>,
    /// By namespace and App.
    pub by_namespace: By<GitHubInstallation>,
    /// By namespace and installation.
    pub tokens: By<InstallationToken>,
    /// By namespace and installation.
    pub repositories: By<ProjectRepository>,
    /// By namespace alone.
    pub workspaces: By<Workspace>,
}

/// The objects of one cache, by what they refer to.
pub struct By<K>(Mutex<Entries>, PhantomData<fn() -> K>);

#[derive(Default)]
struct Entries {
    places: BTreeMap<Key, BTreeSet<Place>>,
    keys: HashMap<Place, Key>,
}

impl<K> Default for By<K> {
    fn default() -> Self {
        Self(Mutex::default(), PhantomData)
    }
}

impl Entries {
    fn set(&mut self, place: Place, key: Option<Key>) {
        if self.keys.get(&place) == key.as_ref() {
            return;
        }
        if let Some(former) = self.keys.remove(&place)
            && let Some(places) = self.places.get_mut(&former)
        {
            places.remove(&place);
            if places.is_empty() {
                self.places.remove(&former);
            }
        }
        if let Some(key) = key {
            self.places.entry(key.clone()).or_default().insert(place.clone());
            self.keys.insert(place, key);
        }
    }
}

impl<K: Watched> By<K> {
    /// The objects that refer to this, sorted.
    #[must_use]
    pub fn of(&self, first: &str, second: &str) -> Vec<ObjectRef<K>> {
        let entries = self.lock();
        let places = entries.places.get(&(first.to_owned(), second.to_owned()));
        places.into_iter().flatten().map(reference).collect()
    }

    /// The objects that refer to anything whose name begins with this part, sorted.
    #[must_use]
    pub fn under(&self, first: &str) -> Vec<ObjectRef<K>> {
        let entries = self.lock();
        let from = entries.places.range((first.to_owned(), String::new())..);
        from.take_while(|(key, _)| key.0 == first).flat_map(|(_, places)| places).map(reference).collect()
    }

    /// Whether an object refers to this.
    #[must_use]
    pub fn has(&self, first: &str, second: &str) -> bool {
        self.lock().places.contains_key(&(first.to_owned(), second.to_owned()))
    }

    fn hear(&self, news: &News<'_, K>, key: fn(&K) -> Option<Key>, cached: impl FnOnce() -> Vec<Arc<K>>) {
        let mut entries = self.lock();
        match news {
            News::Changed(object) => entries.set(place(*object), key(object)),
            News::Gone(object) => entries.set(place(*object), None),
            // Objects may have been deleted unseen.
            News::Listed => {
                *entries = Entries::default();
                for object in cached() {
                    entries.set(place(&*object), key(&object));
                }
            }
        }
    }

    // A panic while the lock was held leaves at worst a stale entry, which the cache corrects.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an index of the objects that a kind watches. `key`: the name of the object that one refers to.
pub fn keep<K: Watched>(watches: &mut Watches<'_, K>, by: fn(&Index) -> &By<K>, key: fn(&K) -> Option<Key>) {
    let shared = Arc::clone(watches.shared());
    watches.hear(Select::All, move |news: &News<'_, K>| {
        by(&shared.caches.index).hear(news, key, || shared.caches.all::<K>());
    });
}

fn place<K: Watched>(object: &K) -> Place {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn reference<K: Watched>((namespace, name): &Place) -> ObjectRef<K> {
    ObjectRef::new(name).within(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::ResourceExt;
    use serde_json::json;

    fn installation(namespace: &str, name: &str, app: &str) -> Arc<GitHubInstallation> {
        let object = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"appRef": {"name": app}, "account": "acme"},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn key(object: &GitHubInstallation) -> Option<Key> {
        Some((object.spec.app_ref.name.clone(), object.namespace()?))
    }

    #[test]
    fn an_index_follows_its_cache() {
        let by = By::<GitHubInstallation>::default();
        let hear = |news: News<'_, GitHubInstallation>, cached: Vec<_>| by.hear(&news, key, || cached);
        let names = |app: &str| {
            by.under(app).into_iter().map(|it| format!("{}/{}", it.namespace.unwrap(), it.name)).collect::<Vec<_>>()
        };
        for (namespace, name, app) in [("b", "x", "one"), ("a", "x", "one"), ("a", "y", "one"), ("a", "z", "one-more")]
        {
            hear(News::Changed(&installation(namespace, name, app)), Vec::new());
        }
        assert_eq!(names("one"), ["a/x", "a/y", "b/x"]);
        assert_eq!((by.of("one", "a").len(), by.of("one", "c").len()), (2, 0));
        hear(News::Changed(&installation("a", "y", "two")), Vec::new());
        hear(News::Gone(&installation("b", "x", "one")), Vec::new());
        assert_eq!((names("one"), names("two")), (vec!["a/x".to_owned()], vec!["a/y".to_owned()]));
        assert!(by.has("one", "a") && !by.has("one", "b"));
        hear(News::Listed, vec![installation("c", "x", "one")]);
        assert_eq!((names("one"), names("two")), (vec!["c/x".to_owned()], Vec::new()));
        hear(News::Gone(&installation("c", "x", "one")), Vec::new());
        assert!(by.lock().places.is_empty() && by.lock().keys.is_empty());
    }
}
