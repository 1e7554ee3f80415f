//! When and how often the operator looks at a repository: at once after news, but never so often that one namespace
//! uses up the App's limits.

use crate::repository::{A_POLL, comes_to, follow, looks, status};
use crate::scene::{connected, says, value};
use github_sim::RepositorySeed;
use kube::api::{Api, Patch, PatchParams};
use landfall::api::{GitHubApp, ProjectRepository, WebhookInbox};
use landfall::controllers::deliveries::TAKEN_OUT_AFTER;
use landfall_world::inbox::{INBOX, logged};
use landfall_world::operator::Start;
use landfall_world::{SYSTEM, World, objects};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn make(world: &World, name: &str, private: bool) -> u64 {
    let seed = RepositorySeed { owner: "acme".into(), name: name.into(), private, ..Default::default() };
    world.sim.create_repository(&seed).expect("a repository")
}

async fn deliver(world: &World, name: &str, guid: &str, delivery: &Value) {
    world.deliver(("team-a", name), guid, delivery).await;
}

async fn becomes(world: &World, name: &str, guid: &str, result: &str) -> Value {
    let marked = async || {
        let delivery = logged(&status(world, name).await, guid);
        (delivery["result"] == result).then_some(delivery)
    };
    world.until(&format!("{guid} is {result}"), marked).await
}

/// The clock stands still, so the deliveries cause everything.
#[tokio::test]
async fn news_of_a_repository_that_was_lost_are_looked_after_at_once() {
    let (world, operator) = connected().await;
    follow(&world, "lib-new", &json!({}), "RepositoryNotFound").await;
    // The repository does not exist yet, and the delivery's result says so.
    deliver(&world, "lib-new", "early", &json!({"event": "repository", "action": "created"})).await;
    says(becomes(&world, "lib-new", "early", "Failed").await["message"].as_str().unwrap(), &["acme/lib-new"]);
    make(&world, "lib-new", true);
    deliver(&world, "lib-new", "created", &json!({"event": "repository", "action": "created"})).await;
    comes_to(&world, "lib-new", "Observed").await;
    becomes(&world, "lib-new", "created", "Handled").await;

    // A rename takes it out of the grant, and another one back in.
    world.sim.rename_repository("acme/lib-new", "secret-plans").unwrap();
    deliver(&world, "lib-new", "out", &json!({"event": "repository", "action": "renamed"})).await;
    comes_to(&world, "lib-new", "RepositoryNotGranted").await;
    let refused = becomes(&world, "lib-new", "out", "Failed").await;
    assert!(!refused.to_string().contains("secret-plans"), "{refused}");
    world.sim.rename_repository("acme/secret-plans", "lib-new").unwrap();
    deliver(&world, "lib-new", "in", &json!({"event": "repository", "action": "renamed"})).await;
    comes_to(&world, "lib-new", "Observed").await;
    becomes(&world, "lib-new", "in", "Handled").await;
    operator.stop().await;
}

#[tokio::test]
async fn who_may_edit_an_object_has_github_asked_a_few_times_and_no_more() {
    const TIMES: usize = 45;
    let (world, operator) = connected().await;
    follow(&world, "lib-none", &json!({}), "RepositoryNotFound").await;
    operator.settled().await;
    world.sim.reset_requests();
    for number in 0..TIMES {
        let annotations = json!({"landfall.dev/reconcile": number.to_string()});
        let change = json!({"metadata": {"annotations": annotations}});
        world.merge::<ProjectRepository>("team-a", "lib-none", &change).await.unwrap();
        operator.settled().await;
    }
    assert!((2..=20).contains(&world.mints()), "{} mints for {TIMES} annotations in no time", world.mints());
    operator.stop().await;
}

#[tokio::test]
async fn a_grant_that_is_withdrawn_is_seen_before_the_next_poll() {
    let (world, operator) = connected().await;
    follow(&world, "shop", &json!({"pollInterval": "24h"}), "Observed").await;
    operator.settled().await;
    let mut narrow = objects::app(&world, &objects::tenants());
    narrow["spec"]["tenants"][0]["repositories"] = json!(["lib-*"]);
    world.apply::<GitHubApp>(&narrow).await;
    comes_to(&world, "shop", "RepositoryNotGranted").await;
    // A grant with another spelling of the same costs one look.
    world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    comes_to(&world, "shop", "Observed").await;
    operator.settled().await;
    world.sim.reset_requests();
    let mut wider = objects::app(&world, &objects::tenants());
    wider["spec"]["tenants"][0]["repositories"] = json!(["shop", "lib-*", "tools"]);
    world.apply::<GitHubApp>(&wider).await;
    world.until("it was looked by the other grant", async || (looks(&world) > 0).then_some(())).await;
    operator.settled().await;
    assert_eq!(looks(&world), 1);
    operator.stop().await;
}

