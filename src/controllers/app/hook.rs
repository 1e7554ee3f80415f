//! The App's webhook: that it delivers here, signed with our secret.
//!
//! Invariant: a webhook that delivers to somebody else is not taken over unless that was said, for an App may serve others
//! than this cluster. One call an hour finds out what a person changed on GitHub.

use crate::api::{GitHubApp, Reason, WebhookPolicy, WebhookStatus};
use crate::controllers::connection::Connection;
use crate::controllers::context::Context;
use crate::controllers::object::requested_look;
use crate::controllers::repository::identity;
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::github::{self, GitHub, HookConfig, HookConfigWanted};
use crate::webhook::Hook;
use crate::webhook::root_keys;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

/// How often the webhook is examined although nothing is known to be wrong, less jitter.
const EXAMINE_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// How often its secret is set anew, for a person may have exchanged it, and GitHub does not tell which it is.
const SIGN_EVERY: SignedDuration = SignedDuration::from_hours(24);

/// What is known of the App's webhook.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HookSeen {
    /// How it was when it was last as it should be.
    pub ensured: Option<WebhookStatus>,
    /// What is wrong.
    pub trouble: Option<Standing>,
    /// What was wanted then.
    wanted: Option<(String, WebhookPolicy)>,
    /// When the secret was set; or found to be noted as set, by an operator that has just begun.
    signed_at: Option<Timestamp>,
    /// When to examine it.
    pub next: Option<Timestamp>,
}

/// Sees to it, if that is due. Gives back what is known of it.
pub async fn ensure(context: &Context, app: &GitHubApp, connection: &Connection) -> HookSeen {
    let Some(webhook) = &app.spec.webhook else { return HookSeen::default() };
    let name = app.name_any();
    let now = context.clock.now();
    let keys = match context.ensure_root_keys().await {
        Ok(keys) => keys,
        Err(error) => {
            let trouble = keyless(&error);
            tracing::warn!(app = name, message = trouble.message, "there is no root key for webhooks");
            let next = Some(context.resolve(&context.due.apps, &ObjectRef::from_obj(app), Again::Backoff));
            return HookSeen { trouble: Some(trouble), next, ..HookSeen::default() };
        }
    };
    let (Some(github), Some(identity)) = (&connection.github, identity(connection)) else { return HookSeen::default() };
    if webhook.policy == WebhookPolicy::Manual {
        return HookSeen::default();
    }
    let url = Hook::App.url(&webhook.url, &name);
    let wanted = Some((url.clone(), webhook.policy));
    let seen = &connection.hook;
    let is_known = match (&seen.ensured, &seen.trouble) {
        (_, Some(_)) => true,
        (Some(ensured), None) => ensured.key_id == keys.current.id(),
        (None, None) => false,
    };
    let handled = app.status.as_ref().and_then(|status| status.last_handled_reconcile.as_ref());
    let is_asked = requested_look(app).is_some_and(|request| handled != Some(request));
    let rests = seen.wanted == wanted && is_known && !is_asked && seen.next.is_some_and(|next| next > now);
    if rests || app.spec.paused {
        return seen.clone();
    }
    let stored = app.status.as_ref().and_then(|status| status.webhook.as_ref());
    let before = seen.ensured.as_ref().or(stored);
    let config = HookConfigWanted { url: url.clone(), secret: keys.current.secret(&identity, Hook::App) };
    let is_old = |at: Timestamp| at.checked_add(SIGN_EVERY).is_ok_and(|end| end <= now);
    let is_signed = !is_asked
        && !seen.signed_at.is_some_and(is_old)
        && before.is_some_and(|before| before.url == url && before.key_id == keys.current.id());
    let signed_at = seen.signed_at.filter(|_| is_signed).or(Some(now));
    let outcome = settle(github, &config, is_signed, before.map(|before| before.url.as_str()), webhook.policy).await;
    let seen = match outcome {
        Ok(()) => HookSeen {
            ensured: Some(WebhookStatus { id: None, url, key_id: keys.current.id().to_owned() }),
            trouble: None,
            wanted,
            signed_at,
            next: now.checked_add(EXAMINE_EVERY.mul_f64(context.jitter.between(1.0, 1.2))).ok(),
        },
        Err((trouble, again)) => {
            tracing::warn!(app = name, reason = %trouble.reason, message = trouble.message, "the App's webhook is not ours");
            let next = Some(context.resolve(&context.due.apps, &ObjectRef::from_obj(app), again));
            HookSeen { ensured: None, trouble: Some(trouble), wanted, signed_at: None, next }
        }
    };
    context.connections.update(&name, |connection| connection.hook = seen.clone());
    seen
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
        // The address can hold what is nobody's business, so only its host is told.
        let host = url::Url::parse(other).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let message = format!(
            "the App's webhook delivers to another address, on host {host}, and was left alone. Tokens and polling work without it. If \
             it is to deliver here, set spec.webhook.policy: Adopt; else set it to Manual"
        );
        return Err((Standing::stalled(Reason::HookForeign, message), Again::Person));
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
            Err((Standing::stalled(Reason::HookRefused, message), Again::Person))
        }
        Err(error @ (github::Error::Forbidden { .. } | github::Error::Unprocessable { .. })) => {
            let message = format!("GitHub refused the webhook's address or secret: {error}; see spec.webhook.url");
            Err((Standing::stalled(Reason::HookRefused, message), Again::Person))
        }
        Err(error) => Err(github_failure(&error, "setting where the App's webhook delivers to")),
    }
}

fn keyless(error: &root_keys::Error) -> Standing {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Standing::reconciling(Reason::KubernetesRefused, format!("{error}{cause}"))
}
