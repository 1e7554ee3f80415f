//! Clones a workspace's repository.
//!
//! The invariant: the directory has a complete clone at the right branch, or nothing: the clone is made under another name and
//! renamed. An existing clone is never changed, because it is the person's by then.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tokio::time::Instant;

use super::directory::Directory;
use super::dot_git::LocalRefs;
use super::origin::NOTE;
use super::remote::{RemoteAccess, RemoteError, RemoteRefs, Trouble};
use super::store::{Author, Commit, commit_tree};
use super::{WorkspaceError, exit};
use crate::git::{BranchName, Sealed, SealedError, Sha};

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The longest name of a branch in the result, in bytes: it fits into a container's termination message.
const MOST_NAME: usize = 1000;
/// How many names `--on-exists suffix` tries.
const NAMES: usize = 100;

/// How to treat a branch that exists at the remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnExists {
    /// Continue on it.
    Resume,
    /// Fail.
    Fail,
    /// Start another one: NAME-2, NAME-3…
    Suffix,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub access: RemoteAccess,
    pub directory: PathBuf,
    /// The branch to work on.
    pub branch: BranchName,
    /// The branch to start it from; none for the default branch.
    pub from: Option<BranchName>,
    pub on_exists: OnExists,
    /// The commit to start it with; none to leave the branch out of the remote until there is work.
    pub first_commit: Option<FirstCommit>,
    /// Whether git fetches a file only when it is needed (`--filter=blob:none`).
    pub without_blobs: bool,
    /// How many commits of each branch git fetches; none for all.
    pub depth: Option<NonZeroU32>,
    /// A directory outside the volume, for git's home.
    pub scratch: PathBuf,
    pub attempts: NonZeroU32,
    /// The wait after the first attempt; it doubles with each further one.
    pub wait: Duration,
    pub deadline: Instant,
}

/// An empty commit: GitHub opens no pull request for a branch without commits of its own.
#[derive(Clone, Debug)]
pub struct FirstCommit {
    /// Unique to the workspace, so that a later attempt recognizes the branch.
    pub message: String,
    pub author: Author,
    /// In seconds since 1970.
    pub date: i64,
}

/// The result of a clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cloned {
    /// The branch that is checked out; none if HEAD is detached, or if its name is too long for the result.
    pub branch: Option<String>,
    /// The commit that is checked out.
    pub head: Option<Sha>,
    /// Whether this command made the clone.
    pub cloned: bool,
    /// Whether this command, or an earlier attempt that failed later, started the branch; else it was at the remote.
    pub begun: bool,
    /// The parts of the repository that a new clone does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<Lack>,
}

/// A part of a repository that a clone does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Lack {
    /// Submodules are not checked out.
    Submodules,
    /// Files of Git LFS are pointers.
    LargeFiles,
}

#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    #[error("the repository cannot be cloned: {0}")]
    Remote(RemoteError),
    /// The first commit cannot be pushed.
    #[error("the first commit of branch {branch} cannot be pushed: {error}")]
    FirstCommit { branch: BranchName, error: RemoteError },
    /// The branch exists.
    #[error("branch {0} exists at the remote: choose another name, or resume it")]
    BranchExists(BranchName),
    /// One branch would be a directory of the other.
    #[error(
        "branch {other} of the remote is in the way of branch {branch}, because git keeps a branch as a file, and one would be a directory of the other: rename or delete {other}, or choose another name"
    )]
    InTheWay { branch: String, other: String },
    /// The branch to start from does not exist.
    #[error("there is no branch {0} to start from")]
    BranchNotFound(BranchName),
    /// The clone's path is taken.
    #[error("{0} exists, and is neither an empty directory nor a clone")]
    Occupied(PathBuf),
    /// A file of the clone cannot be read or written.
    #[error("{path}")]
    Volume {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The existing clone cannot be read.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
}

