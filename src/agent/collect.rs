//! Collects all work in a clone, as commits and other objects that can be pushed.
//!
//! The invariant: all work that a person could lose is in a [`Piece`] or in an [`Unsaved`]. This module does not decide where a piece
//! goes, and asks no remote.

use crate::guards;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::credential::RepositoryUrl;
use super::directory::Directory;
use super::dot_git::{self, CheckedOut, LocalRefs, objects, unfinished};
use super::lfs::{Storage, in_commits};
use super::origin::Origin;
use super::remote::Trouble;
use super::repositories::{Within, git_directory};
use super::snapshot::{Snapshot, SnapshotSource, Unsaved, look, staged, take};
use super::store::{Author, Commit, Store};
use crate::git::{BranchName, Sealed, Sha};

/// The empty tree.
pub(super) const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The person's name for it.
    pub what: String,
    /// The commit, or another object to which a ref points.
    pub object: Sha,
    pub is_commit: bool,
    /// Whether it may go to the workspace's branch.
    pub for_branch: bool,
    /// Its name at the remote, below the workspace's prefix.
    pub label: String,
}

/// All work of a clone.
#[derive(Debug)]
pub struct CollectedWork {
    /// The git directory that holds it until it is pushed.
    pub store: Store,
    pub head: CheckedOut,
    /// The workspace's branch first, then other branches, then the rest.
    pub pieces: Vec<Piece>,
    /// Work that cannot be saved.
    pub left: Vec<Unsaved>,
    /// The working tree, and a date for a commit with it.
    pub tree: (Sha, i64),
    /// In the clone, its worktrees, and the repositories in it that have no remote.
    pub changed: usize,
    pub untracked: usize,
    /// Commits that the workspace's repository has, by the clone's remote-tracking refs.
    pub known: Vec<Sha>,
    /// The workspace's branch among them.
    pub tracked: Option<Sha>,
}

/// What is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Everything, as commits that can be pushed.
    Save,
    /// The same, without commits of uncommitted changes.
    Look,
}

/// A workspace and its clone.
#[derive(Clone, Debug)]
pub struct WorkspaceClone {
    pub directory: PathBuf,
    /// The repository that it is a clone of.
    pub repository: RepositoryUrl,
    pub name: String,
    pub uid: String,
    pub branch: BranchName,
    /// The author of commits with uncommitted changes.
    pub author: Author,
}

/// An open clone, and a git directory of Landfall's own that has the clone's objects as alternates.
#[derive(Debug)]
pub struct OpenClone {
    pub directory: Directory,
    pub git: Directory,
    pub git_at: PathBuf,
    pub local: LocalRefs,
    pub head: CheckedOut,
    pub store: Store,
}

/// Opens the clone at `at`, with `git` in the empty directory `scratch`.
pub async fn open(at: &Path, scratch: &Path, git: &Sealed) -> Result<OpenClone, WorkspaceError> {
    let directory = Directory::open(at).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => dot_git::DotGitError::NotAClone(at.to_owned()).into(),
        _ => WorkspaceError::volume(at)(error),
    })?;
    let git_at = at.join(".git");
    let git_directory = directory.descend(Path::new(".git")).map_err(WorkspaceError::volume(&git_at))?;
    let git_directory = git_directory.ok_or_else(|| dot_git::DotGitError::NotAClone(at.to_owned()))?;
    let local = LocalRefs::read(&git_directory, &git_at)?;
    let head = local.head(&git_directory, &git_at)?;

    let store = guards::store(Store::new(scratch, git).await?, &git_at);
    store.borrow(&git_directory, &objects(&git_at, at.parent().unwrap_or(at))?)?;
    let known: Vec<_> = local.refs.values().chain(local.tracking.values()).chain(&head.commit).cloned().collect();
    store.know(&known)?;
    Ok(OpenClone { directory, git: git_directory, git_at, local, head, store })
}

