//! Keeps GitHub's secondary limits for an App's own calls, so that GitHub does not have to refuse any.
//!
//! The invariant: no minute has calls of more than [`POINTS`], and no more than [`AT_ONCE`] calls are under way. This layer does
//! not wait: it gives each refused call a turn of its own, at which there is room for it, so that calls that wait do not
//! come back together. Reads may use the whole of a minute, and writes leave some, so that many mints do not delay a look
//! at the App.
//!
//! Source: <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits>
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use jiff::{SignedDuration, Timestamp};

const POINTS: u32 = 900;
/// The points that writes leave to reads.
const LEFT_TO_READS: u32 = 50;
const AT_ONCE: usize = 100;
/// GitHub's minute, and a second for the time that a request takes to arrive.
const WINDOW: SignedDuration = SignedDuration::from_secs(61);
/// The wait when too many calls are under way.
const SOON: SignedDuration = SignedDuration::from_secs(1);

#[derive(Default)]
pub(super) struct Rate {
    calls: Mutex<Calls>,
    under_way: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Calls {
    /// When the calls of the last minute were sent, and their points.
    sent: VecDeque<(Timestamp, u32)>,
    /// The turns of refused calls, and their points.
    promised: VecDeque<(Timestamp, u32)>,
}

/// A call that is under way.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A call's points, by GitHub's documentation.
fn points(method: &Method) -> u32 {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) { 1 } else { 5 }
}

impl Rate {
    /// Counts a call, or says when its turn is.
    pub fn admit(&self, method: &Method, now: Timestamp) -> Result<Permit, Timestamp> {
        let points = points(method);
        let most = if points == 1 { POINTS } else { POINTS - LEFT_TO_READS };
        let mut calls = self.calls();
        calls.forget(now);
        let used: u32 = calls.sent.iter().map(|(_, points)| points).sum();
        if used + points > most {
            return Err(calls.promise(points, most, now));
        }
        let permit = Permit(Arc::clone(&self.under_way));
        if self.under_way.fetch_add(1, Ordering::SeqCst) >= AT_ONCE {
            return Err(later(now, SOON));
        }
        calls.sent.push_back((now, points));
        Ok(permit)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    fn forget(&mut self, now: Timestamp) {
        // A clock that was set back leaves times in the future, which would count for too long.
        while self.sent.front().is_some_and(|(at, _)| later(*at, WINDOW) <= now || *at > later(now, WINDOW)) {
            self.sent.pop_front();
        }
        while self.promised.front().is_some_and(|(at, _)| *at <= now || *at > later(now, WINDOW * 60)) {
            self.promised.pop_front();
        }
    }

    /// The first time at which there is room for a call, after all earlier turns.
    fn promise(&mut self, points: u32, most: u32, now: Timestamp) -> Timestamp {
        let mut sum = points;
        let earlier = self.sent.iter().chain(&self.promised).rev();
        let blocking = earlier.into_iter().find(|(_, points)| {
            sum += points;
            sum > most
        });
        let last = self.promised.back().map_or(now, |(at, _)| *at);
        let turn = blocking.map_or(now, |(at, _)| later(*at, WINDOW)).max(last);
        self.promised.push_back((turn, points));
        turn
    }
}

fn later(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_millis(millis)
    }

    #[test]
    fn a_minute_has_170_mints_and_some_reads() {
        let rate = Rate::default();
        for number in 0..170 {
            rate.admit(&Method::POST, at(number)).unwrap();
        }
        assert_eq!(rate.admit(&Method::POST, at(1000)).unwrap_err(), at(61_000), "when the first mint is a minute old");
        for _ in 0..50 {
            rate.admit(&Method::GET, at(1000)).unwrap();
        }
        rate.admit(&Method::GET, at(1000)).unwrap_err();
        rate.admit(&Method::POST, at(61_000)).unwrap_err();
        rate.admit(&Method::POST, at(62_000)).unwrap();
    }

    /// Many callers, each of which comes back at its turn: the number of calls in any minute is bounded, nobody comes back
    /// in vain more than once, and the rate is used up.
    #[test]
    fn each_call_that_waits_has_a_turn_of_its_own() {
        let rate = Rate::default();
        let mut due: std::collections::BTreeSet<_> = (0..1000).map(|caller| (at(0), caller)).collect();
        let (mut sent, mut refused) = (Vec::new(), 0);
        while let Some((now, caller)) = due.pop_first() {
            match rate.admit(&Method::POST, now) {
                Ok(permit) => {
                    sent.push(now);
                    drop(permit);
                }
                Err(turn) => {
                    assert!(turn > now);
                    refused += 1;
                    due.insert((turn, caller));
                }
            }
        }
        assert_eq!((sent.len(), refused), (1000, 830), "the first 170 at once, and each other one at its turn");
        for from in &sent {
            let within =
                sent.iter().filter(|at| *at >= from && **at < later(*from, SignedDuration::from_mins(1))).count();
            assert!(within * 5 <= 900, "{within}");
        }
        assert_eq!(*sent.last().unwrap(), at(5 * 61_000));
    }

    #[test]
    fn a_hundred_calls_are_under_way_at_most() {
        let rate = Rate::default();
        let mut permits: Vec<_> = (0..100).map(|_| rate.admit(&Method::GET, at(0)).unwrap()).collect();
        assert_eq!(rate.admit(&Method::GET, at(0)).unwrap_err(), at(1000));
        permits.pop();
        permits.push(rate.admit(&Method::GET, at(0)).unwrap());
        rate.admit(&Method::GET, at(0)).unwrap_err();
    }
}
