//! The paths of the gateway: `/HOST/REPOSITORY-ID.git/` and one of git's three endpoints of smart HTTP (gitprotocol-http(5)).
//!
//! The invariant: each endpoint of a repository has exactly one spelling. There is no decoding, no normalization and no second
//! form of a number, so a proxy, the policy and GitHub's address can never mean different repositories by one path. The path
//! chooses nothing by itself: the identity of the pod decides whether the repository is the workspace's.

use crate::ids::RepositoryId;
use http::{Method, Uri};

/// The most bytes of a host: a DNS name, a colon and a port.
const LONGEST_HOST: usize = 253 + 6;

/// A service of git's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Clones and fetches.
    UploadPack,
    /// Pushes.
    ReceivePack,
}

impl Service {
    /// The name in paths and in media types.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::UploadPack, Self::ReceivePack].into_iter().find(|service| service.as_str() == name)
    }
}

/// A step of git's exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `GET info/refs`: the refs or the capabilities of the repository.
    Advertisement,
    /// `POST`: the exchange itself.
    Exchange,
}

/// A request of git's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The GitHub: the host of its web pages, with its port unless that is 443.
    pub host: String,
    pub repository: RepositoryId,
    pub service: Service,
    pub step: Step,
}

/// Why a request is none of git's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// 404.
    #[error("not found: the address of a repository here is https://GATEWAY/HOST/REPOSITORY-ID.git")]
    NotFound,
    /// 403: a client of the dumb protocol.
    #[error("this server speaks git's smart HTTP only; use git 1.6.6 or later, and unset GIT_SMART_HTTP")]
    Dumb,
    /// 403.
    #[error("the service of git is git-upload-pack or git-receive-pack")]
    UnknownService,
    /// 405, with the one allowed method.
    #[error("only {0} is allowed here")]
    Method(&'static str),
}

impl Route {
    /// Reads the first line of a request.
    pub fn of(method: &Method, uri: &Uri) -> Result<Self, RouteError> {
        // A request in absolute form is meant for a proxy.
        if uri.scheme().is_some() || uri.authority().is_some() {
            return Err(RouteError::NotFound);
        }
        let path = uri.path().strip_prefix('/').ok_or(RouteError::NotFound)?;
        let (host, path) = path.split_once('/').filter(|(host, _)| is_host(host)).ok_or(RouteError::NotFound)?;
        let (id, endpoint) = path.split_once(".git/").ok_or(RouteError::NotFound)?;
        let repository = repository(id).ok_or(RouteError::NotFound)?;
        let (service, step) = endpoint_of(endpoint, uri.query())?;
        let allowed = match step {
            Step::Advertisement => Method::GET,
            Step::Exchange => Method::POST,
        };
        if *method != allowed {
            return Err(RouteError::Method(if allowed == Method::GET { "GET" } else { "POST" }));
        }
        Ok(Self { host: host.to_owned(), repository, service, step })
    }

    /// The path of the request, with its query.
    #[must_use]
    pub fn path(&self) -> String {
        let (host, id, service) = (&self.host, self.repository, self.service.as_str());
        match self.step {
            Step::Advertisement => format!("/{host}/{id}.git/info/refs?service={service}"),
            Step::Exchange => format!("/{host}/{id}.git/{service}"),
        }
    }
}

/// The name of a host in lower case, or an IPv4 address, with or without a port.
fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(plain);
    let is_port = |port: &str| is_number(port) && port.parse::<u16>().is_ok_and(|port| port != 443);
    text.len() <= LONGEST_HOST && name.split('.').all(is_label) && port.is_none_or(is_port)
}

/// Digits without a leading zero or a sign.
fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0') && !text.is_empty()
}

fn repository(text: &str) -> Option<RepositoryId> {
    text.parse().ok().filter(|_| is_number(text))
}

