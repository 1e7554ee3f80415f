//! Ensures a repository's own webhook: finds it, creates it once, repairs it and removes it.
//!
//! Invariant: every page of webhooks is read before one is created, so that a lost answer or a lost status makes no
//! second webhook. The operator recognizes its own webhook by the whole address, because another cluster may have one
//! for the same App and repository, or by the id in status, which stays when a person changes the address. A tenant may
//! have written that id. The grant of `repository_hooks: write`, without which nothing is touched, allows the tenant as
//! much without the operator.

use super::RepositoryKind;
use super::apply::{allowed, client, gone, remote, spend, uid};
use super::memory::HookSeen;
use super::seen::{Granted, HookWish, Seen, Way};
use crate::api::{GitHubApp, Permissions, ProjectRepository, Reason, WebhookMode};
use crate::controllers::reconcile::Failure;
use crate::controllers::reference::{Access, Purpose, refer};
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::github::{self, GitHub, HookConfigWanted, HookWanted, Repositories, Repository, Scope, Token};
use crate::grant::{Known, Reach};
use crate::ids::HookId;
use crate::webhook::{AppIdentity, Hook, REPOSITORY_EVENTS, RootKeys};
use jiff::SignedDuration;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;

/// How often a webhook is examined although no problem is known. It takes four calls: a token, a list, the
/// configuration with its secret, which GitHub does not show and a person may have changed, and the token's revocation.
const EXAMINE_EVERY: SignedDuration = SignedDuration::from_hours(24);

/// Creates or repairs the webhook.
///
/// # Errors
/// GitHub refused.
pub async fn ensure(kind: &RepositoryKind, seen: &Seen) -> Result<(), Failure> {
    let (Way::GitHub(granted), HookWish::Own { base, .. }) = (&seen.way, &seen.hook) else { return Ok(()) };
    let (Some(keys), Some(app)) = (kind.shared.root_keys.known(), &seen.tools.app) else { return Ok(()) };
    let repository = repository(kind, seen, granted).await?;
    let (github, token) = enter(kind, seen, granted, &repository).await?;
    let settled = settle(kind, seen, (granted, base), (&keys, app), &repository, (github, &token)).await;
    leave(github, &token).await;
    let hook = settled?;
    tracing::info!(repository = repository.full_name, hook = hook.id.get(), "the webhook is as it should be");
    let again = kind.shared.spread(kind.shared.now(), EXAMINE_EVERY);
    kind.memory.update(uid(&seen.object), |known| {
        known.hook = Some(hook);
        known.examine_hook_at = again;
        known.is_hook_removed = false;
    });
    Ok(())
}

async fn settle(
    kind: &RepositoryKind,
    seen: &Seen,
    (granted, base): (&Granted, &str),
    (keys, app): (&RootKeys, &AppIdentity),
    repository: &Repository,
    (github, token): (&GitHub, &Token),
) -> Result<HookSeen, Failure> {
    let (owner, name) = parts(repository);
    let hook = Hook::Repository(repository.id);
    let config = HookConfigWanted { url: hook.url(base, &granted.app), secret: keys.current.secret(app, hook) };
    let wanted = HookWanted { events: REPOSITORY_EVENTS.map(str::to_owned).into(), config };
    let failed = |error: github::Error| refused(&error, repository, granted, "ensuring the webhook of");

    let listing = ours(kind, seen, granted, repository, github, token);
    let mut ours = kind.shared.guards.listing(listing).await.map_err(failed)?.into_iter();
    let stored = seen.object.status.as_ref().and_then(|status| status.webhook.as_ref());
    let id = match ours.next() {
        None => match github.create_hook(token, owner, name, &wanted).await {
            Ok(made) => made.id,
            // Another object of the same repository was faster. The retry finds its webhook.
            Err(error) if error.already_exists() => {
                let message = format!(
                    "the webhook of {} was made by another meanwhile; it is looked for again",
                    repository.full_name
                );
                return Err(Failure::Remote(Standing::reconciling(Reason::APIFailed, message), Again::Backoff));
            }
            Err(error) => return Err(failed(error)),
        },
        Some(first) => {
            if !wanted.sends_as(&first) {
                github.update_hook(token, owner, name, first.id, &wanted).await.map_err(failed)?;
            }
            let is_signed = |id: Option<HookId>, key: &str| id == Some(first.id) && key == keys.current.id();
            let is_known = match &seen.known.hook {
                Some(seen) => seen.id == first.id && seen.key_id == keys.current.id(),
                None => stored.is_some_and(|stored| is_signed(stored.id, &stored.key_id)),
            };
            // GitHub shows that there is a secret, but not which. The secret is set again for a webhook that was not
            // known, and at each examination.
            if !is_known || seen.known.examine_hook_at.is_some() || !wanted.config.is_met_by(&first.config) {
                github.update_hook_config(token, owner, name, first.id, &wanted.config).await.map_err(failed)?;
            }
            first.id
        }
    };
    for second in ours {
        github.delete_hook(token, owner, name, second.id).await.map_err(failed)?;
    }
    Ok(HookSeen { id, url: wanted.config.url.clone(), key_id: keys.current.id().to_owned() })
}

