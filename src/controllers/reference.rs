//! Follows an object's `installationRef` to the installation, the App and the connection, and decides whether they may
//! be used.
//!
//! Invariant: all kinds get from a reference to access here only. Text that a tenant wrote into status has no
//! influence.

use super::access::{AccountAccess, Names, access};
use super::connection::Connection;
use super::shared::Shared;
use super::standing::Standing;
use crate::api::{GitHubApp, GitHubInstallation, Reason};
use crate::github::Permissions as GitHubPermissions;
use crate::grant::Grant;
use crate::ids::{AccountId, InstallationId};
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;

/// Whether an object that needs an installation may use it, according to the App, the installation and the grants.
#[derive(Clone, Debug)]
pub enum Access {
    /// This process has not looked at the App yet. Nothing is known, so nothing is done.
    NotYetKnown,
    /// A referenced object is missing or cannot be used now. A published token stays.
    Unavailable(Standing),
    /// The installation does not work now, and neither do its tokens.
    Dead(Standing),
    /// Not granted. A published token is withdrawn.
    Denied(Standing),
    Granted {
        /// The installation's id.
        installation: InstallationId,
        /// The account's current login on GitHub.
        account: String,
        account_id: AccountId,
        /// The installation's settings page.
        settings_url: String,
        /// The permissions and repositories that the namespace may request.
        grant: Grant,
        /// The permissions that the account gives the App.
        permissions: GitHubPermissions,
    },
}

/// The properties of an installation that a call depends on. When they change, a failed call is retried at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The installation's id.
    pub installation: InstallationId,
    /// The permissions that the account gives the App.
    pub permissions: GitHubPermissions,
    /// The permissions and repositories that the namespace may request.
    pub grant: Grant,
}

impl Access {
    /// The terms, if access is granted.
    #[must_use]
    pub fn terms(&self) -> Option<Terms> {
        let Self::Granted { installation, permissions, grant, .. } = self else { return None };
        Some(Terms { installation: *installation, permissions: permissions.clone(), grant: grant.clone() })
    }
}

/// The objects that a reference leads to.
pub struct Referred {
    pub installation: Option<Arc<GitHubInstallation>>,
    /// The name of its `GitHubApp`, whether that exists or not.
    pub app_name: Option<String>,
    pub app: Option<Arc<GitHubApp>>,
    /// The connection of the App.
    pub connection: Option<Connection>,
    /// Whether the reference may be used.
    pub access: Access,
}

/// The purpose of following a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To use the installation.
    Use,
    /// To remove things that were made with it. The installation or its App may be terminating.
    Removal,
}

/// Follows the reference of an object in `namespace` to the `GitHubInstallation` of this name.
#[must_use]
pub fn refer(shared: &Shared, namespace: &str, reference: &str, purpose: Purpose) -> Referred {
    let installation = shared.caches.named::<GitHubInstallation>(namespace, reference);
    let app_name = installation.as_ref().map(|installation| installation.spec.app_ref.name.clone());
    let app = app_name.as_ref().and_then(|name| shared.caches.get(&ObjectRef::<GitHubApp>::new(name)));
    let connection = app_name.as_ref().and_then(|name| shared.connections.get(name));
    let place = Place { namespace, reference, purpose };
    let access = decide(shared, place, installation.as_deref(), app.as_deref(), connection.as_ref());
    Referred { installation, app_name, app, connection, access }
}

struct Place<'a> {
    namespace: &'a str,
    reference: &'a str,
    purpose: Purpose,
}

fn decide(
    shared: &Shared,
    Place { namespace: namespace_name, reference, purpose }: Place<'_>,
    installation: Option<&GitHubInstallation>,
    app: Option<&GitHubApp>,
    connection: Option<&Connection>,
) -> Access {
    let Some(installation) = installation else {
        let here = shared.caches.index.by_namespace.under(namespace_name);
        let here: Vec<_> = here.into_iter().map(|other| other.name).collect();
        let here = if here.is_empty() { "none".to_owned() } else { here.join(", ") };
        return Access::Unavailable(Standing::reconciling(
            Reason::WaitingForReference,
            format!(
                "there is no GitHubInstallation {reference} in namespace {namespace_name} (there are: {here}): correct \
                 spec.installationRef.name, or ask the GitHubApp's administrator to grant this namespace the account"
            ),
        ));
    };
    if installation.meta().deletion_timestamp.is_some() && purpose == Purpose::Use {
        return Access::Denied(Standing::reconciling(
            Reason::InstallationNotFound,
            format!("GitHubInstallation {reference} is being deleted, so everything published for it is withdrawn"),
        ));
    }
    // The watch of namespaces brings it and wakes this object. Without labels, a selector could grant too much.
    let Some(namespace) = shared.namespace(namespace_name) else { return Access::NotYetKnown };
    let account = &installation.spec.account;
    // A terminating object grants nothing more, except the removal of things that were made with it.
    let as_it_was = app.filter(|_| purpose == Purpose::Removal).cloned().map(|mut app| {
        app.metadata.deletion_timestamp = None;
        app
    });
    let app = as_it_was.as_ref().or(app);
    let access = access(app, connection, account, &namespace, shared.now());
    let names = Names {
        app: &installation.spec.app_ref.name,
        account,
        namespace: namespace_name,
        was_installed: installation.status.as_ref().is_some_and(|status| status.installation_id.is_some()),
    };
    let Some(standing) = access.standing(names) else { return Access::NotYetKnown };
    match access {
        AccountAccess::NotYetKnown | AccountAccess::NoApp | AccountAccess::NoLook(_) => Access::Unavailable(standing),
        AccountAccess::NotGranted | AccountAccess::TakenOver { .. } => Access::Denied(standing),
        AccountAccess::NotInstalled { .. } | AccountAccess::Suspended(..) => Access::Dead(standing),
        AccountAccess::Active(found, grant) => match found.account {
            Some(account) => Access::Granted {
                installation: found.id,
                account: account.login,
                account_id: account.id,
                settings_url: found.html_url,
                grant,
                permissions: found.permissions,
            },
            // An installation without an account is never found.
            None => Access::NotYetKnown,
        },
    }
}
