//! The number of open connections, in all and from one address.
//!
//! Invariant: a client that lets the server wait keeps nobody out, and connections are accepted without waiting for such a
//! client. When all slots are taken, the connection that has let the server wait longest is closed at once: silence, a slow
//! head or a slow body costs a stranger nothing. A connection whose request is complete is never closed for another.

use super::Limits;
use super::connection::Activity;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long to wait for the connection that was told to leave, before another is.
const EVICT_EVERY: Duration = Duration::from_millis(100);
/// The time between two lines in the log about connections that were closed for others.
const LOG_EVERY: Duration = Duration::from_mins(1);

pub(super) struct ConnectionLimiter {
    name: &'static str,
    most: usize,
    most_per_address: Option<usize>,
    free: Arc<Semaphore>,
    open: Vec<Open>,
    logged: Option<Instant>,
}

/// The place of one open connection, until it is dropped.
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
}

struct Open {
    address: IpAddr,
    activity: Activity,
    evicted: CancellationToken,
    slot: Weak<Slot>,
}

impl ConnectionLimiter {
    pub(super) fn new(name: &'static str, limits: &Limits) -> Self {
        Self {
            name,
            most: limits.connections,
            most_per_address: limits.connections_per_address,
            free: Arc::new(Semaphore::new(limits.connections)),
            open: Vec::new(),
            logged: None,
        }
    }

    /// The slot of a new connection. None if too many complete requests from its address are being answered; waits while
    /// that holds for all addresses together.
    pub(super) async fn admit(
        &mut self,
        address: IpAddr,
        activity: &Activity,
        evicted: &CancellationToken,
    ) -> Option<Arc<Slot>> {
        if let Some(most) = self.most_per_address {
            self.forget_closed();
            let is_full = self.open.iter().filter(|open| open.is_staying() && open.address == address).count() >= most;
            if is_full && !self.evict(|open| open.address == address) {
                return None;
            }
        }
        let slot = Arc::new(Slot { _permit: self.permit(address).await? });
        if self.open.len() >= self.most {
            self.forget_closed();
        }
        let (activity, evicted) = (activity.clone(), evicted.clone());
        self.open.push(Open { address, activity, evicted, slot: Arc::downgrade(&slot) });
        Some(slot)
    }

    async fn permit(&mut self, address: IpAddr) -> Option<OwnedSemaphorePermit> {
        // One that was told to leave may be about to end.
        let mut is_leaving = self.open.iter().any(|open| open.evicted.is_cancelled() && open.slot.strong_count() > 0);
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(permit);
            }
            self.forget_closed();
            if !std::mem::take(&mut is_leaving) {
                match self.most_per_address.map(|_| self.crowded(address)) {
                    Some(crowded) => self.evict(|open| open.address == crowded),
                    None => self.evict(|_| true),
                };
            }
            if let Ok(permit) = timeout(EVICT_EVERY, Arc::clone(&self.free).acquire_owned()).await {
                // The semaphore is never closed, so this is never an error.
                return permit.ok();
            }
        }
    }

    fn forget_closed(&mut self) {
        self.open.retain(|open| open.slot.strong_count() > 0);
    }

    /// The address that lets the server wait on the most connections, with a new one from `newcomer`.
    fn crowded(&self, newcomer: IpAddr) -> IpAddr {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for (_, open) in self.waiting() {
            *counts.entry(open.address).or_default() += 1;
        }
        // Without another connection of its own, the newcomer cannot make room.
        counts.entry(newcomer).and_modify(|count| *count += 1);
        let most = counts.into_iter().max_by_key(|(address, count)| (*count, *address == newcomer));
        most.map_or(newcomer, |(address, _)| address)
    }

    fn waiting(&self) -> impl Iterator<Item = (Instant, &Open)> {
        let staying = self.open.iter().filter(|open| open.is_staying());
        staying.filter_map(|open| open.activity.waiting_since().map(|since| (since, open)))
    }

    /// Closes the one of these connections that has let the server wait longest; whether there is one.
    fn evict(&mut self, of: impl Fn(&Open) -> bool) -> bool {
        let longest = self.waiting().filter(|(_, open)| of(open)).max_by_key(|(since, _)| Reverse(*since));
        let Some((_, open)) = longest else { return false };
        open.evicted.cancel();
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(
                server = self.name,
                "too many connections are open: those whose clients have been silent or slow longest are closed for new ones"
            );
        }
        true
    }
}

