//! Forks: an existing one is found before one is created, is followed and synchronized, and is never forced.

use crate::repository::{changes, comes_to, follow, status};
use crate::scene::{says, value};
use github_sim::{Fault, FaultKind, Fork, RepositorySeed, Seed};
use jiff::SignedDuration;
use landfall::api::{GitHubApp, GitHubInstallation, ProjectRepository};
use landfall_world::operator::Operator;
use landfall_world::{World, objects, seed};
use serde_json::{Value, json};
use std::time::Duration;

fn tenants(repositories: &[&str]) -> Value {
    let forks = json!({"administration": "write", "contents": "write"});
    json!([{"name": "acme", "account": "acme", "repositories": repositories, "maxPermissions": forks, "namespaces": {"names": ["team-a"]}}])
}

/// An App that may create forks, and upstreams of other accounts.
pub async fn connected(repositories: &[&str]) -> (World, Operator) {
    let mut seed: Seed = seed();
    let permissions = json!({"administration": "write", "contents": "write", "metadata": "read", "workflows": "write"});
    seed.apps[0].permissions = serde_json::from_value(permissions).unwrap();
    let world = World::with(seed).await;
    for (name, empty) in [("tools", false), ("blank", true), ("engine", false)] {
        let seed = RepositorySeed { owner: "globex".into(), name: name.into(), empty, ..RepositorySeed::default() };
        world.sim.create_repository(&seed).unwrap();
    }
    world.namespace("team-a", &[]).await;
    let operator = world.operator().await;
    world.apply::<GitHubApp>(&objects::app(&world, &tenants(repositories))).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    (world, operator)
}

pub fn fork(of: &str, spec: &Value) -> Value {
    let mut whole = json!({"of": of});
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    json!({"source": {"fork": whole}})
}

fn in_step(status: &Value) -> Value {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == "InStep").unwrap_or(Value::Null)
}

pub fn forks_made(world: &World) -> usize {
    world.calls("POST", "/repos/{owner}/{repo}/forks")
}

