//! Requests for the head of a branch, and their answers: `ls-refs` of git's protocol version 2 (gitprotocol-v2(5)).
//!
//! Pure: bytes in, meaning out. The invariant: memory holds HEAD and the one requested branch alone, however long the answer is;
//! a malformed line, also one of another ref, makes the whole answer an error, and so does an early end. A branch is missing
//! only if the server said so.
use super::branch::BranchName;
use super::pkt_line::{DELIMITER, FLUSH, NotPackets, Packet, decode, encode};
use super::reading::{Reading, Selection};
use super::sha::Sha;

/// How a repository names its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFormat {
    /// 40 digits; the default.
    Sha1,
    /// 64 digits.
    Sha256,
}

impl ObjectFormat {
    /// Parses the object of a line.
    pub(super) fn sha(self, object: &[u8]) -> Result<Sha, AnswerError> {
        let length = match self {
            Self::Sha1 => 40,
            Self::Sha256 => 64,
        };
        let sha = str::from_utf8(object).ok().and_then(|text| text.parse::<Sha>().ok());
        sha.filter(|sha| sha.as_str().len() == length && !sha.is_zero())
            .ok_or(AnswerError::Malformed("a line of it names no object"))
    }
}

/// The capabilities of a server that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub object_format: ObjectFormat,
    /// Whether it lists a default branch without a commit.
    pub unborn: bool,
}

impl Capabilities {
    /// The assumption about a server that was not asked: true for GitHub, and for git 2.31 and later with SHA-1.
    pub const ASSUMED: Self = Self { object_format: ObjectFormat::Sha1, unborn: true };
}

/// The head of a branch, and the default branch of its remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refs {
    /// The branch to which HEAD points, with or without a commit. None if HEAD is detached, or if the branch has no commit and
    /// the server does not list such a branch.
    pub default_branch: Option<BranchName>,
    /// The head of the requested branch, or of the default branch.
    pub head: Head,
}

/// The head of a branch, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// The branch has a commit.
    At {
        /// The requested branch, or the default branch.
        branch: BranchName,
        /// Never zero.
        sha: Sha,
    },
    /// The requested branch does not exist, in a repository with commits.
    Missing { branch: BranchName },
    /// Neither the requested branch nor the default branch has a commit: nobody has pushed to the repository yet. (Outside
    /// GitHub, other branches may have commits.)
    Empty,
    /// The default branch was requested, and HEAD is detached, which does not happen on GitHub.
    NoDefaultBranch,
}

impl Head {
    /// The commit, if there is one.
    #[must_use]
    pub fn sha(&self) -> Option<&Sha> {
        match self {
            Self::At { sha, .. } => Some(sha),
            _ => None,
        }
    }
}

/// The reason why an answer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It does not follow the protocol.
    #[error("{0}")]
    Malformed(&'static str),
    /// It ended early.
    #[error("it ended before it was complete")]
    Cut,
    /// The server refused, with this message.
    #[error("the server refused")]
    Refused(String),
}

/// A server's answer to `GET …/info/refs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advertisement {
    /// Version 2: its capabilities.
    Capabilities(Capabilities),
    /// Versions 0 and 1: the refs themselves, with objects named in this format.
    Refs(ObjectFormat),
}

impl From<NotPackets> for AnswerError {
    fn from(_: NotPackets) -> Self {
        Self::Malformed("it does not consist of git's packets")
    }
}

/// The request for HEAD and, if given, a branch.
///
/// It has no `agent`, which a client may send only to a server that advertised it. `User-Agent` has the same content.
#[must_use]
pub fn request(branch: Option<&BranchName>, capabilities: Capabilities) -> String {
    let mut request = encode("command=ls-refs");
    if capabilities.object_format == ObjectFormat::Sha256 {
        request += &encode("object-format=sha256");
    }
    request += DELIMITER;
    request += &encode("symrefs");
    if capabilities.unborn {
        request += &encode("unborn");
    }
    request += &encode("ref-prefix HEAD");
    if let Some(branch) = branch {
        request += &encode(&format!("ref-prefix refs/heads/{branch}"));
    }
    request + FLUSH
}

