//! All the work in a clone, as commits and other objects that can be pushed.
//!
//! The invariant: what a person could lose is a [`Piece`] or is among what was [`Left`]; nothing is decided here about where a
//! piece goes, and no remote is asked.

use crate::guards;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::beneath::Directory;
use super::local::{self, Head, Local, objects, unfinished};
use super::nested::{Within, git_directory};
use super::remote::Trouble;
use super::snapshot::{Left, Snapshot, Work, staged, take};
use super::store::{Author, Commit, Store};
use crate::git::{BranchName, Sealed, Sha};

/// The tree without a file.
pub(super) const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is to the person.
    pub what: String,
    /// The commit, or another object that a ref names.
    pub object: Sha,
    /// Whether it is a commit.
    pub is_commit: bool,
    /// Whether it may go to the workspace's branch.
    pub for_branch: bool,
    /// What it is called at the remote, below the workspace's own name.
    pub label: String,
}

/// Everything.
#[derive(Debug)]
pub struct Gathered {
    /// Where it is kept until it is pushed.
    pub store: Store,
    /// What is checked out.
    pub head: Head,
    /// The pieces, the workspace's branch first and then others.
    pub pieces: Vec<Piece>,
    /// What cannot be saved.
    pub left: Vec<Left>,
    /// The tree of the clone's own directory, and a date for a commit with it.
    pub tree: (Sha, i64),
    /// How many files differ from the index.
    pub changed: usize,
    /// How many files are not in the index.
    pub untracked: usize,
}

/// Whose work it is, and where.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The clone.
    pub directory: PathBuf,
    /// The workspace's name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its own branch.
    pub branch: BranchName,
    /// Who commits what nobody committed.
    pub author: Author,
}

/// A clone, its refs, and a git directory of ours that borrows its objects.
#[derive(Debug)]
pub struct Opened {
    /// The clone.
    pub directory: Directory,
    /// Its git directory.
    pub git: Directory,
    /// Where that is.
    pub git_at: PathBuf,
    /// Its refs.
    pub local: Local,
    /// What is checked out.
    pub head: Head,
    /// What borrows its objects.
    pub store: Store,
}

/// Opens the clone in a directory, with `git` in `scratch`.
///
/// # Errors
/// It cannot be read at all.
pub async fn open(at: &Path, scratch: &Path, git: &Sealed) -> Result<Opened, WorkspaceError> {
    let directory = Directory::open(at).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => local::LocalError::NotAClone(at.to_owned()).into(),
        _ => WorkspaceError::volume(at)(error),
    })?;
    let git_at = at.join(".git");
    let git_directory = directory.descend(Path::new(".git")).map_err(WorkspaceError::volume(&git_at))?;
    let git_directory = git_directory.ok_or_else(|| local::LocalError::NotAClone(at.to_owned()))?;
    let local = Local::read(&git_directory, &git_at)?;
    let head = local.head(&git_directory, &git_at)?;

    let store = guards::store(Store::new(scratch, git).await?, &git_at);
    store.borrow(&git_directory, &objects(&git_at, at.parent().unwrap_or(at))?)?;
    let known: Vec<_> = local.refs.values().chain(local.tracking.values()).chain(&head.commit).cloned().collect();
    store.know(&known)?;
    Ok(Opened { directory, git: git_directory, git_at, local, head, store })
}

