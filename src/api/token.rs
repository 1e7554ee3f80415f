//! `InstallationToken`: a Secret with an installation token that never goes stale.

#![expect(clippy::duplicated_attributes, reason = "several printer columns have the same type")]

use super::{
    NAME_RULE, Permissions, duration_rule, permission_levels, permission_names, permission_names_message, reconciled,
};
use crate::ids::{self, RepositoryId};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A GitHub installation token in a Secret of this namespace: narrowed to repositories and permissions within the
/// namespace's grant, used once with success before it is published, renewed before it expires, repaired when
/// the Secret is changed, revoked when this object goes. One token per object, never shared.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "landfall.dev",
    version = "v1alpha1",
    kind = "InstallationToken",
    plural = "installationtokens",
    namespaced,
    shortname = "ghtoken",
    category = "landfall",
    status = "InstallationTokenStatus",
    derive = "PartialEq",
    selectable = ".spec.installationRef.name",
    doc = "A GitHub installation token in a Secret that never goes stale: scoped within the namespace's grant, verified before it is published, renewed, repaired, and revoked when this object goes.",
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretName"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expirationTime"),
    printcolumn(name = "Installation", type_ = "string", json_path = ".spec.installationRef.name", priority = "1"),
    printcolumn(name = "Permissions", type_ = "string", json_path = ".status.permissions", priority = "1"),
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
    validation = Rule::new("(has(self.repositories) && size(self.repositories) > 0) != (self.repositorySelection == 'All')")
        .message("exactly one of spec.repositories and spec.repositorySelection: All must be set: a token for every repository must be asked for"),
    validation = Rule::new("!has(self.secret.format) || self.secret.format != 'ArgoCDRepository' || (has(self.repositories) && size(self.repositories) == 1 && has(self.repositories[0].name))")
        .message("spec.secret.format ArgoCDRepository needs the address of exactly one repository: name one by its name under spec.repositories, or set spec.secret.format to ArgoCDRepoCreds, which serves several or all repositories")
)]
pub struct InstallationTokenSpec {
    /// The GitHubInstallation in this namespace.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.installationRef cannot be changed: make another InstallationToken"))]
    pub installation_ref: InstallationReference,
    /// Whether the token reaches the repositories under `repositories`, or all. A token for all needs a grant of `*`.
    #[serde(default)]
    pub repository_selection: RepositorySelection,
    /// The repositories, all by name or all by id, within the grant. Each name is pinned to its repository's id at the first mint;
    /// a new repository with the same name is not included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(r, has(r.name)) || self.all(r, has(r.id))").message("spec.repositories takes all by name or all by id: GitHub accepts one or the other")
    )]
    pub repositories: Vec<RepositoryReference>,
    /// What the token may do, within the grant: GitHub's names of permissions, each with the level `read`, `write` (which
    /// includes `read`) or `admin` (which includes both). Default: `contents: read` and `metadata: read`.
    #[serde(default = "super::default_permissions")]
    #[schemars(schema_with = "permission_levels", extend("minProperties" = 1, "maxProperties" = 100))]
    #[x_kube(validation = Rule::new(permission_names()).message(Message::Expression(permission_names_message())))]
    pub permissions: Permissions,
    /// The Secret to keep.
    pub secret: SecretTemplate,
    /// The time before its expiry at which the token is renewed: `1m` to `1h`, in effect at most half of the token's lifetime.
    /// Jitter adds up to half of it.
    #[serde(default = "default_renew_before")]
    #[schemars(length(min = 2, max = 28))]
    #[x_kube(
        validation = Rule::new(duration_rule!("duration(self) >= duration('1m') && duration(self) <= duration('1h')"))
            .message("spec.renewBefore must be a duration between 1m and 1h, such as 10m or 90s")
    )]
    pub renew_before: String,
    /// Stops changes to scope and Secret. The token is still renewed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

pub(crate) fn default_renew_before() -> String {
    "10m".to_owned()
}

/// The repositories that are selected.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepositorySelection {
    /// The repositories that were selected.
    #[default]
    Selected,
    /// Every repository of the account, also future ones.
    All,
}

/// Names a GitHubInstallation in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstallationReference {
    /// The GitHubInstallation's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(NAME_RULE).message("spec.installationRef.name must be the name of a GitHubInstallation: lower-case letters, digits, - and ."))]
    pub name: String,
}

/// A repository by name or by id.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) != has(self.id)").message("exactly one of name and id must be set for a repository"))]
pub struct RepositoryReference {
    /// The name without its owner, which is the installation's account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message("a repository's name must stand without its owner: shop, not acme/shop")
    )]
    pub name: Option<String>,
    /// The id, which stays when the repository is renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub id: Option<RepositoryId>,
}

