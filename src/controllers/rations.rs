//! The calls to GitHub that tenants may cause at an App's expense: by object, by namespace, and for all of an App.
//!
//! GitHub's limits belong to an App, and so to all of its tenants, while a tenant can make objects and edit Secrets
//! without end. Invariants: a renewal never waits for first mints, neither of its own namespace nor of others; each
//! namespace has its share of the App's mints, whatever the others do, and may use what they leave; an object or a
//! namespace cannot send more than a few tokens to GitHub that GitHub does not know. Nobody waits without a time, and
//! one object at most gets each time.

use crate::github::GitHub;
use crate::runtime::allowance::{Allowance, Rate};
use crate::runtime::pruned::Pruned;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The mints of an object: enough for tokens that live for half a minute.
const OBJECT: Rate = Rate { burst: 10.0, every: SignedDuration::from_secs(10) };
/// The renewals of an object for which its namespace does not pay. A token lives for an hour.
const RENEWALS: Rate = Rate { burst: 2.0, every: SignedDuration::from_mins(20) };
/// The other mints of a namespace.
const NAMESPACE: Rate = Rate { burst: 200.0, every: SignedDuration::from_secs(3) };
/// The mints of an App on a GitHub with limits: at most 4,840 in any hour, of the 5,000 calls that GitHub allows.
const APP: Rate = Rate { burst: 340.0, every: SignedDuration::from_millis(800) };
/// How long a namespace that minted nothing has a share.
const SHARES_FOR: SignedDuration = SignedDuration::from_mins(61);
/// The parts of an App's bucket that have to be left, for a first mint within the namespace's share, a renewal beyond it,
/// and a first mint beyond it.
const LEFT_BY_FIRST: f64 = 0.25;
/// The part of a namespace's share that first mints leave to renewals.
const LEFT_OF_SHARE_BY_FIRST: f64 = 0.5;
const LEFT_BEYOND_SHARE: f64 = 0.5;
const LEFT_BY_FIRST_BEYOND_SHARE: f64 = 0.75;

/// The tokens that GitHub did not know, by object, by namespace, and in all. GitHub refuses an address for a while that
/// sends many of them.
const UNKNOWN_OF_OBJECT: Rate = Rate { burst: 3.0, every: SignedDuration::from_mins(1) };
const UNKNOWN_OF_NAMESPACE: Rate = Rate { burst: 10.0, every: SignedDuration::from_secs(30) };
const UNKNOWN_OF_ALL: Rate = Rate { burst: 60.0, every: SignedDuration::from_secs(3) };

/// The time over which the turns of waiting objects are spread. An object whose turn somebody else took gets another
/// one, so it waits no longer than that for its next try.
const TURNS: SignedDuration = SignedDuration::from_mins(10);

/// The purpose of a mint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The object has a published token of this scope, which is about to expire.
    Renewal,
    First,
}

/// Whether GitHub limits the calls of an App.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {
    /// On github.com and ghe.com.
    OfGitHub,
    /// A GitHub Enterprise Server has none by default. If its administrator set some, its answers tell.
    None,
}

impl Limits {
    #[must_use]
    pub fn of(github: &GitHub) -> Self {
        if github.endpoint().has_secondary_limits() { Self::OfGitHub } else { Self::None }
    }
}

/// An object that wants a call.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    pub uid: &'a str,
    pub namespace: &'a str,
    /// The `GitHubApp`.
    pub app: &'a str,
}

/// The ration that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Object,
    Namespace,
    /// The mints of the App, or the namespace's share of them.
    App,
    /// Tokens that GitHub does not know, of all namespaces.
    All,
}

/// The end of a wait, and the ration that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub of: Of,
    pub until: Timestamp,
}

#[derive(Default)]
pub struct Rations(Mutex<State>);

#[derive(Default)]
struct State {
    left: Pruned<String, Allowance>,
    apps: HashMap<String, Shares>,
    /// The last turn that was given away of each ration.
    turns: Pruned<String, Timestamp>,
}

/// The mints of one App.
struct Shares {
    all: Allowance,
    /// By namespace: its share, and when it last minted.
    each: HashMap<String, (Allowance, Timestamp)>,
}

impl Rations {
    /// Takes a mint.
    ///
    /// # Errors
    /// When to try again.
    pub fn mint(&self, caller: Caller<'_>, purpose: Purpose, limits: Limits, now: Timestamp) -> Result<(), Wait> {
        let Caller { uid, namespace, app } = caller;
        let state = &mut *self.lock();
        state.take(format!("mints of object {uid}"), OBJECT, now).map_err(|until| Wait { of: Of::Object, until })?;
        let is_free =
            purpose == Purpose::Renewal && state.take(format!("renewals of object {uid}"), RENEWALS, now).is_ok();
        let purse = format!("mints of namespace {namespace}");
        if !is_free && let Err(next) = state.take(purse.clone(), NAMESPACE, now) {
            state.put_back(&format!("mints of object {uid}"));
            return Err(Wait { of: Of::Namespace, until: state.turn(&purse, NAMESPACE.every, next, now) });
        }
        if limits == Limits::None {
            return Ok(());
        }
        let purpose = if is_free { Purpose::Renewal } else { Purpose::First };
        let shares = state.apps.entry(app.to_owned()).or_insert_with(|| Shares::full(now));
        let Err((next, every)) = shares.take(namespace, purpose, now) else { return Ok(()) };
        state.put_back(&format!("mints of object {uid}"));
        state.put_back(&if is_free { format!("renewals of object {uid}") } else { purse });
        // First mints queue up behind each other, and renewals behind renewals.
        let queue = format!("{purpose:?} of {app} in {namespace}");
        Err(Wait { of: Of::App, until: state.turn(&queue, every, next, now) })
    }

