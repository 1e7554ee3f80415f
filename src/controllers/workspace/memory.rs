//! What this process knows of each workspace: what GitHub and the remote answered, what the pod reported, what failed.
//!
//! Invariant: it is a convenience, never the truth; all of it can be lost at any moment. Lost, the remote is asked again, a
//! pull request is looked for again, and a save that nobody remembers is done again, which pushes nothing twice.

use super::objects::{ROLE_LABEL, workspace_of};
use super::pods::{self, Ended};
use super::seen::Repository;
use crate::agent::evidence::Listed;
use crate::agent::report::Report;
use crate::api::Workspace;
use crate::controllers::caches::Caches;
use crate::controllers::standing::Standing;
use crate::git::Sha;
use crate::github::{self, PullRequest};
use crate::runtime::allowance::{Allowance, Rate};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a workspace may have GitHub and the remote asked.
const OBJECT: Rate = Rate { burst: 30.0, every: SignedDuration::from_secs(5) };

/// How often the report of a workspace's pod is taken: an agent reports every few seconds at most.
const REPORTS: Rate = Rate { burst: 20.0, every: SignedDuration::from_secs(2) };

/// A kind of call, as far as failures are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Finding the repository by its id.
    Resolve,
    /// Reading the remote's branches.
    Look,
    /// The pull request.
    Pull,
    /// Making an object.
    Make,
    /// Growing the volume.
    Grow,
    /// Running the pod: one that failed is followed by another after a while.
    Run,
}

/// What a failure is about. When one of these is another, the call is tried again at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The value of the annotation that asks for a look.
    pub request: Option<String>,
    /// How the repository is reached.
    pub way: WayKind,
    /// The workspace is being deleted.
    pub is_going: bool,
}

/// How the repository is reached, as far as it matters to a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WayKind {
    /// Nothing is known since this process started.
    NotYetKnown,
    /// It is not, and whether it takes somebody's doing to change that.
    Blocked {
        /// It does.
        permanent: bool,
    },
    /// It is.
    Open(Repository),
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What it means.
    pub standing: Standing,
    /// It is not tried again before.
    pub until: Timestamp,
    /// How often it failed.
    pub times: u32,
    /// What it is about: when that is another, it is tried again at once.
    pub about: About,
}

/// What the remote said of the workspace's branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its own.
    pub listed: Listed,
    /// The branch that it is to be merged into.
    pub target: Option<String>,
    /// Which branch was asked for.
    pub asked: String,
    /// What the pod had reported of the branch by then.
    pub heard: Option<String>,
    /// What the pod had reported of its autosaves by then.
    pub heard_save: Option<Sha>,
    /// When it was asked.
    pub at: Timestamp,
}

/// The pull request.
#[derive(Clone, Debug, PartialEq)]
pub enum Pull {
    /// There is one.
    Found(Box<PullRequest>),
    /// There is none.
    None {
        /// The branch's commit when GitHub said that there is nothing to open one for.
        tried: Option<String>,
    },
}

/// What is known of one workspace.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// What the pod reported, and which pod.
    pub report: Option<(String, Report)>,
    /// The repository, as GitHub answered for its id, and when.
    pub repository: Option<(Arc<github::Repository>, Timestamp)>,
    /// The remote's branches.
    pub remote: Option<Remote>,
    /// The pull request.
    pub pull: Option<Pull>,
    /// It was closed or marked, as the spec wants at the end, or that was given up.
    pub is_pull_settled: bool,
    /// The pod in which work was done last, by its uid, in each namespace: whoever makes pods elsewhere can write this
    /// workspace's uid on them.
    pub last_pod: BTreeMap<String, String>,
    /// How pods that save ended, by their uid.
    pub ended: BTreeMap<String, Ended>,
    /// How the work was saved, as the remote confirmed.
    pub safe: Option<Safe>,
    /// The pod, by its uid, whose word was held against the remote and did not hold.
    pub disbelieved: Option<String>,
    /// The volume was kept, or given up.
    pub is_parted: bool,
    /// The size for which the volume's claim asks since this process set it; the cache may still show another.
    pub grown_to: Option<Quantity>,
    /// The value of the annotation that asks for a look, once it was looked after it.
    pub request: Option<String>,
    /// Calls that failed.
    pub failed: BTreeMap<Task, Failed>,
    /// What is left of what it may have asked.
    pub allowance: Option<Allowance>,
    /// What is left of what it may report.
    pub reports: Option<Allowance>,
}