/// Removes the webhook, unless another object of this App still needs it.
///
/// # Errors
/// GitHub refused.
pub async fn remove(kind: &RepositoryKind, seen: &Seen) -> Result<(), Failure> {
    let ((Way::GitHub(granted), _) | (_, Some(granted))) = (&seen.way, &seen.way_out) else { return Ok(()) };
    let repository = match repository(kind, seen, granted).await {
        // The webhooks of a deleted repository are deleted too.
        Err(Failure::Remote(standing, _)) if standing.reason == Reason::RepositoryNotFound => {
            kind.memory.update(uid(&seen.object), forget);
            return Ok(());
        }
        other => other?,
    };
    if !is_shared(kind, seen, granted, &repository) {
        let (github, token) = match enter(kind, seen, granted, &repository).await {
            Err(Failure::Remote(standing, _)) if standing.reason == Reason::RepositoryNotFound => {
                kind.memory.update(uid(&seen.object), forget);
                return Ok(());
            }
            other => other?,
        };
        let removed = remove_ours(kind, seen, granted, &repository, (github, &token)).await;
        leave(github, &token).await;
        removed.map_err(|error| refused(&error, &repository, granted, "removing the webhook of"))?;
    }
    kind.memory.update(uid(&seen.object), forget);
    Ok(())
}

async fn remove_ours(
    kind: &RepositoryKind,
    seen: &Seen,
    granted: &Granted,
    repository: &Repository,
    (github, token): (&GitHub, &Token),
) -> Result<(), github::Error> {
    let (owner, name) = parts(repository);
    for hook in ours(kind, seen, granted, repository, github, token).await? {
        github.delete_hook(token, owner, name, hook.id).await?;
    }
    Ok(())
}

/// Revokes the token of [`enter`].
async fn leave(github: &GitHub, token: &Token) {
    if let Err(error) = github.revoke(token).await {
        tracing::info!(%error, "the token for webhooks was not revoked, and expires within the hour");
    }
}

fn forget(known: &mut super::memory::Remembered) {
    known.is_hook_removed = true;
    known.hook = None;
    known.examine_hook_at = None;
}

/// Whether another object uses the same webhook, of the App and the repository, and is granted it.
fn is_shared(kind: &RepositoryKind, seen: &Seen, granted: &Granted, repository: &Repository) -> bool {
    let allows = |other: &ProjectRepository| {
        let (Some(namespace), Some(reference)) = (other.namespace(), &other.spec.installation_ref) else {
            return false;
        };
        let referred = refer(&kind.shared, &namespace, &reference.name, Purpose::Use);
        referred.app_name.as_ref() == Some(&granted.app)
            && match referred.access {
                Access::Granted { grant, .. } => {
                    grant.allows(&Reach::Only(&[known(repository)]), &permissions()).is_ok()
                }
                Access::Denied(_) => false,
                Access::NotYetKnown | Access::Unavailable(_) | Access::Dead(_) => true,
            }
    };
    kind.shared.caches.all::<ProjectRepository>().iter().any(|other| {
        other.uid() != seen.object.uid()
            && other.metadata.deletion_timestamp.is_none()
            && other.spec.webhook.as_ref().is_some_and(|webhook| webhook.mode == WebhookMode::Repository)
            && kind.memory.known_id(other) == Some(repository.id)
            && allows(other)
    })
}