    /// Gives a mint back: GitHub made no token, for a reason that is not the object's.
    pub fn not_minted(&self, caller: Caller<'_>, purpose: Purpose) {
        let Caller { uid, namespace, .. } = caller;
        let state = &mut *self.lock();
        state.put_back(&match purpose {
            Purpose::Renewal => format!("renewals of object {uid}"),
            Purpose::First => format!("mints of namespace {namespace}"),
        });
    }

    /// Takes the revocation of a token that GitHub may not know.
    ///
    /// # Errors
    /// When to try again.
    pub fn send_unknown(&self, uid: &str, namespace: &str, now: Timestamp) -> Result<(), Wait> {
        let state = &mut *self.lock();
        let rations = unknown(uid, namespace);
        for (taken, (of, key, rate)) in rations.iter().enumerate() {
            if let Err(next) = state.take(key.clone(), *rate, now) {
                rations[..taken].iter().for_each(|(_, key, _)| state.put_back(key));
                return Err(Wait { of: *of, until: state.turn(key, rate.every, next, now) });
            }
        }
        Ok(())
    }

    /// Gives a revocation back: GitHub knew the token, or was not asked.
    pub fn was_known(&self, uid: &str, namespace: &str) {
        let state = &mut *self.lock();
        for (_, key, _) in &unknown(uid, namespace) {
            state.put_back(key);
        }
    }

    // A panic while the lock was held leaves at worst a ration with too little in it, which time fills.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rations of a token that GitHub may not know.
fn unknown(uid: &str, namespace: &str) -> [(Of, String, Rate); 3] {
    [
        (Of::Object, format!("unknown tokens of object {uid}"), UNKNOWN_OF_OBJECT),
        (Of::Namespace, format!("unknown tokens of namespace {namespace}"), UNKNOWN_OF_NAMESPACE),
        (Of::All, "unknown tokens".to_owned(), UNKNOWN_OF_ALL),
    ]
}

impl State {
    fn take(&mut self, key: String, rate: Rate, now: Timestamp) -> Result<(), Timestamp> {
        self.left.make_room(|allowance| !allowance.is_full(now));
        self.left.entry(key).or_insert_with(|| Allowance::full(rate, now)).take(now)
    }

    fn put_back(&mut self, key: &str) {
        if let Some(allowance) = self.left.get_mut(key) {
            allowance.put_back();
        }
    }

    /// The turn of an object: `next`, or after the turns that were given to others.
    fn turn(&mut self, queue: &str, every: SignedDuration, next: Timestamp, now: Timestamp) -> Timestamp {
        self.turns.make_room(|turn| *turn > now);
        let end = now.checked_add(TURNS).unwrap_or(now);
        let after = self.turns.get(queue).and_then(|last| last.checked_add(every).ok());
        let turn = after.filter(|turn| (next..end).contains(turn)).unwrap_or(next);
        self.turns.insert(queue.to_owned(), turn);
        turn
    }
}

impl Shares {
    fn full(now: Timestamp) -> Self {
        Self { all: Allowance::full(APP, now), each: HashMap::new() }
    }

    /// Takes a mint of the App for a namespace. Otherwise returns when there may be one, and the time between two.
    fn take(&mut self, namespace: &str, purpose: Purpose, now: Timestamp) -> Result<(), (Timestamp, SignedDuration)> {
        let shares_still = |last: &Timestamp| last.checked_add(SHARES_FOR).is_ok_and(|end| end > now);
        self.each.retain(|name, (_, last)| name == namespace || shares_still(last));
        let sharing = self.each.len() + usize::from(!self.each.contains_key(namespace));
        let rate = share(u32::try_from(sharing).unwrap_or(u32::MAX));
        let (share, last) = self.each.entry(namespace.to_owned()).or_insert_with(|| (Allowance::full(rate, now), now));
        share.change(rate, now);
        *last = now;
        // How much has to be in the share, in the bucket within the share, and in the bucket beyond it.
        let (own, within, beyond) = match purpose {
            Purpose::Renewal => (1.0, 1.0, LEFT_BEYOND_SHARE),
            Purpose::First => {
                ((rate.burst * LEFT_OF_SHARE_BY_FIRST).max(1.0), APP.burst * LEFT_BY_FIRST, LEFT_BY_FIRST_BEYOND_SHARE)
            }
        };
        let beyond = self.all.when(APP.burst * beyond, now);
        let within = share.when(own, now).max(self.all.when(within, now));
        if within.min(beyond) > now {
            return Err((within.min(beyond), rate.every));
        }
        if beyond > now {
            share.take(now).map_err(|next| (next, rate.every))?;
        }
        self.all.take(now).map_err(|next| (next, rate.every))
    }
}

/// A namespace's share, when so many have one. The shares together are half of the bucket, because the other half can be
/// used beyond a share.
fn share(sharing: u32) -> Rate {
    Rate {
        burst: (APP.burst * LEFT_BEYOND_SHARE / f64::from(sharing)).max(1.0),
        every: APP.every * i32::try_from(sharing).unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests;
