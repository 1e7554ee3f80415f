//! Each head is rolled out once, the newest in the end, one at a time, across restarts.

use super::{Team, stamp, workload};
use crate::scene::says;
use github_sim::RepositorySeed;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use landfall::api::{DeploymentResult, ProjectRepository};
use landfall_world::{World, objects};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn each_push_rolls_once_as_the_service_account() {
    let team = Team::new("once").await;
    assert_eq!((team.rolled().await, team.patches()), (Vec::new(), 0), "the first head is where it begins");
    assert_eq!(team.deployment().await.sequence, 0);
    let first = team.deploy().await;
    assert_eq!(team.rolled().await, [(1, first.clone())]);
    assert_eq!(team.deployed().await.0, "RolledOut");
    // A further look does nothing.
    let mark = team.world.audit.mark().unwrap();
    team.look().await;
    team.lives(3600).await;
    assert!(team.world.writes_since(mark).iter().all(|write| write.group != "apps"));
    // A push to another branch, and a return to the older commit.
    let second = team.world.push("acme/shop", "next");
    for (sequence, branch, sha) in [(2, "next", &second), (3, "main", &first)] {
        let change = json!({"spec": {"branch": branch}});
        team.world.merge::<ProjectRepository>("team-a", "shop", &change).await.expect("another branch");
        team.look().await;
        team.lives(4).await;
        team.pods_run().await;
        team.lives(31).await;
        let deployment = team.deployment().await;
        assert_eq!((deployment.sequence, &deployment.sha), (sequence, sha));
        assert_eq!(deployment.result, DeploymentResult::Succeeded);
    }
    // The ReplicaSet of the first template is used again only if the template is the same. It has another sequence.
    assert_eq!(team.rolled().await, [(1, first.clone()), (2, second), (3, first)]);
    assert_eq!(team.patches(), 3);
    team.nothing_was_asked_as_the_operator();
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_pushes_the_newest_is_rolled_and_few_besides() {
    let team = Team::new("many").await;
    let mut newest = String::new();
    for number in 0..20 {
        newest = team.world.push("acme/shop", "main");
        if number % 3 == 0 {
            team.look().await;
        }
        team.world.advance(SignedDuration::from_millis(50));
    }
    team.lives(4).await;
    team.pods_run().await;
    team.lives(31).await;
    let rolled = team.rolled().await;
    assert_eq!(rolled.last().map(|(_, sha)| sha), Some(&newest));
    assert!(rolled.len() <= 2, "{rolled:?}");
    assert_eq!(team.deployment().await.sha, newest);
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_another_branch_rolls_nothing() {
    let team = Team::new("elsewhere").await;
    team.world.push("acme/shop", "feature");
    team.look().await;
    team.lives(1800).await;
    assert_eq!((team.rolled().await, team.patches()), (Vec::new(), 0));
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_in_flight_and_the_next_waits() {
    let team = Team::new("flight").await;
    let first = team.push().await;
    team.lives(1).await;
    let second = team.push().await;
    team.lives(30).await;
    let running = team.deployment().await;
    assert_eq!((&running.sha, running.result), (&first, DeploymentResult::Running));
    assert_eq!(team.patches(), 1);
    team.until_rolled(&[(1, first.clone())]).await;
    team.pods_run().await;
    team.lives(40).await;
    team.pods_run().await;
    team.lives(31).await;
    assert_eq!(team.rolled().await, [(1, first.clone()), (2, second.clone())]);
    assert_eq!(team.deployment().await.result, DeploymentResult::Succeeded);
    // A deployment that hangs yields to the next within about a minute.
    let third = team.push().await;
    let mut all = vec![(1, first), (2, second), (3, third)];
    team.until_rolled(&all).await;
    all.push((4, team.push().await));
    team.lives(90).await;
    team.until_rolled(&all).await;
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_at_any_point_goes_on_where_it_was() {
    let mut team = Team::new("restart").await;
    let sha = team.world.push("acme/shop", "main");
    team.look().await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Waiting);
    team = team.restarted(async |_| ()).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Waiting);
    team.lives(4).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Running);
    team = team.restarted(async |_| ()).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Running);
    team.pods_run().await;
    team.lives(31).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Succeeded);
    // Status was lost, as after a restored backup, but the templates have the deployment.
    let lost = async |world: &World| {
        let gone = json!({"deployment": null});
        world.merge_status::<ProjectRepository>("team-a", "shop", &gone).await.expect("status is lost");
    };
    team = team.restarted(lost).await;
    team.lives(31).await;
    let deployment = team.deployment().await;
    assert_eq!((&deployment.sha, deployment.sequence, deployment.result), (&sha, 1, DeploymentResult::Succeeded));
    assert_eq!((team.rolled().await, team.patches()), (vec![(1, sha)], 1));
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_kubernetes_gives_up_has_failed() {
    let team = Team::without_rights("given-up").await;
    team.let_the_operator_act("team-a").await;
    team.let_the_account_roll("team-a").await;
    team.make_deployment(&json!({"progressDeadlineSeconds": 1})).await;
    team.pods_run().await;
    team.follow(&json!({"name": "given-up", "kind": "Deployment"})).await;
    let sha = team.push().await;
    team.world
        .until("Kubernetes gives it up", async || {
            let status = team.world.get::<Deployment>("team-a", "given-up").await?.status?;
            let gave_up = |reason: &Option<String>| reason.as_deref() == Some("ProgressDeadlineExceeded");
            status.conditions?.iter().any(|condition| gave_up(&condition.reason)).then_some(())
        })
        .await;
    team.lives(31).await;
    let failed = team.deployment().await;
    assert_eq!((failed.sequence, failed.result), (1, DeploymentResult::Failed));
    says(&failed.message.unwrap(), &["Deployment given-up", "of 2 pods updated", "landfall.dev/redeploy"]);
    assert_eq!(team.deployed().await.0, "RolloutFailed");
    // Nothing more happens by itself. A request repeats it once.
    team.lives(3600).await;
    assert_eq!(team.rolled().await, [(1, sha.clone())]);
    let patience = json!({"spec": {"progressDeadlineSeconds": 600}});
    team.world.merge::<Deployment>("team-a", "given-up", &patience).await.expect("patience");
    team.annotate("landfall.dev/redeploy", "please").await;
    team.operator.settled().await;
    team.lives(2).await;
    team.pods_run().await;
    team.lives(31).await;
    let deployment = team.deployment().await;
    assert_eq!((&deployment.sha, deployment.sequence, deployment.result), (&sha, 2, DeploymentResult::Succeeded));
    assert_eq!(team.rolled().await, [(1, sha.clone()), (2, sha)]);
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_is_found_by_its_labels_and_rolled() {
    let team = Team::without_rights("labels").await;
    team.let_the_operator_act("team-a").await;
    team.let_the_account_roll("team-a").await;
    let selector = json!({"kind": "StatefulSet", "selector": {"matchLabels": {"app": "labels"}}});
    team.follow(&selector).await;
    let sha = team.push().await;
    let (reason, message) = team.deployed().await;
    assert_eq!(reason, "WaitingForReference");
    says(&message, &["there are no StatefulSets with app=labels"]);
    // It is created a moment later.
    team.world.apply::<StatefulSet>(&workload("StatefulSet", "labels", &json!({"serviceName": "labels"}))).await;
    team.lives(31).await;
    let of_template = async || {
        let set = team.world.get::<StatefulSet>("team-a", "labels").await?;
        stamp(&set.spec?.template.metadata?.annotations.unwrap_or_default())
    };
    assert_eq!(of_template().await, Some((1, sha.clone())));
    team.world
        .until("its pods are new", async || {
            team.mark_pods().await;
            let set = team.world.get::<StatefulSet>("team-a", "labels").await?;
            let status = set.status?;
            let is_new = status.current_revision == status.update_revision && status.updated_replicas == Some(2);
            let is_seen = status.observed_generation == set.metadata.generation;
            (is_seen && is_new && status.ready_replicas == Some(2)).then_some(())
        })
        .await;
    team.lives(31).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Succeeded);
    assert_eq!(team.patches(), 1);
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_nothing_is_rolled_and_then_the_newest() {
    let team = Team::new("paused").await;
    let pause = async |paused: bool| {
        team.world.merge::<ProjectRepository>("team-a", "shop", &json!({"spec": {"paused": paused}})).await.unwrap();
        team.operator.settled().await;
    };
    pause(true).await;
    team.push().await;
    let newest = team.push().await;
    team.lives(3600).await;
    assert_eq!((team.patches(), team.deployed().await.0.as_str()), (0, "Paused"));
    pause(false).await;
    team.lives(5).await;
    team.pods_run().await;
    team.lives(31).await;
    assert_eq!(team.rolled().await, [(1, newest)]);
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_commit_nothing_is_rolled() {
    let team = Team::without_rights("empty").await;
    let empty =
        RepositorySeed { owner: "acme".into(), name: "lib-empty".into(), empty: true, ..RepositorySeed::default() };
    team.world.sim.create_repository(&empty).expect("a repository");
    let restart = json!({"kind": "Deployment", "name": "empty"});
    let on_push = json!({"serviceAccountName": "empty", "actions": [{"rolloutRestart": restart}]});
    team.world.apply::<ProjectRepository>(&objects::repository("lib-empty", &json!({"onPush": on_push}))).await;
    team.world.until_reason::<ProjectRepository>("team-a", "lib-empty", "RepositoryEmpty").await;
    team.lives(3600).await;
    let object = team.world.get::<ProjectRepository>("team-a", "lib-empty").await.unwrap();
    let deployment = object.status.unwrap().deployment.expect("a beginning without a commit");
    assert_eq!((deployment.sha, deployment.sequence), ("0".repeat(40), 0));
    assert!(team.asked_as_the_account().is_empty());
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_push_to_a_branch_without_a_commit_is_rolled() {
    let team = Team::without_rights("first").await;
    team.let_the_operator_act("team-a").await;
    team.let_the_account_roll("team-a").await;
    team.make_deployment(&json!({})).await;
    team.pods_run().await;
    let restart = json!({"rolloutRestart": {"kind": "Deployment", "name": team.name}});
    let on_push = json!({"serviceAccountName": team.name, "actions": [restart]});
    let object = objects::repository("shop", &json!({"branch": "next", "onPush": on_push}));
    team.world.apply::<ProjectRepository>(&object).await;
    team.world.until_reason::<ProjectRepository>("team-a", "shop", "BranchNotFound").await;
    assert_eq!(team.comes_to(DeploymentResult::Succeeded).await.sha, "0".repeat(40));
    says(&team.deployed().await.1, &["no commit", "its first one is rolled out"]);
    let first = team.world.push("acme/shop", "next");
    team.look().await;
    team.lives(4).await;
    team.pods_run().await;
    team.lives(31).await;
    assert_eq!(team.rolled().await, [(1, first)]);
    assert_eq!(team.deployed().await.0, "RolledOut");
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_missing_is_named_before_the_first_push() {
    let team = Team::without_rights("absent").await;
    team.let_the_operator_act("team-a").await;
    team.let_the_account_roll("team-a").await;
    team.follow(&json!({"name": team.name, "kind": "Deployment"})).await;
    let (reason, message) = team.deployed().await;
    assert_eq!(reason, "WaitingForReference");
    says(&message, &["Deployment absent does not exist", "spec.onPush.actions"]);
    team.make_deployment(&json!({})).await;
    team.pods_run().await;
    team.lives(660).await;
    assert_eq!((team.deployed().await.0.as_str(), team.rolled().await), ("RolledOut", Vec::new()));
    team.deploy().await;
    team.operator.stop().await;
}
