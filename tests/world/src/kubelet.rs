//! Does the work of a node, a volume driver and a kubelet for workspaces, where there is no node.
//!
//! Invariant: it runs the containers of the pods that the operator created, with our binary, and the status of the pods
//! comes from them. It works step by step on request, so a test decides when the operator sees a change. Jobs, the
//! binding of claims and the garbage collection of owned objects are done by Kubernetes' own controllers.

use super::World;
use github_sim::{Fault, FaultKind};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Container, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount, Volume,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use landfall::api::{WORK_FINALIZER, WORKSPACE_LABEL, Workspace};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::Command;

/// How often the node reports that it is ready. After 50 s without a report, Kubernetes considers its pods lost.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// The exit status of a save after which a person must act.
const REFUSED: i32 = landfall::agent::exit::REFUSED as i32;
/// Where a container's last message is read from.
const LAST_MESSAGE: &str = "/dev/termination-log";
/// A commit that does not exist.
const NO_COMMIT: &str = "1111111111111111111111111111111111111111";

/// The misbehaviour of a pod that should save everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mischief {
    #[default]
    None,
    /// It reports a complete save, and pushes nothing.
    Lies,
    /// GitHub refuses its pushes.
    PushFails,
    /// Its save overlooks the files whose content only the volume has.
    ForgetsLargeFiles,
}

/// The state after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// There was nothing to do.
    Idle,
    /// Kubernetes' own controllers have work to do.
    Waits,
    /// Something was done.
    Acted,
}

/// A node for the workspaces of one namespace.
pub struct Kubelet {
    client: Client,
    namespace: String,
    node: String,
    binary: PathBuf,
    mischief: Mischief,
    folder: TempDir,
    beat: Cell<Option<Instant>>,
}

/// The end of a container.
struct Ended {
    code: i32,
    message: String,
}

impl Ended {
    fn state(&self) -> Value {
        let reason = if self.code == 0 { "Completed" } else { "Error" };
        json!({"terminated": {
            "exitCode": self.code, "reason": reason, "message": self.message, "startedAt": now(), "finishedAt": now(),
        }})
    }
}

fn now() -> String {
    Timestamp::now().strftime("%FT%TZ").to_string()
}

