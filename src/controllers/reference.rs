//! What an object's `installationRef` leads to: the installation, the App, the connection, and whether it may be used.
//!
//! Invariant: the one way from a reference to access, for all kinds; what a tenant wrote into status plays no part in it.

use super::access::{AccountAccess, Names, access};
use super::connection::Connection;
use super::shared::Shared;
use super::standing::Standing;
use crate::api::{GitHubApp, GitHubInstallation, Reason};
use crate::github::Permissions as GitHubPermissions;
use crate::grant::Grant;
use crate::ids::{AccountId, InstallationId};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::sync::Arc;

/// Whether what needs an installation may use it, as far as App, installation and grants say.
#[derive(Clone, Debug)]
pub enum Access {
    /// The App was not looked at since this process started. Nothing is known, so nothing is done.
    NotYetKnown,
    /// Something referred to is not there or not usable now. What was published stays.
    Unavailable(Standing),
    /// The installation does not work now, and tokens of it neither.
    Dead(Standing),
    /// Not granted: what was published is taken back.
    Denied(Standing),
    /// Granted.
    Granted {
        /// The installation's id.
        installation: InstallationId,
        /// The account's login, as GitHub has it now.
        account: String,
        /// The account's id.
        account_id: AccountId,
        /// The installation's settings page.
        settings_url: String,
        /// What the namespace may ask for.
        grant: Grant,
        /// What the account lets the App do.
        permissions: GitHubPermissions,
    },
}

/// What of an installation a call depends on. When it is another, a call that failed is tried again at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The installation's id.
    pub installation: InstallationId,
    /// What the account lets the App do.
    pub permissions: GitHubPermissions,
    /// What the namespace may ask for.
    pub grant: Grant,
}

impl Access {
    /// The terms, where it is granted.
    #[must_use]
    pub fn terms(&self) -> Option<Terms> {
        let Self::Granted { installation, permissions, grant, .. } = self else { return None };
        Some(Terms { installation: *installation, permissions: permissions.clone(), grant: grant.clone() })
    }
}

/// What a reference leads to.
pub struct Referred {
    /// The `GitHubInstallation`.
    pub installation: Option<Arc<GitHubInstallation>>,
    /// The name of its `GitHubApp`, be there one or not.
    pub app_name: Option<String>,
    /// The `GitHubApp`.
    pub app: Option<Arc<GitHubApp>>,
    /// What is known of the App.
    pub connection: Option<Connection>,
    /// Whether it may be used.
    pub access: Access,
}

/// What the reference is followed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To use the installation.
    Use,
    /// To remove what was made by it: it, or its App, may be going itself.
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
        let here: Vec<_> = shared
            .caches
            .all::<GitHubInstallation>()
            .iter()
            .filter(|other| other.namespace().as_deref() == Some(namespace_name))
            .map(|other| other.name_any())
            .collect();
        let here = if here.is_empty() { "none".to_owned() } else { here.join(", ") };
        return Access::Unavailable(Standing::reconciling(
            Reason::WaitingForReference,
            format!(
                "there is no GitHubInstallation {reference} in namespace {namespace_name} (there are: {here}): correct \
                 spec.installationRef.name, or ask who administers the GitHubApp to grant this namespace the account"
            ),
        ));
    };
    if installation.meta().deletion_timestamp.is_some() && purpose == Purpose::Use {
        return Access::Denied(Standing::reconciling(
            Reason::InstallationNotFound,
            format!("GitHubInstallation {reference} is being deleted, so what was published for it is taken back"),
        ));
    }
    // Announced by its own watch, which wakes this up. Without labels a selector could grant too much.
    let Some(namespace) = shared.namespace(namespace_name) else { return Access::NotYetKnown };
    let account = &installation.spec.account;
    // What is going grants no more, but to take away what was made by it.
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
