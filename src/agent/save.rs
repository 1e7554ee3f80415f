//! Brings all work of a workspace to its remote, and says what came of it.
//!
//! The invariant: what [`Report::saved`] lists the remote itself listed when it was asked at the end, and [`Report::outcome`] is
//! `Saved` or `NothingToDo` only if every piece of work is then reachable from a ref of the remote. A push that only seemed to
//! succeed is found out here, and one whose answer got lost is found to have succeeded.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::evidence::{Listed, autosave_ref, wip_name};
use super::gather::{Gathered, Piece, Workspace, gather};
use super::local::is_made;
use super::remote::{Access, Refs, Remote, RemoteError, Trouble};
use super::snapshot::Left;
use super::store::{Commit, Store};
use super::{WorkspaceError, exit};
use crate::git::{BranchName, Sealed, SealedError, Sha};

/// How many names are tried for a piece that cannot follow what has its name.
const NAMES: usize = 4;
/// How many unknown branches of the remote are fetched to find out whether work is in them.
const MOST_FETCHED: usize = 200;

/// Where people find work. What is autosaved is not among them, for they do not see it.
const NAMED: [&str; 2] = ["refs/heads/", "refs/tags/"];
/// The same, and where it is autosaved.
const ANY: [&str; 3] = ["refs/heads/", "refs/tags/", "refs/landfall/"];

/// What is to be saved, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose work, and where it is.
    pub workspace: Workspace,
    /// Where it goes.
    pub access: Access,
    /// A directory for what is gathered, outside of the volume.
    pub scratch: PathBuf,
    /// When it must be done.
    pub deadline: Instant,
    /// The time, in seconds since 1970.
    pub now: i64,
}

/// What came of it, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Outcome {
    /// All work is at the remote, some of it since now.
    Saved,
    /// All work was at the remote.
    NothingToDo,
    /// Some is not, and it takes a person to change that.
    Refused,
    /// Some is not, and trying again may help.
    TryAgain,
}

impl Outcome {
    /// The exit status that says so.
    #[must_use]
    pub fn exit(self) -> u8 {
        match self {
            Self::Saved => exit::DONE,
            Self::NothingToDo => exit::NOTHING,
            Self::Refused => exit::REFUSED,
            Self::TryAgain => exit::AGAIN,
        }
    }
}

/// Work that a ref of the remote's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// What it is to the person.
    pub what: String,
    /// The commit.
    pub commit: Sha,
    /// The ref, by its full name.
    #[serde(rename = "ref")]
    pub name: String,
    /// Whether it was pushed just now.
    pub pushed: bool,
    /// Why it did not go to the workspace's branch, where it was meant to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_on_branch: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// In a word.
    pub outcome: Outcome,
    /// It speaks of an autosave: what is at the remote is not where people find it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_autosaved: bool,
    /// The branch that is checked out; none if none is.
    pub branch: Option<String>,
    /// The commit that is checked out; none if there is none.
    pub head: Option<Sha>,
    /// How many files differ from the index.
    pub changed: usize,
    /// How many files are not in the index, and not ignored.
    pub untracked: usize,
    /// What refs of the remote name. What is not here and not among what is left, the remote reaches from others.
    pub saved: Vec<Saved>,
    /// What is not at the remote.
    pub left: Vec<Left>,
    /// What the remote listed of the workspace's own refs when it was asked last.
    pub remote: Listed,
}

impl Report {
    fn new(gathered: Option<&Gathered>) -> Self {
        let head = gathered.map(|gathered| &gathered.head);
        let branch = head.and_then(|head| head.branch.as_ref());
        Self {
            outcome: Outcome::NothingToDo,
            only_autosaved: false,
            branch: branch.map(|branch| String::from_utf8_lossy(branch).into_owned()),
            head: head.and_then(|head| head.commit.clone()),
            changed: gathered.map_or(0, |gathered| gathered.changed),
            untracked: gathered.map_or(0, |gathered| gathered.untracked),
            saved: Vec::new(),
            left: gathered.map(|gathered| gathered.left.clone()).unwrap_or_default(),
            remote: Listed::default(),
        }
    }

    /// Nothing could even be looked at.
    fn failed(error: &WorkspaceError) -> Self {
        let mut report = Self::new(None);
        let reason = match error {
            WorkspaceError::Git(SealedError::Late { .. }) => Trouble::Late,
            error if error.passes() => Trouble::Unknown,
            _ => Trouble::Unreadable,
        };
        let message = match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        report.left.push(Left { what: "workspace".into(), commit: None, reason, message });
        report.concluded()
    }

