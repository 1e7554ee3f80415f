//! Webhooks: exactly one where one is wanted, with the right configuration, and none elsewhere.

use crate::repository::{A_POLL, ask, changes, comes_to, follow, is_git, status};
use crate::scene::{granted, look, says, sha256, value};
use github_sim::{HookChange, HookInfo, NewHook};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use landfall::api::{GitHubApp, GitHubInstallation, ProjectRepository};
use landfall::github::{Endpoint, PlainHttp};
use landfall::webhook::{AppIdentity, Hook, RootKeys};
use landfall_world::operator::Operator;
use landfall_world::{World, id, objects, ready};
use serde_json::{Value, json};

pub const BASE: &str = "https://landfall.example.com";
const SHOP: &str = "https://landfall.example.com/webhooks/repo/landfall/9001";
const APP: &str = "https://landfall.example.com/webhooks/app/landfall";

/// Team-a may have webhooks for shop and the libraries, and team-b for shop.
fn tenants() -> Value {
    let hooks = json!({"contents": "read", "repository_hooks": "write"});
    json!([
        {"name": "acme", "account": "acme", "repositories": ["shop", "lib-*"], "maxPermissions": hooks, "namespaces": {"names": ["team-a"]}},
        {"name": "acme-2", "account": "acme", "repositories": ["shop"], "maxPermissions": hooks, "namespaces": {"names": ["team-b"]}},
    ])
}

pub fn app(world: &World, webhook: &Value) -> Value {
    let mut app = objects::app(world, &tenants());
    app["spec"]["webhook"] = webhook.clone();
    app
}

/// A world in which deliveries reach no receiver, with this `spec.webhook` of the App.
pub async fn connected(webhook: &Value) -> (World, Operator) {
    let (world, operator) = granted(&tenants()).await;
    let nobody = "127.0.0.1:1".parse().expect("an address");
    world.sim.resolve_webhooks(
        ["landfall", "stranger", "elsewhere"].map(|host| (format!("{host}.example.com:443"), nobody)).into(),
    );
    if !webhook.is_null() {
        world.apply::<GitHubApp>(&app(&world, webhook)).await;
    }
    (world, operator)
}

