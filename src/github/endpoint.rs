//! The base addresses of a GitHub: its REST API, its web pages and its GraphQL API.
//!
//! The invariant: every address here is https (plain http only on loopback, or anywhere if that is allowed for development), carries
//! no credentials, query or fragment, and ends without a slash. [`Endpoint::contains`] is the one rule for the addresses that get
//! credentials. Without it a redirect, a `Link` header or a typing error sends an App's JWT to another host.
//!
//! Sources: <https://docs.github.com/en/enterprise-server@latest/rest/overview/resources-in-the-rest-api#schema> for GitHub
//! Enterprise Server, <https://docs.github.com/en/enterprise-cloud@latest/admin/data-residency> for GHE.com.
use url::{Host, Url};

/// Addresses that may be plain `http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only on this machine.
    OnLoopback,
    /// Anywhere: `--insecure-development`.
    Anywhere,
}

/// The base addresses of one GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    api: Url,
    web: Url,
    graphql: Url,
}

/// The reason why an address in a `GitHubApp`'s spec cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: {problem}; {remedy}")]
pub struct EndpointError {
    /// `apiURL`, `webURL` or `graphqlURL`.
    pub field: &'static str,
    problem: String,
    remedy: String,
}

impl Endpoint {
    /// Reads `spec.apiURL`, `spec.webURL` and `spec.graphqlURL`. The last two are derived from the first unless they are set.
    pub fn parse(
        api_url: &str,
        web_url: Option<&str>,
        graphql_url: Option<&str>,
        plain_http: PlainHttp,
    ) -> Result<Self, EndpointError> {
        let api = address("apiURL", api_url, plain_http)?;
        let (web, graphql) = match (web_url, graphql_url) {
            (Some(web), Some(graphql)) => {
                (address("webURL", web, plain_http)?, address("graphqlURL", graphql, plain_http)?)
            }
            (web, graphql) => {
                let derived = derive(&api)?;
                (
                    web.map_or(Ok(derived.0), |web| address("webURL", web, plain_http))?,
                    graphql.map_or(Ok(derived.1), |graphql| address("graphqlURL", graphql, plain_http))?,
                )
            }
        };
        Ok(Self { api, web, graphql })
    }

    /// Whether this GitHub has secondary rate limits. On a GitHub Enterprise Server they are off by default; if an
    /// administrator turned them on, its answers tell.
    #[must_use]
    pub fn has_secondary_limits(&self) -> bool {
        let host = self.host();
        host == "github.com" || host.ends_with(".github.com") || host.ends_with(".ghe.com")
    }

    /// The base of the REST API, without a slash at the end of its path: `https://api.github.com`, `https://H/api/v3`.
    #[must_use]
    pub fn api_url(&self) -> &str {
        without_slash(&self.api)
    }

    /// The base of the web pages and of git over HTTPS: `https://github.com`, `https://H`.
    #[must_use]
    pub fn web_url(&self) -> &str {
        without_slash(&self.web)
    }

    /// The GraphQL API: `https://api.github.com/graphql`, `https://H/api/graphql`.
    #[must_use]
    pub fn graphql_url(&self) -> &str {
        without_slash(&self.graphql)
    }

