//! The places of the Secrets that each `InstallationToken` owns, in all namespaces that are watched.
//!
//! A walk over all Secrets for each look would make the cost of a token grow with the number of tokens. Invariant: after
//! [`OwnedSecrets::set`], every Secret in the cache with an owner of this kind is in the index. An entry may be stale, so the
//! cache decides.

use super::noted::Place;
use crate::controllers::watches::SecretMeta;
use kube::ResourceExt;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places by the uid of their owner.
#[derive(Default)]
pub struct OwnedSecrets(Mutex<Index>);

#[derive(Default)]
struct Index {
    places: HashMap<String, BTreeSet<Place>>,
    owners: HashMap<Place, Vec<String>>,
}

impl Index {
    fn remove(&mut self, place: &Place) {
        for owner in self.owners.remove(place).into_iter().flatten() {
            if let Some(places) = self.places.get_mut(&owner) {
                places.remove(place);
                if places.is_empty() {
                    self.places.remove(&owner);
                }
            }
        }
    }

    fn add(&mut self, secret: &SecretMeta) {
        let place = Place::of_secret(secret);
        self.remove(&place);
        let owners = secret.owner_references().iter().filter(|owner| owner.kind == "InstallationToken");
        let owners: Vec<_> = owners.map(|owner| owner.uid.clone()).collect();
        for owner in &owners {
            self.places.entry(owner.clone()).or_default().insert(place.clone());
        }
        if !owners.is_empty() {
            self.owners.insert(place, owners);
        }
    }
}

impl OwnedSecrets {
    /// The places of the Secrets that name this uid as an owner, sorted.
    #[must_use]
    pub fn of(&self, uid: &str) -> Vec<Place> {
        self.lock().places.get(uid).into_iter().flatten().cloned().collect()
    }

    pub fn changed(&self, secret: &SecretMeta) {
        self.lock().add(secret);
    }

    pub fn deleted(&self, place: &Place) {
        self.lock().remove(place);
    }

    /// Builds the index anew. `cached` is called while the index is locked, so no change is lost in between.
    pub fn set(&self, cached: impl FnOnce() -> Vec<Arc<SecretMeta>>) {
        let mut index = self.lock();
        *index = Index::default();
        for secret in cached() {
            index.add(&secret);
        }
    }

    // A panic while the lock was held leaves at worst a stale entry, which the cache corrects.
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(name: &str, owner: &str) -> SecretMeta {
        let owners = json!([
            {"apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken", "name": "shop", "uid": owner},
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "shop", "uid": "another"},
        ]);
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "a", "ownerReferences": owners}}))
            .unwrap()
    }

    #[test]
    fn an_owner_has_its_secrets_and_no_others() {
        let owned = OwnedSecrets::default();
        let names = |uid: &str| owned.of(uid).into_iter().map(|place| place.name).collect::<Vec<_>>();
        for (name, uid) in [("new", "1"), ("old", "1"), ("git", "2")] {
            owned.changed(&secret(name, uid));
        }
        assert_eq!((names("1"), names("2")), (vec!["new".into(), "old".into()], vec!["git".into()]));
        assert_eq!(names("another"), Vec::<String>::new());
        owned.deleted(&Place::of_secret(&secret("old", "1")));
        owned.changed(&secret("git", "1"));
        assert_eq!((names("1"), names("2")), (vec!["git".into(), "new".into()], Vec::new()));
        owned.set(|| vec![Arc::new(secret("git", "3"))]);
        assert_eq!((names("1"), names("3")), (Vec::new(), vec!["git".into()]));
        owned.deleted(&Place::of_secret(&secret("git", "3")));
        assert!(owned.lock().places.is_empty() && owned.lock().owners.is_empty());
    }
}
