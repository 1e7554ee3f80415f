//! One fault at every point: whatever strikes between any two effects, the operator ends where it would have ended.
//!
//! The scenario is played once to record its points: each write to Kubernetes, status and events among them, and each call
//! to GitHub. Then it is played again with one fault at one point, for each point. A run converged when its end state is that of
//! the first, and when, before an hour could hide what was lost, no more tokens were minted and none more are alive than
//! the fault explains.
//!
//! `LANDFALL_POINT=…` in the environment: only at points whose line in the output has this in it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test ends where something is amiss")]

#[path = "../world/mod.rs"]
mod world;

mod between;
mod end;
mod judge;
mod point;
mod scenario;

use judge::{allowance, judge};
use landfall::controller::Sabotage;
use point::{Fault, Point};
use scenario::{Outcome, play};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;
use world::cluster::LANES;

/// Plays on a runtime of its own.
fn play_on(lane: usize, planned: Option<(Point, Fault)>, sabotage: Sabotage) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(play(lane, planned, sabotage))
}

/// The run without a fault, which the others are held against.
fn undisturbed() -> &'static Outcome {
    static UNDISTURBED: OnceLock<Outcome> = OnceLock::new();
    UNDISTURBED.get_or_init(|| {
        let began = Instant::now();
        let outcome = play_on(0, None, Sabotage::default()).expect("the scenario without a fault");
        println!("without a fault: {:.1?}, with the API server's start", began.elapsed());
        outcome
    })
}

/// Plays once for each of these, several side by side: a run waits more than it works.
fn strike(first: &Outcome, strikes: VecDeque<(usize, Fault)>) -> BTreeMap<(usize, Fault), Result<(), String>> {
    let (waiting, done) = (Mutex::new(strikes), Mutex::new(BTreeMap::new()));
    std::thread::scope(|threads| {
        for lane in 0..LANES {
            let (waiting, done) = (&waiting, &done);
            threads.spawn(move || {
                loop {
                    let Some((index, fault)) = waiting.lock().expect("not poisoned").pop_front() else { return };
                    let (point, act) = &first.points[index];
                    let played = play_on(lane, Some((point.clone(), fault)), Sabotage::default());
                    let judged = played.and_then(|run| judge(first, &run, allowance(&first.points, index, fault)));
                    if let Err(why) = &judged {
                        println!("NOT converged: {act}: {fault} at {point}: {why}");
                    }
                    done.lock().expect("not poisoned").insert((index, fault), judged);
                }
            });
        }
    });
    done.into_inner().expect("not poisoned")
}

#[test]
fn the_operator_converges_whatever_strikes_wherever() {
    let began = Instant::now();
    let first = undisturbed();
    for (index, (point, act)) in first.points.iter().enumerate() {
        println!("{:3} {act}: {point}", index + 1);
    }
    let only = std::env::var("LANDFALL_POINT").unwrap_or_default();
    let chosen = first.points.iter().enumerate().filter(|(_, (point, act))| format!("{act}: {point}").contains(&only));
    let strikes = chosen.flat_map(|(index, (point, _))| {
        Fault::ALL.into_iter().filter(|fault| fault.happens_at(point.side)).map(move |fault| (index, fault))
    });
    let judged = strike(first, strikes.collect());

    let mut points: BTreeMap<usize, bool> = BTreeMap::new();
    let mut kinds: BTreeMap<Fault, (usize, usize)> = BTreeMap::new();
    for ((index, fault), result) in &judged {
        *points.entry(*index).or_insert(true) &= result.is_ok();
        let (runs, converged) = kinds.entry(*fault).or_default();
        *runs += 1;
        *converged += usize::from(result.is_ok());
    }
    for (fault, (runs, converged)) in &kinds {
        println!("{fault}: runs {runs}, converged {converged}");
    }
    let converged = points.values().filter(|converged| **converged).count();
    println!("points {}, converged {converged} ({} runs in {:.0?})", first.points.len(), judged.len(), began.elapsed());
    let expected: usize = include_str!("points.txt").trim().parse().expect("a number in points.txt");
    assert_eq!(first.points.len(), expected, "another number of points than in tests/faults/points.txt");
    let failed = judged.values().filter(|result| result.is_err()).count();
    assert_eq!(failed, 0, "so many runs did not converge; see above");
}

/// Plays the scenario with a guard taken out, and gives back what the comparison has to say.
fn complaint(lane: usize, kind: &str, fault: Fault, sabotage: Sabotage) -> String {
    let first = undisturbed();
    let index = first.points.iter().position(|(point, _)| point.kind == kind).expect("a point of the scenario");
    let run = play_on(lane, Some((first.points[index].0.clone(), fault)), sabotage).expect("the acts come to an end");
    judge(first, &run, allowance(&first.points, index, fault)).expect_err("a guard is gone, so something differs")
}

#[test]
fn a_dropped_finalizer_is_noticed() {
    let sabotage = Sabotage { drop_finalizer: true, ..Sabotage::default() };
    let complaint = complaint(1, "POST events team-a/InstallationToken b Published", Fault::KilledAfter, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("tokens live"), "nobody revoked the token of what was deleted: {complaint}");
    assert!(complaint.contains("the end state is another"), "{complaint}");
}

#[test]
fn a_skipped_adoption_is_noticed() {
    let sabotage = Sabotage { skip_adoption: true, ..Sabotage::default() };
    let complaint = complaint(2, "PATCH installationtokens/status team-a/a", Fault::KilledAfter, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("tokens were minted"), "each start mints anew: {complaint}");
}
