//! The objects that a delivery concerns: a small cache of the cluster, and the rules for matching.
//!
//! Invariant: a repository's delivery reaches an object only if the object belongs to the App and is bound to the
//! repository's id, and its namespace was granted that repository of that account. The id in status is no proof, as tenants
//! may be able to write it; without the grant, a forged id would reveal another tenant's pushes. The cache keeps only the
//! fields that matching needs: ten thousand objects are a few megabytes.

mod slim;
mod watch;

pub use watch::watch;

use super::event::{Account, Repository, Selection};
use crate::api::{GitHubApp, Permissions};
use crate::github::{Endpoint, PlainHttp};
use crate::grant::{Grant, Known, NamespaceView, Pin, Reach, grant, pin};
use crate::guards::Guards;
use crate::ids::{AccountId, RepositoryId};
use crate::webhook::{AppIdentity, Hook};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// An object that deliveries concern.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// The `GitHubApp` of this name.
    App(Arc<str>),
    /// The `ProjectRepository` of this namespace and name.
    Repository(ObjectKey),
}

/// Namespace (empty for cluster-scoped objects) and name.
pub type ObjectKey = (Arc<str>, Arc<str>);

/// The most objects that one delivery is stored for: each is an entry in the inbox, which all tenants share. The other
/// objects notice the change at their next poll, or within the hour, when their tokens are minted again.
const MOST_OBJECTS: usize = 500;
/// The most of them in one namespace. One would do in practice.
const MOST_OBJECTS_PER_NAMESPACE: usize = 16;

/// The cache. Clones share it.
#[derive(Clone, Default)]
pub struct Targets {
    index: Arc<RwLock<Index>>,
    guards: Guards,
}

#[derive(Default)]
struct Index {
    apps: HashMap<ObjectKey, App>,
    installations: HashMap<ObjectKey, Installation>,
    namespaces: HashMap<ObjectKey, Labels>,
    repositories: HashMap<ObjectKey, Bound>,
    by_id: HashMap<RepositoryId, Vec<ObjectKey>>,
    /// The number of kinds whose list is complete.
    listed: usize,
}

type Labels = Box<[(Box<str>, Box<str>)]>;

struct App {
    object: GitHubApp,
    identity: Option<AppIdentity>,
}

struct Installation {
    app: Box<str>,
    account: Box<str>,
}

struct Bound {
    installation: Box<str>,
    id: Option<RepositoryId>,
    awaited_name: Option<Box<str>>,
}

impl Targets {
    pub fn new(guards: Guards) -> Self {
        Self { guards, ..Self::default() }
    }

    /// Every kind was listed, so that an object that is not in the cache does not exist.
    #[must_use]
    pub fn are_listed(&self) -> bool {
        self.read().listed == watch::KINDS
    }

    /// The App of a hook, if an object exists that its deliveries could concern.
    #[must_use]
    pub fn identity_of(&self, app: &str, hook: Hook) -> Option<AppIdentity> {
        let index = self.read();
        let identity = index.apps.get(&unscoped(app))?.identity.clone()?;
        match hook {
            Hook::App => Some(identity),
            Hook::Repository(id) => {
                let mut bound = index.by_id.get(&id)?.iter();
                bound.any(|key| index.installation_of(key, app).is_some()).then_some(identity)
            }
        }
    }

    /// Whether the App grants this account to somebody. Where an App is public, strangers can cause events of their own
    /// accounts.
    #[must_use]
    pub fn grants_account(&self, app: &str, account: &Account) -> bool {
        let index = self.read();
        let Some(App { object, .. }) = index.apps.get(&unscoped(app)) else { return false };
        object.spec.tenants.iter().any(|tenant| match pin(object, &tenant.account, tenant.account_id) {
            Pin::To(id) => id == account.id,
            Pin::FirstSeen => account.login.as_ref().is_none_or(|login| login.eq_ignore_ascii_case(&tenant.account)),
        })
    }

    /// The objects that an event of a repository concerns.
    #[must_use]
    pub fn bound_to(&self, app: &str, repository: &Repository) -> Vec<Object> {
        let index = self.read();
        let keys = index.by_id.get(&repository.id).map_or(&[][..], Vec::as_slice);
        let is_granted = |key: &&ObjectKey| self.guards.grant(index.is_granted(key, app, repository));
        select(keys.iter().filter(is_granted), MOST_OBJECTS_PER_NAMESPACE)
    }

