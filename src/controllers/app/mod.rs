//! `GitHubApp`: keeps the connection, looks at GitHub for all that depend on it, and makes the installations' objects.

mod apply;
mod gather;
mod hook;
mod plan;

use super::connection::Connection;
use super::context::{Context, Settled};
use super::deliveries::{self, Announced, Mark, waiting};
use super::installation::{dependents_of, waited_long_enough};
use super::object::{has_finalizer, requested_look, set_finalizer};
use super::standing::{Again, Standing, kubernetes_refusal};
use crate::api::{DEPENDENTS_FINALIZER, DeliveryResult, GitHubApp, GitHubAppStatus, Reason, WebhookPolicy};
use crate::runtime::metrics::Outcome;
pub use hook::HookSeen;
use jiff::Timestamp;
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use plan::{Desired, plan};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One reconcile.
///
/// # Errors
/// What Kubernetes refused.
pub async fn reconcile(app: Arc<GitHubApp>, context: Arc<Context>) -> Result<Outcome, kube::Error> {
    let context = &*context;
    if app.metadata.deletion_timestamp.is_some() {
        return remove(&app, context).await;
    }
    let app = if has_finalizer(&*app, DEPENDENTS_FINALIZER) {
        app
    } else {
        Arc::new(set_finalizer(&context.client, &*app, DEPENDENTS_FINALIZER, true).await?)
    };
    let announced = hear(context, &app);
    let began = context.clock.now();
    let connection = match gather::look(context, &app).await {
        Ok(connection) => connection,
        Err(error) => {
            // What passes is only tried again.
            let Some(standing) = kubernetes_refusal(&error, &context.settings.namespace) else { return Err(error) };
            let settled = Settled { standing: Some(standing), again: Some(Again::Backoff) };
            let status = app.status.clone().unwrap_or_default();
            return context.conclude(&context.due.apps, &*app, status, &settled).await;
        }
    };
    let app = mark(context, app, &connection, announced, began).await?;
    let hook = hook::ensure(context, &app, &connection).await;
    let desired = plan(
        &app,
        connection.look.as_deref(),
        &context.namespaces(),
        &context.stores.installations.state(),
        &in_use(context),
    );
    let failures = if connection.look.is_some() && !app.spec.paused {
        apply::apply(context, &app, &desired).await
    } else {
        Vec::new()
    };
    let settled = if failures.is_empty() {
        let next = [connection.next_look, hook.next].into_iter().flatten().min();
        Settled { standing: Some(standing(&app, &connection, &desired, &hook)), again: next.map(Again::At) }
    } else {
        let message = format!(
            "Kubernetes refused {} GitHubInstallations, which is tried again by itself: {}",
            failures.len(),
            failures.join("; ")
        );
        let standing = Standing::reconciling(Reason::KubernetesRefused, message);
        Settled { standing: Some(standing), again: Some(Again::Backoff) }
    };
    let status = status(&app, &connection, &desired, &hook);
    context.conclude(&context.due.apps, &*app, status, &settled).await
}

fn standing(app: &GitHubApp, connection: &Connection, desired: &Desired, hook: &HookSeen) -> Standing {
    match (&connection.look, &connection.trouble) {
        (_, Some(trouble)) if trouble.state == super::standing::State::Stalled => trouble.clone(),
        (Some(_), Some(trouble)) => trouble.clone().while_still_good("GitHub accepted the App's credentials before"),
        (None, Some(trouble)) => trouble.clone(),
        (None, None) => unlooked(),
        (Some(_), None) if hook.trouble.is_some() => hook.trouble.clone().unwrap_or_else(unlooked),
        (Some(look), None) => {
            let mut message = format!(
                "GitHub accepts the credentials of App {}, installed on {} accounts",
                look.app.slug().unwrap_or(&look.app.name),
                look.installations.len()
            );
            if app.spec.tenants.is_empty() {
                message.push_str("; spec.tenants grants it to nobody yet");
            }
            if !desired.clashes.is_empty() {
                message.push_str("; not made, for a GitHubInstallation of that name is there already: ");
                message.push_str(&desired.clashes.join(", "));
            }
            if app.spec.paused {
                Standing::ready(Reason::Paused, format!("{message}; spec.paused: true holds back changes"))
            } else {
                Standing::ready(Reason::Connected, message)
            }
        }
    }
}

/// Namespace and name of the `GitHubInstallation`s that tokens and repositories refer to.
fn in_use(context: &Context) -> BTreeSet<(String, String)> {
    let tokens = context.stores.tokens.state();
    let tokens = tokens.iter().map(|token| (token.namespace(), token.spec.installation_ref.name.clone()));
    let repositories = context.stores.repositories.state();
    let repositories = repositories.iter().filter_map(|repository| {
        Some((repository.namespace(), repository.spec.installation_ref.as_ref()?.name.clone()))
    });
    tokens.chain(repositories).map(|(namespace, name)| (namespace.unwrap_or_default(), name)).collect()
}

fn unlooked() -> Standing {
    Standing::reconciling(Reason::ApiUnreachable, "the App was not looked at yet")
}

