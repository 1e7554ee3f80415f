//! Carries out one step for an `InstallationToken`.
//!
//! Each step has one effect on GitHub or on Kubernetes, so that the process can stop between any two. A Secret is
//! created with POST, which never overwrites. It is changed only with the uid of the Secret that was found to be the
//! operator's.

use super::TokenKind;
use super::noted::Place;
use super::plan::{Step, good_words, refused};
use super::scope::{Named, Repositories as Asked, Scope};
use super::secret::{self, About, Content};
use super::seen::{SecretSeen, Seen, Stage, Trial};
use super::spend::{give_back, spend, spend_unknown};
use super::trial::verify;
use crate::api::{FIELD_MANAGER, InstallationToken, RECONCILE_ANNOTATION, REVOKE_FINALIZER, Reason, WORK_FINALIZER};
use crate::controllers::object::set_finalizer;
use crate::controllers::reconcile::{Done, Failure};
use crate::controllers::reference::Access;
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::controllers::watches::SecretMeta;
use crate::github::{self, Minted, Repositories, Revocation, Token};
use crate::grant::{Grant, Known, Reach, Refusal, excess};
use crate::ids::RepositoryId;
use crate::runtime::lenient::Lenient;
use crate::runtime::metrics::TokenEvent;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use std::sync::Arc;

/// How long after a mint an answer of GitHub that the token is unknown does not count as revoked.
pub const GETS_KNOWN: SignedDuration = SignedDuration::from_mins(1);

/// Carries out a step. Returns the object if the step changed it.
///
/// # Errors
/// The reason why it failed, and when to try again.
pub async fn apply(kind: &TokenKind, seen: &Seen, step: Step) -> Result<Done<InstallationToken>, Failure> {
    let object = &seen.token;
    match step {
        Step::AddFinalizer => {
            return Ok(Done::Again(Some(set_finalizer(&kind.shared.client, &**object, REVOKE_FINALIZER, true).await?)));
        }
        Step::RemoveFinalizer => {
            tell_of_what_was_not_read(kind, seen).await;
            match let_go(kind, object).await {
                // It is already deleted: the deletion of the Secret was announced first, and the cache still had the
                // object.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => other?,
            }
            kind.memory.forget(uid(object));
            kind.newest.forget(&**object);
            kind.notes.forget(&Place::of(object));
            return Ok(Done::Finished);
        }
        Step::ReadSecret => kind.notes.doubt(Place::of(object)),
        Step::Mint { scope, pinned } => mint(kind, seen, &scope, &pinned).await?,
        Step::Verify => verify(kind, seen).await?,
        Step::Publish => {
            if let Some(content) = kind.memory.content(uid(object)) {
                publish(kind, seen, &content).await?;
            }
        }
        Step::Repair => {
            let minted = kind.memory.content(uid(object)).filter(|minted| {
                seen.tools
                    .secret
                    .as_ref()
                    .and_then(secret::token)
                    .is_some_and(|token| token.fingerprint() == minted.token.fingerprint())
            });
            if let Some(content) = minted.or_else(|| seen.tools.content.clone()) {
                publish(kind, seen, &content).await?;
            }
        }
        Step::RevokeHeld => {
            if let Some(content) = kind.memory.content(uid(object)) {
                let doing = "revoking a token that is not wanted any more";
                revoke(kind, seen, &content.token, Some(content.minted_at), doing).await?;
            }
        }
        Step::RevokePublished => {
            if let Some(token) = seen.tools.secret.as_ref().and_then(secret::token) {
                revoke(kind, seen, &token, None, "revoking the published token").await?;
            }
        }
        Step::DeleteSecret => {
            if let Some(secret) = &seen.tools.secret {
                tell_of_what_lives_on(kind, seen, secret).await;
                kind.notes.doubt(Place::of(object));
                remove(&secrets(kind, object), secret).await?;
            }
        }
        Step::DeleteFormer(name) => delete_former(kind, seen, &name).await?,
    }
    Ok(Done::Again(None))
}