impl Kubelet {
    /// A new node, whose containers run this binary.
    pub async fn start(world: &World, namespace: &str, binary: impl Into<PathBuf>, mischief: Mischief) -> Self {
        // The name has no dot, because branches are named after paths in it.
        let folder = tempfile::Builder::new().prefix("kubelet-").tempdir().expect("a folder");
        let node = format!("node-{:08x}", rand::random::<u32>());
        world.apply::<Node>(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})).await;
        // The API server refuses pods until their namespace has a service account for them.
        world
            .until("there is an account for pods", async || {
                world.get::<ServiceAccount>(namespace, "default").await.map(drop)
            })
            .await;
        let client = world.admin.clone();
        Self {
            client,
            namespace: namespace.to_owned(),
            node,
            binary: binary.into(),
            mischief,
            folder,
            beat: Cell::default(),
        }
    }

    /// The name of the node.
    pub fn name(&self) -> &str {
        &self.node
    }

    /// Does the next step.
    pub async fn pass(&self, world: &World) -> Result<Rest, String> {
        self.beat().await;
        let claims = self.all::<PersistentVolumeClaim>().await;
        let mut rest = Rest::Idle;
        for claim in &claims {
            rest = rest.max(self.provide(claim).await);
        }
        for volume in self.volumes().list(&ListParams::default()).await.expect("volumes") {
            rest = rest.max(self.reclaim(&volume, &claims).await);
        }
        let mut owners = uids(&self.all::<Workspace>().await);
        let jobs = self.all::<Job>().await;
        for job in &jobs {
            let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
            let is_over = conditions.iter().any(|it| ["Complete", "Failed"].contains(&it.type_.as_str()));
            if !is_over || job.metadata.deletion_timestamp.is_some() || is_orphan(job, &owners) {
                rest = rest.max(Rest::Waits);
            }
        }
        owners.extend(uids(&jobs));
        for pod in self.all::<Pod>().await {
            rest = rest.max(self.pod(world, &pod).await?);
            if is_orphan(&pod, &owners) {
                rest = rest.max(Rest::Waits);
            }
        }
        Ok(rest)
    }

    /// The directory of a claim's volume. `None` while it has no volume.
    pub async fn directory(&self, claim: &str) -> Option<PathBuf> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &self.namespace);
        let volume = claims.get_opt(claim).await.expect("an answer")?.spec?.volume_name?;
        let directory = self.folder.path().join(volume);
        std::fs::create_dir_all(&directory).expect("a folder");
        Some(directory)
    }

    async fn all<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        api.list(&ListParams::default()).await.expect("a list").items
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Reports that the node is ready.
    async fn beat(&self) {
        if self.beat.get().is_some_and(|beat| beat.elapsed() < BEAT_EVERY) {
            return;
        }
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is a test's",
            "lastHeartbeatTime": now(), "lastTransitionTime": now(),
        });
        let nodes: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({"status": {"conditions": [ready]}}));
        nodes.patch_status(&self.node, &PatchParams::default(), &patch).await.expect("the node is there");
        self.beat.set(Some(Instant::now()));
    }

    /// Creates a volume for a claim. Kubernetes binds the claim to it.
    async fn provide(&self, claim: &PersistentVolumeClaim) -> Rest {
        if claim.metadata.deletion_timestamp.is_some() {
            let is_held = claim.finalizers().iter().any(|finalizer| finalizer == WORK_FINALIZER);
            return if is_held { Rest::Idle } else { Rest::Waits };
        }
        let spec = claim.spec.as_ref().expect("a spec");
        if spec.volume_name.is_some() {
            let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
            return if is_bound { Rest::Idle } else { Rest::Waits };
        }
        let uid = claim.uid().expect("a uid");
        let name = claim.name_any();
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("volume-{uid}")},
            "spec": {
                "accessModes": spec.access_modes, "persistentVolumeReclaimPolicy": "Delete",
                "capacity": spec.resources.as_ref().and_then(|resources| resources.requests.clone()),
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name, "namespace": self.namespace,
                    "uid": uid,
                },
                "csi": {"driver": "test.landfall.dev", "volumeHandle": uid},
            },
        });
        let volume: PersistentVolume = serde_json::from_value(volume).expect("a volume");
        match self.volumes().create(&PostParams::default(), &volume).await {
            Ok(_) => Rest::Acted,
            Err(kube::Error::Api(status)) if status.code == 409 => Rest::Waits,
            Err(error) => panic!("a volume: {error}"),
        }
    }

    /// Deletes a volume without a claim, with its files, unless it is to be retained.
    async fn reclaim(&self, volume: &PersistentVolume, claims: &[PersistentVolumeClaim]) -> Rest {
        let (spec, name) = (volume.spec.as_ref().expect("a spec"), volume.name_any());
        let claim = spec.claim_ref.as_ref().and_then(|claim| claim.uid.clone());
        if claims.iter().any(|other| other.uid() == claim) {
            return Rest::Idle;
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if volume.metadata.deletion_timestamp.is_some() || phase != Some("Released") {
            return Rest::Waits;
        }
        if spec.persistent_volume_reclaim_policy.as_deref() == Some("Retain") {
            return Rest::Idle;
        }
        let directory = self.folder.path().join(&name);
        if directory.exists() {
            std::fs::remove_dir_all(directory).expect("removed");
        }
        self.volumes().delete(&name, &DeleteParams::default()).await.expect("deleted");
        Rest::Acted
    }

    async fn pod(&self, world: &World, pod: &Pod) -> Result<Rest, String> {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let is_over = ["Succeeded", "Failed"].contains(&phase);
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let is_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let is_of_job = pod.owner_references().iter().any(|owner| owner.kind == "Job");
        let is_scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if pod.metadata.deletion_timestamp.is_some() {
            if phase == "Running" && !is_of_job {
                self.end(world, pod).await?;
            } else {
                self.remove(pod).await;
            }
        } else if is_over || (is_ready && !is_of_job) {
            return Ok(Rest::Idle);
        } else if !is_scheduled {
            self.bind(pod).await;
        } else if is_of_job {
            self.save(world, pod).await?;
        } else {
            self.begin(world, pod).await?;
        }
        Ok(Rest::Acted)
    }

    async fn bind(&self, pod: &Pod) {
        let name = pod.name_any();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node},
        });
        let path = format!("{}/{name}/binding", Pod::url_path(&(), Some(&self.namespace)));
        let post = http::Request::post(path).header("content-type", "application/json");
        let post = post.body(serde_json::to_vec(&binding).expect("json")).expect("a request");
        self.client.request::<Value>(post).await.expect("bound");
    }

    async fn remove(&self, pod: &Pod) {
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        match self.pods().delete(&pod.name_any(), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("a pod is removed: {error}"),
        }
    }

    async fn say(&self, pod: &Pod, status: Value) {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        self.pods().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.expect("the pod's status");
    }

    /// Clones, and starts the agent and the person's container.
    async fn begin(&self, world: &World, pod: &Pod) -> Result<(), String> {
        let clone = container(pod, "clone");
        let cloned = self.run(world, pod, clone, clone.args.as_deref().unwrap_or_default()).await;
        if cloned.code != 0 {
            return Err(format!("the clone ended with {}: {}", cloned.code, cloned.message));
        }
        let running = json!({"running": {"startedAt": now()}});
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now()});
        let status = json!({
            "phase": "Running", "startTime": now(),
            "conditions": [condition("Initialized"), condition("ContainersReady"), condition("Ready")],
            "initContainerStatuses": [
                container_status("clone", &cloned.state(), true), container_status("agent", &running, true),
            ],
            "containerStatuses": [container_status("main", &running, true)],
        });
        self.say(pod, status).await;
        Ok(())
    }

    /// Ends the agent: it saves everything, or, if the volume stays, makes an autosave.
    async fn end(&self, world: &World, pod: &Pod) -> Result<(), String> {
        let agent = container(pod, "agent");
        let workspace = pod.labels().get(WORKSPACE_LABEL).expect("a workspace's pod");
        let workspace = world.get::<Workspace>(&self.namespace, workspace).await;
        let is_last = workspace.is_none_or(|workspace| workspace.metadata.deletion_timestamp.is_some());
        let mut args = ["workspace", "save", "--clean-is-success", "--termination-log", LAST_MESSAGE].to_vec();
        if !is_last {
            args.push("--autosave");
        }
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        let mischief = if is_last { self.mischief } else { Mischief::None };
        let ended = match mischief {
            Mischief::None | Mischief::ForgetsLargeFiles => self.run(world, pod, agent, &args).await,
            Mischief::Lies => Ended { code: 0, message: lie(agent).to_string() },
            Mischief::PushFails => {
                let refused = FaultKind::Status { status: 403, body: None, headers: BTreeMap::new() };
                world.sim.inject(Fault::new("POST", "*/git-receive-pack", refused).times(1000));
                let ended = self.run(world, pod, agent, &args).await;
                world.sim.clear_faults();
                ended
            }
        };
        if mischief == Mischief::None && ![0, REFUSED].contains(&ended.code) {
            return Err(format!("the agent ended with {}: {}", ended.code, ended.message));
        }
        let cloned = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref()?.first().cloned());
        let main = Ended { code: 0, message: String::new() };
        let status = json!({
            "phase": "Succeeded",
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now()}],
            "initContainerStatuses": [cloned, container_status("agent", &ended.state(), false)],
            "containerStatuses": [container_status("main", &main.state(), false)],
        });
        self.say(pod, status).await;
        Ok(())
    }

    /// Runs a Job's pod.
    async fn save(&self, world: &World, pod: &Pod) -> Result<(), String> {
        let save = container(pod, "save");
        let ended = self.run(world, pod, save, save.args.as_deref().unwrap_or_default()).await;
        if ![0, REFUSED].contains(&ended.code) {
            return Err(format!("the Job's save ended with {}: {}", ended.code, ended.message));
        }
        let phase = if ended.code == 0 { "Succeeded" } else { "Failed" };
        let status = json!({
            "phase": phase, "startTime": now(),
            "containerStatuses": [container_status("save", &ended.state(), false)],
        });
        self.say(pod, status).await;
        Ok(())
    }

    /// Runs a container's program, with its mounts in directories of this process.
    async fn run(&self, world: &World, pod: &Pod, container: &Container, args: &[String]) -> Ended {
        let place = self.folder.path().join(pod.uid().expect("a uid"));
        std::fs::create_dir_all(&place).expect("a folder");
        let last_message = place.join(format!("{}.message", container.name));
        std::fs::write(&last_message, "").expect("written");
        let mut paths = vec![(LAST_MESSAGE.to_owned(), last_message.clone())];
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes.iter().find(|volume| volume.name == mount.name).expect("what is mounted is a volume");
            paths.push((mount.mount_path.clone(), self.mounted(world, volume, &place).await));
        }
        let at = |text: &str| {
            let found = paths.iter().find_map(|(from, to)| {
                let rest = text.strip_prefix(from.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
                Some(format!("{}{rest}", to.display()))
            });
            found.unwrap_or_else(|| text.to_owned())
        };
        let mut command = Command::new(&self.binary);
        command.args(args.iter().map(|word| at(word))).env_clear().kill_on_drop(true).current_dir(&place);
        command.env("PATH", std::env::var_os("PATH").expect("a path")).env("no_proxy", "*").env("HOME", &place);
        if self.mischief == Mischief::ForgetsLargeFiles {
            command.env("LANDFALL_SABOTAGE", "large-files");
        }
        for variable in container.env.iter().flatten() {
            command.env(&variable.name, at(&variable.value.as_deref().unwrap_or_default().replace("$$(", "$(")));
        }
        let Output { status, stderr, .. } = command.output().await.expect("our binary runs");
        let code = status.code().unwrap_or(137);
        let said = std::fs::read_to_string(&last_message).expect("what it wrote");
        let words = String::from_utf8_lossy(&stderr);
        Ended { code, message: if said.is_empty() && code != 0 { words.into_owned() } else { said } }
    }

    /// The directory of a volume. The files of a Secret are current.
    async fn mounted(&self, world: &World, volume: &Volume, place: &Path) -> PathBuf {
        if let Some(claim) = &volume.persistent_volume_claim {
            return self.directory(&claim.claim_name).await.expect("the claim is bound");
        }
        let directory = place.join(&volume.name);
        std::fs::create_dir_all(&directory).expect("a folder");
        if let Some(secret) = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref()) {
            let secret = world.get::<Secret>(&self.namespace, secret).await.expect("what is mounted is there");
            for (key, value) in secret.data.iter().flatten() {
                std::fs::write(directory.join(key), &value.0).expect("written");
            }
        }
        directory
    }
}

