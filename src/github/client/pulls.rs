//! The calls for pull requests.
//!
//! The invariant: a name, a title or an id is a value in a body, in a query or in GraphQL's variables, and never part of a text
//! that GitHub interprets.
use http::HeaderMap;
use jiff::Timestamp;
use percent_encoding::utf8_percent_encode;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{Error, GitHub, NO_BODY, Route, SEGMENT};
use crate::github::block::Block;
use crate::github::error::FieldError;
use crate::github::models::PullRequest;
use crate::github::redact::shown;
use crate::github::secret::Token;
use crate::github::stack::auth::Credential;

const LIST: Route = Route { method: "GET", template: "/repos/{owner}/{repo}/pulls" };
const GET: Route = Route { method: "GET", template: "/repos/{owner}/{repo}/pulls/{pull_number}" };
const OPEN: Route = Route { method: "POST", template: "/repos/{owner}/{repo}/pulls" };
const UPDATE: Route = Route { method: "PATCH", template: "/repos/{owner}/{repo}/pulls/{pull_number}" };
const ADD_LABELS: Route = Route { method: "POST", template: "/repos/{owner}/{repo}/issues/{issue_number}/labels" };
const GRAPHQL: Route = Route { method: "POST", template: "/graphql" };

const READY: &str =
    "mutation($id: ID!) { markPullRequestReadyForReview(input: {pullRequestId: $id}) { pullRequest { isDraft } } }";

/// A pull request to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewPull<'a> {
    /// Not empty, at most 256 characters.
    pub title: &'a str,
    /// The branch with the commits: in the repository, or `owner:branch` in a fork.
    pub head: &'a str,
    /// The branch to merge into.
    pub base: &'a str,
    /// In GitHub's Markdown.
    pub body: &'a str,
    pub draft: bool,
}

/// The reason why GitHub did not open a pull request, if the next step depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// An open pull request from this head into this base exists.
    AlreadyExists,
    /// The base contains all commits of the head.
    NoCommits,
    /// The plan of this private repository's owner has no drafts.
    DraftUnsupported,
    /// The base does not exist.
    BaseInvalid,
    /// The head does not exist, or these credentials have no access to it.
    HeadInvalid,
}

impl NotOpened {
    /// The reason in a refusal of [`GitHub::open_pull_request`], by its fields and by GitHub's message. `None` for any
    /// other failure, and if GitHub changes its messages.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        let Error::Unprocessable { message, errors, .. } = error else { return None };
        if message.starts_with("Draft pull requests are not supported") {
            return Some(Self::DraftUnsupported);
        }
        // The name of a branch may contain any of these words, but comes only after them.
        let mut of_pull_request = errors.iter().filter(|error| error.resource == "PullRequest");
        of_pull_request.find_map(|FieldError { field, code, message, .. }| match (field.as_str(), code.as_str()) {
            ("base", "invalid") => Some(Self::BaseInvalid),
            ("head", "invalid") => Some(Self::HeadInvalid),
            _ if message.starts_with("A pull request already exists for ") => Some(Self::AlreadyExists),
            _ if message.starts_with("No commits between ") => Some(Self::NoCommits),
            _ => None,
        })
    }
}

#[derive(Serialize)]
struct StateRequest<'a> {
    state: &'a str,
}

#[derive(Serialize)]
struct LabelsRequest<'a> {
    labels: &'a [&'a str],
}

#[derive(Serialize)]
struct GraphQlRequest<'a> {
    query: &'a str,
    variables: NodeId<'a>,
}

#[derive(Serialize)]
struct NodeId<'a> {
    id: &'a str,
}

#[derive(Deserialize)]
struct GraphQlAnswer {
    #[serde(default)]
    data: Option<ReadyData>,
    #[serde(default)]
    errors: Vec<GraphQlError>,
}

