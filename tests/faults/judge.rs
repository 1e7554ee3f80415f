//! Decides whether a run ended like the first one, and within the allowed cost.

use super::end::difference;
use super::run::Outcome;
use std::collections::BTreeMap;

/// The costs that a fault may have: their names and numbers.
pub type Counts = BTreeMap<&'static str, usize>;

/// Compares a run with the first one, and reports all differences. Each count may exceed the first run's by the allowed
/// number.
pub fn judge(first: &Outcome, run: &Outcome, allowed: &Counts) -> Result<(), String> {
    let mut wrong = Vec::new();
    if !run.struck {
        wrong.push("the point was not passed, so nothing struck".to_owned());
    }
    for (what, count) in &run.counts {
        let (before, more) = (first.counts.get(what).copied().unwrap_or(0), allowed.get(what).copied().unwrap_or(0));
        if *count > before + more {
            wrong.push(format!("{what}: {count}; {before} in the first run, and {more} more would be allowed"));
        }
    }
    if run.end != first.end {
        wrong.push(format!("the end state is another:\n{}", difference(&first.end, &run.end)));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}
