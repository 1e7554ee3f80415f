//! An App's credentials: its id and its private keys, and the JSON web tokens they sign.
//!
//! The invariant: an [`AppCredentials`] holds RSA keys that can sign; whatever else a Secret may hold under their names was
//! told apart with a remedy. Two keys, so that one can be exchanged for the other without a gap: when GitHub refuses one,
//! the other is tried once ([`super::stack`]), and the one that worked is preferred from then on.
//!
//! Source: <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::secret::Token;

/// GitHub advises to date a JWT back by this against clocks that differ.
const BACKDATED_SECONDS: i64 = 60;
/// GitHub accepts ten minutes at most, counted by its own clock.
const LIFE_SECONDS: i64 = 9 * 60;

/// Which of an App's two keys.
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

/// Why credentials cannot be used. Nothing of a key is in the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Neither an App id nor a client id.
    #[error("the App's id is missing; set spec.appID, or spec.clientID, from the App's settings page")]
    NoIssuer,
    /// Nothing is there.
    #[error("{key} is missing or empty; generate a private key in the App's settings and put the whole file there")]
    Missing {
        /// Which.
        key: Key,
    },
    /// Something is there, and it is not PEM.
    #[error("{key} is not PEM: {problem}; put the file there as GitHub gave it, from its BEGIN to its END line")]
    NotPem {
        /// Which.
        key: Key,
        /// What it looks like.
        problem: &'static str,
    },
    /// PEM of something else than a private RSA key.
    #[error(
        "{key} holds {found}, and an App's key is a private RSA key (BEGIN RSA PRIVATE KEY or BEGIN PRIVATE KEY); {remedy}"
    )]
    WrongKind {
        /// Which.
        key: Key,
        /// What it holds.
        found: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A private RSA key that cannot be used.
    #[error("{key} is a private RSA key that cannot be used ({reason}); put the file there as GitHub gave it")]
    Unusable {
        /// Which.
        key: Key,
        /// What the parser says.
        reason: &'static str,
    },
}

/// An App's id and the keys it signs with.
pub struct AppCredentials {
    issuer: String,
    current: KeyPair,
    next: Option<KeyPair>,
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
    /// Reads the client id or App id, `private-key.pem` and, where there is one, `private-key-next.pem` (empty counts as
    /// none). PKCS#1, as GitHub gives keys, and PKCS#8.
    pub fn parse(issuer: &str, pem: &[u8], next: Option<&[u8]>) -> Result<Self, CredentialsError> {
        let issuer = issuer.trim();
        if issuer.is_empty() {
            return Err(CredentialsError::NoIssuer);
        }
        let next = next.filter(|pem| !pem.trim_ascii().is_empty());
        Ok(Self {
            issuer: issuer.to_owned(),
            current: private_key(Key::Current, pem)?,
            next: next.map(|pem| private_key(Key::Next, pem)).transpose()?,
            prefers_next: AtomicBool::new(false),
        })
    }

    /// The client id or App id.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key to sign with first.
    #[must_use]
    pub fn preferred(&self) -> Key {
        if self.prefers_next.load(Ordering::Relaxed) { Key::Next } else { Key::Current }
    }

    /// The key to try when `refused` was refused.
    pub(super) fn alternative(&self, refused: Key) -> Option<Key> {
        match refused {
            Key::Current => self.next.is_some().then_some(Key::Next),
            Key::Next => Some(Key::Current),
        }
    }

    pub(super) fn prefer(&self, key: Key) {
        self.prefers_next.store(key == Key::Next, Ordering::Relaxed);
    }

    /// A JWT signed with `key`, valid around `now`; `None` when the key cannot sign, or is not there.
    pub(super) fn sign(&self, key: Key, now: Timestamp) -> Option<Token> {
        let pair = match key {
            Key::Current => &self.current,
            Key::Next => self.next.as_ref()?,
        };
        let claims = serde_json::json!({
            "iat": now.as_second() - BACKDATED_SECONDS,
            "exp": now.as_second() + LIFE_SECONDS,
            "iss": self.issuer,
        });
        let mut jwt = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"RS256"}"#);
        jwt.push('.');
        jwt.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), jwt.as_bytes(), &mut signature).ok()?;
        jwt.push('.');
        jwt.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Some(Token::new(jwt))
    }
}

