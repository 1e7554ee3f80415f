//! The receiver: deliveries that are stored per second, their cost, the cost of a wrong signature, memory.
//!
//! The plain receiver takes turns with it (`reference/receiver.rs`): ours, plain, plain, ours for each number in flight,
//! so that both have the same share of a machine that becomes slower or faster.

mod deliveries;
mod drain;
mod report;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use kube::Client;
use landfall::webhook::{CURRENT, CURRENT_ID, KEY_LENGTH};
use serde_json::{Value, json};

use crate::api_server::write;
use crate::cost::{Processes, Turn};
use crate::figures::Figures;
use crate::floor::Floor;
use crate::http_load::{Connection, LoadError, requests};
use crate::load::{Measured, Until, drive};
use crate::process::{cpu_time, resident};
use crate::program::{self, Program};
use crate::{BenchmarkError, cluster, reference};
use deliveries::Deliveries;

/// How many repositories deliveries come for.
const OBJECTS: u64 = AT_ONCE as u64;
/// How many objects are written at once.
const AT_ONCE: usize = 50;
/// How many there are in a large cluster.
const MANY: u64 = 10_000;
/// How many deliveries are in flight, level by level.
const LEVELS: [usize; 4] = [1, 8, 64, 512];
/// How many good deliveries are in flight during a flood.
const BESIDE_FLOOD: usize = 8;
/// How many senders flood.
const FLOODERS: usize = 64;
/// How many wrong signatures they send in a second: far more than a receiver gets, and few enough that the machine on
/// which all of this runs is not just busy with sending.
const FLOOD_PER_S: u32 = 5_000;
/// How much longer than the measurement a flood takes on each side.
const MARGIN: Duration = Duration::from_millis(500);
const APP: &str = "landfall";
const APP_ID: u64 = 42;
const ACCOUNT_ID: u64 = 7001;
const ROOT_KEY: [u8; KEY_LENGTH] = [7; KEY_LENGTH];
const REPOSITORIES: &str = "/apis/landfall.dev/v1alpha1/namespaces/default/projectrepositories";

/// Everything that was measured.
struct Results {
    floor: Floor,
    /// How many were in flight, ours, and the plain receiver's.
    levels: Vec<(usize, Turn, Turn)>,
    /// Good deliveries without and with a flood, and the flood.
    beside_flood: (Turn, Turn, Measured),
    /// Wrong signatures alone, and the processor time that they took.
    refused: (Measured, Duration),
    memory: Memory,
}

/// Resident memory in bytes.
#[derive(Default)]
struct Memory {
    idle_50: u64,
    idle_10000: u64,
    loaded: u64,
    plain_loaded: u64,
}

/// Runs it, so long for each measurement.
pub async fn run(each: Duration) -> Result<Figures, BenchmarkError> {
    let (server, client) = cluster::start().await?;
    let processes = Processes::of(&server)?;
    let app = json!({
        "appID": APP_ID, "credentialsSecretRef": {"name": "none"},
        "tenants": [{"name": "acme", "account": "acme", "accountID": ACCOUNT_ID, "repositories": ["*"], "namespaces": {"names": ["default"]}}],
    });
    make(&client, "/apis/landfall.dev/v1alpha1/githubapps", "GitHubApp", APP, &app).await?;
    let installation = json!({"appRef": {"name": APP}, "account": "acme"});
    let installations = "/apis/landfall.dev/v1alpha1/namespaces/default/githubinstallations";
    make(&client, installations, "GitHubInstallation", "acme", &installation).await?;
    repositories(&client, 1..=OBJECTS).await?;
    landfall::controllers::make_inbox(&client, cluster::SYSTEM, program::INBOX, None).await?;
    reference::receiver::objects(&client, OBJECTS).await?;
    let floor = Floor::measure(&client, processes, each).await?;

    let keys = tempfile::tempdir().map_err(BenchmarkError::Folder)?;
    for (name, content) in [(CURRENT, &ROOT_KEY[..]), (CURRENT_ID, b"bench")] {
        std::fs::write(keys.path().join(name), content).map_err(BenchmarkError::Folder)?;
    }
    let kubeconfig = server.kubeconfig();
    let mut memory = Memory::default();
    let (receiver, address) = Program::receiver(&kubeconfig, keys.path()).await?;
    // The API server pays for this as well, as it does where a controller runs.
    let draining = tokio::spawn(drain::drain(client.clone(), cluster::SYSTEM));
    memory.idle_50 = resident(receiver.pid())?;
    let (plain_receiver, plain_address) = Program::plain_receiver(&kubeconfig).await?;
    let mut ours = Contender::new(address, Deliveries::to_landfall()?, processes.with(receiver.pid())).await?;
    let plain_deliveries = Deliveries::to_plain_receiver();
    let mut plain = Contender::new(plain_address, plain_deliveries, processes.with(plain_receiver.pid())).await?;
    let mut levels = Vec::new();
    for in_flight in LEVELS {
        for contender in [&mut ours, &mut plain] {
            contender.warm(in_flight).await?;
        }
        let first = ours.turn(in_flight, each).await?;
        let reference = plain.turn(in_flight, each).await?;
        let reference = reference.and(plain.turn(in_flight, each).await?);
        levels.push((in_flight, first.and(ours.turn(in_flight, each).await?), reference));
    }
    memory.loaded = resident(receiver.pid())?;
    memory.plain_loaded = resident(plain_receiver.pid())?;
    plain_receiver.stop().await;
    drop(plain);

    let beside_flood = beside_flood(&mut ours, address, each).await?;
    let before = cpu_time(receiver.pid())?;
    let wrong = ours.deliveries.wrong();
    let connections = &mut ours.connections[..FLOODERS];
    let refused = requests(connections, Until::Elapsed(each), StatusCode::UNAUTHORIZED, wrong).await?;
    let refused = (refused, cpu_time(receiver.pid())?.saturating_sub(before));
    receiver.stop().await;

    draining.abort();
    memory.idle_10000 = idle_with_many(&client, &kubeconfig, keys.path()).await?;
    server.stop().await;
    report::figures(&Results { floor, levels, beside_flood, refused, memory })
}

