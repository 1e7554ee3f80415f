//! The cost of other tenants' objects and of removed grants for tenants with a grant.

use crate::repository::{comes_to, follow};
use crate::scene::{connected, says};
use github_sim::RepositorySeed;
use jiff::SignedDuration;
use landfall::api::{GitHubApp, GitHubInstallation, ProjectRepository};
use landfall_world::objects;
use serde_json::json;

#[tokio::test]
async fn an_id_written_into_status_where_nothing_was_granted_costs_nobody_anything() {
    let (world, operator) = connected().await;
    for number in 0..6 {
        let name = format!("lib-{number}");
        let seed = RepositorySeed { owner: "acme".into(), name: name.clone(), private: true, ..Default::default() };
        world.sim.create_repository(&seed).unwrap();
        follow(&world, &name, &json!({"pollInterval": "1h"}), "Observed").await;
    }
    operator.settled().await;
    operator.kill();
    let elsewhere = json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
        "metadata": {"name": "acme", "namespace": "team-b"}, "spec": {"appRef": {"name": "landfall"}, "account": "acme"},
    });
    world.apply::<GitHubInstallation>(&elsewhere).await;
    let mut spy = objects::repository("spy", &json!({}));
    spy["metadata"]["namespace"] = json!("team-b");
    world.apply::<ProjectRepository>(&spy).await;
    world.merge_status::<ProjectRepository>("team-b", "spy", &json!({"id": 424_242})).await.unwrap();
    world.sim.reset_requests();
    let operator = world.operator().await;
    world.until("it has begun", async || (world.mints() > 0).then_some(())).await;
    world.live_through(&operator, SignedDuration::from_hours(3)).await;
    // One token for all, every 55 minutes.
    assert!((1..=4).contains(&world.mints()), "{} mints", world.mints());
    operator.stop().await;
}

#[tokio::test]
async fn an_account_that_is_granted_no_more_is_said_as_such() {
    let (world, operator) = connected().await;
    follow(&world, "shop", &json!({}), "Observed").await;
    world.apply::<GitHubApp>(&objects::app(&world, &json!([]))).await;
    says(&comes_to(&world, "shop", "AccountNotGranted").await, &["account acme", "spec.tenants"]);
    operator.settled().await;
    comes_to(&world, "shop", "AccountNotGranted").await;
    // The installation that was made for the grant is removed with the last object that refers to it.
    assert!(world.get::<GitHubInstallation>("team-a", "acme").await.is_some());
    world.delete::<ProjectRepository>("team-a", "shop").await;
    world.until_gone::<GitHubInstallation>("team-a", "acme").await;
    operator.stop().await;
}
