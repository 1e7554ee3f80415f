//! A case for each rule.

mod trouble;

use super::*;
use crate::api::{PushAction, RolloutRestart, WorkloadKind};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

pub(super) fn on_push() -> OnPush {
    let rollout_restart =
        RolloutRestart { kind: WorkloadKind::Deployment, name: Some("shop".to_owned()), selector: None };
    OnPush {
        service_account_name: "deployer".to_owned(),
        debounce: "2s".to_owned(),
        actions: vec![PushAction { rollout_restart }],
    }
}

fn head(sha: &str, second: i64) -> ConfirmedHead {
    ConfirmedHead { sha: sha.to_owned(), looked_at: at(second) }
}

fn stored(sha: &str, sequence: i64, result: DeploymentResult, second: i64) -> DeploymentStatus {
    let over = matches!(result, DeploymentResult::Succeeded | DeploymentResult::Failed);
    DeploymentStatus {
        sha: sha.to_owned(),
        sequence,
        result,
        start_time: Some(MicroTime(at(second))),
        completion_time: over.then(|| Time(at(second))),
        message: None,
    }
}

fn done() -> Progress {
    Progress::Done(None)
}

fn underway(has_deadline: bool) -> Progress {
    Progress::Underway { what: "1 of 3 pods updated, 1 available".to_owned(), has_deadline }
}

pub(in crate::controllers::repository) fn workload(
    name: &str,
    stamp: Option<(&str, i64)>,
    progress: Progress,
) -> Workload {
    Workload {
        kind: WorkloadKind::Deployment,
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        version: "1".to_owned(),
        stamp: stamp.map(|(sha, sequence)| Stamp { sha: sha.to_owned(), sequence }),
        progress,
        hindrance: None,
    }
}

fn trouble(reason: Reason) -> Trouble {
    Trouble { reason, message: "Deployment shop does not exist".to_owned() }
}

fn targets(workloads: &[Workload]) -> Targets {
    Targets { workloads: workloads.to_vec(), troubles: Vec::new() }
}

#[derive(Clone, Default)]
struct Case {
    head: Option<ConfirmedHead>,
    stored: Option<DeploymentStatus>,
    targets: Option<Targets>,
    is_paused: bool,
    is_asked_again: bool,
    was_forbidden: bool,
}

impl Case {
    fn plan(&self, second: i64) -> Next {
        self.plan_at(at(second))
    }

    fn plan_at(&self, now: Timestamp) -> Next {
        let on_push = on_push();
        let seen = RolloutInput {
            on_push: &on_push,
            is_paused: self.is_paused,
            head: self.head.as_ref(),
            stored: self.stored.as_ref(),
            was_forbidden: self.was_forbidden,
            is_asked_again: self.is_asked_again,
            targets: self.targets.as_ref(),
        };
        plan(&seen, now)
    }

    fn settles(&self, second: i64) -> Settlement {
        match self.plan(second) {
            Next::Settle(settlement) => settlement,
            other => panic!("it does not settle: {other:?}"),
        }
    }

    fn begins(&self, second: i64) -> DeploymentStatus {
        match self.plan(second) {
            Next::Begin { deployment, .. } => deployment,
            other => panic!("it does not begin: {other:?}"),
        }
    }

    fn nothing_happens(&self, second: i64) -> Settlement {
        let settlement = self.settles(second);
        assert_eq!(settlement.deployment, self.stored);
        settlement
    }
}

fn result(settlement: &Settlement) -> (&str, i64, DeploymentResult) {
    let deployment = settlement.deployment.as_ref().expect("a deployment");
    (&deployment.sha, deployment.sequence, deployment.result)
}

fn reason(settlement: &Settlement) -> Reason {
    settlement.standing.as_ref().expect("a standing").reason
}

use DeploymentResult::{Failed, Running, Succeeded, Waiting};

#[test]
fn at_first_sight_the_head_is_where_it_begins() {
    let mut case = Case::default();
    assert_eq!(case.plan(0), Next::LookAtHead);
    case.head = Some(head(A, 0));
    assert_eq!(case.plan(0), Next::LookAtTargets);
    case.targets = Some(targets(&[workload("shop", None, done())]));
    let settlement = case.settles(0);
    assert_eq!(result(&settlement), (A, 0, Succeeded));
    assert_eq!(reason(&settlement), Reason::RolledOut);
    assert!(settlement.handles_redeploy, "an annotation that was there before asks for nothing");
    // A missing workload is named before the first push, and looked for again.
    case.targets = Some(Targets { workloads: Vec::new(), troubles: vec![trouble(Reason::WaitingForReference)] });
    let missing = case.settles(0);
    assert_eq!((result(&missing), reason(&missing)), ((A, 0, Failed), Reason::WaitingForReference));
    assert_eq!(missing.again, Some(at(600)));
    case.stored = missing.deployment;
    case.targets = Some(targets(&[workload("shop", None, done())]));
    let there = case.settles(600);
    assert_eq!((result(&there), reason(&there)), ((A, 0, Succeeded), Reason::RolledOut));
}

