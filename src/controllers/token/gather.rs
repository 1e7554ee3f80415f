//! Reads all that a decision about an `InstallationToken` needs.
//!
//! The Secret is read from the API server and not from a cache: a cache that is a moment behind would have a second
//! token minted. Everything else comes from caches and memory.

use super::memory::FailedFor;

use super::secret;
use super::seen::{Failed, Failures, Gathered, SecretSeen};
use crate::api::{GitHubInstallation, InstallationToken, REVOKE_FINALIZER, Reason};
use crate::controllers::connection::Connection;
use crate::controllers::context::{Context, PERSON_RECHECK};
use crate::controllers::object::{has_finalizer, requested_look};
use crate::controllers::reference::{Access, Purpose, Referred, refer};
use crate::controllers::standing::Standing;
use crate::controllers::workspace;
use crate::github::GitHub;
use crate::runtime::lenient::Lenient;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
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
    /// The name of the `GitHubApp`, if it is there.
    pub app: Option<String>,
}

/// Reads it.
///
/// # Errors
/// When the Secret cannot be read.
pub async fn gather(context: &Context, token: &Arc<InstallationToken>) -> Result<Found, kube::Error> {
    let namespace = token.namespace().unwrap_or_default();
    let uid = token.uid().unwrap_or_default();
    let place = ObjectRef::<GitHubInstallation>::new(&token.spec.installation_ref.name).within(&namespace);
    let is_installation_going =
        context.stores.installations.get(&place).is_some_and(|it| it.metadata.deletion_timestamp.is_some());
    let is_needed =
        workspace::needs(context, token, context.is_namespace_going(&namespace, is_installation_going).await?);
    let purpose = if is_needed { Purpose::Removal } else { Purpose::Use };
    let Referred { installation, app_name, app, connection, access } =
        refer(context, &namespace, &token.spec.installation_ref.name, purpose);
    let ca_bundle = app.as_ref().and_then(|app| app.spec.ca_bundle.clone());

    let secrets = Api::<Lenient<Secret>>::namespaced(context.client.clone(), &namespace);
    let secret = secrets.get_opt(&token.spec.secret.name).await?.map(Lenient::read).transpose()?;
    let seen = match &secret {
        None => SecretSeen::Absent,
        Some(secret) if !secret::is_ours(&secret.metadata, token) => SecretSeen::Foreign,
        Some(secret) => {
            let minted = context.memory.content(&uid);
            SecretSeen::Ours(secret::published(secret, token, ca_bundle.as_deref(), minted.as_ref()))
        }
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
        has_finalizer: has_finalizer(&**token, REVOKE_FINALIZER),
        is_paused: token.spec.paused
            || installation.as_ref().is_some_and(|installation| installation.spec.paused)
            || app.as_ref().is_some_and(|app| app.spec.paused),
        access,
        is_needed,
        secret: seen,
        former_secrets: former_secrets(context, token, &namespace),
        held: context.memory.held(&uid),
        revoked: context.memory.last_revoked(&uid),
        failed: failures(context, &uid, &about, connection.as_ref(), app_name.as_deref()),
    };
    let gathered = context.guards.token(gathered);
    let github = connection.and_then(|connection| connection.github);
    Ok(Found { gathered, about, secret, ca_bundle, github, app: app.and(app_name) })
}

/// The calls that failed, and those that would: while the App itself does not work, its tokens do not try each for
/// itself. The look that succeeds wakes them.
fn failures(
    context: &Context,
    uid: &str,
    about: &FailedFor,
    connection: Option<&Connection>,
    app: Option<&str>,
) -> Failures {
    let own = context.memory.failures(uid, about);
    let trouble = connection.filter(|connection| {
        connection
            .trouble
            .as_ref()
            .is_some_and(|trouble| [Reason::ApiUnreachable, Reason::CredentialsInvalid].contains(&trouble.reason))
    });
    let (Some(connection), Some(app)) = (trouble, app) else { return own };
    let until = context.clock.now().checked_add(PERSON_RECHECK).unwrap_or(Timestamp::MAX);
    let reason = connection.trouble.as_ref().map_or(Reason::ApiUnreachable, |trouble| trouble.reason);
    let message = format!(
        "GitHubApp {app} does not work: {reason}. `kubectl describe githubapp {app}` says more; this goes on as soon as it does"
    );
    let failed = Failed { standing: Standing::reconciling(reason, message), until };
    Failures { asking: own.asking.or(Some(failed.clone())), revoking: own.revoking.or(Some(failed)) }
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
