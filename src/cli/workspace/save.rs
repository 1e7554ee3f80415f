//! `landfall workspace save`, and the options that it shares with the agent.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{AccessArgs, print};
use crate::agent::collect::WorkspaceClone;
use crate::agent::evidence::Evidence;
use crate::agent::exit;
use crate::agent::remote::RemoteAccess;
use crate::agent::save::{self, Outcome, SaveReport, autosave, save};
use crate::agent::store::Author;
use crate::git::BranchName;
use crate::runtime::clock::{Clock as _, SystemClock};

pub const HELP: &str = "\
What is pushed is everything the remote cannot reach: the tree and the index (tracked and untracked files that are not ignored), \
all local branches and other refs, HEAD, the stash, what an unfinished merge or rebase stands on. HEAD, index, refs and hooks \
of the clone are left alone, and its configuration is not read.

The branch takes it if that is a fast-forward; all else goes to landfall-wip/NAME-UID/: head, index, branch/…, stash-N and so \
on. Nothing is forced, and nothing is pushed twice. At the end the remote is asked what it has.

Prints a report as JSON: outcome (Saved, NothingToDo, Refused, TryAgain), branch, head, changed, untracked, saved [{what, commit, \
ref, pushed, notOnBranch}], left [{what, commit, reason, message}] with the reasons Unauthorized, NotFound, Forbidden, Moved, \
Unreachable, Untrusted, TooLarge, Refused, Conflict, Unreadable, NotForGit, Nested, Late, Unknown.

Exit status:
  0   all work is at the remote, some of it since now
  10  all work was at the remote already, or no clone was ever made (0 with --clean-is-success)
  20  some work is not, and it takes a person to change that
  75  some work is not: try again
  1, 2  the command itself is wrong";

/// Whose work, and where it goes.
#[derive(Args)]
pub struct WorkArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// The clone. The directory above it is the volume.
    #[arg(long, env = "LANDFALL_DIRECTORY")]
    directory: PathBuf,
    /// The workspace's name.
    #[arg(long, env = "LANDFALL_WORKSPACE")]
    name: BranchName,
    /// The workspace's uid.
    #[arg(long, env = "LANDFALL_WORKSPACE_UID")]
    uid: BranchName,
    /// The workspace's own branch.
    #[arg(long, env = "LANDFALL_BRANCH", allow_hyphen_values = true)]
    branch: BranchName,
    /// Who commits what nobody committed.
    #[arg(long, env = "LANDFALL_AUTHOR_NAME")]
    author_name: String,
    /// With which address.
    #[arg(long, env = "LANDFALL_AUTHOR_EMAIL")]
    author_email: String,
    /// Write what there is room for in a container's last message to this file.
    #[arg(long)]
    termination_log: Option<PathBuf>,
}

/// What these options say.
pub struct Work {
    /// Whose work, and where it is.
    pub workspace: WorkspaceClone,
    /// Where it goes.
    pub access: RemoteAccess,
    /// A directory for what is needed meanwhile.
    pub scratch: PathBuf,
    /// How long a save may take.
    pub timeout: Duration,
    /// Where what comes of it is written as well.
    pub termination_log: Option<PathBuf>,
}

impl WorkArgs {
    /// What they say.
    ///
    /// # Errors
    /// There is no current directory, and one is needed.
    pub fn read(self) -> std::io::Result<Work> {
        let scratch = self.access.scratch();
        let timeout = Duration::from_secs(self.access.timeout.into());
        let workspace = WorkspaceClone {
            directory: std::path::absolute(&self.directory)?,
            name: self.name.to_string(),
            uid: self.uid.to_string(),
            branch: self.branch,
            author: Author { name: self.author_name, email: self.author_email },
        };
        Ok(Work { workspace, access: self.access.access()?, scratch, timeout, termination_log: self.termination_log })
    }
}

/// What to save.
#[derive(Args)]
pub struct SaveArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Push everything as one commit to refs/landfall/wip/UID, and nothing anywhere else.
    #[arg(long)]
    autosave: bool,
    /// End with 0 also if all work was at the remote already: for a Job, which knows no other success.
    #[arg(long)]
    clean_is_success: bool,
}

/// Does it.
pub async fn run(args: SaveArgs) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Work { workspace, access, scratch, timeout, termination_log } = args.work.read()?;
    let (deadline, now) = (tokio::time::Instant::now() + timeout, SystemClock.now().as_second());
    let request = save::Request { workspace, access, scratch, deadline, now };
    let report = if args.autosave { autosave(&request).await } else { save(&request).await };
    tell(&report, termination_log.as_deref())?;
    Ok(if args.clean_is_success { clean_is_success(report.outcome) } else { ExitCode::from(report.outcome.exit()) })
}

/// Prints what came of it, and writes it where Kubernetes looks.
pub fn tell(report: &SaveReport, termination_log: Option<&Path>) -> Result<(), Box<dyn std::error::Error>> {
    print(report)?;
    if let Some(file) = termination_log {
        let written = Evidence::of(report).write(file);
        written.map_err(|error| format!("--termination-log {}: {error}", file.display()))?;
    }
    Ok(())
}

/// How a container ends that had nothing to do, or did it.
pub fn clean_is_success(outcome: Outcome) -> ExitCode {
    ExitCode::from(if outcome == Outcome::NothingToDo { exit::DONE } else { outcome.exit() })
}
