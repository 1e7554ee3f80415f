//! What is seen of the repository's head and of the workloads that its pushes roll.
//!
//! Invariant: what was deployed is read from the pods' templates, where it stands beside what it changed; status is
//! only what is intended. So a status that is late, lost or edited deploys nothing twice.

use super::progress::Progress;
use crate::api::{Reason, WorkloadKind};
use jiff::Timestamp;
use std::fmt;

/// The head of the followed branch, as GitHub said it: never as status says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmedHead {
    /// The commit.
    pub sha: String,
    /// When the look that found it was begun: what was pushed before is not older than this commit.
    pub looked_at: Timestamp,
}

/// What the annotations of a pods' template say of its last deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The commit.
    pub sha: String,
    /// Which deployment; 0 where the annotation is missing or no number.
    pub sequence: i64,
}

/// All that the actions name, as far as it could be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Each once, whatever the number of actions that name it.
    pub workloads: Vec<Workload>,
    /// What could not be seen, and why.
    pub troubles: Vec<Trouble>,
}

impl Targets {
    /// The newest deployment that a template knows of.
    #[must_use]
    pub fn newest(&self) -> Option<&Stamp> {
        self.workloads.iter().filter_map(|workload| workload.stamp.as_ref()).max_by_key(|stamp| stamp.sequence)
    }
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// Its identity: one that was made anew is another.
    pub uid: String,
    /// The version that was seen. It is changed as this version or not at all.
    pub version: String,
    /// Its template's last deployment, if it was this repository's.
    pub stamp: Option<Stamp>,
    /// How far its pods follow its template.
    pub progress: Progress,
    /// Why its template is not changed now.
    pub hindrance: Option<Hindrance>,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// Why a template that should be changed is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// It was just refused.
    Refused(Trouble),
    /// This process has changed it for this deployment, and somebody has changed it since. To insist would roll it back
    /// and forth for as long as the other insists too.
    TakenOver,
}

/// Something that keeps a workload from being rolled, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Why.
    pub reason: Reason,
    /// What happened, to what, what to do.
    pub message: String,
}
