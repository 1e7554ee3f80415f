//! The name of a commit.
//!
//! The invariant: 40 (SHA-1) or 64 (SHA-256) hexadecimal digits in lower case. Two are therefore the same commit if and
//! only if they are equal, and one fits into an annotation, an environment variable and a log line without escaping.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a git object, in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha(String);

/// A text that is not the name of a git object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the full name of a commit: that is 40 or 64 hexadecimal digits in lower case")]
pub struct ShaError;

impl Sha {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all digits are zero: in a push event, "there is no commit" (the branch was made or deleted).
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|digit| digit == b'0')
    }
}

impl FromStr for Sha {
    type Err = ShaError;

    fn from_str(text: &str) -> Result<Self, ShaError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Sha {
    type Error = ShaError;

    fn try_from(text: String) -> Result<Self, ShaError> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if digits && matches!(text.len(), 40 | 64) { Ok(Self(text)) } else { Err(ShaError) }
    }
}

impl From<Sha> for String {
    fn from(sha: Sha) -> Self {
        sha.0
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_names_in_lower_case_are_taken() {
        let forty = "0123456789abcdef0123456789abcdef01234567";
        let taken: Sha = forty.parse().unwrap();
        assert_eq!((taken.to_string().as_str(), taken.is_zero()), (forty, false));
        assert_eq!(serde_json::to_string(&taken).unwrap(), format!("\"{forty}\""));
        assert_eq!(serde_json::from_str::<Sha>(&format!("\"{forty}\"")).unwrap(), taken);
        assert!("0".repeat(40).parse::<Sha>().unwrap().is_zero());
        assert!("0".repeat(64).parse::<Sha>().unwrap().is_zero());
        for text in [
            "",
            "abc",
            &forty.to_uppercase(),
            &forty[1..],
            &"a".repeat(41),
            &"a".repeat(63),
            &format!("{} ", &forty[1..]),
            &format!("{}g", &forty[1..]),
            &"é".repeat(20),
        ] {
            assert_eq!(text.parse::<Sha>(), Err(ShaError), "{text}");
            assert!(serde_json::from_value::<Sha>(text.into()).is_err(), "{text}");
        }
    }
}
