//! The HTTP proxy that the environment names, for connections over TLS.
//!
//! Owns the reading of `HTTPS_PROXY` and `NO_PROXY` and the choice between the proxy and a direct connection. The invariant: the
//! user and the password of a proxy's address go to that proxy alone. Messages and pods get [`Hop::name`] and [`PodProxy`], which
//! have neither.
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

/// The variables that name the proxy; the first that is not empty counts.
pub const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The variables that name the hosts to which connections are direct.
pub const EXCEPTION_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy, if there is one, and the hosts that are exempt from it.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    proxy: Option<Proxy>,
    exceptions: Option<String>,
}

#[derive(Clone)]
struct Proxy {
    matcher: Arc<Matcher>,
    variable: &'static str,
    /// Host and port.
    name: Arc<str>,
    /// The address with its credentials.
    address: Uri,
    credentials: Credentials,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credentials {
    None,
    InAddress,
}

/// A proxy on the way to a host.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The address to connect to, without credentials.
    pub(super) uri: Uri,
    /// The header `Proxy-Authorization`.
    pub(super) authorization: Option<HeaderValue>,
    /// Host and port, for messages.
    pub(super) name: Arc<str>,
    /// The variable that names it.
    pub(super) variable: &'static str,
}

/// The proxy as the pods of workspaces get it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodProxy {
    /// `http://HOST:PORT`. None also for a proxy that takes credentials, because everybody who reads a pod would see them.
    pub address: Option<String>,
    /// The hosts that are exempt.
    pub exceptions: Option<String>,
}

/// A variable names no proxy that Landfall can use. The message does not repeat the value, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxiesError {
    /// A scheme other than http.
    #[error("{0} names a proxy that is not an http proxy; write its address as http://HOST:PORT, or unset {0}")]
    Scheme(&'static str),
    /// The value cannot be parsed.
    #[error(
        "{0} holds no address of a proxy; write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with percent-encoding for special characters in user and password"
    )]
    NotAnAddress(&'static str),
}

impl Proxies {
    /// Reads the environment of this process.
    pub fn from_env() -> Result<Self, ProxiesError> {
        Self::read(|name| std::env::var_os(name))
    }

    /// Reads variables.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ProxiesError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let exceptions = EXCEPTION_VARIABLES.into_iter().find_map(set);
        let exceptions = exceptions.map(|value| value.to_string_lossy().trim().to_owned());
        let proxy = PROXY_VARIABLES.into_iter().find_map(|name| Some((name, set(name)?)));
        let proxy = proxy.map(|(name, value)| {
            let value = value.to_str().ok_or(ProxiesError::NotAnAddress(name))?;
            Proxy::parse(name, value.trim(), exceptions.as_deref().unwrap_or_default())
        });
        Ok(Self { proxy: proxy.transpose()?, exceptions })
    }

    /// The proxy on the way to `destination`; none for a direct connection. Plain http has none: it is for loopback.
    #[must_use]
    pub fn toward(&self, destination: &Uri) -> Option<Hop> {
        let Proxy { matcher, variable, name, .. } = self.proxy.as_ref()?;
        let found = matcher.intercept(destination)?;
        let authorization = found.basic_auth().cloned();
        Some(Hop { uri: found.uri().clone(), authorization, name: Arc::clone(name), variable })
    }

    /// The address of that proxy with its credentials.
    #[must_use]
    pub fn address_toward(&self, destination: &Uri) -> Option<Uri> {
        self.toward(destination)?;
        Some(self.proxy.as_ref()?.address.clone())
    }

    /// The proxy as pods get it.
    #[must_use]
    pub fn for_pods(&self) -> PodProxy {
        let open = self.proxy.as_ref().filter(|proxy| proxy.credentials == Credentials::None);
        PodProxy { address: open.map(|proxy| format!("http://{}", proxy.name)), exceptions: self.exceptions.clone() }
    }

    /// The variable whose proxy pods do not get, because its address has credentials.
    #[must_use]
    pub fn withheld(&self) -> Option<&'static str> {
        let proxy = self.proxy.as_ref().filter(|proxy| proxy.credentials == Credentials::InAddress);
        proxy.map(|proxy| proxy.variable)
    }
}

impl Proxy {
    fn parse(variable: &'static str, value: &str, exceptions: &str) -> Result<Self, ProxiesError> {
        let not_an_address = ProxiesError::NotAnAddress(variable);
        let whole = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        let url = Url::parse(&whole).map_err(|_| not_an_address)?;
        if url.scheme() != "http" {
            return Err(ProxiesError::Scheme(variable));
        }
        // An unescaped `/`, `?` or `#` in a password would make the user the host.
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(not_an_address);
        }
        let host = url.host_str().ok_or(not_an_address)?;
        let name = format!("{host}:{}", url.port_or_known_default().ok_or(not_an_address)?);
        let (user, password) = (url.username(), url.password());
        let (address, credentials) = match (user, password) {
            ("", None) => (format!("http://{name}/"), Credentials::None),
            (user, None) => (format!("http://{user}@{name}/"), Credentials::InAddress),
            (user, Some(password)) => (format!("http://{user}:{password}@{name}/"), Credentials::InAddress),
        };
        let matcher = |exceptions: &str| Matcher::builder().https(address.as_str()).no(exceptions).build();
        // A matcher ignores an address that it cannot read, and every connection would be direct.
        matcher("").intercept(&Uri::from_static("https://github.com")).ok_or(not_an_address)?;
        Ok(Self {
            matcher: Arc::new(matcher(exceptions)),
            variable,
            name: name.into(),
            address: address.parse().map_err(|_| not_an_address)?,
            credentials,
        })
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("variable", &self.variable).field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "hunter2";

