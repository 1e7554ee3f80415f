//! The text of an installation token in github.com's format since October 2026: `ghs_APPID_JWT`, 520 characters of
//! `[A-Za-z0-9._-]`.
//!
//! The JWT is opaque to holders, and GitHub looks the token up, so its signature is random here. Its length, dots and
//! dashes matter: redactors that stop at them leak, and columns of 255 characters truncate it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

/// The number of characters of a token.
pub(crate) const LENGTH: usize = 520;
/// The number of characters of an RSA signature of 2048 bits.
const SIGNATURE: usize = 342;

/// A new token of an App. Each is different.
pub(crate) fn text(app: u64, minted: Timestamp, expires: Timestamp) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
    let prefix = format!("ghs_{app}_{header}.");
    let claims = format!(r#"{{"iat":{},"exp":{},"jti":""#, minted.as_second(), expires.as_second());
    // Encoded text is never one character longer than a multiple of four: a byte less of signature avoids it.
    let fits = (LENGTH - prefix.len() - 1 - SIGNATURE) % 4 != 1;
    let signature: Vec<u8> = rand::random_iter().take(if fits { 256 } else { 255 }).collect();
    let signature = URL_SAFE_NO_PAD.encode(signature);
    // The remaining space for the claims: three bytes make four characters.
    let bytes = (LENGTH - prefix.len() - 1 - signature.len()) * 3 / 4;
    let unique: String = (claims.len() + 2..bytes).map(|_| char::from(b'a' + rand::random::<u8>() % 26)).collect();
    let payload = URL_SAFE_NO_PAD.encode(format!("{claims}{unique}\"}}"));
    format!("{prefix}{payload}.{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_dotted_and_unique() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        for app in [1, 12, 123, 1234, 12_345, 987_654_321] {
            let token = text(app, now, now);
            assert_eq!(token.len(), LENGTH);
            assert!(token.starts_with(&format!("ghs_{app}_ey")));
            assert_eq!(token.matches('.').count(), 2);
            assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
            assert_ne!(token, text(app, now, now));
        }
    }
}
