//! The Secrets with the operator's authority and the gateway's certificate, and the internal API's own certificate.
//!
//! The invariant: the key of the authority is in its Secret and in the controllers' memory and nowhere else; the gateway mounts the
//! Secret of its own certificate alone. Only the controller that leads writes. A Secret that cannot be read is not overwritten.

use super::authority::{Authorities, Leaf, fresh};
use crate::runtime::clock::Clock;
use crate::runtime::lenient::Lenient;
use crate::settings::GatewayAuthority;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The Secret with the authority, in the operator's namespace.
pub const AUTHORITY_SECRET: &str = "landfall-gateway-ca";
/// The Secret with the gateway's certificate.
pub const GATEWAY_SECRET: &str = "landfall-gateway-tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const BUNDLE: &str = "ca.crt";
const NOT_AFTER: &str = "not-after";
const NAMES: &str = "names";
const ISSUER: &str = "issuer";
/// How often the Secrets are looked at.
const EVERY: Duration = Duration::from_mins(10);
/// The same, until all is there.
const SOON: Duration = Duration::from_secs(1);

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    #[error("Secret {0} cannot be read or written")]
    Kubernetes(&'static str, #[source] kube::Error),
    #[error("Secret {AUTHORITY_SECRET} is not complete; delete it, and the operator makes another authority")]
    Unusable,
    #[error("the controller that leads has not made Secret {AUTHORITY_SECRET} yet")]
    NotYet,
    #[error("a certificate cannot be made")]
    Made(#[from] rcgen::Error),
    #[error("the internal API's certificate cannot be served")]
    Served(#[source] rustls::Error),
}

/// The internal API's certificate, for new connections. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Served(Arc<Current>);

#[derive(Debug, Default)]
struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl Served {
    /// A configuration of TLS. Handshakes fail until there is a certificate.
    ///
    /// # Errors
    /// No version of TLS can be configured, which is a fault of this build.
    pub fn server(&self) -> Result<Arc<ServerConfig>, CertificatesError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(CertificatesError::Served)?;
        let mut config =
            builder.with_no_client_auth().with_cert_resolver(Arc::clone(&self.0) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The names of the servers that have certificates.
pub struct Names {
    pub gateway: Vec<String>,
    pub internal: Vec<String>,
}

/// Keeps the certificates.
pub struct Certificates {
    client: Client,
    namespace: String,
    clock: Arc<dyn Clock>,
    /// The names of the gateway.
    gateway: Vec<String>,
    /// The names of the internal API.
    internal: Vec<String>,
    /// The certificates that pods get.
    authority: GatewayAuthority,
    /// Called when those are others: new pods wait for them.
    changed: Box<dyn Fn() + Send + Sync>,
    served: Served,
    /// Whether this process writes.
    leads: Arc<AtomicBool>,
}

impl Certificates {
    /// `gateway` and `internal`: the names of the two servers. `changed` is called when `authority` has other certificates. `leads`:
    /// whether this process writes.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: String,
        clock: Arc<dyn Clock>,
        Names { gateway, internal }: Names,
        (authority, changed): (GatewayAuthority, Box<dyn Fn() + Send + Sync>),
        (served, leads): (Served, Arc<AtomicBool>),
    ) -> Self {
        Self { client, namespace, clock, gateway, internal, authority, changed, served, leads }
    }

    /// Looks at the certificates again and again, until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut is_failing, mut own) = (false, None);
        loop {
            let wait = match self.look(&mut own).await {
                Ok(()) => {
                    is_failing = false;
                    // A process that leads later has to look again, to write.
                    if self.leads.load(Ordering::SeqCst) { EVERY } else { SOON * 10 }
                }
                Err(CertificatesError::NotYet) => SOON,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(
                            error,
                            "the gateway's certificates are not there; this is logged once until they are"
                        );
                    }
                    SOON * 5
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// `own`: the authority and the end of the internal API's certificate.
    async fn look(&self, own: &mut Option<(String, Timestamp)>) -> Result<(), CertificatesError> {
        let authorities = self.authorities().await?;
        let now = self.clock.now();
        let bundle = authorities.bundle();
        if self.authority.pem().as_deref() != Some(bundle.as_str()) {
            self.authority.set(&bundle);
            (self.changed)();
        }
        let signer = authorities.current.name();
        if own.as_ref().is_none_or(|(of, end)| of != signer || Leaf::is_ending(*end, now)) {
            let leaf = authorities.current.issue(&self.internal, now)?;
            let served = served(&leaf)?;
            *self.served.0.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(served));
            *own = Some((signer.to_owned(), leaf.not_after));
        }
        if self.leads.load(Ordering::SeqCst) {
            self.keep_gateway(&authorities).await?;
        }
        Ok(())
    }

    async fn authorities(&self) -> Result<Authorities, CertificatesError> {
        let leads = self.leads.load(Ordering::SeqCst);
        let Some(secret) = self.read(AUTHORITY_SECRET).await? else {
            if !leads {
                return Err(CertificatesError::NotYet);
            }
            let made = fresh(&*self.clock)?;
            self.create(AUTHORITY_SECRET, made.data()).await?;
            tracing::info!(secret = AUTHORITY_SECRET, "made the authority of the gateway's certificate");
            return Ok(made);
        };
        let stored = secret.data.as_ref().and_then(Authorities::read).ok_or(CertificatesError::Unusable)?;
        match stored.due(self.clock.now())? {
            Some(due) if leads => {
                self.replace(AUTHORITY_SECRET, secret, due.data()).await?;
                tracing::info!(
                    secret = AUTHORITY_SECRET,
                    signer = due.current.name(),
                    "renewed the authority of the gateway"
                );
                Ok(due)
            }
            _ => Ok(stored),
        }
    }

    async fn keep_gateway(&self, authorities: &Authorities) -> Result<(), CertificatesError> {
        let now = self.clock.now();
        let (names, bundle, signer) = (self.gateway.join(","), authorities.bundle(), authorities.current.name());
        let secret = self.read(GATEWAY_SECRET).await?;
        let is_right = secret.as_ref().and_then(|secret| secret.data.as_ref()).is_some_and(|data| {
            let is = |key: &str, value: &str| data.get(key).is_some_and(|stored| stored.0 == value.as_bytes());
            let end = data.get(NOT_AFTER).and_then(|end| str::from_utf8(&end.0).ok()?.parse().ok());
            is(NAMES, &names)
                && is(BUNDLE, &bundle)
                && is(ISSUER, signer)
                && [CERTIFICATE, KEY].iter().all(|key| data.contains_key(*key))
                && end.is_some_and(|end| !Leaf::is_ending(end, now))
        });
        if is_right {
            return Ok(());
        }
        let leaf = authorities.current.issue(&self.gateway, now)?;
        let data = [
            (CERTIFICATE, leaf.certificate.as_str()),
            (KEY, leaf.key.as_str()),
            (BUNDLE, &bundle),
            (NOT_AFTER, &leaf.not_after.to_string()),
            (NAMES, &names),
            (ISSUER, signer),
        ];
        let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec()))).into();
        match secret {
            None => self.create(GATEWAY_SECRET, data).await?,
            Some(secret) => self.replace(GATEWAY_SECRET, secret, data).await?,
        }
        tracing::info!(secret = GATEWAY_SECRET, names, until = %leaf.not_after, "made the gateway's certificate");
        Ok(())
    }

    fn secrets(&self) -> Api<Lenient<Secret>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn read(&self, name: &'static str) -> Result<Option<Secret>, CertificatesError> {
        let failed = |error| CertificatesError::Kubernetes(name, error);
        let found = self.secrets().get_opt(name).await.map_err(failed)?;
        found.map(Lenient::read).transpose().map_err(failed)
    }

    async fn create(&self, name: &'static str, data: BTreeMap<String, ByteString>) -> Result<(), CertificatesError> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        self.write(name, Secret { metadata, data: Some(data), type_: Some("Opaque".into()), ..Secret::default() }).await
    }

    /// Replaces the content of the Secret that was read, and no newer one.
    async fn replace(
        &self,
        name: &'static str,
        mut secret: Secret,
        data: BTreeMap<String, ByteString>,
    ) -> Result<(), CertificatesError> {
        secret.data = Some(data);
        self.write(name, secret).await
    }

    async fn write(&self, name: &'static str, secret: Secret) -> Result<(), CertificatesError> {
        let params = PostParams::default();
        let is_there = secret.resource_version().is_some();
        let secret = Lenient::from(secret);
        let written = if is_there {
            self.secrets().replace(name, &params, &secret).await
        } else {
            self.secrets().create(&params, &secret).await
        };
        written.map(drop).map_err(|error| CertificatesError::Kubernetes(name, error))
    }
}

fn served(leaf: &Leaf) -> Result<CertifiedKey, CertificatesError> {
    let general =
        |error: rustls::pki_types::pem::Error| CertificatesError::Served(rustls::Error::General(error.to_string()));
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(general)?;
    CertifiedKey::from_der(chain.map_err(general)?, key, &default_provider()).map_err(CertificatesError::Served)
}
