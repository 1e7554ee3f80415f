//! Carries out one step for an `InstallationToken`.
//!
//! Each step is one effect on GitHub or on Kubernetes, so that a stop can fall between any two. A Secret is created by
//! POST, which never overwrites, and changed only with the uid of the one that was found to be ours.

use super::gather::Found;
use super::plan::{Access, Stage, Step, good_words, refused};
use super::scope::{Named, Repositories as Asked, Scope};
use super::secret::{self, Content};
use crate::api::{FIELD_MANAGER, InstallationToken, RECONCILE_ANNOTATION, REVOKE_FINALIZER, Reason};
use crate::controllers::context::{Context, set_finalizer};
use crate::controllers::grant::{Known, Reach, excess};
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::github::{self, Minted, Repositories, Token};
use crate::runtime::metrics::TokenEvent;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use std::sync::Arc;

/// A step that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// GitHub did not do it. Not tried again before its time.
    #[error("{}", .0.message)]
    GitHub(Standing, Again),
    /// Kubernetes did not do it.
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
}

/// Carries it out. Gives back the object where the step changed it.
///
/// # Errors
/// Why it did not work, and when to try again.
pub async fn apply(context: &Context, found: &Found, step: Step) -> Result<Option<InstallationToken>, Failure> {
    let object = &found.gathered.token;
    match step {
        Step::AddFinalizer => {
            return set_finalizer(&context.client, &**object, REVOKE_FINALIZER, true)
                .await
                .map(Some)
                .map_err(Into::into);
        }
        Step::RemoveFinalizer => match set_finalizer(&context.client, &**object, REVOKE_FINALIZER, false).await {
            // Gone already: the Secret's end was announced before the object's, and the cache still had it.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        },
        Step::Mint { scope, pinned } => mint(context, found, &scope, &pinned).await?,
        Step::Verify => verify(context, found).await?,
        Step::Publish => publish(context, found).await?,
        Step::Repair => {
            if let Some(content) = found.secret.as_ref().and_then(secret::content) {
                write(context, found, &content).await?;
            }
        }
        Step::RevokeHeld => {
            if let Some(content) = context.memory.content(uid(object)) {
                revoke(context, found, &content.token, "revoking a token that is not wanted any more").await?;
            }
        }
        Step::RevokePublished => {
            if let Some(token) = found.secret.as_ref().and_then(secret::token) {
                revoke(context, found, &token, "revoking the published token").await?;
            }
        }
        Step::DeleteSecret => {
            if let Some(secret) = &found.secret {
                remove(&secrets(context, object), secret).await?;
            }
        }
        Step::DeleteFormer(name) => delete_former(context, found, &name).await?,
    }
    Ok(None)
}

async fn mint(context: &Context, found: &Found, scope: &Scope, pinned: &[i64]) -> Result<(), Failure> {
    let object = &found.gathered.token;
    let Access::Granted { installation, account, grant, .. } = &found.gathered.access else { return Ok(()) };
    let doing = format!("minting a token for {}", scope.describe());
    let request = github::Scope { repositories: request(scope, pinned), permissions: scope.permissions.clone() };
    let minted_at = context.clock.now();
    let minted = client(found)?
        .mint(u64::try_from(*installation).unwrap_or_default(), &request)
        .await
        .inspect_err(|_| context.metrics.token(TokenEvent::Failed))
        .map_err(|error| mint_failure(&error, &doing, account, object))?;
    context.metrics.token(TokenEvent::Minted);

    let fitness = fitness(scope, pinned, &minted).and_then(|reached| {
        let reach = reached.as_deref().map_or(Reach::All, Reach::Only);
        grant.allows(&reach, &scope.permissions).map_err(|refusal| refused(&refusal, account, object))?;
        Ok(reached)
    });
    let (stage, reached, unfit) = match fitness {
        Ok(reached) => (Stage::Minted { refusals: 0 }, reached, None),
        Err(standing) => (Stage::Unfit, None, Some(standing)),
    };
    let content = Content {
        token: minted.token,
        scope: scope.clone(),
        repository_ids: reached.into_iter().flatten().filter_map(|known| known.id).collect(),
        expires_at: minted.expires_at,
        minted_at,
    };
    context.memory.minted(uid(object), content, stage);
    match unfit {
        Some(standing) => {
            // It is revoked here already, for the failure that is remembered keeps later steps from calling GitHub.
            if let Some(content) = context.memory.content(uid(object)) {
                revoke(context, found, &content.token, "revoking a token that reaches too far").await?;
            }
            Err(Failure::GitHub(standing, Again::Person))
        }
        None => Ok(()),
    }
}

/// What to ask for: by the ids the names had, once they are known.
fn request(scope: &Scope, pinned: &[i64]) -> Repositories {
    let Asked::Only(named) = &scope.repositories else { return Repositories::All };
    let ids = |ids: Vec<i64>| Repositories::Ids(ids.into_iter().filter_map(|id| u64::try_from(id).ok()).collect());
    if !pinned.is_empty() {
        return ids(pinned.to_vec());
    }
    // The API server let through only lists in which all are named, or all are given by id: GitHub takes one or the other.
    let mut names = Vec::new();
    let mut given = Vec::new();
    for named in named {
        match named {
            Named::Id(id) => given.push(*id),
            Named::Name(name) => names.push(name.clone()),
        }
    }
    if names.is_empty() { ids(given) } else { Repositories::Names(names) }
}

/// What GitHub gave, unless it is more than was asked for.
fn fitness(scope: &Scope, pinned: &[i64], minted: &Minted) -> Result<Option<Vec<Known>>, Standing> {
    let given = minted.permissions.iter().map(|(name, level)| (name.clone(), level.as_str().to_owned())).collect();
    let more = excess(&given, &scope.permissions);
    if let Some((name, level, _)) = more.first() {
        return Err(Standing::stalled(
            Reason::ApiFailed,
            format!("GitHub gave a token with {name}: {level}, which was not asked for; it was revoked unpublished"),
        ));
    }
    let Asked::Only(named) = &scope.repositories else { return Ok(None) };
    let Some(repositories) = &minted.repositories else {
        return Err(Standing::stalled(
            Reason::ApiFailed,
            "GitHub gave a token for all repositories where some were asked for; it was revoked unpublished",
        ));
    };
    let reached: Vec<_> = repositories
        .iter()
        .map(|repository| Known { name: Some(repository.name.clone()), id: i64::try_from(repository.id).ok() })
        .collect();
    let asked_for = |known: &Known| {
        known.id.is_some_and(|id| pinned.contains(&id))
            || named.iter().any(|named| match named {
                Named::Id(id) => known.id == Some(*id),
                Named::Name(name) => known.name.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(name)),
            })
    };
    match reached.iter().find(|known| !asked_for(known)) {
        Some(stranger) => Err(Standing::stalled(
            Reason::ApiFailed,
            format!(
                "GitHub gave a token that reaches {}, which was not asked for; it was revoked unpublished",
                stranger.name.as_deref().unwrap_or_default()
            ),
        )),
        None => Ok(Some(reached)),
    }
}

