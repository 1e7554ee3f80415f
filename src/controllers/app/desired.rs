//! Computes the `GitHubInstallation`s that an App's grants need, as a pure function of the App, the last look and the
//! cluster.

use crate::api::{APP_LABEL, GitHubApp, GitHubInstallation, TenantStatus};
use crate::controllers::connection::{AccountFound, Look};
use crate::grant::{NamespaceView, Pin, grant, pin};
use crate::ids::AccountId;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The result of the grants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// To be created: namespace, name, account.
    pub make: Vec<(String, String, String)>,
    /// To be removed: made for a removed grant, and not referenced.
    pub remove: Vec<Arc<GitHubInstallation>>,
    /// Not created, because an object with that name exists that was not made for this App: `namespace/name`.
    pub clashes: Vec<String>,
    /// The namespaces that an entry of `spec.tenants` names and that do not exist, each with the entry.
    pub absent: Vec<String>,
    /// The accounts, with their pins.
    pub tenants: Vec<TenantStatus>,
}

impl Desired {
    /// Whether there is nothing to create or to remove.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.make.is_empty() && self.remove.is_empty()
    }
}

/// Computes the result. `in_use`: namespace and name of the installations that tokens and repositories refer to.
#[must_use]
pub fn desired(
    app: &GitHubApp,
    look: Option<&Look>,
    namespaces: &[NamespaceView],
    existing: &[Arc<GitHubInstallation>],
    in_use: &BTreeSet<(String, String)>,
) -> Desired {
    let app_name = app.name_any();
    let by_place: BTreeMap<(String, String), &Arc<GitHubInstallation>> = existing
        .iter()
        .map(|installation| ((installation.namespace().unwrap_or_default(), installation.name_any()), installation))
        .collect();
    let mut desired = Desired { absent: absent(app, namespaces), ..Desired::default() };
    let mut wanted = BTreeSet::new();
    for account in accounts(app) {
        let mut granted: Vec<_> =
            namespaces.iter().filter(|namespace| grant(app, &account, namespace).is_some()).collect();
        granted.sort_by(|a, b| a.name.cmp(&b.name));
        desired.tenants.push(TenantStatus {
            account_id: pinned(app, look, &account),
            namespace_count: i64::try_from(granted.len()).ok(),
            account: account.clone(),
        });
        for namespace in granted {
            let place = (namespace.name.clone(), object_name(&account));
            if wanted.contains(&place) {
                // Two accounts whose names differ only in characters that names of objects cannot have.
                desired.clashes.push(format!("{}/{} for {account}", place.0, place.1));
                continue;
            }
            match by_place.get(&place) {
                Some(there) if is_made_for(there, &app_name) && there.spec.account.eq_ignore_ascii_case(&account) => {}
                // Somebody declared it for the same App and account, which is just as good.
                Some(there)
                    if there.spec.app_ref.name == app_name && there.spec.account.eq_ignore_ascii_case(&account) => {}
                Some(_) => desired.clashes.push(format!("{}/{}", place.0, place.1)),
                None if namespace.terminating => {}
                None => desired.make.push((place.0.clone(), place.1.clone(), account.clone())),
            }
            wanted.insert(place);
        }
    }
    desired.remove = by_place
        .iter()
        .filter(|(place, installation)| {
            is_made_for(installation, &app_name)
                && !wanted.contains(*place)
                && installation.metadata.deletion_timestamp.is_none()
                && !in_use.contains(*place)
        })
        .map(|(_, installation)| Arc::clone(installation))
        .collect();
    desired
}

fn absent(app: &GitHubApp, namespaces: &[NamespaceView]) -> Vec<String> {
    let existing: BTreeSet<_> = namespaces.iter().map(|namespace| namespace.name.as_str()).collect();
    let tenants = app.spec.tenants.iter().flat_map(|tenant| tenant.namespaces.names.iter().map(move |it| (it, tenant)));
    let absent = tenants.filter(|(name, _)| !existing.contains(name.as_str()));
    absent.map(|(name, tenant)| format!("{name} (in entry {})", tenant.name)).collect()
}

/// The accounts of the grants, each once, with the spelling of its first entry.
fn accounts(app: &GitHubApp) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let tenants = app.spec.tenants.iter().filter(|tenant| seen.insert(tenant.account.to_ascii_lowercase()));
    tenants.map(|tenant| tenant.account.clone()).collect()
}

