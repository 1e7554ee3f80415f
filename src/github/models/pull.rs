//! Pull requests as GitHub answers them.
use jiff::Timestamp;
use serde::Deserialize;

/// A pull request, as lists and single answers have it alike: <https://docs.github.com/en/rest/pulls/pulls>
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullRequest {
    /// Its number within the repository, in one sequence with issues.
    pub number: u64,
    /// The id in GraphQL.
    pub node_id: String,
    /// Its page.
    pub html_url: String,
    /// Whether it is open. A merged one is closed.
    pub state: PullState,
    /// When it was merged.
    #[serde(default)]
    pub merged_at: Option<Timestamp>,
    /// Whether it is a draft. A server that does not tell has none.
    #[serde(default)]
    pub draft: bool,
    /// What people read first.
    pub title: String,
    /// What is to be merged.
    pub head: PullHead,
    /// What it is to be merged into.
    pub base: PullBase,
}

/// Whether a pull request is open.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum PullState {
    /// It can be merged, changed, reviewed.
    Open,
    /// It was closed or merged.
    Closed,
    /// A word that is not known here.
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

/// The branch that is to be merged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullHead {
    /// The branch's name.
    #[serde(rename = "ref")]
    pub branch: String,
    /// The newest commit that GitHub has seen there.
    pub sha: String,
    /// Where the branch is. Null once that repository is gone, or to somebody who may not see it.
    #[serde(default)]
    pub repo: Option<PullRepository>,
}

/// The branch that is merged into.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullBase {
    /// The branch's name.
    #[serde(rename = "ref")]
    pub branch: String,
}

/// Which repository a head is in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PullRepository {
    /// Stays when the repository is renamed.
    pub id: u64,
    /// `owner/name`.
    pub full_name: String,
}
