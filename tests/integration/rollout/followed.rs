//! A running rollout is followed to its end, whatever happens to the source; and a rollout of another repository is
//! recognized.

use super::{Team, stamp};
use crate::canary::Log;
use crate::repository::{ask, comes_to, status};
use crate::scene::{look, says};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use landfall::api::{DeploymentResult, ProjectRepository};
use landfall::runtime::telemetry::{LogFormat, subscriber};
use landfall_world::objects;
use landfall_world::operator::Start;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_repository_and_a_suspended_app_leave_no_rollout_behind() {
    let mut team = Team::new("archived").await;
    let first = team.push().await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Running);
    team.world.sim.set_archived("acme/shop", true).unwrap();
    ask(&team.world, "shop").await;
    comes_to(&team.world, "shop", "RepositoryArchived").await;
    team.pods_run().await;
    team.lives(31).await;
    let rolled_out = team.deployment().await;
    assert_eq!((&rolled_out.sha, rolled_out.result), (&first, DeploymentResult::Succeeded));
    comes_to(&team.world, "shop", "RepositoryArchived").await;
    team.world.sim.set_archived("acme/shop", false).unwrap();
    ask(&team.world, "shop").await;
    comes_to(&team.world, "shop", "Observed").await;

    // A push during the suspension has to wait. A running rollout does not, even if an earlier operator had begun it.
    let second = team.push().await;
    team.world.sim.suspend(501).unwrap();
    look(&team.world).await;
    comes_to(&team.world, "shop", "InstallationSuspended").await;
    team.world.push("acme/shop", "main");
    team = team.restarted(async |_| ()).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Running);
    team.pods_run().await;
    team.lives(31).await;
    let rolled_out = team.deployment().await;
    assert_eq!((&rolled_out.sha, rolled_out.result), (&second, DeploymentResult::Succeeded));
    assert_eq!(team.rolled().await, [(1, first), (2, second)]);
    team.operator.stop().await;
}

/// A message to a person stays after a restart, although nothing can be looked at.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_forbidden_is_said_while_the_app_is_suspended() {
    let mut team = Team::without_rights("unsaid").await;
    team.make_deployment(&json!({})).await;
    team.follow(&json!({"name": "unsaid", "kind": "Deployment"})).await;
    team.comes_to(DeploymentResult::Failed).await;
    team.operator.settled().await;
    let said = team.deployed().await;
    assert_eq!(said.0, "ActionForbidden");
    team.world.sim.suspend(501).unwrap();
    look(&team.world).await;
    comes_to(&team.world, "shop", "InstallationSuspended").await;
    team = team.restarted(async |_| ()).await;
    team.lives(60).await;
    assert_eq!(team.deployed().await, said);
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_webhook_that_is_away_is_said_and_ends_the_rollout() {
    let team = Team::new("admission").await;
    let gate = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "admission"},
        "webhooks": [{
            "name": "away.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "clientConfig": {"url": "https://127.0.0.1:1/away"},
            "rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]}],
            "matchConditions": [{"name": "it", "expression": "object.metadata.name == 'admission'"}],
        }],
    });
    let gates = Api::<ValidatingWebhookConfiguration>::all(team.world.admin.clone());
    gates.create(&PostParams::default(), &serde_json::from_value(gate).unwrap()).await.unwrap();
    let deployments = Api::<Deployment>::namespaced(team.world.admin.clone(), "team-a");
    team.world
        .until("the API server asks the webhook", async || {
            let (rehearsal, change) =
                (PatchParams { dry_run: true, ..PatchParams::default() }, json!({"metadata": {"labels": {"a": "b"}}}));
            deployments.patch("admission", &rehearsal, &Patch::Merge(&change)).await.err().map(drop)
        })
        .await;
    let sha = team.push().await;
    team.lives(700).await;
    let failed = team.deployment().await;
    assert_eq!((&failed.sha, failed.result), (&sha, DeploymentResult::Failed));
    says(&failed.message.unwrap(), &["Deployment admission", "failed calling webhook", "away.example.com"]);
    // Everything else continues meanwhile.
    let next = team.world.push("acme/shop", "main");
    team.look().await;
    assert_eq!(status(&team.world, "shop").await["head"]["sha"], json!(next));
    comes_to(&team.world, "shop", "Observed").await;
    gates.delete("admission", &DeleteParams::default()).await.unwrap();
    team.world
        .until("it is rolled", async || {
            team.lives(5).await;
            team.rolled().await.iter().any(|(_, sha)| *sha == next).then_some(())
        })
        .await;
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_sequence_in_a_template_is_nobodys() {
    let team = Team::new("largest").await;
    let annotations = json!({"landfall.dev/sha": "a".repeat(40), "landfall.dev/sequence": i64::MAX.to_string()});
    let change = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    team.world.merge::<Deployment>("team-a", "largest", &change).await.unwrap();
    team.pods_run().await;
    let sha = team.deploy().await;
    assert!(team.rolled().await.contains(&(1, sha)), "{:?}", team.rolled().await);
    team.operator.stop().await;
}

