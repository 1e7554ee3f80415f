//! The environment of a test on the node: the cluster, a GitHub that all tests share, and a separate place in both.
//!
//! Invariant: the operator is the one that Helm installed. A test reads the state of GitHub from the simulator's log or
//! from its repositories on disk, and that of a volume from the volume's own folder, never from Landfall's reports.
//! When a test fails, the state is recorded before its place is cleared.

mod asking;

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::future::Future;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use futures::FutureExt as _;
use github_sim::{
    AccountSeed, AccountType, AppKey, AppSeed, Install, Level, Options, Push, RepositorySeed, Seed, Sim, Site,
};
use landfall_cluster::{Cache, Cluster};
use serde_json::{Value, json};
use tokio::sync::RwLock;

pub use asking::Kind;

/// How long a condition may take. It is far more than needed; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_mins(5);
/// The address of the simulated GitHub: that of the node, which pods reach as well.
const GITHUB: &str = "10.99.0.1:8443";
/// The operator's namespace.
pub const SYSTEM: &str = "landfall-system";
/// The App's id, and the Secret with its key.
const APP: u64 = 4242;
const KEY_SECRET: &str = "github-app";

/// The resources that all tests of the process share.
struct Shared {
    runtime: tokio::runtime::Runtime,
    sim: Sim,
    /// The simulator's folder.
    github: PathBuf,
    cluster: Cluster,
    client: kube::Client,
    /// The folder in which a failed test records the state.
    logs: PathBuf,
    /// Held by each test, and exclusively by one that disturbs the node.
    node: RwLock<()>,
    /// Distinguishes the objects of this process from those of an earlier one.
    run: String,
}

static SHARED: LazyLock<Shared> = LazyLock::new(Shared::begin);

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: these tests are run by hack/endtoend")).into()
}

impl Shared {
    fn begin() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (logs, github) = (variable("LANDFALL_ENDTOEND_LOGS"), variable("LANDFALL_ENDTOEND_GITHUB"));
        let name = variable("LANDFALL_ENDTOEND_CLUSTER");
        let cluster = Cluster::named(&Cache::from_environment().unwrap(), name.to_str().unwrap().parse().unwrap());
        let key = AppKey::generate().unwrap();
        let permissions = [
            ("contents", Level::Write),
            ("metadata", Level::Read),
            ("pull_requests", Level::Write),
            ("repository_hooks", Level::Write),
        ];
        let app = AppSeed {
            name: "Landfall".into(),
            owner: "landfall".into(),
            id: Some(APP),
            public_key: Some(key.public_pem().into()),
            permissions: permissions.map(|(name, level)| (name.to_owned(), level)).into(),
            ..AppSeed::default()
        };
        let owner = AccountSeed { login: "landfall".into(), kind: AccountType::Organization, ..AccountSeed::default() };
        let seed = Seed { accounts: vec![owner], apps: vec![app], ..Seed::default() };
        let options = Options { listen: GITHUB.parse().unwrap(), tls: true, seed };
        let site = Site { state_dir: Some(github.clone()), ..Site::default() };
        let (sim, client) = runtime.block_on(async {
            (Sim::start_at(options, site).await.unwrap(), kube::Client::try_default().await.unwrap())
        });
        write_refusals(&github);
        let run: String = format!("{:06x}", rand::random::<u32>() & 0x00ff_ffff);
        let shared = Self { runtime, sim, github, cluster, client, logs, node: RwLock::new(()), run };
        shared.runtime.block_on(async {
            let key = base64::engine::general_purpose::STANDARD.encode(key.private_pem());
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": KEY_SECRET, "namespace": SYSTEM},
                "data": {"private-key.pem": key},
            });
            asking::apply(&shared.client, &secret).await;
        });
        shared
    }
}

/// Lets a repository on GitHub have its own script that refuses pushes (pre-receive of githooks(5)).
fn write_refusals(github: &Path) {
    let hook = github.join("hooks/pre-receive");
    std::fs::write(&hook, "#!/bin/sh\n[ ! -e refuse ] || exec sh ./refuse\n").unwrap();
    executable(&hook);
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The place of a test.
pub struct World {
    /// The namespace, the GitHubApp, the account on GitHub and its installation here: all have this name.
    pub name: String,
    /// The installation on GitHub.
    pub installation: u64,
    /// The simulated GitHub.
    pub sim: &'static Sim,
    /// The cluster that this runs in.
    pub cluster: &'static Cluster,
    /// The test's own name.
    test: &'static str,
}

/// Runs a test in a place of its own.
pub fn run<F: Future<Output = ()>>(test: &'static str, body: impl FnOnce(&'static World) -> F) {
    SHARED.runtime.block_on(async {
        let _node = SHARED.node.read().await;
        within(test, body).await;
    });
}