/// The pin from now on: the known one, else the account that has the name and on which the App is installed.
fn pinned(app: &GitHubApp, look: Option<&Look>, account: &str) -> Option<AccountId> {
    let mut entries = app.spec.tenants.iter().filter(|tenant| tenant.account.eq_ignore_ascii_case(account));
    match (pin(app, account, entries.find_map(|tenant| tenant.account_id)), look) {
        (Pin::To(id), _) => Some(id),
        (Pin::FirstSeen, Some(look)) => match look.find(account, Pin::FirstSeen) {
            AccountFound::Installed(installation) => installation.account.as_ref().map(|account| account.id),
            AccountFound::Another { .. } | AccountFound::Nowhere => None,
        },
        (Pin::FirstSeen, None) => None,
    }
}

/// Whether the operator made it for this App.
#[must_use]
pub fn is_made_for(installation: &GitHubInstallation, app: &str) -> bool {
    installation.labels().get(APP_LABEL).is_some_and(|label| label == app) && installation.spec.app_ref.name == app
}

/// The name of an account's object. Logins of enterprise-managed users have an underscore, which names of objects
/// cannot have.
fn object_name(account: &str) -> String {
    account.to_ascii_lowercase().replace('_', "-").trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn app(tenants: &serde_json::Value) -> GitHubApp {
        serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": "landfall"},
            "spec": {"appID": 1, "credentialsSecretRef": {"name": "s"}, "tenants": tenants},
        }))
        .unwrap()
    }

    fn namespaces(names: &[&str]) -> Vec<NamespaceView> {
        names.iter().map(|name| NamespaceView { name: (*name).into(), labels: [].into(), terminating: false }).collect()
    }

    fn installation(namespace: &str, name: &str, account: &str, made: bool) -> Arc<GitHubInstallation> {
        let labels = if made { json!({"landfall.dev/app": "landfall"}) } else { json!({}) };
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubInstallation",
                "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": {"appRef": {"name": "landfall"}, "account": account},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn one_object_for_each_account_and_namespace() {
        let app = app(&json!([
            {"name": "acme", "account": "Acme", "repositories": ["a"], "namespaces": {"names": ["team-a", "team-b"]}},
            {"name": "acme-2", "account": "acme", "repositories": ["b"], "namespaces": {"names": ["team-a"]}},
            {"name": "octo-corp", "account": "octo_corp", "repositories": ["*"], "namespaces": {"names": ["team-a", "not-there"]}},
        ]));
        let wanted = desired(&app, None, &namespaces(&["team-a", "team-b", "team-c"]), &[], &BTreeSet::new());
        let make = |ns: &str, name: &str, account: &str| (ns.to_owned(), name.to_owned(), account.to_owned());
        assert_eq!(
            wanted.make,
            [make("team-a", "acme", "Acme"), make("team-b", "acme", "Acme"), make("team-a", "octo-corp", "octo_corp")]
        );
        assert_eq!(
            wanted.tenants.iter().map(|t| (t.account.as_str(), t.namespace_count)).collect::<Vec<_>>(),
            [("Acme", Some(2)), ("octo_corp", Some(1))]
        );
        let made: Vec<_> =
            wanted.make.iter().map(|(ns, name, account)| installation(ns, name, account, true)).collect();
        let again = desired(&app, None, &namespaces(&["team-a", "team-b", "team-c"]), &made, &BTreeSet::new());
        assert_eq!((again.make.len(), again.remove.len(), again.clashes.len()), (0, 0, 0), "converged");
    }

    #[test]
    fn what_is_no_longer_granted_goes_unless_it_is_referred_to_or_somebody_declared_it() {
        let app = app(&json!([]));
        let existing = [
            installation("a", "acme", "acme", true),
            installation("b", "acme", "acme", true),
            installation("c", "acme", "acme", false),
        ];
        let in_use = [("b".to_owned(), "acme".to_owned())].into();
        let wanted = desired(&app, None, &namespaces(&["a", "b", "c"]), &existing, &in_use);
        assert_eq!(wanted.remove.iter().map(|i| i.namespace().unwrap()).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_strangers_object_is_left_alone_and_named() {
        let app = app(
            &json!([{"name": "acme", "account": "acme", "repositories": ["a"], "namespaces": {"names": ["a", "b"]}}]),
        );
        let stranger = installation("a", "acme", "globex", false);
        let declared = installation("b", "acme", "ACME", false);
        let wanted = desired(&app, None, &namespaces(&["a", "b"]), &[stranger, declared], &BTreeSet::new());
        assert_eq!((wanted.make.len(), wanted.clashes.as_slice()), (0, &["a/acme".to_owned()][..]));
    }

    #[test]
    fn nothing_is_made_in_a_namespace_that_is_going() {
        let app =
            app(&json!([{"name": "acme", "account": "acme", "repositories": ["a"], "namespaces": {"names": ["a"]}}]));
        let mut namespaces = namespaces(&["a"]);
        namespaces[0].terminating = true;
        assert_eq!(desired(&app, None, &namespaces, &[], &BTreeSet::new()).make.len(), 0);
    }
}
