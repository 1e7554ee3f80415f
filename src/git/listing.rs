//! Requests for all refs below certain prefixes, and their answers, by `ls-refs` as in [`super::ls_refs`].
//!
//! Pure: bytes in, meaning out. The invariant: the result has every ref below the prefixes and no other, or it is an error, so a
//! caller may rely on the absence of a ref. A server treats prefixes as a hint (gitprotocol-v2(5)), and matches `refs/heads/ab` by
//! `refs/heads/a`; here it does not match.
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::branch::{BranchError, BranchName};
use super::ls_refs::{AnswerError, Capabilities, ObjectFormat};
use super::pkt_line::{DELIMITER, FLUSH, encode};
use super::reading::{Reading, Selection};
use super::sha::Sha;

/// The most refs of a result.
pub const MOST_REFS: usize = 10_000;

/// A ref's full name, or the prefix of some up to a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefPrefix(String);

impl RefPrefix {
    /// Reads `refs/heads/a`, for this ref and those under `refs/heads/a/`, or `refs/heads/a/`, for those alone.
    pub fn parse(text: &str) -> Result<Self, BranchError> {
        // Behind `refs/` a ref's name follows the rules for a branch's behind `refs/heads/`.
        let rest = text.strip_prefix("refs/").ok_or(BranchError::Sequence("refs/"))?;
        rest.strip_suffix('/').unwrap_or(rest).parse::<BranchName>()?;
        Ok(Self(text.to_owned()))
    }

    fn covers(&self, name: &str) -> bool {
        let rest = name.strip_prefix(&self.0);
        rest.is_some_and(|rest| {
            if self.0.ends_with('/') { !rest.is_empty() } else { matches!(rest.bytes().next(), None | Some(b'/')) }
        })
    }
}

/// The request for the refs below `prefixes`. Without one, a server lists everything.
#[must_use]
pub fn request(prefixes: &[RefPrefix], capabilities: Capabilities) -> String {
    let mut request = encode("command=ls-refs");
    if capabilities.object_format == ObjectFormat::Sha256 {
        request += &encode("object-format=sha256");
    }
    request += DELIMITER;
    for prefix in prefixes {
        request += &encode(&format!("ref-prefix {}", prefix.0));
    }
    request + FLUSH
}

/// Picks the refs below some prefixes.
#[derive(Debug)]
pub struct Listing {
    prefixes: Vec<RefPrefix>,
    object_format: ObjectFormat,
    found: BTreeMap<String, Sha>,
}

impl Listing {
    /// The answer to a [`request`] for `prefixes`, made with this format.
    #[must_use]
    pub fn new(prefixes: Vec<RefPrefix>, object_format: ObjectFormat) -> Reading<Self> {
        Reading::of(Self { prefixes, object_format, found: BTreeMap::new() })
    }
}

impl Selection for Listing {
    /// Full names and objects.
    type Meaning = BTreeMap<String, Sha>;

    fn take(&mut self, object: &[u8], name: &[u8], _: &[u8]) -> Result<(), AnswerError> {
        let sha = self.object_format.sha(object)?;
        // No prefix matches a name that is not UTF-8.
        let Some(name) =
            str::from_utf8(name).ok().filter(|name| self.prefixes.iter().any(|prefix| prefix.covers(name)))
        else {
            return Ok(());
        };
        if self.found.len() == MOST_REFS {
            return Err(AnswerError::Malformed("it has more refs below what was asked for than are read"));
        }
        match self.found.entry(name.to_owned()) {
            Entry::Vacant(place) => place.insert(sha),
            Entry::Occupied(_) => return Err(AnswerError::Malformed("it names a ref twice")),
        };
        Ok(())
    }

