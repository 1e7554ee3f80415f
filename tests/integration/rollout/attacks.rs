//! Attacks by somebody who can send deliveries again, write status, or name accounts: each fails, and succeeds without
//! its guard.

use super::{Team, workload};
use crate::inlet::Inlet;
use k8s_openapi::api::apps::v1::Deployment;
use landfall::api::{DeliveryResult, ProjectRepository};
use landfall::guards::Sabotage;
use landfall_world::World;
use landfall_world::operator::Start;
use serde_json::{Value, json};

impl Team {
    /// The same with another operator, which lacks guards. `meanwhile` runs without an operator.
    async fn without(self, sabotage: Sabotage, meanwhile: impl AsyncFnOnce(&World)) -> Self {
        let Self { world, operator, name } = self;
        operator.stop().await;
        meanwhile(&world).await;
        let operator = world.start(Start { sabotage, ..Start::default() }).await;
        operator.ready().await;
        operator.settled().await;
        Self { world, operator, name }
    }

    /// Lets time pass until nothing is under way any more.
    async fn comes_to_rest(&self) {
        self.lives(5).await;
        self.pods_run().await;
        self.lives(120).await;
    }

    async fn rolled_commits(&self) -> Vec<String> {
        self.rolled().await.into_iter().map(|(_, sha)| sha).collect()
    }
}

fn push_of(sha: &str) -> Value {
    json!({
        "ref": "refs/heads/main", "after": sha, "installation": {"id": 501},
        "repository": {"id": 9001, "name": "shop", "full_name": "acme/shop", "owner": {"id": 7001, "login": "acme"}},
    })
}

/// The signature covers only the body, so everyone who saw a delivery can send it again, under its GUID or any other.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_push_sent_again_and_under_a_forged_guid() {
    let team = Team::new("replayed").await;
    let inlet = Inlet::of(&team.world).await;
    let (old, new) = (team.deploy().await, team.deploy().await);
    let replayed = "00000000-0000-4000-8000-000000000001";
    let forged = "ffffffff-ffff-4fff-bfff-ffffffffffff";
    let attack = async |team: &Team, guid: &str, sha: &str| {
        assert_eq!(inlet.send("push", guid, &push_of(sha)).await, 202);
        let is_looked_after = async || {
            let log = team.object().await.status?.deliveries;
            let logged = log.into_iter().find(|delivery| delivery.guid == guid)?;
            (logged.result == Some(DeliveryResult::Handled)).then_some(())
        };
        team.world.until("it is looked after", is_looked_after).await;
        team.world.until_taken_out(&team.operator).await;
        team.operator.settled().await;
        team.comes_to_rest().await;
    };
    for guid in [replayed, replayed, forged] {
        attack(&team, guid, &old).await;
    }
    assert_eq!(team.rolled_commits().await, [old.clone(), new.clone()]);
    assert_eq!(team.deployment().await.sha, new);

    let team = team.without(Sabotage { believe_deliveries: true, ..Sabotage::default() }, async |_| {}).await;
    attack(&team, replayed, &old).await;
    assert_eq!(team.rolled_commits().await, [old.clone(), new.clone(), old.clone()]);
    attack(&team, "eeeeeeee-eeee-4eee-aeee-eeeeeeeeeeee", &new).await;
    assert_eq!(team.rolled_commits().await, [old.clone(), new.clone(), old, new]);
    inlet.end().await;
    team.operator.stop().await;
}

/// A tenant that may write status writes a commit there.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_tenant_wrote_into_status() {
    let team = Team::new("told").await;
    let sha = team.deploy().await;
    let evil = "e".repeat(40);
    // A running operator corrects status at once, so the attack happens before it starts.
    let attack = async |world: &World| {
        let status = json!({"head": {"branch": "main", "sha": evil, "observationTime": "2026-01-01T00:00:00Z"}});
        world.merge_status::<ProjectRepository>("team-a", "shop", &status).await.expect("a tenant may");
    };
    let team = team.without(Sabotage::default(), attack).await;
    team.comes_to_rest().await;
    assert_eq!(team.rolled_commits().await, std::slice::from_ref(&sha));

    let team = team.without(Sabotage { believe_status: true, ..Sabotage::default() }, attack).await;
    team.comes_to_rest().await;
    assert!(team.rolled_commits().await.contains(&evil), "{:?}", team.rolled().await);
    team.operator.stop().await;
}

/// Another team lets the operator use an account. Another namespace that names the account gains nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_account_of_another_namespace() {
    let team = Team::without_rights("lent").await;
    let may_act = json!({"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["lent"], "verbs": ["impersonate"]});
    team.bind("team-b", "acts-as", &may_act, &json!({"namespace": landfall_world::SYSTEM, "name": "landfall"})).await;
    let may_roll = json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "patch"]});
    team.bind("team-b", "rolls", &may_roll, &json!({"namespace": "team-b", "name": "lent"})).await;
    let mut theirs = workload("Deployment", "lent", &json!({}));
    theirs["metadata"]["namespace"] = "team-b".into();
    team.world.apply::<Deployment>(&theirs).await;
    let generation = async |team: &Team| {
        let theirs = team.world.get::<Deployment>("team-b", "lent").await.expect("their Deployment");
        theirs.metadata.generation
    };
    let before = generation(&team).await;
    let restart = json!({"rolloutRestart": {"kind": "Deployment", "name": "lent"}});
    let on_push = json!({"serviceAccountName": "team-b.lent", "actions": [restart]});
    let attack = landfall_world::objects::repository("shop", &json!({"onPush": on_push}));
    team.world.apply::<ProjectRepository>(&attack).await;
    team.world.until_reason::<ProjectRepository>("team-a", "shop", "Observed").await;
    team.operator.settled().await;
    team.push().await;
    team.lives(60).await;
    assert_eq!(team.deployed().await.0, "ActionForbidden");
    assert_eq!(generation(&team).await, before);

    let team = team.without(Sabotage { any_account: true, ..Sabotage::default() }, async |_| {}).await;
    team.push().await;
    team.lives(60).await;
    assert!(generation(&team).await > before, "{:?}", team.deployed().await);
    team.operator.stop().await;
}
