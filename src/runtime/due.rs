//! The one queue of due times: when each object is reconciled next, by the injected clock.
//!
//! A reconcile that depends on time (a resync, a renewal, a retry after a failure) is put on the queue through a [`Due`],
//! and its controller takes the objects that are due out of a [`Feed`], in the order of [`turns`]. Invariants:
//!
//! - An object has at most one entry, and the latest due time replaces the one before, whether it is earlier or later.
//! - [`Due::look_now`] makes no entry: it fires at once, and a reconcile that ends meanwhile and sets the next due time
//!   does not postpone it.
//! - Nothing that has fired is lost. It waits, each object once, until the controller takes it; an object that fires while
//!   its controller is working on it is taken up again afterwards. An object that the cache does not have is forgotten:
//!   its watch announces it when the cache has it.
//!
//! Without this module time would be spread over sleeps and requeues that no test can move.

mod turns;

pub use turns::{Places, Served, Urgency};

use std::{
    collections::{BTreeSet, HashMap, hash_map},
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use turns::{Given, Name, Turns};

use super::{
    clock::Clock,
    heartbeat::{BEAT_EVERY, Heartbeat},
    jitter::Jitter,
};

/// Seconds: the shortest wait before a retry.
const RETRY_FLOOR: f64 = 1.0;
/// Seconds: the longest wait before a retry.
const RETRY_CEILING: f64 = 300.0;

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
    name: Name,
}

#[derive(Default)]
struct Entry {
    at: Option<Timestamp>,
    /// How urgent the look at that time is, if it is not one of many that time brings.
    urgency: Option<Urgency>,
    /// Failures in a row.
    attempts: u32,
    /// The object that these attempts count for: a new object of the same name starts from zero.
    uid: Option<String>,
}

/// The objects of one kind that have fired, and those that its controller works on.
#[derive(Default)]
struct Lane {
    turns: Turns,
    waker: Option<Waker>,
}

/// The objects of a kind that are due, for its controller.
pub struct Feed<K> {
    shared: Arc<Shared>,
    lane: usize,
    kind: PhantomData<fn() -> K>,
}

/// The turn of an object. The object gets no other one, and the slots stay taken, until this is dropped.
pub struct Turn<K: Kind> {
    pub object: ObjectRef<K>,
    pub served: Served,
    shared: Arc<Shared>,
    lane: usize,
    given: Option<Given>,
}

impl DueQueue {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, jitter: Arc<dyn Jitter>) -> Self {
        let heartbeat = Heartbeat::new();
        Self { shared: Arc::new(Shared { clock, jitter, heartbeat, state: Mutex::default(), changed: Notify::new() }) }
    }

    /// Adds a kind: its due times, and its objects that are due.
    #[must_use]
    pub fn register<K: Kind>(&self) -> (Due<K>, Feed<K>) {
        let lane = {
            let mut state = self.shared.state();
            state.lanes.push(Lane::default());
            state.lanes.len() - 1
        };
        let due = Due { shared: self.shared.clone(), lane, kind: PhantomData };
        (due, Feed { shared: self.shared.clone(), lane, kind: PhantomData })
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
        let fired: usize = state.lanes.iter().map(|lane| lane.turns.len()).sum();
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
    pub fn look_at(&self, object: &ObjectRef<K>, at: Timestamp, urgency: Urgency) {
        self.shared.set(self.key(object), |entry| {
            entry.at = Some(at);
            entry.urgency = Some(urgency);
        });
    }

    /// Reconciles the object as soon as it is its turn, because something changed. Its due time stays.
    pub fn look_now(&self, object: &ObjectRef<K>) {
        self.shared.state().fire(self.key(object), None);
    }

    /// The same after a delivery.
    pub fn look_after_delivery(&self, object: &ObjectRef<K>) {
        self.shared.state().fire(self.key(object), Some(Urgency::Delivery));
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
            entry.urgency = None;
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
        self.shared.set(self.key(object), |entry| entry.attempts = 0);
    }

    /// Removes everything about a deleted object.
    pub fn forget(&self, object: &ObjectRef<K>) {
        self.shared.state().forget(&self.key(object));
    }

    fn key(&self, object: &ObjectRef<K>) -> Key {
        Key { lane: self.lane, name: Name { namespace: object.namespace.clone(), name: object.name.clone() } }
    }
}

impl<K: Kind> Feed<K> {
    /// The next turn. `places`: the places that an object talks to, whose slots its turn takes; `None` if the cache does
    /// not have it.
    pub async fn next(&mut self, places: impl Fn(&ObjectRef<K>) -> Option<Places>) -> Turn<K> {
        let places = |name: &Name| places(&name.clone().into_object());
        let given = std::future::poll_fn(|context| self.shared.state().poll_turn(self.lane, places, context)).await;
        Turn {
            object: given.name.clone().into_object(),
            served: Served::Yes,
            shared: Arc::clone(&self.shared),
            lane: self.lane,
            given: Some(given),
        }
    }
}

impl<K: Kind> Drop for Turn<K> {
    fn drop(&mut self) {
        if let Some(given) = self.given.take() {
            let mut state = self.shared.state();
            let lane = &mut state.lanes[self.lane];
            lane.turns.finish(given, self.served);
            lane.wake();
        }
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
            let urgency = state.set(key.clone(), |entry| {
                entry.at = None;
                entry.urgency.take()
            });
            state.fire(key, Some(urgency.unwrap_or(Urgency::Time)));
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
        if entry.at.is_none() && entry.attempts == 0 {
            place.remove();
        }
        result
    }

    fn forget(&mut self, key: &Key) {
        if let Some(Entry { at: Some(at), .. }) = self.entries.remove(key) {
            self.order.remove(&(at, key.clone()));
        }
        self.lanes[key.lane].turns.forget(&key.name);
    }

    fn fire(&mut self, key: Key, urgency: Option<Urgency>) {
        let lane = &mut self.lanes[key.lane];
        lane.turns.fire(key.name, urgency);
        lane.wake();
    }

    fn poll_turn(
        &mut self,
        lane: usize,
        places: impl Fn(&Name) -> Option<Places>,
        context: &mut Context<'_>,
    ) -> Poll<Given> {
        let mut gone = Vec::new();
        let given = self.lanes[lane].turns.take(places, |name| gone.push(name.clone()));
        for name in gone {
            self.forget(&Key { lane, name });
        }
        if let Some(given) = given {
            return Poll::Ready(given);
        }
        self.lanes[lane].waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Lane {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Name {
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