#[tokio::test]
async fn a_fork_is_made_once_and_kept_in_step_and_never_forced() {
    let (world, operator) = connected(&["tools", "engine", "our-engine", "lib-*"]).await;
    world.sim.set_fork_delay(Duration::from_hours(1));
    let message = follow(&world, "tools", &fork("globex/tools", &json!({})), "ForkPending").await;
    says(&message, &["acme/tools"]);
    // A restart meanwhile creates no second fork.
    operator.kill();
    let operator = world.operator().await;
    operator.ready().await;
    operator.settled().await;
    assert_eq!((forks_made(&world), world.sim.forks("globex/tools").unwrap()), (1, vec!["acme/tools".to_owned()]));
    world.sim.set_fork_delay(Duration::ZERO);
    world.sim.finish_forks();
    world.live_through(&operator, SignedDuration::from_mins(6)).await;
    comes_to(&world, "tools", "Observed").await;
    operator.settled().await;
    let shown = status(&world, "tools").await;
    assert_eq!((&shown["fork"]["of"], &in_step(&shown)["status"]), (&json!("globex/tools"), &json!("True")));
    assert_eq!(forks_made(&world), 1);
    assert!(
        world.sim.live_tokens().iter().all(|token| token.repository_ids.is_some()),
        "the token for forking is revoked"
    );

    // An existing fork under another name is found, and used within the grant.
    let other =
        Fork { of: "globex/engine".into(), account: "acme".into(), name: Some("our-engine".into()), ..Fork::default() };
    world.sim.fork(&other).unwrap();
    follow(&world, "engine", &fork("globex/engine", &json!({"sync": {"interval": "0s"}})), "Observed").await;
    assert_eq!(status(&world, "engine").await["fullName"], "acme/our-engine");
    assert_eq!(world.sim.forks("globex/engine").unwrap().len(), 1);

    // The upstream gets a commit.
    world.sim.reset_requests();
    let head = world.push("globex/tools", "main");
    world.push("globex/engine", "main");
    world.live_through(&operator, SignedDuration::from_mins(13)).await;
    assert_eq!(world.sim.head("acme/tools", "main").as_ref(), Some(&head), "fast-forwarded");
    world.live_through(&operator, SignedDuration::from_mins(13)).await;
    let shown = status(&world, "tools").await;
    assert_eq!((&shown["head"]["sha"], &shown["fork"]["upstreamSHA"]), (&json!(head), &json!(head)));
    let merges = changes(&world);
    assert_eq!(merges.len(), 1, "and engine, whose interval is 0s, is left: {merges:?}");
    // A synchronized fork causes no REST calls in an hour except the App's looks and tokens.
    world.sim.reset_requests();
    world.live_through(&operator, SignedDuration::from_mins(50)).await;
    assert_eq!(world.calls("GET", "/repos/{owner}/{repo}/compare/{basehead}"), 0);
    assert!(changes(&world).is_empty());

    // A paused fork is not changed, and one with commits of its own stays as it is.
    let paused = json!({"source": {"fork": {"of": "globex/tools"}}, "paused": true});
    follow(&world, "tools", &paused, "Paused").await;
    let later = world.push("globex/tools", "main");
    world.live_through(&operator, SignedDuration::from_mins(25)).await;
    assert_eq!(world.sim.head("acme/tools", "main").as_ref(), Some(&head));
    let own = world.push("acme/tools", "main");
    let unpaused = json!({"source": {"fork": {"of": "globex/tools"}}, "paused": false});
    world.apply::<ProjectRepository>(&objects::repository("tools", &unpaused)).await;
    world.live_through(&operator, SignedDuration::from_mins(25)).await;
    let shown = status(&world, "tools").await;
    assert_eq!((&in_step(&shown)["status"], &in_step(&shown)["reason"]), (&json!("False"), &json!("Diverged")));
    says(in_step(&shown)["message"].as_str().unwrap(), &["by hand"]);
    assert_eq!((&shown["fork"]["behindBy"], &shown["fork"]["aheadBy"]), (&json!(1), &json!(1)));
    assert_eq!(world.sim.head("acme/tools", "main"), Some(own));
    assert_ne!(world.sim.head("globex/tools", "main").as_ref(), Some(&head));
    assert_eq!(world.sim.head("globex/tools", "main"), Some(later));
    assert!(changes(&world).is_empty(), "nothing is forced: {:?}", changes(&world));
    operator.stop().await;
}

