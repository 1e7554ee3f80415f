//! What is made for a workspace: its token, its volume, its pod, and the Job that saves.
//!
//! Pure. Invariant: of what a tenant wrote, only the fields of [`crate::api::WorkspaceSpec`] get into a pod, each as a value
//! of its own: there is no way to name a Secret, a ServiceAccount or a volume, and nothing that a tenant wrote is part of a
//! command line. Every container meets the restricted Pod Security Standard.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>

use crate::api::{
    BranchOnExists, CloneFilter, MANAGED_BY, MANAGED_BY_LABEL, PullRequestMode, PullRequestOpenOn, WORK_FINALIZER,
    WORKSPACE_LABEL, WORKSPACE_UID_ANNOTATION, Workspace,
};
use crate::reports::AUDIENCE;
use crate::settings::WorkspaceSettings;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Affinity, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Label: what a pod is for, `work` or `save`.
pub const ROLE_LABEL: &str = "landfall.dev/role";
/// The container in which the person works.
pub const MAIN: &str = "main";
/// The container that clones.
pub const CLONE: &str = "clone";
/// The container that reports, and saves at the end.
pub const AGENT: &str = "agent";
/// The container of a Job that saves.
pub const SAVE: &str = "save";

/// Where the volume is mounted.
const VOLUME: &str = "/workspace";
/// Where the token's Secret is mounted.
const TOKEN: &str = "/run/landfall/token";
/// Where what a person's git needs is mounted.
const TOOLS: &str = "/run/landfall/tools";
/// Where the agent's proof of who it is is mounted.
const IDENTITY: &str = "/run/landfall/identity";
/// Where our containers may write.
const SCRATCH: &str = "/scratch";
/// How long a clone may take. One that does not move ends sooner, by git's own measure.
const CLONE_SECONDS: u32 = 3600;
/// What a pod's end takes besides the save.
const MARGIN: i64 = 60;

/// What a workspace's containers are told of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address that git clones from, without credentials.
    pub url: String,
    /// Whether the token's Secret has certificates.
    pub has_ca: bool,
    /// `user.name`.
    pub author_name: String,
    /// `user.email`.
    pub author_email: String,
}

/// The name of everything that is made for a workspace.
#[must_use]
pub fn name(workspace: &Workspace) -> String {
    format!("ws-{}", workspace.name_any())
}

/// The workspace that what has this name is made for, if it is.
#[must_use]
pub fn named(object: &str) -> Option<&str> {
    object.strip_prefix("ws-")
}

/// The first digits of an object's uid.
#[must_use]
pub fn short_uid(workspace: &Workspace) -> String {
    workspace.uid().unwrap_or_default().chars().take(5).collect()
}

/// The branch that is asked for.
#[must_use]
pub fn wanted_branch(workspace: &Workspace) -> String {
    let given = workspace.spec.branch.name.clone();
    given.unwrap_or_else(|| format!("landfall/{}-{}", workspace.name_any(), short_uid(workspace)))
}

/// A duration of the spec, which the API server has checked.
#[must_use]
pub fn seconds(text: &str) -> i64 {
    crate::api::duration(text).map_or(300, |duration| duration.as_secs())
}

/// How long a pod may take to end.
#[must_use]
pub fn grace(workspace: &Workspace) -> i64 {
    seconds(&workspace.spec.save.timeout) + MARGIN
}

fn metadata(workspace: &Workspace, name: &str, role: Option<&str>) -> Value {
    let mut labels = BTreeMap::from([
        (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
        (WORKSPACE_LABEL.to_owned(), workspace.name_any()),
    ]);
    labels.extend(role.map(|role| (ROLE_LABEL.to_owned(), role.to_owned())));
    json!({
        "name": name, "namespace": workspace.namespace(), "labels": labels,
        "annotations": {WORKSPACE_UID_ANNOTATION: workspace.uid()},
    })
}

/// The same, owned by the workspace.
fn owned(workspace: &Workspace, name: &str, role: Option<&str>) -> Value {
    let mut metadata = metadata(workspace, name, role);
    metadata["ownerReferences"] = json!(workspace.controller_owner_ref(&()).into_iter().collect::<Vec<_>>());
    metadata
}

/// The token's `InstallationToken`.
#[must_use]
pub fn token(workspace: &Workspace, installation: &str, repository: u64) -> Value {
    let mut permissions = json!({"contents": "write", "metadata": "read"});
    if workspace.spec.pull_request.mode != PullRequestMode::None {
        permissions["pull_requests"] = json!("write");
    }
    let mut metadata = owned(workspace, &name(workspace), None);
    // It goes when the work is dealt with, and not because its namespace goes.
    metadata["finalizers"] = json!([WORK_FINALIZER]);
    json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken", "metadata": metadata,
        "spec": {
            "installationRef": {"name": installation}, "repositories": [{"id": repository}],
            "permissions": permissions, "secret": {"name": name(workspace), "format": "BasicAuth"},
        },
    })
}

