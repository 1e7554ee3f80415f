//! Further repositories on a workspace's volume: submodules, and others that somebody cloned or made there.
//!
//! The invariant: one that has a remote of its own is never pushed to ours, for who may read ours may not be meant to read that; if
//! there is work in it, this is said, and whoever asked keeps the volume. One that has none is part of the work. A submodule that
//! is not checked out any more is looked for where git keeps it.

use std::io;
use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::beneath::{Directory, Entry, plain};
use super::gather::{Gathering, Place};
use super::local::{Local, LocalError, objects, unfinished};
use super::remote::Trouble;
use super::store::{MOST_LIST, Store};
use crate::git::Sha;

/// How deep repositories may lie in each other.
const DEEPEST: usize = 8;
/// Of how many parts the name of a submodule may be.
const MOST_PARTS: usize = 32;

/// Where the git directory of the repository at `path` in the clone at `at` is, and it; none if there is none in the clone.
///
/// # Errors
/// It cannot be read.
pub fn git_directory(clone: &Directory, at: &Path, path: &Path) -> io::Result<Option<(Directory, PathBuf)>> {
    let dot_git = path.join(".git");
    let place = match clone.entry(&dot_git)? {
        Some(Entry::Directory) => dot_git,
        Some(Entry::File(_)) => {
            let text = clone.read(&dot_git, MOST_LIST)?.unwrap_or_default();
            let Some(place) = text.strip_prefix(b"gitdir: ") else { return Ok(None) };
            let place = plain(&at.join(path).join(super::beneath::path(place.trim_ascii_end())));
            match place.strip_prefix(at) {
                Ok(place) => place.to_owned(),
                Err(_) => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    Ok(clone.descend(&place)?.map(|directory| (directory, at.join(place))))
}

/// What is checked out in the repository at `path`; none if there is none, or no commit.
///
/// # Errors
/// It cannot be read.
pub fn head(clone: &Directory, at: &Path, path: &Path) -> Result<Option<Sha>, WorkspaceError> {
    let Some((git, place)) = git_directory(clone, at, path).map_err(WorkspaceError::volume(path))? else {
        return Ok(None);
    };
    match Local::read(&git, &place).and_then(|local| local.head(&git, &place)) {
        Ok(head) => Ok(head.commit),
        Err(LocalError::NotAClone(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a repository names a remote.
///
/// # Errors
/// It cannot be read.
pub fn has_remote(git: &Directory, local: &Local) -> io::Result<bool> {
    let config = git.read(Path::new("config"), MOST_LIST)?.unwrap_or_default();
    let config = String::from_utf8_lossy(&config).to_ascii_lowercase();
    // Also one that comes from an included file: then nobody here knows.
    Ok(!local.tracking.is_empty() || ["[remote", "[include"].iter().any(|section| config.contains(section)))
}

/// Whether a repository with a remote holds commits that it has not seen there, or is amidst something.
///
/// # Errors
/// git's own words, or what cannot be read.
pub async fn has_own_commits(store: &Store, git: &Directory, at: &Path, local: &Local) -> Result<bool, WorkspaceError> {
    if !unfinished(git, at)?.is_empty() || !local.stash.is_empty() || !local.unread.is_empty() {
        return Ok(true);
    }
    let head = local.head(git, at)?.commit;
    let heads = local.refs.iter().filter(|(name, _)| name.starts_with(b"refs/heads/")).map(|(_, sha)| sha);
    let tracking: Vec<_> = local.tracking.values().cloned().collect();
    for commit in heads.chain(&head) {
        if !store.is_within(commit, &tracking).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is a git directory at `path` itself.
fn is_git_directory(volume: &Directory, path: &Path) -> io::Result<bool> {
    Ok(volume.entry(&path.join("HEAD"))?.is_some() && volume.descend(&path.join("objects"))?.is_some())
}

/// The directories in one; none if there is none.
fn directories(volume: &Directory, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(directory) = volume.descend(folder)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in directory.names()? {
        if matches!(directory.entry(Path::new(&name))?, Some(Entry::Directory)) {
            found.push(folder.join(name));
        }
    }
    Ok(found)
}

impl Gathering<'_> {
    /// Repositories in the directory `at`, and in those.
    pub(super) async fn nested(
        &mut self,
        at: &Path,
        directory: &Directory,
        found: Vec<(PathBuf, bool)>,
    ) -> Result<(), WorkspaceError> {
        let mut rest: Vec<_> = found.into_iter().map(|(path, recorded)| (path, recorded, 1)).collect();
        while let Some((path, recorded, depth)) = rest.pop() {
            if self.worktrees.contains(&at.join(&path)) {
                continue;
            }
            let name = path.to_string_lossy().into_owned();
            let git = git_directory(directory, at, &path).map_err(WorkspaceError::volume(&path))?;
            let tree = directory.descend(&path).map_err(WorkspaceError::volume(&path))?;
            let (Some((git, git_at)), Some(tree)) = (git, &tree) else {
                let files = tree.map(|tree| tree.names()).transpose().map_err(WorkspaceError::volume(&path))?;
                if files.is_some_and(|files| !files.is_empty()) {
                    let message = "there are files where a submodule belongs, and no repository of it";
                    self.leave(name, Trouble::Nested, message);
                }
                continue;
            };
            if depth > DEEPEST {
                self.leave(name, Trouble::Nested, "it lies too deep in other repositories");
                continue;
            }
            self.git_directories.insert(git_at.clone());
            let place = Place { at: &at.join(&path), directory: tree, git: &git, git_at: &git_at, common: &git };
            match self.one_nested(&place, &name, recorded).await {
                Ok(inner) => {
                    rest.extend(inner.into_iter().map(|(below, recorded)| (path.join(below), recorded, depth + 1)));
                }
                Err(error) => {
                    self.leave(name, Trouble::Nested, format!("a repository that cannot be looked into: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Repositories beside the clone.
    pub(super) async fn beside(&mut self) -> Result<(), WorkspaceError> {
        let (at, clone) = (self.volume, &self.workspace.directory);
        let volume = Directory::open(at).map_err(WorkspaceError::volume(at))?;
        let mut names = volume.names().map_err(WorkspaceError::volume(at))?;
        names.retain(|name| {
            let has_git =
                matches!(volume.entry(&Path::new(name).join(".git")), Ok(Some(Entry::Directory | Entry::File(_))));
            has_git && Some(name.as_os_str()) != clone.file_name() && *name != super::clone::unfinished(clone)
        });
        let found = names.into_iter().map(|name| (PathBuf::from(name), false)).collect();
        self.nested(at, &volume, found).await
    }

    /// Git directories of which nothing is checked out: of submodules that were, and what lies beside the clone.
    pub(super) async fn dormant(&mut self) -> Result<(), WorkspaceError> {
        let at = self.volume;
        let volume = Directory::open(at).map_err(WorkspaceError::volume(at))?;
        for name in volume.names().map_err(WorkspaceError::volume(at))? {
            // What nobody here may look into is not the person's: a file system has directories of its own.
            if matches!(is_git_directory(&volume, Path::new(&name)), Ok(true)) {
                self.one_dormant(&volume, Path::new(&name)).await;
            }
        }
        let known = self.git_directories.iter().filter_map(|git| git.strip_prefix(at).ok());
        let mut folders: Vec<_> = known.map(|git| (git.join("modules"), MOST_PARTS)).collect();
        while let Some((folder, parts)) = folders.pop() {
            let inner = match directories(&volume, &folder) {
                Ok(inner) if inner.is_empty() || parts > 0 => inner,
                Ok(_) => {
                    self.leave(self.shown(&folder), Trouble::Nested, "it lies too deep in other directories");
                    continue;
                }
                Err(error) => {
                    self.leave(self.shown(&folder), Trouble::Unreadable, error.to_string());
                    continue;
                }
            };
            for path in inner {
                if matches!(is_git_directory(&volume, &path), Ok(true)) {
                    folders.push((path.join("modules"), MOST_PARTS));
                    self.one_dormant(&volume, &path).await;
                } else {
                    folders.push((path, parts - 1));
                }
            }
        }
        Ok(())
    }

    /// What something on the volume is called for people: by where it is in the clone, if it is.
    fn shown(&self, path: &Path) -> String {
        let at = self.volume.join(path);
        at.strip_prefix(&self.workspace.directory).unwrap_or(path).to_string_lossy().into_owned()
    }

    async fn one_dormant(&mut self, volume: &Directory, path: &Path) {
        let git_at = self.volume.join(path);
        if !self.git_directories.insert(git_at.clone()) {
            return;
        }
        let has_own = async {
            let Some(git) = volume.descend(path).map_err(WorkspaceError::volume(path))? else { return Ok(false) };
            let local = Local::read(&git, &git_at)?;
            self.store.borrow(&git, &objects(&git_at, self.volume)?)?;
            has_own_commits(&self.store, &git, &git_at, &local).await
        };
        let message = match has_own.await {
            Ok(false) => return,
            Ok(true) => "a repository of which nothing is checked out, with commits that its remote is not known to have: check it out, and push it from within".to_owned(),
            Err(error) => format!("a repository that cannot be looked into: {error}"),
        };
        self.leave(self.shown(path), Trouble::Nested, message);
    }

    async fn one_nested(
        &mut self,
        place: &Place<'_>,
        name: &str,
        recorded: bool,
    ) -> Result<Vec<(PathBuf, bool)>, WorkspaceError> {
        let Place { git, git_at, .. } = *place;
        let local = Local::read(git, git_at)?;
        let head = local.head(git, git_at)?;
        self.store.borrow(git, &objects(git_at, self.volume)?)?;
        let has_remote = has_remote(git, &local).map_err(WorkspaceError::volume(git_at))?;
        if !recorded && !has_remote {
            let label = format!("nested/{name}");
            let (snapshot, _) = self.tree(place, &local, &head, Some(&label)).await?;
            self.refs(&local, &head, Some(&label)).await?;
            return Ok(snapshot.nested);
        }
        let snapshot = self.take(place, head.commit.as_ref()).await?;
        let committed = match &head.commit {
            Some(commit) => Some(self.store.commit(commit).await?.0),
            None => None,
        };
        let clean =
            committed.as_ref() == Some(&snapshot.tree) && snapshot.index == snapshot.tree && snapshot.left.is_empty();
        if !clean || has_own_commits(&self.store, git, git_at, &local).await? {
            let message = "a repository of another remote, with work that is not there: it is not saved here; push it from within";
            self.leave(name, Trouble::Nested, message);
        }
        Ok(snapshot.nested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_directory_outside_of_the_clone_is_none() {
        let volume = tempfile::tempdir().unwrap();
        let at = volume.path().join("w");
        for name in ["w/sub", "w/.git/modules/sub", "other", "w/own/.git"] {
            std::fs::create_dir_all(volume.path().join(name)).unwrap();
        }
        let clone = Directory::open(&at).unwrap();
        let absolute = format!("gitdir: {}/.git/modules/sub\n", at.display());
        for (text, found) in [
            ("gitdir: ../.git/modules/sub\n", true),
            (&absolute, true),
            ("gitdir: ../../other\n", false),
            ("gitdir: /etc\n", false),
            ("gitdir: ../.git/modules/nothing\n", false),
            ("what?", false),
        ] {
            std::fs::write(at.join("sub/.git"), text).unwrap();
            assert_eq!(git_directory(&clone, &at, Path::new("sub")).unwrap().is_some(), found, "{text}");
        }
        assert_eq!(git_directory(&clone, &at, Path::new("own")).unwrap().unwrap().1, at.join("own/.git"));
        assert!(git_directory(&clone, &at, Path::new("none")).unwrap().is_none());
    }
}
