//! Redacts foreign text for conditions, events and logs.
//!
//! The invariant: redacted text has no control characters, a limited length, and nothing that looks like a token of
//! GitHub, a JSON web token or one of Landfall's webhook secrets. Landfall shows GitHub's messages to people, and a
//! proxy that echoes a request may put anything into them. The redaction is wider than the formats: since October 2026
//! tokens contain `.` and `-`, so it removes all such characters after a token's prefix.
use super::secret::REDACTED;

/// The longest foreign text, in characters.
const LIMIT: usize = 300;
/// A webhook's secret is the hexadecimal digits of an HMAC-SHA256.
const SECRET_DIGITS: usize = 64;
const PREFIXES: [&str; 6] = ["ghs_", "ghu_", "ghp_", "gho_", "ghr_", "github_pat_"];

/// `text` with tokens, JSON web tokens and webhooks' secrets cut out.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.find(|c| !is_token_character(c)).unwrap_or(rest.len());
        match secret_start(&rest[..word]) {
            Some(start) => {
                out.push_str(&rest[..start]);
                out.push_str(REDACTED);
            }
            None => out.push_str(&rest[..word]),
        }
        let gap = rest[word..].find(is_token_character).map_or(rest.len(), |gap| word + gap);
        out.push_str(&rest[word..gap]);
        rest = &rest[gap..];
    }
    out
}

/// `text` redacted, on one line, and cut to 300 characters.
#[must_use]
pub fn shown(text: &str) -> String {
    let line = text
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let line = redact(&line);
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn is_token_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// The place where a secret begins in a run of token characters.
fn secret_start(word: &str) -> Option<usize> {
    let token = PREFIXES.iter().filter_map(|prefix| word.find(prefix)).min();
    // A JSON web token is three base64url parts, the first of an object that begins with `{"`.
    let jwt = word.find("eyJ").filter(|start| word[*start..].matches('.').count() >= 2);
    token.into_iter().chain(jwt).chain(digits_start(word)).min()
}

fn digits_start(word: &str) -> Option<usize> {
    let mut start = 0;
    for run in word.split(|c: char| !c.is_ascii_hexdigit()) {
        if run.len() >= SECRET_DIGITS {
            return Some(start);
        }
        start += run.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_shape_is_cut_to_its_end() {
        let table = [
            ("Bad token ghs_abc", "Bad token [redacted]"),
            ("ghs_12345_eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIxIn0.c2ln-bmF_0dXJl, sorry", "[redacted], sorry"),
            ("x=ghu_1.2-3;y", "x=[redacted];y"),
            ("ghp_1 gho_2 ghr_3 github_pat_11AA_bb", "[redacted] [redacted] [redacted] [redacted]"),
            ("Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIxIn0.c2ln!", "Bearer [redacted]!"),
            ("https://x-access-token:ghs_a.b-c@example.com/", "https://x-access-token:[redacted]@example.com/"),
            ("prefixghs_abc", "prefix[redacted]"),
            ("Resource not accessible by integration", "Resource not accessible by integration"),
            (&format!("a {}, b", "0a".repeat(32)), "a [redacted], b"),
            (&format!("x-{}_y z", "0A".repeat(33)), "x-[redacted] z"),
            (&format!("commit {}", "0a".repeat(20)), "commit 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"),
            ("eyJ alone is a word, v1.2.3 too", "eyJ alone is a word, v1.2.3 too"),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(redact(text), expected, "{text}");
        }
    }

    #[test]
    fn shown_text_is_one_bounded_line_and_is_cut_after_redaction() {
        assert_eq!(shown("a\r\n\tb\u{1b}[31mc\u{0}d"), "a b [31mc d");
        assert_eq!(shown(&"é".repeat(400)).chars().count(), 301);
        let text = shown(&format!("{}ghs_{}", "a ".repeat(148), "b".repeat(500)));
        assert!(!text.contains("ghs_"), "{text}");
    }
}