#[test]
fn a_lost_status_is_read_from_the_templates() {
    let mut case = Case {
        head: Some(head(B, 0)),
        targets: Some(targets(&[workload("shop", Some((A, 7)), done()), workload("jobs", Some((A, 6)), done())])),
        ..Case::default()
    };
    let begun = case.begins(0);
    assert_eq!((&*begun.sha, begun.sequence, begun.result), (B, 8, Running));
    case.head = Some(head(A, 0));
    let taken_up = case.begins(0);
    assert_eq!((&*taken_up.sha, taken_up.sequence), (A, 7));
    case.is_paused = true;
    assert_eq!(reason(&case.nothing_happens(0)), Reason::Paused);
}

#[test]
fn the_same_commit_twice_does_nothing() {
    let case = Case { head: Some(head(A, 100)), stored: Some(stored(A, 3, Succeeded, 0)), ..Case::default() };
    let settlement = case.nothing_happens(100);
    assert_eq!((reason(&settlement), settlement.again), (Reason::RolledOut, None));
    let without_head = Case { head: None, ..case }.nothing_happens(100);
    assert!(!without_head.handles_redeploy, "a wish is answered when it is known what it is about");
}

#[test]
fn a_new_head_waits_for_more_and_the_newest_wins() {
    let mut case = Case { head: Some(head(B, 10)), stored: Some(stored(A, 3, Succeeded, 0)), ..Case::default() };
    let settlement = case.settles(10);
    assert_eq!(result(&settlement), (B, 3, Waiting));
    assert_eq!((reason(&settlement), settlement.again), (Reason::Debouncing, Some(at(12))));
    case.stored = settlement.deployment;
    // Another commit meanwhile.
    case.head = Some(head(A, 11));
    let settlement = case.settles(11);
    assert_eq!(result(&settlement), (A, 3, Waiting));
    assert_eq!(settlement.again, Some(at(12)));
    assert_eq!(settlement.deployment.as_ref().unwrap().start_time, Some(MicroTime(at(10))));
    // It ended, but the look at the head was before that.
    case.stored = settlement.deployment;
    assert_eq!(case.plan(12), Next::LookAtHead);
    case.head = Some(head(B, 12));
    assert_eq!(case.plan(12), Next::LookAtTargets);
    case.targets = Some(targets(&[workload("shop", Some((A, 3)), done())]));
    let begun = case.begins(12);
    assert_eq!((&*begun.sha, begun.sequence, begun.result), (B, 4, Running));
}

#[test]
fn a_fraction_of_a_second_is_not_taken_from_the_debounce() {
    let case = Case { head: Some(head(B, 10)), stored: Some(stored(A, 3, Succeeded, 0)), ..Case::default() };
    let on_push = on_push();
    let seen = RolloutInput {
        on_push: &on_push,
        is_paused: false,
        head: case.head.as_ref(),
        stored: case.stored.as_ref(),
        was_forbidden: false,
        is_asked_again: false,
        targets: None,
    };
    let now = at(10) + SignedDuration::from_millis(700);
    let Next::Settle(settlement) = plan(&seen, now) else { panic!("it waits") };
    let due = at(12) + SignedDuration::from_millis(700);
    assert_eq!(settlement.again, Some(due), "no more than the debounce");
    let next = RolloutInput { stored: settlement.deployment.as_ref(), ..seen };
    let Next::Settle(settlement) = plan(&next, now) else { panic!("it goes on waiting") };
    assert_eq!(settlement.again, Some(due));
}

#[test]
fn a_head_that_comes_back_to_what_is_deployed_is_not_rolled() {
    let case = Case {
        head: Some(head(A, 12)),
        stored: Some(stored(B, 3, Waiting, 10)),
        targets: Some(targets(&[workload("shop", Some((A, 3)), done())])),
        ..Case::default()
    };
    let taken_up = case.begins(12);
    assert_eq!((&*taken_up.sha, taken_up.sequence), (A, 3));
    let next = Case { stored: Some(taken_up), ..case };
    assert_eq!(result(&next.settles(12)), (A, 3, Succeeded));
}

#[test]
fn back_to_an_older_commit_is_rolled() {
    let case = Case {
        head: Some(head(A, 12)),
        stored: Some(stored(A, 4, Waiting, 10)),
        targets: Some(targets(&[workload("shop", Some((B, 4)), done())])),
        ..Case::default()
    };
    assert_eq!(case.begins(12).sequence, 5);
}

