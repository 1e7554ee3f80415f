//! A simulator with an organisation, two repositories and an installed App, and clients for it.

use std::path::Path;
use std::process::Output;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use github_sim::{
    AccountSeed, AccountType, AppKey, AppSeed, InstallationSeed, Level, Options, Permissions, RepositorySeed, Seed,
    Selection, Sim, Site,
};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

pub type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// The id of the App `landfall`, and of its installation on `acme`.
pub const APP: u64 = 12_345;
pub const INSTALLATION: u64 = 4242;

pub struct World {
    pub sim: Sim,
    pub key: &'static AppKey,
    pub client: HttpsClient,
    pub folder: tempfile::TempDir,
}

pub fn permissions(pairs: &[(&str, Level)]) -> Permissions {
    pairs.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect()
}

fn repository(name: &str, private: bool) -> RepositorySeed {
    RepositorySeed { owner: "acme".into(), name: name.into(), private, ..RepositorySeed::default() }
}

/// The keys of the Apps, made once: an RSA key takes longer to make than everything else of a world.
static KEYS: LazyLock<[AppKey; 2]> = LazyLock::new(|| std::array::from_fn(|_| AppKey::generate().unwrap()));

/// The seed all tests begin with, and the App's key.
pub fn seed() -> (Seed, &'static AppKey) {
    let [key, other] = &*KEYS;
    let granted = [
        ("administration", Level::Write),
        ("contents", Level::Write),
        ("metadata", Level::Read),
        ("pull_requests", Level::Write),
        ("repository_hooks", Level::Write),
        ("workflows", Level::Write),
    ];
    let app = |name: &str, key: &AppKey| AppSeed {
        name: name.into(),
        owner: "acme".into(),
        public_key: Some(key.public_pem().into()),
        permissions: permissions(&granted),
        events: vec!["push".into(), "repository".into()],
        ..AppSeed::default()
    };
    let account = |login: &str, kind| AccountSeed { login: login.into(), kind, ..AccountSeed::default() };
    let seed = Seed {
        accounts: vec![
            account("acme", AccountType::Organization),
            account("globex", AccountType::Organization),
            account("mona", AccountType::User),
        ],
        apps: vec![AppSeed { id: Some(APP), ..app("Landfall", key) }, app("Other", other)],
        repositories: vec![
            repository("shop", true),
            repository("attic", true),
            repository("site", false),
            RepositorySeed { owner: "globex".into(), ..repository("vault", true) },
        ],
        installations: vec![
            InstallationSeed {
                app: "landfall".into(),
                account: "acme".into(),
                id: Some(INSTALLATION),
                selection: Selection::Selected(vec!["shop".into(), "site".into()]),
                ..InstallationSeed::default()
            },
            InstallationSeed {
                app: "other".into(),
                account: "globex".into(),
                id: Some(4343),
                ..InstallationSeed::default()
            },
        ],
        ..Seed::default()
    };
    (seed, key)
}

/// A client that trusts the simulator.
pub fn client(ca: &str) -> HttpsClient {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(ca.as_bytes()).map(Result::unwrap));
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new()).build(connector)
}

/// A JWT with these claims, by any key.
pub fn signed(key: &AppKey, claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(key.private_pem().as_bytes()).unwrap();
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256), claims, &key).unwrap()
}

impl World {
    pub async fn new() -> Self {
        let (seed, key) = seed();
        Self::with(seed, key).await
    }

    pub async fn with(seed: Seed, key: &'static AppKey) -> Self {
        Self::at(seed, key, Site::default()).await
    }

    pub async fn at(seed: Seed, key: &'static AppKey, site: Site) -> Self {
        let options = Options { listen: "127.0.0.1:0".parse().unwrap(), tls: true, seed };
        let sim = Sim::start_at(options, site).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), sim.ca_pem()).unwrap();
        let client = client(sim.ca_pem());
        Self { sim, key, client, folder }
    }

    /// A JWT with these claims, by the App's key.
    pub fn jwt_of(&self, claims: &Value) -> String {
        signed(self.key, claims)
    }

    /// A good JWT.
    pub fn jwt(&self) -> String {
        let now = self.sim.now().as_second();
        self.jwt_of(&json!({"iss": APP.to_string(), "iat": now - 60, "exp": now + 540}))
    }

    /// A request; `secret` is sent as a bearer if it is not empty.
    pub async fn ask(&self, method: Method, path: &str, secret: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.try_ask(method, path, secret, headers, body).await.unwrap()
    }

    /// The same, where the connection may be cut.
    pub async fn try_ask(
        &self,
        method: Method,
        path: &str,
        secret: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Result<Answer, hyper_util::client::legacy::Error> {
        let url = if path.starts_with("https://") { path.to_owned() } else { format!("{}{path}", self.sim.api_url()) };
        let mut request = Request::builder().method(method).uri(url);
        if !headers.iter().any(|(name, _)| *name == "User-Agent") {
            request = request.header("User-Agent", "tests");
        }
        if !secret.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Value::Null => Bytes::new(),
            Value::String(raw) => Bytes::from(raw),
            json => Bytes::from(json.to_string()),
        };
        let (parts, body) = self.client.request(request.body(Full::from(body)).unwrap()).await?.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)))
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    pub async fn get(&self, path: &str, secret: &str) -> Answer {
        self.ask(Method::GET, path, secret, &[], Value::Null).await
    }

    pub async fn post(&self, path: &str, secret: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, secret, &[], body).await
    }

    /// Waits until a list has so many rows.
    pub async fn rows(&self, path: &str, secret: &str, count: usize) -> Vec<Value> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_mins(1) {
            let listed = self.get(path, secret).await;
            let rows = listed.body.as_array().unwrap().clone();
            if rows.len() >= count {
                return rows;
            }
            tokio::task::yield_now().await;
        }
        panic!("{path} has not {count} rows");
    }

    /// The answer to a mint.
    pub async fn mint(&self, wish: Value) -> Answer {
        self.post(&format!("/app/installations/{INSTALLATION}/access_tokens"), &self.jwt(), wish).await
    }

    /// A minted token.
    pub async fn token(&self, wish: Value) -> String {
        let minted = self.mint(wish).await;
        assert_eq!(minted.status, StatusCode::CREATED, "{:?}", minted.body);
        minted.body["token"].as_str().unwrap().to_owned()
    }

    /// Runs git with a token, in a directory.
    pub async fn git(&self, directory: &Path, token: &str, arguments: &[&str]) -> Output {
        let basic = format!("Authorization: Basic {}", STANDARD.encode(format!("x-access-token:{token}")));
        let mut command = tokio::process::Command::new("git");
        command.current_dir(directory).args(["-c", "user.name=T", "-c", "user.email=t@example.com"]);
        if !token.is_empty() {
            command.args(["-c", &format!("http.extraHeader={basic}")]);
        }
        command
            .args(arguments)
            .env("GIT_SSL_CAINFO", self.folder.path().join("ca.pem"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .output()
            .await
            .unwrap()
    }

    pub fn url(&self, repository: &str) -> String {
        format!("{}/{repository}.git", self.sim.base_url())
    }
}

pub fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "it was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
