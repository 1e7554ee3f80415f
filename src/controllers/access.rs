//! Whether a namespace may use an account now: grants, pins and the last look, put together in one pure function.
//!
//! Invariant: the order of the questions. First who granted what, then what GitHub says; so that somebody who was
//! granted nothing learns nothing about the account, not even whether the App is installed there.

use super::connection::{AccountFound, Connection, Look};
use super::standing::{Standing, State};
use crate::api::{GitHubApp, Reason};
use crate::github::Installation;
use crate::grant::{Grant, NamespaceView, grant, pin};
use crate::ids::AccountId;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// For how long what GitHub said is gone by when it cannot be asked again: some looks may fail, but an App whose key was
/// taken away does not go on for ever.
const LOOK_HOLDS: SignedDuration = SignedDuration::from_hours(2);

/// Whether and how.
#[derive(Clone, Debug)]
pub enum AccountAccess {
    /// There is no such `GitHubApp`.
    NoApp,
    /// The `GitHubApp` gives this namespace nothing of this account.
    NotGranted,
    /// The App was not looked at since this process started.
    NotYetKnown,
    /// The App could not be looked at since this process started.
    NoLook(Standing),
    /// The account's name was taken over by another account.
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
    /// It is installed, and suspended.
    Suspended(Installation, Grant),
    /// It is installed, and works.
    Active(Installation, Grant),
}

/// Answers for an account, as the object names it, and a namespace.
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
    let is_recent = |look: &&Arc<Look>| look.at.checked_add(LOOK_HOLDS).is_ok_and(|end| end > now);
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

/// Whom a standing speaks of.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The `GitHubApp`.
    pub app: &'a str,
    /// The account.
    pub account: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The App was seen installed there before.
    pub was_installed: bool,
}

impl AccountAccess {
    /// What it means for an object that needs the installation. `None`: nothing can be said yet.
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
                    "GitHubApp {app} does not grant account {account} to namespace {namespace}: ask who administers it to add \
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
                    "the App was uninstalled from {account}, or the account was deleted; its tokens are dead. Who owns the account \
                     can install it again: {install_url}"
                ),
            ),
            Self::NotInstalled { install_url, .. } => Standing::stalled(
                Reason::NotInstalled,
                format!("the App is not installed on {account}. Who owns the account can install it: {install_url}"),
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