/// Collects the work with `git` in the empty directory `scratch`; `now` in seconds since 1970.
pub async fn collect(
    workspace: &WorkspaceClone,
    scratch: &Path,
    git: &Sealed,
    purpose: Purpose,
    now: i64,
) -> Result<CollectedWork, WorkspaceError> {
    let at = &workspace.directory;
    let OpenClone { directory, git: git_directory, git_at: dot_git, local, head, store } =
        open(at, scratch, git).await?;
    let volume = at.parent().unwrap_or(at);
    let origin = Origin::of(&git_directory, store.git(), &workspace.repository).await?;
    let tips = origin.known(&local);
    let known = store.commits(tips.clone()).await?;
    let tracked = origin.tracked(&local, &workspace.branch);

    let mut collector = Collector {
        workspace,
        volume,
        now,
        purpose,
        changed: 0,
        untracked: 0,
        store,
        pieces: Vec::new(),
        left: Vec::new(),
        indexes: 0,
        worktrees: BTreeSet::new(),
        git_directories: BTreeSet::from([dot_git.clone()]),
    };
    let clone = Worktree { at, directory: &directory, git: &git_directory, git_at: &dot_git, common: &git_directory };
    let tree = match origin.of_another() {
        None => {
            let (snapshot, date) = collector.tree(&clone, &local, &head, None).await?;
            collector.refs(&local, &head, None).await?;
            collector.worktrees(&clone, &local, &tips).await?;
            let within = Within { at, directory: &directory, prefix: Path::new(""), tips };
            collector.nested_repositories(within, snapshot.nested).await?;
            (snapshot.tree, date)
        }
        Some(other) => {
            let message = format!(
                "a clone of another repository ({other}) is in the place of the workspace's clone: a save does not push it, \
                 because its readers may be others; push its work from within, and put the clone of {} there",
                workspace.repository.bare_address()
            );
            let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
            collector.leave(name, Trouble::Nested, message);
            (empty_tree()?, 0)
        }
    };
    collector.sibling_repositories().await?;
    collector.large_files(&known).await?;
    let Collector { store, mut pieces, left, changed, untracked, .. } = collector;
    // A piece that an earlier one contains is not pushed, so the names that people know go first.
    pieces.sort_by_key(|piece| (!piece.for_branch, !piece.label.starts_with("branch/")));
    Ok(CollectedWork { store, head, pieces, left, tree, changed, untracked, known, tracked })
}

fn empty_tree() -> Result<Sha, WorkspaceError> {
    EMPTY_TREE.parse().map_err(|_| WorkspaceError::Answer(EMPTY_TREE.into()))
}

/// A working tree and its git directory.
pub(super) struct Worktree<'a> {
    pub(super) at: &'a Path,
    pub(super) directory: &'a Directory,
    pub(super) git: &'a Directory,
    pub(super) git_at: &'a Path,
    pub(super) common: &'a Directory,
}

/// The work that was collected so far.
pub(super) struct Collector<'a> {
    pub(super) workspace: &'a WorkspaceClone,
    pub(super) volume: &'a Path,
    now: i64,
    purpose: Purpose,
    changed: usize,
    untracked: usize,
    pub(super) store: Store,
    pieces: Vec<Piece>,
    left: Vec<Unsaved>,
    indexes: usize,
    /// Paths of the clone's further worktrees that were collected.
    pub(super) worktrees: BTreeSet<PathBuf>,
    /// Paths of git directories that were collected.
    pub(super) git_directories: BTreeSet<PathBuf>,
}

/// A label, prefixed with that of its repository.
fn below(within: Option<&str>, label: &str) -> String {
    within.map_or_else(|| label.to_owned(), |within| format!("{within}/{label}"))
}

