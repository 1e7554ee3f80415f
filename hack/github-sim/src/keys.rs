//! Key pairs of Apps, in the formats that GitHub uses and accepts.
//!
//! GitHub gives a person the private key as PKCS#1 and stores the public one. So does the simulator.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use pem::{EncodeConfig, LineEnding, Pem};

/// The reason why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The cryptographic library failed to make a key.
    #[error("no RSA key pair could be generated")]
    Generate,
    /// The text is not PEM.
    #[error("the key is not PEM; give the file that GitHub offers as a download")]
    NotPem(#[source] pem::PemError),
    /// The PEM text is not an RSA key.
    #[error(
        "a PEM block {found:?} is not an RSA key; expected RSA PRIVATE KEY, PRIVATE KEY, PUBLIC KEY or RSA PUBLIC KEY"
    )]
    NotRsa {
        /// The label of the PEM block.
        found: String,
    },
}

/// The key pair of an App.
pub struct AppKey {
    private: String,
    public: String,
}

impl AppKey {
    /// A new RSA key of 2048 bits.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Generate)?;
        let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| KeyError::Generate)?;
        let pkcs1 = unwrap_pkcs8(pkcs8.as_ref()).ok_or(KeyError::Generate)?;
        Ok(Self { private: encode("RSA PRIVATE KEY", pkcs1), public: encode("PUBLIC KEY", &spki(&pair)?) })
    }

    /// The private half: PKCS#1 PEM, as GitHub's download is.
    #[must_use]
    pub fn private_pem(&self) -> &str {
        &self.private
    }

    /// The public half: `SubjectPublicKeyInfo` PEM, for [`crate::AppSeed::public_key`].
    #[must_use]
    pub fn public_pem(&self) -> &str {
        &self.public
    }
}

impl std::fmt::Debug for AppKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppKey([redacted])")
    }
}

/// The DER of the public key in a PEM text with either key.
pub(crate) fn public_der(text: &str) -> Result<Vec<u8>, KeyError> {
    let block = pem::parse(text).map_err(KeyError::NotPem)?;
    let not_rsa = || KeyError::NotRsa { found: block.tag().to_owned() };
    match block.tag() {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => Ok(block.contents().to_vec()),
        "RSA PRIVATE KEY" => spki(&KeyPair::from_der(block.contents()).map_err(|_| not_rsa())?),
        "PRIVATE KEY" => spki(&KeyPair::from_pkcs8(block.contents()).map_err(|_| not_rsa())?),
        _ => Err(not_rsa()),
    }
}

fn spki(pair: &KeyPair) -> Result<Vec<u8>, KeyError> {
    let der = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(|_| KeyError::Generate)?;
    Ok(der.as_ref().to_vec())
}

fn encode(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

/// The `RSAPrivateKey` inside a `PrivateKeyInfo` (RFC 5208): version, algorithm, then the key in an octet string.
fn unwrap_pkcs8(der: &[u8]) -> Option<&[u8]> {
    let (_, info, _) = element(der)?;
    let (_, _, rest) = element(info)?;
    let (_, _, rest) = element(rest)?;
    let (tag, key, _) = element(rest)?;
    (tag == 0x04).then_some(key)
}

/// Splits off the first DER element: its tag, its content, and the rest.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_half_is_pkcs1_and_belongs_to_the_public_one() {
        let key = AppKey::generate().unwrap();
        assert!(key.private_pem().starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
        assert_eq!(public_der(key.private_pem()).unwrap(), public_der(key.public_pem()).unwrap());
        assert_eq!(format!("{key:?}"), "AppKey([redacted])");
    }

    #[test]
    fn what_is_no_key_is_refused_by_name() {
        let refused = public_der("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap_err();
        assert!(refused.to_string().contains("CERTIFICATE"), "{refused}");
        assert!(matches!(public_der("hello"), Err(KeyError::NotPem(_))));
    }
}
