//! The limits for one pod and for one namespace, which leave room for the others, and those that follow from the memory.

use super::answer::Refusal;
use crate::reports::PodIdentity;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pushes with many commands at once.
pub const LARGE_HEADS: usize = 8;
/// The memory for the commands of one of these: 4 MiB as they came, parsed, and written anew.
const LARGE_HEAD: u64 = 16 << 20;
/// The memory of the process without connections: the program, the caches and the tokens.
const RESIDENT: u64 = 64 << 20;
/// The memory of a connection with a transfer: the chunks in each direction, commands that need no place, and the buffers of TLS and
/// HTTP.
const CONNECTION: u64 = 512 << 10;
/// A gateway with less serves nobody.
const FEWEST_CONNECTIONS: u64 = 64;
/// More would be files that a process may not open.
const MOST_CONNECTIONS: u64 = 4096;
/// One namespace can have this part of the connections.
const NAMESPACE_SHARE: usize = 8;

/// Time, size and number limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections. One more waits, and meanwhile idle connections are closed, the longest idle first.
    pub connections: usize,
    /// Open connections from one address, which a pod has for itself.
    pub connections_per_address: usize,
    /// Requests of one pod at once.
    pub requests_per_pod: usize,
    /// Requests of all pods of a namespace at once.
    pub requests_per_namespace: usize,
    /// How often a push under way asks whether it is still allowed, besides at its end.
    pub recheck: Duration,
    /// Bytes of a push. GitHub takes no pack above 2 GB.
    pub push: u64,
    /// Bytes of a request for a fetch, which names the commits that the clone has.
    pub fetch: u64,
    /// Time for a request and its answer.
    pub transfer: Duration,
    /// Time without a byte.
    pub stall: Duration,
    /// Time for the head of a request, from its first byte; on a new connection, from the beginning.
    pub head: Duration,
    /// Time between two requests.
    pub idle: Duration,
    /// Age at which a connection is closed, so that clients spread over replicas again.
    pub age: Duration,
    /// How long connections are still accepted after shutdown began: clients learn about it late.
    pub shutdown_delay: Duration,
}

impl Limits {
    /// The limits for a process with this many bytes of memory.
    #[must_use]
    pub fn of_memory(bytes: u64) -> Self {
        let seconds = Duration::from_secs;
        let for_connections = bytes.saturating_sub(RESIDENT + LARGE_HEADS as u64 * LARGE_HEAD);
        let connections = (for_connections / CONNECTION).clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS);
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        Self {
            connections,
            connections_per_address: 32,
            requests_per_pod: 8,
            requests_per_namespace: connections / NAMESPACE_SHARE,
            recheck: seconds(5),
            push: 2 << 30,
            fetch: 64 << 20,
            transfer: seconds(1800),
            stall: seconds(120),
            head: seconds(10),
            idle: seconds(60),
            age: seconds(600),
            shutdown_delay: seconds(3),
        }
    }
}

/// The limits for half a GiB, as the chart has it.
impl Default for Limits {
    fn default() -> Self {
        Self::of_memory(512 << 20)
    }
}

/// Counts by keys.
#[derive(Debug)]
struct Counts<K>(HashMap<K, usize>);

impl<K: Eq + Hash> Counts<K> {
    fn of(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or_default()
    }

    fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    fn remove(&mut self, key: K) {
        if let Entry::Occupied(mut count) = self.0.entry(key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// A pod by its uid, or a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Pod(String),
    Namespace(String),
}

/// The number of requests of each pod and namespace. Clones share it.
#[derive(Clone, Debug)]
pub struct Slots {
    of_pod: usize,
    of_namespace: usize,
    taken: Arc<Mutex<Counts<Holder>>>,
}

/// A request of a pod, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    holders: [Holder; 2],
}

impl Slots {
    #[must_use]
    pub fn new(of_pod: usize, of_namespace: usize) -> Self {
        Self { of_pod, of_namespace, taken: Arc::new(Mutex::new(Counts(HashMap::new()))) }
    }

