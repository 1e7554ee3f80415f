//! The API server that the tests of one process share, with the chart's definitions and rules installed.

use super::{OPERATOR, SYSTEM};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use landfall_cluster::{ApiServer, AuditLog, Cache};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{LazyLock, mpsc};

/// A shared API server.
pub struct Cluster {
    server: ApiServer,
    admin: Config,
    operator: Config,
}

/// How many API servers one process may have. The tests are many and wait most of their time.
pub const LANES: usize = 4;

static CLUSTERS: [LazyLock<Cluster>; LANES] = [const { LazyLock::new(start) }; LANES];

fn start() -> Cluster {
    // It runs on a runtime of its own, because a test's runtime ends with the test.
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let cluster = Cluster::start().await;
            send.send(cluster).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    receive.recv().expect("an API server")
}

/// The shared API server of a lane; started at the first call.
pub fn cluster(lane: usize) -> &'static Cluster {
    &CLUSTERS[lane]
}

impl Cluster {
    async fn start() -> Self {
        // Like most clusters, which refuse privileged pods by the pod security of a namespace.
        let api_server_arguments = vec!["--allow-privileged=true".to_owned()];
        let options = landfall_cluster::Options { api_server_arguments, ..landfall_cluster::Options::default() };
        let server = ApiServer::start(options).await.expect("an API server");
        let admin = read(&std::fs::read_to_string(server.kubeconfig()).expect("a kubeconfig")).await;
        let group = "system:serviceaccounts";
        let mut operator = read(&server.kubeconfig_of(OPERATOR, Some(group)).expect("a kubeconfig")).await;
        // As on the command line: failures go back to the due queue.
        operator.default_retry = false;
        let cluster = Self { server, admin, operator };
        cluster.install().await;
        cluster
    }

    /// A client of an administrator.
    pub fn admin(&self) -> Client {
        Client::try_from(self.admin.clone()).expect("a client")
    }

    /// The configuration of the operator's client.
    pub fn operator(&self) -> Config {
        self.operator.clone()
    }

    /// The configuration of another service account's client.
    pub async fn user(&self, name: &str) -> Config {
        let kubeconfig = self.server.kubeconfig_of(name, Some("system:serviceaccounts")).expect("a kubeconfig");
        read(&kubeconfig).await
    }

    /// The file of an administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// A kubeconfig of another service account, for a process of its own.
    pub fn kubeconfig_of(&self, name: &str) -> String {
        self.server.kubeconfig_of(name, Some("system:serviceaccounts")).expect("a kubeconfig")
    }

    /// The kubeconfig of a receiver in a pod of this name, which is made.
    pub async fn receiver_kubeconfig(&self, pod: &str) -> String {
        let mut kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig_of(OPERATOR)).expect("a kubeconfig");
        let token = Some(self.receiver_token(pod).await.into());
        let auth_info = kube::config::AuthInfo { token, ..kube::config::AuthInfo::default() };
        kubeconfig.auth_infos.iter_mut().for_each(|named| named.auth_info = Some(auth_info.clone()));
        serde_json::to_string(&kubeconfig).expect("JSON, which is YAML")
    }

    /// The client's configuration of a receiver in a pod of this name, which is made.
    pub async fn receiver(&self, pod: &str) -> Config {
        let token = Some(self.receiver_token(pod).await.into());
        let mut config = self.admin.clone();
        config.auth_info = kube::config::AuthInfo { token, ..kube::config::AuthInfo::default() };
        config
    }

    /// A token that the API server issued for a receiver's pod, as a kubelet requests it. Makes the pod.
    async fn receiver_token(&self, pod: &str) -> String {
        const ACCOUNT: &str = "landfall-receiver";
        let client = self.admin();
        let post = async |path: String, body: Value| {
            let request = http::Request::post(path).header("content-type", "application/json");
            let request = request.body(serde_json::to_vec(&body).expect("json")).expect("a request");
            client.request::<Value>(request).await
        };
        let base = format!("/api/v1/namespaces/{SYSTEM}");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}});
        match post(format!("{base}/serviceaccounts"), account).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made.expect("an account")),
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "labels": {"app.kubernetes.io/component": "receiver"}},
            "spec": {
                "serviceAccountName": ACCOUNT, "automountServiceAccountToken": false,
                "containers": [{"name": "receiver", "image": "none.invalid/none"}],
            },
        });
        let made = match post(format!("{base}/pods"), object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let get = http::Request::get(format!("{base}/pods/{pod}")).body(Vec::new()).expect("a request");
                client.request::<Value>(get).await.expect("the pod")
            }
            made => made.expect("a pod"),
        };
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": made["metadata"]["uid"]});
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound},
        });
        let answer = post(format!("{base}/serviceaccounts/{ACCOUNT}/token"), request).await.expect("a token");
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// The requests to the API server.
    pub fn audit_log(&self) -> AuditLog {
        self.server.audit_log()
    }

    /// Installs the rules of another release beside the operator's, with these values. Returns the configuration of its
    /// account's client.
    pub async fn release(&self, name: &str, values: &[&str]) -> Config {
        let only_rules = ["--set=crds.install=false", "--set=rbac.aggregate=false", "--set=receiver.enabled=false"];
        let client = self.admin();
        let override_name = format!("--set=fullnameOverride={name}");
        for object in rendered(name, &[&only_rules, &[override_name.as_str()][..], values].concat()) {
            apply(&client, &object).await;
        }
        let mut config = self.user(&format!("system:serviceaccount:{SYSTEM}:{name}")).await;
        config.default_retry = false;
        config
    }

    /// Limits the operator's account to objects of its own, as the chart does.
    pub async fn bind_policy(&self) {
        apply(&self.admin(), &POLICY_BINDING).await;
    }

    /// Lets the operator's account do all that its RBAC rules allow.
    pub async fn lift_policy(&self) {
        let name = POLICY_BINDING["metadata"]["name"].as_str().expect("a name");
        let path = format!("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/{name}");
        let delete = http::Request::delete(path).body(Vec::new()).expect("a request");
        match self.admin().request::<Value>(delete).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            done => drop(done.expect("deleted")),
        }
        // The API server notices the deletion after a moment.
        let operator = Client::try_from(self.operator()).expect("a client");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "policy"},
            "spec": {"containers": [{"name": "main", "image": "none.invalid/none"}]},
        });
        super::until("the policy is lifted", async || {
            let path = format!("/api/v1/namespaces/{SYSTEM}/pods?dryRun=All");
            let create = http::Request::post(path).header("content-type", "application/json");
            let create = create.body(serde_json::to_vec(&pod).expect("json")).expect("a request");
            match operator.request::<Value>(create).await {
                Err(kube::Error::Api(status)) if status.message.contains("ValidatingAdmissionPolicy") => None,
                _ => Some(()),
            }
        })
        .await;
    }

    /// The definitions and the chart's rules.
    async fn install(&self) {
        let client = self.admin();
        for object in manifests() {
            apply(&client, &object).await;
        }
        for crd in landfall::controllers::definitions() {
            let name = crd.metadata.name.clone().expect("a name");
            super::until("the definition is established", async || {
                let get = http::Request::get(format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"));
                let crd: Value = client.request(get.body(Vec::new()).expect("a request")).await.ok()?;
                let conditions = crd["status"]["conditions"].as_array()?;
                conditions.iter().find(|c| c["type"] == "Established" && c["status"] == "True").map(drop)
            })
            .await;
        }
    }
}

