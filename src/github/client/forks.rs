//! The calls that create forks and synchronize them.
use serde::Serialize;

use super::{Error, GitHub, Route};
use crate::github::models::{Merged, Repository};
use crate::github::secret::Token;
use crate::github::stack::auth::Credential;

const FORK: Route = Route { method: "POST", template: "/repos/{owner}/{repo}/forks" };
const MERGE_UPSTREAM: Route = Route { method: "POST", template: "/repos/{owner}/{repo}/merge-upstream" };

/// The branches that a fork gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkBranches {
    /// The default branch alone.
    Default,
    /// All branches.
    All,
}

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
    /// `POST /repos/{owner}/{repo}/forks`: creates a fork in `organization`, or else in the account of the token.
    /// GitHub answers before the fork can be cloned.
    ///
    /// GitHub may return another repository: an existing fork of the account, whatever its name, or the source itself if the
    /// account owns it. Compare `id`, `owner`, `name` and `parent` with the wanted ones. If the
    /// answer is lost, look for the fork before asking again.
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
        branches: ForkBranches,
    ) -> Result<Repository, Error> {
        let path = format!("{}/forks", self.repository_path(FORK, source_owner, source_name)?);
        let body = ForkRequest { organization, name, default_branch_only: branches == ForkBranches::Default };
        let answer = self.send(FORK, Credential::Token(token.clone()), &path, Some(&body)).await?;
        self.read(FORK, answer).await
    }

    /// `POST /repos/{owner}/{repo}/merge-upstream`: updates `branch` of a fork from its upstream. A branch with commits
    /// of its own gets a merge commit: [`compare`](Self::compare) first to avoid that.
    ///
    /// [`Error::Conflict`] if the two cannot be merged, [`Error::NotFound`] if there is no such branch,
    /// [`Error::Unprocessable`] if it is no fork.
    pub async fn merge_upstream(&self, token: &Token, owner: &str, name: &str, branch: &str) -> Result<Merged, Error> {
        let path = format!("{}/merge-upstream", self.repository_path(MERGE_UPSTREAM, owner, name)?);
        let body = MergeUpstreamRequest { branch };
        let answer = self.send(MERGE_UPSTREAM, Credential::Token(token.clone()), &path, Some(&body)).await?;
        self.read(MERGE_UPSTREAM, answer).await
    }
}

#[cfg(test)]
mod tests {
    use crate::github::scripted::{Scripted, answer, refusal};
    use crate::github::{Error, ForkBranches, MergeType, Token};
    use crate::ids::id;

    const FORK: &str =
        r#"{"id": 6, "node_id": "R_6", "name": "lib", "full_name": "acme/lib", "private": false, "fork": true}"#;

    fn token() -> Token {
        Token::new("ghs_7_a.b-c".into())
    }

    #[tokio::test]
    async fn a_fork_is_asked_for_with_what_was_said_and_no_more() {
        let github = Scripted::new(|_| answer(202, &[], FORK));
        for (organization, name, branches, body) in [
            (None, None, ForkBranches::Default, r#"{"default_branch_only":true}"#),
            (
                Some("acme"),
                Some("their-lib"),
                ForkBranches::All,
                r#"{"organization":"acme","name":"their-lib","default_branch_only":false}"#,
            ),
        ] {
            let fork = github.github.create_fork(&token(), "up", "lib", organization, name, branches).await.unwrap();
            assert_eq!((fork.id, fork.fork), (id(6), Some(true)));
            let sent = github.sent.lock().unwrap().pop().unwrap();
            assert_eq!(sent.line(), "POST https://h.example/api/v3/repos/up/lib/forks");
            assert_eq!(sent.body, body);
        }
    }

    #[tokio::test]
    async fn a_branch_is_brought_in_step_and_how_is_told() {
        for (word, expected) in [
            ("none", MergeType::None),
            ("fast-forward", MergeType::FastForward),
            ("merge", MergeType::Merge),
            ("rebase", MergeType::Other("rebase".into())),
        ] {
            let github = Scripted::new(move |_| {
                let body = serde_json::json!({"message": "done", "merge_type": word, "base_branch": "up:main"});
                answer(200, &[], &body.to_string())
            });
            let merged = github.github.merge_upstream(&token(), "acme", "lib", "main").await.unwrap();
            assert_eq!((merged.merge_type, merged.base_branch.as_deref()), (Some(expected), Some("up:main")));
            let sent = github.sent.lock().unwrap().pop().unwrap();
            assert_eq!(sent.line(), "POST https://h.example/api/v3/repos/acme/lib/merge-upstream");
            assert_eq!(sent.body, r#"{"branch":"main"}"#);
        }
        let github = Scripted::new(|_| refusal(409, "There are merge conflicts"));
        let error = github.github.merge_upstream(&token(), "acme", "lib", "main").await.unwrap_err();
        assert!(matches!(&error, Error::Conflict { message, .. } if message == "There are merge conflicts"), "{error}");
    }
}
