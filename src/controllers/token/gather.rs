//! Reads everything that a decision about an `InstallationToken` needs.
//!
//! A Secret is read from the API server and not from a cache, because a late cache would cause a second token to be
//! minted. It is read once, and again when the watch shows another version of it. Everything else comes from caches and
//! memory.

use super::TokenKind;
use super::format::{self, Facts};
use super::memory::FailedFor;
use super::noted::{Found, Place};
use super::secret::{self, About, Content};
use super::seen::{Failed, Failures, Known, SecretSeen, Seen, Tools};
use crate::api::{GitHubApp, GitHubInstallation, InstallationToken, REVOKE_FINALIZER};
use crate::controllers::connection::Connection;
use crate::controllers::dependents::is_needed;
use crate::controllers::object::{has_finalizer, requested_look};
use crate::controllers::reference::{Access, Purpose, Referred, refer};
use crate::controllers::shared::{Asked, PERSON_RECHECK};
use crate::controllers::standing::{Standing, is_forbidden, kubernetes_refusal};
use crate::controllers::watches::SecretMeta;
use crate::github::{Endpoint, PlainHttp};
use crate::runtime::lenient::Lenient;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::Api;
use std::sync::Arc;

/// Gathers the state.
///
/// # Errors
/// The Secret cannot be read.
pub async fn gather(kind: &TokenKind, token: &Arc<InstallationToken>) -> Result<Seen, kube::Error> {
    let shared = &*kind.shared;
    let namespace = token.namespace().unwrap_or_default();
    let uid = token.uid().unwrap_or_default();
    let installation = &token.spec.installation_ref.name;
    let is_installation_going = shared
        .caches
        .named::<GitHubInstallation>(&namespace, installation)
        .is_some_and(|there| there.metadata.deletion_timestamp.is_some());
    let asked = if is_installation_going { Asked::ApiServer } else { Asked::Cache };
    let is_namespace_going = shared.is_namespace_going(&namespace, asked).await?;
    let is_needed = is_needed(shared, token, is_namespace_going);
    let purpose = if is_needed { Purpose::Removal } else { Purpose::Use };
    let Referred { installation, app_name, app, connection, access } = refer(shared, &namespace, installation, purpose);
    let ca_bundle = app.as_ref().and_then(|app| app.spec.ca_bundle.clone());

    let facts = app.as_ref().and_then(|app| facts(token, &access, app));
    let about = About { token, ca_bundle: ca_bundle.as_deref(), facts: facts.as_ref() };
    let found = find_secret(kind, about).await?;
    let unwritable = unwritable(kind, about, found.content.as_deref());
    // The namespace's RoleBinding is deleted with it, and so may be the objects whose change would bring another look.
    let is_refused = matches!(found.state, SecretSeen::OutOfReach(_)) && token.metadata.deletion_timestamp.is_some();
    let is_namespace_going =
        is_namespace_going || is_refused && shared.is_namespace_going(&namespace, Asked::ApiServer).await?;
    let about = FailedFor {
        generation: token.metadata.generation,
        request: requested_look(&**token).cloned(),
        access: access.terms(),
    };
    let seen = Seen {
        token: Arc::clone(token),
        has_finalizer: has_finalizer(&**token, REVOKE_FINALIZER),
        is_paused: token.spec.paused
            || installation.as_ref().is_some_and(|installation| installation.spec.paused)
            || app.as_ref().is_some_and(|app| app.spec.paused),
        access,
        is_needed,
        is_namespace_going,
        unwritable,
        secret: found.state,
        known: found.known,
        former_secrets: former_secrets(kind, token),
        held: kind.memory.held(&uid),
        revoked: kind.memory.last_revoked(&uid),
        failed: failures(kind, &uid, &about, connection.as_ref(), app_name.as_deref()),
        about,
        tools: Tools {
            secret: found.secret,
            content: found.content,
            ca_bundle,
            facts,
            git: connection.as_ref().and_then(|connection| connection.git.clone()),
            github: connection.and_then(|connection| connection.github),
            app: app.and(app_name),
        },
    };
    Ok(shared.guards.token(seen))
}

