//! `GitHubApp`s that cannot work: each has its reason, and a message that says what to do.

use crate::scene::{look, says, value};
use github_sim::{AppKey, AppSeed, Fault, FaultKind};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use landfall::api::GitHubApp;
use landfall_world::{KEY, SYSTEM, World, objects, ready};
use serde_json::{Value, json};

/// The App under another name, with some fields of its spec replaced; null removes one.
fn app(world: &World, name: &str, spec: &Value) -> Value {
    let mut app = objects::app(world, &json!([]));
    app["metadata"]["name"] = name.into();
    for (key, value) in spec.as_object().into_iter().flatten() {
        if value.is_null() {
            app["spec"].as_object_mut().unwrap().remove(key);
        } else {
            app["spec"][key] = value.clone();
        }
    }
    app
}

#[tokio::test]
async fn credentials_are_told_apart() {
    let mut seed = landfall_world::seed();
    let other = AppKey::generate().unwrap();
    let neighbour = AppSeed {
        name: "Neighbour".into(),
        owner: "globex".into(),
        id: Some(4343),
        public_key: Some(other.public_pem().into()),
        ..AppSeed::default()
    };
    seed.apps.push(neighbour);
    let world = World::with(seed).await;
    let operator = world.operator().await;
    let cut: String = KEY.private_pem().lines().take(5).collect::<Vec<_>>().join("\n");
    for (name, data) in [
        ("empty", &[][..]),
        ("blank", &[("private-key.pem", " ")]),
        ("text", &[("private-key.pem", "hunter2")]),
        ("cut", &[("private-key.pem", &cut)]),
        ("public", &[("private-key.pem", KEY.public_pem())]),
        ("foreign", &[("private-key.pem", other.private_pem())]),
        ("next", &[("private-key.pem", KEY.private_pem()), ("private-key-next.pem", "hunter2")]),
    ] {
        world.put_secret(SYSTEM, name, data).await;
    }
    let secret = |name: &str| json!({"credentialsSecretRef": {"name": name}});
    for (name, spec, words) in [
        (
            "missing",
            secret("nowhere"),
            &["there is no Secret nowhere in namespace landfall-system", "kubectl create secret"][..],
        ),
        ("empty", secret("empty"), &["Secret empty", "has no key private-key.pem", "put the App's private key there"]),
        ("blank", secret("blank"), &["private-key.pem is missing or empty", "generate a private key"]),
        ("text", secret("text"), &["private-key.pem is not PEM", "from its BEGIN to its END line"]),
        ("cut", secret("cut"), &["private-key.pem is not PEM", "from its BEGIN to its END line"]),
        ("public", secret("public"), &["private-key.pem holds", "public key", "private RSA key"]),
        ("next", secret("next"), &["private-key-next.pem is not PEM"]),
        ("foreign", secret("foreign"), &["refused the App's credentials", "generate one", "Secret foreign"]),
        ("nobody", json!({"appID": 4999}), &["There is no App with the id in spec", "the right spec.appID"]),
        ("neighbour", json!({"appID": 4343}), &["refused the App's credentials", "is another App's"]),
    ] {
        world.apply::<GitHubApp>(&app(&world, name, &spec)).await;
        let message = world.until_reason::<GitHubApp>("", name, "CredentialsInvalid").await;
        says(&message, words);
        assert!(
            !message.contains("hunter2") && !message.contains(&cut[40..80]),
            "nothing of the key is told: {message}"
        );
        let object = value::<GitHubApp>(&world, "", name).await;
        let kinds: Vec<_> = object["status"]["conditions"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
        assert_eq!(kinds, ["Ready", "Stalled"], "{name} waits for a person");
    }
    // A correction takes effect at once, because the Secret is watched.
    world.put_secret(SYSTEM, "nowhere", &[("private-key.pem", KEY.private_pem())]).await;
    world.until_reason::<GitHubApp>("", "missing", "Connected").await;
    world.put_secret(SYSTEM, "public", &[("private-key.pem", KEY.private_pem())]).await;
    world.until_reason::<GitHubApp>("", "public", "Connected").await;
    for name in ["nowhere", "empty", "blank", "text", "cut", "public", "foreign", "next"] {
        world.delete::<Secret>(SYSTEM, name).await;
    }
    operator.stop().await;
}

#[tokio::test]
async fn a_lost_key_stops_no_token_that_is_good() {
    let (world, operator) = crate::scene::published(&json!({})).await;
    world.delete::<Secret>(SYSTEM, "github-app").await;
    world.until_reason::<GitHubApp>("", "landfall", "CredentialsInvalid").await;
    operator.settled().await;
    let token = value::<landfall::api::InstallationToken>(&world, "team-a", "shop").await;
    assert_eq!(ready(&token)["status"], "True");
    crate::scene::only_token(&world, "shop-git").await;
    world.put_key(KEY.private_pem()).await;
    world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    operator.stop().await;
}

#[tokio::test]
async fn addresses_and_certificates_are_told_apart() {
    let world = World::new().await;
    let elsewhere = github_sim::Sim::start(github_sim::Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: true,
        seed: landfall_world::seed(),
    })
    .await
    .unwrap();
    let operator = world.operator().await;
    for (name, spec, reason, words) in [
        (
            "strange-ca",
            json!({"caBundle": elsewhere.ca_pem()}),
            "APIUnreachable",
            &["not trusted here", "put that authority's certificate into spec.caBundle"][..],
        ),
        (
            "no-ca",
            json!({"caBundle": null}),
            "APIUnreachable",
            &["put that authority's certificate into spec.caBundle"],
        ),
        ("text-ca", json!({"caBundle": "trust me"}), "InvalidSpec", &["spec.caBundle holds no certificate"]),
        ("key-ca", json!({"caBundle": KEY.public_pem()}), "InvalidSpec", &["spec.caBundle"]),
        (
            "unreachable",
            json!({"apiURL": "https://127.0.0.1:1/api/v3"}),
            "APIUnreachable",
            &["no connection", "check spec.apiURL", "retried by itself"],
        ),
        (
            "plain",
            json!({"apiURL": "http://ghe.example.com/api/v3"}),
            "InvalidSpec",
            &["spec.apiURL", "plain http", "use https"],
        ),
        ("pages", json!({"apiURL": "https://github.com"}), "InvalidSpec", &["use https://api.github.com"]),
        ("path", json!({"apiURL": "https://ghe.example.com/api"}), "InvalidSpec", &["https://ghe.example.com/api/v3"]),
    ] {
        world.apply::<GitHubApp>(&app(&world, name, &spec)).await;
        let message = world.until_reason::<GitHubApp>("", name, reason).await;
        says(&message, words);
    }
    // The right certificate takes effect at once.
    world.apply::<GitHubApp>(&app(&world, "strange-ca", &json!({}))).await;
    world.until_reason::<GitHubApp>("", "strange-ca", "Connected").await;
    assert!(elsewhere.requests().is_empty(), "nothing was sent where nothing was trusted");
    operator.stop().await;
}

