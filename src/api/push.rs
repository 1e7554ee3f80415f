//! The refs that workspaces may push besides their own.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The form of a pattern. The gateway reads it more strictly: what is left has to be a name of a ref.
const PATTERNS: &str = r"self.all(pattern, pattern.matches('^refs/(heads|tags)/[^\\x00-\\x20\\x7f~^:?\\[\\\\]+$') && !pattern.startsWith('refs/heads/landfall-wip/'))";
const PATTERNS_WORDS: &str = "patterns of refs are refs/heads/NAME or refs/tags/NAME, with * for any run of characters; refs/heads/landfall-wip/ is where the work of workspaces goes that has no other place";

/// Refs that a workspace may push besides its own branch.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PushRules {
    /// Patterns of the full names of refs, such as `refs/heads/release/*` or `refs/tags/v*`. `*` stands for any run of
    /// characters. These refs may be created, and branches moved by fast-forwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 250)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(PATTERNS).message(PATTERNS_WORDS))]
    pub refs: Vec<String>,
    /// Patterns of those refs that may be moved to any commit. For the workspace's own branch no entry in `refs` is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 250)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(PATTERNS).message(PATTERNS_WORDS))]
    pub force: Vec<String>,
}

impl PushRules {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.refs.is_empty() && self.force.is_empty()
    }
}
