//! What is generated for installing: definitions and RBAC rules, from the code that needs them.
//!
//! Invariant: the one list of what the operator may do stands here, each rule beside its reason; the chart and config/ are
//! made from it, and a test starts the operator with nothing else.

use clap::ValueEnum;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Serialize;

/// Which rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuleSet {
    /// In the whole cluster.
    Cluster,
    /// On the Secrets of tokens: in the whole cluster, or in each of the namespaces that the chart lists.
    Secrets,
    /// In the operator's own namespace.
    Own,
    /// For people who may look at a namespace: joins the role `view`.
    View,
    /// For people who may work in a namespace: joins the role `edit`.
    Edit,
    /// For people who own a namespace: joins the role `admin`.
    Admin,
}

/// All that changes an object; to read it is a right of its own.
const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];

/// A list of rules as a chart includes it.
#[derive(Serialize)]
pub struct Rules {
    rules: Vec<PolicyRule>,
}

impl RuleSet {
    /// The rules.
    #[must_use]
    pub fn rules(self) -> Rules {
        let rules = match self {
            Self::Cluster => vec![
                // The kinds: read, and written where the operator makes, finalizes or removes them.
                rule("landfall.dev", &["githubapps", "installationtokens"], &["get", "list", "watch", "patch"]),
                rule("landfall.dev", &["githubinstallations"], &["get", "list", "watch", "create", "patch", "delete"]),
                rule(
                    "landfall.dev",
                    &["githubapps/status", "githubinstallations/status", "installationtokens/status"],
                    &["patch"],
                ),
                // An owner reference with blockOwnerDeletion needs this where OwnerReferencesPermissionEnforcement is on.
                rule("landfall.dev", &["githubapps/finalizers", "installationtokens/finalizers"], &["update"]),
                // Grants name namespaces, or select them by label.
                rule("", &["namespaces"], &["get", "list", "watch"]),
                rule("events.k8s.io", &["events"], &["create", "patch"]),
            ],
            Self::Secrets => {
                vec![rule("", &["secrets"], &["get", "list", "watch", "create", "patch", "delete"])]
            }
            Self::Own => vec![
                // The Apps' private keys.
                rule("", &["secrets"], &["get", "list", "watch"]),
                rule("coordination.k8s.io", &["leases"], &["get", "create", "update"]),
            ],
            // GitHubApps are in none of these three: who connects an App and grants it to namespaces administers the
            // cluster. Status is in none either: the operator writes it, and people could only falsify it.
            Self::View => {
                vec![rule("landfall.dev", &["githubinstallations", "installationtokens"], &["get", "list", "watch"])]
            }
            // A token puts no more within reach than the namespace was granted, and this role reads Secrets anyway.
            Self::Edit => vec![rule("landfall.dev", &["installationtokens"], WRITE)],
            // What a declared installation may do is decided by the GitHubApp's tenants, so declaring one grants nothing.
            Self::Admin => vec![rule("landfall.dev", &["githubinstallations"], WRITE)],
        };
        Rules { rules }
    }
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

/// Documents of one YAML stream.
///
/// # Errors
/// When something cannot be written as YAML.
pub fn yaml<T: Serialize>(documents: &[T]) -> Result<String, serde_saphyr::ser_error::Error> {
    let mut stream = String::new();
    for document in documents {
        if documents.len() > 1 {
            stream.push_str("---\n");
        }
        stream.push_str(&serde_saphyr::to_string(document)?);
    }
    Ok(stream)
}
