//! Decides whether a namespace may use an account now, from grants, pins and the last look, in one pure function.
//!
//! Invariant: grants are checked before the answer of GitHub. A namespace without a grant therefore learns nothing
//! about the account, not even whether the App is installed on it.

use super::connection::{AccountFound, Connection, Look};
use super::standing::{Standing, State};
use crate::api::{GitHubApp, Reason};
use crate::github::Installation;
use crate::grant::{Grant, NamespaceView, Refusal, grant, pin};
use crate::ids::AccountId;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// How long an answer of GitHub is used when GitHub cannot be asked again. Some looks may fail, but access through an
/// App whose key was taken away ends.
pub const LOOK_HOLDS: SignedDuration = SignedDuration::from_hours(2);

#[derive(Clone, Debug)]
pub enum AccountAccess {
    /// There is no such `GitHubApp`.
    NoApp,
    /// The `GitHubApp` gives this namespace nothing of this account.
    NotGranted,
    /// This process has not looked at the App yet.
    NotYetKnown,
    /// No look at the App has succeeded since this process started, or the last successful one is too old.
    NoLook(Standing),
    /// Another account took over the account's name.
    TakenOver {
        /// The id the name is pinned to.
        pinned: AccountId,
        /// The id of the account that has the name now.
        found: AccountId,
    },
    /// The App is not installed on the account.
    NotInstalled {
        /// Where a person can install it.
        install_url: String,
        /// What was granted.
        grant: Grant,
    },
    /// The App is installed there, and the installation is suspended.
    Suspended(Installation, Grant),
    /// The App is installed there, and the installation works.
    Active(Installation, Grant),
}

/// Decides on an account, by the name that the object uses, for a namespace.
#[must_use]
pub fn access(
    app: Option<&GitHubApp>,
    connection: Option<&Connection>,
    account: &str,
    namespace: &NamespaceView,
    now: Timestamp,
) -> AccountAccess {
    let Some(app) = app else { return AccountAccess::NoApp };
    let Some(grant) = grant(app, account, namespace) else { return AccountAccess::NotGranted };
    let Some(connection) = connection else { return AccountAccess::NotYetKnown };
    // Since a clock was set back, the age of an older answer is unknown.
    let is_recent = |look: &&Arc<Look>| look.at.duration_since(now).abs() < LOOK_HOLDS;
    let Some(look) = connection.look.as_ref().filter(is_recent) else {
        return connection.trouble.clone().map_or(AccountAccess::NotYetKnown, AccountAccess::NoLook);
    };
    match look.find(account, pin(app, account, grant.account_id())) {
        AccountFound::Installed(installation) => {
            let id = installation.account.as_ref().map(|account| account.id);
            match id.and_then(|id| grant.of_account(id)) {
                None => AccountAccess::NotGranted,
                Some(grant) if installation.suspended_at.is_some() => {
                    AccountAccess::Suspended(installation.clone(), grant)
                }
                Some(grant) => AccountAccess::Active(installation.clone(), grant),
            }
        }
        AccountFound::Another { pinned, found } => AccountAccess::TakenOver { pinned, found },
        AccountFound::Nowhere => {
            AccountAccess::NotInstalled { install_url: format!("{}/installations/new", look.app.html_url), grant }
        }
    }
}

/// The names that the message of a standing contains.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The `GitHubApp`.
    pub app: &'a str,
    pub account: &'a str,
    pub namespace: &'a str,
    /// Whether the App was installed there before.
    pub was_installed: bool,
}

impl AccountAccess {
    /// The standing of an object that needs the installation. `None`: not known yet.
    #[must_use]
    pub fn standing(&self, names: Names<'_>) -> Option<Standing> {
        let Names { app, account, namespace, was_installed } = names;
        Some(match self {
            Self::NotYetKnown => return None,
            Self::NoApp => Standing::reconciling(
                Reason::WaitingForReference,
                format!(
                    "there is no GitHubApp {app}: create it, or correct the reference; it is picked up as soon as it is there"
                ),
            ),
            Self::NotGranted => Standing::stalled(
                Reason::AccountNotGranted,
                format!(
                    "GitHubApp {app} does not grant account {account} to namespace {namespace}: ask its administrator to add \
                     the account and this namespace to its spec.tenants"
                ),
            ),
            Self::NoLook(trouble) => {
                let message = format!(
                    "GitHubApp {app} does not work: {}. `kubectl describe githubapp {app}` says more; this goes on as soon as it does",
                    trouble.reason
                );
                match trouble.state {
                    State::Stalled => Standing::stalled(Reason::WaitingForReference, message),
                    _ => Standing::reconciling(Reason::WaitingForReference, message),
                }
            }
            Self::TakenOver { pinned, found } => Standing::stalled(
                Reason::AccountNotGranted,
                format!(
                    "the name {account} belonged to the account with id {pinned} when it was granted, and now to another one, id \
                     {found}: if that one is meant, set spec.tenants[].accountID of GitHubApp {app} to {found}"
                ),
            ),
            Self::NotInstalled { install_url, .. } if was_installed => Standing::stalled(
                Reason::Revoked,
                format!(
                    "the App was uninstalled from {account}, or the account was deleted; its tokens are dead. The owner of the \
                     account can install it again: {install_url}"
                ),
            ),
            Self::NotInstalled { install_url, .. } => Standing::stalled(
                Reason::NotInstalled,
                format!(
                    "the App is not installed on {account}. The owner of the account can install it: {install_url}"
                ),
            ),
            Self::Suspended(installation, _) => Standing::stalled(
                Reason::InstallationSuspended,
                format!(
                    "the installation on {account} was suspended{}; its tokens do not work. It can be unsuspended at {}",
                    installation.suspended_by.as_ref().map(|by| format!(" by {}", by.login)).unwrap_or_default(),
                    installation.html_url
                ),
            ),
            Self::Active(installation, _) => Standing::ready(
                Reason::Active,
                format!(
                    "the App is installed on {account}, for {} repositories",
                    installation.repository_selection.as_str()
                ),
            ),
        })
    }
}

