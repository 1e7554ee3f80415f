//! The tokens that this process minted: those that are not in a Secret yet, and those that are.
//!
//! This module owns the only copies outside of Secrets. Invariant: the memory is a convenience, never the truth. All of
//! it can be lost at any moment, and lost tokens expire within the hour. With the memory, a token can be revoked
//! although its Secret was deleted first, and a failed call waits for its time.

use super::plan::Call;
use super::scope::Scope;
use super::secret::Content;
use super::seen::{Failed, Failures, Held, Stage};
use crate::controllers::reference::Terms;
use crate::github::Token;
use crate::runtime::allowance::{Allowance, Rate};
use crate::runtime::pruned::Pruned;
use jiff::{SignedDuration, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The memory about one object.
#[derive(Default)]
struct Entry {
    held: Option<(Arc<Content>, Stage)>,
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

    /// Whether nothing in it matters any more.
    fn is_over(&self, now: Timestamp) -> bool {
        self.held.as_ref().is_none_or(|(content, _)| content.expires_at <= now)
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
    allowances: Mutex<Allowances>,
}

#[derive(Default)]
struct Allowances {
    left: Pruned<String, Allowance>,
    /// The last turn that was given to an object of a namespace without allowance.
    turns: Pruned<String, Timestamp>,
}

/// How many calls an object may cause: enough for tokens that live for half a minute.
const OBJECT: Rate = Rate { burst: 10.0, every: SignedDuration::from_secs(10) };
/// How many calls the objects of a namespace may cause together: 1,200 an hour, of the 5,000 of an App.
const NAMESPACE: Rate = Rate { burst: 200.0, every: SignedDuration::from_secs(3) };
/// The time over which the turns of a namespace's waiting objects are spread. An object whose turn somebody else took
/// gets another one, so it waits no longer than that for its next try.
const TURNS: SignedDuration = SignedDuration::from_mins(10);

impl TokenMemory {
    /// Stores a minted token. Now and then drops entries that are over, including those of objects whose deletion was
    /// not seen.
    pub fn minted(&self, uid: &str, content: Arc<Content>, stage: Stage) {
        let mut entries = self.lock();
        let now = content.minted_at;
        entries.make_room(|entry| !entry.is_over(now));
        entries.entry(uid.to_owned()).or_default().held = Some((content, stage));
    }

    /// Sets the stage of the held token.
    pub fn moved(&self, uid: &str, stage: Stage) {
        if let Some((_, at)) = self.lock().get_mut(uid).and_then(|entry| entry.held.as_mut()) {
            *at = stage;
        }
    }

    /// The properties of the held token that a plan needs.
    #[must_use]
    pub fn held(&self, uid: &str) -> Option<Held> {
        let entries = self.lock();
        let (content, stage) = entries.get(uid)?.held.as_ref()?;
        let Content { token, scope, expires_at, .. } = &**content;
        Some(Held {
            fingerprint: token.fingerprint(),
            scope: Scope::clone(scope),
            stage: *stage,
            expires_at: *expires_at,
        })
    }

    /// The held token with all the content of its Secret.
    #[must_use]
    pub fn content(&self, uid: &str) -> Option<Arc<Content>> {
        self.lock().get(uid)?.held.as_ref().map(|(content, _)| Arc::clone(content))
    }

    /// Remembers that a token was revoked.
    pub fn revoked(&self, uid: &str, token: &Token) {
        let mut entries = self.lock();
        let entry = entries.entry(uid.to_owned()).or_default();
        entry.revoked = Some(token.fingerprint());
        if entry.held.as_ref().is_some_and(|(content, _)| content.token.fingerprint() == token.fingerprint()) {
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

    /// Takes one call from the allowances of an object and its namespace.
    ///
    /// A tenant can have tokens minted and revoked by editing objects, and GitHub's limits belong to the App, and so to
    /// all tenants.
    ///
    /// # Errors
    /// When to try again. The objects of a namespace get different times, because one call is allowed at each.
    pub fn spend(&self, uid: &str, namespace: &str, now: Timestamp) -> Result<(), Timestamp> {
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        let Allowances { left, turns } = &mut *allowances;
        left.make_room(|allowance| !allowance.is_full(now));
        let mut take =
            |key: String, rate: Rate| left.entry(key).or_insert_with(|| Allowance::full(rate, now)).take(now);
        take(format!("object {uid}"), OBJECT)?;
        take(format!("namespace {namespace}"), NAMESPACE).map_err(|next| {
            turns.make_room(|turn| *turn > now);
            let end = now.checked_add(TURNS).unwrap_or(now);
            let after = turns.get(namespace).and_then(|last| last.checked_add(NAMESPACE.every).ok());
            let turn = after.filter(|turn| (next..end).contains(turn)).unwrap_or(next);
            turns.insert(namespace.to_owned(), turn);
            turn
        })
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

    #[test]
    fn the_objects_of_a_namespace_wait_for_turns_of_their_own() {
        let memory = TokenMemory::default();
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let mut due: std::collections::BTreeSet<_> = (0..500).map(|object| (at(0), object)).collect();
        let (mut last, mut looks) = (at(0), 0);
        while let Some((now, object)) = due.pop_first() {
            looks += 1;
            last = now;
            if let Err(turn) = memory.spend(&format!("object-{object}"), "team", now) {
                assert!(turn > now && turn <= now + TURNS);
                due.insert((turn, object));
            }
        }
        assert_eq!(last, at(300 * 3), "one each three seconds after the first 200");
        assert!(looks < 2 * 500, "{looks}: hardly anybody comes in vain");
    }
}
