//! The volume of a workspace that was removed by force, and a workspace of the same name.

use super::{BRANCH, OBJECTS, Team, workspace};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use landfall::api::{ADOPT_ANNOTATION, Workspace};
use landfall::guards::Sabotage;
use landfall_world::World;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn the_volume_of_a_former_workspace_is_named_and_taken_over_when_asked() {
    let team = Team::new(Sabotage::default()).await;
    let former = team.works(&json!({})).await.uid().expect("a uid");
    let claim = async |world: &World| world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await.expect("the claim");
    let before = claim(&team.world).await.uid();
    let lose = async |world: &World| {
        let free = json!({"metadata": {"finalizers": null}});
        world.merge::<Workspace>("team-a", "try", &free).await.expect("let go");
        world.delete::<Workspace>("team-a", "try").await;
        world.until_gone::<Workspace>("team-a", "try").await;
        world.delete_now::<Pod>("team-a", OBJECTS).await;
        world.apply::<Workspace>(&workspace("try", &json!({}))).await;
    };
    let team = team.restarted(lose).await;
    let asked = format!("{ADOPT_ANNOTATION}={former}");
    let told = async || {
        team.operator.settled().await;
        let conditions = team.world.get::<Workspace>("team-a", "try").await?.status?.conditions;
        conditions.into_iter().find(|it| it.type_ == "Ready" && it.message.contains(&asked))
    };
    let told = team.world.until("the former workspace is named", told).await;
    assert_eq!(told.reason, "NameTaken");
    assert!(!told.message.contains("delete"), "{}", told.message);
    let change = json!({"metadata": {"annotations": {ADOPT_ANNOTATION: former}}});
    let now = team.world.merge::<Workspace>("team-a", "try", &change).await.expect("annotated").uid();
    team.run("try", BRANCH).await;
    let after = claim(&team.world).await;
    assert_eq!(after.uid(), before);
    assert_eq!(after.annotations().get("landfall.dev/workspace-uid"), now.as_ref());
    team.end().await;
}
