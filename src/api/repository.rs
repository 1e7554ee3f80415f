//! `ProjectRepository`: a repository as a resource, its webhook, and what a push to it does in the cluster.

#![expect(clippy::duplicated_attributes, reason = "several printer columns have the same type")]

use super::delivery::Delivery;
use super::token::{InstallationReference, RepositoryReference};
use super::workspace::BRANCH_RULE;
use super::{NAME_RULE, duration_rule, reconciled};
use crate::ids::{self, HookId, RepositoryId};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, MicroTime, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A repository: one that exists, a fork that is ensured, or any git repository by its address. Its head is followed by
/// polling and by webhooks, and a new head rolls the workloads that `onPush` names, exactly once.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "landfall.dev",
    version = "v1alpha1",
    kind = "ProjectRepository",
    plural = "projectrepositories",
    namespaced,
    shortname = "prepo",
    category = "landfall",
    status = "ProjectRepositoryStatus",
    derive = "PartialEq",
    selectable = ".spec.installationRef.name",
    doc = "A repository that exists, a fork that is ensured, or a git repository by address. Its head is followed; a new head rolls the workloads under spec.onPush, exactly once.",
    printcolumn(name = "Repository", type_ = "string", json_path = ".status.fullName"),
    printcolumn(name = "Branch", type_ = "string", json_path = ".status.head.branch"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Deployed", type_ = "string", json_path = ".status.deployment.result"),
    printcolumn(name = "Head", type_ = "string", json_path = ".status.head.sha", priority = "1"),
    printcolumn(name = "Installation", type_ = "string", json_path = ".spec.installationRef.name", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.installationRef) != has(self.source.url)")
        .message("spec.installationRef is needed for source.existing and source.fork, and has no meaning for source.url"),
    validation = Rule::new("has(self.installationRef) == has(oldSelf.installationRef)")
        .message("spec.installationRef cannot be added or removed: make another ProjectRepository"),
    validation = Rule::new("!has(self.source.url) || !has(self.webhook) || self.webhook.mode != 'Repository'")
        .message("spec.webhook.mode Repository needs GitHub's API: with source.url the branch is polled")
)]
pub struct ProjectRepositorySpec {
    /// The GitHubInstallation in this namespace. Not for `source.url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.installationRef cannot be changed: make another ProjectRepository"))]
    pub installation_ref: Option<InstallationReference>,
    /// The repository.
    pub source: RepositorySource,
    /// The branch that is followed. Default: the repository's default branch, also when it becomes another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 244))]
    #[x_kube(
        validation = Rule::new(BRANCH_RULE)
            .message("spec.branch must be a branch's name, such as main or release/1.2: without refs/heads/, and as git check-ref-format has it")
    )]
    pub branch: Option<String>,
    /// How pushes are announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<RepositoryWebhook>,
    /// The interval at which the head is polled, `30s` to `24h`. Jitter adds up to a fifth. A poll costs nothing of GitHub's REST
    /// rate limit.
    #[serde(default = "default_interval")]
    #[schemars(length(min = 2, max = 28))]
    #[x_kube(
        validation = Rule::new(duration_rule!("duration(self) >= duration('30s') && duration(self) <= duration('24h')"))
            .message("spec.pollInterval must be a duration between 30s and 24h, such as 10m")
    )]
    pub poll_interval: String,
    /// The actions that run when the branch has a new head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_push: Option<OnPush>,
    /// Stops changes: on GitHub (webhooks, forks) and in the cluster (redeploys). The head is still followed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

fn default_interval() -> String {
    "10m".to_owned()
}

/// The repository: exactly one of `existing`, `fork` and `url`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.existing), has(self.fork), has(self.url)].filter(x, x).size() == 1")
        .message("spec.source takes exactly one of existing, fork and url"),
    validation = Rule::new("has(self.existing) == has(oldSelf.existing) && has(self.fork) == has(oldSelf.fork) && has(self.url) == has(oldSelf.url)")
        .message("spec.source cannot become one of another kind: make another ProjectRepository"),
    validation = Rule::new("!has(self.credentialsSecretRef) || has(self.url)")
        .message("spec.source.credentialsSecretRef is for source.url: other sources use the App's tokens")
)]
pub struct RepositorySource {
    /// A repository of the installation's account. It is pinned to its id when it is first found: renames are followed, and a new
    /// repository with the old name is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.source.existing cannot be changed: make another ProjectRepository"))]
    pub existing: Option<RepositoryReference>,
    /// A fork in the installation's account, which is made if it is not there. Needs a grant of `administration: write`
    /// and `contents: write`, and the App on all repositories of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<ForkSource>,
    /// The https address of any git repository, on a host that the operator allows. It is polled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 1024))]
    #[x_kube(
        validation = Rule::new("self.startsWith('https://')").message("spec.source.url must begin with https://"),
        validation = Rule::new("!self.matches('^https://[^/]*@') && !self.contains('?') && !self.contains('#')")
            .message("spec.source.url must not hold credentials, a query or a fragment: credentials belong into the Secret of spec.source.credentialsSecretRef"),
        validation = Rule::new("self == oldSelf").message("spec.source.url cannot be changed: make another ProjectRepository")
    )]
    pub url: Option<String>,
    /// The Secret in this namespace with the credentials for `url`: `username`, the password under `key`, and `host`, which must
    /// equal the host of `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<PasswordSecretReference>,
}

