//! The state of a workspace's work, for the agent's report.
//!
//! The invariant: it covers all that a save collects. As with a save, git runs in a directory of Landfall's own and the clone is
//! read as files. Nothing is written to the clone, and no remote is asked.

use std::path::Path;

use super::WorkspaceError;
use super::collect::{CollectedWork, Purpose, WorkspaceClone, collect};
use super::report::{MOST_TEXT, Report, bounded};
use super::save::not_saved;
use crate::git::{Sealed, Sha};

/// The prefix of labels of tags. Most of them came with the clone, and no remote-tracking ref tells.
const TAGS: &str = "ref/tags/";

/// The state of a workspace's work, with `git` in the empty directory `scratch`; `now` in seconds since 1970.
pub async fn status(
    workspace: &WorkspaceClone,
    scratch: &Path,
    git: &Sealed,
    now: i64,
) -> Result<Report, WorkspaceError> {
    let collected = collect(workspace, scratch, git, Purpose::Look, now).await?;
    let CollectedWork { store, head, pieces, left, changed, untracked, known, tracked, .. } = collected;
    let head_commit = store.commits(head.commit.iter().cloned().collect()).await?;
    let (mut ahead, mut behind) = (None, None);
    if let Some((head, tracked)) = head_commit.first().zip(tracked.as_ref().filter(|tracked| known.contains(tracked))) {
        let (head, tracked) = (std::slice::from_ref(head), std::slice::from_ref(tracked));
        (ahead, behind) = (Some(store.count(head, tracked).await?), Some(store.count(tracked, head).await?));
    }
    let own = pieces.iter().filter(|piece| piece.is_commit && !piece.label.starts_with(TAGS));
    let own: Vec<Sha> = store.commits(own.map(|piece| piece.object.clone()).collect()).await?;
    let unpushed = if own.is_empty() { 0 } else { store.count(&own, &known).await? };
    Ok(Report {
        branch: head.branch.map(|branch| bounded(&String::from_utf8_lossy(&branch), MOST_TEXT)),
        head: head.commit.map(String::from),
        remote_head: tracked.map(String::from),
        ahead,
        behind,
        changed: changed as u64,
        untracked: untracked as u64,
        unpushed,
        autosave: None,
        trouble: not_saved(&left),
    })
}
