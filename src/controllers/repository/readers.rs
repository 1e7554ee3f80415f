//! The operator's own tokens for reading: one for all followed repositories of an installation, valid for an hour.
//!
//! Invariant: these tokens exist only in this process's memory, are never published, and read only code and metadata.
//! The grant decides whether a repository may be read for a namespace, before a token is used. One token serves all,
//! because a token for each repository would cost one call an hour for each; GitHub's answer also has the current name
//! of each repository.

use crate::github::{Error, GitHub, Minted, Repositories, Repository, Scope, Token};
use crate::ids::{InstallationId, RepositoryId};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as Turn;

/// How long before its end a token is no longer used. For a token that lives shorter than an hour, it is a quarter of
/// its life.
const MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// The most repositories that GitHub accepts in one token request.
const MOST: usize = 500;
/// How long a repository is left out of shared tokens after GitHub refused a shared token because of it.
const APART: SignedDuration = SignedDuration::from_mins(30);
/// The most calls at once to find the repositories that made GitHub refuse a shared token. It is enough for two among
/// the largest number. The others are requested when they are needed.
const MOST_TRIES: usize = 36;

/// A token and the repositories that it reads.
struct Reader {
    token: Token,
    ids: BTreeSet<RepositoryId>,
    good_until: Timestamp,
}

/// The tokens of one installation.
#[derive(Default)]
struct Readers {
    live: Vec<Reader>,
    /// The repositories that made GitHub refuse a token, and until when they are left out.
    apart: HashMap<RepositoryId, Timestamp>,
}

/// The identity of the connection, and the installation's id.
type Key = (String, InstallationId);

/// The tokens of all installations.
#[derive(Default)]
pub struct ReadTokens {
    by_installation: Mutex<HashMap<Key, Arc<Turn<Readers>>>>,
}

/// A token that reads a repository, and the repositories in GitHub's answer to the token request.
pub struct Read {
    pub token: Token,
    /// The repositories in GitHub's answer, if it was asked just now.
    pub said: Vec<Repository>,
    /// The repositories that made GitHub refuse a token, once for each request that this cost.
    pub refused: Vec<RepositoryId>,
}

impl ReadTokens {
    fn of(&self, identity: &str, installation: InstallationId) -> Arc<Turn<Readers>> {
        let mut all = self.by_installation.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((identity.to_owned(), installation)).or_default())
    }

    /// Whether there is a token that reads the repository with this id.
    pub async fn has(
        &self,
        (identity, installation): (&str, InstallationId),
        id: RepositoryId,
        now: Timestamp,
    ) -> bool {
        let of = self.of(identity, installation);
        let readers = of.lock().await;
        readers.live.iter().any(|reader| reader.good_until > now && reader.ids.contains(&id))
    }

    /// A token that reads the repository with this id. A new one is minted for it together with `others`. If GitHub
    /// refuses them because one of them is gone, they are requested by halves, until that one is found.
    ///
    /// # Errors
    /// GitHub gave no token.
    pub async fn by_id(
        &self,
        github: &GitHub,
        (identity, installation): (&str, InstallationId),
        id: RepositoryId,
        others: impl FnOnce() -> Vec<RepositoryId>,
        now: Timestamp,
    ) -> Result<Read, Error> {
        let of = self.of(identity, installation);
        // Held while GitHub is asked, so that another caller gets this token.
        let mut readers = of.lock().await;
        readers.live.retain(|reader| reader.good_until > now);
        if let Some(reader) = readers.live.iter().find(|reader| reader.ids.contains(&id)) {
            return Ok(Read { token: reader.token.clone(), said: Vec::new(), refused: Vec::new() });
        }
        readers.apart.retain(|_, until| *until > now);
        let mut group = vec![id];
        if !readers.apart.contains_key(&id) {
            group.extend(others().into_iter().filter(|other| *other != id && !readers.is_settled(*other)));
            group.truncate(MOST);
        }
        let mut rest = Vec::new();
        let mut read = loop {
            match mint(github, installation, Repositories::Ids(group.clone())).await {
                Err(error @ Error::Unprocessable { .. }) if group.len() > 1 && !error.lacks_permissions() => {
                    rest.push(group.split_off(group.len() / 2));
                }
                minted => break readers.keep(minted?, now),
            }
        };
        let (mut calls, mut gone) = (rest.len(), Vec::new());
        for _ in 0..MOST_TRIES {
            let Some(mut group) = rest.pop() else { break };
            calls += 1;
            match mint(github, installation, Repositories::Ids(group.clone())).await {
                Ok(minted) => read.said.extend(readers.keep(minted, now).said),
                Err(Error::Unprocessable { .. }) if group.len() > 1 => {
                    rest.push(group.split_off(group.len() / 2));
                    rest.push(group);
                }
                Err(Error::Unprocessable { .. }) => {
                    gone.extend(group.iter().copied());
                    readers.apart.extend(group.into_iter().zip(now.checked_add(APART).ok()));
                }
                // The rest are requested when they are needed.
                Err(_) => break,
            }
        }
        read.refused = gone.iter().copied().cycle().take(if gone.is_empty() { 0 } else { calls }).collect();
        Ok(read)
    }

    /// A token that reads the repository with this current name, and GitHub's answer about it.
    ///
    /// # Errors
    /// GitHub gave no token.
    pub async fn by_name(
        &self,
        github: &GitHub,
        (identity, installation): (&str, InstallationId),
        name: &str,
        now: Timestamp,
    ) -> Result<Read, Error> {
        let minted = mint(github, installation, Repositories::Names(vec![name.to_owned()])).await?;
        Ok(self.of(identity, installation).lock().await.keep(minted, now))
    }

    /// Forgets a token that GitHub refused.
    pub async fn refused(&self, (identity, installation): (&str, InstallationId), token: &Token) {
        self.of(identity, installation).lock().await.live.retain(|reader| reader.token != *token);
    }
}