/// A fork to ensure.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ForkSource {
    /// The repository to fork, `owner/name`, of another account.
    #[schemars(length(min = 3, max = 140))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9._-]+$')").message("spec.source.fork.of must be owner/name, such as upstream/lib"),
        validation = Rule::new("self == oldSelf").message("spec.source.fork.of cannot be changed: make another ProjectRepository")
    )]
    pub of: String,
    /// The name of the fork if the operator creates it. Default: the upstream's name. An existing fork is used whatever its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message("spec.source.fork.name must stand without its owner, which is the installation's account")
    )]
    pub name: Option<String>,
    /// The branches that the fork is created with. A later change has no effect.
    #[serde(default)]
    pub branches: ForkBranches,
    /// How the fork's branch is kept in step with the same branch of its upstream.
    #[serde(default)]
    pub sync: ForkSync,
}

/// The branches that a fork is created with.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForkBranches {
    /// The default branch.
    #[default]
    Default,
    /// All branches that there are when the fork is made.
    All,
}

/// How a fork is kept in step.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ForkSync {
    /// The interval at which the upstream is checked: `1m` to `168h`, or `0s` for never. A fork that is only behind is
    /// fast-forwarded; a fork with commits of its own is left unchanged, and its condition `InStep` says so.
    #[serde(default = "default_interval")]
    #[schemars(length(min = 2, max = 28))]
    #[x_kube(
        validation = Rule::new(duration_rule!("(duration(self) == duration('0s') || (duration(self) >= duration('1m') && duration(self) <= duration('168h')))"))
            .message("spec.source.fork.sync.interval must be a duration between 1m and 168h, such as 10m, or 0s for never")
    )]
    pub interval: String,
}

impl Default for ForkSync {
    fn default() -> Self {
        Self { interval: default_interval() }
    }
}

/// Names a Secret in the same namespace, and the key that has the password.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSecretReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(NAME_RULE).message("spec.source.credentialsSecretRef.name must be the name of a Secret: lower-case letters, digits, - and ."))]
    pub name: String,
    /// The key in the Secret that has the password.
    #[serde(default = "default_password_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("spec.source.credentialsSecretRef.key must be a key of the Secret, such as password"))]
    pub key: String,
}

fn default_password_key() -> String {
    "password".to_owned()
}

/// How pushes are announced.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryWebhook {
    /// The webhook by which pushes are announced. The head is also polled in every mode.
    #[serde(default)]
    pub mode: WebhookMode,
}

/// The webhook by which pushes are announced.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookMode {
    /// The App's webhook, which the GitHubApp configures.
    #[default]
    App,
    /// A webhook of the repository, which the operator creates, repairs, and removes when this object is deleted. Needs a grant of
    /// `repository_hooks: write`.
    Repository,
    /// No webhook.
    None,
}

/// The actions for a new head.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OnPush {
    /// The ServiceAccount in this namespace that the operator impersonates to run the actions. It needs `get`, `list` and `patch` of the workloads,
    /// and its namespace must let the operator impersonate it: a Role with the verb `impersonate` on `serviceaccounts`
    /// of this name, bound to the operator.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(NAME_RULE).message("spec.onPush.serviceAccountName must be the name of a ServiceAccount in this namespace")
    )]
    pub service_account_name: String,
    /// The time to wait for further pushes before the actions run: at most `10m`; `0s` runs them at once.
    #[serde(default = "default_debounce")]
    #[schemars(length(min = 2, max = 28))]
    #[x_kube(
        validation = Rule::new(duration_rule!("duration(self) <= duration('10m')"))
            .message("spec.onPush.debounce must be a duration of at most 10m, such as 2s")
    )]
    pub debounce: String,
    /// The actions, which run side by side.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub actions: Vec<PushAction>,
}

fn default_debounce() -> String {
    "2s".to_owned()
}

/// One thing that a new head does.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PushAction {
    /// Rolls a workload, as `kubectl rollout restart` does, by annotations of its pods' template: `landfall.dev/sha`,
    /// `landfall.dev/sequence` and `landfall.dev/repository`.
    pub rollout_restart: RolloutRestart,
}

