//! Load: so many calls at once, one after the other each, and how long they took.
//!
//! Invariant: the load is closed. A caller begins its next call when the last one has ended, so a server that is slow is
//! asked less; what is reported is the rate it sustained and the latencies at exactly this number in flight.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures::future::try_join_all;

/// When no further call is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So many were begun.
    Calls(u64),
    /// So much time is over.
    Elapsed(Duration),
}

/// What came of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// How long each call took, the shortest first.
    latencies: Vec<Duration>,
    elapsed: Duration,
}

/// Has each of the callers make calls, one after the other, until it is over. A call is given its number, from 0, which
/// no other has. The first that fails ends all.
///
/// The callers share the task that this is awaited in, and so one processor at most: what they cost is not to take from
/// the server more than the calls themselves do.
pub async fn drive<C, E>(
    callers: &mut [C],
    until: Until,
    call: impl AsyncFn(&mut C, u64) -> Result<(), E>,
) -> Result<Measured, E> {
    let began = Instant::now();
    let (begun, latencies) = (Cell::new(0), RefCell::new(Vec::new()));
    let next = || {
        let number = begun.get();
        let is_over = match until {
            Until::Calls(calls) => number >= calls,
            Until::Elapsed(limit) => began.elapsed() >= limit,
        };
        begun.set(number + 1);
        (!is_over).then_some(number)
    };
    let one_after_the_other = async |caller: &mut C| {
        while let Some(number) = next() {
            let sent = Instant::now();
            call(caller, number).await?;
            latencies.borrow_mut().push(sent.elapsed());
        }
        Ok(())
    };
    try_join_all(callers.iter_mut().map(one_after_the_other)).await?;
    Ok(Measured::new(latencies.into_inner(), began.elapsed()))
}

impl Measured {
    fn new(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        Self { latencies, elapsed }
    }

    /// This and another load of the same kind, measured one after the other.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.latencies.extend(other.latencies);
        Self::new(self.latencies, self.elapsed + other.elapsed)
    }

    /// The same calls without a wait that is part of each.
    #[must_use]
    pub fn without(mut self, wait: Duration) -> Self {
        for latency in &mut self.latencies {
            *latency = latency.saturating_sub(wait);
        }
        self
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.latencies.len()
    }

    /// From before the first call to after the last.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Calls per second.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "nobody makes 2^52 calls")]
    pub fn per_second(&self) -> f64 {
        self.calls() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of the calls, from 0 to 1, did not exceed, in milliseconds; not a number if there
    /// were no calls.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let rank = (share.clamp(0.0, 1.0) * self.calls() as f64).ceil() as usize;
        let latency = self.latencies.get(rank.saturating_sub(1));
        latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }

    /// The median, in milliseconds.
    #[must_use]
    pub fn p50_ms(&self) -> f64 {
        self.quantile_ms(0.50)
    }

    /// What one call of a hundred exceeded, in milliseconds.
    #[must_use]
    pub fn p99_ms(&self) -> f64 {
        self.quantile_ms(0.99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(values: impl IntoIterator<Item = u64>) -> Measured {
        Measured::new(values.into_iter().map(Duration::from_millis).collect(), Duration::from_secs(2))
    }

    #[test]
    fn quantiles_are_latencies_that_occurred() {
        let hundred = milliseconds((1..=100).rev());
        assert_eq!((hundred.p50_ms(), hundred.p99_ms()), (50.0, 99.0));
        assert_eq!((hundred.quantile_ms(0.0), hundred.quantile_ms(1.0)), (1.0, 100.0));
        assert!((hundred.per_second() - 50.0).abs() < 1e-9);
        assert_eq!((milliseconds([7]).p50_ms(), milliseconds([7]).p99_ms()), (7.0, 7.0));
        assert!(milliseconds([]).p50_ms().is_nan());
        let both = milliseconds([9, 1]).and(milliseconds([2]));
        assert_eq!((both.calls(), both.elapsed(), both.p50_ms()), (3, Duration::from_secs(4), 2.0));
    }

    #[tokio::test]
    async fn so_many_are_in_flight_and_each_number_is_used_once() {
        let (in_flight, most, numbers) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        let call = async |own: &mut u64, number: u64| {
            in_flight.set(in_flight.get() + 1);
            most.set(most.get().max(in_flight.get()));
            tokio::task::yield_now().await;
            in_flight.set(in_flight.get() - 1);
            *own += 1;
            numbers.borrow_mut().push(number);
            Ok::<_, ()>(())
        };
        let mut callers = [0; 40];
        let measured = drive(&mut callers, Until::Calls(100), call).await.unwrap();
        assert_eq!((measured.calls(), most.get(), callers.iter().sum::<u64>()), (100, 40, 100));
        numbers.borrow_mut().sort_unstable();
        assert_eq!(*numbers.borrow(), (0..100).collect::<Vec<_>>());

        // At least one each, however little time there is.
        let measured = drive(&mut callers, Until::Elapsed(Duration::from_millis(5)), call).await.unwrap();
        assert!(measured.elapsed() >= Duration::from_millis(5) && measured.calls() >= 40);
    }

    #[tokio::test]
    async fn the_first_failure_ends_all() {
        let call = async |(): &mut (), number: u64| if number == 7 { Err(number) } else { Ok(()) };
        assert_eq!(drive(&mut [(), ()], Until::Calls(100), call).await, Err(7));
    }
}
