//! Who may use an App for what: the pure core of access.
//!
//! Owns the decision whether a namespace was granted an account, a repository and a permission. Invariant: it looks
//! only at the cluster-scoped `GitHubApp` (its spec, and the ids its status pinned) and at the namespace; never at
//! anything a tenant can write. Were it broken, a tenant could read another's code.

use crate::api::{EffectiveGrant, GitHubApp, NamespaceGrant, Permissions, PushRules, TenantGrant, TenantStatus};
use crate::github::Level;
use crate::ids::{AccountId, RepositoryId};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use kube::core::{Expression, Selector, SelectorExt as _};
use std::collections::{BTreeMap, BTreeSet};

/// A namespace as grants see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceView {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is being deleted: nothing can be made in it any more.
    pub terminating: bool,
}

impl NamespaceView {
    /// Reads its metadata.
    #[must_use]
    pub fn of(namespace: &PartialObjectMeta<Namespace>) -> Self {
        Self {
            name: namespace.name_any(),
            labels: namespace.metadata.labels.clone().unwrap_or_default(),
            terminating: namespace.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// The entries of an App's `tenants` that give one namespace access to one account. Never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    entries: Vec<TenantGrant>,
}

/// Why something was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// These repositories are in no entry.
    Repositories(Vec<String>),
    /// These permissions are in no entry that has the repositories: name, level asked for, level granted.
    Permissions(Vec<(String, String, Option<String>)>),
}

/// What a token is asked to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach<'a> {
    /// Every repository.
    All,
    /// These, each as everything that is known of it: its name, its id, or both.
    Only(&'a [Known]),
}

/// What is known of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// Its name without owner.
    pub name: Option<String>,
    /// Its id.
    pub id: Option<RepositoryId>,
}

impl Known {
    /// The name and the id, as far as they are known.
    #[must_use]
    pub fn describe(&self) -> String {
        match (&self.name, self.id) {
            (Some(name), Some(id)) => format!("{name} (id {id})"),
            (Some(name), None) => name.clone(),
            (None, Some(id)) => format!("id {id}"),
            (None, None) => String::new(),
        }
    }
}

/// The entries of `app` for this account (by login, without case) and namespace. `None`: denied.
#[must_use]
pub fn grant(app: &GitHubApp, account: &str, namespace: &NamespaceView) -> Option<Grant> {
    if app.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let entries: Vec<_> = app
        .spec
        .tenants
        .iter()
        .filter(|tenant| tenant.account.eq_ignore_ascii_case(account) && tenant.namespaces.covers(namespace))
        .cloned()
        .collect();
    (!entries.is_empty()).then_some(Grant { entries })
}

impl Grant {
    /// The id that these entries say the account has.
    #[must_use]
    pub fn account_id(&self) -> Option<AccountId> {
        self.entries.iter().find_map(|entry| entry.account_id)
    }

    /// The entries that mean the account with this id: those that say no other. `None`: there is none.
    #[must_use]
    pub fn of_account(mut self, id: AccountId) -> Option<Self> {
        self.entries.retain(|entry| entry.account_id.is_none_or(|said| said == id));
        (!self.entries.is_empty()).then_some(self)
    }

    /// Checks that one entry alone allows the whole of it: entries do not add up, for a token that reads A and
    /// writes B was granted by nobody who granted reading A and B here and writing B there.
    ///
    /// # Errors
    /// What is missing, with the entry that comes nearest.
    pub fn allows(&self, reach: &Reach<'_>, permissions: &Permissions) -> Result<(), Refusal> {
        let mut nearest: Option<Refusal> = None;
        for entry in &self.entries {
            let refusal = match entry.missing_repositories(reach) {
                missing if !missing.is_empty() => Refusal::Repositories(missing),
                _ => match excess(permissions, &entry.max_permissions) {
                    excess if excess.is_empty() => return Ok(()),
                    excess => Refusal::Permissions(excess),
                },
            };
            // A refused permission is nearer than a refused repository: the entry has the repositories.
            if nearest.is_none() || matches!(refusal, Refusal::Permissions(_)) {
                nearest = Some(refusal);
            }
        }
        Err(nearest.unwrap_or(Refusal::Repositories(Vec::new())))
    }

    /// What each entry that has the repository lets workspaces push. Entries do not add up.
    #[must_use]
    pub fn push(&self, known: &Known) -> Vec<&PushRules> {
        self.entries.iter().filter(|entry| entry.has_repository(known)).map(|entry| &entry.push).collect()
    }

    /// What to show: the union of the entries.
    #[must_use]
    pub fn effective(&self) -> EffectiveGrant {
        let mut repositories = BTreeSet::new();
        let mut permissions = Permissions::new();
        for entry in &self.entries {
            repositories.extend(entry.repositories.iter().cloned());
            for (name, level) in &entry.max_permissions {
                let known = permissions.entry(name.clone()).or_insert_with(|| level.clone());
                if !Level::from(known.as_str()).covers(&Level::from(level.as_str())) {
                    known.clone_from(level);
                }
            }
        }
        EffectiveGrant { repositories: repositories.into_iter().collect(), permissions }
    }
}

