//! The tokens that the gateway holds: one for each repository, right and set of permissions, in memory alone.
//!
//! The invariant: each request of a workspace is allowed by a decision of the controller that is at most [`DECISION`] old, so a
//! withdrawn grant is refused within a second, whatever token is still held for others. Only while the controller is not
//! reached, a decision counts for as long as the token that came with it: an answer that gives no token ends it. Those who wait
//! for one token wait for one call.
//!
//! The controller decides and mints, because it has the App's key, the grants and GitHub's last look. The gateway names the tokens
//! that it holds, so a controller that has just started mints nothing that is still good. Each token has the controller's digest of
//! what it is for. A workspace gets the token that the controller last named for it, also while the controller is away.

use super::identity::Access;
use super::messages::HeldToken;
use super::upstream::{NoUpstream, Right, Upstream, Upstreams};
use crate::github::Token;
use crate::ids::RepositoryId;
use crate::runtime::clock::Clock;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as Turn;
use tokio::time::timeout;

/// How long a decision of the controller counts.
pub const DECISION: SignedDuration = SignedDuration::from_secs(1);
/// How long before its end a token is replaced. The transfers that have begun with it go on.
const MARGIN: SignedDuration = SignedDuration::from_mins(10);
/// How long a token is held that nobody uses.
pub const UNUSED: SignedDuration = SignedDuration::from_mins(10);
/// The longest life of a token: for as long a decision counts without the controller.
pub const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// How long the controller may take for an answer, a mint included.
const ANSWER: Duration = Duration::from_secs(20);

/// The most tokens for one repository and right that the controller is told of.
const MOST_NAMED: usize = 8;

/// The wish for a token.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    pub access: &'a Access,
    pub right: Right,
    /// The tokens that the gateway holds. The answer may be one of these.
    pub held: Vec<HeldToken>,
    /// The tokens that GitHub refused, of which the answer must be none.
    pub refused: Vec<Token>,
}

/// A token, and the way on which it may go.
pub struct Issued {
    pub upstream: Upstream,
    pub expires_at: Timestamp,
    /// The controller's digest of what the token is for.
    pub key: String,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotIssued {
    /// The controller answered, so an earlier decision about the workspace counts no more.
    #[error(transparent)]
    Denied(#[from] NoUpstream),
    /// The controller was not reached. The words are for the person.
    #[error("{0}")]
    Away(String),
}

/// The controller, as the gateway sees it.
pub trait Issuer: Send + Sync + 'static {
    /// Decides whether the workspace may reach its repository now, and gives a token for it.
    fn issue<'a>(&'a self, wish: Wish<'a>) -> BoxFuture<'a, Result<Issued, NotIssued>>;

    /// No workspace needs this token any more: it is to be revoked, unless another gateway has it.
    fn release<'a>(&'a self, app: &'a str, token: &'a Token) -> BoxFuture<'a, ()>;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    app: String,
    repository: RepositoryId,
    right: Right,
}

#[derive(Default)]
struct Entry {
    /// The tokens, by the controller's digests of what they are for.
    places: HashMap<String, Place>,
    /// The workspaces that were allowed, by their uids: the digest of the token, and when.
    allowed: HashMap<String, (String, Timestamp)>,
    used_at: Timestamp,
    /// When the controller was last not reached.
    away_at: Option<Timestamp>,
}

/// One token's.
#[derive(Default)]
struct Place {
    held: Option<Held>,
    refused: Option<Token>,
    used_at: Timestamp,
}

struct Held {
    upstream: Arc<Upstream>,
    expires_at: Timestamp,
}

/// The tokens of all repositories.
pub struct Tokens {
    issuer: Arc<dyn Issuer>,
    clock: Arc<dyn Clock>,
    entries: Mutex<HashMap<Key, Arc<Turn<Entry>>>>,
    /// What GitHub refused since the last turn.
    refused: Mutex<Vec<Arc<Upstream>>>,
}

impl Tokens {
    #[must_use]
    pub fn new(issuer: Arc<dyn Issuer>, clock: Arc<dyn Clock>) -> Self {
        Self { issuer, clock, entries: Mutex::default(), refused: Mutex::default() }
    }

    fn entry(&self, key: Key) -> Arc<Turn<Entry>> {
        Arc::clone(self.entries.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }

    fn take_refused(&self, upstream: &Arc<Upstream>) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let before = refused.len();
        refused.retain(|other| !Arc::ptr_eq(other, upstream));
        refused.len() < before
    }

    async fn open(&self, access: &Access, right: Right) -> Result<Arc<Upstream>, NoUpstream> {
        let key = Key { app: access.app.clone(), repository: access.repository, right };
        let entry = self.entry(key);
        // Held while the controller is asked, so that others get this answer.
        let mut entry = entry.lock().await;
        let now = self.clock.now();
        entry.used_at = now;
        self.settle(&mut entry, now);
        let before = entry.allowed.get(&access.uid).cloned();
        if let Some((key, at)) = &before
            && is_within(*at, now, DECISION)
            && let Some(held) = entry.held(key).filter(|held| !held.is_ending(now))
        {
            let upstream = Arc::clone(&held.upstream);
            entry.places.entry(key.clone()).or_default().used_at = now;
            return Ok(upstream);
        }
        let no_answer = || NotIssued::Away("the controller does not answer; try again".into());
        let refused = entry.places.values().filter_map(|place| place.refused.clone()).take(MOST_NAMED).collect();
        let wish = Wish { access, right, held: entry.named(), refused };
        // Those who waited for an answer that did not come do not wait for it one after the other.
        let answer = if entry.away_at.is_some_and(|at| is_within(at, now, DECISION)) {
            Err(no_answer())
        } else {
            let answer = timeout(ANSWER, self.issuer.issue(wish)).await.unwrap_or_else(|_| Err(no_answer()));
            entry.away_at = matches!(answer, Err(NotIssued::Away(_))).then(|| self.clock.now());
            answer
        };
        match answer {
            Ok(issued) => {
                let now = self.clock.now();
                entry.allowed.insert(access.uid.clone(), (issued.key.clone(), now));
                Ok(entry.places.entry(issued.key.clone()).or_default().hold(issued, now))
            }
            Err(NotIssued::Denied(denied)) => {
                entry.allowed.remove(&access.uid);
                Err(denied)
            }
            Err(NotIssued::Away(words)) => match before.and_then(|(key, _)| entry.held(&key)) {
                Some(held) => Ok(Arc::clone(&held.upstream)),
                None => Err(NoUpstream::Unavailable(words)),
            },
        }
    }

