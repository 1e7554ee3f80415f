//! The errors of a call to GitHub, classified by the controllers' reaction.
//!
//! The invariant: a message names the host, the route by its template, the event and the remedy. It never holds a secret, a header,
//! or more of a response than GitHub's own `message`, cut and redacted. [`Error::outlook`] alone decides whether a retry helps:
//! only the controllers repeat a call, because they have the one queue of due times.
use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::block::Block;
pub use super::transport::Unreached;
use super::tunnel::Proxied;

/// A call, in a form with few values, for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The HTTP method.
    pub method: &'static str,
    /// The path with placeholders, as in GitHub's documentation.
    pub template: &'static str,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.template)
    }
}

/// A call to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The API's host.
    pub host: Arc<str>,
    /// The call.
    pub route: Route,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.route, self.host)
    }
}

/// Whether, and when, a retry may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// The trouble passes by itself: retry with back-off.
    Passes,
    /// Retry at this time.
    Waits(Timestamp),
    /// A person must act first.
    Stalls,
}

/// The reason why a call to GitHub failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// 401 to the App's JWT, by the current and the next key.
    #[error("{target}: GitHub refused the App's credentials: {message}; {}", credentials_remedy(*skew))]
    CredentialsRefused {
        target: Target,
        message: String,
        /// How far the clock here is ahead of GitHub's, if that is more than a minute.
        skew: Option<SignedDuration>,
    },
    /// 401 to an installation token: expired, revoked, or so new that parts of GitHub do not know it yet.
    #[error("{target}: GitHub refused the installation token: {message}; a fresh one is minted")]
    TokenRefused { target: Target, message: String },
    /// 404 or 410: it does not exist, or these credentials have no access to it.
    #[error("{target}: {message}; it does not exist, or the App has no access to it")]
    NotFound { target: Target, message: String },
    /// 403: the installation is suspended.
    #[error(
        "{target}: {message}; an owner of the account can unsuspend it in the account's settings under GitHub Apps"
    )]
    Suspended { target: Target, message: String },
    /// 403 or 451 without a rate limit: the credentials are valid, but do not permit this.
    #[error(
        "{target}: GitHub forbids it: {message}; check the App's permissions, that the account has accepted them, and the account's policies"
    )]
    Forbidden { target: Target, message: String },
    /// 403: the repository is archived, and the call would change it.
    #[error("{target}: the repository is archived ({message}); its administrators can unarchive it in its settings")]
    Archived { target: Target, message: String },
    /// 403 or 451 that no permission changes: single sign-on, an IP allow list, a bill, a lock.
    #[error("{target}: {message}; {block}")]
    Blocked { target: Target, message: String, block: Block },
    /// An HTML page, as of a proxy, of a firewall, or of GitHub in an outage.
    #[error(
        "{target}: an HTML page came in place of GitHub's answer, with status {status}; if this persists, check that no proxy or firewall answers instead of GitHub, and https://www.githubstatus.com"
    )]
    Page { target: Target, status: u16 },
    /// 409: the call conflicts with the current state: a merge conflict, an empty repository, a fork that is not ready.
    #[error("{target}: GitHub reports a conflict with the current state: {message}")]
    Conflict { target: Target, message: String },
    /// 307 or 308 to a call that would change a repository, which was renamed or transferred. The redirect is not followed,
    /// because the call is for the repository with a certain id: look up its name by that id and call again.
    #[error("{target}: the repository was renamed or transferred; Landfall looks it up by its id again")]
    Moved { target: Target },
    /// 422: GitHub understood the request, and refuses it.
    #[error("{target}: GitHub refused it: {}", with_details(message, errors))]
    Unprocessable {
        target: Target,
        message: String,
        /// The errors that GitHub names, at most five.
        errors: Vec<FieldError>,
    },
    /// A rate limit. Until it ends, the client refuses further calls with the same credentials.
    #[error("{target}: {} of GitHub reached; calls go on at {until}", if *secondary { "a secondary rate limit" } else { "the rate limit" })]
    RateLimited {
        target: Target,
        /// The end of the limit.
        until: Timestamp,
        /// A secondary limit (too many calls at once), rather than the hour's budget.
        secondary: bool,
    },
    /// No complete answer arrived.
    #[error("{target}: {}", unreached(*reason, source.as_ref()))]
    Unreachable {
        target: Target,
        /// The reason, as far as the remedy depends on it.
        reason: Unreached,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// 5xx or 408.
    #[error("{target}: GitHub failed with {status}; see https://www.githubstatus.com if this persists")]
    Server { target: Target, status: u16 },
    /// Any other refusal.
    #[error("{target}: GitHub answered {status}: {message}")]
    Refused { target: Target, status: u16, message: String },
    /// The answer does not come from GitHub's API.
    #[error("{target}: {what}; check that spec.apiURL is GitHub's API and that no proxy answers instead")]
    Malformed { target: Target, what: String },
    /// The request was not sent, because GitHub would misread it, or because it could not be signed.
    #[error("{target}: not sent: {what}")]
    Unsent { target: Target, what: String },
}

