//! The tokens this process minted: those on their way into a Secret, and those that are in one.
//!
//! Owns the only copies outside of Secrets. Invariant: it is a convenience, never the truth; all of it can be lost at any
//! moment, and what is then not known any more dies by itself within the hour. It lets a token be revoked although its
//! Secret went first, and a call that failed be spared until its time.

use super::plan::Call;
use super::scope::Scope;
use super::secret::Content;
use super::seen::{Failed, Failures, Held, Stage};
use crate::controllers::reference::Terms;
use crate::github::Token;
use crate::runtime::allowance::{Allowance, Rate};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is remembered for one object.
#[derive(Default)]
struct Entry {
    held: Option<(Content, Stage)>,
    revoked: Option<String>,
    asking: Option<(Failed, FailedFor)>,
    revoking: Option<(Failed, FailedFor)>,
}

impl Entry {
    fn failed(&mut self, call: Call) -> &mut Option<(Failed, FailedFor)> {
        match call {
            Call::Asks => &mut self.asking,
            Call::Revokes => &mut self.revoking,
        }
    }

    /// Nothing in it matters any more.
    fn is_over(&self, now: Timestamp) -> bool {
        self.held.as_ref().is_none_or(|(content, _)| content.expires_at <= now)
            && [&self.asking, &self.revoking].into_iter().flatten().all(|(failed, _)| failed.until <= now)
    }
}

/// What a failure is about. When it is another, the call is tried again at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailedFor {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The value of the annotation that asks for a look.
    pub request: Option<String>,
    /// What the installation was known to be, what it may do, and what is granted of it.
    pub access: Option<Terms>,
}

/// What is remembered for all objects, by uid.
#[derive(Default)]
pub struct TokenMemory {
    entries: Mutex<HashMap<String, Entry>>,
    allowances: Mutex<HashMap<String, Allowance>>,
}

/// What an object may have minted: enough for tokens that live for half a minute.
const OBJECT: Rate = Rate { burst: 10.0, every: SignedDuration::from_secs(10) };
/// The objects of a namespace together; 1,200 an hour, of the 5,000 that an App may.
const NAMESPACE: Rate = Rate { burst: 200.0, every: SignedDuration::from_secs(3) };

impl TokenMemory {
    /// A minted token begins its way. What is over, of objects that went without a word among others, is dropped.
    pub fn minted(&self, uid: &str, content: Content, stage: Stage) {
        let mut entries = self.lock();
        let now = content.minted_at;
        entries.retain(|_, entry| !entry.is_over(now));
        entries.entry(uid.to_owned()).or_default().held = Some((content, stage));
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
    pub fn failed(&self, uid: &str, call: Call, failed: Failed, about: FailedFor) {
        *self.lock().entry(uid.to_owned()).or_default().failed(call) = Some((failed, about));
    }

    /// The calls that failed, if they still are about the same.
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

    /// A call succeeded.
    pub fn succeeded(&self, uid: &str, call: Call) {
        if let Some(entry) = self.lock().get_mut(uid) {
            *entry.failed(call) = None;
        }
    }

    /// Takes one call out of what an object and its namespace may make, or says when there is one again.
    ///
    /// A tenant can have tokens minted and revoked by editing objects; GitHub's limits are the App's, and so every
    /// tenant's.
    ///
    /// # Errors
    /// When to try again.
    pub fn spend(&self, uid: &str, namespace: &str, now: Timestamp) -> Result<(), Timestamp> {
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        allowances.retain(|_, allowance| !allowance.is_full(now));
        let mut take =
            |key: String, rate: Rate| allowances.entry(key).or_insert_with(|| Allowance::full(rate, now)).take(now);
        take(format!("object {uid}"), OBJECT)?;
        take(format!("namespace {namespace}"), NAMESPACE)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_and_a_namespace_have_their_allowances() {
        let memory = TokenMemory::default();
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        for _ in 0..10 {
            memory.spend("a", "team", at(0)).unwrap();
        }
        assert_eq!(memory.spend("a", "team", at(0)), Err(at(10)));
        memory.spend("b", "team", at(0)).expect("another object has its own");
        memory.spend("a", "team", at(10)).expect("time gives it back");
        let storm = (0..1000).filter(|n| memory.spend(&format!("object-{n}"), "team", at(10)).is_ok()).count();
        assert!(storm < 200, "{storm}: many objects do not make a namespace's allowance larger");
        memory.spend("c", "other", at(10)).expect("another namespace has its own");
    }
}
