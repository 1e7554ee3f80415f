//! How an answer to `ls-refs` is read as it comes in, whatever is wanted of it ([`super::ls_refs`], [`super::listing`]).
//!
//! Pure: bytes in, meaning out. The invariant: nothing is held of it but one packet that is not whole yet and what is wanted; an
//! answer that ends early is an error, unless all was known by then. Without that, a ref that was not listed yet would be
//! taken for one that is not there.
use super::ls_refs::{AnswerError, refused};
use super::pkt_line::{Packet, decode};

/// What is wanted of an answer.
pub trait Wanted {
    /// What an answer comes to.
    type Meaning;

    /// Takes one ref: what it points to, its full name, and what else is said of it.
    fn take(&mut self, object: &[u8], name: &[u8], attributes: &[u8]) -> Result<(), AnswerError>;

    /// Whether nothing that may still come would change what is known.
    fn is_settled(&self) -> bool {
        false
    }

    /// All was read that matters: what it says.
    fn meaning(self) -> Self::Meaning;
}

/// An answer, as it comes in.
#[derive(Debug)]
pub struct Reading<W> {
    wanted: W,
    /// What is not a whole packet yet.
    pending: Vec<u8>,
    complete: bool,
}

impl<W: Wanted> Reading<W> {
    /// Of an answer of which this is wanted.
    #[must_use]
    pub fn of(wanted: W) -> Self {
        Self { wanted, pending: Vec::new(), complete: false }
    }

    /// Takes the next bytes. True once what is wanted is known; what follows then need not be read.
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
                Packet::Flush => self.complete = true,
                Packet::Delimiter | Packet::ResponseEnd => {
                    return Err(AnswerError::Malformed("its list of refs has sections"));
                }
            }
        }
        self.pending = rest.to_vec();
        Ok(self.is_known())
    }

    /// The end has come: what it said.
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
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (Some(object), Some(name)) = (words.next(), words.next().filter(|name| !name.is_empty())) else {
            return Err(AnswerError::Malformed("a line of it is no ref"));
        };
        self.wanted.take(object, name, words.next().unwrap_or_default())
    }
}
