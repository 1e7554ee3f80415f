//! Reading the body of an untrusted request.
//!
//! Invariant: bytes are counted as they arrive, whatever length was announced; each body has a time limit and a least rate;
//! and all bodies together have a memory limit. Memory for a body of usual size is reserved, so that large bodies, which
//! anybody can begin to send, cannot keep the others out. If there is no memory for a body to grow, those that began to
//! arrive before it give theirs, the oldest first: a stranger keeps memory from others only by sending as fast as they do.

use super::answer::Refusal;
use crate::runtime::http_server::Pace;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// The most bytes that GitHub delivers: 25 MB, read as MiB.
/// Source: <https://docs.github.com/en/webhooks/webhook-events-and-payloads#payload-cap>.
pub const LARGEST: usize = 25 * 1024 * 1024;
/// Bytes that are reserved for each connection; most deliveries are smaller.
const USUAL: usize = 32 * 1024;
/// The rate of a body. GitHub gives up after 10 seconds, however slow the way is.
const PACE: Pace = Pace { grace: Duration::from_secs(3), bytes_per_second: 16 * 1024 };
/// Bytes of a refused request that are still read, so that the client sees the answer.
const DISCARDED: usize = 256 * 1024;
/// How long they are read.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The memory for bodies beyond the usual size. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Mutex<State>>);

struct State {
    /// Bytes that no body has claimed.
    free: usize,
    next: u64,
    /// The bodies that are arriving, the oldest first.
    arriving: BTreeMap<u64, Share>,
}

/// The memory of a body that is arriving.
struct Share {
    claimed: usize,
    bytes: Buffer,
    evicted: CancellationToken,
}

/// The bytes that have arrived; none once another body has their memory.
type Buffer = Arc<Mutex<Option<Vec<u8>>>>;

impl Memory {
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: bytes, next: 0, arriving: BTreeMap::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, capacity: usize) -> Arriving {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let bytes = Arc::new(Mutex::new(Some(Vec::with_capacity(capacity))));
        let evicted = CancellationToken::new();
        state.arriving.insert(id, Share { claimed: 0, bytes: Arc::clone(&bytes), evicted: evicted.clone() });
        Arriving { memory: self.clone(), id, bytes, evicted }
    }
}

impl State {
    /// Claims memory so that a body can grow to this capacity.
    fn claim(&mut self, id: u64, capacity: usize) -> Result<(), Refusal> {
        let claimed = self.arriving.get(&id).ok_or(Refusal::Memory)?.claimed;
        let more = capacity.saturating_sub(USUAL).saturating_sub(claimed);
        let older: usize = self.arriving.range(..id).map(|(_, share)| share.claimed).sum();
        if self.free + older < more {
            return Err(Refusal::Memory);
        }
        while self.free < more {
            let oldest = self.arriving.range(..id).find(|(_, share)| share.claimed > 0).map(|(id, _)| *id);
            let share = oldest.and_then(|oldest| self.arriving.remove(&oldest)).ok_or(Refusal::Memory)?;
            *lock(&share.bytes) = None;
            share.evicted.cancel();
            self.free += share.claimed;
        }
        let share = self.arriving.get_mut(&id).ok_or(Refusal::Memory)?;
        self.free -= more;
        share.claimed += more;
        Ok(())
    }
}

fn lock(bytes: &Buffer) -> MutexGuard<'_, Option<Vec<u8>>> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body that is arriving.
struct Arriving {
    memory: Memory,
    id: u64,
    bytes: Buffer,
    evicted: CancellationToken,
}

impl Arriving {
    fn take(&self, data: &Bytes) -> Result<(), Refusal> {
        let (length, capacity) = {
            let bytes = lock(&self.bytes);
            let bytes = bytes.as_ref().ok_or(Refusal::Memory)?;
            (bytes.len() + data.len(), bytes.capacity())
        };
        if length > LARGEST {
            return Err(Refusal::TooLarge);
        }
        // It claims the memory that it grows to, at most twice its length.
        let grown = if length > capacity { (2 * capacity).clamp(length, LARGEST) } else { capacity };
        self.memory.lock().claim(self.id, grown)?;
        let mut bytes = lock(&self.bytes);
        let bytes = bytes.as_mut().ok_or(Refusal::Memory)?;
        bytes.reserve_exact(grown - bytes.len());
        bytes.extend_from_slice(data);
        Ok(())
    }

