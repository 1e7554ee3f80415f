//! The attacks of the other tenant.

use crate::honest::{INSTALLATION, OTHERS, Processes, is_question_of_others};
use crate::process::get;
use futures::StreamExt as _;
use futures::stream;
use github_sim::RepositorySeed;
use k8s_openapi::api::core::v1::Secret;
use landfall::api::{InstallationToken, ProjectRepository, Workspace};
use landfall::github::{
    AppCredentials, Connect as _, Endpoint, Error, GitHub, HttpsConnect, Ignore, PlainHttp, Proxies, Token,
};
use landfall::runtime::clock::SystemClock;
use landfall_world::{KEY, World, objects, text, until};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// Objects that poll, spread over repositories and branches, so that no two share an answer.
const POLLING: usize = 2_000;
const REPOSITORIES: usize = 20;
/// Objects that are full of annotations, and the bytes in each. The API server takes 256 KiB.
const FULL: usize = 400;
const FULL_BYTES: usize = 240 * 1024;
/// The calls of the tenant's program. The simulated GitHub counts the rest of the hour's 5,000 for it at once.
const CALLS: usize = 20;
/// Silent connections to each port.
const SILENT: usize = 500;
/// The other tenant's address.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// A probe may wait until this many silent connections were closed for others. The kubelet restarts a container after three
/// failures in a row.
const MOST_CLOSED: usize = SILENT / 2;
const FAILURES: usize = 3;
/// Requests to the API server at the same time.
const AT_ONCE: usize = 16;

/// The attacks that happen.
#[derive(Clone, Copy, Default)]
pub struct Attacks {
    pub spent_limit: bool,
    pub polls: bool,
    pub connections: bool,
    pub annotations: bool,
}

/// What stays: objects, and the spent limit.
pub async fn fill(world: &World, attacks: Attacks) {
    if attacks.polls {
        make_branches(world);
        let polling = (0..POLLING).map(|number| {
            let spec = json!({
                "source": {"existing": {"name": format!("many-{}", number % REPOSITORIES)}},
                "branch": format!("b-{}", number / REPOSITORIES), "pollInterval": "30s", "webhook": {"mode": "None"},
            });
            of_others(objects::repository(&format!("poll-{number}"), &spec))
        });
        let making = stream::iter(polling).map(async |object| drop(world.apply::<ProjectRepository>(&object).await));
        making.buffer_unordered(AT_ONCE).collect::<()>().await;
    }
    if attacks.annotations {
        let making = stream::iter(0..FULL).map(async |number| make_full(world, number).await);
        making.buffer_unordered(AT_ONCE).collect::<()>().await;
    }
    if attacks.spent_limit {
        spend_limit(world).await;
    }
}

/// Calls GitHub with the tenant's own token until GitHub refuses.
async fn spend_limit(world: &World) {
    let busy = Busy::new(world).await;
    for _ in 0..CALLS {
        assert!(!busy.is_limited().await, "the limit is not spent yet");
    }
    world.sim.spend_rate_limit(INSTALLATION);
    assert!(busy.is_limited().await, "the limit is spent");
}

/// A program of the tenant.
struct Busy {
    github: GitHub,
    token: Token,
}

impl Busy {
    async fn new(world: &World) -> Self {
        let secret = world.get::<Secret>(OTHERS, "busy-git").await.expect("its own token");
        let transport = HttpsConnect::through(Proxies::default()).connect(Some(world.sim.ca_pem().as_bytes()));
        let endpoint = Endpoint::parse(&world.sim.api_url(), None, None, PlainHttp::OnLoopback).expect("an address");
        let credentials = AppCredentials::parse("4242", KEY.private_pem().as_bytes(), None).expect("a key");
        let clock = Arc::new(SystemClock);
        let github = GitHub::new(endpoint, transport.expect("a transport"), credentials, clock, Arc::new(Ignore));
        Self { github, token: Token::new(text(&secret, "password").expect("a token")) }
    }

