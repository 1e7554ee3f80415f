//! Takes the calls of a step out of the rations, and says what an object without a call waits for.

use super::TokenKind;
use super::scope::Scope;
use super::seen::{SecretSeen, Seen};
use super::uid;
use crate::api::{InstallationToken, Reason};
use crate::controllers::rations::{Caller, Limits, Of, Purpose, Wait};
use crate::controllers::reconcile::Failure;
use crate::controllers::standing::{Again, Standing, whole_second};
use jiff::Timestamp;

/// Takes a mint out of the rations.
pub fn spend(kind: &TokenKind, seen: &Seen, scope: &Scope, now: Timestamp) -> Result<(), Failure> {
    let (caller, purpose) = (caller(seen), purpose(seen, scope));
    let Caller { namespace, app, .. } = caller;
    let limits = seen.tools.github.as_deref().map_or(Limits::None, Limits::of);
    kind.shared.rations.mint(caller, purpose, limits, now).map_err(|Wait { of, until }| {
        let why = match of {
            Of::Object => "this object requests tokens too often: find the person or program that changes or deletes it or its Secret all the time".to_owned(),
            Of::Namespace => format!(
                "tokens of namespace {namespace} are requested too often: find the person or program that makes, changes or deletes \
                 InstallationTokens or their Secrets there all the time"
            ),
            Of::App | Of::All => format!(
                "all tokens of GitHubApp {app} together use up GitHub's limits for the App, and namespace {namespace} has used up its \
                 share: use fewer tokens, or another App"
            ),
        };
        Failure::Remote(Standing::reconciling(Reason::RateLimited, format!("{why}. It goes on by itself, {}", turn(until))), Again::At(until))
    })
}

/// Gives a mint back that came to nothing because GitHub, or the way to it, failed. Otherwise an outage of some minutes would use
/// up the renewals of all objects.
pub fn give_back(kind: &TokenKind, seen: &Seen, scope: &Scope) {
    kind.shared.rations.not_minted(caller(seen), purpose(seen, scope));
}

fn caller(seen: &Seen) -> Caller<'_> {
    Caller {
        uid: uid(&seen.token),
        namespace: seen.token.metadata.namespace.as_deref().unwrap_or_default(),
        app: seen.tools.app.as_deref().unwrap_or_default(),
    }
}

fn purpose(seen: &Seen, scope: &Scope) -> Purpose {
    let renews = matches!(&seen.secret, SecretSeen::Ours(published) if published.scope.as_ref() == Some(scope));
    if renews { Purpose::Renewal } else { Purpose::First }
}

/// Takes the revocation of a token that may be nobody's out of the rations. A tenant can write anything into a Secret, and
/// GitHub refuses an address for a while that sends many tokens that it does not know.
pub fn spend_unknown(kind: &TokenKind, object: &InstallationToken, doing: &str, now: Timestamp) -> Result<(), Failure> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    kind.shared.rations.send_unknown(uid(object), namespace, now).map_err(|Wait { of, until }| {
        let whose = match of {
            Of::Object => "Secrets of this object".to_owned(),
            Of::Namespace => format!("Secrets of namespace {namespace}"),
            Of::App | Of::All => "Secrets of several namespaces".to_owned(),
        };
        let message = format!(
            "{doing} waits, because {whose} had several tokens that GitHub does not know: find the person or program that writes them. It goes on by \
             itself, {}",
            turn(until)
        );
        Failure::Remote(Standing::reconciling(Reason::RateLimited, message), Again::At(until))
    })
}

/// The time of a turn, for a message. It changes only when an object gets another turn.
fn turn(until: Timestamp) -> String {
    format!("at {}", whole_second(until))
}
