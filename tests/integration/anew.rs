//! An object that is deleted and created again under its name while work for it is under way.

use crate::repository::{follow, is_git, status};
use crate::scene::connected;
use github_sim::{Fault, FaultKind};
use landfall::api::ProjectRepository;
use landfall_world::objects;
use serde_json::{Value, json};

/// The look at shop takes so long that its result is written when the name belongs to another object, for lib-core.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_for_the_object_before_is_not_believed() {
    let (world, operator) = connected().await;
    // This creates the token for reading.
    follow(&world, "warm", &json!({"source": {"existing": {"name": "shop"}}}), "Observed").await;
    operator.settled().await;
    world.sim.reset_requests();
    world.sim.inject(Fault::new("POST", "/acme/shop.git/*", FaultKind::Delay { milliseconds: 10_000 }).times(1));
    let source = |name: &str| objects::repository("one", &json!({"source": {"existing": {"name": name}}}));
    world.apply::<ProjectRepository>(&source("shop")).await;
    // The simulator records a call when it answers it. It has answered the request for the token, and the look itself
    // takes longer.
    world.until("the look is under way", async || (world.mints() > 0).then_some(())).await;
    world.delete::<ProjectRepository>("team-a", "one").await;
    world.until_gone::<ProjectRepository>("team-a", "one").await;
    let made = world.apply::<ProjectRepository>(&source("lib-core")).await;

    let is_answered = async || {
        let all = world.sim.requests();
        all.iter().find(|request| is_git(request) && request.path.contains("shop"))?.status
    };
    world.until("the look at shop ended", is_answered).await;
    operator.settled().await;
    let is_bound = async || (status(&world, "one").await["repositoryID"] == 9002).then_some(());
    world.until("it is bound to what its spec says", is_bound).await;
    operator.settled().await;
    let shown = status(&world, "one").await;
    assert_eq!((&shown["fullName"], &shown["uid"]), (&json!("acme/lib-core"), &json!(made.metadata.uid)));
    assert_ne!(shown["head"], Value::Null);
    operator.stop().await;
}