/// The words for a person whose git is refused, because of what the grant does not have.
#[must_use]
pub fn may_not(refusal: &Refusal, app: &str, account: &str, namespace: &str) -> String {
    match refusal {
        Refusal::Repositories(missing) => format!(
            "GitHubApp {app} does not grant namespace {namespace} {} of {account}: ask its administrator to add it to \
             spec.tenants[].repositories",
            missing.join(", ")
        ),
        Refusal::Permissions(missing) => {
            let missing: Vec<_> = missing.iter().map(|(name, level, _)| format!("{name}: {level}")).collect();
            format!(
                "GitHubApp {app} does not grant namespace {namespace} {} for this repository of {account}: ask its administrator to \
                 raise spec.tenants[].maxPermissions",
                missing.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn app() -> GitHubApp {
        serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": "landfall"},
            "spec": {"appID": 1, "credentialsSecretRef": {"name": "s"}, "tenants": [
                {"name": "acme", "account": "acme", "repositories": ["*"], "namespaces": {"names": ["team-a"]}}]},
        }))
        .unwrap()
    }

    fn connection(suspended: Option<&str>) -> Connection {
        let installation = json!({
            "id": 70, "app_id": 1, "account": {"id": 7, "login": "acme", "type": "Organization"}, "suspended_at": suspended,
            "repository_selection": "all", "html_url": "https://github.com/settings/installations/70",
        });
        let app = json!({"id": 1, "slug": "x", "name": "X", "html_url": "https://github.com/apps/x"});
        Connection {
            look: Some(Arc::new(Look {
                at: Timestamp::UNIX_EPOCH,
                app: serde_json::from_value(app).unwrap(),
                bot_user_id: None,
                installations: vec![serde_json::from_value(installation).unwrap()],
            })),
            ..Connection::default()
        }
    }

    fn namespace(name: &str) -> NamespaceView {
        NamespaceView { name: name.into(), labels: [].into(), terminating: false }
    }

    #[test]
    fn who_was_granted_nothing_learns_nothing() {
        for connection in [None, Some(connection(None)), Some(connection(Some("2026-01-01T00:00:00Z")))] {
            let access = access(Some(&app()), connection.as_ref(), "acme", &namespace("team-b"), NOW);
            assert!(matches!(access, AccountAccess::NotGranted), "{access:?}");
        }
    }

    #[test]
    fn a_suspended_installation_is_listed_and_does_not_work() {
        let suspended = connection(Some("2026-01-01T00:00:00Z"));
        assert!(matches!(
            access(Some(&app()), Some(&suspended), "acme", &namespace("team-a"), NOW),
            AccountAccess::Suspended(i, _) if i.id == id(70)
        ));
        assert!(matches!(
            access(Some(&app()), Some(&connection(None)), "Acme", &namespace("team-a"), NOW),
            AccountAccess::Active(i, _) if i.id == id(70)
        ));
    }

    #[test]
    fn nothing_is_said_before_the_first_look() {
        let names = Names { app: "landfall", account: "acme", namespace: "team-a", was_installed: true };
        let access = access(Some(&app()), None, "acme", &namespace("team-a"), NOW);
        assert_eq!(access.standing(names), None);
    }

    #[test]
    fn what_was_seen_long_ago_does_not_count() {
        let later = NOW + SignedDuration::from_hours(3);
        let trouble = Standing::stalled(crate::api::Reason::CredentialsInvalid, "the key is gone");
        let old = Connection { trouble: Some(trouble), ..connection(None) };
        assert!(matches!(
            access(Some(&app()), Some(&old), "acme", &namespace("team-a"), later),
            AccountAccess::NoLook(_)
        ));
    }

    #[test]
    fn an_entry_for_another_account_of_that_name_grants_nothing() {
        let mut app = app();
        app.spec.tenants[0].account_id = Some(id(9));
        let seen = access(Some(&app), Some(&connection(None)), "acme", &namespace("team-a"), NOW);
        assert!(
            matches!(seen, AccountAccess::TakenOver { pinned, found } if (pinned, found) == (id(9), id(7))),
            "{seen:?}"
        );
        app.spec.tenants[0].account_id = Some(id(7));
        let seen = access(Some(&app), Some(&connection(None)), "acme", &namespace("team-a"), NOW);
        assert!(matches!(seen, AccountAccess::Active(..)), "{seen:?}");
    }
}
