//! Webhooks as a receiver gets them.

use std::time::Duration;

use github_sim::{Fork, Install, NewHook, Push, Selection, Site, WebhookSeed, signature};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::world::{APP, World, seed, succeeded};

const SECRET: &str = "It's a Secret to Everybody";
const ZERO: &str = "0000000000000000000000000000000000000000";

/// A world whose App delivers to a receiver.
async fn world() -> (World, Receiver) {
    let receiver = Receiver::start().await;
    let (mut seed, key) = seed();
    let (url, secret) = (receiver.url.clone(), Some(SECRET.to_owned()));
    seed.apps[0].webhook = Some(WebhookSeed { url, secret, content_type: Some("json".into()) });
    (World::with(seed, key).await, receiver)
}

fn push(path: &str) -> Push {
    Push { repository: "acme/shop".into(), path: path.into(), content: "x\n".into(), ..Push::default() }
}

/// Waits until so many deliveries to the App are logged; the newest is first.
async fn logged(world: &World, count: usize) -> Vec<Value> {
    world.rows("/app/hook/deliveries?per_page=100", &world.jwt(), count).await
}

#[tokio::test]
async fn a_push_is_delivered_signed_and_with_githubs_headers() {
    let (world, receiver) = world().await;
    let before = world.sim.head("acme/shop", "main").unwrap();
    let sha = world.sim.push(&push("a.txt")).unwrap();
    let pushed = receiver.events("push", 1).await.remove(0);
    assert_eq!(pushed.header("x-hub-signature-256"), signature(SECRET, &pushed.body));
    assert!(pushed.header("x-hub-signature").starts_with("sha1="));
    assert!(pushed.header("user-agent").starts_with("GitHub-Hookshot/"));
    assert_eq!(pushed.header("x-github-hook-installation-target-type"), "integration");
    assert_eq!(pushed.header("x-github-hook-installation-target-id"), APP.to_string());
    assert_eq!(pushed.header("x-github-delivery").len(), 36);
    assert!(pushed.header("x-github-hook-id").parse::<u64>().is_ok());
    let payload = pushed.payload();
    assert_eq!(
        (&payload["ref"], &payload["before"], &payload["after"]),
        (&json!("refs/heads/main"), &json!(before), &json!(sha))
    );
    assert_eq!(payload["installation"], json!({"id": 4242, "node_id": payload["installation"]["node_id"]}));
    assert_eq!((&payload["commits"][0]["added"], &payload["head_commit"]["id"]), (&json!(["a.txt"]), &json!(sha)));
    assert_eq!(payload["repository"]["full_name"], "acme/shop");
    assert_eq!(payload["pusher"]["name"], "mona");
}

#[tokio::test]
async fn a_push_by_git_names_the_bot_and_a_deleted_branch_ends_at_zero() {
    let (world, receiver) = world().await;
    let token = world.token(json!({})).await;
    succeeded(&world.git(world.folder.path(), &token, &["clone", "-q", &world.url("acme/shop"), "shop"]).await);
    let clone = world.folder.path().join("shop");
    succeeded(&world.git(&clone, &token, &["push", "-q", "origin", "main:topic"]).await);
    let created = receiver.events("push", 1).await[0].payload();
    assert_eq!(
        (&created["created"], &created["before"], &created["commits"]),
        (&json!(true), &json!(ZERO), &json!([]))
    );
    assert_eq!(created["sender"]["login"], "landfall[bot]");
    succeeded(&world.git(&clone, &token, &["push", "-q", "--delete", "origin", "topic"]).await);
    let deleted = receiver.events("push", 2).await[1].payload();
    assert_eq!(
        (&deleted["deleted"], &deleted["after"], &deleted["head_commit"]),
        (&json!(true), &json!(ZERO), &Value::Null)
    );
    // More than three tags at once are not told.
    for tag in ["v1", "v2", "v3", "v4"] {
        succeeded(&world.git(&clone, "", &["tag", tag]).await);
    }
    succeeded(&world.git(&clone, &token, &["push", "-q", "--tags"]).await);
    world.sim.push(&push("after-tags")).unwrap();
    let told = receiver.events("push", 3).await;
    assert_eq!(told[2].payload()["ref"], "refs/heads/main");
}