fn private_key(key: Key, pem: &[u8]) -> Result<KeyPair, CredentialsError> {
    if pem.trim_ascii().is_empty() {
        return Err(CredentialsError::Missing { key });
    }
    let label = label(pem).ok_or_else(|| CredentialsError::NotPem { key, problem: not_pem(pem) })?;
    if let Some((found, remedy)) = wrong_kind(&label, pem) {
        return Err(CredentialsError::WrongKind { key, found, remedy });
    }
    let damaged = CredentialsError::NotPem { key, problem: "it is cut or damaged after its BEGIN line" };
    let pair = match PrivateKeyDer::from_pem_slice(pem).map_err(|_| damaged.clone())? {
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        _ => return Err(damaged),
    };
    pair.map_err(|rejected| match rejected.description_() {
        "WrongAlgorithm" => {
            CredentialsError::WrongKind { key, found: "a private key that is not RSA", remedy: GENERATE }
        }
        "TooSmall" => CredentialsError::Unusable { key, reason: "it has fewer than 2048 bits" },
        "TooLarge" => CredentialsError::Unusable { key, reason: "it has more than 8192 bits" },
        _ => CredentialsError::Unusable { key, reason: "its contents do not decode" },
    })
}

const GENERATE: &str = "generate a private key in the App's settings on GitHub";

/// What stands between `-----BEGIN ` and `-----` in the first such line.
fn label(pem: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(pem);
    let (_, rest) = text.split_once("-----BEGIN ")?;
    rest.split_once("-----").map(|(label, _)| label.to_owned())
}

fn not_pem(bytes: &[u8]) -> &'static str {
    let packed: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    match STANDARD.decode(packed) {
        Ok(inner) if inner.starts_with(b"-----BEGIN ") => {
            "it is base64 of PEM, so it was encoded once too often (in a Secret's stringData it goes as it is)"
        }
        _ if bytes.starts_with(&[0x30]) => "it looks like DER, the binary form",
        _ => "it has no BEGIN line",
    }
}

