//! A GitHub with two repositories, a gateway before it, and the machine's git as it is in a workspace.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use github_sim::{
    AccountSeed, AccountType, AppKey, AppSeed, Install, Level, Options, RepositorySeed, Seed, Selection, Sim, Site,
};
use landfall::gateway::identity::{Access, Identities, NoAccess, Workspaces};
use landfall::gateway::limits::Limits;
use landfall::gateway::messages::Caller;
use landfall::gateway::metrics::Metrics;
use landfall::gateway::refs::{Beside, Origin, OwnBranch, PushPolicy, PushRefs};
use landfall::gateway::server::{GatewayServer, Surroundings};
use landfall::gateway::upstream::{NoUpstream, Right, Upstream, Upstreams};
use landfall::github::{
    AppCredentials, Connect as _, Endpoint, GitHub, HttpsConnect, Ignore, PlainHttp, Repositories, Scope, Token,
    Transport,
};
use landfall::guards::{Guards, Sabotage};
use landfall::ids::RepositoryId;
use landfall::reports::PodIdentity;
use landfall::reports::identity::IdentityError;
use landfall::runtime::clock::{Clock, ManualClock};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const NAME: &str = "try";
pub const UID: &str = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";
pub const BRANCH: &str = "landfall/try-0a1b2";
/// The token of the workspace's pod.
pub const TOKEN: &str = "eyJ.pod.try";

/// The pods of tokens, and what their workspaces may do.
#[derive(Default)]
pub struct Pods {
    pods: Mutex<HashMap<String, PodIdentity>>,
    accesses: Mutex<HashMap<String, Arc<Access>>>,
    /// How many requests the API server leaves without an answer.
    unanswered: Mutex<u32>,
}

impl Pods {
    pub fn add(&self, token: &str, pod: PodIdentity, access: Access) {
        self.accesses.lock().unwrap().insert(pod.uid.clone(), Arc::new(access));
        self.pods.lock().unwrap().insert(token.to_owned(), pod);
    }

    /// The API server leaves as many requests without an answer.
    pub fn leave(&self, unanswered: u32) {
        *self.unanswered.lock().unwrap() = unanswered;
    }

    /// The pod's workspace is gone.
    pub fn forget(&self, uid: &str) {
        self.accesses.lock().unwrap().remove(uid);
    }
}

impl Identities for Pods {
    fn identify<'a>(&'a self, token: &'a Token, _: IpAddr) -> BoxFuture<'a, Result<PodIdentity, IdentityError>> {
        let mut unanswered = self.unanswered.lock().unwrap();
        if let Some(fewer) = unanswered.checked_sub(1) {
            *unanswered = fewer;
            return Box::pin(std::future::ready(Err(IdentityError::Unavailable)));
        }
        let found = self.pods.lock().unwrap().get(token.expose()).cloned();
        Box::pin(std::future::ready(found.ok_or(IdentityError::Refused)))
    }
}

impl Workspaces for Pods {
    fn access<'a>(&'a self, caller: &'a Caller) -> BoxFuture<'a, Result<Arc<Access>, NoAccess>> {
        let found = self.accesses.lock().unwrap().get(&caller.uid).cloned();
        let refused = || NoAccess::Refused("this pod does not belong to a workspace".into());
        Box::pin(std::future::ready(found.ok_or_else(refused)))
    }
}

/// Mints a token for each repository and right, and keeps it.
pub struct Minting {
    github: GitHub,
    installation: u64,
    transport: Transport,
    endpoint: Endpoint,
    names: HashMap<RepositoryId, String>,
    kept: tokio::sync::Mutex<HashMap<(RepositoryId, Right), Arc<Upstream>>>,
    stale: Mutex<Vec<Arc<Upstream>>>,
    pub clock: Arc<ManualClock>,
    pub withdrawn: std::sync::atomic::AtomicBool,
}

