//! The calls for repositories.
use percent_encoding::utf8_percent_encode;

use super::{Error, GitHub, MINT, NO_BODY, Repositories, Route, SEGMENT, Scope, VERIFY, next_page};
use crate::github::models::{Comparison, Repository};
use crate::github::secret::Token;
use crate::github::stack::auth::Credential;
use crate::ids::{InstallationId, RepositoryId};
use serde::Deserialize;

const BY_ID: Route = Route { method: "GET", template: "/repositories/{repository_id}" };
const COMPARE: Route = Route { method: "GET", template: "/repos/{owner}/{repo}/compare/{basehead}" };

/// The repositories that a token reaches.
#[derive(Clone, Debug, PartialEq)]
pub enum Listed {
    All(Vec<Repository>),
    /// There are more pages than may be read.
    TooMany {
        /// How many there are.
        pages: usize,
    },
}

#[derive(Deserialize)]
struct Page {
    total_count: usize,
    repositories: Vec<Repository>,
}

const PER_PAGE: usize = 100;

impl GitHub {
    /// `GET /installation/repositories`: the repositories that the token reaches, if they fit on `most` pages of a hundred.
    pub async fn repositories(&self, token: &Token, most: usize) -> Result<Listed, Error> {
        let mut found = Vec::new();
        let mut page = format!("{}{}?per_page={PER_PAGE}", self.endpoint.api_url(), VERIFY.template);
        for _ in 0..most {
            let answer = self.send(VERIFY, Credential::Token(token.clone()), &page, NO_BODY).await?;
            let next = next_page(answer.headers(), &page).map_err(|what| self.malformed(VERIFY, what.to_owned()))?;
            let Page { total_count, repositories } = self.read(VERIFY, answer).await?;
            let pages = total_count.div_ceil(PER_PAGE);
            if pages > most {
                return Ok(Listed::TooMany { pages });
            }
            found.extend(repositories);
            match next {
                Some(next) => page = next.into(),
                None => return Ok(Listed::All(found)),
            }
        }
        Ok(Listed::TooMany { pages: most.saturating_add(1) })
    }

    /// `GET /repositories/{id}`: the repository under its current name. GitHub's own redirects point to this address, although
    /// its documentation does not list it.
    pub async fn repository(&self, token: &Token, id: RepositoryId) -> Result<Repository, Error> {
        let path = format!("/repositories/{id}");
        let answer = self.send(BY_ID, Credential::Token(token.clone()), &path, NO_BODY).await?;
        self.read(BY_ID, answer).await
    }

    /// The repository in the answer to the mint of a token for it, which the App's own rate limit pays for. The token reads
    /// metadata alone. Nobody uses it, and it expires within the hour.
    pub async fn repository_by_mint(
        &self,
        installation: InstallationId,
        id: RepositoryId,
    ) -> Result<Repository, Error> {
        let permissions = [("metadata".to_owned(), "read".to_owned())].into();
        let minted = self.mint(installation, &Scope { repositories: Repositories::Ids(vec![id]), permissions }).await;
        let minted = minted.map_err(|error| match error {
            // That is how a mint says that the installation does not reach the repository.
            Error::Unprocessable { target, message, .. } => Error::NotFound { target, message },
            other => other,
        })?;
        let mut of_it = minted.repositories.into_iter().flatten().filter(|repository| repository.id == id);
        of_it.next().ok_or_else(|| self.malformed(MINT, "no repository is in the answer".to_owned()))
    }

    /// `GET /repos/{owner}/{repo}/compare/{base}...{head}`. Each of the two is a branch, a tag, a commit, or one of these in
    /// another repository of the network, as `owner:branch`. [`Error::NotFound`] if one of them does not exist, or if they have
    /// no common commit.
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
        // The commits themselves are not read, so one is enough.
        let path = format!("{path}/compare/{base}...{head}?per_page=1");
        let answer = self.send(COMPARE, Credential::Token(token.clone()), &path, NO_BODY).await?;
        self.read(COMPARE, answer).await
    }
}

#[cfg(test)]
mod tests {
    use crate::github::scripted::{Scripted, answer};
    use crate::github::{Error, Relation, Repository, Token};
    use crate::ids::id;

    const SHOP: &str = r#"{"id": 5, "node_id": "R_5", "name": "shop", "full_name": "acme/shop", "private": true}"#;

