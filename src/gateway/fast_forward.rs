//! Fast-forwards of branches that may not be the workspace's own, which GitHub proves.
//!
//! A push has the new commits, and not those that are there, so nobody can see from it whether it is a fast-forward. The gateway
//! pushes such commits to a ref of its own below [`INCOMING`], asks GitHub to move the branch there without force
//! (`PATCH /repos/{owner}/{repo}/git/refs/{ref}`), and removes its ref. The invariant: a branch for which [`Move::FastForward`] was
//! judged is in no push that GitHub is sent, so no bytes of a client's can move it otherwise.

use super::commands::{Command, Push, Report};
use super::refs::{Move, RefName, Refused, Verdicts};
use super::report_status::{self, Reported};
use super::upstream::{NotMoved, Upstream};
use crate::git::Sha;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

/// Below this are the commits that wait to be moved to. The workspace's uid, the second of the push and a number of it follow.
pub const INCOMING: &str = "refs/landfall/incoming";
/// How often the removal of a ref is tried.
const REMOVALS: usize = 2;
/// The most commands of a push of which branches are moved, each by a request.
pub const MOST_MOVED_WITH: usize = 500;
/// The age at which a ref is one that a gateway left behind. No transfer takes as long.
const LEFT_BEHIND: SignedDuration = SignedDuration::from_hours(1);
/// The most of these that are removed after a push.
const MOST_LEFT_BEHIND: usize = 20;

/// A push of which some branches are moved by GitHub.
#[derive(Debug)]
pub struct Staged {
    /// For each command, the ref that takes the place of its own.
    incoming: Vec<Option<RefName>>,
}

/// Refuses what cannot be moved one by one.
#[must_use]
pub fn stageable(push: &Push, verdicts: Verdicts) -> Verdicts {
    let is_moved = verdicts.iter().any(|verdict| matches!(verdict, Ok(Move::FastForward)));
    let reason = if push.capabilities.report == Report::None {
        "git is too old: it does not ask for the result of its push"
    } else if push.capabilities.atomic() && push.commands.len() > 1 {
        "a branch that may not be this workspace's own cannot be pushed together with others by --atomic; push it alone"
    } else if push.commands.len() > MOST_MOVED_WITH {
        "a branch that may not be this workspace's own cannot be pushed together with so many others; push fewer refs at once"
    } else {
        return verdicts;
    };
    let refuse = |verdict| match verdict {
        Ok(Move::FastForward) => Err(Refused::new(reason)),
        verdict => verdict,
    };
    if is_moved { verdicts.into_iter().map(refuse).collect() } else { verdicts }
}

impl Staged {
    /// The push as GitHub is sent it, and its moves. None if there is nothing to prove. `nonce` tells this push from others of the
    /// workspace.
    #[must_use]
    pub fn of(push: &Push, verdicts: &Verdicts, uid: &str, (now, nonce): (Timestamp, u64)) -> Option<(Push, Self)> {
        let second = now.as_second();
        let place = |number: usize| format!("{INCOMING}/{uid}/{second}-{nonce:016x}-{number}").parse::<RefName>().ok();
        let moves = verdicts.iter().map(|verdict| matches!(verdict, Ok(Move::FastForward)));
        let incoming: Vec<_> =
            moves.enumerate().map(|(number, is_moved)| if is_moved { place(number) } else { None }).collect();
        if incoming.iter().all(Option::is_none) {
            return None;
        }
        let staged = |(command, incoming): (&Command, &Option<RefName>)| match incoming {
            Some(name) => Command { old: zeros(&command.new), new: command.new.clone(), name: name.clone() },
            None => command.clone(),
        };
        let commands = push.commands.iter().zip(&incoming).map(staged).collect();
        Some((Push { commands, ..push.clone() }, Self { incoming }))
    }