#[test]
fn each_workload_is_rolled_until_it_says_so() {
    let old = workload("shop", Some((A, 3)), done());
    let new = workload("jobs", Some((B, 4)), done());
    let mut case =
        Case { head: Some(head(B, 12)), stored: Some(stored(B, 4, Running, 12)), targets: None, ..Case::default() };
    assert_eq!(case.plan(13), Next::LookAtTargets);
    case.targets = Some(targets(&[old.clone(), new.clone()]));
    let stamp = Stamp { sha: B.to_owned(), sequence: 4 };
    assert_eq!(case.plan(13), Next::Roll { stamp, workloads: vec![old] });
    case.targets = Some(targets(&[workload("shop", Some((B, 4)), underway(true)), new.clone()]));
    let settlement = case.nothing_happens(13);
    assert_eq!((reason(&settlement), settlement.again), (Reason::RollingOut, Some(at(14))));
    case.targets = Some(targets(&[workload("shop", Some((B, 4)), done()), new]));
    assert_eq!(result(&case.settles(14)), (B, 4, Succeeded));
    // A running deployment is followed without a head.
    case.head = None;
    assert_eq!(result(&case.settles(14)), (B, 4, Succeeded));
}

#[test]
fn only_the_head_is_written_into_a_template() {
    let mut case = Case {
        stored: Some(stored(B, 4, Running, 12)),
        targets: Some(targets(&[workload("shop", Some((A, 3)), done())])),
        ..Case::default()
    };
    assert_eq!(case.plan(13), Next::LookAtHead);
    case.head = Some(head(A, 13));
    assert_eq!(result(&case.settles(13)), (A, 4, Waiting));
}

#[test]
fn what_the_templates_carry_is_not_gone_back_from() {
    let case = Case {
        head: Some(head(A, 13)),
        stored: Some(stored(A, 3, Running, 12)),
        targets: Some(targets(&[workload("shop", Some((B, 4)), done())])),
        ..Case::default()
    };
    assert_eq!(case.begins(13).sequence, 5);
}

#[test]
fn one_is_in_flight_and_one_that_hangs_gives_way() {
    let case = Case {
        head: Some(head(A, 50)),
        stored: Some(stored(B, 4, Running, 0)),
        targets: Some(targets(&[workload("shop", Some((B, 4)), underway(true))])),
        ..Case::default()
    };
    assert_eq!(result(&case.nothing_happens(59)), (B, 4, Running));
    assert_eq!(result(&case.settles(60)), (A, 4, Waiting));
    let paused = Case { is_paused: true, ..case.clone() };
    assert_eq!(result(&paused.nothing_happens(60)), (B, 4, Running));
    // A deployment that cannot continue yields at once, and a completed one is done.
    let stuck = Targets { workloads: Vec::new(), troubles: vec![trouble(Reason::WaitingForReference)] };
    let case = Case { targets: Some(stuck), ..case };
    assert_eq!(result(&case.settles(1)), (A, 4, Waiting));
    let case = Case { targets: Some(targets(&[workload("shop", Some((B, 4)), done())])), ..case };
    let settlement = case.settles(70);
    assert_eq!(result(&settlement), (B, 4, Succeeded));
    assert_eq!(settlement.again, Some(at(70)), "the next one has its turn");
}

#[test]
fn paused_nothing_is_begun_or_changed() {
    let base = Case {
        head: Some(head(B, 100)),
        targets: Some(targets(&[workload("shop", Some((A, 3)), done())])),
        is_paused: true,
        ..Case::default()
    };
    for stored in [
        stored(A, 3, Succeeded, 0),
        stored(A, 3, Failed, 0),
        stored(B, 3, Waiting, 0),
        stored(B, 4, Running, 99),
        stored(B, 4, Running, 0),
    ] {
        let case = Case { stored: Some(stored), ..base.clone() };
        let settlement = case.settles(1000);
        assert_eq!(reason(&settlement), Reason::Paused);
        let (now, before) = (settlement.deployment.unwrap(), case.stored.unwrap());
        assert_eq!((&now.sha, now.sequence, now.result), (&before.sha, before.sequence, before.result));
    }
}

#[test]
fn a_push_waits_for_the_debounce_and_not_for_the_next_second() {
    let now = Timestamp::from_nanosecond(1_000_100_250_000_300).unwrap();
    let newer = ConfirmedHead { sha: B.to_owned(), looked_at: now };
    let succeeded = stored(A, 1, DeploymentResult::Succeeded, 0);
    let case = Case { head: Some(newer), stored: Some(succeeded), ..Case::default() };
    let Next::Settle(settlement) = case.plan_at(now) else { panic!("it waits") };
    let since = settlement.deployment.unwrap().start_time.unwrap().0;
    assert_eq!(since, Timestamp::from_microsecond(1_000_100_250_001).unwrap(), "rounded up to a microsecond");
    assert_eq!(settlement.again, Some(since + SignedDuration::from_secs(2)));
}
