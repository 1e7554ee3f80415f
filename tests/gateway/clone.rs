//! Clones and fetches.

use super::scene::{Scene, TOKEN, output, words};
use github_sim::Push;

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_and_fetches_by_every_version_of_its_protocol() {
    let scene = Scene::new().await;
    let mut head = scene.refs("shop")["refs/heads/main"].clone();
    for version in ["0", "1", "2"] {
        let (origin, into) = (scene.origin("shop"), format!("v{version}"));
        let protocol = format!("protocol.version={version}");
        scene.git(&["-c", &protocol, "clone", "--quiet", &origin, &into]).await;
        assert_eq!(scene.git(&["-C", &into, "rev-parse", "HEAD"]).await, head);
        assert_eq!(scene.git(&["-C", &into, "remote", "get-url", "--push", "origin"]).await, scene.url("shop"));
        assert_eq!(
            scene.git(&["-C", &into, "config", "remote.origin.url"]).await,
            origin,
            "the remote is the real one"
        );
        let new = scene.sim.push(&to_main(&into)).unwrap();
        scene.git(&["-C", &into, "-c", &protocol, "fetch", "--quiet"]).await;
        assert_eq!(scene.git(&["-C", &into, "rev-parse", "origin/main"]).await, new);
        scene.git(&["-C", &into, "reset", "--quiet", "--hard", "origin/main"]).await;
        scene.git(&["-C", &into, "fsck", "--strict"]).await;
        head = new;
    }
    let agents: Vec<_> = scene.sim.requests().into_iter().map(|request| request.user_agent).collect();
    assert!(agents.iter().all(|agent| !agent.starts_with("git/")), "GitHub is asked by the gateway alone: {agents:?}");
}

fn to_main(content: &str) -> Push {
    let (repository, path) = ("acme/shop".to_owned(), "new.txt".to_owned());
    Push { repository, branch: None, path, content: content.to_owned(), message: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn shallow_and_partial_clones_and_large_requests() {
    let scene = Scene::new().await;
    for number in 0..40 {
        scene.sim.push(&to_main(&number.to_string())).unwrap();
    }
    let origin = scene.origin("shop");
    scene.git(&["clone", "--quiet", "--depth", "1", &origin, "shallow"]).await;
    assert_eq!(scene.git(&["-C", "shallow", "rev-list", "--count", "HEAD"]).await, "1");
    scene.git(&["-C", "shallow", "fetch", "--quiet", "--deepen", "3"]).await;
    assert_eq!(scene.git(&["-C", "shallow", "rev-list", "--count", "HEAD"]).await, "4");
    scene.git(&["clone", "--quiet", "--no-checkout", "--filter=blob:none", &origin, "partial"]).await;
    let missing = || scene.git(&["-C", "partial", "rev-list", "--objects", "--all", "--missing=print"]);
    assert!(missing().await.contains("\n?"), "blobs are left out");
    scene.git(&["-C", "partial", "checkout", "--quiet", "main"]).await;
    assert_eq!(std::fs::read_to_string(scene.at("work/partial/new.txt")).unwrap(), "39");
    scene.git(&["-C", "shallow", "fetch", "--quiet", "--unshallow"]).await;
    // Commits that GitHub does not have make a request of more than 1024 bytes, which git compresses.
    scene.cloned().await;
    for number in 0..60_u64 {
        let message = number.to_string();
        let mut commit = scene.command(None, &["-C", "shop", "commit", "--quiet", "--allow-empty", "-m", &message]);
        // git offers the newest commits first, so none that GitHub has is among the first ones.
        commit.env("GIT_COMMITTER_DATE", format!("{} +0000", 4_000_000_000 + number));
        let committed = output(commit).await;
        assert!(committed.status.success(), "{}", words(&committed));
    }
    let new = scene.sim.push(&to_main("once more")).unwrap();
    for version in ["protocol.version=0", "protocol.version=2"] {
        let mut fetch = scene.command(Some(TOKEN), &["-C", "shop", "-c", version, "fetch"]);
        fetch.env("GIT_CURL_VERBOSE", "1").env("GIT_TRACE_CURL_NO_DATA", "1");
        let fetched = output(fetch).await;
        assert!(fetched.status.success(), "{}", words(&fetched));
        if version == "protocol.version=0" {
            assert!(words(&fetched).to_lowercase().contains("content-encoding: gzip"), "{}", words(&fetched));
        }
        assert_eq!(scene.git(&["-C", "shop", "rev-parse", "origin/main"]).await, new);
        scene.git(&["-C", "shop", "update-ref", "refs/remotes/origin/main", "origin/main~1"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_token_is_replaced_and_github_s_words_come_through() {
    let scene = Scene::new().await;
    scene.cloned().await;
    // GitHub forgets the tokens, as after an hour.
    scene.sim.advance(std::time::Duration::from_secs(3700));
    scene.upstreams.clock.set(scene.sim.now());
    scene.git(&["-C", "shop", "fetch"]).await;
    scene.sim.set_archived("acme/shop", true).unwrap();
    let words = scene.fails(&["-C", "shop", "push", "origin", "HEAD:landfall/try-0a1b2"]).await;
    assert!(words.contains("remote: This repository was archived so it is read-only."), "{words}");
    scene.sim.delete_repository("acme/shop").unwrap();
    let words = scene.fails(&["-C", "shop", "fetch"]).await;
    assert!(words.contains("remote: Repository not found."), "{words}");
}
