//! A workspace whose git goes to the gateway: clone, the person's git, and saves.

use super::pod::{Pod, TOKEN, Way, withdraw};
use super::scene::{BRANCH, Scene, UID};

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_clones_works_and_saves_without_a_token_of_github() {
    let scene = Scene::new().await;
    let pod = Pod::cloned(&scene, Way::Gateway).await;
    assert_eq!(pod.git(&["config", "remote.origin.url"]).await, scene.origin("shop"), "the remote is the real one");
    let head = pod.commit("a.txt").await;
    pod.git(&["push", "--quiet"]).await;
    assert_eq!(scene.refs("shop")[&format!("refs/heads/{BRANCH}")], head);
    pod.git(&["fetch", "--quiet"]).await;
    let said = pod.fails(&["push", "origin", "HEAD:main"]).await;
    assert!(said.contains(&format!("(this workspace pushes to {BRANCH} only; see spec.push.refs)")), "{said}");

    let again = pod.clone(&[]).await;
    assert_eq!((again.code, again.said["cloned"].as_bool()), (Some(0), Some(false)), "{again:?}");
    std::fs::write(pod.shop().join("new.txt"), "new").unwrap();
    let done = pod.save(BRANCH, &["--autosave"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(scene.refs("shop").contains_key(&format!("refs/landfall/wip/{UID}")));
    let done = pod.save(BRANCH, &[]).await;
    assert_eq!((done.code, done.said["outcome"].as_str()), (Some(0), Some("Saved")), "{done:?}");
    assert_ne!(scene.refs("shop")[&format!("refs/heads/{BRANCH}")], head, "the save is on the branch");
    let done = pod.save(BRANCH, &[]).await;
    assert_eq!(done.said["outcome"], "NothingToDo", "{done:?}");

    let agents: Vec<_> = scene.sim.requests().into_iter().map(|request| request.user_agent).collect();
    assert!(!agents.is_empty() && agents.iter().all(|agent| !agent.starts_with("git/")), "{agents:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_the_repository_leads_to_the_gateway_and_no_other_has_the_token() {
    let scene = Scene::new().await;
    let pod = Pod::cloned(&scene, Way::Gateway).await;
    let base = scene.sim.base_url();
    let bare = format!("{base}/acme/shop");
    for url in [
        &scene.origin("shop"),
        &bare,
        &format!("{bare}/"),
        "git@127.0.0.1:acme/shop.git",
        "ssh://git@127.0.0.1/acme/shop",
    ] {
        assert!(pod.git(&["ls-remote", url]).await.contains("refs/heads/main"), "{url}");
    }
    for url in [scene.origin("other"), format!("{base}/acme/shop-api"), format!("{base}/acme/shop.github.io.git")] {
        // Such an address is GitHub's, which the pod reaches by no proxy here.
        let said = pod.fails(&["ls-remote", &url]).await;
        assert!(said.contains(&format!("unable to access '{url}/'")), "{said}");
        let asked = pod.filled(&url).await;
        assert!(!asked.contains("password"), "{asked}");
    }
    // The other repository's address at the gateway.
    let said = pod.fails(&["ls-remote", &scene.url("other")]).await;
    assert!(!said.contains(TOKEN) && said.contains("could not read Username"), "{said}");
    assert!(pod.filled(&scene.url("shop")).await.contains(TOKEN));
    let port = format!(":{}", scene.address.port());
    for url in [
        scene.url("other"),
        scene.url("shop").replace(&port, ":1"),
        scene.url("shop").replace("https:", "http:"),
        scene.url("shop").replace("127.0.0.1", "127.0.0.2"),
        scene.url("shop").replacen(".git", ".git.git", 1),
    ] {
        assert!(!pod.filled(&url).await.contains("password"), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_token_works_in_a_clone_that_was_there_before() {
    let scene = Scene::new().await;
    let pod = Pod::cloned(&scene, Way::Gateway).await;
    for number in 0..3 {
        pod.mount("eyJ.expired.x");
        let said = pod.fails(&["fetch"]).await;
        assert!(said.contains("Authentication failed"), "{said}");
        let done = pod.save(BRANCH, &[]).await;
        assert_eq!(done.code, Some(75), "a retry may help: {done:?}");
        assert_eq!(done.left()[0].0, "Unauthorized", "{done:?}");
        let renewed = format!("{TOKEN}{number}");
        pod.identify(&renewed);
        pod.mount(&renewed);
        pod.git(&["fetch", "--quiet"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_gateway_have_their_reason_and_their_remedy() {
    let scene = Scene::new().await;
    let pod = Pod::new(&scene, Way::Gateway).await;
    withdraw(&scene, true);
    let done = pod.clone(&["--attempts", "2"]).await;
    assert_eq!(done.code, Some(20), "{done:?}");
    assert!(done.words.contains("the GitHubApp grants this repository no more"), "{done:?}");
    withdraw(&scene, false);
    pod.mount("eyJ.unknown.x");
    let done = pod.clone(&["--attempts", "2"]).await;
    assert_eq!(done.code, Some(75), "{done:?}");
    assert!(done.words.contains("the token does not belong to a running pod"), "{done:?}");
    pod.mount(TOKEN);
    assert_eq!(pod.clone(&[]).await.code, Some(0));

    // Work for another branch than the workspace's own goes where the workspace may push.
    pod.git(&["checkout", "--quiet", "-B", "main", "origin/main"]).await;
    pod.commit("a.txt").await;
    let done = pod.save("main", &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(scene.refs("shop").keys().any(|name| name.starts_with("refs/heads/landfall-wip/try-0a1b2/")));
    let why: Vec<_> = done.saved().into_iter().map(|(.., why)| why).collect();
    assert!(why.iter().any(|why| why.contains("this workspace pushes to ")), "{done:?}");

    // GitHub's own words come through.
    pod.git(&["checkout", "--quiet", BRANCH]).await;
    scene.refuse("echo 'error: GH001: Large files detected.' >&2; exit 1");
    pod.commit("b.txt").await;
    let done = pod.save(BRANCH, &[]).await;
    assert_eq!((done.code, done.left()[0].0.as_str()), (Some(20), "TooLarge"), "{done:?}");
    scene.refuse("exit 0");
    withdraw(&scene, true);
    let done = pod.save(BRANCH, &[]).await;
    assert_eq!((done.code, done.left()[0].0.as_str()), (Some(20), "Forbidden"), "{done:?}");
    assert!(done.left()[0].1.contains("the GitHubApp grants this repository no more"), "{done:?}");
    withdraw(&scene, false);
    assert_eq!(pod.save(BRANCH, &[]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_know_the_pod_yet_is_asked_again() {
    let scene = Scene::new().await;
    let pod = Pod::new(&scene, Way::Gateway).await;
    scene.pods.leave(1);
    let done = pod.clone(&["--attempts", "1"]).await;
    assert_eq!(done.code, Some(75), "{done:?}");
    assert!(done.words.contains("the API server does not answer the token review"), "{done:?}");
    scene.pods.leave(1);
    assert_eq!(pod.clone(&["--attempts", "2"]).await.code, Some(0));
    std::fs::write(pod.shop().join("new.txt"), "new").unwrap();
    scene.pods.leave(1);
    let done = pod.save(BRANCH, &[]).await;
    assert_eq!((done.code, done.left()[0].0.as_str()), (Some(75), "Unreachable"), "{done:?}");
    scene.pods.leave(1);
    let done = pod.save(BRANCH, &["--attempts", "2"]).await;
    assert_eq!((done.code, done.said["outcome"].as_str()), (Some(0), Some("Saved")), "{done:?}");
}
