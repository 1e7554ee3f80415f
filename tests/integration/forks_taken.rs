//! Forks with another parent than the wanted one, names that are taken, and copies that take long.

use crate::forks::{connected, fork, forks_made};
use crate::repository::{changes, comes_to, follow, status};
use crate::scene::{says, value};
use github_sim::{Fork, RepositorySeed};
use jiff::SignedDuration;
use landfall::api::ProjectRepository;
use landfall_world::World;
use serde_json::json;
use std::time::Duration;

fn fork_by_hand(world: &World, of: &str, account: &str, name: &str) {
    let fork = Fork { of: of.into(), account: account.into(), name: Some(name.into()), ..Fork::default() };
    world.sim.fork(&fork).unwrap();
}

#[tokio::test]
async fn a_fork_of_a_fork_is_not_taken_for_one_of_the_first() {
    let (world, operator) = connected(&["tools", "engine", "bench"]).await;
    // acme/tools is a fork of monalisa's, which is a fork of globex's. Synchronizing it with monalisa's would run her
    // code.
    fork_by_hand(&world, "globex/tools", "monalisa", "tools");
    fork_by_hand(&world, "monalisa/tools", "acme", "tools");
    let message = follow(&world, "tools", &fork("globex/tools", &json!({})), "ForkImpossible").await;
    says(&message, &["acme/tools", "monalisa/tools", "globex/tools", "spec.source.fork.of"]);
    // The same holds if GitHub returns it for a request with another name.
    let message = follow(&world, "bench", &fork("globex/tools", &json!({"name": "bench"})), "ForkImpossible").await;
    says(&message, &["acme/tools", "monalisa/tools"]);
    operator.settled().await;
    let object = value::<ProjectRepository>(&world, "team-a", "tools").await;
    assert_eq!(object["status"]["repositoryID"], serde_json::Value::Null, "{object}");
    follow(&world, "theirs", &fork("monalisa/tools", &json!({})), "Observed").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_said_and_no_fork_of_another_name_is_made() {
    let (world, operator) = connected(&["tools", "instruments"]).await;
    let taken = RepositorySeed { owner: "acme".into(), name: "tools".into(), ..RepositorySeed::default() };
    world.sim.create_repository(&taken).unwrap();
    world.sim.reset_requests();
    let message = follow(&world, "tools", &fork("globex/tools", &json!({})), "ForkImpossible").await;
    says(&message, &["acme/tools is there, and is no fork", "spec.source.fork.name"]);
    assert!(changes(&world).is_empty(), "{:?}", changes(&world));
    assert!(world.sim.forks("globex/tools").unwrap().is_empty());
    follow(&world, "tools", &fork("globex/tools", &json!({"name": "instruments"})), "Observed").await;
    assert_eq!(world.sim.forks("globex/tools").unwrap(), ["acme/instruments"]);
    operator.stop().await;
}

#[tokio::test]
async fn a_name_that_was_not_granted_is_told_nowhere() {
    let (world, operator) = connected(&["engine"]).await;
    fork_by_hand(&world, "globex/engine", "acme", "hidden-plans");
    follow(&world, "engine", &fork("globex/engine", &json!({})), "RepositoryNotGranted").await;
    operator.settled().await;
    let object = value::<ProjectRepository>(&world, "team-a", "engine").await;
    assert!(!object.to_string().contains("hidden-plans"), "{object}");
    let events = kube::Api::<k8s_openapi::api::events::v1::Event>::namespaced(world.admin.clone(), "team-a");
    let is_told = async || {
        let events = events.list(&kube::api::ListParams::default()).await.ok()?.items;
        let of_it = |event: &k8s_openapi::api::events::v1::Event| {
            event.regarding.as_ref().is_some_and(|its| its.uid.as_deref() == object["metadata"]["uid"].as_str())
        };
        let notes: Vec<_> = events.into_iter().filter(of_it).filter_map(|event| event.note).collect();
        (!notes.is_empty()).then_some(notes)
    };
    let notes = world.until("an event tells of it", is_told).await;
    assert!(notes.iter().all(|note| !note.contains("hidden-plans")), "{notes:?}");
    operator.stop().await;
}

#[tokio::test]
async fn one_that_takes_long_stays_pending_and_is_asked_for_with_growing_pauses() {
    let (world, operator) = connected(&["tools"]).await;
    world.sim.set_fork_delay(Duration::from_hours(3));
    follow(&world, "tools", &fork("globex/tools", &json!({})), "ForkPending").await;
    world.sim.reset_requests();
    world.live_through(&operator, SignedDuration::from_mins(60)).await;
    let message = comes_to(&world, "tools", "ForkPending").await;
    says(&message, &["acme/tools", "since 20", "support"]);
    let looks = crate::repository::looks(&world);
    assert!((8..=50).contains(&looks), "{looks} looks in an hour");
    // After a restart the operator knows it again, and writes nothing about it.
    operator.kill();
    let before = status(&world, "tools").await;
    let operator = world.operator().await;
    operator.ready().await;
    operator.settled().await;
    assert_eq!(status(&world, "tools").await, before);
    world.live_through(&operator, SignedDuration::from_hours(3)).await;
    comes_to(&world, "tools", "Observed").await;
    assert_eq!(forks_made(&world), 0, "it was made before");
    operator.stop().await;
}
