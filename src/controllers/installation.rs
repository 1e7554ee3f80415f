//! `GitHubInstallation`: shows what a namespace was granted of an account, and waits for its tokens when it goes.
//!
//! It makes no call of its own: all it needs is the App's last look. Invariant: who was not granted the account sees
//! nothing of it in status.

use super::access::{Access, Names, access};
use super::context::{Context, Settled};
use super::object::{has_finalizer, requested_look, set_finalizer};
use super::standing::{Again, Standing};
use super::workspace;
use crate::api::{
    AccountStatus, DEPENDENTS_FINALIZER, GitHubInstallation, GitHubInstallationStatus, Reason, RepositorySelection,
    WEBHOOK_FINALIZER,
};
use crate::github;
use crate::runtime::metrics::Outcome;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::ResourceExt;
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;

/// How long something that is being deleted waits for what depends on it.
pub const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(15);

/// One reconcile.
///
/// # Errors
/// What Kubernetes refused.
pub async fn reconcile(installation: Arc<GitHubInstallation>, context: Arc<Context>) -> Result<Outcome, kube::Error> {
    let context = &*context;
    if installation.metadata.deletion_timestamp.is_some() {
        return remove(&installation, context).await;
    }
    let installation = if has_finalizer(&*installation, DEPENDENTS_FINALIZER) {
        installation
    } else {
        Arc::new(set_finalizer(&context.client, &*installation, DEPENDENTS_FINALIZER, true).await?)
    };
    let app_name = &installation.spec.app_ref.name;
    let Some(namespace) = context.namespace(&installation.namespace().unwrap_or_default()) else {
        // Its namespace is announced by its own watch, which wakes this up.
        return Ok(Outcome::Waiting);
    };
    let app = context.stores.apps.get(&ObjectRef::new(app_name));
    let access = access(
        app.as_deref(),
        context.connections.get(app_name).as_ref(),
        &installation.spec.account,
        &namespace,
        context.clock.now(),
    );
    let stored = installation.status.clone().unwrap_or_default();
    let asks =
        requested_look(&*installation).is_some_and(|request| stored.last_handled_reconcile.as_ref() != Some(request));
    // Who was granted nothing has nothing looked at.
    if asks && !matches!(access, Access::NoApp | Access::NotGranted) {
        context.connections.request_look(app_name, context.clock.now());
        context.due.apps.look_now(&ObjectRef::new(app_name));
    }
    let names = Names {
        app: app_name,
        account: &installation.spec.account,
        namespace: &namespace.name,
        was_installed: stored.installation_id.is_some(),
    };
    let settled = Settled { standing: access.standing(names), again: None };
    let status = status(&access, stored, requested_look(&*installation).cloned());
    context.conclude(&context.due.installations, &*installation, status, &settled).await
}

/// What to show.
fn status(access: &Access, stored: GitHubInstallationStatus, handled: Option<String>) -> GitHubInstallationStatus {
    let shown = match access {
        Access::Active(installation, grant) | Access::Suspended(installation, grant) => GitHubInstallationStatus {
            installation_id: i64::try_from(installation.id).ok(),
            account: installation.account.as_ref().map(|account| AccountStatus {
                id: i64::try_from(account.id).unwrap_or_default(),
                login: account.login.clone(),
                kind: account.kind.clone(),
            }),
            repository_selection: match &installation.repository_selection {
                github::RepositorySelection::All => Some(RepositorySelection::All),
                github::RepositorySelection::Selected => Some(RepositorySelection::Selected),
                github::RepositorySelection::Other(_) => None,
            },
            permissions: installation
                .permissions
                .iter()
                .map(|(name, level)| (name.clone(), level.to_string()))
                .collect(),
            events: installation.events.clone(),
            suspension_time: installation.suspended_at.map(Time),
            suspended_by: installation.suspended_by.as_ref().map(|by| by.login.clone()),
            html_url: Some(installation.html_url.clone()),
            granted: Some(grant.effective()),
            ..GitHubInstallationStatus::default()
        },
        // The old id stays, as the sign that it was installed once.
        Access::NotInstalled { grant, .. } => GitHubInstallationStatus {
            installation_id: stored.installation_id,
            account: stored.account,
            granted: Some(grant.effective()),
            ..GitHubInstallationStatus::default()
        },
        Access::NoLook(_) | Access::NotYetKnown => stored,
        Access::NoApp | Access::NotGranted | Access::TakenOver { .. } => GitHubInstallationStatus::default(),
    };
    GitHubInstallationStatus { last_handled_reconcile: handled, ..shown }
}

