//! The calls that make forks and keep them in step.
use serde::Serialize;

use super::{Error, GitHub, Route};
use crate::github::models::{Merged, Repository};
use crate::github::secret::Token;
use crate::github::stack::auth::Credential;

const FORK: Route = Route { method: "POST", template: "/repos/{owner}/{repo}/forks" };
const MERGE_UPSTREAM: Route = Route { method: "POST", template: "/repos/{owner}/{repo}/merge-upstream" };

#[derive(Serialize)]
struct ForkRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    organization: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    default_branch_only: bool,
}

#[derive(Serialize)]
struct MergeUpstreamRequest<'a> {
    branch: &'a str,
}

impl GitHub {
    /// `POST /repos/{owner}/{repo}/forks`: a fork of it in `organization`, or else in the account that the token is of.
    /// GitHub answers before the fork can be cloned.
    ///
    /// The answer is not always what was asked for: an account that has a fork gets that one, whatever its name, and the
    /// owner of the source gets the source itself. Hold `id`, `owner`, `name` and `parent` against what was wanted. When no
    /// answer comes ([`Error::may_have_happened`]), look for the fork before asking again.
    ///
    /// [`Error::Forbidden`] if the source is empty, or if the App is not installed on the source and on all repositories of
    /// the destination.
    pub async fn create_fork(
        &self,
        token: &Token,
        source_owner: &str,
        source_name: &str,
        organization: Option<&str>,
        name: Option<&str>,
        default_branch_only: bool,
    ) -> Result<Repository, Error> {
        let path = format!("{}/forks", self.repository_path(FORK, source_owner, source_name)?);
        let body = ForkRequest { organization, name, default_branch_only };
        let answer = self.send(FORK, Credential::Token(token.clone()), &path, Some(&body)).await?;
        self.read(FORK, answer).await
    }

    /// `POST /repos/{owner}/{repo}/merge-upstream`: brings `branch` of a fork to what its upstream has. A branch with
    /// commits of its own gets a merge commit: [`compare`](Self::compare) first if it must not.
    ///
    /// [`Error::Conflict`] if the two cannot be merged, [`Error::Unprocessable`] if it is no fork or the upstream has no such
    /// branch, [`Error::NotFound`] if the fork has none.
    pub async fn merge_upstream(&self, token: &Token, owner: &str, name: &str, branch: &str) -> Result<Merged, Error> {
        let path = format!("{}/merge-upstream", self.repository_path(MERGE_UPSTREAM, owner, name)?);
        let body = MergeUpstreamRequest { branch };
        let answer = self.send(MERGE_UPSTREAM, Credential::Token(token.clone()), &path, Some(&body)).await?;
        self.read(MERGE_UPSTREAM, answer).await
    }
}