/// The permissions for calls about webhooks.
fn permissions() -> Permissions {
    [("metadata", "read"), ("repository_hooks", "write")].map(|(a, b)| (a.to_owned(), b.to_owned())).into()
}

fn known(repository: &Repository) -> Known {
    Known { name: Some(repository.name.clone()), id: Some(repository.id) }
}

/// The repository under its current name.
async fn repository(kind: &RepositoryKind, seen: &Seen, granted: &Granted) -> Result<Arc<Repository>, Failure> {
    Ok(super::apply::read(kind, seen, granted).await?.1.repository)
}

/// A token for the repository's webhooks, within the grant.
async fn enter<'a>(
    kind: &RepositoryKind,
    seen: &'a Seen,
    granted: &Granted,
    repository: &Repository,
) -> Result<(&'a Arc<GitHub>, Token), Failure> {
    allowed(granted, known(repository), &permissions())?;
    let github = client(seen)?;
    let scope = Scope { repositories: Repositories::Ids(vec![repository.id]), permissions: permissions() };
    spend(kind, seen, granted)?;
    let minted = github.mint(granted.installation, &scope).await;
    let minted = minted.map_err(|error| match &error {
        // The permission is not missing: the repository was deleted, or the installation cannot see it.
        github::Error::Unprocessable { .. } if !error.lacks_permissions() => {
            gone(granted, &format!("id {}", repository.id))
        }
        _ => refused(&error, repository, granted, "minting a token for webhooks of"),
    })?;
    Ok((github, minted.token))
}

/// The operator's webhooks, the oldest first.
async fn ours(
    kind: &RepositoryKind,
    seen: &Seen,
    granted: &Granted,
    repository: &Repository,
    github: &GitHub,
    token: &Token,
) -> Result<Vec<github::Hook>, github::Error> {
    let (owner, name) = parts(repository);
    let hook = Hook::Repository(repository.id);
    let app = kind.shared.caches.get(&ObjectRef::<GitHubApp>::new(&granted.app));
    let base = app.as_ref().and_then(|app| app.spec.webhook.as_ref());
    let stored = seen.object.status.as_ref().and_then(|status| status.webhook.as_ref());
    let (id, address) = match &seen.known.hook {
        Some(seen) => (Some(seen.id), Some(&seen.url)),
        None => (stored.and_then(|stored| stored.id), stored.map(|stored| &stored.url)),
    };
    // The address may have changed since.
    let former = address.filter(|address| address.ends_with(&hook.path(&granted.app))).cloned();
    let addresses = [base.map(|base| hook.url(&base.url, &granted.app)), former];
    let mut hooks = github.hooks(token, owner, name).await?;
    hooks.retain(|hook| {
        let delivers_here = hook.config.url.is_some() && addresses.contains(&hook.config.url);
        delivers_here || Some(hook.id) == id
    });
    hooks.sort_by_key(|hook| hook.id);
    Ok(hooks)
}

fn parts(repository: &Repository) -> (&str, &str) {
    repository.full_name.split_once('/').unwrap_or(("", &repository.name))
}

fn refused(error: &github::Error, repository: &Repository, granted: &Granted, doing: &str) -> Failure {
    let name = &repository.full_name;
    match error {
        github::Error::Archived { .. } => {
            Failure::stalled(Reason::RepositoryArchived, format!("{doing} {name}: {error}"))
        }
        github::Error::Forbidden { .. } | github::Error::Unprocessable { .. } => Failure::stalled(
            Reason::WebhookRefused,
            format!(
                "{doing} {name}: {error}. The App needs the permission repository_hooks: write, accepted by {} at {}; pushes are \
                 polled for meanwhile",
                granted.account, granted.settings_url
            ),
        ),
        github::Error::NotFound { .. } => {
            Failure::stalled(Reason::RepositoryNotFound, format!("{doing} {name}: {error}"))
        }
        other => remote(github_failure(other, &format!("{doing} {name}"))),
    }
}
