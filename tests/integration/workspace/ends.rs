//! The end of a workspace, and the objects that wait for it.

use super::{OBJECTS, Team, nothing_to_do};
use crate::scene::value;
use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use landfall::api::{GitHubInstallation, InstallationToken, ProjectRepository, WORK_FINALIZER, Workspace};
use landfall::guards::Sabotage;
use serde_json::json;

/// The deletion of a namespace deletes everything in it, in an order that the cluster chooses.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_save_needs_waits_for_it() {
    let team = Team::new(Sabotage::default()).await;
    team.works(&json!({})).await;
    let (world, before) = (&team.world, team.world.sim.live_tokens().len());
    let installation = async || world.get::<GitHubInstallation>("team-a", "acme").await;
    let uid = installation().await.and_then(|installation| installation.uid());
    let held = |finalizers: &[&str]| json!({"metadata": {"finalizers": finalizers}});
    world.merge::<Pod>("team-a", OBJECTS, &held(&["test.landfall.dev/saves"])).await.expect("it takes its time to end");
    world.delete::<Workspace>("team-a", "try").await;
    world.delete::<GitHubInstallation>("team-a", "acme").await;
    world.delete::<InstallationToken>("team-a", OBJECTS).await;
    let message = world.until_reason::<GitHubInstallation>("team-a", "acme", "WaitingForDependents").await;
    assert!(message.contains("InstallationToken team-a/ws-try"), "{message}");
    team.operator.settled().await;
    assert_eq!(world.sim.live_tokens().len(), before, "it is saved with it");
    assert_eq!(installation().await.and_then(|installation| installation.uid()), uid);

    team.say("team-a", OBJECTS, &nothing_to_do()).await;
    world.merge::<Pod>("team-a", OBJECTS, &held(&[])).await.expect("it ended");
    world.until_gone::<Workspace>("team-a", "try").await;
    world.until_gone::<InstallationToken>("team-a", OBJECTS).await;
    // The App's controller creates another one.
    let is_gone = async || (installation().await?.uid() != uid).then_some(());
    world.until("the installation is gone", is_gone).await;
    let claim = world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await;
    assert!(claim.is_none_or(|claim| !claim.finalizers().iter().any(|name| name == WORK_FINALIZER)));
    team.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_named_without_our_label_on_it_too() {
    let team = Team::new(Sabotage::default()).await;
    let world = &team.world;
    let spec = json!({"containers": [{"name": "main", "image": "none.invalid/none"}]});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": OBJECTS, "namespace": "team-a"}, "spec": spec,
    });
    let theirs = world.apply::<Pod>(&pod).await.uid();
    team.make("try", &json!({})).await;
    let message = world.until_reason::<Workspace>("team-a", "try", "NameTaken").await;
    assert!(message.contains("Pod ws-try"), "{message}");
    world.delete_now::<Pod>("team-a", OBJECTS).await;
    let ours = async || {
        world.advance(SignedDuration::from_secs(30));
        team.operator.settled().await;
        let pod = world.get::<Pod>("team-a", OBJECTS).await?;
        (pod.uid() != theirs).then_some(())
    };
    world.until("it goes on when the other pod is gone", ours).await;
    team.end().await;
}

/// A pod that runs goes on without its ProjectRepository. None is started without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_workspace_waits_for_its_repository_when_it_is_to_run_again() {
    let team = Team::new(Sabotage::default()).await;
    let world = &team.world;
    team.works(&json!({})).await;
    let set = async |mode: &str| {
        world.merge::<Workspace>("team-a", "try", &json!({"spec": {"operatingMode": mode}})).await.expect("it is set");
    };
    set("Suspended").await;
    world.until_reason::<Workspace>("team-a", "try", "WorkspaceSuspended").await;
    let repository = value::<ProjectRepository>(world, "team-a", "shop").await;
    world.delete::<ProjectRepository>("team-a", "shop").await;
    world.until_gone::<ProjectRepository>("team-a", "shop").await;
    set("Running").await;
    let message = world.until_reason::<Workspace>("team-a", "try", "WaitingForReference").await;
    assert!(message.contains("no ProjectRepository shop in namespace team-a any more"), "{message}");
    team.operator.settled().await;
    assert!(world.get::<Pod>("team-a", OBJECTS).await.is_none());

    let again = |repository: &str| {
        json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "ProjectRepository",
            "metadata": {"name": "shop", "namespace": "team-a"},
            "spec": {"installationRef": {"name": "acme"}, "source": {"existing": {"name": repository}}},
        })
    };
    world.apply::<ProjectRepository>(&again("lib-core")).await;
    let message = world.until_reason::<Workspace>("team-a", "try", "InvalidSpec").await;
    assert!(message.contains("the volume has a clone of the one with id 9001"), "{message}");
    assert_eq!(repository["status"]["repositoryID"], 9001);
    world.delete::<ProjectRepository>("team-a", "shop").await;
    world.until_gone::<ProjectRepository>("team-a", "shop").await;
    world.apply::<ProjectRepository>(&again("shop")).await;
    world.until("there is a pod", async || world.get::<Pod>("team-a", OBJECTS).await.map(drop)).await;
    team.end().await;
}

