//! Hooks: how they are made, what GitHub says against them, what it reads back.

use github_sim::{HookChange, NewHook};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::world::World;

const HOOKS: &str = "/repos/acme/shop/hooks";

#[tokio::test]
async fn a_hook_is_a_form_unless_said_and_hides_its_secret() {
    let world = World::new().await;
    let token = world.token(json!({"permissions": {"repository_hooks": "write"}})).await;
    let config = json!({"url": "http://127.0.0.1:1/x", "secret": "hidden"});
    let made = world.post(HOOKS, &token, json!({"config": config})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{:?}", made.body);
    assert_eq!(
        (&made.body["name"], &made.body["events"], &made.body["active"]),
        (&json!("web"), &json!(["push"]), &json!(true))
    );
    let url = made.body["url"].as_str().unwrap();
    assert_eq!(made.header("location"), url);
    let expected =
        json!({"content_type": "form", "insecure_ssl": "0", "secret": "********", "url": "http://127.0.0.1:1/x"});
    assert_eq!(made.body["config"], expected);
    assert_eq!(world.get(url, &token).await.body["config"]["secret"], "********");

    // A configuration that comes with a change of the hook replaces all of it; the one of /config does not.
    let by_config =
        world.ask(Method::PATCH, &format!("{url}/config"), &token, &[], json!({"content_type": "json"})).await;
    assert_eq!((&by_config.body["secret"], &by_config.body["content_type"]), (&json!("********"), &json!("json")));
    let change = json!({"config": {"url": "http://127.0.0.1:1/x", "content_type": "json"}, "add_events": ["create"]});
    let by_hook = world.ask(Method::PATCH, url, &token, &[], change).await;
    assert!(by_hook.body["config"].get("secret").is_none(), "{:?}", by_hook.body);
    assert_eq!(by_hook.body["events"], json!(["create", "push"]));
    assert_eq!(world.ask(Method::DELETE, url, &token, &[], Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get(url, &token).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_hook_that_cannot_be_is_refused() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let config = json!({"url": "http://127.0.0.1:1/x", "content_type": "json"});
    assert_eq!(world.post(HOOKS, &token, json!({"config": config})).await.status, StatusCode::CREATED);
    let custom = |message: &str| json!([{"resource": "Hook", "code": "custom", "message": message}]);
    for (wish, errors) in [
        (json!({"config": config}), custom("Hook already exists on this repository")),
        (json!({"config": {}}), custom("Config must contain URL for webhooks")),
        (json!({"config": {"url": "example.com/x"}}), custom("url is missing a scheme")),
        (json!({"config": {"url": "ftp://example.com/x"}}), custom("url scheme must be http or https")),
        (json!({"config": config, "name": "email"}), json!([{"resource": "Hook", "field": "name", "code": "invalid"}])),
        (
            json!({"config": config, "events": ["x"]}),
            json!([{"resource": "Hook", "field": "events", "code": "invalid"}]),
        ),
    ] {
        let refused = world.post(HOOKS, &token, wish).await;
        assert_eq!((refused.status.as_u16(), refused.message()), (422, "Validation Failed"));
        assert_eq!(refused.body["errors"], errors);
    }
    for more in 2..=20 {
        let config = json!({"url": format!("http://127.0.0.1:1/{more}")});
        assert_eq!(world.post(HOOKS, &token, json!({"config": config})).await.status, StatusCode::CREATED, "{more}");
    }
    let one_more = world.post(HOOKS, &token, json!({"config": {"url": "http://127.0.0.1:1/more"}})).await;
    assert_eq!(one_more.body["errors"], custom("The \"push\" event cannot have more than 20 hooks"));

    let mut pages = Vec::new();
    let mut next = format!("{}{HOOKS}?per_page=9", world.sim.api_url());
    loop {
        let page = world.get(&next, &token).await;
        pages.push(page.body.as_array().unwrap().len());
        let link = page.header("link").to_owned();
        let Some(following) = link.split(", ").find(|link| link.ends_with("rel=\"next\"")) else { break };
        next = following.split(['<', '>']).nth(1).unwrap().to_owned();
    }
    assert_eq!(pages, [9, 9, 2]);
}

#[tokio::test]
async fn the_permission_is_repository_hooks() {
    let world = World::new().await;
    let read = world.token(json!({"permissions": {"repository_hooks": "read"}})).await;
    let none = world.token(json!({"permissions": {"contents": "write"}})).await;
    let wish = json!({"config": {"url": "http://127.0.0.1:1/x"}});
    assert_eq!(world.get(HOOKS, &read).await.status, StatusCode::OK);
    assert_eq!(world.post(HOOKS, &read, wish.clone()).await.message(), "Resource not accessible by integration");
    assert_eq!(world.get(HOOKS, &none).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.get("/repos/acme/site/hooks", "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_person_changes_hooks_and_a_test_sees_what_they_are() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    let token = world.token(json!({})).await;
    let config = json!({"url": receiver.url, "secret": "hidden", "content_type": "json"});
    let made = world.post(HOOKS, &token, json!({"config": config})).await.body;
    let id = made["id"].as_u64().unwrap();
    let hooks = world.sim.hooks("acme/shop").unwrap();
    assert_eq!((hooks.len(), hooks[0].id, hooks[0].active), (1, id, true));
    assert_eq!(hooks[0].content_type, "json");
    // printf hidden | sha256sum
    let hidden = "e564b4081d7a9ea4b00dada53bdae70c99b87b6fce869f0c3dd4d2bfa1e53e1c";
    assert_eq!(hooks[0].secret_sha256.as_deref(), Some(hidden));

    let stranger = NewHook { url: "http://127.0.0.1:1/stranger".into(), ..NewHook::default() };
    let stranger = world.sim.create_hook("acme/shop", &stranger).unwrap();
    let listed = world.get(HOOKS, &token).await;
    assert_eq!(listed.body.as_array().unwrap().len(), 2);
    let change = HookChange {
        url: Some("http://127.0.0.1:1/moved".into()),
        content_type: Some("form".into()),
        events: Some(vec!["issues".into()]),
        active: Some(false),
        secret: None,
    };
    world.sim.change_hook(id, change).unwrap();
    let seen = world.get(made["url"].as_str().unwrap(), &token).await.body;
    assert_eq!((&seen["config"]["url"], &seen["active"]), (&json!("http://127.0.0.1:1/moved"), &json!(false)));
    assert_eq!((&seen["events"], &seen["config"]["content_type"]), (&json!(["issues"]), &json!("form")));
    assert_eq!(world.sim.hooks("acme/shop").unwrap()[0].secret_sha256.as_deref(), Some(hidden));
    world.sim.change_hook(id, HookChange { secret: Some(String::new()), ..HookChange::default() }).unwrap();
    assert_eq!(world.sim.hooks("acme/shop").unwrap()[0].secret_sha256, None);
    world.sim.delete_hook(stranger).unwrap();
    assert_eq!(world.sim.hooks("acme/shop").unwrap().len(), 1);

    let of_app = world.sim.app_hook("landfall").unwrap();
    assert_eq!(of_app.url, None);
    let there = HookChange { url: Some(receiver.url.clone()), ..HookChange::default() };
    world.sim.change_hook(of_app.id, there).unwrap();
    assert_eq!(world.get("/app/hook/config", &world.jwt()).await.body["url"], receiver.url);
    assert!(world.sim.delete_hook(of_app.id).is_err(), "an App always has its hook");
    // What was delivered once is sent again by hand.
    let ping = receiver.events("ping", 1).await.remove(0);
    let path = format!("{}/deliveries", made["url"].as_str().unwrap());
    world.sim.change_hook(id, HookChange { url: Some(receiver.url.clone()), ..HookChange::default() }).unwrap();
    let rows = world.rows(&path, &token, 1).await;
    world.sim.redeliver(rows[0]["id"].as_u64().unwrap()).unwrap();
    let again = receiver.events("ping", 2).await.remove(1);
    assert_eq!(again.header("x-github-delivery"), ping.header("x-github-delivery"));
}
