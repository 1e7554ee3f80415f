//! The claim of an earlier workspace of the same name.

use super::super::super::seen::Holder;
use super::*;

#[test]
fn the_claim_of_an_earlier_workspace_is_named_and_taken_over_when_asked() {
    let mut seen = seen(&json!({}), false);
    seen.pod = PodSeen::Absent;
    seen.volume = VolumeSeen::Foreign { of: Holder::Former("u-0".into()) };
    let told = says(&seen, now());
    assert_eq!(told.reason, Reason::NameTaken);
    assert!(told.message.contains("landfall.dev/adopt-volume-of=u-0"), "{}", told.message);
    assert!(!told.message.contains("delete"), "it may have work: {}", told.message);
    let annotated = |uid: &str| {
        let mut object = object(&json!({}), false);
        object.metadata.annotations = Some([("landfall.dev/adopt-volume-of".to_owned(), uid.to_owned())].into());
        Arc::new(object)
    };
    seen.object = annotated("u-00");
    assert_eq!(says(&seen, now()).reason, Reason::NameTaken);
    seen.object = annotated("u-0");
    assert_eq!(does(&seen), Step::AdoptVolume("u-0".into()));
    seen.volume = VolumeSeen::Foreign { of: Holder::Other };
    assert_eq!(says(&seen, now()).reason, Reason::NameTaken);
    seen.volume = VolumeSeen::Foreign { of: Holder::Kept };
    assert!(says(&seen, now()).message.contains("landfall.dev/retained-for"));
}

#[test]
fn a_branch_in_the_way_is_said() {
    let mut seen = seen(&json!({}), false);
    let words = "branch landfall of the remote is in the way of branch landfall/fix-u-1".to_owned();
    let clone = Clone::Failed { code: crate::agent::exit::BRANCH_IN_THE_WAY.into(), words };
    seen.pod = PodSeen::Ours(Box::new(PodView { clone, ..pod(false) }));
    let told = says(&seen, now());
    assert_eq!((told.state, told.reason), (State::Stalled, Reason::BranchExists));
    assert!(told.message.contains("branch landfall of the remote"), "{}", told.message);
}

#[test]
fn workflows_are_asked_for_where_they_are_granted() {
    let of = |workflows| {
        let token = objects::token(&object(&json!({}), false), "acme", id(5), workflows);
        token.spec.permissions.get("workflows").cloned()
    };
    assert_eq!(of(Workflows::Allowed).as_deref(), Some("write"));
    for other in [Workflows::Unknown, Workflows::NotGranted, Workflows::NotInstalled] {
        assert_eq!(of(other), None);
    }
}
