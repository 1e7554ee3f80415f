//! The one queue of due times: when each object is reconciled next, by the injected clock.
//!
//! Controllers answer every reconcile with `Action::await_change()`. A reconcile that depends on time (a resync, a renewal,
//! a retry after a failure) is put on the queue through a [`Due`] and comes back to the controller through
//! `Controller::reconcile_on`. Invariants:
//!
//! - An object has at most one entry, and the latest due time replaces the one before, whether it is earlier or later.
//! - [`Due::look_now`] makes no entry: it fires at once, and a reconcile that ends meanwhile and sets the next due time
//!   does not postpone it.
//! - Nothing that has fired is lost. It stays in the kind's stream, each object once, until the controller takes it; a
//!   controller that is working on the object takes it up again afterwards.
//!
//! Without this module time would be spread over sleeps and requeues that no test can move.
//!
//! # Objects that kube does not know
//!
//! kube's runner looks a requested object up in the reflector's store. If it is missing, the runner drops the request
//! and the controller's stream yields `controller::Error::ObjectNotFound`. Usually the object was deleted. But the
//! store may be late: the object was created a moment ago; or a broken watch lists again, and kube announces each
//! object before it puts the whole list into the store, so that the announcement of an object first seen in that list
//! can be dropped as well, and nothing announces it again. A controller therefore hands each `ObjectNotFound` to
//! [`Due::unknown`], which asks again a few times (about half a minute in all) and then forgets the object. By then it
//! is in the store, or the watch announces it later, or it was deleted.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map},
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::{Stream, stream};
use jiff::{SignedDuration, Timestamp};
use kube::{api::DynamicObject, runtime::reflector::ObjectRef};
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    clock::Clock,
    heartbeat::{BEAT_EVERY, Heartbeat},
    jitter::Jitter,
};

/// Seconds: the shortest wait before a retry.
const RETRY_FLOOR: f64 = 1.0;
/// Seconds: the longest wait before a retry.
const RETRY_CEILING: f64 = 300.0;
/// How often an object that kube does not know is asked for again: after 2, 4, 8 and 16 seconds.
const UNKNOWN_LOOKS: u32 = 4;

/// A kind whose controller the due queue can feed.
pub trait Kind: kube::Resource<DynamicType = ()> + 'static {}
impl<K: kube::Resource<DynamicType = ()> + 'static> Kind for K {}

/// The queue of all kinds. Clones share it.
#[derive(Clone)]
pub struct DueQueue {
    shared: Arc<Shared>,
}

/// Sets when objects of kind `K` are reconciled. Clones share the queue.
pub struct Due<K> {
    shared: Arc<Shared>,
    lane: usize,
    kind: PhantomData<fn() -> K>,
}

/// The next try after a failed reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The number of the failure in a row, from 1.
    pub attempt: u32,
    pub at: Timestamp,
}

struct Shared {
    clock: Arc<dyn Clock>,
    jitter: Arc<dyn Jitter>,
    heartbeat: Heartbeat,
    state: Mutex<State>,
    /// Notified when the earliest due time may have changed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// The entries that have a time, earliest first.
    order: BTreeSet<(Timestamp, Key)>,
    lanes: Vec<Lane>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    lane: usize,
    namespace: Option<String>,
    name: String,
}

#[derive(Default)]
struct Entry {
    at: Option<Timestamp>,
    /// Failures in a row.
    attempts: u32,
    /// How often in a row kube did not know the object.
    unknown: u32,
    /// The object that these attempts count for: a new object of the same name starts from zero.
    uid: Option<String>,
}

/// The objects of one kind that have fired and that its controller has not taken yet, each once.
#[derive(Default)]
struct Lane {
    fired: VecDeque<Key>,
    members: HashSet<Key>,
    waker: Option<Waker>,
}

