//! What is left when the operator was uninstalled: no object that nobody can delete, no live token, and all volumes.

use super::workspace::{OBJECTS, Team};
use crate::scene::{is_alive, publish, token_in};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::{Resource, ResourceExt};
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository, Workspace};
use landfall::features::Features;
use landfall::github::PlainHttp;
use landfall::guards::Sabotage;
use landfall::runtime::clock::Clock;
use landfall::uninstall::{Report, Uninstall};
use landfall_world::operator::HTTPS;
use landfall_world::{OPERATOR, SYSTEM, World};
use serde_json::{Value, json};
use std::sync::Arc;

async fn uninstall(world: &World, kube: kube::Client) -> Report {
    let clock: Arc<dyn Clock> = Arc::<landfall::runtime::clock::ManualClock>::clone(&world.clock);
    let (namespace, github) = (SYSTEM.to_owned(), HTTPS.clone());
    Uninstall { kube, namespace, features: Features::default(), plain_http: PlainHttp::OnLoopback, github, clock }
        .run()
        .await
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
