//! TCP connections to hosts, directly or through the proxy.
//!
//! Owns the choice for each connection, the exchange with the proxy (`CONNECT`, RFC 9110, 9.3.6), and the messages for its failures.
//! The invariant: a direct connection goes to an address that was checked ([`Screened`]). A proxy resolves the name itself, so a
//! name goes to it only if none of the addresses that this machine knows for the name is refused; the proxy itself must refuse the
//! rest. The proxy's own address is not checked, because an administrator wrote it.
use std::error::Error;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{BoxError, Service, ServiceExt as _};

use super::proxy::{Hop, Proxies};
use super::transport::deeper;
use crate::git::reach::{Reach, Screened};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the connection to the proxy and from there to the host.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(15);

type TunnelError = <Tunnel<HttpConnector> as Service<Uri>>::Error;

/// Opens TCP connections.
#[derive(Clone)]
pub(super) struct Connector {
    direct: HttpConnector<Screened<GaiResolver>>,
    to_proxy: HttpConnector,
    screened: Screened<GaiResolver>,
    proxies: Proxies,
}

impl Connector {
    pub(super) fn new(reach: Reach, proxies: Proxies) -> Self {
        let screened = Screened { resolver: GaiResolver::new(), reach };
        Self { direct: tcp(screened.clone()), to_proxy: tcp(GaiResolver::new()), screened, proxies }
    }
}

fn tcp<R>(resolver: R) -> HttpConnector<R> {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let Self { direct, to_proxy, screened, proxies } = self.clone();
        Box::pin(async move {
            let Some(hop) = proxies.toward(&destination) else {
                return direct.oneshot(destination).await.map_err(Into::into);
            };
            screened.permits(destination.host().unwrap_or_default()).await?;
            let mut tunnel = Tunnel::new(hop.uri, to_proxy);
            if let Some(authorization) = hop.authorization {
                tunnel = tunnel.with_auth(authorization);
            }
            match tokio::time::timeout(TUNNEL_TIMEOUT, tunnel.oneshot(destination)).await {
                Ok(opened) => opened.map_err(|error| NoTunnel::of(error).into()),
                Err(elapsed) => Err(NoTunnel::NoAnswer(elapsed.into()).into()),
            }
        })
    }
}

/// Why a proxy opened no connection.
#[derive(Debug, thiserror::Error)]
enum NoTunnel {
    #[error("the proxy cannot be reached")]
    NotReached(#[source] BoxError),
    /// 407.
    #[error("the proxy asks for credentials")]
    AsksForCredentials,
    /// Another status.
    #[error("the proxy refuses the connection")]
    Refused,
    #[error("the proxy gave no answer")]
    NoAnswer(#[source] BoxError),
}

impl NoTunnel {
    fn of(error: TunnelError) -> Self {
        match error {
            TunnelError::ConnectFailed(source) => Self::NotReached(source),
            TunnelError::ProxyAuthRequired => Self::AsksForCredentials,
            TunnelError::TunnelUnsuccessful => Self::Refused,
            TunnelError::Io(_)
            | TunnelError::MissingHost
            | TunnelError::ProxyHeadersTooLong
            | TunnelError::TunnelUnexpectedEof => Self::NoAnswer(error.into()),
        }
    }
}

/// An exchange failed whose connection goes through a proxy.
#[derive(Debug, thiserror::Error)]
#[error("through the proxy {}", hop.name)]
pub(crate) struct Proxied {
    hop: Hop,
    #[source]
    source: BoxError,
}

impl Proxied {
    pub(super) fn new(hop: Hop, source: impl Into<BoxError>) -> Self {
        Self { hop, source: source.into() }
    }

    /// The one that caused `error`.
    pub(crate) fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| deeper(*error)).find_map(<dyn Error>::downcast_ref)
    }

    /// The proxy's host and port.
    pub(crate) fn name(&self) -> &str {
        &self.hop.name
    }

    /// The message for a connection that did not come about; `detail` is its first cause.
    pub(crate) fn no_connection(&self, detail: &str) -> String {
        let Hop { name, variable, authorization, .. } = &self.hop;
        let cause = std::iter::successors(Some::<&(dyn Error + 'static)>(&*self.source), |error| deeper(*error))
            .find_map(<dyn Error>::downcast_ref::<NoTunnel>);
        match cause {
            Some(NoTunnel::NotReached(_)) => {
                format!("no connection to the proxy {name} ({detail}); check {variable}, DNS and the network policies")
            }
            Some(NoTunnel::AsksForCredentials) if authorization.is_some() => {
                format!("the proxy {name} refuses the user and the password in {variable} (407); correct them")
            }
            Some(NoTunnel::AsksForCredentials) => format!(
                "the proxy {name} asks for credentials (407); write a user and a password into {variable}, as http://USER:PASSWORD@HOST:PORT"
            ),
            Some(NoTunnel::Refused) => format!(
                "the proxy {name} refuses to connect to this host; allow the host and its port in the proxy's rules, or add the host to NO_PROXY for a direct connection"
            ),
            Some(NoTunnel::NoAnswer(_)) => format!(
                "the proxy {name} did not answer ({detail}); check that {variable} names an HTTP proxy, and that the proxy reaches this host"
            ),
            None => format!(
                "no connection through the proxy {name} ({detail}); check the host, and the proxy's rules and logs"
            ),
        }
    }
}
