//! Whom a delivery concerns: a slim cache of what there is in the cluster, and the rules for matching.
//!
//! Invariant: a repository's delivery reaches an object only if the object is of the App, is bound to the repository's
//! id, and its namespace was granted that repository of that account. The id in status is no proof, for tenants may be
//! able to write it; without the grant, whoever forged it would hear of another's pushes. Of an object nothing is kept
//! but what this needs: ten thousand of them are a few megabytes.

mod slim;
mod watch;

pub use watch::watch;

use super::event::{Repository, Selection};
use crate::api::{GitHubApp, Permissions};
use crate::github::{Endpoint, PlainHttp};
use crate::grant::{Grant, Known, NamespaceView, Pin, Reach, grant, pin};
use crate::guards::Guards;
use crate::webhook::{AppIdentity, Hook};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// An object whose status takes deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// The `GitHubApp` of this name.
    App(Arc<str>),
    /// The `ProjectRepository` of this namespace and name.
    Repository(Place),
}

/// A namespace, empty for what is in none, and a name.
pub type Place = (Arc<str>, Arc<str>);

/// A delivery that an object's status holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its GUID; a tenant may have written anything.
    pub guid: Box<str>,
    /// When it was received, if that can be read.
    pub received_at: Option<Timestamp>,
    /// How often it was.
    pub attempts: u32,
    /// Whether the operator has yet to deal with it.
    pub waits: bool,
}

/// What an object's status held at a version of it.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// `metadata.resourceVersion`: a later one is greater (KEP-5504).
    pub version: u64,
    /// The deliveries, in no order.
    pub entries: Box<[Logged]>,
}

/// As many objects are told of one delivery: it is to be stored within the ten seconds that GitHub waits, and the inbox is
/// everybody's. The rest finds out by itself: by its next poll, or within the hour, when the operator's tokens are minted
/// anew.
const MOST_TOLD: usize = 500;
/// And so many of a namespace, where one would be enough for who means well: a repository's delivery costs a write each.
const MOST_TOLD_OF_NAMESPACE: usize = 16;

/// The cache. Clones share it.
#[derive(Clone, Default)]
pub struct Targets {
    index: Arc<RwLock<Index>>,
    guards: Guards,
}

#[derive(Default)]
struct Index {
    apps: HashMap<Place, App>,
    installations: HashMap<Place, Installation>,
    namespaces: HashMap<Place, Labels>,
    repositories: HashMap<Place, Bound>,
    by_id: HashMap<u64, Vec<Place>>,
    /// How many kinds were listed to their end.
    listed: usize,
}

type Labels = Box<[(Box<str>, Box<str>)]>;

struct App {
    object: GitHubApp,
    identity: Option<AppIdentity>,
    log: Log,
}

struct Installation {
    app: Box<str>,
    account: Box<str>,
}

struct Bound {
    installation: Box<str>,
    id: Option<u64>,
    awaited: Option<Box<str>>,
    log: Log,
}

impl Targets {
    /// An empty cache.
    #[must_use]
    pub fn new(guards: Guards) -> Self {
        Self { guards, ..Self::default() }
    }

    /// Whether everything was listed, so that what is not here is nowhere.
    #[must_use]
    pub fn are_listed(&self) -> bool {
        self.read().listed == watch::KINDS
    }

    /// The App that a hook is of, if there is anybody whom its deliveries could concern.
    #[must_use]
    pub fn knows(&self, app: &str, hook: Hook) -> Option<AppIdentity> {
        let index = self.read();
        let identity = index.apps.get(&unscoped(app))?.identity.clone()?;
        match hook {
            Hook::App => Some(identity),
            Hook::Repository(id) => {
                let mut bound = index.by_id.get(&id)?.iter();
                bound.any(|place| index.installation_of(place, app).is_some()).then_some(identity)
            }
        }
    }

    /// The objects that an event of a repository concerns.
    #[must_use]
    pub fn bound_to(&self, app: &str, repository: &Repository) -> Vec<Object> {
        let index = self.read();
        let places = index.by_id.get(&repository.id).map_or(&[][..], Vec::as_slice);
        let is_granted = |place: &&Place| self.guards.grant(index.is_granted(place, app, repository));
        told(places.iter().filter(is_granted), MOST_TOLD_OF_NAMESPACE)
    }

    /// The objects that wait for a repository of this name, or of the name it had.
    #[must_use]
    pub fn waiting_for(&self, app: &str, repository: &Repository) -> Vec<Object> {
        let index = self.read();
        let waits = |bound: &Bound| {
            let awaited = bound.awaited.as_deref().filter(|_| bound.id.is_none());
            awaited.is_some_and(|awaited| repository.names.iter().any(|name| name.eq_ignore_ascii_case(awaited)))
        };
        let waiting = index.repositories.iter().filter(|(_, bound)| waits(bound)).map(|(place, _)| place);
        told(waiting.filter(|place| index.is_granted(place, app, repository)), MOST_TOLD_OF_NAMESPACE)
    }

