//! `Workspace`: a pod in which a person or a program works on a branch, whose work is pushed before anything goes.

mod status;

pub use status::{
    PullRequestState, PullRequestStatus, SaveStatus, WorkspaceGit, WorkspacePodStatus, WorkspaceStatus,
    WorkspaceTimings,
};

use crate::api::{NAME_RULE, PushRules, duration_rule};
use k8s_openapi::api::core::v1::{Affinity, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A pod with a repository's clone at a branch of its own, git that just works inside, and a pull request. Its work is
/// pushed before the workspace goes: commits, what nobody committed, stashes, other branches.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "landfall.dev",
    version = "v1alpha1",
    kind = "Workspace",
    plural = "workspaces",
    namespaced,
    shortname = "lfws",
    category = "landfall",
    status = "WorkspaceStatus",
    derive = "PartialEq",
    selectable = ".spec.repositoryRef.name",
    doc = "A pod with a repository's clone at a branch of its own, git that just works inside, and a pull request. Its work is pushed before the workspace goes.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.operatingMode"),
    printcolumn(name = "Branch", type_ = "string", json_path = ".status.git.branch"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Safe", type_ = "string", json_path = ".status.conditions[?(@.type==\"WorkSafe\")].status"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".status.pod.name"),
    printcolumn(name = "PR", type_ = "string", json_path = ".status.pullRequest.url"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repositoryRef.name", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 50").message("metadata.name becomes part of other objects' names: choose one of at most 50 characters")
)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceSpec {
    /// Whether the pod runs. `Suspended` ends the pod and keeps the volume; what is on it stays as it is, and is also
    /// pushed to `refs/landfall/wip/<uid>`.
    #[serde(default)]
    pub operating_mode: OperatingMode,
    /// The ProjectRepository in this namespace that is worked on.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.repositoryRef cannot be changed: make another Workspace"))]
    pub repository_ref: ProjectRepositoryReference,
    /// The author and committer of commits. Default: the App's bot, by the address under which GitHub knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<GitAuthor>,
    /// The branch that is worked on.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.branch cannot be changed: make another Workspace, or use git in this one"))]
    pub branch: WorkspaceBranch,
    /// What is cloned.
    #[serde(default)]
    pub clone: CloneOptions,
    /// What its git may push through the gateway besides the workspace's own branch. It takes effect as far as
    /// `spec.tenants[].push` of the GitHubApp grants it. Default: nothing.
    #[serde(default, skip_serializing_if = "PushRules::is_empty")]
    pub push: PushRules,
    /// The pull request.
    #[serde(default)]
    pub pull_request: PullRequestOptions,
    /// The image of the main container. It must contain `/bin/sh`. It runs as `runAsUser`, whatever user it names. Default: the
    /// operator's workspace image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("!self.matches('[ \\t\\r\\n]')").message("spec.image must be an image's reference, such as debian:13, without spaces"))]
    pub image: Option<String>,
    /// The user and the group that all containers run as, and that own the volume. Never 0. Default: what the administrator
    /// chose for the operator, which is 1000 unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub run_as_user: Option<i64>,
    /// Further fields of the pod. There is no way to name a ServiceAccount, a Secret or a volume.
    #[serde(default)]
    pub pod: WorkspacePod,
    /// The volume.
    #[serde(default)]
    pub storage: WorkspaceStorage,
    /// How work is saved.
    #[serde(default)]
    pub save: SaveOptions,
    /// Stops changes: no pod is begun or ended, no pull request opened. A workspace that is deleted is still saved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// Whether the pod runs.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperatingMode {
    /// It runs.
    #[default]
    Running,
    /// It does not; the volume stays.
    Suspended,
}

/// Names a ProjectRepository in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProjectRepositoryReference {
    /// The ProjectRepository's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(NAME_RULE).message("spec.repositoryRef.name must be the name of a ProjectRepository: lower-case letters, digits, - and ."))]
    pub name: String,
}

/// The author and committer of commits.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GitAuthor {
    /// `user.name`.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("!self.matches('[\\\\x00-\\\\x1f<>]')").message("spec.author.name must have no control characters and no < or >"))]
    pub name: String,
    /// `user.email`.
    #[schemars(length(min = 3, max = 254))]
    #[x_kube(validation = Rule::new("self.matches('^[^\\\\x00-\\\\x20<>]+@[^\\\\x00-\\\\x20<>]+$')").message("spec.author.email must be an address, such as mona@example.com"))]
    pub email: String,
}

/// The rules of git-check-ref-format(1) for a branch's name, which must also be no option and no full name of a ref.
pub(super) const BRANCH_RULE: &str = r"!self.startsWith('refs/') && !self.startsWith('-') && !self.matches('^[/.]|[/.]$|//|/[.]|[.][.]|@[{]|[.]lock(/|$)|[\\x00-\\x20\\x7f~^:?*\\[\\\\]')";

