//! What this process knows of each repository: what GitHub answered, and what failed.
//!
//! Invariant: it is a convenience, never the truth; all of it can be lost at any moment, and a look brings it back. But
//! while it is there it goes before status, which a tenant may be able to write: a token goes to an address from here only.

use crate::api::{DeploymentStatus, HeadStatus, ProjectRepository};
use crate::controllers::allowance::{Allowance, Rate};
use crate::controllers::deliveries::Announced;
use crate::controllers::standing::{Standing, State};
use crate::git::Refs;
use crate::github::Repository;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::reflector::Store;
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
    pub id: u64,
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
    /// Rolling workloads.
    Rollout,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What it means.
    pub standing: Standing,
    /// It is not tried again before.
    pub until: Timestamp,
    /// What it is about: when that is another, it is tried again at once.
    pub about: String,
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
    /// When the fork was asked for.
    pub forked_at: Option<Timestamp>,
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
    /// What failed.
    pub failed: BTreeMap<Task, Failed>,
    /// What is left of the looks that may be asked for.
    pub looks: Option<Allowance>,
}

/// How often a look may be asked for, by deliveries or by annotation, besides those that are due: who can push, or write
/// status, can ask.
pub const REQUESTED_LOOKS: Rate = Rate { burst: 20.0, every: SignedDuration::from_secs(3) };

impl Remembered {
    /// GitHub refused to give it when it was last asked for, until a person does something.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.failed.get(&Task::Look).is_some_and(|failed| failed.standing.state == State::Stalled)
    }

    /// A failure of this task that is still to be waited for.
    #[must_use]
    pub fn waits(&self, task: Task, about: &str, now: Timestamp) -> Option<&Failed> {
        self.failed.get(&task).filter(|failed| failed.until > now && failed.about == about)
    }
}

/// What is known of all repositories, by uid of their objects.
#[derive(Default)]
pub struct Repositories {
    by_uid: Mutex<HashMap<String, Remembered>>,
}

impl Repositories {
    /// What is known of one.
    #[must_use]
    pub fn get(&self, uid: &str) -> Remembered {
        self.lock().get(uid).cloned().unwrap_or_default()
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

    /// Forgets one that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets those that went without a word, once there are more of them than of those that are there.
    pub fn prune(&self, there: &Store<ProjectRepository>) {
        let mut known = self.lock();
        if known.len() > 2 * there.len() + 16 {
            let uids: BTreeSet<_> = there.state().iter().filter_map(|object| object.uid()).collect();
            known.retain(|uid, _| uids.contains(uid));
        }
    }

    // A panic while the lock was held leaves a map that is whole: every change sets fields of one entry.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
