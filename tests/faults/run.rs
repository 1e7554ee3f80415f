//! One run of a scenario: an operator that is started again after a kill, and time that passes from retry to retry.
//!
//! Invariant: an act begins only when the previous one has reached its end and the operator has nothing to do, and the
//! end is visible from outside. The same acts therefore lead to the same points, and the consequences of a fault are
//! over before the next act, or the run has not converged. Time passes only where an act says so, and, after a fault,
//! from one due time to the next until the end of the act.

use super::between::Between;
use super::end;
use super::judge::Counts;
use super::point::{Fault, Point};
use super::scenario::Scenario;
use aws_lc_rs::digest::{SHA256, digest};
use github_sim::HookInfo;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use kube::api::{Api, ListParams};
use landfall::api::{GitHubApp, GitHubInstallation};
use landfall::guards::Sabotage;
use landfall::webhook::{AppIdentity, CURRENT, CURRENT_ID, Hook, ROOT_KEYS_SECRET, RootKeys};
use landfall_world::kubelet::{Kubelet, Mischief, Rest};
use landfall_world::operator::{Operator, Start};
use landfall_world::{SYSTEM, World, id, ready, text};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of checks in a row at which the operator must be idle.
const LOOKS: usize = 6;
/// How long, in real time, nothing may happen on the way to the end of an act.
const PATIENCE: Duration = Duration::from_mins(3);
/// A due time within this span is a retry, which is delayed by at most five minutes.
const NEAR: SignedDuration = SignedDuration::from_mins(6);
/// How much time all retries within one act may take, by the operator's clock.
const MOST_TRIES: SignedDuration = SignedDuration::from_mins(4);

/// The result of a run.
pub struct Outcome {
    /// The points, in order, with their acts.
    pub points: Vec<(Point, &'static str)>,
    /// The fault has happened.
    pub struck: bool,
    /// The costs of a fault, counted after the last act.
    pub counts: Counts,
    /// The end state, masked.
    pub end: Value,
}

/// The changes to a run in addition to a fault.
#[derive(Clone, Copy, Default)]
pub struct Tampering {
    /// The guards to remove.
    pub sabotage: Sabotage,
    /// The misbehaviour of pods.
    pub mischief: Mischief,
}

/// Plays a scenario with this fault, or none, in a world on this lane.
pub async fn play(
    scenario: &Scenario,
    lane: usize,
    planned: Option<(Point, Fault)>,
    tampering: Tampering,
) -> Result<Outcome, String> {
    let world = World::on(lane, (scenario.seed)()).await;
    world.namespace("team-a", &[]).await;
    let run = Run {
        world,
        between: Between::new(planned, scenario.records),
        tampering,
        account: OnceCell::new(),
        looks_wanted: Cell::default(),
        has_workloads: Cell::default(),
        kubelet: OnceCell::new(),
        names: RefCell::default(),
    };
    let result = (scenario.life)(&run).await;
    if let Some(operator) = run.between.take() {
        operator.kill();
    }
    let (counts, end) = result?;
    Ok(Outcome { points: run.between.recorded(), struck: run.between.struck(), counts, end })
}

/// A running scenario.
pub struct Run {
    pub world: World,
    /// The layer between its operators and the world.
    pub between: Arc<Between>,
    pub tampering: Tampering,
    /// The account of the operator, if it is not the usual one, and the namespaces in which it may use Secrets.
    pub account: OnceCell<(kube::Config, Vec<String>)>,
    /// The number of requests for the list of installations after which the running operator knows GitHub.
    looks_wanted: Cell<usize>,
    /// Whether Kubernetes' own controllers take part, so that they are waited for.
    pub has_workloads: Cell<bool>,
    /// The simulated node, if there are pods.
    kubelet: OnceCell<Kubelet>,
    names: RefCell<Vec<(String, &'static str)>>,
}

impl Run {
    /// Begins the next act.
    pub fn act(&self, name: &'static str) {
        self.between.act(Some(name));
    }

    /// Sets the name that replaces a varying value in end states: a commit, an id, a key.
    pub fn call(&self, varying: impl Into<String>, name: &'static str) {
        self.names.borrow_mut().push((varying.into(), name));
    }

    /// All lasting state, masked.
    pub async fn state(&self) -> Value {
        self.masked(end::state(&self.world).await)
    }

