//! The memory of this process about each workspace: answers of GitHub and the remote, reports of the pod, and failures.
//!
//! Invariant: the memory is a convenience, never the truth, and all of it can be lost at any moment. Then the remote is
//! asked again, the pull request is looked for again, and a save is repeated, which pushes nothing twice.

use super::objects::{self, ROLE_LABEL, workspace_of};
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

/// How many calls to GitHub and the remote a workspace may cause.
const OBJECT: Rate = Rate { burst: 30.0, every: SignedDuration::from_secs(5) };

/// How often the report of a workspace's pod is accepted. An agent reports every few seconds at most.
const REPORTS: Rate = Rate { burst: 20.0, every: SignedDuration::from_secs(2) };

/// A kind of call whose failures are remembered separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Finding the repository by its id.
    Resolve,
    /// Reading the remote's branches.
    Look,
    /// The pull request.
    Pull,
    /// Creating an object.
    Make,
    /// Enlarging the volume.
    Grow,
    /// Running the pod. A failed pod is replaced after a while.
    Run,
}

/// The circumstances of a failure. When one of these changes, the call is retried at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The value of the annotation that requests a look.
    pub request: Option<String>,
    /// The access to the repository.
    pub way: WayKind,
    /// The workspace is being deleted.
    pub is_going: bool,
}

/// The part of the access to the repository that matters to a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WayKind {
    /// This process knows nothing yet.
    NotYetKnown,
    /// There is no access.
    Blocked {
        /// Only a person can change that.
        permanent: bool,
    },
    /// There is access.
    Open(Repository),
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The standing that the failure causes.
    pub standing: Standing,
    /// The call is not retried before this time.
    pub until: Timestamp,
    /// How often it failed.
    pub times: u32,
    /// The circumstances of the failure. When they change, the call is retried at once.
    pub about: About,
}

/// The remote's answer about the workspace's branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The workspace's own branches.
    pub listed: Listed,
    /// The target branch of the pull request.
    pub target: Option<String>,
    /// The requested branch.
    pub asked: String,
    /// The branch's commit in the pod's report at that time.
    pub heard: Option<String>,
    /// The autosave's commit in the pod's report at that time.
    pub heard_save: Option<Sha>,
    /// When the remote was asked.
    pub at: Timestamp,
}

/// The pull request.
#[derive(Clone, Debug, PartialEq)]
pub enum Pull {
    /// There is one.
    Found(Box<PullRequest>),
    /// There is none.
    None {
        /// The branch's commit when GitHub said that there is nothing to open a pull request for.
        tried: Option<String>,
    },
}

/// The memory about one workspace.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// The last report, and the pod that sent it.
    pub report: Option<(String, Report)>,
    /// The pod that reports are expected from, and when this process heard of it last.
    pub heard: Option<(String, Timestamp)>,
    /// When this process first saw that the volume is to be released. It may have been away before.
    pub ending_since: Option<Timestamp>,
    /// The pod that is being deleted, and when this process first saw that.
    pub pod_ending: Option<(String, Timestamp)>,
    /// GitHub's answer about the repository's id, and when it came.
    pub repository: Option<(Arc<github::Repository>, Timestamp)>,
    /// The remote's branches.
    pub remote: Option<Remote>,
    /// The pull request.
    pub pull: Option<Pull>,
    /// The pull request was closed or marked, as the spec wants at the end, or the attempts were given up.
    pub is_pull_settled: bool,
    /// The uid of the pod in which work was done last, in each namespace. Everyone who can create pods in another
    /// namespace can write this workspace's uid on them.
    pub last_pod: BTreeMap<String, String>,
    /// How pods that save ended, by their uid.
    pub ended: BTreeMap<String, Ended>,
    /// How the work was saved, after the remote confirmed it.
    pub safe: Option<Safe>,
    /// The evidence of a save that is not believed.
    pub disbelieved: Option<Disbelieved>,
    /// The uid of the claim whose volume has the mark of a clone.
    pub cloned: Option<String>,
    /// The volume was kept, or its work was given up.
    pub is_parted: bool,
    /// The size that this process requested in the volume's claim. The cache may still have another.
    pub grown_to: Option<Quantity>,
    /// The last value of the annotation that requests a look, after a look covered it.
    pub request: Option<String>,
    /// Calls that failed.
    pub failed: BTreeMap<Task, Failed>,
    /// The rest of the allowance for calls.
    pub allowance: Option<Allowance>,
    /// The rest of the allowance for reports.
    pub reports: Option<Allowance>,
}

/// Evidence of a save that is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disbelieved {
    /// The uid of the pod that left it.
    pub pod: Option<String>,
    pub why: String,
}

/// How the work was saved, after the remote confirmed it. It is noted on the claim, too, where a new process finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Safe {
    pub commit: Option<String>,
    /// The ref that has it.
    pub reference: String,
    /// All of it is in the workspace's branch.
    pub is_on_branch: bool,
    /// When the remote confirmed it.
    pub at: Timestamp,
    /// A description for people.
    pub message: String,
}

/// The memory about all workspaces, by uid.
#[derive(Default)]
pub struct WorkspaceMemory {
    by_uid: Mutex<HashMap<String, Remembered>>,
}

impl WorkspaceMemory {
    /// The memory about one workspace.
    #[must_use]
    pub fn get(&self, uid: &str) -> Remembered {
        self.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes the memory about one workspace.
    pub fn update(&self, uid: &str, change: impl FnOnce(&mut Remembered)) {
        change(self.lock().entry(uid.to_owned()).or_default());
    }

    /// Stores a pod's report. Returns false if the pod reports too often.
    pub fn heard(&self, uid: &str, pod: &str, report: Report, now: Timestamp) -> bool {
        let mut all = self.lock();
        let known = all.entry(uid.to_owned()).or_default();
        let is_allowed = known.reports.get_or_insert_with(|| Allowance::full(REPORTS, now)).take(now).is_ok();
        if is_allowed {
            known.heard = Some((pod.to_owned(), now));
            known.report = Some((pod.to_owned(), report));
        }
        is_allowed
    }

    /// Remembers how a pod ended, when a watch brings it, maybe for the last time.
    pub fn saw(&self, pod: &Pod, is_gone: bool) {
        let Some((name, uid)) = workspace_of(pod) else { return };
        let (uid, pod_uid) = (uid.to_owned(), pod.uid().unwrap_or_default());
        let is_work = objects::is_of(pod, &uid)
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
            // It runs, maybe again. The result of an earlier run no longer counts.
            None => drop(known.ended.remove(&pod_uid)),
        }
    }

    /// Forgets all deleted workspaces.
    pub fn prune(&self, caches: &Caches) {
        let mut all = self.lock();
        if all.len() > 2 * caches.count::<Workspace>() + 16 {
            let there: HashSet<_> = caches.all::<Workspace>().iter().filter_map(|object| object.uid()).collect();
            all.retain(|uid, _| there.contains(uid));
        }
    }

    /// Takes a call from the object's allowance.
    ///
    /// # Errors
    /// The time of the next allowed call.
    pub fn spend(&self, uid: &str, now: Timestamp) -> Result<(), Timestamp> {
        let mut all = self.lock();
        let known = all.entry(uid.to_owned()).or_default();
        known.allowance.get_or_insert_with(|| Allowance::full(OBJECT, now)).take(now)
    }

    // A panic while the lock was held leaves a consistent map.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
