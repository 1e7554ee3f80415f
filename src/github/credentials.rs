//! An App's credentials: its id and the keys that sign its JSON web tokens.
//!
//! The invariant: each of the two keys is a [`Signer`] that can sign. A Secret with any other content was refused with
//! a remedy ([`super::private_key`]). There are two keys so that an administrator can replace one without a gap: when
//! GitHub refuses one key, [`super::stack`] tries the other once, and the key that GitHub accepted is preferred from
//! then on.
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

use super::jwt::{CachedSigner, Jwt, PemSigner, SignError, Signer};
use super::private_key::{self, KeyProblem};

/// One of an App's two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `private-key.pem`
    Current,
    /// `private-key-next.pem`
    Next,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Current => "private-key.pem",
            Self::Next => "private-key-next.pem",
        })
    }
}

/// The reason why credentials cannot be used. The message contains no part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Neither an App id nor a client id.
    #[error("the App's id is missing; set spec.appID, or spec.clientID, from the App's settings page")]
    NoIssuer,
    /// One of the keys cannot be used.
    #[error("{key} {problem}")]
    Key {
        /// The key.
        key: Key,
        /// The reason, with a remedy.
        problem: KeyProblem,
    },
}

/// An App's id and the keys that it signs with.
pub struct AppCredentials {
    issuer: String,
    current: CachedSigner,
    next: Option<CachedSigner>,
    prefers_next: AtomicBool,
}

impl fmt::Debug for AppCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppCredentials")
            .field("issuer", &self.issuer)
            .field("has_next", &self.next.is_some())
            .finish_non_exhaustive()
    }
}

impl AppCredentials {
    /// Reads the client id or App id, `private-key.pem` and, if there is one, `private-key-next.pem` (an empty one counts as
    /// none). Takes PKCS#1, in which GitHub gives keys, and PKCS#8.
    pub fn parse(issuer: &str, pem: &[u8], next: Option<&[u8]>) -> Result<Self, CredentialsError> {
        // The issuer is checked first: without it no key is of use.
        let issuer = issuer_of(issuer)?;
        let signer = |key, pem: &[u8]| -> Result<Arc<dyn Signer>, CredentialsError> {
            let key = private_key::read(pem).map_err(|problem| CredentialsError::Key { key, problem })?;
            Ok(Arc::new(PemSigner::new(key)))
        };
        let next = next.filter(|pem| !pem.trim_ascii().is_empty());
        let next = next.map(|pem| signer(Key::Next, pem)).transpose()?;
        Self::with_signers(&issuer, signer(Key::Current, pem)?, next)
    }

    /// The credentials of an App whose keys are elsewhere, for example in a key management service.
    pub fn with_signers(
        issuer: &str,
        current: Arc<dyn Signer>,
        next: Option<Arc<dyn Signer>>,
    ) -> Result<Self, CredentialsError> {
        Ok(Self {
            issuer: issuer_of(issuer)?,
            current: CachedSigner::new(current),
            next: next.map(CachedSigner::new),
            prefers_next: AtomicBool::new(false),
        })
    }

    /// The key to sign with first.
    pub(super) fn preferred(&self) -> Key {
        if self.prefers_next.load(Ordering::Relaxed) { Key::Next } else { Key::Current }
    }

    /// The key to try when GitHub refused `refused`.
    pub(super) fn alternative(&self, refused: Key) -> Option<Key> {
        match refused {
            Key::Current => self.next.is_some().then_some(Key::Next),
            Key::Next => Some(Key::Current),
        }
    }

    pub(super) fn prefer(&self, key: Key) {
        self.prefers_next.store(key == Key::Next, Ordering::Relaxed);
    }

    /// A JWT that is valid at `now`: the one that this key signed last, as long as it can be reused, or else a new one.
    pub(super) async fn jwt(&self, key: Key, now: Timestamp) -> Result<Jwt, SignError> {
        self.signer(key)?.jwt(&self.issuer, now).await
    }

    /// Forgets the JWT that this key signed last, because GitHub refused it.
    pub(super) async fn forget(&self, key: Key) {
        if let Ok(signer) = self.signer(key) {
            signer.forget().await;
        }
    }

    fn signer(&self, key: Key) -> Result<&CachedSigner, SignError> {
        match key {
            Key::Current => Ok(&self.current),
            Key::Next => self.next.as_ref().ok_or(SignError("there is no such key".into())),
        }
    }
}

fn issuer_of(text: &str) -> Result<String, CredentialsError> {
    let issuer = text.trim();
    if issuer.is_empty() { Err(CredentialsError::NoIssuer) } else { Ok(issuer.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::github::test_keys::KEYS;

    #[tokio::test]
    async fn a_jwt_verifies_with_the_public_key_and_carries_the_claims() {
        let now: Timestamp = "2026-11-21T01:00:00Z".parse().unwrap();
        let [current, next] = &*KEYS;
        for (pem, next_pem) in [(current.pkcs1(), next.pkcs8()), (current.pkcs8(), next.pkcs1())] {
            let credentials = AppCredentials::parse(" Iv23liABC\n", &pem, Some(&next_pem)).unwrap();
            let jwt = credentials.jwt(Key::Current, now).await.unwrap().token;
            let expected =
                serde_json::json!({"iss": "Iv23liABC", "iat": now.as_second() - 60, "exp": now.as_second() + 540});
            assert_eq!(current.verify(jwt.expose()), Some(expected));
            assert_eq!(next.verify(jwt.expose()), None);
            assert!(next.verify(credentials.jwt(Key::Next, now).await.unwrap().token.expose()).is_some());
        }
    }

    #[test]
    fn an_issuer_is_needed_and_a_problem_names_its_key() {
        let key = &KEYS[0];
        let error = AppCredentials::parse("1", &key.pkcs1(), Some(b"secret")).unwrap_err().to_string();
        assert!(error.starts_with("private-key-next.pem is not PEM"), "{error}");
        assert_eq!(AppCredentials::parse(" ", &key.pkcs1(), None).unwrap_err(), CredentialsError::NoIssuer);
    }

    #[test]
    fn an_empty_next_key_is_none() {
        let credentials = AppCredentials::parse("1", &KEYS[0].pkcs1(), Some(b"\n")).unwrap();
        assert_eq!(credentials.alternative(Key::Current), None);
        assert!(!format!("{credentials:?}").contains("BEGIN"));
    }
}
