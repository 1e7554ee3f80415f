//! How many deliveries a target may have stored, so that a noisy repository costs the API server no more than its share.
//!
//! Invariant: only deliveries whose signature was right and that concern something count, so nobody can use up the
//! allowance of another; and there are no more buckets than targets that were heard of lately.

use crate::runtime::allowance::{Allowance, Rate};
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// A repository gets the rate once; an App, which is heard of for all of its installations, so many times.
const APPS_SHARE: f64 = 10.0;
/// At how many buckets those that are full again are dropped.
const SWEEP_AT: usize = 1024;

/// The repository with this id as the App of this name sees it, or the App itself.
type Target = (Box<str>, Option<u64>);

/// The buckets.
pub struct Buckets {
    rate: Rate,
    left: Mutex<(HashMap<Target, Allowance>, usize)>,
    /// The targets for which somebody waits for the next one.
    waited_for: Mutex<HashSet<Target>>,
}

impl Buckets {
    /// All full. `rate`: deliveries per second for one repository; `burst`: how many at once.
    #[must_use]
    pub fn new(rate: f64, burst: f64) -> Self {
        let every = SignedDuration::try_from_secs_f64(1.0 / rate).unwrap_or(SignedDuration::from_secs(1));
        Self { rate: Rate { burst, every }, left: Mutex::new((HashMap::new(), SWEEP_AT)), waited_for: Mutex::default() }
    }

    /// Takes one for a repository of an App, or for the App itself.
    ///
    /// # Errors
    /// After how long there is another.
    pub fn take(&self, app: &str, repository: Option<u64>, now: Timestamp) -> Result<(), SignedDuration> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (buckets, sweep_at) = &mut *left;
        if buckets.len() >= *sweep_at {
            buckets.retain(|_, allowance| !allowance.is_full(now));
            // Were few dropped, the next sweep is later, so that its cost is shared by as many.
            *sweep_at = (buckets.len() * 2).max(SWEEP_AT);
        }
        let rate = match repository {
            Some(_) => self.rate,
            None => Rate { burst: self.rate.burst * APPS_SHARE, every: self.rate.every.mul_f64(1.0 / APPS_SHARE) },
        };
        let allowance = buckets.entry((app.into(), repository)).or_insert_with(|| Allowance::full(rate, now));
        allowance.take(now).map_err(|at| at.duration_since(now))
    }

    /// Whether to wait for the next one of a target: nobody does yet.
    #[must_use]
    pub fn wait(&self, app: &str, repository: Option<u64>) -> bool {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner).insert((app.into(), repository))
    }

    /// Nobody does any more.
    pub fn waited(&self, app: &str, repository: Option<u64>) {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner).remove(&(app.into(), repository));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_its_own_and_gets_it_back() {
        let buckets = Buckets::new(10.0, 3.0);
        let now = Timestamp::UNIX_EPOCH;
        let take = |repository, now| buckets.take("app", repository, now);
        for _ in 0..3 {
            take(Some(1), now).unwrap();
        }
        assert_eq!(take(Some(1), now), Err(SignedDuration::from_millis(100)));
        take(Some(2), now).unwrap();
        assert!((0..40).filter(|_| take(None, now).is_ok()).count() == 30, "the App has ten times as much");
        take(Some(1), now + SignedDuration::from_millis(100)).unwrap();
    }

    #[test]
    fn buckets_that_are_full_again_are_dropped() {
        let buckets = Buckets::new(10.0, 3.0);
        let now = Timestamp::UNIX_EPOCH;
        for id in 0..SWEEP_AT as u64 {
            buckets.take("app", Some(id), now).unwrap();
        }
        buckets.take("app", Some(0), now + SignedDuration::from_secs(60)).unwrap();
        assert_eq!(buckets.left.lock().unwrap().0.len(), 1);
    }
}