/// Gathers it with `git` in `scratch`; `now` in seconds since 1970.
///
/// # Errors
/// The clone cannot be read at all.
pub async fn gather(workspace: &Workspace, scratch: &Path, git: &Sealed, now: i64) -> Result<Gathered, WorkspaceError> {
    let at = &workspace.directory;
    let Opened { directory, git: git_directory, git_at: dot_git, local, head, store } = open(at, scratch, git).await?;
    let volume = at.parent().unwrap_or(at);

    let mut gathering = Gathering {
        workspace,
        volume,
        now,
        store,
        pieces: Vec::new(),
        left: Vec::new(),
        indexes: 0,
        worktrees: BTreeSet::new(),
        git_directories: BTreeSet::from([dot_git.clone()]),
    };
    let clone = Place { at, directory: &directory, git: &git_directory, git_at: &dot_git, common: &git_directory };
    let (snapshot, date) = gathering.tree(&clone, &local, &head, None).await?;
    gathering.refs(&local, &head, None).await?;
    gathering.worktrees(&clone, &local).await?;
    let tips = local.tracking.values().cloned().collect();
    gathering.nested(Within { at, directory: &directory, prefix: Path::new(""), tips }, snapshot.nested).await?;
    gathering.beside().await?;
    let Gathering { store, mut pieces, left, .. } = gathering;
    // What is found in what went before does not go anywhere itself: the names that people know go first.
    pieces.sort_by_key(|piece| (!piece.for_branch, !piece.label.starts_with("branch/")));
    let (tree, changed, untracked) = ((snapshot.tree, date), snapshot.changed, snapshot.untracked);
    Ok(Gathered { store, head, pieces, left, tree, changed, untracked })
}

/// A directory with work, and its git directory.
pub(super) struct Place<'a> {
    pub(super) at: &'a Path,
    pub(super) directory: &'a Directory,
    pub(super) git: &'a Directory,
    pub(super) git_at: &'a Path,
    pub(super) common: &'a Directory,
}

/// What was gathered so far.
pub(super) struct Gathering<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) volume: &'a Path,
    now: i64,
    pub(super) store: Store,
    pieces: Vec<Piece>,
    left: Vec<Left>,
    indexes: usize,
    /// Where worktrees of the clone are that were looked into.
    pub(super) worktrees: BTreeSet<PathBuf>,
    /// Which git directories were.
    pub(super) git_directories: BTreeSet<PathBuf>,
}

/// A label, below that of the repository it is in.
fn below(within: Option<&str>, label: &str) -> String {
    within.map_or_else(|| label.to_owned(), |within| format!("{within}/{label}"))
}