/// The deliveries that wait for a look; one is asked for, if there are any that none has covered.
fn hear(context: &Context, app: &GitHubApp) -> BTreeSet<Announced> {
    let waiting: BTreeSet<_> =
        app.status.iter().flat_map(|status| waiting(&status.deliveries)).map(|(announced, _)| announced).collect();
    let name = app.name_any();
    let heard = context.connections.get(&name).map(|connection| connection.heard).unwrap_or_default();
    if !waiting.is_subset(&heard) {
        context.connections.request_look(&name, context.clock.now());
    }
    waiting
}

/// Marks the deliveries that waited before a look that succeeded.
async fn mark(
    context: &Context,
    app: Arc<GitHubApp>,
    connection: &Connection,
    waiting: BTreeSet<Announced>,
    began: Timestamp,
) -> Result<Arc<GitHubApp>, kube::Error> {
    let is_looked = connection.trouble.is_none() && connection.look.as_ref().is_some_and(|look| look.at >= began);
    let marks: BTreeSet<_> =
        waiting.into_iter().filter(|announced| is_looked || connection.heard.contains(announced)).collect();
    if marks.is_empty() {
        return Ok(app);
    }
    context.connections.update(&app.name_any(), |connection| connection.heard.clone_from(&marks));
    let handled = |announced: Announced| {
        let delivery = app.status.as_ref()?.deliveries.get(&announced.0)?.clone();
        Some(Mark { announced, delivery, result: DeliveryResult::Handled, message: None })
    };
    let marked = deliveries::mark(&context.client, &*app, marks.into_iter().filter_map(handled)).await?;
    Ok(Arc::new(marked))
}

fn status(app: &GitHubApp, connection: &Connection, desired: &Desired, hook: &HookSeen) -> GitHubAppStatus {
    let stored = app.status.clone().unwrap_or_default();
    let status = GitHubAppStatus {
        webhook: if app.spec.webhook.as_ref().is_some_and(|webhook| webhook.policy != WebhookPolicy::Manual) {
            // While nothing is known of it, what was stored tells which address was ours.
            hook.ensured.clone().or_else(|| stored.webhook.clone())
        } else {
            None
        },
        tenants: desired.tenants.clone(),
        last_handled_reconcile: requested_look(app).cloned(),
        ..stored.clone()
    };
    let Some(look) = &connection.look else { return status };
    GitHubAppStatus {
        app_id: i64::try_from(look.app.id).ok(),
        slug: look.app.slug().map(str::to_owned),
        name: Some(look.app.name.clone()),
        owner_login: look.app.owner.as_ref().map(|owner| owner.login.clone()),
        html_url: Some(look.app.html_url.clone()),
        bot_user_id: look.bot_user_id,
        permissions: look.app.permissions.iter().map(|(name, level)| (name.clone(), level.to_string())).collect(),
        events: look.app.events.clone(),
        ..status
    }
}

/// Withdraws the grants (an App that is going grants nothing, so tokens are revoked, Secrets and webhooks removed), then
/// removes the objects that were made for it, then goes.
async fn remove(app: &GitHubApp, context: &Context) -> Result<Outcome, kube::Error> {
    let name = app.name_any();
    if !has_finalizer(app, DEPENDENTS_FINALIZER) {
        return Ok(Outcome::Ok);
    }
    // After a restart neither the client is there, by which tokens are revoked, nor the look, by which webhooks are removed.
    let connection = gather::look(context, app).await?;
    let installations: Vec<_> =
        context.stores.installations.state().into_iter().filter(|other| other.spec.app_ref.name == name).collect();
    for installation in &installations {
        context.due.installations.look_now(&ObjectRef::from_obj(&**installation));
        if plan::is_made_for(installation, &name) && installation.metadata.deletion_timestamp.is_none() {
            apply::delete(context, installation).await?;
        }
    }
    let mut waiting = Vec::new();
    for installation in &installations {
        let namespace = installation.namespace().unwrap_or_default();
        let is_namespace_going = context.is_namespace_going(&namespace, false).await?;
        waiting.extend(dependents_of(context, installation, is_namespace_going));
    }
    match waited_long_enough(app, context.clock.now()) {
        Some(until) if !waiting.is_empty() => {
            let message = format!(
                "it is being deleted and waits, 15 minutes at most, until its published tokens are revoked and the repositories' \
                 own webhooks removed: {}",
                waiting.join(", ")
            );
            let standing = Standing::reconciling(Reason::WaitingForDependents, message);
            let settled = Settled {
                standing: Some(standing),
                again: Some(Again::At(connection.next_look.map_or(until, |next| next.min(until)))),
            };
            let status = app.status.clone().unwrap_or_default();
            context.conclude(&context.due.apps, app, status, &settled).await
        }
        bound => {
            if bound.is_none() && !waiting.is_empty() {
                let note = format!(
                    "gone after 15 minutes, though this still needed it (tokens expire within the hour, webhooks stay): {}",
                    waiting.join(", ")
                );
                let object = app.object_ref(&());
                context
                    .events
                    .transition(&object, EventType::Warning, Reason::WaitingForDependents.as_str(), &note)
                    .await;
            }
            set_finalizer(&context.client, app, DEPENDENTS_FINALIZER, false).await?;
            context.connections.forget(&name);
            context.metrics.forget_app(&name);
            Ok(Outcome::Ok)
        }
    }
}
