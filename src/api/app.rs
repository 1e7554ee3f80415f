//! `GitHubApp`: a GitHub App, its credentials, and who in the cluster may use it for what.

use super::delivery::Delivery;
use super::repository::WebhookStatus;
use super::{
    NAME_RULE, Permissions, PushRules, permission_levels, permission_names, permission_names_message, reconciled,
};
use crate::ids::{self, AccountId, AppId};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A GitHub App that this cluster acts as. Only a cluster administrator connects Apps. `tenants` lists the namespaces that may
/// use the App, for which accounts, repositories and permissions. A namespace without an entry has no access.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "landfall.dev",
    version = "v1alpha1",
    kind = "GitHubApp",
    plural = "githubapps",
    shortname = "ghapp",
    category = "landfall",
    status = "GitHubAppStatus",
    derive = "PartialEq",
    doc = "A GitHub App that this cluster acts as, and who in the cluster may use it for what. No entry under spec.tenants, no access.",
    printcolumn(name = "App", type_ = "string", json_path = ".status.slug", description = "the App's name in URLs"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Permissions", type_ = "string", json_path = ".status.permissions", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name is used as a label value: choose one of at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.appID) == has(oldSelf.appID) && has(self.clientID) == has(oldSelf.clientID)")
        .message("spec.appID and spec.clientID cannot be exchanged for one another: make another GitHubApp"),
    validation = Rule::new("has(self.appID) != has(self.clientID)")
        .message("set exactly one of spec.appID (a number) and spec.clientID (Iv…): both stand on the App's settings page")
)]
pub struct GitHubAppSpec {
    /// The REST API's address: `https://api.github.com`, `https://HOST/api/v3` for GitHub Enterprise Server,
    /// `https://api.SUBDOMAIN.ghe.com` for GHE.com. The operator accepts http for loopback hosts alone, or anywhere with
    /// `--insecure-development`.
    #[serde(default = "default_api_url", rename = "apiURL")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(
        validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
            .message("spec.apiURL must be an address that begins with https://, or with http:// for a loopback host"),
        validation = Rule::new("self == oldSelf").message("spec.apiURL cannot be changed, for what was made with the old one would be orphaned: make another GitHubApp")
    )]
    pub api_url: String,
    /// The address of GitHub's web pages and of git over HTTPS. Default: derived from `apiURL`.
    #[serde(default, rename = "webURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(
        validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
            .message("spec.webURL must be an address that begins with https://, or with http:// for a loopback host")
    )]
    pub web_url: Option<String>,
    /// The address of the GraphQL API. Default: derived from `apiURL`.
    #[serde(default, rename = "graphqlURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(
        validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
            .message("spec.graphqlURL must be an address that begins with https://, or with http:// for a loopback host")
    )]
    pub graphql_url: Option<String>,
    /// Certificates that are trusted besides the system's, as PEM text and not in base64, for a GitHub Enterprise Server behind a
    /// private certificate authority. The Secrets of tokens have them as `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 131_072))]
    pub ca_bundle: Option<String>,
    /// The App's id, a number. Either this or `clientID`.
    #[serde(default, rename = "appID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.appID cannot be changed: make another GitHubApp"))]
    pub app_id: Option<AppId>,
    /// The App's client id (`Iv…`), which GitHub recommends as the issuer of the JWT. Either this or `appID`.
    #[serde(default, rename = "clientID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.clientID cannot be changed: make another GitHubApp"))]
    pub client_id: Option<String>,
    /// The Secret with the App's private key, in the operator's namespace.
    pub credentials_secret_ref: CredentialsSecretReference,
    /// The address to which GitHub delivers the App's events. If absent, pushes are found by polling, unless a repository has a
    /// webhook of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<AppWebhook>,
    /// The namespaces that may use the App, and for what. A namespace without an entry has no access. Each entry has a name, so
    /// that several owners can apply entries of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tenants: Vec<TenantGrant>,
    /// Stops changes: no installation object is made or removed. Looks at GitHub go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

fn default_api_url() -> String {
    "https://api.github.com".to_owned()
}

/// The App's webhook, and the address of those that repositories are given.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AppWebhook {
    /// The address under which GitHub reaches `landfall receiver`: `https://landfall.example.com`. Below it are
    /// `/webhooks/app/NAME` and `/webhooks/repo/NAME/REPOSITORY-ID`.
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(
        validation = Rule::new("(self.startsWith('https://') || self.startsWith('http://')) && !self.contains('?') && !self.contains('#') && !self.contains('@')")
            .message("spec.webhook.url must be an address that begins with https:// (http:// only for tests within a cluster), without a user, a query or a fragment")
    )]
    pub url: String,
    /// Who sets address, secret and content type of the App's webhook on GitHub.
    #[serde(default)]
    pub policy: WebhookPolicy,
}

/// Who sets the App's webhook on GitHub.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookPolicy {
    /// The operator. A webhook that delivers to another address is left alone: `WebhookForeign`.
    #[default]
    Managed,
    /// The operator, which also takes over a webhook that delivers to another address.
    Adopt,
    /// A person, with the values that `landfall webhook show` prints.
    Manual,
}