/// What a failed mint means. GitHub answers 422 both for repositories and for permissions.
fn mint_failure(error: &github::Error, doing: &str, account: &str, object: &InstallationToken) -> Failure {
    let (standing, again) = match error {
        github::Error::Unprocessable { message, .. } if message.contains("permissions") => (
            Standing::stalled(
                Reason::InsufficientPermissions,
                format!("{doing}: {error}. Lower spec.permissions, or let {account} accept the App's permissions"),
            ),
            Again::Person,
        ),
        github::Error::Unprocessable { .. } => (
            Standing::stalled(
                Reason::RepositoryNotFound,
                format!(
                    "{doing}: {error}. Correct spec.repositories, or let {account} add the repository to the installation. If it \
                     was deleted and made anew, delete Secret {} to accept the new one. It is tried again within the hour, or at once \
                     with the annotation {RECONCILE_ANNOTATION}",
                    object.spec.secret.name
                ),
            ),
            Again::Person,
        ),
        other => github_failure(other, doing),
    };
    Failure::GitHub(standing, again)
}

async fn verify(context: &Context, found: &Found) -> Result<(), Failure> {
    let object = &found.gathered.token;
    let Some(content) = context.memory.content(uid(object)) else { return Ok(()) };
    match client(found)?.verify(&content.token).await {
        Ok(()) => {
            context.metrics.token(TokenEvent::Verified);
            context.memory.moved(uid(object), Stage::Verified);
            Ok(())
        }
        Err(error) => {
            if let (github::Error::TokenRefused { .. } | github::Error::NotFound { .. }, Some(held)) =
                (&error, &found.gathered.held)
                && let Stage::Minted { refusals } = held.stage
            {
                context.memory.moved(uid(object), Stage::Minted { refusals: refusals + 1 });
                let standing = Standing::reconciling(
                    Reason::TokenRefused,
                    format!("{error}. A fresh token can be refused for some seconds; it is tried again by itself"),
                );
                return Err(Failure::GitHub(standing, Again::Backoff));
            }
            let (standing, again) = github_failure(&error, "trying a fresh token out");
            Err(Failure::GitHub(standing, again))
        }
    }
}

