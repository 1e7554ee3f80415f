//! The configuration of the controllers.

use crate::git::AllowedHosts;
use crate::github::{PlainHttp, PodProxy};

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
    /// The gateway; none: there is none.
    pub gateway: Option<GatewaySettings>,
}

/// The gateway, as the controller knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The address of the gateway for pods: `https://HOST` or `https://HOST:PORT`.
    pub url: String,
    /// The name of the gateway's `ServiceAccount` in the operator's namespace.
    pub account: String,
    /// The host by which the gateway knows the internal API.
    pub internal_host: String,
    /// The addresses that a pod's token may come from.
    pub addresses: SourceAddresses,
}

impl GatewaySettings {
    /// The host of the gateway, without a port.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.url.strip_prefix("https://").unwrap_or(&self.url);
        host.parse::<http::uri::Authority>().map_or_else(|_| host.to_owned(), |it| it.host().to_owned())
    }

    /// Whether a pod's token counts from the pod's own address alone.
    #[must_use]
    pub fn verifies_addresses(&self) -> bool {
        self.addresses == SourceAddresses::OfThePod
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
            user: Some(1000),
            proxy: PodProxy::default(),
        }
    }
}
