//! What this process knows of each repository: what GitHub answered, and what failed.
//!
//! Invariant: it is a convenience, never the truth; all of it can be lost at any moment, and a look brings it back. But
//! while it is there it goes before status, which a tenant may be able to write: a token goes to an address from here only.

use super::rollout::RolloutMemory;
use super::seen::HookWish;
use crate::api::{DeploymentStatus, HeadStatus, ProjectRepository};
use crate::controllers::caches::Caches;
use crate::controllers::deliveries::Announced;
use crate::controllers::reference::Terms;
use crate::controllers::standing::{Standing, State};
use crate::git::Refs;
use crate::github::Repository;
use crate::ids::{HookId, RepositoryId};
use crate::runtime::allowance::{Allowance, Rate};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What GitHub says of a repository.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The repository.
    pub repository: Arc<Repository>,
    /// When it said so.
    pub at: Timestamp,
}

/// What a remote said of its refs.
#[derive(Clone, Debug, PartialEq)]
pub struct Looked {
    /// The refs.
    pub refs: Refs,
    /// The branch that was asked for; none: the default branch.
    pub asked: Option<String>,
    /// What the way to it depended on.
    pub access: Option<Terms>,
    /// What the repository was called, or its address.
    pub name: String,
    /// When it was asked: what was pushed before is in it.
    pub at: Timestamp,
    /// When to look again without being told.
    pub next: Timestamp,
}

/// The webhook after it was last examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSeen {
    /// Its id.
    pub id: HookId,
    /// Where it delivers to.
    pub url: String,
    /// The id of the root key that its secret is derived from.
    pub key_id: String,
}

/// How a fork stands to its upstream.
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

/// A kind of call, as far as failures are kept apart: a webhook that cannot be made does not keep the head from being
/// followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Finding the repository, and reading its head.
    Look,
    /// Its webhook.
    Hook,
    /// Making the fork.
    Fork,
    /// Keeping the fork in step.
    Sync,
}

/// What a failure is about. The same call is tried again at once when one of these is another.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The value of the annotation that asks for a look.
    pub request: Option<String>,
    /// Which webhook it is to have.
    pub hook: HookWish,
    /// What the way to it depends on.
    pub access: Option<Terms>,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// What it means.
    pub standing: Standing,
    /// It is not tried again before.
    pub until: Timestamp,
    /// What it is about: when that is another, it is tried again at once.
    pub about: About,
    /// The deliveries that waited for a look then: it was made for them as well.
    pub heard: BTreeSet<Announced>,
}

/// What is known of one repository.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// What GitHub says of it.
    pub facts: Option<Facts>,
    /// Its refs.
    pub looked: Option<Looked>,
    /// The head, since when it is there.
    pub head: Option<HeadStatus>,
    /// The head that was confirmed by id, and when.
    pub confirmed: Option<(String, Timestamp)>,
    /// The deliveries that a look has covered and that are yet to be marked.
    pub heard: BTreeSet<Announced>,
    /// The value of the annotation that asks for a look, once it was looked after it.
    pub request: Option<String>,
    /// The webhook.
    pub hook: Option<HookSeen>,
    /// When the webhook is to be examined although nothing is known to be wrong.
    pub examine_hook_at: Option<Timestamp>,
    /// The webhook was removed.
    pub is_hook_removed: bool,
    /// How the fork stands to its upstream.
    pub in_step: Option<InStep>,
    /// When the upstream is looked at next.
    pub next_sync: Option<Timestamp>,
    /// What was deployed last, as this process wrote it to status.
    pub deployment: Option<DeploymentStatus>,
    /// The value of the annotation that asks for a deployment again, as this process wrote it to status.
    pub redeploy: Option<String>,
    /// What the condition `Deployed` is to say.
    pub deployed: Option<Standing>,
    /// The rollout that is under way.
    pub rollout: RolloutMemory,
    /// What failed.
    pub failed: BTreeMap<Task, Failed>,
    /// What is left of [`OBJECT`].
    pub pace: Option<Allowance>,
    /// What is left of [`SHARE`].
    pub share: Option<Allowance>,
}

