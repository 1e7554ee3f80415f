//! Random histories: pushes, ticks, rollouts that end or hang, requests, a late or lost status, and an operator that
//! stops between any two effects. The invariants of the plan hold in all of them.

use super::tests::{on_push, workload};
use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;

const SHAS: [&str; 4] = ["aaaa", "bbbb", "cccc", "dddd"];

/// The faults that may happen in addition to pushes, ticks and rollouts.
#[derive(Clone, Copy, PartialEq)]
struct Mishaps {
    stops: bool,
    late: bool,
    loses_status: bool,
}

struct World {
    random: StdRng,
    mishaps: Mishaps,
    now: Timestamp,
    branch: &'static str,
    workloads: Vec<Workload>,
    status: Option<DeploymentStatus>,
    /// The status before the last write.
    before: Option<DeploymentStatus>,
    handled: u32,
    wish: u32,
    /// The head in the operator's memory.
    head: Option<ConfirmedHead>,
    /// How often each commit became the head, or was requested again.
    reasons: HashMap<String, usize>,
    /// How often each template was changed for a commit, and for a (commit, sequence).
    rolled: HashMap<(String, String), usize>,
    exactly: HashMap<(String, String, i64), usize>,
    was_lost: bool,
    /// The head when the history began.
    began_with: Option<String>,
}

