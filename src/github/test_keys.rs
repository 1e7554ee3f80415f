//! Two RSA keys for all tests, and the verification of a JWT by other code than signs it.
use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Made once, because making one takes a while.
pub static KEYS: LazyLock<[TestKey; 2]> = LazyLock::new(|| [TestKey::new(), TestKey::new()]);

pub struct TestKey {
    pair: KeyPair,
    pkcs8: Vec<u8>,
}

impl TestKey {
    fn new() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = AsDer::<Pkcs8V1Der>::as_der(&pair).unwrap().as_ref().to_vec();
        Self { pair, pkcs8 }
    }

    pub fn pkcs8(&self) -> Vec<u8> {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// The PKCS#8 envelope of a 2048-bit RSA key has 26 bytes, then comes the PKCS#1 structure.
    pub fn pkcs1(&self) -> Vec<u8> {
        pem("RSA PRIVATE KEY", &self.pkcs8[26..])
    }

    pub fn der(&self) -> &[u8] {
        &self.pkcs8
    }

    pub fn public(&self) -> Vec<u8> {
        pem("PUBLIC KEY", &self.public_der())
    }

    fn public_der(&self) -> Vec<u8> {
        AsDer::<PublicKeyX509Der>::as_der(self.pair.public_key()).unwrap().as_ref().to_vec()
    }

    /// The claims of a JWT that this key signed with RS256 (RFC 7515, section 5.2).
    pub fn verify(&self, jwt: &str) -> Option<Value> {
        let (input, signature) = jwt.rsplit_once('.')?;
        let (header, claims) = input.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        assert_eq!(header, json!({"typ": "JWT", "alg": "RS256"}));
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.public_der());
        key.verify(input.as_bytes(), &decode(signature)?).ok()?;
        serde_json::from_slice(&decode(claims)?).ok()
    }
}

pub fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into_bytes()
}
