//! The operator's own tokens for reading: one for all repositories of an installation that are followed, an hour long.
//!
//! Invariant: they are in this process's memory alone, never published, and read code and metadata, nothing else. Whether
//! a repository may be read for a namespace is decided before one is used, by the grant. One for all, because a token each
//! would cost a call an hour for each repository; what GitHub answers with it says of each what it is called now.

use crate::github::{Error, GitHub, Minted, Repositories, Repository, Scope, Token};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as Turn;

/// Before its end a token is not used any more; of one that lives shorter than an hour, a quarter of its life.
const MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// What GitHub takes in one request for a token.
const MOST: usize = 500;
/// How long repositories are asked for one by one after GitHub refused them together: one of them is gone.
const APART: SignedDuration = SignedDuration::from_mins(30);

/// A token and what it reads.
struct Reader {
    token: Token,
    ids: BTreeSet<u64>,
    good_until: Timestamp,
}

/// Of one installation.
#[derive(Default)]
struct Readers {
    live: Vec<Reader>,
    apart_until: Option<Timestamp>,
}

/// What the connection is identified by, and the installation's id.
type Key = (String, u64);

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
    fn of(&self, identity: &str, installation: u64) -> Arc<Turn<Readers>> {
        let mut all = self.by_installation.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((identity.to_owned(), installation)).or_default())
    }

    /// A token that reads the repository with this id; a new one is minted for it together with `others`.
    ///
    /// # Errors
    /// GitHub gave none.
    pub async fn by_id(
        &self,
        github: &GitHub,
        (identity, installation): (&str, u64),
        id: u64,
        others: impl FnOnce() -> Vec<u64>,
        now: Timestamp,
    ) -> Result<Read, Error> {
        let of = self.of(identity, installation);
        // Held while GitHub is asked: whoever needs one meanwhile gets this one.
        let mut readers = of.lock().await;
        readers.live.retain(|reader| reader.good_until > now);
        if let Some(reader) = readers.live.iter().find(|reader| reader.ids.contains(&id)) {
            return Ok(Read { token: reader.token.clone(), said: Vec::new() });
        }
        let mut ids = vec![id];
        if readers.apart_until.is_none_or(|until| until <= now) {
            ids.extend(others().into_iter().filter(|other| *other != id));
            ids.truncate(MOST);
        }
        let together = ids.len() > 1;
        let minted = match mint(github, installation, Repositories::Ids(ids)).await {
            Err(Error::Unprocessable { .. }) if together => {
                readers.apart_until = now.checked_add(APART).ok();
                mint(github, installation, Repositories::Ids(vec![id])).await?
            }
            other => other?,
        };
        Ok(readers.keep(minted, now))
    }

    /// A token that reads the repository that is called so now. What it is comes with it.
    ///
    /// # Errors
    /// GitHub gave none.
    pub async fn by_name(
        &self,
        github: &GitHub,
        (identity, installation): (&str, u64),
        name: &str,
        now: Timestamp,
    ) -> Result<Read, Error> {
        let minted = mint(github, installation, Repositories::Names(vec![name.to_owned()])).await?;
        Ok(self.of(identity, installation).lock().await.keep(minted, now))
    }

    /// GitHub refused a token: it is not used again.
    pub async fn refused(&self, (identity, installation): (&str, u64), token: &Token) {
        self.of(identity, installation).lock().await.live.retain(|reader| reader.token != *token);
    }
}

impl Readers {
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

async fn mint(github: &GitHub, installation: u64, repositories: Repositories) -> Result<Minted, Error> {
    github.mint(installation, &Scope { repositories, permissions: crate::api::default_permissions() }).await
}