impl Collector<'_> {
    fn add(&mut self, what: String, object: &Sha, label: String) {
        self.pieces.push(Piece { what, object: object.clone(), is_commit: true, for_branch: false, label });
    }

    pub(super) fn leave(&mut self, what: impl Into<String>, reason: Trouble, message: impl Into<String>) {
        self.left.push(Unsaved { what: what.into(), commit: None, reason, message: message.into() });
    }

    pub(super) async fn take(&mut self, place: &Worktree<'_>, head: Option<&Sha>) -> Result<Snapshot, WorkspaceError> {
        self.indexes += 1;
        let name = format!("index-{}", self.indexes);
        let work =
            SnapshotSource { at: place.at, directory: place.directory, git: place.git, common: place.common, head };
        match self.purpose {
            Purpose::Save => take(&self.store, &work, &name, self.now).await,
            Purpose::Look => {
                let tree = match head {
                    Some(head) => self.store.commit(head).await?.0,
                    None => empty_tree()?,
                };
                look(&self.store, &work, &name, &tree).await
            }
        }
    }

    /// Collects the working tree, the index, and unfinished operations. Returns a date for a commit with the tree, too.
    pub(super) async fn tree(
        &mut self,
        place: &Worktree<'_>,
        local: &LocalRefs,
        head: &CheckedOut,
        within: Option<&str>,
    ) -> Result<(Snapshot, i64), WorkspaceError> {
        let mut commit = head.commit.clone();
        if let Some(head) = &commit
            && self.store.kinds(std::slice::from_ref(head)).await?.first() != Some(&Some("commit".to_owned()))
        {
            let message = "the commit that is checked out is missing in the clone";
            let what = below(within, "HEAD");
            self.left.push(Unsaved {
                what,
                commit: commit.take(),
                reason: Trouble::Unreadable,
                message: message.into(),
            });
        }
        let mut snapshot = self.take(place, commit.as_ref()).await?;
        self.changed += snapshot.changed;
        self.untracked += snapshot.untracked;
        self.left.extend(snapshot.left.drain(..).map(|left| Unsaved { what: below(within, &left.what), ..left }));
        let (head_tree, head_date) = match &commit {
            Some(commit) => {
                let (tree, date, _) = self.store.commit(commit).await?;
                (tree, date)
            }
            None => (empty_tree()?, 0),
        };
        let date = snapshot.modified.map_or(head_date, |modified| modified.max(head_date));
        let unfinished = unfinished(place.git, place.git_at)?;
        let on_branch = within.is_none()
            && unfinished.is_empty()
            && head.branch.as_deref() == Some(self.workspace.branch.as_str().as_bytes());
        let parents: Vec<_> = commit.iter().cloned().collect();
        let saved = if snapshot.tree == head_tree {
            commit
        } else {
            let message = format!("Save work of workspace {}\n", self.workspace.name);
            let commit = Commit { tree: &snapshot.tree, parents: parents.clone(), date, message: &message };
            Some(self.store.make(&commit, &self.workspace.author).await?)
        };
        if let Some(saved) = saved {
            let (what, label) = (below(within, "working tree"), below(within, "head"));
            self.pieces.push(Piece { what, object: saved, is_commit: true, for_branch: on_branch, label });
        }
        if snapshot.index != snapshot.tree && snapshot.index != head_tree {
            self.add_staged(&snapshot.index, parents, head_date, within).await?;
        }
        for (name, commit) in unfinished {
            match commit {
                Some(commit) => self.add(below(within, &name), &commit, below(within, &name)),
                None if name == "rebase" => {}
                None if name == "am" => {
                    let message = "patches that git am has not applied yet: finish with git am --continue, or stop with git am --quit";
                    self.leave(below(within, &name), Trouble::Unreadable, message);
                }
                None => self.leave(below(within, &name), Trouble::Unreadable, "its content is not in git's format"),
            }
        }
        for (number, stash) in local.stash.iter().enumerate() {
            if within.is_none_or(|within| !within.starts_with("worktree/")) {
                self.add(
                    below(within, &format!("stash@{{{number}}}")),
                    stash,
                    below(within, &format!("stash-{number}")),
                );
            }
        }
        Ok((snapshot, date))
    }

    /// Collects every ref.
    pub(super) async fn refs(
        &mut self,
        local: &LocalRefs,
        head: &CheckedOut,
        within: Option<&str>,
    ) -> Result<(), WorkspaceError> {
        for file in &local.unread {
            self.leave(file.to_string_lossy(), Trouble::Unreadable, "its content is not in git's format");
        }
        let refs: Vec<_> = local.refs.iter().collect();
        let objects: Vec<_> = refs.iter().map(|(_, object)| (*object).clone()).collect();
        let kinds = self.store.kinds(&objects).await?;
        for ((name, object), kind) in refs.into_iter().zip(kinds) {
            let name = String::from_utf8_lossy(name).into_owned();
            let branch = name.strip_prefix("refs/heads/");
            if kind.is_none() {
                let message = "its object is missing in the clone".to_owned();
                let what = below(within, &name);
                self.left.push(Unsaved { what, commit: Some(object.clone()), reason: Trouble::Unreadable, message });
                continue;
            }
            let own = within.is_none() && branch == Some(self.workspace.branch.as_str());
            let checked_out = own && head.branch.as_deref() == branch.map(str::as_bytes);
            let label = match (branch, name.strip_prefix("refs/")) {
                (Some(branch), _) => format!("branch/{branch}"),
                (None, Some(other)) => format!("ref/{other}"),
                (None, None) => "ref/other".to_owned(),
            };
            let is_commit = kind.as_deref() == Some("commit");
            // During an unfinished operation the working tree does not go to the branch, so the branch itself does.
            let for_branch = own && !(checked_out && self.pieces.iter().any(|piece| piece.for_branch));
            let (what, label) = (below(within, &name), below(within, &label));
            self.pieces.push(Piece { what, object: object.clone(), is_commit, for_branch, label });
        }
        Ok(())
    }

    /// Collects the clone's further worktrees (git-worktree(1)).
    async fn worktrees(&mut self, clone: &Worktree<'_>, local: &LocalRefs, tips: &[Sha]) -> Result<(), WorkspaceError> {
        for (folder, at) in dot_git::worktrees(clone.git, clone.git_at)? {
            let label = format!("worktree/{}", folder.file_name().unwrap_or_default().to_string_lossy());
            if let Err(error) = self.worktree(clone, local, tips, (&folder, &at), &label).await {
                self.leave(label, Trouble::Unreadable, format!("a worktree that cannot be read: {error}"));
                self.worktrees.insert(at);
            }
        }
        Ok(())
    }

    async fn worktree(
        &mut self,
        clone: &Worktree<'_>,
        local: &LocalRefs,
        tips: &[Sha],
        (folder, at): (&Path, &Path),
        label: &str,
    ) -> Result<(), WorkspaceError> {
        let git_at = clone.git_at.join(folder);
        let Some(git) = clone.git.descend(folder).map_err(WorkspaceError::volume(&git_at))? else { return Ok(()) };
        self.git_directories.insert(git_at.clone());
        let head = local.head(&git, &git_at)?;
        let volume = Directory::open(self.volume).map_err(WorkspaceError::volume(self.volume))?;
        // A person may have deleted it by hand, and put another repository at its path.
        let is_there = |inside: &&Path| {
            git_directory(&volume, self.volume, inside).is_ok_and(|found| found.is_some_and(|(_, at)| at == git_at))
        };
        let inside = at.strip_prefix(self.volume).ok().filter(is_there);
        let directory = inside.map(|inside| volume.descend(inside)).transpose().map_err(WorkspaceError::volume(at))?;
        if let Some((inside, directory)) = inside.zip(directory.flatten()) {
            self.worktrees.insert(at.to_owned());
            let place = Worktree { at, directory: &directory, git: &git, git_at: &git_at, common: clone.git };
            let (snapshot, _) = self.tree(&place, local, &head, Some(label)).await?;
            let tips = tips.to_vec();
            // The git directories of its submodules are in the clone's.
            let within = Within { at: self.volume, directory: &volume, prefix: inside, tips };
            return self.nested_repositories(within, snapshot.nested).await;
        }
        // Its files are not on this volume. Its commits and its index are in the clone's git directory.
        let Some(commit) = &head.commit else { return Ok(()) };
        self.add(format!("{label}/HEAD"), commit, format!("{label}/head"));
        self.indexes += 1;
        let index = format!("index-{}", self.indexes);
        let work = SnapshotSource {
            at: clone.at,
            directory: clone.directory,
            git: &git,
            common: clone.git,
            head: Some(commit),
        };
        if let Some(staged) = staged(&self.store, &work, &index).await? {
            let (tree, date, _) = self.store.commit(commit).await?;
            if staged != tree {
                self.add_staged(&staged, vec![commit.clone()], date, Some(label)).await?;
            }
        }
        Ok(())
    }

    /// Finds the pointers of Git LFS in the work whose objects may be on the volume alone. The remote has the objects of `known`,
    /// because git-lfs uploads them before a push.
    async fn large_files(&mut self, known: &[Sha]) -> Result<(), WorkspaceError> {
        let volume = Directory::open(self.volume).map_err(WorkspaceError::volume(self.volume))?;
        let mut storages = Vec::new();
        for at in &self.git_directories {
            let Ok(inside) = at.strip_prefix(self.volume) else { continue };
            let git = volume.descend(inside).map_err(WorkspaceError::volume(at))?;
            storages.extend(git.map(Storage::of).transpose().map_err(WorkspaceError::volume(at))?.flatten());
        }
        if storages.is_empty() {
            return Ok(());
        }
        let of: Vec<_> = self.pieces.iter().map(|piece| piece.object.clone()).collect();
        let found = match in_commits(&self.store, &of, known).await {
            Ok(found) => found,
            Err(error) => {
                self.leave(
                    "large files",
                    Trouble::LargeFile,
                    format!("pointers of Git LFS cannot be looked for: {error}"),
                );
                return Ok(());
            }
        };
        for (pointer, path) in found {
            let mut is_here = false;
            for storage in &storages {
                is_here |= storage.may_hold(&pointer).map_err(WorkspaceError::volume(self.volume))?;
            }
            if is_here {
                let message = format!(
                    "a commit has its pointer of Git LFS, and its {} bytes are on the volume alone (sha256 {}): a save does \
                     not upload them; in the clone, `git lfs push --all origin` does",
                    pointer.size, pointer.oid
                );
                self.leave(path, Trouble::LargeFile, message);
            }
        }
        Ok(())
    }

    async fn add_staged(
        &mut self,
        tree: &Sha,
        parents: Vec<Sha>,
        date: i64,
        within: Option<&str>,
    ) -> Result<(), WorkspaceError> {
        let message = format!("Save what is staged in workspace {}\n", self.workspace.name);
        let commit = Commit { tree, parents, date, message: &message };
        let index = self.store.make(&commit, &self.workspace.author).await?;
        self.add(below(within, "index"), &index, below(within, "index"));
        Ok(())
    }
}