/// What a PEM section is when it is not a private RSA key, and what to do then.
fn wrong_kind(label: &str, pem: &[u8]) -> Option<(&'static str, &'static str)> {
    let encrypted = || ("an encrypted private key", "decrypt it first: openssl rsa -in key.pem -out private-key.pem");
    match label {
        "RSA PRIVATE KEY" if pem.windows(10).any(|window| window == b"Proc-Type:") => Some(encrypted()),
        "RSA PRIVATE KEY" | "PRIVATE KEY" => None,
        "ENCRYPTED PRIVATE KEY" => Some(encrypted()),
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {
            Some(("a public key", "use the private key's file, which GitHub gave once, when the key was generated"))
        }
        "CERTIFICATE" => {
            Some(("a certificate", "a certificate authority goes into spec.caBundle; here goes the App's private key"))
        }
        "EC PRIVATE KEY" => Some(("a private EC key", GENERATE)),
        "OPENSSH PRIVATE KEY" => Some(("an SSH key", GENERATE)),
        _ => Some(("PEM of another kind", GENERATE)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    /// Two keys for all tests, made once: making one takes a while.
    pub static KEYS: LazyLock<[TestKey; 2]> = LazyLock::new(|| [TestKey::generate(), TestKey::generate()]);

    pub struct TestKey {
        pair: KeyPair,
        pkcs8: Vec<u8>,
    }

    impl TestKey {
        fn generate() -> Self {
            let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
            let pkcs8 = AsDer::<Pkcs8V1Der>::as_der(&pair).unwrap().as_ref().to_vec();
            Self { pair, pkcs8 }
        }

        pub fn pkcs8(&self) -> Vec<u8> {
            pem("PRIVATE KEY", &self.pkcs8)
        }

        /// A PKCS#8 envelope of a 2048-bit RSA key is 26 bytes, then comes the PKCS#1 structure.
        pub fn pkcs1(&self) -> Vec<u8> {
            pem("RSA PRIVATE KEY", &self.pkcs8[26..])
        }

        pub fn public(&self) -> Vec<u8> {
            pem("PUBLIC KEY", AsDer::<PublicKeyX509Der>::as_der(self.pair.public_key()).unwrap().as_ref())
        }

        /// The claims of a JWT, by an implementation that is not ours.
        pub fn verify(&self, jwt: &str) -> Option<serde_json::Value> {
            let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
            validation.validate_exp = false;
            validation.set_required_spec_claims(&["exp", "iss"]);
            let key = jsonwebtoken::DecodingKey::from_rsa_pem(&self.public()).unwrap();
            jsonwebtoken::decode(jwt, &key, &validation).ok().map(|data| data.claims)
        }
    }

    fn pem(label: &str, der: &[u8]) -> Vec<u8> {
        let body = STANDARD.encode(der);
        let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into_bytes()
    }

    #[test]
    fn a_jwt_verifies_with_the_public_key_and_carries_the_claims() {
        let now: Timestamp = "2026-11-21T01:00:00Z".parse().unwrap();
        let [current, next] = &*KEYS;
        for (pem, next_pem) in [(current.pkcs1(), next.pkcs8()), (current.pkcs8(), next.pkcs1())] {
            let credentials = AppCredentials::parse(" Iv23liABC\n", &pem, Some(&next_pem)).unwrap();
            let jwt = credentials.sign(Key::Current, now).unwrap();
            let expected =
                serde_json::json!({"iss": "Iv23liABC", "iat": now.as_second() - 60, "exp": now.as_second() + 540});
            assert_eq!(current.verify(jwt.expose()), Some(expected));
            assert_eq!(next.verify(jwt.expose()), None);
            assert!(next.verify(credentials.sign(Key::Next, now).unwrap().expose()).is_some());
        }
    }

    #[test]
    fn what_is_not_a_private_rsa_key_is_told_apart() {
        let rsa = &KEYS[0];
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let ec = pem("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref());
        let cut = String::from_utf8(rsa.pkcs1()).unwrap();
        let cut = &cut.as_bytes()[..cut.len() / 2];
        let legacy = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let base64 = STANDARD.encode(rsa.pkcs1());
        let table: [(&str, &[u8], &str); 14] = [
            ("empty", b"", "private-key.pem is missing or empty; generate"),
            ("blank", b" \n", "private-key.pem is missing or empty; generate"),
            ("words", b"secret", "private-key.pem is not PEM: it has no BEGIN line"),
            ("base64 twice", base64.as_bytes(), "is not PEM: it is base64 of PEM"),
            ("DER", &rsa.pkcs8, "is not PEM: it looks like DER"),
            ("cut", cut, "is not PEM: it is cut or damaged"),
            ("public", &rsa.public(), "holds a public key, and an App's key is a private RSA key"),
            ("certificate", &pem("CERTIFICATE", b"x"), "holds a certificate"),
            ("EC by label", &pem("EC PRIVATE KEY", b"x"), "holds a private EC key"),
            ("EC by content", &ec, "holds a private key that is not RSA"),
            ("SSH", &pem("OPENSSH PRIVATE KEY", b"x"), "holds an SSH key"),
            ("encrypted", &pem("ENCRYPTED PRIVATE KEY", b"x"), "holds an encrypted private key"),
            ("encrypted of old", legacy, "holds an encrypted private key"),
            ("rubbish inside", &pem("RSA PRIVATE KEY", b"rubbish"), "is a private RSA key that cannot be used"),
        ];
        for (what, bytes, expected) in table {
            let error = AppCredentials::parse("1", bytes, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{what}: {error}");
        }
        let error = AppCredentials::parse("1", &rsa.pkcs1(), Some(b"secret")).unwrap_err().to_string();
        assert!(error.starts_with("private-key-next.pem is not PEM"), "{error}");
        assert_eq!(AppCredentials::parse(" ", &rsa.pkcs1(), None).unwrap_err(), CredentialsError::NoIssuer);
    }

    #[test]
    fn an_empty_next_key_is_none() {
        let credentials = AppCredentials::parse("1", &KEYS[0].pkcs1(), Some(b"\n")).unwrap();
        assert_eq!(credentials.alternative(Key::Current), None);
        assert!(!format!("{credentials:?}").contains("BEGIN"));
    }
}
