//! Reads all that a decision about an `InstallationToken` needs.
//!
//! The Secret is read from the API server and not from a cache: a cache that is a moment behind would have a second
//! token minted. Everything else comes from caches and memory.

use super::memory::FailedFor;
use super::plan::{Access, Gathered, SecretSeen};
use super::secret;
use crate::api::{GitHubApp, GitHubInstallation, InstallationToken, REVOKE_FINALIZER, Reason};
use crate::controllers::access::{self, Names, access};
use crate::controllers::connection::Connection;
use crate::controllers::context::{Context, requested_look};
use crate::controllers::standing::Standing;
use crate::github::GitHub;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::sync::Arc;

/// What was read: what to decide by, and what to act with.
pub struct Found {
    /// What to decide by.
    pub gathered: Gathered,
    /// What a failure of a call would be about.
    pub about: FailedFor,
    /// The Secret of the name in the spec.
    pub secret: Option<Secret>,
    /// The certificates to hand on.
    pub ca_bundle: Option<String>,
    /// The client, unless the App's credentials cannot be used at all.
    pub github: Option<Arc<GitHub>>,
    /// The `GitHubApp` is there, so that a client can be had sooner or later.
    pub has_app: bool,
}

/// Reads it.
///
/// # Errors
/// When the Secret cannot be read.
pub async fn gather(context: &Context, token: &Arc<InstallationToken>) -> Result<Found, kube::Error> {
    let namespace = token.namespace().unwrap_or_default();
    let uid = token.uid().unwrap_or_default();
    let installation =
        context.stores.installations.get(&ObjectRef::new(&token.spec.installation_ref.name).within(&namespace));
    let app_name = installation.as_ref().map(|installation| installation.spec.app_ref.name.clone());
    let app = app_name.as_ref().and_then(|name| context.stores.apps.get(&ObjectRef::new(name)));
    let connection = app_name.as_ref().and_then(|name| context.connections.get(name));
    let access = decide(context, token, installation.as_deref(), app.as_deref(), connection.as_ref());
    let ca_bundle = app.as_ref().and_then(|app| app.spec.ca_bundle.clone());

    let secrets = Api::<Secret>::namespaced(context.client.clone(), &namespace);
    let secret = secrets.get_opt(&token.spec.secret.name).await?;
    let seen = match &secret {
        None => SecretSeen::Absent,
        Some(secret) if !secret::is_ours(&secret.metadata, token) => SecretSeen::Foreign,
        Some(secret) => SecretSeen::Ours(secret::published(secret, token, ca_bundle.as_deref())),
    };
    let about = FailedFor {
        generation: token.metadata.generation,
        request: requested_look(&**token).cloned(),
        access: match &access {
            Access::Granted { installation, permissions, grant, .. } => {
                format!("{installation} {permissions:?} {grant:?}")
            }
            other => format!("{:?}", std::mem::discriminant(other)),
        },
    };
    let gathered = Gathered {
        token: Arc::clone(token),
        has_finalizer: token.finalizers().iter().any(|finalizer| finalizer == REVOKE_FINALIZER),
        is_paused: token.spec.paused
            || installation.as_ref().is_some_and(|installation| installation.spec.paused)
            || app.as_ref().is_some_and(|app| app.spec.paused),
        access,
        secret: seen,
        former_secrets: former_secrets(context, token, &namespace),
        held: context.memory.held(&uid),
        revoked: context.memory.last_revoked(&uid),
        failed: context.memory.failure(&uid, &about),
    };
    #[cfg(feature = "sabotage")]
    let gathered = context.sabotage.tamper(gathered);
    let github = connection.and_then(|connection| connection.github);
    Ok(Found { gathered, about, secret, ca_bundle, github, has_app: app.is_some() })
}

fn decide(
    context: &Context,
    token: &InstallationToken,
    installation: Option<&GitHubInstallation>,
    app: Option<&GitHubApp>,
    connection: Option<&Connection>,
) -> Access {
    let namespace_name = token.namespace().unwrap_or_default();
    let reference = &token.spec.installation_ref.name;
    let Some(installation) = installation else {
        let here: Vec<_> = context
            .stores
            .installations
            .state()
            .iter()
            .filter(|other| other.namespace().as_deref() == Some(&namespace_name))
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
    if installation.meta().deletion_timestamp.is_some() {
        return Access::Denied(Standing::reconciling(
            Reason::InstallationNotFound,
            format!("GitHubInstallation {reference} is being deleted, so what was published for it is taken back"),
        ));
    }
    // A namespace that is not in the cache yet has no labels that could grant anything; its name can.
    let namespace = context.namespace(&namespace_name).unwrap_or(crate::controllers::grant::NamespaceView {
        name: namespace_name.clone(),
        labels: [].into(),
        terminating: false,
    });
    let account = &installation.spec.account;
    let access = access(app, connection, account, &namespace);
    let names = Names {
        app: &installation.spec.app_ref.name,
        account,
        namespace: &namespace_name,
        was_installed: installation.status.as_ref().is_some_and(|status| status.installation_id.is_some()),
    };
    let Some(standing) = access.standing(names) else { return Access::NotYetKnown };
    match access {
        access::Access::NotYetKnown | access::Access::NoApp | access::Access::NoLook(_) => {
            Access::Unavailable(standing)
        }
        access::Access::NotGranted | access::Access::TakenOver { .. } => Access::Denied(standing),
        access::Access::NotInstalled { .. } | access::Access::Suspended(..) => Access::Dead(standing),
        access::Access::Active(found, grant) => Access::Granted {
            installation: i64::try_from(found.id).unwrap_or_default(),
            account: account.clone(),
            settings_url: found.html_url,
            grant,
            permissions: found.permissions,
        },
    }
}

/// Secrets that were made for this object under a name that its spec no longer has.
fn former_secrets(context: &Context, token: &InstallationToken, namespace: &str) -> Vec<String> {
    let secrets = context.stores.secrets.iter().flat_map(kube::runtime::reflector::Store::state);
    let mut names: Vec<_> = secrets
        .filter(|secret| {
            secret.namespace().as_deref() == Some(namespace)
                && secret.name_any() != token.spec.secret.name
                && secret.metadata.deletion_timestamp.is_none()
                && secret::is_ours(&secret.metadata, token)
        })
        .map(|secret| secret.name_any())
        .collect();
    names.sort();
    names
}
