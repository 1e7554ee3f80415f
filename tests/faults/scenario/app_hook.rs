//! The App's webhook: it delivers here, signed with a secret derived from a root key that is created once.

use super::{MINTED, Told, tenants};
use crate::run::Run;
use github_sim::{HookChange, HookInfo};
use k8s_openapi::api::core::v1::Secret;
use landfall::api::GitHubApp;
use landfall::webhook::{Hook, ROOT_KEYS_SECRET};
use landfall_world::{SYSTEM, objects};
use serde_json::json;

pub async fn life(run: &Run) -> Told {
    let world = &run.world;
    if world.get::<Secret>(SYSTEM, ROOT_KEYS_SECRET).await.is_some() {
        world.delete::<Secret>(SYSTEM, ROOT_KEYS_SECRET).await;
    }

    run.act("the operator is started for the first time");
    run.start().await;
    world.until("it asks for a root key", async || run.between.recorded().first().cloned()).await;
    run.reach("it is up", async || true).await?;

    run.between.act(None);
    let mut app = objects::app(world, &tenants(&json!({"contents": "read", "metadata": "read"})));
    run.connect(&app).await?;

    run.act("a webhook is wanted");
    app["spec"]["webhook"] = json!({"url": "https://landfall.example.com"});
    run.connect(&app).await?;
    is_ensured(run).await?;
    run.call(hook(run).id.to_string(), "the hook");
    let made = run.root_key().await;
    run.call(&made.0, "the root key");

    run.act("it is changed by hand while the operator is away");
    if let Some(operator) = run.between.take() {
        operator.stop().await;
    }
    let drift = HookChange { content_type: Some("form".to_owned()), ..HookChange::default() };
    world.sim.change_hook(hook(run).id, drift).expect("changed");
    run.start().await;
    is_ensured(run).await?;

    run.act("it is to deliver elsewhere");
    app["spec"]["webhook"]["url"] = json!("https://hooks.example.com/landfall");
    run.connect(&app).await?;
    is_ensured(run).await?;
    run.between.act(None);

    let mut end = run.state().await;
    end["hook"] = run.show(Hook::App, &hook(run)).await;
    end["root key is the first one"] = json!(run.root_key().await == made);
    Ok(([(MINTED, world.mints())].into(), end))
}

fn hook(run: &Run) -> HookInfo {
    run.world.sim.app_hook("landfall").expect("the App's hook")
}

/// Waits until the App's webhook delivers to the address in the spec, and status shows that.
async fn is_ensured(run: &Run) -> Result<(), String> {
    run.reach("the App's webhook is as it should be", async || {
        if !run.is_ready::<GitHubApp>("", "landfall", "Connected").await {
            return false;
        }
        let Some(app) = run.world.get::<GitHubApp>("", "landfall").await else { return false };
        let wanted = app.spec.webhook.map(|webhook| Hook::App.url(&webhook.url, "landfall"));
        let said = app.status.and_then(|status| status.webhook).map(|hook| hook.url);
        let hook = hook(run);
        hook.url == wanted && said == wanted && hook.content_type == "json"
    })
    .await
}
