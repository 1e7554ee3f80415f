//! `landfall workspace save`, and the options that it shares with the agent.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{AccessArgs, print};
use crate::agent::collect::WorkspaceClone;
use crate::agent::evidence::Evidence;
use crate::agent::exit;
use crate::agent::remote::RemoteAccess;
use crate::agent::save::{self, Outcome, SaveReport, autosave, repeated, save};
use crate::agent::store::Author;
use crate::git::BranchName;
use crate::runtime::clock::{Clock as _, SystemClock};

pub const HELP: &str = "\
It pushes everything that the remote does not have: the tree and the index (tracked and untracked files that are not ignored), \
all local branches and other refs, HEAD, the stash, the commits of an unfinished merge or rebase. It leaves HEAD, index, refs \
and hooks of the clone unchanged, and does not read its configuration.

A fast-forward goes to the branch; everything else goes to landfall-wip/NAME-UID/: head, index, branch/…, stash-N and so on. \
Nothing is forced, and nothing is pushed twice. At the end it reads the refs back from the remote.

Prints a report as JSON: outcome (Saved, NothingToDo, Refused, TryAgain), branch, head, changed, untracked, saved [{what, commit, \
ref, pushed, notOnBranch}], left [{what, commit, reason, message}] with the reasons Unauthorized, NotFound, Forbidden, Moved, \
Unreachable, Untrusted, TooLarge, Refused, NotAllowed, Conflict, Unreadable, NotForGit, LargeFile, Nested, Late, Unknown.

Exit status:
  0   all work is on the remote, and some of it was pushed now
  10  all work was on the remote already, or there never was a clone (0 with --clean-is-success)
  20  some work is not, and a person has to act
  75  some work is not, and a retry may help
  1, 2  the command itself is wrong";

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
    /// The name of the author of commits with uncommitted changes.
    #[arg(long, env = "LANDFALL_AUTHOR_NAME")]
    author_name: String,
    /// The email address of the author.
    #[arg(long, env = "LANDFALL_AUTHOR_EMAIL")]
    author_email: String,
    /// Also write the output, as far as it fits, to this file, as the container's termination message.
    #[arg(long)]
    termination_log: Option<PathBuf>,
}

/// The values of these options.
pub struct Work {
    pub workspace: WorkspaceClone,
    pub access: RemoteAccess,
    /// A directory for temporary files.
    pub scratch: PathBuf,
    pub timeout: Duration,
    pub termination_log: Option<PathBuf>,
}

impl WorkArgs {
    pub fn read(self) -> std::io::Result<Work> {
        let scratch = self.access.scratch();
        let timeout = Duration::from_secs(self.access.timeout.into());
        let workspace = WorkspaceClone {
            directory: std::path::absolute(&self.directory)?,
            repository: self.access.url.clone(),
            name: self.name.to_string(),
            uid: self.uid.to_string(),
            branch: self.branch,
            author: Author { name: self.author_name, email: self.author_email },
        };
        Ok(Work { workspace, access: self.access.access()?, scratch, timeout, termination_log: self.termination_log })
    }
}

#[derive(Args)]
pub struct SaveArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Push everything as one commit to refs/landfall/wip/UID only.
    #[arg(long)]
    autosave: bool,
    /// Exit with 0 also if all work was on the remote already: for a Job, for which only 0 is success.
    #[arg(long)]
    clean_is_success: bool,
    /// The number of attempts while a retry may help. The first wait is a second; each further one is twice as long.
    #[arg(long, default_value = "1")]
    attempts: NonZeroU32,
}

pub async fn run(args: SaveArgs) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Work { workspace, access, scratch, timeout, termination_log } = args.work.read()?;
    let (deadline, now) = (tokio::time::Instant::now() + timeout, SystemClock.now().as_second());
    let request = save::Request { workspace, access, scratch, deadline, now };
    let once = async || if args.autosave { autosave(&request).await } else { save(&request).await };
    let report = repeated(args.attempts.get(), deadline, once).await;
    print_report(&report, termination_log.as_deref())?;
    Ok(if args.clean_is_success { clean_is_success(report.outcome) } else { ExitCode::from(report.outcome.exit()) })
}

/// Prints a report, and writes it to the container's termination message.
pub fn print_report(report: &SaveReport, termination_log: Option<&Path>) -> Result<(), Box<dyn std::error::Error>> {
    print(report)?;
    if let Some(file) = termination_log {
        let written = Evidence::of(report).write(file);
        written.map_err(|error| format!("--termination-log {}: {error}", file.display()))?;
    }
    Ok(())
}

/// The exit status of a Job or a container: nothing to do is success, too.
pub fn clean_is_success(outcome: Outcome) -> ExitCode {
    ExitCode::from(if outcome == Outcome::NothingToDo { exit::DONE } else { outcome.exit() })
}
