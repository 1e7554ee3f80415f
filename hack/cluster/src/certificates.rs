//! The cluster's own certificate authority, and its certificates for the programs and the admin.
//!
//! Each cluster has its own authority, which is created at its start and removed with it. A key that outlived its
//! cluster would be an admin's key for the next one. All keys are P-256.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// The reason why a certificate cannot be made or written.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate of {subject} could not be made")]
    Make {
        /// The subject of the certificate.
        subject: String,
        #[source]
        source: rcgen::Error,
    },
    /// The file could not be written.
    #[error("{} could not be written: look at its folder's permissions and the free space", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The authority of one cluster; its certificates and keys are files below one folder.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// Creates the authority, and the key that signs service accounts' tokens.
    pub(crate) fn create(folder: &Path) -> Result<Self, CertificateError> {
        let make = |source| CertificateError::Make { subject: "the authority".to_owned(), source };
        let mut parameters = parameters("landfall-cluster", None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(make)?;
        let authority =
            Self { issuer: CertifiedIssuer::self_signed(parameters, key).map_err(make)?, folder: folder.to_owned() };
        let tokens = KeyPair::generate().map_err(make)?;
        authority.write("ca.crt", &authority.issuer.pem())?;
        authority.write("service-accounts.key", &tokens.serialize_pem())?;
        authority.write("service-accounts.pub", &tokens.public_key_pem())?;
        Ok(authority)
    }

    /// The authority's certificate, in PEM.
    pub(crate) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A client certificate. Its common name and organization are the user and group for Kubernetes.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> Result<Identity, CertificateError> {
        let mut parameters = parameters(user, group);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, &parameters)
    }

    /// A server certificate for these names and addresses, written as `NAME.crt` and `NAME.key`.
    pub(crate) fn write_server(&self, name: &str, hosts: &[&str], ips: &[IpAddr]) -> Result<(), CertificateError> {
        let make = |source| CertificateError::Make { subject: name.to_owned(), source };
        let mut parameters = parameters(name, None);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for host in hosts {
            parameters.subject_alt_names.push(SanType::DnsName((*host).try_into().map_err(make)?));
        }
        parameters.subject_alt_names.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
        self.write_identity(name, &self.sign(name, &parameters)?)
    }

    /// Writes an identity as `NAME.crt` and `NAME.key`.
    pub(crate) fn write_identity(&self, name: &str, identity: &Identity) -> Result<(), CertificateError> {
        self.write(&format!("{name}.crt"), &identity.certificate)?;
        self.write(&format!("{name}.key"), &identity.key)
    }

    fn sign(&self, subject: &str, parameters: &CertificateParams) -> Result<Identity, CertificateError> {
        let make = |source| CertificateError::Make { subject: subject.to_owned(), source };
        let key = KeyPair::generate().map_err(make)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn write(&self, name: &str, content: &str) -> Result<(), CertificateError> {
        let path = self.folder.join(name);
        write_private(&path, content).map_err(|source| CertificateError::Write { path, source })
    }
}

fn parameters(name: &str, organization: Option<&str>) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        parameters.distinguished_name.push(DnType::OrganizationName, organization);
    }
    parameters
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, content: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())
}
