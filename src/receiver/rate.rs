//! The rate limit of each target, so that a noisy repository costs the API server no more than its share.
//!
//! Invariant: only deliveries with a valid signature that concern an object count, so nobody can use up the allowance of
//! another; and only targets with recent deliveries have a bucket.

use crate::ids::RepositoryId;
use crate::runtime::allowance::{Allowance, Rate};
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// An App gets this many times the rate of a repository, as it receives the events of all its installations.
const APP_FACTOR: f64 = 10.0;
/// At this many buckets, the full ones are dropped.
const SWEEP_AT: usize = 1024;

/// The repository with this id as the App of this name sees it, or the App itself.
type Target = (Box<str>, Option<RepositoryId>);

pub struct Buckets {
    rate: Rate,
    left: Mutex<(HashMap<Target, Allowance>, usize)>,
    /// The targets with a coalesced delivery that waits for the next token.
    coalesced: Mutex<HashSet<Target>>,
}

impl Buckets {
    /// Full buckets. `rate`: deliveries per second of one repository; `burst`: the most at once.
    #[must_use]
    pub fn new(rate: f64, burst: f64) -> Self {
        let every = SignedDuration::try_from_secs_f64(1.0 / rate).unwrap_or(SignedDuration::from_secs(1));
        Self { rate: Rate { burst, every }, left: Mutex::new((HashMap::new(), SWEEP_AT)), coalesced: Mutex::default() }
    }

    /// Takes a token for a repository of an App, or for the App itself.
    ///
    /// # Errors
    /// The time until the next token.
    pub fn take(&self, app: &str, repository: Option<RepositoryId>, now: Timestamp) -> Result<(), SignedDuration> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (buckets, sweep_at) = &mut *left;
        if buckets.len() >= *sweep_at {
            buckets.retain(|_, allowance| !allowance.is_full(now));
            // The more buckets stay, the later the next sweep, so that its cost per delivery stays the same.
            *sweep_at = (buckets.len() * 2).max(SWEEP_AT);
        }
        let rate = match repository {
            Some(_) => self.rate,
            None => Rate { burst: self.rate.burst * APP_FACTOR, every: self.rate.every.mul_f64(1.0 / APP_FACTOR) },
        };
        let allowance = buckets.entry((app.into(), repository)).or_insert_with(|| Allowance::full(rate, now));
        allowance.take(now).map_err(|at| at.duration_since(now))
    }

    /// True if no coalesced delivery of this target waits yet; from now on one does.
    #[must_use]
    pub fn begin_coalescing(&self, app: &str, repository: Option<RepositoryId>) -> bool {
        self.coalesced.lock().unwrap_or_else(PoisonError::into_inner).insert((app.into(), repository))
    }

    /// The coalesced delivery of this target waits no longer.
    pub fn end_coalescing(&self, app: &str, repository: Option<RepositoryId>) {
        self.coalesced.lock().unwrap_or_else(PoisonError::into_inner).remove(&(app.into(), repository));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;

    #[test]
    fn each_target_has_its_own_bucket_which_fills_again() {
        let buckets = Buckets::new(10.0, 3.0);
        let now = Timestamp::UNIX_EPOCH;
        let take = |repository, now| buckets.take("app", repository, now);
        for _ in 0..3 {
            take(Some(id(1)), now).unwrap();
        }
        assert_eq!(take(Some(id(1)), now), Err(SignedDuration::from_millis(100)));
        take(Some(id(2)), now).unwrap();
        assert!((0..40).filter(|_| take(None, now).is_ok()).count() == 30, "the App has ten times as much");
        take(Some(id(1)), now + SignedDuration::from_millis(100)).unwrap();
    }

    #[test]
    fn buckets_that_are_full_again_are_dropped() {
        let buckets = Buckets::new(10.0, 3.0);
        let now = Timestamp::UNIX_EPOCH;
        for number in 1..=SWEEP_AT as u64 {
            buckets.take("app", Some(number.try_into().unwrap()), now).unwrap();
        }
        buckets.take("app", Some(id(1)), now + SignedDuration::from_secs(60)).unwrap();
        assert_eq!(buckets.left.lock().unwrap().0.len(), 1);
    }
}