async fn mint(kind: &TokenKind, seen: &Seen, scope: &Scope, pinned: &[RepositoryId]) -> Result<(), Failure> {
    let object = &seen.token;
    let Access::Granted { installation, account, grant, .. } = &seen.access else { return Ok(()) };
    let doing = format!("minting a token for {}", scope.describe());
    let request = github::Scope { repositories: request(scope, pinned), permissions: scope.permissions.clone() };
    let minted_at = kind.shared.now();
    let github = client(seen)?;
    spend(kind, seen, scope, minted_at)?;
    let minted = github
        .mint(*installation, &request)
        .await
        .inspect_err(|error| {
            kind.shared.metrics.token(TokenEvent::Failed);
            if is_trouble(error) {
                give_back(kind, seen, scope);
            }
        })
        .map_err(|error| mint_failure(&error, &doing, account, object))?;
    kind.shared.metrics.token(TokenEvent::Minted);

    let fitness = fitness(scope, pinned, &minted).and_then(|reached| {
        let reach = reached.as_deref().map_or(Reach::All, Reach::Only);
        match grant.allows(&reach, &scope.permissions) {
            Ok(()) => Ok(reached),
            Err(refusal) => Err(refused(&discreet(refusal, grant, reached.as_deref(), scope), account, object)),
        }
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
    kind.memory.minted(uid(object), Arc::new(content), stage);
    if minted.permissions.contains_key("contents")
        && let Some(repository) = minted.repositories.into_iter().flatten().next()
    {
        kind.memory.reads(uid(object), repository.full_name);
    }
    // The plan revokes it next. The remembered failure is the reason why it was unfit.
    unfit.map_or(Ok(()), |standing| Err(Failure::Remote(standing, Again::Person)))
}

/// The finalizer of a workspace that no longer needs the token is removed first. Without the operator's own, no
/// controller would remove it.
async fn let_go(kind: &TokenKind, token: &InstallationToken) -> Result<(), kube::Error> {
    let token = set_finalizer(&kind.shared.client, token, WORK_FINALIZER, false).await?;
    set_finalizer(&kind.shared.client, &token, REVOKE_FINALIZER, false).await.map(drop)
}

/// The refusal without names that are not in the spec, so that a request for an id does not reveal the repository's
/// name.
fn discreet(refusal: Refusal, grant: &Grant, reached: Option<&[Known]>, scope: &Scope) -> Refusal {
    let (Refusal::Repositories(_), Some(reached)) = (&refusal, reached) else { return refusal };
    let said = scope.known().unwrap_or_default();
    let is_said = |known: &Known| {
        said.iter().any(|said| match (&said.name, &known.name) {
            (Some(said), Some(name)) => said.eq_ignore_ascii_case(name),
            _ => false,
        })
    };
    let refused =
        reached.iter().filter(|known| grant.allows(&Reach::Only(&[(*known).clone()]), &scope.permissions).is_err());
    Refusal::Repositories(
        refused
            .map(|known| match (&known.name, known.id) {
                (Some(name), _) if is_said(known) => name.clone(),
                (_, id) => Known { name: None, id }.describe(),
            })
            .collect(),
    )
}

/// The repositories to request: by id, once the ids of the names are known.
fn request(scope: &Scope, pinned: &[RepositoryId]) -> Repositories {
    let Asked::Only(named) = &scope.repositories else { return Repositories::All };
    if !pinned.is_empty() {
        return Repositories::Ids(pinned.to_vec());
    }
    // The API server permits only lists with all names or all ids, because GitHub takes only one of them.
    let mut names = Vec::new();
    let mut given = Vec::new();
    for named in named {
        match named {
            Named::Id(id) => given.push(*id),
            Named::Name(name) => names.push(name.clone()),
        }
    }
    if names.is_empty() { Repositories::Ids(given) } else { Repositories::Names(names) }
}

/// The repositories of the minted token, unless GitHub gave more than was requested.
fn fitness(scope: &Scope, pinned: &[RepositoryId], minted: &Minted) -> Result<Option<Vec<Known>>, Standing> {
    let given = minted.permissions.iter().map(|(name, level)| (name.clone(), level.as_str().to_owned())).collect();
    let more = excess(&given, &scope.permissions);
    if let Some((name, level, _)) = more.first() {
        return Err(Standing::stalled(
            Reason::APIFailed,
            format!("GitHub gave a token with {name}: {level}, which was not asked for; it was revoked unpublished"),
        ));
    }
    let Asked::Only(named) = &scope.repositories else { return Ok(None) };
    let Some(repositories) = &minted.repositories else {
        return Err(Standing::stalled(
            Reason::APIFailed,
            "GitHub gave a token for all repositories where some were asked for; it was revoked unpublished",
        ));
    };
    let reached: Vec<_> = repositories
        .iter()
        .map(|repository| Known { name: Some(repository.name.clone()), id: Some(repository.id) })
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
            Reason::APIFailed,
            format!(
                "GitHub gave a token that reaches {}, which was not asked for; it was revoked unpublished",
                stranger.name.as_deref().unwrap_or_default()
            ),
        )),
        None => Ok(Some(reached)),
    }
}

