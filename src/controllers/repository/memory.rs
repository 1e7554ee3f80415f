//! The memory of this process about each repository: GitHub's answers, and failures.
//!
//! Invariant: the memory is a convenience, never the truth. All of it can be lost at any moment, and a look restores
//! it. But it takes precedence over status, which a tenant may be able to write: the address that a token is sent to
//! comes only from here.

use super::answers::Moment;
use super::listing::Listing;
use super::rollout::RolloutMemory;
use super::seen::{HookWish, own_status};
use crate::api::{DeploymentStatus, HeadStatus, ProjectRepository};
use crate::controllers::caches::Caches;
use crate::controllers::deliveries::Announced;
use crate::controllers::reference::Terms;
use crate::controllers::standing::{Standing, State};
use crate::git::Refs;
use crate::github::Repository;
use crate::ids::{AccountId, HookId, RepositoryId};
use crate::runtime::allowance::{Allowance, Rate};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// GitHub's answer about a repository.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub repository: Arc<Repository>,
    /// When GitHub gave the answer.
    pub at: Timestamp,
}

/// A remote's answer about its refs.
#[derive(Clone, Debug, PartialEq)]
pub struct Looked {
    pub refs: Refs,
    /// The requested branch. `None`: the default branch.
    pub asked: Option<String>,
    pub access: Option<Terms>,
    /// The repository's name at that time, or its address.
    pub name: String,
    /// When the remote was asked. Earlier pushes are in the answer.
    pub at: Timestamp,
    /// When to look again without a delivery or request.
    pub next: Timestamp,
}

/// The webhook at its last examination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSeen {
    pub id: HookId,
    /// The address that it delivers to.
    pub url: String,
    /// The id of the root key that its secret is derived from.
    pub key_id: String,
}

/// A comparison of a fork with its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InStep {
    /// The upstream's head then.
    pub upstream: String,
    /// The fork's head then.
    pub own: String,
    /// How many commits the fork lacks.
    pub behind_by: u64,
    /// How many commits of its own it has.
    pub ahead_by: u64,
}

/// A kind of call whose failures are remembered separately, so that the head is followed even if a webhook cannot be
/// created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Finding the repository, and reading its head.
    Look,
    /// The webhook.
    Hook,
    /// Creating the fork.
    Fork,
    /// Synchronizing the fork.
    Sync,
}

/// The circumstances of a failure. When one of these changes, the call is retried at once.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The value of the annotation that requests a look.
    pub request: Option<String>,
    /// The webhook that the repository should have.
    pub hook: HookWish,
    pub access: Option<Terms>,
}

/// The subject of a requested look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The branch may have moved.
    Push,
    /// The repository itself may have changed as well.
    Repository,
}

impl News {
    /// The subject of an event.
    #[must_use]
    pub fn of(event: &str) -> Self {
        if event == "push" { Self::Push } else { Self::Repository }
    }
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// The standing that the failure causes.
    pub standing: Standing,
    /// The call is not retried before this time.
    pub until: Timestamp,
    /// The circumstances of the failure. When they change, the call is retried at once.
    pub about: About,
    /// The deliveries that waited for a look then. The failed call was made for them as well.
    pub heard: BTreeSet<Announced>,
    /// How many looks this process itself had requested then. The failed call was made for them as well.
    pub wanted: u64,
}

/// The memory about one repository.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// GitHub's answer about it.
    pub facts: Option<Facts>,
    /// Its refs.
    pub looked: Option<Looked>,
    /// When this process first heard of the object.
    pub first_heard: Option<Moment>,
    /// The head, with the time since when it is the head.
    pub head: Option<HeadStatus>,
    /// The head that was confirmed by id, and when.
    pub confirmed: Option<(String, Timestamp)>,
    /// The deliveries that a look has covered and that still wait in an inbox.
    pub heard: BTreeSet<Announced>,
    /// How many looks this process itself has requested.
    pub wanted: u64,
    /// How many of these requests the last look has covered. A request during a look is not covered by it.
    pub covered: u64,
    /// The last value of the annotation that requests a look, after a look covered it.
    pub request: Option<String>,
    /// The webhook.
    pub hook: Option<HookSeen>,
    /// When to examine the webhook although no problem is known.
    pub examine_hook_at: Option<Timestamp>,
    /// The webhook was removed.
    pub is_hook_removed: bool,
    /// The comparison of the fork with its upstream.
    pub in_step: Option<InStep>,
    /// When to look at the upstream next.
    pub next_sync: Option<Timestamp>,
    /// The last deployment, as this process wrote it to status.
    pub deployment: Option<DeploymentStatus>,
    /// The value of the annotation that requests another deployment, as this process wrote it to status.
    pub redeploy: Option<String>,
    /// The standing for the condition `Deployed`.
    pub deployed: Option<Standing>,
    /// The rollout that is under way.
    pub rollout: RolloutMemory,
    pub failed: BTreeMap<Task, Failed>,
    /// The rest of the allowance [`OBJECT`].
    pub pace: Option<Allowance>,
    /// The rest of the allowance [`SHARE`].
    pub share: Option<Allowance>,
}

