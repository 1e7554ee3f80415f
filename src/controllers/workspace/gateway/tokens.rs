//! The tokens that gateways use: one for each repository and set of permissions, in memory alone.
//!
//! The invariant: a token is minted only if no gateway has one that is still good, as far as this process or the gateway that asks
//! knows; so a restart of this process mints nothing. A token that a gateway names is used for nothing but what it was minted for:
//! each has the digest of its [`Key`] with it. A token is revoked when no gateway uses it.

use crate::api::Permissions;
use crate::controllers::rations::{Caller, Limits, Purpose, Rations};
use crate::gateway::messages::HeldToken;
use crate::gateway::tokens::UNUSED;
use crate::github::{self, GitHub, Minted, Repositories, Token};
use crate::grant::excess;
use crate::ids::{InstallationId, RepositoryId};
use crate::internal::Denied;
use crate::runtime::clock::Clock;
use crate::runtime::metrics::{Metrics, TokenEvent};
use crate::runtime::pruned::Pruned;
use aws_lc_rs::digest::{Context, SHA256};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as Turn;

/// How long before its end a token is replaced. A gateway asks for another at that time.
const MARGIN: SignedDuration = SignedDuration::from_mins(10);
/// The longest life of a token of GitHub's, and the difference of clocks.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_mins(65);
/// How long a gateway counts as a user of a token. It releases one itself after [`UNUSED`], or after the transfer that uses it. A
/// transfer takes half an hour at most.
const USES_FOR: SignedDuration = SignedDuration::from_mins(45);

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The name of the `GitHubApp`.
    pub app: String,
    /// A digest of the App and its GitHub.
    pub connection: String,
    pub installation: InstallationId,
    pub repository: RepositoryId,
    pub permissions: Permissions,
}

impl Key {
    /// Stays the same over a restart, so that gateways can name it.
    #[must_use]
    pub fn digest(&self) -> String {
        let (installation, repository) = (self.installation.get().to_string(), self.repository.get().to_string());
        let permissions = self.permissions.iter().flat_map(|(name, level)| [name.as_str(), level.as_str()]);
        let mut context = Context::new(&SHA256);
        for part in [self.app.as_str(), &self.connection, &installation, &repository].into_iter().chain(permissions) {
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        hex::encode(context.finish())
    }
}

/// The wish of a gateway.
pub struct Asked<'a> {
    /// The uid of the gateway's pod.
    pub gateway: &'a str,
    /// Whose rations a mint is taken from.
    pub payer: Caller<'a>,
    pub limits: Limits,
    pub held: Vec<HeldToken>,
    pub refused: Vec<Token>,
}

#[derive(Default)]
struct Entry {
    token: Option<HeldToken>,
    /// The gateways that use it, by the uids of their pods, and when they last asked.
    users: HashMap<String, Timestamp>,
    used_at: Timestamp,
}

/// The tokens of all repositories.
pub struct RepositoryTokens {
    clock: Arc<dyn Clock>,
    rations: Arc<Rations>,
    metrics: Metrics,
    entries: Mutex<HashMap<Key, Arc<Turn<Entry>>>>,
    /// The fingerprints of the tokens that were revoked, and when.
    revoked: Mutex<Pruned<String, Timestamp>>,
    /// The digests of the keys for which tokens were given, by the fingerprints of the tokens, and when.
    given: Mutex<Pruned<String, (String, Timestamp)>>,
}