fn uids<K: Resource>(objects: &[K]) -> Vec<String> {
    objects.iter().filter_map(|object| object.meta().uid.clone()).collect()
}

/// Whether its owner is deleted, so that Kubernetes deletes it.
fn is_orphan<K: Resource>(object: &K, owners: &[String]) -> bool {
    object.meta().owner_references.iter().flatten().any(|owner| !owners.contains(&owner.uid))
}

fn container<'a>(pod: &'a Pod, name: &str) -> &'a Container {
    let spec = pod.spec.as_ref().expect("a spec");
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.find(|container| container.name == name).unwrap_or_else(|| panic!("no container {name}"))
}

fn container_status(name: &str, state: &Value, is_up: bool) -> Value {
    json!({
        "name": name, "image": "image", "imageID": "image", "restartCount": 0, "ready": is_up, "started": is_up,
        "state": state,
    })
}

/// The last message of an agent that pushed nothing, as if it had pushed.
fn lie(agent: &Container) -> Value {
    let branch = agent.env.iter().flatten().find(|variable| variable.name == "LANDFALL_BRANCH");
    let branch = branch.and_then(|variable| variable.value.clone()).expect("a branch");
    json!({
        "outcome": "Saved", "branch": branch, "head": NO_COMMIT, "changed": 1, "untracked": 1, "left": [], "more": 0,
        "saved": [{"what": "tree", "commit": NO_COMMIT, "ref": format!("refs/heads/{branch}")}],
        "remote": {"branch": NO_COMMIT},
    })
}
