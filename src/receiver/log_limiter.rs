//! A limit for log lines that clients can cause: enough lines to notice a problem, too few to fill a disk.

use crate::runtime::allowance::{Allowance, Rate};
use crate::runtime::clock::Clock;
use jiff::SignedDuration;
use std::sync::{Arc, Mutex, PoisonError};

const LINES: Rate = Rate { burst: 5.0, every: SignedDuration::from_secs(10) };

pub struct LogLimiter {
    left: Mutex<Allowance>,
    clock: Arc<dyn Clock>,
}

impl LogLimiter {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { left: Mutex::new(Allowance::full(LINES, clock.now())), clock }
    }

    /// True if another line may be logged now; it is counted.
    pub fn allows(&self) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take(self.clock.now()).is_ok()
    }
}
