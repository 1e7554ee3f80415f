//! The tokens this process minted: those on their way into a Secret, and those that are in one.
//!
//! Owns the only copies outside of Secrets. Invariant: it is a convenience, never the truth; all of it can be lost at any
//! moment, and what is then not known any more dies by itself within the hour. It lets a token be revoked although its
//! Secret went first, and a call that failed be spared until its time.

use super::plan::{Failed, Held, Stage};
use super::scope::Scope;
use super::secret::Content;
use crate::github::Token;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is remembered for one object.
#[derive(Default)]
struct Entry {
    held: Option<(Content, Stage)>,
    revoked: Option<String>,
    failed: Option<(Failed, FailedFor)>,
}

/// What a failure is about. When it is another, the call is tried again at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedFor {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The value of the annotation that asks for a look.
    pub request: Option<String>,
    /// What the installation was known to be, what it may do, and what is granted of it.
    pub access: String,
}

/// What is remembered for all objects, by uid.
#[derive(Default)]
pub struct Memory {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Memory {
    /// A minted token begins its way.
    pub fn minted(&self, uid: &str, content: Content, stage: Stage) {
        self.lock().entry(uid.to_owned()).or_default().held = Some((content, stage));
    }

    /// The token moved on.
    pub fn moved(&self, uid: &str, stage: Stage) {
        if let Some((_, at)) = self.lock().get_mut(uid).and_then(|entry| entry.held.as_mut()) {
            *at = stage;
        }
    }

    /// What a plan needs to know of the held token.
    #[must_use]
    pub fn held(&self, uid: &str) -> Option<Held> {
        let entries = self.lock();
        let (content, stage) = entries.get(uid)?.held.as_ref()?;
        let Content { token, scope, expires_at, .. } = content;
        Some(Held {
            fingerprint: token.fingerprint(),
            scope: Scope::clone(scope),
            stage: *stage,
            expires_at: *expires_at,
        })
    }

    /// The held token with all that its Secret will say.
    #[must_use]
    pub fn content(&self, uid: &str) -> Option<Content> {
        self.lock().get(uid)?.held.as_ref().map(|(content, _)| content.clone())
    }

    /// A token is dead.
    pub fn revoked(&self, uid: &str, token: &Token) {
        let mut entries = self.lock();
        let entry = entries.entry(uid.to_owned()).or_default();
        entry.revoked = Some(token.fingerprint());
        if entry.held.as_ref().is_some_and(|(content, _)| content.token.fingerprint() == token.fingerprint()) {
            entry.held = None;
        }
    }

    /// The token that was revoked last.
    #[must_use]
    pub fn last_revoked(&self, uid: &str) -> Option<String> {
        self.lock().get(uid)?.revoked.clone()
    }

    /// A call failed.
    pub fn failed(&self, uid: &str, failed: Failed, about: FailedFor) {
        self.lock().entry(uid.to_owned()).or_default().failed = Some((failed, about));
    }

    /// The call that failed, if it still is about the same.
    #[must_use]
    pub fn failure(&self, uid: &str, about: &FailedFor) -> Option<Failed> {
        let entries = self.lock();
        entries.get(uid)?.failed.as_ref().filter(|(_, was)| was == about).map(|(failed, _)| failed.clone())
    }

    /// A call succeeded.
    pub fn succeeded(&self, uid: &str) {
        if let Some(entry) = self.lock().get_mut(uid) {
            entry.failed = None;
        }
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    // A panic while the lock was held leaves a map that is whole: every change is one insertion or one field.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
