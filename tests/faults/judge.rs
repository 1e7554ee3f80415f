//! Whether a run ended as the first did, and what a fault may have cost on the way.
//!
//! Invariant: a token more is allowed only where the fault explains it, and never more than one: it was minted and not
//! published yet, so that nobody knew it any more, or it was taken out of its Secret and not revoked yet.

use super::end::difference;
use super::point::{Fault, Point};
use super::scenario::{DELETED, EDITED, Outcome};

/// What a fault explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// So many tokens more are minted.
    pub mints: usize,
    /// So many tokens more live, for an hour.
    pub live: usize,
}

/// What a fault at the point with this index explains, by the recorded run.
pub fn allowance(points: &[(Point, &'static str)], index: usize, fault: Fault) -> Allowance {
    let lost = Allowance { mints: 1, live: 1 };
    let forgotten = Allowance { mints: 0, live: 1 };
    let (point, act) = &points[index];
    if is_mint(point) {
        return if fault.has_effect() { lost } else { Allowance::default() };
    }
    if !fault.kills() {
        return Allowance::default();
    }
    // What the operator had done when it died.
    let done = &points[..index + usize::from(fault.has_effect())];
    let last = done.iter().rev().find(|(point, _)| is_mint(point) || is_publication(point));
    if last.is_some_and(|(point, _)| is_mint(point)) {
        return lost;
    }
    let revoked = done.iter().any(|(point, other)| other == act && is_revocation(point));
    if [DELETED, EDITED].contains(act) && !revoked {
        return forgotten;
    }
    Allowance::default()
}

fn is_mint(point: &Point) -> bool {
    point.kind.ends_with("/access_tokens")
}

fn is_publication(point: &Point) -> bool {
    point.kind.starts_with("POST secrets ") || point.kind.starts_with("PATCH secrets ")
}

fn is_revocation(point: &Point) -> bool {
    point.kind == "DELETE /installation/token"
}

/// Holds a run against the first, and says all that is wrong with it.
pub fn judge(first: &Outcome, run: &Outcome, allowed: Allowance) -> Result<(), String> {
    let mut wrong = Vec::new();
    if !run.struck {
        wrong.push("the point was not passed, so nothing struck".to_owned());
    }
    if run.mints > first.mints + allowed.mints {
        wrong.push(format!("{} tokens were minted, {} in the first run; {allowed:?}", run.mints, first.mints));
    }
    if run.live > first.live + allowed.live {
        wrong.push(format!("{} tokens live, {} in the first run; {allowed:?}", run.live, first.live));
    }
    if run.end != first.end {
        wrong.push(format!("the end state is another:\n{}", difference(&first.end, &run.end)));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}