/// The branch that is worked on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceBranch {
    /// The branch that it begins from. Default: the repository's default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 244))]
    #[x_kube(
        validation = Rule::new(BRANCH_RULE)
            .message("spec.branch.from must be a branch's name, such as main or release/1.2: without refs/heads/, and as git check-ref-format has it")
    )]
    pub from: Option<String>,
    /// Its name. Default: `landfall/<name of the Workspace>-<first 5 digits of its uid>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new("!self.startsWith('landfall-wip/')").message("spec.branch.name must not be below landfall-wip/, where work goes that has no other place"),
        validation = Rule::new(BRANCH_RULE)
            .message("spec.branch.name must be a branch's name, such as fix/typo: without refs/heads/, and as git check-ref-format has it")
    )]
    pub name: Option<String>,
    /// What to do if there is a branch of that name when the workspace begins.
    #[serde(default)]
    pub on_exists: BranchOnExists,
}

/// What to do if there is a branch of the name.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BranchOnExists {
    /// Go on with it.
    #[default]
    Resume,
    /// Stop, and say so.
    Fail,
    /// Take the next name that is free: with -2, -3 and so on.
    Suffix,
}

/// What is cloned.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CloneOptions {
    /// The objects that the clone leaves out and git fetches when it needs them. It takes effect when the volume is cloned to.
    #[serde(default)]
    pub filter: CloneFilter,
    /// The number of commits of each branch that are fetched. Default: all. It takes effect when the volume is cloned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub depth: Option<i32>,
}

/// The objects that a clone leaves out.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloneFilter {
    /// Nothing.
    #[default]
    None,
    /// Files of commits that are not checked out.
    Blobs,
}

/// The pull request.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PullRequestOptions {
    /// Whether a pull request is opened, and whether as a draft.
    #[serde(default)]
    pub mode: PullRequestMode,
    /// When it is opened.
    #[serde(default)]
    pub open_on: PullRequestOpenOn,
    /// The branch that it is to be merged into. Default: `spec.branch.from`, else the repository's default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 244))]
    #[x_kube(
        validation = Rule::new(BRANCH_RULE)
            .message("spec.pullRequest.target must be a branch's name, such as main: without refs/heads/, and as git check-ref-format has it")
    )]
    pub target: Option<String>,
    /// Its title. Default: the workspace's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("!self.matches('[\\\\x00-\\\\x1f]')").message("spec.pullRequest.title must be one line"))]
    pub title: Option<String>,
    /// The description of the pull request, in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub body: Option<String>,
    /// Labels for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 50)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub labels: Vec<String>,
    /// The change to the pull request when the workspace is deleted.
    #[serde(default)]
    pub on_delete: PullRequestOnDelete,
}

/// Whether a pull request is opened, and whether as a draft.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullRequestMode {
    /// No pull request is opened.
    None,
    /// As a draft. GitHub refuses drafts in private repositories of free plans.
    #[default]
    Draft,
    /// Ready for review.
    Ready,
}

/// When a pull request is opened.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullRequestOpenOn {
    /// When something was pushed to the branch.
    #[default]
    FirstPush,
    /// At once; the branch begins with an empty commit, for GitHub refuses a pull request without commits.
    Create,
}

/// The change to a pull request when its workspace is deleted.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullRequestOnDelete {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is marked as ready for review.
    MarkReady,
    /// It is closed; the branch stays.
    Close,
}

/// Further fields of the pod: these and no others.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspacePod {
    /// The compute resources of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<WorkspaceResources>,
    /// Labels of the nodes that it may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that it tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Vec<Toleration>,
    /// The affinity of the pod, as in a Pod's spec (`kubectl explain pod.spec.affinity`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "affinity")]
    pub affinity: Option<Affinity>,
    /// Its runtime class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Secrets of this namespace with which the image is pulled. They are used by the node and do not get into the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<PullSecretReference>,
    /// Environment of the container, literal values only. `HTTPS_PROXY` and `NO_PROXY` hold for all containers of the pod and of
    /// the Job that saves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<WorkspaceVariable>,
    /// The ports of the container, for information only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["containerPort".into(), "protocol".into()]))]
    pub ports: Vec<WorkspacePort>,
}

/// Kubernetes' schema without its descriptions, which would be longer than all the rest of the definition.
fn affinity(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    fn strip(schema: &mut schemars::Schema) {
        schema.remove("description");
        schemars::transform::transform_subschemas(&mut strip, schema);
    }
    let mut schema = Affinity::json_schema(generator);
    strip(&mut schema);
    schema
}

