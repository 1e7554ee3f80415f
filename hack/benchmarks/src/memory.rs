//! The most memory that the controller takes, against the limit that the chart sets: with many tokens and repositories, and at
//! a start with objects that a tenant has filled with annotations beside them.

use std::time::{Duration, Instant};

use http::Request;
use serde_json::{Value, json};

use crate::figures::{Figures, Goal};
use crate::load::{Until, drive};
use crate::process::peak_resident;
use crate::program::Program;
use crate::push::scene::{IN_A_NAMESPACE, OURS, Scene, name, namespace, ours};
use crate::{BenchmarkError, api_server, objects};

/// How many objects are full, and the bytes in each. The API server takes 256 KiB.
const FULL: u64 = 400;
const FULL_BYTES: usize = 240 * 1024;
/// How many objects are written at once.
const AT_ONCE: usize = 20;
/// How long an object may take until it is Ready. In one namespace a token is rationed to one in three seconds.
const LONGEST_EACH: Duration = Duration::from_secs(3);
const LONGEST: Duration = Duration::from_mins(5);
/// How often the objects are listed until all are Ready.
const LISTED_EVERY: Duration = Duration::from_secs(2);
/// How long the controller goes on after that.
const SETTLES: Duration = Duration::from_secs(10);
const VALUES: &str = include_str!("../../../charts/landfall/values.yaml");

/// Runs it with so many tokens, and as many repositories.
pub async fn run(count: u64) -> Result<Figures, BenchmarkError> {
    let limit = limit()?;
    let scene = Scene::new(count, 0).await?;
    make_tokens(&scene, count).await?;
    let mut controller = Program::controller(&scene.server.kubeconfig())?;
    all_ready(&scene, &mut controller, 2 * count).await?;
    let usual = settled_peak(controller).await?;

    make_full(&scene).await?;
    let mut controller = Program::controller(&scene.server.kubeconfig())?;
    controller.ready().await?;
    all_ready(&scene, &mut controller, 2 * count + FULL / 2).await?;
    let attacked = settled_peak(controller).await?;
    scene.server.stop().await;

    let mut figures = Figures::default();
    figures.add("tokens", number_of(count), "InstallationTokens, and as many ProjectRepositories")?;
    figures.add("limit_mb", number_of(limit) / 1e6, "the limit that the chart sets for the controller's memory")?;
    let bound = Goal::AtMost(number_of(limit) / 1e6);
    let meaning = "the controller's most memory from cold until all are Ready";
    figures.hold("peak_rss_mb", number_of(usual) / 1e6, bound, meaning)?;
    let meaning = "the part of the limit that is left then, in percent";
    figures.add("margin_percent", margin(usual, limit), meaning)?;
    let meaning =
        format!("the most memory at a start with {FULL} further objects that have 240 KiB of annotations each");
    figures.hold("attacked_peak_rss_mb", number_of(attacked) / 1e6, bound, meaning)?;
    let meaning = "the part of the limit that is left then, in percent";
    figures.add("attacked_margin_percent", margin(attacked, limit), meaning)?;
    Ok(figures)
}

/// The chart's default for the controller's memory, in bytes.
fn limit() -> Result<u64, BenchmarkError> {
    let resources = VALUES.lines().find_map(|line| line.strip_prefix("resources:"));
    let memory = resources.and_then(|line| line.split_once("limits: {memory: ")?.1.split_once("Mi}"));
    let mebibytes = memory.and_then(|(mebibytes, _)| mebibytes.parse::<u64>().ok());
    mebibytes.map(|mebibytes| mebibytes << 20).ok_or(BenchmarkError::NoLimit)
}

async fn make_tokens(scene: &Scene, count: u64) -> Result<(), BenchmarkError> {
    drive(&mut [(); AT_ONCE], Until::Calls(count), async |(): &mut (), number| {
        let path = format!("{OURS}/namespaces/{}/installationtokens", namespace(number / IN_A_NAMESPACE));
        post(scene, &path, &token(&name(number), number)).await
    })
    .await?;
    Ok(())
}

