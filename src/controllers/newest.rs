//! The objects that this process wrote and that the cache does not have yet.
//!
//! Each write wakes the object's controller, often before the cache has the result. Invariant: the cached object counts,
//! unless its version is one that this process has replaced. Without this, such a look would write the same status
//! again.

use kube::{Resource, ResourceExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The objects of a kind, by uid.
pub struct Newest<K>(Mutex<HashMap<String, Newer<K>>>);

struct Newer<K> {
    object: Arc<K>,
    /// The versions that it replaced.
    replaced: Vec<String>,
}

/// An object leaves the memory at the look that its own change causes. The number is bounded in case there is none.
const MOST: usize = 10_000;

impl<K> Default for Newest<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Resource<DynamicType = ()>> Newest<K> {
    /// The object of which the cache has this version.
    #[must_use]
    pub fn of(&self, cached: Arc<K>) -> Arc<K> {
        let (Some(uid), Some(version)) = (&cached.meta().uid, &cached.meta().resource_version) else { return cached };
        let mut newest = self.lock();
        match newest.get(uid) {
            Some(newer) if newer.replaced.contains(version) => Arc::clone(&newer.object),
            Some(_) => {
                newest.remove(uid);
                drop(newest);
                cached
            }
            None => cached,
        }
    }

    /// Remembers that `object` replaced `before`.
    pub fn wrote(&self, before: &K, object: &Arc<K>) {
        let (Some(uid), Some(version)) = (object.uid(), before.resource_version()) else { return };
        if object.resource_version().as_ref() == Some(&version) {
            return;
        }
        let mut newest = self.lock();
        if newest.len() >= MOST {
            newest.clear();
        }
        let newer = newest.entry(uid).or_insert_with(|| Newer { object: Arc::clone(object), replaced: Vec::new() });
        newer.object = Arc::clone(object);
        newer.replaced.push(version);
    }

    /// Forgets a deleted object.
    pub fn forget(&self, object: &K) {
        if let Some(uid) = &object.meta().uid {
            self.lock().remove(uid);
        }
    }

    // A panic while the lock was held leaves a consistent map, because every change is one insertion or removal.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Newer<K>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    #[test]
    fn a_written_object_counts_until_the_cache_has_it() {
        let at = |version: &str| -> Arc<ConfigMap> {
            let metadata = json!({"name": "a", "uid": "1", "resourceVersion": version});
            Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
        };
        let newest = Newest::default();
        let version = |cached: &str| newest.of(at(cached)).resource_version().unwrap();
        assert_eq!(version("1"), "1");
        newest.wrote(&at("1"), &at("2"));
        newest.wrote(&at("2"), &at("3"));
        assert_eq!((version("1"), version("2")), ("3".into(), "3".into()));
        assert_eq!(version("3"), "3", "the cache has it");
        assert_eq!(version("2"), "2", "and it is forgotten");
        newest.wrote(&at("3"), &at("4"));
        assert_eq!(version("5"), "5", "somebody else wrote it as well");
    }
}
