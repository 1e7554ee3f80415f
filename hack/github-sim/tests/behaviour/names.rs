//! Names change; ids stay.

use github_sim::{Push, RepositorySeed};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{World, succeeded};

#[tokio::test]
async fn a_renamed_repository_redirects_to_its_id() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let id = world.sim.repository_id("acme/shop").unwrap();
    world.sim.rename_repository("acme/shop", "store").unwrap();
    let get = world.get("/repos/acme/shop/branches?per_page=1", &token).await;
    assert_eq!((get.status, get.message()), (StatusCode::MOVED_PERMANENTLY, "Moved Permanently"));
    let location = format!("{}/repositories/{id}/branches?per_page=1", world.sim.api_url());
    assert_eq!((get.header("location"), get.body["url"].as_str()), (location.as_str(), Some(location.as_str())));
    assert_eq!(world.get(&location, &token).await.status, StatusCode::OK);
    let patch = world.ask(Method::PATCH, "/repos/acme/shop", &token, &[], json!({"description": "x"})).await;
    assert_eq!(patch.status, StatusCode::TEMPORARY_REDIRECT);
    let by_id = world.get(&format!("/repositories/{id}"), &token).await;
    assert_eq!((&by_id.body["full_name"], &by_id.body["description"]), (&json!("acme/store"), &Value::Null));
    // Who may not see it is not told where it went.
    assert_eq!(world.get("/repos/acme/shop", "").await.status, StatusCode::NOT_FOUND);
    let installation = world.get("/repos/acme/shop/installation", &world.jwt()).await;
    assert_eq!(installation.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(world.get(installation.header("location"), &world.jwt()).await.body["id"], 4242);
    // git follows.
    succeeded(&world.git(world.folder.path(), &token, &["clone", "-q", &world.url("acme/shop"), "followed"]).await);
}

#[tokio::test]
async fn a_name_taken_again_is_another_repository() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let old = world.sim.repository_id("acme/shop").unwrap();
    world.sim.delete_repository("acme/shop").unwrap();
    assert_eq!(world.get("/repos/acme/shop", &token).await.status, StatusCode::NOT_FOUND);
    let seed = RepositorySeed { owner: "acme".into(), name: "shop".into(), private: true, ..RepositorySeed::default() };
    let new = world.sim.create_repository(&seed).unwrap();
    assert_ne!(old, new);
    assert_eq!(world.get(&format!("/repositories/{old}"), &token).await.status, StatusCode::NOT_FOUND);
    // The installation was granted the old one.
    assert_eq!(world.get("/repos/acme/shop", &token).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_push_by_hand_is_seen_everywhere() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let push =
        Push { repository: "acme/shop".into(), path: "a/b.txt".into(), content: "hello\n".into(), ..Push::default() };
    let sha = world.sim.push(&push).unwrap();
    let commit = world.get("/repos/acme/shop/commits/main", &token).await;
    assert_eq!((&commit.body["sha"], &commit.body["files"][0]["filename"]), (&json!(sha), &json!("a/b.txt")));
    let file = world.get("/repos/acme/shop/contents/a/b.txt", &token).await;
    assert_eq!(file.body["content"], "aGVsbG8K");
    assert_eq!(world.get("/repos/acme/shop/branches/nothing", &token).await.message(), "Branch not found");
    let commits = world.get("/repos/acme/shop/commits?per_page=1", &token).await;
    assert!(commits.header("link").contains("page=2>; rel=\"next\""), "{}", commits.header("link"));
}

#[tokio::test]
async fn the_version_asked_for_is_the_version_answered() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let ask = |version: &'static str| {
        let (world, token) = (&world, token.clone());
        async move {
            world.ask(Method::GET, "/repos/acme/shop", &token, &[("X-GitHub-Api-Version", version)], Value::Null).await
        }
    };
    let newest = ask("2026-03-10").await;
    assert_eq!(newest.header("x-github-api-version-selected"), "2026-03-10");
    assert!(newest.body.get("has_downloads").is_none());
    assert_eq!(ask("2022-11-28").await.body["has_downloads"], true);
    assert_eq!(ask("2020-01-01").await.status, StatusCode::BAD_REQUEST);
    let default = world.get("/repos/acme/shop", &token).await;
    assert_eq!(default.header("x-github-api-version-selected"), "2022-11-28");
    assert!(default.header("x-github-request-id").len() == 20 && !default.header("x-github-media-type").is_empty());
}