impl Upstreams for Minting {
    fn open<'a>(&'a self, access: &'a Access, right: Right) -> BoxFuture<'a, Result<Arc<Upstream>, NoUpstream>> {
        Box::pin(async move {
            if self.withdrawn.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(NoUpstream::Refused("the GitHubApp grants this repository no more".into()));
            }
            let mut kept = self.kept.lock().await;
            let key = (access.repository, right);
            let is_stale =
                |found: &Arc<Upstream>| self.stale.lock().unwrap().iter().any(|stale| Arc::ptr_eq(stale, found));
            if let Some(found) = kept.get(&key).filter(|found| !is_stale(found)) {
                return Ok(Arc::clone(found));
            }
            let level = if right == Right::Read { "read" } else { "write" };
            let permissions = [("contents".into(), level.into())].into();
            let scope = Scope { repositories: Repositories::Ids(vec![access.repository]), permissions };
            let minted = self.github.mint(self.installation.try_into().unwrap(), &scope).await.unwrap();
            let name = &self.names[&access.repository];
            let upstream = Upstream::new(&self.endpoint, name, self.transport.clone(), minted.token).unwrap();
            let upstream = Arc::new(upstream);
            kept.insert(key, Arc::clone(&upstream));
            Ok(upstream)
        })
    }

    fn refused(&self, _: &Access, _: Right, upstream: &Arc<Upstream>) {
        self.stale.lock().unwrap().push(Arc::clone(upstream));
    }
}

pub struct Scene {
    pub sim: Sim,
    pub address: SocketAddr,
    pub pods: Arc<Pods>,
    pub upstreams: Arc<Minting>,
    pub metrics: Metrics,
    pub shutdown: CancellationToken,
    pub served: Option<JoinHandle<()>>,
    is_tls: bool,
    /// By the names of the repositories, which a test may delete.
    ids: HashMap<&'static str, u64>,
    directory: tempfile::TempDir,
}

