//! The primary rate limit: the number of requests an hour for each App, installation or address.
//!
//! A window begins with its first request and ends an hour later on the simulator's clock. Secondary limits depend on
//! load and are injected as faults.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// The owner of a request's budget. The tokens of one installation share a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Budget {
    Anonymous,
    App(u64),
    Installation(u64),
}

/// The rest of a budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) limit: u64,
    pub(crate) used: u64,
    /// Seconds since 1970.
    pub(crate) reset: i64,
    pub(crate) exceeded: bool,
}

impl Standing {
    pub(crate) fn remaining(&self) -> u64 {
        self.limit - self.used
    }
}

#[derive(Debug)]
pub(crate) struct Rates {
    /// Requests per hour of an App or installation.
    pub(crate) limit: u64,
    windows: HashMap<Budget, (Timestamp, u64)>,
}

impl Rates {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, windows: HashMap::new() }
    }

    /// Uses one request of a budget.
    pub(crate) fn charge(&mut self, budget: Budget, now: Timestamp) -> Standing {
        let limit = self.limit_of(budget);
        let (_, used) = self.window(budget, now);
        let exceeded = *used >= limit;
        if !exceeded {
            *used += 1;
        }
        Standing { exceeded, ..self.standing(budget, now) }
    }

    /// Uses all that is left of a budget, as its owner's other clients do.
    pub(crate) fn spend(&mut self, budget: Budget, now: Timestamp) {
        let limit = self.limit_of(budget);
        self.window(budget, now).1 = limit;
    }

    /// Returns one request, because a 304 is free.
    pub(crate) fn refund(&mut self, budget: Budget, now: Timestamp) -> Standing {
        let (_, used) = self.window(budget, now);
        *used = used.saturating_sub(1);
        self.standing(budget, now)
    }

    /// Reads a budget without using it.
    pub(crate) fn standing(&mut self, budget: Budget, now: Timestamp) -> Standing {
        let limit = self.limit_of(budget);
        let (reset, used) = *self.window(budget, now);
        Standing { limit, used: used.min(limit), reset: reset.as_second(), exceeded: false }
    }

    fn limit_of(&self, budget: Budget) -> u64 {
        if budget == Budget::Anonymous { 60 } else { self.limit }
    }

    fn window(&mut self, budget: Budget, now: Timestamp) -> &mut (Timestamp, u64) {
        let reset = now.saturating_add(SignedDuration::from_hours(1)).unwrap_or(Timestamp::MAX);
        let window = self.windows.entry(budget).or_insert((reset, 0));
        if window.0 <= now {
            *window = (reset, 0);
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_fills_and_is_empty_after_an_hour() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let mut rates = Rates::new(2);
        let budget = Budget::Installation(1);
        assert_eq!(rates.charge(budget, now).remaining(), 1);
        assert_eq!(rates.refund(budget, now).remaining(), 2);
        assert!(!rates.charge(budget, now).exceeded && !rates.charge(budget, now).exceeded);
        assert!(rates.charge(budget, now).exceeded);
        assert!(!rates.charge(Budget::Installation(2), now).exceeded, "budgets are apart");
        let later = now.saturating_add(SignedDuration::from_hours(1)).unwrap();
        assert!(!rates.charge(budget, later).exceeded);
        rates.spend(budget, later);
        assert!(rates.charge(budget, later).exceeded);
    }
}