/// The steps that an object may take. Everyone who can push, edit the object, or write its status can cause steps.
const OBJECT: Rate = Rate { burst: 20.0, every: SignedDuration::from_secs(3) };
/// The part of these that each object has for itself: for its retries, its webhook, and its first look after a restart.
/// It grows with the object's age, so that nobody gains by creating objects again.
const SHARE: Rate = Rate { burst: 10.0, every: SignedDuration::from_mins(3) };
/// The steps that the objects of a namespace share in addition. Polls do not count, because they ask git and not the
/// REST API. A step makes one or two calls, so this is about half of the 5,000 that GitHub allows an installation in an
/// hour. The burst is within the 900 points that GitHub allows in a minute.
/// <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>
const NAMESPACE: Rate = Rate { burst: 500.0, every: SignedDuration::from_secs(2) };

impl Remembered {
    /// Whether the last look at GitHub was refused until a person does something.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.failed.get(&Task::Look).is_some_and(|failed| failed.standing.state == State::Stalled)
    }
}

/// The allowance that an object has earned since its creation, whose time only the API server sets.
fn share(object: &ProjectRepository, now: Timestamp) -> Allowance {
    Allowance::earned(SHARE, object.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0))
}

/// The memory about all repositories, by the uid of their objects.
#[derive(Default)]
pub struct RepositoryMemory {
    by_uid: Mutex<HashMap<String, Remembered>>,
    namespaces: Mutex<HashMap<String, Allowance>>,
}

impl RepositoryMemory {
    /// The memory about one repository.
    #[must_use]
    pub fn get(&self, uid: &str) -> Remembered {
        self.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Notes that this process has heard of an object.
    pub fn heard(&self, uid: &str, moment: Moment) {
        self.update(uid, |known| {
            known.first_heard.get_or_insert(moment);
        });
    }

    /// Takes calls that were made because of repositories that are gone from the allowances of the namespaces that follow
    /// them.
    pub fn charge<'a>(&self, namespaces: impl Iterator<Item = &'a str>, now: Timestamp) {
        let mut all = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        for namespace in namespaces {
            let of = all.entry(namespace.to_owned()).or_insert_with(|| Allowance::full(NAMESPACE, now));
            // An allowance that is used up stays so.
            let _ = of.take(now);
        }
    }

    /// Stores a listing of an account's repositories. Those that it lacks are marked to be asked for.
    pub fn listed(&self, listing: &Listing, account: AccountId) {
        self.heard_of(listing.by_id(), listing.at());
        for known in self.lock().values_mut() {
            if let Some(facts) = &mut known.facts
                && facts.repository.owner.as_ref().is_some_and(|owner| owner.id == account)
                && !listing.by_id().contains_key(&facts.repository.id)
            {
                facts.at = Timestamp::MIN;
            }
        }
    }

    /// The id of the repository on GitHub that an object is bound to, if it is known. It is a hint, because it may come
    /// from status.
    #[must_use]
    pub fn known_id(&self, repository: &ProjectRepository) -> Option<RepositoryId> {
        let known = self.get(repository.metadata.uid.as_deref().unwrap_or_default());
        let stored = || own_status(repository)?.repository_id;
        known.facts.map(|facts| facts.repository.id).or_else(stored)
    }

    /// Changes the memory about one repository.
    pub fn update(&self, uid: &str, change: impl FnOnce(&mut Remembered)) {
        change(self.lock().entry(uid.to_owned()).or_default());
    }

    /// Stores GitHub's answers about repositories. A repository with a new name is only marked to be asked for, and
    /// that look decides whether the new name may be shown.
    pub fn heard_of(&self, said: &HashMap<RepositoryId, Arc<Repository>>, now: Timestamp) {
        if said.is_empty() {
            return;
        }
        for known in self.lock().values_mut() {
            if let Some(facts) = &mut known.facts
                && let Some(repository) = said.get(&facts.repository.id)
                && facts.at <= now
            {
                if repository.full_name != facts.repository.full_name {
                    facts.at = Timestamp::MIN;
                    continue;
                }
                // Only the longer answers have these fields, so they are kept.
                let parents = (facts.repository.parent.clone(), facts.repository.source.clone());
                let mut repository = Repository::clone(repository);
                repository.parent = repository.parent.or(parents.0);
                repository.source = repository.source.or(parents.1);
                *facts = Facts { repository: Arc::new(repository), at: now };
            }
        }
    }