    fn concluded(mut self) -> Self {
        self.outcome = match (self.left.is_empty(), self.left.iter().any(|left| left.reason.passes())) {
            (true, _) if self.saved.iter().any(|saved| saved.pushed) => Outcome::Saved,
            (true, _) => Outcome::NothingToDo,
            (false, true) => Outcome::TryAgain,
            (false, false) => Outcome::Refused,
        };
        self
    }
}

/// Saves everything, to the workspace's branch and to `landfall-wip/`.
pub async fn save(request: &Request) -> Report {
    match prepare(request).await {
        Ok(None) => Report::new(None),
        Ok(Some((gathered, remote, _scratch))) => {
            Saving::new(request, &gathered, remote, &NAMED).all().await.unwrap_or_else(|error| Report::failed(&error))
        }
        Err(error) => Report::failed(&error),
    }
}

/// Saves everything as one commit, to `refs/landfall/wip/UID`, which nobody looks at unless the volume is lost.
pub async fn autosave(request: &Request) -> Report {
    let report = match prepare(request).await {
        Ok(None) => Report::new(None),
        Ok(Some((gathered, remote, _scratch))) => {
            Saving::new(request, &gathered, remote, &ANY).at_once().await.unwrap_or_else(|error| Report::failed(&error))
        }
        Err(error) => Report::failed(&error),
    };
    Report { only_autosaved: true, ..report }
}

/// What there is to save, and where; none if no clone was ever made.
async fn prepare(request: &Request) -> Result<Option<(Gathered, Remote, tempfile::TempDir)>, WorkspaceError> {
    if !is_made(&request.workspace.directory)? {
        return Ok(None);
    }
    let scratch = tempfile::Builder::new().prefix("landfall-save-").tempdir_in(&request.scratch);
    let scratch = scratch.map_err(WorkspaceError::scratch(&request.scratch))?;
    let git = Sealed::new(scratch.path(), scratch.path(), request.deadline);
    let gathered = gather(&request.workspace, scratch.path(), &git, request.now).await?;
    let partial =
        is_partial(&request.workspace.directory).map_err(WorkspaceError::volume(Path::new("objects/pack")))?;
    let mut git = gathered.store.git().clone();
    if partial {
        // git asks the remote for what a partial clone left out.
        git = git.setting("remote.landfall.url", &request.access.url.address());
        git =
            git.setting("remote.landfall.promisor", "true").setting("remote.landfall.partialCloneFilter", "blob:none");
    }
    let remote = request.access.remote(git);
    Ok(Some((gathered, remote, scratch)))
}

fn is_partial(clone: &Path) -> io::Result<bool> {
    let packs = super::beneath::Directory::open(clone)?.descend(Path::new(".git/objects/pack"))?;
    let names = packs.map(|packs| packs.names()).transpose()?.unwrap_or_default();
    Ok(names.iter().any(|name| Path::new(name).extension().is_some_and(|extension| extension == "promisor")))
}

struct Saving<'a> {
    request: &'a Request,
    gathered: &'a Gathered,
    store: &'a Store,
    remote: Remote,
    report: Report,
    /// Refs of the remote that work may be in.
    namespaces: &'static [&'static str],
    /// What the remote says it has, and what was pushed since.
    refs: Refs,
    /// What of that is here.
    tips: Vec<Sha>,
}

