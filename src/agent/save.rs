//! Pushes all work of a workspace to its remote, and reports the result.
//!
//! The invariant: the remote itself listed every ref in [`SaveReport::saved`] when it was asked after the pushes, and
//! [`SaveReport::outcome`] is `Saved` or `NothingToDo` only if every piece of work was then reachable from a ref of the remote. This
//! detects a push that only seemed to succeed, and one that succeeded although its answer was lost.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::collect::{CollectedWork, Piece, Purpose, WorkspaceClone, collect};
use super::dot_git::has_content;
use super::evidence::{Listed, autosave_ref, wip_name};
use super::parts;
use super::remote::{RemoteAccess, RemoteError, RemoteGit, RemoteRefs, Trouble};
use super::snapshot::Unsaved;
use super::store::{Commit, Store};
use super::{WorkspaceError, exit};
use crate::git::{BranchName, Sealed, SealedError, Sha};

/// How many names are tried for a piece whose name at the remote has diverged.
const NAMES: usize = 4;
/// How many unknown branches of the remote are fetched to see whether they contain work.
const MOST_FETCHED: usize = 200;

/// Namespaces of refs that people see; autosaves are not among them.
const NAMED: [&str; 2] = ["refs/heads/", "refs/tags/"];
/// The same, and the namespace of autosaves.
const ANY: [&str; 3] = ["refs/heads/", "refs/tags/", "refs/landfall/"];

#[derive(Clone, Debug)]
pub struct Request {
    pub workspace: WorkspaceClone,
    pub access: RemoteAccess,
    /// A directory for Landfall's own files, outside the volume.
    pub scratch: PathBuf,
    pub deadline: Instant,
    /// In seconds since 1970.
    pub now: i64,
}

/// The result in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Outcome {
    /// All work is at the remote, and this save pushed some of it.
    Saved,
    /// All work was at the remote before.
    NothingToDo,
    /// Some work is not at the remote, and a person must act.
    Refused,
    /// Some work is not at the remote, and a retry may help.
    TryAgain,
}

impl Outcome {
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

/// Work to which a ref of the remote points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// The person's name for it.
    pub what: String,
    /// The commit.
    pub commit: Sha,
    /// The ref's full name.
    #[serde(rename = "ref")]
    pub name: String,
    /// Whether this save pushed it.
    pub pushed: bool,
    /// Why it was not pushed to the workspace's branch, if it was meant for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_on_branch: Option<String>,
}

/// The result of a save.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SaveReport {
    pub outcome: Outcome,
    /// It was an autosave: the work at the remote is not on a branch or tag.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_autosaved: bool,
    /// The branch that is checked out; none if HEAD is detached.
    pub branch: Option<String>,
    /// The commit that is checked out.
    pub head: Option<Sha>,
    pub changed: usize,
    pub untracked: usize,
    /// Work to which a ref of the remote points. Other commits of the remote contain the rest, except for `left`.
    pub saved: Vec<Saved>,
    /// Work that is not at the remote.
    pub left: Vec<Unsaved>,
    /// The workspace's own refs, as the remote listed them last.
    pub remote: Listed,
}

impl SaveReport {
    fn new(collected: Option<&CollectedWork>) -> Self {
        let head = collected.map(|collected| &collected.head);
        let branch = head.and_then(|head| head.branch.as_ref());
        Self {
            outcome: Outcome::NothingToDo,
            only_autosaved: false,
            branch: branch.map(|branch| String::from_utf8_lossy(branch).into_owned()),
            head: head.and_then(|head| head.commit.clone()),
            changed: collected.map_or(0, |collected| collected.changed),
            untracked: collected.map_or(0, |collected| collected.untracked),
            saved: Vec::new(),
            left: collected.map(|collected| collected.left.clone()).unwrap_or_default(),
            remote: Listed::default(),
        }
    }

