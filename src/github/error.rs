//! What can go wrong in a call to GitHub, in the terms in which the controllers act on it.
//!
//! The invariant: a message names the host, the route by its template, what happened and what to do; it never holds a secret,
//! a header, or more of a response than GitHub's own `message`, cut and redacted. [`Error::outlook`] is the only place that
//! says whether trying again helps: nothing below the controllers repeats a call, for they have the one queue of due times.
use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

pub use super::transport::Unreached;

/// What a call is, in words with few values: fit for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The HTTP method.
    pub method: &'static str,
    /// The path with names for what varies, as GitHub's documentation writes it.
    pub template: &'static str,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.template)
    }
}

/// Which call to whom.
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

/// Whether, and when, the same call may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It passes by itself: try again with growing distance.
    Passes,
    /// Not before this time.
    Waits(Timestamp),
    /// A person has to change something first.
    Stalls,
}

/// A call to GitHub that did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// 401 to the App's JWT, by the current and the next key.
    #[error("{target}: GitHub refused the App's credentials: {message}; {}", credentials_remedy(*skew))]
    CredentialsRefused {
        /// The call.
        target: Target,
        /// What GitHub says.
        message: String,
        /// By how much the clock here is ahead of GitHub's, where that is more than a minute.
        skew: Option<SignedDuration>,
    },
    /// 401 to an installation token: expired, revoked, or so fresh that not all of GitHub knows it.
    #[error("{target}: GitHub refused the installation token: {message}; a fresh one is minted")]
    TokenRefused {
        /// The call.
        target: Target,
        /// What GitHub says.
        message: String,
    },
    /// 404 or 410: it does not exist, or these credentials may not know of it.
    #[error("{target}: {message}; it does not exist, or the App has no access to it")]
    NotFound {
        /// The call.
        target: Target,
        /// What GitHub says.
        message: String,
    },
    /// 403: the installation is suspended.
    #[error("{target}: {message}; who suspended it can lift that in the account's settings under GitHub Apps")]
    Suspended {
        /// The call.
        target: Target,
        /// What GitHub says.
        message: String,
    },
    /// 403 or 451 that is no rate limit: the credentials are good, and not for this.
    #[error(
        "{target}: GitHub forbids it: {message}; check the App's permissions, that the account has accepted them, and the account's policies"
    )]
    Forbidden {
        /// The call.
        target: Target,
        /// What GitHub says.
        message: String,
    },
    /// 403: the repository is archived, and what was asked for would change it.
    #[error("{target}: the repository is archived ({message}); who administers it can unarchive it in its settings")]
    Archived {
        /// The call.
        target: Target,
        /// What GitHub says.
        message: String,
    },
    /// 409: it does not go together with how things are now: a merge conflict, an empty repository, a fork that is not ready.
    #[error("{target}: GitHub cannot do it as things are: {message}")]
    Conflict {
        /// The call.
        target: Target,
        /// What GitHub says.
        message: String,
    },
    /// 307 or 308 to what would change a repository: its name has come to stand for another address. Not followed, for what
    /// is to be changed is the repository with a certain id: look up its name by the id and ask again.
    #[error("{target}: the repository was renamed or transferred; it is looked up by its id again")]
    Moved {
        /// The call.
        target: Target,
    },
    /// 422: GitHub understood the request and will not do it.
    #[error("{target}: GitHub cannot do it: {}", with_details(message, errors))]
    Unprocessable {
        /// The call.
        target: Target,
        /// What GitHub says.
        message: String,
        /// The errors that GitHub names, at most five.
        errors: Vec<FieldError>,
    },
    /// GitHub said to stop for a while; until then further calls with the same credentials are refused here.
    #[error("{target}: {} of GitHub reached; calls go on at {until}", if *secondary { "a secondary rate limit" } else { "the rate limit" })]
    RateLimited {
        /// The call.
        target: Target,
        /// When calls may go on.
        until: Timestamp,
        /// Too much at once, rather than the hour's budget.
        secondary: bool,
    },
    /// No whole answer came.
    #[error("{target}: {}", unreached(*reason, source.as_ref()))]
    Unreachable {
        /// The call.
        target: Target,
        /// Why, as far as the remedy depends on it.
        reason: Unreached,
        /// What the network says.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// 5xx or 408: GitHub has trouble.
    #[error("{target}: GitHub has trouble and answered {status}; see https://www.githubstatus.com if it stays")]
    Server {
        /// The call.
        target: Target,
        /// The status code.
        status: u16,
    },
    /// Any other refusal.
    #[error("{target}: GitHub answered {status}: {message}")]
    Refused {
        /// The call.
        target: Target,
        /// The status code.
        status: u16,
        /// What GitHub says.
        message: String,
    },
    /// The answer is none that GitHub's API gives.
    #[error("{target}: {what}; check that spec.apiURL is GitHub's API and that no proxy answers in its place")]
    Malformed {
        /// The call.
        target: Target,
        /// What is wrong with it.
        what: String,
    },
    /// What was asked for would mean something else than it says, so it was not sent.
    #[error("{target}: not sent: {what}")]
    Unsent {
        /// The call.
        target: Target,
        /// Why.
        what: String,
    },
}

impl Error {
    /// Whether, and when, the same call may succeed.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::RateLimited { until, .. } => Outlook::Waits(*until),
            Self::TokenRefused { .. } | Self::Conflict { .. } | Self::Moved { .. } | Self::Server { .. } => {
                Outlook::Passes
            }
            Self::Unreachable { reason, .. } => match reason {
                Unreached::NotConnected | Unreached::TimedOut | Unreached::Cut => Outlook::Passes,
                Unreached::Untrusted | Unreached::BadCertificate => Outlook::Stalls,
            },
            Self::CredentialsRefused { .. }
            | Self::NotFound { .. }
            | Self::Suspended { .. }
            | Self::Forbidden { .. }
            | Self::Archived { .. }
            | Self::Unprocessable { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. }
            | Self::Unsent { .. } => Outlook::Stalls,
        }
    }
}

fn credentials_remedy(skew: Option<SignedDuration>) -> String {
    match skew {
        Some(skew) => format!(
            "the clock here is {} s {} GitHub's: set it right, for the JWT carries times",
            skew.abs().as_secs(),
            if skew.is_negative() { "behind" } else { "ahead of" }
        ),
        None => "check that spec.appID or spec.clientID and private-key.pem belong to the same App, and that the key was not deleted in the App's settings".into(),
    }
}

/// One of the `errors` of a 422; what GitHub leaves out is empty. All of it is redacted and cut.
/// <https://docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api#validation-failed>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldError {
    /// The kind of object, for example `PullRequest`.
    pub resource: String,
    /// The field of that object.
    pub field: String,
    /// The error, in one of GitHub's words: `missing`, `missing_field`, `invalid`, `already_exists`, `unprocessable`, or
    /// `custom`, of which only the message tells more.
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
    match reason {
        Unreached::NotConnected => {
            format!("no connection ({detail}); check spec.apiURL, DNS and the network policies")
        }
        Unreached::Untrusted => {
            format!(
                "the certificate is signed by an authority that is not trusted here ({detail}); put that authority's certificate into spec.caBundle"
            )
        }
        Unreached::BadCertificate => format!(
            "the certificate is not good for this host ({detail}); check spec.apiURL and the certificate GitHub's host presents"
        ),
        Unreached::TimedOut => "no whole answer in time; if it stays, check the network on the way".into(),
        Unreached::Cut => format!(
            "the connection ended before the answer was here ({detail}); if it stays, check the network on the way"
        ),
    }
}