impl Error {
    /// Whether, and when, a retry may succeed.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::RateLimited { until, .. } => Outlook::Waits(*until),
            Self::TokenRefused { .. }
            | Self::Conflict { .. }
            | Self::Moved { .. }
            | Self::Server { .. }
            | Self::Page { .. }
            | Self::Blocked { block: Block::Locked, .. } => Outlook::Passes,
            Self::Unreachable { reason, .. } => match reason {
                Unreached::NotConnected | Unreached::TimedOut | Unreached::Cut => Outlook::Passes,
                Unreached::Untrusted | Unreached::BadCertificate => Outlook::Stalls,
            },
            Self::CredentialsRefused { .. }
            | Self::NotFound { .. }
            | Self::Suspended { .. }
            | Self::Forbidden { .. }
            | Self::Blocked { .. }
            | Self::Archived { .. }
            | Self::Unprocessable { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. }
            | Self::Unsent { .. } => Outlook::Stalls,
        }
    }
}

impl Error {
    /// Whether GitHub refused to mint a token because the installation does not have the requested permissions. GitHub answers
    /// 422 also if it does not have the requested repositories.
    #[must_use]
    pub fn lacks_permissions(&self) -> bool {
        matches!(self, Self::Unprocessable { message, .. } if message.contains("permissions"))
    }

    /// Whether GitHub refused to create an object because it exists.
    #[must_use]
    pub fn already_exists(&self) -> bool {
        let Self::Unprocessable { errors, .. } = self else { return false };
        errors.iter().any(|error| error.code == "already_exists" || error.message.contains("already exists"))
    }
}

fn credentials_remedy(skew: Option<SignedDuration>) -> String {
    match skew {
        Some(skew) => format!(
            "the clock here is {} s {} GitHub's: correct it, because the JWT carries times",
            skew.abs().as_secs(),
            if skew.is_negative() { "behind" } else { "ahead of" }
        ),
        None => "check that spec.appID or spec.clientID and private-key.pem belong to the same App, and that the key was not deleted in the App's settings".into(),
    }
}

/// One of the `errors` of a 422, redacted and cut. A field that GitHub leaves out is empty.
/// <https://docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api#validation-failed>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldError {
    /// The kind of object, for example `PullRequest`.
    pub resource: String,
    /// The field of that object.
    pub field: String,
    /// The error, as one of GitHub's words: `missing`, `missing_field`, `invalid`, `already_exists`, `unprocessable`,
    /// or `custom`, for which only the message says more.
    pub code: String,
    /// The error in a sentence.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, field, code, message } = self;
        let subject: Vec<&str> =
            [resource, field].map(String::as_str).into_iter().filter(|it| !it.is_empty()).collect();
        let problem = match (message.as_str(), code.as_str()) {
            ("", code) => code.to_owned(),
            (message, "" | "custom") => message.to_owned(),
            (message, code) => format!("{message} ({code})"),
        };
        let parts = [subject.join("."), problem];
        f.write_str(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "))
    }
}

fn with_details(message: &str, errors: &[FieldError]) -> String {
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if errors.is_empty() { message.to_owned() } else { format!("{message} ({})", errors.join("; ")) }
}

fn unreached(reason: Unreached, source: &(dyn std::error::Error + 'static)) -> String {
    let mut root = source;
    while let Some(deeper) = super::transport::deeper(root) {
        root = deeper;
    }
    let detail = super::redact::shown(&root.to_string());
    let proxied = Proxied::find(source);
    let text = match reason {
        Unreached::NotConnected => {
            return match proxied {
                Some(proxied) => proxied.no_connection(&detail),
                None => format!("no connection ({detail}); check spec.apiURL, DNS and the network policies"),
            };
        }
        Unreached::Untrusted => {
            format!(
                "the certificate is signed by an authority that is not trusted here ({detail}); put that authority's certificate into spec.caBundle"
            )
        }
        Unreached::BadCertificate => format!(
            "the certificate is not good for this host ({detail}); check spec.apiURL and the certificate GitHub's host presents"
        ),
        Unreached::TimedOut => {
            "no complete answer in time; if this persists, check the network between here and GitHub".into()
        }
        Unreached::Cut => format!(
            "the connection ended before the answer was complete ({detail}); if this persists, check the network between here and GitHub"
        ),
    };
    match proxied {
        Some(proxied) => format!("{text}; the connection goes through the proxy {}", proxied.name()),
        None => text,
    }
}