    fn meaning(self) -> Self::Meaning {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn prefixes(names: &[&str]) -> Vec<RefPrefix> {
        names.iter().map(|name| RefPrefix::parse(name).unwrap()).collect()
    }

    fn message(lines: &[&str]) -> Vec<u8> {
        let packets: String = lines.iter().map(|line| encode(line)).collect();
        (packets + FLUSH).into_bytes()
    }

    fn read(wanted: &[&str], bytes: &[u8]) -> Result<BTreeMap<String, Sha>, AnswerError> {
        let mut listing = Listing::new(prefixes(wanted), ObjectFormat::Sha1);
        listing.push(bytes)?;
        listing.finish()
    }

    fn names(wanted: &[&str], lines: &[&str]) -> Vec<String> {
        read(wanted, &message(lines)).unwrap().into_keys().collect()
    }

    #[test]
    fn a_request_is_what_git_itself_would_send() {
        assert_eq!(
            request(&prefixes(&["refs/heads/a", "refs/landfall/"]), Capabilities::ASSUMED),
            "0014command=ls-refs\n0001001cref-prefix refs/heads/a\n001eref-prefix refs/landfall/\n0000"
        );
        let sha256 = Capabilities { object_format: ObjectFormat::Sha256, unborn: false };
        assert!(request(&prefixes(&["refs/heads/a"]), sha256).contains("object-format=sha256\n0001"));
    }

    #[test]
    fn what_is_below_a_prefix_is_kept_and_nothing_else() {
        let lines = [
            &format!("{A} HEAD symref-target:refs/heads/main")[..],
            &format!("{A} refs/heads/a"),
            &format!("{A} refs/heads/a-b"),
            &format!("{B} refs/heads/ab peeled:{A}"),
            &format!("{B} refs/heads/b/c"),
            &format!("{B} refs/heads/b/d/e"),
            &format!("{B} refs/landfall/wip/1"),
        ];
        for (wanted, expected) in [
            (&["refs/heads/a"][..], &["refs/heads/a"][..]),
            (&["refs/heads/a/"], &[]),
            (&["refs/heads/b"], &["refs/heads/b/c", "refs/heads/b/d/e"]),
            (&["refs/heads/b/"], &["refs/heads/b/c", "refs/heads/b/d/e"]),
            (&["refs/heads/b/d", "refs/landfall"], &["refs/heads/b/d/e", "refs/landfall/wip/1"]),
            (&["refs/tags"], &[]),
        ] {
            assert_eq!(names(wanted, &lines), expected, "{wanted:?}");
        }
        assert_eq!(read(&["refs/heads"], &message(&lines)).unwrap()["refs/heads/a"].as_str(), A);
        let mut bytes = format!("0039{A} refs/heads/").into_bytes();
        bytes.extend_from_slice(b"\xff0000");
        assert_eq!(read(&["refs/heads"], &bytes), Ok(BTreeMap::new()));
    }

    #[test]
    fn a_prefix_is_the_beginning_of_a_refs_name() {
        for text in [
            "",
            "refs/",
            "refs//",
            "HEAD",
            "heads/a",
            "refs/heads/a b",
            "refs/heads/a\n0000",
            "refs/heads/a..b",
            "refs/heads//",
        ] {
            assert!(RefPrefix::parse(text).is_err(), "{text:?}");
        }
        assert!(RefPrefix::parse("refs/heads/--upload-pack=x").is_ok());
    }

    #[test]
    fn an_answer_may_come_in_any_pieces_and_one_that_is_cut_is_no_answer() {
        let bytes = message(&[&format!("{A} refs/heads/a"), &format!("{B} refs/heads/b")]);
        for end in 0..=bytes.len() {
            let mut piecemeal = Listing::new(prefixes(&["refs/heads"]), ObjectFormat::Sha1);
            for byte in &bytes[..end] {
                piecemeal.push(&[*byte]).unwrap();
            }
            let expected = if end == bytes.len() { Ok(2) } else { Err(AnswerError::Cut) };
            assert_eq!(piecemeal.finish().map(|found| found.len()), expected, "{end}");
            assert_eq!(read(&["refs/heads"], &bytes[..end]).map(|found| found.len()), expected, "{end}");
        }
    }

    #[test]
    fn what_is_malformed_is_an_error_also_in_a_ref_that_nobody_asked_for() {
        let twice = format!("{A} refs/heads/a");
        let sections = format!("{}0001{FLUSH}", encode(&twice));
        for bytes in [
            &message(&["x"])[..],
            &message(&[A]),
            &message(&[&format!("{A} ")]),
            &message(&[&format!("{} refs/tags/x", A.to_uppercase())]),
            &message(&["unborn HEAD symref-target:refs/heads/main"]),
            &message(&[&format!("{} refs/tags/x", "a".repeat(64))]),
            &message(&[&twice, &twice]),
            sections.as_bytes(),
            b"<!DOCTYPE html>",
        ] {
            let read = read(&["refs/heads"], bytes);
            assert!(matches!(read, Err(AnswerError::Malformed(_))), "{read:?} {}", bytes.escape_ascii());
        }
        assert_eq!(read(&["refs/heads"], &message(&["ERR no"])), Err(AnswerError::Refused("no".into())));
    }

    #[test]
    fn no_more_than_so_many_are_kept_and_those_of_others_do_not_count() {
        let lines = |count: usize, folder: &str| {
            (0..count).map(|number| format!("{A} refs/{folder}/{number}")).collect::<Vec<_>>()
        };
        let mut all = lines(MOST_REFS + 1, "heads");
        all.extend(lines(MOST_REFS, "tags"));
        let all = message(&all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(read(&["refs/tags"], &all).unwrap().len(), MOST_REFS);
        assert!(matches!(read(&["refs/heads"], &all), Err(AnswerError::Malformed(_))));
    }
}
