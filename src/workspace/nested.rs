//! Repositories in a clone's directory: submodules, and others that somebody cloned or made there.
//!
//! The invariant: one that has a remote of its own is never pushed to ours, for who may read ours may not be meant to read that; if
//! there is work in it, this is said, and whoever asked keeps the volume. One that has none is part of the work.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::WorkspaceError;
use super::beneath::{Directory, Entry};
use super::local::{Local, LocalError, unfinished};
use super::store::{MOST_LIST, Store};
use crate::git::Sha;

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
            let place = at.join(path).join(super::beneath::path(place.trim_ascii_end()));
            match within(&place, at) {
                Some(place) => place,
                None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    Ok(clone.descend(&place)?.map(|directory| (directory, at.join(place))))
}

/// What `path` is below `at`, by its text alone.
fn within(path: &Path, at: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain.strip_prefix(at).ok().map(Path::to_owned)
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
