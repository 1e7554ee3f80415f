//! Which addresses of repositories a tenant may write into `source.url`.
//!
//! The invariant: an [`Address`] is https, carries no credentials, query or fragment, and its host is one that whoever runs
//! the operator allowed. Without it, whoever may create a `ProjectRepository` makes the operator send requests from inside
//! the cluster to wherever they like. What the host's name leads to is held to account by [`super::reach`].
use std::fmt;

use url::{Host, Url};

use super::reach::{Barred, Reach};

/// What may be connected to by hand-written addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHosts {
    patterns: Vec<Pattern>,
    reach: Reach,
}

/// A host with its port, in the one spelling in which they are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: Host<String>,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(Authority),
    /// One label, and then this.
    Below(Authority),
}

/// An entry of the allowed hosts that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed host {entry:?}: write a host's name, with `*.` before it for every name one label below, and a port where it is not 443"
)]
pub struct AllowedHostsError {
    /// As it was written.
    pub entry: String,
}

/// Why an address may not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It cannot be read. The text itself is not repeated: it may hold credentials that could not be told apart.
    #[error("spec.source.url is not an address ({0}); write it in full, like https://git.example.com/team/lib.git")]
    NotAnAddress(url::ParseError),
    /// ssh, git, http, file: nothing but https is spoken.
    #[error("spec.source.url: {0} is not spoken here; use the repository's https address")]
    NotHttps(String),
    /// A user name or a password.
    #[error("spec.source.url carries a user name or a password; put them into the Secret that credentialsSecret names")]
    Credentials,
    /// A query or a fragment.
    #[error("spec.source.url carries a query or a fragment; remove everything from the `?` or the `#` on")]
    Query,
    /// Only a host.
    #[error("spec.source.url names no repository; write its path behind the host")]
    NoRepository,
    /// A dot at the end of the host, for which certificates are not made.
    #[error("spec.source.url: the host ends with a dot; remove it")]
    TrailingDot,
    /// Not in the list.
    #[error(
        "spec.source.url: {host} is not among the hosts that are allowed here; whoever runs the operator can add it"
    )]
    HostNotAllowed {
        /// The host, with its port where that is not 443.
        host: String,
    },
    /// A private or otherwise special IP address.
    #[error(
        "spec.source.url: {host} is not an address that may be connected to; private addresses need leave of whoever runs the operator"
    )]
    Barred {
        /// The host, with its port where that is not 443.
        host: String,
    },
}

impl AllowedHosts {
    /// The hosts in `entries`; no entry, no host. With `allow_private` they may be in private networks.
    ///
    /// An entry is a name or an IP address, a port behind it where that is not 443, `*.` before it for the names one label
    /// below it.
    pub fn parse<S: AsRef<str>>(entries: &[S], allow_private: bool) -> Result<Self, AllowedHostsError> {
        let pattern = |entry: &S| {
            let entry = entry.as_ref();
            let pattern = match entry.strip_prefix("*.") {
                Some(parent) => Authority::parse(parent)
                    .filter(|authority| matches!(authority.host, Host::Domain(_)))
                    .map(Pattern::Below),
                None => Authority::parse(entry).map(Pattern::Exactly),
            };
            pattern.ok_or_else(|| AllowedHostsError { entry: entry.to_owned() })
        };
        let patterns = entries.iter().map(pattern).collect::<Result<_, _>>()?;
        Ok(Self { patterns, reach: if allow_private { Reach::Private } else { Reach::Public } })
    }

    /// How far a connection to an allowed host may go: what the transport is to be made with.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Reads and checks an address.
    pub fn check(&self, text: &str) -> Result<Address, AddressError> {
        let url = Url::parse(text.trim()).map_err(AddressError::NotAnAddress)?;
        if url.scheme() != "https" {
            return Err(AddressError::NotHttps(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(AddressError::Query);
        }
        let authority = Authority::of(&url).ok_or(AddressError::NotAnAddress(url::ParseError::EmptyHost))?;
        if matches!(&authority.host, Host::Domain(name) if name.ends_with('.')) {
            return Err(AddressError::TrailingDot);
        }
        if !self.patterns.iter().any(|pattern| pattern.matches(&authority)) {
            return Err(AddressError::HostNotAllowed { host: authority.to_string() });
        }
        self.reach
            .check_host(&authority.host.to_string())
            .map_err(|Barred| AddressError::Barred { host: authority.to_string() })?;
        let path = url.path().trim_end_matches('/').to_owned();
        if path.is_empty() {
            return Err(AddressError::NoRepository);
        }
        let mut url = url;
        url.set_path(&path);
        Ok(Address { url, authority })
    }
}

impl Pattern {
    fn matches(&self, authority: &Authority) -> bool {
        match (self, &authority.host) {
            (Self::Exactly(allowed), _) => allowed == authority,
            (Self::Below(Authority { host: Host::Domain(parent), port }), Host::Domain(name)) => {
                *port == authority.port
                    && name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            }
            (Self::Below(_), _) => false,
        }
    }
}

impl Authority {
    fn of(url: &Url) -> Option<Self> {
        Some(Self { host: url.host()?.to_owned(), port: url.port_or_known_default()? })
    }

    /// A host with or without a port, and nothing else.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.contains(['/', '\\', '?', '#', '@', '*']) || text.contains(char::is_whitespace) {
            return None;
        }
        let authority = Self::of(&Url::parse(&format!("https://{text}/")).ok()?)?;
        (!matches!(&authority.host, Host::Domain(name) if name.ends_with('.'))).then_some(authority)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        if self.port == 443 { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// An address that may be asked: the outcome of [`AllowedHosts::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    url: Url,
    authority: Authority,
}

impl Address {
    /// The address, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The host, with its port where that is not 443.
    #[must_use]
    pub fn host(&self) -> String {
        self.authority.to_string()
    }

    /// Whether credentials that are for `host` (a host, with its port where that is not 443) are for this address. Without
    /// that, a Secret for one host could be sent to another by whoever may write an address, but not read the Secret.
    #[must_use]
    pub fn takes_credentials_for(&self, host: &str) -> bool {
        Authority::parse(host.trim()).is_some_and(|authority| authority == self.authority)
    }
}
