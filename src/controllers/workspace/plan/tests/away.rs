//! Times that passed while the operator was away count for nothing.

use super::*;

#[test]
fn patience_begins_with_this_process() {
    let mut seen = gone(&json!({}));
    let standing = Standing::reconciling(Reason::APIUnreachable, "GitHub is away");
    seen.way = Way::Blocked { standing, permanent: false };
    let later = now() + SignedDuration::from_hours(20);
    assert!(matches!(plan(&seen, later), Plan::Do(Step::KeepVolume(_))));
    seen.known.ending_since = Some(later);
    assert_eq!(says(&seen, later).reason, Reason::APIUnreachable, "the operator comes back after 20 hours");
    let end = later + SignedDuration::from_hours(2);
    assert!(matches!(plan(&seen, end), Plan::Do(Step::KeepVolume(_))), "it has an end");
}

#[test]
fn the_time_of_a_pod_to_end_begins_when_this_process_sees_it() {
    let mut seen = seen(&json!({}), true);
    seen.pod = PodSeen::Ours(Box::new(pod(true)));
    let later = now() + SignedDuration::from_hours(20);
    assert!(matches!(plan(&seen, later), Plan::Do(Step::KeepVolume(_))));
    seen.known.pod_ending = Some(("another".into(), later));
    assert!(matches!(plan(&seen, later), Plan::Do(Step::KeepVolume(_))));
    seen.known.pod_ending = Some(("p-1".into(), later));
    assert_eq!(says(&seen, later).reason, Reason::Saving);
}

/// The condition `WorkSafe`, as status and message.
fn work_safe(seen: &Seen, at: Timestamp) -> (String, String) {
    let status = super::super::super::status::status(seen, at);
    let said = status.conditions.into_iter().find(|said| said.type_ == "WorkSafe").unwrap();
    (said.status, said.message)
}

#[test]
fn nothing_is_known_of_work_whose_agent_is_silent_or_does_not_run() {
    let mut seen = seen(&json!({}), false);
    seen.known.report = Some(("p-1".into(), crate::agent::report::Report::default()));
    seen.known.heard = Some(("p-1".into(), now()));
    assert_eq!(work_safe(&seen, now()).0, "True");
    let later = now() + SignedDuration::from_mins(41);
    let (truth, message) = work_safe(&seen, later);
    assert!(truth == "Unknown" && message.contains("does not report"), "{truth}: {message}");
    seen.known.heard = Some(("p-1".into(), later));
    assert_eq!(work_safe(&seen, later).0, "True", "it reported again");
    seen.pod = PodSeen::Ours(Box::new(PodView { has_agent: false, ..pod(false) }));
    let (truth, message) = work_safe(&seen, later);
    assert!(truth == "Unknown" && message.contains("does not run"), "{truth}: {message}");
}

#[test]
fn a_pod_without_times_leaves_no_empty_object_in_status() {
    let mut seen = seen(&json!({}), false);
    let timings = |seen: &Seen| json!(super::super::super::status::status(seen, now())).get("timings").cloned();
    assert_eq!(timings(&seen), None);
    seen.pod = PodSeen::Ours(Box::new(PodView { ready_at: Some(now()), ..pod(false) }));
    assert_eq!(timings(&seen), Some(json!({"readyTime": now()})));
}
