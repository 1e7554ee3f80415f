//! Rate limits: a token bucket on the injected clock.
//!
//! Invariant: the times are exact, so a call that waits until the time that it was given is allowed then. A clock that was
//! set back makes no wait longer than the bucket needs.

use jiff::{SignedDuration, Timestamp};

/// The size of a bucket, and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The most tokens in the bucket.
    pub burst: f64,
    /// The time until one token is added.
    pub every: SignedDuration,
}

impl Rate {
    /// The time in which an empty bucket becomes full.
    fn capacity(self) -> SignedDuration {
        self.every.mul_f64(self.burst)
    }
}

/// A bucket with a [`Rate`].
#[derive(Clone, Debug)]
pub struct Allowance {
    rate: Rate,
    /// The content at `at`, as the time in which the bucket earns it.
    credit: SignedDuration,
    at: Timestamp,
}

impl Allowance {
    /// A full bucket.
    #[must_use]
    pub fn full(rate: Rate, now: Timestamp) -> Self {
        Self { rate, credit: rate.capacity(), at: now }
    }

    /// A bucket that was empty at `began`.
    #[must_use]
    pub fn earned(rate: Rate, began: Timestamp) -> Self {
        Self { rate, credit: SignedDuration::ZERO, at: began }
    }

    /// When there is a token: `now`, or later.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Timestamp {
        self.when(1.0, now)
    }

    /// When there are so many tokens: `now`, or later. The bucket must be as large.
    #[must_use]
    pub fn when(&self, tokens: f64, now: Timestamp) -> Timestamp {
        let missing = self.rate.every.mul_f64(tokens) - self.credit(now);
        if missing.is_positive() { now.checked_add(missing).unwrap_or(now) } else { now }
    }

    fn credit(&self, now: Timestamp) -> SignedDuration {
        let since = now.duration_since(self.at).max(SignedDuration::ZERO);
        self.credit.saturating_add(since).min(self.rate.capacity())
    }

    #[must_use]
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.credit(now) >= self.rate.capacity()
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The time of the next token.
    pub fn take(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        self.settle(now);
        match self.next(now) {
            at if at > now => Err(at),
            _ => {
                self.credit -= self.rate.every;
                Ok(())
            }
        }
    }

    /// Puts a token back.
    pub fn put_back(&mut self) {
        self.credit = self.credit.saturating_add(self.rate.every).min(self.rate.capacity());
    }

    /// Continues with another rate. The bucket keeps its tokens, as far as it can hold them.
    pub fn change(&mut self, rate: Rate, now: Timestamp) {
        if rate == self.rate {
            return;
        }
        self.settle(now);
        let tokens = self.credit.as_secs_f64() / self.rate.every.as_secs_f64();
        self.rate = rate;
        self.credit = rate.every.mul_f64(tokens).min(rate.capacity());
    }

    /// Counts what was earned. A time in the future is left behind by a clock that was set back, and starts again.
    fn settle(&mut self, now: Timestamp) {
        (self.credit, self.at) = (self.credit(now), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 2.0, every: SignedDuration::from_millis(1700) };

    #[test]
    fn a_call_that_waits_for_its_time_is_allowed_then_and_not_a_nanosecond_earlier() {
        let mut now = Timestamp::from_nanosecond(1_800_000_000_123_456_789).unwrap();
        let mut bucket = Allowance::full(RATE, now);
        for turn in 0..1000 {
            let earlier = SignedDuration::from_nanos(1);
            match bucket.take(now) {
                Ok(()) => now += SignedDuration::from_nanos(turn * 977),
                Err(next) => {
                    assert!(bucket.clone().take(next - earlier).is_err());
                    bucket.take(next).expect("its time has come");
                    now = next;
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_lengthen_a_wait() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut bucket = Allowance::full(RATE, now);
        while bucket.take(now).is_ok() {}
        let past = now - SignedDuration::from_hours(24);
        let next = bucket.take(past).unwrap_err();
        assert!(next.duration_since(past) <= RATE.every, "{next}");
        bucket.take(next).expect("its time has come");
    }

    #[test]
    fn another_rate_keeps_the_tokens() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut bucket = Allowance::full(RATE, now);
        bucket.change(Rate { burst: 4.0, every: SignedDuration::from_secs(1) }, now);
        assert!(bucket.take(now).is_ok() && bucket.take(now).is_ok() && bucket.take(now).is_err());
        bucket.put_back();
        assert!(bucket.take(now).is_ok() && bucket.take(now).is_err());
        bucket.change(Rate { burst: 1.0, every: SignedDuration::from_secs(1) }, now);
        assert!(bucket.is_full(now + SignedDuration::from_secs(1)));
    }
}
