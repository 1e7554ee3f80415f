//! How often what others cause is worth a line in the log: enough to find it, too few to fill a disk.

use crate::runtime::allowance::{Allowance, Rate};
use crate::runtime::clock::Clock;
use jiff::SignedDuration;
use std::sync::{Arc, Mutex, PoisonError};

const COMPLAINTS: Rate = Rate { burst: 5.0, every: SignedDuration::from_secs(10) };

/// How many lines are left.
pub struct Complaints {
    left: Mutex<Allowance>,
    clock: Arc<dyn Clock>,
}

impl Complaints {
    /// All of them.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { left: Mutex::new(Allowance::full(COMPLAINTS, clock.now())), clock }
    }

    /// Whether there is another line, which is taken.
    #[must_use]
    pub fn may(&self) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take(self.clock.now()).is_ok()
    }
}