impl TenantGrant {
    fn missing_repositories(&self, reach: &Reach<'_>) -> Vec<String> {
        match reach {
            Reach::All if self.repositories.iter().any(|pattern| pattern == "*") => Vec::new(),
            Reach::All => vec!["*".to_owned()],
            Reach::Only(repositories) => {
                repositories.iter().filter(|known| !self.has_repository(known)).map(Known::describe).collect()
            }
        }
    }

    fn has_repository(&self, known: &Known) -> bool {
        self.repositories.iter().any(|granted| {
            // Digits are an id, never a name: a repository that somebody calls like another's id is not that one.
            if granted.bytes().all(|byte| byte.is_ascii_digit()) {
                known.id.is_some_and(|id| *granted == id.to_string())
            } else {
                granted == "*" || known.name.as_deref().is_some_and(|name| matches_pattern(granted, name))
            }
        })
    }
}

impl NamespaceGrant {
    /// Whether the namespace is named or its labels are selected.
    #[must_use]
    pub fn covers(&self, namespace: &NamespaceView) -> bool {
        self.names.contains(&namespace.name)
            || self.selector.as_ref().is_some_and(|selector| selects(selector, &namespace.labels))
    }
}

/// Whom an account's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// This account and no other.
    To(AccountId),
    /// Not seen yet: the first account of that name that has the App installed.
    FirstSeen,
}

/// The id that an account's name is pinned to: what the grant says, else what the status of the App remembers.
#[must_use]
pub fn pin(app: &GitHubApp, account: &str, said: Option<AccountId>) -> Pin {
    let remembered = || pinned_in(app.status.as_ref().map_or(&[], |status| &status.tenants), account);
    said.or_else(remembered).map_or(Pin::FirstSeen, Pin::To)
}

fn pinned_in(tenants: &[TenantStatus], account: &str) -> Option<AccountId> {
    tenants.iter().find(|tenant| tenant.account.eq_ignore_ascii_case(account)).and_then(|tenant| tenant.account_id)
}

/// Label selection as Kubernetes does it, but an empty selector selects nothing: a mistake must not grant. Kubernetes refuses
/// an operator that it does not know, and `NotIn` without values; here they select nothing.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let Ok(selector) = Selector::try_from(selector.clone()) else { return false };
    let excludes_nothing = |expression| matches!(expression, Expression::NotIn(_, values) if values.is_empty());
    !selector.selects_all() && selector.matches(labels) && !selector.into_iter().any(excludes_nothing)
}

/// The permissions in `asked` that exceed `most`, each with what there is. `metadata: read` is always there:
/// GitHub gives it with every token.
#[must_use]
pub fn excess(asked: &Permissions, most: &Permissions) -> Vec<(String, String, Option<String>)> {
    asked
        .iter()
        .filter(|(name, level)| {
            let asked = Level::from(level.as_str());
            let is_always_there = name.as_str() == "metadata" && asked == Level::Read;
            let granted = most.get(*name).map(|granted| Level::from(granted.as_str()));
            !is_always_there && granted.is_none_or(|granted| !granted.covers(&asked))
        })
        .map(|(name, level)| (name.clone(), level.clone(), most.get(name).cloned()))
        .collect()
}

