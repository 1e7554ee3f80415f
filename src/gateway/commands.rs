//! The part of a push that comes before its pack: the commands, the capabilities and the push options (gitprotocol-pack(5)).
//!
//! The invariant: a [`Push`] is in one form, whatever bytes it was read from, and [`Push::encode`] gives that form. The reader is
//! stricter than git where git is lenient (capabilities behind a later command, digits in upper case, shallow lines between
//! commands), because every leniency is a place at which GitHub's reader could see something else. Its memory is bounded by
//! [`MOST_BYTES`] and a packet.

use super::refs::{RefName, RefNameError};
use crate::git::Sha;
use crate::git::pkt_line::{self, Packet};
use bytes::{Buf as _, Bytes, BytesMut};
use std::collections::HashSet;

/// The most commands of a push.
pub const MOST_COMMANDS: usize = 16_384;
/// The most commits at which a shallow clone says that its history ends.
pub const MOST_SHALLOW: usize = 16_384;
/// The most push options of which the names are kept for the message.
pub const MOST_OPTIONS: usize = 64;
/// The most bytes before the pack.
pub const MOST_BYTES: usize = 4 << 20;
/// The most bytes of the capabilities, and of a push option.
const MOST_TEXT: usize = 4 << 10;
/// The most bytes of the name of a client.
const MOST_AGENT: usize = 256;

/// The kind of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Create,
    Update,
    Delete,
}

/// A change of a ref.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The object that the client saw there; zeros for none.
    pub old: Sha,
    /// The object that will be there; zeros for none.
    pub new: Sha,
    pub name: RefName,
}

impl Command {
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.new.is_zero() {
            Kind::Delete
        } else if self.old.is_zero() {
            Kind::Create
        } else {
            Kind::Update
        }
    }
}

/// The form of the report that the client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Report {
    #[default]
    None,
    /// `report-status`.
    Status,
    /// `report-status-v2`.
    StatusV2,
}

/// The capabilities that the client asks for. Others are not passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub report: Report,
    /// Flags, in the order of [`FLAGS`].
    flags: [bool; FLAGS.len()],
    /// The name and version of the client.
    pub agent: Option<String>,
    /// The hash of the object names.
    pub object_format: Option<String>,
}

const SIDE_BAND: &str = "side-band-64k";
const PUSH_OPTIONS: &str = "push-options";
/// The capabilities without a value.
const FLAGS: [&str; 6] = [SIDE_BAND, "quiet", "atomic", "ofs-delta", "delete-refs", PUSH_OPTIONS];

impl Capabilities {
    fn parse(text: &[u8]) -> Result<Self, PushError> {
        let text = str::from_utf8(text).ok().filter(|text| text.len() <= MOST_TEXT);
        let text = text.ok_or(PushError::Malformed("its capabilities"))?;
        let mut capabilities = Self::default();
        for word in text.split(' ') {
            if let Some(flag) = FLAGS.iter().position(|flag| *flag == word) {
                capabilities.flags[flag] = true;
            } else if word == "report-status-v2" {
                capabilities.report = Report::StatusV2;
            } else if word == "report-status" {
                if capabilities.report == Report::None {
                    capabilities.report = Report::Status;
                }
            } else if let Some(agent) = word.strip_prefix("agent=") {
                let printable = agent.bytes().all(|byte| byte.is_ascii_graphic());
                capabilities.agent = Some(agent.to_owned()).filter(|_| printable && agent.len() <= MOST_AGENT);
            } else if let Some(format) = word.strip_prefix("object-format=") {
                if !matches!(format, "sha1" | "sha256") {
                    return Err(PushError::Malformed("its object format"));
                }
                capabilities.object_format = Some(format.to_owned());
            }
        }
        Ok(capabilities)
    }

    fn has(&self, name: &str) -> bool {
        FLAGS.iter().zip(self.flags).any(|(flag, is_set)| *flag == name && is_set)
    }

