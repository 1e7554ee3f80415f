//! The code that runs inside a workspace's pod: it clones, gives git its credentials, and saves work.
//!
//! ```text
//!  remote ──clone──▶ volume, where a person works ──save──▶ remote
//!                       │                             ▲
//!            git push ──┴──▶ credential ◀── token ────┘  (a mounted file, renewed while all this goes on)
//! ```
//!
//! The invariant: work is everything that the remote cannot reach: the working tree, the index, every local ref, HEAD, the stash,
//! and the commits that an unfinished merge or rebase needs. [`save::save`] reports for each piece its place at the remote, which
//! the remote itself confirmed, or the reason why it is not there; the remote had all other pieces before. Without this, deleting
//! a workspace loses work.
//!
//! The person in the workspace, and every program that they run, can write to the volume. So Landfall reads a clone's `.git` as
//! files ([`dot_git`], through [`directory`]), and runs git, which would obey that `.git`, in a git directory of its own ([`store`])
//! with the clone's objects as alternates, under the restrictions of [`crate::git::sealed`].
//!
//! Work goes to the workspace's own branch if that is a fast-forward, and otherwise to `landfall-wip/NAME-UID5/…`; Landfall never
//! forces a push. The same work gives the same commits, because the newest change dates them: a second save pushes nothing, also
//! if the first one left no trace in the pod.

pub mod clone;
pub mod collect;
pub mod credential;
pub mod directory;
pub mod dot_git;
pub mod evidence;
mod file_system;
mod gateway;
pub mod gitconfig;
mod ignored;
mod lfs;
mod origin;
mod parts;
pub mod remote;
pub mod report;
pub mod reporter;
pub mod repositories;
pub mod save;
pub mod sidecar;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod tools;

use std::io;
use std::path::{Path, PathBuf};

use crate::git::SealedError;

/// The exit statuses of the commands of `landfall workspace`.
pub mod exit {
    /// Done; for `save`: it pushed something, and all work is at the remote.
    pub const DONE: u8 = 0;
    /// `save`: all work was at the remote before.
    pub const NOTHING: u8 = 10;
    /// Not done, and a person must act.
    pub const REFUSED: u8 = 20;
    /// `clone`: the branch exists, and `--on-exists fail` forbids that.
    pub const BRANCH_EXISTS: u8 = 21;
    /// `clone`: the branch to start from does not exist.
    pub const BRANCH_NOT_FOUND: u8 = 22;
    /// `clone`: another branch is in the way of the branch.
    pub const BRANCH_IN_THE_WAY: u8 = 23;
    /// Not done, and a retry may help (`EX_TEMPFAIL` of sysexits.h).
    pub const AGAIN: u8 = 75;
}

/// Why Landfall cannot read a workspace's work.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A git command failed.
    #[error(transparent)]
    Git(#[from] SealedError),
    /// git's output has another form than expected.
    #[error("git printed {0:?}, which Landfall does not understand")]
    Answer(String),
    /// The clone cannot be read.
    #[error(transparent)]
    DotGit(#[from] dot_git::DotGitError),
    /// A file or directory on the volume cannot be read.
    #[error("{path} cannot be read from the volume")]
    Volume {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A tool for the person's container cannot be written.
    #[error("{path} cannot be written; --tools names the directory for it")]
    Tools {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file of Landfall's own cannot be written.
    #[error("{path} cannot be written; --scratch names the directory for it")]
    Scratch {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl WorkspaceError {
    fn volume(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Volume { path, source }
    }

    fn scratch(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Scratch { path, source }
    }

    /// Whether a retry may succeed although nobody acts.
    #[must_use]
    pub fn passes(&self) -> bool {
        !matches!(self, Self::DotGit(error) if !matches!(error, dot_git::DotGitError::Read { .. }))
    }
}