    /// Moves the branches after GitHub took the push, and returns git's answer about all of its refs.
    pub async fn conclude(&self, push: &Push, answer: &[u8], upstream: &Upstream) -> Option<Bytes> {
        let Reported { unpacked, results, progress } = report_status::read(answer, push.capabilities.side_band())?;
        let mut told = Vec::with_capacity(push.commands.len());
        for (command, incoming) in push.commands.iter().zip(&self.incoming) {
            let sent = incoming.as_ref().unwrap_or(&command.name);
            let result = results.iter().find(|(name, _)| name == sent.as_str()).map(|(_, result)| result.clone());
            let result = result.unwrap_or_else(|| Err("GitHub did not report it".into()));
            let result = match (result, incoming) {
                (Ok(()), Some(incoming)) => {
                    let moved = upstream.fast_forward(&command.name, &command.new).await;
                    remove(upstream, incoming).await;
                    moved.map_err(|error| error.to_string())
                }
                (result, _) => result,
            };
            told.push((command.name.clone(), result));
        }
        Some(report_status::report(&push.capabilities, &unpacked, &told, &progress))
    }
}

async fn remove(upstream: &Upstream, incoming: &RefName) {
    for _ in 0..REMOVALS {
        match upstream.delete(incoming).await {
            Ok(()) => return,
            Err(NotMoved { reason, .. }) => tracing::debug!(%incoming, reason, "cannot remove a ref of a push"),
        }
    }
}

impl Upstream {
    /// Removes refs below [`INCOMING`] that a gateway left behind, because it ended or GitHub did not answer.
    pub async fn remove_incoming(&self, now: Timestamp) {
        let names = match self.refs_below(INCOMING).await {
            Ok(names) => names,
            Err(reason) => return tracing::debug!(reason, "cannot list the refs of pushes"),
        };
        for name in names.iter().filter(|name| is_left_behind(name, now)).take(MOST_LEFT_BEHIND) {
            remove(self, name).await;
        }
    }
}

/// Whether a ref below [`INCOMING`] is older than any push under way.
fn is_left_behind(name: &RefName, now: Timestamp) -> bool {
    let rest = name.as_str().strip_prefix(INCOMING).and_then(|rest| rest.strip_prefix('/'));
    let push = rest.and_then(|rest| rest.split_once('/')).map(|(_, push)| push);
    let second = push.and_then(|push| push.split_once('-')).and_then(|(second, _)| second.parse().ok());
    let at = second.and_then(|second| Timestamp::from_second(second).ok());
    at.is_some_and(|at| now.duration_since(at) > LEFT_BEHIND)
}

/// No object, in the length of this object's name.
fn zeros(like: &Sha) -> Sha {
    "0".repeat(like.as_str().len()).parse().unwrap_or_else(|_| like.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::commands::Kind;

    fn push(refs: usize) -> Push {
        let command = |n: usize| Command {
            old: "0".repeat(40).parse().unwrap(),
            new: "1".repeat(40).parse().unwrap(),
            name: format!("refs/heads/b{n}").parse().unwrap(),
        };
        let mut push = Push { commands: (0..refs).map(command).collect(), ..Push::default() };
        push.capabilities.report = Report::Status;
        push
    }

    #[test]
    fn a_ref_of_a_push_is_left_behind_after_an_hour() {
        let now = Timestamp::from_second(1_900_000_000).unwrap();
        let staged = |at| {
            let moves = vec![Ok(Move::FastForward)];
            let (sent, _) = Staged::of(&push(1), &moves, "0a1b2c3d", (at, 7)).unwrap();
            assert_eq!(sent.commands[0].kind(), Kind::Create);
            sent.commands[0].name.clone()
        };
        let ago = |seconds| staged(now - SignedDuration::from_secs(seconds));
        assert!(!is_left_behind(&ago(0), now) && !is_left_behind(&ago(3600), now) && is_left_behind(&ago(3601), now));
        for other in ["refs/heads/1-2", "refs/landfall/incoming/0a1b2c3d", "refs/landfall/incoming/0a1b2c3d/x-1-2"] {
            assert!(!is_left_behind(&other.parse().unwrap(), now), "{other}");
        }
    }

    #[test]
    fn branches_are_not_moved_one_by_one_without_end() {
        let judged = |refs: usize, of: Move| {
            let mut verdicts: Verdicts = (1..refs).map(|_| Ok(Move::Any)).collect();
            verdicts.push(Ok(of));
            stageable(&push(refs), verdicts)
        };
        assert!(judged(MOST_MOVED_WITH, Move::FastForward).iter().all(Result::is_ok));
        assert!(judged(MOST_MOVED_WITH + 1, Move::Any).iter().all(Result::is_ok));
        assert_eq!(judged(MOST_MOVED_WITH + 1, Move::FastForward).iter().filter(|verdict| verdict.is_err()).count(), 1);
    }
}