    /// The time when an object may take an extra step: `now`, or later.
    #[must_use]
    pub fn allowed_at(&self, object: &ProjectRepository, now: Timestamp) -> Timestamp {
        let known = self.get(object.metadata.uid.as_deref().unwrap_or_default());
        let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let next = |allowance: Option<&Allowance>| allowance.map_or(now, |allowance| allowance.next(now));
        let share = known.share.unwrap_or_else(|| share(object, now)).next(now);
        let together = next(namespaces.get(object.metadata.namespace.as_deref().unwrap_or_default()));
        next(known.pace.as_ref()).max(share.min(together))
    }

    /// Takes a step from the allowance of an object, and from that of its namespace, unless the object has a share of
    /// its own left or the step is due anyway. GitHub's limits belong to the App, and so to all tenants.
    ///
    /// # Errors
    /// When to try again.
    pub fn spend(&self, object: &ProjectRepository, is_its_turn: bool, now: Timestamp) -> Result<(), Timestamp> {
        let mut by_uid = self.lock();
        let known = by_uid.entry(object.metadata.uid.clone().unwrap_or_default()).or_default();
        known.pace.get_or_insert_with(|| Allowance::full(OBJECT, now)).take(now)?;
        if is_its_turn || known.share.get_or_insert_with(|| share(object, now)).take(now).is_ok() {
            return Ok(());
        }
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        namespaces.retain(|_, allowance| !allowance.is_full(now));
        let of = namespaces.entry(object.metadata.namespace.clone().unwrap_or_default());
        of.or_insert_with(|| Allowance::full(NAMESPACE, now)).take(now)
    }

    /// Requests a look at an object, which begins after this call. `about`: what the look is after.
    pub fn look_again(&self, object: &ProjectRepository, about: News) {
        self.update(object.metadata.uid.as_deref().unwrap_or_default(), |known| {
            known.wanted += 1;
            if let (News::Repository, Some(facts)) = (about, &mut known.facts) {
                facts.at = Timestamp::MIN;
            }
        });
    }

    /// Forgets a deleted object.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets objects whose deletion was not seen, once there are more of them than existing objects.
    pub fn prune(&self, caches: &Caches) {
        let mut known = self.lock();
        if known.len() > 2 * caches.count::<ProjectRepository>() + 16 {
            let uids: BTreeSet<_> =
                caches.all::<ProjectRepository>().iter().filter_map(|object| object.uid()).collect();
            known.retain(|uid, _| uids.contains(uid));
        }
    }

    // A panic while the lock was held leaves a consistent map, because every change sets fields of one entry.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn object(uid: &str, namespace: &str, made: Timestamp) -> ProjectRepository {
        serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "ProjectRepository",
            "metadata": {"name": uid, "uid": uid, "namespace": namespace, "creationTimestamp": made.to_string()},
            "spec": {"installationRef": {"name": "acme"}, "source": {"existing": {"name": "shop"}}},
        }))
        .unwrap()
    }

    #[test]
    fn an_object_takes_some_steps_at_once_and_then_one_now_and_then() {
        let repositories = RepositoryMemory::default();
        let shop = object("shop", "team", at(0));
        let taken = (0..60).filter(|_| repositories.spend(&shop, false, at(0)).is_ok()).count();
        assert_eq!(taken, 20);
        assert_eq!(repositories.allowed_at(&shop, at(0)), at(3));
        assert_eq!(repositories.spend(&shop, true, at(1)), Err(at(3)), "its turn comes no oftener");
        repositories.spend(&shop, false, at(3)).expect("time gives it back");
    }

    #[test]
    fn objects_that_are_made_anew_all_the_time_take_what_their_namespace_has_together() {
        let repositories = RepositoryMemory::default();
        let mut taken = 0;
        for number in 0..2000 {
            let anew = object(&format!("uid-{number}"), "team", at(0));
            taken += usize::from(repositories.spend(&anew, false, at(0)).is_ok());
            repositories.forget(&format!("uid-{number}"));
        }
        assert_eq!(taken, 500);
        let next = object("next", "team", at(0));
        assert_eq!(repositories.allowed_at(&next, at(0)), at(2));
        repositories.spend(&object("other", "other", at(0)), false, at(0)).expect("another namespace has its own");
        repositories.spend(&next, true, at(0)).expect("a poll is not counted");
    }

    #[test]
    fn many_that_were_there_before_do_not_wait_for_each_other() {
        let repositories = RepositoryMemory::default();
        for number in 0..10_000 {
            let old = object(&format!("uid-{number}"), "team", at(-86_400));
            repositories.spend(&old, false, at(0)).expect("its own");
        }
        repositories.spend(&object("new", "team", at(0)), false, at(0)).expect("nothing of the namespace's was taken");
    }
}