impl<'a> Saving<'a> {
    fn new(request: &'a Request, gathered: &'a Gathered, remote: Remote, namespaces: &'static [&'static str]) -> Self {
        let (report, store) = (Report::new(Some(gathered)), &gathered.store);
        Self { request, gathered, store, remote, report, namespaces, refs: Refs::new(), tips: Vec::new() }
    }

    fn leave(&mut self, what: &str, commit: Option<&Sha>, error: RemoteError) {
        let RemoteError { trouble: reason, words: message } = error;
        self.report.left.push(Left { what: what.to_owned(), commit: commit.cloned(), reason, message });
    }

    /// Asks the remote what it has.
    async fn look(&mut self) -> Result<Result<(), RemoteError>, SealedError> {
        self.report.remote = Listed::default();
        self.refs = match self.remote.refs().await {
            Ok(refs) => refs,
            Err(error) => return Ok(Err(error)),
        };
        let Workspace { branch, name, uid, .. } = &self.request.workspace;
        self.report.remote = Listed::of(&self.refs, branch.as_str(), name, uid);
        self.refs.retain(|name, _| self.namespaces.iter().any(|namespace| name.starts_with(namespace)));
        self.recall().await.map(Ok)
    }

    /// Finds out which of what the remote has is here.
    async fn recall(&mut self) -> Result<(), SealedError> {
        let all: Vec<_> = self.refs.values().cloned().collect();
        let kinds = self.store.kinds(&all).await?;
        self.tips = all.into_iter().zip(kinds).filter(|(_, kind)| kind.is_some()).map(|(sha, _)| sha).collect();
        Ok(())
    }

    /// Whether the remote has it: a ref of it names it, or what is known of the remote's commits comes after it.
    async fn has(&self, piece: &Piece) -> bool {
        // What cannot be followed, for something is missing, is not known to be there. A tag is more than its commit.
        self.refs.values().any(|tip| *tip == piece.object)
            || (piece.is_commit && self.store.is_within(&piece.object, &self.tips).await.unwrap_or(false))
    }

    async fn missing(&self) -> Vec<Piece> {
        let mut missing = Vec::new();
        for piece in &self.gathered.pieces {
            if !self.has(piece).await {
                missing.push(piece.clone());
            }
        }
        missing
    }

    async fn all(mut self) -> Result<Report, WorkspaceError> {
        if let Err(error) = self.look().await? {
            self.leave("workspace", None, error);
            return Ok(self.report.concluded());
        }
        if !self.missing().await.is_empty() {
            self.learn().await?;
        }
        let (mut pushed, mut failed) = (Vec::new(), Vec::new());
        for piece in &self.gathered.pieces {
            if self.has(piece).await {
                continue;
            }
            match self.push(piece).await {
                Ok(saved) => pushed.push(saved),
                Err(error) => {
                    let concerns_all = error.trouble.concerns_all();
                    failed.push((piece.object.clone(), error));
                    if concerns_all {
                        break;
                    }
                }
            }
        }
        self.conclude(pushed, failed).await
    }

    /// Gets what branches of the remote have that is not here: work may be in them, pushed from elsewhere.
    async fn learn(&mut self) -> Result<(), SealedError> {
        let own = format!("refs/heads/{}", self.request.workspace.branch);
        let wip = format!("refs/heads/{}/", self.prefix());
        let mut unknown: Vec<_> = self
            .refs
            .iter()
            .filter(|(name, sha)| name.starts_with("refs/heads/") && !self.tips.contains(sha))
            .map(|(name, _)| name.clone())
            .collect();
        unknown.sort_by_key(|name| (*name != own, !name.starts_with(&wip)));
        unknown.truncate(MOST_FETCHED);
        // Without it, more is pushed than is needed.
        if !unknown.is_empty() && self.remote.fetch(&unknown).await.is_ok() {
            self.recall().await?;
        }
        Ok(())
    }

    /// Below what the workspace keeps what is not for its branch.
    fn prefix(&self) -> String {
        wip_name(&self.request.workspace.name, &self.request.workspace.uid)
    }

    /// The names that are tried for a piece. Where the person's name is none for this place, or all are taken, the object's serves.
    fn names(&self, piece: &Piece) -> Vec<String> {
        let prefix = self.prefix();
        let namespace = if piece.is_commit { "heads" } else { "tags" };
        let own = piece.for_branch.then(|| format!("refs/heads/{}", self.request.workspace.branch));
        let labels = (1..=NAMES).map(|number| {
            if number == 1 { format!("{prefix}/{}", piece.label) } else { format!("{prefix}/{}-{number}", piece.label) }
        });
        let labels = labels.chain([format!("{prefix}/at/{}", &piece.object.as_str()[..16])]);
        let named =
            labels.filter(|label| label.parse::<BranchName>().is_ok()).map(|label| format!("refs/{namespace}/{label}"));
        own.into_iter().chain(named).collect()
    }

    async fn push(&mut self, piece: &Piece) -> Result<Saved, RemoteError> {
        let names = self.names(piece);
        let mut first_refusal = None;
        let mut last = None;
        for (number, name) in names.iter().enumerate() {
            match self.remote.push(&piece.object, name).await {
                Ok(()) => return Ok(self.pushed(piece, name, first_refusal)),
                // Also what git says if it pushed twice, for the answer to the first time got lost.
                Err(error) if error.trouble == Trouble::Conflict && self.shows(name, &piece.object).await => {
                    return Ok(self.pushed(piece, name, first_refusal));
                }
                // What the branch does not take may go beside it; there, only a name that is taken is a reason to try another.
                Err(error)
                    if error.trouble == Trouble::Conflict
                        || (number == 0 && piece.for_branch && !error.trouble.concerns_all()) =>
                {
                    if number == 0 && piece.for_branch {
                        first_refusal = Some(error.words.clone());
                    }
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(RemoteError { trouble: Trouble::Unknown, words: "there is no name for it".into() }))
    }

    fn pushed(&mut self, piece: &Piece, name: &str, not_on_branch: Option<String>) -> Saved {
        self.refs.insert(name.to_owned(), piece.object.clone());
        self.tips.push(piece.object.clone());
        let (what, commit) = (piece.what.clone(), piece.object.clone());
        Saved { what, commit, name: name.to_owned(), pushed: true, not_on_branch }
    }

    /// Whether the remote says that a ref names an object.
    async fn shows(&self, name: &str, object: &Sha) -> bool {
        self.remote.refs().await.is_ok_and(|refs| refs.get(name) == Some(object))
    }

    /// Asks the remote anew, and reports what that says: a push may have succeeded although its answer got lost, and the
    /// other way around.
    async fn conclude(mut self, pushed: Vec<Saved>, failed: Vec<(Sha, RemoteError)>) -> Result<Report, WorkspaceError> {
        if !(pushed.is_empty() && failed.is_empty())
            && let Err(error) = self.look().await?
        {
            self.leave("workspace", None, error);
            return Ok(self.report.concluded());
        }
        for piece in self.missing().await {
            let own = failed.iter().find(|(object, _)| *object == piece.object);
            let error = match own {
                Some((_, error)) => error.clone(),
                None if pushed.iter().any(|saved| saved.commit == piece.object) => RemoteError {
                    trouble: Trouble::Conflict,
                    words: "it was pushed, and the remote does not show it".into(),
                },
                // What stopped all of it stopped this as well.
                None => failed.last().map_or_else(
                    || RemoteError { trouble: Trouble::Unknown, words: "it is not at the remote any more".into() },
                    |(_, error)| error.clone(),
                ),
            };
            self.leave(&piece.what, Some(&piece.object), error);
        }
        self.report.saved =
            pushed.into_iter().filter(|saved| self.refs.get(&saved.name) == Some(&saved.commit)).collect();
        for piece in &self.gathered.pieces {
            let found = self.names(piece).into_iter().find(|name| self.refs.get(name) == Some(&piece.object));
            if let Some(name) = found.filter(|name| !self.report.saved.iter().any(|saved| saved.name == *name)) {
                let (what, commit) = (piece.what.clone(), piece.object.clone());
                self.report.saved.push(Saved { what, commit, name, pushed: false, not_on_branch: None });
            }
        }
        Ok(self.report.concluded())
    }

    async fn at_once(mut self) -> Result<Report, WorkspaceError> {
        if let Err(error) = self.look().await? {
            self.leave("workspace", None, error);
            return Ok(self.report.concluded());
        }
        let name = autosave_ref(&self.request.workspace.uid);
        let before = self.refs.get(&name).cloned();
        if let Some(before) = &before
            && !self.tips.contains(before)
        {
            if let Err(error) = self.remote.fetch(std::slice::from_ref(&name)).await {
                self.leave("workspace", None, error);
                return Ok(self.report.concluded());
            }
            self.recall().await?;
        }
        let mut missing = self.missing().await;
        missing.retain(|piece| piece.is_commit);
        if missing.is_empty() {
            return Ok(self.report.concluded());
        }
        // The commit before is the last parent, so that each follows from the one before; what is in it need not be said again.
        let (tree, date) = &self.gathered.tree;
        let head = self.gathered.head.commit.iter().cloned();
        let mut parents: Vec<Sha> = head.collect();
        for piece in &missing {
            // The tree is this commit's own.
            if piece.what != "working tree" && !parents.contains(&piece.object) {
                parents.push(piece.object.clone());
            }
        }
        if let Some(before) = &before {
            let (its_tree, _, its_parents) = self.store.commit(before).await?;
            let others = parents.iter().all(|parent| its_parents.contains(parent));
            if its_tree == *tree && its_parents.first() == parents.first() && others {
                self.report.saved.push(Saved {
                    what: "everything".into(),
                    commit: before.clone(),
                    name,
                    pushed: false,
                    not_on_branch: None,
                });
                return Ok(self.report.concluded());
            }
            if !parents.contains(before) {
                parents.push(before.clone());
            }
        }
        let message = format!("Save work of workspace {}\n", self.request.workspace.name);
        let commit = Commit { tree, parents, date: *date, message: &message };
        let commit = self.store.make(&commit, &self.request.workspace.author).await?;
        let pushed = self.remote.push(&commit, &name).await;
        let looked = self.look().await?;
        if looked.is_ok() && self.refs.get(&name) == Some(&commit) {
            let what = "everything".to_owned();
            self.report.saved.push(Saved { what, commit, name, pushed: true, not_on_branch: None });
        } else {
            let words = "it was pushed, and the remote does not show it".into();
            let unseen = RemoteError { trouble: Trouble::Conflict, words };
            self.leave("everything", Some(&commit), pushed.and(looked).err().unwrap_or(unseen));
        }
        Ok(self.report.concluded())
    }
}
