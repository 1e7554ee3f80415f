//! `landfall uninstall` with an object of every kind: it is started anew, as Kubernetes does with the chart's Job, and at the end
//! holds nothing, and keeps the volume.

use super::{Told, workspace};
use crate::point::Fault;
use crate::run::Run;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Resource;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository, Workspace};
use landfall::features::Features;
use landfall::github::PlainHttp;
use landfall::guards::Guards;
use landfall::runtime::clock::{Clock, ManualClock};
use landfall::uninstall::Uninstall;
use landfall_world::{OPERATOR, SYSTEM};
use serde_json::{Value, json};
use std::sync::Arc;

/// `backoffLimit` of the Job is 3.
const RUNS: usize = 4;

/// The command treats all refusals alike. A token that GitHub does not revoke now expires, and keeps its Secret.
pub fn faults(index: usize, fault: Fault) -> bool {
    match fault {
        Fault::KilledBefore | Fault::KilledAfter | Fault::Lost => true,
        Fault::Conflict => index.is_multiple_of(2),
        Fault::Cut | Fault::TooMany | Fault::Unavailable => false,
    }
}

pub async fn life(run: &Run) -> Told {
    workspace::begin(run).await?;
    workspace::make(run).await?;
    workspace::work(run).await;
    if let Some(operator) = run.between.take() {
        operator.stop().await;
    }

    run.act("Landfall is uninstalled");
    let mut failed = Vec::new();
    for _ in 0..RUNS {
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&run.world.clock);
        let uninstall = Uninstall {
            kube: run.between.client(run.world.user(OPERATOR).await),
            namespace: SYSTEM.to_owned(),
            features: Features::default(),
            plain_http: PlainHttp::OnLoopback,
            github: run.between.start().github,
            clock,
            guards: Guards::without(run.tampering.sabotage),
        };
        tokio::select! {
            report = uninstall.run() => {
                failed = report.failed;
                if failed.is_empty() {
                    break;
                }
            }
            () = run.between.killed() => run.between.bury(),
        }
    }
    run.between.act(None);
    let mut held = finalizers::<GitHubApp>(run).await;
    held.extend(finalizers::<GitHubInstallation>(run).await);
    held.extend(finalizers::<InstallationToken>(run).await);
    held.extend(finalizers::<ProjectRepository>(run).await);
    held.extend(finalizers::<Workspace>(run).await);
    held.extend(finalizers::<PersistentVolumeClaim>(run).await);
    let secrets = run.state().await["secrets"].take();
    let policies = list::<PersistentVolume>(run).await;
    let policies: Vec<_> = policies.iter().map(|volume| &volume["spec"]["persistentVolumeReclaimPolicy"]).collect();
    let live =
        run.world.sim.live_tokens().iter().filter(|token| token.permissions.contains_key("pull_requests")).count();
    let end = json!({"failed": failed, "held": held, "secrets": secrets, "volumes": policies});
    Ok(([("tokens live", live)].into(), end))
}

async fn list<K: Resource<DynamicType = ()>>(run: &Run) -> Vec<Value> {
    let get = http::Request::get(K::url_path(&(), None)).body(Vec::new()).expect("a request");
    let mut list: Value = run.world.admin.request(get).await.expect("a list");
    std::mem::take(list["items"].as_array_mut().expect("a list"))
}

/// Landfall's finalizers on the objects of a kind.
async fn finalizers<K: Resource<DynamicType = ()>>(run: &Run) -> Vec<Value> {
    let all = list::<K>(run).await;
    let each = all.iter().flat_map(|object| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default());
    each.filter(|finalizer| finalizer.as_str().is_some_and(|name| name.starts_with("landfall.dev/"))).collect()
}