/// Two repositories may restart the same workload. Each of them does not take the other's rollout for one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_repository_rolled_is_no_rollout_of_its_own() {
    let team = Team::new("shared").await;
    let first = team.deploy().await;
    let on_push = json!({
        "serviceAccountName": "shared", "actions": [{"rolloutRestart": {"kind": "Deployment", "name": "shared"}}],
    });
    let other = objects::repository("lib-core", &json!({"onPush": on_push}));
    team.world.apply::<ProjectRepository>(&other).await;
    comes_to(&team.world, "lib-core", "Observed").await;
    team.lives(10).await;
    let begins = status(&team.world, "lib-core").await["deployment"].clone();
    assert_eq!((&begins["sequence"], &begins["result"]), (&json!(0), &json!("Succeeded")), "{begins}");
    assert_eq!(team.rolled().await, [(1, first.clone())], "nobody pushed");
    let template = team.world.get::<Deployment>("team-a", "shared").await.unwrap().spec.unwrap().template;
    let annotations = template.metadata.unwrap().annotations.unwrap();
    let stamped = (stamp(&annotations), annotations["landfall.dev/repository"].as_str());
    assert_eq!(stamped, (Some((1, first.clone())), "9001"));

    // It recognizes its own rollout, although everything that the object knew is gone.
    let missed = team.world.push("acme/shop", "main");
    team.world.delete::<ProjectRepository>("team-a", "shop").await;
    team.world.delete::<ProjectRepository>("team-a", "lib-core").await;
    team.world.until_gone::<ProjectRepository>("team-a", "shop").await;
    team.world.apply::<ProjectRepository>(&objects::repository("shop", &json!({"onPush": on_push}))).await;
    team.comes_to(DeploymentResult::Running).await;
    team.operator.settled().await;
    team.until_rolled(&[(1, first), (2, missed)]).await;
    team.operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_a_rollout_says_which_delivery_and_which_commit() {
    let Team { world, operator, name } = Team::new("lines").await;
    operator.stop().await;
    let log = Log::default();
    let writer = log.clone();
    let dispatch = tracing::Dispatch::new(subscriber("info", LogFormat::Json, move || writer.clone()).unwrap());
    // If it were the only subscriber, tracing would ask the thread that reaches a line first, which may belong to
    // another test without a log, and then omit the line for all.
    let _second = tracing::Dispatch::new(subscriber("info", LogFormat::Json, std::io::sink).unwrap());
    let operator = world.start(Start { log: Some(dispatch), ..Start::default() }).await;
    operator.ready().await;
    operator.settled().await;
    let team = Team { world, operator, name };

    let sha = team.world.push("acme/shop", "main");
    let guid = "72d3162e-cc78-11e3-81ab-4c9367dc0958";
    let delivery = json!({"ref": "refs/heads/main", "sha": sha});
    team.world.deliver(("team-a", "shop"), guid, &delivery).await;
    team.comes_to(DeploymentResult::Waiting).await;
    team.lives(4).await;
    team.pods_run().await;
    team.lives(31).await;
    assert_eq!(team.deployment().await.result, DeploymentResult::Succeeded);
    team.operator.stop().await;

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    for message in ["pushed; waits for further pushes", "deploying", "rolled", "rolled out"] {
        let said = of(message);
        assert!(!said.is_empty(), "{message}: {text}");
        for line in said {
            assert_eq!((&line["sha"], &line["deliveries"]), (&json!(sha), &json!(guid)), "{message}");
        }
    }
    let marked = of("a delivery was dealt with");
    assert!(!marked.is_empty(), "{text}");
    assert_eq!((&marked[0]["sha"], &marked[0]["delivery"]), (&json!(sha), &json!(guid)));
    assert!(
        lines
            .iter()
            .all(|line| line["target"] != "landfall::controllers::repository::rollout" || line["sha"] == json!(sha))
    );
}
