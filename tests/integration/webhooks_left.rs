//! Webhooks of repositories whose objects, installations or Apps are deleted, in any order, and webhooks that others
//! change.

use crate::hooks::{BASE, app, connected, ensured, is_as_it_should_be, ours, own};
use crate::repository::{ask, comes_to, follow, status};
use crate::scene::{look, says, value};
use github_sim::{Fault, FaultKind, HookChange};
use jiff::SignedDuration;
use landfall::api::{GitHubApp, GitHubInstallation, ProjectRepository};
use landfall::webhook::Hook;
use landfall_world::{World, id, objects, ready};
use serde_json::{Value, json};

const SHOP: &str = "https://landfall.example.com/webhooks/repo/landfall/9001";

fn unmanaged() -> Value {
    json!({"url": BASE, "policy": "Manual"})
}

fn left(world: &World) -> usize {
    ours(world, "acme/shop").len()
}

async fn has_one(world: &World) {
    follow(world, "shop", &own(&json!({})), "Observed").await;
    ensured(world, "shop").await;
    assert_eq!(left(world), 1);
}

#[tokio::test]
async fn one_that_status_does_not_know_of_yet_goes_with_its_object() {
    let (world, operator) = connected(&unmanaged()).await;
    has_one(&world).await;
    operator.settled().await;
    operator.kill();
    // The state after a stop between creating the webhook and writing status.
    let nothing = json!({"id": null, "nodeID": null, "fullName": null, "webhook": null});
    world.merge_status::<ProjectRepository>("team-a", "shop", &nothing).await.unwrap();
    world.delete::<ProjectRepository>("team-a", "shop").await;
    let operator = world.operator().await;
    world.until_gone::<ProjectRepository>("team-a", "shop").await;
    assert_eq!(left(&world), 0);
    operator.stop().await;
}

#[tokio::test]
async fn it_goes_first_when_its_installation_or_its_app_goes() {
    let (world, operator) = connected(&unmanaged()).await;
    let mine = json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
        "metadata": {"name": "mine", "namespace": "team-a"}, "spec": {"appRef": {"name": "landfall"}, "account": "acme"},
    });
    world.apply::<GitHubInstallation>(&mine).await;
    world.until_reason::<GitHubInstallation>("team-a", "mine", "Active").await;
    let of_mine = own(&json!({"installationRef": {"name": "mine"}}));

    // Only the installation is deleted: the webhook is removed, and the object stays.
    follow(&world, "shop", &of_mine, "Observed").await;
    ensured(&world, "shop").await;
    world.delete::<GitHubInstallation>("team-a", "mine").await;
    world.until_gone::<GitHubInstallation>("team-a", "mine").await;
    assert_eq!(left(&world), 0);
    comes_to(&world, "shop", "WaitingForReference").await;
    assert_eq!(status(&world, "shop").await["webhook"], Value::Null);

    // The installation is created again, and is deleted before the object, as in the deletion of a namespace.
    world.apply::<GitHubInstallation>(&mine).await;
    ensured(&world, "shop").await;
    comes_to(&world, "shop", "Observed").await;
    assert_eq!(left(&world), 1);
    operator.settled().await;
    world.delete::<GitHubInstallation>("team-a", "mine").await;
    world.delete::<ProjectRepository>("team-a", "shop").await;
    world.until_gone::<ProjectRepository>("team-a", "shop").await;
    world.until_gone::<GitHubInstallation>("team-a", "mine").await;
    assert_eq!(left(&world), 0);

    // The App waits for the webhook, at most 15 minutes.
    has_one(&world).await;
    operator.settled().await;
    operator.kill();
    world.delete::<GitHubApp>("", "landfall").await;
    let operator = world.operator().await;
    world.until_gone::<GitHubApp>("", "landfall").await;
    assert_eq!(left(&world), 0, "by an operator that knew nothing of it");
    comes_to(&world, "shop", "WaitingForReference").await;
    world.delete::<ProjectRepository>("team-a", "shop").await;
    world.until_gone::<ProjectRepository>("team-a", "shop").await;
    operator.stop().await;
}

