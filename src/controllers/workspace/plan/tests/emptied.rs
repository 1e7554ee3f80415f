//! A volume that looks empty, though a clone was seen on it.

use super::*;

/// A person or a program removed the clone, or another volume was mounted.
#[test]
fn a_volume_that_had_a_clone_and_looks_empty_is_looked_at_once_more_and_kept() {
    let nothing: Evidence = serde_json::from_value(json!({"outcome": "NothingToDo"})).unwrap();
    let mut seen = gone(&json!({}));
    seen.ended = Some(Ended::Said(nothing.clone()));
    assert_eq!(does(&seen), Step::Save(1), "the pod may have another volume");
    seen.job = Some(job(1, Some(true)));
    assert!(matches!(does(&seen), Step::KeepVolume(why) if why.contains("looks empty")));
    // The mark is enough, and so is a status that another process wrote.
    seen.is_marked = false;
    let mut object = object(&json!({}), true);
    let status = json!({"conditions": [], "timings": {"cloneTime": "2026-11-21T11:00:00Z"}});
    object.status = Some(serde_json::from_value(status).unwrap());
    let with_status = Arc::new(object);
    let without = std::mem::replace(&mut seen.object, with_status);
    assert!(matches!(does(&seen), Step::KeepVolume(_)));
    seen.object = without;
    assert_eq!(does(&seen), Step::Believe(Box::new(nothing)), "no clone was ever seen");
}

#[test]
fn a_clone_is_marked_on_the_volume_before_anything_else() {
    let mut seen = seen(&json!({"paused": true}), false);
    seen.is_paused = true;
    seen.is_marked = false;
    assert_eq!(does(&seen), Step::MarkVolume);
    seen.is_marked = true;
    assert_eq!(says(&seen, now()).reason, Reason::Paused);
}
