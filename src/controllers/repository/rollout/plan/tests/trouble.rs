//! Failures, refusals, and late or forged status.

use super::*;

#[test]
fn what_is_forbidden_is_said_before_the_first_push() {
    let forbidden = Targets { workloads: Vec::new(), troubles: vec![trouble(Reason::ActionForbidden)] };
    let mut case = Case { head: Some(head(A, 0)), targets: Some(forbidden), ..Case::default() };
    let settlement = case.settles(0);
    assert_eq!(result(&settlement), (A, 0, Failed));
    assert_eq!(reason(&settlement), Reason::ActionForbidden);
    case.stored = settlement.deployment;
    assert_eq!(reason(&case.nothing_happens(1800)), Reason::ActionForbidden);
    case.targets = Some(targets(&[workload("shop", None, done())]));
    assert_eq!(result(&case.settles(1801)), (A, 0, Succeeded));
    case.head = Some(head(B, 1801));
    assert_eq!(result(&case.settles(1801)), (B, 0, Waiting));
}

#[test]
fn a_deadline_is_kubernetes_own_or_ten_minutes() {
    let case = |progress, second| {
        let case = Case {
            head: Some(head(B, 12)),
            stored: Some(stored(B, 4, Running, 0)),
            targets: Some(targets(&[workload("shop", Some((B, 4)), progress)])),
            ..Case::default()
        };
        case.settles(second)
    };
    assert_eq!(result(&case(underway(true), 3600)).2, Running);
    assert_eq!(result(&case(underway(false), 599)).2, Running);
    let late = case(underway(false), 600);
    assert_eq!((result(&late).2, reason(&late)), (Failed, Reason::RolloutFailed));
    let failed = case(Progress::Failed("1 of 3 pods updated, 0 available; timed out".to_owned()), 5);
    assert_eq!(result(&failed).2, Failed);
    let message = failed.deployment.unwrap().message.unwrap();
    for words in ["Deployment shop", "1 of 3 pods updated", "landfall.dev/redeploy"] {
        assert!(message.contains(words), "{words} is not in {message}");
    }
    // The delays grow.
    assert_eq!(case(underway(true), 1).again, Some(at(2)));
    assert_eq!(case(underway(true), 40).again, Some(at(50)));
    assert_eq!(case(underway(true), 3600).again, Some(at(3630)));
}

#[test]
fn what_is_missing_or_refused_is_tried_until_the_deadline() {
    for refusal in [Reason::WaitingForReference, Reason::ActionForbidden] {
        let mut case = Case {
            head: Some(head(B, 12)),
            stored: Some(stored(B, 4, Running, 0)),
            targets: Some(Targets { workloads: Vec::new(), troubles: vec![trouble(refusal)] }),
            ..Case::default()
        };
        let settlement = case.settles(100);
        assert_eq!((result(&settlement).2, reason(&settlement)), (Running, refusal));
        assert_eq!(settlement.again, Some(at(125)));
        case.stored = settlement.deployment;
        assert_eq!(case.nothing_happens(104).again, Some(at(130)));
        let settlement = case.settles(600);
        let is_forbidden = refusal == Reason::ActionForbidden;
        let expected = if is_forbidden { Reason::ActionForbidden } else { Reason::RolloutFailed };
        assert_eq!((result(&settlement).2, reason(&settlement)), (Failed, expected));
        // The message stays the same afterwards.
        let case = Case { stored: settlement.deployment, was_forbidden: is_forbidden, ..case };
        assert_eq!(reason(&case.nothing_happens(900)), expected);
    }
}

#[test]
fn the_time_that_something_was_in_the_way_is_not_counted() {
    let rolled = || Some(targets(&[workload("shop", Some((B, 4)), underway(false))]));
    let refused = trouble(Reason::ActionForbidden);
    let mut hindered = workload("shop", Some((A, 3)), done());
    hindered.hindrance = Some(Hindrance::Refused(refused));
    let mut case = Case {
        head: Some(head(B, 12)),
        stored: Some(stored(B, 4, Running, 0)),
        targets: Some(targets(&[hindered.clone()])),
        ..Case::default()
    };
    case.stored = case.settles(590).deployment;
    // It is tried once more at the end of the time, and that may work.
    case.targets = Some(targets(&[Workload { hindrance: None, ..hindered.clone() }]));
    assert!(matches!(case.plan(610), Next::Roll { .. }));
    let refused_again = Case { targets: Some(targets(&[hindered])), ..case.clone() };
    assert_eq!(result(&refused_again.settles(610)).2, Failed);
    case.targets = rolled();
    let settlement = case.settles(610);
    assert_eq!(result(&settlement), (B, 4, Running));
    assert_eq!(settlement.deployment.as_ref().unwrap().start_time, Some(MicroTime(at(610))));
    case.stored = settlement.deployment;
    assert_eq!(result(&case.settles(1209)).2, Running);
    assert_eq!(result(&case.settles(1210)).2, Failed);
}

