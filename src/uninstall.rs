//! `landfall uninstall`: lets go of everything that the operator holds, so that objects and namespaces can be deleted
//! when it is gone.
//!
//! Invariant: a claim is let go after its volume is retained, so that work on it that was not saved outlives claim and
//! namespace. A failure leaves that object as it is, is reported, and does not stop the rest. Nothing that people declared
//! is deleted.

use crate::api::{
    GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository, RETAINED_ANNOTATION, RETAINED_LABEL,
    REVOKE_FINALIZER, WEBHOOK_FINALIZER, WORK_FINALIZER, WORKSPACE_LABEL, Workspace,
};
use crate::controllers::token::secret;
use crate::features::{Feature, Features};
use crate::github::{AppCredentials, Connect, Endpoint, GitHub, Ignore, Outlook, PlainHttp};
use crate::guards::Guards;
use crate::runtime::clock::Clock;
use crate::runtime::lenient::Lenient;
use http::Request;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Secret};
use kube::api::{Api, DeleteParams, Preconditions};
use kube::{Client, Resource};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The finalizers of Landfall begin so.
const OURS: &str = "landfall.dev/";
/// Objects in one page. An object may have more than a megabyte.
const PAGE: usize = 20;
/// How long tokens are revoked in all. The rest of the work does not wait longer for a GitHub that does not answer.
const REVOKED_WITHIN: Duration = Duration::from_mins(1);
/// The pause before a token is revoked, or its Secret deleted, again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How often these are tried, and a change when somebody else changes the object at the same time.
const TRIES: usize = 5;
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// The surroundings.
pub struct Uninstall {
    pub kube: Client,
    /// The operator's own namespace, which has the credentials of the Apps. It may be gone.
    pub namespace: String,
    pub features: Features,
    pub plain_http: PlainHttp,
    pub github: Arc<dyn Connect>,
    pub clock: Arc<dyn Clock>,
    /// The guards that tests can remove.
    pub guards: Guards,
}

/// The result: the work that was done, and the objects that it failed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many objects were let go, by kind.
    pub released: BTreeMap<String, usize>,
    pub revoked: usize,
    /// The volumes that are kept, each with its claim.
    pub kept: Vec<String>,
    /// Tokens that were not revoked, each with the reason. They expire within an hour.
    pub unrevoked: Vec<String>,
    /// Repositories on GitHub that may still have a webhook of their own.
    pub hooked: Vec<String>,
    /// Objects that are still held, each with the reason.
    pub failed: Vec<String>,
}

impl Uninstall {
    /// Lets go of everything. The operator must not run meanwhile: it would take hold again.
    pub async fn run(&self) -> Report {
        let mut report = Report::default();
        if self.features.has(Feature::Workspaces) {
            self.release::<Workspace>(&mut report).await;
            self.keep_volumes(&mut report).await;
        }
        self.revoke_tokens(&mut report).await;
        self.release::<InstallationToken>(&mut report).await;
        if self.features.has(Feature::Repositories) {
            self.release::<ProjectRepository>(&mut report).await;
        }
        self.release::<GitHubInstallation>(&mut report).await;
        self.release::<GitHubApp>(&mut report).await;
        report
    }

    /// Removes our finalizers from all objects of a kind.
    async fn release<K: Resource<DynamicType = ()>>(&self, report: &mut Report) {
        let mut pages = Pages::new::<K>(METADATA);
        while let Some(page) = pages.next(&self.kube, report).await {
            for object in page {
                let name = named::<K>(&object);
                match self.let_go::<K>(object.clone()).await {
                    Ok(false) => {}
                    Ok(true) => {
                        *report.released.entry(K::kind(&()).into_owned()).or_default() += 1;
                        if finalizers(&object).any(|finalizer| finalizer == WEBHOOK_FINALIZER) {
                            report.hooked.push(name);
                        }
                    }
                    Err(error) => report.failed.push(format!("{name}: {error}")),
                }
            }
        }
    }

    /// Removes our finalizers from an object. Returns whether there were any.
    async fn let_go<K: Resource<DynamicType = ()>>(&self, mut object: Value) -> Result<bool, kube::Error> {
        let path = path::<K>(&object);
        for left in (0..TRIES).rev() {
            let kept: Vec<_> = finalizers(&object).filter(|finalizer| !finalizer.starts_with(OURS)).collect();
            if kept.len() == finalizers(&object).count() {
                return Ok(false);
            }
            let version = &object["metadata"]["resourceVersion"];
            let change = json!({"metadata": {"resourceVersion": version, "finalizers": kept}});
            match self.merge(&path, &change).await {
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 && left > 0 => {
                    let Some(newer) = self.get(&path).await? else { return Ok(true) };
                    object = newer;
                }
                done => return done.map(|_| true),
            }
        }
        Ok(true)
    }

