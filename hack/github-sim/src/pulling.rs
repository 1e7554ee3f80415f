//! What pushes do to pull requests: heads move, branches that go close them, merged heads merge them.

use crate::bare::ZERO;
use crate::state::State;
use crate::webhook::Moved;

impl State {
    /// Follows refs that moved in a repository.
    pub(crate) fn follow_pulls(&mut self, repository: u64, moved: &[Moved]) {
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
                    }
                }
            }
        }
    }
}