    /// The result if the work cannot even be read.
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
        report.left.push(Unsaved { what: "workspace".into(), commit: None, reason, message });
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

/// A sentence about work that is not saved. None if there is none.
#[must_use]
pub fn not_saved(left: &[Unsaved]) -> Option<String> {
    let first = left.first()?;
    Some(match left.len() {
        1 => format!("{} is not saved: {}", first.what, first.message),
        more => format!("{} and {} more are not saved: {}", first.what, more - 1, first.message),
    })
}

/// Saves everything, to the workspace's branch and to `landfall-wip/`.
pub async fn save(request: &Request) -> SaveReport {
    match prepare(request).await {
        Ok(None) => SaveReport::new(None),
        Ok(Some((collected, remote, _scratch))) => Saving::new(request, &collected, remote, &NAMED)
            .all()
            .await
            .unwrap_or_else(|error| SaveReport::failed(&error)),
        Err(error) => SaveReport::failed(&error),
    }
}

/// Saves up to `attempts` times, with growing waits, while a retry may help and the deadline is not near.
pub async fn repeated(attempts: u32, deadline: Instant, save: impl AsyncFn() -> SaveReport) -> SaveReport {
    let mut wait = Duration::from_secs(1);
    for _ in 1..attempts {
        let report = save().await;
        if report.outcome != Outcome::TryAgain || Instant::now() + wait >= deadline {
            return report;
        }
        sleep(wait).await;
        wait *= 2;
    }
    save().await
}

/// Saves everything as one commit to `refs/landfall/wip/UID`, which is used only if the volume is lost.
pub async fn autosave(request: &Request) -> SaveReport {
    let report = match prepare(request).await {
        Ok(None) => SaveReport::new(None),
        Ok(Some((collected, remote, _scratch))) => Saving::new(request, &collected, remote, &ANY)
            .at_once()
            .await
            .unwrap_or_else(|error| SaveReport::failed(&error)),
        Err(error) => SaveReport::failed(&error),
    };
    SaveReport { only_autosaved: true, ..report }
}

/// Collects the work. None if the volume is empty.
async fn prepare(request: &Request) -> Result<Option<(CollectedWork, RemoteGit, tempfile::TempDir)>, WorkspaceError> {
    if !has_content(&request.workspace.directory)? {
        return Ok(None);
    }
    let scratch = tempfile::Builder::new().prefix("landfall-save-").tempdir_in(&request.scratch);
    let scratch = scratch.map_err(WorkspaceError::scratch(&request.scratch))?;
    let git = Sealed::new(scratch.path(), scratch.path(), request.deadline);
    let collected = collect(&request.workspace, scratch.path(), &git, Purpose::Save, request.now).await?;
    let partial =
        is_partial(&request.workspace.directory).map_err(WorkspaceError::volume(Path::new("objects/pack")))?;
    let mut git = collected.store.git().clone();
    if partial {
        // git fetches the objects that a partial clone left out.
        git = git.setting("remote.landfall.url", &request.access.url.address());
        git =
            git.setting("remote.landfall.promisor", "true").setting("remote.landfall.partialCloneFilter", "blob:none");
    }
    let remote = request.access.remote(git);
    Ok(Some((collected, remote, scratch)))
}

fn is_partial(clone: &Path) -> io::Result<bool> {
    let packs = super::directory::Directory::open(clone)?.descend(Path::new(".git/objects/pack"))?;
    let names = packs.map(|packs| packs.names()).transpose()?.unwrap_or_default();
    Ok(names.iter().any(|name| Path::new(name).extension().is_some_and(|extension| extension == "promisor")))
}

struct Saving<'a> {
    request: &'a Request,
    collected: &'a CollectedWork,
    store: &'a Store,
    remote: RemoteGit,
    report: SaveReport,
    /// Namespaces of the remote's refs that count.
    namespaces: &'static [&'static str],
    /// The remote's refs, with later pushes.
    refs: RemoteRefs,
    /// Those of their objects that are available locally.
    tips: Vec<Sha>,
}