async fn read(kubeconfig: &str) -> Config {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a kubeconfig")
}

/// The kinds of the chart that need no node.
const KINDS: [&str; 7] = [
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// All objects to install: the output of Helm for the chart with its default values, and the gateway.
fn manifests() -> Vec<Value> {
    let mut objects = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})];
    objects.extend(rendered("landfall", &["--set=gateway.enabled=true"]));
    assert!(objects.len() > KINDS.len(), "the chart has its definitions and rules");
    objects
}

/// The definitions and rules in Helm's output for the chart.
fn rendered(release: &str, values: &[&str]) -> Vec<Value> {
    let helm = landfall_cluster::helm(&Cache::from_environment().expect("a cache")).expect("Helm");
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/landfall");
    let rendered = Command::new(helm).args(["template", release, chart, "--namespace", SYSTEM]).args(values).output();
    let rendered = rendered.expect("Helm runs");
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let rendered: Vec<Value> =
        serde_saphyr::from_multiple(std::str::from_utf8(&rendered.stdout).expect("text")).expect("YAML");
    // Tests make pods that pass for a workspace's, to see that the operator itself tells them apart.
    let is_left_out = |object: &Value| object["metadata"]["name"] == "landfall-workspace-pods";
    let is_wanted = |object: &Value| KINDS.iter().any(|kind| object["kind"] == *kind) && !is_left_out(object);
    rendered.into_iter().filter(is_wanted).collect()
}

/// The binding of the admission policy for the operator's account.
static POLICY_BINDING: LazyLock<Value> = LazyLock::new(|| {
    let bindings = manifests().into_iter().filter(|object| object["kind"] == "ValidatingAdmissionPolicyBinding");
    let mut of_operator = bindings.filter(|binding| binding["metadata"]["name"] == "landfall-controller");
    of_operator.next().expect("the chart has it")
});

async fn apply(client: &Client, object: &Value) {
    let kind = object["kind"].as_str().expect("a kind");
    let (group, plural) = match kind {
        "CustomResourceDefinition" => ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
        "Namespace" => ("/api/v1", "namespaces"),
        "ClusterRole" => ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
        "ClusterRoleBinding" => ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
        "Role" => ("/apis/rbac.authorization.k8s.io/v1", "roles"),
        "RoleBinding" => ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
        "ValidatingAdmissionPolicy" => ("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicies"),
        "ValidatingAdmissionPolicyBinding" => {
            ("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings")
        }
        other => panic!("{other} is not applied here"),
    };
    let place = object["metadata"]["namespace"].as_str().map(|namespace| format!("/namespaces/{namespace}"));
    let name = object["metadata"]["name"].as_str().expect("a name");
    let patch = http::Request::patch(format!(
        "{group}{}/{plural}/{name}?fieldManager=test&force=true",
        place.unwrap_or_default()
    ))
    .header("content-type", "application/apply-patch+yaml")
    .body(serde_json::to_vec(object).expect("json"))
    .expect("a request");
    client.request::<Value>(patch).await.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
}
