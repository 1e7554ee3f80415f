//! The effects of a push: workloads restarted as a `ServiceAccount`, exactly once.
//!
//! The Deployments and `StatefulSet`s have their real controllers. There is no node, so the tests report that pods run.
//! The tests count `ReplicaSet`s, and requests in the API server's audit log.

mod attacks;
mod examples;
mod followed;
mod once;
mod refused;

use crate::scene::connected;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use landfall::api::{DeploymentResult, DeploymentStatus, ProjectRepository};
use landfall_cluster::Entry;
use landfall_world::operator::Operator;
use landfall_world::{SYSTEM, World, objects};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A team whose pushes to shop restart something. Its objects are named after the test, so tests do not see each
/// other's.
pub struct Team {
    pub world: World,
    pub operator: Operator,
    pub name: &'static str,
}

impl Team {
    /// A team with a Deployment that is rolled out, and all permissions that are needed.
    pub async fn new(name: &'static str) -> Self {
        let team = Self::without_rights(name).await;
        team.let_the_operator_act("team-a").await;
        team.let_the_account_roll("team-a").await;
        team.make_deployment(&json!({})).await;
        team.pods_run().await;
        team.follow(&json!({"name": name, "kind": "Deployment"})).await;
        team.comes_to(DeploymentResult::Succeeded).await;
        team
    }

    pub async fn without_rights(name: &'static str) -> Self {
        let (world, operator) = connected().await;
        Self { world, operator, name }
    }

    /// Another operator without the memory of the one before. `meanwhile` runs without an operator.
    pub async fn restarted(self, meanwhile: impl AsyncFnOnce(&World)) -> Self {
        let Self { world, operator, name } = self;
        operator.kill();
        meanwhile(&world).await;
        let operator = world.operator().await;
        operator.ready().await;
        operator.settled().await;
        Self { world, operator, name }
    }

    /// The permissions that the documentation tells a team to grant.
    pub async fn let_the_operator_act(&self, namespace: &str) {
        let rule = json!({"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": [self.name], "verbs": ["impersonate"]});
        self.bind(namespace, "acts-as", &rule, &json!({"namespace": SYSTEM, "name": "landfall"})).await;
    }

    pub async fn let_the_account_roll(&self, namespace: &str) {
        let resources = ["deployments", "statefulsets", "daemonsets"];
        let rule = json!({"apiGroups": ["apps"], "resources": resources, "verbs": ["get", "list", "patch"]});
        self.bind(namespace, "rolls", &rule, &json!({"namespace": "team-a", "name": self.name})).await;
    }

    pub async fn bind(&self, namespace: &str, what: &str, rule: &Value, account: &Value) {
        let name = format!("{}-{what}", self.name);
        let group = "rbac.authorization.k8s.io";
        let metadata = json!({"name": name, "namespace": namespace});
        let mut subject = account.clone();
        subject["kind"] = "ServiceAccount".into();
        let api = format!("{group}/v1");
        let role = json!({"apiVersion": api, "kind": "Role", "metadata": metadata, "rules": [rule]});
        self.world.apply::<Role>(&role).await;
        let binding = json!({
            "apiVersion": api, "kind": "RoleBinding", "metadata": metadata, "subjects": [subject],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        });
        self.world.apply::<RoleBinding>(&binding).await;
    }

    pub async fn make_deployment(&self, spec: &Value) {
        self.world.apply::<Deployment>(&workload("Deployment", self.name, spec)).await;
    }

    /// A ProjectRepository that restarts this.
    pub async fn follow(&self, restart: &Value) {
        let on_push = json!({"serviceAccountName": self.name, "actions": [{"rolloutRestart": restart}]});
        self.world.apply::<ProjectRepository>(&objects::repository("shop", &json!({"onPush": on_push}))).await;
        self.world.until_reason::<ProjectRepository>("team-a", "shop", "Observed").await;
        self.operator.settled().await;
    }

    pub async fn object(&self) -> ProjectRepository {
        self.world.get("team-a", "shop").await.expect("a ProjectRepository")
    }

    pub async fn deployment(&self) -> DeploymentStatus {
        self.object().await.status.and_then(|status| status.deployment).expect("a deployment")
    }

    /// Reason and message of the condition Deployed.
    pub async fn deployed(&self) -> (String, String) {
        let conditions = self.object().await.status.map(|status| status.conditions).unwrap_or_default();
        let deployed = conditions.into_iter().find(|condition| condition.type_ == "Deployed").expect("a condition");
        (deployed.reason, deployed.message)
    }

    /// Waits, in real time, until the operator wrote this result.
    pub async fn comes_to(&self, result: DeploymentResult) -> DeploymentStatus {
        let what = format!("{result:?}");
        self.world
            .until(&what, async || {
                let deployment = self.object().await.status?.deployment?;
                (deployment.result == result).then_some(deployment)
            })
            .await
    }

    pub async fn annotate(&self, annotation: &str, value: &str) {
        let change = json!({"metadata": {"annotations": {annotation: value}}});
        self.world.merge::<ProjectRepository>("team-a", "shop", &change).await.expect("annotated");
    }