fn limits() -> Limits {
    // All pods have this machine's address.
    Limits { connections_per_address: 1024, shutdown_delay: Duration::ZERO, ..Limits::default() }
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(limits(), true, Sabotage::default()).await
    }

    /// Without these guards.
    pub async fn without(out: Sabotage) -> Self {
        Self::with(limits(), true, out).await
    }

    /// Without TLS, for tests that write requests themselves.
    pub async fn plain(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = limits();
        change(&mut limits);
        Self::with(limits, false, Sabotage::default()).await
    }

    async fn with(limits: Limits, is_tls: bool, out: Sabotage) -> Self {
        let key = AppKey::generate().unwrap();
        let permissions = [("contents".into(), Level::Write), ("metadata".into(), Level::Read)];
        let app = AppSeed {
            name: "Landfall".into(),
            owner: "acme".into(),
            id: Some(4711),
            public_key: Some(key.public_pem().into()),
            permissions: permissions.into(),
            ..AppSeed::default()
        };
        let repository = |name: &str| RepositorySeed {
            owner: "acme".into(),
            name: name.into(),
            private: true,
            files: [("README.md", "shop\n"), ("src/main.rs", "fn main() {}\n")]
                .map(|(path, text)| (path.to_owned(), text.to_owned()))
                .into(),
            ..RepositorySeed::default()
        };
        let account = AccountSeed { login: "acme".into(), kind: AccountType::Organization, ..AccountSeed::default() };
        let repositories = vec![repository("shop"), repository("other")];
        let seed = Seed { accounts: vec![account], apps: vec![app], repositories, ..Seed::default() };
        let directory = tempfile::Builder::new().prefix("gateway-").tempdir().unwrap();
        let site = Site { state_dir: Some(directory.path().join("github")), ..Site::default() };
        let options = Options { listen: "127.0.0.1:0".parse().unwrap(), tls: true, seed };
        let sim = Sim::start_at(options, site).await.unwrap();
        let install =
            Install { app: "landfall".into(), account: "acme".into(), selection: Selection::All, permissions: None };
        let installation = sim.install(&install).unwrap();
        let endpoint = Endpoint::parse(&sim.api_url(), None, None, PlainHttp::OnLoopback).unwrap();
        let transport = HttpsConnect::new().connect(Some(sim.ca_pem().as_bytes())).unwrap();
        let clock = Arc::new(ManualClock::new(sim.now()));
        let credentials = AppCredentials::parse("4711", key.private_pem().as_bytes(), None).unwrap();
        let time = Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>;
        let github = GitHub::new(endpoint.clone(), transport.clone(), credentials, time, Arc::new(Ignore));
        let ids = ["shop", "other"].map(|name| (name, sim.repository_id(&format!("acme/{name}")).unwrap()));
        let names = ids.map(|(name, id)| (id.try_into().unwrap(), format!("acme/{name}"))).into();
        let upstreams = Arc::new(Minting {
            github,
            installation,
            transport,
            endpoint,
            names,
            kept: tokio::sync::Mutex::default(),
            stale: Mutex::default(),
            clock,
            withdrawn: false.into(),
        });
        let pods = Arc::<Pods>::default();
        let tls = is_tls.then(|| certified(&directory.path().join("gateway-ca.pem")));
        let metrics = Metrics::default();
        let surroundings = Surroundings {
            identities: Arc::<Pods>::clone(&pods),
            workspaces: Arc::<Pods>::clone(&pods),
            upstreams: Arc::<Minting>::clone(&upstreams),
            metrics: metrics.clone(),
            guards: Guards::without(out),
        };
        let server = GatewayServer::bind("127.0.0.1:0".parse().unwrap(), tls, limits, surroundings).await.unwrap();
        let (address, shutdown) = (server.address(), CancellationToken::new());
        let served = Some(tokio::spawn(server.serve(shutdown.clone())));
        for name in ["home", "work"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let scene =
            Self { sim, address, pods, upstreams, metrics, shutdown, served, is_tls, ids: ids.into(), directory };
        let pod = PodIdentity { namespace: "team-a".into(), name: "ws-try".into(), uid: "pod-1".into() };
        scene.pods.add(TOKEN, pod, scene.access(NAME, UID, PushRefs::default(), vec![]));
        scene
    }

    /// The access of a workspace of acme/shop.
    pub fn access(&self, name: &str, uid: &str, asked: PushRefs, granted: Vec<PushRefs>) -> Access {
        self.access_of(name, uid, Origin::Workspace, (asked, granted))
    }

    /// The same, with a branch of this origin.
    pub fn access_of(
        &self,
        name: &str,
        uid: &str,
        origin: Origin,
        (asked, granted): (PushRefs, Vec<PushRefs>),
    ) -> Access {
        let branch = format!("landfall/{name}-{}", &uid[..5]);
        let branch = OwnBranch { name: branch, beside: Beside::No, origin };
        Access {
            caller: Caller {
                namespace: "team-a".into(),
                name: format!("ws-{name}"),
                uid: uid.into(),
                address: "127.0.0.1".parse().unwrap(),
            },
            workspace: name.into(),
            uid: uid.into(),
            app: "landfall".into(),
            host: self.host(),
            repository: self.id("shop").try_into().unwrap(),
            policy: PushPolicy::new(name, uid, branch, asked, granted),
        }
    }

    /// Changes what the workspace may push.
    pub fn allow(&self, asked: PushRefs, granted: Vec<PushRefs>) {
        let pod = PodIdentity { namespace: "team-a".into(), name: "ws-try".into(), uid: "pod-1".into() };
        self.pods.add(TOKEN, pod, self.access(NAME, UID, asked, granted));
    }

    pub fn host(&self) -> String {
        self.sim.base_url().strip_prefix("https://").unwrap().to_owned()
    }

    pub fn id(&self, name: &str) -> u64 {
        self.ids[name]
    }

    pub fn path(&self, name: &str) -> String {
        format!("/{}/{}.git", self.host(), self.id(name))
    }

    /// The address of a repository at the gateway.
    pub fn url(&self, name: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.address, self.path(name))
    }

    /// The address of a repository at GitHub.
    pub fn origin(&self, name: &str) -> String {
        format!("{}/acme/{name}.git", self.sim.base_url())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory in which the simulator stores a repository.
    pub fn bare(&self, name: &str) -> PathBuf {
        self.at(&format!("github/repositories/{}.git", self.id(name)))
    }

    /// git as it is in a workspace: the address of GitHub leads to the gateway, and a helper has the pod's token.
    pub fn command(&self, token: Option<&str>, arguments: &[&str]) -> Command {
        let mut git = Command::new("git");
        let helper = token.map(|token| format!("!f() {{ echo username=landfall; echo password={token}; }}; f"));
        git.args(["-c", "credential.helper=", "-c", &format!("credential.helper={}", helper.unwrap_or_default())]);
        git.args(["-c", &format!("url.{}.insteadOf={}", self.url("shop"), self.origin("shop"))]);
        git.args(["-c", "user.name=Mona", "-c", "user.email=mona@example.com"]);
        git.args(arguments)
            .current_dir(self.at("work"))
            .env("no_proxy", "*")
            .env("HOME", self.at("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSL_CAINFO", self.at("gateway-ca.pem"))
            .env("LC_ALL", "C");
        git
    }

    /// Runs git with the workspace's token.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        output(self.command(Some(TOKEN), arguments)).await
    }

    /// The same. It must succeed. Returns its output.
    pub async fn git(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "git {arguments:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The same. It must fail. Returns its words.
    pub async fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(!output.status.success(), "git {arguments:?} succeeded: {}", words(&output));
        words(&output)
    }

    /// Clones acme/shop by its address at GitHub.
    pub async fn cloned(&self) {
        self.git(&["clone", "--quiet", &self.origin("shop"), "shop"]).await;
    }

    /// Makes a commit with a file. Returns its name.
    pub async fn commit(&self, file: &str, bytes: &[u8]) -> String {
        std::fs::write(self.at("work/shop").join(file), bytes).unwrap();
        self.git(&["-C", "shop", "add", "--", file]).await;
        self.git(&["-C", "shop", "commit", "--quiet", "-m", file]).await;
        self.git(&["-C", "shop", "rev-parse", "HEAD"]).await
    }

    pub async fn push(&self, arguments: &[&str]) -> Output {
        self.run(&[&["-C", "shop", "push", "--porcelain"], arguments].concat()).await
    }

    /// The refs at GitHub.
    pub fn refs(&self, name: &str) -> BTreeMap<String, String> {
        let output = Command::new("git").arg("--git-dir").arg(self.bare(name)).arg("show-ref").output().unwrap();
        let line = |line: &str| line.split_once(' ').map(|(sha, name)| (name.to_owned(), sha.to_owned())).unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(line).collect()
    }

    /// The number of pushes that GitHub was sent.
    pub fn pushes(&self) -> usize {
        let is_push = |path: &str, method: &str| method == "POST" && path.ends_with("/git-receive-pack");
        self.sim.requests().iter().filter(|request| is_push(&request.path, &request.method)).count()
    }

    /// Makes GitHub refuse pushes by a script (pre-receive of githooks(5)).
    pub fn refuse(&self, script: &str) {
        let hook = self.at("github/hooks/pre-receive");
        executable(&hook, &format!("#!/bin/sh\n{script}"));
    }

    /// Configures a repository of the simulator.
    pub fn configure(&self, name: &str, key: &str, value: &str) {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(self.bare(name)).args(["config", key, value]);
        assert!(git.status().unwrap().success());
    }
}

/// Writes a program through another process: see tests/workspace/scene.rs.
pub fn executable(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut install = Command::new("install");
    install.args(["-D", "-m", "755", "/dev/stdin"]).arg(path).stdin(std::process::Stdio::piped());
    let mut install = install.spawn().unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
}

/// A certificate for this machine by an authority of its own, which is written to `ca`.
fn certified(ca: &Path) -> Arc<ServerConfig> {
    let ca_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    std::fs::write(ca, authority.self_signed(&ca_key).unwrap().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = leaf.signed_by(&key, &Issuer::new(authority, ca_key)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The simulator and the gateway run on these threads, so a program that talks to them is waited for on another thread.
pub async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// All that a program said.
pub fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn push_refs(refs: &[&str], force: &[&str]) -> PushRefs {
    let all = |patterns: &[&str]| patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
    PushRefs { refs: all(refs), force: all(force) }
}
