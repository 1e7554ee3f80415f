//! The health of the operator's objects for Flux, which uses kstatus, and for Argo CD, which uses the script of
//! `config/argocd`.

mod kstatus;

use super::scene::{connected, value};
use github_sim::{Fault, FaultKind};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ConfigMap;
use kstatus::Status;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository};
use landfall_world::{World, objects};
use mlua::prelude::LuaSerializeOptions;
use mlua::{Lua, LuaSerdeExt};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("../../../config/argocd/health.lua");

/// The status that Argo CD computes.
fn argo(object: &Value) -> String {
    let lua = Lua::new();
    let options = LuaSerializeOptions::new().serialize_none_to_null(false).serialize_unit_to_null(false);
    lua.globals().set("obj", lua.to_value_with(object, options).unwrap()).unwrap();
    let health: mlua::Table = lua.load(SCRIPT).eval().unwrap();
    assert!(!health.get::<String>("message").unwrap().is_empty(), "{object:#}");
    health.get("status").unwrap()
}

/// Checks that both compute this status.
#[track_caller]
fn assert_is(object: &Value, status: Status) {
    assert_eq!(kstatus::compute(object), status, "{object:#}");
    let word = match status {
        Status::Current => "Healthy",
        Status::InProgress | Status::Terminating => "Progressing",
        Status::Failed => "Degraded",
    };
    assert_eq!(argo(object), word, "{object:#}");
}

fn object(observed: i64, conditions: &[(&str, &str, &str)]) -> Value {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(kind, status, reason)| json!({"type": kind, "status": status, "reason": reason, "message": "words"}))
        .collect();
    json!({"metadata": {"generation": 2}, "status": {"observedGeneration": observed, "conditions": conditions}})
}

#[test]
fn both_go_by_the_same_conditions() {
    let ready = ("Ready", "True", "Published");
    let unready = ("Ready", "False", "APIUnreachable");
    assert_is(&object(2, &[ready]), Status::Current);
    assert_is(&object(2, &[ready, ("Retrying", "True", "APIUnreachable")]), Status::Current);
    assert_is(&object(1, &[ready]), Status::InProgress);
    assert_is(&object(-1, &[]), Status::InProgress);
    assert_is(&object(2, &[unready, ("Reconciling", "True", "APIUnreachable")]), Status::InProgress);
    assert_is(&object(2, &[unready, ("Stalled", "True", "Revoked")]), Status::Failed);
    assert_is(&object(2, &[unready]), Status::InProgress);
    assert_is(&object(2, &[("Ready", "Unknown", "Cloning")]), Status::InProgress);
    let mut going = object(2, &[ready]);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_is(&going, Status::Terminating);
}

#[test]
fn a_suspended_workspace_is_not_ready_and_nothing_is_wrong_with_it() {
    let suspended = object(2, &[("Ready", "False", "WorkspaceSuspended"), ("Suspended", "True", "WorkspaceSuspended")]);
    assert_eq!(argo(&suspended), "Suspended");
    assert_eq!(kstatus::compute(&suspended), Status::InProgress);
}

#[test]
fn the_example_for_argo_cd_has_the_script() {
    let example = include_str!("../../../config/argocd/argocd-cm.yaml");
    let example: ConfigMap = serde_saphyr::from_str(example).expect("a ConfigMap");
    let scripts = example.data.expect("scripts");
    let kinds = ["GitHubApp", "GitHubInstallation", "InstallationToken", "ProjectRepository", "Workspace"];
    let keys = kinds.map(|kind| format!("resource.customizations.health.landfall.dev_{kind}"));
    assert_eq!(scripts.keys().collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
    assert!(scripts.values().all(|script| script == SCRIPT));
}

/// Before the operator has looked at an object, it does not count as ready; otherwise its dependents would start too
/// early.
#[tokio::test]
async fn what_nobody_looked_at_is_in_progress() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    world.apply::<GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    assert_is(&value::<GitHubApp>(&world, "", "landfall").await, Status::InProgress);
    assert_is(&value::<InstallationToken>(&world, "team-a", "shop").await, Status::InProgress);
    let operator = world.operator().await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    operator.settled().await;
    assert_is(&value::<GitHubApp>(&world, "", "landfall").await, Status::Current);
    assert_is(&value::<GitHubInstallation>(&world, "team-a", "acme").await, Status::Current);
    assert_is(&value::<InstallationToken>(&world, "team-a", "shop").await, Status::Current);
    operator.stop().await;
}

/// An outage of GitHub makes no deployment unhealthy as long as every published token is good.
#[tokio::test]
async fn an_outage_leaves_what_is_still_good_current() {
    let (world, operator) = connected().await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    let answer = FaultKind::Status { status: 503, body: None, headers: [].into() };
    world.sim.inject(Fault::new("POST", "/app/installations/*/access_tokens", answer).times(1000));
    world.live_through(&operator, SignedDuration::from_mins(52)).await;
    let good = value::<InstallationToken>(&world, "team-a", "shop").await;
    let types: Vec<_> = good["status"]["conditions"].as_array().unwrap().iter().map(|its| &its["type"]).collect();
    assert_eq!(types, ["Ready", "Retrying"], "{good:#}");
    assert_is(&good, Status::Current);
    world.live_through(&operator, SignedDuration::from_mins(12)).await;
    assert_is(&value::<InstallationToken>(&world, "team-a", "shop").await, Status::InProgress);
    operator.stop().await;
}

#[tokio::test]
async fn what_needs_a_person_has_failed() {
    let (world, operator) = connected().await;
    let foreign = json!({"repositories": [{"name": "vault"}]});
    world.apply::<InstallationToken>(&objects::token("vault", &foreign)).await;
    world.until_reason::<InstallationToken>("team-a", "vault", "RepositoryNotGranted").await;
    assert_is(&value::<InstallationToken>(&world, "team-a", "vault").await, Status::Failed);
    let repository = objects::repository("gone", &json!({"installationRef": {"name": "nobody"}}));
    world.apply::<ProjectRepository>(&repository).await;
    world.until_reason::<ProjectRepository>("team-a", "gone", "WaitingForReference").await;
    assert_is(&value::<ProjectRepository>(&world, "team-a", "gone").await, Status::InProgress);
    operator.stop().await;
}
