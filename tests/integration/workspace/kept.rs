//! Volumes that are kept: whose they are, and what else has them.

use super::{OBJECTS, Team, list, nothing_to_do};
use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PropagationPolicy};
use landfall::api::{CLONED_ANNOTATION, RETAINED_ANNOTATION, Workspace};
use landfall::guards::Sabotage;
use landfall_world::World;
use serde_json::json;

/// The volume of the workspace `try`.
async fn volume(world: &World) -> PersistentVolume {
    let claim = world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await.expect("the claim");
    let name = claim.spec.and_then(|spec| spec.volume_name).expect("its volume");
    world.get::<PersistentVolume>("", &name).await.expect("the volume")
}

/// Why a volume was kept. `None`: it is not kept.
async fn kept(world: &World, name: &str) -> Option<String> {
    let volume = world.get::<PersistentVolume>("", name).await?;
    volume.annotations().get(RETAINED_ANNOTATION).cloned()
}

/// A pod that a person starts to look at the files on the claim.
async fn rescue(world: &World) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rescue", "namespace": "team-a", "finalizers": ["test.landfall.dev/stays"]},
        "spec": {
            "nodeName": "somewhere", "containers": [{"name": "main", "image": "none.invalid/none"}],
            "volumes": [{"name": "kept", "persistentVolumeClaim": {"claimName": OBJECTS}}],
        },
    });
    world.apply::<Pod>(&pod).await;
}

impl Team {
    /// Lets time pass until the workspace `try` is gone.
    async fn until_ended(&self) {
        let gone = async || {
            self.operator.settled().await;
            self.world.advance(SignedDuration::from_secs(10));
            self.world.get::<Workspace>("team-a", "try").await.is_none().then_some(())
        };
        self.world.until("the workspace is gone", gone).await;
    }
}

/// Nobody but the operator can write a volume, so the mark of a clone on it outlives a forged status and a new process.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_on_which_a_clone_was_seen_is_kept_when_a_save_finds_nothing() {
    let team = Team::new(Sabotage::default()).await;
    team.works(&json!({})).await;
    let marked = async || volume(&team.world).await.annotations().get(CLONED_ANNOTATION).cloned();
    let claim = team.world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await.and_then(|claim| claim.uid());
    assert_eq!(team.world.until("the volume is marked", marked).await, claim.expect("its uid"));
    let forge = async |world: &World| {
        let status = json!({"timings": null, "git": null});
        world.merge_status::<Workspace>("team-a", "try", &status).await.expect("a tenant may");
        world.delete::<Workspace>("team-a", "try").await;
        world.delete_now::<Pod>("team-a", OBJECTS).await;
    };
    let name = volume(&team.world).await.name_any();
    let team = team.restarted(forge).await;
    let saver = async || {
        team.operator.settled().await;
        let is_saver = |pod: &Pod| pod.labels().get("landfall.dev/role").is_some_and(|role| role == "save");
        list::<Pod>(&team.world).await.into_iter().find(is_saver)
    };
    let saver = team.world.until("a Job looks at the volume", saver).await.name_any();
    let ended = json!({"terminated": {"exitCode": 0, "message": json!({"outcome": "NothingToDo"}).to_string()}});
    let status = json!({"phase": "Succeeded", "containerStatuses": [super::container("save", &ended)]});
    team.world.merge_status::<Pod>("team-a", &saver, &status).await.expect("the pod's status");
    let why = team.world.until("the volume is kept", async || kept(&team.world, &name).await).await;
    assert!(why.contains("looks empty"), "{why}");
    team.until_ended().await;
    team.end().await;
}

/// The work was read back, and a person still has the volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_another_pod_has_is_kept() {
    let team = Team::new(Sabotage::default()).await;
    team.works(&json!({})).await;
    let name = volume(&team.world).await.name_any();
    rescue(&team.world).await;
    // The note of a save that was read back: the operator goes on from there.
    let safe = json!({
        "commit": null, "reference": "refs/heads/x", "is_on_branch": true, "at": "2026-01-01T00:00:00Z", "message": "m",
    });
    let note = json!({"metadata": {"annotations": {"landfall.dev/saved": safe.to_string()}}});
    team.world.merge::<PersistentVolumeClaim>("team-a", OBJECTS, &note).await.expect("noted");
    team.world.delete::<Workspace>("team-a", "try").await;
    let why = async || {
        team.operator.settled().await;
        team.world.advance(SignedDuration::from_secs(10));
        kept(&team.world, &name).await
    };
    let why = team.world.until("the volume is kept", why).await;
    assert!(why.contains("pod rescue had the volume"), "{why}");
    team.until_ended().await;
    team.end().await;
}

/// A pod that a person started writes to the volume while it is saved: the save is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_save_beside_another_pod_is_repeated() {
    let team = Team::new(Sabotage::default()).await;
    team.works(&json!({})).await;
    rescue(&team.world).await;
    team.say("team-a", OBJECTS, &nothing_to_do()).await;
    assert!(!team.loses_the_volume().await);
    team.end().await;
}

/// `kubectl delete workspace --cascade=orphan` removes the owner references of the pod, which still has the volume.
#[tokio::test(flavor = "multi_thread")]
async fn the_pod_of_an_orphaning_deletion_is_ended_before_a_job_saves() {
    let team = Team::new(Sabotage::default()).await;
    let world = &team.world;
    team.works(&json!({})).await;
    let held = |finalizers: &[&str]| json!({"metadata": {"finalizers": finalizers}});
    world.merge::<Pod>("team-a", OBJECTS, &held(&["test.landfall.dev/saves"])).await.expect("it takes its time to end");
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    let workspaces: Api<Workspace> = Api::namespaced(world.admin.clone(), "team-a");
    workspaces.delete("try", &params).await.expect("deleted");
    let told = async || {
        let pod = world.get::<Pod>("team-a", OBJECTS).await?;
        (pod.owner_references().is_empty() && pod.metadata.deletion_timestamp.is_some()).then_some(())
    };
    world.until("it has no owner, and is told to end", told).await;
    team.operator.settled().await;
    assert_eq!(list::<Job>(world).await.len(), 0, "the pod is there, and may write");
    world.merge::<Pod>("team-a", OBJECTS, &held(&[])).await.expect("it ended");
    let saves = async || {
        world.advance(SignedDuration::from_secs(10));
        team.operator.settled().await;
        (!list::<Job>(world).await.is_empty()).then_some(())
    };
    world.until("a Job saves", saves).await;
    team.end().await;
}

/// Everybody who may create claims could otherwise have volumes kept without end, past their quota.
#[tokio::test(flavor = "multi_thread")]
async fn the_volume_of_a_claim_that_no_workspace_had_is_not_kept() {
    let team = Team::new(Sabotage::default()).await;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "ws-forged", "namespace": "team-a", "finalizers": ["landfall.dev/work"],
            "labels": {"landfall.dev/workspace": "forged"},
            "annotations": {"landfall.dev/workspace-uid": "11111111-2222-3333-4444-555555555555", CLONED_ANNOTATION: "x"},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    });
    team.world.apply::<PersistentVolumeClaim>(&claim).await;
    let name = team.bind("team-a", "ws-forged").await;
    team.world.delete::<PersistentVolumeClaim>("team-a", "ws-forged").await;
    team.world.until_gone::<PersistentVolumeClaim>("team-a", "ws-forged").await;
    assert_eq!(kept(&team.world, &name).await, None);
    team.end().await;
}
