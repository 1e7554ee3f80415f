//! Pushes that are allowed.

use super::scene::{BRANCH, NAME, Scene, TOKEN, UID, push_refs, words};
use landfall::gateway::refs::Origin;
use landfall::reports::PodIdentity;

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_pushes_and_rewrites_its_branch_and_its_own_work() {
    let scene = Scene::new().await;
    scene.cloned().await;
    let (branch, full) = (format!("HEAD:{BRANCH}"), format!("refs/heads/{BRANCH}"));
    let first = scene.commit("a.txt", b"a").await;
    let pushed = scene.push(&["origin", &branch]).await;
    assert!(pushed.status.success(), "{}", words(&pushed));
    assert_eq!(scene.refs("shop")[&full], first);
    let second = scene.commit("b.txt", b"b").await;
    for version in ["0", "1", "2"] {
        let protocol = format!("protocol.version={version}");
        let pushed = scene.run(&["-C", "shop", "-c", &protocol, "push", "origin", &branch]).await;
        assert!(pushed.status.success(), "{}", words(&pushed));
    }
    assert_eq!(scene.refs("shop")[&full], second);
    scene.git(&["-C", "shop", "commit", "--quiet", "--amend", "-m", "another"]).await;
    let refused = scene.push(&["origin", &branch]).await;
    assert!(words(&refused).contains("non-fast-forward"), "git itself refuses: {}", words(&refused));
    let forced = scene.push(&["--force", "origin", &branch]).await;
    assert!(forced.status.success(), "{}", words(&forced));
    assert_eq!(scene.refs("shop")[&full], scene.git(&["-C", "shop", "rev-parse", "HEAD"]).await);

    let wip = "refs/heads/landfall-wip/try-0a1b2/head";
    let autosave = format!("refs/landfall/wip/{UID}");
    let pushed = scene.push(&["--atomic", "origin", &format!("HEAD:{wip}"), &format!("HEAD:{autosave}")]).await;
    assert!(pushed.status.success(), "{}", words(&pushed));
    assert!(scene.refs("shop").contains_key(wip) && scene.refs("shop").contains_key(&autosave));
    let deleted = scene.push(&["origin", "--delete", wip, &autosave]).await;
    assert!(deleted.status.success(), "{}", words(&deleted));
    assert!(!scene.refs("shop").contains_key(wip) && !scene.refs("shop").contains_key(&autosave));
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_of_the_spec_that_are_granted_are_pushed() {
    let scene = Scene::new().await;
    scene.cloned().await;
    let asked = || push_refs(&["refs/heads/release/*", "refs/tags/v*"], &["refs/heads/release/*"]);
    scene.allow(asked(), vec![push_refs(&["refs/heads/*", "refs/tags/*"], &["refs/heads/*"])]);
    scene.commit("a.txt", b"a").await;
    scene.git(&["-C", "shop", "tag", "v1"]).await;
    scene.git(&["-C", "shop", "tag", "-a", "v2", "-m", "annotated"]).await;
    let pushed = scene.push(&["origin", "HEAD:release/1", "v1", "v2"]).await;
    assert!(pushed.status.success(), "{}", words(&pushed));
    assert!(
        ["refs/heads/release/1", "refs/tags/v1", "refs/tags/v2"]
            .iter()
            .all(|name| scene.refs("shop").contains_key(*name))
    );
    scene.git(&["-C", "shop", "tag", "-f", "v1", "HEAD~1"]).await;
    let moved = words(&scene.push(&["--force", "origin", "v1"]).await);
    assert!(moved.contains("[remote rejected] (refs/tags/v1 exists; moving a tag takes spec.push.force)"), "{moved}");
    let ungranted = vec![push_refs(&["refs/heads/other"], &[])];
    scene.allow(asked(), ungranted);
    let refused = words(&scene.push(&["origin", "HEAD:release/2"]).await);
    assert!(refused.contains("spec.push.refs has release/2, but the GitHubApp does not grant it"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_clone_and_a_large_pack_are_pushed() {
    let scene = Scene::new().await;
    scene.git(&["clone", "--quiet", "--depth", "1", &scene.origin("shop"), "shop"]).await;
    // More than git's postBuffer: it asks by a probe whether to authenticate, and sends the pack in chunks.
    let noise: Vec<u8> = (0..12 << 20).map(|_| rand::random()).collect();
    let commit = scene.commit("noise", &noise).await;
    let pushed = scene.push(&["origin", &format!("HEAD:{BRANCH}")]).await;
    assert!(pushed.status.success(), "{}", words(&pushed));
    assert_eq!(scene.refs("shop")[&format!("refs/heads/{BRANCH}")], commit);
    let mut git = std::process::Command::new("git");
    let fsck = git.arg("--git-dir").arg(scene.bare("shop")).args(["fsck", "--strict"]).output().unwrap();
    assert!(fsck.status.success(), "{}", words(&fsck));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_many_refs_is_passed_on() {
    let scene = Scene::new().await;
    scene.cloned().await;
    let refspecs: Vec<_> = (0..2000).map(|n| format!("HEAD:refs/heads/landfall-wip/try-0a1b2/branch/b{n}")).collect();
    let arguments: Vec<&str> = ["origin"].into_iter().chain(refspecs.iter().map(String::as_str)).collect();
    let pushed = scene.push(&arguments).await;
    assert!(pushed.status.success(), "{}", words(&pushed));
    assert_eq!(scene.refs("shop").keys().filter(|name| name.contains("/try-0a1b2/branch/b")).count(), 2000);
}

/// GitHub's refusals by rulesets and push protection reach the person as they are.
#[tokio::test(flavor = "multi_thread")]
async fn github_s_refusal_of_a_ref_is_passed_on_as_it_is() {
    let scene = Scene::new().await;
    scene.cloned().await;
    scene.commit("a.txt", b"a").await;
    scene.refuse("echo 'error: GH013: Repository rule violations found for refs/heads/x.' >&2; exit 1\n");
    let refused = words(&scene.push(&["origin", &format!("HEAD:{BRANCH}")]).await);
    assert!(refused.contains("remote: error: GH013: Repository rule violations found for refs/heads/x."), "{refused}");
    assert!(refused.contains("[remote rejected] (pre-receive hook declined)"), "{refused}");
    assert!(!scene.refs("shop").contains_key(&format!("refs/heads/{BRANCH}")));
}

/// GitHub proves the fast-forward of a branch that may have been there before the workspace.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_of_unknown_origin_moves_by_fast_forwards_alone() {
    let scene = Scene::new().await;
    let pod = PodIdentity { namespace: "team-a".into(), name: "ws-try".into(), uid: "pod-1".into() };
    let wide = || push_refs(&["refs/heads/release/*"], &[]);
    scene.pods.add(TOKEN, pod, scene.access_of(NAME, UID, Origin::Unknown, (wide(), vec![wide()])));
    scene.cloned().await;
    let (branch, full) = (format!("HEAD:{BRANCH}"), format!("refs/heads/{BRANCH}"));
    scene.commit("a.txt", b"a").await;
    let created = scene.push(&["origin", &branch, "HEAD:release/1"]).await;
    assert!(created.status.success(), "{}", words(&created));
    let second = scene.commit("b.txt", b"b").await;
    let moved = scene.push(&["origin", &branch]).await;
    assert!(moved.status.success(), "{}", words(&moved));
    assert_eq!(scene.refs("shop")[&full], second);
    // Two of them, and the workspace's own work, in one push.
    let third = scene.commit("c.txt", b"c").await;
    let wip = "refs/heads/landfall-wip/try-0a1b2/head";
    let moved = scene.push(&["origin", &branch, "HEAD:release/1", &format!("HEAD:{wip}")]).await;
    assert!(moved.status.success(), "{}", words(&moved));
    let refs = scene.refs("shop");
    assert!([full.as_str(), "refs/heads/release/1", wip].iter().all(|name| refs[*name] == third), "{refs:?}");
    assert!(!refs.keys().any(|name| name.starts_with("refs/landfall/incoming")), "{refs:?}");

    scene.git(&["-C", "shop", "commit", "--quiet", "--amend", "-m", "another"]).await;
    let said = words(&scene.push(&["--force", "origin", &branch, &format!("+HEAD:{wip}")]).await);
    let reason =
        "[remote rejected] (not a fast-forward, and the branch may not be this workspace's own; see spec.push.force)";
    assert!(said.contains(&format!(":{full}\t{reason}")), "{said}");
    let refs = scene.refs("shop");
    assert_eq!(refs[&full], third);
    assert_eq!(refs[wip], scene.git(&["-C", "shop", "rev-parse", "HEAD"]).await, "the others of the push stand");
    assert!(!refs.keys().any(|name| name.starts_with("refs/landfall/incoming")), "{refs:?}");
    scene.git(&["-C", "shop", "commit", "--quiet", "--amend", "-m", "once more"]).await;
    let said = words(&scene.push(&["--atomic", "--force", "origin", &branch, &format!("+HEAD:{wip}")]).await);
    assert!(said.contains("cannot be pushed together with others by --atomic"), "{said}");
}
