//! The operator's own tokens for reading: one for all repositories of an installation that are followed, an hour long.
//!
//! Invariant: they are in this process's memory alone, never published, and read code and metadata, nothing else. Whether
//! a repository may be read for a namespace is decided before one is used, by the grant. One for all, because a token each
//! would cost a call an hour for each repository; what GitHub answers with it says of each what it is called now.

use crate::github::{Error, GitHub, Minted, Repositories, Repository, Scope, Token};
use crate::ids::{InstallationId, RepositoryId};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as Turn;

/// Before its end a token is not used any more; of one that lives shorter than an hour, a quarter of its life.
const MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// What GitHub takes in one request for a token.
const MOST: usize = 500;
/// How long a repository that had a token for many refused is left out of such.
const APART: SignedDuration = SignedDuration::from_mins(30);
/// How often GitHub may be asked at once to find out which ones had a token for many refused: enough for two among the
/// most there can be. The others are asked for when they are needed.
const MOST_TRIES: usize = 36;

/// A token and what it reads.
struct Reader {
    token: Token,
    ids: BTreeSet<RepositoryId>,
    good_until: Timestamp,
}

/// Of one installation.
#[derive(Default)]
struct Readers {
    live: Vec<Reader>,
    /// Those that had a token refused, and until when they are left out.
    apart: HashMap<RepositoryId, Timestamp>,
}

/// What the connection is identified by, and the installation's id.
type Key = (String, InstallationId);

/// Of all installations.
#[derive(Default)]
pub struct ReadTokens {
    by_installation: Mutex<HashMap<Key, Arc<Turn<Readers>>>>,
}

/// A token that reads a repository, and what GitHub said of repositories when it gave it.
pub struct Read {
    /// The token.
    pub token: Token,
    /// What GitHub said, if it was asked just now.
    pub said: Vec<Repository>,
}

impl ReadTokens {
    fn of(&self, identity: &str, installation: InstallationId) -> Arc<Turn<Readers>> {
        let mut all = self.by_installation.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((identity.to_owned(), installation)).or_default())
    }

    /// A token that reads the repository with this id; a new one is minted for it together with `others`. Should GitHub
    /// refuse them, for one of them is gone, they are asked for by halves, until it is known which.
    ///
    /// # Errors
    /// GitHub gave none.
    pub async fn by_id(
        &self,
        github: &GitHub,
        (identity, installation): (&str, InstallationId),
        id: RepositoryId,
        others: impl FnOnce() -> Vec<RepositoryId>,
        now: Timestamp,
    ) -> Result<Read, Error> {
        let of = self.of(identity, installation);
        // Held while GitHub is asked: whoever needs one meanwhile gets this one.
        let mut readers = of.lock().await;
        readers.live.retain(|reader| reader.good_until > now);
        if let Some(reader) = readers.live.iter().find(|reader| reader.ids.contains(&id)) {
            return Ok(Read { token: reader.token.clone(), said: Vec::new() });
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
        for _ in 0..MOST_TRIES {
            let Some(mut group) = rest.pop() else { break };
            match mint(github, installation, Repositories::Ids(group.clone())).await {
                Ok(minted) => read.said.extend(readers.keep(minted, now).said),
                Err(Error::Unprocessable { .. }) if group.len() > 1 => {
                    rest.push(group.split_off(group.len() / 2));
                    rest.push(group);
                }
                Err(Error::Unprocessable { .. }) => {
                    readers.apart.extend(group.into_iter().zip(now.checked_add(APART).ok()));
                }
                // They are asked for when they are needed.
                Err(_) => break,
            }
        }
        Ok(read)
    }

    /// A token that reads the repository that is called so now. What it is comes with it.
    ///
    /// # Errors
    /// GitHub gave none.
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

    /// GitHub refused a token: it is not used again.
    pub async fn refused(&self, (identity, installation): (&str, InstallationId), token: &Token) {
        self.of(identity, installation).lock().await.live.retain(|reader| reader.token != *token);
    }
}

impl Readers {
    /// It is read already, or cannot be.
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
        Read { token: minted.token, said }
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

    /// A GitHub that mints for any repositories but these.
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
        let said = read(1, now).await.unwrap().said;
        assert_eq!(said.len(), 98, "all but the two");
        let asked = || github.lines().len();
        assert!(asked() <= 2 * 2 * 7 + 1, "{} calls", asked());
        let before = asked();
        for id in (2..=100).filter(|id| ![7, 90].contains(id)) {
            read(id, now).await.unwrap();
        }
        assert_eq!(asked(), before, "each has a token");
        assert!(matches!(read(7, now).await, Err(Error::Unprocessable { .. })));
        assert_eq!(asked(), before + 1, "who asks for one of the two asks for it alone");
        // The next hour's token is asked for with all the others, and the two once more.
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
