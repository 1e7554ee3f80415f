//! `ProjectRepository`: found, pinned by id, its head followed.

use crate::scene::connected;
use crate::world::objects;
use jiff::SignedDuration;
use landfall::api::ProjectRepository;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_found_by_name_and_its_head_is_followed() {
    let (world, operator) = connected().await;
    let mark = world.audit.mark().unwrap();
    world.apply::<ProjectRepository>(&objects::repository("shop", &json!({}))).await;
    world.until_reason::<ProjectRepository>("team-a", "shop", "Observed").await;
    operator.settled().await;
    let status = world.get::<ProjectRepository>("team-a", "shop").await.unwrap().status.unwrap();
    assert_eq!((status.id, status.full_name.as_deref()), (Some(9001), Some("acme/shop")));
    let first = status.head.unwrap();
    assert_eq!(first.branch, "main");
    assert_eq!(world.writes_since(mark).iter().filter(|write| write.resource == "projectrepositories").count(), 1);

    let pushed = world.push("acme/shop", "main");
    world.live_through(&operator, SignedDuration::from_mins(13)).await;
    let status = world.get::<ProjectRepository>("team-a", "shop").await.unwrap().status.unwrap();
    assert_eq!(status.head.unwrap().sha, pushed);
}