impl<'a> Saving<'a> {
    fn new(
        request: &'a Request,
        collected: &'a CollectedWork,
        remote: RemoteGit,
        namespaces: &'static [&'static str],
    ) -> Self {
        let (report, store) = (SaveReport::new(Some(collected)), &collected.store);
        Self { request, collected, store, remote, report, namespaces, refs: RemoteRefs::new(), tips: Vec::new() }
    }

    fn leave(&mut self, what: &str, commit: Option<&Sha>, error: RemoteError) {
        let RemoteError { trouble: reason, words: message } = error;
        self.report.left.push(Unsaved { what: what.to_owned(), commit: commit.cloned(), reason, message });
    }

    /// Lists the remote's refs.
    async fn look(&mut self) -> Result<Result<(), RemoteError>, SealedError> {
        self.report.remote = Listed::default();
        self.refs = match self.remote.refs().await {
            Ok(refs) => refs,
            Err(error) => return Ok(Err(error)),
        };
        let WorkspaceClone { branch, name, uid, .. } = &self.request.workspace;
        self.report.remote = Listed::of(&self.refs, branch.as_str(), name, uid);
        self.refs.retain(|name, _| self.namespaces.iter().any(|namespace| name.starts_with(namespace)));
        self.recall().await.map(Ok)
    }

    /// Finds the remote's objects that are available locally.
    async fn recall(&mut self) -> Result<(), SealedError> {
        let all: Vec<_> = self.refs.values().cloned().collect();
        let kinds = self.store.kinds(&all).await?;
        self.tips = all.into_iter().zip(kinds).filter(|(_, kind)| kind.is_some()).map(|(sha, _)| sha).collect();
        Ok(())
    }

    /// Whether a ref of the remote points to the piece, or a known commit of the remote contains it.
    async fn has(&self, piece: &Piece) -> bool {
        // A history with missing objects counts as not contained. A tag is more than the commit it points to.
        self.refs.values().any(|tip| *tip == piece.object)
            || (piece.is_commit && self.store.is_within(&piece.object, &self.tips).await.unwrap_or(false))
    }

    async fn missing(&self) -> Vec<Piece> {
        let mut missing = Vec::new();
        for piece in &self.collected.pieces {
            if !self.has(piece).await {
                missing.push(piece.clone());
            }
        }
        missing
    }

    async fn all(mut self) -> Result<SaveReport, WorkspaceError> {
        if let Err(error) = self.look().await? {
            self.leave("workspace", None, error);
            return Ok(self.report.concluded());
        }
        if !self.missing().await.is_empty() {
            self.learn().await?;
        }
        let (mut pushed, mut failed) = (Vec::new(), Vec::new());
        for piece in &self.collected.pieces {
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

    /// Fetches branches that are not available locally: somebody may have pushed the work from elsewhere.
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
        // If that fails, the save pushes more than necessary.
        if !unknown.is_empty() && self.remote.fetch(&unknown).await.is_ok() {
            self.recall().await?;
        }
        Ok(())
    }

    /// The prefix of branches for work that is not for the workspace's branch.
    fn prefix(&self) -> String {
        wip_name(&self.request.workspace.name, &self.request.workspace.uid)
    }

    /// The names to try for a piece. The last one is made from the object, for a label that is no valid name and if all are taken.
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
            match parts::push(&self.remote, self.store, &piece.object, name, &self.tips).await {
                Ok(()) => return Ok(self.pushed(piece, name, first_refusal)),
                // git also reports a conflict if it repeats a push whose answer was lost.
                Err(error) if error.trouble == Trouble::Conflict && self.shows(name, &piece.object).await => {
                    return Ok(self.pushed(piece, name, first_refusal));
                }
                // A push that the workspace's branch refuses may go to another branch. There, only a conflict is a reason to try
                // the next name.
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
        Err(last.unwrap_or(RemoteError { trouble: Trouble::Unknown, words: "no name for it is valid".into() }))
    }

    fn pushed(&mut self, piece: &Piece, name: &str, not_on_branch: Option<String>) -> Saved {
        self.refs.insert(name.to_owned(), piece.object.clone());
        self.tips.push(piece.object.clone());
        let (what, commit) = (piece.what.clone(), piece.object.clone());
        Saved { what, commit, name: name.to_owned(), pushed: true, not_on_branch }
    }

    /// Whether the remote lists a ref with this object.
    async fn shows(&self, name: &str, object: &Sha) -> bool {
        self.remote.refs().await.is_ok_and(|refs| refs.get(name) == Some(object))
    }

    /// Lists the remote's refs again and reports those: a push may have succeeded although its answer was lost, and the other way
    /// around.
    async fn conclude(
        mut self,
        pushed: Vec<Saved>,
        failed: Vec<(Sha, RemoteError)>,
    ) -> Result<SaveReport, WorkspaceError> {
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
                    words: "git pushed it, but the remote does not list it".into(),
                },
                // The last error stopped all further pushes.
                None => failed.last().map_or_else(
                    || RemoteError { trouble: Trouble::Unknown, words: "the remote does not list it any more".into() },
                    |(_, error)| error.clone(),
                ),
            };
            self.leave(&piece.what, Some(&piece.object), error);
        }
        self.report.saved =
            pushed.into_iter().filter(|saved| self.refs.get(&saved.name) == Some(&saved.commit)).collect();
        for piece in &self.collected.pieces {
            let found = self.names(piece).into_iter().find(|name| self.refs.get(name) == Some(&piece.object));
            if let Some(name) = found.filter(|name| !self.report.saved.iter().any(|saved| saved.name == *name)) {
                let (what, commit) = (piece.what.clone(), piece.object.clone());
                self.report.saved.push(Saved { what, commit, name, pushed: false, not_on_branch: None });
            }
        }
        Ok(self.report.concluded())
    }

    async fn at_once(mut self) -> Result<SaveReport, WorkspaceError> {
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
        // The previous autosave is the last parent, so that the ref can be fast-forwarded.
        let (tree, date) = &self.collected.tree;
        let head = self.collected.head.commit.iter().cloned();
        let mut parents: Vec<Sha> = head.collect();
        for piece in &missing {
            // The working tree is the tree of the new commit.
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
        let pushed = parts::push(&self.remote, self.store, &commit, &name, &self.tips).await;
        let looked = self.look().await?;
        if looked.is_ok() && self.refs.get(&name) == Some(&commit) {
            let what = "everything".to_owned();
            self.report.saved.push(Saved { what, commit, name, pushed: true, not_on_branch: None });
        } else {
            let words = "git pushed it, but the remote does not list it".into();
            let unseen = RemoteError { trouble: Trouble::Conflict, words };
            self.leave("everything", Some(&commit), pushed.and(looked).err().unwrap_or(unseen));
        }
        Ok(self.report.concluded())
    }
}
