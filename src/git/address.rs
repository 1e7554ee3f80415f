//! Checks the addresses of repositories that a tenant writes into `source.url`.
//!
//! The invariant: an [`Address`] is https, carries no credentials, query or fragment, and its host is among the hosts that the
//! operator's administrator allowed. Without it, a tenant who may create a `ProjectRepository` makes the operator send requests
//! from inside the cluster to any host. [`super::reach`] checks the IP addresses to which the host's name resolves.
use std::fmt;

use url::{Host, Url};

use super::reach::{Blocked, Reach};

/// The hosts that hand-written addresses may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHosts {
    patterns: Vec<Pattern>,
    reach: Reach,
}

/// A host with its port, normalized.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: Host<String>,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(Authority),
    /// Any name one label below this one.
    Below(Authority),
}

/// An entry of the allowed hosts is not a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed host {entry:?}: write a host's name, with `*.` before it for every name one label below, and a port where it is not 443"
)]
pub struct AllowedHostsError {
    /// The entry as the administrator wrote it.
    pub entry: String,
}

/// The reason why an address may not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It cannot be parsed. The message does not repeat the text, which may hold credentials.
    #[error("spec.source.url is not an address ({0}); write it in full, like https://git.example.com/team/lib.git")]
    NotAnAddress(url::ParseError),
    /// A scheme other than https.
    #[error("spec.source.url: {0} is not supported; use the repository's https address")]
    NotHttps(String),
    /// A user name or a password.
    #[error(
        "spec.source.url carries a user name or a password; put them into the Secret that credentialsSecretRef names"
    )]
    Credentials,
    /// A query or a fragment.
    #[error("spec.source.url carries a query or a fragment; remove everything from the `?` or the `#` on")]
    Query,
    /// A host without a path.
    #[error("spec.source.url names no repository; write its path behind the host")]
    NoRepository,
    /// A dot at the end of the host, which no certificate has.
    #[error("spec.source.url: the host ends with a dot; remove it")]
    TrailingDot,
    /// The list does not have the host.
    #[error(
        "spec.source.url: {host} is not among the hosts that are allowed here; the operator's administrator can add it"
    )]
    HostNotAllowed {
        /// The host, with its port unless that is 443.
        host: String,
    },
    /// A private or otherwise special IP address.
    #[error(
        "spec.source.url: {host} is an address to which the operator does not connect; private addresses need the permission of the operator's administrator"
    )]
    Blocked {
        /// The host, with its port unless that is 443.
        host: String,
    },
}

impl AllowedHosts {
    /// The hosts in `entries`, whose addresses must be in the networks of `reach`.
    ///
    /// An entry is a name or an IP address, with a port unless that is 443, or `*.` and a name for the names one label below it.
    pub fn parse<S: AsRef<str>>(entries: &[S], reach: Reach) -> Result<Self, AllowedHostsError> {
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
        Ok(Self { patterns, reach })
    }

    /// The networks of allowed hosts, for the transport.
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
            .map_err(|Blocked| AddressError::Blocked { host: authority.to_string() })?;
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

/// An allowed address: the result of [`AllowedHosts::check`].
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

    /// The host, with its port unless that is 443.
    #[must_use]
    pub fn host(&self) -> String {
        self.authority.to_string()
    }

