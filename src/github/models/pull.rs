//! Pull requests in GitHub's answers.
use jiff::Timestamp;
use serde::Deserialize;

use crate::ids::RepositoryId;

/// A pull request, in a list or alone: <https://docs.github.com/en/rest/pulls/pulls>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullRequest {
    /// Unique among the repository's issues and pull requests.
    pub number: u64,
    /// The id for GraphQL.
    pub node_id: String,
    pub html_url: String,
    /// A merged one is closed.
    pub state: PullState,
    #[serde(default)]
    pub merged_at: Option<Timestamp>,
    /// False if the server has no drafts.
    #[serde(default)]
    pub draft: bool,
    pub title: String,
    pub head: PullHead,
    pub base: PullBase,
}

/// The state of a pull request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum PullState {
    Open,
    /// Closed or merged.
    Closed,
    /// A word that this version does not know.
    Other(String),
}

impl From<String> for PullState {
    fn from(word: String) -> Self {
        match word.as_str() {
            "open" => Self::Open,
            "closed" => Self::Closed,
            _ => Self::Other(word),
        }
    }
}

/// The branch to merge.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullHead {
    #[serde(rename = "ref")]
    pub branch: String,
    /// The newest commit that GitHub has seen on it.
    pub sha: String,
    /// The repository of the branch. Null if it was deleted, or if the credentials have no access to it.
    #[serde(default)]
    pub repo: Option<PullRepository>,
}

/// The branch to merge into.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullBase {
    #[serde(rename = "ref")]
    pub branch: String,
}

/// The repository of a head.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullRepository {
    /// A rename does not change it.
    pub id: RepositoryId,
    /// `owner/name`.
    pub full_name: String,
}
