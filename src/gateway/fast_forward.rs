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

/// Below this are the commits that wait to be moved to. The workspace's uid and a number of the push follow.
pub const INCOMING: &str = "refs/landfall/incoming";
/// How often the removal of a ref is tried.
const REMOVALS: usize = 2;

/// A push of which some branches are moved by GitHub.
#[derive(Debug)]
pub struct Staged {
    /// As GitHub is sent it.
    pub push: Push,
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
    /// None if there is nothing to prove. `nonce` tells this push from others of the workspace.
    #[must_use]
    pub fn of(push: &Push, verdicts: &Verdicts, uid: &str, nonce: u64) -> Option<Self> {
        let place = |number: usize| format!("{INCOMING}/{uid}/{nonce:016x}-{number}").parse::<RefName>().ok();
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
        Some(Self { push: Push { commands, ..push.clone() }, incoming })
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

/// No object, in the length of this object's name.
fn zeros(like: &Sha) -> Sha {
    "0".repeat(like.as_str().len()).parse().unwrap_or_else(|_| like.clone())
}