    /// Whether credentials for `host` (with its port unless that is 443) may be sent to this address. Without this check, a
    /// tenant who may write an address, but not read the Secret, could have the Secret sent to another host.
    #[must_use]
    pub fn takes_credentials_for(&self, host: &str) -> bool {
        Authority::parse(host.trim()).is_some_and(|authority| authority == self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 6] = [
        "git.example.com",
        "Forge.Example.com:8443",
        "*.corp.example",
        "*.corp.example:444",
        "bücher.example",
        "10.1.2.3",
    ];

    fn check(reach: Reach, text: &str) -> Result<String, String> {
        let hosts = AllowedHosts::parse(&HOSTS, reach).unwrap();
        hosts.check(text).map(|address| address.url().to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn only_https_to_an_allowed_host_and_nothing_besides_is_taken() {
        for (text, expected) in [
            ("https://git.example.com/team/lib.git", "https://git.example.com/team/lib.git"),
            (" https://GIT.example.com:443/team/lib.git/ ", "https://git.example.com/team/lib.git"),
            ("https://forge.example.com:8443/x", "https://forge.example.com:8443/x"),
            ("https://a.corp.example/x", "https://a.corp.example/x"),
            ("https://a.corp.example:444/x", "https://a.corp.example:444/x"),
            ("https://bücher.example/x", "https://xn--bcher-kva.example/x"),
            ("https://git.example.com/a/../b", "https://git.example.com/b"),
        ] {
            assert_eq!(check(Reach::Public, text).as_deref(), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("git.example.com/x", "is not an address"),
            ("git@git.example.com:x", "is not an address"),
            ("", "is not an address"),
            ("https://", "is not an address"),
            ("https://git.example.com:99999/x", "is not an address"),
            ("http://git.example.com/x", "http is not supported"),
            ("ssh://git@git.example.com/x", "ssh is not supported"),
            ("file:///etc/passwd", "file is not supported"),
            ("https://me@git.example.com/x", "a user name or a password"),
            ("https://:p@git.example.com/x", "a user name or a password"),
            ("https://git.example.com/x?a", "a query or a fragment"),
            ("https://git.example.com/x#a", "a query or a fragment"),
            ("https://git.example.com", "names no repository"),
            ("https://git.example.com//", "names no repository"),
            ("https://git.example.com./x", "ends with a dot"),
            ("https://localhost./x", "ends with a dot"),
            ("https://localhost/x", "not among the hosts"),
            ("https://git.example.com:8443/x", "git.example.com:8443 is not among the hosts"),
            ("https://forge.example.com/x", "not among the hosts"),
            ("https://corp.example/x", "not among the hosts"),
            ("https://a.b.corp.example/x", "not among the hosts"),
            ("https://xcorp.example/x", "not among the hosts"),
            ("https://git.example.com.evil.example/x", "not among the hosts"),
            ("https://evil.example\\@git.example.com/x", "not among the hosts"),
            ("https://metadata.google.internal/x", "not among the hosts"),
        ] {
            let refused = check(Reach::Public, text).unwrap_err();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
        let refused = check(Reach::Public, "https://me:hunter2@[x/").unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
        assert_eq!(
            AllowedHosts::parse::<&str>(&[], Reach::Private).unwrap().check("https://git.example.com/x"),
            Err(AddressError::HostNotAllowed { host: "git.example.com".into() })
        );
    }

    #[test]
    fn an_address_in_numbers_is_one_however_it_is_spelt() {
        // Allowed by name, so that the check of the address refuses it.
        let spellings = [
            ("127.0.0.1", "127.1"),
            ("127.0.0.1", "0x7f.1"),
            ("127.0.0.1", "2130706433"),
            ("127.0.0.1", "0177.0.0.1"),
            ("127.0.0.1", "１２７.0.0.1"),
            ("10.0.0.1", "10.1"),
            ("169.254.169.254", "169.254.169.254"),
            ("169.254.169.254", "0xa9fea9fe"),
            ("0.0.0.0", "0"),
            ("[::1]", "[0:0:0:0:0:0:0:1]"),
            ("[::ffff:10.0.0.1]", "[::ffff:a00:1]"),
            ("[::ffff:a9fe:a9fe]", "[::ffff:169.254.169.254]"),
            ("[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]"),
            ("[fd00:ec2::254]", "[fd00:ec2:0::254]"),
        ];
        for (allowed, written) in spellings {
            let hosts = AllowedHosts::parse(&[allowed], Reach::Public).unwrap();
            let checked = hosts.check(&format!("https://{written}/x"));
            assert!(matches!(checked, Err(AddressError::Blocked { .. })), "{written}: {checked:?}");
        }
        assert!(
            check(Reach::Public, "https://10.1.2.3/x")
                .unwrap_err()
                .contains("10.1.2.3 is an address to which the operator does not connect")
        );
        assert_eq!(check(Reach::Private, "https://10.66051/x").as_deref(), Ok("https://10.1.2.3/x"));
        let metadata = AllowedHosts::parse(&["169.254.169.254"], Reach::Private).unwrap();
        assert!(matches!(metadata.check("https://169.254.169.254/x"), Err(AddressError::Blocked { .. })));
    }

    #[test]
    fn credentials_are_for_one_host() {
        let hosts = AllowedHosts::parse(&HOSTS, Reach::Public).unwrap();
        let plain = hosts.check("https://git.example.com/x").unwrap();
        let port = hosts.check("https://forge.example.com:8443/x").unwrap();
        assert_eq!((plain.host().as_str(), port.host().as_str()), ("git.example.com", "forge.example.com:8443"));
        for host in ["git.example.com", "GIT.example.COM", "git.example.com:443", " git.example.com\n"] {
            assert!(plain.takes_credentials_for(host), "{host:?}");
        }
        for host in [
            "",
            "*",
            "*.example.com",
            "example.com",
            "git.example.com:8443",
            "git.example.com.",
            "git.example.com/x",
            "https://git.example.com",
            "x@git.example.com",
            "git.example.com\ngit.example.com",
            "a.git.example.com",
        ] {
            assert!(!plain.takes_credentials_for(host), "{host:?}");
        }
        assert!(port.takes_credentials_for("Forge.example.com:8443"));
        assert!(!port.takes_credentials_for("forge.example.com"));
    }

    #[test]
    fn an_entry_that_is_no_host_is_refused() {
        for entry in [
            "",
            "*",
            "*.",
            "https://git.example.com",
            "git.example.com/x",
            "a@b",
            "a b",
            "*.10.0.0.1",
            "a.*.b",
            "a:b",
            "a.",
            "*.*.example.com",
            "**.example.com",
            "a#b",
            "a?b",
        ] {
            assert_eq!(
                AllowedHosts::parse(&[entry], Reach::Public),
                Err(AllowedHostsError { entry: entry.into() }),
                "{entry}"
            );
        }
    }
}
