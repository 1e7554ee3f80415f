//! The errors of a question to a remote, classified by the controllers' reaction.
//!
//! The invariant: a message names the remote, the event and the remedy. It never holds credentials, and quotes a server in one
//! bounded, redacted line. [`Error::outlook`] alone decides whether a retry helps.
use std::sync::Arc;

use jiff::Timestamp;

use super::branch::BranchError;
use super::ls_refs::AnswerError;
use crate::github::redact::shown;
use crate::github::transport::deeper;
use crate::github::tunnel::Proxied;
use crate::github::{Block, Outlook, Unreached};

/// The reason why a remote gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The requested name is invalid, so nothing was sent.
    #[error("{remote}: {source}; write the name of a branch as git accepts it")]
    Branch {
        /// The repository's address.
        remote: String,
        /// The rule that it breaks.
        #[source]
        source: BranchError,
    },
    /// 404 or 410, or 401 to a request without credentials: it does not exist, or the credentials have no access.
    #[error("{remote}: there is no such repository, or these credentials may not know of it ({message})")]
    NotFound {
        /// The repository's address.
        remote: String,
        message: String,
    },
    /// 401 to these credentials: expired, revoked, wrong, or so new that parts of GitHub do not know them yet.
    #[error("{remote}: the credentials were refused ({message})")]
    CredentialsRefused {
        /// The repository's address.
        remote: String,
        message: String,
    },
    /// 403 or 451: the credentials are valid, but do not permit this.
    #[error("{remote}: reading it is forbidden ({message}); it takes the permission contents: read")]
    Forbidden {
        /// The repository's address.
        remote: String,
        message: String,
    },
    /// 403 or 451 that no permission changes: single sign-on, an IP allow list, a bill, a lock.
    #[error("{remote}: {message}; {block}")]
    Blocked {
        /// The repository's address.
        remote: String,
        message: String,
        block: Block,
    },
    /// A redirect that is not followed: a token for one repository goes to no other, and credentials for one host to no other.
    #[error("{remote}: it has moved{}; it is not followed there", to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default())]
    Moved {
        /// The repository's address.
        remote: String,
        /// The target, as the server names it. For display only.
        to: Option<String>,
    },
    /// 429, or a 403 that names a wait or a rate limit.
    #[error("{remote}: too many requests; it is asked again at {until}")]
    RateLimited {
        /// The repository's address.
        remote: String,
        until: Timestamp,
    },
    /// The host is, or its name resolves to, an address to which the operator must not connect. The message does not
    /// contain the address, so that the author of the host's name cannot probe the cluster's DNS.
    #[error(
        "{remote}: its host has no address to which the operator may connect; private addresses need the permission of the operator's administrator"
    )]
    AddressRefused {
        /// The repository's address.
        remote: String,
    },
    /// No complete answer arrived.
    #[error("{remote}: {}", unreached(*reason, source.as_ref()))]
    Unreachable {
        /// The repository's address.
        remote: String,
        /// The reason, as far as the remedy depends on it.
        reason: Unreached,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// 5xx or 408.
    #[error("{remote}: the server failed with {status}")]
    Server {
        /// The repository's address.
        remote: String,
        /// The status code.
        status: u16,
    },
    /// Any other status, or git's own refusal.
    #[error("{remote}: the server refused: {message}")]
    Refused {
        /// The repository's address.
        remote: String,
        message: String,
    },
    /// The answer is not a git server's.
    #[error(
        "{remote}: {source}; check that it is the address of a repository on a server that speaks git's smart HTTP"
    )]
    Protocol {
        /// The repository's address.
        remote: String,
        #[source]
        source: AnswerError,
    },
}

impl Error {
    /// Whether, and when, a retry may succeed.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::RateLimited { until, .. } => Outlook::Waits(*until),
            Self::CredentialsRefused { .. }
            | Self::Server { .. }
            | Self::Protocol { source: AnswerError::Cut, .. }
            | Self::Blocked { block: Block::Locked, .. } => Outlook::Passes,
            Self::Unreachable { reason, .. } => match reason {
                Unreached::NotConnected | Unreached::TimedOut | Unreached::Cut => Outlook::Passes,
                Unreached::Untrusted | Unreached::BadCertificate => Outlook::Stalls,
            },
            Self::Branch { .. }
            | Self::NotFound { .. }
            | Self::Forbidden { .. }
            | Self::Blocked { .. }
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
    let proxied = Proxied::find(source);
    let text = match reason {
        Unreached::NotConnected => {
            return match proxied {
                Some(proxied) => proxied.no_connection(&detail),
                None => format!("no connection ({detail}); check the host, DNS and the network policies"),
            };
        }
        Unreached::Untrusted => {
            format!("the certificate is signed by an authority that is not trusted here ({detail})")
        }
        Unreached::BadCertificate => format!("the certificate is not good for this host ({detail})"),
        Unreached::TimedOut => {
            "no complete answer in time; if this persists, check the network between here and the host".into()
        }
        Unreached::Cut => format!(
            "the connection ended before the answer was complete ({detail}); if this persists, check the network between here and the host"
        ),
    };
    match proxied {
        Some(proxied) => format!("{text}; the connection goes through the proxy {}", proxied.name()),
        None => text,
    }
}