/// Reads the beginning of an advertisement, with or without the `# service` line of earlier protocols. [`AnswerError::Cut`] if
/// more of it is needed.
pub fn advertisement(bytes: &[u8]) -> Result<Advertisement, AnswerError> {
    let mut rest = bytes;
    let mut next = || -> Result<Packet<'_>, AnswerError> {
        let (packet, length) = decode(rest)?.ok_or(AnswerError::Cut)?;
        rest = &rest[length..];
        Ok(packet)
    };
    let mut first = next()?;
    if matches!(first, Packet::Line(line) if line.starts_with(b"# service=")) {
        if next()? != Packet::Flush {
            return Err(AnswerError::Malformed("its service line is not followed by a flush packet"));
        }
        first = next()?;
    }
    match first {
        Packet::Line(b"version 2") => {}
        Packet::Line(b"version 1") => return Ok(Advertisement::Refs(format_of(next()?)?)),
        old => return Ok(Advertisement::Refs(format_of(old)?)),
    }
    let mut capabilities = Capabilities { object_format: ObjectFormat::Sha1, unborn: false };
    let mut knows_ls_refs = false;
    loop {
        match next()? {
            Packet::Flush if knows_ls_refs => return Ok(Advertisement::Capabilities(capabilities)),
            Packet::Flush => return Err(AnswerError::Malformed("the server does not list refs")),
            Packet::Delimiter | Packet::ResponseEnd => {
                return Err(AnswerError::Malformed("its list of capabilities has sections"));
            }
            Packet::Line(line) if line.starts_with(b"ERR ") => return Err(refused(&line[4..])),
            Packet::Line(b"ls-refs") => knows_ls_refs = true,
            Packet::Line(b"object-format=sha256") => capabilities.object_format = ObjectFormat::Sha256,
            Packet::Line(line) => {
                if let Some(features) = line.strip_prefix(b"ls-refs=") {
                    knows_ls_refs = true;
                    capabilities.unborn = features.split(|byte| *byte == b' ').any(|feature| feature == b"unborn");
                } else if line.starts_with(b"object-format=") && line != b"object-format=sha1" {
                    return Err(AnswerError::Malformed("it names objects in a way that is not known here"));
                }
            }
        }
    }
}

/// The format that the first ref of versions 0 and 1 names among the capabilities.
fn format_of(first: Packet<'_>) -> Result<ObjectFormat, AnswerError> {
    let Packet::Line(line) = first else { return Ok(ObjectFormat::Sha1) };
    if let Some(words) = line.strip_prefix(b"ERR ") {
        return Err(refused(words));
    }
    let capabilities = line.splitn(2, |byte| *byte == 0).nth(1).unwrap_or_default();
    let is_sha_256 = capabilities.split(|byte| *byte == b' ').any(|it| it == b"object-format=sha256");
    Ok(if is_sha_256 { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 })
}

pub(super) fn refused(words: &[u8]) -> AnswerError {
    AnswerError::Refused(String::from_utf8_lossy(words).into_owned())
}

/// Picks HEAD and a branch.
#[derive(Debug)]
pub struct HeadSelection {
    wanted: Option<BranchName>,
    object_format: ObjectFormat,
    head: Option<HeadLine>,
    found: Option<Sha>,
}

#[derive(Debug)]
struct HeadLine {
    /// None if its branch has no commit.
    sha: Option<Sha>,
    branch: Option<BranchName>,
}

impl HeadSelection {
    /// The answer to a [`request`] for `branch`, made with this format.
    #[must_use]
    pub fn new(branch: Option<BranchName>, object_format: ObjectFormat) -> Reading<Self> {
        Reading::of(Self { wanted: branch, object_format, head: None, found: None })
    }
}

impl Selection for HeadSelection {
    type Meaning = Refs;