    /// Makes a call, and returns whether the limit is spent.
    async fn is_limited(&self) -> bool {
        match self.github.verify(&self.token).await {
            Ok(()) => false,
            Err(Error::RateLimited { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    }
}

fn of_others(mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!(OTHERS);
    object
}

/// Repositories with many branches, all at one commit.
fn make_branches(world: &World) {
    for number in 0..REPOSITORIES {
        let name = format!("many-{number}");
        let seed = RepositorySeed { owner: "acme".into(), name: name.clone(), private: true, ..Default::default() };
        world.sim.create_repository(&seed).expect("a repository");
        let full_name = format!("acme/{name}");
        let head = world.push(&full_name, "main");
        let creates: String =
            (0..POLLING / REPOSITORIES).map(|branch| format!("create refs/heads/b-{branch} {head}\n")).collect();
        let mut git = Command::new("git");
        git.arg("-C").arg(world.bare(&full_name)).args(["update-ref", "--stdin"]).stdin(Stdio::piped());
        let mut running = git.spawn().expect("git runs");
        std::io::Write::write_all(&mut running.stdin.take().expect("its input"), creates.as_bytes()).expect("written");
        assert!(running.wait().expect("git ends").success());
    }
}

/// One of four kinds of objects that the controller keeps in mind.
async fn make_full(world: &World, number: usize) {
    let name = format!("full-{number}");
    let mut object = match number % 4 {
        0 => objects::token(&name, &json!({"repositories": [{"name": "many-0"}], "permissions": {"contents": "read"}})),
        1 => objects::repository(&name, &json!({"source": {"existing": {"name": "many-0"}}})),
        2 => json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": name},
            "spec": {"repositoryRef": {"name": "none"}, "operatingMode": "Suspended"},
        }),
        _ => json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "landfall"}},
        }),
    };
    object["metadata"]["annotations"] = json!({"example.com/full": "x".repeat(FULL_BYTES)});
    let object = of_others(object);
    match number % 4 {
        0 => drop(world.apply::<InstallationToken>(&object).await),
        1 => drop(world.apply::<ProjectRepository>(&object).await),
        2 => drop(world.apply::<Workspace>(&object).await),
        _ => drop(world.apply::<Secret>(&object).await),
    }
}

/// The attacks happened, and were not held off by a fault of the test.
pub async fn has_happened(world: &World, attacks: Attacks) {
    if attacks.spent_limit {
        assert!(Busy::new(world).await.is_limited().await, "the limit is still spent");
    }
    if attacks.polls {
        let asked = world.sim.requests().iter().filter(|request| is_question_of_others(request)).count();
        println!("{asked} looks at repositories of the other tenant");
        assert!(asked >= POLLING / 10, "{asked} looks");
    }
}

/// The silent connections, and the probes beside them.
pub struct Siege {
    tasks: JoinSet<()>,
    probes: Vec<Arc<Probes>>,
}

#[derive(Default)]
struct Probes {
    name: &'static str,
    answered: AtomicUsize,
    /// The longest row of failures.
    failed: AtomicUsize,
}

/// Opens the connections, and probes the processes in any case.
pub async fn besiege(processes: &Processes, attacks: Attacks) -> Siege {
    let (controller, receiver) = (&processes.controller, &processes.receiver);
    let ports = [
        ("the controller's health", controller.health),
        ("reports", controller.service),
        ("the receiver's health", receiver.health),
        ("deliveries", receiver.service),
    ];
    let mut siege = Siege { tasks: JoinSet::new(), probes: Vec::new() };
    for (name, address) in ports {
        let (opened, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        for number in 0..if attacks.connections { SILENT } else { 0 } {
            siege.tasks.spawn(hold(address, number, Arc::clone(&opened), Arc::clone(&closed)));
        }
        if attacks.connections {
            let all = async || (opened.load(Ordering::SeqCst) >= SILENT).then_some(());
            until(&format!("the connections to {name} are open"), all).await;
        }
        let probes = Arc::new(Probes { name, ..Probes::default() });
        siege.tasks.spawn(probe(address, Arc::clone(&closed), Arc::clone(&probes)));
        siege.probes.push(probes);
    }
    siege
}

/// Keeps a silent connection open, and replaces it when the server closes it.
async fn hold(address: SocketAddr, number: usize, opened: Arc<AtomicUsize>, closed: Arc<AtomicUsize>) {
    // All servers close what is silent for 10 s. So the connections of the attacker do not end at the same time.
    tokio::time::sleep(Duration::from_millis(20 * u64::try_from(number).expect("small"))).await;
    loop {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((STRANGER, 0).into()).expect("an address of the loopback network");
        if let Ok(mut stream) = socket.connect(address).await {
            opened.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read_u8().await;
            closed.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Probes like a kubelet. The ports that have no probe of theirs answer as well, with a refusal.
async fn probe(address: SocketAddr, closed: Arc<AtomicUsize>, probes: Arc<Probes>) {
    let mut row = 0;
    loop {
        let before = closed.load(Ordering::SeqCst);
        let status = get(address, "/livez").await;
        let meanwhile = closed.load(Ordering::SeqCst) - before;
        if status.is_some_and(|status| status < 500) && meanwhile <= MOST_CLOSED {
            probes.answered.fetch_add(1, Ordering::SeqCst);
            row = 0;
        } else {
            row += 1;
            probes.failed.fetch_max(row, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Siege {
    /// Each port was served as long as the attack lasted.
    pub async fn was_endured(mut self) {
        for probes in &self.probes {
            let many = async || (probes.answered.load(Ordering::SeqCst) >= 10).then_some(());
            until(&format!("10 probes of {} are answered", probes.name), many).await;
            let failed = probes.failed.load(Ordering::SeqCst);
            println!("{}: {failed} probes failed in a row", probes.name);
            assert!(failed < FAILURES, "{failed} probes of {} failed in a row", probes.name);
        }
        self.tasks.shutdown().await;
    }
}
