use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::*;
use crate::runtime::{clock::ManualClock, jitter::FixedJitter};

const START: Timestamp = Timestamp::UNIX_EPOCH;

fn second(seconds: i64) -> Timestamp {
    START + SignedDuration::from_secs(seconds)
}

fn object(name: &str) -> ObjectRef<ConfigMap> {
    ObjectRef::new(name).within("team-a")
}

fn queue_with(jitter: f64) -> (Arc<ManualClock>, DueQueue) {
    let clock = Arc::new(ManualClock::new(START));
    (clock.clone(), DueQueue::new(clock, Arc::new(FixedJitter(jitter))))
}

/// The objects that get a turn at this moment.
fn turns<K: Kind>(feed: &mut Feed<K>) -> Vec<ObjectRef<K>> {
    std::iter::from_fn(|| Some(feed.next(|_| Some(Vec::new())).now_or_never()?.object.clone())).collect()
}

fn taken<K: Kind>(feed: &mut Feed<K>) -> Vec<String> {
    turns(feed).into_iter().map(|object| object.name).collect()
}

#[test]
fn objects_fire_in_the_order_of_their_times_and_no_earlier() {
    let (clock, queue) = queue_with(0.0);
    let (due, mut stream) = queue.register::<ConfigMap>();
    due.look_at(&object("third"), second(30), Urgency::Time);
    due.look_at(&object("first"), second(10), Urgency::Time);
    due.look_at(&object("second"), second(20), Urgency::Time);
    assert_eq!((queue.next(), queue.len(), queue.due_now()), (Some(second(10)), 3, 0));

    clock.advance(Duration::from_secs(9));
    queue.shared.fire();
    assert_eq!(taken(&mut stream), Vec::<String>::new());

    clock.advance(Duration::from_secs(11));
    assert_eq!(queue.due_now(), 2);
    queue.shared.fire();
    assert_eq!(queue.due_now(), 2, "fired, but not yet taken");
    assert_eq!(taken(&mut stream), ["first", "second"]);
    assert_eq!((queue.next(), queue.len(), queue.due_now()), (Some(second(30)), 1, 0));
}

#[test]
fn the_latest_due_time_holds_earlier_or_later() {
    let (clock, queue) = queue_with(0.0);
    let (due, mut stream) = queue.register::<ConfigMap>();
    due.look_at(&object("later"), second(10), Urgency::Time);
    due.look_at(&object("later"), second(100), Urgency::Time);
    due.look_at(&object("earlier"), second(100), Urgency::Time);
    due.look_at(&object("earlier"), second(10), Urgency::Time);
    assert_eq!(queue.len(), 2);
    clock.advance(Duration::from_secs(10));
    queue.shared.fire();
    assert_eq!(taken(&mut stream), ["earlier"]);
    assert_eq!(queue.next(), Some(second(100)));
}

#[test]
fn a_due_time_that_is_set_afterwards_does_not_postpone_looking_now() {
    let (_, queue) = queue_with(0.0);
    let (due, mut stream) = queue.register::<ConfigMap>();
    due.look_now(&object("a"));
    due.look_now(&object("a"));
    due.look_at(&object("a"), second(3600), Urgency::Time);
    assert_eq!(taken(&mut stream), ["a"], "once, though asked for twice");
    assert_eq!(queue.next(), Some(second(3600)));
}

#[test]
fn a_forgotten_object_leaves_nothing_behind() {
    let (clock, queue) = queue_with(0.0);
    let (due, mut stream) = queue.register::<ConfigMap>();
    for name in ["timed", "fired", "failed"] {
        due.look_at(&object(name), second(5), Urgency::Time);
    }
    due.look_now(&object("fired"));
    due.retry(&object("failed"));
    for name in ["timed", "fired", "failed"] {
        due.forget(&object(name));
    }
    clock.advance(Duration::from_hours(1));
    queue.shared.fire();
    assert_eq!(taken(&mut stream), Vec::<String>::new());
    let state = queue.shared.state();
    assert!(state.entries.is_empty() && state.order.is_empty() && state.lanes[0].turns.is_clear());
}

