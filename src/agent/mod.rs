//! What runs inside of a workspace's pod: the clone, git's credentials, and the saving of work.
//!
//! ```text
//!  remote ──clone──▶ volume, where a person works ──save──▶ remote
//!                       │                             ▲
//!            git push ──┴──▶ credential ◀── token ────┘  (a mounted file, renewed while all this goes on)
//! ```
//!
//! The invariant: work is everything that the remote cannot reach: the tree, the index, every local ref, HEAD, the stash, and what
//! an unfinished merge or rebase stands on. Of all of it [`save::save`] says where at the remote it is, as the remote itself
//! confirmed, or why it is not; what it does not mention, the remote had already. Without it, a workspace that is deleted takes work along.
//!
//! The volume belongs to whoever works there, or to what they ran. So a clone's `.git` is read as files ([`local`], through
//! [`beneath`]), and git, which would obey that `.git`, runs in a directory of our own ([`store`]) that borrows the clone's
//! objects, and as [`crate::git::sealed`] says.
//!
//! Work goes to the workspace's own branch if that is a fast-forward, and otherwise to `landfall-wip/NAME-UID5/…`; nothing is
//! ever forced. The same work gives the same commits, for they are dated by what was changed last: saving twice pushes once,
//! also where nobody remembers the first time.

pub mod beneath;
pub mod clone;
pub mod credential;
pub mod evidence;
pub mod gather;
pub mod local;
pub mod look;
pub mod nested;
pub mod person;
pub mod remote;
pub mod report;
pub mod reporter;
pub mod save;
pub mod sidecar;
pub mod snapshot;
pub mod store;
pub mod tools;

use std::io;
use std::path::{Path, PathBuf};

use crate::git::SealedError;

/// How the commands of `landfall workspace` end, for those who look at nothing but that.
pub mod exit {
    /// It is done; for `save`: something was pushed, and all work is at the remote.
    pub const DONE: u8 = 0;
    /// `save`: all work was at the remote already.
    pub const NOTHING: u8 = 10;
    /// Not all is done, and it takes a person to change that.
    pub const REFUSED: u8 = 20;
    /// `clone`: the branch is there already, and `--on-exists fail` says that it should not be.
    pub const BRANCH_EXISTS: u8 = 21;
    /// `clone`: there is no branch to begin from.
    pub const BRANCH_NOT_FOUND: u8 = 22;
    /// Not all is done, and trying again may help (`EX_TEMPFAIL` of sysexits.h).
    pub const AGAIN: u8 = 75;
}

/// Why a workspace's work cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// git did not do what it was asked.
    #[error(transparent)]
    Git(#[from] SealedError),
    /// git said something that is not understood.
    #[error("git answered {0:?}, which is not understood")]
    Answer(String),
    /// The clone cannot be read.
    #[error(transparent)]
    Local(#[from] local::LocalError),
    /// Something on the volume cannot be read.
    #[error("{path} cannot be read from the volume")]
    Volume {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A tool for the person's container cannot be written.
    #[error("{path} cannot be written; --tools names the directory for it")]
    Tools {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something of our own cannot be written.
    #[error("{path} cannot be written; --scratch names the directory for it")]
    Scratch {
        /// What.
        path: PathBuf,
        /// Why.
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

    /// Whether the same may succeed later without anybody's doing.
    #[must_use]
    pub fn passes(&self) -> bool {
        !matches!(self, Self::Local(error) if !matches!(error, local::LocalError::Read { .. }))
    }
}
