//! Reading a body that a stranger sends.
//!
//! Invariant: bytes are counted while they arrive, whatever was announced; no body takes longer than its time; and all
//! bodies together take no more memory than they are allowed. A body of usual size has its memory set aside, so that large ones, which
//! anybody can begin to send, cannot keep the others out.

use super::answer::Refusal;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The most that GitHub delivers, in bytes: 25 MB, by the larger reading of that.
/// Source: <https://docs.github.com/en/webhooks/webhook-events-and-payloads#payload-cap>.
pub const LARGEST: usize = 25 * 1024 * 1024;
/// Bytes that every connection may use at any time; deliveries are mostly smaller.
const USUAL: usize = 32 * 1024;
/// What memory beyond that is counted in, in bytes.
const UNIT: usize = 1024;
/// Bytes of a refused request that are still taken off the line, so that the answer is heard.
const PASSED_OVER: usize = 256 * 1024;
/// For how long.
const PASSING_OVER: Duration = Duration::from_secs(1);

/// The memory for bodies beyond the usual size. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Semaphore>);

impl Memory {
    /// So many bytes.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }
}

/// A body, and its claim on memory.
pub struct Body {
    /// What arrived.
    pub bytes: Vec<u8>,
    claim: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// Reads a body within `time`.
    ///
    /// # Errors
    /// When it is too large or too slow, breaks off, or finds no memory.
    pub async fn read(incoming: Incoming, time: Duration, memory: &Memory) -> Result<Self, Refusal> {
        if incoming.size_hint().lower() > LARGEST as u64 {
            return Err(Refusal::TooLarge);
        }
        timeout(time, Self::read_all(incoming, memory)).await.unwrap_or(Err(Refusal::Slow))
    }

    async fn read_all(mut incoming: Incoming, memory: &Memory) -> Result<Self, Refusal> {
        let announced = incoming.size_hint().exact().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
        // Not more than the usual on somebody's word.
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
            // What it grows to is what it claims, and no more than twice of what is there.
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

/// Takes a little of a body that nobody wants off the line: were the connection closed with bytes unread, the system would
/// reset it, and the client might never see the answer.
pub async fn pass_over(mut incoming: Incoming) {
    let taking = async {
        let mut left = PASSED_OVER;
        while let Some(Ok(frame)) = incoming.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = timeout(PASSING_OVER, taking).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_claims_the_memory_that_it_takes() {
        let memory = Memory::of(LARGEST);
        let mut body = Body { bytes: Vec::new(), claim: None };
        let chunk = Bytes::from(vec![b' '; 10_000]);
        while body.bytes.len() + chunk.len() <= LARGEST {
            body.take(&chunk, &memory).unwrap();
            let claimed = body.claim.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * UNIT;
            assert!(body.bytes.capacity() <= USUAL + claimed, "{} and {claimed}", body.bytes.capacity());
            assert!(claimed <= 2 * body.bytes.len(), "what nobody sent is not claimed");
        }
        assert_eq!(body.take(&Bytes::from(vec![0; LARGEST]), &memory), Err(Refusal::TooLarge));
        let mut other = Body { bytes: vec![0; USUAL], claim: None };
        assert_eq!(other.take(&chunk.slice(..UNIT), &Memory::of(0)), Err(Refusal::Memory));
        drop(body);
        assert_eq!(memory.0.available_permits(), LARGEST / UNIT);
    }
}
