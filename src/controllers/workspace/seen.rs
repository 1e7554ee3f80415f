//! The gathered state of a workspace: all that a plan depends on.

use super::memory::{About, Failed, Remembered, Task, WayKind};
use super::objects::Target;
use super::pods::{self, Ended, PodView};
use crate::agent::clone::may_choose;
use crate::api::{
    ADOPT_ANNOTATION, BranchOnExists, FORCE_DELETE_ANNOTATION, OperatingMode, RECONCILE_ANNOTATION, Reason, Workspace,
};
use crate::controllers::standing::Standing;
use crate::github::{GitHub, Transport};
use crate::guards::Guards;
use crate::ids::{InstallationId, RepositoryId};
use jiff::Timestamp;
use kube::ResourceExt;
use std::fmt;
use std::sync::Arc;

/// The access to GitHub.
#[derive(Clone, Debug)]
pub enum Way {
    /// This process knows nothing yet.
    NotYetKnown,
    /// There is no access now.
    Blocked {
        /// The standing that says why.
        standing: Standing,
        /// Only a person can change that.
        permanent: bool,
    },
    /// There is access.
    Open(Repository),
}

/// The repository, by its stable properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The `GitHubInstallation`.
    pub installation: String,
    /// Its id on GitHub.
    pub id: RepositoryId,
}

/// The `InstallationToken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSeen {
    /// It does not exist.
    Absent,
    /// Another object has the name.
    Foreign,
    /// It is this workspace's.
    Ours {
        /// How far it is.
        state: TokenState,
        /// The message of its condition `Ready`.
        message: String,
        /// It is being deleted.
        is_going: bool,
        /// The workspace's finalizer is on it.
        is_held: bool,
        /// Its spec is correct.
        is_right: bool,
    },
}

/// Why the parameters of a workspace's containers are not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTarget {
    /// The repository's name was not asked for.
    Repository,
    /// There is no client of the App's GitHub, or the App's bot is not known.
    App,
    /// The gateway's certificates are not made.
    Gateway,
}

/// How far a workspace's token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Its Secret can be used.
    Ready,
    /// It is being minted, or tried again.
    Pending,
    /// A Secret that is not the token's has its name.
    SecretNameTaken,
    /// A person has to act, for this reason.
    Stalled(Reason),
}

/// The volume's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSeen {
    /// It does not exist.
    Absent,
    /// Another object has the name.
    Foreign {
        /// Whose it is.
        of: Holder,
    },
    /// It is this workspace's.
    Ours {
        /// The name of the volume, if there is one yet.
        volume: Option<String>,
        /// It is being deleted.
        is_going: bool,
        /// The operator's finalizer is on it.
        is_held: bool,
        /// It is kept, because it has work that could not be pushed.
        is_kept: bool,
        /// It requests less than `spec.storage.size`.
        is_small: bool,
    },
}

/// Whose an object is that has the name of a workspace's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// It is a claim that was kept, because its work could not be pushed.
    Kept,
    /// It is the claim of an earlier workspace of the same name, with this uid.
    Former(String),
    Other,
}

/// Whether the workspace's token may change files below `.github/workflows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workflows {
    /// It is not known, so the token stays as it is.
    Unknown,
    Allowed,
    /// The `GitHubApp` does not grant `workflows: write` to the namespace.
    NotGranted,
    /// The account does not give the App `workflows: write`.
    NotInstalled,
}

/// The pod in which work is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSeen {
    /// It does not exist.
    Absent,
    /// Another object has the name.
    Foreign,
    /// It is this workspace's.
    Ours(Box<PodView>),
}

/// A Job that saves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSeen {
    pub name: String,
    pub uid: Option<String>,
    /// The number of its attempt.
    pub attempt: u32,
    /// How it ended. `None` while it runs.
    pub ended: Option<JobEnd>,
    /// It is being deleted.
    pub is_going: bool,
    /// Its deadline.
    pub until: Timestamp,
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnd {
    /// It succeeded.
    pub is_success: bool,
    /// The message from Kubernetes.
    pub message: String,
    /// When it ended.
    pub at: Timestamp,
}

#[expect(clippy::struct_excessive_bools, reason = "facts that do not exclude each other")]
#[derive(Clone, Debug)]
pub struct Seen {
    pub object: Arc<Workspace>,
    /// The operator's finalizer is on it.
    pub has_finalizer: bool,
    /// Changes are paused.
    pub is_paused: bool,
    /// git of its pods goes through the gateway, which needs the repository's name.
    pub has_gateway: bool,
    /// Its namespace is being deleted, so nothing can be created in it.
    pub is_namespace_going: bool,
    /// The access to GitHub.
    pub way: Way,
    /// The reason why no pod is started, although the token knows the repository: `spec.repositoryRef` names none, or another one.
    pub unreferenced: Option<Standing>,
    /// The parameters of its containers.
    pub target: Result<Target, NoTarget>,
    pub token: TokenSeen,
    pub workflows: Workflows,
    /// The volume's claim.
    pub volume: VolumeSeen,
    /// The volume has the mark of a clone, as far as this process knows.
    pub is_marked: bool,
    pub pod: PodSeen,
    /// The newest Job.
    pub job: Option<JobSeen>,
    /// How the last pod that saves ended, from memory. `None` if its evidence differed from the remote.
    pub ended: Option<Ended>,
    /// The uid of that pod.
    pub saver: Option<String>,
    /// The memory of this process about it.
    pub known: Remembered,
    /// The guards that tests can remove.
    pub guards: Guards,
    /// The clients that steps need, and decisions do not.
    pub tools: Tools,
}

