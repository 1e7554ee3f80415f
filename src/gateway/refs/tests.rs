use super::*;
use crate::gateway::commands::Command;
use std::process::Command as Process;

const UID: &str = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";
const A: &str = "1111111111111111111111111111111111111111";
const B: &str = "2222222222222222222222222222222222222222";
const ZERO: &str = "0000000000000000000000000000000000000000";
const ONLY_ITS_BRANCH: &str = "this workspace pushes to landfall/try-0a1b2 only; see spec.push.refs";

fn own(origin: Origin) -> OwnBranch {
    OwnBranch { name: "landfall/try-0a1b2".into(), beside: Beside::No, origin }
}

fn push_refs(refs: &[&str], force: &[&str]) -> PushRefs {
    let all = |patterns: &[&str]| patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
    PushRefs { refs: all(refs), force: all(force) }
}

fn policy(origin: Origin, asked: PushRefs, granted: Vec<PushRefs>) -> PushPolicy {
    PushPolicy::new("try", UID, own(origin), asked, granted)
}

fn command(old: &str, new: &str, name: &str) -> Command {
    Command { old: old.parse().unwrap(), new: new.parse().unwrap(), name: name.parse().unwrap() }
}

/// The verdicts on creating, updating and deleting a ref.
fn verdicts(policy: &PushPolicy, name: &str) -> [Result<Move, String>; 3] {
    let commands = [(ZERO, A), (A, B), (A, ZERO)].map(|(old, new)| command(old, new, name));
    let push = |command: &Command| Push { commands: vec![command.clone()], ..Push::default() };
    commands.map(|command| policy.judge(&push(&command)).remove(0).map_err(|refused| refused.to_string()))
}

#[test]
fn a_workspace_pushes_its_branch_and_its_own_work() {
    let bare = policy(Origin::Workspace, PushRefs::default(), vec![]);
    let no_deletion = || Err("this workspace deletes only refs below landfall-wip/try-0a1b2/".to_owned());
    assert_eq!(verdicts(&bare, "refs/heads/landfall/try-0a1b2"), [Ok(Move::Any), Ok(Move::Any), no_deletion()]);
    for name in [
        "refs/heads/landfall-wip/try-0a1b2/head",
        "refs/heads/landfall-wip/try-0a1b2/branch/x",
        &format!("refs/landfall/wip/{UID}"),
    ] {
        assert_eq!(verdicts(&bare, name), [Ok(Move::Any), Ok(Move::Any), Ok(Move::Any)], "{name}");
    }
    let found = policy(Origin::Unknown, PushRefs::default(), vec![]);
    let of_found = verdicts(&found, "refs/heads/landfall/try-0a1b2");
    assert_eq!(of_found, [Ok(Move::Any), Ok(Move::FastForward), no_deletion()], "a branch that may be another's");
}

#[test]
fn every_other_ref_is_refused() {
    let bare = policy(Origin::Workspace, PushRefs::default(), vec![]);
    for name in [
        "refs/heads/main",
        "refs/heads/landfall/try-0a1b3",
        "refs/heads/landfall/try-0a1b2/x",
        "refs/heads/landfall/try-0a1b2-2",
        "refs/heads/landfall/try",
        "refs/heads/Landfall/try-0a1b2",
        "refs/tags/landfall/try-0a1b2",
        "refs/heads/landfall-wip/try-0a1b2",
        "refs/heads/landfall-wip/try-0a1b2x/head",
        "refs/heads/landfall-wip/other-0a1b2/head",
        "refs/landfall/wip/0a1b2c3d",
        "refs/landfall/wip/0a1b2c3d-4e5f-6789-abcd-ef0123456789/x",
        "refs/landfall/wip/0b1b2c3d-4e5f-6789-abcd-ef0123456789",
        "refs/pull/1/head",
        "refs/replace/1111111111111111111111111111111111111111",
        "refs/notes/commits",
        "refs/meta/config",
        "refs/heads/HEAD",
        "refs/heads/refs/heads/landfall/try-0a1b2",
    ] {
        let [create, update, delete] = verdicts(&bare, name);
        assert_eq!((create, update), (Err(ONLY_ITS_BRANCH.into()), Err(ONLY_ITS_BRANCH.into())), "{name}");
        assert!(delete.is_err(), "{name}");
    }
}

