//! Pushes that are refused: git prints each ref with its reason, and GitHub is sent nothing.

use super::scene::{BRANCH, Scene, TOKEN, output, words};
use landfall::guards::Sabotage;

const ONLY: &str = "(this workspace pushes to landfall/try-0a1b2 only; see spec.push.refs)";
const WITH_OTHERS: &str = "(not pushed, because another ref of this push was refused)";

#[tokio::test(flavor = "multi_thread")]
async fn each_refused_ref_is_told_with_its_reason() {
    let scene = Scene::new().await;
    scene.cloned().await;
    scene.commit("a.txt", b"a").await;
    let before = scene.refs("shop");
    for name in [
        "refs/heads/main",
        "refs/heads/landfall/other-0b1b2",
        "refs/heads/landfall/try-0a1b2x",
        "refs/heads/landfall-wip/other-0b1b2/head",
        "refs/landfall/wip/0b1b2c3d",
        "refs/tags/v1",
        "refs/notes/commits",
        "refs/heads/--upload-pack=x",
        "refs/heads/日本",
    ] {
        for force in [&[][..], &["--force"]] {
            let said = words(&scene.push(&[force, &["origin", &format!("HEAD:{name}")]].concat()).await);
            assert!(said.contains(&format!(":{name}\t[remote rejected] {ONLY}")), "{name}: {said}");
        }
    }
    let said = words(&scene.run(&["-C", "shop", "push", "origin", "HEAD:main"]).await);
    assert!(said.contains(&format!(" ! [remote rejected] HEAD -> main {ONLY}")), "as people see it: {said}");
    let own = format!("HEAD:{BRANCH}");
    for atomic in [&[][..], &["--atomic"]] {
        let said = words(&scene.push(&[atomic, &["origin", &own, "HEAD:main"]].concat()).await);
        assert!(said.contains(&format!(":refs/heads/main\t[remote rejected] {ONLY}")), "{said}");
        assert!(said.contains(&format!(":refs/heads/{BRANCH}\t[remote rejected] {WITH_OTHERS}")), "{said}");
    }
    let said = words(&scene.push(&["origin", "--delete", "main"]).await);
    assert!(
        said.contains("[remote rejected] (this workspace deletes only refs below landfall-wip/try-0a1b2/)"),
        "{said}"
    );
    assert_eq!((scene.refs("shop"), scene.pushes()), (before, 0));
}

/// The tests above notice a gateway without its policy.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_policy_every_ref_is_pushed() {
    let scene = Scene::without(Sabotage { any_ref: true, ..Sabotage::default() }).await;
    scene.cloned().await;
    let commit = scene.commit("a.txt", b"a").await;
    for name in ["refs/heads/main", "refs/heads/landfall/other-0b1b2", "refs/landfall/wip/0b1b2c3d", "refs/tags/v1"] {
        let pushed = scene.push(&["origin", &format!("HEAD:{name}")]).await;
        assert!(pushed.status.success(), "{}", words(&pushed));
        assert_eq!(scene.refs("shop")[name], commit);
    }
}

/// A large pack is read and thrown away, so that git reads the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_refused_push_is_told_too() {
    let scene = Scene::new().await;
    scene.cloned().await;
    let noise: Vec<u8> = (0..8 << 20).map(|_| rand::random()).collect();
    scene.commit("noise", &noise).await;
    let said = words(&scene.push(&["origin", "HEAD:main"]).await);
    assert!(said.contains(&format!("[remote rejected] {ONLY}")), "{said}");
    assert_eq!(scene.pushes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn push_options_and_signed_pushes_are_refused() {
    let scene = Scene::new().await;
    scene.configure("shop", "receive.advertisePushOptions", "true");
    scene.cloned().await;
    scene.commit("a.txt", b"a").await;
    let own = format!("HEAD:{BRANCH}");
    let said = words(&scene.push(&["-o", "ci.skip", "-o", "x=y", "origin", &own]).await);
    assert!(said.contains("[remote rejected] (push options are not passed on: \"ci.skip\", \"x=y\")"), "{said}");
    assert_eq!(scene.pushes(), 0);
    let pushed = scene.push(&["origin", &own]).await;
    assert!(pushed.status.success(), "{}", words(&pushed));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_other_repositories_get_nothing() {
    let scene = Scene::new().await;
    let refused = async |token, url: &str| {
        let output = output(scene.command(token, &["ls-remote", url])).await;
        assert!(!output.status.success(), "{}", words(&output));
        words(&output)
    };
    let shop = scene.url("shop");
    let said = refused(Some("eyJ.forged.x"), &shop).await;
    assert!(said.contains("Authentication failed"), "{said}");
    let said = refused(None, &shop).await;
    assert!(said.contains("could not read Username"), "{said}");
    // Another repository of the same installation, and one that is not there, get one answer.
    let none = format!("{}999999999.git", shop.strip_suffix(&format!("{}.git", scene.id("shop"))).unwrap());
    let own = "remote: Repository not found. A workspace reaches its own repository only.";
    for url in [scene.url("other"), none] {
        let said = refused(Some(TOKEN), &url).await;
        assert!(said.contains(own), "{url}: {said}");
    }
    // A token that was good, of a pod whose workspace is gone.
    scene.pods.forget("pod-1");
    let said = refused(Some(TOKEN), &shop).await;
    assert!(said.contains("remote: this pod does not belong to a workspace"), "{said}");
    assert!(scene.sim.requests().iter().all(|request| !request.path.contains(".git/")), "GitHub was asked nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_grant_is_refused_at_once() {
    let scene = Scene::new().await;
    scene.cloned().await;
    scene.upstreams.withdrawn.store(true, std::sync::atomic::Ordering::SeqCst);
    let said = scene.fails(&["-C", "shop", "fetch"]).await;
    assert!(said.contains("remote: the GitHubApp grants this repository no more"), "{said}");
}
