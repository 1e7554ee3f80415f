//! The calls about pull requests.
//!
//! The invariant: a name, a title or an id is a value in a body, in a query or among GraphQL's variables, and never a part of
//! a text that GitHub interprets.
use http::HeaderMap;
use jiff::Timestamp;
use percent_encoding::utf8_percent_encode;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{Error, GitHub, NO_BODY, Route, SEGMENT};
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

/// A pull request that is to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewPull<'a> {
    /// What people read first; not empty, at most 256 characters.
    pub title: &'a str,
    /// The branch with the commits: one of the repository, or `owner:branch` of a fork.
    pub head: &'a str,
    /// The branch they are to be merged into.
    pub base: &'a str,
    /// What people read next, in GitHub's Markdown.
    pub body: &'a str,
    /// Whether nobody is to review it yet.
    pub draft: bool,
}

/// Why GitHub did not open a pull request, of the reasons that say what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// There is an open one from this head into this base.
    AlreadyExists,
    /// The head has no commit that the base has not.
    NoCommits,
    /// Drafts are not part of what this private repository's owner pays for.
    DraftUnsupported,
    /// There is no such base.
    BaseInvalid,
    /// There is no such head, or these credentials may not see it.
    HeadInvalid,
}

impl NotOpened {
    /// The reason in a refusal of [`GitHub::open_pull_request`], by its fields and by GitHub's words. `None` for any other
    /// failure, and if GitHub changes its words.
    #[must_use]
    pub fn told_by(error: &Error) -> Option<Self> {
        let Error::Unprocessable { message, errors, .. } = error else { return None };
        if message.starts_with("Draft pull requests are not supported") {
            return Some(Self::DraftUnsupported);
        }
        // The name of a branch may read like any of these words, but comes only after them.
        let of_pull_request = errors.iter().filter(|error| error.resource == "PullRequest");
        of_pull_request
            .filter_map(|FieldError { field, code, message, .. }| match (field.as_str(), code.as_str()) {
                ("base", "invalid") => Some(Self::BaseInvalid),
                ("head", "invalid") => Some(Self::HeadInvalid),
                _ if message.starts_with("A pull request already exists for ") => Some(Self::AlreadyExists),
                _ if message.starts_with("No commits between ") => Some(Self::NoCommits),
                _ => None,
            })
            .next()
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
    /// `GET /repos/{owner}/{repo}/pulls`: those that were ever opened from `head`, which is `owner:branch`, closed and merged
    /// ones among them; every page, by the order GitHub has: the newest first.
    ///
    /// GitHub takes a head that it cannot read for none and answers with all pull requests: of those only the ones from this
    /// branch of a repository of this owner are kept.
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

    /// `POST /repos/{owner}/{repo}/pulls`: opens one.
    ///
    /// Not idempotent: if the answer is lost, [list the pull requests](Self::pull_requests) before asking again.
    /// [`NotOpened::told_by`] tells the refusals apart that say what to do next.
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

    /// `PATCH /repos/{owner}/{repo}/pulls/{pull_number}`: closes it. One that is closed stays so.
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

    /// `POST /repos/{owner}/{repo}/issues/{issue_number}/labels`: puts labels on a pull request besides those it has; one that
    /// the repository does not have is made. It takes `pull_requests: write`.
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

    /// `markPullRequestReadyForReview` of GraphQL, for which REST has no call: a draft is none any more. `node_id` is
    /// [`PullRequest::node_id`]. It takes `contents: write` besides `pull_requests: write`.
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
            Some(_) => Err(self.malformed(GRAPHQL, "the pull request is a draft all the same".into())),
            None => Err(self.malformed(GRAPHQL, "its answer has neither data nor errors".into())),
        }
    }

    /// What GraphQL says inside a 200, as the same thing is said by REST.
    fn graphql_refusal(&self, error: &GraphQlError, headers: &HeaderMap) -> Error {
        let (target, message) = (self.target(GRAPHQL), shown(&error.message));
        match error.kind.as_str() {
            "NOT_FOUND" => Error::NotFound { target, message },
            "FORBIDDEN" => Error::Forbidden { target, message },
            "RATE_LIMITED" => match reset(headers) {
                Some(until) => Error::RateLimited { target, until, secondary: false },
                None => Error::Conflict { target, message },
            },
            // So GitHub answers when it took too long, or fell over something of its own.
            "" if error.message.starts_with("Something went wrong") => Error::Server { target, status: 200 },
            _ => Error::Unprocessable { target, message, errors: Vec::new() },
        }
    }
}

/// When GitHub says that there are calls to be had again.
fn reset(headers: &HeaderMap) -> Option<Timestamp> {
    let seconds = headers.get("x-ratelimit-reset")?.to_str().ok()?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests;
