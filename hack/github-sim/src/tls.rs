//! The certificate authority of one simulator and the certificate it serves with.
//!
//! Each start makes a new authority: a client that trusts it can be fooled by nobody else's key.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why the simulator cannot serve TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A name is not a DNS name, or the library made no certificate.
    #[error("no certificate could be made for {names:?}")]
    Certificate {
        /// The names asked for.
        names: Vec<String>,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// rustls refuses the certificate or its key.
    #[error("the certificate cannot be served")]
    Serve(#[source] rustls::Error),
}

/// An authority with the configuration of a server it vouches for.
pub(crate) struct Authority {
    pub(crate) ca_pem: String,
    pub(crate) server: Arc<rustls::ServerConfig>,
}

/// The one provider of cryptography in this process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Authority {
    /// A new authority, and a server certificate for `names` (DNS names and addresses).
    pub(crate) fn new(names: &[String]) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Certificate { names: names.to_vec(), source };
        let ca_key = KeyPair::generate().map_err(failed)?;
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "github-sim authority");
        let ca_certificate = ca.self_signed(&ca_key).map_err(failed)?;

        let key = KeyPair::generate().map_err(failed)?;
        let mut leaf = CertificateParams::new(names.to_vec()).map_err(failed)?;
        leaf.distinguished_name.push(DnType::CommonName, "github-sim");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).map_err(failed)?;

        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsError::Serve)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { ca_pem: ca_certificate.pem(), server: Arc::new(server) })
    }
}

/// The names a listener on `address` can be reached by, and the extra ones.
pub(crate) fn names(address: IpAddr, extra: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    names.extend(extra.iter().cloned());
    names.sort_unstable();
    names.dedup();
    names
}