    fn read(variables: &[(&str, &str)]) -> Result<Proxies, ProxiesError> {
        Proxies::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    fn hop(variables: &[(&str, &str)], destination: &'static str) -> Option<String> {
        let hop = read(variables).unwrap().toward(&Uri::from_static(destination))?;
        assert!(!format!("{hop:?}").contains(PASSWORD));
        let authorization = hop.authorization.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        Some(format!("{} {} {} {authorization}", hop.variable, hop.name, hop.uri).trim_end().to_owned())
    }

    #[test]
    fn a_proxy_is_for_https_and_not_for_the_hosts_that_are_exempt() {
        let github = "https://api.github.com/app";
        assert_eq!(hop(&[], github), None);
        assert_eq!(hop(&[("HTTPS_PROXY", ""), ("NO_PROXY", "x")], github), None);
        for (value, expected) in [
            ("http://proxy.example:3128", "HTTPS_PROXY proxy.example:3128 http://proxy.example:3128/"),
            (" proxy.example:3128/ ", "HTTPS_PROXY proxy.example:3128 http://proxy.example:3128/"),
            ("HTTP://10.0.0.1", "HTTPS_PROXY 10.0.0.1:80 http://10.0.0.1:80/"),
            ("http://[fd00::1]:8080", "HTTPS_PROXY [fd00::1]:8080 http://[fd00::1]:8080/"),
            ("http://me:a%40b@h:1", "HTTPS_PROXY h:1 http://h:1/ Basic bWU6YUBi"),
        ] {
            assert_eq!(hop(&[("HTTPS_PROXY", value)], github).as_deref(), Some(expected), "{value}");
        }
        let names = [("all_proxy", "d:1"), ("ALL_PROXY", "c:1"), ("https_proxy", "b:1"), ("HTTPS_PROXY", "a:1")];
        for (count, expected) in
            [(1, "all_proxy d:1"), (2, "ALL_PROXY c:1"), (3, "https_proxy b:1"), (4, "HTTPS_PROXY a:1")]
        {
            assert!(hop(&names[..count], github).unwrap().starts_with(expected), "{expected}");
        }
        let proxy = ("HTTPS_PROXY", "http://proxy.example:3128");
        for (exempt, destination, expected) in [
            (".svc,10.0.0.0/8", "https://git.team.svc/x", false),
            (".svc,10.0.0.0/8", "https://10.1.2.3/x", false),
            (".svc,10.0.0.0/8", "https://11.1.2.3/x", true),
            ("github.com", "https://api.github.com", false),
            ("github.com", "https://notgithub.com", true),
            ("*", "https://api.github.com", false),
            ("::1", "https://[::1]:1/", false),
            ("", "http://127.0.0.1:1/", false),
        ] {
            let is_proxied = hop(&[proxy, ("no_proxy", exempt)], destination).is_some();
            assert_eq!(is_proxied, expected, "{exempt} {destination}");
        }
    }

    #[test]
    fn a_proxy_of_another_kind_is_refused_without_its_value() {
        for (value, expected) in [
            ("https://me:hunter2@h:1", ProxiesError::Scheme("https_proxy")),
            ("socks5://me:hunter2@h:1", ProxiesError::Scheme("https_proxy")),
            ("http://me:hunter2@h:port", ProxiesError::NotAnAddress("https_proxy")),
            ("http://me:1/hunter2@h:1", ProxiesError::NotAnAddress("https_proxy")),
            ("http://me:1#hunter2@h:1", ProxiesError::NotAnAddress("https_proxy")),
            ("http://me:1?hunter2@h:1", ProxiesError::NotAnAddress("https_proxy")),
            ("http://", ProxiesError::NotAnAddress("https_proxy")),
        ] {
            let error = read(&[("https_proxy", value)]).unwrap_err();
            assert_eq!(error, expected, "{value}");
            let text = error.to_string();
            assert!(text.contains("https_proxy") && text.contains("write it"), "{text}");
            assert!(!text.contains(PASSWORD) && !format!("{error:?}").contains(PASSWORD), "{text}");
        }
    }

    #[test]
    fn credentials_of_a_proxy_go_to_no_pod_and_no_debug_text() {
        let exempt = ("NO_PROXY", ".svc");
        let open = read(&[("https_proxy", "proxy.example:3128"), exempt]).unwrap();
        let expected = PodProxy { address: Some("http://proxy.example:3128".into()), exceptions: Some(".svc".into()) };
        assert_eq!((open.for_pods(), open.withheld()), (expected, None));
        let guarded = read(&[("HTTPS_PROXY", "http://me:hunter2@proxy.example:3128"), exempt]).unwrap();
        let expected = PodProxy { address: None, exceptions: Some(".svc".into()) };
        assert_eq!((guarded.for_pods(), guarded.withheld()), (expected, Some("HTTPS_PROXY")));
        assert!(!format!("{guarded:?}").contains(PASSWORD), "{guarded:?}");
        let cluster = Uri::from_static("https://k8s.example:6443");
        assert_eq!(guarded.address_toward(&cluster).unwrap().to_string(), "http://me:hunter2@proxy.example:3128/");
        assert_eq!(guarded.address_toward(&Uri::from_static("https://k8s.svc")), None);
    }
}
