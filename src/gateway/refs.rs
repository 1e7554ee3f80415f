//! The refs that a workspace may push, and how.
//!
//! The invariant: [`PushPolicy::judge`] is a pure function of the workspace, the grant and the commands, and allows a ref only for
//! a reason that it can name: the ref is the workspace's own, or both `spec.push` and one entry of the `GitHubApp` have it. The
//! places of other workspaces' work (`landfall-wip/`, `refs/landfall/`) are in nobody's patterns, however wide those are.

use super::commands::{Command, Kind, Push};
use crate::agent::clone::may_choose;
use crate::agent::evidence::{autosave_ref, wip_prefix};
use crate::git::{BranchError, BranchName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const HEADS: &str = "refs/heads/";
const TAGS: &str = "refs/tags/";
/// Below these is the work of workspaces that has no other place.
const OF_WORKSPACES: [&str; 2] = ["refs/heads/landfall-wip/", "refs/landfall/"];
/// The most push options that a message names.
const MOST_NAMED: usize = 3;
/// The most characters of a push option in a message.
const LONGEST_NAMED: usize = 40;

/// The full name of a ref, by the rules of git's receive-pack: `refs/`, and a name of at least two parts that
/// `git check-ref-format` accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(String);

/// Why a text is not the full name of a ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefNameError {
    #[error("it does not begin with refs/, or has nothing below it")]
    NotFull,
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("{0}")]
    Name(#[from] BranchError),
}

impl RefName {
    pub(super) fn of_bytes(name: &[u8]) -> Result<Self, RefNameError> {
        str::from_utf8(name).map_err(|_| RefNameError::NotUtf8)?.parse()
    }

    /// The full name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as people write it: without `refs/heads/`.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.strip_prefix(HEADS).unwrap_or(&self.0)
    }
}

impl FromStr for RefName {
    type Err = RefNameError;

