//! A fork: requested, waited for, and synchronized with its upstream. There is exactly one.

use super::{MINTED, Told, tenants};
use crate::run::Run;
use github_sim::{RepositorySeed, Seed};
use jiff::SignedDuration;
use landfall::api::ProjectRepository;
use landfall_world::objects;
use serde_json::json;
use std::time::Duration;

const OF: &str = "globex/lib-up";

/// An upstream that everyone may read, and an App that may create repositories.
pub fn seed() -> Seed {
    let mut seed = landfall_world::seed();
    let upstream = RepositorySeed { owner: "globex".into(), name: "lib-up".into(), ..RepositorySeed::default() };
    seed.repositories = vec![upstream];
    seed.apps[0].permissions =
        serde_json::from_value(json!({"administration": "write", "contents": "write", "metadata": "read"}))
            .expect("permissions");
    seed
}

pub async fn life(run: &Run) -> Told {
    let world = &run.world;
    run.begin().await;
    let grant = json!({"administration": "write", "contents": "write", "metadata": "read"});
    run.connect(&objects::app(world, &tenants(&grant))).await?;
    run.call(world.sim.head(OF, "main").expect("a head"), "the first commit");
    world.sim.set_fork_delay(Duration::from_secs(5));

    run.act("a fork is declared");
    let source = json!({"source": {"fork": {"of": OF}}, "pollInterval": "1h"});
    world.apply::<ProjectRepository>(&objects::repository("lib", &source)).await;
    in_step(run).await?;
    let id = world.get::<ProjectRepository>("team-a", "lib").await.and_then(|object| object.status?.repository_id);
    run.call(id.ok_or("it has no id")?.to_string(), "the fork");

    run.act("its upstream goes on");
    let pushed = world.push(OF, "main");
    run.call(&pushed, "the second commit");
    run.live_until(world.now() + SignedDuration::from_mins(12)).await?;
    in_step(run).await?;
    run.between.act(None);

    let forks = world.sim.forks(OF).expect("forks");
    let mut end = run.state().await;
    end["forks"] = run.masked(forks.iter().map(|fork| (fork, world.sim.head(fork, "main"))).collect::<Vec<_>>());
    let asked = run.done("POST", "/repos/{owner}/{repo}/forks");
    let merged = run.done("POST", "/repos/{owner}/{repo}/merge-upstream");
    Ok(([("forks asked for", asked), ("merges", merged), (MINTED, world.mints())].into(), end))
}

/// Waits until the fork has the commits of its upstream, and status shows that.
async fn in_step(run: &Run) -> Result<(), String> {
    run.reach("the fork is in step", async || {
        if !run.is_ready::<ProjectRepository>("team-a", "lib", "Observed").await {
            return false;
        }
        let object = run.world.get::<ProjectRepository>("team-a", "lib").await;
        let Some(status) = object.and_then(|object| object.status) else { return false };
        let is_said =
            status.conditions.iter().any(|condition| condition.type_ == "InStep" && condition.status == "True");
        let upstream = run.world.sim.head(OF, "main");
        is_said
            && upstream == status.head.map(|head| head.sha)
            && upstream == status.fork.and_then(|fork| fork.upstream_sha)
    })
    .await
}
