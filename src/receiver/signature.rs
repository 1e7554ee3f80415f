//! Verification of a delivery's signature.
//!
//! Invariant: it covers the bytes that arrived, is verified before anything parses them, and is compared in constant time.
//! A body that is parsed and serialised again has another signature, and a comparison that ends at the first wrong byte
//! reveals by its duration how many bytes were right. `X-Hub-Signature`, which is SHA-1, is never read.
//!
//! Source: <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>.

use crate::github::WebhookSecret;
use aws_lc_rs::hmac;
use http::HeaderMap;

pub const HEADER: &str = "x-hub-signature-256";

/// The HMAC-SHA256 in a delivery's header.
#[derive(Clone, Copy)]
pub struct Signature([u8; 32]);

impl Signature {
    /// Reads the header: `sha256=` and 64 hexadecimal digits, once.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(HEADER).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let mut bytes = [0; 32];
        hex::decode_to_slice(value.to_str().ok()?.strip_prefix("sha256=")?, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    #[must_use]
    pub fn matches(&self, secret: &WebhookSecret, body: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        hmac::verify(&key, body, &self.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (HEADER.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// The example on GitHub's page.
    #[test]
    fn githubs_own_example_matches_and_similar_ones_do_not() {
        let signature = Signature::of(&headers(&[&format!("sha256={DIGITS}")])).unwrap();
        let secret = |text: &str| WebhookSecret::new(text.to_owned());
        assert!(signature.matches(&secret("It's a Secret to Everybody"), b"Hello, World!"));
        assert!(!signature.matches(&secret("It's a Secret to Everybody"), b"Hello, World"));
        assert!(!signature.matches(&secret("It's a Secret to Nobody"), b"Hello, World!"));
    }

    #[test]
    fn only_one_complete_sha_256_is_a_signature() {
        let whole = format!("sha256={DIGITS}");
        for odd in [
            &[][..],
            &[&whole[..70]],
            &[&format!("{whole}00")],
            &[&format!("sha1={}", &DIGITS[..40])],
            &[DIGITS],
            &["sha256="],
            &[&whole.replace('7', "x")],
            &[&whole, &whole],
        ] {
            assert!(Signature::of(&headers(odd)).is_none(), "{odd:?}");
        }
        let mut old = HeaderMap::new();
        old.insert("x-hub-signature", whole.parse().unwrap());
        assert!(Signature::of(&old).is_none());
        assert!(Signature::of(&headers(&[&whole.to_uppercase().replace("SHA", "sha")])).is_some());
    }
}