/// Waits until no token published for it is left, which its tokens see to, then lets it go.
async fn remove(installation: &GitHubInstallation, context: &Context) -> Result<Outcome, kube::Error> {
    if !has_finalizer(installation, DEPENDENTS_FINALIZER) {
        return Ok(Outcome::Ok);
    }
    let namespace = installation.namespace().unwrap_or_default();
    let is_namespace_going = context.is_namespace_going(&namespace, true).await?;
    let dependents = dependents_of(context, installation, is_namespace_going);
    match waited_long_enough(installation, context.clock.now()) {
        Some(until) if !dependents.is_empty() => {
            let standing = Standing::reconciling(
                Reason::WaitingForDependents,
                format!(
                    "it is being deleted and waits, 15 minutes at most, until the tokens that were published for it are \
                     revoked and webhooks removed: {}",
                    dependents.join(", ")
                ),
            );
            let settled = Settled { standing: Some(standing), again: Some(Again::At(until)) };
            let status = installation.status.clone().unwrap_or_default();
            context.conclude(&context.due.installations, installation, status, &settled).await
        }
        waiting => {
            if waiting.is_none() && !dependents.is_empty() {
                let note = format!(
                    "gone after 15 minutes, though this still needed it (tokens expire within the hour, webhooks stay): {}",
                    dependents.join(", ")
                );
                let object = installation.object_ref(&());
                context
                    .events
                    .transition(&object, EventType::Warning, Reason::WaitingForDependents.as_str(), &note)
                    .await;
            }
            set_finalizer(&context.client, installation, DEPENDENTS_FINALIZER, false).await?;
            Ok(Outcome::Ok)
        }
    }
}

/// Until when what is being deleted waits. `None`: it has waited long enough.
#[must_use]
pub fn waited_long_enough<K: Resource>(object: &K, now: Timestamp) -> Option<Timestamp> {
    let until = object.meta().deletion_timestamp.as_ref()?.0.checked_add(LONGEST_WAIT).ok()?;
    (until > now).then_some(until)
}

/// What needs an installation to clean up: tokens that are published for it, by their status, which is a hint, or that are being
/// revoked, or with which a workspace saves; and repositories whose own webhooks may still be there. The wait for them is bounded.
#[must_use]
pub fn dependents_of(context: &Context, installation: &GitHubInstallation, is_namespace_going: bool) -> Vec<String> {
    let namespace = installation.namespace().unwrap_or_default();
    let name = installation.name_any();
    let tokens = context.stores.tokens.state();
    let used = tokens.iter().filter(|token| {
        let is_its = token.namespace().as_ref() == Some(&namespace) && token.spec.installation_ref.name == name;
        is_its
            && (token.metadata.deletion_timestamp.is_some()
                || token.status.as_ref().is_some_and(|status| status.fingerprint.is_some())
                || workspace::needs(context, token, is_namespace_going))
    });
    let repositories = context.stores.repositories.state();
    let hooked = repositories.iter().filter(|repository| {
        repository.namespace().as_ref() == Some(&namespace)
            && has_finalizer(&***repository, WEBHOOK_FINALIZER)
            && repository.spec.installation_ref.as_ref().is_some_and(|of| of.name == name)
    });
    let used = used.map(|token| format!("InstallationToken {namespace}/{}", token.name_any()));
    used.chain(hooked.map(|repository| format!("ProjectRepository {namespace}/{}", repository.name_any()))).collect()
}
