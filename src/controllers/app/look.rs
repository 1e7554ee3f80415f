//! Looks at GitHub for an App: checks the credentials, the App itself, and its installations.
//!
//! Invariant: a look takes two calls and happens each half hour, however many objects depend on it. A look that failed
//! is not repeated before its time, whatever wakes the controller.

use super::AppKind;
use super::plan::Seen;
use crate::api::{CredentialsSecretReference, GitHubApp, Reason};
use crate::controllers::connection::{Connection, Look};
use crate::controllers::shared::Shared;
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::github::{self, AppCredentials, Count, Endpoint, GitHub, Transport};
use crate::ids::AccountId;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;

/// How often GitHub is looked at, less jitter. Two calls each time are four an hour; the limit for an idle operator is
/// six.
const LOOK_EVERY: SignedDuration = SignedDuration::from_mins(30);

/// The key in the Secret if the spec names none, and its name in messages.
const PRIVATE_KEY: &str = "private-key.pem";
const NEXT_PRIVATE_KEY: &str = "private-key-next.pem";

/// GitHub's message about a JWT whose `iss` is not the id of an App.
const UNKNOWN_ISSUER: &str = "Integration not found";

/// Asks GitHub, and stores the answers.
pub async fn look(kind: &AppKind, seen: &Seen) {
    let (shared, app) = (&*kind.shared, &*seen.app);
    let Some(connection) = &seen.connection else { return };
    let Some(github) = &connection.github else { return };
    let (name, reference, now) = (app.name_any(), ObjectRef::from_obj(app), shared.now());
    // A request during the look is for another one.
    shared.connections.update(&name, |connection| connection.wanted = None);
    let known_bot = app.status.as_ref().and_then(|status| Some((status.slug.clone()?, status.bot_user_id?)));
    match ask(shared, github, app, known_bot).await {
        Ok(look) => {
            // After a long pause all objects of the App wait, so they are woken even if the answers are the same as
            // before.
            let is_news =
                |old: &Arc<Look>| !old.says_the_same(&look) || look.at.duration_since(old.at) > LOOK_EVERY * 2;
            let changed = connection.trouble.is_some() || connection.look.as_ref().is_none_or(is_news);
            let next = shared.spread(now, LOOK_EVERY);
            shared.connections.update(&name, |connection| {
                connection.look = Some(Arc::new(look));
                connection.trouble = None;
                connection.next_look = next.into_iter().chain(connection.wanted).min();
                connection.heard = seen.waiting.iter().map(|waiting| waiting.announced.clone()).collect();
            });
            kind.lane.succeeded(&reference);
            if changed {
                shared.caches.announce(app);
            }
        }
        Err((standing, again)) => {
            tracing::warn!(app = name, reason = %standing.reason, message = standing.message, "the look at GitHub failed");
            let at = shared.resolve(&kind.lane, &reference, again);
            let changed = connection.trouble.as_ref() != Some(&standing);
            shared.connections.update(&name, |connection| {
                connection.trouble = Some(standing);
                connection.next_look = Some(at);
            });
            if changed {
                shared.caches.announce(app);
            }
        }
    }
}

/// Creates the connection again.
pub fn connect(shared: &Shared, seen: &Seen) {
    let (app, secret) = (&*seen.app, seen.secret.as_ref());
    let (identity, made_from) = seen.made_from.clone();
    let is_another = seen.connection.as_ref().is_some_and(|connection| connection.identity != identity);
    let made = client(shared, app, secret);
    shared.connections.update(&app.name_any(), |connection| {
        if is_another {
            // Answers of another GitHub, or about another App, do not apply here.
            *connection = Connection::default();
        }
        connection.identity = identity;
        connection.made_from = made_from;
        connection.next_look = None;
        connection.is_broken = made.is_err();
        match made {
            Ok((github, git)) => {
                connection.github = Some(Arc::new(github));
                connection.git = Some(git);
            }
            // The old client stays, so that tokens can still be revoked and renewed with it.
            Err(standing) => connection.trouble = Some(standing),
        }
    });
    shared.caches.announce(app);
}

async fn ask(
    shared: &Shared,
    github: &GitHub,
    app: &GitHubApp,
    known_bot: Option<(String, AccountId)>,
) -> Result<Look, (Standing, Again)> {
    let found = github.app().await.map_err(|error| refused(&error, app))?;
    if let Some(asked) = app.spec.app_id
        && found.id != asked
    {
        let message = format!(
            "the private key belongs to App {} (id {}), not to the App with id {asked}: make another GitHubApp with the right spec.appID, or put the right key into Secret {}",
            found.slug().unwrap_or_default(),
            found.id,
            app.spec.credentials_secret_ref.name
        );
        return Err((Standing::stalled(Reason::CredentialsInvalid, message), Again::Person));
    }
    let installations =
        github.installations().await.map_err(|error| github_failure(&error, "listing the App's installations"))?;
    let bot_user_id = match known_bot {
        Some((slug, id)) if Some(slug.as_str()) == found.slug() => Some(id),
        _ => match found.slug() {
            Some(slug) => match github.bot_user(slug).await {
                Ok(bot) => Some(bot.id),
                Err(error) => {
                    tracing::info!(%error, "the App's bot user is not known yet; it is asked for at the next look");
                    None
                }
            },
            None => None,
        },
    };
    Ok(Look { at: shared.now(), app: found, bot_user_id, installations })
}

