//! `GitHubApp`: connection, changes, key rotation, deletion, and the installations that its grants need.

use crate::scene::{connected, granted, look, only_token, publish, says, value};
use github_sim::AppKey;
use jiff::SignedDuration;
use kube::ResourceExt;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use landfall_world::{KEY, World, objects, ready};
use serde_json::{Value, json};

fn grant(account: &str, namespaces: &Value) -> Value {
    json!({"name": account, "account": account, "repositories": ["shop"], "maxPermissions": {"contents": "write"}, "namespaces": namespaces})
}

#[tokio::test]
async fn it_shows_what_github_says_of_it() {
    let (world, operator) = connected().await;
    operator.settled().await;
    let object = value::<GitHubApp>(&world, "", "landfall").await;
    let status = &object["status"];
    says(ready(&object)["message"].as_str().unwrap(), &["App landfall", "installed on 1 accounts"]);
    assert_eq!(
        (&status["appID"], &status["slug"], &status["name"]),
        (&json!(4242), &json!("landfall"), &json!("Landfall"))
    );
    assert_eq!(status["ownerLogin"], "acme");
    assert!(status["botUserID"].as_i64().is_some_and(|id| id != 4242), "the bot user has an id of its own");
    assert_eq!(status["permissions"]["repository_hooks"], "write");
    assert_eq!(status["tenants"], json!([{"account": "acme", "accountID": 7001, "namespaceCount": 1}]));
    assert!(status["htmlURL"].as_str().unwrap().ends_with("/apps/landfall"), "{status}");
    assert_eq!(world.sim.requests().len(), 3, "the App, its installations, its bot");
    operator.stop().await;
}

#[tokio::test]
async fn a_client_id_serves_as_well() {
    let world = World::new().await;
    let operator = world.operator().await;
    let mut app = objects::app(&world, &json!([]));
    app["spec"].as_object_mut().unwrap().remove("appID");
    app["spec"]["clientID"] = "Iv23liLandfallTests".into();
    world.apply::<GitHubApp>(&app).await;
    let message = world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    says(&message, &["spec.tenants grants it to nobody yet"]);
    operator.stop().await;
}

#[tokio::test]
async fn installations_come_and_go_with_the_grants() {
    let (world, operator) = granted(&json!([grant("acme", &json!({"names": ["team-a", "not-there-yet"]}))])).await;
    assert!(world.get::<GitHubInstallation>("team-b", "acme").await.is_none(), "no entry, no access");
    let message = world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    says(&message, &["spec.tenants names namespaces that do not exist: not-there-yet (in entry "]);
    let declared = json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
        "metadata": {"name": "mine", "namespace": "team-a"},
        "spec": {"appRef": {"name": "landfall"}, "account": "acme"},
    });
    world.apply::<GitHubInstallation>(&declared).await;
    world.until_reason::<GitHubInstallation>("team-a", "mine", "Active").await;

    let more = json!([
        grant("acme", &json!({"names": ["team-b"]})),
        grant("globex", &json!({"selector": {"matchLabels": {"reads": "globex"}}})),
    ]);
    world.apply::<GitHubApp>(&objects::app(&world, &more)).await;
    world.until_reason::<GitHubInstallation>("team-b", "acme", "Active").await;
    world.until_gone::<GitHubInstallation>("team-a", "acme").await;
    let made = world.get::<GitHubInstallation>("team-b", "acme").await.unwrap();
    assert_eq!(made.owner_references()[0].name, "landfall");
    world.until_reason::<GitHubInstallation>("team-a", "mine", "AccountNotGranted").await;

    // Namespaces by label: a namespace that gets the label is granted the account, and one that loses it is not.
    world.namespace("team-a", &[("reads", "globex")]).await;
    let message = world.until_reason::<GitHubInstallation>("team-a", "globex", "NotInstalled").await;
    says(&message, &["not installed on globex", "/apps/landfall/installations/new"]);
    world.namespace("team-a", &[]).await;
    world.until_gone::<GitHubInstallation>("team-a", "globex").await;
    assert!(world.get::<GitHubInstallation>("team-a", "mine").await.is_some(), "what a person declared stays");
    operator.stop().await;
}

#[tokio::test]
async fn a_strangers_installation_is_left_alone_and_named() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    let operator = world.operator().await;
    let stranger = json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
        "metadata": {"name": "acme", "namespace": "team-a"},
        "spec": {"appRef": {"name": "another"}, "account": "globex"},
    });
    world.apply::<GitHubInstallation>(&stranger).await;
    let message = world.until_reason::<GitHubInstallation>("team-a", "acme", "WaitingForReference").await;
    says(&message, &["there is no GitHubApp another", "create it, or correct the reference"]);
    world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    let message = world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    says(&message, &["team-a/acme"]);
    operator.settled().await;
    assert_eq!(value::<GitHubInstallation>(&world, "team-a", "acme").await["spec"], stranger["spec"]);
    operator.stop().await;
}