#[tokio::test]
async fn an_app_hears_of_its_installations() {
    let (world, receiver) = world().await;
    let install = Install { app: "landfall".into(), account: "globex".into(), ..Install::default() };
    let id = world.sim.install(&install).unwrap();
    let created = receiver.events("installation", 1).await[0].payload();
    assert_eq!((&created["action"], &created["installation"]["id"]), (&json!("created"), &json!(id)));
    assert_eq!(
        (&created["repositories"][0]["full_name"], &created["sender"]["login"]),
        (&json!("globex/vault"), &json!("mona"))
    );
    world.sim.select_repositories(4242, &Selection::Selected(vec!["attic".into()])).unwrap();
    let first = receiver.events("installation_repositories", 1).await[0].payload();
    assert_eq!(
        (&first["repositories_added"][0]["name"], first["repositories_removed"].as_array().unwrap().len()),
        (&json!("attic"), 2)
    );
    world.sim.select_repositories(4242, &Selection::All).unwrap();
    receiver.events("installation_repositories", 2).await;
    world.sim.select_repositories(4242, &Selection::Selected(vec!["shop".into()])).unwrap();
    let narrowed = receiver.events("installation_repositories", 3).await[2].payload();
    assert_eq!(
        (&narrowed["repository_selection"], &narrowed["repositories_removed"]),
        (&json!("selected"), &json!([]))
    );
    world.sim.suspend(4242).unwrap();
    receiver.events("installation", 2).await;
    world.sim.unsuspend(4242).unwrap();
    receiver.events("installation", 3).await;
    world.sim.uninstall(4242).unwrap();
    let told = receiver.events("installation", 4).await;
    let actions: Vec<Value> = told.iter().map(|event| event.payload()["action"].clone()).collect();
    assert_eq!(actions, ["created", "suspend", "unsuspend", "deleted"]);
}

#[tokio::test]
async fn a_failed_delivery_is_not_repeated_until_somebody_asks() {
    let (world, receiver) = world().await;
    world.sim.push(&push("good")).unwrap();
    logged(&world, 1).await;
    receiver.answers(500);
    world.sim.push(&push("bad")).unwrap();
    let failed = logged(&world, 2).await.remove(0);
    assert_eq!(
        (&failed["event"], &failed["status_code"], &failed["redelivery"]),
        (&json!("push"), &json!(500), &json!(false))
    );
    let seen = receiver.count();
    receiver.answers(202);
    let path = format!("/app/hook/deliveries/{}", failed["id"]);
    let again = world.post(&format!("{path}/attempts"), &world.jwt(), Value::Null).await;
    assert_eq!((again.status, &again.body), (StatusCode::ACCEPTED, &json!({})));
    let rows = logged(&world, 3).await;
    assert_eq!((receiver.count(), &rows[0]["redelivery"], &rows[0]["guid"]), (seen + 1, &json!(true), &failed["guid"]));
    assert_eq!(rows[1], failed, "the failed row stays as it was");
    let whole = world.get(&path, &world.jwt()).await;
    assert_eq!(
        (&whole.body["response"]["payload"], &whole.body["request"]["payload"]["ref"]),
        (&json!("seen"), &json!("refs/heads/main"))
    );
    let failures = world.get("/app/hook/deliveries?status=failure", &world.jwt()).await;
    assert_eq!(failures.body.as_array().unwrap().len(), 1);

    let page = world.get("/app/hook/deliveries?per_page=2", &world.jwt()).await;
    let next = page.header("link").split(['<', '>']).nth(1).unwrap().to_owned();
    assert!(next.contains("cursor="), "{next}");
    assert_eq!(world.get(&next, &world.jwt()).await.body[0], rows[2]);

    world.sim.advance(Duration::from_hours(73));
    assert_eq!(world.get("/app/hook/deliveries", &world.jwt()).await.body, json!([]));
}