/// The workloads to roll: one by name, or those that labels select.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) != has(self.selector)").message("spec.onPush.actions[].rolloutRestart must have exactly one of name and selector"),
    validation = Rule::new("!has(self.selector) || (has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0) || (has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0)")
        .message("an empty spec.onPush.actions[].rolloutRestart.selector would roll every workload: say matchLabels or matchExpressions")
)]
pub struct RolloutRestart {
    /// The workload's kind.
    pub kind: WorkloadKind,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(NAME_RULE).message("spec.onPush.actions[].rolloutRestart.name must be the name of a workload in this namespace")
    )]
    pub name: Option<String>,
    /// Their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// The kinds of workloads that can be rolled (group `apps`).
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// Its pods are replaced as `spec.strategy` says.
    Deployment,
    /// Its pods are replaced in order, as `spec.updateStrategy` says.
    StatefulSet,
    /// The pod on each node is replaced, as `spec.updateStrategy` says.
    DaemonSet,
}

/// What the operator saw of the repository, and did.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProjectRepositoryStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The `metadata.uid` of the object. If it differs, this status belongs to an earlier object of the same name and is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// `Ready` is True while the operator follows the branch. `Reconciling` (the operator is working on it), `Retrying` (it will
    /// repeat a failed call) and `Stalled` (a person must act) are present only while they are True. `WebhookReady`, `InStep`
    /// (of a fork) and `Deployed` are True in normal operation, and absent where the spec does not ask for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The repository's id on GitHub, to which this object is bound.
    #[serde(
        default,
        deserialize_with = "ids::lenient",
        rename = "repositoryID",
        skip_serializing_if = "Option::is_none"
    )]
    pub repository_id: Option<RepositoryId>,
    /// The repository's id in GraphQL.
    #[serde(default, rename = "nodeID", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// `owner/name`, as it is called now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<String>,
    /// Who can see the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Whether it is archived, and so read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
    /// Whether GitHub has disabled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// What it is a fork of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<ForkStatus>,
    /// The default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_branch: Option<String>,
    /// Where it is cloned from.
    #[serde(default, rename = "cloneURL", skip_serializing_if = "Option::is_none")]
    pub clone_url: Option<String>,
    /// Its page.
    #[serde(default, rename = "htmlURL", skip_serializing_if = "Option::is_none")]
    pub html_url: Option<String>,
    /// The head of the branch that is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadStatus>,
    /// The repository's own webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookStatus>,
    /// The newest deliveries that concern the repository, the newest first, once the operator has dealt with them. Deliveries that
    /// wait are in the WebhookInboxes in the operator's namespace.
    #[serde(default)] // written even if it is empty, so that nothing stays there that somebody else wrote
    #[schemars(length(max = 64))]
    pub deliveries: Vec<Delivery>,
    /// What was deployed last, or is being deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentStatus>,
    /// The last value of the annotation `landfall.dev/redeploy` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_redeploy: Option<String>,
    /// The last value of the annotation `landfall.dev/reconcile` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile: Option<String>,
}

/// Who can see a repository.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody.
    Public,
    /// All members of the enterprise that owns it.
    Internal,
    /// Only those who were given access.
    Private,
}

/// What a fork was made of.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ForkStatus {
    /// `owner/name` of the upstream.
    pub of: String,
    /// The upstream's id.
    #[serde(
        default,
        deserialize_with = "ids::lenient",
        rename = "upstreamID",
        skip_serializing_if = "Option::is_none"
    )]
    pub upstream_id: Option<RepositoryId>,
    /// The upstream's head with which the fork was compared last.
    #[serde(default, rename = "upstreamSHA", skip_serializing_if = "Option::is_none")]
    pub upstream_sha: Option<String>,
    /// The number of upstream commits that the fork lacked at the last comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub behind_by: Option<i64>,
    /// The number of commits of its own that it had then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ahead_by: Option<i64>,
}

/// A branch's head.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeadStatus {
    /// The branch.
    pub branch: String,
    /// The commit.
    pub sha: String,
    /// When this commit was first seen there.
    pub observation_time: Time,
}

/// A webhook that the operator ensures.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WebhookStatus {
    /// Its id, if it is a repository's own.
    #[serde(default, deserialize_with = "ids::lenient", skip_serializing_if = "Option::is_none")]
    pub id: Option<HookId>,
    /// Where it delivers to.
    pub url: String,
    /// The id of the root key that its secret was derived from.
    #[serde(rename = "keyID")]
    pub key_id: String,
}

/// A deployment of a head.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentStatus {
    /// The commit; zeros if the branch had none when this began.
    pub sha: String,
    /// Counts the deployments of this object, from 1; 0 for the head that was there when it began.
    #[schemars(range(min = 0))]
    pub sequence: i64,
    /// How far it is.
    pub result: DeploymentResult,
    /// Since when it waits, or runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<MicroTime>,
    /// When it was done, or was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What happened, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// How far a deployment is.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeploymentResult {
    /// It waits for further pushes, as long as `debounce` says.
    Waiting,
    /// The workloads are being rolled.
    Running,
    /// All are rolled out.
    Succeeded,
    /// Something refused, or was not rolled out in time. Any new value of the annotation `landfall.dev/redeploy` asks for it
    /// again; a new head is tried in any case.
    Failed,
}

reconciled!(ProjectRepository, ProjectRepositoryStatus);