impl RepositoryTokens {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, rations: Arc<Rations>, metrics: Metrics) -> Self {
        Self { clock, rations, metrics, entries: Mutex::default(), revoked: Mutex::default(), given: Mutex::default() }
    }

    /// The token for a key: the one that is known, else the one that the gateway holds, else a new one.
    ///
    /// # Errors
    /// GitHub gives none, or mints are rationed.
    pub async fn issue(&self, key: &Key, asked: Asked<'_>, github: &GitHub) -> Result<HeldToken, Denied> {
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(entries.entry(key.clone()).or_default())
        };
        // Held during a mint, so that others get its token.
        let mut entry = entry.lock().await;
        let now = self.clock.now();
        entry.used_at = now;
        entry.users.retain(|_, at| now.duration_since(*at) < USES_FOR);
        entry.users.insert(asked.gateway.to_owned(), now);
        let is_dead = |held: &HeldToken| {
            held.expires_at <= now || asked.refused.contains(&held.token) || self.was_revoked(&held.token)
        };
        let is_good = |held: &HeldToken| {
            let left = held.expires_at.duration_since(now);
            left > MARGIN && left < LONGEST_LIFE && !is_dead(held)
        };
        entry.token.take_if(|held| is_dead(held));
        if !entry.token.as_ref().is_some_and(is_good) {
            let digest = key.digest();
            let is_for_this = |held: &&HeldToken| {
                let is_new_enough = held.expires_at.duration_since(now) < LONGEST_LIFE;
                held.key == digest && is_new_enough && !is_dead(held) && self.was_given_for(held)
            };
            // One that ends soon is better than none, should GitHub give no other.
            let held = asked.held.iter().filter(is_for_this).cloned().chain(entry.token.take());
            entry.token = held.max_by_key(|held| held.expires_at);
        }
        if let Some(held) = entry.token.as_ref().filter(|held| is_good(held)) {
            self.note(held);
            return Ok(held.clone());
        }
        let purpose = if entry.token.is_some() { Purpose::Renewal } else { Purpose::First };
        match self.mint(key, asked.payer, (purpose, asked.limits), github).await {
            Ok(held) => {
                self.note(&held);
                entry.token = Some(held.clone());
                Ok(held)
            }
            // A token that ends soon is better than none, unless GitHub says that there is to be none.
            Err(Denied::NotNow(words)) => entry.token.clone().ok_or(Denied::NotNow(words)),
            Err(refused) => Err(refused),
        }
    }

    /// GitHub refused a token. Returns whether this process gave it out and did not know that yet.
    pub async fn refuse(&self, key: &Key, token: &Token, github: &GitHub) -> bool {
        let entry = self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(key).map(Arc::clone);
        let Some(entry) = entry else { return false };
        let refused = entry.lock().await.token.take_if(|held| held.token == *token);
        if let Some(held) = &refused {
            self.revoke(github, &held.token).await;
        }
        refused.is_some()
    }

    async fn mint(
        &self,
        key: &Key,
        payer: Caller<'_>,
        (purpose, limits): (Purpose, Limits),
        github: &GitHub,
    ) -> Result<HeldToken, Denied> {
        let now = self.clock.now();
        self.rations.mint(payer, purpose, limits, now).map_err(|wait| {
            Denied::NotNow(format!(
                "tokens of GitHubApp {} are requested too often for GitHub's limits; the next may be had in {} seconds",
                key.app,
                wait.until.duration_since(now).as_secs().max(1)
            ))
        })?;
        let permissions = key.permissions.iter().map(|(name, level)| (name.clone(), level.as_str().into())).collect();
        let scope = github::Scope { repositories: Repositories::Ids(vec![key.repository]), permissions };
        let minted = match github.mint(key.installation, &scope).await {
            Ok(minted) => minted,
            Err(error) => {
                self.metrics.token(TokenEvent::Failed);
                let words = format!("GitHub gave no token: {error}");
                return Err(if error.outlook() == github::Outlook::Stalls {
                    Denied::Refused(words)
                } else {
                    self.rations.not_minted(payer, purpose);
                    Denied::NotNow(words)
                });
            }
        };
        self.metrics.token(TokenEvent::Minted);
        tracing::info!(
            audit = true,
            action = "mint",
            object = "gateway",
            namespace = payer.namespace,
            app = key.app,
            installation = key.installation.get(),
            repository = key.repository.get(),
            permissions = ?key.permissions,
            token = minted.token.fingerprint(),
        );
        if let Some(words) = unfit(key, &minted) {
            self.revoke(github, &minted.token).await;
            return Err(Denied::NotNow(words));
        }
        Ok(HeldToken { token: minted.token, expires_at: minted.expires_at, key: key.digest() })
    }

    /// A gateway does not use a token any more. Returns whether it is to be revoked.
    pub fn release(&self, gateway: &str, namespace: &str, token: &Token) -> bool {
        let entries: Vec<_> =
            self.entries.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        for entry in entries {
            // Whoever has the turn is asking for this token.
            let Ok(mut entry) = entry.try_lock() else { continue };
            if entry.token.as_ref().is_some_and(|held| held.token == *token) {
                entry.users.remove(gateway);
                return entry.users.is_empty() && entry.token.take().is_some();
            }
        }
        // This process may have started after the mint. GitHub refuses an address for a while that sends it many unknown tokens.
        let is_rationed = self.rations.send_unknown("gateway", namespace, self.clock.now()).is_err();
        !is_rationed && !self.was_revoked(token)
    }

    /// Takes the tokens that no gateway used for a while, each with its App.
    #[must_use]
    pub fn unused(&self) -> Vec<(String, Token)> {
        let now = self.clock.now();
        let mut unused = Vec::new();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|key, entry| {
            let Ok(mut entry) = entry.try_lock() else { return true };
            if now.duration_since(entry.used_at) < USES_FOR.max(UNUSED) {
                return true;
            }
            unused.extend(
                entry.token.take().filter(|held| held.expires_at > now).map(|held| (key.app.clone(), held.token)),
            );
            false
        });
        unused
    }

    /// Revokes a token. One that is not revoked ends within the hour.
    pub async fn revoke(&self, github: &GitHub, token: &Token) {
        let now = self.clock.now();
        {
            let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
            revoked.make_room(|at| now.duration_since(*at) < LONGEST_LIFE);
            revoked.insert(token.fingerprint(), now);
        }
        match github.revoke(token).await {
            Ok(_) => {
                self.metrics.token(TokenEvent::Revoked);
                tracing::info!(audit = true, action = "revoke", object = "gateway", token = token.fingerprint());
            }
            Err(error) => {
                tracing::debug!(%error, token = token.fingerprint(), "a token was not revoked; it ends within the hour");
            }
        }
    }

    fn note(&self, held: &HeldToken) {
        let now = self.clock.now();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.make_room(|(_, at)| now.duration_since(*at) < LONGEST_LIFE);
        given.insert(held.token.fingerprint(), (held.key.clone(), now));
    }

    /// Whether a token was given for the key that a gateway names, as far as this process knows.
    fn was_given_for(&self, held: &HeldToken) -> bool {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.get(&held.token.fingerprint()).is_none_or(|(key, _)| *key == held.key)
    }

    fn was_revoked(&self, token: &Token) -> bool {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&token.fingerprint())
    }
}

/// Why a minted token is not used: GitHub gave more than was asked for, or another repository.
fn unfit(key: &Key, minted: &Minted) -> Option<String> {
    let given = minted.permissions.iter().map(|(name, level)| (name.clone(), level.as_str().to_owned())).collect();
    if let Some((name, level, _)) = excess(&given, &key.permissions).first() {
        return Some(format!("GitHub gave a token with {name}: {level}, which was not asked for; it was revoked"));
    }
    let is_that = |ids: Vec<RepositoryId>| ids == [key.repository];
    let ids = minted.repositories.as_ref().map(|all| all.iter().map(|repository| repository.id).collect());
    (!ids.is_none_or(is_that)).then(|| "GitHub gave a token for other repositories; it was revoked".to_owned())
}

#[cfg(test)]
mod tests;
