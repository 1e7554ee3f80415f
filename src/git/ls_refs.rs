//! What is asked of a remote and what its answer means: `ls-refs` of git's protocol version 2 (gitprotocol-v2(5)).
//!
//! Pure: bytes in, meaning out. The invariant: of an answer only HEAD and the one branch that was asked for are kept, so it
//! may be as long as it likes; a line that is malformed, also one of another ref, makes the whole answer an error, never a
//! panic and never half an answer. An answer that ends early is one, too: a branch is missing only if the server said so.
use super::branch::BranchName;
use super::pkt_line::{DELIMITER, FLUSH, NotPackets, Packet, decode, encode};
use super::sha::Sha;

/// How a repository names its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFormat {
    /// 40 digits; what is meant where nothing is said.
    Sha1,
    /// 64 digits.
    Sha256,
}

/// What a server said it can do, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How it names objects.
    pub object_format: ObjectFormat,
    /// Whether it tells of a default branch without a commit.
    pub unborn: bool,
}

impl Capabilities {
    /// What is assumed of a server before it is asked: true of GitHub and of git 2.31 and later with SHA-1.
    pub const ASSUMED: Self = Self { object_format: ObjectFormat::Sha1, unborn: true };
}

/// What a remote says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refs {
    /// The branch that HEAD names, whether it has a commit or not. None if HEAD names none, or names nothing that has a
    /// commit and the server does not speak of such.
    pub default_branch: Option<BranchName>,
    /// The branch that was asked for, or the default branch.
    pub head: Head,
}

/// The newest commit of a branch, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// The branch and its newest commit.
    At {
        /// The one that was asked for, or the default branch.
        branch: BranchName,
        /// Never zero.
        sha: Sha,
    },
    /// There is no branch of the name that was asked for, in a repository that has commits.
    Missing {
        /// The one that was asked for.
        branch: BranchName,
    },
    /// Neither the branch that was asked for nor the default branch has a commit: a repository nothing was pushed to. (Or,
    /// not on GitHub, one in which only branches that were not asked for have commits.)
    Empty,
    /// The default branch was asked for, and HEAD is a commit rather than a branch. Not on GitHub.
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

/// An answer that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// What came does not follow the protocol.
    #[error("{0}")]
    Malformed(&'static str),
    /// It ended before it said so.
    #[error("it ended before it was complete")]
    Cut,
    /// The server said why not; its words, as they came.
    #[error("the server refused")]
    Refused(String),
    /// The server speaks a protocol before version 2.
    #[error("the server does not speak version 2 of git's protocol")]
    OldProtocol,
}

impl From<NotPackets> for AnswerError {
    fn from(_: NotPackets) -> Self {
        Self::Malformed("it does not consist of git's packets")
    }
}

/// The request: HEAD and, if one is named, a branch.
///
/// `agent` is left out, for it must not be sent to a server that was not asked whether it knows it; `User-Agent` says the same.
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

/// Reads an advertisement (`GET …/info/refs`), with or without the `# service` line of earlier protocols.
pub fn advertisement(bytes: &[u8]) -> Result<Capabilities, AnswerError> {
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
        Packet::Line(line) if line.starts_with(b"ERR ") => return Err(refused(&line[4..])),
        // Version 1, or the refs themselves (or none) as version 0 lists them.
        _ => return Err(AnswerError::OldProtocol),
    }
    let mut capabilities = Capabilities { object_format: ObjectFormat::Sha1, unborn: false };
    let mut knows_ls_refs = false;
    loop {
        match next()? {
            Packet::Flush if knows_ls_refs => return Ok(capabilities),
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

fn refused(words: &[u8]) -> AnswerError {
    AnswerError::Refused(String::from_utf8_lossy(words).into_owned())
}

/// An answer to a [`request`], as it comes in.
#[derive(Debug)]
pub struct Answer {
    wanted: Option<BranchName>,
    object_format: ObjectFormat,
    /// What is not a whole packet yet.
    pending: Vec<u8>,
    head: Option<HeadLine>,
    found: Option<Sha>,
    complete: bool,
}

#[derive(Debug)]
struct HeadLine {
    /// None: the branch it names has no commit.
    sha: Option<Sha>,
    branch: Option<BranchName>,
}

impl Answer {
    /// Of a request for `branch`, made with this format.
    #[must_use]
    pub fn new(branch: Option<BranchName>, object_format: ObjectFormat) -> Self {
        Self { wanted: branch, object_format, pending: Vec::new(), head: None, found: None, complete: false }
    }

    /// Takes the next bytes. True once what was asked for is known; what follows then need not be read.
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
        Ok(self.complete || self.is_settled())
    }

    /// The end has come: what it said.
    pub fn finish(self) -> Result<Refs, AnswerError> {
        if !self.complete && !self.is_settled() {
            return Err(AnswerError::Cut);
        }
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
        Ok(Refs { default_branch, head })
    }

    /// Whether nothing that may still come would change what is known.
    fn is_settled(&self) -> bool {
        self.head.is_some() && (self.wanted.is_none() || self.found.is_some())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), AnswerError> {
        if let Some(words) = line.strip_prefix(b"ERR ") {
            return Err(refused(words));
        }
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(object), Some(name)) = (words.next(), words.next().filter(|name| !name.is_empty())) else {
            return Err(AnswerError::Malformed("a line of it is no ref"));
        };
        let sha = if object == b"unborn" { None } else { Some(self.sha(object)?) };
        if name == b"HEAD" {
            let target = words.find_map(|attribute| attribute.strip_prefix(b"symref-target:refs/heads/"));
            // A name that cannot be a branch's is as good as none.
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

    fn sha(&self, object: &[u8]) -> Result<Sha, AnswerError> {
        let length = match self.object_format {
            ObjectFormat::Sha1 => 40,
            ObjectFormat::Sha256 => 64,
        };
        let sha = str::from_utf8(object).ok().and_then(|text| text.parse::<Sha>().ok());
        sha.filter(|sha| sha.as_str().len() == length && !sha.is_zero())
            .ok_or(AnswerError::Malformed("a line of it names no object"))
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), AnswerError> {
    if place.replace(value).is_some() {
        return Err(AnswerError::Malformed("it names a ref twice"));
    }
    Ok(())
}