#[tokio::test]
async fn what_was_never_answered_is_no_failure_to_the_list() {
    let (world, receiver) = world().await;
    let nowhere = json!({"url": "http://127.0.0.1:1/", "content_type": "json"});
    let changed = world.ask(Method::PATCH, "/app/hook/config", &world.jwt(), &[], nowhere).await;
    assert_eq!((changed.status, &changed.body["secret"]), (StatusCode::OK, &json!("********")));
    world.sim.push(&push("a")).unwrap();
    let rows = logged(&world, 1).await;
    assert_eq!((&rows[0]["status_code"], &rows[0]["status"]), (&json!(0), &json!("failed to connect to host")));
    assert_eq!(world.get("/app/hook/deliveries?status=failure", &world.jwt()).await.body, json!([]));
    // It is sent to where the hook points when it is asked for again.
    let back = json!({"url": receiver.url});
    world.ask(Method::PATCH, "/app/hook/config", &world.jwt(), &[], back).await;
    world.post(&format!("/app/hook/deliveries/{}/attempts", rows[0]["id"]), &world.jwt(), Value::Null).await;
    assert_eq!(receiver.events("push", 1).await.len(), 1);
}

#[tokio::test]
async fn a_repositorys_hook_is_pinged_and_hears_its_pushes() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    let token = world.token(json!({})).await;
    let config = json!({"url": receiver.url, "secret": SECRET});
    let hook = world.post("/repos/acme/shop/hooks", &token, json!({"config": config})).await.body;
    let ping = receiver.events("ping", 1).await.remove(0);
    assert_eq!(ping.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(ping.header("x-hub-signature-256"), signature(SECRET, &ping.body), "a form is signed as it is sent");
    assert_eq!((&ping.payload()["hook_id"], &ping.payload()["hook"]["type"]), (&hook["id"], &json!("Repository")));
    assert_eq!(ping.header("x-github-hook-installation-target-type"), "repository");
    world.sim.push(&push("a")).unwrap();
    let pushed = receiver.events("push", 1).await[0].payload();
    assert!(pushed.get("installation").is_none());
    let url = hook["url"].as_str().unwrap();
    assert_eq!(world.post(&format!("{url}/pings"), &token, Value::Null).await.status, StatusCode::NO_CONTENT);
    receiver.events("ping", 2).await;
    assert_eq!(world.post(&format!("{url}/tests"), &token, Value::Null).await.status, StatusCode::NO_CONTENT);
    let tested = receiver.events("push", 2).await[1].payload();
    assert_eq!(tested["after"], pushed["after"]);
    let listed = world.get(&format!("{url}/deliveries"), &token).await;
    assert!(!listed.body.as_array().unwrap().is_empty());
    world.ask(Method::PATCH, url, &token, &[], json!({"active": false})).await;
    world.sim.push(&push("b")).unwrap();
    world.post(&format!("{url}/pings"), &token, Value::Null).await;
    receiver.events("ping", 3).await;
    assert_eq!(receiver.events("push", 2).await.len(), 2, "an inactive hook hears no pushes");
}

#[tokio::test]
async fn a_receivers_certificate_is_verified_unless_the_hook_says_otherwise() {
    let (receiver, certificate) = Receiver::start_tls().await;
    let (mut seed, key) = seed();
    seed.apps[0].webhook = Some(WebhookSeed { url: receiver.url.clone(), ..WebhookSeed::default() });
    let world = World::with(seed.clone(), key).await;
    world.sim.push(&push("a")).unwrap();
    assert_eq!(logged(&world, 1).await[0]["status_code"], 0);
    let insecure = json!({"insecure_ssl": 1});
    world.ask(Method::PATCH, "/app/hook/config", &world.jwt(), &[], insecure).await;
    world.sim.push(&push("b")).unwrap();
    assert_eq!(logged(&world, 2).await[0]["status_code"], 202);

    let trusting = Site { webhook_ca: Some(certificate), ..Site::default() };
    let world = World::at(seed, key, trusting).await;
    world.sim.push(&push("c")).unwrap();
    assert_eq!(logged(&world, 1).await[0]["status_code"], 202);
}

