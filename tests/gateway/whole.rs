//! `landfall gateway` as a process of its own, beside an operator, with an API server that issues the tokens of pods.

use super::scene::{output, words};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount};
use kube::ResourceExt as _;
use landfall::api::{GitHubApp, GitHubInstallation, ProjectRepository, Workspace};
use landfall::gateway::controller::{Config, Controller};
use landfall::gateway::identity::{NoAccess, Workspaces as _};
use landfall::gateway::messages::Caller;
use landfall::guards::Sabotage;
use landfall::runtime::clock::SystemClock;
use landfall::settings::{GatewayAuthority, GatewaySettings, InternalSettings, WorkspaceSettings};
use landfall_world::operator::{HTTPS, Operator, Start};
use landfall_world::{SYSTEM, World, objects};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

const POD: &str = "ws-try";
const BRANCH: &str = "landfall/try";
/// The audience of the tokens of pods.
const GIT: &str = "landfall-git";
/// The audience of the gateway's own token.
const INTERNAL: &str = "landfall-internal";

/// A team with a workspace whose pod runs on this machine, an operator, and a gateway.
struct Whole {
    world: World,
    operator: Option<Operator>,
    gateway: Child,
    address: String,
    directory: tempfile::TempDir,
    sabotage: Sabotage,
}

impl Drop for Whole {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
    }
}

async fn post(world: &World, path: &str, body: &Value) -> Value {
    let request = http::Request::post(path).header("content-type", "application/json");
    world.admin.request(request.body(serde_json::to_vec(body).unwrap()).unwrap()).await.unwrap()
}

/// A token of a pod, as its kubelet requests it.
async fn token_of(world: &World, pod: &Pod, account: &str, audience: &str) -> String {
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.metadata.uid});
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound},
    });
    let namespace = pod.namespace().unwrap();
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    post(world, &path, &body).await["status"]["token"].as_str().unwrap().to_owned()
}

fn tenants(level: &str, push: &Value) -> Value {
    json!([{
        "name": "acme", "account": "acme", "repositories": ["*"],
        "maxPermissions": {"contents": level, "metadata": "read", "pull_requests": "write"},
        "namespaces": {"names": ["team-a"]}, "push": push,
    }])
}

fn start(sabotage: Sabotage) -> Start {
    let gateway = GatewaySettings { url: "https://127.0.0.1".parse().unwrap(), authority: GatewayAuthority::default() };
    let internal = InternalSettings { host: "127.0.0.1".into(), ..InternalSettings::of(SYSTEM) };
    let workspaces = WorkspaceSettings { gateway: Some(gateway), ..WorkspaceSettings::default() };
    Start { sabotage, workspaces, internal: Some(internal), ..Start::default() }
}

impl Whole {
    async fn new() -> Self {
        Self::without(Sabotage::default()).await
    }

