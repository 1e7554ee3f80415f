//! The state of a clone, as `git status` would summarize it, for the agent's report.
//!
//! The invariant: as with a save, git runs in a directory of Landfall's own and the clone is read as files. Nothing is written to
//! the clone, and no remote is asked.

use std::path::Path;

use super::WorkspaceError;
use super::collect::{OpenClone, open};
use super::report::{MOST_TEXT, Report, bounded};
use super::snapshot::{SnapshotSource, count};
use crate::git::{BranchName, Sealed, Sha};

/// The state of the clone at `at`, compared with `branch` at its remote, with `git` in the empty directory `scratch`.
pub async fn status(at: &Path, branch: &BranchName, scratch: &Path, git: &Sealed) -> Result<Report, WorkspaceError> {
    let OpenClone { directory, git: git_directory, local, head, store, .. } = open(at, scratch, git).await?;
    let tracked = local.tracking.get(format!("refs/remotes/origin/{branch}").as_bytes());
    let own = local.refs.iter().filter(|(name, _)| name.starts_with(b"refs/heads/")).map(|(_, sha)| sha);
    // Stashed changes are commits that no remote has.
    let own: Vec<Sha> = head.commit.iter().chain(own).chain(&local.stash).cloned().collect();
    let known: Vec<Sha> = local.tracking.values().cloned().collect();
    let [own, known] = [store.commits(own).await?, store.commits(known).await?];
    let head_commit = head.commit.as_ref().filter(|commit| own.contains(commit));

    let work =
        SnapshotSource { at, directory: &directory, git: &git_directory, common: &git_directory, head: head_commit };
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