/// If somebody removes the finalizer of a workspace by hand, its volume is kept when the claim is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_workspace_is_gone_is_kept_and_does_not_hang() {
    let team = Team::new(Sabotage::default()).await;
    let world = &team.world;
    team.works(&json!({})).await;
    let volume =
        world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await.unwrap().spec.unwrap().volume_name.unwrap();
    let team = team
        .restarted(async |world| {
            world
                .merge::<Workspace>("team-a", "try", &json!({"metadata": {"finalizers": null}}))
                .await
                .expect("let go");
            world.delete::<Workspace>("team-a", "try").await;
            world.until_gone::<Workspace>("team-a", "try").await;
            world.delete::<PersistentVolumeClaim>("team-a", OBJECTS).await;
        })
        .await;
    let world = &team.world;
    let kept = async || {
        let volume = world.get::<PersistentVolume>("", &volume).await?;
        let is_kept = volume.labels().contains_key("landfall.dev/retained");
        is_kept.then(|| volume.spec.unwrap().persistent_volume_reclaim_policy.unwrap())
    };
    assert_eq!(world.until("the volume is kept", kept).await, "Retain");
    let let_go = async || {
        let claim = world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await;
        claim.is_none_or(|claim| !claim.finalizers().iter().any(|name| name == WORK_FINALIZER)).then_some(())
    };
    world.until("the claim is let go", let_go).await;
    team.end().await;
}

/// A token whose spec is outdated is corrected, even if that removes permissions.
#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_wants_no_pull_request_any_more_has_a_token_that_opens_none() {
    let team = Team::new(Sabotage::default()).await;
    let world = &team.world;
    team.works(&json!({})).await;
    world
        .merge::<Workspace>("team-a", "try", &json!({"spec": {"pullRequest": {"mode": "None"}}}))
        .await
        .expect("edited");
    let narrowed = async || {
        let token = world.get::<InstallationToken>("team-a", OBJECTS).await?;
        (!token.spec.permissions.contains_key("pull_requests")).then_some(())
    };
    world.until("the token is narrowed", narrowed).await;
    world.until_reason::<Workspace>("team-a", "try", "Running").await;
    team.end().await;
}

/// A pod that the watches no longer bring still has work on the volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_lost_its_label_is_ended_before_a_job_saves() {
    let team = Team::new(Sabotage::default()).await;
    let world = &team.world;
    team.works(&json!({})).await;
    let change = |finalizers: &[&str]| json!({"metadata": {"labels": {"landfall.dev/workspace": null}, "finalizers": finalizers}});
    world.merge::<Pod>("team-a", OBJECTS, &change(&["test.landfall.dev/saves"])).await.expect("changed");
    team.operator.settled().await;
    world.delete::<Workspace>("team-a", "try").await;
    let told = async || world.get::<Pod>("team-a", OBJECTS).await?.metadata.deletion_timestamp.map(drop);
    world.until("the pod is told to end", told).await;
    team.operator.settled().await;
    assert_eq!(super::list::<Job>(world).await.len(), 0, "it is there, and writes maybe");
    world.merge::<Pod>("team-a", OBJECTS, &change(&[])).await.expect("it ended");
    let saves = async || {
        world.advance(SignedDuration::from_secs(10));
        team.operator.settled().await;
        (!super::list::<Job>(world).await.is_empty()).then_some(())
    };
    world.until("a Job saves", saves).await;
    team.end().await;
}