impl World {
    fn new(seed: u64, mishaps: Mishaps) -> Self {
        let fresh = |name| workload(name, None, Progress::Done(None));
        Self {
            random: StdRng::seed_from_u64(seed),
            mishaps,
            now: Timestamp::from_second(1_000_000).unwrap(),
            branch: SHAS[0],
            workloads: vec![fresh("shop"), fresh("jobs")],
            status: None,
            before: None,
            handled: 0,
            wish: 0,
            head: None,
            reasons: HashMap::from([(SHAS[0].to_owned(), 1)]),
            rolled: HashMap::new(),
            exactly: HashMap::new(),
            was_lost: false,
            began_with: None,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// Whether the operator stops here and loses its memory.
    fn stops(&mut self) -> bool {
        let stops = self.mishaps.stops && self.chance(15);
        if stops {
            self.head = None;
        }
        stops
    }

    fn look(&mut self) {
        self.head = Some(ConfirmedHead { sha: self.branch.to_owned(), looked_at: self.now });
    }

    fn write(&mut self, deployment: Option<DeploymentStatus>, handles_redeploy: bool) {
        let sequences = (self.status.as_ref().map(|s| s.sequence), deployment.as_ref().map(|s| s.sequence));
        if let (Some(before), Some(after)) = sequences
            && !self.mishaps.late
        {
            assert!(before <= after, "the sequence went from {before} to {after}");
        }
        if self.began_with.is_none() {
            self.began_with = deployment.as_ref().map(|deployment| deployment.sha.clone());
        }
        if self.status != deployment {
            self.before = std::mem::replace(&mut self.status, deployment);
        }
        if handles_redeploy {
            self.handled = self.wish;
        }
    }

    fn roll(&mut self, name: &str, stamp: &Stamp) {
        assert_eq!(self.head.as_ref().map(|head| &head.sha), Some(&stamp.sha), "only the head is rolled");
        let workload = self.workloads.iter_mut().find(|workload| workload.name == name).unwrap();
        assert_ne!(workload.stamp.as_ref(), Some(stamp), "a patch that changes nothing is not sent");
        let before = workload.stamp.replace(stamp.clone()).map_or(0, |stamp| stamp.sequence);
        assert!(before < stamp.sequence, "a template went from {before} to {}", stamp.sequence);
        workload.progress = Progress::Underway { what: String::new(), has_deadline: true };
        let exactly = self.exactly.entry((name.to_owned(), stamp.sha.clone(), stamp.sequence)).or_default();
        *exactly += 1;
        assert_eq!(*exactly, 1, "{name} was rolled twice for {stamp:?}");
        let rolled = self.rolled.entry((name.to_owned(), stamp.sha.clone())).or_default();
        *rolled += 1;
        let reasons = self.reasons[&stamp.sha];
        assert!(*rolled <= reasons, "{name} was rolled {rolled} times for {}, with {reasons} reasons", stamp.sha);
    }

    /// The operator reconciles the object once. Returns whether anything changed.
    fn reconcile(&mut self) -> bool {
        let on_push = on_push();
        let late = self.mishaps.late && self.chance(25);
        let mut stored = if late { self.before.clone() } else { self.status.clone() };
        let mut targets: Option<Targets> = None;
        let mut changed = false;
        for _ in 0..20 {
            let seen = RolloutInput {
                on_push: &on_push,
                is_paused: false,
                head: self.head.as_ref(),
                stored: stored.as_ref(),
                was_forbidden: false,
                is_asked_again: self.wish != self.handled,
                targets: targets.as_ref(),
            };
            let next = plan(&seen, self.now);
            if self.stops() {
                return true;
            }
            match next {
                Next::LookAtHead => self.look(),
                Next::LookAtTargets => {
                    targets = Some(Targets { workloads: self.workloads.clone(), troubles: Vec::new() });
                }
                Next::Begin { deployment, handles_redeploy } => {
                    changed = true;
                    stored = Some(deployment.clone());
                    self.write(Some(deployment), handles_redeploy);
                }
                Next::Roll { stamp, workloads } => {
                    changed = true;
                    for workload in workloads {
                        self.roll(&workload.name, &stamp);
                        if self.stops() {
                            return true;
                        }
                    }
                    targets = None;
                }
                Next::Settle(settlement) => {
                    // A status that equals the one that was read is not written.
                    if settlement.deployment != stored {
                        changed = true;
                        self.write(settlement.deployment, settlement.handles_redeploy);
                    } else if settlement.handles_redeploy {
                        self.handled = self.wish;
                    }
                    return changed;
                }
            }
        }
        panic!("it comes to no end");
    }

    fn event(&mut self) {
        match self.random.random_range(0..100) {
            0..20 => {
                let other: Vec<_> = SHAS.into_iter().filter(|sha| *sha != self.branch).collect();
                self.branch = other[self.random.random_range(0..other.len())];
                *self.reasons.entry(self.branch.to_owned()).or_default() += 1;
            }
            20..35 => self.look(),
            35..70 => self.now += SignedDuration::from_millis(self.random.random_range(0..3000)),
            70..75 => self.now += SignedDuration::from_secs(self.random.random_range(0..1000)),
            75..92 => {
                let fails = self.chance(30);
                let index = self.random.random_range(0..self.workloads.len());
                let end = if fails { Progress::Failed(String::new()) } else { Progress::Done(None) };
                self.workloads[index].progress = end;
            }
            92..96 => {
                self.wish += 1;
                for reasons in self.reasons.values_mut() {
                    *reasons += 1;
                }
            }
            _ if self.mishaps.loses_status => {
                self.status = None;
                self.before = None;
                self.was_lost = true;
            }
            _ => {}
        }
    }

    /// From now on only time passes: the newest head is deployed, and then nothing is done.
    fn comes_to_rest(&mut self) {
        self.mishaps = Mishaps { stops: false, late: false, loses_status: false };
        for _ in 0..20 {
            self.now += SignedDuration::from_secs(61);
            self.look();
            for workload in &mut self.workloads {
                workload.progress = Progress::Done(None);
            }
            self.reconcile();
        }
        let status = self.status.clone().expect("a status");
        assert_eq!(status.sha, self.branch);
        // A failed rollout stays failed until another try is requested.
        if status.result == DeploymentResult::Failed {
            self.wish += 1;
            for reasons in self.reasons.values_mut() {
                *reasons += 1;
            }
            self.reconcile();
            for workload in &mut self.workloads {
                workload.progress = Progress::Done(None);
            }
            self.reconcile();
        }
        let status = self.status.clone().expect("a status");
        assert_eq!((&*status.sha, status.result), (self.branch, DeploymentResult::Succeeded));
        for workload in &self.workloads {
            let stamp = Stamp { sha: status.sha.clone(), sequence: status.sequence };
            let is_rolled = workload.stamp.as_ref() == Some(&stamp);
            assert!(is_rolled || (status.sequence == 0 && workload.stamp.is_none()), "{workload:?} {status:?}");
            let may_begin = self.was_lost || self.began_with.as_deref() == Some(self.branch);
            assert!(status.sequence > 0 || may_begin, "a push was taken for a beginning");
        }
        for _ in 0..10 {
            self.now += SignedDuration::from_mins(10);
            self.look();
            assert!(!self.reconcile(), "nothing is left to do");
        }
    }
}

#[test]
fn whatever_happens_each_head_is_rolled_once_and_the_newest_in_the_end() {
    for (stops, late, loses_status) in
        [(false, false, false), (true, false, false), (true, true, false), (true, false, true), (true, true, true)]
    {
        for seed in 0..1500 {
            let mut world = World::new(seed, Mishaps { stops, late, loses_status });
            let history = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                world.look();
                for _ in 0..60 {
                    world.event();
                    if world.chance(60) {
                        world.reconcile();
                    }
                }
                world.comes_to_rest();
            }));
            assert!(history.is_ok(), "history {seed}, stops: {stops}, late: {late}, loses status: {loses_status}");
        }
    }
}
