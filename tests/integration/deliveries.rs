//! Deliveries as the receiver writes them: each makes the operator look, and has no other effect.

use crate::repository::{changes, comes_to, follow, looks, status};
use crate::scene::{connected, value};
use jiff::SignedDuration;
use landfall::api::{GitHubApp, GitHubInstallation, ProjectRepository};
use landfall_world::World;
use landfall_world::inbox::logged;
use serde_json::{Value, json};

async fn deliver(world: &World, guid: &str, delivery: &Value) {
    world.deliver(("team-a", "shop"), guid, delivery).await;
}

async fn becomes(world: &World, guid: &str, result: &str) {
    let is_marked = async || (logged(&status(world, "shop").await, guid)["result"] == result).then_some(());
    world.until(&format!("{guid} is {result}"), is_marked).await;
}

async fn shows(world: &World, field: &str, expected: &str) {
    let is_shown = async || (status(world, "shop").await.pointer(field)? == expected).then_some(());
    world.until(&format!("{field} is {expected}"), is_shown).await;
}

/// The clock stands still except at the end, so the deliveries cause everything.
#[tokio::test]
async fn a_delivery_makes_the_operator_look_and_nothing_else() {
    let (world, operator) = connected().await;
    follow(&world, "shop", &json!({}), "Observed").await;
    operator.settled().await;
    let pushed = world.push("acme/shop", "main");
    deliver(&world, "first", &json!({"event": "push", "ref": "refs/heads/main", "sha": pushed})).await;
    becomes(&world, "first", "Handled").await;
    shows(&world, "/head/sha", &pushed).await;

    // A push to another branch, or a tag, needs no look.
    operator.settled().await;
    world.sim.reset_requests();
    deliver(&world, "branch", &json!({"event": "push", "ref": "refs/heads/mainly", "sha": pushed})).await;
    deliver(&world, "tag", &json!({"event": "push", "ref": "refs/tags/main", "sha": pushed})).await;
    becomes(&world, "branch", "Ignored").await;
    becomes(&world, "tag", "Ignored").await;
    operator.settled().await;
    assert_eq!(world.sim.requests().len(), 0);

    // A push that never happened, and one that is delivered again, lead to the true state.
    deliver(&world, "forged", &json!({"event": "push", "ref": "refs/heads/main", "sha": "f".repeat(40)})).await;
    becomes(&world, "forged", "Handled").await;
    operator.settled().await;
    assert_eq!(status(&world, "shop").await["head"]["sha"], json!(pushed));
    let second = world.push("acme/shop", "main");
    deliver(&world, "first", &json!({"event": "push", "ref": "refs/heads/main", "sha": pushed})).await;
    shows(&world, "/head/sha", &second).await;
    assert_eq!(logged(&status(&world, "shop").await, "first")["attempts"], 2);

    // A change to the repository itself is seen at once.
    world.sim.rename_repository("acme/shop", "lib-shop").unwrap();
    deliver(&world, "renamed", &json!({"event": "repository", "action": "renamed"})).await;
    becomes(&world, "renamed", "Handled").await;
    shows(&world, "/fullName", "acme/lib-shop").await;
    world.sim.set_archived("acme/lib-shop", true).unwrap();
    deliver(&world, "archived", &json!({"event": "repository", "action": "archived"})).await;
    comes_to(&world, "shop", "RepositoryArchived").await;
    world.sim.set_archived("acme/lib-shop", false).unwrap();
    deliver(&world, "unarchived", &json!({"event": "repository", "action": "unarchived"})).await;
    comes_to(&world, "shop", "Observed").await;
    // Missing or meaningless fields do not stop the operator.
    deliver(&world, "odd", &json!({"event": "no-such-event", "ref": ""})).await;
    becomes(&world, "odd", "Handled").await;
    assert!(changes(&world).is_empty());

    a_flood_is_rationed(&world, &operator).await;
    the_apps_deliveries(&world).await;
    operator.stop().await;
}

async fn a_flood_is_rationed(world: &World, operator: &landfall_world::operator::Operator) {
    const FLOOD: usize = 45;
    operator.settled().await;
    world.advance(SignedDuration::from_mins(5));
    operator.settled().await;
    world.sim.reset_requests();
    for number in 0..FLOOD {
        let guid = format!("flood-{number}");
        deliver(world, &guid, &json!({"event": "push", "ref": "refs/heads/main", "sha": "f".repeat(40)})).await;
        operator.settled().await;
    }
    let looked = looks(world);
    assert!((2..=20).contains(&looked), "{looked} looks for {FLOOD} deliveries in no time");
    // The remaining deliveries wait, and one look handles all of them.
    world.live_through(operator, SignedDuration::from_secs(10)).await;
    becomes(world, &format!("flood-{}", FLOOD - 1), "Handled").await;
    assert!(looks(world) <= looked + 3);
    // The annotation causes no more looks than that.
    world.sim.reset_requests();
    for number in 0..FLOOD {
        let change = json!({"metadata": {"annotations": {"landfall.dev/reconcile": format!("{number}")}}});
        world.merge::<ProjectRepository>("team-a", "shop", &change).await.unwrap();
        operator.settled().await;
    }
    assert!(looks(world) <= 20, "{} looks for {FLOOD} annotations in no time", looks(world));
}

async fn the_apps_deliveries(world: &World) {
    world.sim.suspend(501).unwrap();
    world.deliver_to_app("suspended", &json!({"event": "installation", "action": "suspend"})).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "InstallationSuspended").await;
    let is_handled = async || {
        let app = value::<GitHubApp>(world, "", "landfall").await;
        (logged(&app["status"], "suspended")["result"] == "Handled").then_some(())
    };
    world.until("the App's delivery is handled", is_handled).await;
    comes_to(world, "shop", "InstallationSuspended").await;
}
