//! The effects of pushes on pull requests: heads move, deleted branches close them, merged heads merge them. Also the
//! information for tests about them.

use serde::Serialize;

use crate::bare::{GitError, PULLS, ZERO};
use crate::model::Repository;
use crate::person::ControlError;
use crate::state::State;
use crate::webhook::Moved;

/// A pull request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PullInfo {
    /// Its number in the repository.
    pub number: u64,
    pub title: String,
    /// Its head: the branch, which may be in a fork.
    pub head: String,
    /// The head's newest commit.
    pub head_sha: String,
    /// The branch to merge into.
    pub base: String,
    /// Whether it is open. A merged one is not.
    pub open: bool,
    /// Whether it is a draft.
    pub draft: bool,
    /// Its labels' names.
    pub labels: Vec<String>,
}

impl Repository {
    /// Lets clients fetch the head of a pull request, also of one from a fork.
    pub(crate) fn show_pull(&self, number: u64, sha: &str) -> Result<(), GitError> {
        self.bare.set_ref(&format!("{PULLS}{number}/head"), sha)
    }
}

impl State {
    /// The pull requests of `owner/name`, the oldest first.
    pub(crate) fn pulls_of(&self, full_name: &str) -> Result<Vec<PullInfo>, ControlError> {
        let home = self.by_full_name(full_name)?.id;
        let found = self.pulls.range((home, 0)..=(home, u64::MAX)).map(|(_, pull)| PullInfo {
            number: pull.number,
            title: pull.title.clone(),
            head: pull.head.clone(),
            head_sha: pull.head_sha.clone(),
            base: pull.base.clone(),
            open: pull.open,
            draft: pull.draft,
            labels: pull.labels.iter().map(|label| label.name.clone()).collect(),
        });
        Ok(found.collect())
    }

    /// Updates pull requests after refs moved in a repository.
    pub(crate) fn follow_pulls(&mut self, repository: u64, moved: &[Moved]) -> Result<(), GitError> {
        let now = self.now();
        for moved in moved {
            let Some(branch) = moved.name.strip_prefix("refs/heads/") else { continue };
            let bare = self.repositories.get(&repository).map(|found| found.bare.clone());
            for pull in self.pulls.values_mut().filter(|pull| pull.open) {
                if pull.repository == repository && pull.base == branch && moved.after != ZERO {
                    pull.base_sha.clone_from(&moved.after);
                    if bare.as_ref().is_some_and(|bare| bare.is_ancestor(&pull.head_sha, &moved.after)) {
                        pull.open = false;
                        (pull.merged, pull.closed, pull.updated) = (Some(now), Some(now), now);
                    }
                } else if pull.head_repository == repository && pull.head == branch {
                    pull.updated = now;
                    if moved.after == ZERO {
                        pull.open = false;
                        pull.closed = Some(now);
                    } else {
                        pull.head_sha.clone_from(&moved.after);
                        if let (Some(home), Some(bare)) = (self.repositories.get(&pull.repository), &bare) {
                            if home.id != repository {
                                home.bare.fetch(bare, &[&moved.after])?;
                            }
                            home.show_pull(pull.number, &moved.after)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