/// The Secret in which the token is kept.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.format) && self.format == 'Template') == (has(self.template) && size(self.template) > 0)")
        .message("spec.secret.template must be set with spec.secret.format Template, and with no other format")
)]
pub struct SecretTemplate {
    /// The Secret's name. A Secret of that name that is not this object's is never overwritten.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new(NAME_RULE).message("spec.secret.name must be a DNS name: lower-case letters, digits, - and .")
    )]
    pub name: String,
    /// The Secret's type and keys. Every format has the key `token`, and `ca.crt` if the GitHubApp has a `caBundle`. A change
    /// of the format rewrites the Secret with the token that it has.
    #[serde(default)]
    pub format: SecretFormat,
    /// The keys of the format `Template`, each with the text to render. Variables: `token`, `username`, `expiresAt`, `host`,
    /// `apiURL`, `account`, `installationID`, `repositories`. Filters: `b64encode`, `tojson`, `urlencode`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "template_values", extend("maxProperties" = 16))]
    #[x_kube(
        validation = Rule::new("self.all(k, k.matches('^[-._a-zA-Z0-9]+$') && size(k) <= 253 && k != '.' && !k.startsWith('..'))")
            .message("spec.secret.template must have keys that a Secret can have: letters, digits, -, _ and ."),
        validation = Rule::new("!('token' in self) && !('ca.crt' in self)")
            .message("spec.secret.template must not have the keys token and ca.crt, which the operator writes in every format")
    )]
    pub template: BTreeMap<String, String>,
    /// Labels for the Secret. `app.kubernetes.io/managed-by` and keys under landfall.dev are the operator's, and those under
    /// argoproj.io follow from `format`; other keys under kubernetes.io and k8s.io are refused, except those under
    /// app.kubernetes.io.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_values", extend("maxProperties" = 50))]
    #[x_kube(
        validation = Rule::new("self.all(k, !k.startsWith('landfall.dev/') && !k.contains('.landfall.dev/') && (!k.contains('kubernetes.io/') || (k.startsWith('app.kubernetes.io/') && k != 'app.kubernetes.io/managed-by')) && !k.contains('k8s.io/'))")
            .message("spec.secret.labels must not use app.kubernetes.io/managed-by, nor keys under landfall.dev, k8s.io or another domain of kubernetes.io"),
        validation = Rule::new("self.all(k, !k.contains('argoproj.io/'))")
            .message("spec.secret.labels must not use keys under argoproj.io: set spec.secret.format to ArgoCDRepository or ArgoCDRepoCreds, which labels the Secret for Argo CD")
    )]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the Secret. Keys under landfall.dev, kubernetes.io and k8s.io are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_values", extend("maxProperties" = 50))]
    #[x_kube(
        validation = Rule::new("self.all(k, !k.startsWith('landfall.dev/') && !k.contains('.landfall.dev/') && !k.contains('kubernetes.io/') && !k.contains('k8s.io/'))")
            .message("spec.secret.annotations must not use keys under landfall.dev, kubernetes.io or k8s.io")
    )]
    pub annotations: BTreeMap<String, String>,
}

fn label_values(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "additionalProperties": {
        "type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
    }})
}

fn template_values(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "additionalProperties": {"type": "string", "maxLength": 4096}})
}

fn annotation_values(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "additionalProperties": {"type": "string", "maxLength": 16384}})
}

/// The type and keys of a token's Secret.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretFormat {
    /// Type `kubernetes.io/basic-auth`, keys `username` (`x-access-token`) and `password`. Flux and Tekton read it.
    #[default]
    BasicAuth,
    /// Type `Opaque`, no further keys.
    Opaque,
    /// Type `Opaque`, key `.git-credentials`: a file for git's credential helper `store`.
    GitCredentials,
    /// Type `Opaque`, key `.netrc`: a file for curl, git and Go.
    Netrc,
    /// Type `Opaque`, keys `type`, `url`, `username` and `password`, and the label that makes it one repository of Argo CD.
    /// It needs exactly one repository by name.
    ArgoCDRepository,
    /// The same keys, with the address of the account as `url`: a template of credentials, which Argo CD uses for every
    /// repository of the account.
    ArgoCDRepoCreds,
    /// Type `Opaque`, and the keys under `template`.
    Template,
}

/// What is known of the published token. Never the token.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstallationTokenStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True while the Secret has a valid token as the spec asks. `Reconciling` (the operator is working on it),
    /// `Retrying` (it will repeat a failed call) and `Stalled` (a person must act) are present only while they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The time at which the published token expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    /// When it was minted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mint_time: Option<Time>,
    /// Whether the token reaches the repositories under `repositoryIDs`, or all. Absent while no token is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_selection: Option<RepositorySelection>,
    /// The ids of the repositories that it reaches. Absent if `repositorySelection` is `All`.
    #[serde(
        default,
        deserialize_with = "ids::lenient_list",
        rename = "repositoryIDs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub repository_ids: Vec<RepositoryId>,
    /// What it may do.
    #[serde(default, skip_serializing_if = "Permissions::is_empty")]
    pub permissions: Permissions,
    /// The Secret that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// The first 16 hexadecimal digits of the token's SHA-256: tells two tokens apart, reveals none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The last value of the annotation `landfall.dev/reconcile` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile: Option<String>,
}

reconciled!(InstallationToken, InstallationTokenStatus);
