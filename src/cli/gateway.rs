//! The command line of the gateway, and the controller's options for it.

use super::LogArgs;
use super::kubernetes::{self, bounded};
use crate::gateway::controller::Config as ControllerConfig;
use crate::gateway::limits::Limits;
use crate::gateway::process::{Config, Environment, Gateway};
use crate::github::{HttpsConnect, Proxies};
use crate::guards::Guards;
use crate::runtime::clock::SystemClock;
use crate::runtime::shutdown::on_signal;
use crate::settings::{GatewayUrl, InternalSettings, SourceAddresses};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
pub(super) struct GatewayArgs {
    /// The address that the git of workspaces talks to, by TLS.
    #[arg(long, env = "LANDFALL_GATEWAY_ADDRESS", default_value = "[::]:8443")]
    address: SocketAddr,
    /// The address that serves /livez, /readyz and /metrics.
    #[arg(long, env = "LANDFALL_HEALTH_ADDRESS", default_value = "[::]:8080")]
    health_address: SocketAddr,
    /// The directory in which the Secret landfall-gateway-tls is mounted. Changes are read.
    #[arg(long, env = "LANDFALL_CERTIFICATE_DIRECTORY", default_value = "/etc/landfall/gateway-tls")]
    certificate_directory: PathBuf,
    /// The controller's internal API: `https://SERVICE.NAMESPACE.svc:8444`.
    #[arg(long, env = "LANDFALL_INTERNAL_URL")]
    internal_url: GatewayUrl,
    /// The file with the token of the gateway's `ServiceAccount` for audience landfall-internal. It is read at each call.
    #[arg(long, env = "LANDFALL_INTERNAL_TOKEN_FILE", default_value = "/var/run/secrets/landfall/internal/token")]
    internal_token_file: PathBuf,
    /// The bytes of memory that the process may have, from which the number of connections follows.
    #[arg(long, env = "LANDFALL_GATEWAY_MEMORY", default_value_t = 512 << 20)]
    memory: u64,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// The controller's options for the gateway.
#[derive(Args)]
pub(super) struct GatewayOptions {
    /// The `ServiceAccount` of the gateway in the operator's namespace. The internal API answers it alone. Default: landfall-gateway
    #[arg(long, env = "LANDFALL_GATEWAY_ACCOUNT")]
    gateway_account: Option<String>,
    /// The address of the internal API, which answers the gateway by TLS, where --gateway-url is set.
    #[arg(long, env = "LANDFALL_INTERNAL_ADDRESS", default_value = "[::]:8444")]
    pub(super) internal_address: SocketAddr,
    /// The host by which the gateway knows the internal API. Default: landfall-internal.NAMESPACE.svc
    #[arg(long, env = "LANDFALL_INTERNAL_HOST")]
    internal_host: Option<String>,
    /// Accept a pod's token from other addresses than the pod's, for networks that replace the addresses of pods.
    #[arg(long, env = "LANDFALL_GATEWAY_ANY_ADDRESS")]
    gateway_any_address: bool,
}

impl GatewayOptions {
    pub(super) fn settings(self, namespace: &str) -> InternalSettings {
        let default = InternalSettings::of(namespace);
        InternalSettings {
            account: self.gateway_account.unwrap_or(default.account),
            host: self.internal_host.unwrap_or(default.host),
            addresses: if self.gateway_any_address { SourceAddresses::Any } else { SourceAddresses::OfThePod },
        }
    }
}

pub(super) async fn run(args: GatewayArgs) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = on_signal()?;
    let proxies = Proxies::from_env()?;
    let mut kube = kubernetes::config(&proxies).await?;
    bounded(&mut kube);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let controller = ControllerConfig {
        url: args.internal_url.to_string(),
        authority: args.certificate_directory.join("ca.crt"),
        token: args.internal_token_file,
    };
    let config = Config {
        address: args.address,
        health_address: args.health_address,
        certificate: args.certificate_directory,
        controller,
        limits: Limits::of_memory(args.memory),
    };
    let environment = Environment {
        kube: kube::Client::try_from(kube)?,
        github: Arc::new(HttpsConnect::through(proxies).with_separate_connections()),
        clock: Arc::new(SystemClock),
        shutdown,
        guards: Guards::default(),
    };
    let gateway = Gateway::start(config, environment).await?;
    tracing::info!(address = %gateway.health_address(), "serving health and metrics");
    tracing::info!(address = %gateway.address(), "serving git");
    gateway.run().await?;
    Ok(())
}