#[test]
fn a_refused_patch_is_no_storm() {
    let refused = Workload {
        hindrance: Some(Hindrance::Refused(trouble(Reason::ActionForbidden))),
        ..workload("shop", Some((A, 3)), done())
    };
    let case = Case {
        head: Some(head(B, 12)),
        stored: Some(stored(B, 4, Running, 12)),
        targets: Some(targets(&[refused])),
        ..Case::default()
    };
    let settlement = case.settles(13);
    assert_eq!((result(&settlement).2, reason(&settlement)), (Running, Reason::ActionForbidden));
}

#[test]
fn two_who_insist_do_not_roll_back_and_forth() {
    let taken = Workload { hindrance: Some(Hindrance::TakenOver), ..workload("shop", Some((A, 9)), done()) };
    let case = Case {
        head: Some(head(B, 12)),
        stored: Some(stored(B, 4, Running, 12)),
        targets: Some(targets(&[taken])),
        ..Case::default()
    };
    let settlement = case.settles(13);
    assert_eq!(result(&settlement).2, Failed);
    assert!(settlement.deployment.unwrap().message.unwrap().contains("Let one ProjectRepository roll a workload"));
}

#[test]
fn a_failed_one_is_done_again_when_somebody_asks() {
    let mut case = Case {
        head: Some(head(A, 100)),
        stored: Some(stored(A, 3, Failed, 0)),
        targets: Some(targets(&[workload("shop", Some((A, 3)), underway(true))])),
        ..Case::default()
    };
    assert_eq!(case.nothing_happens(100).again, None);
    case.is_asked_again = true;
    assert_eq!(case.begins(100).sequence, 4);
    // It has begun already, and the status with it has not arrived yet.
    case.targets = Some(targets(&[workload("shop", Some((A, 4)), underway(true))]));
    assert_eq!(case.begins(100).sequence, 4);
    case.is_paused = true;
    assert!(!case.nothing_happens(100).handles_redeploy);
    case.is_paused = false;
    case.stored = Some(stored(A, 3, Succeeded, 0));
    assert!(case.nothing_happens(100).handles_redeploy);
    // While a deployment runs, the request waits for its end.
    case.stored = Some(stored(A, 4, Running, 99));
    case.targets = Some(targets(&[workload("shop", Some((A, 4)), Progress::Failed(String::new()))]));
    let settlement = case.settles(100);
    assert_eq!((result(&settlement).2, settlement.handles_redeploy, settlement.again), (Failed, false, Some(at(100))));
}

#[test]
fn time_away_is_not_counted_before_it_is_rolled() {
    let case = Case {
        head: Some(head(B, 5000)),
        stored: Some(stored(B, 4, Running, 0)),
        targets: Some(targets(&[workload("shop", Some((A, 3)), done())])),
        ..Case::default()
    };
    let begun = case.begins(5000);
    assert_eq!((begun.sequence, begun.start_time.clone()), (4, Some(MicroTime(at(5000)))));
    let case = Case { stored: Some(begun), ..case };
    assert!(matches!(case.plan(5001), Next::Roll { .. }));
}

#[test]
fn a_forged_status_blocks_nothing_for_long() {
    let odd = |result| {
        let mut odd = stored(B, i64::MIN, result, 0);
        odd.start_time = Some(MicroTime(at(1_000_000_000)));
        odd
    };
    let base = Case {
        head: Some(head(B, 100)),
        targets: Some(targets(&[workload("shop", Some((A, 3)), done())])),
        ..Case::default()
    };
    let case = Case { stored: Some(odd(Waiting)), ..base.clone() };
    assert_eq!(case.begins(101).sequence, 4);
    let case = Case { stored: Some(odd(Running)), ..base.clone() };
    assert_eq!(case.begins(101).start_time, Some(MicroTime(at(101))));
    for sequence in [i64::MAX, i64::MIN] {
        let odd = DeploymentStatus { sequence, ..odd(Succeeded) };
        let mut case = Case { stored: Some(DeploymentStatus { sha: A.to_owned(), ..odd }), ..base.clone() };
        case.stored = case.settles(101).deployment;
        case.head = Some(head(B, 103));
        assert_eq!(case.begins(103).sequence, 4, "it goes on from the templates");
    }
}

#[test]
fn a_message_fits_into_status() {
    let long = Trouble { reason: Reason::ActionForbidden, message: "ü".repeat(4000) };
    let case = Case {
        head: Some(head(B, 12)),
        stored: Some(stored(B, 4, Running, 0)),
        targets: Some(Targets { workloads: Vec::new(), troubles: vec![long] }),
        ..Case::default()
    };
    for second in [13, 700] {
        let message = case.settles(second).deployment.unwrap().message.unwrap();
        assert!(message.chars().count() <= 1024, "{}", message.chars().count());
    }
    assert!(case.settles(700).deployment.unwrap().message.unwrap().contains("landfall.dev/redeploy"));
}
