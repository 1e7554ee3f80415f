//! The objects of a workspace: its token, its volume, its pod, and the Job that saves.
//!
//! Pure. Invariant: of a tenant's text, only the fields of [`crate::api::WorkspaceSpec`] get into a pod, each as a
//! separate value. A tenant cannot name a Secret, a ServiceAccount or a volume, and no text of a tenant is part of a
//! command line. Every container meets the restricted Pod Security Standard.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>

mod container;
#[cfg(test)]
mod gateway_tests;
mod proxy;

use super::seen::{Holder, Workflows};
use crate::api::{
    AccessMode, BranchOnExists, CloneFilter, GATEWAY_CA_ANNOTATION, InstallationReference, InstallationToken,
    InstallationTokenSpec, MANAGED_BY, MANAGED_BY_LABEL, PullRequestMode, PullRequestOpenOn, RETAINED_LABEL,
    RepositoryReference, RepositorySelection, SecretFormat, SecretTemplate, WORK_FINALIZER, WORKSPACE_LABEL,
    WORKSPACE_REPOSITORY_ANNOTATION, WORKSPACE_UID_ANNOTATION, Workspace, default_renew_before,
};
use crate::ids::RepositoryId;
use crate::settings::WorkspaceSettings;
use container::{
    Access, GATEWAY_VOLUME, IDENTITY_VOLUME, SCRATCH_VOLUME, TOKEN_VOLUME, TOOLS_VOLUME, WORKSPACE_VOLUME, literal,
    ours,
};
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, LocalObjectReference, PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use std::collections::BTreeMap;

/// Label with the role of a pod, `work` or `save`.
pub const ROLE_LABEL: &str = "landfall.dev/role";
/// The container in which the person works.
pub const MAIN: &str = "main";
/// The container that clones.
pub const CLONE: &str = "clone";
/// The container that reports, and saves when the pod ends.
pub const AGENT: &str = "agent";
/// The container of a Job that saves.
pub const SAVE: &str = "save";

/// Where the volume is mounted.
const VOLUME: &str = "/workspace";
/// Where the token's Secret is mounted, if the workspace has no gateway.
const TOKEN: &str = "/run/landfall/token";
/// Where the token for the gateway and its certificates are mounted.
const GATEWAY: &str = "/run/landfall/gateway";
/// Where the files for a person's git are mounted.
const TOOLS: &str = "/run/landfall/tools";
/// Where the agent's identity token is mounted.
const IDENTITY: &str = "/run/landfall/identity";
/// Where the operator's containers may write.
const SCRATCH: &str = "/scratch";
/// How long a clone may take. A clone without progress ends sooner, by git's own limit.
const CLONE_SECONDS: u32 = 3600;
/// How often a pod that goes to the gateway asks it: for a minute, because the gateway waits for the API server to know the pod's
/// address.
const ATTEMPTS: &str = "--attempts=7";
/// How many seconds the end of a pod takes in addition to the save.
const MARGIN: i64 = 60;

/// The parameters of a workspace's containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address that git clones from, without credentials.
    pub url: String,
    /// The gateway to which git goes in its place; none: git goes there, with the token in the Secret.
    pub gateway: Option<Gateway>,
    /// Whether the token's Secret has certificates.
    pub has_ca: bool,
    /// `user.name`.
    pub author_name: String,
    /// `user.email`.
    pub author_email: String,
}

/// The gateway, for one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The address of the repository.
    pub url: String,
    /// The certificates by which its own is trusted, in PEM.
    pub authority: String,
}

/// The files with which the git of a pod reaches the repository.
struct Files {
    mount: VolumeMount,
    token: String,
    /// The certificates to trust instead of the system's.
    ca: Option<String>,
}

impl Target {
    fn files(&self) -> Files {
        match self.gateway {
            Some(_) => Files {
                mount: GATEWAY_VOLUME.at(GATEWAY, Access::Read),
                token: format!("{GATEWAY}/{}", container::TOKEN_FILE),
                ca: Some(format!("{GATEWAY}/{}", container::CA_FILE)),
            },
            None => Files {
                mount: TOKEN_VOLUME.at(TOKEN, Access::Read),
                token: format!("{TOKEN}/password"),
                ca: self.has_ca.then(|| format!("{TOKEN}/{}", container::CA_FILE)),
            },
        }
    }