/// The volume's claim. Nobody owns it: it goes when its work is safe, and not because something else went.
#[must_use]
pub fn claim(workspace: &Workspace) -> Value {
    let storage = &workspace.spec.storage;
    let mut metadata = metadata(workspace, &name(workspace), None);
    metadata["finalizers"] = json!([WORK_FINALIZER]);
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
        "spec": {
            "accessModes": [storage.access_mode], "resources": {"requests": {"storage": storage.size}},
        },
    });
    if let Some(class) = &storage.storage_class_name {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

/// Whether a claim asks for less than a size.
#[must_use]
pub fn asks_for_less(claim: &PersistentVolumeClaim, wanted: &Quantity) -> bool {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let asked = requests.and_then(|requests| bytes(requests.get("storage")?));
    asked.zip(bytes(wanted)).is_some_and(|(asked, wanted)| asked < wanted)
}

/// A quantity in bytes, as near as makes no difference for a volume.
fn bytes(quantity: &Quantity) -> Option<f64> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let (number, unit) = UNITS.iter().find_map(|(suffix, unit)| Some((quantity.0.strip_suffix(suffix)?, unit)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

/// The environment that all our containers have: it says what is worked on, and holds no secret.
fn environment(workspace: &Workspace, branch: &str, target: &Target) -> Vec<Value> {
    let mut pairs = vec![
        ("LANDFALL_REPOSITORY_URL", target.url.clone()),
        ("LANDFALL_TOKEN_FILE", format!("{TOKEN}/password")),
        ("LANDFALL_DIRECTORY", directory(workspace)),
        ("LANDFALL_WORKSPACE", workspace.name_any()),
        ("LANDFALL_WORKSPACE_UID", workspace.uid().unwrap_or_default()),
        ("LANDFALL_BRANCH", branch.to_owned()),
        ("LANDFALL_AUTHOR_NAME", target.author_name.clone()),
        ("LANDFALL_AUTHOR_EMAIL", target.author_email.clone()),
        ("LANDFALL_TIMEOUT", seconds(&workspace.spec.save.timeout).to_string()),
        ("LANDFALL_SCRATCH", SCRATCH.to_owned()),
    ];
    if target.has_ca {
        pairs.push(("LANDFALL_CA_FILE", format!("{TOKEN}/ca.crt")));
    }
    pairs.into_iter().map(|(name, value)| literal(name, &value)).collect()
}

/// A variable as it stands: Kubernetes would replace `$(NAME)`, and takes `$$` for `$`, also in `$$(NAME)`.
fn literal(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value.replace('$', "$$")})
}

/// The clone: a directory of the volume. It has the name of the `ProjectRepository`, which stays when the repository is renamed.
#[must_use]
pub fn directory(workspace: &Workspace) -> String {
    format!("{VOLUME}/{}", workspace.spec.repository_ref.name)
}

/// The affinity that is asked for.
///
/// # Errors
/// It is of another shape, or has a field that a pod does not have.
pub fn affinity(workspace: &Workspace) -> Result<Option<Affinity>, String> {
    let Some(asked) = &workspace.spec.pod.affinity else { return Ok(None) };
    let affinity = Affinity::deserialize(asked).map_err(|error| error.to_string())?;
    match unknown(asked, &json!(affinity)) {
        Some(field) => Err(format!("there is no field {field}")),
        None => Ok(Some(affinity)),
    }
}

/// The first field that was not taken over.
fn unknown(asked: &Value, taken: &Value) -> Option<String> {
    match (asked, taken) {
        (Value::Object(asked), taken) => {
            asked.iter().filter(|(_, value)| !value.is_null()).find_map(|(name, value)| {
                let Some(taken) = taken.get(name) else { return Some(name.clone()) };
                unknown(value, taken).map(|below| format!("{name}.{below}"))
            })
        }
        (Value::Array(asked), Value::Array(taken)) => {
            asked.iter().zip(taken).find_map(|(asked, taken)| unknown(asked, taken))
        }
        _ => None,
    }
}

fn security() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

/// A container of ours.
fn ours(name: &str, settings: &WorkspaceSettings, args: &[String], env: &[Value], mounts: &Value) -> Value {
    let mut security = security();
    security["readOnlyRootFilesystem"] = json!(true);
    json!({
        "name": name, "image": settings.image, "imagePullPolicy": settings.pull_policy,
        "command": ["landfall"], "args": args, "env": env, "volumeMounts": mounts, "securityContext": security,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "1Gi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn mount(name: &str, path: &str, read_only: bool) -> Value {
    json!({"name": name, "mountPath": path, "readOnly": read_only})
}

/// The `PodSpec` that the pod and the Job's pod have in common.
fn common(workspace: &Workspace) -> Value {
    let (user, pod) = (workspace.spec.run_as_user, &workspace.spec.pod);
    let mut spec = json!({
        "automountServiceAccountToken": false, "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": name(workspace)}},
            {"name": "token", "secret": {"secretName": name(workspace), "defaultMode": 0o440}},
            {"name": "scratch", "emptyDir": {}},
        ],
    });
    let mut set = |field: &str, is_set: bool, value: Value| {
        if is_set {
            spec[field] = value;
        }
    };
    set("nodeSelector", !pod.node_selector.is_empty(), json!(pod.node_selector));
    set("tolerations", !pod.tolerations.is_empty(), json!(pod.tolerations));
    let affinity = affinity(workspace).ok().flatten();
    set("affinity", affinity.is_some(), json!(affinity));
    set("runtimeClassName", pod.runtime_class_name.is_some(), json!(pod.runtime_class_name));
    set("imagePullSecrets", !pod.image_pull_secrets.is_empty(), json!(pod.image_pull_secrets));
    spec
}

