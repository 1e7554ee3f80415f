//! HTTP for the client: exchanges a request for a response, without any knowledge of GitHub.
//!
//! A [`Transport`] is a service, so that tests can replace it or inject faults; [`HttpsConnect`] makes the real one. The invariant:
//! a connection is TLS (or plain http if [`super::endpoint`] allowed that), and its certificate was verified against the system's
//! roots and the `GitHubApp`'s own bundle. Nothing here repeats a request that may have reached GitHub.
use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Bytes;
use hyper_util::client::legacy::{Client, Error as LegacyError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use octocrab::OctoBody;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt, service_fn};

use super::proxy::Proxies;
use super::tunnel::{Connector, Proxied};
use crate::git::reach::Reach;

/// Shorter than the idle timeouts of GitHub's load balancers, so that a request seldom uses a closed connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS: usize = 4;

/// A response's body.
pub type Body = BoxBody<Bytes, BoxError>;

/// Exchanges a request for a response. Clones share connections.
#[derive(Clone)]
pub struct Transport(BoxCloneSyncService<Request<OctoBody>, Response<Body>, BoxError>);

impl Transport {
    /// Makes a transport from a service.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<OctoBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: hyper::body::Body<Data = Bytes> + Send + Sync + 'static,
        B::Error: Into<BoxError>,
    {
        Self(BoxCloneSyncService::new(
            service.map_response(|response| response.map(|body| body.map_err(Into::into).boxed())).map_err(Into::into),
        ))
    }
}

impl Service<Request<OctoBody>> for Transport {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<OctoBody>) -> Self::Future {
        self.0.call(request)
    }
}

/// Makes transports: one per `GitHubApp`, because each may have its own certificate authorities.
pub trait Connect: Send + Sync {
    /// A transport that trusts the system's roots and the PEM certificates in `ca_bundle`.
    fn connect(&self, ca_bundle: Option<&[u8]>) -> Result<Transport, CaBundleError> {
        self.connect_within(Reach::Anywhere, ca_bundle)
    }

    /// The same, with connections only to the networks of `reach`, whatever a name resolves to. Unless that is anywhere, only
    /// https is allowed.
    fn connect_within(&self, reach: Reach, ca_bundle: Option<&[u8]>) -> Result<Transport, CaBundleError>;
}

/// The reason why `spec.caBundle` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaBundleError {
    /// No PEM section of a certificate is in it.
    #[error(
        "spec.caBundle holds no certificate; put the certificate authority there as PEM, beginning with -----BEGIN CERTIFICATE-----"
    )]
    Empty,
    /// A PEM section is cut or not base64.
    #[error("spec.caBundle: certificate {number} is not valid PEM; copy it again, from its BEGIN to its END line")]
    NotPem {
        /// Counted from one.
        number: usize,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A PEM section does not hold a certificate.
    #[error(
        "spec.caBundle: certificate {number} cannot be a trust anchor ({source}); use the certificate of the authority that signed GitHub's"
    )]
    NotCertificate {
        /// Counted from one.
        number: usize,
        #[source]
        source: rustls::Error,
    },
    /// No TLS version could be configured, which is a bug of this build.
    #[error("TLS could not be set up; this is a fault of this build of Landfall, please report it")]
    Tls(#[source] rustls::Error),
}

/// The versions of HTTP that a server is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Versions {
    All,
    Http1,
}

/// Real HTTPS: hyper over rustls with aws-lc, HTTP/2 or 1.1, a pool of connections.
pub struct HttpsConnect {
    native_roots: RootCertStore,
    proxies: Proxies,
    versions: Versions,
}

impl HttpsConnect {
    /// Direct connections, whatever the environment says. Loads the system's roots. If there are none, only the certificates of
    /// a `caBundle` are trusted.
    #[must_use]
    pub fn new() -> Self {
        Self::through(Proxies::default())
    }

    /// Direct connections to servers of the `caBundle`'s authorities alone, within the cluster.
    #[must_use]
    pub fn without_system_roots() -> Self {
        Self { native_roots: RootCertStore::empty(), proxies: Proxies::default(), versions: Versions::All }
    }

