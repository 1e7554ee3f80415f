//! The gathered state of the repository's head and of the workloads that its pushes restart.
//!
//! Invariant: the deployed commit is read from the pods' templates, because it was written there together with the
//! change. Status has only the intention. A late, lost or edited status therefore deploys nothing twice.

use super::progress::Progress;
use crate::api::{Reason, WorkloadKind};
use jiff::Timestamp;
use std::fmt;

/// The head of the followed branch. It comes from GitHub, never from status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmedHead {
    /// The commit.
    pub sha: String,
    /// When the look that found it began. An earlier push is not newer than this commit.
    pub looked_at: Timestamp,
}

/// The last deployment in the annotations of a pods' template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The commit.
    pub sha: String,
    /// The number of the deployment. 0 if the annotation is missing or not a number.
    pub sequence: i64,
}

/// All workloads that the actions name, if they could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Each workload once, even if several actions name it.
    pub workloads: Vec<Workload>,
    /// The problems with workloads that could not be read.
    pub troubles: Vec<Trouble>,
}

impl Targets {
    /// The newest deployment in the templates.
    #[must_use]
    pub fn newest(&self) -> Option<&Stamp> {
        self.workloads.iter().filter_map(|workload| workload.stamp.as_ref()).max_by_key(|stamp| stamp.sequence)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub kind: WorkloadKind,
    pub name: String,
    /// Its uid. A workload that was deleted and created again has another one.
    pub uid: String,
    /// The resource version that was read. The workload is changed in this version or not at all.
    pub version: String,
    /// The last deployment in its template, if it was this repository's.
    pub stamp: Option<Stamp>,
    /// The progress of its pods.
    pub progress: Progress,
    /// The reason why its template is not changed now.
    pub hindrance: Option<Hindrance>,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// The reason why an outdated template is not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// The API server just refused the change.
    Refused(Trouble),
    /// This process has changed the template for this deployment, and somebody has changed it since. Repeated changes
    /// would restart the pods back and forth for as long as the other client repeats its changes too.
    TakenOver,
}

/// A problem that keeps a workload from being restarted, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub reason: Reason,
    /// What happened, to what, and what to do.
    pub message: String,
}
