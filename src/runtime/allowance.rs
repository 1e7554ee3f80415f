//! Rate limits: a token bucket on the injected clock.

use jiff::{SignedDuration, Timestamp};

/// The size of a bucket, and how fast it fills.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The most tokens in the bucket.
    pub burst: f64,
    /// The time until one token is added.
    pub every: SignedDuration,
}

/// A bucket with a [`Rate`].
#[derive(Clone, Debug)]
pub struct Allowance {
    rate: Rate,
    left: f64,
    at: Timestamp,
}

impl Allowance {
    /// A full bucket.
    #[must_use]
    pub fn full(rate: Rate, now: Timestamp) -> Self {
        Self { rate, left: rate.burst, at: now }
    }

    /// A bucket that was empty at `began`.
    #[must_use]
    pub fn earned(rate: Rate, began: Timestamp) -> Self {
        Self { rate, left: 0.0, at: began }
    }

    /// When there is a token: `now`, or later.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Timestamp {
        let missing = 1.0 - self.left(now);
        if missing > 0.0 { now.checked_add(self.rate.every.mul_f64(missing)).unwrap_or(now) } else { now }
    }

    fn left(&self, now: Timestamp) -> f64 {
        let earned = now.duration_since(self.at).as_secs_f64() / self.rate.every.as_secs_f64();
        (self.left + earned.max(0.0)).min(self.rate.burst)
    }

    #[must_use]
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.left(now) >= self.rate.burst
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The time of the next token.
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