/// A spec with a webhook of its own.
pub fn own(spec: &Value) -> Value {
    let mut whole = json!({"webhook": {"mode": "Repository"}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    whole
}

fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or(Value::Null)
}

pub async fn ensured(world: &World, name: &str) {
    let is_ensured = async || {
        let ready = condition(&status(world, name).await, "WebhookReady");
        (ready["status"] == "True").then_some(())
    };
    world.until(&format!("{name} has its webhook"), is_ensured).await;
}

/// The hooks of a repository that deliver to Landfall.
pub fn ours(world: &World, repository: &str) -> Vec<HookInfo> {
    let mut hooks = world.sim.hooks(repository).expect("hooks");
    hooks.retain(|hook| hook.url.as_deref().is_some_and(|url| url.contains("/webhooks/repo/")));
    hooks
}

/// The digest of the secret that a hook should have, derived as in the receiver.
async fn secret(world: &World, hook: Hook) -> Option<String> {
    let keys = world.get::<Secret>("landfall-system", "landfall-webhook-keys").await.expect("the root keys").data?;
    let keys = RootKeys::read(|name| keys.get(name).map(|value| value.0.as_slice())).expect("keys");
    let endpoint = Endpoint::parse(&world.sim.api_url(), None, None, PlainHttp::OnLoopback).expect("an endpoint");
    let app = AppIdentity { host: endpoint.host(), app_id: id(4242) };
    Some(sha256(keys.current.secret(&app, hook).expose()))
}

pub async fn is_as_it_should_be(world: &World, hook: &HookInfo, url: &str, kind: Hook) {
    assert_eq!((hook.url.as_deref(), hook.content_type.as_str()), (Some(url), "json"), "{hook:?}");
    assert!(hook.active && !hook.insecure_ssl, "{hook:?}");
    if kind != Hook::App {
        assert_eq!(hook.events, ["push", "repository"]);
    }
    assert_eq!(hook.secret_sha256, secret(world, kind).await, "signed with another secret");
}

fn stranger(number: usize) -> NewHook {
    let url = format!("https://stranger.example.com/{number}");
    NewHook { url, events: Some(vec!["issues".into()]), inactive: true, ..NewHook::default() }
}

#[tokio::test]
async fn a_repository_has_one_webhook_of_its_own_as_long_as_it_is_wanted() {
    let (world, operator) = connected(&json!({"url": BASE, "policy": "Manual"})).await;
    for number in 0..130 {
        world.sim.create_hook("acme/shop", &stranger(number)).unwrap();
    }
    // A webhook of another cluster, for the same App and repository.
    let elsewhere = "https://elsewhere.example.com/webhooks/repo/landfall/9001".to_owned();
    let elsewhere = world.sim.create_hook("acme/shop", &NewHook { url: elsewhere, ..NewHook::default() }).unwrap();
    world.sim.reset_requests();
    follow(&world, "shop", &own(&json!({})), "Observed").await;
    ensured(&world, "shop").await;
    operator.settled().await;
    let find = || {
        let found = ours(&world, "acme/shop").into_iter().filter(|hook| hook.id != elsewhere).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    };
    let hook = find();
    is_as_it_should_be(&world, &hook, SHOP, Hook::Repository(id(9001))).await;
    assert_eq!(world.calls("GET", "/repos/{owner}/{repo}/hooks"), 2, "both pages before one is made");
    assert_eq!(changes(&world).len(), 1, "{:?}", changes(&world));
    let stored = status(&world, "shop").await["webhook"].clone();
    assert_eq!((&stored["id"], &stored["url"]), (&json!(hook.id), &json!(SHOP)));

    // After any change by a person, a requested look repairs it. A duplicate is deleted.
    let duplicate = NewHook { url: SHOP.to_owned(), events: Some(vec!["push".into()]), ..NewHook::default() };
    for change in [
        HookChange { url: Some("https://stranger.example.com/x".into()), ..HookChange::default() },
        HookChange { events: Some(vec!["issues".into()]), ..HookChange::default() },
        HookChange { content_type: Some("form".into()), active: Some(false), ..HookChange::default() },
        HookChange { secret: Some(String::new()), ..HookChange::default() },
    ] {
        world.sim.change_hook(hook.id, change.clone()).unwrap();
        if change.active.is_some() {
            world.sim.create_hook("acme/shop", &duplicate).unwrap();
        }
        ask(&world, "shop").await;
        operator.settled().await;
        let repaired = find();
        assert_eq!(repaired.id, hook.id, "after {change:?}");
        is_as_it_should_be(&world, &repaired, SHOP, Hook::Repository(id(9001))).await;
    }
    // Without a request, it is repaired within a day, or when a poll finds a push that no delivery announced.
    world.sim.delete_hook(hook.id).unwrap();
    world.push("acme/shop", "main");
    world.live_through(&operator, A_POLL).await;
    let hook = find();
    world.sim.change_hook(hook.id, HookChange { active: Some(false), ..HookChange::default() }).unwrap();
    world.live_through(&operator, SignedDuration::from_hours(29)).await;
    is_as_it_should_be(&world, &find(), SHOP, Hook::Repository(id(9001))).await;

    // A restart changes nothing, on GitHub or in the cluster.
    operator.kill();
    let mark = world.audit.mark().unwrap();
    world.sim.reset_requests();
    let operator = world.operator().await;
    let is_examined = async || (world.calls("GET", "/repos/{owner}/{repo}/hooks") > 0).then_some(());
    world.until("the webhook is examined", is_examined).await;
    operator.settled().await;
    assert!(world.writes_since(mark).is_empty(), "{:?}", world.writes_since(mark));
    assert!(changes(&world).is_empty(), "{:?}", changes(&world));

    // Another root key gives another secret.
    let before = find();
    let keys = world.get::<Secret>("landfall-system", "landfall-webhook-keys").await.unwrap().data.unwrap();
    let old = |key: &str| serde_json::to_value(&keys[key]).unwrap();
    let fresh = serde_json::to_value(k8s_openapi::ByteString(vec![7; 32])).unwrap();
    let key_id = serde_json::to_value(k8s_openapi::ByteString(b"k2".to_vec())).unwrap();
    let rotated = json!({"data": {"current": fresh, "current-id": key_id, "previous": old("current"), "previous-id": old("current-id")}});
    world.merge::<Secret>("landfall-system", "landfall-webhook-keys", &rotated).await.unwrap();
    let is_signed = async || (status(&world, "shop").await["webhook"]["keyID"] == "k2").then_some(());
    world.until("the webhook has the new secret", is_signed).await;
    let hook = find();
    assert_eq!(hook.id, before.id);
    is_as_it_should_be(&world, &hook, SHOP, Hook::Repository(id(9001))).await;

    kept_while_it_is_wanted(&world, &operator).await;
    let left = world.sim.hooks("acme/shop").unwrap();
    assert_eq!(left.len(), 131, "strangers' are all there");
    operator.stop().await;
}

async fn kept_while_it_is_wanted(world: &World, operator: &Operator) {
    let count = || ours(world, "acme/shop").len() - 1;
    let mut second = objects::repository("shop", &own(&json!({})));
    second["metadata"]["namespace"] = json!("team-b");
    world.apply::<ProjectRepository>(&second).await;
    world.until_reason::<ProjectRepository>("team-b", "shop", "Observed").await;
    operator.settled().await;
    assert_eq!(count(), 1);
    world.delete::<ProjectRepository>("team-a", "shop").await;
    world.until_gone::<ProjectRepository>("team-a", "shop").await;
    assert_eq!(count(), 1, "team-b wants it");
    second["spec"]["webhook"]["mode"] = json!("App");
    world.apply::<ProjectRepository>(&second).await;
    world.until("the last one removes it", async || (count() == 0).then_some(())).await;
    operator.settled().await;
    let object = value::<ProjectRepository>(world, "team-b", "shop").await;
    assert_eq!((&object["status"]["webhook"], &object["metadata"]["finalizers"]), (&Value::Null, &Value::Null));
    // It is created again, and then deleted with the object.
    second["spec"]["webhook"]["mode"] = json!("Repository");
    world.apply::<ProjectRepository>(&second).await;
    world.until("it is made again", async || (count() == 1).then_some(())).await;
    operator.settled().await;
    world.delete::<ProjectRepository>("team-b", "shop").await;
    world.until_gone::<ProjectRepository>("team-b", "shop").await;
    assert_eq!(count(), 0);
}

#[tokio::test]
async fn what_keeps_a_webhook_from_being_made_or_removed_is_said() {
    let (world, operator) = connected(&Value::Null).await;
    let says_no = async |name: &str, reason: &str, words: &[&str]| {
        says(&comes_to(&world, name, reason).await, words);
        assert_eq!(condition(&status(&world, name).await, "WebhookReady")["status"], "False");
    };
    world.apply::<ProjectRepository>(&objects::repository("shop", &own(&json!({})))).await;
    says_no("shop", "WaitingForReference", &["GitHubApp landfall has no spec.webhook.url"]).await;
    world.apply::<GitHubApp>(&app(&world, &json!({"url": BASE, "policy": "Manual"}))).await;
    ensured(&world, "shop").await;
    comes_to(&world, "shop", "Observed").await;

    // A paused webhook is not changed, an archived one cannot be, and a grant without hooks is reported.
    follow(&world, "lib-core", &own(&json!({"paused": true})), "Paused").await;
    operator.settled().await;
    assert!(ours(&world, "acme/lib-core").is_empty());
    let mut narrow = app(&world, &json!({"url": BASE, "policy": "Manual"}));
    narrow["spec"]["tenants"][0]["maxPermissions"] = json!({"contents": "read"});
    world.apply::<GitHubApp>(&narrow).await;
    follow(&world, "lib-core", &own(&json!({"paused": false})), "InsufficientPermissions").await;
    says_no("lib-core", "InsufficientPermissions", &["repository_hooks: write", "maxPermissions"]).await;
    assert!(ours(&world, "acme/lib-core").is_empty());
    world.apply::<GitHubApp>(&app(&world, &json!({"url": BASE, "policy": "Manual"}))).await;
    ensured(&world, "lib-core").await;

    // The account did not accept the permission.
    let without = serde_json::from_value(json!({"contents": "write", "metadata": "read"})).unwrap();
    world.sim.grant(501, without).unwrap();
    look(&world).await;
    ask(&world, "lib-core").await;
    says_no("lib-core", "WebhookRefused", &["repository_hooks: write", "accepted by acme", "polled"]).await;
    let pushed = world.push("acme/lib-core", "main");
    world.live_through(&operator, A_POLL).await;
    assert_eq!(status(&world, "lib-core").await["head"]["sha"], json!(pushed), "it is polled meanwhile");
    // During a deletion it is tried for a while, and the remaining webhook is reported.
    world.delete::<ProjectRepository>("team-a", "lib-core").await;
    says(&comes_to(&world, "lib-core", "WaitingForDependents").await, &["15 minutes at most", "webhook"]);
    world.live_through(&operator, SignedDuration::from_mins(16)).await;
    world.until_gone::<ProjectRepository>("team-a", "lib-core").await;
    assert_eq!(ours(&world, "acme/lib-core").len(), 1);

    // After an uninstallation nothing can be cleaned up, so the object is removed at once.
    world.sim.uninstall(501).unwrap();
    look(&world).await;
    comes_to(&world, "shop", "Revoked").await;
    world.delete::<ProjectRepository>("team-a", "shop").await;
    world.until_gone::<ProjectRepository>("team-a", "shop").await;
    let events = kube::Api::<k8s_openapi::api::events::v1::Event>::namespaced(world.admin.clone(), "team-a");
    world
        .until("an event tells of the webhooks that stay", async || {
            let events = events.list(&kube::api::ListParams::default()).await.ok()?;
            let told = |name: &str| {
                events.items.iter().any(|event| {
                    event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name)
                        && event.reason.as_deref() == Some("WebhookRefused")
                        && event.note.as_deref().is_some_and(|note| note.contains("stays on GitHub"))
                })
            };
            (told("shop") && told("lib-core")).then_some(())
        })
        .await;
    operator.stop().await;
}

