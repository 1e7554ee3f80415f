//! A sign of life that a long-running loop gives, and that `/livez` looks for.
//!
//! A loop that ended takes the process with it ([`super::shutdown`]); a heartbeat is for the loop that neither ends
//! nor moves. It is measured on the monotonic clock: a test that moves the operator's clock by a month must not make
//! every loop look dead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How often a loop with nothing to do should still give a sign.
pub const BEAT_EVERY: Duration = Duration::from_secs(2);

/// One loop's sign of life; clones are the same heart.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    born: Instant,
    /// Milliseconds after `born` at which the last sign was given.
    last: Arc<AtomicU64>,
}

impl Heartbeat {
    /// A heart that beats now for the first time.
    #[must_use]
    pub fn new() -> Self {
        Self { born: Instant::now(), last: Arc::default() }
    }

    /// Gives a sign of life.
    pub fn beat(&self) {
        let since_birth = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since_birth, Ordering::Relaxed);
    }

    /// For how long there has been no sign.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}
