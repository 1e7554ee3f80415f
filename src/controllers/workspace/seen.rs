//! What is known of a workspace at one moment: all that a plan may follow from.

use super::memory::{About, Failed, Remembered, Task, WayKind};
use super::objects::Target;
use super::pods::{Ended, PodView};
use crate::agent::clone::may_choose;
use crate::api::{BranchOnExists, FORCE_DELETE_ANNOTATION, OperatingMode, RECONCILE_ANNOTATION, Workspace};
use crate::controllers::standing::Standing;
use crate::github::{GitHub, Transport};
use crate::guards::Guards;
use crate::ids::RepositoryId;
use jiff::Timestamp;
use kube::ResourceExt;
use std::fmt;
use std::sync::Arc;

/// Whether and how GitHub may be asked.
#[derive(Clone, Debug)]
pub enum Way {
    /// Nothing is known since this process started.
    NotYetKnown,
    /// It may not, or cannot, now.
    Blocked {
        /// Why.
        standing: Standing,
        /// It takes somebody's doing to change that.
        permanent: bool,
    },
    /// It may.
    Open(Repository),
}

/// The repository, by what stays the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The `GitHubInstallation`.
    pub installation: String,
    /// Its id at GitHub.
    pub id: RepositoryId,
}

/// The `InstallationToken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSeen {
    /// There is none.
    Absent,
    /// One of that name is not this workspace's.
    Foreign,
    /// It is this workspace's.
    Ours {
        /// Its Secret can be used.
        is_ready: bool,
        /// What it says of itself otherwise.
        message: String,
        /// Its Secret's name is taken.
        is_taken: bool,
        /// That takes a person.
        is_stalled: bool,
        /// It is being deleted.
        is_going: bool,
        /// The workspace's finalizer is on it.
        is_held: bool,
        /// It is as it should be.
        is_right: bool,
    },
}

/// The volume's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSeen {
    /// There is none.
    Absent,
    /// One of that name is not this workspace's.
    Foreign {
        /// It is kept for an earlier workspace.
        is_kept: bool,
    },
    /// It is this workspace's.
    Ours {
        /// The volume, if there is one yet.
        volume: Option<String>,
        /// It is being deleted.
        is_going: bool,
        /// Our finalizer is on it.
        is_held: bool,
        /// It is kept, for there is work on it that could not be pushed.
        is_kept: bool,
        /// Its claim asks for less than `spec.storage.size`.
        is_small: bool,
    },
}

/// The pod in which work is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSeen {
    /// There is none.
    Absent,
    /// One of that name is not this workspace's.
    Foreign,
    /// It is this workspace's.
    Ours(Box<PodView>),
}

/// A Job that saves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSeen {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Option<String>,
    /// Which attempt it is.
    pub attempt: u32,
    /// How it ended; nothing while it runs.
    pub ended: Option<JobEnd>,
    /// It is being deleted.
    pub is_going: bool,
    /// When it is over at the latest.
    pub until: Timestamp,
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnd {
    /// It succeeded.
    pub is_success: bool,
    /// What Kubernetes says of it.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The workspace.
    pub object: Arc<Workspace>,
    /// Our finalizer is on it.
    pub has_finalizer: bool,
    /// Changes are held back.
    pub is_paused: bool,
    /// Its namespace is being deleted: nothing can be made in it.
    pub is_namespace_going: bool,
    /// How GitHub may be asked.
    pub way: Way,
    /// What its containers are told, once the repository is known.
    pub target: Option<Target>,
    /// The token.
    pub token: TokenSeen,
    /// The volume's claim.
    pub volume: VolumeSeen,
    /// The pod.
    pub pod: PodSeen,
    /// The newest Job.
    pub job: Option<JobSeen>,
    /// How the last that saved ended, by this process's memory; nothing where its word did not hold.
    pub ended: Option<Ended>,
    /// That pod, by its uid.
    pub saver: Option<String>,
    /// What this process knows.
    pub known: Remembered,
    /// The guards that tests take out.
    pub guards: Guards,
    /// What acting takes, and no decision.
    pub tools: Tools,
}

/// What acting takes.
#[derive(Clone, Default)]
pub struct Tools {
    /// The client, if the App's credentials can be used.
    pub github: Option<Arc<GitHub>>,
    /// The way to its GitHub, for git.
    pub git: Option<Transport>,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").finish_non_exhaustive()
    }
}

impl Seen {
    /// It is being deleted.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// The pod is to run.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.object.spec.operating_mode == OperatingMode::Running && !self.is_going()
    }

    /// Somebody gave the work up, by name of this very object.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        let uid = self.object.metadata.uid.as_ref();
        uid.is_some() && self.object.annotations().get(FORCE_DELETE_ANNOTATION) == uid
    }

    /// The failure of a call for whose time is waited.
    #[must_use]
    pub fn waits(&self, task: Task, now: Timestamp) -> Option<Failed> {
        let failed = self.known.failed.get(&task)?;
        (failed.until > now && failed.about == self.about()).then(|| failed.clone())
    }

    /// What a failure is about. When that is another, the call is tried again at once.
    #[must_use]
    pub fn about(&self) -> About {
        About {
            generation: self.object.metadata.generation,
            request: self.object.annotations().get(RECONCILE_ANNOTATION).cloned(),
            way: match &self.way {
                Way::NotYetKnown => WayKind::NotYetKnown,
                Way::Blocked { permanent, .. } => WayKind::Blocked { permanent: *permanent },
                Way::Open(repository) => WayKind::Open(repository.clone()),
            },
            is_going: self.is_going(),
        }
    }

    /// The branch that the clone is at; before that is known, the one that is asked for.
    #[must_use]
    pub fn branch(&self) -> String {
        if let PodSeen::Ours(pod) = &self.pod
            && let super::pods::Clone::Done(cloned) = &pod.clone
            && self.may_be_at(&cloned.branch)
        {
            return cloned.branch.clone();
        }
        // Shown by an earlier pod. Whoever can write status could have another's branch saved to, and its pull request closed.
        let shown = self.object.status.as_ref().and_then(|status| status.git.as_ref()?.branch.clone());
        let shown = shown.filter(|shown| self.may_be_at(shown));
        shown.unwrap_or_else(|| super::objects::wanted_branch(&self.object))
    }

    /// The branch that it is to be merged into.
    #[must_use]
    pub fn target_branch(&self) -> String {
        let spec = &self.object.spec;
        let default = || self.known.repository.as_ref().and_then(|(repository, _)| repository.default_branch.clone());
        let wished = spec.pull_request.target.clone().or_else(|| spec.branch.from.clone());
        wished.or_else(default).unwrap_or_else(|| "main".to_owned())
    }

    /// Whether a clone of this workspace can be at this branch: the one that is asked for, or one beside it.
    fn may_be_at(&self, branch: &str) -> bool {
        let wanted = super::objects::wanted_branch(&self.object);
        let steps_aside = self.object.spec.branch.on_exists == BranchOnExists::Suffix;
        self.guards.clone_branch(branch == wanted || (steps_aside && may_choose(&wanted, branch)))
    }
}