/// The reason why no Secret can be written in the format. A template is rendered with a dummy, before there is a token,
/// and with the token that is there.
fn unwritable(kind: &TokenKind, about: About<'_>, in_secret: Option<&Content>) -> Option<Standing> {
    about.facts?;
    let now = kind.shared.now();
    let held = kind.memory.content(about.token.metadata.uid.as_deref().unwrap_or_default());
    let content = held.as_deref().or(in_secret).filter(|content| content.expires_at > now);
    let checked = format::check(about.token, about.facts).and_then(|()| match content {
        Some(content) => secret::build(about, content).map(drop),
        None => Ok(()),
    });
    checked.err().map(|error| error.standing())
}

/// The facts about the installation, if the Secret's format needs them.
fn facts(token: &InstallationToken, access: &Access, app: &GitHubApp) -> Option<Facts> {
    let Access::Granted { installation, account, .. } = access else { return None };
    if !token.spec.secret.format.needs_facts() {
        return None;
    }
    let spec = &app.spec;
    // The App's own look refuses addresses that may not be plain http.
    let endpoint =
        Endpoint::parse(&spec.api_url, spec.web_url.as_deref(), spec.graphql_url.as_deref(), PlainHttp::Anywhere);
    Some(Facts { endpoint: endpoint.ok()?, account: account.clone(), installation: *installation })
}

/// Finds the Secret with the name in the spec. Reads it unless its state is known.
async fn find_secret(kind: &TokenKind, about: About<'_>) -> Result<Found, kube::Error> {
    let (shared, token, place) = (&*kind.shared, about.token, Place::of(about.token));
    let cached = shared.caches.named::<SecretMeta>(&place.namespace, &place.name);
    if let Some(found) = kind.notes.recall(&place, about, cached.as_deref()) {
        return Ok(found);
    }
    let before = kind.notes.before(cached.as_deref());
    let secrets = Api::<Lenient<Secret>>::namespaced(shared.client.clone(), &place.namespace);
    let secret = match secrets.get_opt(&place.name).await {
        Err(error) if is_forbidden(&error) => {
            let standing = kubernetes_refusal(&error, &place.namespace).ok_or(error)?;
            let state = SecretSeen::OutOfReach(standing);
            return Ok(Found { state, known: Known::Read, secret: None, content: None });
        }
        answer => answer?.map(Lenient::read).transpose()?,
    };
    let (state, content) = match &secret {
        None => {
            kind.notes.absent(place, before, shared.now());
            (SecretSeen::Absent, None)
        }
        Some(secret) if !is_for(secret, token) => {
            kind.notes.doubt(place);
            (SecretSeen::Foreign, None)
        }
        Some(secret) => {
            let minted = kind.memory.content(token.metadata.uid.as_deref().unwrap_or_default());
            let (published, content) = kind.notes.ours(about, secret, minted.as_deref(), Some(before), shared.now());
            (SecretSeen::Ours(published), content)
        }
    };
    Ok(Found { state, known: Known::Read, secret, content })
}

/// Whether the Secret is the operator's. A terminating object takes over nothing that an earlier one left.
fn is_for(secret: &Secret, token: &InstallationToken) -> bool {
    secret::is_ours(&secret.metadata, token)
        || token.metadata.deletion_timestamp.is_none() && secret::was_ours(&secret.metadata, token)
}

/// The failed calls, and those that would fail: while the App itself does not work, its tokens make no calls of their
/// own. The next successful look wakes them.
fn failures(
    kind: &TokenKind,
    uid: &str,
    about: &FailedFor,
    connection: Option<&Connection>,
    app: Option<&str>,
) -> Failures {
    let own = kind.memory.failures(uid, about);
    let hindrance = connection.zip(app).and_then(|(connection, app)| connection.hindrance(app));
    let Some(standing) = hindrance else { return own };
    let until = kind.shared.now().checked_add(PERSON_RECHECK).unwrap_or(Timestamp::MAX);
    let failed = Failed { standing, until };
    Failures { asking: own.asking.or(Some(failed.clone())), revoking: own.revoking.or(Some(failed)) }
}

/// The names of Secrets that were made for this object under a name that its spec no longer has.
fn former_secrets(kind: &TokenKind, token: &InstallationToken) -> Vec<String> {
    let here = Place::of(token);
    let mut places = kind.owned.of(token.metadata.uid.as_deref().unwrap_or_default());
    places.retain(|place| {
        let cached = || kind.shared.caches.named::<SecretMeta>(&place.namespace, &place.name);
        place.namespace == here.namespace
            && place.name != here.name
            && cached().is_some_and(|secret| {
                secret.metadata.deletion_timestamp.is_none() && secret::is_ours(&secret.metadata, token)
            })
    });
    places.into_iter().map(|place| place.name).collect()
}
