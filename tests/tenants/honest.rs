//! The tenant that is not to notice anything, and its story.

use crate::process::{Process, RECEIVER_POD};
use github_sim::Entry;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, Secret};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, ListParams};
use landfall::api::{
    DeploymentResult, GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository, WebhookInbox, Workspace,
};
use landfall::webhook::root_keys::fresh;
use landfall::webhook::{AppIdentity, Hook, ROOT_KEYS_SECRET, RootKeys};
use landfall_world::delivery::Delivery;
use landfall_world::kubelet::{Kubelet, Mischief};
use landfall_world::{OPERATOR, SYSTEM, World, id, objects, ready, text};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// The namespaces of the two tenants.
const OURS: &str = "team-a";
pub const OTHERS: &str = "team-b";
/// The installation that both use.
pub const INSTALLATION: u64 = 501;
/// The account that rolls the Deployment `shop` of the same name.
const ACCOUNT: &str = "shop";
const BRANCH: &str = "landfall/try";
const FILE: (&str, &str) = ("note.txt", "work that nobody committed\n");
/// The life of the token that is renewed. It is due when 45 to 90 seconds of its life have passed, and half of its life, or more,
/// is left.
const SHORT_LIFE: Duration = Duration::from_mins(3);
const USUAL_LIFE: Duration = Duration::from_mins(60);
/// A push is rolled out when this has passed since it was seen.
const DEBOUNCE: SignedDuration = SignedDuration::from_secs(2);
/// The looks at the other tenant's repositories that may come before a turn of ours. Of its objects, 2,000 wait.
const MOST_BEFORE: usize = 100;
/// The limit of the chart for the controller's memory and for the receiver's.
const MEMORY: u64 = 256 << 20;

pub struct Processes {
    pub controller: Process,
    pub receiver: Process,
}

/// The world with both tenants, and all processes.
pub struct Scene {
    pub world: World,
    pub processes: Processes,
    kubelet: Kubelet,
    folder: TempDir,
    keys: RootKeys,
    token: String,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the controller's last words: {}", self.processes.controller.last_words());
        }
    }
}

/// A question about the heads of a repository of the other tenant.
pub fn is_question_of_others(request: &Entry) -> bool {
    request.method == "POST" && request.path.starts_with("/acme/many-") && request.path.ends_with("/git-upload-pack")
}

impl Scene {
    pub async fn new() -> Self {
        let world = World::new().await;
        for namespace in [OURS, OTHERS] {
            world.namespace(namespace, &[]).await;
        }
        let folder = TempDir::with_prefix("tenants-").expect("a folder");
        let directory = folder.path().join("keys");
        std::fs::create_dir(&directory).expect("a folder");
        let secret = fresh().expect("keys");
        for (name, value) in secret.data.iter().flatten() {
            std::fs::write(directory.join(name), &value.0).expect("written");
        }
        let mut secret = serde_json::to_value(secret).expect("json");
        secret["metadata"] = json!({"name": ROOT_KEYS_SECRET, "namespace": SYSTEM});
        world.apply::<Secret>(&secret).await;

        let receiver_kubeconfig = world.receiver_kubeconfig(RECEIVER_POD).await;
        let controller = Process::controller(folder.path(), &world.kubeconfig_of(OPERATOR)).await;
        let inbox = async || world.get::<WebhookInbox>(SYSTEM, RECEIVER_POD).await.map(drop);
        world.until("the receiver's pod has an inbox", inbox).await;
        let receiver = Process::receiver(folder.path(), &receiver_kubeconfig, &directory).await;
        let permissions = json!({"contents": "write", "metadata": "read", "pull_requests": "write"});
        let tenant = |name: &str, repositories: &str, namespace: &str| {
            json!({
                "name": name, "account": "acme", "repositories": [repositories], "maxPermissions": permissions,
                "namespaces": {"names": [namespace]},
            })
        };
        let tenants = json!([tenant("ours", "shop", OURS), tenant("others", "many-*", OTHERS)]);
        world.apply::<GitHubApp>(&objects::app(&world, &tenants)).await;
        for namespace in [OURS, OTHERS] {
            world.until_reason::<GitHubInstallation>(namespace, "acme", "Active").await;
        }
        let kubelet = Kubelet::start(&world, OURS, env!("CARGO_BIN_EXE_landfall"), Mischief::None).await;
        let keys = RootKeys::read_directory(&directory).expect("keys");
        let processes = Processes { controller, receiver };
        let scene = Self { world, processes, kubelet, folder, keys, token: String::new() };
        scene.has_a_deployment().await;
        scene.others_have_a_token().await;
        scene
    }

