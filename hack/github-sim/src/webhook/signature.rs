//! `X-Hub-Signature-256`: HMAC over the bytes as they are sent.

use aws_lc_rs::hmac;

/// The value of `X-Hub-Signature-256` for a body (`sha256=…`).
#[must_use]
pub fn signature(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("sha256={}", hex::encode(hmac::sign(&key, body)))
}

/// The value of the older `X-Hub-Signature` (`sha1=…`).
pub(super) fn legacy(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    format!("sha1={}", hex::encode(hmac::sign(&key, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector in GitHub's "Validating webhook deliveries".
    #[test]
    fn the_documented_vector() {
        assert_eq!(
            signature("It's a Secret to Everybody", b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }
}
