//! No tenant delays another one: pushes come before polls and first looks, namespaces take turns, and a host that never
//! answers holds up its own objects alone.

use crate::repository::{comes_to, follow, is_git, status};
use crate::scene::granted;
use github_sim::RepositorySeed;
use landfall::api::ProjectRepository;
use landfall_world::inbox::logged;
use landfall_world::operator::Operator;
use landfall_world::{World, objects};
use serde_json::{Value, json};

/// The turns that the operator gives at the same time at one place.
const SLOTS: usize = 8;

/// A world in which team-b may read many-* of acme besides.
async fn two_tenants() -> (World, Operator) {
    let mut tenants = objects::tenants();
    let other = json!({
        "name": "others", "account": "acme", "repositories": ["many-*"],
        "maxPermissions": {"contents": "read", "metadata": "read"}, "namespaces": {"names": ["team-b"]},
    });
    tenants.as_array_mut().expect("a list").push(other);
    granted(&tenants).await
}

fn repository(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut object = objects::repository(name, spec);
    object["metadata"]["namespace"] = json!(namespace);
    object
}

/// The names of the repositories whose heads were asked for, in this order.
fn asked(world: &World) -> Vec<String> {
    let name = |path: &str| Some(path.split_once(".git/")?.0.rsplit('/').next()?.to_owned());
    world.sim.requests().iter().filter(|request| is_git(request)).filter_map(|request| name(&request.path)).collect()
}

#[tokio::test]
async fn after_a_restart_a_push_is_looked_after_before_the_first_looks_of_others() {
    const MANY: usize = 60;
    let (world, operator) = two_tenants().await;
    for number in 0..MANY {
        let name = format!("many-{number}");
        let seed = RepositorySeed { owner: "acme".into(), name: name.clone(), private: true, ..Default::default() };
        world.sim.create_repository(&seed).expect("a repository");
        world.apply::<ProjectRepository>(&repository("team-b", &name, &json!({}))).await;
    }
    follow(&world, "shop", &json!({}), "Observed").await;
    for number in 0..MANY {
        world.until_reason::<ProjectRepository>("team-b", &format!("many-{number}"), "Observed").await;
    }
    operator.stop().await;
    let pushed = world.push("acme/shop", "main");
    world.deliver(("team-a", "shop"), "pushed", &json!({"ref": "refs/heads/main", "sha": pushed})).await;
    world.sim.reset_requests();

    let operator = world.operator().await;
    world
        .until("the push is dealt with", async || {
            (logged(&status(&world, "shop").await, "pushed")["result"] == "Handled").then_some(())
        })
        .await;
    operator.settled().await;
    let asked = asked(&world);
    let turn = asked.iter().position(|name| name == "shop").expect("a look at the pushed repository");
    assert!(turn < SLOTS, "it was number {turn} of {asked:?}");
    assert_eq!(asked.len(), MANY + 1, "each of the others was looked at, too");
    comes_to(&world, "shop", "Observed").await;
    operator.stop().await;
}