fn endpoint_of(endpoint: &str, query: Option<&str>) -> Result<(Service, Step), RouteError> {
    if endpoint == "info/refs" {
        let service = query.ok_or(RouteError::Dumb)?.strip_prefix("service=").ok_or(RouteError::UnknownService)?;
        let service = Service::named(service).ok_or(RouteError::UnknownService)?;
        return Ok((service, Step::Advertisement));
    }
    if endpoint == "HEAD" || endpoint.starts_with("objects/") {
        return Err(RouteError::Dumb);
    }
    let service = Service::named(endpoint).filter(|_| query.is_none()).ok_or(RouteError::NotFound)?;
    Ok((service, Step::Exchange))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, uri: &str) -> Result<Route, RouteError> {
        Route::of(method, &uri.parse().unwrap())
    }

    #[test]
    fn the_three_endpoints_of_git_are_known() {
        for (method, uri, service, step) in [
            (
                Method::GET,
                "/github.com/7.git/info/refs?service=git-upload-pack",
                Service::UploadPack,
                Step::Advertisement,
            ),
            (
                Method::GET,
                "/github.com/7.git/info/refs?service=git-receive-pack",
                Service::ReceivePack,
                Step::Advertisement,
            ),
            (Method::POST, "/github.com/7.git/git-upload-pack", Service::UploadPack, Step::Exchange),
            (Method::POST, "/127.0.0.1:8443/7.git/git-receive-pack", Service::ReceivePack, Step::Exchange),
            (
                Method::POST,
                "/acme.ghe.com/9223372036854775807.git/git-receive-pack",
                Service::ReceivePack,
                Step::Exchange,
            ),
        ] {
            let route = of(&method, uri).unwrap();
            assert_eq!((route.service, route.step), (service, step), "{uri}");
            assert_eq!(route.path(), uri);
        }
    }

    #[test]
    fn a_repository_has_one_spelling() {
        for path in [
            "",
            "/",
            "//",
            "/github.com",
            "/github.com/7.git",
            "/github.com/7/git-upload-pack",
            "//7.git/git-upload-pack",
            "/github.com//7.git/git-upload-pack",
            "//github.com/7.git/git-upload-pack",
            "/github.com/7.git//git-upload-pack",
            "/github.com/7.git/git-upload-pack/",
            "/github.com/07.git/git-upload-pack",
            "/github.com/+7.git/git-upload-pack",
            "/github.com/-7.git/git-upload-pack",
            "/github.com/0.git/git-upload-pack",
            "/github.com/.git/git-upload-pack",
            "/github.com/7x.git/git-upload-pack",
            "/github.com/9223372036854775808.git/git-upload-pack",
            "/github.com/8.git/../7.git/git-upload-pack",
            "/github.com/../github.com/7.git/git-upload-pack",
            "/github.com/%37.git/git-upload-pack",
            "/github.com/7.git/git-upload-pack%2f",
            "/github.com/7.git%2fgit-upload-pack",
            "/github.com/7.git/./git-upload-pack",
            "/github.com/acme/shop.git/git-upload-pack",
            "/GitHub.com/7.git/git-upload-pack",
            "/github.com./7.git/git-upload-pack",
            "/.github.com/7.git/git-upload-pack",
            "/github.com:443/7.git/git-upload-pack",
            "/github.com:0/7.git/git-upload-pack",
            "/github.com:/7.git/git-upload-pack",
            "/github.com:08443/7.git/git-upload-pack",
            "/github.com:8443:1/7.git/git-upload-pack",
            "/github.com:65536/7.git/git-upload-pack",
            "/user@github.com/7.git/git-upload-pack",
            "/git_hub.com/7.git/git-upload-pack",
            "/github.com/7.git/git-upload-pack?x=1",
            "/github.com/7.git/git-upload-pack?",
            "/github.com/7.git/git-upload-archive",
            "/github.com/7.git/info/lfs",
            "/github.com/7.git/info/refs/",
            "/7.git/git-upload-pack",
        ] {
            let Ok(uri) = path.parse::<Uri>() else { continue };
            assert_eq!(Route::of(&Method::POST, &uri), Err(RouteError::NotFound), "{path}");
        }
        assert_eq!(of(&Method::POST, "http://github.com/7.git/git-upload-pack"), Err(RouteError::NotFound));
        assert_eq!(of(&Method::POST, "http://gateway/github.com/7.git/git-upload-pack"), Err(RouteError::NotFound));
        let long = format!("/{}/7.git/git-upload-pack", "a".repeat(LONGEST_HOST + 1));
        assert_eq!(of(&Method::POST, &long), Err(RouteError::NotFound));
    }

    #[test]
    fn other_protocols_services_and_methods_are_refused_in_words() {
        let of = |method: Method, uri: &str| of(&method, uri).unwrap_err();
        assert_eq!(of(Method::GET, "/github.com/7.git/info/refs"), RouteError::Dumb);
        assert_eq!(of(Method::GET, "/github.com/7.git/HEAD"), RouteError::Dumb);
        assert_eq!(of(Method::GET, "/github.com/7.git/objects/info/packs"), RouteError::Dumb);
        for query in [
            "",
            "x",
            "service=",
            "service=git-upload-archive",
            "service=git-upload-pack&service=git-receive-pack",
            "service=git-upload-pack&x=1",
            "service=git%2Dupload-pack",
            "Service=git-upload-pack",
        ] {
            assert_eq!(
                of(Method::GET, &format!("/github.com/7.git/info/refs?{query}")),
                RouteError::UnknownService,
                "{query}"
            );
        }
        assert_eq!(of(Method::GET, "/github.com/7.git/git-upload-pack"), RouteError::Method("POST"));
        assert_eq!(of(Method::HEAD, "/github.com/7.git/info/refs?service=git-upload-pack"), RouteError::Method("GET"));
        assert_eq!(of(Method::PUT, "/github.com/7.git/git-receive-pack"), RouteError::Method("POST"));
    }

    /// Every path of a few pieces is refused, or is the one spelling of a route.
    #[test]
    fn no_path_of_these_pieces_is_a_second_spelling() {
        let pieces = ["/", "github.com", "7", "7.git", ".git", "..", "git-upload-pack", "info/refs", "%2f", "0", ""];
        let mut seen = 0;
        for number in 0..pieces.len().pow(6) {
            let path: String = (0..6).map(|place| pieces[number / pieces.len().pow(place) % pieces.len()]).collect();
            let Ok(uri) = format!("/{path}").parse::<Uri>() else { continue };
            if let Ok(route) = Route::of(&Method::POST, &uri) {
                assert_eq!(route.path(), format!("/{path}"));
                seen += 1;
            }
        }
        assert!(seen > 0);
    }
}