impl DueQueue {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, jitter: Arc<dyn Jitter>) -> Self {
        let heartbeat = Heartbeat::new();
        Self { shared: Arc::new(Shared { clock, jitter, heartbeat, state: Mutex::default(), changed: Notify::new() }) }
    }

    /// Adds a kind: its due times, and the stream for its controller's `reconcile_on`, which never ends.
    pub fn register<K: Kind>(&self) -> (Due<K>, impl Stream<Item = ObjectRef<K>> + Send + use<K>) {
        let lane = {
            let mut state = self.shared.state();
            state.lanes.push(Lane::default());
            state.lanes.len() - 1
        };
        let shared = self.shared.clone();
        let fired =
            stream::poll_fn(move |context| shared.state().poll_fired(lane, context).map(Key::into_object).map(Some));
        (Due { shared: self.shared.clone(), lane, kind: PhantomData }, fired)
    }

    /// Fires what falls due, until `shutdown`. The one task that waits for time.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut beat = tokio::time::interval(BEAT_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = self.sleep_until_next();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = &mut due => self.shared.fire(),
                () = self.shared.changed.notified() => {}
                _ = beat.tick() => {
                    self.shared.heartbeat.beat();
                    continue;
                }
            }
            due = self.sleep_until_next();
        }
    }

    fn sleep_until_next(&self) -> futures::future::BoxFuture<'static, ()> {
        match self.next() {
            Some(at) => self.shared.clock.sleep_until(at),
            None => Box::pin(std::future::pending()),
        }
    }

    /// Beats while [`run`](Self::run) runs.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        self.shared.heartbeat.clone()
    }

    /// When the next entry falls due.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.shared.state().order.first().map(|(at, _)| *at)
    }

    /// The number of objects that are due and that their controller has not taken yet.
    #[must_use]
    pub fn due_now(&self) -> usize {
        let now = self.shared.clock.now();
        let state = self.shared.state();
        let fired: usize = state.lanes.iter().map(|lane| lane.fired.len()).sum();
        fired + state.order.iter().take_while(|(at, _)| *at <= now).count()
    }

    /// The number of objects with a due time.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state().order.len()
    }

    /// Whether no object has a due time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for DueQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DueQueue").field("len", &self.len()).field("next", &self.next()).finish()
    }
}

impl<K: Kind> Due<K> {
    /// Reconciles the object at `at`; an earlier call is replaced.
    pub fn look_at(&self, object: &ObjectRef<K>, at: Timestamp) {
        self.shared.set(self.key(object), |entry| {
            entry.unknown = 0;
            entry.at = Some(at);
        });
    }

    /// Reconciles the object as soon as its controller is free. Its due time stays.
    pub fn look_now(&self, object: &ObjectRef<K>) {
        self.shared.state().fire(self.key(object));
    }

    /// Retries after a failure. The wait doubles from two seconds to five minutes with each failure in a row; jitter takes
    /// up to three quarters off, so that objects that failed together do not come back together.
    pub fn retry(&self, object: &ObjectRef<K>) -> Retry {
        let now = self.shared.clock.now();
        self.shared.set(self.key(object), |entry| {
            if entry.uid != object.extra.uid && object.extra.uid.is_some() {
                entry.attempts = 0;
                entry.uid.clone_from(&object.extra.uid);
            }
            entry.unknown = 0;
            entry.attempts = entry.attempts.saturating_add(1);
            let ceiling = doubled(entry.attempts).min(RETRY_CEILING);
            let wait = self.shared.jitter.between((ceiling / 4.0).max(RETRY_FLOOR), ceiling);
            let at = after(now, wait);
            entry.at = Some(at);
            Retry { attempt: entry.attempts, at }
        })
    }

    /// Called after a success: the next failure counts as the first again. The due time stays.
    pub fn succeeded(&self, object: &ObjectRef<K>) {
        self.shared.set(self.key(object), |entry| {
            entry.attempts = 0;
            entry.unknown = 0;
        });
    }

    /// Removes everything about a deleted object.
    pub fn forget(&self, object: &ObjectRef<K>) {
        self.shared.state().forget(&self.key(object));
    }