    /// The annotation of a pod from which the kubelet writes the gateway's certificates.
    fn annotation(&self) -> Option<(String, String)> {
        let gateway = self.gateway.as_ref()?;
        Some((GATEWAY_CA_ANNOTATION.to_owned(), gateway.authority.clone()))
    }
}

/// The name of all objects of a workspace.
#[must_use]
pub fn name(workspace: &Workspace) -> String {
    format!("ws-{}", workspace.name_any())
}

/// The workspace whose objects have this name, if it is the name of such an object.
#[must_use]
pub fn named(object: &str) -> Option<&str> {
    object.strip_prefix("ws-")
}

/// The first digits of an object's uid.
#[must_use]
pub fn short_uid(workspace: &Workspace) -> String {
    workspace.uid().unwrap_or_default().chars().take(5).collect()
}

/// The branch in the spec, or the default one.
#[must_use]
pub fn wanted_branch(workspace: &Workspace) -> String {
    let given = workspace.spec.branch.name.clone();
    given.unwrap_or_else(|| format!("landfall/{}-{}", workspace.name_any(), short_uid(workspace)))
}

/// The seconds of a duration in the spec, which the API server has validated.
#[must_use]
pub fn seconds(text: &str) -> i64 {
    crate::api::duration(text).map_or(300, |duration| duration.as_secs())
}

/// How long a pod may take to end.
#[must_use]
pub fn grace(workspace: &Workspace) -> i64 {
    seconds(&workspace.spec.save.timeout) + MARGIN
}

fn metadata(workspace: &Workspace, name: &str, role: Option<&str>) -> ObjectMeta {
    let mut labels = BTreeMap::from([
        (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
        (WORKSPACE_LABEL.to_owned(), workspace.name_any()),
    ]);
    labels.extend(role.map(|role| (ROLE_LABEL.to_owned(), role.to_owned())));
    let annotations = workspace.uid().map(|uid| BTreeMap::from([(WORKSPACE_UID_ANNOTATION.to_owned(), uid)]));
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: workspace.namespace(),
        labels: Some(labels),
        annotations,
        ..ObjectMeta::default()
    }
}

/// The same, owned by the workspace.
fn owned(workspace: &Workspace, name: &str, role: Option<&str>) -> ObjectMeta {
    let owner_references = Some(workspace.controller_owner_ref(&()).into_iter().collect());
    ObjectMeta { owner_references, ..metadata(workspace, name, role) }
}

#[must_use]
pub fn token(
    workspace: &Workspace,
    installation: &str,
    repository: RepositoryId,
    workflows: Workflows,
) -> InstallationToken {
    let mut permissions = vec![("contents", "write"), ("metadata", "read")];
    if workflows == Workflows::Allowed {
        permissions.push(("workflows", "write"));
    }
    if workspace.spec.pull_request.mode != PullRequestMode::None {
        permissions.push(("pull_requests", "write"));
    }
    let name = name(workspace);
    // It is deleted after the work is saved or kept, and not when its namespace is deleted.
    let metadata = ObjectMeta { finalizers: Some(vec![WORK_FINALIZER.to_owned()]), ..owned(workspace, &name, None) };
    let spec = InstallationTokenSpec {
        installation_ref: InstallationReference { name: installation.to_owned() },
        repositories: vec![RepositoryReference { name: None, id: Some(repository) }],
        repository_selection: RepositorySelection::Selected,
        permissions: permissions.into_iter().map(|(name, level)| (name.to_owned(), level.to_owned())).collect(),
        secret: SecretTemplate {
            name,
            format: SecretFormat::BasicAuth,
            template: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        },
        renew_before: default_renew_before(),
        paused: false,
    };
    InstallationToken { metadata, spec, status: None }
}

/// The volume's claim. It has no owner: it is deleted when its work is safe, and not because another object was
/// deleted.
#[must_use]
pub fn claim(workspace: &Workspace, repository: RepositoryId) -> PersistentVolumeClaim {
    let storage = &workspace.spec.storage;
    let mut metadata = metadata(workspace, &name(workspace), None);
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(WORKSPACE_REPOSITORY_ANNOTATION.to_owned(), repository.to_string());
    metadata.finalizers = Some(vec![WORK_FINALIZER.to_owned()]);
    let access = match storage.access_mode {
        AccessMode::ReadWriteOnce => "ReadWriteOnce",
        AccessMode::ReadWriteOncePod => "ReadWriteOncePod",
        AccessMode::ReadWriteMany => "ReadWriteMany",
    };
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![access.to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), storage.size.clone())])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: storage.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Whether a claim requests less than a size.
#[must_use]
pub fn asks_for_less(claim: &PersistentVolumeClaim, wanted: &Quantity) -> bool {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let asked = requests.and_then(|requests| bytes(requests.get("storage")?));
    asked.zip(bytes(wanted)).is_some_and(|(asked, wanted)| asked < wanted)
}

