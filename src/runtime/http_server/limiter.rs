//! The number of open connections, in all and from one address.
//!
//! Invariant: an idle connection keeps nobody out. When all slots are taken, the connection that has been idle longest is
//! closed: silence costs a stranger nothing.

use super::Limits;
use super::connection::Activity;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A connection is closed for another only after this much idle time: a client that has just connected is about to send.
const SHORTEST_IDLE: Duration = Duration::from_millis(500);
/// How often an idle connection is looked for while a client waits.
const EVICT_EVERY: Duration = Duration::from_millis(100);

pub(super) struct ConnectionLimiter {
    most: usize,
    free: Arc<Semaphore>,
    addresses: Addresses,
    open: Vec<Open>,
}

/// The place of one open connection, until it is dropped.
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    _address: AddressSlot,
}

struct Open {
    activity: Activity,
    leave: CancellationToken,
    slot: Weak<Slot>,
}

impl ConnectionLimiter {
    pub(super) fn new(limits: &Limits) -> Self {
        let addresses =
            Addresses { most: limits.connections_per_address.unwrap_or(usize::MAX), counts: Arc::default() };
        Self { most: limits.connections, free: Arc::new(Semaphore::new(limits.connections)), addresses, open: vec![] }
    }

    /// Waits for a slot. None if there are too many connections from this address.
    pub(super) async fn admit(
        &mut self,
        address: IpAddr,
        activity: &Activity,
        leave: &CancellationToken,
    ) -> Option<Arc<Slot>> {
        let address = self.addresses.take(address)?;
        let slot = Arc::new(Slot { _permit: self.permit().await?, _address: address });
        if self.open.len() >= self.most {
            self.forget_closed();
        }
        self.open.push(Open { activity: activity.clone(), leave: leave.clone(), slot: Arc::downgrade(&slot) });
        Some(slot)
    }

    async fn permit(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(permit);
        }
        loop {
            self.forget_closed();
            self.evict();
            if let Ok(permit) = timeout(EVICT_EVERY, Arc::clone(&self.free).acquire_owned()).await {
                // The semaphore is never closed, so this is never an error.
                return permit.ok();
            }
        }
    }

    fn forget_closed(&mut self) {
        self.open.retain(|open| open.slot.strong_count() > 0);
    }

    /// Tells the connection that has been idle longest to leave.
    fn evict(&self) {
        let staying = self.open.iter().filter(|open| !open.leave.is_cancelled());
        let idle = staying.filter_map(|open| open.activity.idle_since().map(|since| (since, open)));
        let longest = idle.min_by_key(|(since, _)| *since);
        if let Some((_, open)) = longest.filter(|(since, _)| since.elapsed() >= SHORTEST_IDLE) {
            open.leave.cancel();
        }
    }
}

/// The number of connections from each address. Clones share it.
#[derive(Clone)]
struct Addresses {
    most: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection from an address, until it is dropped.
struct AddressSlot(Addresses, IpAddr);

impl Addresses {
    fn take(&self, address: IpAddr) -> Option<AddressSlot> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        (*count < self.most).then(|| {
            *count += 1;
            AddressSlot(self.clone(), address)
        })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.1) {
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
    fn one_address_leaves_room_for_others() {
        let addresses = Addresses { most: 64, counts: Arc::default() };
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut slots: Vec<_> = (0..64).map(|_| addresses.take(one).unwrap()).collect();
        assert!(addresses.take(one).is_none() && addresses.take(other).is_some());
        slots.pop();
        slots.push(addresses.take(one).unwrap());
        assert!(addresses.take(one).is_none());
        drop(slots);
        assert!(addresses.counts.lock().unwrap().is_empty());
    }
}