/// The clients that steps need.
#[derive(Clone, Default)]
pub struct Tools {
    /// The client, if the App's credentials can be used.
    pub github: Option<Arc<GitHub>>,
    /// The transport to its GitHub, for git.
    pub git: Option<Transport>,
    /// The name of the `GitHubApp` and the id of the installation, if the namespace may use it.
    pub installation: Option<(String, InstallationId)>,
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

    /// Whether the pod should run.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.object.spec.operating_mode == OperatingMode::Running && !self.is_going()
    }

    /// Whether a clone was seen on the volume. The mark on the volume is the proof that lasts. A status may be edited, but
    /// here it can only cause the volume to be kept.
    #[must_use]
    pub fn was_cloned(&self) -> bool {
        let timings = self.object.status.as_ref().and_then(|status| status.timings.as_ref());
        self.is_marked || self.is_cloned() || timings.is_some_and(|timings| timings.clone_time.is_some())
    }

    /// Since when this process deals with the end of the workspace or its volume. The time before counts for nothing: the
    /// operator may have been away.
    #[must_use]
    pub fn ending_since(&self, now: Timestamp) -> Timestamp {
        let deleted = self.object.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
        self.known.ending_since.map_or(deleted, |since| since.max(deleted))
    }

    /// The end of the time for a pod that is being deleted, or the time at which this process first saw it.
    #[must_use]
    pub fn pod_end(&self, pod: &PodView, end: Timestamp) -> Timestamp {
        let seen = self.known.pod_ending.as_ref().filter(|(uid, _)| *uid == pod.uid).map(|(_, at)| *at);
        seen.map_or(end, |seen| seen.max(end))
    }

    /// The uid of the earlier workspace whose claim this one is asked to take over.
    #[must_use]
    pub fn adopts(&self) -> Option<&String> {
        self.object.annotations().get(ADOPT_ANNOTATION)
    }

    /// Whether the pod has a clone.
    #[must_use]
    pub fn is_cloned(&self) -> bool {
        matches!(&self.pod, PodSeen::Ours(pod) if matches!(pod.clone, pods::Clone::Done(_)))
    }

    /// Whether somebody gave the work up, with the uid of this object.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        let uid = self.object.metadata.uid.as_ref();
        uid.is_some() && self.object.annotations().get(FORCE_DELETE_ANNOTATION) == uid
    }

    /// The failure of this task that has to be waited for.
    #[must_use]
    pub fn waits(&self, task: Task, now: Timestamp) -> Option<Failed> {
        let failed = self.known.failed.get(&task)?;
        (failed.until > now && failed.about == self.about()).then(|| failed.clone())
    }

    /// The circumstances of a failure now.
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

    /// The branch of the clone. Before that is known, the branch in the spec.
    #[must_use]
    pub fn branch(&self) -> String {
        if let PodSeen::Ours(pod) = &self.pod
            && let pods::Clone::Done(cloned) = &pod.clone
            && self.may_be_at(&cloned.branch)
        {
            return cloned.branch.clone();
        }
        // An earlier pod reported this branch. Without the check, everyone who can write status could choose another
        // branch to save to, and have its pull request closed.
        let shown = self.object.status.as_ref().and_then(|status| status.git.as_ref()?.branch.clone());
        let shown = shown.filter(|shown| self.may_be_at(shown));
        shown.unwrap_or_else(|| super::objects::wanted_branch(&self.object))
    }

    /// The target branch of the pull request.
    #[must_use]
    pub fn target_branch(&self) -> String {
        let spec = &self.object.spec;
        let default = || self.known.repository.as_ref().and_then(|(repository, _)| repository.default_branch.clone());
        let wished = spec.pull_request.target.clone().or_else(|| spec.branch.from.clone());
        wished.or_else(default).unwrap_or_else(|| "main".to_owned())
    }

    /// Whether a clone of this workspace can be at this branch: the one in the spec, or one with a suffix.
    fn may_be_at(&self, branch: &str) -> bool {
        let wanted = super::objects::wanted_branch(&self.object);
        let steps_aside = self.object.spec.branch.on_exists == BranchOnExists::Suffix;
        self.guards.clone_branch(branch == wanted || (steps_aside && may_choose(&wanted, branch)))
    }
}
