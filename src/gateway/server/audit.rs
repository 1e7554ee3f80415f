//! The lines of the log about a push: who, and what where.
//!
//! The invariant: before GitHub can have all of a push, a line names each of its refs. The end of the push is a line of its own, so a
//! push without one ended with the process.

use super::super::commands::{Command, Push};
use super::super::metrics::PushResult;
use super::Call;
use crate::ids::RepositoryId;

/// The refs that one line names.
const MOST_NAMED: usize = 20;

/// A push in the log.
#[derive(Debug)]
pub(super) struct Record {
    /// Tells the lines of this push from others.
    push: String,
    namespace: String,
    workspace: String,
    pod: String,
    pod_uid: String,
    host: String,
    repository: RepositoryId,
    count: usize,
}

impl Record {
    pub(super) fn new(call: &Call, push: &Push) -> Self {
        Self {
            push: format!("{:016x}", rand::random::<u64>()),
            namespace: call.pod.namespace.clone(),
            workspace: call.access.workspace.clone(),
            pod: call.pod.name.clone(),
            pod_uid: call.pod.uid.clone(),
            host: call.access.host.clone(),
            repository: call.access.repository,
            count: push.commands.len(),
        }
    }

    /// GitHub is about to be sent the push.
    pub(super) fn begun(&self, push: &Push) {
        self.refs(push, "begun");
    }

    /// The gateway refused the push.
    pub(super) fn refused(&self, push: &Push) {
        self.refs(push, PushResult::Refused.as_str());
    }

    /// A push that had begun ended.
    pub(super) fn ended(&self, result: PushResult) {
        self.line(result.as_str(), "");
    }

    fn refs(&self, push: &Push, result: &str) {
        for refs in lines(push) {
            self.line(result, &refs);
        }
    }

    fn line(&self, result: &str, refs: &str) {
        let Self { push, namespace, workspace, pod, pod_uid, host, repository, count } = self;
        let repository = repository.get();
        tracing::info!(
            audit = true,
            action = "push",
            push,
            result,
            namespace,
            workspace,
            pod,
            pod_uid,
            host,
            repository,
            refs,
            count
        );
    }
}

/// All refs of a push with their old and new commits, by lines.
fn lines(push: &Push) -> impl Iterator<Item = String> {
    let named = |command: &Command| format!("{}:{}..{}", command.name, command.old, command.new);
    push.commands.chunks(MOST_NAMED).map(move |refs| refs.iter().map(named).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ref_of_a_push_is_missing_from_the_log() {
        let (old, new) = ("0".repeat(40), "1".repeat(40));
        let command = |n: usize| Command {
            old: old.parse().unwrap(),
            new: new.parse().unwrap(),
            name: format!("refs/heads/b{n}").parse().unwrap(),
        };
        let push = Push { commands: (0..3 * MOST_NAMED + 1).map(command).collect(), ..Push::default() };
        let lines: Vec<_> = lines(&push).collect();
        assert_eq!(lines.len(), 4);
        let named: Vec<_> = lines.iter().flat_map(|line| line.split(' ')).collect();
        let expected = push.commands.iter().map(|command| format!("{}:{old}..{new}", command.name));
        assert_eq!(named, expected.collect::<Vec<_>>());
    }
}