    async fn has_a_deployment(&self) {
        let world = &self.world;
        let impersonates = json!({"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": [ACCOUNT], "verbs": ["impersonate"]});
        self.bind("acts-as", &impersonates, SYSTEM, "landfall").await;
        let rolls = json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "patch"]});
        self.bind("rolls", &rolls, OURS, ACCOUNT).await;
        let labels = json!({"app": "shop"});
        // No pod is needed to see the template.
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop", "namespace": OURS, "labels": labels},
            "spec": {
                "replicas": 0, "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "main", "image": "registry.example.com/shop:1"}]},
                },
            },
        });
        world.apply::<Deployment>(&deployment).await;
        let restart = json!({"name": "shop", "kind": "Deployment"});
        let on_push =
            json!({"serviceAccountName": ACCOUNT, "debounce": "2s", "actions": [{"rolloutRestart": restart}]});
        let spec = json!({"onPush": on_push, "pollInterval": "24h"});
        world.apply::<ProjectRepository>(&objects::repository("shop", &spec)).await;
        world.until_reason::<ProjectRepository>(OURS, "shop", "Observed").await;
        let is_known = async || {
            let status = world.get::<ProjectRepository>(OURS, "shop").await?.status?;
            (status.deployment?.result == DeploymentResult::Succeeded).then_some(())
        };
        world.until("the first head is known", is_known).await;
    }

    async fn bind(&self, name: &str, rule: &serde_json::Value, namespace: &str, account: &str) {
        let metadata = json!({"name": format!("tenants-{name}"), "namespace": OURS});
        let group = "rbac.authorization.k8s.io";
        let api = format!("{group}/v1");
        let role = json!({"apiVersion": api, "kind": "Role", "metadata": metadata, "rules": [rule]});
        self.world.apply::<Role>(&role).await;
        let binding = json!({
            "apiVersion": api, "kind": "RoleBinding", "metadata": metadata,
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": metadata["name"]},
        });
        self.world.apply::<RoleBinding>(&binding).await;
    }

    /// The token by which the other tenant spends the limit.
    async fn others_have_a_token(&self) {
        let seed = github_sim::RepositorySeed {
            owner: "acme".into(),
            name: "many-of-others".into(),
            private: true,
            ..Default::default()
        };
        self.world.sim.create_repository(&seed).expect("a repository");
        let spec = json!({"repositories": [{"name": "many-of-others"}], "permissions": {"contents": "read"}});
        let mut token = objects::token("busy", &spec);
        token["metadata"]["namespace"] = json!(OTHERS);
        self.world.apply::<InstallationToken>(&token).await;
        self.world.until_reason::<InstallationToken>(OTHERS, "busy", "Published").await;
    }

    /// Starts a workspace, and writes a file there that nobody commits.
    pub async fn has_a_workspace_with_work(&self) {
        let workspace = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": "try", "namespace": OURS},
            "spec": {"repositoryRef": {"name": "shop"}, "branch": {"name": BRANCH}},
        });
        self.world.apply::<Workspace>(&workspace).await;
        let runs = async || {
            self.kubelet.pass(&self.world).await.expect("its pod runs");
            let workspace = self.world.get::<Workspace>(OURS, "try").await?;
            let conditions = workspace.status?.conditions;
            conditions.iter().any(|it| it.type_ == "Ready" && it.reason == "Running").then_some(())
        };
        self.world.until("the workspace runs", runs).await;
        std::fs::write(self.clone().await.join(FILE.0), FILE.1).expect("written");
    }

    async fn clone(&self) -> PathBuf {
        self.kubelet.directory("ws-try").await.expect("a volume").join("shop")
    }

    pub async fn has_a_token_that_is_soon_renewed(&mut self) {
        self.world.sim.set_token_life(SHORT_LIFE);
        self.world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
        self.world.until_reason::<InstallationToken>(OURS, "shop", "Published").await;
        self.world.sim.set_token_life(USUAL_LIFE);
        self.token = self.published().await;
    }

    async fn published(&self) -> String {
        let secret = self.world.get::<Secret>(OURS, "shop-git").await.expect("a Secret");
        text(&secret, "password").expect("a token")
    }

    /// Ends the controller as a failing node does, and starts another one.
    pub async fn restart_controller(&mut self) {
        self.processes.controller.kill().await;
        self.processes.controller = Process::controller(self.folder.path(), &self.world.kubeconfig_of(OPERATOR)).await;
    }

    /// A push reaches the Deployment. The order of GitHub's calls shows who was served before.
    pub async fn pushes_and_is_rolled_out(&self) {
        let world = &self.world;
        let pushed = world.push("acme/shop", "main");
        let app = AppIdentity { host: world.sim.address().to_string(), app_id: id(4242) };
        let (hook, payload) = (Hook::App, payload(&pushed));
        let secret = self.keys.current.secret(&app, hook);
        let guid = format!("00000000-0000-4000-8000-{:012x}", rand::random::<u32>());
        let delivery = Delivery::new(&hook.path("landfall"), "push", &guid, payload.as_bytes(), secret.expose());
        let mark = world.audit.mark().expect("the audit log");
        assert_eq!(delivery.send(self.processes.receiver.service).await.status, 202);
        let delivered = world.sim.now();
        let is_rolled = async || {
            let deployment = world.get::<Deployment>(OURS, "shop").await?;
            let annotations = deployment.spec?.template.metadata?.annotations?;
            (annotations.get("landfall.dev/sha") == Some(&pushed)).then_some(())
        };
        world.until("the push is rolled out", is_rolled).await;

        let requests = world.sim.requests();
        let is_ours = |request: &&Entry| request.path == "/acme/shop.git/git-upload-pack" && request.time >= delivered;
        let seen = requests.iter().find(is_ours).expect("a look at the pushed repository").time;
        let patched = world.audit.since(mark).expect("the audit log");
        let patched = patched.iter().find(|it| it.resource == "deployments" && it.verb == "patch" && it.succeeded());
        let patched = patched.expect("a patch of the Deployment").received;
        let debounced = seen.checked_add(DEBOUNCE).expect("in range");
        let between = |from: Timestamp, to: Timestamp| {
            requests.iter().filter(|it| is_question_of_others(it) && it.time > from && it.time < to).count()
        };
        let (before, after) = (between(delivered, seen), between(debounced, patched));
        println!(
            "the push was seen after {:#}, behind {before} looks of others, and rolled out {:#} past its debounce, behind {after}",
            seen.duration_since(delivered),
            patched.duration_since(debounced),
        );
        assert!(before <= MOST_BEFORE && after <= MOST_BEFORE, "it waited behind {before} and {after} looks of others");
    }

    /// The token is replaced while it still works.
    pub async fn has_its_token_renewed(&self) {
        let is_alive = |token: &str| {
            let sha256 = sha256(token);
            self.world.sim.live_tokens().iter().any(|live| live.sha256 == sha256)
        };
        let is_renewed = async || {
            let published = self.published().await;
            assert!(is_alive(&published), "the Secret holds a dead token");
            (published != self.token).then_some(())
        };
        self.world.until("the token is renewed", is_renewed).await;
    }

    /// The branch has the file, the volume is deleted, and the workspace goes, or waits for its token alone: GitHub revokes no
    /// token while the limit is spent, and the token expires within the hour.
    pub async fn deletes_its_workspace_and_finds_its_work(&self) {
        let world = &self.world;
        world.delete::<Workspace>(OURS, "try").await;
        let mut last = serde_json::Value::Null;
        let is_over = async || {
            self.kubelet.pass(world).await.expect("its pod saves");
            let Some(workspace) = world.get::<Workspace>(OURS, "try").await else { return Some(()) };
            let ready = ready(&serde_json::to_value(workspace).expect("json"));
            if last != ready {
                println!("the workspace: {}: {}", ready["reason"], ready["message"]);
                last = ready;
            }
            let waits = last["reason"] == "WaitingForDependents" && last["message"].as_str()?.contains("rate limit");
            waits.then_some(())
        };
        world.until("the workspace is over", is_over).await;
        let is_released = async || {
            self.kubelet.pass(world).await.expect("volumes go");
            let volumes = Api::<PersistentVolume>::all(world.admin.clone()).list(&ListParams::default()).await.ok()?;
            volumes.items.is_empty().then_some(())
        };
        world.until("its volume is deleted", is_released).await;
        let saved = std::process::Command::new("git")
            .arg("-C")
            .arg(world.bare("acme/shop"))
            .args(["show", &format!("{BRANCH}:{}", FILE.0)])
            .output()
            .expect("git runs");
        assert_eq!(String::from_utf8_lossy(&saved.stdout), FILE.1, "{}", String::from_utf8_lossy(&saved.stderr));
    }

    pub async fn no_process_ended(mut self) {
        for (name, process) in
            [("controller", &mut self.processes.controller), ("receiver", &mut self.processes.receiver)]
        {
            process.has_not_ended();
            let peak = process.peak();
            println!("{name}: {} MiB at most, of {} MiB", peak >> 20, MEMORY >> 20);
            assert!(peak < MEMORY, "{name} would be killed: {} MiB of {} MiB", peak >> 20, MEMORY >> 20);
        }
        self.processes.controller.kill().await;
        self.processes.receiver.kill().await;
    }
}

/// GitHub's payload of a push to main of acme/shop.
fn payload(sha: &str) -> String {
    json!({
        "ref": "refs/heads/main", "before": "1".repeat(40), "after": sha,
        "repository": {"id": 9001, "name": "shop", "full_name": "acme/shop", "owner": {"id": 7001, "login": "acme"}},
        "installation": {"id": INSTALLATION},
    })
    .to_string()
}

fn sha256(text: &str) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref())
}