    /// Makes the operator look at the head.
    pub async fn look(&self) {
        let wish = format!("{:016x}", rand::random::<u64>());
        self.annotate("landfall.dev/reconcile", &wish).await;
        self.world
            .until("the operator looked", async || {
                (self.object().await.status?.last_handled_reconcile.as_ref() == Some(&wish)).then_some(())
            })
            .await;
        self.operator.settled().await;
    }

    pub async fn lives(&self, seconds: i64) {
        self.world.live_through(&self.operator, SignedDuration::from_secs(seconds)).await;
    }

    /// A push that is seen, and whose deployment begins after the debounce.
    pub async fn push(&self) -> String {
        let sha = self.world.push("acme/shop", "main");
        self.look().await;
        self.lives(4).await;
        sha
    }

    /// The same, until it is rolled out.
    pub async fn deploy(&self) -> String {
        let sha = self.push().await;
        self.pods_run().await;
        self.lives(31).await;
        let deployment = self.deployment().await;
        assert_eq!((&deployment.sha, deployment.result), (&sha, DeploymentResult::Succeeded));
        sha
    }

    /// Does the work of a node, and waits for the Deployment's controller.
    pub async fn pods_run(&self) {
        self.world
            .until("the Deployment is rolled out", async || {
                self.mark_pods().await;
                let deployment = self.world.get::<Deployment>("team-a", self.name).await?;
                let (spec, status) = (deployment.spec.as_ref()?, deployment.status.as_ref()?);
                let wanted = spec.replicas?;
                let all = [status.updated_replicas, status.replicas, status.available_replicas];
                let is_seen = status.observed_generation == deployment.metadata.generation;
                (is_seen && all.iter().all(|count| count.unwrap_or(0) == wanted)).then_some(())
            })
            .await;
    }

    pub async fn mark_pods(&self) {
        let pods: Api<Pod> = Api::namespaced(self.world.admin.clone(), "team-a");
        for pod in self.of::<Pod>().await {
            let conditions =
                json!([{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]);
            let status = json!({"status": {"phase": "Running", "conditions": conditions}});
            let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&status)).await;
        }
    }

    /// All objects of a kind that are named after the test.
    pub async fn of<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let labels = ListParams::default().labels(&format!("app={}", self.name));
        Api::<K>::namespaced(self.world.admin.clone(), "team-a").list(&labels).await.expect("a list").items
    }

    /// The commits of the `ReplicaSet`s, by sequence. The one from before the first push does not count.
    pub async fn rolled(&self) -> Vec<(i64, String)> {
        let mut rolled: Vec<_> = self
            .of::<ReplicaSet>()
            .await
            .into_iter()
            .filter_map(|set| {
                let annotations = set.spec?.template?.metadata?.annotations.unwrap_or_default();
                stamp(&annotations)
            })
            .collect();
        rolled.sort();
        rolled
    }

    /// Waits until these were rolled out. Kubernetes creates `ReplicaSet`s in its own time, and none for a template
    /// that was replaced by the next before that.
    pub async fn until_rolled(&self, expected: &[(i64, String)]) {
        let is_rolled = async || (self.rolled().await == expected).then_some(());
        self.world.until(&format!("{expected:?} was rolled"), is_rolled).await;
    }

    /// The requests that were made as the ServiceAccount.
    pub fn asked_as_the_account(&self) -> Vec<Entry> {
        let user = format!("system:serviceaccount:team-a:{}", self.name);
        self.world.asked().into_iter().filter(|entry| entry.impersonated.as_ref() == Some(&user)).collect()
    }

    /// Patches of workloads, successful or not, except those that came too late: Kubernetes' own controllers write to
    /// the patched objects, which are then looked at again.
    pub fn patches(&self) -> usize {
        self.asked_as_the_account().iter().filter(|entry| entry.verb == "patch" && entry.code != 409).count()
    }

    /// Checks that all requests about workloads were made as the ServiceAccount, in its own namespace. The audit log
    /// has no impersonated user for a refused impersonation, only the refusal.
    pub fn nothing_was_asked_as_the_operator(&self) {
        let user = format!("system:serviceaccount:team-a:{}", self.name);
        for entry in self.world.asked().iter().filter(|entry| entry.group == "apps" || entry.impersonated.is_some()) {
            assert_eq!(entry.namespace, "team-a", "{entry:?}");
            assert!(entry.impersonated.as_ref() == Some(&user) || entry.code == 403, "{entry:?}");
        }
    }
}

/// The commit and the sequence in a template's annotations.
pub fn stamp(annotations: &BTreeMap<String, String>) -> Option<(i64, String)> {
    let sequence = annotations.get("landfall.dev/sequence")?.parse().ok()?;
    Some((sequence, annotations.get("landfall.dev/sha")?.clone()))
}

pub fn workload(kind: &str, name: &str, spec: &Value) -> Value {
    let labels = json!({"app": name});
    let pod = json!({"containers": [{"name": "main", "image": "registry.example.com/shop:1"}]});
    let mut whole = json!({
        "replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "team-a", "labels": labels},
        "spec": whole,
    })
}
