//! A receiver beside the operator of a world.

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use landfall::api::WebhookInbox;
use landfall::guards::Guards;
use landfall::receiver::{self, InboxPlace, KeySource, Receiver, ServerLimits, WriteLimits};
use landfall::runtime::clock::SystemClock;
use landfall::webhook::{AppIdentity, CURRENT, CURRENT_ID, Hook, ROOT_KEYS_SECRET, RootKeys};
use landfall_world::delivery::Delivery;
use landfall_world::{SYSTEM, World, id, text};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A GUID that no delivery has.
const GUID: &str = "00000000-0000-4000-8000-000000000000";

/// A receiver of a world's deliveries, and the secret of its App's webhook.
pub struct Inlet {
    pub address: SocketAddr,
    secret: String,
    pub pod: String,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), receiver::Error>>,
    /// A runtime of its own, which ends with all that runs on it when the receiver is killed.
    runtime: Option<Runtime>,
    _keys: TempDir,
}

impl Drop for Inlet {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inlet {
    /// A receiver that is ready for the world's App.
    pub async fn of(world: &World) -> Self {
        Self::in_pod(world, "landfall-receiver-0").await
    }

    /// The same in a pod of this name.
    pub async fn in_pod(world: &World, pod: &str) -> Self {
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
            inbox: InboxPlace { namespace: SYSTEM.to_owned(), name: pod.to_owned() },
        };
        let environment = receiver::Environment {
            kube: Client::try_from(world.receiver(pod).await).unwrap(),
            keys: KeySource::Directory(folder.path().to_owned()),
            clock: Arc::new(SystemClock),
            shutdown: shutdown.clone(),
            guards: Guards::default(),
        };
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let receiver = runtime.spawn(Receiver::start(config, environment)).await.unwrap().unwrap();
        let secret = keys.current.secret(&identity, Hook::App).expose().to_owned();
        let address = receiver.address();
        let ended = runtime.spawn(receiver.run());
        let inlet =
            Self { address, secret, pod: pod.to_owned(), shutdown, ended, runtime: Some(runtime), _keys: folder };
        let knows = async || (inlet.send("ping", GUID, &json!({})).await == 200).then_some(());
        world.until("the receiver knows the App", knows).await;
        let has_inbox = async || world.get::<WebhookInbox>(SYSTEM, pod).await.map(drop);
        world.until("the operator made the inbox of the pod", has_inbox).await;
        inlet
    }

    /// Stops the receiver in order.
    pub async fn end(mut self) {
        self.shutdown.cancel();
        (&mut self.ended).await.unwrap().unwrap();
    }

    /// Ends the receiver in the midst of whatever it does, as a lost node would.
    pub fn kill(self) {
        drop(self);
    }

    /// Sends a delivery, and returns the status of the answer.
    pub async fn send(&self, event: &str, guid: &str, payload: &Value) -> u16 {
        self.delivery(event, guid, payload).send(self.address).await.status
    }

    /// A signed delivery.
    pub fn delivery(&self, event: &str, guid: &str, payload: &Value) -> Delivery {
        let body = payload.to_string();
        Delivery::new(&Hook::App.path("landfall"), event, guid, body.as_bytes(), &self.secret)
    }
}