/// The standing after a refused `GET /app`.
fn refused(error: &github::Error, app: &GitHubApp) -> (Standing, Again) {
    let secret = &app.spec.credentials_secret_ref.name;
    let is_unknown = match error {
        github::Error::NotFound { .. } => true,
        github::Error::CredentialsRefused { message, .. } => message == UNKNOWN_ISSUER,
        _ => false,
    };
    match error {
        _ if is_unknown => (
            Standing::stalled(
                Reason::CredentialsInvalid,
                format!(
                    "{error}. There is no App with the id in spec at {}: make another GitHubApp with the right spec.appID or spec.clientID, and spec.apiURL",
                    app.spec.api_url
                ),
            ),
            Again::Person,
        ),
        github::Error::CredentialsRefused { .. } => (
            Standing::stalled(
                Reason::CredentialsInvalid,
                format!(
                    "{error}. The private key in Secret {secret} was deleted on the App's settings page, or is another App's: \
                     generate one there and put it into the key {}",
                    app.spec.credentials_secret_ref.key
                ),
            ),
            Again::Person,
        ),
        other => github_failure(other, "looking at the App"),
    }
}

fn client(shared: &Shared, app: &GitHubApp, secret: Option<&Secret>) -> Result<(GitHub, Transport), Standing> {
    let spec = &app.spec;
    let CredentialsSecretReference { name, key: private_key } = &spec.credentials_secret_ref;
    let namespace = &shared.settings.namespace;
    let endpoint = Endpoint::parse(
        &spec.api_url,
        spec.web_url.as_deref(),
        spec.graphql_url.as_deref(),
        shared.settings.plain_http,
    )
    .map_err(|error| Standing::stalled(Reason::InvalidSpec, error.to_string()))?;
    let invalid = |message: String| Standing::stalled(Reason::CredentialsInvalid, message);
    let secret = secret.ok_or_else(|| {
        invalid(format!(
            "there is no Secret {name} in namespace {namespace}: create it with the App's private key, `kubectl create secret \
             generic {name} --namespace {namespace} --from-file={private_key}=FILE`"
        ))
    })?;
    let key = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let pem = key(private_key).ok_or_else(|| {
        invalid(format!(
            "Secret {name} in namespace {namespace} has no key {private_key}: put the App's private key there"
        ))
    })?;
    let issuer = spec.client_id.clone().or_else(|| spec.app_id.map(|id| id.to_string())).unwrap_or_default();
    let credentials = AppCredentials::parse(&issuer, pem, key(NEXT_PRIVATE_KEY)).map_err(|error| {
        let key = match private_key.as_str() {
            PRIVATE_KEY => String::new(),
            other => format!(", whose key {other} stands for {PRIVATE_KEY}"),
        };
        invalid(format!("Secret {name} in namespace {namespace}{key}: {error}"))
    })?;
    let transport = shared
        .connect
        .connect(spec.ca_bundle.as_deref().map(str::as_bytes))
        .map_err(|error| Standing::stalled(Reason::InvalidSpec, error.to_string()))?;
    let observer = Arc::new(Count { metrics: Arc::new(shared.metrics.clone()), app: app.name_any() });
    let git = transport.clone();
    Ok((GitHub::new(endpoint, transport, credentials, Arc::clone(&shared.clock), observer), git))
}

/// Digests of the App and its GitHub, and of everything that a connection is made from. The Secret counts by content,
/// so an edit without a change has no effect.
#[must_use]
pub fn made_from(app: &GitHubApp, secret: Option<&Secret>) -> (String, String) {
    let spec = &app.spec;
    let data = secret.and_then(|secret| secret.data.as_ref());
    let key = |key: &str| data.and_then(|data| data.get(key)).map(|bytes| digest(&SHA256, &bytes.0).as_ref().to_vec());
    let hash = |parts: &serde_json::Value| hex::encode(digest(&SHA256, parts.to_string().as_bytes()));
    let identity = hash(&serde_json::json!([app.metadata.uid, spec.api_url, spec.app_id, spec.client_id]));
    let rest = serde_json::json!([
        identity,
        spec.web_url,
        spec.graphql_url,
        spec.ca_bundle,
        key(&spec.credentials_secret_ref.key),
        key(NEXT_PRIVATE_KEY),
        secret.is_some(),
    ]);
    (identity, hash(&rest))
}

impl Look {
    /// Whether another look had the same answers.
    fn says_the_same(&self, other: &Self) -> bool {
        self.app == other.app && self.installations == other.installations && self.bot_user_id == other.bot_user_id
    }
}