#[tokio::test]
async fn a_grant_holds_for_the_account_and_not_for_its_name() {
    let (world, operator) = granted(&objects::tenants()).await;
    publish(&world, "shop", &json!({})).await;
    operator.stop().await;
    // The state after the name was another account's at the first look: status has that account's id.
    let pinned = json!({"tenants": [{"account": "acme", "accountID": 6999, "namespaceCount": 1}]});
    world.merge_status::<GitHubApp>("", "landfall", &pinned).await.unwrap();
    let operator = world.operator().await;
    let message = world.until_reason::<GitHubInstallation>("team-a", "acme", "AccountNotGranted").await;
    says(&message, &["acme", "6999", "7001", "spec.tenants[].accountID"]);
    world.until_reason::<InstallationToken>("team-a", "shop", "AccountNotGranted").await;
    operator.settled().await;
    assert!(world.sim.live_tokens().is_empty(), "who took the name over gets nothing");
    let status = value::<GitHubInstallation>(&world, "team-a", "acme").await["status"].clone();
    assert_eq!((&status["installationID"], &status["account"]), (&Value::Null, &Value::Null));

    // A person confirms the new account.
    let mut tenants = objects::tenants();
    tenants[0]["accountID"] = 7001.into();
    world.apply::<GitHubApp>(&objects::app(&world, &tenants)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    only_token(&world, "shop-git").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_key_is_rotated_without_a_gap() {
    let (world, operator) = connected().await;
    publish(&world, "shop", &json!({})).await;
    let other = AppKey::generate().unwrap();
    // GitHub accepts only the second key, as if the first had been deleted on the App's page.
    let both = [("private-key.pem", other.private_pem()), ("private-key-next.pem", KEY.private_pem())];
    world.put_secret(landfall_world::SYSTEM, "github-app", &both).await;
    operator.settled().await;
    look(&world).await;
    world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    world.live_through(&operator, SignedDuration::from_mins(61)).await;
    only_token(&world, "shop-git").await;
    assert!(world.mints() >= 2, "renewed with the second key");

    // The second becomes the first.
    world.put_secret(landfall_world::SYSTEM, "github-app", &[("private-key.pem", KEY.private_pem())]).await;
    operator.settled().await;
    world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    operator.stop().await;
}

#[tokio::test]
async fn killed_in_the_middle_it_ends_in_the_same_place() {
    for calls in 0..3 {
        let world = World::new().await;
        world.namespace("team-a", &[]).await;
        let operator = world.operator().await;
        world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
        world.until("it has begun", async || (world.sim.requests().len() >= calls).then_some(())).await;
        operator.kill();
        let operator = world.operator().await;
        world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
        world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
        operator.stop().await;
    }
}

#[tokio::test]
async fn paused_it_makes_and_removes_nothing() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    let operator = world.operator().await;
    let mut app = objects::app(&world, &objects::tenants());
    app["spec"]["paused"] = true.into();
    world.apply::<GitHubApp>(&app).await;
    let message = world.until_reason::<GitHubApp>("", "landfall", "Paused").await;
    says(&message, &["spec.paused: true holds back changes"]);
    operator.settled().await;
    assert!(world.get::<GitHubInstallation>("team-a", "acme").await.is_none());
    app["spec"]["paused"] = false.into();
    world.apply::<GitHubApp>(&app).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    operator.stop().await;
}

/// Helm writes an unquoted number of seven digits out of its values as a float.
#[tokio::test]
async fn an_id_that_helm_wrote_as_a_float_is_the_same_id() {
    let world = World::new().await;
    let operator = world.operator().await;
    let app = objects::app(&world, &json!([])).to_string();
    assert!(app.contains("\"appID\":4242"), "{app}");
    let apply = async |app: String| {
        let path = "/apis/landfall.dev/v1alpha1/githubapps/landfall?fieldManager=helm&force=true";
        let patch = http::Request::patch(path).header("content-type", "application/apply-patch+yaml");
        world.admin.request::<Value>(patch.body(app.into_bytes()).unwrap()).await.expect("accepted")
    };
    let float = app.replace("\"appID\":4242", "\"appID\":4.242e+03");
    apply(float.clone()).await;
    world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    for again in [float, app] {
        apply(again).await;
        operator.settled().await;
        let object = value::<GitHubApp>(&world, "", "landfall").await;
        assert_eq!((&object["spec"]["appID"], &ready(&object)["reason"]), (&json!(4242), &json!("Connected")));
    }
    operator.stop().await;
}
