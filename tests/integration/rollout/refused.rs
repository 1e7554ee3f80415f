//! Missing permissions, and attempts of a tenant: nothing is done as anybody but the `ServiceAccount`, and nothing with
//! another commit.

use super::{Team, workload};
use crate::scene::says;
use k8s_openapi::api::apps::v1::Deployment;
use landfall::api::{DeploymentResult, ProjectRepository};
use landfall_world::{World, objects};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lacking_is_said_with_the_way_to_mend_it() {
    let team = Team::without_rights("rights").await;
    team.make_deployment(&json!({})).await;
    team.pods_run().await;
    team.follow(&json!({"name": "rights", "kind": "Deployment"})).await;
    // It is reported even before the first push.
    team.comes_to(DeploymentResult::Failed).await;
    let (reason, message) = team.deployed().await;
    assert_eq!(reason, "ActionForbidden");
    let impersonate = "kubectl create role landfall-as-rights -n team-a --verb=impersonate --resource=serviceaccounts --resource-name=rights";
    says(&message, &["may not act as ServiceAccount rights", impersonate, "--serviceaccount=landfall-system:landfall"]);

    let sha = team.push().await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Running);
    says(&team.deployed().await.1, &[impersonate]);
    team.let_the_operator_act("team-a").await;
    // The API server's authorizer gets the binding a moment later.
    team.world
        .until("the operator may act", async || {
            team.lives(10).await;
            team.deployed().await.1.contains("--verb=get,list,patch --resource=deployments.apps").then_some(())
        })
        .await;
    assert_eq!((team.deployed().await.0.as_str(), team.patches()), ("ActionForbidden", 0));
    team.let_the_account_roll("team-a").await;
    team.world
        .until("it is rolled", async || {
            team.lives(10).await;
            (team.rolled().await == [(1, sha.clone())]).then_some(())
        })
        .await;
    team.pods_run().await;
    team.lives(31).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Succeeded);
    team.nothing_was_asked_as_the_operator();
    team.operator.stop().await;
}

/// An account that may only read is refused the change, with another message than for a refused look.
#[tokio::test(flavor = "multi_thread")]
async fn what_stays_forbidden_fails_in_the_end_and_can_be_asked_for_again() {
    let team = Team::without_rights("reader").await;
    team.let_the_operator_act("team-a").await;
    let rule = json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]});
    team.bind("team-a", "reads", &rule, &json!({"namespace": "team-a", "name": "reader"})).await;
    team.make_deployment(&json!({})).await;
    team.pods_run().await;
    team.follow(&json!({"name": "reader", "kind": "Deployment"})).await;
    team.comes_to(DeploymentResult::Succeeded).await;
    let sha = team.push().await;
    says(&team.deployed().await.1, &["may not patch Deployment reader"]);
    team.lives(700).await;
    let failed = team.deployment().await;
    assert_eq!((failed.sequence, failed.result), (1, DeploymentResult::Failed));
    assert_eq!(team.deployed().await.0, "ActionForbidden");
    let patches = team.patches();
    assert!((5..60).contains(&patches), "it was tried {patches} times in ten minutes");
    team.lives(7200).await;
    assert_eq!((team.patches(), team.deployment().await), (patches, failed));
    assert_eq!(team.deployed().await.0, "ActionForbidden");
    team.let_the_account_roll("team-a").await;
    team.annotate("landfall.dev/redeploy", "1").await;
    team.world
        .until("it is rolled", async || {
            team.lives(5).await;
            (team.rolled().await == [(2, sha.clone())]).then_some(())
        })
        .await;
    team.pods_run().await;
    team.lives(31).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Succeeded);
    // The same request has no further effect, and a success ends it.
    team.annotate("landfall.dev/redeploy", "2").await;
    team.lives(60).await;
    assert_eq!(team.object().await.status.unwrap().last_handled_redeploy.as_deref(), Some("2"));
    assert_eq!(team.rolled().await.len(), 1);
    team.operator.stop().await;
}

/// The permission to act as a ServiceAccount of another namespace has no effect here, and neither does a name that
/// would be in that namespace.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_another_namespace_is_out_of_reach() {
    let team = Team::without_rights("another").await;
    team.let_the_operator_act("team-b").await;
    team.bind(
        "team-b",
        "rolls",
        &json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "patch"]}),
        &json!({"namespace": "team-b", "name": "another"}),
    )
    .await;
    let mut theirs = workload("Deployment", "another", &json!({}));
    theirs["metadata"]["namespace"] = "team-b".into();
    team.world.apply::<Deployment>(&theirs).await;
    let before = team.world.get::<Deployment>("team-b", "another").await.unwrap().spec.unwrap().template;
    for name in
        ["x:team-b:another", "team-b:another", "team-b/another", "../another", "system:serviceaccount:team-b:another"]
    {
        for on_push in [
            json!({"serviceAccountName": name, "actions": [{"rolloutRestart": {"kind": "Deployment", "name": "another"}}]}),
            json!({"serviceAccountName": "another", "actions": [{"rolloutRestart": {"kind": "Deployment", "name": name}}]}),
        ] {
            let refused = objects::repository("shop", &json!({"onPush": on_push}));
            team.world.try_apply::<ProjectRepository>(&refused).await.expect_err("the definition refuses it");
        }
    }
    team.follow(&json!({"name": "another", "kind": "Deployment"})).await;
    team.push().await;
    team.lives(700).await;
    assert_eq!(team.deployed().await.0, "ActionForbidden");
    assert_eq!(team.world.get::<Deployment>("team-b", "another").await.unwrap().spec.unwrap().template, before);
    team.nothing_was_asked_as_the_operator();
    assert!(team.asked_as_the_account().iter().all(|entry| entry.code == 403));
    team.operator.stop().await;
}

/// A tenant that may write status can have a workload rolled out for the head again, as the annotation does, but never
/// for another commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_status_rolls_no_other_commit() {
    let mut team = Team::new("forged").await;
    let sha = team.deploy().await;
    let evil = "e".repeat(40);
    let lies = [
        json!({"sha": evil, "sequence": 7, "result": "Running", "startTime": "2026-01-01T00:00:00Z"}),
        json!({"sha": evil, "sequence": 7, "result": "Waiting", "startTime": "2099-01-01T00:00:00Z"}),
        json!({"sha": evil, "sequence": 0, "result": "Failed"}),
        json!({"sha": evil, "sequence": 9_223_372_036_854_775_807_i64, "result": "Succeeded"}),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let head = json!({"branch": "main", "sha": evil, "observationTime": "2026-01-01T00:00:00Z"});
        let forge = async |world: &World| {
            let status = json!({"deployment": lie, "head": head});
            world.merge_status::<ProjectRepository>("team-a", "shop", &status).await.expect("status is forged");
        };
        // While the operator knows the true state, and when another one starts with the forged status.
        forge(&team.world).await;
        team.operator.settled().await;
        team = team.restarted(forge).await;
        team.lives(5).await;
        team.pods_run().await;
        team.lives(900).await;
        let deployment = team.deployment().await;
        assert_eq!((&deployment.sha, deployment.result), (&sha, DeploymentResult::Succeeded), "after {lie}");
        let rolled = team.rolled().await;
        assert!(rolled.iter().all(|(_, rolled)| *rolled == sha), "after {lie}: {rolled:?}");
        assert!(rolled.len() <= number + 2, "after {lie}: {rolled:?}");
    }
    team.operator.stop().await;
}