#[test]
fn waits_between_tries_double_up_to_five_minutes_and_restart_after_a_success() {
    let (_, queue) = queue_with(1.0);
    let (due, _stream) = queue.register::<ConfigMap>();
    let retries: Vec<Retry> = (0..10).map(|_| due.retry(&object("a"))).collect();
    let waits: Vec<i64> = retries.iter().map(|retry| retry.at.duration_since(START).as_secs()).collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert_eq!(retries.iter().map(|retry| retry.attempt).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert_eq!(queue.next(), Some(retries[9].at), "the last one is due");

    due.succeeded(&object("a"));
    assert_eq!(queue.next(), Some(retries[9].at), "a success keeps the due time");
    assert_eq!(due.retry(&object("a")).attempt, 1);
}

#[test]
fn even_the_shortest_wait_is_a_second() {
    let (_, queue) = queue_with(0.0);
    let (due, _stream) = queue.register::<ConfigMap>();
    let waits: Vec<i64> = (0..10).map(|_| due.retry(&object("a")).at.duration_since(START).as_secs()).collect();
    assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 64, 75, 75]);
}

#[test]
fn a_new_object_of_the_same_name_starts_with_its_first_attempt() {
    let (_, queue) = queue_with(0.0);
    let (due, _stream) = queue.register::<ConfigMap>();
    let with_uid = |uid: &str| {
        let mut object = object("a");
        object.extra.uid = Some(uid.to_owned());
        object
    };
    assert_eq!(due.retry(&with_uid("1")).attempt, 1);
    assert_eq!(due.retry(&with_uid("1")).attempt, 2);
    assert_eq!(due.retry(&object("a")).attempt, 3, "without a uid it counts as the same object");
    assert_eq!(due.retry(&with_uid("2")).attempt, 1);
}

#[test]
fn an_object_that_the_cache_does_not_have_is_forgotten() {
    let (_, queue) = queue_with(0.0);
    let (due, mut feed) = queue.register::<ConfigMap>();
    due.retry(&object("a"));
    due.look_now(&object("a"));
    assert!(feed.next(|_| None).now_or_never().is_none());
    assert_eq!((queue.len(), queue.due_now()), (0, 0));
    assert!(queue.shared.state().entries.is_empty(), "its attempts are forgotten as well");
}

#[test]
fn kinds_and_namespaces_do_not_mix() {
    let (clock, queue) = queue_with(0.0);
    let (config_maps, mut config_map_stream) = queue.register::<ConfigMap>();
    let (secrets, mut secret_stream) = queue.register::<Secret>();
    config_maps.look_at(&object("a"), second(1), Urgency::Time);
    config_maps.look_at(&ObjectRef::new("a").within("team-b"), second(1), Urgency::Time);
    config_maps.look_at(&ObjectRef::new("a"), second(1), Urgency::Time);
    secrets.look_at(&ObjectRef::new("a").within("team-a"), second(1), Urgency::Time);
    clock.advance(Duration::from_secs(1));
    queue.shared.fire();
    let namespaces: Vec<_> = turns(&mut config_map_stream).into_iter().map(|object| object.namespace).collect();
    assert_eq!(namespaces, [None, Some("team-a".to_owned()), Some("team-b".to_owned())]);
    assert_eq!(taken(&mut secret_stream), ["a"]);
}

#[tokio::test]
async fn the_task_follows_the_clock_and_every_new_due_time() {
    let (clock, queue) = queue_with(0.0);
    let (due, mut stream) = queue.register::<ConfigMap>();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn({
        let (queue, shutdown) = (queue.clone(), shutdown.clone());
        async move { queue.run(shutdown).await }
    });
    // A task of its own, so that fired objects wake it and the timeout below does not.
    let (fired, mut names) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let turn = stream.next(|_| Some(Vec::new())).await;
            let _ = fired.send(turn.object.name.clone());
        }
    });
    let mut next =
        async || tokio::time::timeout(Duration::from_mins(1), names.recv()).await.expect("fires").expect("never ends");

    due.look_at(&object("later"), second(100), Urgency::Time);
    due.look_at(&object("sooner"), second(50), Urgency::Time);
    clock.advance(Duration::from_secs(50));
    assert_eq!(next().await, "sooner");
    due.look_at(&object("past"), second(1), Urgency::Time);
    assert_eq!(next().await, "past", "a due time in the past is due now");
    clock.advance(Duration::from_secs(50));
    assert_eq!(next().await, "later");
    due.look_now(&object("now"));
    assert_eq!(next().await, "now");

    shutdown.cancel();
    tokio::time::timeout(Duration::from_mins(1), task).await.expect("stops").expect("does not panic");
}
