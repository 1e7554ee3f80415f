//! The API server that benchmarks are held against: one of the benchmark's own, with our definitions and those of the
//! references, and an etcd that syncs each write to disk, as those of real clusters do.

use std::path::Path;
use std::time::Duration;

use http::Request;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::{self, await_condition};
use kube::{Client, Config, ResourceExt};
use landfall_cluster::{ApiServer, ApiServerError, Options};
use serde_json::json;

use crate::api_server::write;
use crate::process::{self, ProcessError};
use crate::reference;

/// The operator's namespace.
pub const SYSTEM: &str = "landfall-system";
/// How long definitions may take until they can be used.
const ESTABLISHED_WITHIN: Duration = Duration::from_mins(1);

/// There is no API server to measure.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] ApiServerError),
    /// Its kubeconfig cannot be used.
    #[error("the kubeconfig of the API server cannot be used")]
    Kubeconfig(#[from] KubeconfigError),
    /// It refused what is needed before anything can be measured.
    #[error("the API server refused {what}")]
    Refused {
        /// What was asked.
        what: String,
        /// What it says.
        #[source]
        source: kube::Error,
    },
    /// A definition cannot be used.
    #[error("the definition {name} is not established after {} s", ESTABLISHED_WITHIN.as_secs())]
    NotEstablished {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: Option<wait::Error>,
    },
    /// Its processes could not be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// One of its processes was not found among those that were started.
    #[error("no process of the API server is called {name}")]
    NoProcess {
        /// The program's name.
        name: &'static str,
    },
}

/// A client that sends each request once: a request is measured once, whatever comes of it.
pub async fn client(kubeconfig: &Path) -> Result<Client, ClusterError> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    config.proxy_url = None;
    Client::try_from(config).map_err(refused("a client"))
}

fn refused(what: &str) -> impl FnOnce(kube::Error) -> ClusterError + use<> {
    let what = what.to_owned();
    move |source| ClusterError::Refused { what, source }
}

/// Starts an API server and makes our kinds and those of the references known to it. Stopped when dropped.
pub async fn start() -> Result<(ApiServer, Client), ClusterError> {
    let server = ApiServer::start(Options { durable: true, ..Options::default() }).await?;
    let client = client(&server.kubeconfig()).await?;
    let system = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}});
    write(&client, "POST", "/api/v1/namespaces", "application/json", &system).await.map_err(refused(SYSTEM))?;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in landfall::controllers::definitions().into_iter().chain(reference::definitions()) {
        let name = definition.name_any();
        let applied = definitions.patch(&name, &PatchParams::apply("landfall-bench"), &Patch::Apply(&definition)).await;
        applied.map_err(refused(&name))?;
        let established = await_condition(definitions.clone(), &name, is_crd_established());
        match tokio::time::timeout(ESTABLISHED_WITHIN, established).await {
            Ok(Ok(_)) => {}
            Ok(Err(source)) => return Err(ClusterError::NotEstablished { name, source: Some(source) }),
            Err(_) => return Err(ClusterError::NotEstablished { name, source: None }),
        }
        match tokio::time::timeout(ESTABLISHED_WITHIN, listed(&client, &definition)).await {
            Ok(listed) => listed.map_err(refused(&name))?,
            Err(_) => return Err(ClusterError::NotEstablished { name, source: None }),
        }
    }
    Ok((server, client))
}

/// Lists a kind until that succeeds: the API server fills its cache of a kind at the first request, and refuses lists
/// meanwhile.
async fn listed(client: &Client, definition: &CustomResourceDefinition) -> Result<(), kube::Error> {
    let spec = &definition.spec;
    let version = spec.versions.first().map(|version| version.name.as_str()).unwrap_or_default();
    let path = format!("/apis/{}/{version}/{}", spec.group, spec.names.plural);
    loop {
        let get = Request::get(&path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match client.request_text(get).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 429) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            listed => return listed.map(drop),
        }
    }
}

/// The id of one of the API server's processes, by the name of its program.
pub fn pid_of(server: &ApiServer, name: &'static str) -> Result<u32, ClusterError> {
    for pid in server.pids() {
        if process::name(pid)? == name {
            return Ok(pid);
        }
    }
    Err(ClusterError::NoProcess { name })
}
