//! The limits for one pod, so that no workspace can slow another.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Time, size and number limits.
///
/// A transfer holds about half a MiB: two chunks in each direction, and the buffers of TLS and HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections. One more waits, and meanwhile idle connections are closed, the longest idle first.
    pub connections: usize,
    /// Open connections from one address, which a pod has for itself.
    pub connections_per_address: usize,
    /// Requests of one pod at once.
    pub requests_per_pod: usize,
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

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connections: 1024,
            connections_per_address: 32,
            requests_per_pod: 8,
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

/// The number of requests of each pod. Clones share it.
#[derive(Clone, Debug)]
pub struct Slots {
    most: usize,
    /// By the pod's uid.
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

/// A request of a pod, until it is dropped.
#[derive(Debug)]
pub struct Slot(Slots, String);

impl Slots {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// None if the pod has too many requests.
    #[must_use]
    pub fn take(&self, pod_uid: &str) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(pod_uid.to_owned()).or_default();
        (*count < self.most).then(|| {
            *count += 1;
            Slot(self.clone(), pod_uid.to_owned())
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = taken.entry(std::mem::take(&mut self.1)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pod_leaves_room_for_others() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take("a").unwrap(), slots.take("a").unwrap());
        assert!(slots.take("a").is_none() && slots.take("b").is_some());
        drop(first);
        let third = slots.take("a").unwrap();
        assert!(slots.take("a").is_none());
        drop((second, third));
        assert!(slots.taken.lock().unwrap().is_empty());
    }
}
