//! The cluster after an uninstallation: every object can be deleted, no token is live, and all volumes are there.

use super::workspace::{OBJECTS, Team};
use crate::scene::{is_alive, publish, token_in};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::{Resource, ResourceExt};
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository, Workspace};
use landfall::features::Features;
use landfall::github::PlainHttp;
use landfall::guards::{Guards, Sabotage};
use landfall::runtime::clock::Clock;
use landfall::uninstall::{Report, Uninstall};
use landfall_world::operator::{HTTPS, Start};
use landfall_world::{OPERATOR, SYSTEM, World};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

async fn uninstall(world: &World, kube: kube::Client) -> Report {
    let clock: Arc<dyn Clock> = Arc::<landfall::runtime::clock::ManualClock>::clone(&world.clock);
    let (namespace, github) = (SYSTEM.to_owned(), HTTPS.clone());
    let (features, plain_http, guards) = (Features::default(), PlainHttp::OnLoopback, Guards::default());
    Uninstall { kube, namespace, features, plain_http, github, clock, guards }.run().await
}

/// Our finalizers on all objects of a kind.
async fn held<K: Resource<DynamicType = ()>>(world: &World) -> Vec<String> {
    let get = http::Request::get(K::url_path(&(), None)).body(Vec::new()).unwrap();
    let list: Value = world.admin.request(get).await.unwrap();
    let finalizers = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|item| item["metadata"]["finalizers"].as_array().cloned().unwrap_or_default());
    finalizers.filter_map(|it| it.as_str().map(str::to_owned)).filter(|it| it.starts_with("landfall.dev/")).collect()
}

async fn all_held(world: &World) -> Vec<String> {
    let mut held_ones = held::<GitHubApp>(world).await;
    held_ones.extend(held::<GitHubInstallation>(world).await);
    held_ones.extend(held::<InstallationToken>(world).await);
    held_ones.extend(held::<ProjectRepository>(world).await);
    held_ones.extend(held::<Workspace>(world).await);
    held_ones.extend(held::<PersistentVolumeClaim>(world).await);
    held_ones
}

/// A team with an object of every kind, whose operator was stopped.
async fn left() -> (World, String) {
    let team = Team::new(Sabotage::default()).await;
    team.works(&json!({})).await;
    publish(&team.world, "shop", &json!({})).await;
    team.operator.settled().await;
    let world = team.end().await;
    let claim = world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await.unwrap();
    assert!(all_held(&world).await.len() >= 5, "{:?}", all_held(&world).await);
    (world, claim.spec.unwrap().volume_name.unwrap())
}

