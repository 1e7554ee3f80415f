//! Randomness that spreads work over time. It is injected, so that tests know plans to the second.

use std::fmt::Debug;

pub trait Jitter: Debug + Send + Sync + 'static {
    /// A number in `low..=high`; `low` if the bounds are in the wrong order or not finite.
    fn between(&self, low: f64, high: f64) -> f64;
}

/// Evenly distributed random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomJitter;

impl Jitter for RandomJitter {
    fn between(&self, low: f64, high: f64) -> f64 {
        at_fraction(low, high, rand::random_range(0.0..=1.0))
    }
}

/// Always the same place in the range: 0 is its low end, 1 its high end.
#[derive(Clone, Copy, Debug)]
pub struct FixedJitter(
    /// The place in the range, from 0 to 1; other values count as the nearer end.
    pub f64,
);

impl Jitter for FixedJitter {
    fn between(&self, low: f64, high: f64) -> f64 {
        at_fraction(low, high, self.0.clamp(0.0, 1.0))
    }
}

fn at_fraction(low: f64, high: f64, fraction: f64) -> f64 {
    let width = high - low;
    if width.is_finite() && width > 0.0 { (low + width * fraction).min(high) } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_stay_within_their_bounds_and_differ() {
        let drawn: Vec<f64> = (0..1000).map(|_| RandomJitter.between(2.0, 3.0)).collect();
        assert!(drawn.iter().all(|number| (2.0..=3.0).contains(number)), "{drawn:?}");
        assert!(drawn.iter().any(|number| *number < 2.2) && drawn.iter().any(|number| *number > 2.8), "{drawn:?}");
    }

    #[test]
    fn impossible_bounds_give_the_low_one() {
        for (low, high) in [(3.0, 2.0), (3.0, 3.0), (3.0, f64::INFINITY), (3.0, f64::NAN)] {
            assert!((RandomJitter.between(low, high) - low).abs() < f64::EPSILON, "{low}..{high}");
        }
        assert!((FixedJitter(0.25).between(4.0, 8.0) - 5.0).abs() < f64::EPSILON);
    }
}
