//! What is generated for installing: definitions and RBAC rules, from the code that needs them.
//!
//! Invariant: each kind declares its rules beside their reasons, and here they are only collected; the chart and config/ are
//! made from that, and a test starts the operator with nothing else.

use crate::api::GROUP;
use crate::controllers;
use crate::features::{Feature, Features};
use clap::ValueEnum;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Serialize;
use std::collections::BTreeMap;

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
    /// For the receiver, in the operator's own namespace.
    ReceiverOwn,
    /// For the gateway, in the whole cluster.
    Gateway,
    /// For people who may look at a namespace: joins the role `view`.
    View,
    /// For people who may work in a namespace: joins the role `edit`.
    Edit,
    /// For people who own a namespace: joins the role `admin`.
    Admin,
}

/// To read objects.
pub const READ: &[&str] = &["get", "list", "watch"];
/// All that changes an object; to read it is a right of its own.
pub const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];

/// A rule, as the kind that needs it declares it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    set: RuleSet,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    /// The names of the objects; empty for all.
    names: &'static [&'static str],
}

impl Rule {
    /// One of a set: what may be done to resources of an API group.
    #[must_use]
    pub const fn new(
        set: RuleSet,
        group: &'static str,
        resources: &'static [&'static str],
        verbs: &'static [&'static str],
    ) -> Self {
        Self { set, group, resources, verbs, names: &[] }
    }

    /// The same for the objects of these names alone.
    #[must_use]
    pub const fn named(self, names: &'static [&'static str]) -> Self {
        Self { names, ..self }
    }

    fn policy(&self) -> PolicyRule {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            api_groups: Some(vec![self.group.to_owned()]),
            resources: Some(owned(self.resources)),
            verbs: owned(self.verbs),
            resource_names: (!self.names.is_empty()).then(|| owned(self.names)),
            ..PolicyRule::default()
        }
    }
}

/// The operations that the controller's account does on each resource that its admission policy limits: the kinds of Landfall, and
/// the kinds of Kubernetes with which it could get at what is not its own. By the rules of all features.
#[must_use]
pub fn operations() -> BTreeMap<&'static str, Vec<&'static str>> {
    const LIMITED: [&str; 5] = ["pods", "jobs", "secrets", "persistentvolumeclaims", "persistentvolumes"];
    const OPERATIONS: [(&str, &[&str]); 3] =
        [("CREATE", &["create"]), ("UPDATE", &["update", "patch"]), ("DELETE", &["delete", "deletecollection"])];
    let own = [RuleSet::Cluster, RuleSet::Secrets, RuleSet::Own];
    let mut operations: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (_, rule) in controllers::rules().filter(|(_, rule)| own.contains(&rule.set)) {
        for resource in rule.resources.iter().filter(|resource| !resource.contains('/')) {
            if rule.group != GROUP && !LIMITED.contains(resource) {
                continue;
            }
            let done = operations.entry(*resource).or_default();
            let does = |verbs: &[&str]| verbs.iter().any(|verb| rule.verbs.contains(verb));
            done.extend(OPERATIONS.iter().filter(|(_, verbs)| does(verbs)).map(|(operation, _)| *operation));
        }
    }
    for done in operations.values_mut() {
        done.sort_by_key(|one| OPERATIONS.iter().position(|(operation, _)| operation == one));
        done.dedup();
    }
    operations.retain(|_, done| !done.is_empty());
    operations
}

/// These operations as a variable of a `ValidatingAdmissionPolicy`.
#[must_use]
pub fn operations_variable() -> String {
    let quoted = |words: &[&str]| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let lines: Vec<_> = operations().iter().map(|(of, done)| format!("      \"{of}\": [{}]", quoted(done))).collect();
    let head = "  - name: operations\n    expression: >-\n      {";
    format!("{head}\n{}\n      }}[?request.resource.resource].orValue([])\n", lines.join(",\n"))
}

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
        let its = controllers::rules().filter(|(of, rule)| *of == feature && rule.set == self);
        Rules { rules: its.map(|(_, rule)| rule.policy()).collect() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_of_the_controller_has_the_operations_of_its_rules() {
        let operations = operations();
        assert_eq!(operations["githubapps"], ["UPDATE"], "people declare it");
        assert_eq!(operations["githubinstallations"], ["CREATE", "UPDATE", "DELETE"]);
        assert_eq!(operations["secrets"], ["CREATE", "UPDATE", "DELETE"], "by the rules of two sets");
        assert_eq!(operations["pods"], ["CREATE", "DELETE"]);
        assert!(!operations.contains_key("namespaces") && !operations.contains_key("leases"), "{operations:?}");
    }
}