    /// The same, with connections through a proxy.
    #[must_use]
    pub fn through(proxies: Proxies) -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's certificate authorities could not be read");
        }
        let mut native_roots = RootCertStore::empty();
        let (added, ignored) = native_roots.add_parsable_certificates(found.certs);
        tracing::debug!(added, ignored, "loaded the system's certificate authorities");
        Self { native_roots, proxies, versions: Versions::All }
    }

    /// The same, with a connection for each exchange in progress, by HTTP/1.1 alone. The exchanges of one HTTP/2 connection share a
    /// window, so a few answers that nobody reads would hold up all others.
    #[must_use]
    pub fn with_separate_connections(self) -> Self {
        Self { versions: Versions::Http1, ..self }
    }
}

impl Default for HttpsConnect {
    fn default() -> Self {
        Self::new()
    }
}

impl Connect for HttpsConnect {
    fn connect_within(&self, reach: Reach, ca_bundle: Option<&[u8]>) -> Result<Transport, CaBundleError> {
        let mut roots = self.native_roots.clone();
        if let Some(bundle) = ca_bundle {
            add_bundle(&mut roots, bundle)?;
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(CaBundleError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls);
        let https = match reach {
            // `Endpoint` has decided whether plain http is allowed.
            Reach::Anywhere => https.https_or_http(),
            Reach::Private | Reach::Public => https.https_only(),
        };
        let connector = Connector::new(reach, self.proxies.clone());
        let https = match self.versions {
            Versions::All => https.enable_all_versions().wrap_connector(connector),
            Versions::Http1 => https.enable_http1().wrap_connector(connector),
        };
        let client: Client<_, OctoBody> = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_timer(TokioTimer::new())
            .build(https);
        let proxies = self.proxies.clone();
        Ok(Transport::new(service_fn(move |request: Request<OctoBody>| {
            // A host that is an IP address is never resolved.
            let within = reach.check_host(request.uri().host().unwrap_or_default());
            let (client, hop) = (client.clone(), proxies.toward(request.uri()));
            async move {
                within?;
                client.request(request).await.map_err(|error| match hop {
                    Some(hop) => BoxError::from(Proxied::new(hop, error)),
                    None => error.into(),
                })
            }
        })))
    }
}

fn add_bundle(roots: &mut RootCertStore, bundle: &[u8]) -> Result<(), CaBundleError> {
    let mut number = 0;
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        number += 1;
        let certificate = certificate.map_err(|source| CaBundleError::NotPem { number, source })?;
        roots.add(certificate).map_err(|source| CaBundleError::NotCertificate { number, source })?;
    }
    if number == 0 { Err(CaBundleError::Empty) } else { Ok(()) }
}

/// The reason why an exchange failed, if the remedy depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// No connection: the name does not resolve, nothing listens, no route, a connect timeout.
    NotConnected,
    /// An authority that is not trusted here signed the certificate.
    Untrusted,
    /// The certificate is for another host, expired or otherwise invalid.
    BadCertificate,
    /// No complete answer in time. The request may have taken effect.
    TimedOut,
    /// The connection ended before the answer was complete. The request may have taken effect.
    Cut,
}

impl Unreached {
    /// One word for a metric's label.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotConnected => "connect",
            Self::Untrusted => "untrusted",
            Self::BadCertificate => "certificate",
            Self::TimedOut => "timeout",
            Self::Cut => "cut",
        }
    }
}

/// Finds the reason in the chain of a transport's error.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> Unreached {
    let mut found = Unreached::Cut;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return tls_reason(tls);
        }
        if error.downcast_ref::<LegacyError>().is_some_and(LegacyError::is_connect) {
            found = Unreached::NotConnected;
        }
        next = deeper(error);
    }
    found
}

