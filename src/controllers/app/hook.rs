//! Ensures that the App's webhook delivers here, signed with the operator's secret.
//!
//! Invariant: a webhook that delivers elsewhere is taken over only if the policy says so, because an App may serve more
//! than this cluster. One call an hour detects changes that a person made on GitHub.

use super::AppKind;
use super::plan::Seen;
use crate::api::{Reason, WebhookPolicy, WebhookStatus};
use crate::controllers::connection::AppHook;
use crate::controllers::object::requested_look;
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::github::{self, GitHub, HookConfig, HookConfigWanted};
use crate::webhook::Hook;
use crate::webhook::root_keys;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

/// How often the webhook is examined although no problem is known, less jitter.
const EXAMINE_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// How often its secret is set again. A person may have changed the secret, and GitHub does not show it.
const SIGN_EVERY: SignedDuration = SignedDuration::from_hours(24);

/// The state of the webhook, and the action that it needs.
pub enum HookState {
    /// The operator does not manage it, or nothing is known of it yet.
    Unmanaged,
    /// There is no root key to sign with.
    Keyless(Standing),
    /// An examination is due.
    Due,
    /// It is unchanged since the last examination.
    Rests(AppHook),
}

/// Decides the state of the webhook, as a pure function of the gathered state and of `now`.
#[must_use]
pub fn state(seen: &Seen, now: Timestamp) -> HookState {
    let (Some(webhook), Some(connection)) = (&seen.app.spec.webhook, &seen.connection) else {
        return HookState::Unmanaged;
    };
    let keys = match &seen.keys {
        Some(Ok(keys)) => keys,
        Some(Err(trouble)) => return HookState::Keyless(trouble.clone()),
        None => return HookState::Unmanaged,
    };
    if connection.github.is_none() || connection.app_identity().is_none() || webhook.policy == WebhookPolicy::Manual {
        return HookState::Unmanaged;
    }
    let hook = &connection.hook;
    let wanted = (Hook::App.url(&webhook.url, &seen.app.name_any()), webhook.policy);
    let is_known = match (&hook.ensured, &hook.trouble) {
        (_, Some(_)) => true,
        (Some(ensured), None) => ensured.key_id == keys.current.id(),
        (None, None) => false,
    };
    let rests = hook.wanted.as_ref() == Some(&wanted)
        && is_known
        && !is_asked(seen)
        && hook.next.is_some_and(|next| next > now);
    if rests || seen.app.spec.paused { HookState::Rests(hook.clone()) } else { HookState::Due }
}

/// Whether a look is requested and the webhook was not examined for it yet.
fn is_asked(seen: &Seen) -> bool {
    let handled = seen.app.status.as_ref().and_then(|status| status.last_handled_reconcile.as_ref());
    let examined = seen.connection.as_ref().and_then(|connection| connection.hook.request.as_ref());
    requested_look(&*seen.app).is_some_and(|request| handled != Some(request) && examined != Some(request))
}

/// Examines the webhook, and corrects it.
pub async fn ensure(kind: &AppKind, seen: &Seen) {
    let (shared, app) = (&*kind.shared, &*seen.app);
    let (Some(webhook), Some(connection), Some(Ok(keys))) = (&app.spec.webhook, &seen.connection, &seen.keys) else {
        return;
    };
    let (Some(github), Some(identity)) = (&connection.github, connection.app_identity()) else { return };
    let (name, now) = (app.name_any(), shared.now());
    let url = Hook::App.url(&webhook.url, &name);
    let wanted = Some((url.clone(), webhook.policy));
    let request = requested_look(app).cloned();
    let hook = &connection.hook;
    let stored = app.status.as_ref().and_then(|status| status.webhook.as_ref());
    let before = hook.ensured.as_ref().or(stored);
    let config = HookConfigWanted { url: url.clone(), secret: keys.current.secret(&identity, Hook::App) };
    let is_old = |at: Timestamp| at.checked_add(SIGN_EVERY).is_ok_and(|end| end <= now);
    let is_signed = !is_asked(seen)
        && !hook.signed_at.is_some_and(is_old)
        && before.is_some_and(|before| before.url == url && before.key_id == keys.current.id());
    let signed_at = hook.signed_at.filter(|_| is_signed).or(Some(now));
    let outcome = settle(github, &config, is_signed, before.map(|before| before.url.as_str()), webhook.policy).await;
    let hook = match outcome {
        Ok(()) => AppHook {
            ensured: Some(WebhookStatus { id: None, url, key_id: keys.current.id().to_owned() }),
            trouble: None,
            wanted,
            signed_at,
            request,
            next: shared.spread(now, EXAMINE_EVERY),
        },
        Err((trouble, again)) => {
            tracing::warn!(app = name, reason = %trouble.reason, message = trouble.message, "the App's webhook is not ours");
            let next = Some(shared.resolve(&kind.lane, &ObjectRef::from_obj(app), again));
            AppHook { ensured: None, trouble: Some(trouble), wanted, signed_at: None, request, next }
        }
    };
    shared.connections.update(&name, |connection| connection.hook = hook);
}

async fn settle(
    github: &GitHub,
    wanted: &HookConfigWanted,
    is_signed: bool,
    before: Option<&str>,
    policy: WebhookPolicy,
) -> Result<(), (Standing, Again)> {
    let config = match github.app_hook_config().await {
        Ok(config) => config,
        Err(github::Error::NotFound { .. }) => HookConfig::default(),
        Err(error) => return Err(github_failure(&error, "asking where the App's webhook delivers to")),
    };
    let there = config.url.as_deref().filter(|url| !url.is_empty());
    if let Some(other) =
        there.filter(|there| *there != wanted.url && Some(*there) != before && policy != WebhookPolicy::Adopt)
    {
        // The address may contain private parts, so the message has only its host.
        let host = url::Url::parse(other).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let message = format!(
            "the App's webhook delivers to another address, on host {host}, and was left alone. Tokens and polling work without it. If \
             it is to deliver here, set spec.webhook.policy: Adopt; else set it to Manual"
        );
        return Err((Standing::stalled(Reason::WebhookForeign, message), Again::Person));
    }
    if is_signed && wanted.is_met_by(&config) {
        return Ok(());
    }
    match github.update_app_hook_config(wanted).await {
        Ok(_) => {
            tracing::info!(url = wanted.url, "the App's webhook delivers here now");
            Ok(())
        }
        Err(github::Error::NotFound { .. }) => {
            let message = "the App has no webhook: tick Active under Webhook on the App's settings page";
            Err((Standing::stalled(Reason::WebhookRefused, message), Again::Person))
        }
        Err(error @ (github::Error::Forbidden { .. } | github::Error::Unprocessable { .. })) => {
            let message = format!("GitHub refused the webhook's address or secret: {error}; see spec.webhook.url");
            Err((Standing::stalled(Reason::WebhookRefused, message), Again::Person))
        }
        Err(error) => Err(github_failure(&error, "setting where the App's webhook delivers to")),
    }
}

/// The standing without root keys.
#[must_use]
pub fn keyless(error: &root_keys::Error) -> Standing {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Standing::reconciling(Reason::KubernetesRefused, format!("{error}{cause}"))
}