/// Runs a test that disturbs the node, while no other test runs.
pub fn run_alone<F: Future<Output = ()>>(test: &'static str, body: impl FnOnce(&'static World) -> F) {
    SHARED.runtime.block_on(async {
        let _node = SHARED.node.write().await;
        within(test, body).await;
    });
}

async fn within<F: Future<Output = ()>>(test: &'static str, body: impl FnOnce(&'static World) -> F) {
    let began = Instant::now();
    let name = format!("{test}-{}", SHARED.run);
    // A place lives as long as the process, so that tasks of a test can use it, too.
    let (sim, cluster) = (&SHARED.sim, &SHARED.cluster);
    let world: &'static World = Box::leak(Box::new(World { name, installation: install(test), sim, cluster, test }));
    let outcome = AssertUnwindSafe(async {
        world.settle().await;
        body(world).await;
    });
    let outcome = outcome.catch_unwind().await;
    let mut seconds = OpenOptions::new().create(true).append(true).open(SHARED.logs.join("seconds.txt")).unwrap();
    writeln!(seconds, "{:>4} {test}", began.elapsed().as_secs()).unwrap();
    if let Err(failure) = outcome {
        world.write_down().await;
        if std::env::var_os("LANDFALL_ENDTOEND_KEEP").is_none() {
            world.clear().await;
        }
        resume_unwind(failure);
    }
    world.clear().await;
}

/// An account with a repository `shop` in which the App is installed.
fn install(test: &str) -> u64 {
    let (sim, login) = (&SHARED.sim, format!("{test}-{}", SHARED.run));
    let account = AccountSeed { login: login.clone(), kind: AccountType::Organization, ..AccountSeed::default() };
    sim.create_account(&account).unwrap();
    let repository =
        RepositorySeed { owner: login.clone(), name: "shop".into(), private: true, ..RepositorySeed::default() };
    sim.create_repository(&repository).unwrap();
    sim.install(&Install { app: "landfall".into(), account: login, ..Install::default() }).unwrap()
}

impl World {
    /// The repository's full name on GitHub.
    pub fn shop(&self) -> String {
        format!("{}/shop", self.name)
    }

    /// The address from which pods clone it.
    pub fn url(&self) -> String {
        format!("https://{GITHUB}/{}", self.shop())
    }

    /// The repository on GitHub's disk.
    pub fn bare(&self) -> PathBuf {
        let id = SHARED.sim.repository_id(&self.shop()).expect("the repository is there");
        SHARED.github.join(format!("repositories/{id}.git"))
    }

    /// Pushes a commit of somebody else.
    pub fn push(&self, branch: &str, path: &str, content: &str) -> String {
        let (repository, branch) = (self.shop(), Some(branch.to_owned()));
        let push = Push { repository, branch, path: path.into(), content: content.into(), message: None };
        SHARED.sim.push(&push).unwrap()
    }

    /// Makes GitHub refuse pushes to the repository with a script.
    pub fn refuse(&self, script: &str) {
        std::fs::write(self.bare().join("refuse"), script).unwrap();
    }

    /// The remote's refs: full names and commits, read from its disk.
    pub fn refs(&self) -> std::collections::BTreeMap<String, String> {
        let mut git = Command::new("git");
        let output = git.arg("--git-dir").arg(self.bare()).arg("show-ref").output().unwrap();
        let line = |line: &str| line.split_once(' ').map(|(sha, name)| (name.to_owned(), sha.to_owned())).unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(line).collect()
    }

    /// The output of git in the repository on GitHub's disk.
    pub fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        let output = git.arg("--git-dir").arg(self.bare()).args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Whether a commit on GitHub is the other one or its ancestor.
    pub fn is_ancestor(&self, commit: &str, of: &str) -> bool {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(self.bare()).args(["merge-base", "--is-ancestor", commit, of]);
        git.output().unwrap().status.success()
    }