impl Gathering<'_> {
    fn add(&mut self, what: String, object: &Sha, label: String) {
        self.pieces.push(Piece { what, object: object.clone(), is_commit: true, for_branch: false, label });
    }

    pub(super) fn leave(&mut self, what: impl Into<String>, reason: Trouble, message: impl Into<String>) {
        self.left.push(Left { what: what.into(), commit: None, reason, message: message.into() });
    }

    pub(super) async fn take(&mut self, place: &Place<'_>, head: Option<&Sha>) -> Result<Snapshot, WorkspaceError> {
        self.indexes += 1;
        let name = format!("index-{}", self.indexes);
        let work = Work { at: place.at, directory: place.directory, git: place.git, common: place.common, head };
        take(&self.store, &work, &name, self.now).await
    }

    /// The tree, the index, and what is unfinished there. Returns a date for a commit with the tree.
    pub(super) async fn tree(
        &mut self,
        place: &Place<'_>,
        local: &Local,
        head: &Head,
        within: Option<&str>,
    ) -> Result<(Snapshot, i64), WorkspaceError> {
        let mut commit = head.commit.clone();
        if let Some(head) = &commit
            && self.store.kinds(std::slice::from_ref(head)).await?.first() != Some(&Some("commit".to_owned()))
        {
            let message = "the commit that is checked out is not among the objects of the clone";
            let what = below(within, "HEAD");
            self.left.push(Left { what, commit: commit.take(), reason: Trouble::Unreadable, message: message.into() });
        }
        let mut snapshot = self.take(place, commit.as_ref()).await?;
        self.left.extend(snapshot.left.drain(..).map(|left| Left { what: below(within, &left.what), ..left }));
        let (head_tree, head_date) = match &commit {
            Some(commit) => {
                let (tree, date, _) = self.store.commit(commit).await?;
                (tree, date)
            }
            None => (EMPTY_TREE.parse().map_err(|_| WorkspaceError::Answer(EMPTY_TREE.into()))?, 0),
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
                    let message = "patches that git am has yet to apply: go on with it, or end it by git am --quit";
                    self.leave(below(within, &name), Trouble::Unreadable, message);
                }
                None => self.leave(below(within, &name), Trouble::Unreadable, "it is not what git writes"),
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

    /// Every ref.
    pub(super) async fn refs(
        &mut self,
        local: &Local,
        head: &Head,
        within: Option<&str>,
    ) -> Result<(), WorkspaceError> {
        for file in &local.unread {
            self.leave(file.to_string_lossy(), Trouble::Unreadable, "it is not what git writes");
        }
        let refs: Vec<_> = local.refs.iter().collect();
        let objects: Vec<_> = refs.iter().map(|(_, object)| (*object).clone()).collect();
        let kinds = self.store.kinds(&objects).await?;
        for ((name, object), kind) in refs.into_iter().zip(kinds) {
            let name = String::from_utf8_lossy(name).into_owned();
            let branch = name.strip_prefix("refs/heads/");
            if kind.is_none() {
                let message = "its object is not among those of the clone".to_owned();
                let what = below(within, &name);
                self.left.push(Left { what, commit: Some(object.clone()), reason: Trouble::Unreadable, message });
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
            // While something is unfinished, or its tree goes elsewhere, the branch itself is as it was before.
            let for_branch = own && !(checked_out && self.pieces.iter().any(|piece| piece.for_branch));
            let (what, label) = (below(within, &name), below(within, &label));
            self.pieces.push(Piece { what, object: object.clone(), is_commit, for_branch, label });
        }
        Ok(())
    }

    /// Further worktrees of the clone.
    async fn worktrees(&mut self, clone: &Place<'_>, local: &Local) -> Result<(), WorkspaceError> {
        for (folder, at) in local::worktrees(clone.git, clone.git_at)? {
            let label = format!("worktree/{}", folder.file_name().unwrap_or_default().to_string_lossy());
            if let Err(error) = self.worktree(clone, local, (&folder, &at), &label).await {
                self.leave(label, Trouble::Unreadable, format!("a worktree that cannot be looked into: {error}"));
                self.worktrees.insert(at);
            }
        }
        Ok(())
    }

    async fn worktree(
        &mut self,
        clone: &Place<'_>,
        local: &Local,
        (folder, at): (&Path, &Path),
        label: &str,
    ) -> Result<(), WorkspaceError> {
        let git_at = clone.git_at.join(folder);
        let Some(git) = clone.git.descend(folder).map_err(WorkspaceError::volume(&git_at))? else { return Ok(()) };
        self.git_directories.insert(git_at.clone());
        let head = local.head(&git, &git_at)?;
        let volume = Directory::open(self.volume).map_err(WorkspaceError::volume(self.volume))?;
        // Where it was deleted by hand, another repository may have come.
        let is_there = |inside: &&Path| {
            git_directory(&volume, self.volume, inside).is_ok_and(|found| found.is_some_and(|(_, at)| at == git_at))
        };
        let inside = at.strip_prefix(self.volume).ok().filter(is_there);
        let directory = inside.map(|inside| volume.descend(inside)).transpose().map_err(WorkspaceError::volume(at))?;
        if let Some((inside, directory)) = inside.zip(directory.flatten()) {
            self.worktrees.insert(at.to_owned());
            let place = Place { at, directory: &directory, git: &git, git_at: &git_at, common: clone.git };
            let (snapshot, _) = self.tree(&place, local, &head, Some(label)).await?;
            let tips = local.tracking.values().cloned().collect();
            // Its submodules have their git directories in the clone's.
            let within = Within { at: self.volume, directory: &volume, prefix: inside, tips };
            return self.nested(within, snapshot.nested).await;
        }
        // Its files are gone, or never were on this volume. What was committed and staged in it is in the clone.
        let Some(commit) = &head.commit else { return Ok(()) };
        self.add(format!("{label}/HEAD"), commit, format!("{label}/head"));
        self.indexes += 1;
        let index = format!("index-{}", self.indexes);
        let work = Work { at: clone.at, directory: clone.directory, git: &git, common: clone.git, head: Some(commit) };
        if let Some(staged) = staged(&self.store, &work, &index).await? {
            let (tree, date, _) = self.store.commit(commit).await?;
            if staged != tree {
                self.add_staged(&staged, vec![commit.clone()], date, Some(label)).await?;
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
