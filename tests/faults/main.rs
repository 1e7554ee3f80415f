//! One fault at every point: whatever fails between any two effects, the operator reaches the same end state.
//!
//! Each scenario is played once to record its points: each write to Kubernetes, including status and events, and each
//! call to GitHub, including git's. Then it is played again for each point, with one fault at that point. A run has
//! converged if its end state equals that of the first, and if the effects on the way exceed the first run's only by
//! the cost that the fault explains.
//!
//! Of two faults that leave the same behind, one is tried: an operator that is killed before a request leaves what it
//! leaves if it is killed after the request before that one, and 429 and 503 are refusals that it waits out alike, so they
//! take turns.
//!
//! Environment: `LANDFALL_POINT=…` selects points whose line in the output contains this text; `LANDFALL_TIMES=…`
//! repeats each run this often, to find rare failures; `LANDFALL_FAULTS=all` tries every fault at every point.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod between;
mod end;
mod judge;
mod point;
mod run;
mod scenario;

use judge::judge;
use landfall::guards::Sabotage;
use landfall_world::cluster::LANES;
use landfall_world::kubelet::Mischief;
use point::{Fault, Point};
use run::{Outcome, Tampering, play};
use scenario::{ALL, Scenario};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Plays a scenario on a runtime of its own.
fn play_on(
    scenario: &Scenario,
    lane: usize,
    planned: Option<(Point, Fault)>,
    tampering: Tampering,
) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(play(scenario, lane, planned, tampering))
}

/// The run without a fault, with which the others of this scenario are compared.
fn undisturbed(scenario: usize, lane: usize) -> &'static Outcome {
    static UNDISTURBED: [OnceLock<Outcome>; ALL.len()] = [const { OnceLock::new() }; ALL.len()];
    UNDISTURBED[scenario].get_or_init(|| {
        let played = play_on(&ALL[scenario], lane, None, Tampering::default());
        played.unwrap_or_else(|why| panic!("{} without a fault: {why}", ALL[scenario].name))
    })
}