/// What the person's container runs: it waits, and ends at once when it is told to.
const WAIT: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";

/// The pod.
#[must_use]
pub fn pod(workspace: &Workspace, target: &Target, settings: &WorkspaceSettings) -> Value {
    let spec = &workspace.spec;
    let env = environment(workspace, &wanted_branch(workspace), target);
    let mut clone = words(&["workspace", "clone", "--tools", TOOLS, "--person-tools", TOOLS]);
    clone.extend(["--person-token-file".to_owned(), format!("{TOKEN}/password")]);
    if target.has_ca {
        clone.extend(["--person-ca-file".to_owned(), format!("{TOKEN}/ca.crt")]);
    }
    clone.extend(words(&["--record", RECORD, "--termination-log", LAST_MESSAGE, "--on-exists"]));
    clone.push(on_exists(spec.branch.on_exists).to_owned());
    if spec.clone.filter == CloneFilter::Blobs {
        clone.extend(words(&["--filter", "blobs"]));
    }
    if spec.clone.depth > 0 {
        clone.push(format!("--depth={}", spec.clone.depth));
    }
    if spec.pull_request.mode != PullRequestMode::None && spec.pull_request.open_on == PullRequestOpenOn::Create {
        // By its message it is known again, so that it is of this workspace alone.
        let uid = workspace.uid().unwrap_or_default();
        clone.push(format!("--first-commit=Begin workspace {}\n\nLandfall-Workspace: {uid}", workspace.name_any()));
    }
    let mut clone_env = env.clone();
    clone_env.retain(|variable| variable["name"] != "LANDFALL_TIMEOUT");
    clone_env.push(literal("LANDFALL_TIMEOUT", &CLONE_SECONDS.to_string()));
    clone_env.extend(spec.branch.from.as_ref().map(|from| literal("LANDFALL_BRANCH_FROM", from)));
    let mut agent = words(&["workspace", "agent", "--record", RECORD, "--termination-log", LAST_MESSAGE, "--interval"]);
    agent.push(seconds(&spec.save.interval).to_string());
    if let Some(url) = &settings.reports_url {
        agent.extend([
            "--report-url".to_owned(),
            url.clone(),
            "--identity-file".to_owned(),
            format!("{IDENTITY}/token"),
        ]);
    }
    let (workspace_mount, token_mount) = (mount("workspace", VOLUME, false), mount("token", TOKEN, true));
    let scratch = mount("scratch", SCRATCH, false);
    let clone_mounts = json!([workspace_mount, token_mount, scratch, mount("tools", TOOLS, false)]);
    let agent_mounts =
        json!([workspace_mount, token_mount, scratch, mount("tools", TOOLS, true), mount("identity", IDENTITY, true)]);
    let mut agent = ours(AGENT, settings, &agent, &env, &agent_mounts);
    agent["restartPolicy"] = json!("Always");
    let mut pod_spec = common(workspace);
    if let Some(volumes) = pod_spec["volumes"].as_array_mut() {
        volumes.push(json!({"name": "tools", "emptyDir": {"sizeLimit": "16Mi"}}));
        volumes.push(json!({"name": "identity", "projected": {"defaultMode": 0o440, "sources": [
            {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}},
        ]}}));
    }
    pod_spec["hostname"] = json!(workspace.name_any().replace('.', "-"));
    pod_spec["terminationGracePeriodSeconds"] = json!(grace(workspace));
    pod_spec["initContainers"] = json!([ours(CLONE, settings, &clone, &clone_env, &clone_mounts), agent]);
    pod_spec["containers"] = json!([person(workspace, settings)]);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": owned(workspace, &name(workspace), Some("work")), "spec": pod_spec,
    })
}

