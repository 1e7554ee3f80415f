//! The way to GitHub through an HTTP proxy: a proxy on this machine that notes each request, before a GitHub that behaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use github_sim::{AccountSeed, AccountType, AppKey, AppSeed, Level, Options, Push, RepositorySeed, Seed, Sim, Site};
use landfall::git::{self, AllowedHosts, Reach, Remote, refs};
use landfall::github::{
    AppCredentials, Connect as _, Endpoint, Error, GitHub, HttpsConnect, Ignore, Outlook, PlainHttp, Proxies,
    Transport, Unreached,
};
use landfall::runtime::clock::{Clock, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A name that only the proxy resolves.
const NAME: &str = "github.behind-the-proxy.invalid";
const PASSWORD: &str = "hunter2-of-the-proxy";

/// How a proxy answers.
#[derive(Clone, Copy)]
enum Answer {
    /// Every host is this address.
    Connects(SocketAddr),
    /// A status line.
    Refuses(&'static str),
    /// It closes the connection.
    Nothing,
    /// It says that it connected, and closes the connection.
    Leaves,
}

/// A proxy on this machine.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer, Arc::clone(&noted)));
            }
        });
        Self { address, asked }
    }

    /// The first line of each request, with the credentials.
    fn asked(&self) -> Vec<String> {
        let line = |head: &String| {
            let authorization = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
            let words = head.lines().next().into_iter().chain(authorization);
            words.collect::<Vec<_>>().join(" ")
        };
        self.asked.lock().unwrap().iter().map(line).collect()
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    asked.lock().unwrap().push(String::from_utf8(head).unwrap());
    let connected = "HTTP/1.1 200 Connection established\r\n\r\n";
    match answer {
        Answer::Connects(address) => {
            let mut host = TcpStream::connect(address).await.unwrap();
            stream.write_all(connected.as_bytes()).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut host).await;
        }
        Answer::Refuses(status) => {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        Answer::Nothing => {}
        Answer::Leaves => stream.write_all(connected.as_bytes()).await.unwrap(),
    }
}

fn proxies(variables: &[(&str, &str)]) -> Proxies {
    Proxies::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())).unwrap()
}

/// A GitHub with an App and the public repository acme/open, whose certificate also has [`NAME`].
struct World {
    sim: Sim,
    key: AppKey,
}

impl World {
    async fn new() -> Self {
        let key = AppKey::generate().unwrap();
        let app = AppSeed {
            name: "Landfall".into(),
            owner: "acme".into(),
            id: Some(4711),
            public_key: Some(key.public_pem().into()),
            permissions: [("metadata".into(), Level::Read)].into(),
            ..AppSeed::default()
        };
        let acme = AccountSeed { login: "acme".into(), kind: AccountType::Organization, ..AccountSeed::default() };
        let open = RepositorySeed { owner: "acme".into(), name: "open".into(), ..RepositorySeed::default() };
        let seed = Seed { accounts: vec![acme], apps: vec![app], repositories: vec![open], ..Seed::default() };
        let site = Site { tls_names: vec![NAME.into()], ..Site::default() };
        let options = Options { listen: "127.0.0.1:0".parse().unwrap(), tls: true, seed };
        Self { sim: Sim::start_at(options, site).await.unwrap(), key }
    }

    fn port(&self) -> u16 {
        self.sim.address().port()
    }

    fn transport(&self, reach: Reach, variables: &[(&str, &str)]) -> Transport {
        HttpsConnect::through(proxies(variables)).connect_within(reach, Some(self.sim.ca_pem().as_bytes())).unwrap()
    }

    fn endpoint(&self, host: &str) -> Endpoint {
        let api = format!("https://{host}:{}/api/v3", self.port());
        Endpoint::parse(&api, None, None, PlainHttp::OnLoopback).unwrap()
    }

