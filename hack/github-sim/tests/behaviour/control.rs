//! The control API does over HTTP what the typed one does.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{APP, Answer, World};

async fn ask(world: &World, method: Method, path: &str, body: Value) -> Answer {
    let url = format!("{}/_sim{path}", world.sim.base_url());
    world.ask(method, &url, "", &[("Content-Type", "application/json")], body).await
}

#[tokio::test]
async fn a_person_can_do_what_a_test_can() {
    let world = World::new().await;
    let ca = ask(&world, Method::GET, "/ca", Value::Null).await;
    assert_eq!(ca.body, json!(world.sim.ca_pem()));
    let installed = ask(&world, Method::POST, "/installations", json!({"app": "other", "account": "acme"})).await;
    assert_eq!(installed.status, StatusCode::CREATED);
    let id = installed.body["id"].as_u64().unwrap();
    let twice = ask(&world, Method::POST, "/installations", json!({"app": "other", "account": "acme"})).await;
    assert_eq!(twice.status, StatusCode::CONFLICT);
    for (method, path, body) in [
        (Method::PUT, format!("/installations/{id}/suspended"), Value::Null),
        (Method::DELETE, format!("/installations/{id}/suspended"), Value::Null),
        (Method::PUT, format!("/installations/{id}/repositories"), json!({"selected": ["shop"]})),
        (Method::PUT, format!("/installations/{id}/repositories"), json!("\"all\"")),
        (Method::PUT, format!("/installations/{id}/permissions"), json!({"contents": "read"})),
        (Method::DELETE, format!("/installations/{id}"), Value::Null),
        (Method::PATCH, "/repositories/acme/shop".to_owned(), json!({"name": "store"})),
        (Method::DELETE, "/repositories/acme/attic".to_owned(), Value::Null),
        (Method::PUT, "/apps/landfall/keys".to_owned(), json!({"public_keys": [world.key.public_pem()]})),
        (Method::PUT, "/token-life".to_owned(), json!({"seconds": 60})),
        (Method::PUT, "/rate-limit".to_owned(), json!({"limit": 100})),
    ] {
        let done = ask(&world, method.clone(), &path, body).await;
        assert_eq!(done.status, StatusCode::NO_CONTENT, "{method} {path}: {:?}", done.body);
    }
    let made = ask(&world, Method::POST, "/repositories", json!({"owner": "acme", "name": "new"})).await;
    assert_eq!(made.body["id"].as_u64(), world.sim.repository_id("acme/new"));
    let pushed =
        ask(&world, Method::POST, "/push", json!({"repository": "acme/new", "path": "a", "content": "b"})).await;
    assert_eq!(pushed.body["sha"].as_str(), world.sim.head("acme/new", "main").as_deref());
    let before = world.sim.now();
    ask(&world, Method::POST, "/clock/advance", json!({"seconds": 3600})).await;
    assert!(world.sim.now().duration_since(before).as_secs() >= 3600);
    let fault = ask(&world, Method::POST, "/faults", json!({"path": "/app", "kind": "status", "status": 500})).await;
    assert_eq!(fault.status, StatusCode::CREATED);
    assert_eq!(world.get("/app", &world.jwt()).await.status.as_u16(), 500);
    assert_eq!(ask(&world, Method::GET, "/faults", Value::Null).await.body[0]["struck"], 1);
    assert_eq!(ask(&world, Method::DELETE, "/faults/1", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(&world, Method::DELETE, "/faults/1", Value::Null).await.status, StatusCode::NOT_FOUND);
    world.mint(json!({})).await;
    let tokens = ask(&world, Method::GET, "/tokens", Value::Null).await;
    assert_eq!((&tokens.body[0]["installation_id"], tokens.body.as_array().unwrap().len()), (&json!(4242), 1));
    let requests = ask(&world, Method::GET, "/requests", Value::Null).await;
    assert_eq!(requests.body.as_array().unwrap().len(), world.sim.requests().len());
    assert_eq!(requests.body[0]["caller"], json!({"kind": "app", "id": APP}));
    let counts = ask(&world, Method::GET, "/requests/counts", Value::Null).await;
    assert!(counts.body.as_array().unwrap().iter().any(|count| count["route"] == "/app" && count["status"] == 500));
    assert_eq!(ask(&world, Method::DELETE, "/requests", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert!(world.sim.requests().is_empty());
    let state = ask(&world, Method::GET, "/state", Value::Null).await;
    assert!(state.body["repositories"].as_array().unwrap().iter().any(|found| found["full_name"] == "acme/store"));
    assert_eq!(ask(&world, Method::GET, "/nothing", Value::Null).await.status, StatusCode::NOT_FOUND);
}