    /// The objects that wait for a repository of this name, or of its former name.
    #[must_use]
    pub fn waiting_for(&self, app: &str, repository: &Repository) -> Vec<Object> {
        let index = self.read();
        let waits = |bound: &Bound| {
            let awaited = bound.awaited_name.as_deref().filter(|_| bound.id.is_none());
            awaited.is_some_and(|awaited| repository.names.iter().any(|name| name.eq_ignore_ascii_case(awaited)))
        };
        let waiting = index.repositories.iter().filter(|(_, bound)| waits(bound)).map(|(key, _)| key);
        select(waiting.filter(|key| index.is_granted(key, app, repository)), MOST_OBJECTS_PER_NAMESPACE)
    }

    /// The objects whose repositories were added to an installation or removed from it: those listed, or all of the account
    /// if none is listed, and those that have no id yet.
    #[must_use]
    pub fn selected(&self, app: &str, selection: &Selection) -> Vec<Object> {
        let index = self.read();
        let concerns = |bound: &Bound| {
            selection.repositories.is_empty() || bound.id.is_none_or(|id| selection.repositories.contains(&id))
        };
        let concerned = index.repositories.iter().filter(|(_, bound)| concerns(bound)).map(|(key, _)| key);
        select(concerned.filter(|key| index.entries(key, app, &[selection.owner]).is_some()), MOST_OBJECTS)
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    /// The installation that an object refers to, if it belongs to this App.
    fn installation_of(&self, key: &ObjectKey, app: &str) -> Option<&Installation> {
        let bound = self.repositories.get(key)?;
        let installation = (Arc::clone(&key.0), Arc::from(&*bound.installation));
        self.installations.get(&installation).filter(|installation| *installation.app == *app)
    }

    /// The grants of the object's namespace for one of these accounts.
    fn entries(&self, key: &ObjectKey, app: &str, owners: &[AccountId]) -> Option<Grant> {
        let installation = self.installation_of(key, app)?;
        let object = &self.apps.get(&unscoped(app))?.object;
        let labels = self.namespaces.get(&unscoped(&key.0))?;
        let namespace = NamespaceView {
            name: key.0.to_string(),
            labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            terminating: false,
        };
        let entries = grant(object, &installation.account, &namespace)?;
        // An account is not pinned before the operator has seen its id.
        let Pin::To(owner) = pin(object, &installation.account, entries.account_id()) else { return None };
        entries.of_account(owner).filter(|_| owners.contains(&owner))
    }

    /// The object's namespace was granted the repository, by its current or its former name and owner.
    fn is_granted(&self, key: &ObjectKey, app: &str, repository: &Repository) -> bool {
        let granted = || {
            let entries = self.entries(key, app, &repository.owners)?;
            let is_allowed = |name: &String| {
                let known = [Known { name: Some(name.clone()), id: Some(repository.id) }];
                entries.allows(&Reach::Only(&known), &Permissions::new()).is_ok()
            };
            repository.names.iter().any(is_allowed).then_some(())
        };
        granted().is_some()
    }

    fn put_repository(&mut self, key: ObjectKey, bound: Bound) {
        self.remove_repository(&key);
        if let Some(id) = bound.id {
            self.by_id.entry(id).or_default().push(key.clone());
        }
        self.repositories.insert(key, bound);
    }

    fn remove_repository(&mut self, key: &ObjectKey) {
        let Some(id) = self.repositories.remove(key).and_then(|bound| bound.id) else { return };
        if let Some(keys) = self.by_id.get_mut(&id) {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.by_id.remove(&id);
            }
        }
    }
}

/// The App of a `GitHubApp`, once its id is known.
fn identity(app: &GitHubApp) -> Option<AppIdentity> {
    let spec = &app.spec;
    // The receiver sends nothing there and only needs the host's name; the operator refuses plain http.
    let endpoint =
        Endpoint::parse(&spec.api_url, spec.web_url.as_deref(), spec.graphql_url.as_deref(), PlainHttp::Anywhere)
            .ok()?;
    let app_id = spec.app_id.or_else(|| app.status.as_ref()?.app_id)?;
    Some(AppIdentity { host: endpoint.host(), app_id })
}

/// Selects the objects that get a delivery: the first of every namespace, then the second of every namespace, and so on up to
/// the limits. Sorting by name makes all receivers select the same.
fn select<'a>(keys: impl Iterator<Item = &'a ObjectKey>, per_namespace: usize) -> Vec<Object> {
    let mut keys: Vec<&ObjectKey> = keys.collect();
    keys.sort_unstable();
    let by_namespace = keys.chunk_by(|one, other| one.0 == other.0);
    let mut ranked: Vec<_> = by_namespace.flat_map(|keys| keys.iter().take(per_namespace).enumerate()).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().take(MOST_OBJECTS).map(|(_, key)| Object::Repository(ObjectKey::clone(key))).collect()
}

fn unscoped(name: &str) -> ObjectKey {
    (Arc::default(), Arc::from(name))
}

#[cfg(test)]
mod tests;