    /// The API's host, with its port unless that is the scheme's default. Together with a numeric id it identifies an object.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.api.host_str().unwrap_or_default();
        self.api.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The host of the web pages and of git, with its port unless that is the scheme's default.
    #[must_use]
    pub fn web_host(&self) -> String {
        let host = self.web.host_str().unwrap_or_default();
        self.web.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The domain of the addresses that GitHub gives to accounts without a public one: `users.noreply.github.com`. It follows
    /// the web pages' host; all of GHE.com has one.
    /// <https://docs.github.com/en/account-and-profile/reference/email-addresses-reference#your-noreply-email-address>
    #[must_use]
    pub fn noreply_domain(&self) -> String {
        let host = self.web.host_str().unwrap_or_default();
        format!("users.noreply.{}", if host.ends_with(".ghe.com") { "ghe.com" } else { host })
    }

    /// Whether `url` is on the API's origin and under its base path, or is the GraphQL API's own address. Credentials go nowhere
    /// else.
    #[must_use]
    pub fn contains(&self, url: &Url) -> bool {
        // `Url` has resolved `..` and its percent-encoded spellings, so a prefix of whole segments decides.
        let base = self.api.path().trim_end_matches('/');
        let under_base = url.path().strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let of_rest = url.origin() == self.api.origin() && under_base;
        (of_rest || *url == self.graphql) && url.username().is_empty() && url.password().is_none()
    }
}

fn without_slash(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

/// Checks and normalizes an address.
fn address(field: &'static str, text: &str, plain_http: PlainHttp) -> Result<Url, EndpointError> {
    let refused = |problem: String, remedy: &str| EndpointError { field, problem, remedy: remedy.to_owned() };
    let mut url = Url::parse(text.trim()).map_err(|error| {
        // The message does not repeat the text, which may hold credentials.
        refused(format!("not an address ({error})"), "write it in full, like https://api.github.com")
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(
            "carries a user name or a password".into(),
            "remove them; credentials come from spec.credentialsSecretRef",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("carries a query or a fragment".into(), "remove everything from the `?` or the `#` on"));
    }
    match url.scheme() {
        "https" => {}
        "http" if plain_http == PlainHttp::Anywhere || is_loopback(&url) => {}
        "http" => {
            return Err(refused(
                format!("{url} is plain http, so others can read a token on the network"),
                "use https; a private certificate authority goes into spec.caBundle",
            ));
        }
        scheme => return Err(refused(format!("{scheme} is not a scheme of GitHub's API"), "use https")),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refused("names no host".into(), "write it in full, like https://api.github.com"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// Derives the addresses of the web pages and of GraphQL from the API's.
fn derive(api: &Url) -> Result<(Url, Url), EndpointError> {
    let refused = |problem: String, remedy: String| EndpointError { field: "apiURL", problem, remedy };
    let host = api.host_str().unwrap_or_default();
    let path = api.path().trim_end_matches('/');
    let at = |host: &str, path: &str| {
        let mut url = api.clone();
        url.set_path(path);
        url.set_host(Some(host))
            .map(|()| url)
            .map_err(|error| refused(format!("{host} is no host ({error})"), "write the host's name".into()))
    };
    if path == "/api/v3" {
        return Ok((at(host, "")?, at(host, "/api/graphql")?));
    }
    if path.is_empty() {
        if host == "api.github.com" {
            return Ok((at("github.com", "")?, at(host, "/graphql")?));
        }
        if matches!(host, "github.com" | "www.github.com") {
            return Err(refused(
                format!("{api} is the address of GitHub's pages, not of its API"),
                "use https://api.github.com".into(),
            ));
        }
        if let Some(subdomain) = host.strip_suffix(".ghe.com") {
            return match subdomain.strip_prefix("api.") {
                Some(subdomain) => Ok((at(&format!("{subdomain}.ghe.com"), "")?, at(host, "/graphql")?)),
                None => Err(refused(
                    format!("{api} is the address of GHE.com's pages, not of its API"),
                    format!("use https://api.{host}"),
                )),
            };
        }
    }
    Err(refused(
        format!(
            "{api} is not the form of an address of GitHub's API, so the addresses of its pages and its GraphQL API cannot be derived"
        ),
        format!(
            "for GitHub Enterprise Server use {}/api/v3; otherwise set spec.webURL and spec.graphqlURL",
            api.origin().ascii_serialization()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(api: &str) -> Result<Endpoint, String> {
        Endpoint::parse(api, None, None, PlainHttp::OnLoopback).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_derived() {
        let table = [
            (
                "https://api.github.com",
                "https://api.github.com",
                "https://github.com",
                "https://api.github.com/graphql",
                "api.github.com",
            ),
            (
                "https://api.github.com/",
                "https://api.github.com",
                "https://github.com",
                "https://api.github.com/graphql",
                "api.github.com",
            ),
            (
                "https://H.example/api/v3",
                "https://h.example/api/v3",
                "https://h.example",
                "https://h.example/api/graphql",
                "h.example",
            ),
            (
                "https://h.example/api/v3/",
                "https://h.example/api/v3",
                "https://h.example",
                "https://h.example/api/graphql",
                "h.example",
            ),
            (
                "https://h.example:8443/api/v3",
                "https://h.example:8443/api/v3",
                "https://h.example:8443",
                "https://h.example:8443/api/graphql",
                "h.example:8443",
            ),
            (
                "https://api.acme.ghe.com",
                "https://api.acme.ghe.com",
                "https://acme.ghe.com",
                "https://api.acme.ghe.com/graphql",
                "api.acme.ghe.com",
            ),
            (
                "http://127.0.0.1:3000/api/v3",
                "http://127.0.0.1:3000/api/v3",
                "http://127.0.0.1:3000",
                "http://127.0.0.1:3000/api/graphql",
                "127.0.0.1:3000",
            ),
            (
                "http://[::1]:3000/api/v3",
                "http://[::1]:3000/api/v3",
                "http://[::1]:3000",
                "http://[::1]:3000/api/graphql",
                "[::1]:3000",
            ),
        ];
        for (api, api_url, web, graphql, host) in table {
            let endpoint = parse(api).unwrap();
            assert_eq!(
                (endpoint.api_url(), endpoint.web_url(), endpoint.graphql_url(), endpoint.host().as_str()),
                (api_url, web, graphql, host)
            );
        }
    }

    #[test]
    fn noreply_addresses_follow_the_web_host() {
        for (api, domain) in [
            ("https://api.github.com", "users.noreply.github.com"),
            ("https://api.acme.ghe.com", "users.noreply.ghe.com"),
            ("https://h.example:8443/api/v3", "users.noreply.h.example"),
        ] {
            assert_eq!(parse(api).unwrap().noreply_domain(), domain);
        }
    }

    #[test]
    fn overrides_win_and_make_any_shape_usable() {
        let endpoint = Endpoint::parse(
            "https://gh.example/rest",
            Some("https://gh.example/web/"),
            Some("https://gh.example/ql"),
            PlainHttp::OnLoopback,
        )
        .unwrap();
        assert_eq!(
            (endpoint.api_url(), endpoint.web_url(), endpoint.graphql_url()),
            ("https://gh.example/rest", "https://gh.example/web", "https://gh.example/ql")
        );
        let endpoint =
            Endpoint::parse("https://api.github.com", Some("https://pages.example"), None, PlainHttp::OnLoopback)
                .unwrap();
        assert_eq!(
            (endpoint.web_url(), endpoint.graphql_url()),
            ("https://pages.example", "https://api.github.com/graphql")
        );
        let error = Endpoint::parse("https://api.github.com", Some("ftp://pages.example"), None, PlainHttp::OnLoopback)
            .unwrap_err();
        assert_eq!(error.to_string(), "spec.webURL: ftp is not a scheme of GitHub's API; use https");
    }

    #[test]
    fn plain_http_needs_loopback_or_leave() {
        assert!(parse("http://localhost:1/api/v3").is_ok());
        assert!(parse("http://a.localhost/api/v3").is_ok());
        assert!(Endpoint::parse("http://sim.example/api/v3", None, None, PlainHttp::Anywhere).is_ok());
        for address in ["http://sim.example/api/v3", "http://localhost.example/api/v3", "http://128.0.0.1/api/v3"] {
            assert!(parse(address).unwrap_err().contains("is plain http"), "{address}");
        }
    }

    #[test]
    fn refusals_name_the_field_and_the_remedy() {
        let table = [
            (
                "api.github.com",
                "spec.apiURL: not an address (relative URL without a base); write it in full, like https://api.github.com",
            ),
            (
                "https://me:ghp_1@api.github.com",
                "spec.apiURL: carries a user name or a password; remove them; credentials come from spec.credentialsSecretRef",
            ),
            (
                "https://api.github.com?x=1",
                "spec.apiURL: carries a query or a fragment; remove everything from the `?` or the `#` on",
            ),
            (
                "https://api.github.com#x",
                "spec.apiURL: carries a query or a fragment; remove everything from the `?` or the `#` on",
            ),
            (
                "https://github.com",
                "spec.apiURL: https://github.com/ is the address of GitHub's pages, not of its API; use https://api.github.com",
            ),
            (
                "https://acme.ghe.com",
                "spec.apiURL: https://acme.ghe.com/ is the address of GHE.com's pages, not of its API; use https://api.acme.ghe.com",
            ),
            (
                "https://ghe.example",
                "spec.apiURL: https://ghe.example/ is not the form of an address of GitHub's API, so the addresses of its pages and its GraphQL API cannot be derived; \
                 for GitHub Enterprise Server use https://ghe.example/api/v3; otherwise set spec.webURL and spec.graphqlURL",
            ),
        ];
        for (address, expected) in table {
            assert_eq!(parse(address).unwrap_err(), expected);
        }
    }

    #[test]
    fn only_the_origin_and_base_path_and_graphql_are_the_api() {
        let endpoint = parse("https://h.example/api/v3").unwrap();
        let table = [
            ("https://h.example/api/v3/app", true),
            ("https://h.example:443/api/v3/app?page=2", true),
            ("https://h.example/api/v3", true),
            ("https://h.example/api/v3x/app", false),
            ("https://h.example/login", false),
            ("https://h.example/api/v3/../../login", false),
            ("https://h.example/api/v3/%2e%2e/x", false),
            ("http://h.example/api/v3/app", false),
            ("https://h.example:444/api/v3/app", false),
            ("https://h.example.evil/api/v3/app", false),
            ("https://evil@h.example/api/v3/app", false),
            ("https://h.example/api/graphql", true),
            ("https://h.example/api/graphql/x", false),
            ("https://h.example/api/graphql?x=1", false),
            ("http://h.example/api/graphql", false),
            ("https://h.example:444/api/graphql", false),
            ("https://evil@h.example/api/graphql", false),
        ];
        for (address, expected) in table {
            assert_eq!(endpoint.contains(&Url::parse(address).unwrap()), expected, "{address}");
        }
    }
}