    fn from_str(name: &str) -> Result<Self, RefNameError> {
        let rest = name.strip_prefix("refs/").filter(|rest| rest.contains('/')).ok_or(RefNameError::NotFull)?;
        // A branch's name follows the same rules, behind another prefix.
        rest.parse::<BranchName>()?;
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch or tag, or those whose full names match: `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefPattern(String);

/// Why a text is not a pattern of refs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pattern of refs: write refs/heads/NAME or refs/tags/NAME, with * for any run of characters")]
pub struct RefPatternError(String);

impl FromStr for RefPattern {
    type Err = RefPatternError;

    fn from_str(pattern: &str) -> Result<Self, RefPatternError> {
        let is_below = |prefix| pattern.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
        // git allows no `*` in a name, so every other character has to be that of a name.
        let is_name = pattern.replace('*', "x").parse::<RefName>().is_ok();
        let is_pattern = (is_below(HEADS) || is_below(TAGS)) && is_name;
        if is_pattern { Ok(Self(pattern.to_owned())) } else { Err(RefPatternError(pattern.to_owned())) }
    }
}

impl RefPattern {
    /// Names of refs are compared with their case, as git does.
    #[must_use]
    pub fn matches(&self, name: &RefName) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.as_str().strip_prefix(first)) else { return false };
        let mut parts: Vec<_> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(start) => rest = &rest[start + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// Refs besides the workspace's own that it may push, as `spec.push` asks for or as an entry of the `GitHubApp` grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushRefs {
    /// Those that may be created, and moved by fast-forwards.
    pub refs: Vec<RefPattern>,
    /// Those of them that may be moved to any commit.
    pub force: Vec<RefPattern>,
}

impl PushRefs {
    fn has(&self, name: &RefName) -> bool {
        self.refs.iter().any(|pattern| pattern.matches(name))
    }

    fn forces(&self, name: &RefName) -> bool {
        self.has(name) && self.force.iter().any(|pattern| pattern.matches(name))
    }
}

/// Whose the commits on a workspace's branch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The workspace made the branch, so it may rewrite it.
    Workspace,
    /// The branch may have been there before.
    Unknown,
}

/// Whether a workspace may be at a branch beside the one that its spec names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Beside {
    No,
    /// `NAME-2` and so on: `onExists: Suffix`.
    Numbered,
}

/// The workspace's branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnBranch {
    /// Without `refs/heads/`.
    pub name: String,
    pub beside: Beside,
    pub origin: Origin,
}

impl OwnBranch {
    fn is(&self, name: &RefName) -> bool {
        let Some(branch) = name.as_str().strip_prefix(HEADS) else { return false };
        match self.beside {
            Beside::No => branch == self.name,
            Beside::Numbered => may_choose(&self.name, branch),
        }
    }
}

/// The rules for the pushes of one workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPolicy {
    branch: OwnBranch,
    /// Ends with a slash.
    wip: String,
    autosave: String,
    asked: PushRefs,
    granted: Vec<PushRefs>,
}

/// The moves of a ref that are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Any,
    /// To a descendant of the commit that is there.
    FastForward,
}

/// Why a ref of a push is refused, in words for `! [remote rejected]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Refused {
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A verdict for each command of a push, in their order.
pub type Verdicts = Vec<Result<Move, Refused>>;

impl PushPolicy {
    /// The rules for the workspace with this name and uid. `granted` has one element for each entry of the `GitHubApp` that gives
    /// the namespace the repository: entries do not add up.
    #[must_use]
    pub fn new(name: &str, uid: &str, branch: OwnBranch, asked: PushRefs, granted: Vec<PushRefs>) -> Self {
        Self { branch, wip: wip_prefix(name, uid), autosave: autosave_ref(uid), asked, granted }
    }

    /// Judges each command of a push. A push is passed on only if all are allowed.
    #[must_use]
    pub fn judge(&self, push: &Push) -> Verdicts {
        if let Some(refused) = options(&push.options) {
            return push.commands.iter().map(|_| Err(refused.clone())).collect();
        }
        push.commands.iter().map(|command| self.judge_one(command)).collect()
    }

    fn judge_one(&self, command: &Command) -> Result<Move, Refused> {
        let name = &command.name;
        let is_own_work = name.as_str().starts_with(&self.wip) || name.as_str() == self.autosave;
        if command.kind() == Kind::Delete {
            return if is_own_work { Ok(Move::Any) } else { Err(self.no_deletion()) };
        }
        if is_own_work {
            return Ok(Move::Any);
        }
        if self.branch.is(name) {
            let is_forced = self.branch.origin == Origin::Workspace || self.forces(name);
            return Ok(if is_forced || command.kind() == Kind::Create { Move::Any } else { Move::FastForward });
        }
        if OF_WORKSPACES.iter().any(|place| name.as_str().starts_with(place)) || !self.asked.has(name) {
            return Err(self.not_its_own());
        }
        if !self.granted.iter().any(|entry| entry.has(name)) {
            return Err(Refused(format!(
                "spec.push.refs has {}, but the GitHubApp does not grant it; its administrator can add it to spec.tenants[].push.refs",
                name.short()
            )));
        }
        let is_forced = self.forces(name);
        // A tag is not moved by a fast-forward.
        if name.as_str().starts_with(TAGS) && command.kind() == Kind::Update && !is_forced {
            return Err(Refused(format!("{} exists; moving a tag takes spec.push.force", name.short())));
        }
        Ok(if is_forced || command.kind() == Kind::Create { Move::Any } else { Move::FastForward })
    }

    fn forces(&self, name: &RefName) -> bool {
        self.asked.forces(name) && self.granted.iter().any(|entry| entry.forces(name))
    }

    fn not_its_own(&self) -> Refused {
        let further = if self.asked.refs.is_empty() { "" } else { " and to the refs of spec.push.refs" };
        Refused(format!("this workspace pushes to {}{further} only; see spec.push.refs", self.branch.name))
    }

    fn no_deletion(&self) -> Refused {
        let wip = self.wip.strip_prefix(HEADS).unwrap_or(&self.wip);
        Refused(format!("this workspace deletes only refs below {wip}"))
    }
}

/// All push options are refused: GitHub gives some of them a meaning, and can give others one at any time.
fn options(options: &[String]) -> Option<Refused> {
    let named = |option: &String| {
        let line: String = option.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_NAMED).collect();
        format!("{line:?}")
    };
    let mut names: Vec<_> = options.iter().take(MOST_NAMED).map(named).collect();
    if options.len() > MOST_NAMED {
        names.push(format!("{} more", options.len() - MOST_NAMED));
    }
    (!names.is_empty()).then(|| Refused(format!("push options are not passed on: {}", names.join(", "))))
}

#[cfg(test)]
mod tests;