    /// Whether the answer is in bands.
    #[must_use]
    pub fn side_band(&self) -> bool {
        self.has(SIDE_BAND)
    }

    /// Whether all refs are to be changed, or none.
    #[must_use]
    pub fn atomic(&self) -> bool {
        self.has("atomic")
    }

    /// As git writes them. Push options are refused, and so they are never passed on.
    fn encode(&self) -> String {
        let mut text = String::new();
        let mut add = |word: &str| {
            text.push(' ');
            text.push_str(word);
        };
        match self.report {
            Report::None => {}
            Report::Status => add("report-status"),
            Report::StatusV2 => add("report-status-v2"),
        }
        for (flag, _) in FLAGS.iter().zip(self.flags).filter(|(flag, is_set)| *is_set && **flag != PUSH_OPTIONS) {
            add(flag);
        }
        for (name, value) in [("object-format", &self.object_format), ("agent", &self.agent)] {
            if let Some(value) = value {
                add(&format!("{name}={value}"));
            }
        }
        text
    }
}

/// A push, up to its pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// The commits at which the client's history ends.
    pub shallow: Vec<Sha>,
    /// None for git's probe request, by which it learns whether it has to authenticate.
    pub commands: Vec<Command>,
    pub capabilities: Capabilities,
    /// Push options (`git push -o`), in the order given.
    pub options: Vec<String>,
}

impl Push {
    /// The bytes for GitHub, up to the pack.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        let mut line = |text: &str| {
            bytes.extend_from_slice(format!("{:04x}", text.len() + 4).as_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        for commit in &self.shallow {
            line(&format!("shallow {commit}"));
        }
        let mut capabilities = Some(format!("\0{}", self.capabilities.encode()));
        for Command { old, new, name } in &self.commands {
            line(&format!("{old} {new} {name}{}", capabilities.take().unwrap_or_default()));
        }
        bytes.extend_from_slice(pkt_line::FLUSH.as_bytes());
        bytes.freeze()
    }

    /// Whether a pack follows: only deletions have none.
    #[must_use]
    pub fn has_pack(&self) -> bool {
        self.commands.iter().any(|command| command.kind() != Kind::Delete)
    }
}

/// Why a push cannot be read. git itself sends none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    #[error("the push does not consist of git's packets")]
    NotPackets,
    #[error("the push is not of git's protocol: {0} cannot be read")]
    Malformed(&'static str),
    #[error("the push names a ref that git does not accept: {0}")]
    Name(#[from] RefNameError),
    #[error("the push changes {0} twice")]
    Twice(RefName),
    #[error("the push has more than {MOST_COMMANDS} refs; push them in several parts")]
    ManyCommands,
    #[error(
        "the clone's history ends at more than {MOST_SHALLOW} commits; fetch more of it with git fetch --unshallow"
    )]
    ManyShallow,
    #[error("the push has more than {MOST_BYTES} bytes before its objects; push fewer refs at once")]
    Long,
    #[error("signed pushes are not supported; push without --signed")]
    Signed,
    #[error("the push ended before its commands did")]
    Cut,
}

/// Whether the commands are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    Complete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Commands,
    Options,
    End,
}

/// Reads a push up to its pack, as its bytes arrive.
#[derive(Debug)]
pub struct PushReader {
    push: Push,
    names: HashSet<RefName>,
    shallow: HashSet<Sha>,
    section: Section,
    buffer: BytesMut,
    read: usize,
}

impl Default for PushReader {
    fn default() -> Self {
        let (push, names, shallow) = (Push::default(), HashSet::new(), HashSet::new());
        Self { push, names, shallow, section: Section::Commands, buffer: BytesMut::new(), read: 0 }
    }
}