    fn token() -> Token {
        Token::new("ghs_7_a.b-c".into())
    }

    #[tokio::test]
    async fn a_repository_is_asked_for_by_id() {
        let github = Scripted::new(|_| answer(200, &[], SHOP));
        assert_eq!(github.github.repository(&token(), id(5)).await.unwrap().full_name, "acme/shop");
        assert_eq!(github.lines(), ["GET https://h.example/api/v3/repositories/5"]);
        assert!(github.sent.lock().unwrap().iter().all(|sent| sent.bearer() == Some("ghs_7_a.b-c")));
        let templates: Vec<_> =
            github.exchanges.lock().unwrap().iter().map(|exchange| exchange.route.template).collect();
        assert_eq!(templates, ["/repositories/{repository_id}"]);
    }

    #[tokio::test]
    async fn a_read_follows_a_former_name() {
        let moved = "https://h.example/api/v3/repositories/5/hooks";
        let github = Scripted::new(move |sent| {
            if sent.url == moved { answer(200, &[], "[]") } else { answer(301, &[("location", moved)], "") }
        });
        assert_eq!(github.github.hooks(&token(), "acme", "store").await.unwrap(), []);
        assert_eq!(github.lines()[1], format!("GET {moved}"));
    }

    #[tokio::test]
    async fn a_name_is_one_segment_of_the_path() {
        let github = Scripted::new(|_| answer(200, &[], "[]"));
        github.github.hooks(&token(), "a/b", "c?d#e%2f").await.unwrap();
        assert_eq!(github.lines(), ["GET https://h.example/api/v3/repos/a%2Fb/c%3Fd%23e%252f/hooks?per_page=100"]);
        for (owner, name) in [("..", "shop"), ("acme", ".."), ("acme", "."), ("", "shop"), ("acme", "")] {
            let error = github.github.hooks(&token(), owner, name).await.unwrap_err();
            assert!(matches!(error, Error::Unsent { .. }), "{error}");
        }
        assert_eq!(github.lines().len(), 1);
    }

    #[tokio::test]
    async fn what_is_compared_is_escaped_and_how_it_stands_is_read() {
        let comparison = r#"{"status": "behind", "ahead_by": 0, "behind_by": 3, "total_commits": 0, "commits": []}"#;
        let github = Scripted::new(move |_| answer(200, &[], comparison));
        let found = github.github.compare(&token(), "acme", "lib", "up:main", "feature/a?b#c").await.unwrap();
        assert_eq!((found.status, found.ahead_by, found.behind_by), (Relation::Behind, 0, 3));
        assert_eq!(
            github.lines(),
            ["GET https://h.example/api/v3/repos/acme/lib/compare/up%3Amain...feature%2Fa%3Fb%23c?per_page=1"]
        );
        for (base, head) in [("", "main"), ("main", "")] {
            let error = github.github.compare(&token(), "acme", "lib", base, head).await.unwrap_err();
            assert!(matches!(error, Error::Unsent { .. }), "{error}");
        }
        assert_eq!(github.lines().len(), 1);
    }

    #[test]
    fn the_shortest_and_the_fullest_answer_can_be_read() {
        let short: Repository = serde_json::from_str(SHOP).unwrap();
        assert_eq!((short.archived, short.default_branch, short.parent), (None, None, None));
        let full: Repository = serde_json::from_value(serde_json::json!({
            "id": 6, "node_id": "R_6", "name": "lib", "full_name": "acme/lib", "private": false, "archived": true,
            "disabled": false, "fork": true, "default_branch": "main", "html_url": "https://h.example/acme/lib",
            "clone_url": "https://h.example/acme/lib.git", "size": 0, "license": null, "brand_new": [],
            "owner": {"id": 1, "login": "acme", "type": "Organization"},
            "parent": {"id": 5, "node_id": "R_5", "name": "lib", "full_name": "up/lib", "private": false, "owner": null},
        }))
        .unwrap();
        assert_eq!(
            (full.archived, full.disabled, full.fork, full.size),
            (Some(true), Some(false), Some(true), Some(0))
        );
        assert_eq!(full.owner.unwrap().login, "acme");
        assert_eq!((full.parent.unwrap().full_name.as_str(), full.source), ("up/lib", None));
    }
}
