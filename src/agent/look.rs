//! A clone's state at a glance: what people are shown while they work.
//!
//! The invariant: as with a save, git runs in a directory of ours and the clone is read as files; nothing is written to either the
//! clone or a remote, and no remote is asked.

use std::path::Path;

use super::WorkspaceError;
use super::gather::{Opened, open};
use super::report::{MOST_TEXT, Report, bounded};
use super::snapshot::{Work, count};
use crate::git::{BranchName, Sealed, Sha};

/// Looks at the clone in `at`, whose workspace has `branch`, with `git` in `scratch`, an empty directory.
///
/// # Errors
/// The clone cannot be read.
pub async fn look(at: &Path, branch: &BranchName, scratch: &Path, git: &Sealed) -> Result<Report, WorkspaceError> {
    let Opened { directory, git: git_directory, local, head, store, .. } = open(at, scratch, git).await?;
    let tracked = local.tracking.get(format!("refs/remotes/origin/{branch}").as_bytes());
    let own = local.refs.iter().filter(|(name, _)| name.starts_with(b"refs/heads/")).map(|(_, sha)| sha);
    // What is stashed is commits as well, and no remote has it.
    let own: Vec<Sha> = head.commit.iter().chain(own).chain(&local.stash).cloned().collect();
    let known: Vec<Sha> = local.tracking.values().cloned().collect();
    let [own, known] = [store.commits(own).await?, store.commits(known).await?];
    let head_commit = head.commit.as_ref().filter(|commit| own.contains(commit));

    let work = Work { at, directory: &directory, git: &git_directory, common: &git_directory, head: head_commit };
    let (changed, untracked) = count(&store, &work, "index").await?;
    let (mut ahead, mut behind) = (None, None);
    if let Some((head, tracked)) = head_commit.zip(tracked.filter(|tracked| known.contains(tracked))) {
        let (head, tracked) = (std::slice::from_ref(head), std::slice::from_ref(tracked));
        (ahead, behind) = (Some(store.count(head, tracked).await?), Some(store.count(tracked, head).await?));
    }
    let unpushed = if own.is_empty() { 0 } else { store.count(&own, &known).await? };
    Ok(Report {
        branch: head.branch.map(|branch| bounded(&String::from_utf8_lossy(&branch), MOST_TEXT)),
        head: head.commit.map(String::from),
        remote_head: tracked.cloned().map(String::from),
        ahead,
        behind,
        changed: changed as u64,
        untracked: untracked as u64,
        unpushed,
        autosave: None,
        trouble: None,
    })
}
