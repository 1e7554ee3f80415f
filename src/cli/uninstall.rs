//! `landfall uninstall`: for the chart, before its objects are removed, and for people when the operator is gone.

use crate::features::Features;
use crate::github::{HttpsConnect, PlainHttp, Proxies};
use crate::guards::Guards;
use crate::operator::LEASE;
use crate::runtime::clock::SystemClock;
use crate::runtime::lease::{self, Lease, LeaseTimes};
use crate::uninstall::{Report, Uninstall};
use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// How long to wait until no operator leads any more. Its grace period is shorter.
const END_OF_OPERATOR: Duration = Duration::from_mins(2);

#[derive(Args)]
pub struct Command {
    /// The operator's own namespace. It may be deleted already.
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system")]
    namespace: String,
    /// Stop this Deployment in the operator's namespace first. Without it, the operator must be stopped.
    #[arg(long)]
    stop: Option<String>,
    /// The features, as the operator had them. The kinds of others are left alone.
    #[arg(long, env = "LANDFALL_FEATURES", default_value_t)]
    features: Features,
    /// Send tokens to a GitHub that has a plain http address, too, to revoke them.
    #[arg(long, env = "LANDFALL_INSECURE_DEVELOPMENT")]
    insecure_development: bool,
}

pub async fn run(command: Command) -> Outcome {
    let proxies = Proxies::from_env()?;
    let mut config = super::kubernetes::config(&proxies).await?;
    let times = LeaseTimes::default();
    let elector = lease::client(config.clone(), times)?;
    super::kubernetes::bounded(&mut config);
    let kube = Client::try_from(config)?;
    let namespace = command.namespace;
    if let Some(deployment) = &command.stop {
        let deployments: Api<Deployment> = Api::namespaced(kube.clone(), &namespace);
        let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
        match deployments.patch_scale(deployment, &PatchParams::default(), &none).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            stopped => drop(stopped?),
        }
    }
    let is_there = Api::<Namespace>::all(kube.clone()).get_opt(&namespace).await?.is_some();
    // While this process leads, no operator takes hold of anything again.
    let leadership = if is_there {
        let identity = format!("uninstall-{}", std::process::id());
        let lease = Lease::new(elector, &namespace, LEASE, &identity, times);
        let acquired = timeout(END_OF_OPERATOR, lease.acquire(&CancellationToken::new())).await.map_err(|_| {
            format!(
                "the operator in namespace {namespace} still runs, and would take hold of everything again: stop it, `kubectl \
                 scale deployment --namespace {namespace} --selector app.kubernetes.io/component=controller --replicas=0`, and try again"
            )
        })?;
        Some(acquired?)
    } else {
        None
    };
    let uninstall = Uninstall {
        kube,
        namespace,
        features: command.features,
        plain_http: if command.insecure_development { PlainHttp::Anywhere } else { PlainHttp::OnLoopback },
        github: Arc::new(HttpsConnect::through(proxies)),
        clock: Arc::new(SystemClock),
        guards: Guards::default(),
    };
    let report = uninstall.run().await;
    if let Some(leadership) = leadership {
        leadership.release().await;
    }
    print(&report)
}

fn print(report: &Report) -> Outcome {
    let lines = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            println!("{title}:");
            for line in lines {
                println!("  {line}");
            }
        }
    };
    for (kind, count) in &report.released {
        println!("{count} objects of kind {kind} can be deleted without the operator");
    }
    println!("{} tokens are revoked", report.revoked);
    lines("tokens that were not revoked, and expire within an hour", &report.unrevoked);
    lines("volumes that stay until somebody deletes them", &report.kept);
    lines("repositories that may have a webhook, to be removed in their settings on GitHub", &report.hooked);
    if report.failed.is_empty() {
        return Ok(());
    }
    lines("still held", &report.failed);
    Err("some objects are still held: see above, and run the command again".into())
}