impl PushReader {
    /// Takes the next bytes. Nothing more may be given after the commands are complete, or after an error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Progress, PushError> {
        self.buffer.extend_from_slice(bytes);
        while self.section != Section::End {
            let decoded = pkt_line::decode(&self.buffer).map_err(|_| PushError::NotPackets)?;
            let Some((packet, length)) = decoded else { return Ok(Progress::More) };
            self.read += length;
            if self.read > MOST_BYTES {
                return Err(PushError::Long);
            }
            self.section = match (self.section, packet) {
                (Section::Commands, Packet::Line(line)) => {
                    self.push.line(line, (&mut self.names, &mut self.shallow))?;
                    Section::Commands
                }
                (Section::Commands, Packet::Flush) if self.push.capabilities.has(PUSH_OPTIONS) => Section::Options,
                (Section::Options, Packet::Line(line)) => {
                    self.push.option(line)?;
                    Section::Options
                }
                (_, Packet::Flush) => Section::End,
                (_, _) => return Err(PushError::Malformed("a packet between its commands")),
            };
            self.buffer.advance(length);
        }
        Ok(Progress::Complete)
    }

    /// How many bytes were read, whole packets.
    #[must_use]
    pub fn read(&self) -> usize {
        self.read
    }

    /// The push, and the bytes of its pack that arrived with it.
    pub fn finish(self) -> Result<(Push, Bytes), PushError> {
        if self.section == Section::End { Ok((self.push, self.buffer.freeze())) } else { Err(PushError::Cut) }
    }
}

impl Push {
    fn line(
        &mut self,
        line: &[u8],
        (names, shallow): (&mut HashSet<RefName>, &mut HashSet<Sha>),
    ) -> Result<(), PushError> {
        let (line, capabilities) = match line.iter().position(|byte| *byte == 0) {
            Some(end) => (&line[..end], Some(&line[end + 1..])),
            None => (line, None),
        };
        if line == b"push-cert" {
            return Err(PushError::Signed);
        }
        if let Some(commit) = line.strip_prefix(b"shallow ") {
            if capabilities.is_some() || !self.commands.is_empty() {
                return Err(PushError::Malformed("a shallow line"));
            }
            if self.shallow.len() >= MOST_SHALLOW {
                return Err(PushError::ManyShallow);
            }
            let commit = object(commit)?;
            // git names each once. Compressed, many would cost the client nothing.
            if !shallow.insert(commit.clone()) {
                return Err(PushError::Malformed("a shallow line that repeats another"));
            }
            self.shallow.push(commit);
            return Ok(());
        }
        if self.commands.len() >= MOST_COMMANDS {
            return Err(PushError::ManyCommands);
        }
        if let Some(capabilities) = capabilities {
            if !self.commands.is_empty() {
                return Err(PushError::Malformed("a command with a NUL byte"));
            }
            self.capabilities = Capabilities::parse(capabilities)?;
        }
        let command = command(line)?;
        if !names.insert(command.name.clone()) {
            return Err(PushError::Twice(command.name));
        }
        self.commands.push(command);
        Ok(())
    }

    fn option(&mut self, line: &[u8]) -> Result<(), PushError> {
        let option = str::from_utf8(line).ok().filter(|option| option.len() <= MOST_TEXT);
        let option = option.filter(|option| !option.contains('\0')).ok_or(PushError::Malformed("a push option"))?;
        // All options are refused. Those beyond the limit add nothing to the message.
        if self.options.len() < MOST_OPTIONS {
            self.options.push(option.to_owned());
        }
        Ok(())
    }
}

fn object(digits: &[u8]) -> Result<Sha, PushError> {
    let digits = str::from_utf8(digits).ok();
    digits.and_then(|digits| digits.parse().ok()).ok_or(PushError::Malformed("the name of an object"))
}

fn command(line: &[u8]) -> Result<Command, PushError> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let mut word = || words.next().ok_or(PushError::Malformed("a command"));
    let (old, new, name) = (object(word()?)?, object(word()?)?, word()?);
    if old.as_str().len() != new.as_str().len() {
        return Err(PushError::Malformed("a command with two kinds of object names"));
    }
    Ok(Command { old, new, name: RefName::of_bytes(name)? })
}

#[cfg(test)]
mod tests;