    /// It arrived: from now on nobody takes its memory.
    fn complete(self) -> Result<Body, Refusal> {
        let share = self.memory.lock().arriving.remove(&self.id).ok_or(Refusal::Memory)?;
        let mut body = Body { bytes: Vec::new(), claimed: share.claimed, memory: self.memory.clone() };
        body.bytes = lock(&share.bytes).take().ok_or(Refusal::Memory)?;
        Ok(body)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        if let Some(share) = state.arriving.remove(&self.id) {
            *lock(&share.bytes) = None;
            state.free += share.claimed;
        }
    }
}

/// A body, and its share of the memory.
pub struct Body {
    pub bytes: Vec<u8>,
    claimed: usize,
    memory: Memory,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.bytes = Vec::new();
        self.memory.lock().free += self.claimed;
    }
}

impl Body {
    /// Reads a body within `time`.
    pub async fn read(mut incoming: Incoming, time: Duration, memory: &Memory) -> Result<Self, Refusal> {
        if incoming.size_hint().lower() > LARGEST as u64 {
            return Err(Refusal::TooLarge);
        }
        let announced = incoming.size_hint().exact().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
        // The announced length is not trusted beyond the usual size.
        let body = memory.begin(announced.min(USUAL));
        let (begun, mut received) = (Instant::now(), 0);
        loop {
            let due = PACE.due(begun, received).min(begun + time);
            let frame = tokio::select! {
                frame = timeout_at(due, incoming.frame()) => frame.map_err(|_| Refusal::Slow)?,
                () = body.evicted.cancelled() => return Err(Refusal::Memory),
            };
            let Some(frame) = frame else { return body.complete() };
            let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else { continue };
            received += data.len();
            body.take(&data)?;
        }
    }
}

/// Reads and drops a part of an unwanted body. If the connection were closed with unread bytes, the system would reset it,
/// and the client might never see the answer.
pub async fn discard(mut incoming: Incoming) {
    let discarding = async {
        let mut left = DISCARDED;
        while let Some(Ok(frame)) = incoming.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = timeout(DISCARD_TIME, discarding).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: Bytes = Bytes::from_static(&[b' '; 10_000]);

    fn grow(body: &Arriving, to: usize) -> Result<(), Refusal> {
        while lock(&body.bytes).as_ref().map_or(0, Vec::len) < to {
            body.take(&CHUNK)?;
        }
        Ok(())
    }

    #[test]
    fn a_body_claims_the_memory_that_it_uses() {
        let memory = Memory::of(LARGEST);
        let body = memory.begin(0);
        for length in (CHUNK.len()..=LARGEST).step_by(CHUNK.len()) {
            body.take(&CHUNK).unwrap();
            let claimed = LARGEST - memory.lock().free;
            let capacity = lock(&body.bytes).as_ref().unwrap().capacity();
            assert!(capacity <= USUAL + claimed, "{capacity} and {claimed}");
            assert!(claimed <= 2 * length, "bytes that were not sent are not claimed");
        }
        assert_eq!(body.take(&CHUNK), Err(Refusal::TooLarge));
        let body = body.complete().unwrap_or_else(|refusal| panic!("{refusal}"));
        assert!(body.bytes.len() > LARGEST - CHUNK.len());
        assert_eq!(grow(&memory.begin(USUAL), 2 * USUAL), Err(Refusal::Memory), "a complete body keeps its memory");
        drop(body);
        assert_eq!(memory.lock().free, LARGEST);
    }

    #[test]
    fn a_body_that_grows_takes_the_memory_of_those_that_began_before_it() {
        let memory = Memory::of(LARGEST);
        let oldest = memory.begin(0);
        let (older, small) = (memory.begin(0), memory.begin(0));
        grow(&oldest, LARGEST / 4).unwrap();
        grow(&older, LARGEST / 4).unwrap();
        grow(&small, USUAL / 2).unwrap();
        let newest = memory.begin(0);
        grow(&newest, LARGEST / 2).unwrap();
        assert!(oldest.evicted.is_cancelled() && !small.evicted.is_cancelled());
        assert_eq!(oldest.take(&CHUNK), Err(Refusal::Memory));
        grow(&newest, LARGEST - 2 * CHUNK.len()).unwrap();
        assert!(older.evicted.is_cancelled());
        assert!(lock(&older.bytes).is_none(), "its memory is free before its connection ends");
        // One that is older gets none of a younger one, and takes it from nobody.
        assert_eq!(grow(&small, 10 * USUAL), Err(Refusal::Memory));
        assert!(!newest.evicted.is_cancelled());
        drop((oldest, older, small, newest));
        assert_eq!(memory.lock().free, LARGEST);
        assert!(memory.lock().arriving.is_empty());
    }
}