/// A Secret in the operator's namespace with the App's private key. While keys are rotated, its key
/// `private-key-next.pem` has the next one, which is tried when GitHub refuses the first.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSecretReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(NAME_RULE).message("spec.credentialsSecretRef.name must be the name of a Secret: lower-case letters, digits, - and ."))]
    pub name: String,
    /// The key in the Secret that has the private key.
    #[serde(default = "default_private_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("spec.credentialsSecretRef.key must be a key of the Secret, such as private-key.pem"))]
    pub key: String,
}

fn default_private_key() -> String {
    "private-key.pem".to_owned()
}

/// Gives namespaces access to an account's repositories.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TenantGrant {
    /// The entry's own name. It identifies the entry for server-side apply.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("spec.tenants[].name must be lower-case letters, digits and -")
    )]
    pub name: String,
    /// The login of the user or organization. At the first look it is pinned to the account's id, so that somebody
    /// who takes the name later gets nothing.
    #[schemars(length(min = 1, max = 39))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9_-]*$')").message("spec.tenants[].account must be the login of a user or organization, without @ or a URL")
    )]
    pub account: String,
    /// The account's id. If it is set, the account is pinned to it from the start. `GET /users/LOGIN` returns it.
    #[serde(default, rename = "accountID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub account_id: Option<AccountId>,
    /// Names (`shop`), patterns (`lib-*`) or ids in quotes (`"1296269"`). `*` means every repository, also future ones.
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 100)))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(r, r.matches('^[A-Za-z0-9._*-]+$'))").message("spec.tenants[].repositories takes names without owner, patterns with *, or ids")
    )]
    pub repositories: Vec<String>,
    /// The most that a token for this tenant may do: GitHub's names of permissions, each with the level `read`, `write` (which
    /// includes `read`) or `admin` (which includes both). Default: `contents: read` and `metadata: read`.
    #[serde(default = "super::default_permissions")]
    #[schemars(schema_with = "permission_levels", extend("maxProperties" = 100))]
    #[x_kube(
        validation = Rule::new(permission_names()).message(Message::Expression(permission_names_message()))
    )]
    pub max_permissions: Permissions,
    /// The most that workspaces of this tenant may push besides their own branches: a workspace names in its `spec.push` what
    /// it needs of this. Default: nothing.
    #[serde(default, skip_serializing_if = "PushRules::is_empty")]
    pub push: PushRules,
    /// The namespaces that are granted the account.
    pub namespaces: NamespaceGrant,
}

/// Namespaces by name or by label: a namespace is granted access if `names` lists it or `selector` matches it. A person who may
/// label namespaces can grant access by `selector`: prefer `names` where tenants can set labels.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.names) || has(self.selector)").message("spec.tenants[].namespaces needs names or a selector"),
    validation = Rule::new("!has(self.selector) || (has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0) || (has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0)")
        .message("an empty spec.tenants[].namespaces.selector would grant every namespace: say matchLabels or matchExpressions")
)]
pub struct NamespaceGrant {
    /// Names of namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 500),
        inner(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Vec<String>,
    /// Labels of namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// What the operator saw of the App.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GitHubAppStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True while GitHub accepts the App's key. `Reconciling` (the operator is working on it), `Retrying` (it will
    /// repeat a failed call) and `Stalled` (a person must act) are present only while they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The App's id.
    #[serde(default, deserialize_with = "ids::lenient", rename = "appID", skip_serializing_if = "Option::is_none")]
    pub app_id: Option<AppId>,
    /// The App's name in URLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// The App's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who owns the App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_login: Option<String>,
    /// The App's page.
    #[serde(default, rename = "htmlURL", skip_serializing_if = "Option::is_none")]
    pub html_url: Option<String>,
    /// The id of the user `slug[bot]`, the author of the App's commits. It is not the App's id.
    #[serde(default, deserialize_with = "ids::lenient", rename = "botUserID", skip_serializing_if = "Option::is_none")]
    pub bot_user_id: Option<AccountId>,
    /// What the App asks for at installation.
    #[serde(default, skip_serializing_if = "Permissions::is_empty")]
    pub permissions: Permissions,
    /// The webhook events the App receives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// The accounts that are granted, and the ids they are pinned to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["account".into()]))]
    pub tenants: Vec<TenantStatus>,
    /// The App's webhook, once it is known to deliver here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookStatus>,
    /// The newest deliveries that concern the App and its installations, the newest first, once the operator has dealt with them. Deliveries that
    /// wait are in the WebhookInboxes in the operator's namespace.
    #[serde(default)] // written even if it is empty, so that nothing stays there that somebody else wrote
    #[schemars(length(max = 64))]
    pub deliveries: Vec<Delivery>,
    /// The last value of the annotation `landfall.dev/reconcile` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile: Option<String>,
}

/// An account under `spec.tenants`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// The login as the spec names it.
    pub account: String,
    /// The account's id, from the first time the App was seen installed there. To accept another account that took
    /// the name, set `spec.tenants[].accountID`.
    #[serde(default, deserialize_with = "ids::lenient", rename = "accountID", skip_serializing_if = "Option::is_none")]
    pub account_id: Option<AccountId>,
    /// The number of namespaces that are granted the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub namespace_count: Option<i64>,
}

reconciled!(GitHubApp, GitHubAppStatus);
