//! Types for secrets: an access token, the PEM of a private key, and a webhook's secret.
//!
//! The invariant: a value of these types cannot be printed, logged or serialized by accident. Code that needs the bytes calls
//! `expose()`, which a reviewer finds easily. The memory is overwritten when the last clone is dropped. (Copies in the buffers of
//! TLS and HTTP during a request are not.) Without these types one `{:?}` of a struct in a log line publishes a token.
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::ids::InstallationId;

/// The replacement for a secret in printed text.
pub const REDACTED: &str = "[redacted]";

/// An access token of GitHub. Clones share one buffer.
///
/// Since October 2026 an installation token is about 520 characters of `[A-Za-z0-9._-]`; nothing here assumes a length.
#[derive(Clone)]
pub struct Token {
    text: Arc<Zeroizing<String>>,
    installation: Option<InstallationId>,
}

impl Token {
    #[must_use]
    pub fn new(token: String) -> Self {
        Self { text: Arc::new(Zeroizing::new(token)), installation: None }
    }

    /// The same token with its installation. All tokens of an installation share one rate limit.
    #[must_use]
    pub(super) fn of_installation(self, id: InstallationId) -> Self {
        Self { installation: Some(id), ..self }
    }

    /// The token's installation, if this process minted it.
    pub(super) fn installation(&self) -> Option<InstallationId> {
        self.installation
    }

    /// The token itself, only for an `Authorization` header or a Secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The first 16 hexadecimal digits of the token's SHA-256, to distinguish tokens in status and logs. Nobody can compute the
    /// token from them.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.text.as_bytes());
        hex::encode(&digest.as_ref()[..8])
    }
}

/// Tokens are equal if their texts are.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Token {}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// The private key of a GitHub App as PEM text, as a Secret carries it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKeyPem(Arc<Zeroizing<Vec<u8>>>);

impl PrivateKeyPem {
    #[must_use]
    pub fn new(pem: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(pem)))
    }

    /// The PEM text itself, only for parsing.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// The secret with which GitHub signs the deliveries of one webhook.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Arc<Zeroizing<String>>);

impl WebhookSecret {
    /// The client does not send an empty one, because GitHub reads it as none.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(Arc::new(Zeroizing::new(secret)))
    }

    /// The secret itself, only for the configuration of a hook or to verify a signature.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

macro_rules! printed_as_redacted {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(REDACTED)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(REDACTED)
            }
        }
    )*};
}
printed_as_redacted!(Token, PrivateKeyPem, WebhookSecret);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_redacted() {
        let token = Token::new("ghs_1_a.b-c".into());
        let pem = PrivateKeyPem::new(b"-----BEGIN".to_vec());
        let hook = WebhookSecret::new("5ec4e7".into());
        assert_eq!(format!("{token} {token:?} {token:#?} {pem} {pem:?} {hook} {hook:?}"), ["[redacted]"; 7].join(" "));
        assert_eq!(token.expose(), "ghs_1_a.b-c");
    }

    #[test]
    fn the_fingerprint_is_a_prefix_of_the_sha_256() {
        // echo -n abc | sha256sum (FIPS 180-2, appendix B.1)
        assert_eq!(Token::new("abc".into()).fingerprint(), "ba7816bf8f01cfea");
    }
}