/// Where the clone notes which branch it is at.
const RECORD: &str = "/run/landfall/tools/clone.json";
/// Where a container's last message is read from.
const LAST_MESSAGE: &str = "/dev/termination-log";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn on_exists(wish: BranchOnExists) -> &'static str {
    match wish {
        BranchOnExists::Resume => "resume",
        BranchOnExists::Fail => "fail",
        BranchOnExists::Suffix => "suffix",
    }
}

/// The container in which the person works: it sees the volume, the token, and what its git needs.
fn person(workspace: &Workspace, settings: &WorkspaceSettings) -> Value {
    let spec = &workspace.spec;
    let mut env = vec![literal("GIT_CONFIG_SYSTEM", &format!("{TOOLS}/gitconfig"))];
    env.extend(spec.pod.env.iter().map(|variable| literal(&variable.name, &variable.value)));
    let mut container = json!({
        "name": MAIN, "image": spec.image.as_ref().unwrap_or(&settings.workspace_image),
        "command": ["/bin/sh", "-c", WAIT], "workingDir": directory(workspace), "env": env,
        "volumeMounts": [
            mount("workspace", VOLUME, false), mount("token", TOKEN, true), mount("tools", TOOLS, true),
        ],
        "securityContext": security(),
    });
    if spec.image.is_none() {
        container["imagePullPolicy"] = json!(settings.pull_policy);
    }
    if let Some(resources) = &spec.pod.resources {
        container["resources"] = json!(resources);
    }
    if !spec.pod.ports.is_empty() {
        container["ports"] = json!(spec.pod.ports);
    }
    container
}

/// The Job that saves what is on the volume when the pod did not. It is tried again where that may help.
#[must_use]
pub fn job(workspace: &Workspace, attempt: u32, branch: &str, target: &Target, settings: &WorkspaceSettings) -> Value {
    let env = environment(workspace, branch, target);
    let args = words(&["workspace", "save", "--clean-is-success", "--termination-log", LAST_MESSAGE]);
    let mounts =
        json!([mount("workspace", VOLUME, false), mount("token", TOKEN, true), mount("scratch", SCRATCH, false)]);
    let mut pod_spec = common(workspace);
    pod_spec["restartPolicy"] = json!("Never");
    pod_spec["terminationGracePeriodSeconds"] = json!(30);
    pod_spec["containers"] = json!([ours(SAVE, settings, &args, &env, &mounts)]);
    let template = json!({"metadata": {
        "labels": {MANAGED_BY_LABEL: MANAGED_BY, WORKSPACE_LABEL: workspace.name_any(), ROLE_LABEL: "save"},
        "annotations": {WORKSPACE_UID_ANNOTATION: workspace.uid()},
    }, "spec": pod_spec});
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": owned(workspace, &job_name(workspace, attempt), Some("save")),
        "spec": {
            "backoffLimit": 2, "activeDeadlineSeconds": job_seconds(workspace), "template": template,
            "podFailurePolicy": {"rules": [{
                "action": "FailJob",
                "onExitCodes": {"containerName": SAVE, "operator": "In", "values": [1, 2, 20]},
            }]},
        },
    })
}

/// The name of the Job that is this attempt.
#[must_use]
pub fn job_name(workspace: &Workspace, attempt: u32) -> String {
    format!("{}-save-{attempt}", name(workspace))
}

/// How long a Job may take, with the pulling of its image.
#[must_use]
pub fn job_seconds(workspace: &Workspace) -> i64 {
    seconds(&workspace.spec.save.timeout) + 2 * MARGIN
}

/// The attempt that a Job is.
#[must_use]
pub fn attempt(job: &Job) -> u32 {
    job.name_any().rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Whether an object was made for this very workspace.
#[must_use]
pub fn is_ours<K: Resource>(object: &K, workspace: &Workspace) -> bool {
    let uid = workspace.metadata.uid.as_deref();
    let owners = object.meta().owner_references.as_deref().unwrap_or_default();
    uid.is_some() && owners.iter().any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid)
}

/// Whether a claim was made for this very workspace.
#[must_use]
pub fn is_our_claim(claim: &PersistentVolumeClaim, workspace: &Workspace) -> bool {
    let uid = workspace.metadata.uid.as_ref();
    uid.is_some() && claim.annotations().get(WORKSPACE_UID_ANNOTATION) == uid
}

/// The workspace that a pod is for: name and uid, as its controller or its Job says.
#[must_use]
pub fn workspace_of(pod: &Pod) -> Option<(&str, &str)> {
    let name = pod.labels().get(WORKSPACE_LABEL)?;
    Some((name, pod.annotations().get(WORKSPACE_UID_ANNOTATION)?))
}
