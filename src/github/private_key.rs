//! Reads an App's private key from the formats in people's Secrets.
//!
//! The invariant: a complete key is accepted, even if its text was changed in a way that leaves no doubt about its
//! content (escaped or missing line breaks, an indent, quotes, a byte order mark). For any other text the message names
//! the fault and the remedy, and contains no part of the key.
use aws_lc_rs::rsa::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::EncodingKey;
use zeroize::Zeroizing;

/// The reason why a text is not an App's private key. The messages continue the name of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// It is empty.
    #[error("is missing or empty; generate a private key in the App's settings and put the whole file there")]
    Missing,
    /// It is not PEM.
    #[error("is not PEM: {0}; put the file there as GitHub gave it, from its BEGIN to its END line")]
    NotPem(&'static str),
    /// It is PEM of another kind.
    #[error(
        "holds {found}, and an App's key is a private RSA key (BEGIN RSA PRIVATE KEY or BEGIN PRIVATE KEY); {remedy}"
    )]
    WrongKind {
        /// The kind.
        found: &'static str,
        /// The remedy.
        remedy: &'static str,
    },
    /// It is a private RSA key with a fault.
    #[error("is a private RSA key that cannot be used ({0}); put the file there as GitHub gave it")]
    Unusable(&'static str),
}

const GENERATE: &str = "generate a private key in the App's settings on GitHub";

/// A private RSA key that can sign.
pub(super) fn read(bytes: &[u8]) -> Result<EncodingKey, KeyProblem> {
    let text = plain_text(bytes)?;
    if text.is_empty() {
        return Err(KeyProblem::Missing);
    }
    let (label, rest) = text
        .split_once("-----BEGIN ")
        .and_then(|(_, rest)| rest.split_once("-----"))
        .ok_or_else(|| KeyProblem::NotPem(not_pem(bytes, &text)))?;
    if let Some((found, remedy)) = wrong_kind(label, rest) {
        return Err(KeyProblem::WrongKind { found, remedy });
    }
    let (body, end) = rest.split_once("-----END ").ok_or(KeyProblem::NotPem("it has no END line, so it is cut"))?;
    if !end.starts_with(&format!("{label}-----")) {
        return Err(KeyProblem::NotPem("its BEGIN and END lines do not match"));
    }
    let body = Zeroizing::new(body.split_whitespace().collect::<String>());
    let der = Zeroizing::new(decode(&body)?);
    check(label, &der)?;
    let pem = Zeroizing::new(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", *body));
    EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| KeyProblem::Unusable("its contents do not decode"))
}

/// The text without additions of editors, shells and YAML. Neither PEM nor base64 has a backslash, so a literal `\n`
/// can only be a line break.
fn plain_text(bytes: &[u8]) -> Result<Zeroizing<String>, KeyProblem> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(KeyProblem::NotPem("it is text in UTF-16; save it as UTF-8"));
    }
    let text = Zeroizing::new(String::from_utf8_lossy(bytes).into_owned());
    let text = Zeroizing::new(text.replace("\\r", ""));
    let text = Zeroizing::new(text.replace("\\n", "\n"));
    let around = |c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '"' | '\'');
    Ok(Zeroizing::new(text.trim_matches(around).to_owned()))
}

fn decode(body: &str) -> Result<Vec<u8>, KeyProblem> {
    if body.is_empty() {
        return Err(KeyProblem::NotPem("nothing is between its BEGIN and END lines"));
    }
    STANDARD.decode(body).map_err(|error| match error {
        base64::DecodeError::InvalidByte(..) => {
            KeyProblem::NotPem("between its BEGIN and END lines is a character that base64 does not have there")
        }
        _ => KeyProblem::NotPem("the base64 between its BEGIN and END lines is cut"),
    })
}

/// jsonwebtoken parses the key at each signature. It is parsed here once in advance, with the same code.
fn check(label: &str, der: &[u8]) -> Result<(), KeyProblem> {
    let pair = if label == "PRIVATE KEY" { KeyPair::from_pkcs8(der) } else { KeyPair::from_der(der) };
    pair.map(drop).map_err(|rejected| match rejected.description_() {
        "WrongAlgorithm" => KeyProblem::WrongKind { found: "a private key that is not RSA", remedy: GENERATE },
        "TooSmall" => KeyProblem::Unusable("it has fewer than 2048 bits"),
        "TooLarge" => KeyProblem::Unusable("it has more than 8192 bits"),
        _ => KeyProblem::Unusable("its contents do not decode"),
    })
}