impl CloneError {
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self {
            Self::BranchExists(_) => exit::BRANCH_EXISTS,
            Self::BranchNotFound(_) => exit::BRANCH_NOT_FOUND,
            Self::InTheWay { .. } => exit::BRANCH_IN_THE_WAY,
            Self::Remote(error) | Self::FirstCommit { error, .. } if error.trouble.passes() => exit::AGAIN,
            Self::Volume { .. } => exit::AGAIN,
            Self::Workspace(error) if error.passes() => exit::AGAIN,
            Self::Remote(_) | Self::FirstCommit { .. } | Self::Occupied(_) | Self::Workspace(_) => exit::REFUSED,
        }
    }

    fn volume(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Volume { path, source }
    }
}

impl From<SealedError> for CloneError {
    fn from(error: SealedError) -> Self {
        Self::Remote(error.into())
    }
}

/// Clones, unless there is a clone already.
pub async fn clone(request: &Request) -> Result<Cloned, CloneError> {
    if let Some(there) = there(&request.directory)? {
        return Ok(there);
    }
    let home = tempfile::Builder::new().prefix("landfall-clone-").tempdir_in(&request.scratch);
    let home = home.map_err(WorkspaceError::scratch(&request.scratch))?;
    let parent = request.directory.parent().unwrap_or(Path::new("/"));
    let beside = parent.join(unfinished(&request.directory));
    let git = Sealed::new(parent, home.path(), request.deadline);
    let mut wait = request.wait;
    for attempt in 1.. {
        // An earlier attempt, also one of another process, may have left something.
        cleared(&beside)?;
        match attempt_at(request, &git, &beside).await {
            Err(CloneError::Remote(error) | CloneError::FirstCommit { error, .. })
                // GitHub may need seconds to know a new token or a new repository everywhere.
                if (error.trouble.passes() || error.trouble == Trouble::NotFound)
                    && attempt < request.attempts.get()
                    && Instant::now() + wait < request.deadline =>
            {
                eprintln!("landfall: attempt {attempt}: {error}; retrying");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Err(error) => {
                cleared(&beside)?;
                return Err(error);
            }
            Ok(cloned) => {
                std::fs::rename(&beside, &request.directory).map_err(CloneError::volume(&request.directory))?;
                return Ok(cloned);
            }
        }
    }
    Err(CloneError::Occupied(request.directory.clone()))
}

/// Whether a clone for the branch `wanted` can have the branch `branch`: the same one, or one with a suffix.
#[must_use]
pub fn may_choose(wanted: &str, branch: &str) -> bool {
    let beside = branch.strip_prefix(wanted).and_then(|rest| rest.strip_prefix('-'));
    let is_number = |text: &str| (2..=NAMES).any(|number| number.to_string() == text);
    branch == wanted || beside.is_some_and(is_number)
}

/// The name of an unfinished clone, in the parent of `directory`.
pub(super) fn unfinished(directory: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(directory.file_name().unwrap_or_default());
    name.push(".landfall-clone");
    name
}

/// The existing clone; none if the path does not exist or is an empty directory.
fn there(at: &Path) -> Result<Option<Cloned>, CloneError> {
    match at.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CloneError::volume(at)(error)),
        Ok(about) if !about.is_dir() => return Err(CloneError::Occupied(at.to_owned())),
        Ok(_) => {}
    }
    let directory = Directory::open(at).map_err(CloneError::volume(at))?;
    if directory.names().map_err(CloneError::volume(at))?.is_empty() {
        return Ok(None);
    }
    let git_at = at.join(".git");
    let git = directory.descend(Path::new(".git")).map_err(CloneError::volume(&git_at))?;
    let git = git.ok_or_else(|| CloneError::Occupied(at.to_owned()))?;
    let local = LocalRefs::read(&git, &git_at).map_err(WorkspaceError::from)?;
    let head = local.head(&git, &git_at).map_err(WorkspaceError::from)?;
    let branch = head.branch.map(|branch| String::from_utf8_lossy(&branch).into_owned());
    let branch = branch.filter(|branch| branch.len() <= MOST_NAME);
    Ok(Some(Cloned { branch, head: head.commit, cloned: false, begun: false, lacks: Vec::new() }))
}

