//! The one clock. Code that decides by time gets a [`Clock`], or a `now` that came from one.
//!
//! Invariant: nothing else in the operator reads the wall clock to decide something, so a test that moves a
//! [`ManualClock`] moves all of Landfall. Otherwise an hour of the operator's life could only be tested in an hour.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// Tells the time and waits for it.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;

    /// Resolves when [`now`](Clock::now) is `at` or later.
    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()>;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// The longest uninterrupted sleep, and so the most by which a [`SystemClock`] oversleeps.
///
/// Timers use the monotonic clock, which neither follows a wall clock that is set forward nor runs while the machine is
/// suspended. A sleeper therefore looks at the wall clock again this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        async move {
            while let Some(sleep) = next_sleep(Timestamp::now(), at) {
                tokio::time::sleep(sleep).await;
            }
        }
        .boxed()
    }
}

/// How long to sleep before looking at the wall clock again; none once `at` has come.
fn next_sleep(now: Timestamp, at: Timestamp) -> Option<Duration> {
    let remaining = Duration::try_from(at.duration_since(now)).ok().filter(|remaining| !remaining.is_zero())?;
    Some(remaining.min(LONGEST_SLEEP))
}

/// A clock that stands still until a test moves it.
///
/// Share it as `Arc<ManualClock>`; an `Arc<dyn Clock>` made from that sees every move.
#[derive(Debug)]
pub struct ManualClock {
    now: watch::Sender<Timestamp>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self { now: watch::Sender::new(start) }
    }

    /// Moves the clock and wakes the sleepers whose time has come. Takes a [`SignedDuration`] or a [`Duration`]; stops at the
    /// end of representable time.
    pub fn advance(&self, by: impl TryInto<SignedDuration>) {
        let by = by.try_into().unwrap_or(SignedDuration::MAX);
        self.now.send_modify(|now| *now = now.checked_add(by).unwrap_or(Timestamp::MAX));
    }

    /// Sets the clock, forward or back, as when a machine's clock is corrected.
    pub fn set(&self, now: Timestamp) {
        self.now.send_replace(now);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        let mut now = self.now.subscribe();
        async move {
            if now.wait_for(|now| *now >= at).await.is_err() {
                // The clock was dropped, so this time never comes.
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn after(seconds: i64) -> Timestamp {
        START + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn the_system_clock_looks_again_before_it_could_have_overslept() {
        assert_eq!(next_sleep(START, after(3600)), Some(LONGEST_SLEEP));
        assert_eq!(next_sleep(START, after(2)), Some(Duration::from_secs(2)));
        assert_eq!(next_sleep(START, START), None);
        assert_eq!(next_sleep(after(1), START), None, "a past time needs no wait");
    }

    #[tokio::test]
    async fn the_system_clock_wakes_when_its_time_has_come() {
        let at = SystemClock.now() + SignedDuration::from_millis(20);
        SystemClock.sleep_until(at).await;
        assert!(SystemClock.now() >= at);
    }

    #[tokio::test]
    async fn moving_the_clock_wakes_exactly_the_sleepers_whose_time_has_come() {
        let clock = ManualClock::new(START);
        let mut near = clock.sleep_until(after(10));
        let mut far = clock.sleep_until(after(11));
        assert!(poll!(&mut near).is_pending());
        clock.advance(Duration::from_secs(9));
        assert!(poll!(&mut near).is_pending());
        clock.advance(SignedDuration::from_secs(1));
        assert!(poll!(&mut near).is_ready());
        assert!(poll!(&mut far).is_pending());
        assert_eq!(clock.now(), after(10));
    }

    #[tokio::test]
    async fn a_past_time_needs_no_wait() {
        let clock = ManualClock::new(START);
        assert!(poll!(&mut clock.sleep_until(START)).is_ready());
        clock.set(after(-5));
        assert!(poll!(&mut clock.sleep_until(START)).is_pending());
    }
}
