//! Reading the body of an untrusted request.
//!
//! Invariant: bytes are counted as they arrive, whatever length was announced; each body has a time limit; and all bodies
//! together have a memory limit. Memory for a body of usual size is reserved, so that large bodies, which anybody can begin
//! to send, cannot keep the others out.

use super::answer::Refusal;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The most bytes that GitHub delivers: 25 MB, read as MiB.
/// Source: <https://docs.github.com/en/webhooks/webhook-events-and-payloads#payload-cap>.
pub const LARGEST: usize = 25 * 1024 * 1024;
/// Bytes that are reserved for each connection; most deliveries are smaller.
const USUAL: usize = 32 * 1024;
/// Memory beyond that is counted in units of this many bytes.
const UNIT: usize = 1024;
/// Bytes of a refused request that are still read, so that the client sees the answer.
const DISCARDED: usize = 256 * 1024;
/// How long they are read.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The memory for bodies beyond the usual size. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Semaphore>);

impl Memory {
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }
}

/// A body, and its share of the memory.
pub struct Body {
    pub bytes: Vec<u8>,
    claim: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// Reads a body within `time`.
    pub async fn read(incoming: Incoming, time: Duration, memory: &Memory) -> Result<Self, Refusal> {
        if incoming.size_hint().lower() > LARGEST as u64 {
            return Err(Refusal::TooLarge);
        }
        timeout(time, Self::read_all(incoming, memory)).await.unwrap_or(Err(Refusal::Slow))
    }

    async fn read_all(mut incoming: Incoming, memory: &Memory) -> Result<Self, Refusal> {
        let announced = incoming.size_hint().exact().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
        // The announced length is not trusted beyond the usual size.
        let mut body = Self { bytes: Vec::with_capacity(announced.min(USUAL)), claim: None };
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else { continue };
            body.take(&data, memory)?;
        }
        Ok(body)
    }

    fn take(&mut self, data: &Bytes, memory: &Memory) -> Result<(), Refusal> {
        let length = self.bytes.len() + data.len();
        if length > LARGEST {
            return Err(Refusal::TooLarge);
        }
        if length > self.bytes.capacity() {
            // It claims the memory that it grows to, at most twice its length.
            let capacity = (2 * self.bytes.capacity()).clamp(length, LARGEST);
            self.claim(capacity, memory)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn claim(&mut self, capacity: usize, memory: &Memory) -> Result<(), Refusal> {
        let held = self.claim.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = capacity.saturating_sub(USUAL).div_ceil(UNIT).saturating_sub(held);
        if more > 0 {
            let more = u32::try_from(more).map_err(|_| Refusal::TooLarge)?;
            let permit = Arc::clone(&memory.0).try_acquire_many_owned(more).map_err(|_| Refusal::Memory)?;
            match &mut self.claim {
                Some(claim) => claim.merge(permit),
                None => self.claim = Some(permit),
            }
        }
        Ok(())
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

    #[test]
    fn a_body_claims_the_memory_that_it_uses() {
        let memory = Memory::of(LARGEST);
        let mut body = Body { bytes: Vec::new(), claim: None };
        let chunk = Bytes::from(vec![b' '; 10_000]);
        while body.bytes.len() + chunk.len() <= LARGEST {
            body.take(&chunk, &memory).unwrap();
            let claimed = body.claim.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * UNIT;
            assert!(body.bytes.capacity() <= USUAL + claimed, "{} and {claimed}", body.bytes.capacity());
            assert!(claimed <= 2 * body.bytes.len(), "bytes that were not sent are not claimed");
        }
        assert_eq!(body.take(&Bytes::from(vec![0; LARGEST]), &memory), Err(Refusal::TooLarge));
        let mut other = Body { bytes: vec![0; USUAL], claim: None };
        assert_eq!(other.take(&chunk.slice(..UNIT), &Memory::of(0)), Err(Refusal::Memory));
        drop(body);
        assert_eq!(memory.0.available_permits(), LARGEST / UNIT);
    }
}
