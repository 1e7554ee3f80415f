//! The name of a branch.
//!
//! The invariant: `git check-ref-format` accepts the name behind `refs/heads/`, and it is UTF-8 of a limited length. So it has no
//! control character, which could start another line of the protocol, and nothing that git reads as an expression. A name may
//! begin with a hyphen, although git's commands do not create such branches: `--upload-pack=x` is harmless, because no name here
//! becomes an option on a command line.
use std::fmt;
use std::str::FromStr;

/// The most bytes of a name: a file name on Linux, with room for `refs/heads/` and `.lock`.
const LIMIT: usize = 1000;

/// A branch, without `refs/heads/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchName(String);

/// The reason why a text is not the name of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BranchError {
    #[error("the branch has no name")]
    Empty,
    /// More than 1000 bytes.
    #[error("the branch's name is longer than {LIMIT} bytes")]
    Long,
    /// A space, a control character, or one of `~^:?*[\`.
    #[error("{0:?} cannot be in a branch's name")]
    Character(char),
    /// `..`, `@{`, `//`, or a slash at an end.
    #[error("{0:?} cannot be in a branch's name, nor a slash at its beginning or its end")]
    Sequence(&'static str),
    /// A component begins with a dot or ends with `.lock`, or the name ends with a dot.
    #[error("no part of a branch's name begins with a dot or ends with .lock, and the name does not end with a dot")]
    Dot,
}

impl BranchName {
    /// The name, without `refs/heads/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The rules of git-check-ref-format(1).
impl FromStr for BranchName {
    type Err = BranchError;

    fn from_str(name: &str) -> Result<Self, BranchError> {
        if name.is_empty() {
            return Err(BranchError::Empty);
        }
        if name.len() > LIMIT {
            return Err(BranchError::Long);
        }
        let forbidden = |c: char| c.is_ascii_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
        if let Some(character) = name.chars().find(|c| forbidden(*c)) {
            return Err(BranchError::Character(character));
        }
        if let Some(sequence) = ["..", "@{", "//"].into_iter().find(|sequence| name.contains(sequence)) {
            return Err(BranchError::Sequence(sequence));
        }
        if name.starts_with('/') || name.ends_with('/') {
            return Err(BranchError::Sequence("//"));
        }
        let dotted = |part: &str| part.starts_with('.') || part.as_bytes().ends_with(b".lock");
        if name.ends_with('.') || name.split('/').any(dotted) {
            return Err(BranchError::Dot);
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn git_takes_the_same_names() {
        let long = "a".repeat(200);
        let names = [
            "main",
            "feature/x",
            "a/b/c",
            "--upload-pack=x",
            "-",
            "@",
            "a@b",
            "{",
            "a{",
            "ä/ö",
            "日本",
            "HEAD",
            "a.b",
            "a.lockx",
            "x=y",
            "a\"b",
            "a'b",
            "$(x)",
            "a;b",
            "refs/heads/x",
            "%2e",
            "\u{85}",
            "\u{feff}",
            &long,
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "a..b",
            "..",
            ".",
            ".a",
            "a/.b",
            "a.",
            "a.lock",
            "a.lock/b",
            "a/b.lock",
            "a b",
            "a~b",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[b",
            "a\\b",
            "a@{b",
            "@{",
            "a\nb",
            "a\tb",
            "\u{7f}",
            "a\u{1}",
        ];
        for name in names {
            let status =
                Command::new("git").args(["check-ref-format", &format!("refs/heads/{name}")]).status().unwrap();
            assert_eq!(name.parse::<BranchName>().is_ok(), status.success(), "{name:?}");
        }
        assert_eq!("a\0b".parse::<BranchName>(), Err(BranchError::Character('\0')));
        assert_eq!("a".repeat(1001).parse::<BranchName>(), Err(BranchError::Long));
    }
}