impl Readers {
    /// Whether the id needs no token: it is read already, or is left out.
    fn is_settled(&self, id: RepositoryId) -> bool {
        self.apart.contains_key(&id) || self.live.iter().any(|reader| reader.ids.contains(&id))
    }

    fn keep(&mut self, minted: Minted, now: Timestamp) -> Read {
        let said = minted.repositories.unwrap_or_default();
        let margin = MARGIN.min(minted.expires_at.duration_since(now) / 4);
        self.live.push(Reader {
            token: minted.token.clone(),
            ids: said.iter().map(|repository| repository.id).collect(),
            good_until: minted.expires_at.checked_sub(margin).unwrap_or(now),
        });
        Read { token: minted.token, said, refused: Vec::new() }
    }
}

async fn mint(github: &GitHub, installation: InstallationId, repositories: Repositories) -> Result<Minted, Error> {
    github.mint(installation, &Scope { repositories, permissions: crate::api::default_permissions() }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::github::scripted::{NOW, Scripted, answer, refusal};
    use crate::ids::id;
    use serde_json::{Value, json};

    /// A GitHub that mints for all repositories except these.
    fn without(gone: &'static [u64]) -> Scripted {
        Scripted::new(move |asked| {
            let body: Value = serde_json::from_str(&asked.body).unwrap();
            let ids: Vec<u64> = serde_json::from_value(body["repository_ids"].clone()).unwrap();
            if ids.iter().any(|id| gone.contains(id)) {
                return refusal(422, "There is at least one repository that does not exist or is not accessible");
            }
            let repository =
                |id: &u64| json!({"id": id, "node_id": "R", "name": "r", "full_name": "acme/r", "private": true});
            let repositories: Vec<_> = ids.iter().map(repository).collect();
            let expires_at = "2026-11-21T02:00:00Z";
            let minted = json!({"token": "ghs_1_a.b-c", "expires_at": expires_at, "permissions": {}, "repository_selection": "selected", "repositories": repositories});
            answer(201, &[], &minted.to_string())
        })
    }

    #[tokio::test]
    async fn those_that_are_gone_are_found_by_halves_and_left_out_and_the_others_share_tokens() {
        let github = without(&[7, 90]);
        let readers = ReadTokens::default();
        let now: Timestamp = NOW.parse().unwrap();
        let read = async |number, now| {
            readers.by_id(&github.github, ("x", id(501)), id(number), || (1..=100).map(id).collect(), now).await
        };
        let asked = || github.lines().len();
        let first = read(1, now).await.unwrap();
        assert_eq!(first.said.len(), 98, "all but the two");
        assert_eq!(first.refused.len(), asked() - 1, "the two are charged with what they cost");
        assert!(first.refused.iter().all(|refused| [id(7), id(90)].contains(refused)));
        assert!(asked() <= 2 * 2 * 7 + 1, "{} calls", asked());
        let before = asked();
        for id in (2..=100).filter(|id| ![7, 90].contains(id)) {
            read(id, now).await.unwrap();
        }
        assert_eq!(asked(), before, "each has a token");
        assert!(matches!(read(7, now).await, Err(Error::Unprocessable { .. })));
        assert_eq!(asked(), before + 1, "who asks for one of the two asks for it alone");
        // The next hour's token is requested with all the others, and with the two again.
        let later = now.checked_add(SignedDuration::from_mins(58)).unwrap();
        assert_eq!(read(1, later).await.unwrap().said.len(), 98);
        assert!(asked() - before <= 2 * 2 * 7 + 2, "{} calls", asked());
    }

    #[tokio::test]
    async fn where_the_permission_is_lacking_nothing_is_halved() {
        let github = Scripted::new(|_| refusal(422, "The permissions requested are not granted to this installation."));
        let readers = ReadTokens::default();
        let read = readers
            .by_id(&github.github, ("x", id(501)), id(1), || (1..=100).map(id).collect(), NOW.parse().unwrap())
            .await;
        assert!(read.is_err());
        assert_eq!(github.lines().len(), 1);
    }
}
