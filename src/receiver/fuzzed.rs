//! All parsing of untrusted requests as one function of bytes: for the fuzzer (`hack/fuzz`), and for the tests, which replay
//! its findings.
//!
//! The bytes are a request: a path, a header in each following line, an empty line, a body. Invariant: no bytes cause a
//! panic, and the fields that would be written are within the limits of the kinds' definitions.

use super::event::{EVENT_HEADER, GUID_HEADER, Head, MOST_LISTED, Payload};
use super::inbox::{DeliveryHint, parsed, patched};
use super::signature::{self, Signature};
use crate::github::WebhookSecret;
use crate::webhook::Hook;
use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde_json::Value;

/// Reads a request as the receiver does.
///
/// # Panics
/// On a violated invariant.
#[allow(clippy::panic, clippy::expect_used, reason = "a panic is how a fuzzer learns of a fault")]
pub fn read(input: &[u8]) {
    let (head, body) = split(input, b"\n\n");
    let (path, lines) = split(head, b"\n");
    if let Some((hook, app)) = std::str::from_utf8(path).ok().and_then(Hook::of_path) {
        assert_eq!(hook.path(app).as_bytes(), path, "a path has one spelling");
    }
    let mut headers = headers(lines);
    if let Some(signature) = Signature::of(&headers) {
        assert!(!signature.matches(&WebhookSecret::new("another".into()), body), "a signature was guessed");
    }
    headers.insert(signature::HEADER, signed(body));
    let signature = Signature::of(&headers).expect("a whole signature");
    assert!(signature.matches(&WebhookSecret::new(SECRET.into()), body), "our own signature is right");

    let Ok(head) = Head::read(&headers) else { return };
    assert!(head.guid.len() == 36 && head.guid == head.guid.to_ascii_lowercase());
    let Ok(payload) = Payload::read(&head, body) else { return };
    let Payload { action, reference, sha, repository, selection, account: _ } = payload;
    let is_within = |text: &Option<String>, most| text.as_ref().is_none_or(|text| text.chars().count() <= most);
    assert!(is_within(&action, 64) && is_within(&reference, 1024) && is_within(&sha, 64), "longer than a status takes");
    let is_printable =
        |text: &Option<String>| text.as_ref().is_none_or(|text| !text.contains(|c: char| c.is_ascii_control()));
    assert!(is_printable(&action) && is_printable(&reference), "a control character");
    if let Some(repository) = &repository {
        assert!((1..=2).contains(&repository.names.len()) && repository.owners.len() <= 2);
    }
    assert!(selection.is_none_or(|selection| selection.repositories.len() <= MOST_LISTED), "more than are kept");
    let app = "landfall".to_owned();
    let hint = DeliveryHint {
        app,
        guid: head.guid,
        event: head.event,
        action,
        reference,
        sha,
        received_at: Timestamp::UNIX_EPOCH,
    };
    let text = patched(&hint);
    assert!(text.len() < 16 * 1024, "{} bytes", text.len());
    assert!(serde_json::from_str::<Value>(&text).is_ok_and(|patch| patch.as_array().is_some_and(|all| all.len() == 1)));
    // An answer that is not an object of ours must do no harm.
    parsed(body);
}

const SECRET: &str = "It's a Secret to Everybody";

fn signed(body: &[u8]) -> HeaderValue {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let text = format!("sha256={}", hex::encode(hmac::sign(&key, body)));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// The valid headers. One letter stands for a header that the receiver reads, to help the fuzzer.
fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let (name, value) = split(line, b":");
        let name = match name {
            b"e" => HeaderName::from_static(EVENT_HEADER),
            b"g" => HeaderName::from_static(GUID_HEADER),
            b"t" => http::header::CONTENT_TYPE,
            b"s" => HeaderName::from_static(signature::HEADER),
            name => match HeaderName::from_bytes(name) {
                Ok(name) => name,
                Err(_) => continue,
            },
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    headers
}

fn split<'a>(text: &'a [u8], at: &[u8]) -> (&'a [u8], &'a [u8]) {
    let found = text.windows(at.len()).position(|window| window == at);
    found.map_or((text, &[]), |found| (&text[..found], &text[found + at.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The fuzzer's findings and seeds.
    #[test]
    fn the_corpus_is_read_without_harm() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/receiver");
        let mut count = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            read(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 10, "{} has the corpus", corpus.display());
    }

    #[test]
    fn a_request_is_read_to_its_end() {
        let body = r#"{"ref": "refs/heads/main", "after": "2222222222222222222222222222222222222222"}"#;
        let guid = "72d3162e-cc78-11e3-81ab-4c9367dc0958";
        let request = format!("/webhooks/app/x\ne:push\ng:{guid}\nt:application/json\n\n{body}");
        let (head, body) = split(request.as_bytes(), b"\n\n");
        let head = Head::read(&headers(split(head, b"\n").1)).unwrap();
        assert_eq!(head.guid, guid);
        assert_eq!(Payload::read(&head, body).unwrap().reference.as_deref(), Some("refs/heads/main"));
        read(request.as_bytes());
    }
}