fn not_pem(bytes: &[u8], text: &str) -> &'static str {
    let packed = Zeroizing::new(text.split_whitespace().collect::<String>());
    match STANDARD.decode(packed.as_bytes()).map(Zeroizing::new) {
        Ok(inner) if inner.starts_with(b"-----BEGIN ") => {
            "it is base64 of PEM, so it was encoded once too often (in a Secret's stringData it goes as it is)"
        }
        _ if bytes.starts_with(&[0x30]) => "it looks like DER, the binary form",
        _ => "it has no BEGIN line",
    }
}

/// The kind of a PEM section that is not a private RSA key, and the remedy.
fn wrong_kind(label: &str, rest: &str) -> Option<(&'static str, &'static str)> {
    let encrypted = || ("an encrypted private key", "decrypt it first: openssl rsa -in key.pem -out private-key.pem");
    match label {
        "RSA PRIVATE KEY" if rest.contains("Proc-Type:") => Some(encrypted()),
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
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

    use super::*;
    use crate::github::test_keys::{KEYS, pem};

    fn problem(bytes: &[u8]) -> String {
        read(bytes).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_text_that_is_not_a_private_rsa_key_is_told_by_its_kind() {
        let rsa = &KEYS[0];
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let ec = pem("PRIVATE KEY", ec.to_pkcs8v1().unwrap().as_ref());
        let cut = String::from_utf8(rsa.pkcs1()).unwrap();
        let cut = &cut.as_bytes()[..cut.len() / 2];
        let legacy = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let base64 = STANDARD.encode(rsa.pkcs1());
        let table: [(&str, &[u8], &str); 14] = [
            ("empty", b"", "is missing or empty; generate"),
            ("blank", b" \n", "is missing or empty; generate"),
            ("words", b"secret", "is not PEM: it has no BEGIN line"),
            ("base64 twice", base64.as_bytes(), "is not PEM: it is base64 of PEM"),
            ("DER", rsa.der(), "is not PEM: it looks like DER"),
            ("cut", cut, "is not PEM: it has no END line, so it is cut"),
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
            let error = problem(bytes);
            assert!(error.contains(expected), "{what}: {error}");
        }
    }

    #[test]
    fn a_key_whose_text_was_changed_without_doubt_about_its_content_is_taken() {
        let original = String::from_utf8(KEYS[0].pkcs1()).unwrap();
        let indented = original.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n") + "\n";
        let shapes = [
            ("literal \\n", original.replace('\n', "\\n")),
            ("literal \\r\\n", original.replace('\n', "\\r\\n")),
            ("byte order mark", format!("\u{feff}{original}")),
            ("indented", indented),
            ("spaces for newlines", original.replace('\n', " ")),
            ("no newlines", original.replace('\n', "")),
            ("quoted", format!("\"{original}\"")),
            ("quoted and escaped", format!("'{}'", original.replace('\n', "\\n"))),
            ("CRLF", original.replace('\n', "\r\n")),
        ];
        for (shape, text) in shapes {
            let key = read(text.as_bytes());
            assert!(key.is_ok(), "{shape}: {}", key.unwrap_err());
        }
    }

    #[test]
    fn a_key_that_is_not_whole_is_told_by_its_fault() {
        let original = String::from_utf8(KEYS[0].pkcs1()).unwrap();
        let lines: Vec<&str> = original.lines().collect();
        let shapes = [
            (original.replace("-----END RSA PRIVATE KEY-----\n", ""), "it has no END line"),
            (original.replace("END RSA", "END"), "its BEGIN and END lines do not match"),
            (original.replacen("\nM", "\n?M", 1), "is a character that base64 does not have"),
            ([&lines[..3], &lines[4..]].concat().join("\n"), "its contents do not decode"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n".into(),
                "nothing is between its BEGIN and END lines",
            ),
        ];
        for (text, expected) in shapes {
            let error = problem(text.as_bytes());
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let utf16: Vec<u8> = [0xfeff].into_iter().chain(original.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        let error = problem(&utf16);
        assert!(error.contains("it is text in UTF-16"), "{error}");
    }
}