    /// Retains the volumes of workspaces, and lets their claims go.
    async fn keep_volumes(&self, report: &mut Report) {
        let mut pages = Pages::new::<PersistentVolumeClaim>("application/json");
        while let Some(page) = pages.next(&self.kube, report).await {
            for claim in page.into_iter().filter(|claim| finalizers(claim).any(|it| it == WORK_FINALIZER)) {
                let name = named::<PersistentVolumeClaim>(&claim);
                let result = match self.guards.keeping(self.keep(&claim)).await {
                    Ok(kept) => {
                        report.kept.extend(kept.map(|volume| format!("{volume} of {name}")));
                        self.let_go::<PersistentVolumeClaim>(claim).await
                    }
                    Err(error) => Err(error),
                };
                match result {
                    Ok(_) => *report.released.entry("PersistentVolumeClaim".to_owned()).or_default() += 1,
                    Err(error) => report.failed.push(format!("{name}: {error}")),
                }
            }
        }
    }

    /// Retains the volume of a claim. Returns its name, unless there is none or it is another claim's.
    async fn keep(&self, claim: &Value) -> Result<Option<String>, kube::Error> {
        let Some(name) = claim["spec"]["volumeName"].as_str().filter(|name| !name.is_empty()) else { return Ok(None) };
        let path = format!("{}/{name}", PersistentVolume::url_path(&(), None));
        let Some(volume) = self.get(&path).await? else { return Ok(None) };
        if volume["spec"]["claimRef"]["uid"] != claim["metadata"]["uid"] {
            return Ok(None);
        }
        let workspace = claim["metadata"]["labels"][WORKSPACE_LABEL].as_str();
        let record = json!({
            "workspace": workspace, "namespace": claim["metadata"]["namespace"], "at": self.clock.now().to_string(),
            "why": "Landfall was uninstalled",
        });
        let change = json!({
            "metadata": {"labels": {RETAINED_LABEL: "true"}, "annotations": {RETAINED_ANNOTATION: record.to_string()}},
            "spec": {"persistentVolumeReclaimPolicy": "Retain"},
        });
        self.merge(&path, &change).await?;
        Ok(Some(name.to_owned()))
    }

    /// Revokes the published tokens, and removes the Secrets of those that are dead.
    async fn revoke_tokens(&self, report: &mut Report) {
        let apps = self.apps(report).await;
        let mut installations = BTreeMap::new();
        let mut pages = Pages::new::<GitHubInstallation>("application/json");
        while let Some(page) = pages.next(&self.kube, report).await {
            for it in page {
                let (namespace, name) = (text(&it["metadata"]["namespace"]), text(&it["metadata"]["name"]));
                installations.insert((namespace, name), text(&it["spec"]["appRef"]["name"]));
            }
        }
        let until = tokio::time::Instant::now() + REVOKED_WITHIN;
        let mut pages = Pages::new::<InstallationToken>("application/json");
        while let Some(page) = pages.next(&self.kube, report).await {
            for token in page.into_iter().filter(|token| finalizers(token).any(|it| it == REVOKE_FINALIZER)) {
                let name = named::<InstallationToken>(&token);
                let place = (text(&token["metadata"]["namespace"]), text(&token["spec"]["installationRef"]["name"]));
                let app = installations.get(&place).and_then(|app| apps.get(app));
                let revoked = tokio::time::timeout_at(until, self.revoke(&token, app)).await;
                match revoked.unwrap_or_else(|_| Err("GitHub did not answer in time".to_owned())) {
                    Ok(true) => report.revoked += 1,
                    Ok(false) => {}
                    Err(why) => report.unrevoked.push(format!("{name}: {why}")),
                }
            }
        }
    }

