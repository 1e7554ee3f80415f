//! The scene: an API server, a simulated GitHub with one installation, namespaces, and the objects of one turn.
//!
//! Invariant: a turn begins with all of its objects and nothing else: no Secret, no token at GitHub, and no status of an
//! earlier turn.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use github_sim::{AppKey, Sim};
use http::Request;
use kube::Client;
use landfall_cluster::ApiServer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api_server::write;
use crate::cluster::{self, SYSTEM};
use crate::load::{Until, drive};
use crate::reference::tokens::{self as reference, Plain, name, namespace};
use crate::{BenchmarkError, objects, reference::collection};

/// How many objects are written at once.
const AT_ONCE: usize = 50;
/// How long the objects of a turn may take to vanish.
const GONE_WITHIN: Duration = Duration::from_mins(10);
const APP_ID: u64 = 4242;
const INSTALLATION: u64 = 501;
/// The user name of the controller, and that of the reference. Both may do everything, for rights are not what is
/// measured.
pub(super) const CONTROLLER: &str = "bench:controller";
pub(super) const PLAIN: &str = "bench:plain-tokens";
const EVERYTHING: Option<&str> = Some("system:masters");
const OURS: &str = "/apis/landfall.dev/v1alpha1";

pub(super) struct Scene {
    pub(super) server: ApiServer,
    pub(super) client: Client,
    pub(super) sim: Sim,
    /// The controller's kubeconfig.
    pub(super) kubeconfig: PathBuf,
    /// The options of the reference.
    pub(super) plain: Plain,
    _folder: TempDir,
}

impl Scene {
    pub(super) async fn new(count: u64, namespaces: u64) -> Result<Self, BenchmarkError> {
        let (server, client) = cluster::start().await?;
        let key = AppKey::generate().map_err(|error| BenchmarkError::GitHub(Box::new(error)))?;
        let sim =
            objects::simulator(&key, (APP_ID, INSTALLATION), "[{owner: acme, name: shop, id: 9001, private: true}]")
                .await?;
        let folder = tempfile::tempdir().map_err(BenchmarkError::Folder)?;
        let in_folder = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).map(|()| path).map_err(BenchmarkError::Folder)
        };
        let kubeconfig = in_folder("controller.kubeconfig", &server.kubeconfig_of(CONTROLLER, EVERYTHING)?)?;
        let plain = Plain {
            kubeconfig: in_folder("plain.kubeconfig", &server.kubeconfig_of(PLAIN, EVERYTHING)?)?,
            github: sim.api_url(),
            app_id: APP_ID,
            installation: INSTALLATION,
            repository: "shop".to_owned(),
            key_file: in_folder("key.pem", key.private_pem())?,
            count,
            namespaces,
        };
        for namespace in names(namespaces) {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            write(&client, "POST", "/api/v1/namespaces", "application/json", &object).await?;
            reference::make_app(&client, &namespace, &plain).await?;
        }
        let credentials = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "github-app"},
            "stringData": {"private-key.pem": key.private_pem()},
        });
        let secrets = format!("/api/v1/namespaces/{SYSTEM}/secrets");
        write(&client, "POST", &secrets, "application/json", &credentials).await?;
        Ok(Self { server, client, sim, kubeconfig, plain, _folder: folder })
    }

    /// Makes the objects of a turn of ours.
    pub(super) async fn make_ours(&self) -> Result<(), kube::Error> {
        let app = json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": "landfall"},
            "spec": {
                "apiURL": self.sim.api_url(), "appID": APP_ID, "credentialsSecretRef": {"name": "github-app"},
                "tenants": [{
                    "name": "acme", "account": "acme", "repositories": ["*"],
                    "namespaces": {"names": names(self.plain.namespaces).collect::<Vec<_>>()},
                }],
            },
        });
        write(&self.client, "POST", &format!("{OURS}/githubapps"), "application/json", &app).await?;
        let path = |namespace: &str| format!("{OURS}/namespaces/{namespace}/installationtokens");
        self.make(path, |name| {
            json!({
                "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken", "metadata": {"name": name},
                "spec": {
                    "installationRef": {"name": "acme"}, "repositories": [{"name": self.plain.repository}],
                    "permissions": {"contents": "read"}, "secret": {"name": name},
                },
            })
        })
        .await
    }

    /// Makes the objects of a turn of the reference.
    pub(super) async fn make_plain(&self) -> Result<(), kube::Error> {
        let object = |name: &str| crate::reference::object(reference::KIND, name, &reference::spec(name));
        self.make(|namespace| collection(reference::KIND, namespace), object).await
    }

    async fn make(&self, path: impl Fn(&str) -> String, object: impl Fn(&str) -> Value) -> Result<(), kube::Error> {
        let Plain { count, namespaces, .. } = self.plain;
        drive(&mut [(); AT_ONCE], Until::Calls(count), async |(): &mut (), number| {
            let path = path(&namespace(number, namespaces));
            write(&self.client, "POST", &path, "application/json", &object(&name(number))).await
        })
        .await
        .map(drop)
    }

    /// How many `InstallationToken`s are Ready, and what one that is not says.
    pub(super) async fn ready(&self) -> Result<(u64, Option<String>), kube::Error> {
        let tokens = self.list(&format!("{OURS}/installationtokens")).await?;
        Ok(objects::ready(&tokens))
    }

    /// Removes the objects of a turn, with everything that it made. The program of that turn has ended.
    pub(super) async fn clear(&self) -> Result<(), BenchmarkError> {
        for namespace in names(self.plain.namespaces) {
            self.delete_all(&format!("/api/v1/namespaces/{namespace}/secrets")).await?;
            for kind in ["installationtokens", "githubinstallations"] {
                self.remove(&format!("{OURS}/namespaces/{namespace}/{kind}")).await?;
            }
            self.remove(&collection(reference::KIND, &namespace)).await?;
        }
        self.remove(&format!("{OURS}/githubapps")).await?;
        let (everywhere, began) = (["installationtokens", "githubinstallations", "githubapps"], Instant::now());
        for kind in everywhere {
            while !self.list(&format!("{OURS}/{kind}")).await?.is_empty() {
                if began.elapsed() > GONE_WITHIN {
                    return Err(BenchmarkError::Late { what: format!("the end of the {kind} of an earlier turn") });
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Removes all objects of a collection, also those with finalizers.
    async fn remove(&self, collection: &str) -> Result<(), kube::Error> {
        let objects = self.list(collection).await?;
        let names = objects.iter().filter(|object| !object["metadata"]["finalizers"].is_null());
        let names: Vec<_> = names.filter_map(|object| object["metadata"]["name"].as_str()).collect();
        let release = json!({"metadata": {"finalizers": null}});
        drive(&mut [(); AT_ONCE], Until::Calls(names.len() as u64), async |(): &mut (), number| {
            let name = usize::try_from(number).ok().and_then(|number| names.get(number)).unwrap_or(&"");
            let path = format!("{collection}/{name}");
            write(&self.client, "PATCH", &path, "application/merge-patch+json", &release).await
        })
        .await?;
        self.delete_all(collection).await
    }

    async fn delete_all(&self, collection: &str) -> Result<(), kube::Error> {
        let delete = Request::delete(collection).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request_text(delete).await.map(drop)
    }

    async fn list(&self, collection: &str) -> Result<Vec<Value>, kube::Error> {
        let get = Request::get(collection).body(Vec::new()).map_err(kube::Error::HttpError)?;
        let mut list: Value = self.client.request(get).await?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }
}

fn names(namespaces: u64) -> impl Iterator<Item = String> {
    (0..namespaces).map(move |number| namespace(number, namespaces))
}