/// A quantity in bytes, with the precision of a float, which is enough for a volume.
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

/// The environment of all the operator's containers. It describes the work and the proxy, and contains no secret.
fn environment(workspace: &Workspace, branch: &str, target: &Target, settings: &WorkspaceSettings) -> Vec<EnvVar> {
    let Files { token, ca, .. } = target.files();
    let mut pairs = vec![
        ("LANDFALL_REPOSITORY_URL", target.url.clone()),
        ("LANDFALL_TOKEN_FILE", token),
        ("LANDFALL_DIRECTORY", directory(workspace)),
        ("LANDFALL_WORKSPACE", workspace.name_any()),
        ("LANDFALL_WORKSPACE_UID", workspace.uid().unwrap_or_default()),
        ("LANDFALL_BRANCH", branch.to_owned()),
        ("LANDFALL_AUTHOR_NAME", target.author_name.clone()),
        ("LANDFALL_AUTHOR_EMAIL", target.author_email.clone()),
        ("LANDFALL_TIMEOUT", seconds(&workspace.spec.save.timeout).to_string()),
        ("LANDFALL_SCRATCH", SCRATCH.to_owned()),
    ];
    pairs.extend(ca.map(|ca| ("LANDFALL_CA_FILE", ca)));
    pairs.extend(target.gateway.as_ref().map(|gateway| ("LANDFALL_GATEWAY_REPOSITORY_URL", gateway.url.clone())));
    let mut variables: Vec<_> = pairs.into_iter().map(|(name, value)| literal(name, &value)).collect();
    variables.extend(proxy::given(workspace, settings));
    variables.extend(proxy::own(workspace));
    variables
}

/// The directory of the clone on the volume. It has the name of the `ProjectRepository`, which stays when the
/// repository is renamed.
#[must_use]
pub fn directory(workspace: &Workspace) -> String {
    format!("{VOLUME}/{}", workspace.spec.repository_ref.name)
}

/// The common part of the `PodSpec` of the pod and of the Job's pod.
fn common(workspace: &Workspace, target: &Target, settings: &WorkspaceSettings) -> PodSpec {
    let (user, pod) = (workspace.spec.run_as_user.or(settings.user), &workspace.spec.pod);
    // The containers' programs are Linux programs.
    let secrets = pod.image_pull_secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() });
    let mut nodes = BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
    nodes.extend(pod.node_selector.clone());
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: user,
            run_as_group: user,
            fs_group: user,
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        volumes: Some(container::volumes(&name(workspace), target)),
        node_selector: Some(nodes),
        tolerations: (!pod.tolerations.is_empty()).then(|| pod.tolerations.clone()),
        affinity: pod.affinity.clone(),
        runtime_class_name: pod.runtime_class_name.clone(),
        image_pull_secrets: (!pod.image_pull_secrets.is_empty()).then(|| secrets.collect()),
        ..PodSpec::default()
    }
}

/// The command of the person's container: it waits, and ends at once on a signal.
const WAIT: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";