#[test]
fn further_refs_take_both_the_spec_and_one_entry_of_the_app() {
    let wide = || push_refs(&["refs/heads/*", "refs/tags/*"], &["refs/heads/*", "refs/tags/*"]);
    let asked = || push_refs(&["refs/heads/release/*", "refs/tags/v*"], &["refs/heads/release/next"]);
    let update = |policy: &PushPolicy, name: &str| verdicts(policy, name)[1].clone();
    let both = policy(Origin::Workspace, asked(), vec![wide()]);
    assert_eq!(verdicts(&both, "refs/heads/release/1.2")[..2], [Ok(Move::Any), Ok(Move::FastForward)]);
    assert_eq!(update(&both, "refs/heads/release/next"), Ok(Move::Any));
    assert_eq!(
        verdicts(&both, "refs/tags/v1")[..2],
        [Ok(Move::Any), Err("refs/tags/v1 exists; moving a tag takes spec.push.force".into())]
    );
    assert!(verdicts(&both, "refs/heads/release/1.2")[2].is_err(), "deletions are of its own work alone");
    let further =
        "this workspace pushes to landfall/try-0a1b2 and to the refs of spec.push.refs only; see spec.push.refs";
    assert_eq!(update(&both, "refs/heads/main"), Err(further.into()));
    let not_granted = policy(Origin::Workspace, asked(), vec![]);
    let message = "spec.push.refs has release/1.2, but the GitHubApp does not grant it; its administrator can add it to spec.tenants[].push.refs";
    assert_eq!(update(&not_granted, "refs/heads/release/1.2"), Err(message.into()));
    let unasked = policy(Origin::Workspace, PushRefs::default(), vec![wide()]);
    assert_eq!(update(&unasked, "refs/heads/release/1.2"), Err(ONLY_ITS_BRANCH.into()));
    // One entry has the ref, another its force: they do not add up.
    let split = vec![push_refs(&["refs/heads/*"], &[]), push_refs(&["refs/heads/other"], &["refs/heads/*"])];
    let split = policy(Origin::Workspace, asked(), split);
    assert_eq!(update(&split, "refs/heads/release/next"), Ok(Move::FastForward));
    // No pattern reaches the work of other workspaces.
    let widest = policy(Origin::Workspace, wide(), vec![wide()]);
    for name in ["refs/heads/landfall-wip/other-0a1b2/head", "refs/landfall/wip/0b1b2c3d", "refs/pull/1/head"] {
        assert!(verdicts(&widest, name).iter().all(Result::is_err), "{name}");
    }
    assert_eq!(update(&widest, "refs/heads/main"), Ok(Move::Any));
}

#[test]
fn a_forced_own_branch_takes_both_too() {
    let own = "refs/heads/landfall/try-0a1b2";
    let force = || push_refs(&["refs/heads/landfall/*"], &["refs/heads/landfall/*"]);
    assert_eq!(verdicts(&policy(Origin::Unknown, force(), vec![force()]), own)[1], Ok(Move::Any));
    assert_eq!(verdicts(&policy(Origin::Unknown, force(), vec![]), own)[1], Ok(Move::FastForward));
}

#[test]
fn a_workspace_that_steps_aside_pushes_a_numbered_branch() {
    let branch = OwnBranch { name: "fix".into(), beside: Beside::Numbered, origin: Origin::Unknown };
    let policy = PushPolicy::new("try", UID, branch, PushRefs::default(), vec![]);
    for (name, is_own) in
        [("fix", true), ("fix-2", true), ("fix-100", true), ("fix-1", false), ("fix-02", false), ("fix-x", false)]
    {
        assert_eq!(verdicts(&policy, &format!("refs/heads/{name}"))[0].is_ok(), is_own, "{name}");
    }
}