/// The memory of a receiver that has just become ready, in a large cluster.
async fn idle_with_many(client: &Client, kubeconfig: &Path, keys: &Path) -> Result<u64, BenchmarkError> {
    repositories(client, OBJECTS + 1..=MANY).await?;
    let (receiver, _) = Program::receiver(kubeconfig, keys).await?;
    let memory = resident(receiver.pid())?;
    receiver.stop().await;
    Ok(memory)
}

/// A receiver under load, with a connection for each delivery in flight.
struct Contender {
    deliveries: Deliveries,
    connections: Vec<Connection>,
    processes: Processes,
}

impl Contender {
    async fn new(address: SocketAddr, deliveries: Deliveries, processes: Processes) -> Result<Self, BenchmarkError> {
        let most = LEVELS.into_iter().max().unwrap_or_default();
        let connections = Connection::open_many(address, most).await?;
        let mut contender = Self { deliveries, connections, processes };
        // The first deliveries for new objects are not what is measured.
        contender.send(AT_ONCE, Until::Calls(10 * OBJECTS)).await?;
        Ok(contender)
    }

    /// Opens the connections to the API server that so many deliveries at once take: the handshakes are not what is
    /// measured, and both ends close what was idle for a while.
    async fn warm(&mut self, in_flight: usize) -> Result<(), LoadError> {
        self.send(in_flight, Until::Calls(2 * in_flight as u64)).await.map(drop)
    }

    async fn send(&mut self, in_flight: usize, until: Until) -> Result<Measured, LoadError> {
        let request = self.deliveries.right();
        requests(&mut self.connections[..in_flight], until, StatusCode::ACCEPTED, request).await
    }

    async fn turn(&mut self, in_flight: usize, each: Duration) -> Result<Turn, BenchmarkError> {
        let processes = self.processes;
        processes.turn(self.send(in_flight, Until::Elapsed(each))).await
    }
}

/// Good deliveries without a flood of wrong signatures, with one, with one again, and without. Returns those without,
/// those with, and the flood.
async fn beside_flood(
    ours: &mut Contender,
    address: SocketAddr,
    each: Duration,
) -> Result<(Turn, Turn, Measured), BenchmarkError> {
    let calm = ours.turn(BESIDE_FLOOD, each).await?;
    let (first, flood) = flooded(ours, address, each).await?;
    let (second, other) = flooded(ours, address, each).await?;
    let calm = calm.and(ours.turn(BESIDE_FLOOD, each).await?);
    Ok((calm, first.and(second), flood.and(other)))
}

async fn flooded(
    ours: &mut Contender,
    address: SocketAddr,
    each: Duration,
) -> Result<(Turn, Measured), BenchmarkError> {
    let wrong = ours.deliveries.wrong();
    // On a thread of its own: on that of the good deliveries it would delay them before they are sent.
    let flood = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(BenchmarkError::Thread)?.block_on(flood(address, each + 2 * MARGIN, wrong))
    });
    tokio::time::sleep(MARGIN).await;
    let good = ours.turn(BESIDE_FLOOD, each).await?;
    let flood = flood.await.map_err(|error| BenchmarkError::Thread(std::io::Error::other(error)))??;
    Ok((good, flood))
}

/// Sends wrong signatures at an even rate.
async fn flood(
    address: SocketAddr,
    time: Duration,
    wrong: impl Fn(u64) -> Request<Full<Bytes>>,
) -> Result<Measured, BenchmarkError> {
    let mut connections = Connection::open_many(address, FLOODERS).await?;
    let began = tokio::time::Instant::now();
    let send = async |connection: &mut Connection, number: u64| {
        // Beyond 2^32 requests, which are days, the rate would not be kept.
        tokio::time::sleep_until(
            began + u32::try_from(number).unwrap_or(u32::MAX) * Duration::from_secs(1) / FLOOD_PER_S,
        )
        .await;
        requests(std::slice::from_mut(connection), Until::Calls(1), StatusCode::UNAUTHORIZED, |_| wrong(number))
            .await
            .map(drop)
    };
    Ok(drive(&mut connections, Until::Elapsed(time), send).await?)
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
            json!({"status": {"repositoryID": id, "fullName": format!("acme/{name}"), "defaultBranch": "main", "head": head}});
        let path = format!("{REPOSITORIES}/{name}/status");
        write(client, "PATCH", &path, "application/merge-patch+json", &status).await
    })
    .await
    .map(drop)
}

fn name(id: u64) -> String {
    format!("repository-{id:05}")
}