    async fn without(sabotage: Sabotage) -> Self {
        let world = World::new().await;
        for name in ["team-a", "team-b"] {
            world.namespace(name, &[]).await;
            let account = async || world.get::<ServiceAccount>(name, "default").await.map(drop);
            world.until("the API server takes pods", account).await;
        }
        let operator = world.start(start(sabotage)).await;
        operator.ready().await;
        world.apply::<GitHubApp>(&objects::app(&world, &tenants("write", &json!({})))).await;
        world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
        let spec = json!({"webhook": {"mode": "None"}, "pollInterval": "24h"});
        world.apply::<ProjectRepository>(&objects::repository("shop", &spec)).await;
        world.until_reason::<ProjectRepository>("team-a", "shop", "Observed").await;
        let workspace = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": "try", "namespace": "team-a"},
            "spec": {
                "repositoryRef": {"name": "shop"}, "branch": {"name": BRANCH}, "pullRequest": {"mode": "None"},
                "push": {"refs": ["refs/heads/release/*"]},
            },
        });
        world.apply::<Workspace>(&workspace).await;
        bind(&world).await;
        world.until("there is a pod", async || world.get::<Pod>("team-a", POD).await.map(drop)).await;
        addressed(&world, "team-a", POD, "127.0.0.1").await;

        let directory = tempfile::Builder::new().prefix("gateway-").tempdir().unwrap();
        for name in ["home", "work", "tls"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let (gateway, address) = gateway(&world, &operator, directory.path()).await;
        Self { world, operator: Some(operator), gateway, address, directory, sabotage }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn pod(&self) -> Pod {
        self.world.get("team-a", POD).await.unwrap()
    }

    async fn token(&self) -> String {
        token_of(&self.world, &self.pod().await, "default", GIT).await
    }

    fn url(&self, id: u64) -> String {
        let host = self.world.sim.base_url();
        format!("https://{}/{}/{id}.git", self.address, host.strip_prefix("https://").unwrap())
    }

    /// git, unmodified, as it is in a pod.
    async fn git(&self, token: &str, arguments: &[&str]) -> Output {
        let mut git = Command::new("git");
        let helper = format!("!f() {{ echo username=landfall; echo password={token}; }}; f");
        git.args(["-c", "credential.helper=", "-c", &format!("credential.helper={helper}")]);
        git.args(["-c", &format!("url.{}.insteadOf={}/acme/shop.git", self.url(9001), self.world.sim.base_url())]);
        git.args(["-c", "user.name=Mona", "-c", "user.email=mona@example.com"]).args(arguments);
        git.current_dir(self.at("work"))
            .env("no_proxy", "*")
            .env("HOME", self.at("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSL_CAINFO", self.at("tls/ca.crt"))
            .env("LC_ALL", "C");
        output(git).await
    }

    /// Whether the refs of the repository can be read, and the words otherwise.
    async fn reads(&self, token: &str) -> Result<(), String> {
        let listed = self.git(token, &["ls-remote", &self.url(9001)]).await;
        if listed.status.success() { Ok(()) } else { Err(words(&listed)) }
    }

    async fn until_read(&self, token: &str) {
        self.world.until("the gateway serves", async || self.reads(token).await.ok()).await;
    }

    /// Waits until the gateway refuses with these words.
    async fn until_refused(&self, token: &str, expected: &str) {
        self.world
            .until(expected, async || self.reads(token).await.err().filter(|words| words.contains(expected)))
            .await;
    }

    async fn clone_and_commit(&self, token: &str) {
        self.until_read(token).await;
        let origin = format!("{}/acme/shop.git", self.world.sim.base_url());
        let cloned = self.git(token, &["clone", "--quiet", &origin, "shop"]).await;
        assert!(cloned.status.success(), "{}", words(&cloned));
        let made = self.git(token, &["-C", "shop", "commit", "--quiet", "--allow-empty", "-m", "work"]).await;
        assert!(made.status.success(), "{}", words(&made));
    }

    async fn push(&self, token: &str, refspecs: &[&str]) -> Result<String, String> {
        let pushed = self.git(token, &[&["-C", "shop", "push", "--porcelain", "origin"], refspecs].concat()).await;
        if pushed.status.success() { Ok(words(&pushed)) } else { Err(words(&pushed)) }
    }

    /// The tokens that the operator minted since it started.
    async fn minted(&self) -> u64 {
        let (_, text) = self.operator.as_ref().unwrap().serves("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix("landfall_tokens_total{event=\"minted\"} "));
        line.unwrap().parse().unwrap()
    }

    async fn stop_operator(&mut self) {
        self.operator.take().unwrap().stop().await;
    }

    /// The controller's internal API, as somebody with this token calls it.
    fn internal(&self, token: &str) -> Controller {
        let file = self.at("somebody");
        std::fs::write(&file, token).unwrap();
        let url = format!("https://{}", self.operator.as_ref().unwrap().internal());
        let config = Config { url, authority: self.at("tls/ca.crt"), token: file };
        Controller::new(config, HTTPS.clone(), Arc::new(SystemClock))
    }

    fn caller(&self, pod: &Pod) -> Caller {
        Caller {
            namespace: pod.namespace().unwrap(),
            name: pod.name_any(),
            uid: pod.metadata.uid.clone().unwrap(),
            address: "127.0.0.1".parse().unwrap(),
        }
    }
}

async fn bind(world: &World) {
    let get = async || world.get::<PersistentVolumeClaim>("team-a", POD).await;
    let uid = world.until("there is a claim", async || get().await?.uid()).await;
    let object = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("volume-{uid}")},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Delete", "capacity": {"storage": "10Gi"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": POD, "namespace": "team-a", "uid": uid},
            "csi": {"driver": "test.landfall.dev", "volumeHandle": uid},
        },
    });
    world.apply::<PersistentVolume>(&object).await;
}

/// Reports a pod's address, like its kubelet.
async fn addressed(world: &World, namespace: &str, pod: &str, address: &str) {
    let runs = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let status = json!({
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "initContainerStatuses": [{"name": "clone", "state": runs, "ready": true, "image": "", "imageID": "", "restartCount": 0}],
    });
    world.merge_status::<Pod>(namespace, pod, &status).await.expect("the pod's status");
}