#[test]
fn push_options_are_refused_by_name() {
    let policy = policy(Origin::Workspace, PushRefs::default(), vec![]);
    let refused = |options: &[&str]| {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let commands = vec![command(ZERO, A, "refs/heads/landfall/try-0a1b2")];
        policy.judge(&Push { commands, options, ..Push::default() }).remove(0).map_err(|refused| refused.to_string())
    };
    assert_eq!(refused(&[]), Ok(Move::Any));
    assert_eq!(refused(&["ci.skip"]), Err("push options are not passed on: \"ci.skip\"".into()));
    assert_eq!(
        refused(&["a", "b\nc", "d", "e", "f"]),
        Err("push options are not passed on: \"a\", \"b c\", \"d\", 2 more".into())
    );
    assert!(refused(&[&"x".repeat(4000)]).unwrap_err().len() < 100);
}

#[test]
fn patterns_of_refs() {
    for bad in [
        "",
        "*",
        "main",
        "refs/*",
        "refs/heads",
        "refs/heads/",
        "refs/notes/x",
        "refs/landfall/*",
        "refs/heads/a b",
        "refs/heads/..",
        "refs/heads/x.lock",
        "refs/heads/.*",
        "refs/heads/a\nb",
        "refs/heads//a",
        "refs/heads/?",
    ] {
        assert_eq!(bad.parse::<RefPattern>(), Err(RefPatternError(bad.into())), "{bad:?}");
    }
    for (pattern, name, is_match) in [
        ("refs/heads/main", "refs/heads/main", true),
        ("refs/heads/main", "refs/heads/mainx", false),
        ("refs/heads/main", "refs/heads/Main", false),
        ("refs/heads/*", "refs/heads/a/b", true),
        ("refs/heads/*", "refs/tags/a", false),
        ("refs/heads/release/*", "refs/heads/release", false),
        ("refs/heads/release-*", "refs/heads/release-", true),
        ("refs/heads/a*b*c", "refs/heads/aXbYc", true),
        ("refs/heads/a*b*c", "refs/heads/acb", false),
        ("refs/heads/a*a", "refs/heads/a", false),
        ("refs/tags/v*", "refs/tags/v1.2", true),
        ("refs/heads/**", "refs/heads/x", true),
    ] {
        assert_eq!(
            pattern.parse::<RefPattern>().unwrap().matches(&name.parse().unwrap()),
            is_match,
            "{pattern} {name}"
        );
    }
}

#[test]
fn git_takes_the_same_full_names() {
    for name in [
        "refs/heads/main",
        "refs/heads/a/b",
        "refs/tags/v1",
        "refs/landfall/wip/1",
        "refs/x/y",
        "refs/heads/@",
        "refs/heads/-x",
        "refs/heads/HEAD",
        "refs/heads/ä",
        "refs/heads/a.lock",
        "refs/heads/.a",
        "refs/heads/a..b",
        "refs/heads/a b",
        "refs/heads/a:",
        "refs/heads//a",
        "refs/heads/a/",
        "refs/heads/a.",
        "refs/heads/@{",
        "refs/heads/a\\b",
        "refs/heads/a\u{1}",
    ] {
        let status = Process::new("git").args(["check-ref-format", name]).status().unwrap();
        assert_eq!(name.parse::<RefName>().is_ok(), status.success(), "{name:?}");
    }
    // receive-pack wants two parts below refs/.
    for name in ["refs/x", "refs/", "refs", "main", ""] {
        assert_eq!(name.parse::<RefName>(), Err(RefNameError::NotFull), "{name:?}");
    }
    assert_eq!(RefName::of_bytes(b"refs/heads/\xff"), Err(RefNameError::NotUtf8));
}