    /// Handles `controller::Error::ObjectNotFound`: asks for the object again some times, then forgets it. The module's
    /// documentation says why.
    pub fn unknown(&self, object: &ObjectRef<DynamicObject>) {
        let now = self.shared.clock.now();
        let key = Key { lane: self.lane, namespace: object.namespace.clone(), name: object.name.clone() };
        let mut state = self.shared.state();
        let given_up = state.set(key.clone(), |entry| {
            entry.unknown += 1;
            let given_up = entry.unknown > UNKNOWN_LOOKS;
            if !given_up {
                entry.at = Some(after(now, doubled(entry.unknown)));
            }
            given_up
        });
        if given_up {
            state.forget(&key);
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    fn key(&self, object: &ObjectRef<K>) -> Key {
        Key { lane: self.lane, namespace: object.namespace.clone(), name: object.name.clone() }
    }
}

impl<K> Clone for Due<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), lane: self.lane, kind: PhantomData }
    }
}

impl<K> fmt::Debug for Due<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Due").field("lane", &self.lane).finish_non_exhaustive()
    }
}

/// 2, 4, 8, … seconds.
fn doubled(times: u32) -> f64 {
    2f64.powi(i32::try_from(times.min(30)).unwrap_or(30))
}

fn after(now: Timestamp, seconds: f64) -> Timestamp {
    now.checked_add(SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held cannot leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set<T>(&self, key: Key, change: impl FnOnce(&mut Entry) -> T) -> T {
        let result = self.state().set(key, change);
        self.changed.notify_one();
        result
    }

    fn fire(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        while let Some((at, key)) = state.order.first().cloned() {
            if at > now {
                break;
            }
            state.set(key.clone(), |entry| entry.at = None);
            state.fire(key);
        }
    }
}

impl State {
    /// Changes an entry, updates the order, and removes the entry when it is empty.
    fn set<T>(&mut self, key: Key, change: impl FnOnce(&mut Entry) -> T) -> T {
        let mut place = match self.entries.entry(key) {
            hash_map::Entry::Occupied(place) => place,
            hash_map::Entry::Vacant(place) => place.insert_entry(Entry::default()),
        };
        let before = place.get().at;
        let result = change(place.get_mut());
        let entry = place.get();
        if before != entry.at {
            if let Some(before) = before {
                self.order.remove(&(before, place.key().clone()));
            }
            if let Some(at) = entry.at {
                self.order.insert((at, place.key().clone()));
            }
        }
        if entry.at.is_none() && entry.attempts == 0 && entry.unknown == 0 {
            place.remove();
        }
        result
    }

    fn forget(&mut self, key: &Key) {
        if let Some(Entry { at: Some(at), .. }) = self.entries.remove(key) {
            self.order.remove(&(at, key.clone()));
        }
        let lane = &mut self.lanes[key.lane];
        if lane.members.remove(key) {
            lane.fired.retain(|fired| fired != key);
        }
    }

    fn fire(&mut self, key: Key) {
        let lane = &mut self.lanes[key.lane];
        if lane.members.insert(key.clone()) {
            lane.fired.push_back(key);
        }
        if let Some(waker) = lane.waker.take() {
            waker.wake();
        }
    }

    fn poll_fired(&mut self, lane: usize, context: &mut Context<'_>) -> Poll<Key> {
        let lane = &mut self.lanes[lane];
        if let Some(key) = lane.fired.pop_front() {
            lane.members.remove(&key);
            Poll::Ready(key)
        } else {
            lane.waker = Some(context.waker().clone());
            Poll::Pending
        }
    }
}

impl Key {
    fn into_object<K: Kind>(self) -> ObjectRef<K> {
        let object = ObjectRef::new(&self.name);
        match self.namespace {
            Some(namespace) => object.within(&namespace),
            None => object,
        }
    }
}

#[cfg(test)]
mod tests;