/// The compute resources of a container.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceResources {
    /// The most that the container may use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub limits: BTreeMap<String, Quantity>,
    /// The least that the container gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "amounts")]
    pub requests: BTreeMap<String, Quantity>,
}

/// A variable of the environment.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceVariable {
    /// Its name.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_]*$')").message("spec.pod.env[].name takes letters, digits and _"),
        validation = Rule::new("!self.startsWith('LANDFALL_') && self != 'GIT_CONFIG_SYSTEM' && self != 'GITHUB_TOKEN'").message("spec.pod.env[].name: LANDFALL_* and GIT_CONFIG_SYSTEM are set by the operator, and GITHUB_TOKEN would be a credential that whatever runs in the pod can read; git and gh need none")
    )]
    pub name: String,
    /// Its value, as it stands here: `$(…)` is not replaced.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// A port of the container.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkspacePort {
    /// The port.
    #[schemars(range(min = 1, max = 65535))]
    pub container_port: i32,
    /// Its protocol.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub name: Option<String>,
}

/// A port's protocol.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum PortProtocol {
    /// Transmission Control Protocol.
    #[default]
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl PortProtocol {
    /// The protocol's name in a pod's spec.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// Names a Secret of this namespace with which an image is pulled.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PullSecretReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(NAME_RULE).message("spec.pod.imagePullSecrets[].name must be the name of a Secret: lower-case letters, digits, - and ."))]
    pub name: String,
}

/// The volume.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0")
        .message("spec.storage.size can grow, and cannot shrink: the volume has work on it"),
    validation = Rule::new("quantity(string(self.size)).isGreaterThan(quantity('0'))").message("spec.storage.size must be more than 0"),
    validation = Rule::new("self.accessMode == oldSelf.accessMode && has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("spec.storage.storageClassName and spec.storage.accessMode cannot be changed: the volume is there")
)]
pub struct WorkspaceStorage {
    /// How large. It can grow where the storage class allows volumes to be expanded.
    #[serde(default = "default_size")]
    #[schemars(schema_with = "amount")]
    pub size: Quantity,
    /// The storage class. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// How it is mounted.
    #[serde(default)]
    pub access_mode: AccessMode,
}

/// Quantities by the name of a resource.
fn amounts(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object", "maxProperties": 16,
        "additionalProperties": {
            "description": "A quantity, such as `500m` or `2Gi`.", "x-kubernetes-int-or-string": true,
            "pattern": "^[0-9]+(\\.[0-9]+)?([numkMGTPE]|[KMGTPE]i)?$",
        },
    })
}

/// A quantity of bytes.
fn amount(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"x-kubernetes-int-or-string": true, "pattern": "^[0-9]+(\\.[0-9]+)?([EPTGMk]|[EPTGMK]i)?$"})
}

fn default_size() -> Quantity {
    Quantity("10Gi".to_owned())
}

impl Default for WorkspaceStorage {
    fn default() -> Self {
        Self { size: default_size(), storage_class_name: None, access_mode: AccessMode::default() }
    }
}

/// How a volume is mounted.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    /// By one node at a time.
    #[default]
    ReadWriteOnce,
    /// By one pod at a time.
    ReadWriteOncePod,
    /// By several nodes at a time.
    ReadWriteMany,
}

/// How work is saved.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SaveOptions {
    /// How often what is on the volume is pushed to `refs/landfall/wip/<uid>` while the pod runs; `0s`: never.
    #[serde(default = "default_save")]
    #[schemars(length(min = 2, max = 28))]
    #[x_kube(
        validation = Rule::new(duration_rule!("(duration(self) == duration('0s') || duration(self) >= duration('10s')) && duration(self) <= duration('24h')"))
            .message("spec.save.interval must be 0s, or a duration between 10s and 24h, such as 5m")
    )]
    pub interval: String,
    /// How long a save may take.
    #[serde(default = "default_save")]
    #[schemars(length(min = 2, max = 28))]
    #[x_kube(
        validation = Rule::new(duration_rule!("duration(self) >= duration('10s') && duration(self) <= duration('1h')"))
            .message("spec.save.timeout must be a duration between 10s and 1h, such as 5m")
    )]
    pub timeout: String,
    /// What to do with work that cannot be pushed when the workspace is deleted.
    #[serde(default)]
    pub on_failure: SaveOnFailure,
}

fn default_save() -> String {
    "5m".to_owned()
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { interval: default_save(), timeout: default_save(), on_failure: SaveOnFailure::default() }
    }
}

/// What to do with work that cannot be pushed.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveOnFailure {
    /// The Workspace stays until it can be pushed, or is deleted by force.
    Block,
    /// The Workspace goes. Its volume stays, and is named in an event and by the volume's label
    /// `landfall.dev/retained`.
    #[default]
    Retain,
    /// The work is given up, which an event says.
    Discard,
}