#[must_use]
pub fn pod(workspace: &Workspace, target: &Target, settings: &WorkspaceSettings) -> Pod {
    let spec = &workspace.spec;
    let env = environment(workspace, &wanted_branch(workspace), target, settings);
    let mut clone = words(&["workspace", "clone", "--tools", TOOLS, "--person-tools", TOOLS]);
    let Files { mount: credentials, token, ca } = target.files();
    clone.extend(["--person-token-file".to_owned(), token]);
    clone.extend(ca.into_iter().flat_map(|ca| ["--person-ca-file".to_owned(), ca]));
    clone.extend(target.gateway.iter().map(|_| ATTEMPTS.to_owned()));
    clone.extend(words(&["--record", RECORD, "--termination-log", LAST_MESSAGE, "--on-exists"]));
    clone.push(on_exists(spec.branch.on_exists).to_owned());
    if spec.clone.filter == CloneFilter::Blobs {
        clone.extend(words(&["--filter", "blobs"]));
    }
    if let Some(depth) = spec.clone.depth {
        clone.push(format!("--depth={depth}"));
    }
    if spec.pull_request.mode != PullRequestMode::None && spec.pull_request.open_on == PullRequestOpenOn::Create {
        // The message contains the uid, so the commit belongs to this workspace alone and is recognized later.
        let uid = workspace.uid().unwrap_or_default();
        clone.push(format!("--first-commit=Begin workspace {}\n\nLandfall-Workspace: {uid}", workspace.name_any()));
    }
    let mut clone_env = env.clone();
    clone_env.retain(|variable| variable.name != "LANDFALL_TIMEOUT");
    clone_env.push(literal("LANDFALL_TIMEOUT", &CLONE_SECONDS.to_string()));
    clone_env.extend(spec.branch.from.as_ref().map(|from| literal("LANDFALL_BRANCH_FROM", from)));
    let mut agent = words(&["workspace", "agent", "--record", RECORD, "--termination-log", LAST_MESSAGE, "--interval"]);
    agent.push(seconds(&spec.save.interval).to_string());
    if let Some(url) = &settings.reports_url {
        agent.extend([
            "--report-url".to_owned(),
            url.clone(),
            "--identity-file".to_owned(),
            format!("{IDENTITY}/{}", container::TOKEN_FILE),
        ]);
    }
    let volume = WORKSPACE_VOLUME.at(VOLUME, Access::Write);
    let shared = [volume, credentials.clone(), SCRATCH_VOLUME.at(SCRATCH, Access::Write)];
    let clone_mounts = [&shared[..], &[TOOLS_VOLUME.at(TOOLS, Access::Write)]].concat();
    let own = [TOOLS_VOLUME.at(TOOLS, Access::Read), IDENTITY_VOLUME.at(IDENTITY, Access::Read)];
    let agent_mounts = [&shared[..], &own].concat();
    let agent =
        Container { restart_policy: Some("Always".to_owned()), ..ours(AGENT, settings, agent, env, agent_mounts) };
    let common = common(workspace, target, settings);
    let pod_spec = PodSpec {
        volumes: common.volumes.map(|volumes| [volumes, container::volumes_of_pod()].concat()),
        hostname: Some(workspace.name_any().replace('.', "-")),
        termination_grace_period_seconds: Some(grace(workspace)),
        init_containers: Some(vec![ours(CLONE, settings, clone, clone_env, clone_mounts), agent]),
        containers: vec![person(workspace, credentials, settings)],
        ..common
    };
    let mut metadata = owned(workspace, &name(workspace), Some("work"));
    metadata.annotations.get_or_insert_default().extend(target.annotation());
    Pod { metadata, spec: Some(pod_spec), status: None }
}

/// Where the clone writes its branch.
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

/// The container in which the person works. It has the volume, the credentials, and the files for git.
fn person(workspace: &Workspace, credentials: VolumeMount, settings: &WorkspaceSettings) -> Container {
    let spec = &workspace.spec;
    let mut env = vec![literal("GIT_CONFIG_SYSTEM", &format!("{TOOLS}/gitconfig"))];
    env.extend(proxy::given(workspace, settings));
    env.extend(spec.pod.env.iter().map(|variable| literal(&variable.name, &variable.value)));
    let resources = spec.pod.resources.as_ref().map(|asked| ResourceRequirements {
        limits: (!asked.limits.is_empty()).then(|| asked.limits.clone()),
        requests: (!asked.requests.is_empty()).then(|| asked.requests.clone()),
        ..ResourceRequirements::default()
    });
    let ports = spec.pod.ports.iter().map(|port| ContainerPort {
        container_port: port.container_port,
        protocol: Some(port.protocol.as_str().to_owned()),
        name: port.name.clone(),
        ..ContainerPort::default()
    });
    Container {
        name: MAIN.to_owned(),
        image: Some(spec.image.as_ref().unwrap_or(&settings.workspace_image).clone()),
        image_pull_policy: spec.image.is_none().then(|| settings.pull_policy.clone()),
        command: Some(words(&["/bin/sh", "-c", WAIT])),
        working_dir: Some(directory(workspace)),
        env: Some(env),
        volume_mounts: Some(vec![
            WORKSPACE_VOLUME.at(VOLUME, Access::Write),
            credentials,
            TOOLS_VOLUME.at(TOOLS, Access::Read),
        ]),
        security_context: Some(container::security()),
        resources,
        ports: (!spec.pod.ports.is_empty()).then(|| ports.collect()),
        ..Container::default()
    }
}

