//! Refs by REST.

use github_sim::{Push, RepositorySeed, Selection};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::World;

#[tokio::test]
async fn are_made_moved_and_removed() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let refs = "/repos/acme/shop/git/refs";
    let first = world.sim.head("acme/shop", "main").unwrap();
    let push = Push { repository: "acme/shop".into(), path: "a".into(), content: "a".into(), ..Push::default() };
    let second = world.sim.push(&push).unwrap();
    let made = world.post(refs, &token, json!({"ref": "refs/heads/topic/x", "sha": second})).await;
    assert_eq!((made.status, &made.body["object"]["type"]), (StatusCode::CREATED, &json!("commit")));
    for (wish, message) in [
        (json!({"ref": "refs/heads/topic/x", "sha": second}), "Reference already exists"),
        (json!({"ref": "heads/y", "sha": second}), "Reference name is invalid."),
        (json!({"ref": "refs/heads/a..b", "sha": second}), "Reference name is invalid."),
        (json!({"ref": "refs/heads/y", "sha": "1".repeat(40)}), "Object does not exist"),
    ] {
        let refused = world.post(refs, &token, wish).await;
        assert_eq!((refused.status.as_u16(), refused.message()), (422, message));
    }
    let path = format!("{refs}/heads/topic/x");
    let back = world.ask(Method::PATCH, &path, &token, &[], json!({"sha": first})).await;
    assert_eq!((back.status.as_u16(), back.message()), (422, "Update is not a fast forward"));
    let forced = world.ask(Method::PATCH, &path, &token, &[], json!({"sha": first, "force": true})).await;
    assert_eq!(forced.body["object"]["sha"], json!(first));
    let matching = world.get("/repos/acme/shop/git/matching-refs/heads/", &token).await;
    assert_eq!(matching.body.as_array().unwrap().len(), 2);
    assert_eq!(world.get("/repos/acme/shop/git/ref/heads/topic/x", &token).await.body["ref"], "refs/heads/topic/x");
    assert_eq!(world.get("/repos/acme/shop/git/ref/heads/topic", &token).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.ask(Method::DELETE, &path, &token, &[], Value::Null).await.status, StatusCode::NO_CONTENT);
    let gone = world.ask(Method::DELETE, &path, &token, &[], Value::Null).await;
    assert_eq!((gone.status.as_u16(), gone.message()), (422, "Reference does not exist"));
    let read = world.token(json!({"permissions": {"contents": "read"}})).await;
    let denied = world.post(refs, &read, json!({"ref": "refs/heads/z", "sha": second})).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_empty_repository_has_none() {
    let world = World::new().await;
    let (owner, name) = ("acme".to_owned(), "blank".to_owned());
    world.sim.create_repository(&RepositorySeed { owner, name, empty: true, ..RepositorySeed::default() }).unwrap();
    world.sim.select_repositories(4242, &Selection::All).unwrap();
    let token = world.token(json!({})).await;
    for path in ["git/ref/heads/main", "commits"] {
        let refused = world.get(&format!("/repos/acme/blank/{path}"), &token).await;
        assert_eq!((refused.status.as_u16(), refused.message()), (409, "Git Repository is empty."));
    }
    let refused =
        world.post("/repos/acme/blank/git/refs", &token, json!({"ref": "refs/heads/a", "sha": "1".repeat(40)})).await;
    assert_eq!(refused.status.as_u16(), 409);
}
