//! The simulator's time: real time plus an offset that only [`Clock::advance`] moves.
//!
//! All of GitHub's times (token expiry, rate-limit windows, delivery retention) come from this clock; otherwise a test
//! that moves time would leave half of GitHub behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A clock that can be set forward; clones share the offset.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The current time of the simulator.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let offset = SignedDuration::from_millis(self.offset_ms.load(Ordering::SeqCst));
        Timestamp::now().saturating_add(offset).unwrap_or(Timestamp::MAX)
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let add = |offset: i64| Some(offset.saturating_add(by));
        let _ = self.offset_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
    }
}

/// A time as GitHub writes it: whole seconds, `Z`.
#[must_use]
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_advance_moves_it_away_from_real_time() {
        let clock = Clock::default();
        let hour = SignedDuration::from_hours(1);
        for ahead in [SignedDuration::ZERO, hour] {
            let (before, now, after) = (Timestamp::now(), clock.now(), Timestamp::now());
            assert!((before + ahead..=after + ahead).contains(&now), "{before} {now} {after}");
            clock.clone().advance(Duration::from_hours(1));
        }
    }

    #[test]
    fn github_writes_whole_seconds() {
        let at: Timestamp = "2026-10-02T03:04:05.678Z".parse().unwrap();
        assert_eq!(stamp(at), "2026-10-02T03:04:05Z");
    }
}