#[tokio::test]
async fn each_of_many_pushes_by_git_is_delivered_once() {
    let (world, receiver) = world().await;
    let token = world.token(json!({})).await;
    succeeded(&world.git(world.folder.path(), &token, &["clone", "-q", &world.url("acme/shop"), "shop"]).await);
    let clone = world.folder.path().join("shop");
    let before = world.sim.head("acme/shop", "main").unwrap();
    let mut pushed = Vec::new();
    for number in 1..=20 {
        let message = format!("Number {number}");
        succeeded(&world.git(&clone, "", &["commit", "-q", "--allow-empty", "-m", &message]).await);
        succeeded(&world.git(&clone, &token, &["push", "-q", "origin", "main"]).await);
        pushed.push(succeeded(&world.git(&clone, "", &["rev-parse", "HEAD"]).await).trim().to_owned());
    }
    // In whichever order they came, each tells what it followed.
    let told = receiver.events("push", 20).await;
    let mut steps: Vec<(String, String)> = told
        .iter()
        .map(|event| {
            (event.payload()["before"].as_str().unwrap().into(), event.payload()["after"].as_str().unwrap().into())
        })
        .collect();
    let mut expected: Vec<(String, String)> =
        std::iter::once(before).chain(pushed.iter().cloned()).zip(pushed.iter().cloned()).collect();
    steps.sort_unstable();
    expected.sort_unstable();
    assert_eq!(steps, expected);
    let guids: std::collections::BTreeSet<&str> = told.iter().map(|event| event.header("x-github-delivery")).collect();
    assert_eq!(guids.len(), 20);
}

#[tokio::test]
async fn a_delivery_connects_to_where_it_is_told_and_no_further() {
    let (receiver, certificate) = Receiver::start_tls().await;
    let (mut seed, key) = seed();
    let there: std::net::SocketAddr = receiver.url.split('/').nth(2).unwrap().parse().unwrap();
    // The certificate is for 127.0.0.1, whatever the port.
    let url = "https://127.0.0.1:9/hooks/app".to_owned();
    seed.apps[0].webhook = Some(WebhookSeed { url: url.clone(), content_type: Some("json".into()), secret: None });
    let site = Site {
        webhook_ca: Some(certificate),
        webhook_resolve: [("127.0.0.1:9".into(), there)].into(),
        ..Site::default()
    };
    let world = World::at(seed, key, site).await;
    world.sim.push(&push("a")).unwrap();
    let pushed = receiver.events("push", 1).await.remove(0);
    assert_eq!(pushed.header("host"), "127.0.0.1:9", "the request is the one for the hook's URL");
    logged(&world, 1).await;
    assert_eq!(world.sim.deliveries()[0]["url"], url);

    // Another name is not what the certificate is for: what is told changes the way, not the trust.
    world.sim.resolve_webhooks([("Receiver.test:443".into(), there)].into());
    let renamed = json!({"url": "https://receiver.test/hooks/app"});
    world.ask(Method::PATCH, "/app/hook/config", &world.jwt(), &[], renamed).await;
    world.sim.push(&push("b")).unwrap();
    assert_eq!(logged(&world, 2).await[0]["status_code"], 0);
    world.ask(Method::PATCH, "/app/hook/config", &world.jwt(), &[], json!({"insecure_ssl": "1"})).await;
    world.sim.push(&push("c")).unwrap();
    assert_eq!(logged(&world, 3).await[0]["status_code"], 202);
    assert_eq!(receiver.events("push", 2).await[1].header("host"), "receiver.test");
}

