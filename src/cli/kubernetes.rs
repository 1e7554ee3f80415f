//! The way to the API server: a kubeconfig, else the ServiceAccount of the pod.
//!
//! The invariant: in a pod the connection is direct. A kubeconfig's `proxy-url` wins over the environment, as with kubectl.
//!
//! kube reads `HTTPS_PROXY` as well, but compares `NO_PROXY` with the proxy's own host instead of the API server's, and knows no
//! address without a scheme. So [`Proxies`] decides here, too.
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::github::Proxies;

/// Timeout of a request to Kubernetes, except watches.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Finds the cluster.
pub(super) async fn config(proxies: &Proxies) -> Result<Config, String> {
    let found = match Kubeconfig::read() {
        Ok(kubeconfig) => from_kubeconfig(kubeconfig, proxies).await,
        Err(error) => Err(error),
    };
    found.or_else(|kubeconfig| {
        let mut config = Config::incluster().map_err(|in_cluster| {
            format!(
                "cannot connect to a cluster: neither a pod's ServiceAccount ({in_cluster}) nor a kubeconfig ($KUBECONFIG, ~/.kube/config) works ({})",
                super::with_causes(&kubeconfig)
            )
        })?;
        config.apply_debug_overrides();
        Ok(config)
    })
}

async fn from_kubeconfig(kubeconfig: Kubeconfig, proxies: &Proxies) -> Result<Config, KubeconfigError> {
    let own = own_proxy(&kubeconfig).map(str::parse).transpose().map_err(KubeconfigError::ParseProxyUrl)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.apply_debug_overrides();
    config.proxy_url = own.or_else(|| proxies.address_toward(&config.cluster_url));
    Ok(config)
}

/// The `proxy-url` of the current context's cluster.
fn own_proxy(kubeconfig: &Kubeconfig) -> Option<&str> {
    let context = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == *context)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.as_deref().filter(|proxy| !proxy.is_empty())
}

/// The callers retry. kube's own retries would take up to 1000 seconds.
pub(super) fn bounded(config: &mut Config) {
    config.default_retry = false;
    config.write_timeout = Some(TIMEOUT);
    config.connect_timeout = Some(TIMEOUT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn proxy_toward(server: &str, own: Option<&str>, variables: &[(&str, &str)]) -> Option<String> {
        let kubeconfig: Kubeconfig = serde_json::from_value(json!({
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": server, "proxy-url": own}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }))
        .unwrap();
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let config = from_kubeconfig(kubeconfig, &Proxies::read(variable).unwrap()).await.unwrap();
        let proxy = config.proxy_url.as_ref().map(ToString::to_string);
        kube::Client::try_from(config).unwrap();
        proxy
    }

    #[tokio::test]
    async fn no_proxy_is_compared_with_the_api_server() {
        let server = "https://k8s.example:6443";
        let (proxy, exempt) = (("HTTPS_PROXY", "proxy.example:3128"), ("NO_PROXY", "k8s.example"));
        assert_eq!(proxy_toward(server, None, &[]).await, None);
        assert_eq!(proxy_toward(server, None, &[proxy]).await.as_deref(), Some("http://proxy.example:3128/"));
        assert_eq!(proxy_toward(server, None, &[proxy, exempt]).await, None);
        let exempt_itself = ("NO_PROXY", "proxy.example");
        assert!(proxy_toward(server, None, &[proxy, exempt_itself]).await.is_some());
        let own = proxy_toward(server, Some("http://own.example:1"), &[proxy, exempt]).await;
        assert_eq!(own.as_deref(), Some("http://own.example:1/"));
    }
}
