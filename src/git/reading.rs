//! Reads a list of refs as it comes in, for [`super::ls_refs`] and [`super::listing`].
//!
//! Pure: bytes in, meaning out. The invariant: memory holds one incomplete packet and the wanted refs. An answer that
//! ends early is an error, unless all wanted refs were known by then. Without that, a ref that was not listed yet would
//! count as missing.
use super::ls_refs::{AnswerError, refused};
use super::pkt_line::{Packet, decode};

/// Picks from a list of refs.
pub trait Selection {
    /// The result.
    type Meaning;

    /// Takes one ref: its object, its full name, and its attributes.
    fn take(&mut self, object: &[u8], name: &[u8], attributes: &[u8]) -> Result<(), AnswerError>;

    /// Whether no further ref can change the result.
    fn is_settled(&self) -> bool {
        false
    }

    /// The result, once the list is complete or settled.
    fn meaning(self) -> Self::Meaning;
}

/// A list of refs that is being read.
#[derive(Debug)]
pub struct Reading<W> {
    wanted: W,
    form: Form,
    /// An incomplete packet.
    pending: Vec<u8>,
    complete: bool,
}

/// The form of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The answer to `ls-refs` of version 2 (gitprotocol-v2(5)).
    LsRefs,
    /// The advertisement of versions 0 and 1 (gitprotocol-http(5), "Smart Server Response").
    Advertisement(Position),
}

/// How far an advertisement was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Start,
    /// Behind `# service=git-upload-pack`, which a flush packet ends.
    Service,
    /// Behind that flush packet, or behind `version 1`.
    FirstRef,
    FurtherRefs,
}

impl<W: Selection> Reading<W> {
    /// Reads the answer to `ls-refs`.
    #[must_use]
    pub fn of(wanted: W) -> Self {
        Self { wanted, form: Form::LsRefs, pending: Vec::new(), complete: false }
    }

    /// The same, from the advertisement of a server that speaks version 0 or 1 alone.
    #[must_use]
    pub fn from_advertisement(self) -> Self {
        Self { form: Form::Advertisement(Position::Start), ..self }
    }

