//! The tokens that this process minted: those that are not in a Secret yet, and those that are.
//!
//! This module owns the only copies outside of Secrets. Invariant: the memory is a convenience, never the truth. All of
//! it can be lost at any moment, and lost tokens expire within the hour. With the memory, a token can be revoked
//! although its Secret was deleted first, and a failed call waits for its time.

use super::plan::Call;
use super::scope::Scope;
use super::secret::Content;
use super::seen::{Failed, Failures, Held, Stage, Trial};
use crate::controllers::reference::Terms;
use crate::github::Token;
use crate::runtime::pruned::Pruned;
use jiff::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The memory about one object.
#[derive(Default)]
struct Entry {
    held: Option<Holding>,
    revoked: Option<String>,
    asking: Option<(Failed, FailedFor)>,
    revoking: Option<(Failed, FailedFor)>,
}

/// A token that this process minted or published.
struct Holding {
    content: Arc<Content>,
    stage: Stage,
    trial: Trial,
    /// `owner/name` of a repository whose refs git can list with the token.
    readable: Option<String>,
}

impl Entry {
    fn failed(&mut self, call: Call) -> &mut Option<(Failed, FailedFor)> {
        match call {
            Call::Asks => &mut self.asking,
            Call::Revokes => &mut self.revoking,
        }
    }

    /// Whether nothing in it matters any more.
    fn is_over(&self, now: Timestamp) -> bool {
        self.held.as_ref().is_none_or(|held| held.content.expires_at <= now)
            && [&self.asking, &self.revoking].into_iter().flatten().all(|(failed, _)| failed.until <= now)
    }
}

/// The circumstances of a failure. When one of these changes, the call is retried at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailedFor {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The value of the annotation that requests a look.
    pub request: Option<String>,
    /// The installation, its permissions, and the grant.
    pub access: Option<Terms>,
}

/// The memory about all objects, by uid.
#[derive(Default)]
pub struct TokenMemory {
    entries: Mutex<Pruned<String, Entry>>,
}

impl TokenMemory {
    /// Stores a minted token. Now and then drops entries that are over, including those of objects whose deletion was
    /// not seen.
    pub fn minted(&self, uid: &str, content: Arc<Content>, stage: Stage) {
        let now = content.minted_at;
        self.hold(uid, Holding { content, stage, trial: Trial::Accepted, readable: None }, now);
    }

    /// Stores a published token that another process minted, according to its Secret.
    pub fn found(&self, uid: &str, content: Arc<Content>, now: Timestamp) {
        self.hold(uid, Holding { content, stage: Stage::Published, trial: Trial::Unknown, readable: None }, now);
    }

    /// Stores a published token whose Secret is removed, so that a Secret of another type can take its place.
    pub fn removed(&self, uid: &str, content: &Arc<Content>, now: Timestamp) {
        let is_held = self.held(uid).is_some_and(|held| held.fingerprint == content.token.fingerprint());
        if !is_held {
            self.found(uid, Arc::clone(content), now);
        }
        self.moved(uid, Stage::Verified);
    }

    fn hold(&self, uid: &str, holding: Holding, now: Timestamp) {
        let mut entries = self.lock();
        entries.make_room(|entry| !entry.is_over(now));
        entries.entry(uid.to_owned()).or_default().held = Some(holding);
    }

    /// Sets the stage of the held token.
    pub fn moved(&self, uid: &str, stage: Stage) {
        self.change(uid, |held| held.stage = stage);
    }

    /// Notes that the held token is good enough to be published although it was not tried.
    pub fn left_untried(&self, uid: &str) {
        self.change(uid, |held| (held.stage, held.trial) = (Stage::Verified, Trial::LeftOut));
    }

    /// Notes the `owner/name` of a repository whose refs git can list with the held token.
    pub fn reads(&self, uid: &str, repository: String) {
        self.change(uid, |held| held.readable = Some(repository));
    }

    /// The repository whose refs git can list with the held token.
    #[must_use]
    pub fn readable(&self, uid: &str) -> Option<String> {
        self.lock().get(uid)?.held.as_ref()?.readable.clone()
    }

    fn change(&self, uid: &str, change: impl FnOnce(&mut Holding)) {
        if let Some(held) = self.lock().get_mut(uid).and_then(|entry| entry.held.as_mut()) {
            change(held);
        }
    }

    /// The properties of the held token that a plan needs.
    #[must_use]
    pub fn held(&self, uid: &str) -> Option<Held> {
        let entries = self.lock();
        let held = entries.get(uid)?.held.as_ref()?;
        let Content { token, scope, expires_at, .. } = &*held.content;
        Some(Held {
            fingerprint: token.fingerprint(),
            scope: Scope::clone(scope),
            stage: held.stage,
            trial: held.trial,
            expires_at: *expires_at,
        })
    }

    /// The held token with all the content of its Secret.
    #[must_use]
    pub fn content(&self, uid: &str) -> Option<Arc<Content>> {
        self.lock().get(uid)?.held.as_ref().map(|held| Arc::clone(&held.content))
    }

    /// Remembers that a token was revoked.
    pub fn revoked(&self, uid: &str, token: &Token) {
        let mut entries = self.lock();
        let entry = entries.entry(uid.to_owned()).or_default();
        entry.revoked = Some(token.fingerprint());
        if entry.held.as_ref().is_some_and(|held| held.content.token.fingerprint() == token.fingerprint()) {
            entry.held = None;
        }
    }

    /// The fingerprint of the token that was revoked last.
    #[must_use]
    pub fn last_revoked(&self, uid: &str) -> Option<String> {
        self.lock().get(uid)?.revoked.clone()
    }

    /// Remembers a failed call.
    pub fn failed(&self, uid: &str, call: Call, failed: Failed, about: FailedFor) {
        *self.lock().entry(uid.to_owned()).or_default().failed(call) = Some((failed, about));
    }

    /// The failed calls whose circumstances are still the same.
    #[must_use]
    pub fn failures(&self, uid: &str, about: &FailedFor) -> Failures {
        let entries = self.lock();
        let of = |failed: Option<&(Failed, FailedFor)>| {
            failed.filter(|(_, was)| was == about).map(|(failed, _)| failed.clone())
        };
        let entry = entries.get(uid);
        Failures {
            asking: of(entry.and_then(|entry| entry.asking.as_ref())),
            revoking: of(entry.and_then(|entry| entry.revoking.as_ref())),
        }
    }

    /// Forgets the failure of a call.
    pub fn succeeded(&self, uid: &str, call: Call) {
        if let Some(entry) = self.lock().get_mut(uid) {
            *entry.failed(call) = None;
        }
    }

    /// Forgets a deleted object.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    // A panic while the lock was held leaves a consistent map, because every change is one insertion or one field.
    fn lock(&self) -> MutexGuard<'_, Pruned<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
