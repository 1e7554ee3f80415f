//! A repository's own webhook: created, repaired, created again, removed. There is exactly one, and none in the end.

use super::{MINTED, Told, tenants};
use crate::run::Run;
use github_sim::{HookChange, HookInfo};
use landfall::api::{GitHubApp, ProjectRepository};
use landfall::webhook::Hook;
use landfall_world::{id, objects};
use serde_json::{Value, json};

const BASE: &str = "https://landfall.example.com";

pub async fn life(run: &Run) -> Told {
    let world = &run.world;
    run.begin().await;
    let grant = json!({"contents": "read", "metadata": "read", "repository_hooks": "write"});
    let mut app = objects::app(world, &tenants(&grant));
    app["spec"]["webhook"] = json!({"url": BASE, "policy": "Manual"});
    run.connect(&app).await?;
    run.call(run.root_key().await.0, "the root key");
    run.call(world.sim.head("acme/shop", "main").expect("a head"), "the first commit");

    run.act("a repository is declared");
    let spec = json!({"webhook": {"mode": "Repository"}, "pollInterval": "1h"});
    world.apply::<ProjectRepository>(&objects::repository("shop", &spec)).await;
    let hook = ensured(run, None).await?;
    run.call(hook.id.to_string(), "the first hook");

    run.act("its webhook is changed by hand");
    let drift = HookChange {
        events: Some(vec!["issues".to_owned()]),
        content_type: Some("form".to_owned()),
        active: Some(false),
        ..HookChange::default()
    };
    world.sim.change_hook(hook.id, drift).expect("changed");
    let pushed = push(run, "the second commit").await;
    let hook = ensured(run, Some(&pushed)).await?;

    run.act("its webhook is removed by hand");
    world.sim.delete_hook(hook.id).expect("removed");
    let pushed = push(run, "the third commit").await;
    let hook = ensured(run, Some(&pushed)).await?;
    run.call(hook.id.to_string(), "the second hook");
    let meanwhile = state(run).await;

    run.act("the repository is let go");
    world.delete::<ProjectRepository>("team-a", "shop").await;
    run.reach("it is gone", async || world.get::<ProjectRepository>("team-a", "shop").await.is_none()).await?;
    run.reach("the App is as before", async || run.is_ready::<GitHubApp>("", "landfall", "Connected").await).await?;
    run.between.act(None);
    let made = run.done("POST", "/repos/{owner}/{repo}/hooks");
    let counts = [("hooks made", made), (MINTED, world.mints())].into();
    Ok((counts, json!({"while it lives": meanwhile, "in the end": state(run).await})))
}

/// Pushes a commit that no delivery announces, and requests the look that finds it.
async fn push(run: &Run, name: &'static str) -> String {
    let pushed = run.world.push("acme/shop", "main");
    run.call(&pushed, name);
    let wish = json!({"metadata": {"annotations": {"landfall.dev/reconcile": name}}});
    run.world.merge::<ProjectRepository>("team-a", "shop", &wish).await.expect("annotated");
    pushed
}

/// Waits until there is a correct webhook, and status shows that, with this head.
async fn ensured(run: &Run, head: Option<&str>) -> Result<HookInfo, String> {
    let mut found = None;
    run.reach("its webhook is as it should be", async || {
        if !run.is_ready::<ProjectRepository>("team-a", "shop", "Observed").await {
            return false;
        }
        let object = run.world.get::<ProjectRepository>("team-a", "shop").await;
        let Some(status) = object.and_then(|object| object.status) else { return false };
        let is_at = |head: &str| status.head.as_ref().is_some_and(|seen| seen.sha == head);
        let shown = status.webhook.as_ref().and_then(|webhook| webhook.id);
        let hooks = run.world.sim.hooks("acme/shop").expect("hooks");
        let is_right = |hook: &&HookInfo| {
            Some(id(hook.id)) == shown
                && hook.active
                && hook.content_type == "json"
                && hook.events == ["push", "repository"]
        };
        found = hooks.iter().find(is_right).filter(|_| head.is_none_or(is_at)).cloned();
        found.is_some()
    })
    .await?;
    found.ok_or_else(|| "it is there, and was not found".to_owned())
}

async fn state(run: &Run) -> Value {
    let mut state = run.state().await;
    let (repository, mut hooks) = (Hook::Repository(id(9001)), Vec::new());
    for hook in run.world.sim.hooks("acme/shop").expect("hooks") {
        hooks.push(run.show(repository, &hook).await);
    }
    state["hooks"] = hooks.into();
    state
}