async fn every_namespace_goes(world: &World) {
    world.delete_now::<Pod>("team-a", OBJECTS).await;
    for name in ["team-a", "team-b"] {
        world.delete::<Namespace>("", name).await;
        world.until_gone::<Namespace>("", name).await;
    }
    world.delete::<GitHubApp>("", "landfall").await;
    world.until_gone::<GitHubApp>("", "landfall").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hangs_when_the_operator_was_uninstalled() {
    let (world, volume) = left().await;
    let token = token_in(&world, "shop-git").await.unwrap();
    assert!(is_alive(&world, &token));
    // With the rights of the chart.
    let kube = kube::Client::try_from(world.user(OPERATOR).await).unwrap();
    let report = uninstall(&world, kube).await;
    assert_eq!((&report.failed, &report.unrevoked), (&Vec::new(), &Vec::new()));
    assert_eq!(report.kept, [format!("{volume} of PersistentVolumeClaim team-a/{OBJECTS}")]);
    assert_eq!(all_held(&world).await, Vec::<String>::new());
    assert!(!is_alive(&world, &token));
    assert!(world.get::<Secret>("team-a", "shop-git").await.is_none());
    let again = uninstall(&world, world.admin.clone()).await;
    assert_eq!(again, Report::default(), "there is nothing more to do");
    every_namespace_goes(&world).await;
    let kept = world.get::<PersistentVolume>("", &volume).await.expect("the work outlives its namespace");
    assert_eq!(kept.labels()["landfall.dev/retained"], "true");
    assert_eq!(kept.spec.unwrap().persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
}

/// Runs the command. Returns its output.
async fn command(world: &World, kubeconfig: &Path, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_landfall"));
    command.arg("uninstall").args(arguments).env("KUBECONFIG", kubeconfig).env("NO_PROXY", "*").env("no_proxy", "*");
    let output = command.kill_on_drop(true).output().await.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(all_held(world).await, Vec::<String>::new());
    String::from_utf8(output.stdout).expect("text")
}

/// The Job of the chart runs this command with the operator's account, while an operator leads.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_of_the_charts_job_stops_the_operator_and_then_nothing_hangs() {
    let (world, volume) = left().await;
    let labels = json!({"app": "landfall"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "landfall-controller", "namespace": SYSTEM},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none.invalid/none"}]},
            },
        },
    });
    world.apply::<Deployment>(&deployment).await;
    let operator = world.start(Start { elects: true, ..Start::default() }).await;
    operator.ready().await;
    let folder = tempfile::TempDir::new().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, world.kubeconfig_of(OPERATOR)).unwrap();
    let stopped = async {
        let is_stopped = async || {
            let deployment = world.get::<Deployment>(SYSTEM, "landfall-controller").await?;
            (deployment.spec?.replicas == Some(0)).then_some(())
        };
        world.until("the Deployment is scaled down", is_stopped).await;
        assert!(all_held(&world).await.len() >= 5, "it waits for the operator's end");
        operator.stop().await;
    };
    let arguments = ["--namespace", SYSTEM, "--stop", "landfall-controller"];
    let (said, ()) = tokio::join!(command(&world, &kubeconfig, &arguments), stopped);
    assert!(said.contains("2 tokens are revoked"), "{said}");
    assert!(said.contains(&format!("{volume} of PersistentVolumeClaim team-a/{OBJECTS}")), "{said}");
    world.delete::<Deployment>(SYSTEM, "landfall-controller").await;
    every_namespace_goes(&world).await;
    assert!(world.get::<PersistentVolume>("", &volume).await.is_some());
}

/// Without the operator's namespace, nobody lets go of the objects. A person does, from outside of the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_hangs_without_the_operator_goes_after_the_command() {
    let (world, volume) = left().await;
    world.delete::<Namespace>("", "team-a").await;
    world.delete_now::<Pod>("team-a", OBJECTS).await;
    let hangs = async || {
        let status = world.get::<Namespace>("", "team-a").await?.status?;
        let held = status.conditions?.into_iter().find(|it| it.type_ == "NamespaceFinalizersRemaining")?;
        held.message.filter(|message| message.contains("landfall.dev/"))
    };
    let message = world.until("the namespace hangs, and says by what", hangs).await;
    assert!(message.contains("landfall.dev/work"), "{message}");
    let said = command(&world, &world.admin_kubeconfig(), &["--namespace", "landfall-is-gone"]).await;
    assert!(said.contains(&format!("{volume} of PersistentVolumeClaim team-a/{OBJECTS}")), "{said}");
    world.until_gone::<Namespace>("", "team-a").await;
    assert!(world.get::<PersistentVolume>("", &volume).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_can_do_it_when_the_operators_namespace_is_gone() {
    let (world, volume) = left().await;
    world.delete::<Secret>(SYSTEM, "github-app").await;
    world.delete::<Namespace>("", "team-a").await;
    world.delete_now::<Pod>("team-a", OBJECTS).await;
    let report = uninstall(&world, world.admin.clone()).await;
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(report.unrevoked.iter().all(|line| line.contains("the App's key is not in Secret")), "{report:?}");
    world.until_gone::<Namespace>("", "team-a").await;
    assert!(world.get::<PersistentVolume>("", &volume).await.is_some());
    assert_eq!(all_held(&world).await, Vec::<String>::new());
}