#[tokio::test]
async fn what_is_larger_than_25_mb_is_not_delivered() {
    let (world, receiver) = world().await;
    // A payload tells a message twice: of the commit, and of the head.
    let large = Push { message: Some("x".repeat(13 * 1024 * 1024)), ..push("large") };
    world.sim.push(&large).unwrap();
    world.sim.push(&push("small")).unwrap();
    assert_eq!(receiver.events("push", 1).await[0].payload()["head_commit"]["added"], json!(["small"]));
    assert_eq!(logged(&world, 1).await.len(), 1);
}

#[tokio::test]
async fn a_fork_is_told_to_who_watches_what_was_forked() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    let hook = NewHook { url: receiver.url.clone(), events: Some(vec!["fork".into()]), ..NewHook::default() };
    world.sim.create_hook("acme/site", &hook).unwrap();
    world.sim.fork(&Fork { of: "acme/site".into(), account: "mona".into(), ..Fork::default() }).unwrap();
    let told = receiver.events("fork", 1).await[0].payload();
    assert_eq!(
        (&told["repository"]["full_name"], &told["forkee"]["full_name"]),
        (&json!("acme/site"), &json!("mona/site"))
    );
}

#[tokio::test]
async fn a_rename_tells_the_old_name() {
    let (world, receiver) = world().await;
    world.sim.rename_repository("acme/shop", "store").unwrap();
    let renamed = receiver.events("repository", 1).await[0].payload();
    assert_eq!(
        (&renamed["action"], &renamed["changes"]["repository"]["name"]["from"]),
        (&json!("renamed"), &json!("shop"))
    );
}

#[tokio::test]
async fn a_deletion_is_told_in_one_of_two_ways() {
    let (world, receiver) = world().await;
    let id = world.sim.repository_id("acme/shop").unwrap();
    world.sim.delete_repository("acme/shop").unwrap();
    let removed = receiver.events("installation_repositories", 1).await[0].payload();
    assert_eq!((&removed["action"], &removed["repositories_removed"][0]["id"]), (&json!("removed"), &json!(id)));
    assert_eq!(receiver.events("repository", 0).await.len(), 0);
    world.sim.select_repositories(4242, &Selection::All).unwrap();
    world.sim.delete_repository("acme/attic").unwrap();
    let deleted = receiver.events("repository", 1).await[0].payload();
    assert_eq!((&deleted["action"], &deleted["repository"]["name"]), (&json!("deleted"), &json!("attic")));
    // To who chose nothing, a selection is widened; that is all that came of it.
    assert_eq!(receiver.events("installation_repositories", 2).await[1].payload()["action"], "added");
    assert_eq!(logged(&world, 3).await.len(), 3);
}

#[tokio::test]
async fn what_is_under_way_is_counted_until_it_is_logged() {
    let (world, receiver) = world().await;
    assert_eq!(world.sim.deliveries_under_way(), 0, "what was there from the beginning is no news");
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = json!({"url": format!("http://{}/", silent.local_addr().unwrap())});
    world.ask(Method::PATCH, "/app/hook/config", &world.jwt(), &[], nowhere).await;
    world.sim.push(&push("a")).unwrap();
    let (taken, _) = silent.accept().await.unwrap();
    // It is under way, or ended by itself while this machine was slow.
    assert!(world.sim.deliveries_under_way() == 1 || world.sim.deliveries().len() == 1);
    drop((taken, silent));
    let rows = logged(&world, 1).await;
    assert_eq!((world.sim.deliveries_under_way(), &rows[0]["status_code"]), (0, &json!(0)));
    let back = json!({"url": receiver.url});
    world.ask(Method::PATCH, "/app/hook/config", &world.jwt(), &[], back).await;
    world.sim.redeliver(rows[0]["id"].as_u64().unwrap()).unwrap();
    logged(&world, 2).await;
    assert_eq!(world.sim.deliveries_under_way(), 0);
}
