//! The cost of an idle workspace, in the records of the API server and of GitHub.

use super::Team;
use jiff::SignedDuration;
use landfall::guards::Sabotage;
use landfall_world::OPERATOR;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_workspace_costs_no_write_and_a_listing_every_ten_minutes() {
    let team = Team::new(Sabotage::default()).await;
    let world = &team.world;
    team.works(&json!({})).await;
    team.operator.settled().await;
    let mark = world.audit.mark().unwrap();
    world.sim.reset_requests();
    // No token is due for renewal yet.
    world.live_through(&team.operator, SignedDuration::from_mins(40)).await;
    let mut writes = world.writes_since(mark);
    writes.retain(|write| write.user == OPERATOR && write.resource != "leases");
    assert!(writes.is_empty(), "{writes:?}");
    let calls = world.sim.requests();
    let listings = calls.iter().filter(|call| call.path.ends_with("/git-upload-pack")).count();
    assert!((3..=5).contains(&listings), "{listings}: {calls:?}");
    let others = calls.iter().filter(|call| !call.path.contains(".git/")).count();
    assert!(others <= 6, "the App's looks alone: {others}: {calls:?}");
    team.end().await;
}