fn cleared(path: &Path) -> Result<(), CloneError> {
    let removed = match path.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(about) if about.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    removed.map_err(CloneError::volume(path))
}

/// The branch below which a save puts what does not go to the workspace's branch.
const WIP: &str = "landfall-wip";

/// Refuses a branch that the remote could never take, before anything is cloned.
fn in_the_way(branch: &str, refs: &RemoteRefs) -> Result<(), CloneError> {
    let heads = |branch: &str| format!("refs/heads/{branch}");
    let refused =
        |other: &str, branch: &str| Err(CloneError::InTheWay { branch: branch.to_owned(), other: other.to_owned() });
    if refs.contains_key(&heads(WIP)) {
        return refused(WIP, &format!("{WIP}/…"));
    }
    let mut above = branch;
    while let Some((parent, _)) = above.rsplit_once('/') {
        if refs.contains_key(&heads(parent)) {
            return refused(parent, branch);
        }
        above = parent;
    }
    let below = heads(branch) + "/";
    let found = refs.range(below.clone()..).next().map(|(name, _)| name).filter(|name| name.starts_with(&below));
    match found.and_then(|name| name.strip_prefix("refs/heads/")) {
        Some(other) => refused(other, branch),
        None => Ok(()),
    }
}

/// The parts of the repository that the clone at `at` does not have.
async fn lacks(git: &Sealed, at: &Path) -> Result<Vec<Lack>, SealedError> {
    let mut lacks = Vec::new();
    if at.join(".gitmodules").symlink_metadata().is_ok() {
        lacks.push(Lack::Submodules);
    }
    if !git.run(&["ls-files", "-z", "--", ":(top,attr:filter=lfs)"]).await?.is_empty() {
        lacks.push(Lack::LargeFiles);
    }
    Ok(lacks)
}

async fn attempt_at(request: &Request, git: &Sealed, to: &Path) -> Result<Cloned, CloneError> {
    let refs = request.access.remote(git.clone()).refs().await.map_err(CloneError::Remote)?;
    in_the_way(request.branch.as_str(), &refs)?;
    let mut arguments =
        ["clone", "--quiet", "--no-checkout", "--template=", "--origin=origin", "--no-recurse-submodules"]
            .map(str::to_owned)
            .to_vec();
    if request.without_blobs {
        arguments.push("--filter=blob:none".to_owned());
    }
    if let Some(depth) = request.depth {
        arguments.extend([format!("--depth={depth}"), "--no-single-branch".to_owned()]);
    }
    arguments.extend(["--end-of-options".to_owned(), request.access.url.address(), to.to_string_lossy().into_owned()]);
    request.access.unlocked(git.clone()).run(&arguments).await?;

    // Until it is renamed, nothing but this process has written to the git directory.
    let sealed = git.clone().in_directory(to).variable("GIT_DIR", to.join(".git")).variable("GIT_WORK_TREE", to);
    // git fetches files that the filter left out when it needs them.
    let git = request.access.unlocked(sealed.clone());
    let Chosen { branch, mut head, begin } = choose(request, &git).await?;
    let name = format!("refs/heads/{branch}");
    if let (Some(start), Begin::Now, Some(first)) = (&head, begin, &request.first_commit) {
        let commit = first.after(start, &git).await?;
        let remote = request.access.remote(sealed);
        remote.push(&commit, &name).await.map_err(|error| CloneError::FirstCommit { branch: branch.clone(), error })?;
        git.run(&["update-ref", "--no-deref", &format!("{AT_REMOTE}{branch}"), commit.as_str()]).await?;
        head = Some(commit);
    }
    if let Some(head) = &head {
        git.run(&["update-ref", "--no-deref", &name, head.as_str()]).await?;
    }
    git.run(&["symbolic-ref", "HEAD", &name]).await?;
    git.run(&["config", NOTE, &request.access.url.address()]).await?;
    for (key, value) in [("remote", "origin"), ("merge", &*name)] {
        git.run(&["config", &format!("branch.{branch}.{key}"), value]).await?;
    }
    if head.is_some() {
        git.run(&["reset", "--quiet", "--hard"]).await?;
    }
    let lacks = lacks(&git, to).await?;
    Ok(Cloned { branch: Some(branch.to_string()), head, cloned: true, begun: begin != Begin::Not, lacks })
}

