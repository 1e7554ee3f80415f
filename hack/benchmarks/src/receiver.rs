//! What the receiver does: deliveries that are stored per second, what a wrong signature costs it, and its memory.
//!
//! It is held against what the API server does alone for the same objects, one delivery in each patch, so that the
//! figures say what sharing patches brings and what the way through the receiver costs.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use kube::Client;
use landfall::webhook::{AppIdentity, CURRENT, CURRENT_ID, Hook, KEY_LENGTH, RootKeys};
use serde_json::{Value, json};

use crate::api_server::write;
use crate::figures::Figures;
use crate::http_load::{Connection, requests};
use crate::load::{Measured, Until, drive};
use crate::process::{cpu_time, resident};
use crate::program::Program;
use crate::{BenchmarkError, cluster};

/// How many repositories deliveries come for.
const OBJECTS: u64 = AT_ONCE as u64;
/// How many objects are written at once.
const AT_ONCE: usize = 50;
/// How many there are in a large cluster.
const MANY: u64 = 10_000;
/// How large a body is, in bytes: a push of a few commits.
const BODY: usize = 6 * 1024;
/// How many deliveries a status keeps.
const KEPT: u64 = landfall::api::KEPT_DELIVERIES as u64;
const APP: &str = "landfall";
const APP_ID: u64 = 42;
const ACCOUNT_ID: u64 = 7001;
const ROOT_KEY: [u8; KEY_LENGTH] = [7; KEY_LENGTH];
const REPOSITORIES: &str = "/apis/landfall.dev/v1alpha1/namespaces/default/projectrepositories";

/// Runs it, so long for each measurement.
pub async fn run(each: Duration) -> Result<Figures, BenchmarkError> {
    let (server, client) = cluster::start().await?;
    let app = json!({
        "appID": APP_ID, "credentialsSecretRef": {"name": "none"},
        "tenants": [{"name": "acme", "account": "acme", "accountID": ACCOUNT_ID, "repositories": ["*"], "namespaces": {"names": ["default"]}}],
    });
    make(&client, "/apis/landfall.dev/v1alpha1/githubapps", "GitHubApp", APP, &app).await?;
    let installation = json!({"appRef": {"name": APP}, "account": "acme"});
    let installations = "/apis/landfall.dev/v1alpha1/namespaces/default/githubinstallations";
    make(&client, installations, "GitHubInstallation", "acme", &installation).await?;
    repositories(&client, 1..=OBJECTS).await?;

    let mut writers: Vec<Writer> = (1..=OBJECTS).map(|object| Writer { object, written: 0 }).collect();
    // The first connections, and logs that are not full yet, are not what is measured.
    raw(&client, &mut writers, Until::Calls(2 * KEPT * OBJECTS)).await?;
    let raw_alone = raw(&client, &mut writers[..1], Until::Elapsed(each)).await?;
    let raw_together = raw(&client, &mut writers, Until::Elapsed(each)).await?;

    let keys = tempfile::tempdir().map_err(BenchmarkError::Folder)?;
    for (name, content) in [(CURRENT, &ROOT_KEY[..]), (CURRENT_ID, b"bench")] {
        std::fs::write(keys.path().join(name), content).map_err(BenchmarkError::Folder)?;
    }
    let kubeconfig = server.kubeconfig();
    let receiver = Program::receiver(&kubeconfig, keys.path()).await?;
    let idle_50 = resident(receiver.pid())?;
    let deliveries = Deliveries::new()?;
    let mut connections = Connection::open_many(receiver.address(), 512).await?;
    let warm = Until::Calls(2 * KEPT * OBJECTS);
    requests(&mut connections[..64], warm, StatusCode::ACCEPTED, |number| deliveries.right(0, number)).await?;
    let mut durable = BTreeMap::new();
    for in_flight in [1, 64, 512] {
        let open = &mut connections[..in_flight];
        let request = |number| deliveries.right(in_flight, number);
        durable.insert(in_flight, requests(open, Until::Elapsed(each), StatusCode::ACCEPTED, request).await?);
    }
    let loaded = resident(receiver.pid())?;

    let before = cpu_time(receiver.pid())?;
    let wrong = |number| deliveries.wrong(number);
    let refused = requests(&mut connections[..64], Until::Elapsed(each), StatusCode::UNAUTHORIZED, wrong).await?;
    let spent = cpu_time(receiver.pid())?.saturating_sub(before);
    receiver.stop().await;

    repositories(&client, OBJECTS + 1..=MANY).await?;
    let receiver = Program::receiver(&kubeconfig, keys.path()).await?;
    let idle_10000 = resident(receiver.pid())?;
    receiver.stop().await;
    server.stop().await;

    let mut figures = Figures::default();
    figures.add("raw_patch_per_s", raw_together.per_second(), "patches of one delivery each, 50 objects at once")?;
    figures.add("raw_p50_ms_1", raw_alone.p50_ms(), "median latency of such a patch, one at a time")?;
    figures.add(
        "durable_per_s_1",
        durable[&1].per_second(),
        "deliveries stored through the receiver, one at a time",
    )?;
    figures.add("durable_per_s_64", durable[&64].per_second(), "64 in flight")?;
    figures.add("durable_per_s_512", durable[&512].per_second(), "512 in flight")?;
    figures.add("p50_ms_1", durable[&1].p50_ms(), "median latency of a delivery, one at a time")?;
    figures.add("p50_ms_64", durable[&64].p50_ms(), "median latency, 64 in flight")?;
    figures.add("p99_ms_64", durable[&64].p99_ms(), "what one of a hundred exceeded")?;
    figures.add(
        "refused_per_cpu_s",
        per_second(&refused, spent),
        "wrong signatures refused per second of processor time",
    )?;
    figures.add("rss_idle_50_mb", megabytes(idle_50), "memory of an idle receiver, 50 repositories")?;
    figures.add("rss_idle_10000_mb", megabytes(idle_10000), "memory of an idle receiver, 10,000 repositories")?;
    figures.add("rss_loaded_mb", megabytes(loaded), "memory after all of the load, 512 connections open")?;
    Ok(figures)
}