    /// Another lasting value, masked.
    pub fn masked(&self, value: impl Serialize) -> Value {
        let mut value = serde_json::to_value(value).expect("json");
        end::mask(&mut value, self.world.sim.base_url(), &self.names.borrow());
        value
    }

    /// Starts the operator, and waits until it has made the root key of webhooks.
    pub async fn begin(&self) {
        self.start().await;
        self.root_key().await;
    }

    /// The id of the root key of webhooks, and the key in hexadecimal, once there is one.
    pub async fn root_key(&self) -> (String, String) {
        let keys = async || {
            let secret = self.world.get::<Secret>(SYSTEM, ROOT_KEYS_SECRET).await?;
            Some((text(&secret, CURRENT_ID)?, hex::encode(&secret.data?.get(CURRENT)?.0)))
        };
        self.world.until("there is a root key", keys).await
    }

    /// A webhook without varying parts. Its secret is replaced by whether it is derived from the root key.
    pub async fn show(&self, hook: Hook, info: &HookInfo) -> Value {
        let (key_id, key) = self.root_key().await;
        let key = hex::decode(key).expect("hexadecimal");
        let of = [(CURRENT_ID, key_id.as_bytes()), (CURRENT, key.as_slice())];
        let keys = RootKeys::read(|name| of.iter().find(|(other, _)| *other == name).map(|(_, value)| *value));
        let app = AppIdentity { host: self.world.sim.address().to_string(), app_id: id(4242) };
        let secret = keys.expect("a root key").current.secret(&app, hook);
        let digest = hex::encode(digest(&SHA256, secret.expose().as_bytes()).as_ref());
        self.masked(json!({
            "id": info.id, "url": info.url, "content type": info.content_type, "events": info.events,
            "active": info.active, "unverified": info.insecure_ssl,
            "secret is derived": info.secret_sha256 == Some(digest),
        }))
    }

    /// Applies this App, and waits until it and its installation are ready.
    pub async fn connect(&self, app: &Value) -> Result<(), String> {
        self.world.apply::<GitHubApp>(app).await;
        self.connected().await
    }

    /// Waits until App and installation are ready.
    pub async fn connected(&self) -> Result<(), String> {
        self.reach("App and installation are ready", async || {
            self.is_ready::<GitHubApp>("", "landfall", "Connected").await
                && self.is_ready::<GitHubInstallation>("team-a", "acme", "Active").await
        })
        .await
    }

    /// Stops the operator in order, and starts another.
    pub async fn restart(&self) {
        if let Some(operator) = self.between.take() {
            operator.stop().await;
        }
        self.start().await;
    }

    /// Starts an operator.
    pub async fn start(&self) {
        let looks = self.looks();
        let mut start = Start { sabotage: self.tampering.sabotage, ..self.between.start() };
        if let Some((account, namespaces)) = self.account.get() {
            let (account, kube) = (account.clone(), start.kube);
            start.kube = Box::new(move |_| kube(account.clone()));
            start.secret_namespaces.clone_from(namespaces);
        }
        self.between.bury();
        self.between.put(self.world.start(start).await);
        let has_app = self.world.get::<GitHubApp>("", "landfall").await.is_some();
        self.looks_wanted.set(if has_app { looks + 1 } else { 0 });
    }

    fn looks(&self) -> usize {
        self.world.calls("GET", "/app/installations")
    }