#[tokio::test]
async fn the_apps_webhook_delivers_here_and_a_foreign_one_is_left_alone() {
    let (world, operator) = connected(&json!({"url": BASE})).await;
    let hook = || world.sim.app_hook("landfall").unwrap();
    let ensured = async |url: &str| {
        let is_shown = async || {
            let app = value::<GitHubApp>(&world, "", "landfall").await;
            (app["status"]["webhook"]["url"] == url && ready(&app)["reason"] == "Connected").then_some(())
        };
        world.until(&format!("the App delivers to {url}"), is_shown).await;
        operator.settled().await;
        is_as_it_should_be(&world, &hook(), url, Hook::App).await;
    };
    ensured(APP).await;
    let change = |change: HookChange| world.sim.change_hook(hook().id, change).unwrap();

    // A change by a person is repaired within the hour, or at once on request. An unchanged webhook costs one call.
    change(HookChange { content_type: Some("form".into()), ..HookChange::default() });
    world.sim.reset_requests();
    world.live_through(&operator, SignedDuration::from_mins(73)).await;
    ensured(APP).await;
    assert_eq!((world.calls("GET", "/app/hook/config"), world.calls("PATCH", "/app/hook/config")), (1, 1));
    change(HookChange { secret: Some(String::new()), ..HookChange::default() });
    look(&world).await;
    ensured(APP).await;
    // The same address with another spelling in the spec, and another address.
    world.apply::<GitHubApp>(&app(&world, &json!({"url": "https://landfall.example.com/base"}))).await;
    ensured("https://landfall.example.com/base/webhooks/app/landfall").await;
    world.apply::<GitHubApp>(&app(&world, &json!({"url": BASE}))).await;
    ensured(APP).await;
    operator.kill();
    world.sim.reset_requests();
    let operator = world.operator().await;
    let is_examined = async || (world.calls("GET", "/app/hook/config") > 0).then_some(());
    world.until("the webhook is examined", is_examined).await;
    operator.settled().await;
    assert_eq!(world.calls("PATCH", "/app/hook/config"), 0, "a restart changes nothing");

    // A webhook with somebody else's address is reported with its host only, and not changed. With force it is taken
    // over.
    let foreign = "https://stranger.example.com/hook?token=hunter2";
    change(HookChange { url: Some(foreign.into()), secret: Some("theirs".into()), ..HookChange::default() });
    look(&world).await;
    let message = world.until_reason::<GitHubApp>("", "landfall", "WebhookForeign").await;
    says(&message, &["stranger.example.com", "spec.webhook.policy: Adopt", "Manual"]);
    let object = value::<GitHubApp>(&world, "", "landfall").await;
    assert!(!object.to_string().contains("hunter2"), "{object}");
    assert_eq!((hook().url.as_deref(), hook().secret_sha256), (Some(foreign), Some(sha256("theirs"))));
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    follow(&world, "shop", &json!({}), "Observed").await;
    world.apply::<GitHubApp>(&app(&world, &json!({"url": BASE, "policy": "Manual"}))).await;
    world.until_reason::<GitHubApp>("", "landfall", "Connected").await;
    operator.settled().await;
    assert_eq!(hook().url.as_deref(), Some(foreign));
    world.apply::<GitHubApp>(&app(&world, &json!({"url": BASE, "policy": "Adopt"}))).await;
    let is_taken = async || (hook().url.as_deref() == Some(APP)).then_some(());
    world.until("force takes it over", is_taken).await;
    operator.settled().await;
    is_as_it_should_be(&world, &hook(), APP, Hook::App).await;
    operator.stop().await;
}

