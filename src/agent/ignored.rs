//! Repositories in directories that git ignores.
//!
//! The invariant: a repository that a person cloned into an ignored directory is found like any other one. git lists such a
//! directory as one entry and does not look into it.

use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::directory::{Directory, Entry, path};
use super::remote::Trouble;
use super::snapshot::Unsaved;
use crate::git::Sealed;

/// How many directories are searched.
const MOST: usize = 1_000_000;
/// The depth of the search below an ignored directory.
const DEEPEST: usize = 64;

/// The repositories in ignored directories of the working tree that `git` has.
pub async fn repositories(
    git: &Sealed,
    directory: &Directory,
    left: &mut Vec<Unsaved>,
) -> Result<Vec<PathBuf>, WorkspaceError> {
    let arguments = ["ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"];
    let said = git.fed(&arguments, |_| Ok(())).await?.stdout;
    let entries = said.split(|byte| *byte == 0).filter_map(|entry| entry.strip_suffix(b"/"));
    let mut folders: Vec<_> = entries.map(|entry| (path(entry).to_owned(), DEEPEST)).collect();
    if folders.is_empty() {
        return Ok(Vec::new());
    }
    let here = Path::new(".");
    let Some(directory) = directory.descend(Path::new("")).map_err(WorkspaceError::volume(here))? else {
        return Ok(Vec::new());
    };
    let search = tokio::task::spawn_blocking(move || {
        let (mut found, mut searched) = (Vec::new(), 0);
        while let Some((folder, depth)) = folders.pop() {
            searched += 1;
            if searched > MOST {
                return (found, Some(folder));
            }
            if matches!(directory.entry(&folder.join(".git")), Ok(Some(Entry::Directory | Entry::File(_)))) {
                found.push(folder);
                continue;
            }
            // A directory that cannot be read is a program's own.
            let Ok(Some(inner)) = directory.descend(&folder) else { continue };
            if depth > 0 {
                let names = inner.directories().unwrap_or_default();
                folders.extend(names.into_iter().map(|name| (folder.join(name), depth - 1)));
            }
        }
        (found, None)
    });
    let (found, rest) = search.await.map_err(std::io::Error::other).map_err(WorkspaceError::volume(here))?;
    if let Some(rest) = rest {
        let message = "there are too many ignored directories to search them all for repositories";
        let what = rest.to_string_lossy().into_owned();
        left.push(Unsaved { what, commit: None, reason: Trouble::Nested, message: message.into() });
    }
    Ok(found)
}