impl FirstCommit {
    async fn after(&self, start: &Sha, git: &Sealed) -> Result<Sha, CloneError> {
        let tree = git.text(&["rev-parse", "--verify", &format!("{start}^{{tree}}")]).await?;
        let tree = tree.parse().map_err(|_| WorkspaceError::Answer(tree))?;
        let commit = Commit { tree: &tree, parents: vec![start.clone()], date: self.date, message: &self.message };
        Ok(commit_tree(git, &commit, &self.author).await?)
    }

    /// Whether `commit` is this one, made by an earlier attempt that failed later.
    async fn is(&self, commit: &Sha, git: &Sealed) -> Result<bool, CloneError> {
        let format = "--format=%an%x00%ae%x00%cn%x00%ce%x00%B";
        let said = git.text(&["log", "-1", "--no-show-signature", format, commit.as_str(), "--"]).await?;
        let (Author { name, email }, message) = (&self.author, self.message.trim_end());
        Ok(said.trim_end() == [name, email, name, email, message].join("\0"))
    }
}

/// The prefix of a clone's remote-tracking branches.
const AT_REMOTE: &str = "refs/remotes/origin/";

/// The branch to check out.
struct Chosen {
    branch: BranchName,
    /// Its commit, or the commit to start it from; none in an empty repository.
    head: Option<Sha>,
    begin: Begin,
}

/// Whether this clone starts the branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// It exists at the remote.
    Not,
    /// An earlier attempt, which failed later, started it.
    Before,
    /// It does not exist at the remote.
    Now,
}

async fn choose(request: &Request, git: &Sealed) -> Result<Chosen, CloneError> {
    let at_remote = async |name: &str| -> Result<Option<Sha>, CloneError> {
        let name = format!("{AT_REMOTE}{name}^{{commit}}");
        match git.text(&["rev-parse", "--quiet", "--verify", "--end-of-options", &name]).await {
            Ok(said) => Ok(said.lines().last().and_then(|line| line.parse().ok())),
            Err(SealedError::Failed { status: Some(1), .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let mut branch = request.branch.clone();
    let mut number = 1;
    while let Some(head) = at_remote(branch.as_str()).await? {
        let begun_before = match &request.first_commit {
            Some(first) => first.is(&head, git).await?,
            None => false,
        };
        if begun_before {
            return Ok(Chosen { branch, head: Some(head), begin: Begin::Before });
        }
        number += 1;
        match request.on_exists {
            OnExists::Resume => return Ok(Chosen { branch, head: Some(head), begin: Begin::Not }),
            OnExists::Suffix if number <= NAMES => {
                let next = format!("{}-{number}", request.branch).parse();
                branch = next.map_err(|_| CloneError::BranchExists(branch))?;
            }
            OnExists::Fail | OnExists::Suffix => return Err(CloneError::BranchExists(request.branch.clone())),
        }
    }
    let head = at_remote(request.from.as_ref().map_or("HEAD", BranchName::as_str)).await?;
    if head.is_none() {
        let any = git.text(&["for-each-ref", "--count=1", "refs/remotes"]).await?;
        if let Some(from) = request.from.clone().filter(|_| !any.is_empty()) {
            return Err(CloneError::BranchNotFound(from));
        }
        if !any.is_empty() {
            let words = "its default branch has no commit: name the branch to start from".to_owned();
            return Err(CloneError::Remote(RemoteError { trouble: Trouble::Refused, words }));
        }
    }
    Ok(Chosen { branch, head, begin: Begin::Now })
}