    fn take(&mut self, object: &[u8], name: &[u8], attributes: &[u8]) -> Result<(), AnswerError> {
        let sha = if object == b"unborn" { None } else { Some(self.object_format.sha(object)?) };
        if name == b"HEAD" {
            let mut attributes = attributes.split(|byte| *byte == b' ');
            let target = attributes.find_map(|attribute| attribute.strip_prefix(b"symref-target:refs/heads/"));
            // An invalid name counts as none.
            let branch = target.and_then(|name| str::from_utf8(name).ok()).and_then(|name| name.parse().ok());
            return once(&mut self.head, HeadLine { sha, branch });
        }
        let wanted = self.wanted.as_ref().map(|wanted| wanted.as_str().as_bytes());
        if let Some(sha) = sha
            && wanted.is_some_and(|wanted| name.strip_prefix(b"refs/heads/") == Some(wanted))
        {
            return once(&mut self.found, sha);
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.head.is_some() && (self.wanted.is_none() || self.found.is_some())
    }

    fn meaning(self) -> Refs {
        let (head, default_branch) = match self.head {
            Some(line) => (line.sha, line.branch),
            None => (None, None),
        };
        let head = match (self.wanted, self.found, head) {
            (Some(branch), Some(sha), _) => Head::At { branch, sha },
            (Some(branch), None, Some(_)) => Head::Missing { branch },
            (None, _, Some(sha)) => match &default_branch {
                Some(branch) => Head::At { branch: branch.clone(), sha },
                None => Head::NoDefaultBranch,
            },
            (_, None, None) | (None, Some(_), None) => Head::Empty,
        };
        Refs { default_branch, head }
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), AnswerError> {
    if place.replace(value).is_some() {
        return Err(AnswerError::Malformed("it names a ref twice"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::ObjectFormat::{Sha1, Sha256};
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn branch(name: &str) -> BranchName {
        name.parse().unwrap()
    }

    fn at(name: &str, sha: &str) -> Head {
        Head::At { branch: branch(name), sha: sha.parse().unwrap() }
    }

    fn message(lines: &[String]) -> Vec<u8> {
        let packets: String = lines.iter().map(|line| encode(line)).collect();
        (packets + FLUSH).into_bytes()
    }

    fn read(wanted: Option<&str>, bytes: &[u8]) -> Result<Refs, AnswerError> {
        let mut answer = HeadSelection::new(wanted.map(branch), ObjectFormat::Sha1);
        answer.push(bytes)?;
        answer.finish()
    }

    #[test]
    fn a_request_is_what_git_itself_would_send() {
        assert_eq!(
            request(None, Capabilities::ASSUMED),
            "0014command=ls-refs\n0001000csymrefs\n000bunborn\n0014ref-prefix HEAD\n0000"
        );
        let sha256 = Capabilities { object_format: ObjectFormat::Sha256, unborn: false };
        assert_eq!(
            request(Some(&branch("--upload-pack=x")), sha256),
            "0014command=ls-refs\n0019object-format=sha256\n0001000csymrefs\n0014ref-prefix HEAD\n\
             002aref-prefix refs/heads/--upload-pack=x\n0000"
        );
    }

    #[test]
    fn an_answer_tells_the_branch_its_head_and_the_default() {
        let head = format!("{A} HEAD symref-target:refs/heads/main");
        let other = format!("{B} refs/heads/main-2");
        let main = format!("{B} refs/heads/main");
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let unborn = "unborn HEAD symref-target:refs/heads/main";
        let detached = format!("{A} HEAD");
        let table = [
            (None, lines(&[&head]), Some("main"), at("main", A)),
            (None, lines(&[&main, &head]), Some("main"), at("main", A)),
            (Some("main"), lines(&[&head, &main]), Some("main"), at("main", B)),
            (Some("main"), lines(&[&other, &main, &head]), Some("main"), at("main", B)),
            (Some("main"), lines(&[&head, &other]), Some("main"), Head::Missing { branch: branch("main") }),
            (Some("m"), lines(&[&head, &main]), Some("main"), Head::Missing { branch: branch("m") }),
            (Some("HEAD"), lines(&[&head]), Some("main"), Head::Missing { branch: branch("HEAD") }),
            (None, lines(&[unborn]), Some("main"), Head::Empty),
            (Some("main"), lines(&[unborn]), Some("main"), Head::Empty),
            (Some("x"), lines(&[unborn, &format!("{B} refs/heads/x")]), Some("main"), at("x", B)),
            (None, lines(&[]), None, Head::Empty),
            (Some("main"), lines(&[&main]), None, at("main", B)),
            (None, lines(&[&detached]), None, Head::NoDefaultBranch),
            // Names that are not a branch's. A name that is not Unicode is tested below.
            (None, lines(&[&format!("{A} HEAD symref-target:refs/heads/a..b")]), None, Head::NoDefaultBranch),
            (None, lines(&[&format!("{A} HEAD symref-target:refs/changes/1")]), None, Head::NoDefaultBranch),
        ];
        for (wanted, lines, default, expected) in table {
            let refs = read(wanted, &message(&lines)).unwrap();
            assert_eq!(
                (refs.default_branch.as_ref().map(BranchName::as_str), refs.head),
                (default, expected),
                "{lines:?}"
            );
        }
        let mut bytes = format!("004c{A} HEAD symref-target:refs/heads/").into_bytes();
        bytes.extend_from_slice(b"\xff0000");
        assert_eq!(read(None, &bytes).unwrap().head, Head::NoDefaultBranch);
    }

    #[test]
    fn attributes_may_be_more_and_in_any_order() {
        let line = format!("{A} HEAD later:thing symref-target:refs/heads/main peeled:{B}");
        assert_eq!(read(None, &message(&[line])).unwrap().head, at("main", A));
    }

    #[test]
    fn an_answer_may_come_in_any_pieces_and_one_that_is_cut_is_no_answer() {
        let lines = [
            format!("{A} HEAD symref-target:refs/heads/main"),
            format!("{B} refs/heads/x"),
            format!("{B} refs/heads/x2"),
        ];
        let bytes = message(&lines);
        let known = bytes.len() - FLUSH.len() - encode(&lines[2]).len();
        for end in 0..=bytes.len() {
            let (mut whole, mut piecemeal) = (
                HeadSelection::new(Some(branch("x")), ObjectFormat::Sha1),
                HeadSelection::new(Some(branch("x")), ObjectFormat::Sha1),
            );
            assert_eq!(whole.push(&bytes[..end]).unwrap(), end >= known, "{end}");
            for byte in &bytes[..end] {
                piecemeal.push(&[*byte]).unwrap();
            }
            let whole = whole.finish();
            assert_eq!(whole, piecemeal.finish());
            assert_eq!(whole.map(|refs| refs.head), if end >= known { Ok(at("x", B)) } else { Err(AnswerError::Cut) });
            // The absence of a branch is known only at the end.
            let missing = read(Some("y"), &bytes[..end]).map(|refs| refs.head);
            let expected = Head::Missing { branch: branch("y") };
            assert_eq!(missing, if end == bytes.len() { Ok(expected) } else { Err(AnswerError::Cut) }, "{end}");
        }
    }

    #[test]
    fn what_is_malformed_is_an_error_also_in_a_ref_that_nobody_asked_for() {
        let head = format!("{A} HEAD symref-target:refs/heads/main");
        let sections = format!("{}0001{FLUSH}", encode(&format!("{B} refs/tags/v1")));
        let table: [&[u8]; 13] = [
            &message(&["x".into()]),
            &message(&[String::new()]),
            &message(&[A.into()]),
            &message(&[format!("{A} ")]),
            &message(&[format!("{A}  HEAD")]),
            &message(&[format!("{} refs/heads/x", &A[1..])]),
            &message(&[format!("{} refs/heads/x", A.to_uppercase())]),
            &message(&[format!("{} HEAD", "0".repeat(40))]),
            &message(&[format!("{} HEAD", "a".repeat(64))]),
            &message(&[head.clone(), head.clone()]),
            sections.as_bytes(),
            b"0002",
            b"<!DOCTYPE html>",
        ];
        for bytes in table {
            let read = read(Some("main"), bytes);
            assert!(matches!(read, Err(AnswerError::Malformed(_))), "{read:?} {}", bytes.escape_ascii());
        }
        assert_eq!(
            read(None, &message(&["ERR access denied".into()])),
            Err(AnswerError::Refused("access denied".into()))
        );
        assert_eq!(read(None, b""), Err(AnswerError::Cut));
    }

    #[test]
    fn sha_256_is_read_where_it_was_asked_for() {
        let sha = "c".repeat(64);
        let mut answer = HeadSelection::new(None, ObjectFormat::Sha256);
        assert!(answer.push(&message(&[format!("{sha} HEAD symref-target:refs/heads/main")])).unwrap());
        assert_eq!(answer.finish().unwrap().head, at("main", &sha));
        let mut answer = HeadSelection::new(None, ObjectFormat::Sha256);
        assert!(answer.push(&message(&[format!("{A} HEAD")])).is_err());
    }

    #[test]
    fn an_advertisement_tells_what_a_server_can_do() {
        let of = |lines: &[&str]| message(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        let read = |lines: &[&str]| advertisement(&of(lines));
        let capabilities =
            |object_format, unborn| Ok(Advertisement::Capabilities(Capabilities { object_format, unborn }));
        let assumed = Ok(Advertisement::Capabilities(Capabilities::ASSUMED));
        assert_eq!(
            read(&["version 2", "agent=git/2.50", "ls-refs=unborn", "fetch=shallow", "object-format=sha1"]),
            assumed
        );
        assert_eq!(read(&["version 2", "ls-refs"]), capabilities(Sha1, false));
        assert_eq!(read(&["version 2", "ls-refs=other unborn", "object-format=sha256"]), capabilities(Sha256, true));
        let mut with_service = b"001e# service=git-upload-pack\n0000".to_vec();
        with_service.extend(of(&["version 2", "ls-refs=unborn"]));
        assert_eq!(advertisement(&with_service), assumed);
        for end in 0..with_service.len() {
            assert_eq!(advertisement(&with_service[..end]), Err(AnswerError::Cut), "{end}");
        }

        let old = [
            of(&["version 1"]),
            of(&[&format!("{A} HEAD\0multi_ack")]),
            of(&[]),
            b"001e# service=git-upload-pack\n00000000".to_vec(),
            format!("001e# service=git-upload-pack\n0000{}", encode(&format!("{A} HEAD\0multi_ack"))).into_bytes(),
        ];
        for bytes in old {
            assert_eq!(advertisement(&bytes), Ok(Advertisement::Refs(Sha1)), "{}", bytes.escape_ascii());
        }
        let sha_256 = format!("{} HEAD\0multi_ack object-format=sha256", "a".repeat(64));
        assert_eq!(read(&[&sha_256]), Ok(Advertisement::Refs(Sha256)));
        assert_eq!(read(&["version 1", &sha_256]), Ok(Advertisement::Refs(Sha256)));
        assert_eq!(read(&["version 2", "ERR no"]), Err(AnswerError::Refused("no".into())));
        assert_eq!(read(&["ERR no"]), Err(AnswerError::Refused("no".into())));
        let malformed = [
            of(&["version 2", "fetch"]),
            of(&["version 2", "ls-refs", "object-format=sha3"]),
            b"<html></html>".to_vec(),
            format!("{}0001{FLUSH}", encode("version 2")).into_bytes(),
            format!("{}{}", encode("# service=git-upload-pack"), encode("version 2")).into_bytes(),
        ];
        for bytes in malformed {
            let read = advertisement(&bytes);
            assert!(matches!(read, Err(AnswerError::Malformed(_))), "{read:?} {}", bytes.escape_ascii());
        }
    }

    #[test]
    fn no_change_of_a_byte_makes_it_panic() {
        let answers = message(&[format!("{A} HEAD symref-target:refs/heads/main"), format!("{B} refs/heads/x")]);
        let capabilities = message(&["version 2".into(), "ls-refs=unborn".into(), "object-format=sha1".into()]);
        for place in 0..answers.len().max(capabilities.len()) {
            for byte in [0, b'\n', b' ', b'0', b'1', b'9', b'f', b'g', b':', b'/', 0x7f, 0xc3, 0xff] {
                let changed = |bytes: &[u8]| {
                    let mut bytes = bytes.to_vec();
                    if let Some(place) = bytes.get_mut(place) {
                        *place = byte;
                    }
                    bytes
                };
                if let Ok(Refs { head: Head::At { sha, .. }, .. }) = read(Some("x"), &changed(&answers)) {
                    assert_eq!(sha.as_str().len(), 40);
                }
                let _ = advertisement(&changed(&capabilities));
            }
        }
    }
}
