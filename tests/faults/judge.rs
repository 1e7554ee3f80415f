//! Whether a run ended as the first did, and what a fault may have cost on the way.

use super::end::difference;
use super::run::Outcome;
use std::collections::BTreeMap;

/// What a fault can cost, by what it is, and how much of it.
pub type Counts = BTreeMap<&'static str, usize>;

/// Holds a run against the first, and says all that is wrong with it. Of what is counted there may be as much more as is
/// allowed.
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
