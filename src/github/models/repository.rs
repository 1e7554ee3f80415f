//! A repository as GitHub answers it, and how two branches stand to each other.
use serde::Deserialize;

use super::Account;

/// A repository: <https://docs.github.com/en/rest/repos/repos#get-a-repository>
///
/// The first five fields are in every answer, even the shortest; of the others, `None` says only that an answer did not tell.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Repository {
    /// Stays when the repository is renamed or transferred; a repository made anew under the same name has another.
    pub id: u64,
    /// The id in GraphQL.
    pub node_id: String,
    /// The name within its owner.
    pub name: String,
    /// `owner/name`.
    pub full_name: String,
    /// Whether only those who were let in see it.
    pub private: bool,
    /// Whose it is.
    #[serde(default)]
    pub owner: Option<Account>,
    /// Whether its administrators made it read-only.
    #[serde(default)]
    pub archived: Option<bool>,
    /// Whether GitHub has shut it.
    #[serde(default)]
    pub disabled: Option<bool>,
    /// Whether it is a fork.
    #[serde(default)]
    pub fork: Option<bool>,
    /// The branch that is meant when none is named. An empty repository has one too, although it is not there yet.
    #[serde(default)]
    pub default_branch: Option<String>,
    /// Its page.
    #[serde(default)]
    pub html_url: Option<String>,
    /// Where git clones it from over HTTPS.
    #[serde(default)]
    pub clone_url: Option<String>,
    /// In KiB, as GitHub last counted; 0 for an empty repository, and for a while after the first push.
    #[serde(default)]
    pub size: Option<u64>,
    /// What it was forked from. Only where one repository was asked for.
    #[serde(default)]
    pub parent: Option<Box<Self>>,
    /// Where its network of forks begins. Only where one repository was asked for.
    #[serde(default)]
    pub source: Option<Box<Self>>,
}

/// How a branch of a fork got its upstream's commits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum MergeType {
    /// It had them all.
    None,
    /// It was moved forward to the upstream's head.
    FastForward,
    /// By a merge commit, for it has commits of its own.
    Merge,
    /// A word that is not known here.
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
    /// What was done, if GitHub tells.
    #[serde(default)]
    pub merge_type: Option<MergeType>,
    /// What GitHub says about it.
    #[serde(default)]
    pub message: Option<String>,
    /// The upstream's branch, as `owner:branch`.
    #[serde(default)]
    pub base_branch: Option<String>,
}

/// How the head of a comparison stands to its base.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Relation {
    /// The head has commits that the base has not.
    Ahead,
    /// The base has commits that the head has not.
    Behind,
    /// Each has commits that the other has not.
    Diverged,
    /// They are the same commit.
    Identical,
    /// A word that is not known here.
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
    /// How the head stands to the base.
    pub status: Relation,
    /// How many commits the head has that the base has not.
    pub ahead_by: u64,
    /// How many commits the base has that the head has not.
    pub behind_by: u64,
}