/// How the work was saved, as the remote confirmed. It is noted on the claim, too: a process that begins anew has it from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Safe {
    /// The commit.
    pub commit: Option<String>,
    /// Where it is.
    pub reference: String,
    /// All of it is in the workspace's branch.
    pub is_on_branch: bool,
    /// When the remote said so.
    pub at: Timestamp,
    /// What was done, in words.
    pub message: String,
}

/// What is known of all workspaces, by uid.
#[derive(Default)]
pub struct WorkspaceMemory {
    by_uid: Mutex<HashMap<String, Remembered>>,
}

impl WorkspaceMemory {
    /// What is known of one.
    #[must_use]
    pub fn get(&self, uid: &str) -> Remembered {
        self.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes what is known of one.
    pub fn update(&self, uid: &str, change: impl FnOnce(&mut Remembered)) {
        change(self.lock().entry(uid.to_owned()).or_default());
    }

    /// Keeps what a pod reported; false, if it reports too often.
    pub fn heard(&self, uid: &str, pod: &str, report: Report, now: Timestamp) -> bool {
        let mut all = self.lock();
        let known = all.entry(uid.to_owned()).or_default();
        let is_allowed = known.reports.get_or_insert_with(|| Allowance::full(REPORTS, now)).take(now).is_ok();
        if is_allowed {
            known.report = Some((pod.to_owned(), report));
        }
        is_allowed
    }

    /// A pod was seen, maybe for the last time: how it ended is remembered.
    pub fn saw(&self, pod: &Pod, is_gone: bool) {
        let Some((name, uid)) = workspace_of(pod) else { return };
        let (uid, pod_uid) = (uid.to_owned(), pod.uid().unwrap_or_default());
        let is_owned = pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid);
        let is_work = is_owned
            && pod.labels().get(ROLE_LABEL).is_some_and(|role| role == "work")
            && pod.name_any() == format!("ws-{name}");
        let namespace = pod.namespace().unwrap_or_default();
        let ended = pods::ended(pod);
        let mut all = self.lock();
        let known = all.entry(uid).or_default();
        if is_work {
            known.last_pod.insert(namespace, pod_uid.clone());
        }
        match ended {
            Some(ended) => drop(known.ended.insert(pod_uid, ended)),
            None if is_gone => {
                let unseen = || Ended::Silent("how it ended was not seen".to_owned());
                known.ended.entry(pod_uid).or_insert_with(unseen);
            }
            // It runs, again maybe: what an earlier run of it said does not hold.
            None => drop(known.ended.remove(&pod_uid)),
        }
    }

    /// Forgets all that are gone.
    pub fn prune(&self, caches: &Caches) {
        let mut all = self.lock();
        if all.len() > 2 * caches.count::<Workspace>() + 16 {
            let there: HashSet<_> = caches.all::<Workspace>().iter().filter_map(|object| object.uid()).collect();
            all.retain(|uid, _| there.contains(uid));
        }
    }

    /// Takes a call out of what the object may have.
    ///
    /// # Errors
    /// When it may have the next one.
    pub fn spend(&self, uid: &str, now: Timestamp) -> Result<(), Timestamp> {
        let mut all = self.lock();
        let known = all.entry(uid.to_owned()).or_default();
        known.allowance.get_or_insert_with(|| Allowance::full(OBJECT, now)).take(now)
    }

    // A panic while the lock was held leaves a map that is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