/// Starts the gateway with what its pod has: the Secret of its certificate, a token of its own, and its account.
async fn gateway(world: &World, operator: &Operator, directory: &Path) -> (Child, String) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "landfall-gateway", "namespace": SYSTEM}});
    world.apply::<ServiceAccount>(&account).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "landfall-gateway-0", "namespace": SYSTEM},
        "spec": {
            "serviceAccountName": "landfall-gateway", "automountServiceAccountToken": false,
            "containers": [{"name": "gateway", "image": "none.invalid/none"}],
        },
    });
    let pod: Pod = world.apply(&pod).await;
    let own = token_of(world, &pod, "landfall-gateway", INTERNAL).await;
    std::fs::write(directory.join("own"), own).unwrap();
    let secret = async || world.get::<Secret>(SYSTEM, "landfall-gateway-tls").await;
    let secret = world.until("the operator made the gateway's certificate", secret).await;
    for (name, bytes) in secret.data.unwrap() {
        std::fs::write(directory.join("tls").join(name), bytes.0).unwrap();
    }
    let account = format!("system:serviceaccount:{SYSTEM}:landfall-gateway");
    std::fs::write(directory.join("kubeconfig"), world.kubeconfig_of(&account)).unwrap();
    let log = directory.join("log");
    let gateway = Command::new(env!("CARGO_BIN_EXE_landfall"))
        .args(["gateway", "--address=127.0.0.1:0", "--health-address=127.0.0.1:0"])
        .arg(format!("--internal-url=https://{}", operator.internal()))
        .arg("--certificate-directory")
        .arg(directory.join("tls"))
        .arg("--internal-token-file")
        .arg(directory.join("own"))
        .env("KUBECONFIG", directory.join("kubeconfig"))
        .env("no_proxy", "*")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let address = world
        .until("the gateway serves", async || {
            let text = std::fs::read_to_string(&log).unwrap();
            let line = text.lines().find(|line| line.contains("serving git"))?.to_owned();
            let start = line.find("127.0.0.1:")?;
            let end = line[start..].find('"').map_or(line.len(), |length| start + length);
            Some(line[start..end].to_owned())
        })
        .await;
    (gateway, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_clones_and_pushes_what_it_may_and_nothing_else() {
    let whole = Whole::new().await;
    let token = whole.token().await;
    whole.clone_and_commit(&token).await;
    let before = whole.minted().await;
    let branch = format!("HEAD:refs/heads/{BRANCH}");
    whole.push(&token, &[&branch]).await.unwrap();
    let refused = whole.push(&token, &["HEAD:refs/heads/main"]).await.unwrap_err();
    assert!(
        refused.contains("this workspace pushes to landfall/try and to the refs of spec.push.refs only"),
        "{refused}"
    );
    // The workspace asks for it, and the GitHubApp does not grant it.
    let refused = whole.push(&token, &["HEAD:refs/heads/release/1"]).await.unwrap_err();
    assert!(refused.contains("does not grant it"), "{refused}");
    let granted = tenants("write", &json!({"refs": ["refs/heads/release/*"]}));
    whole.world.apply::<GitHubApp>(&objects::app(&whole.world, &granted)).await;
    let pushed = async || whole.push(&token, &["HEAD:refs/heads/release/1"]).await.ok();
    whole.world.until("the grant is known", pushed).await;
    let other = whole.git(&token, &["ls-remote", &whole.url(9002)]).await;
    assert!(words(&other).contains("Repository not found"), "{}", words(&other));
    // One token reads, which was there before, and one writes.
    assert_eq!(whole.minted().await - before, 1);
    let kinds = whole.world.sim.requests();
    assert!(kinds.iter().any(|request| request.path.contains("/acme/shop.git/git-receive-pack")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_withdrawn_is_refused_and_one_that_reads_pushes_nothing() {
    let whole = Whole::new().await;
    let token = whole.token().await;
    whole.clone_and_commit(&token).await;
    whole.world.apply::<GitHubApp>(&objects::app(&whole.world, &tenants("read", &json!({})))).await;
    let refused = async || {
        let refused = whole.push(&token, &[&format!("HEAD:refs/heads/{BRANCH}")]).await.err()?;
        refused.contains("spec.tenants[].maxPermissions").then_some(())
    };
    whole.world.until("the push is refused", refused).await;
    assert_eq!(whole.reads(&token).await, Ok(()));
    let elsewhere = json!([{
        "name": "acme", "account": "acme", "repositories": ["*"], "namespaces": {"names": ["team-b"]},
    }]);
    whole.world.apply::<GitHubApp>(&objects::app(&whole.world, &elsewhere)).await;
    let refused = async || whole.reads(&token).await.err();
    let refused = whole.world.until("nothing is read", refused).await;
    assert!(refused.contains("403"), "{refused}");
}

/// While there is no controller, what is held serves on. A controller that starts mints nothing that a gateway still has.
#[tokio::test(flavor = "multi_thread")]
async fn the_controller_goes_and_comes_back() {
    let mut whole = Whole::new().await;
    let token = whole.token().await;
    whole.clone_and_commit(&token).await;
    whole.push(&token, &[&format!("HEAD:refs/heads/{BRANCH}")]).await.unwrap();
    let address = whole.operator.as_ref().unwrap().internal();
    whole.stop_operator().await;
    assert_eq!(whole.reads(&token).await, Ok(()));
    whole.push(&token, &[&format!("HEAD:refs/heads/landfall-wip/try-{}/x", whole.short_uid().await)]).await.unwrap();
    // Behind the address of the one that is gone.
    let mut next = start(whole.sabotage);
    next.internal_address = Some(address);
    let operator = whole.world.start(next).await;
    operator.ready().await;
    whole.operator = Some(operator);
    let stranger = whole.strangers_pod().await;
    let of_stranger = token_of(&whole.world, &stranger, "default", GIT).await;
    whole.until_refused(&of_stranger, "does not belong to a workspace").await;
    whole.until_read(&token).await;
    whole.push(&token, &[&format!("HEAD:refs/heads/{BRANCH}")]).await.unwrap();
    assert_eq!(whole.minted().await, 0);
}

impl Whole {
    async fn short_uid(&self) -> String {
        let workspace: Workspace = self.world.get("team-a", "try").await.unwrap();
        workspace.uid().unwrap().chars().take(5).collect()
    }

    /// A pod of another namespace that says it belongs to the workspace.
    async fn strangers_pod(&self) -> Pod {
        let workspace: Workspace = self.world.get("team-a", "try").await.unwrap();
        self.pretender("team-b", POD, &workspace).await
    }

    async fn pretender(&self, namespace: &str, name: &str, workspace: &Workspace) -> Pod {
        let owner = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "name": "try", "uid": workspace.uid(), "controller": true,
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "finalizers": ["test.landfall.dev/stays"],
                "labels": {"landfall.dev/workspace": "try", "landfall.dev/role": "work"},
                "annotations": {"landfall.dev/workspace-uid": workspace.uid()}, "ownerReferences": [owner],
            },
            "spec": {"containers": [{"name": "main", "image": "none.invalid/none"}]},
        });
        let pod = self.world.apply(&pod).await;
        addressed(&self.world, namespace, name, "127.0.0.1").await;
        pod
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_other_pods_audiences_and_addresses_open_nothing() {
    let whole = Whole::new().await;
    let token = whole.token().await;
    whole.until_read(&token).await;
    let pod = whole.pod().await;
    for audience in ["landfall", INTERNAL, "https://kubernetes.default.svc"] {
        let wrong = token_of(&whole.world, &pod, "default", audience).await;
        assert!(whole.reads(&wrong).await.is_err(), "{audience}");
    }
    let stranger = whole.strangers_pod().await;
    let of_stranger = token_of(&whole.world, &stranger, "default", GIT).await;
    whole.until_refused(&of_stranger, "does not belong to a workspace").await;
    // A pod of the same namespace with another name.
    let workspace: Workspace = whole.world.get("team-a", "try").await.unwrap();
    let second = whole.pretender("team-a", "ws-try-2", &workspace).await;
    let of_second = token_of(&whole.world, &second, "default", GIT).await;
    whole.until_refused(&of_second, "does not belong to a workspace").await;
    // The token was carried away to another machine.
    addressed(&whole.world, "team-a", POD, "192.0.2.7").await;
    whole.until_refused(&token, "which is not the pod's address").await;
    addressed(&whole.world, "team-a", POD, "127.0.0.1").await;
    whole.until_read(&token).await;
    // The pod is gone, and its token with it.
    whole.world.delete_now::<Pod>("team-a", POD).await;
    let refused = async || whole.reads(&token).await.err();
    whole.world.until("a deleted pod's token is refused", refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_uid_or_a_foreign_address_passes_only_without_its_guard() {
    for (sabotage, passes) in [
        (Sabotage::default(), [false, false]),
        (Sabotage { any_caller_uid: true, ..Sabotage::default() }, [true, false]),
        (Sabotage { any_caller_address: true, ..Sabotage::default() }, [false, true]),
    ] {
        let whole = Whole::without(sabotage).await;
        let internal = whole.internal(&std::fs::read_to_string(whole.at("own")).unwrap());
        let right = whole.caller(&whole.pod().await);
        whole.world.until("the internal API answers", async || internal.access(&right).await.ok()).await;
        let forged = Caller { uid: "11111111-2222-3333-4444-555555555555".into(), ..right.clone() };
        let foreign = Caller { address: "192.0.2.7".parse().unwrap(), ..right };
        for (caller, passes) in [forged, foreign].iter().zip(passes) {
            let answer = internal.access(caller).await;
            assert_eq!(answer.is_ok(), passes, "{caller:?}: {answer:?}");
            assert!(passes || matches!(answer, Err(NoAccess::Refused(_))), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_gateway_is_answered_by_the_controller() {
    let whole = Whole::new().await;
    let pod = whole.pod().await;
    let caller = whole.caller(&pod);
    let own = whole.internal(&std::fs::read_to_string(whole.at("own")).unwrap());
    whole.world.until("the internal API answers", async || own.access(&caller).await.ok()).await;
    let gateway: Pod = whole.world.get(SYSTEM, "landfall-gateway-0").await.unwrap();
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "other", "namespace": SYSTEM}});
    whole.world.apply::<ServiceAccount>(&account).await;
    let other = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": SYSTEM},
        "spec": {"serviceAccountName": "other", "containers": [{"name": "main", "image": "none.invalid/none"}]},
    });
    let other: Pod = whole.world.apply(&other).await;
    for (token, whose) in [
        (token_of(&whole.world, &pod, "default", INTERNAL).await, "a workspace's pod"),
        (token_of(&whole.world, &other, "other", INTERNAL).await, "another account of the operator's namespace"),
        (token_of(&whole.world, &gateway, "landfall-gateway", GIT).await, "another audience"),
        ("no.token.atall".to_owned(), "nobody"),
    ] {
        let answer = whole.internal(&token).access(&caller).await;
        let refused = answer.expect_err(whose).to_string();
        assert!(refused.contains("the token does not belong"), "{whose}: {refused}");
    }
}

/// What was allowed before counts while the controller is away. While it answers, it does not.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_allowed_from_memory_while_the_controller_answers() {
    let whole = Whole::new().await;
    let own = std::fs::read_to_string(whole.at("own")).unwrap();
    let (first, second) = (whole.internal(&own), whole.internal(&own));
    let caller = whole.caller(&whole.pod().await);
    for internal in [&first, &second] {
        whole.world.until("the internal API answers", async || internal.access(&caller).await.ok()).await;
    }
    let suspended = json!({"spec": {"operatingMode": "Suspended"}});
    whole.world.merge::<Workspace>("team-a", "try", &suspended).await.unwrap();
    let gone = async || {
        whole.world.delete_now::<Pod>("team-a", POD).await;
        whole.operator.as_ref().unwrap().settled().await;
        whole.world.get::<Pod>("team-a", POD).await.is_none().then_some(())
    };
    whole.world.until("the pod is gone", gone).await;
    let refused = whole.world.until("the pod is refused", async || first.access(&caller).await.err()).await;
    assert!(matches!(refused, NoAccess::Unavailable(_)), "{refused:?}");

    // So does a grant that was withdrawn, whatever was allowed a moment ago.
    let running = json!({"spec": {"operatingMode": "Running"}});
    whole.world.merge::<Workspace>("team-a", "try", &running).await.unwrap();
    whole.world.until("there is a pod", async || whole.world.get::<Pod>("team-a", POD).await.map(drop)).await;
    addressed(&whole.world, "team-a", POD, "127.0.0.1").await;
    let caller = whole.caller(&whole.pod().await);
    whole.world.until("the new pod is served", async || second.access(&caller).await.ok()).await;
    let elsewhere = json!([{
        "name": "acme", "account": "acme", "repositories": ["*"], "namespaces": {"names": ["team-b"]},
    }]);
    whole.world.apply::<GitHubApp>(&objects::app(&whole.world, &elsewhere)).await;
    let refused = whole.world.until("the pod is refused", async || second.access(&caller).await.err()).await;
    assert!(matches!(refused, NoAccess::Refused(_)), "{refused:?}");
}