    fn github(&self, host: &str, variables: &[(&str, &str)]) -> GitHub {
        let credentials = AppCredentials::parse("4711", self.key.private_pem().as_bytes(), None).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        GitHub::new(
            self.endpoint(host),
            self.transport(Reach::Anywhere, variables),
            credentials,
            clock,
            Arc::new(Ignore),
        )
    }

    /// The error of a call through this proxy.
    async fn refused(&self, proxy: &str) -> String {
        let error = self.github(NAME, &[("HTTPS_PROXY", proxy)]).app().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { reason: Unreached::NotConnected, .. }), "{error}");
        assert_eq!(error.outlook(), Outlook::Passes);
        assert!(self.sim.requests().is_empty());
        assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error:?}");
        let text = error.to_string();
        text.strip_prefix(&format!("GET /app at {NAME}:{}: ", self.port())).unwrap_or(&text).to_owned()
    }

    /// The refs of a repository by address.
    async fn listed(&self, host: &str, reach: Reach, variables: &[(&str, &str)]) -> Result<git::Refs, git::Error> {
        let host = format!("{host}:{}", self.port());
        let hosts = AllowedHosts::parse(&[&host], Reach::Private).unwrap();
        let remote = Remote::manual(&hosts.check(&format!("https://{host}/acme/open.git")).unwrap());
        refs(&self.transport(reach, variables), &remote, None, None, &SystemClock).await
    }
}

#[tokio::test]
async fn a_name_that_only_the_proxy_resolves_is_reached_by_the_api_and_by_git() {
    let world = World::new().await;
    let proxy = Proxy::start(Answer::Connects(world.sim.address())).await;
    let address = format!("http://me:{PASSWORD}@{}", proxy.address);
    let variables = [("HTTPS_PROXY", address.as_str())];
    assert_eq!(world.github(NAME, &variables).app().await.unwrap().id.get(), 4711);

    let push = Push {
        repository: "acme/open".into(),
        branch: Some("main".into()),
        path: "a".into(),
        content: "a".into(),
        message: None,
    };
    let sha = world.sim.push(&push).map(|sha| sha.parse().unwrap()).unwrap();
    let transport = world.transport(Reach::Anywhere, &variables);
    let remote = Remote::github(&world.endpoint(NAME), "acme/open").unwrap();
    let found = refs(&transport, &remote, None, None, &SystemClock).await.unwrap();
    assert_eq!(found.head.sha(), Some(&sha));

    // `me:hunter2-of-the-proxy`
    let expected = format!("CONNECT {NAME}:{} HTTP/1.1 Basic bWU6aHVudGVyMi1vZi10aGUtcHJveHk=", world.port());
    assert_eq!(proxy.asked(), [expected.clone(), expected]);
}