/// A tenant that may write status makes its object act on another repository.
#[tokio::test]
async fn a_forged_status_takes_no_webhook_away() {
    let (world, operator) = connected(&json!({"url": BASE, "policy": "Manual"})).await;
    let mut only_libraries = app(&world, &json!({"url": BASE, "policy": "Manual"}));
    only_libraries["spec"]["tenants"][0]["repositories"] = json!(["lib-*"]);
    world.apply::<GitHubApp>(&only_libraries).await;
    let mut victim = objects::repository("shop", &own(&json!({})));
    victim["metadata"]["namespace"] = json!("team-b");
    world.apply::<ProjectRepository>(&victim).await;
    world.until_reason::<ProjectRepository>("team-b", "shop", "Observed").await;
    follow(&world, "lib-core", &own(&json!({})), "Observed").await;
    ensured(&world, "lib-core").await;
    operator.settled().await;
    let hooks = || (ours(&world, "acme/shop").len(), ours(&world, "acme/lib-core").len());
    assert_eq!(hooks(), (1, 1));
    let victims = ours(&world, "acme/shop").remove(0).id;
    let lie = json!({
        "repositoryID": 9001, "fullName": "acme/shop", "cloneURL": "https://stranger.example.com/acme/shop.git",
        "head": {"branch": "main", "sha": "f".repeat(40), "observationTime": "2026-01-01T00:00:00Z"},
        "webhook": {"id": victims, "url": SHOP, "keyID": "forged"},
    });

    // As long as the operator knows the true id, it shows that, and requests nothing about the victim's repository.
    let truth = status(&world, "lib-core").await;
    world.sim.reset_requests();
    world.merge_status::<ProjectRepository>("team-a", "lib-core", &lie).await.unwrap();
    let is_repaired = async || (status(&world, "lib-core").await == truth).then_some(());
    world.until("status says the truth again", is_repaired).await;
    operator.settled().await;
    let about_it = || {
        world.sim.requests().iter().filter(|asked| asked.path.contains("shop") || asked.path.contains("9001")).count()
    };
    assert_eq!((about_it(), changes(&world).len()), (0, 0));

    // A new operator knows only status, and the grant decides: nothing is read, changed or removed there.
    operator.kill();
    world.delete::<ProjectRepository>("team-b", "shop").await;
    world.merge::<ProjectRepository>("team-b", "shop", &json!({"metadata": {"finalizers": null}})).await.unwrap();
    world.until_gone::<ProjectRepository>("team-b", "shop").await;
    world.merge_status::<ProjectRepository>("team-a", "lib-core", &lie).await.unwrap();
    world.sim.reset_requests();
    let operator = world.operator().await;
    let message = comes_to(&world, "lib-core", "RepositoryNotGranted").await;
    says(&message, &["id 9001"]);
    world.live_through(&operator, A_POLL).await;
    world.delete::<ProjectRepository>("team-a", "lib-core").await;
    world.live_through(&operator, SignedDuration::from_mins(20)).await;
    world.until_gone::<ProjectRepository>("team-a", "lib-core").await;
    assert_eq!(hooks(), (1, 1));
    assert_eq!(ours(&world, "acme/shop")[0].id, victims);
    // The only request is by id, for the current name, because the grant is decided by name.
    let asked = |name: &str| world.sim.requests().iter().filter(|asked| asked.path.contains(name)).count();
    assert_eq!((asked("shop"), changes(&world).len()), (0, 0), "{:?}", world.sim.requests());
    assert!(!world.sim.requests().iter().any(is_git));
    operator.stop().await;
}
