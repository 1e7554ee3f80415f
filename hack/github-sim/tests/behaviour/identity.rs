//! Who an App is: its JWT, and what GitHub says to a wrong one.

use github_sim::AppKey;
use http::StatusCode;
use serde_json::json;

use crate::world::{APP, World, signed};

const UNDECODABLE: &str = "A JSON web token could not be decoded";
const EXPIRED: &str = "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires";

#[tokio::test]
async fn an_app_is_known_by_id_and_by_client_id() {
    let world = World::new().await;
    let app = world.get("/app", &world.jwt()).await;
    assert_eq!((app.status, &app.body["slug"]), (StatusCode::OK, &json!("landfall")));
    assert_eq!(app.body["installations_count"], 1);
    let now = world.sim.now().as_second();
    let by_client_id = world.jwt_of(&json!({"iss": app.body["client_id"], "iat": now, "exp": now + 600}));
    assert_eq!(world.get("/app", &by_client_id).await.body["id"], app.body["id"]);
    // The same API at the root, as on api.github.com, with its own links.
    let at_root = world.get(&format!("{}/app", world.sim.base_url()), &world.jwt()).await;
    assert_eq!(at_root.body["owner"]["url"], format!("{}/users/acme", world.sim.base_url()));
    assert_eq!(app.body["owner"]["url"], format!("{}/users/acme", world.sim.api_url()));
    let bot = world.get("/users/landfall%5Bbot%5D", "").await;
    assert_eq!((bot.body["type"].as_str(), bot.body["id"] == app.body["id"]), (Some("Bot"), false));
}

#[tokio::test]
async fn a_wrong_jwt_is_refused_in_githubs_words() {
    let world = World::new().await;
    let now = world.sim.now().as_second();
    let id = APP.to_string();
    let claims = json!({"iss": id, "iat": now - 60, "exp": now + 540});
    let signed_by_another = signed(&AppKey::generate().unwrap(), &claims);
    let token = world.token(json!({})).await;
    for (jwt, status, message) in [
        (String::new(), 401, UNDECODABLE),
        ("a.b.c".to_owned(), 401, UNDECODABLE),
        (signed_by_another, 401, UNDECODABLE),
        (token, 401, UNDECODABLE),
        (world.jwt_of(&json!({"iss": "99", "iat": now, "exp": now + 60})), 404, "Integration not found"),
        (world.jwt_of(&json!({"iss": id, "iat": now - 700, "exp": now - 60})), 401, EXPIRED),
        (world.jwt_of(&json!({"iss": id, "iat": now})), 401, EXPIRED),
        (
            world.jwt_of(&json!({"iss": id, "iat": now, "exp": now + 1200})),
            401,
            "'Expiration time' claim ('exp') is too far in the future",
        ),
        (
            world.jwt_of(&json!({"iss": id, "iat": now + 500, "exp": now + 550})),
            401,
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        ),
    ] {
        let refused = world.get("/app", &jwt).await;
        assert_eq!((refused.status.as_u16(), refused.message()), (status, message));
        assert_eq!(refused.body["status"], status.to_string());
        assert!(refused.body["documentation_url"].as_str().unwrap().starts_with("https://docs.github.com/rest"));
    }
}

#[tokio::test]
async fn a_key_counts_as_long_as_the_app_has_it() {
    let world = World::new().await;
    let next = AppKey::generate().unwrap();
    let keys = |keys: &[&AppKey]| keys.iter().map(|key| key.public_pem().to_owned()).collect::<Vec<_>>();
    world.sim.set_app_keys("landfall", &keys(&[&next, world.key])).unwrap();
    assert_eq!(world.get("/app", &world.jwt()).await.status, StatusCode::OK);
    world.sim.set_app_keys("landfall", &keys(&[&next])).unwrap();
    assert_eq!(world.get("/app", &world.jwt()).await.message(), UNDECODABLE);
    assert!(world.sim.set_app_keys("landfall", &vec![next.public_pem().to_owned(); 26]).is_err());
}

#[tokio::test]
async fn installations_are_the_apps_own() {
    let world = World::new().await;
    let listed = world.get("/app/installations", &world.jwt()).await;
    assert_eq!(listed.body.as_array().unwrap().len(), 1);
    assert_eq!(listed.body[0]["id"], 4242);
    for (path, status) in [
        ("/app/installations/4242", 200),
        ("/app/installations/4343", 404),
        ("/orgs/acme/installation", 200),
        ("/orgs/globex/installation", 404),
        ("/users/mona/installation", 404),
        ("/repos/acme/shop/installation", 200),
        ("/repos/acme/attic/installation", 404),
        ("/repos/globex/vault/installation", 404),
    ] {
        assert_eq!(world.get(path, &world.jwt()).await.status.as_u16(), status, "{path}");
    }
    let foreign = world.post("/app/installations/4343/access_tokens", &world.jwt(), json!({})).await;
    assert_eq!((foreign.status.as_u16(), foreign.message()), (404, "Not Found"));
}

#[tokio::test]
async fn a_suspended_installation_is_listed_and_mints_nothing() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    world.sim.suspend(4242).unwrap();
    let listed = world.get("/app/installations", &world.jwt()).await;
    assert_eq!(listed.body[0]["suspended_by"]["login"], "mona");
    assert!(listed.body[0]["suspended_at"].is_string());
    let refused = world.mint(json!({})).await;
    assert_eq!((refused.status.as_u16(), refused.message()), (403, "This installation has been suspended"));
    assert_eq!(refused.body["status"], "403");
    assert_eq!(world.get("/repos/acme/shop", &token).await.status.as_u16(), 403);
    world.sim.unsuspend(4242).unwrap();
    assert_eq!(world.get("/repos/acme/shop", &token).await.status.as_u16(), 200);
}

#[tokio::test]
async fn an_uninstalled_app_has_no_tokens_left() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    world.sim.uninstall(4242).unwrap();
    assert_eq!(world.get("/repos/acme/shop", &token).await.message(), "Bad credentials");
    assert_eq!(world.get("/app/installations/4242", &world.jwt()).await.status.as_u16(), 404);
    assert!(world.sim.live_tokens().is_empty());
    let again = world.sim.install(&github_sim::Install {
        app: "landfall".into(),
        account: "acme".into(),
        ..Default::default()
    });
    assert_ne!(again.unwrap(), 4242);
}
