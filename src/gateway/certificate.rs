//! The gateway's certificate, from the files of a mounted Secret (`tls.crt`, `tls.key`).
//!
//! The invariant: a renewed pair is served without a restart, and a pair that cannot be read or does not fit together never takes
//! the place of one that works. The kubelet changes the two files at once, by a link to another directory, but two reads can fall
//! on both sides of that; such a pair does not fit and the next look reads it again.

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// Why a pair of files cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {}; mount the Secret of the gateway's certificate there", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{} is not PEM of the expected kind; it has the certificates, and tls.key the private key", .0.display())]
    Pem(PathBuf, #[source] pem::Error),
    #[error("{} has no certificate", .0.display())]
    Empty(PathBuf),
    #[error("the certificate and the private key in {} cannot be served together", .0.display())]
    Pair(PathBuf, #[source] rustls::Error),
    #[error("TLS could not be set up; this is a fault of this build of Landfall, please report it")]
    Tls(#[source] rustls::Error),
}

/// The certificate that new connections get.
#[derive(Debug)]
pub struct Certificate {
    directory: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads the files in `directory`.
    pub fn read(directory: &Path) -> Result<Arc<Self>, CertificateError> {
        let provider = Arc::new(default_provider());
        let current = RwLock::new(Arc::new(pair(directory, &provider)?));
        Ok(Arc::new(Self { directory: directory.to_owned(), provider, current }))
    }

    /// A configuration that serves the certificate of the moment.
    pub fn server(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(CertificateError::Tls)?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::<Self>::clone(self));
        // Each connection is one client's git, which has one request at a time.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Reads the files again.
    pub fn renew(&self) -> Result<(), CertificateError> {
        let pair = pair(&self.directory, &self.provider)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.cert != pair.cert {
            tracing::info!("the gateway's certificate was renewed");
            *current = Arc::new(pair);
        }
        Ok(())
    }

    /// Reads the files again and again, until shutdown.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut is_failing = false;
        loop {
            tokio::select! {
                () = sleep(EVERY) => {}
                () = shutdown.cancelled() => return,
            }
            match self.renew() {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(error, "the gateway goes on with the certificate that it has");
                    }
                }
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn pair(directory: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).map(Zeroizing::new).map_err(|error| CertificateError::Read(path, error))
    };
    let (chain, key) = (read(CHAIN)?, read(KEY)?);
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| CertificateError::Pem(directory.join(CHAIN), error))?;
    if chain.is_empty() {
        return Err(CertificateError::Empty(directory.join(CHAIN)));
    }
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| CertificateError::Pem(directory.join(KEY), error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| CertificateError::Pair(directory.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        chain: String,
        key: String,
    }

    fn made() -> Pair {
        let made = rcgen::generate_simple_self_signed(["gateway".to_owned()]).unwrap();
        Pair { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn write(directory: &Path, chain: &str, key: &str) {
        std::fs::write(directory.join(CHAIN), chain).unwrap();
        std::fs::write(directory.join(KEY), key).unwrap();
    }

    fn served(certificate: &Certificate) -> Vec<u8> {
        certificate.current.read().unwrap().cert[0].to_vec()
    }

    #[test]
    fn a_renewed_pair_is_served_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert!(matches!(Certificate::read(at), Err(CertificateError::Read(..))));
        let (first, second) = (made(), made());
        write(at, &first.chain, &first.key);
        let certificate = Certificate::read(at).unwrap();
        let before = served(&certificate);
        assert!(certificate.server().is_ok());
        for (chain, key) in [
            (&second.chain, &first.key),
            (&String::new(), &second.key),
            (&second.chain, &String::new()),
            (&second.key, &second.key),
            (&second.chain, &second.chain),
        ] {
            write(at, chain, key);
            let error = certificate.renew().unwrap_err();
            assert!(!format!("{error:?} {error}").contains("PRIVATE"), "{error:?}");
            assert_eq!(served(&certificate), before, "{error}");
        }
        write(at, &second.chain, &second.key);
        certificate.renew().unwrap();
        assert_ne!(served(&certificate), before);
        let renewed = served(&certificate);
        std::fs::remove_file(at.join(KEY)).unwrap();
        assert!(certificate.renew().is_err());
        assert_eq!(served(&certificate), renewed);
    }
}
