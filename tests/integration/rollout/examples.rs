//! GitHub's example payloads, signed, sent to a receiver beside an operator with a workload to restart. Whatever event
//! they report, the operator looks, finds that nothing happened, and does nothing else.

use super::Team;
use crate::repository::{changes, looks};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use landfall::api::{Deliveries, DeliveryResult, GitHubApp};
use landfall::guards::Guards;
use landfall::receiver::{self, KeySource, Receiver, ServerLimits, WriteLimits};
use landfall::runtime::clock::SystemClock;
use landfall::webhook::{AppIdentity, CURRENT, CURRENT_ID, Hook, ROOT_KEYS_SECRET, RootKeys};
use landfall_world::delivery::Delivery;
use landfall_world::{SYSTEM, World, id, payloads, text};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The receiver's user name on the API server.
const RECEIVER: &str = "system:serviceaccount:landfall-system:landfall-receiver";

/// A GUID that no delivery has.
const GUID: &str = "00000000-0000-4000-8000-000000000000";

/// A receiver of a world's deliveries, and the secret of its App's webhook.
pub struct Inlet {
    address: SocketAddr,
    secret: String,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), receiver::Error>>,
    _keys: TempDir,
}

impl Inlet {
    /// A receiver that is ready for the world's App.
    pub async fn of(world: &World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret =
            world.until("there is a root key", async || world.get::<Secret>(SYSTEM, ROOT_KEYS_SECRET).await).await;
        std::fs::write(folder.path().join(CURRENT_ID), text(&secret, CURRENT_ID).unwrap()).unwrap();
        std::fs::write(folder.path().join(CURRENT), &secret.data.unwrap()[CURRENT].0).unwrap();
        let identity = AppIdentity { host: world.sim.address().to_string(), app_id: id(4242) };
        let keys = RootKeys::read_directory(folder.path()).unwrap();
        let shutdown = CancellationToken::new();
        let local = ([127, 0, 0, 1], 0).into();
        let config = receiver::Config {
            address: (local, "--address"),
            health_address: Some(local),
            features: landfall::features::Features::default(),
            target_rate: 1e6,
            target_burst: 1e6,
            server: ServerLimits::default(),
            writes: WriteLimits::default(),
        };
        let environment = receiver::Environment {
            kube: Client::try_from(world.user(RECEIVER).await).unwrap(),
            keys: KeySource::Directory(folder.path().to_owned()),
            clock: Arc::new(SystemClock),
            shutdown: shutdown.clone(),
            guards: Guards::default(),
        };
        let receiver = Receiver::start(config, environment).await.unwrap();
        let secret = keys.current.secret(&identity, Hook::App).expose().to_owned();
        let address = receiver.address();
        let inlet = Self { address, secret, shutdown, ended: tokio::spawn(receiver.run()), _keys: folder };
        let knows = async || (inlet.send("ping", GUID, &json!({})).await == 200).then_some(());
        world.until("the receiver knows the App", knows).await;
        inlet
    }

    /// Stops the receiver in order.
    pub async fn end(self) {
        self.shutdown.cancel();
        self.ended.await.unwrap().unwrap();
    }

    /// Sends a delivery, and returns the status of the answer.
    pub async fn send(&self, event: &str, guid: &str, payload: &Value) -> u16 {
        let body = payload.to_string();
        let path = Hook::App.path("landfall");
        Delivery::new(&path, event, guid, body.as_bytes(), &self.secret).send(self.address).await.status
    }
}

/// The same payload with the names and ids of this world.
fn as_if_here(payload: &Value) -> Value {
    let mut payload = payload.clone();
    let account = json!({"id": 7001, "login": "acme", "type": "Organization"});
    if let Some(repository) = payload.get_mut("repository").and_then(Value::as_object_mut) {
        for (field, value) in [("id", json!(9001)), ("name", json!("shop")), ("full_name", json!("acme/shop"))] {
            repository.insert(field.into(), value);
        }
        repository.insert("owner".into(), account.clone());
    }
    if let Some(installation) = payload.get_mut("installation").and_then(Value::as_object_mut) {
        installation.insert("id".into(), json!(501));
        installation.insert("account".into(), account);
    }
    if payload.get("ref").is_some() {
        payload["ref"] = json!("refs/heads/main");
    }
    payload
}

async fn deliveries(team: &Team) -> Vec<Deliveries> {
    let app = team.world.get::<GitHubApp>("", "landfall").await.and_then(|app| app.status);
    let repository = team.object().await.status;
    [app.map(|status| status.deliveries), repository.map(|status| status.deliveries)].into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_example_makes_the_operator_do_more_than_look() {
    let team = Team::new("examples").await;
    let world = &team.world;
    let inlet = Inlet::of(world).await;
    let rolled = team.rolled().await;
    let asked = team.asked_as_the_account().len();
    let mark = world.audit.mark().unwrap();
    world.sim.reset_requests();

    let mut sent = 0;
    for event in payloads::examples() {
        let name = event["name"].as_str().unwrap();
        for payload in event["examples"].as_array().unwrap() {
            sent += 1;
            let guid = format!("00000000-0000-4000-8000-{sent:012x}");
            let status = inlet.send(name, &guid, &as_if_here(payload)).await;
            assert!((200..300).contains(&status), "{name}: {status} {payload}");
            team.operator.settled().await;
        }
        if payloads::STORED.contains(&name) {
            // The clock limits the number of looks.
            team.lives(120).await;
            let is_handled = async || {
                let mut entries = deliveries(&team).await.into_iter().flat_map(Deliveries::into_values);
                entries.all(|entry| entry.result != Some(DeliveryResult::Pending)).then_some(())
            };
            world.until(&format!("what was told of {name} is looked after"), is_handled).await;
        }
    }
    team.lives(120).await;

    assert!(sent > 200, "{sent}");
    assert!(deliveries(&team).await.iter().all(|log| !log.is_empty()), "App and repository were told of something");
    assert!(looks(world) > 5, "{} looks", looks(world));
    assert!(changes(world).is_empty(), "{:?}", changes(world));
    assert_eq!(team.rolled().await, rolled);
    assert_eq!(team.asked_as_the_account().len(), asked, "not even the workload was looked at");
    let is_status = |entry: &landfall_cluster::Entry| entry.group == "landfall.dev" && entry.subresource == "status";
    let others: Vec<_> = world.writes_since(mark).into_iter().filter(|entry| !is_status(entry)).collect();
    assert!(others.is_empty(), "{others:?}");
    inlet.end().await;
    team.operator.stop().await;
}
