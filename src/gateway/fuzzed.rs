//! All parsing of a push as one function of bytes: for the fuzzer (`hack/fuzz`), and for the tests, which replay its findings.
//!
//! The bytes are a path, a line feed, and the body of a push. Invariant: no bytes cause a panic; a push has one meaning, in
//! whatever pieces it arrives; GitHub is sent the commands that were judged; and a refused push names each ref once.

use super::commands::{Kind, Progress, Push, PushError, PushReader};
use super::refs::{Beside, Origin, OwnBranch, PushPolicy, PushRefs};
use super::report_status::refusal;
use super::route::Route;
use bytes::Bytes;
use http::{Method, Uri};

const UID: &str = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";

/// Reads a request as the gateway does.
///
/// # Panics
/// On a violated invariant.
#[allow(clippy::panic, clippy::expect_used, reason = "a panic is how a fuzzer learns of a fault")]
pub fn read(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (path, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    if let Ok(uri) = Uri::try_from(path) {
        for method in [Method::GET, Method::POST] {
            if let Ok(route) = Route::of(&method, &uri) {
                assert_eq!(route.path().as_bytes(), path, "a path has one spelling");
            }
        }
    }
    let whole = in_pieces(body, body.len().max(1));
    for piece in [1, 7, 4096] {
        assert_eq!(in_pieces(body, piece), whole, "the pieces change the meaning");
    }
    let Ok((push, pack)) = whole else { return };
    let sent = push.encode();
    let (again, rest) = in_pieces(&sent, sent.len()).expect("what is sent can be read");
    assert!(rest.is_empty() && again.commands == push.commands && again.shallow == push.shallow);
    assert!(again.options.is_empty(), "push options were passed on");
    assert_eq!(again.encode(), sent, "there is one form");
    assert!(pack.len() <= body.len());

    let branch = OwnBranch { name: "landfall/try-0a1b2".into(), beside: Beside::No, origin: Origin::Workspace };
    let verdicts = PushPolicy::new("try", UID, branch, PushRefs::default(), Vec::new()).judge(&push);
    assert_eq!(verdicts.len(), push.commands.len());
    for (command, verdict) in push.commands.iter().zip(&verdicts) {
        let name = command.name.as_str();
        let is_work =
            name.starts_with("refs/heads/landfall-wip/try-0a1b2/") || name == format!("refs/landfall/wip/{UID}");
        let is_own = is_work || (name == "refs/heads/landfall/try-0a1b2" && command.kind() != Kind::Delete);
        assert_eq!(verdict.is_ok(), is_own && push.options.is_empty(), "{name}");
        assert!(!name.contains(|c: char| c.is_ascii_control() || c == ' '));
    }
    if verdicts.iter().any(Result::is_err) {
        let answer = refusal(&push, &verdicts);
        assert!(answer.len() < 4 * body.len() + 2048 * push.commands.len() + 2048);
    }
}

fn in_pieces(bytes: &[u8], piece: usize) -> Result<(Push, Bytes), PushError> {
    let (mut reader, mut pieces) = (PushReader::default(), bytes.chunks(piece));
    for piece in pieces.by_ref() {
        if reader.push(piece)? == Progress::Complete {
            break;
        }
    }
    let (push, rest) = reader.finish()?;
    Ok((push, [&rest[..], &pieces.collect::<Vec<_>>().concat()].concat().into()))
}

/// A push as git sends it, with the beginning of its pack.
#[cfg(test)]
pub(super) fn sample() -> Vec<u8> {
    let (zero, a, b) = ("0".repeat(40), "1".repeat(40), "2".repeat(40));
    let lines = [
        format!("shallow {b}"),
        format!(
            "{zero} {a} refs/heads/landfall/try-0a1b2\0 report-status-v2 side-band-64k push-options agent=git/2.39.5"
        ),
        format!("{a} {b} refs/heads/main"),
        format!("{b} {zero} refs/heads/landfall-wip/try-0a1b2/head\n"),
    ];
    let mut bytes: Vec<u8> =
        lines.iter().flat_map(|line| format!("{:04x}{line}", line.len() + 4).into_bytes()).collect();
    bytes.extend_from_slice(b"0000000bci.skip0000PACK\0\0\0\x02");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The fuzzer's findings and seeds.
    #[test]
    fn the_corpus_is_read_without_harm() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/push");
        let mut count = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            read(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 5, "{} has the corpus", corpus.display());
    }

    /// Each byte of a push in turn is replaced, removed, or doubled.
    #[test]
    fn a_push_with_one_odd_byte_does_no_harm() {
        let whole = [&b"/github.com/7.git/git-receive-pack\n"[..], &sample()].concat();
        read(&whole);
        for place in 0..whole.len() {
            for byte in [0, b'\n', b' ', b'0', b'4', b'f', b'F', b'/', b'.', 0xff] {
                let mut changed = whole.clone();
                changed[place] = byte;
                read(&changed);
            }
            let mut shorter = whole.clone();
            let byte = shorter.remove(place);
            read(&shorter);
            shorter.splice(place..place, [byte, byte]);
            read(&shorter);
        }
    }
}