impl Open {
    fn is_staying(&self) -> bool {
        !self.evicted.is_cancelled() && self.slot.strong_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    struct Connection {
        activity: Activity,
        evicted: CancellationToken,
        _slot: Arc<Slot>,
    }

    fn limiter(most: usize, most_per_address: Option<usize>) -> ConnectionLimiter {
        ConnectionLimiter {
            name: "test",
            most,
            most_per_address,
            free: Arc::new(Semaphore::new(most)),
            open: Vec::new(),
            logged: None,
        }
    }

    /// Opens a connection, a moment after those before it. Evicted connections end at once.
    async fn open(limiter: &mut ConnectionLimiter, address: IpAddr, all: &mut Vec<Connection>) -> bool {
        tokio::time::advance(Duration::from_millis(1)).await;
        let (activity, evicted) = (Activity::new(), CancellationToken::new());
        let admitted = {
            let admit = limiter.admit(address, &activity, &evicted);
            tokio::pin!(admit);
            // The first poll evicts, and ends when nobody has to leave.
            let first = std::future::poll_fn(|context| std::task::Poll::Ready(admit.as_mut().poll(context))).await;
            match first {
                std::task::Poll::Ready(slot) => slot,
                std::task::Poll::Pending => {
                    all.retain(|connection| !connection.evicted.is_cancelled());
                    timeout(Duration::from_secs(1), admit).await.ok().flatten()
                }
            }
        };
        all.retain(|connection| !connection.evicted.is_cancelled());
        let is_admitted = admitted.is_some();
        all.extend(admitted.map(|slot| Connection { activity, evicted, _slot: slot }));
        is_admitted
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_lets_the_server_wait_longest_goes() {
        let (mut limiter, mut all) = (limiter(3, None), Vec::new());
        for _ in 0..3 {
            assert!(open(&mut limiter, ONE, &mut all).await);
        }
        let (mut complete, incomplete) = (all[0].activity.begin(), all[1].activity.begin());
        complete.complete();
        // The second has sent a head, and no body.
        assert!(open(&mut limiter, ONE, &mut all).await);
        let is_there = |all: &[Connection], request: &crate::runtime::http_server::ActiveRequest| {
            all.iter().any(|connection| request.is_of(&connection.activity))
        };
        assert!(is_there(&all, &complete) && !is_there(&all, &incomplete) && all.len() == 3);
        // Complete requests wait for nobody's bytes: they stay, and a further connection waits for them.
        let requests: Vec<_> = all[1..]
            .iter()
            .map(|connection| {
                let mut request = connection.activity.begin();
                request.complete();
                request
            })
            .collect();
        assert!(!open(&mut limiter, OTHER, &mut all).await);
        drop(requests);
        assert!(open(&mut limiter, OTHER, &mut all).await);
        assert!(is_there(&all, &complete));
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_leaves_room_for_others() {
        let (mut limiter, mut all) = (limiter(4, Some(3)), Vec::new());
        let count = |all: &[Connection], address: IpAddr, limiter: &ConnectionLimiter| {
            let of = limiter.open.iter().filter(|open| open.is_staying() && open.address == address).count();
            assert!(of <= all.len());
            of
        };
        assert!(open(&mut limiter, OTHER, &mut all).await);
        for _ in 0..20 {
            assert!(open(&mut limiter, ONE, &mut all).await);
        }
        // The other one has waited longest, and stays.
        assert_eq!((count(&all, ONE, &limiter), count(&all, OTHER, &limiter)), (3, 1));
        for _ in 0..20 {
            assert!(open(&mut limiter, OTHER, &mut all).await);
        }
        assert_eq!((count(&all, ONE, &limiter), count(&all, OTHER, &limiter)), (2, 2));
        let mut requests: Vec<_> = all.iter().map(|connection| connection.activity.begin()).collect();
        for request in &mut requests {
            request.complete();
        }
        assert!(!open(&mut limiter, ONE, &mut all).await);
    }
}