    /// Revokes the token in an object's Secret. Returns whether there was one.
    async fn revoke(&self, token: &Value, app: Option<&Result<GitHub, String>>) -> Result<bool, String> {
        let object: InstallationToken =
            serde_json::from_value(without_status(token)).map_err(|_| "the object cannot be parsed".to_owned())?;
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let secrets = Api::<Lenient<Secret>>::namespaced(self.kube.clone(), &namespace);
        let secret = secrets.get_opt(&object.spec.secret.name).await.and_then(|it| it.map(Lenient::read).transpose());
        let Some(found) = secret.map_err(|error| error.to_string())? else { return Ok(false) };
        if !secret::is_ours(&found.metadata, &object) {
            return Ok(false);
        }
        let Some(value) = secret::token(&found) else { return Ok(false) };
        let github = app.ok_or_else(|| "its GitHubApp is gone".to_owned())?.as_ref().map_err(Clone::clone)?;
        // After a lost answer, the second call finds the token dead.
        let mut revoked = github.revoke(&value).await;
        for _ in 1..TRIES {
            if !matches!(&revoked, Err(error) if error.outlook() == Outlook::Passes) {
                break;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            revoked = github.revoke(&value).await;
        }
        revoked.map_err(|error| error.to_string())?;
        let preconditions = Preconditions { uid: found.metadata.uid, resource_version: None };
        let delete = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        // Otherwise a dead token would stay in its Secret for good.
        let mut left = TRIES;
        loop {
            left -= 1;
            match secrets.delete(&object.spec.secret.name, &delete).await {
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(true),
                Err(_) if left > 0 => tokio::time::sleep(AGAIN_AFTER).await,
                deleted => {
                    return deleted.map(|_| true).map_err(|error| format!("revoked, but its Secret is left: {error}"));
                }
            }
        }
    }

    /// The GitHub of each App, or the reason why it cannot be asked.
    async fn apps(&self, report: &mut Report) -> BTreeMap<String, Result<GitHub, String>> {
        let mut apps = BTreeMap::new();
        let mut pages = Pages::new::<GitHubApp>("application/json");
        while let Some(page) = pages.next(&self.kube, report).await {
            for app in page {
                apps.insert(text(&app["metadata"]["name"]), self.app(&app).await);
            }
        }
        apps
    }

    async fn app(&self, app: &Value) -> Result<GitHub, String> {
        let app: GitHubApp =
            serde_json::from_value(without_status(app)).map_err(|_| "its GitHubApp cannot be parsed".to_owned())?;
        let (spec, credentials) = (&app.spec, &app.spec.credentials_secret_ref);
        let secrets = Api::<Lenient<Secret>>::namespaced(self.kube.clone(), &self.namespace);
        let secret = secrets.get_opt(&credentials.name).await.and_then(|it| it.map(Lenient::read).transpose());
        let secret = secret.map_err(|error| error.to_string())?;
        let pem = secret.as_ref().and_then(|secret| secret.data.as_ref()?.get(&credentials.key));
        let pem =
            pem.ok_or_else(|| format!("the App's key is not in Secret {}/{}", self.namespace, credentials.name))?;
        let issuer = spec.client_id.clone().or_else(|| spec.app_id.map(|id| id.to_string())).unwrap_or_default();
        let credentials = AppCredentials::parse(&issuer, &pem.0, None).map_err(|error| error.to_string())?;
        let (web, graphql) = (spec.web_url.as_deref(), spec.graphql_url.as_deref());
        let endpoint =
            Endpoint::parse(&spec.api_url, web, graphql, self.plain_http).map_err(|error| error.to_string())?;
        let transport = self.github.connect(spec.ca_bundle.as_deref().map(str::as_bytes));
        let transport = transport.map_err(|error| error.to_string())?;
        Ok(GitHub::new(endpoint, transport, credentials, Arc::clone(&self.clock), Arc::new(Ignore)))
    }

    async fn get(&self, path: &str) -> Result<Option<Value>, kube::Error> {
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match self.kube.request::<Value>(request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            found => found.map(Some),
        }
    }

    async fn merge(&self, path: &str, change: &Value) -> Result<Value, kube::Error> {
        let request = Request::patch(path).header("content-type", "application/merge-patch+json");
        self.kube.request(request.body(change.to_string().into_bytes()).map_err(kube::Error::HttpError)?).await
    }
}

/// The objects of a kind in all namespaces, page by page. They are read as they are: no field that somebody wrote keeps an
/// object held because it cannot be parsed.
struct Pages {
    kind: String,
    path: String,
    accept: &'static str,
    /// None after the last page.
    next: Option<String>,
}

impl Pages {
    fn new<K: Resource<DynamicType = ()>>(accept: &'static str) -> Self {
        Self { kind: K::kind(&()).into_owned(), path: K::url_path(&(), None), accept, next: Some(String::new()) }
    }

    /// The next page. A page that cannot be read is a failure, and the last one.
    async fn next(&mut self, kube: &Client, report: &mut Report) -> Option<Vec<Value>> {
        let from = self.next.take()?;
        let query: String =
            url::form_urlencoded::Serializer::new(format!("limit={PAGE}")).append_pair("continue", &from).finish();
        let request = Request::get(format!("{}?{query}", self.path)).header("accept", self.accept).body(Vec::new());
        let answer = match request.map_err(kube::Error::HttpError) {
            Ok(request) => kube.request::<Value>(request).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(mut list) => {
                self.next = list["metadata"]["continue"].as_str().filter(|token| !token.is_empty()).map(str::to_owned);
                Some(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
            }
            // Without its definition, a kind has no objects.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => {
                report.failed.push(format!("all objects of kind {}: {error}", self.kind));
                None
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn path<K: Resource<DynamicType = ()>>(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!("{}/{}", K::url_path(&(), metadata["namespace"].as_str()), text(&metadata["name"]))
}

fn named<K: Resource<DynamicType = ()>>(object: &Value) -> String {
    let (kind, name) = (K::kind(&()), text(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// Status and managed fields may have anything in them, and are not needed.
fn without_status(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}