/// The Job that saves the work on the volume when the pod did not. Kubernetes retries it where that may help.
#[must_use]
pub fn job(workspace: &Workspace, attempt: u32, branch: &str, target: &Target, settings: &WorkspaceSettings) -> Job {
    let env = environment(workspace, branch, target, settings);
    let mut args = words(&["workspace", "save", "--clean-is-success", "--termination-log", LAST_MESSAGE]);
    args.extend(target.gateway.iter().map(|_| ATTEMPTS.to_owned()));
    let mounts = vec![
        WORKSPACE_VOLUME.at(VOLUME, Access::Write),
        target.files().mount,
        SCRATCH_VOLUME.at(SCRATCH, Access::Write),
    ];
    let pod_spec = PodSpec {
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(30),
        containers: vec![ours(SAVE, settings, args, env, mounts)],
        ..common(workspace, target, settings)
    };
    let ObjectMeta { labels, mut annotations, .. } = metadata(workspace, "", Some("save"));
    annotations.get_or_insert_default().extend(target.annotation());
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels, annotations, ..ObjectMeta::default() }),
        spec: Some(pod_spec),
    };
    let not_to_be_mended = PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(SAVE.to_owned()),
            operator: "In".to_owned(),
            values: vec![1, 2, 20],
        }),
        ..PodFailurePolicyRule::default()
    };
    let spec = JobSpec {
        backoff_limit: Some(2),
        active_deadline_seconds: Some(job_seconds(workspace)),
        template,
        pod_failure_policy: Some(PodFailurePolicy { rules: vec![not_to_be_mended] }),
        ..JobSpec::default()
    };
    Job { metadata: owned(workspace, &job_name(workspace, attempt), Some("save")), spec: Some(spec), status: None }
}

#[must_use]
pub fn job_name(workspace: &Workspace, attempt: u32) -> String {
    format!("{}-save-{attempt}", name(workspace))
}

/// How long a Job may take, including the pull of its image.
#[must_use]
pub fn job_seconds(workspace: &Workspace) -> i64 {
    seconds(&workspace.spec.save.timeout) + 2 * MARGIN
}

/// The number of a Job's attempt.
#[must_use]
pub fn attempt(job: &Job) -> u32 {
    job.name_any().rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Whether an object was made for this workspace, with this uid.
#[must_use]
pub fn is_ours<K: Resource>(object: &K, workspace: &Workspace) -> bool {
    workspace.metadata.uid.as_deref().is_some_and(|uid| is_of(object, uid))
}

/// Whether an object was made for the workspace with this uid. A deletion with `--cascade=orphan` removes the owner
/// references; the pod still has the volume then, and the annotation shows whose it is.
#[must_use]
pub fn is_of<K: Resource>(object: &K, uid: &str) -> bool {
    let controller = object.owner_references().iter().find(|owner| owner.controller == Some(true));
    match controller {
        Some(owner) => owner.uid == uid,
        None => object.annotations().get(WORKSPACE_UID_ANNOTATION).is_some_and(|of| of == uid),
    }
}

/// Whose an object is that has the name of this workspace's.
#[must_use]
pub fn holder<K: Resource>(object: &K, workspace: &Workspace) -> Holder {
    if object.labels().contains_key(RETAINED_LABEL) {
        return Holder::Kept;
    }
    let is_named = object.labels().get(WORKSPACE_LABEL) == Some(&workspace.name_any());
    let uid = object.annotations().get(WORKSPACE_UID_ANNOTATION);
    let former = uid.filter(|uid| is_named && Some(*uid) != workspace.metadata.uid.as_ref());
    former.map_or(Holder::Other, |uid| Holder::Former(uid.clone()))
}

/// Whether a claim was made for this workspace, with this uid.
#[must_use]
pub fn is_our_claim(claim: &PersistentVolumeClaim, workspace: &Workspace) -> bool {
    let uid = workspace.metadata.uid.as_ref();
    uid.is_some() && claim.annotations().get(WORKSPACE_UID_ANNOTATION) == uid
}

/// The name and uid of a pod's workspace, from its controller or its Job.
#[must_use]
pub fn workspace_of(pod: &Pod) -> Option<(&str, &str)> {
    let name = pod.labels().get(WORKSPACE_LABEL)?;
    Some((name, pod.annotations().get(WORKSPACE_UID_ANNOTATION)?))
}