/// Everyone who may read the deleted repository may read the new one with its name. No error shows that it is another
/// one.
#[tokio::test]
async fn a_public_repository_made_anew_under_the_name_is_not_taken_for_it() {
    let (world, operator) = connected().await;
    make(&world, "lib-open", false);
    follow(&world, "lib-open", &json!({}), "Observed").await;
    operator.settled().await;
    let first = status(&world, "lib-open").await;
    world.push("acme/lib-open", "main");
    world.sim.reset_requests();
    world.live_through(&operator, A_POLL).await;
    let second = status(&world, "lib-open").await;
    assert_ne!(second["head"]["sha"], first["head"]["sha"]);
    assert_eq!(world.calls("GET", "/repositories/{repository_id}"), 1, "whose the head is, and no more");

    world.sim.delete_repository("acme/lib-open").unwrap();
    make(&world, "lib-open", false);
    let other = world.push("acme/lib-open", "main");
    world.live_through(&operator, A_POLL).await;
    comes_to(&world, "lib-open", "RepositoryNotFound").await;
    let shown = value::<ProjectRepository>(&world, "team-a", "lib-open").await;
    assert!(!shown.to_string().contains(&other), "{shown}");
    assert_eq!(shown["status"]["repositoryID"], first["repositoryID"]);
    operator.stop().await;
}

/// The same delivery comes again at the moment in which the first is taken out.
#[tokio::test]
async fn a_delivery_that_comes_again_while_it_is_taken_out_is_looked_after_again() {
    let (world, operator) = connected().await;
    follow(&world, "shop", &json!({}), "Observed").await;
    operator.stop().await;
    let (admin, is_armed) = (world.admin.clone(), Arc::new(AtomicBool::new(false)));
    let armed = Arc::clone(&is_armed);
    let between = move |config| {
        let (inner, admin, armed) =
            (kube::Client::try_from(config).expect("a client"), admin.clone(), Arc::clone(&armed));
        let pass = move |request: http::Request<kube::client::Body>| {
            let (inner, admin, armed) = (inner.clone(), admin.clone(), Arc::clone(&armed));
            async move {
                let is_inbox = request.uri().path().ends_with(&format!("/webhookinboxes/{INBOX}/status"));
                if is_inbox && armed.swap(false, Ordering::SeqCst) {
                    let again = json!({
                        "id": 1_000_000_000, "appName": "landfall", "namespace": "team-a", "repositoryName": "shop", "guid": "twice",
                        "event": "push", "ref": "refs/heads/main", "receiptTime": "2100-01-01T00:00:00.000000Z",
                    });
                    let append = json!([{"op": "add", "path": "/status/deliveries/-", "value": again.to_string()}]);
                    let append: json_patch::Patch = serde_json::from_value(append).expect("a patch");
                    let inboxes = Api::<WebhookInbox>::namespaced(admin, SYSTEM);
                    inboxes.patch_status(INBOX, &PatchParams::default(), &Patch::Json::<()>(append)).await?;
                }
                inner.send(request).await
            }
        };
        kube::Client::new(tower::service_fn(pass), "default")
    };
    let operator = world.start(Start { kube: Box::new(between), ..Start::default() }).await;
    operator.ready().await;
    operator.settled().await;
    world.sim.reset_requests();
    is_armed.store(true, Ordering::SeqCst);
    deliver(&world, "shop", "twice", &json!({"event": "push", "ref": "refs/heads/main"})).await;
    world
        .until("the first is dealt with", async || {
            (logged(&status(&world, "shop").await, "twice")["attempts"] == 1).then_some(())
        })
        .await;
    operator.settled().await;
    world.advance(TAKEN_OUT_AFTER);
    world
        .until("both are dealt with", async || {
            let logged = logged(&status(&world, "shop").await, "twice");
            (logged["attempts"] == 2 && logged["result"] == "Handled").then_some(())
        })
        .await;
    world.until_taken_out(&operator).await;
    operator.settled().await;
    assert_eq!(looks(&world), 2);
    operator.stop().await;
}
