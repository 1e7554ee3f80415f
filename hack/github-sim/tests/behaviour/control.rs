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
        (Method::PATCH, "/repositories/acme/store".to_owned(), json!({"archived": true, "private": false})),
        (Method::PATCH, "/repositories/acme/store".to_owned(), json!({"archived": false, "owner": "globex"})),
        (Method::PATCH, "/repositories/globex/store".to_owned(), json!({"owner": "acme"})),
        (Method::DELETE, "/repositories/acme/attic".to_owned(), Value::Null),
        (Method::PATCH, "/accounts/acme".to_owned(), json!({"login": "acme-inc"})),
        (Method::PATCH, "/accounts/acme-inc".to_owned(), json!({"login": "acme"})),
        (Method::PUT, "/fork-delay".to_owned(), json!({"seconds": 60})),
        (Method::PUT, "/webhook-resolve".to_owned(), json!({"receiver.test:443": "127.0.0.1:1"})),
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
    let account = ask(&world, Method::POST, "/accounts", json!({"login": "octo", "type": "Organization"})).await;
    assert_eq!((account.status, account.body["id"].is_u64()), (StatusCode::CREATED, true));
    forks_and_hooks(&world).await;
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

async fn forks_and_hooks(world: &World) {
    let fork = ask(world, Method::POST, "/forks", json!({"of": "acme/store", "account": "mona"})).await;
    assert_eq!((fork.status, fork.body["id"].as_u64()), (StatusCode::CREATED, world.sim.repository_id("mona/store")));
    assert!(world.sim.head("mona/store", "main").is_none());
    assert_eq!(ask(world, Method::PUT, "/forks/finished", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.sim.head("mona/store", "main"), world.sim.head("acme/store", "main"));
    let state = ask(world, Method::GET, "/state", Value::Null).await.body;
    let store = state["repositories"].as_array().unwrap().iter().find(|found| found["full_name"] == "mona/store");
    assert_eq!(store.unwrap()["parent"], "acme/store");

    let hooks = "/repositories/acme/store/hooks";
    let made = ask(world, Method::POST, hooks, json!({"url": "http://127.0.0.1:1/", "secret": "hidden"})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let hook = format!("/hooks/{}", made.body["id"]);
    let changed = ask(world, Method::PATCH, &hook, json!({"content_type": "json", "active": false})).await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT);
    let listed = ask(world, Method::GET, hooks, Value::Null).await.body;
    assert_eq!((&listed[0]["id"], &listed[0]["content_type"]), (&made.body["id"], &json!("json")));
    assert_eq!(listed[0]["secret_sha256"].as_str().unwrap().len(), 64);
    assert!(!listed.to_string().contains("hidden"));
    let deliveries = world.rows(&format!("{}/_sim/deliveries", world.sim.base_url()), "", 1).await;
    let delivered = &deliveries[0]["id"];
    let under_way = ask(world, Method::GET, "/deliveries/under-way", Value::Null).await.body;
    assert!(under_way["count"].is_u64(), "{under_way}");
    let again = ask(world, Method::POST, &format!("/deliveries/{delivered}/attempts"), Value::Null).await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    assert_eq!(ask(world, Method::DELETE, &hook, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(world, Method::DELETE, &hook, Value::Null).await.status, StatusCode::NOT_FOUND);
    let of_app = ask(world, Method::GET, "/apps/landfall/hook", Value::Null).await.body;
    assert_eq!((&of_app["url"], &of_app["active"]), (&Value::Null, &json!(true)));
}