async fn publish(context: &Context, found: &Found) -> Result<(), Failure> {
    let object = &found.gathered.token;
    let Some(content) = context.memory.content(uid(object)) else { return Ok(()) };
    write(context, found, &content).await?;
    context.memory.moved(uid(object), Stage::Published);
    Ok(())
}

/// Writes the Secret: created where there is none, changed where it is ours, made anew where its type, which cannot be
/// changed, is another.
async fn write(context: &Context, found: &Found, content: &Content) -> Result<(), kube::Error> {
    let object = &found.gathered.token;
    let secrets = secrets(context, object);
    let wanted = secret::build(object, content, found.ca_bundle.as_deref());
    match &found.secret {
        Some(existing) if existing.type_ == wanted.type_ => {
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let change = Patch::Merge(secret::change(existing, &wanted));
            secrets.patch(&object.spec.secret.name, &params, &change).await?;
        }
        existing => {
            if let Some(existing) = existing {
                remove(&secrets, existing).await?;
            }
            let create = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            secrets.create(&create, &wanted).await?;
        }
    }
    Ok(())
}

async fn revoke(context: &Context, found: &Found, token: &Token, doing: &str) -> Result<(), Failure> {
    let object = &found.gathered.token;
    let Some(github) = &found.github else {
        if found.has_app {
            let message =
                format!("{doing} waits until the GitHubApp's credentials can be used, or until the token expires");
            return Err(Failure::GitHub(Standing::reconciling(Reason::WaitingForReference, message), Again::Backoff));
        }
        // Without the App there is no telling where to revoke it.
        let note = "its token was not revoked, for the GitHubApp is gone; it expires within the hour";
        let regarding = object.object_ref(&());
        context.events.transition(&regarding, EventType::Warning, Reason::NotRevoked.as_str(), note).await;
        context.memory.revoked(uid(object), token);
        return Ok(());
    };
    match github.revoke(token).await {
        Ok(_) => {
            context.metrics.token(TokenEvent::Revoked);
            context.memory.revoked(uid(object), token);
            Ok(())
        }
        Err(error) => {
            let (mut standing, again) = github_failure(&error, doing);
            standing.message.push_str("; at the latest when the token expires, this goes on without");
            // Nobody has to act: time will do it.
            let again = if matches!(again, Again::Person) { Again::Backoff } else { again };
            Err(Failure::GitHub(standing, again))
        }
    }
}

async fn delete_former(context: &Context, found: &Found, name: &str) -> Result<(), Failure> {
    let object = &found.gathered.token;
    let secrets = secrets(context, object);
    let Some(secret) = secrets.get_opt(name).await? else { return Ok(()) };
    if !secret::is_ours(&secret.metadata, object) {
        return Ok(());
    }
    let published = found.secret.as_ref().and_then(secret::token).map(|token| token.fingerprint());
    if let Some(token) = secret::token(&secret)
        && Some(token.fingerprint()) != published
    {
        revoke(context, found, &token, "revoking the token in a Secret of a former name").await?;
    }
    remove(&secrets, &secret).await?;
    Ok(())
}

/// Removes this very Secret. That it is gone already is as good.
async fn remove(secrets: &Api<Secret>, secret: &Secret) -> Result<(), kube::Error> {
    let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
    let delete = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match secrets.delete(&secret.name_any(), &delete).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

fn client(found: &Found) -> Result<&Arc<github::GitHub>, Failure> {
    found.github.as_ref().ok_or_else(|| {
        let object = &found.gathered.token;
        let standing = Standing::reconciling(
            Reason::WaitingForReference,
            "the GitHubApp's credentials cannot be used; its conditions say why, and this goes on as soon as they can",
        );
        let is_good =
            matches!(&found.gathered.secret, super::plan::SecretSeen::Ours(published) if published.is_intact());
        let standing = if is_good { standing.while_still_good(&good_words(object)) } else { standing };
        Failure::GitHub(standing, Again::Backoff)
    })
}

fn secrets(context: &Context, object: &InstallationToken) -> Api<Secret> {
    Api::namespaced(context.client.clone(), object.metadata.namespace.as_deref().unwrap_or_default())
}

fn uid(object: &InstallationToken) -> &str {
    object.metadata.uid.as_deref().unwrap_or_default()
}
