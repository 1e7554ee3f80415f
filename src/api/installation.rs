//! `GitHubInstallation`: an account that granted the App access, as one namespace may use it.

#![expect(clippy::duplicated_attributes, reason = "several printer columns have the same type")]

use super::{NAME_RULE, Permissions, RepositorySelection, reconciled};
use crate::ids::{self, AccountId, InstallationId};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// An account's installation of the App, as one namespace was granted it. The operator creates one in each granted namespace,
/// named after the account in lower case. You may also create it yourself; without a grant it gives no access.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "landfall.dev",
    version = "v1alpha1",
    kind = "GitHubInstallation",
    plural = "githubinstallations",
    namespaced,
    shortname = "ghi",
    category = "landfall",
    status = "GitHubInstallationStatus",
    derive = "PartialEq",
    doc = "An account on which the App is installed, as this namespace was granted it. Made by the operator in each granted namespace; denied if not granted, always.",
    printcolumn(name = "Account", type_ = "string", json_path = ".spec.account"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Installation", type_ = "string", json_path = ".status.installationID", priority = "1"),
    printcolumn(name = "Permissions", type_ = "string", json_path = ".status.granted.permissions", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GitHubInstallationSpec {
    /// The GitHubApp.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.appRef cannot be changed: make another GitHubInstallation"))]
    pub app_ref: AppReference,
    /// The login of the user or organization on which the App is installed.
    #[schemars(length(min = 1, max = 39))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("spec.account cannot be changed: make another GitHubInstallation"),
        validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9_-]*$')").message("spec.account must be the login of a user or organization, without @ or a URL")
    )]
    pub account: String,
    /// Stops changes. What was published before is renewed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// Names a GitHubApp.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AppReference {
    /// The GitHubApp's name.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(NAME_RULE).message("spec.appRef.name must be the name of a GitHubApp: lower-case letters, digits, - and ."))]
    pub name: String,
}

/// What the operator saw of the installation.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GitHubInstallationStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True while the App is installed on the account and the namespace is granted it. `Reconciling` (the operator is
    /// working on it), `Retrying` (it will repeat a failed call) and `Stalled` (a person must act) are present only while they
    /// are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The installation's id on GitHub. It changes with each reinstallation.
    #[serde(
        default,
        deserialize_with = "ids::lenient",
        rename = "installationID",
        skip_serializing_if = "Option::is_none"
    )]
    pub installation_id: Option<InstallationId>,
    /// The account on which the App is installed.
    #[serde(default, deserialize_with = "account", skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountStatus>,
    /// Which repositories the account lets the App see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_selection: Option<RepositorySelection>,
    /// What the account lets the App do.
    #[serde(default, skip_serializing_if = "Permissions::is_empty")]
    pub permissions: Permissions,
    /// The webhook events the installation sends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// When the installation was suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspension_time: Option<Time>,
    /// Who suspended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_by: Option<String>,
    /// The installation's settings page.
    #[serde(default, rename = "htmlURL", skip_serializing_if = "Option::is_none")]
    pub html_url: Option<String>,
    /// What this namespace may ask for: the GitHubApp's grants for this account and namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<EffectiveGrant>,
    /// The last value of the annotation `landfall.dev/reconcile` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile: Option<String>,
}

/// A user or organization.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// The id, which stays when the account is renamed.
    pub id: AccountId,
    /// The login.
    pub login: String,
    /// The account's type.
    ///
    /// - `User`: a person's account.
    /// - `Organization`: an organization.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An account that cannot be read counts as absent: a tenant may have written it.
fn account<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AccountStatus>, D::Error> {
    Ok(AccountStatus::deserialize(Value::deserialize(deserializer)?).ok())
}

/// What a namespace may ask for. Where several tenants' entries name the same account and namespace, a token is
/// allowed if one of the entries alone allows it; shown here is their union.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveGrant {
    /// Names, patterns and ids.
    pub repositories: Vec<String>,
    /// The most a token may do.
    pub permissions: Permissions,
}

reconciled!(GitHubInstallation, GitHubInstallationStatus);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;
    use serde_json::json;

    #[test]
    fn an_odd_account_in_a_status_affects_no_other_field() {
        for odd in [json!({"id": 0, "login": "acme", "type": "Organization"}), json!({"id": 7}), json!(null)] {
            let status = json!({"installationID": 501, "account": odd, "htmlURL": "https://github.com/x"});
            let status: GitHubInstallationStatus = serde_json::from_value(status).unwrap();
            assert_eq!((status.installation_id, status.account), (Some(id(501)), None), "{odd}");
        }
    }
}