    /// Takes the next bytes. True once all wanted refs are known; the rest need not be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, AnswerError> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        let mut rest = pending.as_slice();
        while !self.complete
            && let Some((packet, length)) = decode(rest)?
        {
            rest = &rest[length..];
            match packet {
                Packet::Line(line) => self.line(line)?,
                Packet::Flush => match self.form {
                    Form::Advertisement(Position::Service) => self.form = Form::Advertisement(Position::FirstRef),
                    _ => self.complete = true,
                },
                Packet::Delimiter | Packet::ResponseEnd => {
                    return Err(AnswerError::Malformed("its list of refs has sections"));
                }
            }
        }
        self.pending = rest.to_vec();
        Ok(self.is_known())
    }

    /// The result, at the end of the bytes.
    pub fn finish(self) -> Result<W::Meaning, AnswerError> {
        if self.is_known() { Ok(self.wanted.meaning()) } else { Err(AnswerError::Cut) }
    }

    fn is_known(&self) -> bool {
        self.complete || self.wanted.is_settled()
    }

    fn line(&mut self, line: &[u8]) -> Result<(), AnswerError> {
        if let Some(words) = line.strip_prefix(b"ERR ") {
            return Err(refused(words));
        }
        match self.form {
            Form::LsRefs => self.listed(line),
            Form::Advertisement(position) => self.advertised(line, position),
        }
    }

    fn listed(&mut self, line: &[u8]) -> Result<(), AnswerError> {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (Some(object), Some(name)) = (words.next(), words.next().filter(|name| !name.is_empty())) else {
            return Err(AnswerError::Malformed("a line of it is no ref"));
        };
        self.wanted.take(object, name, words.next().unwrap_or_default())
    }

    fn advertised(&mut self, line: &[u8], position: Position) -> Result<(), AnswerError> {
        match position {
            Position::Start if line.starts_with(b"# service=") => {
                self.form = Form::Advertisement(Position::Service);
                return Ok(());
            }
            Position::Service => {
                return Err(AnswerError::Malformed("its service line is not followed by a flush packet"));
            }
            Position::Start | Position::FirstRef if line == b"version 1" => {
                self.form = Form::Advertisement(Position::FirstRef);
                return Ok(());
            }
            Position::Start | Position::FirstRef | Position::FurtherRefs => {}
        }
        self.form = Form::Advertisement(Position::FurtherRefs);
        // The capabilities are behind a NUL byte of the first ref.
        let mut parts = line.splitn(2, |byte| *byte == 0);
        let (line, capabilities) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mut words = line.splitn(2, |byte| *byte == b' ');
        let (Some(object), Some(name)) = (words.next(), words.next().filter(|name| !name.is_empty())) else {
            return Err(AnswerError::Malformed("a line of it is no ref"));
        };
        // A repository without refs, the boundary of a shallow one, and the object that a tag points to.
        if name == b"capabilities^{}" || object == b"shallow" || name.ends_with(b"^{}") {
            return Ok(());
        }
        let symref = |name: &[u8]| {
            let prefix = [b"symref=", name, b":"].concat();
            capabilities.split(|byte| *byte == b' ').find_map(|it| it.strip_prefix(&prefix[..]))
        };
        let attributes = symref(name).map(|target| [b"symref-target:", target].concat());
        self.wanted.take(object, name, attributes.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ls_refs::{Head, HeadSelection, ObjectFormat};
    use super::super::pkt_line::encode;
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn advertisement(refs: &[String]) -> Vec<u8> {
        let packets: String = refs.iter().map(|line| encode(line)).collect();
        format!("{}0000{packets}0000", encode("# service=git-upload-pack")).into_bytes()
    }

    fn read(branch: Option<&str>, bytes: &[u8]) -> Result<Head, AnswerError> {
        let branch = branch.map(|branch| branch.parse().unwrap());
        let mut reading = HeadSelection::new(branch, ObjectFormat::Sha1).from_advertisement();
        for byte in bytes {
            if reading.push(&[*byte])? {
                break;
            }
        }
        reading.finish().map(|refs| refs.head)
    }

    #[expect(clippy::unnecessary_wraps, reason = "compared with answers that may be errors")]
    fn at(branch: &str, sha: &str) -> Result<Head, AnswerError> {
        Ok(Head::At { branch: branch.parse().unwrap(), sha: sha.parse().unwrap() })
    }

    #[test]
    fn an_advertisement_of_version_0_or_1_is_read() {
        let refs = [
            format!("{A} HEAD\0multi_ack symref=HEAD:refs/heads/main agent=git/2.17"),
            format!("{A} refs/heads/main"),
            format!("{B} refs/heads/x"),
            format!("{B} refs/tags/v1"),
            format!("{A} refs/tags/v1^{{}}"),
        ];
        let version_1: Vec<String> = std::iter::once("version 1".to_owned()).chain(refs.clone()).collect();
        for bytes in [advertisement(&refs), advertisement(&version_1)] {
            assert_eq!(read(None, &bytes), at("main", A));
            assert_eq!(read(Some("x"), &bytes), at("x", B));
            assert_eq!(read(Some("v1"), &bytes), Ok(Head::Missing { branch: "v1".parse().unwrap() }));
        }
        let empty = format!("{}\0multi_ack", "0".repeat(40) + " capabilities^{}");
        assert_eq!(read(None, &advertisement(&[empty])), Ok(Head::Empty));
        assert_eq!(read(None, &advertisement(&[])), Ok(Head::Empty));
        assert_eq!(read(None, &advertisement(&[format!("{A} HEAD\0multi_ack")])), Ok(Head::NoDefaultBranch));
    }

    #[test]
    fn an_advertisement_that_is_cut_or_malformed_is_an_error() {
        let refs = [format!("{A} HEAD\0symref=HEAD:refs/heads/main"), format!("{B} refs/heads/x")];
        let bytes = advertisement(&refs);
        for end in 0..bytes.len() {
            assert_eq!(read(Some("y"), &bytes[..end]), Err(AnswerError::Cut), "{end}");
        }
        for line in ["x", "", "ERR no", &format!("{} HEAD", "g".repeat(40))] {
            assert!(read(Some("y"), &advertisement(&[line.to_owned()])).is_err(), "{line}");
        }
        let without_flush = format!("{}{}", encode("# service=git-upload-pack"), encode(&refs[0]));
        assert!(matches!(read(None, without_flush.as_bytes()), Err(AnswerError::Malformed(_))));
    }
}