#[tokio::test]
async fn an_app_does_not_wait_for_ever_for_a_webhook_that_cannot_be_removed() {
    let (world, operator) = connected(&unmanaged()).await;
    has_one(&world).await;
    operator.settled().await;
    let away = FaultKind::Status { status: 502, body: None, headers: [].into() };
    world.sim.inject(Fault::new("GET", "/repos/acme/shop/hooks*", away).times(100_000));
    world.delete::<GitHubApp>("", "landfall").await;
    let message = world.until_reason::<GitHubApp>("", "landfall", "WaitingForDependents").await;
    says(&message, &["15 minutes at most", "webhooks", "ProjectRepository team-a/shop"]);
    operator.settled().await;
    assert_eq!(left(&world), 1);
    world.live_through(&operator, SignedDuration::from_mins(16)).await;
    world.until_gone::<GitHubApp>("", "landfall").await;
    assert_eq!(left(&world), 1);
    operator.stop().await;
}

#[tokio::test]
async fn of_a_repository_that_is_gone_nothing_is_waited_for() {
    let (world, operator) = connected(&unmanaged()).await;
    has_one(&world).await;
    operator.settled().await;
    world.sim.delete_repository("acme/shop").unwrap();
    world.delete::<ProjectRepository>("team-a", "shop").await;
    // The clock stands still, so anything that waits for a time would wait forever.
    world.until_gone::<ProjectRepository>("team-a", "shop").await;
    operator.stop().await;
}

#[tokio::test]
async fn two_objects_that_want_it_at_once_have_one() {
    let (world, operator) = connected(&Value::Null).await;
    let mut both = [("team-a", Value::Null), ("team-b", Value::Null)];
    for (namespace, object) in &mut both {
        *object = objects::repository("shop", &own(&json!({})));
        object["metadata"]["namespace"] = json!(namespace);
        world.apply::<ProjectRepository>(object).await;
        world.until_reason::<ProjectRepository>(namespace, "shop", "WaitingForReference").await;
    }
    operator.settled().await;
    // The first one creates the webhook only after the other has found none.
    world.sim.inject(Fault::new("POST", "/repos/acme/shop/hooks", FaultKind::Delay { milliseconds: 1500 }).times(1));
    world.apply::<GitHubApp>(&app(&world, &unmanaged())).await;
    world
        .until("both have asked", async || (world.calls("POST", "/repos/{owner}/{repo}/hooks") > 0).then_some(()))
        .await;
    operator.settled().await;
    world.live_through(&operator, SignedDuration::from_mins(2)).await;
    for (namespace, _) in both {
        let object = value::<ProjectRepository>(&world, namespace, "shop").await;
        assert_eq!(ready(&object)["reason"], "Observed", "{object}");
    }
    assert_eq!(left(&world), 1);
    operator.stop().await;
}

#[tokio::test]
async fn a_secret_that_a_person_exchanged_is_set_anew() {
    let (world, operator) = connected(&json!({"url": BASE})).await;
    has_one(&world).await;
    operator.settled().await;
    let theirs = || HookChange { secret: Some("theirs".into()), ..HookChange::default() };
    let own = || ours(&world, "acme/shop").remove(0);
    let exchange = || {
        world.sim.change_hook(own().id, theirs()).unwrap();
        world.sim.change_hook(world.sim.app_hook("landfall").unwrap().id, theirs()).unwrap();
    };
    let are_repaired = async || {
        is_as_it_should_be(&world, &own(), SHOP, Hook::Repository(id(9001))).await;
        let url = format!("{BASE}/webhooks/app/landfall");
        is_as_it_should_be(&world, &world.sim.app_hook("landfall").unwrap(), &url, Hook::App).await;
    };
    exchange();
    ask(&world, "shop").await;
    look(&world).await;
    operator.settled().await;
    are_repaired().await;
    exchange();
    world.live_through(&operator, SignedDuration::from_hours(30)).await;
    are_repaired().await;
    operator.stop().await;
}