/// Processes all items, several at the same time, each on a lane, because a run waits more than it works.
fn side_by_side<T: Send, R: Send>(work: Vec<T>, each: impl Fn(usize, T) -> R + Sync) -> Vec<R> {
    let (waiting, done) = (Mutex::new(work.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|threads| {
        for lane in 0..LANES {
            let (waiting, done, each) = (&waiting, &done, &each);
            threads.spawn(move || {
                loop {
                    let Some(next) = waiting.lock().expect("not poisoned").next() else { return };
                    let result = each(lane, next);
                    done.lock().expect("not poisoned").push(result);
                }
            });
        }
    });
    done.into_inner().expect("not poisoned")
}

/// A run with a fault.
#[derive(Clone, Copy)]
struct Strike {
    scenario: usize,
    index: usize,
    fault: Fault,
}

struct Struck {
    strike: Strike,
    converged: bool,
    took: Duration,
}

fn strike(lane: usize, strike: Strike) -> Struck {
    let began = Instant::now();
    let (scenario, first) = (&ALL[strike.scenario], undisturbed(strike.scenario, lane));
    let (point, act) = &first.points[strike.index];
    let played = play_on(scenario, lane, Some((point.clone(), strike.fault)), Tampering::default());
    let allowed = (scenario.allowance)(&first.points, strike.index, strike.fault);
    let judged = played.and_then(|run| judge(first, &run, &allowed));
    if let Err(why) = &judged {
        println!("NOT converged: {}: {act}: {} at {point}: {why}", scenario.name, strike.fault);
    }
    Struck { strike, converged: judged.is_ok(), took: began.elapsed() }
}

/// Whether another fault, at this point or at its neighbour, leaves the same behind.
fn is_represented(index: usize, fault: Fault) -> bool {
    match fault {
        Fault::KilledBefore => index > 0,
        Fault::TooMany => !index.is_multiple_of(2),
        Fault::Unavailable => index.is_multiple_of(2),
        Fault::KilledAfter | Fault::Lost | Fault::Cut | Fault::Conflict => false,
    }
}

/// The number of points of a scenario, from `points.txt`.
fn expected(scenario: &Scenario) -> usize {
    let mut lines = include_str!("points.txt").lines();
    let count = lines.find_map(|line| line.strip_prefix(scenario.name)?.trim().parse().ok());
    count.unwrap_or_else(|| panic!("{} is not in points.txt", scenario.name))
}

#[test]
fn the_operator_converges_whatever_strikes_wherever() {
    let began = Instant::now();
    let only = std::env::var("LANDFALL_POINT").unwrap_or_default();
    let every = std::env::var("LANDFALL_FAULTS").is_ok_and(|faults| faults == "all");
    let times = std::env::var("LANDFALL_TIMES").map_or(1, |times| times.parse().expect("a number"));
    side_by_side((0..ALL.len()).collect(), |lane, scenario| {
        undisturbed(scenario, lane);
    });
    println!("without a fault: {:.1?}, with the API servers' start", began.elapsed());
    let mut strikes = Vec::new();
    for (scenario, Scenario { name, faults: tried, .. }) in ALL.iter().enumerate() {
        for (index, (point, act)) in undisturbed(scenario, 0).points.iter().enumerate() {
            let line = format!("{name} {:3} {act}: {point}", index + 1);
            println!("{line}");
            let faults = Fault::ALL.into_iter().filter(|fault| fault.happens_at(point.side) && tried(index, *fault));
            let faults = faults.filter(|fault| line.contains(&only) && (every || !is_represented(index, *fault)));
            strikes.extend(faults.map(|fault| Strike { scenario, index, fault }));
        }
    }
    let all = side_by_side(strikes.repeat(times), strike);

    let mut kinds: BTreeMap<Fault, (usize, usize)> = BTreeMap::new();
    for struck in &all {
        let (runs, converged) = kinds.entry(struck.strike.fault).or_default();
        *runs += 1;
        *converged += usize::from(struck.converged);
    }
    for (fault, (runs, converged)) in &kinds {
        println!("{fault}: runs {runs}, converged {converged}");
    }
    let (mut total, mut converged) = (0, 0);
    for (index, scenario) in ALL.iter().enumerate() {
        let runs: Vec<_> = all.iter().filter(|struck| struck.strike.scenario == index).collect();
        let mut points: BTreeMap<usize, bool> = BTreeMap::new();
        for struck in &runs {
            *points.entry(struck.strike.index).or_insert(true) &= struck.converged;
        }
        let good = points.values().filter(|converged| **converged).count();
        let (count, took) =
            (undisturbed(index, 0).points.len(), runs.iter().map(|struck| struck.took).sum::<Duration>());
        println!("{}: points {count}, converged {good} ({} runs, {:.0?} one by one)", scenario.name, runs.len(), took);
        total += count;
        converged += good;
    }
    println!("points {total}, converged {converged} ({} runs in {:.0?})", all.len(), began.elapsed());
    for (index, scenario) in ALL.iter().enumerate() {
        let points = undisturbed(index, 0).points.len();
        assert_eq!(points, expected(scenario), "{}: other points than in tests/faults/points.txt", scenario.name);
    }
    let failed = all.iter().filter(|struck| !struck.converged).count();
    assert_eq!(failed, 0, "so many runs did not converge; see above");
}

/// Plays a scenario with a fault at the first point of a kind and with tampering. Returns the result of the comparison.
fn tampered(scenario: &Scenario, lane: usize, kind: &str, fault: Fault, tampering: Tampering) -> Result<(), String> {
    let index = ALL.iter().position(|other| other.name == scenario.name).expect("one of all scenarios");
    let first = undisturbed(index, lane);
    let index = first.points.iter().position(|(point, _)| point.kind == kind).expect("a point of the scenario");
    let run = play_on(scenario, lane, Some((first.points[index].0.clone(), fault)), tampering);
    let run = run.expect("the acts come to an end");
    let allowed = (scenario.allowance)(&first.points, index, fault);
    judge(first, &run, &allowed)
}

/// The same without a guard: the comparison reports a difference. Returns it.
fn complaint(scenario: &Scenario, lane: usize, kind: &str, fault: Fault, sabotage: Sabotage) -> String {
    let tampering = Tampering { sabotage, ..Tampering::default() };
    tampered(scenario, lane, kind, fault, tampering).expect_err("a guard is gone, so something differs")
}

#[test]
fn a_dropped_finalizer_is_noticed() {
    let sabotage = Sabotage { drop_finalizer: true, ..Sabotage::default() };
    let kind = "PATCH installationtokens/status team-a/b";
    let complaint = complaint(&scenario::TOKEN, 1, kind, Fault::KilledAfter, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("tokens live"), "nobody revoked the token of what was deleted: {complaint}");
    assert!(complaint.contains("the end state is another"), "{complaint}");
}

#[test]
fn a_skipped_adoption_is_noticed() {
    let sabotage = Sabotage { skip_adoption: true, ..Sabotage::default() };
    let kind = "PATCH installationtokens/status team-a/a";
    let complaint = complaint(&scenario::TOKEN, 2, kind, Fault::KilledAfter, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("tokens minted"), "each start mints anew: {complaint}");
}

#[test]
fn a_webhook_that_is_made_without_looking_is_noticed() {
    let sabotage = Sabotage { skip_hook_listing: true, ..Sabotage::default() };
    let kind = "POST events team-a/ProjectRepository shop Observed";
    let complaint = complaint(&scenario::HOOK, 1, kind, Fault::Cut, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("hooks made"), "what was changed by hand got a second one beside it: {complaint}");
    assert!(complaint.contains("the end state is another"), "and it stays: {complaint}");
}

#[test]
fn a_workload_that_is_rolled_before_status_says_so_is_noticed() {
    let sabotage = Sabotage { act_before_status: true, ..Sabotage::default() };
    let kind = "PATCH deployments team-a/shop";
    let complaint = complaint(&scenario::PUSH, 2, kind, Fault::KilledAfter, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("generation"), "the same commit was rolled twice: {complaint}");
    assert!(complaint.contains("rolled before status said so"), "status did not say so before: {complaint}");
}

/// Plays a workspace's deletion with a misbehaving pod: nothing is lost. Then plays the same without a guard, and
/// returns the difference that the comparison reports.
fn lost_work(lane: usize, mischief: Mischief, sabotage: Sabotage) -> String {
    let kind = "DELETE pods team-a/ws-work";
    let (scenario, fault) = (&scenario::WS_DELETE, Fault::Lost);
    let guarded = Tampering { mischief, ..Tampering::default() };
    tampered(scenario, lane, kind, fault, guarded).expect("with the guard, the work is saved");
    let unguarded = Tampering { sabotage, mischief };
    tampered(scenario, lane, kind, fault, unguarded).expect_err("a guard is gone, so something differs")
}

#[test]
fn a_namespace_that_waits_for_secrets_out_of_reach_is_noticed() {
    let sabotage = Sabotage { wait_for_secret: true, ..Sabotage::default() };
    let complaint = complaint(&scenario::BOUND, 1, "DELETE /installation/token", Fault::Lost, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("/tokens/0"), "the token is still there: {complaint}");
}

#[test]
fn an_uninstallation_that_keeps_no_volume_is_noticed() {
    let sabotage = Sabotage { skip_keeping: true, ..Sabotage::default() };
    let kind = "PATCH persistentvolumeclaims team-a/ws-work let go";
    let complaint = complaint(&scenario::UNINSTALL, 2, kind, Fault::Lost, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("/volumes/0"), "the volume would go with its claim: {complaint}");
}

#[test]
fn a_save_that_forgets_large_files_is_noticed() {
    let tampering = Tampering { mischief: Mischief::ForgetsLargeFiles, ..Tampering::default() };
    let kind = "PATCH persistentvolumeclaims team-a/ws-work let go";
    let complaint = tampered(&scenario::WS_LARGE, 3, kind, Fault::Lost, tampering);
    let complaint = complaint.expect_err("the file is gone");
    println!("{complaint}");
    assert!(complaint.contains("volumes kept"), "the file went with the volume: {complaint}");
}

#[test]
fn a_pod_that_is_believed_is_noticed() {
    let sabotage = Sabotage { believe_agent: true, ..Sabotage::default() };
    let complaint = lost_work(3, Mischief::Lies, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("not yet pushed"), "the work went with the volume: {complaint}");
}

#[test]
fn a_volume_that_goes_before_its_work_was_read_back_is_noticed() {
    let sabotage = Sabotage { let_go_early: true, ..Sabotage::default() };
    let complaint = lost_work(0, Mischief::PushFails, sabotage);
    println!("{complaint}");
    assert!(complaint.contains("not yet pushed"), "the work went with the volume: {complaint}");
}