#[tokio::test]
async fn hosts_that_are_exempt_and_plain_http_go_direct() {
    let world = World::new().await;
    let proxy = Proxy::start(Answer::Refuses("403 Forbidden")).await;
    let address = proxy.address.to_string();
    let variables = [("HTTPS_PROXY", address.as_str()), ("HTTP_PROXY", &address), ("NO_PROXY", "127.0.0.0/8")];
    world.github("127.0.0.1", &variables).app().await.unwrap();
    world.github("127.0.0.1", &[]).app().await.unwrap();
    world.listed("127.0.0.1", Reach::Private, &variables).await.unwrap();
    let error = world.listed("127.0.0.1", Reach::Public, &variables).await.unwrap_err();
    assert!(matches!(error, git::Error::AddressRefused { .. }), "{error}");

    let options = Options { listen: "127.0.0.1:0".parse().unwrap(), tls: false, seed: Seed::default() };
    let plain = Sim::start(options).await.unwrap();
    let endpoint = Endpoint::parse(&plain.api_url(), None, None, PlainHttp::OnLoopback).unwrap();
    let remote = Remote::github(&endpoint, "acme/open").unwrap();
    let transport = world.transport(Reach::Anywhere, &[("HTTPS_PROXY", &address), ("ALL_PROXY", &address)]);
    let error = refs(&transport, &remote, None, None, &SystemClock).await.unwrap_err();
    assert!(matches!(error, git::Error::NotFound { .. }), "{error}");
    assert_eq!(proxy.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_proxy_that_opens_no_connection_is_named_with_the_remedy_and_without_its_password() {
    let world = World::new().await;
    for (answer, credentials, expected) in [
        (
            Answer::Refuses("407 Proxy Authentication Required"),
            "",
            "the proxy PROXY asks for credentials (407); write a user and a password into HTTPS_PROXY, as http://USER:PASSWORD@HOST:PORT",
        ),
        (
            Answer::Refuses("407 Proxy Authentication Required"),
            "me:hunter2-of-the-proxy@",
            "the proxy PROXY refuses the user and the password in HTTPS_PROXY (407); correct them",
        ),
        (
            Answer::Refuses("403 Forbidden"),
            "me:hunter2-of-the-proxy@",
            "the proxy PROXY refuses to connect to this host; allow the host and its port in the proxy's rules, or add the host to NO_PROXY for a direct connection",
        ),
        (
            Answer::Nothing,
            "me:hunter2-of-the-proxy@",
            "the proxy PROXY did not answer (tunnel error: unexpected end of file); check that HTTPS_PROXY names an HTTP proxy, and that the proxy reaches this host",
        ),
        (
            Answer::Leaves,
            "me:hunter2-of-the-proxy@",
            "no connection through the proxy PROXY (tls handshake eof); check the host, and the proxy's rules and logs",
        ),
    ] {
        let proxy = Proxy::start(answer).await;
        let error = world.refused(&format!("http://{credentials}{}", proxy.address)).await;
        assert_eq!(error.replace(&proxy.address.to_string(), "PROXY"), expected);
        assert_eq!(proxy.asked().len(), 1);
    }
    // Held, so that no other test listens there meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = socket.local_addr().unwrap();
    let error = world.refused(&format!("http://me:{PASSWORD}@{nobody}")).await;
    let expected = format!(
        "no connection to the proxy {nobody} (Connection refused (os error 111)); check HTTPS_PROXY, DNS and the network policies"
    );
    assert_eq!(error, expected);
    let proxy = format!("http://me:{PASSWORD}@{nobody}");
    let error = world.listed("localhost", Reach::Private, &[("https_proxy", &proxy)]).await.unwrap_err();
    let expected =
        format!("no connection to the proxy {nobody} (Connection refused (os error 111)); check https_proxy, ");
    assert!(error.to_string().contains(&expected), "{error}");
    assert!(!format!("{error:?}").contains(PASSWORD), "{error:?}");
}

#[tokio::test]
async fn an_authority_that_is_not_trusted_is_told_with_the_proxy_that_may_have_ended_tls() {
    let (world, other) = (World::new().await, World::new().await);
    let proxy = Proxy::start(Answer::Connects(other.sim.address())).await;
    let address = proxy.address.to_string();
    let error = world.github(NAME, &[("HTTPS_PROXY", &address)]).app().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Unreached::Untrusted, .. }), "{error}");
    assert!(error.to_string().ends_with(&format!("; the connection goes through the proxy {address}")), "{error}");
}

#[tokio::test]
async fn a_proxy_widens_the_reach_of_no_address_that_a_tenant_wrote() {
    let world = World::new().await;
    let proxy = Proxy::start(Answer::Connects(world.sim.address())).await;
    let address = proxy.address.to_string();
    let variables = [("HTTPS_PROXY", address.as_str())];
    for host in ["localhost", "127.0.0.1"] {
        let error = world.listed(host, Reach::Public, &variables).await.unwrap_err();
        assert!(matches!(error, git::Error::AddressRefused { .. }), "{error}");
    }
    assert_eq!(proxy.asked(), Vec::<String>::new());
    world.listed("localhost", Reach::Private, &variables).await.unwrap();
    assert_eq!(proxy.asked(), [format!("CONNECT localhost:{} HTTP/1.1", world.port())]);
}
