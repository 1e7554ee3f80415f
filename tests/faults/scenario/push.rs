//! Pushes, announced by deliveries. Each restarts a Deployment exactly once, and status shows it before it happens.

use super::{MINTED, Told, tenants};
use crate::between::Patch;
use crate::run::Run;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, ListParams};
use landfall::api::{DeploymentResult, ProjectRepository};
use landfall_world::{OPERATOR, objects};
use serde_json::{Value, json};

pub async fn life(run: &Run) -> Told {
    let world = &run.world;
    allow(run).await;
    run.begin().await;
    run.connect(&objects::app(world, &tenants(&json!({"contents": "read", "metadata": "read"})))).await?;
    run.call(world.sim.head("acme/shop", "main").expect("a head"), "the first commit");

    run.act("a repository is declared");
    let restart = json!({"rolloutRestart": {"kind": "Deployment", "name": "shop"}});
    let on_push = json!({"serviceAccountName": "deployer", "actions": [restart]});
    let spec = json!({"webhook": {"mode": "App"}, "pollInterval": "1h", "onPush": on_push});
    world.apply::<ProjectRepository>(&objects::repository("shop", &spec)).await;
    let first = world.sim.head("acme/shop", "main").expect("a head");
    is_deployed(run, &first).await?;

    run.act("a push is announced");
    announce(run, "11111111-1111-4111-8111-111111111111", "the second commit").await?;

    run.act("another push is announced");
    announce(run, "22222222-2222-4222-8222-222222222222", "the third commit").await?;
    run.between.act(None);

    let mut end = run.state().await;
    end["rolled"] = run.masked(rolled(run).await);
    end["rolled before status said so"] = run.masked(premature(&run.between.patches()));
    Ok(([(MINTED, world.mints())].into(), end))
}

/// A Deployment that only the operator restarts, and a `ServiceAccount` that may restart it and that the operator may
/// impersonate.
async fn allow(run: &Run) {
    let world = &run.world;
    if world.get::<Deployment>("team-a", "shop").await.is_some() {
        world.delete::<Deployment>("team-a", "shop").await;
        world.until_gone::<Deployment>("team-a", "shop").await;
    }
    let rbac = "rbac.authorization.k8s.io";
    let role = |name: &str, rule: Value| {
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": name, "namespace": "team-a"},
            "rules": [rule],
        })
    };
    let binding = |name: &str, subject: Value| {
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": "team-a"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name}, "subjects": [subject],
        })
    };
    let rolls = json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "patch"]});
    let acts = json!({"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["deployer"], "verbs": ["impersonate"]});
    let deployer = json!({"kind": "ServiceAccount", "name": "deployer", "namespace": "team-a"});
    let operator = json!({"apiGroup": rbac, "kind": "User", "name": OPERATOR});
    for (name, rule, subject) in [("rolls", rolls, deployer), ("acts-as-deployer", acts, operator)] {
        world.apply::<Role>(&role(name, rule)).await;
        world.apply::<RoleBinding>(&binding(name, subject)).await;
    }
    let container = json!({"name": "shop", "image": "registry.example.com/shop:1"});
    let template = json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [container]}});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"app": "shop"}}, "template": template});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop", "namespace": "team-a"}, "spec": spec,
    });
    world.apply::<Deployment>(&deployment).await;
    run.has_workloads.set(true);
}

/// Pushes, announces the push like the receiver, and waits until it is deployed.
async fn announce(run: &Run, guid: &str, name: &'static str) -> Result<(), String> {
    let pushed = run.world.push("acme/shop", "main");
    run.call(&pushed, name);
    let delivery = json!({"ref": "refs/heads/main", "sha": pushed});
    run.world.deliver(("team-a", "shop"), guid, &delivery).await;
    is_deployed(run, &pushed).await
}

/// Waits until status shows this commit as deployed, and no delivery waits.
async fn is_deployed(run: &Run, sha: &str) -> Result<(), String> {
    run.reach("it is deployed", async || {
        if !run.is_ready::<ProjectRepository>("team-a", "shop", "Observed").await {
            return false;
        }
        let object = run.world.get::<ProjectRepository>("team-a", "shop").await;
        let Some(status) = object.and_then(|object| object.status) else { return false };
        let is_pending = !run.world.waiting().await.is_empty();
        let is_done = |done: DeploymentResult| done == DeploymentResult::Succeeded;
        let deployed = status.deployment.filter(|deployment| is_done(deployment.result));
        !is_pending && deployed.is_some_and(|deployment| deployment.sha == sha)
    })
    .await
}

/// The number of changes to the Deployment, and the annotations of its templates, from its `ReplicaSet`s.
async fn rolled(run: &Run) -> Value {
    let world = &run.world;
    let deployment = world.get::<Deployment>("team-a", "shop").await.expect("the Deployment");
    let api = Api::<ReplicaSet>::namespaced(world.admin.clone(), "team-a");
    let all = api.list(&ListParams::default()).await.expect("ReplicaSets");
    let is_its = |set: &&ReplicaSet| {
        set.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref())
    };
    let said = |set: &ReplicaSet| {
        let annotations = set.spec.as_ref()?.template.as_ref()?.metadata.as_ref()?.annotations.clone()?;
        let of = |key: &str| annotations.get(key).cloned().unwrap_or_default();
        Some((of("landfall.dev/sequence"), of("landfall.dev/sha")))
    };
    let mut sets: Vec<_> = all.iter().filter(is_its).map(said).collect();
    sets.sort();
    json!({"generation": deployment.metadata.generation, "replica sets": sets})
}

/// The patches of the Deployment that were sent before status had the same deployment as Running.
fn premature(patches: &[Patch]) -> Vec<Value> {
    let body = |patch: &Patch| serde_json::from_slice::<Value>(&patch.body).expect("json");
    let is_said = |earlier: &Patch, stamp: &Value| {
        let deployment = &body(earlier)["status"]["deployment"];
        earlier.is_effective
            && earlier.kind == "PATCH projectrepositories/status team-a/shop"
            && deployment["result"] == "Running"
            && deployment["sha"] == stamp["landfall.dev/sha"]
            && stamp["landfall.dev/sequence"].as_str().and_then(|text| text.parse().ok())
                == deployment["sequence"].as_i64()
    };
    let mut premature = Vec::new();
    for (index, patch) in patches.iter().enumerate() {
        if patch.kind == "PATCH deployments team-a/shop" && !patch.is_effective {
            let stamp = body(patch)["spec"]["template"]["metadata"]["annotations"].clone();
            if !patches[..index].iter().any(|earlier| is_said(earlier, &stamp)) {
                premature.push(stamp);
            }
        }
    }
    premature
}
