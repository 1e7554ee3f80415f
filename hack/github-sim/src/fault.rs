//! Faults that a test injects: the affected requests, the effect, and the number.
//!
//! A fault names a method, a path pattern, the first affected one of the matching requests, and their number. It
//! happens before any effect, except for the one that loses the answer of an effect, and the one that makes a fresh
//! token be refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::because::Because;

/// A fault: the affected requests, and the effect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// The method; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path without `/api/v3`; `*` matches anything, including slashes. Any path if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The first affected request among the matching ones: 1 is the next one.
    #[serde(default = "one")]
    pub nth: u64,
    /// The number of affected requests from there on.
    #[serde(default = "one")]
    pub times: u64,
    /// The effect.
    #[serde(flatten)]
    pub kind: FaultKind,
}

impl Fault {
    /// A fault of the next request with this method and path pattern, once.
    #[must_use]
    pub fn new(method: &str, path: &str, kind: FaultKind) -> Self {
        Self { method: Some(method.to_owned()), path: Some(path.to_owned()), nth: 1, times: 1, kind }
    }

    /// The same, but from the nth match on.
    #[must_use]
    pub fn nth(self, nth: u64) -> Self {
        Self { nth, ..self }
    }

    /// The same, for this many requests.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }
}

fn one() -> u64 {
    1
}

/// The effect on a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// This answer, without any other effect.
    Status {
        status: u16,
        /// The body; GitHub's `{"message": …}` for the status if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Value>,
        /// Headers in addition to GitHub's usual ones.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
    },
    /// This refusal in GitHub's words, without any other effect. One of a pushed ref affects pushes alone.
    Refuse { because: Because },
    /// The request is handled later, in real time; at most 30 s.
    Delay { milliseconds: u64 },
    /// The connection is closed before any effect.
    Cut,
    /// The connection is closed after the effect, before the answer.
    LoseResponse,
    /// The token from this mint is refused at its first uses.
    FreshToken {
        /// The number of refused uses.
        uses: u32,
        /// 401 (the default) or 404.
        #[serde(default = "unauthorized")]
        status: u16,
    },
}

fn unauthorized() -> u16 {
    401
}

impl FaultKind {
    /// Its name in the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Refuse { .. } => "refuse",
            Self::Delay { .. } => "delay",
            Self::Cut => "cut",
            Self::LoseResponse => "lose_response",
            Self::FreshToken { .. } => "fresh_token",
        }
    }
}

/// A fault with its counts.
#[derive(Clone, Debug, Serialize)]
pub struct Injected {
    /// Its number, with which it can be removed.
    pub id: u64,
    #[serde(flatten)]
    pub fault: Fault,
    /// Requests that matched.
    pub matched: u64,
    /// Affected requests.
    pub struck: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    injected: Vec<Injected>,
    last: u64,
}

impl Faults {
    pub(crate) fn inject(&mut self, fault: Fault) -> u64 {
        self.last += 1;
        self.injected.push(Injected { id: self.last, fault, matched: 0, struck: 0 });
        self.last
    }

    pub(crate) fn all(&self) -> &[Injected] {
        &self.injected
    }

    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let before = self.injected.len();
        self.injected.retain(|injected| injected.id != id);
        self.injected.len() < before
    }

    pub(crate) fn clear(&mut self) {
        self.injected.clear();
    }

    /// The effect of the first fault for this request. Every matching fault counts the request.
    pub(crate) fn strike(&mut self, method: &str, path: &str) -> Option<FaultKind> {
        let mut strikes = None;
        for injected in &mut self.injected {
            let fault = &injected.fault;
            let matches = fault.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
                && fault.path.as_ref().is_none_or(|pattern| like(pattern, path));
            if !matches {
                continue;
            }
            injected.matched += 1;
            let due = injected.matched >= fault.nth && injected.struck < fault.times;
            if due && strikes.is_none() {
                injected.struck += 1;
                strikes = Some(fault.kind.clone());
            }
        }
        strikes
    }
}

/// Whether a text matches a pattern in which `*` matches anything.
fn like(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).filter_map(|from| text.get(from..)).any(|text| like(rest, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(like("/app/installations/*/access_tokens", "/app/installations/7/access_tokens"));
        assert!(like("/repos/*", "/repos/a/b/hooks") && like("*/info/refs", "/a/b.git/info/refs"));
        assert!(!like("/app", "/app/installations") && !like("/app/*/x", "/app/x"));
    }

    #[test]
    fn strikes_from_the_nth_match_so_many_times() {
        let mut faults = Faults::default();
        faults.inject(Fault::new("GET", "/app", FaultKind::Cut).nth(2).times(2));
        let struck: Vec<bool> = (0..5).map(|_| faults.strike("GET", "/app").is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
        assert!(faults.strike("POST", "/app").is_none());
        assert_eq!((faults.all()[0].matched, faults.all()[0].struck), (5, 2));
    }

    #[test]
    fn reads_from_json() {
        let fault: Fault = serde_json::from_str(
            r#"{"method":"POST","path":"/app/*","kind":"status","status":403,"headers":{"retry-after":"60"}}"#,
        )
        .unwrap();
        assert_eq!((fault.nth, fault.times), (1, 1));
        assert!(matches!(fault.kind, FaultKind::Status { status: 403, .. }));
    }
}