/// The steps that an object may take: who can push, edit it, or write its status, can have it take some.
const OBJECT: Rate = Rate { burst: 20.0, every: SignedDuration::from_secs(3) };
/// Of these, what each object has for itself: its retries, its webhook, its first look after a restart. It is earned with
/// age, so that nothing is gained by making objects anew.
const SHARE: Rate = Rate { burst: 10.0, every: SignedDuration::from_mins(3) };
/// What the objects of a namespace have together besides, polls not counted, which ask git and not the REST API. A step
/// makes one call or two, so this is about half of the 5,000 that GitHub allows an installation in an hour, and at once
/// not more than the 900 points that it allows in a minute.
/// <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>
const NAMESPACE: Rate = Rate { burst: 500.0, every: SignedDuration::from_secs(2) };

impl Remembered {
    /// GitHub refused to give it when it was last asked for, until a person does something.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.failed.get(&Task::Look).is_some_and(|failed| failed.standing.state == State::Stalled)
    }
}

/// What an object earned since it was made, which only the API server says.
fn share(object: &ProjectRepository, now: Timestamp) -> Allowance {
    Allowance::earned(SHARE, object.metadata.creation_timestamp.as_ref().map_or(now, |made| made.0))
}

/// What is known of all repositories, by uid of their objects.
#[derive(Default)]
pub struct RepositoryMemory {
    by_uid: Mutex<HashMap<String, Remembered>>,
    namespaces: Mutex<HashMap<String, Allowance>>,
}

impl RepositoryMemory {
    /// What is known of one.
    #[must_use]
    pub fn get(&self, uid: &str) -> Remembered {
        self.lock().get(uid).cloned().unwrap_or_default()
    }

    /// The id of the repository on GitHub that an object is bound to, as far as is known: a hint, for it may come from
    /// status.
    #[must_use]
    pub fn known_id(&self, repository: &ProjectRepository) -> Option<RepositoryId> {
        let known = self.get(repository.metadata.uid.as_deref().unwrap_or_default());
        let stored = || repository.status.as_ref()?.id;
        known.facts.map(|facts| facts.repository.id).or_else(stored)
    }

    /// Changes what is known of one.
    pub fn update(&self, uid: &str, change: impl FnOnce(&mut Remembered)) {
        change(self.lock().entry(uid.to_owned()).or_default());
    }

    /// GitHub said this of repositories. Of one with another name it is only noted that it is to be asked for: whether it
    /// may still be shown is decided then.
    pub fn heard_of(&self, said: &[Repository], now: Timestamp) {
        for known in self.lock().values_mut() {
            if let Some(facts) = &mut known.facts
                && let Some(repository) = said.iter().find(|repository| repository.id == facts.repository.id)
            {
                if repository.full_name != facts.repository.full_name {
                    facts.at = Timestamp::MIN;
                    continue;
                }
                // What only the longer answers tell is kept.
                let parents = (facts.repository.parent.clone(), facts.repository.source.clone());
                let mut repository = repository.clone();
                repository.parent = repository.parent.or(parents.0);
                repository.source = repository.source.or(parents.1);
                *facts = Facts { repository: Arc::new(repository), at: now };
            }
        }
    }

    /// When an object may take a step out of its turn: `now`, or later.
    #[must_use]
    pub fn allowed_at(&self, object: &ProjectRepository, now: Timestamp) -> Timestamp {
        let known = self.get(object.metadata.uid.as_deref().unwrap_or_default());
        let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let next = |allowance: Option<&Allowance>| allowance.map_or(now, |allowance| allowance.next(now));
        let share = known.share.unwrap_or_else(|| share(object, now)).next(now);
        let together = next(namespaces.get(object.metadata.namespace.as_deref().unwrap_or_default()));
        next(known.pace.as_ref()).max(share.min(together))
    }

    /// Takes a step out of what an object may take, and out of what its namespace may, unless it has one of its own or it is
    /// its turn. GitHub's limits are the App's, and so every tenant's.
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

    /// Forgets one that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets those that went without a word, once there are more of them than of those that are there.
    pub fn prune(&self, caches: &Caches) {
        let mut known = self.lock();
        if known.len() > 2 * caches.count::<ProjectRepository>() + 16 {
            let uids: BTreeSet<_> =
                caches.all::<ProjectRepository>().iter().filter_map(|object| object.uid()).collect();
            known.retain(|uid, _| uids.contains(uid));
        }
    }

    // A panic while the lock was held leaves a map that is whole: every change sets fields of one entry.
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
