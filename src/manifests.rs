//! What is generated for installing: definitions and RBAC rules, from the code that needs them.
//!
//! Invariant: the one list of what the operator may do stands here, by feature, each rule beside its reason; the chart and
//! config/ are made from it, and a test starts the operator with nothing else.

use crate::features::{Feature, Features};
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
    /// For the receiver, in the whole cluster.
    Receiver,
    /// For people who may look at a namespace: joins the role `view`.
    View,
    /// For people who may work in a namespace: joins the role `edit`.
    Edit,
    /// For people who own a namespace: joins the role `admin`.
    Admin,
}

/// On the Secrets of tokens.
const SECRETS: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];
/// All that changes an object; to read it is a right of its own.
const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];

/// A list of rules as a chart includes it.
#[derive(Serialize)]
pub struct Rules {
    rules: Vec<PolicyRule>,
}

impl RuleSet {
    /// The rules with these features.
    #[must_use]
    pub fn rules(self, features: &Features) -> Rules {
        Rules { rules: features.iter().flat_map(|feature| self.rules_of(feature).rules).collect() }
    }

    /// What a feature adds to the set.
    #[must_use]
    pub fn rules_of(self, feature: Feature) -> Rules {
        let rules = match self {
            Self::Cluster => cluster(feature),
            Self::Secrets => of_tokens(feature, &[("", &["secrets"], SECRETS)]),
            // The Apps' private keys are read; the root keys of webhooks are made at the first start. They are never
            // changed by the operator: people exchange them, with rights of their own.
            Self::Own => of_tokens(
                feature,
                &[
                    ("", &["secrets"], &["get", "list", "watch", "create"]),
                    ("coordination.k8s.io", &["leases"], &["get", "create", "update"]),
                ],
            ),
            Self::Receiver => receiver(feature),
            // GitHubApps are in none of these three: who connects an App and grants it to namespaces administers the
            // cluster. Status is in none either: the operator writes it, and people could only falsify it.
            Self::View => vec![rule(
                "landfall.dev",
                match feature {
                    Feature::Tokens => &["githubinstallations", "installationtokens"],
                    Feature::Repositories => &["projectrepositories"],
                    Feature::Workspaces => &["workspaces"],
                },
                &["get", "list", "watch"],
            )],
            Self::Edit => vec![rule(
                "landfall.dev",
                match feature {
                    // A token puts no more within reach than the namespace was granted, and this role reads Secrets anyway.
                    Feature::Tokens => &["installationtokens"],
                    // A ProjectRepository makes the operator act as the ServiceAccount that it names: by restarting
                    // workloads and nothing else, and only where the namespace let the operator impersonate that account.
                    // This role restarts workloads, and impersonates every account of the namespace, anyway. On GitHub it
                    // makes a fork or a webhook, within what the namespace was granted.
                    Feature::Repositories => &["projectrepositories"],
                    // A Workspace makes a pod, which this role makes anyway, with less than it may put into one.
                    Feature::Workspaces => &["workspaces"],
                },
                WRITE,
            )],
            // What a declared installation may do is decided by the GitHubApp's tenants, so declaring one grants nothing.
            Self::Admin => of_tokens(feature, &[("landfall.dev", &["githubinstallations"], WRITE)]),
        };
        Rules { rules }
    }
}

/// A group, its resources, and verbs.
type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

/// Rules of the feature `tokens`, which every installation has; the other features add none.
fn of_tokens(feature: Feature, rows: &[Row<'_>]) -> Vec<PolicyRule> {
    let rows = if feature == Feature::Tokens { rows } else { &[] };
    rows.iter().map(|(group, resources, verbs)| rule(group, resources, verbs)).collect()
}

/// The controller's, in the whole cluster.
fn cluster(feature: Feature) -> Vec<PolicyRule> {
    match feature {
        Feature::Tokens => vec![
            rule("landfall.dev", &["githubapps", "installationtokens"], &["get", "list", "watch", "patch"]),
            // An App's installations are made where its tenants are, and removed with it.
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
        // There is no right here to impersonate, and none to touch workloads: each namespace grants the operator to act as
        // one of its own ServiceAccounts, by name, where it wants redeploys (config/samples/deployer.yaml).
        Feature::Repositories => vec![
            rule("landfall.dev", &["projectrepositories"], &["get", "list", "watch", "patch"]),
            rule("landfall.dev", &["projectrepositories/status"], &["patch"]),
            rule("landfall.dev", &["projectrepositories/finalizers"], &["update"]),
        ],
        Feature::Workspaces => vec![
            rule("landfall.dev", &["workspaces"], &["get", "list", "watch", "patch"]),
            rule("landfall.dev", &["workspaces/status"], &["patch"]),
            rule("landfall.dev", &["workspaces/finalizers"], &["update"]),
            // A workspace's token is made and removed with it.
            rule("landfall.dev", &["installationtokens"], &["create", "delete"]),
            // The pod of a workspace, the Job that saves what is on its volume, and the volume's claim, which is held until
            // that is done.
            rule("", &["pods"], &["get", "list", "watch", "create", "delete"]),
            rule("batch", &["jobs"], &["get", "list", "watch", "create", "delete"]),
            rule("", &["persistentvolumeclaims"], &["get", "list", "watch", "create", "patch", "delete"]),
            // A volume whose work could not be pushed is set to be kept.
            rule("", &["persistentvolumes"], &["get", "patch"]),
            // Who sends a workspace's report.
            rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        ],
    }
}

/// The receiver's. It faces the internet. It finds out whom a delivery concerns and notes it there; that the note is all it
/// changes is held by the chart's ValidatingAdmissionPolicy, for RBAC knows no fields. No Secret: the root keys of webhooks are
/// mounted. No events: who floods the receiver floods no namespace.
fn receiver(feature: Feature) -> Vec<PolicyRule> {
    match feature {
        Feature::Tokens => vec![
            rule("landfall.dev", &["githubapps", "githubinstallations"], &["get", "list", "watch"]),
            rule("landfall.dev", &["githubapps/status"], &["patch"]),
            // Grants select namespaces by label.
            rule("", &["namespaces"], &["get", "list", "watch"]),
        ],
        Feature::Repositories => vec![
            rule("landfall.dev", &["projectrepositories"], &["get", "list", "watch"]),
            rule("landfall.dev", &["projectrepositories/status"], &["patch"]),
        ],
        Feature::Workspaces => Vec::new(),
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
