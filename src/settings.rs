//! The configuration of the controllers.

use crate::git::AllowedHosts;
use crate::github::{PlainHttp, PodProxy};
use crate::ids::RepositoryId;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use url::Url;

/// What was configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace, in which the Apps' credentials are.
    pub namespace: String,
    /// The namespaces in which Secrets may be read and written; empty for all.
    pub secret_namespaces: Vec<String>,
    /// Whether plain http to GitHub is accepted.
    pub plain_http: PlainHttp,
    /// The hosts whose repositories may be followed by their address alone.
    pub git_hosts: AllowedHosts,
    /// What workspaces are made of.
    pub workspaces: WorkspaceSettings,
    /// The API by which the gateway asks, where there is a gateway.
    pub internal: InternalSettings,
}

/// The API by which the gateway asks the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalSettings {
    /// The name of the gateway's `ServiceAccount` in the operator's namespace.
    pub account: String,
    /// The host by which the gateway knows the API.
    pub host: String,
    /// The addresses that a pod's token may come from.
    pub addresses: SourceAddresses,
}

impl InternalSettings {
    /// Those of the chart's default names.
    #[must_use]
    pub fn of(namespace: &str) -> Self {
        Self {
            account: "landfall-gateway".to_owned(),
            host: format!("landfall-internal.{namespace}.svc"),
            addresses: SourceAddresses::OfThePod,
        }
    }
}

/// The addresses that a pod's token may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAddresses {
    /// The pod's own.
    OfThePod,
    /// All, because the network replaces the addresses of pods.
    Any,
}

/// What workspaces are made of.
#[derive(Clone, Debug)]
pub struct WorkspaceSettings {
    /// The image of our containers in a workspace's pod: the operator's own.
    pub image: String,
    /// The image that is worked in, unless a workspace names one.
    pub workspace_image: String,
    /// When these two are pulled: `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// Where pods send their reports; none: they send none.
    pub reports_url: Option<String>,
    /// The gateway by which their git reaches GitHub; none: it goes there itself, with a token in the pod.
    pub gateway: Option<GatewaySettings>,
    /// The user and group of pods, unless a workspace names one; none: the cluster fills them in.
    pub user: Option<i64>,
    /// The proxy on the way to GitHub, unless a workspace names one.
    pub proxy: PodProxy,
}

impl Default for WorkspaceSettings {
    fn default() -> Self {
        Self {
            image: "localhost/landfall:dev".to_owned(),
            workspace_image: "localhost/landfall-workspace:dev".to_owned(),
            pull_policy: "IfNotPresent".to_owned(),
            reports_url: None,
            gateway: None,
            user: Some(1000),
            proxy: PodProxy::default(),
        }
    }
}

/// The gateway, as workspaces are told of it.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    pub url: GatewayUrl,
    pub authority: GatewayAuthority,
}

/// The address of the gateway: `https://HOST` or `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUrl(String);

/// A text is no address of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write https://HOST or https://HOST:PORT, without a path and a user name")]
pub struct GatewayUrlError;

impl FromStr for GatewayUrl {
    type Err = GatewayUrlError;

    fn from_str(text: &str) -> Result<Self, GatewayUrlError> {
        let url = Url::parse(text).map_err(|_| GatewayUrlError)?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        let host = url.host().filter(|_| url.scheme() == "https" && is_plain && url.path() == "/");
        let host = host.ok_or(GatewayUrlError)?;
        if url.fragment().is_some() {
            return Err(GatewayUrlError);
        }
        Ok(Self(url.port().map_or_else(|| format!("https://{host}"), |port| format!("https://{host}:{port}"))))
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl GatewayUrl {
    /// The host of the gateway, without a port and without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.0.parse::<Url>().ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']').to_owned()
    }

    /// The address of a repository. `host`: that of GitHub's web pages, with its port unless that is 443.
    #[must_use]
    pub fn repository(&self, host: &str, id: RepositoryId) -> String {
        format!("{self}/{host}/{id}.git")
    }
}

/// The certificates by which the gateway's own is trusted, in PEM. They become known while the operator runs, and are renewed.
#[derive(Clone, Debug, Default)]
pub struct GatewayAuthority(Arc<RwLock<Option<Arc<str>>>>);

impl GatewayAuthority {
    /// The certificates, once they are known.
    #[must_use]
    pub fn pem(&self) -> Option<Arc<str>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, pem: &str) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(pem.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;

    #[test]
    fn the_address_of_a_gateway_has_no_path() {
        let of = |text: &str| text.parse::<GatewayUrl>().map(|url| url.repository("github.com", id(7)));
        for (text, expected) in [
            ("https://gateway.landfall-system.svc", "https://gateway.landfall-system.svc/github.com/7.git"),
            ("https://Gateway.landfall-system.svc:443/", "https://gateway.landfall-system.svc/github.com/7.git"),
            ("https://127.0.0.1:8443", "https://127.0.0.1:8443/github.com/7.git"),
        ] {
            assert_eq!(of(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "gateway",
            "http://gateway",
            "https://gateway/path",
            "https://me@gateway",
            "https://me:pw@gateway",
            "https://gateway?x",
            "https://gateway#x",
        ] {
            assert_eq!(of(text), Err(GatewayUrlError), "{text}");
        }
    }
}