fn token(own_name: &str, repository: u64) -> Value {
    let spec = json!({
        "installationRef": {"name": "acme"}, "repositories": [{"name": name(repository)}],
        "permissions": {"contents": "read"}, "secret": {"name": own_name},
    });
    ours("InstallationToken", own_name, &spec)
}

/// Makes objects of the kinds that the controller keeps in mind, half of which become Ready.
async fn make_full(scene: &Scene) -> Result<(), BenchmarkError> {
    let first = namespace(0);
    let annotations = json!({"example.com/full": "x".repeat(FULL_BYTES)});
    drive(&mut [(); AT_ONCE], Until::Calls(FULL), async |(): &mut (), number| {
        let own_name = format!("full-{number}");
        let (kind, mut object) = match number % 4 {
            0 => ("installationtokens", token(&own_name, 0)),
            1 => {
                let spec = json!({
                    "installationRef": {"name": "acme"}, "source": {"existing": {"name": name(0)}}, "pollInterval": "24h",
                });
                ("projectrepositories", ours("ProjectRepository", &own_name, &spec))
            }
            2 => {
                let spec = json!({"repositoryRef": {"name": "none"}, "operatingMode": "Suspended"});
                ("workspaces", ours("Workspace", &own_name, &spec))
            }
            _ => {
                let labels = json!({"app.kubernetes.io/managed-by": "landfall"});
                let metadata = json!({"name": own_name, "labels": labels});
                ("secrets", json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}))
            }
        };
        object["metadata"]["annotations"] = annotations.clone();
        let group = if kind == "secrets" { "/api/v1" } else { OURS };
        post(scene, &format!("{group}/namespaces/{first}/{kind}"), &object).await
    })
    .await?;
    Ok(())
}

async fn post(scene: &Scene, path: &str, object: &Value) -> Result<(), kube::Error> {
    api_server::write(&scene.client, "POST", path, "application/json", object).await
}

/// Waits until so many tokens and repositories are Ready.
async fn all_ready(scene: &Scene, controller: &mut Program, count: u64) -> Result<(), BenchmarkError> {
    let began = Instant::now();
    let longest = LONGEST.saturating_add(LONGEST_EACH.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)));
    loop {
        controller.runs()?;
        let (mut ready, mut other) = scene.ready().await?;
        if ready + FULL >= count / 2 {
            let (tokens, unready) = ready_tokens(scene).await?;
            (ready, other) = (ready + tokens, other.or(unready));
        }
        if ready >= count {
            return Ok(());
        }
        if began.elapsed() > longest {
            let other = other.unwrap_or_default();
            return Err(BenchmarkError::Late { what: format!("{count} objects: {ready} are Ready; {other}") });
        }
        tokio::time::sleep(LISTED_EVERY).await;
    }
}

async fn ready_tokens(scene: &Scene) -> Result<(u64, Option<String>), kube::Error> {
    let get = Request::get(format!("{OURS}/installationtokens?resourceVersion=0")).body(Vec::new());
    let list: Value = scene.client.request(get.map_err(kube::Error::HttpError)?).await?;
    Ok(objects::ready(list["items"].as_array().into_iter().flatten()))
}

/// The controller's most memory. Ends it.
async fn settled_peak(mut controller: Program) -> Result<u64, BenchmarkError> {
    tokio::time::sleep(SETTLES).await;
    controller.runs()?;
    let peak = peak_resident(controller.pid())?;
    controller.stop().await;
    Ok(peak)
}

fn margin(peak: u64, limit: u64) -> f64 {
    100.0 - 100.0 * number_of(peak) / number_of(limit)
}

#[allow(clippy::cast_precision_loss, reason = "nothing is counted up to 2^52")]
fn number_of(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_chart_has_the_limit_where_it_is_looked_for() {
        assert_eq!(super::limit().unwrap(), 256 << 20);
    }
}
