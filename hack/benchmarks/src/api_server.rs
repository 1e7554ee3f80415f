//! The API server alone: the smallest writes, and changes of the status of an object of ours.

use std::time::Duration;

use http::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::cost::Processes;
use crate::figures::Figures;
use crate::floor::Floor;
use crate::load::{Measured, Until, drive};
use crate::{BenchmarkError, cluster};

/// How many objects are changed, and so at most at once: two changes of one object at once would wait for each other.
const OBJECTS: usize = 50;
const NAMESPACE: &str = "default";

/// Changes the status of these objects by merge patches, each by the one who changes that object; `status` is made from
/// the call's number and must differ from call to call, for what changes nothing is not stored.
///
/// The paths are those of the objects, such as `/apis/landfall.dev/v1alpha1/namespaces/default/…/name`.
pub async fn status_patches(
    client: &Client,
    paths: &[String],
    until: Until,
    status: impl Fn(u64) -> Value,
) -> Result<Measured, kube::Error> {
    let mut paths = paths.to_vec();
    drive(&mut paths, until, async |path: &mut String, number| {
        let body = json!({"status": status(number)});
        write(client, "PATCH", &format!("{path}/status"), "application/merge-patch+json", &body).await
    })
    .await
}

/// Writes an object, or a part of one, and reads the answer.
pub(crate) async fn write(
    client: &Client,
    method: &str,
    path: &str,
    kind: &str,
    body: &Value,
) -> Result<(), kube::Error> {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let body = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    client.request_text(request.body(body).map_err(kube::Error::HttpError)?).await.map(drop)
}

/// Runs it, so long for each measurement.
pub async fn run(each: Duration) -> Result<Figures, BenchmarkError> {
    let (server, client) = cluster::start().await?;
    let floor = Floor::measure(&client, Processes::of(&server)?, each).await?;
    let collection = format!("/apis/landfall.dev/v1alpha1/namespaces/{NAMESPACE}/githubinstallations");
    let mut paths = Vec::new();
    for number in 0..OBJECTS {
        let name = format!("installation-{number}");
        let object = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation", "metadata": {"name": name},
            "spec": {"appRef": {"name": "landfall"}, "account": "acme"},
        });
        write(&client, "POST", &collection, "application/json", &object).await?;
        paths.push(format!("{collection}/{name}"));
    }
    let status = |number| json!({"installationID": number + 1});
    // The first connection and the first writes of each object are not what is measured.
    status_patches(&client, &paths, Until::Calls(4 * OBJECTS as u64), |number| status(number + (1 << 40))).await?;
    let alone = status_patches(&client, &paths[..1], Until::Elapsed(each), status).await?;
    let together = status_patches(&client, &paths, Until::Elapsed(each), |number| status(number + (1 << 41))).await?;
    server.stop().await;

    let mut figures = Figures::default();
    floor.add_to(&mut figures)?;
    let meaning = "changes of the status of GitHubInstallations per second, 50 objects at once";
    figures.add("raw_patch_per_s", together.per_second(), meaning)?;
    figures.add("raw_p50_ms_50", together.p50_ms(), "their median latency")?;
    figures.add("raw_p99_ms_50", together.p99_ms(), "what one of a hundred exceeded")?;
    figures.add("raw_p50_ms_1", alone.p50_ms(), "median latency, one at a time")?;
    figures.add("raw_p99_ms_1", alone.p99_ms(), "what one of a hundred exceeded")?;
    Ok(figures)
}
