//! git itself as a client, over TLS.

use std::time::Duration;

use serde_json::json;

use crate::world::{World, refused, succeeded};

fn with_password(url: &str, token: &str) -> String {
    url.replace("https://", &format!("https://x-access-token:{token}@"))
}

#[tokio::test]
async fn clones_commits_and_pushes_with_a_token() {
    let world = World::new().await;
    let token = world.token(json!({"repositories": ["shop"], "permissions": {"contents": "write"}})).await;
    let at = world.folder.path();
    // Protocol v2, and the token as a password in the way people write it.
    let url = with_password(&world.url("acme/shop"), &token);
    succeeded(&world.git(at, "", &["-c", "protocol.version=2", "clone", "-q", &url, "shop"]).await);
    let clone = at.join("shop");
    std::fs::write(clone.join("work.txt"), "done\n".repeat(400_000)).unwrap();
    succeeded(&world.git(&clone, "", &["add", "work.txt"]).await);
    succeeded(&world.git(&clone, "", &["commit", "-qm", "Work"]).await);
    succeeded(&world.git(&clone, "", &["push", "-q", "origin", "main", "main:topic/x"]).await);
    let head = succeeded(&world.git(&clone, "", &["rev-parse", "HEAD"]).await);
    assert_eq!(world.sim.head("acme/shop", "main").as_deref(), Some(head.trim()));
    let branch = world.get("/repos/acme/shop/branches/topic/x", &token).await;
    assert_eq!(branch.body["commit"]["sha"], head.trim());
    let refs = world.git(at, &token, &["ls-remote", &world.url("acme/shop")]).await;
    assert!(succeeded(&refs).contains("refs/heads/topic/x"));
    let log = world.sim.requests();
    let pushed = log.iter().find(|entry| entry.path.ends_with("/git-receive-pack")).unwrap();
    assert_eq!(pushed.route.as_deref(), Some("/{owner}/{repo}.git/git-receive-pack"));
    assert_eq!(pushed.status, Some(200));
}

#[tokio::test]
async fn a_big_push_and_a_big_clone_are_streamed() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let at = world.folder.path();
    succeeded(&world.git(at, &token, &["clone", "-q", &world.url("acme/shop"), "big"]).await);
    let clone = at.join("big");
    let mut noise = vec![0; 3_000_000];
    rand::fill(&mut noise[..]);
    std::fs::write(clone.join("noise"), &noise).unwrap();
    succeeded(&world.git(&clone, &token, &["add", "noise"]).await);
    succeeded(&world.git(&clone, &token, &["commit", "-qm", "Noise"]).await);
    // Beyond http.postBuffer git sends chunks without a length.
    succeeded(&world.git(&clone, &token, &["push", "-q", "origin", "main"]).await);
    succeeded(&world.git(at, &token, &["clone", "-q", &world.url("acme/shop"), "again"]).await);
    assert_eq!(std::fs::read(at.join("again/noise")).unwrap(), noise);
}

#[tokio::test]
async fn what_a_token_may_not_is_refused() {
    let world = World::new().await;
    let at = world.folder.path();
    let read = world.token(json!({"repositories": ["shop"], "permissions": {"contents": "read"}})).await;
    let blind = world.token(json!({"permissions": {"metadata": "read"}})).await;
    let (shop, attic) = (world.url("acme/shop"), world.url("acme/attic"));

    let anonymous = refused(&world.git(at, "", &["ls-remote", &shop]).await);
    assert!(anonymous.contains("could not read Username"), "{anonymous}");
    succeeded(&world.git(at, "", &["ls-remote", &world.url("acme/site")]).await);
    for (token, url, said) in [
        (read.as_str(), attic.as_str(), "Repository not found"),
        (read.as_str(), &world.url("globex/vault"), "Repository not found"),
        (read.as_str(), &world.url("acme/nothing"), "Repository not found"),
        (blind.as_str(), shop.as_str(), "Write access to repository not granted"),
        ("", &with_password(&shop, "ghs_1_not.a.token"), "Invalid username or token"),
    ] {
        let said_so = refused(&world.git(at, token, &["ls-remote", url]).await);
        assert!(said_so.contains(said), "{said_so}");
    }

    succeeded(&world.git(at, &read, &["clone", "-q", &shop, "shop"]).await);
    let push = refused(&world.git(&at.join("shop"), &read, &["push", "origin", "main:x"]).await);
    assert!(push.contains("Permission to acme/shop.git denied to landfall[bot]"), "{push}");
    let site = refused(&world.git(&at.join("shop"), &read, &["push", &world.url("acme/site"), "main:x"]).await);
    assert!(site.contains("denied to landfall[bot]"), "{site}");

    world.sim.suspend(4242).unwrap();
    let suspended = refused(&world.git(at, &read, &["ls-remote", &shop]).await);
    assert!(suspended.contains("has been suspended"), "{suspended}");
    world.sim.unsuspend(4242).unwrap();
    world.sim.advance(Duration::from_hours(1));
    let ended = refused(&world.git(at, "", &["ls-remote", &with_password(&shop, &read)]).await);
    assert!(ended.contains("Invalid username or token"), "{ended}");
}

#[tokio::test]
async fn workflow_files_need_a_permission_of_their_own() {
    let world = World::new().await;
    let at = world.folder.path();
    let without = world.token(json!({"permissions": {"contents": "write"}})).await;
    let with = world.token(json!({"permissions": {"contents": "write", "workflows": "write"}})).await;
    succeeded(&world.git(at, &without, &["clone", "-q", &world.url("acme/shop"), "shop"]).await);
    let clone = at.join("shop");
    std::fs::create_dir_all(clone.join(".github/workflows")).unwrap();
    std::fs::write(clone.join(".github/workflows/ci.yml"), "on: push\n").unwrap();
    succeeded(&world.git(&clone, "", &["add", "."]).await);
    succeeded(&world.git(&clone, "", &["commit", "-qm", "CI"]).await);
    let said = refused(&world.git(&clone, &without, &["push", "origin", "main"]).await);
    assert!(
        said.contains("refusing to allow a GitHub App to create or update workflow `.github/workflows/ci.yml`"),
        "{said}"
    );
    succeeded(&world.git(&clone, &with, &["push", "-q", "origin", "main"]).await);
    // What is already there may be pushed on.
    std::fs::write(clone.join("b"), "b").unwrap();
    succeeded(&world.git(&clone, "", &["add", "."]).await);
    succeeded(&world.git(&clone, "", &["commit", "-qm", "More"]).await);
    succeeded(&world.git(&clone, &without, &["push", "-q", "origin", "main"]).await);
}