#[derive(Deserialize)]
struct ReadyData {
    #[serde(rename = "markPullRequestReadyForReview")]
    marked: Option<ReadyPayload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadyPayload {
    pull_request: Option<ReadyPull>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadyPull {
    is_draft: bool,
}

/// One of the errors that GraphQL answers with 200.
#[derive(Deserialize)]
struct GraphQlError {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

impl GitHub {
    /// `GET /repos/{owner}/{repo}/pulls`: all pull requests from `head` (`owner:branch`), also closed and merged ones; every
    /// page, the newest first.
    ///
    /// GitHub ignores a malformed head and lists all pull requests, so the result is filtered by the branch and its owner.
    pub async fn pull_requests(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        head: &str,
    ) -> Result<Vec<PullRequest>, Error> {
        let whose = head.split_once(':').filter(|(account, branch)| !account.is_empty() && !branch.is_empty());
        let (account, branch) = whose.ok_or_else(|| self.unsent(LIST, "a head is written owner:branch"))?;
        let path = self.repository_path(LIST, owner, name)?;
        let path = format!("{path}/pulls?state=all&head={}", utf8_percent_encode(head, SEGMENT));
        let mut found: Vec<PullRequest> = self.pages(LIST, &Credential::Token(token.clone()), &path).await?;
        found.retain(|pull| {
            let full_name = pull.head.repo.as_ref().map(|repo| repo.full_name.as_str());
            let of = full_name.and_then(|full_name| full_name.split_once('/'));
            pull.head.branch == branch && of.is_some_and(|(of, _)| of.eq_ignore_ascii_case(account))
        });
        Ok(found)
    }

    /// `GET /repos/{owner}/{repo}/pulls/{pull_number}`.
    pub async fn pull_request(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        number: u64,
    ) -> Result<PullRequest, Error> {
        let path = format!("{}/pulls/{number}", self.repository_path(GET, owner, name)?);
        let answer = self.send(GET, Credential::Token(token.clone()), &path, NO_BODY).await?;
        self.read(GET, answer).await
    }

    /// `POST /repos/{owner}/{repo}/pulls`.
    ///
    /// Not idempotent: if the answer is lost, [list the pull requests](Self::pull_requests) before asking again.
    /// [`NotOpened::of`] classifies a refusal.
    pub async fn open_pull_request(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        wanted: &NewPull<'_>,
    ) -> Result<PullRequest, Error> {
        let path = format!("{}/pulls", self.repository_path(OPEN, owner, name)?);
        let answer = self.send(OPEN, Credential::Token(token.clone()), &path, Some(wanted)).await?;
        self.read(OPEN, answer).await
    }

    /// `PATCH /repos/{owner}/{repo}/pulls/{pull_number}`: closes it. A closed one stays closed.
    pub async fn close_pull_request(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        number: u64,
    ) -> Result<PullRequest, Error> {
        let path = format!("{}/pulls/{number}", self.repository_path(UPDATE, owner, name)?);
        let body = StateRequest { state: "closed" };
        let answer = self.send(UPDATE, Credential::Token(token.clone()), &path, Some(&body)).await?;
        self.read(UPDATE, answer).await
    }

    /// `POST /repos/{owner}/{repo}/issues/{issue_number}/labels`: adds labels to a pull request. GitHub creates a label that the
    /// repository does not have. It needs `pull_requests: write`.
    pub async fn add_labels(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        number: u64,
        labels: &[&str],
    ) -> Result<(), Error> {
        if labels.is_empty() {
            return Ok(());
        }
        let path = format!("{}/issues/{number}/labels", self.repository_path(ADD_LABELS, owner, name)?);
        let body = LabelsRequest { labels };
        let answer = self.send(ADD_LABELS, Credential::Token(token.clone()), &path, Some(&body)).await?;
        self.read::<IgnoredAny>(ADD_LABELS, answer).await.map(drop)
    }

    /// GraphQL's `markPullRequestReadyForReview`, for which REST has no call. `node_id` is [`PullRequest::node_id`]. It needs
    /// `contents: write` and `pull_requests: write`.
    ///
    /// [`Error::Unprocessable`] if it is closed.
    /// <https://docs.github.com/en/graphql/reference/mutations#markpullrequestreadyforreview>
    pub async fn ready_for_review(&self, token: &Token, node_id: &str) -> Result<(), Error> {
        let body = GraphQlRequest { query: READY, variables: NodeId { id: node_id } };
        let address = self.endpoint.graphql_url();
        let answer = self.send(GRAPHQL, Credential::Token(token.clone()), address, Some(&body)).await?;
        let headers = answer.headers().clone();
        let answer: GraphQlAnswer = self.read(GRAPHQL, answer).await?;
        if let Some(error) = answer.errors.first() {
            return Err(self.graphql_refusal(error, &headers));
        }
        match answer.data.and_then(|data| data.marked).and_then(|marked| marked.pull_request) {
            Some(pull) if !pull.is_draft => Ok(()),
            Some(_) => Err(self.malformed(GRAPHQL, "the pull request is still a draft".into())),
            None => Err(self.malformed(GRAPHQL, "its answer has neither data nor errors".into())),
        }
    }

    /// Converts an error in a 200 of GraphQL into the error of an equivalent REST call.
    fn graphql_refusal(&self, error: &GraphQlError, headers: &HeaderMap) -> Error {
        let (target, message) = (self.target(GRAPHQL), shown(&error.message));
        match error.kind.as_str() {
            "NOT_FOUND" => Error::NotFound { target, message },
            "FORBIDDEN" => match Block::of(&message) {
                Some(block) => Error::Blocked { target, message, block },
                None => Error::Forbidden { target, message },
            },
            "RATE_LIMITED" => match reset(headers) {
                Some(until) => Error::RateLimited { target, until, secondary: false },
                None => Error::Conflict { target, message },
            },
            // GitHub's messages for its own timeout or failure.
            "" if error.message.starts_with("Something went wrong") => Error::Server { target, status: 200 },
            _ => Error::Unprocessable { target, message, errors: Vec::new() },
        }
    }
}

/// The time at which GitHub accepts calls again.
fn reset(headers: &HeaderMap) -> Option<Timestamp> {
    let seconds = headers.get("x-ratelimit-reset")?.to_str().ok()?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests;