    /// Drops what GitHub refused, and what has ended.
    fn settle(&self, entry: &mut Entry, now: Timestamp) {
        for place in entry.places.values_mut() {
            if let Some(held) = place.held.take_if(|held| self.take_refused(&held.upstream)) {
                place.refused = Some(held.upstream.token().clone());
            }
            place.held.take_if(|held| held.expires_at <= now);
        }
        entry.places.retain(|_, place| place.held.is_some() || is_within(place.used_at, now, LONGEST_LIFE));
        entry.allowed.retain(|_, (_, at)| is_within(*at, now, LONGEST_LIFE));
    }

    /// Lets go of the tokens that nobody has used for a while. Called from time to time.
    pub async fn sweep(&self) {
        let now = self.clock.now();
        let entries: Vec<_> = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.iter().map(|(key, entry)| (key.clone(), Arc::clone(entry))).collect()
        };
        for (key, entry) in entries {
            // One that is in use now is not unused.
            let Ok(mut locked) = entry.try_lock() else { continue };
            self.settle(&mut locked, now);
            let places = locked.places.values_mut();
            let unused: Vec<_> =
                places.filter_map(|place| place.held.take_if(|held| held.is_unused(place.used_at, now))).collect();
            drop(locked);
            for held in unused {
                let release = self.issuer.release(&key.app, held.upstream.token());
                if timeout(ANSWER, release).await.is_err() {
                    tracing::debug!(app = key.app, "a token that nobody uses was not revoked; it ends within the hour");
                }
            }
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever wants the entry has a clone of it, besides the map's and this one.
            let is_idle = |entry: &Arc<Turn<Entry>>| {
                let is_unused = |entry: &Entry| entry.named().is_empty() && !is_within(entry.used_at, now, UNUSED);
                Arc::strong_count(entry) <= 2 && entry.try_lock().is_ok_and(|entry| is_unused(&entry))
            };
            if entries.get(&key).is_some_and(is_idle) {
                entries.remove(&key);
            }
        }
    }

    /// How many tokens are held.
    pub async fn count(&self) -> usize {
        let entries: Vec<_> =
            self.entries.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        let mut count = 0;
        for entry in entries {
            count += entry.lock().await.places.values().filter(|place| place.held.is_some()).count();
        }
        count
    }
}

impl Upstreams for Tokens {
    fn open<'a>(&'a self, access: &'a Access, right: Right) -> BoxFuture<'a, Result<Arc<Upstream>, NoUpstream>> {
        Box::pin(Tokens::open(self, access, right))
    }

    fn refused(&self, _: &Access, _: Right, upstream: &Arc<Upstream>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is held no more is of no interest.
        refused.retain(|other| Arc::strong_count(other) > 1 && !Arc::ptr_eq(other, upstream));
        refused.push(Arc::clone(upstream));
    }
}

impl Entry {
    fn held(&self, key: &str) -> Option<&Held> {
        self.places.get(key)?.held.as_ref()
    }

    fn named(&self) -> Vec<HeldToken> {
        let held = |(key, place): (&String, &Place)| {
            let held = place.held.as_ref()?;
            let (token, key) = (held.upstream.token().clone(), key.clone());
            Some(HeldToken { token, expires_at: held.expires_at, key })
        };
        self.places.iter().filter_map(held).take(MOST_NAMED).collect()
    }
}

impl Place {
    fn hold(&mut self, Issued { upstream, expires_at, .. }: Issued, now: Timestamp) -> Arc<Upstream> {
        (self.refused, self.used_at) = (None, now);
        match &mut self.held {
            // The same token goes on with its connections, unless the repository has moved.
            Some(held) if held.upstream.token() == upstream.token() && held.upstream.remote() == upstream.remote() => {
                held.expires_at = expires_at;
                Arc::clone(&held.upstream)
            }
            held => {
                let upstream = Arc::new(upstream);
                *held = Some(Held { upstream: Arc::clone(&upstream), expires_at });
                upstream
            }
        }
    }
}

impl Held {
    fn is_ending(&self, now: Timestamp) -> bool {
        self.expires_at.duration_since(now) <= MARGIN
    }

    /// A transfer that is in progress has the upstream, and may need it once more at its end.
    fn is_unused(&self, used_at: Timestamp, now: Timestamp) -> bool {
        Arc::strong_count(&self.upstream) == 1 && !is_within(used_at, now, UNUSED)
    }
}

/// Whether a time was so long ago at most. A time in the future, after the clock was set back, was not.
#[must_use]
pub fn is_within(at: Timestamp, now: Timestamp, length: SignedDuration) -> bool {
    (SignedDuration::ZERO..length).contains(&now.duration_since(at))
}

#[cfg(test)]
mod tests;