/// The failure of a mint. GitHub answers 422 both for repositories and for permissions.
/// Whether GitHub, or the way to it, failed, and not the request.
fn is_trouble(error: &github::Error) -> bool {
    use github::Error::{Page, RateLimited, Server, Unreachable, Unsent};
    matches!(error, Page { .. } | RateLimited { .. } | Server { .. } | Unreachable { .. } | Unsent { .. })
}

fn mint_failure(error: &github::Error, doing: &str, account: &str, object: &InstallationToken) -> Failure {
    let (standing, again) = match error {
        error if error.lacks_permissions() => (
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
    Failure::Remote(standing, again)
}

async fn publish(kind: &TokenKind, seen: &Seen, content: &Arc<Content>) -> Result<(), Failure> {
    if write(kind, seen, content).await? {
        kind.memory.moved(uid(&seen.token), Stage::Published);
    }
    Ok(())
}

/// Writes the Secret, and notes its new state. Creates it if there is none, changes it if it is the operator's, and
/// replaces it if its type, which cannot be changed, differs, or if somebody made it immutable. Returns whether it was
/// written: it was not if somebody else created one meanwhile.
async fn write(kind: &TokenKind, seen: &Seen, content: &Arc<Content>) -> Result<bool, Failure> {
    let (object, shared) = (&seen.token, &kind.shared);
    let place = Place::of(object);
    let about = About { token: object, ca_bundle: seen.tools.ca_bundle.as_deref(), facts: seen.tools.facts.as_ref() };
    let wanted = secret::build(about, content).map_err(|error| Failure::Remote(error.standing(), Again::Person))?;
    let cached = shared.caches.named::<SecretMeta>(&place.namespace, &place.name);
    let before = kind.notes.before(cached.as_deref());
    // Without an answer nobody knows whether it was written.
    kind.notes.doubt(place);
    let secrets = secrets(kind, object);
    let existing = match &seen.tools.secret {
        Some(existing) if existing.type_ == wanted.type_ && existing.immutable != Some(true) => Some(existing),
        Some(existing) => {
            // Until the new Secret is there, only the memory has the token. If the creation fails, the next look
            // publishes it again.
            kind.memory.removed(uid(object), content, shared.now());
            remove(&secrets, existing).await?;
            None
        }
        None => None,
    };
    let written = match put(&secrets, object, existing, wanted).await {
        Err(kube::Error::Api(status)) if status.code == 409 && seen.tools.secret.is_none() => return Ok(false),
        other => other?,
    };
    if secret::is_ours(&written.metadata, object) {
        kind.notes.ours(about, &written, Some(content), Some(before), shared.now());
    }
    Ok(true)
}

/// Creates the Secret, or changes the existing one. Returns it as it is afterwards.
async fn put(
    secrets: &Api<Lenient<Secret>>,
    object: &InstallationToken,
    existing: Option<&Secret>,
    wanted: Secret,
) -> Result<Secret, kube::Error> {
    let written = if let Some(existing) = existing {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let change = Patch::Merge(secret::change(existing, &wanted, object));
        secrets.patch(&object.spec.secret.name, &params, &change).await?
    } else {
        let create = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        secrets.create(&create, &Lenient::from(wanted)).await?
    };
    written.read()
}

/// `minted_at`: when the token was minted, if that was a moment ago. GitHub may then answer that the token is unknown,
/// because the token has not reached all of GitHub yet.
async fn revoke(
    kind: &TokenKind,
    seen: &Seen,
    token: &Token,
    minted_at: Option<Timestamp>,
    doing: &str,
) -> Result<(), Failure> {
    let object = &seen.token;
    let Some(github) = &seen.tools.github else {
        if seen.tools.app.is_some() {
            let message =
                format!("{doing} waits until the GitHubApp's credentials can be used, or until the token expires");
            return Err(Failure::Remote(Standing::reconciling(Reason::WaitingForReference, message), Again::Backoff));
        }
        // Without the App, the GitHub that could revoke it is unknown.
        let note = "its token was not revoked, because the GitHubApp is gone; it expires within the hour";
        kind.shared.warn(&**object, Reason::NotRevoked, note).await;
        kind.memory.revoked(uid(object), token);
        return Ok(());
    };
    // A token that this process minted is known, and its mint was rationed.
    let is_known =
        seen.held.as_ref().is_some_and(|held| held.trial != Trial::Unknown && held.fingerprint == token.fingerprint());
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    if !is_known {
        spend_unknown(kind, object, doing, kind.shared.now())?;
    }
    let revoked = github.revoke(token).await;
    if !is_known && !matches!(revoked, Ok(Revocation::AlreadyDead)) {
        kind.shared.rations.was_known(uid(object), namespace);
    }
    match revoked {
        Ok(Revocation::AlreadyDead)
            if minted_at
                .and_then(|at| at.checked_add(GETS_KNOWN).ok())
                .is_some_and(|known| known > kind.shared.now()) =>
        {
            let message = format!("{doing}: GitHub does not know the fresh token yet; it is tried again by itself");
            Err(Failure::Remote(Standing::reconciling(Reason::TokenRefused, message), Again::Backoff))
        }
        // A token that cannot be sent was never valid.
        Ok(_) | Err(github::Error::Unsent { .. }) => {
            kind.shared.metrics.token(TokenEvent::Revoked);
            kind.memory.revoked(uid(object), token);
            Ok(())
        }
        Err(error) => {
            let (mut standing, again) = github_failure(&error, doing);
            standing.message.push_str("; at the latest when the token expires, this goes on without");
            // No person has to act, because it passes with time.
            let again = if matches!(again, Again::Person) { Again::Backoff } else { again };
            Err(Failure::Remote(standing, again))
        }
    }
}

async fn delete_former(kind: &TokenKind, seen: &Seen, name: &str) -> Result<(), Failure> {
    let object = &seen.token;
    let secrets = secrets(kind, object);
    let Some(secret) = secrets.get_opt(name).await?.map(Lenient::read).transpose()? else { return Ok(()) };
    if !secret::is_ours(&secret.metadata, object) {
        return Ok(());
    }
    let published = seen.tools.secret.as_ref().and_then(secret::token).map(|token| token.fingerprint());
    let is_alive = secret::content(&secret).is_none_or(|content| content.expires_at > kind.shared.now());
    if let Some(token) = secret::token(&secret)
        && Some(token.fingerprint()) != published
        && is_alive
    {
        revoke(kind, seen, &token, None, "revoking the token in a Secret of a former name").await?;
    }
    remove(&secrets, &secret).await?;
    Ok(())
}

/// Reports a token that could not be revoked. Its object has waited longer than a token lives, and its Secret is
/// deleted now.
async fn tell_of_what_lives_on(kind: &TokenKind, seen: &Seen, secret: &Secret) {
    let object = &seen.token;
    let print = secret::token(secret).map(|token| token.fingerprint());
    let lives = secret::content(secret).is_none_or(|content| content.expires_at > kind.shared.now());
    if print.is_some() && print != seen.revoked && lives {
        let note = "its token could not be revoked for two hours, longer than tokens live, and is given up";
        kind.shared.warn(&**object, Reason::NotRevoked, note).await;
    }
}

/// Reports a token that may live on in a Secret that the operator may not read.
async fn tell_of_what_was_not_read(kind: &TokenKind, seen: &Seen) {
    if let SecretSeen::OutOfReach(standing) = &seen.secret
        && seen.held.is_none()
        && seen.revoked.is_none()
        && !seen.is_namespace_going
    {
        let note = format!("the token in its Secret may live on for up to an hour: {}", standing.message);
        kind.shared.warn(&*seen.token, Reason::NotRevoked, &note).await;
    }
}

/// Deletes the Secret with this uid. It is a success if the Secret is already deleted.
async fn remove(secrets: &Api<Lenient<Secret>>, secret: &Secret) -> Result<(), kube::Error> {
    let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
    let delete = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match secrets.delete(&secret.name_any(), &delete).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

pub fn client(seen: &Seen) -> Result<&Arc<github::GitHub>, Failure> {
    seen.tools.github.as_ref().ok_or_else(|| {
        let object = &seen.token;
        let standing = Standing::reconciling(
            Reason::WaitingForReference,
            "the GitHubApp's credentials cannot be used; its conditions say why, and this goes on as soon as they can",
        );
        let is_good = matches!(&seen.secret, SecretSeen::Ours(published) if published.is_intact());
        let standing = if is_good { standing.while_still_good(&good_words(object)) } else { standing };
        Failure::Remote(standing, Again::Backoff)
    })
}

fn secrets(kind: &TokenKind, object: &InstallationToken) -> Api<Lenient<Secret>> {
    Api::namespaced(kind.shared.client.clone(), object.metadata.namespace.as_deref().unwrap_or_default())
}

fn uid(object: &InstallationToken) -> &str {
    object.metadata.uid.as_deref().unwrap_or_default()
}