    /// A slot for a request, unless the pod or its namespace has too many.
    pub fn take(&self, pod: &PodIdentity) -> Result<Slot, Refusal> {
        let holders = [Holder::Pod(pod.uid.clone()), Holder::Namespace(pod.namespace.clone())];
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.of(&holders[0]) >= self.of_pod {
            return Err(Refusal::TooMany);
        }
        if taken.of(&holders[1]) >= self.of_namespace {
            return Err(Refusal::TooManyOfNamespace);
        }
        for holder in &holders {
            taken.add(holder.clone());
        }
        Ok(Slot { slots: self.clone(), holders })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for holder in &self.holders {
            taken.remove(holder.clone());
        }
    }
}

/// Places for pushes with many commands, of which each namespace has one at a time.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    of_namespaces: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_namespace: OwnedSemaphorePermit,
}

impl Places {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(most)), of_namespaces: Mutex::default() }
    }

    /// Waits for a place. None would be there if the places were closed, which nobody does.
    pub async fn take(&self, namespace: &str) -> Option<Place> {
        let of_namespace = self.of(namespace).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _of_all: of_all, _of_namespace: of_namespace })
    }

    fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut of_namespaces = self.of_namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who have a place or wait for one hold the namespace's semaphore.
        of_namespaces.retain(|_, semaphore| semaphore.strong_count() > 0);
        if let Some(semaphore) = of_namespaces.get(namespace).and_then(Weak::upgrade) {
            return semaphore;
        }
        let semaphore = Arc::new(Semaphore::new(1));
        of_namespaces.insert(namespace.to_owned(), Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn pod(namespace: &str, uid: &str) -> PodIdentity {
        PodIdentity { namespace: namespace.into(), name: "ws".into(), uid: uid.into() }
    }

    #[test]
    fn one_pod_leaves_room_for_others() {
        let slots = Slots::new(2, 8);
        let take = |uid| slots.take(&pod("team-a", uid));
        let (first, second) = (take("a").unwrap(), take("a").unwrap());
        assert_eq!(take("a").unwrap_err(), Refusal::TooMany);
        assert!(take("b").is_ok());
        drop(first);
        let third = take("a").unwrap();
        assert!(take("a").is_err());
        drop((second, third));
        assert!(slots.taken.lock().unwrap().0.is_empty());
    }

    #[test]
    fn one_namespace_leaves_room_for_others() {
        let slots = Slots::new(2, 3);
        let held: Vec<_> = ["a", "b", "c"].map(|uid| slots.take(&pod("team-a", uid)).unwrap()).into();
        assert_eq!(slots.take(&pod("team-a", "d")).unwrap_err(), Refusal::TooManyOfNamespace);
        assert!(slots.take(&pod("team-b", "e")).is_ok());
        drop(held);
        assert!(slots.take(&pod("team-a", "d")).is_ok());
    }

    #[test]
    fn a_namespace_has_one_place_for_a_large_push() {
        let places = Places::new(2);
        let take = |namespace| places.take(namespace).now_or_never().flatten();
        let first = take("team-a").unwrap();
        assert!(take("team-a").is_none(), "the second push of a namespace waits");
        let other = take("team-b").unwrap();
        assert!(take("team-c").is_none(), "there are two places");
        drop(first);
        let third = take("team-a").unwrap();
        drop((other, third));
        assert!(take("team-c").is_some());
        let _ = places.of("team-d");
        assert_eq!(places.of_namespaces.lock().unwrap().len(), 1);
    }

    /// All that the limits allow at once fits into the memory, and half of the connections are left for others than any namespace.
    #[test]
    fn the_connections_fit_into_the_memory() {
        for mebibytes in [256, 512, 1024, 2048] {
            let limits = Limits::of_memory(mebibytes << 20);
            let connections = limits.connections as u64;
            assert!(RESIDENT + LARGE_HEADS as u64 * LARGE_HEAD + connections * CONNECTION <= mebibytes << 20);
            assert!(limits.requests_per_namespace >= limits.requests_per_pod && connections >= FEWEST_CONNECTIONS);
            assert!(limits.requests_per_namespace * 2 <= limits.connections);
        }
        assert_eq!(Limits::default().connections, 640);
        assert_eq!(Limits::of_memory(0).connections as u64, FEWEST_CONNECTIONS);
        assert_eq!(Limits::of_memory(u64::MAX).connections as u64, MOST_CONNECTIONS);
    }
}