#[tokio::test]
async fn what_cannot_be_forked_is_said_and_nothing_else_is_touched() {
    let (world, operator) = connected(&["tools", "blank", "engine", "shop"]).await;
    world
        .sim
        .fork(&Fork {
            of: "globex/engine".into(),
            account: "acme".into(),
            name: Some("hidden".into()),
            ..Fork::default()
        })
        .unwrap();
    world.sim.reset_requests();
    let message = follow(&world, "own", &fork("acme/shop", &json!({})), "ForkImpossible").await;
    says(&message, &["acme/shop", "spec.source.existing"]);
    let message = follow(&world, "blank", &fork("globex/blank", &json!({})), "ForkImpossible").await;
    says(&message, &["empty", "push a commit"]);
    // A fork under a name that was not granted is neither looked for nor created, and an existing one with such a name
    // is not shown.
    follow(&world, "vault", &fork("globex/tools", &json!({"name": "vault"})), "RepositoryNotGranted").await;
    let message = follow(&world, "engine", &fork("globex/engine", &json!({})), "RepositoryNotGranted").await;
    says(&message, &["spec.tenants[].repositories"]);
    operator.settled().await;
    for name in ["vault", "engine"] {
        let object = value::<ProjectRepository>(&world, "team-a", name).await;
        assert_eq!((&object["status"]["repositoryID"], &object["status"]["head"]), (&Value::Null, &Value::Null));
    }
    // GitHub refuses, as it does if the App is not installed on all repositories.
    let refusal = FaultKind::Status {
        status: 403,
        body: Some(json!({"message": "Resource not accessible by integration"})),
        headers: [].into(),
    };
    world.sim.inject(Fault::new("POST", "/repos/globex/tools/forks", refusal).times(2));
    let message = follow(&world, "tools", &fork("globex/tools", &json!({})), "ForkForbidden").await;
    says(
        &message,
        &["administration: write", "all repositories of acme", "/globex/tools/fork", "/globex/tools/compare"],
    );
    let calls = forks_made(&world);
    world.live_through(&operator, SignedDuration::from_mins(20)).await;
    assert_eq!(forks_made(&world), calls, "only a person can mend it");
    assert!(world.sim.forks("globex/tools").unwrap().is_empty());

    // Without administration in the grant, nothing is requested.
    let mut narrow = objects::app(&world, &tenants(&["tools"]));
    narrow["spec"]["tenants"][0]["maxPermissions"] = json!({"contents": "write"});
    world.apply::<GitHubApp>(&narrow).await;
    let message = comes_to(&world, "tools", "InsufficientPermissions").await;
    says(&message, &["administration: write", "maxPermissions"]);
    assert_eq!(forks_made(&world), calls);

    // An id in status does not replace the check that the repository is a fork: nothing is read from the upstream in
    // the spec.
    world.apply::<GitHubApp>(&objects::app(&world, &tenants(&["shop"]))).await;
    world.merge_status::<ProjectRepository>("team-a", "own", &json!({"repositoryID": 9001})).await.unwrap();
    let lie = fork("globex/plans", &json!({"name": "shop"}));
    world.apply::<ProjectRepository>(&objects::repository("lie", &lie)).await;
    operator.settled().await;
    world.sim.reset_requests();
    world.merge_status::<ProjectRepository>("team-a", "lie", &json!({"repositoryID": 9001})).await.unwrap();
    let is_told = async || {
        let told =
            landfall_world::ready(&value::<ProjectRepository>(&world, "team-a", "lie").await)["message"].to_string();
        told.contains("acme/shop is no fork any more").then_some(())
    };
    world.until("it is found out", is_told).await;
    world.live_through(&operator, SignedDuration::from_mins(25)).await;
    let reaches = |name: &str| world.sim.requests().iter().any(|asked| asked.path.contains(name));
    assert!(!reaches("plans") && !reaches("vault"));
    assert!(changes(&world).is_empty(), "{:?}", changes(&world));
    operator.stop().await;
}

#[tokio::test]
async fn a_workflow_file_of_the_upstream_takes_a_permission_that_is_asked_for_or_named() {
    let (world, operator) = connected(&["tools"]).await;
    let sync = fork("globex/tools", &json!({"sync": {"interval": "10m"}}));
    follow(&world, "tools", &sync, "Observed").await;
    operator.settled().await;
    let push = github_sim::Push {
        repository: "globex/tools".into(),
        branch: Some("main".into()),
        path: ".github/workflows/ci.yml".into(),
        content: "on: push\njobs: {}\n".into(),
        message: Some("ci".into()),
    };
    let upstream = world.sim.push(&push).expect("pushed");
    world.live_through(&operator, SignedDuration::from_mins(13)).await;
    let message = comes_to(&world, "tools", "InsufficientPermissions").await;
    says(&message, &["workflows: write", "GitHubApp landfall", "spec.tenants[].maxPermissions"]);

    let mut wider = tenants(&["tools"]);
    wider[0]["maxPermissions"]["workflows"] = json!("write");
    world.apply::<GitHubApp>(&objects::app(&world, &wider)).await;
    let is_in_step = async || (status(&world, "tools").await["head"]["sha"] == json!(upstream)).then_some(());
    world.until("the fork has the workflow", is_in_step).await;
    comes_to(&world, "tools", "Observed").await;
    operator.stop().await;
}