    /// The objects whose repositories an installation came to see, or no longer sees: those that are listed, or all of the
    /// account where none is, and those that wait for theirs.
    #[must_use]
    pub fn selected(&self, app: &str, selection: &Selection) -> Vec<Object> {
        let index = self.read();
        let concerns = |bound: &Bound| {
            selection.repositories.is_empty() || bound.id.is_none_or(|id| selection.repositories.contains(&id))
        };
        let concerned = index.repositories.iter().filter(|(_, bound)| concerns(bound)).map(|(place, _)| place);
        told(concerned.filter(|place| index.entries(place, app, &[selection.owner]).is_some()), MOST_TOLD)
    }

    /// What the status of an object holds, as far as is known.
    #[must_use]
    pub fn log(&self, object: &Object) -> Log {
        let index = self.read();
        let log = match object {
            Object::App(name) => index.apps.get(&unscoped(name)).map(|app| &app.log),
            Object::Repository(place) => index.repositories.get(place).map(|bound| &bound.log),
        };
        log.cloned().unwrap_or_default()
    }

    /// The status of an object was seen with this in it. What is older than what is known is passed over.
    pub fn saw(&self, object: &Object, seen: Log) {
        let mut index = self.write();
        let log = match object {
            Object::App(name) => index.apps.get_mut(&unscoped(name)).map(|app| &mut app.log),
            Object::Repository(place) => index.repositories.get_mut(place).map(|bound| &mut bound.log),
        };
        if let Some(log) = log.filter(|log| seen.version >= log.version) {
            *log = seen;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    /// The installation that an object refers to, if it is one of this App.
    fn installation_of(&self, place: &Place, app: &str) -> Option<&Installation> {
        let bound = self.repositories.get(place)?;
        let installation = (Arc::clone(&place.0), Arc::from(&*bound.installation));
        self.installations.get(&installation).filter(|installation| *installation.app == *app)
    }

    /// What the object's namespace was granted of one of these accounts.
    fn entries(&self, place: &Place, app: &str, owners: &[i64]) -> Option<Grant> {
        let installation = self.installation_of(place, app)?;
        let object = &self.apps.get(&unscoped(app))?.object;
        let labels = self.namespaces.get(&unscoped(&place.0))?;
        let namespace = NamespaceView {
            name: place.0.to_string(),
            labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            terminating: false,
        };
        let entries = grant(object, &installation.account, &namespace)?;
        // An account that was never looked at is nobody yet.
        let Pin::To(owner) = pin(object, &installation.account, entries.account_id()) else { return None };
        entries.of_account(owner).filter(|_| owners.contains(&owner))
    }

    /// Whether the object's namespace was granted the repository, by where it is or by where it was a moment ago.
    fn is_granted(&self, place: &Place, app: &str, repository: &Repository) -> bool {
        let granted = || {
            let entries = self.entries(place, app, &repository.owners)?;
            let id = i64::try_from(repository.id).ok();
            let is_allowed = |name: &String| {
                let known = [Known { name: Some(name.clone()), id }];
                entries.allows(&Reach::Only(&known), &Permissions::new()).is_ok()
            };
            repository.names.iter().any(is_allowed).then_some(())
        };
        granted().is_some()
    }

    fn put_repository(&mut self, place: Place, bound: Bound) {
        self.remove_repository(&place);
        if let Some(id) = bound.id {
            self.by_id.entry(id).or_default().push(place.clone());
        }
        self.repositories.insert(place, bound);
    }

    fn remove_repository(&mut self, place: &Place) {
        let Some(id) = self.repositories.remove(place).and_then(|bound| bound.id) else { return };
        if let Some(places) = self.by_id.get_mut(&id) {
            places.retain(|other| other != place);
            if places.is_empty() {
                self.by_id.remove(&id);
            }
        }
    }
}

/// Which App a `GitHubApp` is, once that is known.
fn identity(app: &GitHubApp) -> Option<AppIdentity> {
    let spec = &app.spec;
    // Nothing is sent there: the host is a name here, and plain http is the operator's to refuse.
    let endpoint =
        Endpoint::parse(&spec.api_url, spec.web_url.as_deref(), spec.graphql_url.as_deref(), PlainHttp::Anywhere)
            .ok()?;
    let app_id = spec.app_id.or_else(|| app.status.as_ref()?.app_id)?;
    Some(AppIdentity { host: endpoint.host(), app_id: app_id.try_into().ok()? })
}

/// Of all these, those that are told: of each namespace so many, and of every namespace the first before the second of
/// any. By name, so that all receivers choose alike.
fn told<'a>(places: impl Iterator<Item = &'a Place>, of_namespace: usize) -> Vec<Object> {
    let mut places: Vec<&Place> = places.collect();
    places.sort_unstable();
    let by_namespace = places.chunk_by(|one, other| one.0 == other.0);
    let mut ranked: Vec<_> = by_namespace.flat_map(|places| places.iter().take(of_namespace).enumerate()).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().take(MOST_TOLD).map(|(_, place)| Object::Repository(Place::clone(place))).collect()
}

fn unscoped(name: &str) -> Place {
    (Arc::default(), Arc::from(name))
}

#[cfg(test)]
mod tests;
