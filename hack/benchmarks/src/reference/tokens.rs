//! The plain tokens: a program that publishes one installation token for each of many small objects, with 32 workers. For
//! each object it reads the object, the App that it refers to twice, and the Secret; sets a finalizer; mints; creates the
//! Secret; sets an annotation and the status. This is the usual way, for example that of External Secrets.
//!
//! Nothing is kept between two objects but connections: each mint signs a JWT of its own.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use kube::Client;
use serde_json::{Value, json};

use super::{collection, object};
use crate::api_server::write;
use crate::load::{Until, drive};
use crate::{BenchmarkError, cluster};

/// How many objects are worked on at once.
const WORKERS: usize = 32;
/// The kind of the objects.
pub(crate) const KIND: &str = "PlainToken";
/// The kind of what they refer to.
pub(crate) const APP_KIND: &str = "PlainApp";
const APP: &str = "acme";
/// The message of its log when all tokens are published.
pub(crate) const DONE: &str = "all tokens are published";
/// How far a JWT is dated back, and how long it lives: clocks differ, and ten minutes are the most.
const BACKDATED: Duration = Duration::from_mins(1);
const LIFE: Duration = Duration::from_mins(9);

/// The options of the program.
#[derive(Args, Debug, Clone)]
pub struct Plain {
    /// The way to the API server.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// The address of GitHub's REST API.
    #[arg(long)]
    pub github: String,
    /// The App's id.
    #[arg(long)]
    pub app_id: u64,
    /// The installation's id.
    #[arg(long)]
    pub installation: u64,
    /// The repository's name.
    #[arg(long)]
    pub repository: String,
    /// The file with the App's private key.
    #[arg(long)]
    pub key_file: PathBuf,
    /// How many objects there are.
    #[arg(long)]
    pub count: u64,
    /// In how many namespaces they are.
    #[arg(long)]
    pub namespaces: u64,
}

impl Plain {
    /// The options as arguments.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let (app_id, installation) = (self.app_id.to_string(), self.installation.to_string());
        let (count, namespaces) = (self.count.to_string(), self.namespaces.to_string());
        let options: [(&str, OsString); 8] = [
            ("--kubeconfig", self.kubeconfig.clone().into()),
            ("--github", self.github.clone().into()),
            ("--app-id", app_id.into()),
            ("--installation", installation.into()),
            ("--repository", self.repository.clone().into()),
            ("--key-file", self.key_file.clone().into()),
            ("--count", count.into()),
            ("--namespaces", namespaces.into()),
        ];
        options.into_iter().flat_map(|(name, value)| [name.into(), value]).collect()
    }
}

/// The name of an object, and of its Secret.
pub(crate) fn name(number: u64) -> String {
    format!("token-{number:05}")
}

/// The namespace of an object.
pub(crate) fn namespace(number: u64, namespaces: u64) -> String {
    format!("tokens-{:03}", number % namespaces)
}

/// Makes what the objects of a namespace refer to.
pub(crate) async fn make_app(client: &Client, namespace: &str, plain: &Plain) -> Result<(), kube::Error> {
    let spec = json!({"installation": plain.installation.to_string(), "repository": plain.repository});
    write(client, "POST", &collection(APP_KIND, namespace), "application/json", &object(APP_KIND, APP, &spec)).await
}

/// The `spec` of an object.
pub(crate) fn spec(name: &str) -> Value {
    json!({"appRef": APP, "secret": name, "refreshInterval": "45m"})
}

/// Publishes all tokens, says so, and stays until its standard input ends, so that its cost can be read.
pub(crate) async fn publish(plain: &Plain) -> Result<(), BenchmarkError> {
    let client = cluster::client(&plain.kubeconfig).await?;
    let key = tokio::fs::read(&plain.key_file).await.map_err(BenchmarkError::Reference)?;
    let key = EncodingKey::from_rsa_pem(&key).map_err(|error| BenchmarkError::Reference(io::Error::other(error)))?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
    let publisher = Publisher { plain, client, http, key };
    let publish = async |(): &mut (), number| publisher.publish(number).await;
    drive(&mut [(); WORKERS], Until::Calls(plain.count), publish).await?;
    eprintln!("{}", json!({"message": DONE}));
    super::input_ended().await;
    Ok(())
}

struct Publisher<'a> {
    plain: &'a Plain,
    client: Client,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    key: EncodingKey,
}

impl Publisher<'_> {
    async fn publish(&self, number: u64) -> Result<(), BenchmarkError> {
        let (name, namespace) = (name(number), namespace(number, self.plain.namespaces));
        let (path, app) = (format!("{}/{name}", collection(KIND, &namespace)), collection(APP_KIND, &namespace));
        let secrets = format!("/api/v1/namespaces/{namespace}/secrets");
        self.read(&path).await?;
        self.read(&format!("{app}/{APP}")).await?;
        self.read(&format!("{app}/{APP}")).await?;
        match self.read(&format!("{secrets}/{name}")).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            read => read?,
        }
        let finalizer = json!({"metadata": {"finalizers": ["bench.landfall.dev/token"]}});
        self.merge(&path, &finalizer).await?;
        let token = self.mint().await?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"token": token},
        });
        write(&self.client, "POST", &secrets, "application/json", &secret).await?;
        self.merge(&path, &json!({"metadata": {"annotations": {"bench.landfall.dev/secret": name}}})).await?;
        let ready =
            json!({"type": "Ready", "status": "True", "reason": "Published", "message": "the Secret has a token"});
        let status = json!({"status": {"conditions": [ready], "refreshTime": format!("{:?}", SystemTime::now())}});
        self.merge(&format!("{path}/status"), &status).await?;
        Ok(())
    }

    async fn read(&self, path: &str) -> Result<(), kube::Error> {
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }

    async fn merge(&self, path: &str, change: &Value) -> Result<(), kube::Error> {
        write(&self.client, "PATCH", path, "application/merge-patch+json", change).await
    }

    async fn mint(&self) -> Result<String, BenchmarkError> {
        let failed = |reason: String| BenchmarkError::Reference(io::Error::other(format!("no token: {reason}")));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = json!({
            "iat": now.saturating_sub(BACKDATED).as_secs(), "exp": (now + LIFE).as_secs(), "iss": self.plain.app_id.to_string(),
        });
        let jwt = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key);
        let jwt = jwt.map_err(|error| failed(error.to_string()))?;
        let scope = json!({"repositories": [self.plain.repository], "permissions": {"contents": "read"}});
        let Plain { github, installation, .. } = self.plain;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{github}/app/installations/{installation}/access_tokens"))
            .header("authorization", format!("Bearer {jwt}"))
            .header("accept", "application/vnd.github+json")
            .header("content-type", "application/json")
            .header("user-agent", "plain-tokens")
            .body(Full::from(scope.to_string()));
        let request = request.map_err(|error| failed(error.to_string()))?;
        let answer = self.http.request(request).await.map_err(|error| failed(error.to_string()))?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
        if head.status != StatusCode::CREATED {
            return Err(failed(format!("{} {}", head.status, String::from_utf8_lossy(&body))));
        }
        let body: Value = serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
        body["token"].as_str().map(str::to_owned).ok_or_else(|| failed("the answer has none".to_owned()))
    }
}
