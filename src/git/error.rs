//! Why a remote could not be asked, in the terms in which the controllers act on it.
//!
//! The invariant: a message names the remote, what happened and what to do; it never holds credentials, and of what a server
//! says only a bounded line, from which they are cut. [`Error::outlook`] alone says whether trying again helps.
use std::sync::Arc;

use jiff::Timestamp;

use super::branch::BranchError;
use super::ls_refs::AnswerError;
use crate::github::redact::shown;
use crate::github::transport::deeper;
use crate::github::{Outlook, Unreached};

/// A question to a remote that got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The branch that was asked for can be none; nothing was sent.
    #[error("{remote}: {source}; write the name of a branch as git takes it")]
    Branch {
        /// The repository's address.
        remote: String,
        /// Which rule it breaks.
        #[source]
        source: BranchError,
    },
    /// 404 or 410, or 401 to a request without credentials: it does not exist, or not for whoever asks.
    #[error("{remote}: there is no such repository, or these credentials may not know of it ({message})")]
    NotFound {
        /// The repository's address.
        remote: String,
        /// What the server says.
        message: String,
    },
    /// 401 to these credentials: expired, revoked, wrong, or so fresh that not all of GitHub knows them.
    #[error("{remote}: the credentials were refused ({message})")]
    CredentialsRefused {
        /// The repository's address.
        remote: String,
        /// What the server says.
        message: String,
    },
    /// 403 or 451: the credentials are good, and not for this.
    #[error("{remote}: reading it is forbidden ({message}); it takes the permission contents: read")]
    Forbidden {
        /// The repository's address.
        remote: String,
        /// What the server says.
        message: String,
    },
    /// A redirect, which is never followed: credentials go nowhere but to the address they were meant for.
    #[error("{remote}: it has moved{}; it is not followed there", to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default())]
    Moved {
        /// The repository's address.
        remote: String,
        /// Where to, as the server says: to be shown, not to be believed.
        to: Option<String>,
    },
    /// 429, or a 403 that says when to come again.
    #[error("{remote}: too many requests; it is asked again at {until}")]
    RateLimited {
        /// The repository's address.
        remote: String,
        /// When.
        until: Timestamp,
    },
    /// The host is, or its name leads to, an address that must not be connected to. Which one is not said: whoever wrote the
    /// host's name shall not learn from this what is behind it.
    #[error("{remote}: its host has no address that may be connected to; private addresses need leave")]
    AddressRefused {
        /// The repository's address.
        remote: String,
    },
    /// No whole answer came.
    #[error("{remote}: {}", unreached(*reason, source.as_ref()))]
    Unreachable {
        /// The repository's address.
        remote: String,
        /// Why, as far as the remedy depends on it.
        reason: Unreached,
        /// What the network says.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// 5xx or 408: the server has trouble.
    #[error("{remote}: the server has trouble and answered {status}")]
    Server {
        /// The repository's address.
        remote: String,
        /// The status code.
        status: u16,
    },
    /// Any other status, or git's own word of refusal.
    #[error("{remote}: the server refused: {message}")]
    Refused {
        /// The repository's address.
        remote: String,
        /// What it says.
        message: String,
    },
    /// The answer is not one of git's, or of its protocol before version 2.
    #[error("{remote}: {source}; check that it is the address of a repository on a server with git 2.18 or later")]
    Protocol {
        /// The repository's address.
        remote: String,
        /// What is wrong with it.
        #[source]
        source: AnswerError,
    },
}

impl Error {
    /// Whether, and when, the same question may be answered.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::RateLimited { until, .. } => Outlook::Waits(*until),
            Self::CredentialsRefused { .. } | Self::Server { .. } | Self::Protocol { source: AnswerError::Cut, .. } => {
                Outlook::Passes
            }
            Self::Unreachable { reason, .. } => match reason {
                Unreached::NotConnected | Unreached::TimedOut | Unreached::Cut => Outlook::Passes,
                Unreached::Untrusted | Unreached::BadCertificate => Outlook::Stalls,
            },
            Self::Branch { .. }
            | Self::NotFound { .. }
            | Self::Forbidden { .. }
            | Self::Moved { .. }
            | Self::AddressRefused { .. }
            | Self::Refused { .. }
            | Self::Protocol { .. } => Outlook::Stalls,
        }
    }
}

fn unreached(reason: Unreached, source: &(dyn std::error::Error + 'static)) -> String {
    let mut root = source;
    while let Some(deeper) = deeper(root) {
        root = deeper;
    }
    let detail = shown(&root.to_string());
    match reason {
        Unreached::NotConnected => format!("no connection ({detail}); check the host, DNS and the network policies"),
        Unreached::Untrusted => {
            format!("the certificate is signed by an authority that is not trusted here ({detail})")
        }
        Unreached::BadCertificate => format!("the certificate is not good for this host ({detail})"),
        Unreached::TimedOut => "no whole answer in time; if it stays, check the network on the way".into(),
        Unreached::Cut => format!(
            "the connection ended before the answer was here ({detail}); if it stays, check the network on the way"
        ),
    }
}
