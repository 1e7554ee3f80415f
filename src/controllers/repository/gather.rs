//! Reads everything that a decision about a `ProjectRepository` needs, from caches and memory. It makes no calls.

use super::RepositoryKind;
use super::memory::{Failed, Task};
use super::plan::look_due;
use super::seen::{Granted, HookWish, Pending, Seen, Tools, Way};
use crate::api::{DeliveryResult, ProjectRepository, Reason, WEBHOOK_FINALIZER, WebhookMode};
use crate::controllers::connection::Connection;
use crate::controllers::deliveries::{Mark, Waiting};
use crate::controllers::object::has_finalizer;
use crate::controllers::reference::{Access, Purpose, Referred, refer};
use crate::controllers::shared::{PERSON_RECHECK, Shared};
use crate::controllers::standing::Standing;
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::BTreeSet;
use std::sync::Arc;

#[must_use]
pub fn gather(kind: &RepositoryKind, object: &Arc<ProjectRepository>) -> Seen {
    let shared = &*kind.shared;
    let namespace = object.namespace().unwrap_or_default();
    let uid = object.uid().unwrap_or_default();
    let purpose = if object.metadata.deletion_timestamp.is_some() { Purpose::Removal } else { Purpose::Use };
    let referred =
        object.spec.installation_ref.as_ref().map(|reference| refer(shared, &namespace, &reference.name, purpose));
    let way = match (&referred, &object.spec.source.url) {
        (Some(referred), _) => by_app(referred),
        (None, Some(url)) => match shared.settings.git_hosts.check(url) {
            Ok(address) => Way::Address(address),
            Err(error) => Way::Blocked {
                standing: Standing::stalled(Reason::URLNotAllowed, format!("spec.source.url: {error}")),
                permanent: true,
            },
        },
        // The API server's validation refuses this.
        (None, None) => Way::NotYetKnown,
    };
    let way_out = referred.as_ref().and_then(|referred| {
        let installation = referred.installation.as_ref()?;
        let is_going = installation.metadata.deletion_timestamp.is_some()
            || referred.app.as_ref().is_some_and(|app| app.metadata.deletion_timestamp.is_some());
        let way = is_going.then(|| by_app(&refer(shared, &namespace, &installation.name_any(), Purpose::Removal)));
        if let Some(Way::GitHub(granted)) = way { Some(granted) } else { None }
    });
    let known = kind.memory.get(&uid);
    let paused = |referred: &Referred| {
        referred.installation.as_ref().is_some_and(|installation| installation.spec.paused)
            || referred.app.as_ref().is_some_and(|app| app.spec.paused)
    };
    let branch = object.spec.branch.as_deref().or_else(|| {
        let looked = known.looked.as_ref()?;
        Some(looked.refs.default_branch.as_ref()?.as_str())
    });
    let waiting = shared.waiting_for_repository(&namespace, &object.name_any());
    let connection = referred.as_ref().and_then(|referred| referred.connection.as_ref());
    let hindrance = connection.zip(referred.as_ref().and_then(|referred| referred.app_name.as_deref()));
    let hindrance = hindrance.and_then(|(connection, app)| connection.hindrance(app));
    let seen = Seen {
        has_finalizer: has_finalizer(&**object, WEBHOOK_FINALIZER),
        is_paused: object.spec.paused || referred.as_ref().is_some_and(paused),
        hook: hook(shared, object, referred.as_ref()),
        is_repository_news: waiting.iter().any(|waiting| waiting.delivery.event != "push"),
        pending: waiting.into_iter().map(|waiting| pending(waiting, branch)).collect(),
        allowed_at: kind.memory.allowed_at(object, shared.now()),
        object: Arc::clone(object),
        way,
        way_out,
        known,
        tools: Tools {
            github: connection.and_then(|connection| connection.github.clone()),
            identity: connection.map(|connection| connection.identity.clone()).unwrap_or_default(),
            app: connection.and_then(Connection::app_identity),
            git: connection.and_then(|connection| connection.git.clone()),
        },
    };
    held_back(seen, hindrance, shared.now())
}

/// While the App itself does not work, its repositories are not looked at: each look would take a slot until it fails.
fn held_back(mut seen: Seen, hindrance: Option<Standing>, now: Timestamp) -> Seen {
    let Some(standing) = hindrance else { return seen };
    let is_fork = seen.object.spec.source.fork.is_some() && seen.bound_id().is_none();
    let task = if is_fork { Task::Fork } else { Task::Look };
    if seen.known.failed.contains_key(&task) || (task == Task::Look && look_due(&seen, now) > now) {
        return seen;
    }
    let until = now.checked_add(PERSON_RECHECK).unwrap_or(Timestamp::MAX);
    let failed = Failed { standing, until, about: seen.about(), heard: BTreeSet::new(), wanted: seen.known.wanted };
    seen.known.failed.insert(task, failed);
    seen
}

fn by_app(referred: &Referred) -> Way {
    match &referred.access {
        Access::NotYetKnown => Way::NotYetKnown,
        Access::Unavailable(standing) => Way::Blocked { standing: standing.clone(), permanent: false },
        Access::Dead(standing) | Access::Denied(standing) => {
            Way::Blocked { standing: standing.clone(), permanent: true }
        }
        Access::Granted { installation, account, account_id, settings_url, grant, permissions } => {
            Way::GitHub(Granted {
                app: referred.app_name.clone().unwrap_or_default(),
                installation: *installation,
                account: account.clone(),
                account_id: *account_id,
                settings_url: settings_url.clone(),
                grant: grant.clone(),
                permissions: permissions.clone(),
            })
        }
    }
}

/// A push to another branch needs no look. Any other event may concern anything, and so may deliveries that were merged.
fn pending(Waiting { announced, delivery }: Waiting, branch: Option<&str>) -> Pending {
    let elsewhere = delivery.event == "push"
        && delivery.reference.as_deref().zip(branch).is_some_and(|(reference, branch)| {
            reference.strip_prefix("refs/heads/").is_none_or(|pushed| pushed != branch)
        });
    let result = if elsewhere { DeliveryResult::Ignored } else { DeliveryResult::Handled };
    Pending { mark: Mark { announced, delivery, result, message: None }, needs_look: !elsewhere }
}

fn hook(shared: &Shared, object: &ProjectRepository, referred: Option<&Referred>) -> HookWish {
    if object.spec.webhook.as_ref().is_none_or(|webhook| webhook.mode != WebhookMode::Repository) {
        return HookWish::None;
    }
    let app = referred.and_then(|referred| referred.app.as_ref());
    let unknown = |message: String| HookWish::Unknown(Standing::reconciling(Reason::WaitingForReference, message));
    let Some(app) = app else { return unknown("its GitHubApp is not there".to_owned()) };
    let Some(webhook) = &app.spec.webhook else {
        let app = app.name_any();
        return unknown(format!(
            "GitHubApp {app} has no spec.webhook.url, so there is no address to deliver to: ask its administrator to set one"
        ));
    };
    match shared.root_keys.known() {
        Some(keys) => HookWish::Own { base: webhook.url.clone(), key_id: keys.current.id().to_owned() },
        None => unknown("the root key of webhooks is not known yet; the operator's log says why".to_owned()),
    }
}
