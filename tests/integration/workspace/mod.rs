//! Workspaces on the API server, without a node for their pods: the tests write the status of the pods.

mod attacks;
mod ends;
mod fields;
mod foreign;
mod former;
mod idle;
mod kept;

use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use landfall::api::{GitHubApp, GitHubInstallation, ProjectRepository, RETAINED_LABEL, WORK_FINALIZER, Workspace};
use landfall::guards::Sabotage;
use landfall_world::operator::{Operator, Start};
use landfall_world::{World, objects};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// The name of all objects of the workspace `try`.
pub(crate) const OBJECTS: &str = "ws-try";
const BRANCH: &str = "landfall/try";

/// A team with a repository that workspaces may use, and an operator, which may lack guards.
pub(crate) struct Team {
    pub(crate) world: World,
    pub(crate) operator: Operator,
    sabotage: Sabotage,
}

/// Tries an attack with all guards, and without some.
async fn needs(sabotage: Sabotage, attack: impl AsyncFn(Sabotage) -> bool) {
    assert!(!attack(Sabotage::default()).await, "with its guard");
    assert!(attack(sabotage).await, "without {sabotage:?}, so this is no attack");
}

impl Team {
    pub(crate) async fn new(sabotage: Sabotage) -> Self {
        let world = World::new().await;
        for name in ["team-a", "team-b"] {
            world.namespace(name, &[]).await;
            let account = async || world.get::<ServiceAccount>(name, "default").await.map(drop);
            world.until("the API server takes pods", account).await;
        }
        let operator = world.start(Start { sabotage, ..Start::default() }).await;
        operator.ready().await;
        // All of acme, so that only the workspace narrows the token.
        let tenants = json!([{
            "name": "acme", "account": "acme", "repositories": ["*"],
            "maxPermissions": {"contents": "write", "metadata": "read", "pull_requests": "write"},
            "namespaces": {"names": ["team-a"]},
        }]);
        world.apply::<GitHubApp>(&objects::app(&world, &tenants)).await;
        world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
        let spec = json!({"webhook": {"mode": "None"}, "pollInterval": "24h"});
        world.apply::<ProjectRepository>(&objects::repository("shop", &spec)).await;
        world.until_reason::<ProjectRepository>("team-a", "shop", "Observed").await;
        Self { world, operator, sabotage }
    }

    /// The same with another operator. `meanwhile` runs without an operator.
    async fn restarted(self, meanwhile: impl AsyncFnOnce(&World)) -> Self {
        let Self { world, operator, sabotage } = self;
        operator.stop().await;
        meanwhile(&world).await;
        let operator = world.start(Start { sabotage, ..Start::default() }).await;
        operator.ready().await;
        Self { world, operator, sabotage }
    }

    /// Stops the operator. The rest of the world stays.
    pub(crate) async fn end(self) -> World {
        self.operator.stop().await;
        self.world
    }

    async fn make(&self, name: &str, further: &Value) -> Workspace {
        self.world.apply(&workspace(name, further)).await
    }

    /// Makes the workspace `try`, binds its volume, and reports that its pod is ready.
    pub(crate) async fn works(&self, further: &Value) -> Workspace {
        let workspace = self.make("try", further).await;
        self.bind("team-a", OBJECTS).await;
        self.run("try", BRANCH).await;
        workspace
    }

    /// Reports that the pod runs.
    async fn run(&self, name: &str, branch: &str) {
        let pod = format!("ws-{name}");
        self.world.until("there is a pod", async || self.world.get::<Pod>("team-a", &pod).await.map(drop)).await;
        let cloned = json!({"branch": branch, "head": "1".repeat(40)}).to_string();
        let ended = json!({"terminated": {"exitCode": 0, "message": cloned, "finishedAt": "2026-01-01T00:00:00Z"}});
        let runs = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let status = json!({
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "initContainerStatuses": [container("clone", &ended), container("agent", &runs)],
            "containerStatuses": [container("main", &runs)],
        });
        self.world.merge_status::<Pod>("team-a", &pod, &status).await.expect("the pod's status");
        self.world.until_reason::<Workspace>("team-a", name, "Running").await;
        self.operator.settled().await;
    }

    /// Reports that a pod's container `agent` ended with this message.
    async fn say(&self, namespace: &str, pod: &str, words: &Value) {
        let ended = json!({"terminated": {"exitCode": 0, "message": words.to_string()}});
        let runs = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let status = json!({"initContainerStatuses": [container("clone", &runs), container("agent", &ended)]});
        self.world.merge_status::<Pod>(namespace, pod, &status).await.expect("the pod's status");
    }

    /// Makes a volume for a claim.
    async fn bind(&self, namespace: &str, claim: &str) -> String {
        let get = async || self.world.get::<PersistentVolumeClaim>(namespace, claim).await;
        let uid = self.world.until("there is a claim", async || get().await?.uid()).await;
        let volume = format!("volume-{uid}");
        let object = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Delete", "capacity": {"storage": "10Gi"},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim, "namespace": namespace, "uid": uid},
                "csi": {"driver": "test.landfall.dev", "volumeHandle": uid},
            },
        });
        self.world.apply::<PersistentVolume>(&object).await;
        let is_bound = async || (get().await?.status?.phase.as_deref() == Some("Bound")).then_some(());
        self.world.until("the claim is bound", is_bound).await;
        volume
    }

    /// Deletes the workspace `try`. Returns whether its volume is released, rather than saved by a Job or kept.
    async fn loses_the_volume(&self) -> bool {
        self.world.delete::<Workspace>("team-a", "try").await;
        self.is_volume_lost().await
    }

    async fn is_volume_lost(&self) -> bool {
        let decided = async || {
            self.operator.settled().await;
            let Some(claim) = self.world.get::<PersistentVolumeClaim>("team-a", OBJECTS).await else {
                return Some(true);
            };
            if claim.labels().contains_key(RETAINED_LABEL) {
                return Some(false);
            }
            if !claim.finalizers().iter().any(|finalizer| finalizer == WORK_FINALIZER) {
                return Some(true);
            }
            let jobs: Vec<Job> = list(&self.world).await;
            if !jobs.is_empty() {
                return Some(false);
            }
            self.world.advance(SignedDuration::from_secs(10));
            None
        };
        self.world.until("it is decided what becomes of the volume", decided).await
    }

    /// The reason of the Ready condition of the workspace `try`.
    async fn reason(&self) -> Option<String> {
        let object = self.world.get::<Workspace>("team-a", "try").await?;
        let conditions = object.status?.conditions;
        Some(conditions.into_iter().find(|condition| condition.type_ == "Ready")?.reason)
    }
}

/// A workspace as a person writes it.
fn workspace(name: &str, further: &Value) -> Value {
    let mut spec = json!({"repositoryRef": {"name": "shop"}, "branch": {"name": format!("landfall/{name}")}});
    json_patch::merge(&mut spec, further);
    json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace",
        "metadata": {"name": name, "namespace": "team-a"}, "spec": spec,
    })
}

/// The last message of a pod whose clone had no work.
fn nothing_to_do() -> Value {
    json!({"outcome": "NothingToDo", "branch": BRANCH, "head": "1".repeat(40)})
}

fn container(name: &str, state: &Value) -> Value {
    let is_up = state.get("running").is_some();
    json!({"name": name, "state": state, "ready": is_up, "image": "", "imageID": "", "restartCount": 0})
}

async fn list<K>(world: &World) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    Api::all(world.admin.clone()).list(&ListParams::default()).await.expect("a list").items
}
