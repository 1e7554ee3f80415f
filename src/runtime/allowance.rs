//! How often something may be asked for: a token bucket on the injected clock.

use jiff::{SignedDuration, Timestamp};

/// So many at once, and then one each so often.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How many at once.
    pub burst: f64,
    /// After how long there is another.
    pub every: SignedDuration,
}

/// What is left of a [`Rate`].
#[derive(Clone, Debug)]
pub struct Allowance {
    rate: Rate,
    left: f64,
    at: Timestamp,
}

impl Allowance {
    /// All of it.
    #[must_use]
    pub fn full(rate: Rate, now: Timestamp) -> Self {
        Self { rate, left: rate.burst, at: now }
    }

    /// What was earned since `began`, when there was nothing.
    #[must_use]
    pub fn earned(rate: Rate, began: Timestamp) -> Self {
        Self { rate, left: 0.0, at: began }
    }

    /// When there is one: `now`, or later.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Timestamp {
        let missing = 1.0 - self.left(now);
        if missing > 0.0 { now.checked_add(self.rate.every.mul_f64(missing)).unwrap_or(now) } else { now }
    }

    fn left(&self, now: Timestamp) -> f64 {
        let earned = now.duration_since(self.at).as_secs_f64() / self.rate.every.as_secs_f64();
        (self.left + earned.max(0.0)).min(self.rate.burst)
    }

    /// Nothing was taken, or it came back.
    #[must_use]
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.left(now) >= self.rate.burst
    }

    /// Takes one.
    ///
    /// # Errors
    /// When there is one again.
    pub fn take(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        match self.next(now) {
            at if at > now => Err(at),
            _ => {
                (self.left, self.at) = (self.left(now) - 1.0, now);
                Ok(())
            }
        }
    }
}
