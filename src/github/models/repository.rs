//! Repositories and comparisons of commits in GitHub's answers.
use serde::Deserialize;

use super::Account;
use crate::ids::RepositoryId;

/// A repository: <https://docs.github.com/en/rest/repos/repos#get-a-repository>
///
/// Every answer has the first five fields; `None` for another one means only that the answer does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Repository {
    /// A rename or transfer does not change it; a new repository of the same name has another one.
    pub id: RepositoryId,
    /// The id for GraphQL.
    pub node_id: String,
    /// Without the owner.
    pub name: String,
    /// `owner/name`.
    pub full_name: String,
    /// An internal repository counts as private.
    pub private: bool,
    /// `public`, `private` or `internal`.
    #[serde(default)]
    pub visibility: Option<String>,
    #[serde(default)]
    pub owner: Option<Account>,
    /// Whether it is read-only.
    #[serde(default)]
    pub archived: Option<bool>,
    /// Whether GitHub has disabled it.
    #[serde(default)]
    pub disabled: Option<bool>,
    #[serde(default)]
    pub fork: Option<bool>,
    /// An empty repository also has the name of a default branch.
    #[serde(default)]
    pub default_branch: Option<String>,
    #[serde(default)]
    pub html_url: Option<String>,
    /// The address for git over HTTPS.
    #[serde(default)]
    pub clone_url: Option<String>,
    /// In KiB, by GitHub's last count; 0 for an empty repository, and for a while after the first push.
    #[serde(default)]
    pub size: Option<u64>,
    /// The repository of which it is a fork. Only in the answer for a single repository.
    #[serde(default)]
    pub parent: Option<Box<Self>>,
    /// The root of its network of forks. Only in the answer for a single repository.
    #[serde(default)]
    pub source: Option<Box<Self>>,
}

/// The way in which a branch of a fork got its upstream's commits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum MergeType {
    /// It had them already.
    None,
    FastForward,
    /// By a merge commit, because it has commits of its own.
    Merge,
    /// A word that this version does not know.
    Other(String),
}

impl From<String> for MergeType {
    fn from(word: String) -> Self {
        match word.as_str() {
            "none" => Self::None,
            "fast-forward" => Self::FastForward,
            "merge" => Self::Merge,
            _ => Self::Other(word),
        }
    }
}

/// `POST /repos/{owner}/{repo}/merge-upstream`:
/// <https://docs.github.com/en/rest/branches/branches#sync-a-fork-branch-with-the-upstream-repository>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Merged {
    /// GitHub's description does not promise it.
    #[serde(default)]
    pub merge_type: Option<MergeType>,
    #[serde(default)]
    pub message: Option<String>,
    /// The upstream's branch, as `owner:branch`.
    #[serde(default)]
    pub base_branch: Option<String>,
}

/// The relation of the head of a comparison to its base.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Relation {
    /// Only the head has commits that the other does not have.
    Ahead,
    /// Only the base has commits that the other does not have.
    Behind,
    /// Each has commits that the other does not have.
    Diverged,
    /// They are the same commit.
    Identical,
    /// A word that this version does not know.
    Other(String),
}

impl From<String> for Relation {
    fn from(word: String) -> Self {
        match word.as_str() {
            "ahead" => Self::Ahead,
            "behind" => Self::Behind,
            "diverged" => Self::Diverged,
            "identical" => Self::Identical,
            _ => Self::Other(word),
        }
    }
}

/// `GET /repos/{owner}/{repo}/compare/{basehead}`:
/// <https://docs.github.com/en/rest/commits/commits#compare-two-commits>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Comparison {
    pub status: Relation,
    /// The number of commits that only the head has.
    pub ahead_by: u64,
    /// The number of commits that only the base has.
    pub behind_by: u64,
}