    /// Waits until the operator, which is started again if it was killed, has nothing to do: it is idle at several
    /// checks in a row, because a watch may still bring something. The API server answers a request between two checks,
    /// so they are further apart if it is slow.
    async fn settled(&self) -> Result<(), String> {
        let began = Instant::now();
        let (mut quiet, mut seen) = (0, None);
        while quiet < LOOKS {
            let rest = if let Some(rest) = self.between.with(Operator::rest) {
                rest.filter(|_| self.between.awaits_nothing())
            } else {
                // The node continues without the operator.
                self.node_rests().await?;
                self.start().await;
                None
            };
            quiet = if rest.is_some() && rest == seen { quiet + 1 } else { 0 };
            seen = rest;
            if began.elapsed() > PATIENCE {
                return Err("the operator does not come to rest".into());
            }
            if rest.is_some() {
                self.world.answered().await.map_err(|error| error.to_string())?;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Adds a node for pods.
    pub async fn add_node(&self) {
        let kubelet =
            Kubelet::start(&self.world, "team-a", env!("CARGO_BIN_EXE_landfall"), self.tampering.mischief).await;
        self.call(kubelet.name(), "the node");
        assert!(self.kubelet.set(kubelet).is_ok(), "there is one already");
    }

    pub fn node(&self) -> &Kubelet {
        self.kubelet.get().expect("there is a node")
    }

    /// Lets the node do its next step.
    async fn node_passes(&self) -> Result<Rest, String> {
        match self.kubelet.get() {
            Some(kubelet) => kubelet.pass(&self.world).await,
            None => Ok(Rest::Idle),
        }
    }

    /// Lets the node do all its steps.
    async fn node_rests(&self) -> Result<(), String> {
        let mut waiting = Instant::now();
        loop {
            match self.node_passes().await? {
                Rest::Idle => return Ok(()),
                Rest::Acted => waiting = Instant::now(),
                Rest::Waits if waiting.elapsed() > PATIENCE => {
                    return Err("Kubernetes does not come to rest".into());
                }
                Rest::Waits => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Waits until Kubernetes has observed the current generation of all workloads.
    async fn workloads_observed(&self) -> Result<(), String> {
        let api = Api::<Deployment>::namespaced(self.world.admin.clone(), "team-a");
        let began = Instant::now();
        while self.has_workloads.get() {
            let all = api.list(&ListParams::default()).await.expect("Deployments");
            let is_observed =
                |one: &Deployment| one.status.as_ref().and_then(|s| s.observed_generation) == one.metadata.generation;
            if all.iter().all(is_observed) {
                break;
            }
            if began.elapsed() > PATIENCE {
                return Err("Kubernetes does not roll a Deployment out".into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits for the end of an act: in real time, and from one retry of the operator to the next.
    pub async fn reach(&self, what: &str, mut end: impl AsyncFnMut() -> bool) -> Result<(), String> {
        let mut waiting = Instant::now();
        let began = self.world.now();
        loop {
            let knows_github = self.looks() >= self.looks_wanted.get();
            self.settled().await?;
            self.workloads_observed().await?;
            match self.node_passes().await? {
                Rest::Idle => {}
                Rest::Acted => {
                    waiting = Instant::now();
                    continue;
                }
                // The clock stands still meanwhile.
                Rest::Waits if waiting.elapsed() <= PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
                Rest::Waits => return Err(format!("Kubernetes does not come to rest on the way to this: {what}")),
            }
            if knows_github && end().await {
                return Ok(());
            }
            let now = self.world.now();
            match self.between.with(Operator::next_due).flatten() {
                Some(due) if due <= now + NEAR && due <= began + MOST_TRIES => {
                    self.world.advance(due.duration_since(now).max(SignedDuration::ZERO));
                    waiting = Instant::now();
                }
                due if waiting.elapsed() > PATIENCE => {
                    let after = now.duration_since(began);
                    let state = self.state().await;
                    return Err(format!("after {after:#} not yet: {what}; next due {due:?} at {now}; {state:#}"));
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Lets time pass from due time to due time.
    pub async fn live_until(&self, end: Timestamp) -> Result<(), String> {
        loop {
            self.reach("the operator is at rest", async || true).await?;
            let now = self.world.now();
            if now >= end {
                return Ok(());
            }
            let due = self.between.with(Operator::next_due).flatten();
            let next = due.unwrap_or(end).min(end);
            self.world.advance(next.duration_since(now).max(SignedDuration::ZERO));
        }
    }

    /// How often GitHub carried out a call, by method and route.
    pub fn done(&self, method: &str, route: &str) -> usize {
        let is_it = |entry: &&github_sim::Entry| {
            let is_good = entry.status.is_some_and(|status| (200..300).contains(&status));
            entry.method == method && entry.route.as_deref() == Some(route) && is_good
        };
        self.world.sim.requests().iter().filter(is_it).count()
    }

    /// Whether an object is ready with this reason, in its current generation.
    pub async fn is_ready<K>(&self, namespace: &str, name: &str, reason: &str) -> bool
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        self.has_ready::<K>(namespace, name, ("True", reason)).await
    }

    /// Whether the object's condition Ready has this status and reason, in its current generation.
    pub async fn has_ready<K>(&self, namespace: &str, name: &str, (status, reason): (&str, &str)) -> bool
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        let object = self.world.get::<K>(namespace, name).await;
        let object = serde_json::to_value(object).expect("json");
        let ready = ready(&object);
        ready["status"] == status
            && ready["reason"] == reason
            && ready["observedGeneration"] == object["metadata"]["generation"]
    }
}