/// Whether `name` matches a pattern in which `*` stands for any run of characters. Names are compared without case,
/// as GitHub does.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(start) => rest = &rest[start + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;
    use serde_json::json;

    fn app(tenants: &serde_json::Value) -> GitHubApp {
        serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": "landfall"},
            "spec": {"appID": 1, "credentialsSecretRef": {"name": "github-app"}, "tenants": tenants},
        }))
        .unwrap()
    }

    fn namespace(name: &str, labels: &[(&str, &str)]) -> NamespaceView {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        NamespaceView { name: name.to_owned(), labels, terminating: false }
    }

    fn permissions(pairs: &[(&str, &str)]) -> Permissions {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn named(names: &[&str]) -> Vec<Known> {
        names.iter().map(|name| Known { name: Some((*name).to_owned()), id: None }).collect()
    }

    #[test]
    fn no_entry_no_access() {
        let app = app(&json!([
            {"name": "acme", "account": "acme", "repositories": ["shop"], "namespaces": {"names": ["team-a"]}},
        ]));
        assert!(grant(&app, "ACME", &namespace("team-a", &[])).is_some());
        assert!(grant(&app, "acme", &namespace("team-b", &[])).is_none());
        assert!(grant(&app, "globex", &namespace("team-a", &[])).is_none());
    }

    #[test]
    fn an_app_that_is_going_grants_nothing() {
        let mut app = app(
            &json!([{"name": "acme", "account": "acme", "repositories": ["*"], "namespaces": {"names": ["team-a"]}}]),
        );
        app.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(grant(&app, "acme", &namespace("team-a", &[])).is_none());
    }

    #[test]
    fn selectors_choose_by_label_and_an_empty_one_chooses_nothing() {
        let with = |selector: serde_json::Value| {
            app(
                &json!([{"name": "acme", "account": "acme", "repositories": ["*"], "namespaces": {"selector": selector}}]),
            )
        };
        let labelled = namespace("x", &[("team", "a")]);
        let bare = namespace("y", &[]);
        let cases = [
            (json!({"matchLabels": {"team": "a"}}), true, false),
            (json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}), true, false),
            (json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}), false, true),
            (json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}), true, false),
            (json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}), false, true),
            (json!({"matchExpressions": [{"key": "team", "operator": "Sometimes"}]}), false, false),
            (json!({"matchExpressions": [{"key": "team", "operator": "NotIn"}]}), false, false),
            (json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": []}]}), false, false),
            (json!({"matchExpressions": [{"key": "team", "operator": "In", "values": []}]}), false, false),
            (
                json!({"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
                false,
                false,
            ),
            (json!({}), false, false),
        ];
        for (selector, for_labelled, for_bare) in cases {
            let app = with(selector.clone());
            assert_eq!(grant(&app, "acme", &labelled).is_some(), for_labelled, "{selector}");
            assert_eq!(grant(&app, "acme", &bare).is_some(), for_bare, "{selector}");
        }
    }

    #[test]
    fn repositories_by_name_pattern_and_id() {
        let app = app(&json!([{
            "name": "acme", "account": "acme", "repositories": ["shop", "lib-*", "7"], "namespaces": {"names": ["a"]},
        }]));
        let grant = grant(&app, "acme", &namespace("a", &[])).unwrap();
        let read = permissions(&[("contents", "read")]);
        assert_eq!(grant.allows(&Reach::Only(&named(&["Shop", "lib-core"])), &read), Ok(()));
        assert_eq!(grant.allows(&Reach::Only(&[Known { name: None, id: Some(id(7)) }]), &read), Ok(()));
        assert_eq!(
            grant.allows(&Reach::Only(&named(&["shop", "shop2", "library"])), &read),
            Err(Refusal::Repositories(vec!["shop2".into(), "library".into()]))
        );
        assert_eq!(grant.allows(&Reach::All, &read), Err(Refusal::Repositories(vec!["*".into()])));
        assert!(grant.allows(&Reach::Only(&[Known { name: None, id: Some(id(8)) }]), &read).is_err());
        assert!(grant.allows(&Reach::Only(&named(&["7"])), &read).is_err(), "a name of digits is not an id");
    }

    #[test]
    fn permissions_do_not_add_up_over_entries() {
        let app = app(&json!([
            {"name": "acme", "account": "acme", "repositories": ["a", "b"], "namespaces": {"names": ["n"]}},
            {"name": "acme-2", "account": "acme", "repositories": ["b"], "maxPermissions": {"contents": "write"}, "namespaces": {"names": ["n"]}},
        ]));
        let grant = grant(&app, "acme", &namespace("n", &[])).unwrap();
        let write = permissions(&[("contents", "write"), ("metadata", "read")]);
        assert_eq!(grant.allows(&Reach::Only(&named(&["b"])), &write), Ok(()));
        assert_eq!(
            grant.allows(&Reach::Only(&named(&["a", "b"])), &write),
            Err(Refusal::Permissions(vec![("contents".into(), "write".into(), Some("read".into()))]))
        );
        assert_eq!(grant.effective().permissions["contents"], "write");
    }

    #[test]
    fn unknown_levels_are_never_granted() {
        let most = permissions(&[("contents", "admin"), ("pages", "write")]);
        assert_eq!(excess(&permissions(&[("contents", "maintain")]), &most).len(), 1);
        assert_eq!(excess(&permissions(&[("contents", "read"), ("metadata", "read")]), &most).len(), 0);
        assert_eq!(excess(&permissions(&[("metadata", "write")]), &most).len(), 1);
    }

    #[test]
    fn patterns() {
        for (pattern, name, matches) in [
            ("shop", "shop", true),
            ("shop", "shops", false),
            ("shop", "SHOP", true),
            ("lib-*", "lib-", true),
            ("lib-*", "alib-x", false),
            ("*", "anything", true),
            ("*-api", "shop-api", true),
            ("*-api", "shop-api2", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("**", "x", true),
        ] {
            assert_eq!(matches_pattern(pattern, name), matches, "{pattern} ~ {name}");
        }
    }

    #[test]
    fn the_grants_pin_goes_before_the_remembered_one() {
        let app: GitHubApp = serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": "x"},
            "spec": {"appID": 1, "credentialsSecretRef": {"name": "s"}},
            "status": {"tenants": [{"account": "Acme", "accountID": 7}]},
        }))
        .unwrap();
        assert_eq!(pin(&app, "acme", None), Pin::To(id(7)));
        assert_eq!(pin(&app, "acme", Some(id(9))), Pin::To(id(9)));
        assert_eq!(pin(&app, "globex", None), Pin::FirstSeen);
    }
}