    /// Kills a container of the node from outside.
    pub async fn kill_container(&self, id: &str) {
        let mut ctr = SHARED.cluster.among_mounts(&SHARED.cluster.programs().join("ctr")).unwrap();
        ctr.args(["--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io"]);
        ctr.args(["tasks", "kill", "--signal", "SIGKILL", id]);
        let output = output(ctr).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Creates its namespace, a GitHubApp that is granted to it, and waits for its installation.
    async fn settle(&self) {
        let restricted = ["enforce", "warn"].map(|mode| (format!("pod-security.kubernetes.io/{mode}"), "restricted"));
        let labels: serde_json::Map<_, _> = restricted.into_iter().map(|(name, value)| (name, json!(value))).collect();
        self.apply(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}}),
        )
        .await;
        self.apply(&json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": self.name},
            "spec": {
                "apiURL": SHARED.sim.api_url(), "caBundle": SHARED.sim.ca_pem(), "appID": APP,
                "credentialsSecretRef": {"name": KEY_SECRET},
                "tenants": [{
                    "name": self.name, "account": self.name, "repositories": ["*"],
                    "maxPermissions": {"contents": "write", "metadata": "read", "pull_requests": "write"},
                    "namespaces": {"names": [self.name]},
                }],
            },
        }))
        .await;
        self.until("the installation is there", async || {
            let found = self.list(Kind::GITHUB_INSTALLATION).await;
            found.into_iter().find(|found| condition(found, "Ready").is_some_and(|ready| ready["status"] == "True"))
        })
        .await;
        self.until("the namespace has an account for pods", async || self.get(Kind::SERVICE_ACCOUNT, "default").await)
            .await;
    }

    /// Waits for a condition, and panics if it does not come true.
    pub async fn until<T>(&self, what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{}: not within {} s: {what}", self.test, PATIENCE.as_secs());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Runs a command in a container of a pod, which must succeed, and returns its output.
    pub async fn exec(&self, pod: &str, script: &str) -> String {
        let output = self.try_exec(pod, script).await;
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.status.success(), "{script}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// The same, with any result.
    pub async fn try_exec(&self, pod: &str, script: &str) -> Output {
        kubectl(["exec", "--namespace", &self.name, pod, "--", "sh", "-c", script]).await
    }

    /// The folder, on this machine, of the volume that a claim is bound to.
    pub async fn volume(&self, claim: &str) -> PathBuf {
        let claim = self.get(Kind::CLAIM, claim).await.expect("the claim is there");
        let volume = claim["spec"]["volumeName"].as_str().expect("it is bound");
        SHARED.cluster.volume(volume)
    }

    /// Records the state after a failed test.
    async fn write_down(&self) {
        let folder = SHARED.logs.join(self.test);
        std::fs::create_dir_all(&folder).unwrap();
        let namespace = ["--namespace", &self.name];
        let about = |arguments: &[&str]| {
            kubectl(arguments.iter().chain(&namespace).map(|word| (*word).to_owned()).collect::<Vec<String>>())
        };
        let kinds = "landfall,pods,jobs,persistentvolumeclaims,leases";
        let mut parts = vec![
            ("objects.txt", about(&["get", kinds, "--output", "wide"]).await),
            ("objects.yaml", about(&["get", kinds, "--output", "yaml"]).await),
            ("events.txt", about(&["get", "events", "--sort-by", ".metadata.creationTimestamp"]).await),
            ("volumes.txt", kubectl(["get", "persistentvolumes", "--output", "wide"]).await),
            ("operator.log", kubectl(["logs", "--namespace", SYSTEM, "deployment/landfall-controller"]).await),
        ];
        for pod in self.list(Kind::POD).await {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            parts.push(("pods.log", about(&["logs", &name, "--all-containers", "--prefix", "--ignore-errors"]).await));
            parts.push(("pods.log", about(&["describe", "pod", &name]).await));
        }
        let mut files = std::collections::BTreeMap::<_, Vec<u8>>::new();
        for (name, output) in parts {
            files.entry(name).or_default().extend([output.stdout, output.stderr].concat());
        }
        let ours = |entry: &&github_sim::Entry| entry.path.contains(&self.name);
        let requests: Vec<_> = SHARED.sim.requests().into_iter().filter(|entry| ours(&entry)).collect();
        files.insert("github.json", serde_json::to_vec_pretty(&requests).unwrap());
        files.insert("refs.txt", format!("{:#?}\n", self.refs()).into_bytes());
        for (name, content) in files {
            std::fs::write(folder.join(name), content).unwrap();
        }
        println!("{}: what there is to know about it: {}", self.test, folder.display());
    }

    /// Deletes its objects in the cluster, without waiting, because nobody else needs the place.
    async fn clear(&self) {
        self.delete(Kind::NAMESPACE, &self.name).await;
        self.delete(Kind::GITHUB_APP, &self.name).await;
    }
}

/// Runs kubectl like a person.
pub async fn kubectl(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    let mut kubectl = Command::new(SHARED.cluster.programs().join("kubectl"));
    kubectl.args(arguments);
    output(kubectl).await
}

/// Runs a command to its end without blocking the simulator, which runs on these threads as well.
pub async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// A condition of an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}