#[tokio::test]
async fn while_github_is_away_it_stays_connected_and_says_so() {
    let world = World::new().await;
    let operator = world.operator().await;
    world.apply::<GitHubApp>(&app(&world, "landfall", &json!({}))).await;
    world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    let answer = FaultKind::Status { status: 503, body: None, headers: [].into() };
    world.sim.inject(Fault::new("GET", "/app*", answer).times(1000));
    look(&world).await;
    let object = value::<GitHubApp>(&world, "", "landfall").await;
    assert_eq!((&ready(&object)["status"], &ready(&object)["reason"]), (&json!("True"), &json!("APIFailed")));
    says(ready(&object)["message"].as_str().unwrap(), &["accepted the App's credentials before", "503", "retried"]);
    let before = world.calls("GET", "/app");
    world.live_through(&operator, SignedDuration::from_mins(20)).await;
    let tries = world.calls("GET", "/app") - before;
    assert!((5..=20).contains(&tries), "with growing pauses, not {tries} times");
    world.sim.clear_faults();
    world.live_through(&operator, SignedDuration::from_mins(6)).await;
    world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    operator.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_at_once() {
    let world = World::new().await;
    let tenants = |change: Value| {
        let mut tenant =
            json!({"name": "acme", "account": "acme", "repositories": ["shop"], "namespaces": {"names": ["team-a"]}});
        for (key, value) in change.as_object().unwrap() {
            tenant[key] = value.clone();
        }
        json!({"tenants": [tenant]})
    };
    let long = "x".repeat(64);
    for (name, spec, words) in [
        ("a", json!({"clientID": "Iv23li"}), "set exactly one of spec.appID"),
        ("a", json!({"appID": null}), "set exactly one of spec.appID"),
        ("a", json!({"appID": 0}), "spec.appID"),
        ("a", json!({"apiURL": "ghe.example.com"}), "must be an address that begins with https://"),
        ("a", json!({"credentialsSecretRef": null}), "spec.credentialsSecretRef"),
        (&long, json!({}), "at most 63"),
        ("a", tenants(json!({"account": "@acme"})), "without @ or a URL"),
        ("a", tenants(json!({"repositories": ["acme/shop"]})), "takes names without owner"),
        ("a", tenants(json!({"repositories": []})), "spec.tenants[0].repositories"),
        ("a", tenants(json!({"maxPermissions": {"contents": "all"}})), "Unsupported value"),
        ("a", tenants(json!({"namespaces": {}})), "needs names or a selector"),
        ("a", tenants(json!({"namespaces": {"selector": {}}})), "would grant every namespace"),
        ("a", tenants(json!({"namespaces": {"selector": {"matchLabels": {}}}})), "would grant every namespace"),
    ] {
        match world.try_apply::<GitHubApp>(&app(&world, name, &spec)).await {
            Ok(_) => panic!("{spec} was accepted"),
            Err(error) => says(&error.to_string(), &[words]),
        }
    }
    world.apply::<GitHubApp>(&app(&world, "a", &json!({}))).await;
    for (spec, words) in [
        (json!({"appID": 4343}), "spec.appID cannot be changed: make another GitHubApp"),
        (json!({"apiURL": "https://api.github.com"}), "spec.apiURL cannot be changed"),
    ] {
        let error = world.try_apply::<GitHubApp>(&app(&world, "a", &spec)).await.unwrap_err();
        says(&error.to_string(), &[words]);
    }
}
