//! The calls about a repository.
use percent_encoding::utf8_percent_encode;

use super::{Error, GitHub, NO_BODY, Route, SEGMENT};
use crate::github::models::{Comparison, Repository};
use crate::github::secret::Token;
use crate::github::stack::auth::Credential;

const BY_ID: Route = Route { method: "GET", template: "/repositories/{repository_id}" };
const BY_NAME: Route = Route { method: "GET", template: "/repos/{owner}/{repo}" };
const COMPARE: Route = Route { method: "GET", template: "/repos/{owner}/{repo}/compare/{basehead}" };

impl GitHub {
    /// `GET /repositories/{id}`: whatever the repository is called by now. GitHub's own redirects point here; its
    /// documentation does not list it.
    pub async fn repository(&self, token: &Token, id: u64) -> Result<Repository, Error> {
        self.one_repository(BY_ID, token, &format!("/repositories/{id}")).await
    }

    /// `GET /repos/{owner}/{repo}`. A former name leads to the repository that had it: the answer's id tells which it is.
    pub async fn repository_named(&self, token: &Token, owner: &str, name: &str) -> Result<Repository, Error> {
        self.one_repository(BY_NAME, token, &self.repository_path(BY_NAME, owner, name)?).await
    }

    async fn one_repository(&self, route: Route, token: &Token, path: &str) -> Result<Repository, Error> {
        let answer = self.send(route, Credential::Token(token.clone()), path, NO_BODY).await?;
        self.read(route, answer).await
    }

    /// `GET /repos/{owner}/{repo}/compare/{base}...{head}`: how `head` stands to `base`. Each is a branch, a tag, a commit,
    /// or one of these in another repository of the network, as `owner:branch`. [`Error::NotFound`] if one of them is not
    /// there, or if they have no commit in common.
    pub async fn compare(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        base: &str,
        head: &str,
    ) -> Result<Comparison, Error> {
        if base.is_empty() || head.is_empty() {
            return Err(self.unsent(COMPARE, "a comparison needs two commits"));
        }
        let path = self.repository_path(COMPARE, owner, name)?;
        let (base, head) = (utf8_percent_encode(base, SEGMENT), utf8_percent_encode(head, SEGMENT));
        // Of the commits, one: they are not read.
        let path = format!("{path}/compare/{base}...{head}?per_page=1");
        let answer = self.send(COMPARE, Credential::Token(token.clone()), &path, NO_BODY).await?;
        self.read(COMPARE, answer).await
    }
}