#[allow(clippy::cast_precision_loss, reason = "nobody makes 2^52 calls")]
fn per_second(measured: &Measured, time: Duration) -> f64 {
    measured.calls() as f64 / time.as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "no process has 2^52 bytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

async fn make(client: &Client, path: &str, kind: &str, name: &str, spec: &Value) -> Result<(), kube::Error> {
    let object = json!({"apiVersion": "landfall.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    write(client, "POST", path, "application/json", &object).await
}

/// Repositories with these ids, bound to as the operator binds them.
async fn repositories(client: &Client, ids: std::ops::RangeInclusive<u64>) -> Result<(), kube::Error> {
    let (first, count) = (*ids.start(), ids.end() - ids.start() + 1);
    drive(&mut [(); AT_ONCE], Until::Calls(count), async |(): &mut (), number| {
        let id = first + number;
        let name = name(id);
        let spec = json!({"installationRef": {"name": "acme"}, "source": {"existing": {"name": name}}});
        make(client, REPOSITORIES, "ProjectRepository", &name, &spec).await?;
        let head = json!({"branch": "main", "sha": "1".repeat(40), "observationTime": "2026-01-01T00:00:00Z"});
        let status =
            json!({"status": {"id": id, "fullName": format!("acme/{name}"), "defaultBranch": "main", "head": head}});
        let path = format!("{REPOSITORIES}/{name}/status");
        write(client, "PATCH", &path, "application/merge-patch+json", &status).await
    })
    .await
    .map(drop)
}

fn name(id: u64) -> String {
    format!("repository-{id:05}")
}

/// A GUID that no other delivery of this kind has.
fn guid(kind: usize, object: u64, number: u64) -> String {
    format!("{object:08x}-{kind:04x}-4000-8000-{number:012x}")
}

/// Who writes the deliveries of one object, one after the other.
#[derive(Clone, Copy)]
struct Writer {
    object: u64,
    written: u64,
}

/// What there would be without a receiver that shares patches: one for each delivery, which takes the oldest away.
async fn raw(client: &Client, writers: &mut [Writer], until: Until) -> Result<Measured, kube::Error> {
    drive(writers, until, async |writer: &mut Writer, _| {
        let Writer { object, written } = *writer;
        let mut deliveries = json!({guid(0, object, written): {
            "event": "push", "ref": "refs/heads/main", "sha": "2".repeat(40), "receiptTime": "2026-01-01T00:00:00.000000Z",
            "attempts": 1, "result": "Pending",
        }});
        if let Some(oldest) = written.checked_sub(KEPT) {
            deliveries[guid(0, object, oldest)] = Value::Null;
        }
        writer.written += 1;
        let path = format!("{REPOSITORIES}/{}/status", name(object));
        let body = json!({"status": {"deliveries": deliveries}});
        write(client, "PATCH", &path, "application/merge-patch+json", &body).await
    })
    .await
}

/// Pushes to each of the repositories, by the App's webhook.
struct Deliveries(Vec<(Bytes, String)>);

impl Deliveries {
    fn new() -> Result<Self, BenchmarkError> {
        let keys = RootKeys::read(|file| match file {
            CURRENT => Some(&ROOT_KEY[..]),
            CURRENT_ID => Some(b"bench"),
            _ => None,
        })?;
        let identity = AppIdentity { host: "api.github.com".into(), app_id: APP_ID.try_into()? };
        let secret = keys.current.secret(&identity, Hook::App);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let signed = (1..=OBJECTS).map(|id| {
            let body = body(id);
            let signature = format!("sha256={}", hex::encode(hmac::sign(&key, &body)));
            (body, signature)
        });
        Ok(Self(signed.collect()))
    }

    fn right(&self, kind: usize, number: u64) -> Request<Full<Bytes>> {
        let object = number % OBJECTS;
        let (body, signature) = &self.0[usize::try_from(object).unwrap_or_default()];
        request(body, signature, &guid(kind, object, number))
    }

    /// Signed, for a webhook that there is, with another secret.
    fn wrong(&self, number: u64) -> Request<Full<Bytes>> {
        let (body, _) = &self.0[0];
        request(body, &format!("sha256={}", "ab".repeat(32)), &guid(0, 0, number))
    }
}

fn request(body: &Bytes, signature: &str, guid: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::try_from(Hook::App.path(APP)).unwrap_or_default();
    let headers = [
        ("host", "landfall"),
        ("user-agent", "GitHub-Hookshot/bench"),
        ("content-type", "application/json"),
        ("x-github-event", "push"),
        ("x-github-delivery", guid),
        ("x-hub-signature-256", signature),
    ];
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            request.headers_mut().insert(name, value);
        }
    }
    request
}

/// A push's payload: the fields that are read are at its ends, as in GitHub's.
fn body(id: u64) -> Bytes {
    let payload = |messages: &str| {
        json!({
            "ref": "refs/heads/main", "before": "1".repeat(40), "after": "2".repeat(40),
            "commits": [{"id": "2".repeat(40), "message": messages, "author": {"name": "a"}}],
            "installation": {"id": 501},
            "repository": {"id": id, "name": name(id), "owner": {"id": ACCOUNT_ID, "login": "acme"}},
        })
        .to_string()
    };
    let rest = BODY - payload("").len();
    Bytes::from(payload(&"x".repeat(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_delivery_is_of_its_size_and_no_two_have_the_same_guid() {
        let deliveries = Deliveries::new().unwrap();
        let mut guids = std::collections::BTreeSet::new();
        for number in 0..200 {
            let request = deliveries.right(64, number);
            assert_eq!(request.uri().path(), "/webhooks/app/landfall");
            guids.insert(request.headers()["x-github-delivery"].to_str().unwrap().to_owned());
            assert_eq!(request.into_body().collect().await.unwrap().to_bytes().len(), BODY);
        }
        assert_eq!(guids.len(), 200);
        assert!(guids.iter().all(|guid| guid.len() == 36), "{guids:?}");
    }
}