/// The cause of an error. For an I/O error it is the wrapped error, whereas `source` skips that one.
pub(crate) fn deeper<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn tls_reason(error: &rustls::Error) -> Unreached {
    match error {
        // A wrong signature comes from another authority of the same name, for example after it was created again.
        rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
        ) => Unreached::Untrusted,
        rustls::Error::InvalidCertificate(_) => Unreached::BadCertificate,
        _ => Unreached::NotConnected,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::CertificateError::{BadSignature, Expired, NotValidForName, UnknownIssuer};

    use super::*;

    #[test]
    fn the_reason_is_found_however_deep_it_is_wrapped() {
        let tls = |error: rustls::CertificateError| {
            io::Error::other(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error)))
        };
        for (error, expected) in [
            (tls(UnknownIssuer), Unreached::Untrusted),
            (tls(BadSignature), Unreached::Untrusted),
            (tls(NotValidForName), Unreached::BadCertificate),
            (tls(Expired), Unreached::BadCertificate),
            (io::Error::other(rustls::Error::HandshakeNotComplete), Unreached::NotConnected),
            (io::Error::from(io::ErrorKind::ConnectionReset), Unreached::Cut),
        ] {
            assert_eq!(reason(&error), expected, "{error}");
        }
    }

    #[tokio::test]
    async fn where_nothing_listens_there_is_no_connection() {
        // Held, so that no other test listens there meanwhile.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let transport = HttpsConnect::new().connect(None).unwrap();
        let request = Request::get(format!("https://{address}/")).body(OctoBody::empty()).unwrap();
        let error = transport.oneshot(request).await.unwrap_err();
        assert_eq!(reason(&*error), Unreached::NotConnected);
    }

    /// A server that offers HTTP/2 before HTTP/1.1, and answers with this many bytes. Returns its address and certificate.
    async fn offers_http2(bytes: usize) -> (std::net::SocketAddr, String) {
        use hyper_util::server::conn::auto;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let certificates = vec![made.cert.der().clone()];
        let mut tls = builder.with_no_client_auth().with_single_cert(certificates, key).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    let stream = hyper_util::rt::TokioIo::new(tls.accept(stream).await.unwrap());
                    let answer = hyper::service::service_fn(move |_| async move {
                        let body = http_body_util::Full::new(Bytes::from(vec![0; bytes]));
                        Ok::<_, std::convert::Infallible>(Response::new(body))
                    });
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await;
                });
            }
        });
        (address, made.cert.pem())
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_hold_up_no_others_on_separate_connections() {
        // Three of them are more than the window of an HTTP/2 connection.
        const ANSWER: usize = 8 << 20;
        let (address, ca) = offers_http2(ANSWER).await;
        let get = async |transport: &Transport| {
            let request = Request::get(format!("https://{address}/")).body(OctoBody::empty()).unwrap();
            transport.clone().oneshot(request).await.unwrap()
        };
        let shared = HttpsConnect::new().connect(Some(ca.as_bytes())).unwrap();
        assert_eq!(get(&shared).await.version(), http::Version::HTTP_2, "the server would speak it");
        let separate = HttpsConnect::new().with_separate_connections().connect(Some(ca.as_bytes())).unwrap();
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(get(&separate).await);
        }
        let read = get(&separate).await.into_body().collect();
        let read =
            tokio::time::timeout(Duration::from_mins(1), read).await.expect("the fourth answer arrives").unwrap();
        assert_eq!(read.to_bytes().len(), ANSWER);
        drop(silent);
    }

    #[test]
    fn a_bundle_that_cannot_be_used_says_which_certificate_and_what_to_do() {
        let connect = HttpsConnect::new();
        let good = rcgen::generate_simple_self_signed(["h.example".to_owned()]).unwrap().cert.pem();
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = &good[..good.len() / 2];
        for (bundle, expected) in [
            (String::new(), "spec.caBundle holds no certificate; put the certificate authority there as PEM"),
            ("words".into(), "spec.caBundle holds no certificate"),
            (
                format!("{good}{bad}"),
                "spec.caBundle: certificate 2 cannot be a trust anchor (invalid peer certificate: BadEncoding)",
            ),
            (format!("{good}{cut}"), "spec.caBundle: certificate 2 is not valid PEM; copy it again"),
        ] {
            let Err(error) = connect.connect(Some(bundle.as_bytes())) else { panic!("{bundle} was taken") };
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        assert!(connect.connect(Some(good.as_bytes())).is_ok());
    }
}
