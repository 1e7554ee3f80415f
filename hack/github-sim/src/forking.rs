//! Forks: the answer comes at once, and the objects later.
//!
//! A fork is in the state from its request on, without a single object until its time has come. A client that considers
//! it complete after the answer is noticed.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::bare::GitError;
use crate::model::{Forking, Repository};
use crate::person::ControlError;
use crate::state::State;

/// A repository to be forked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// `owner/name` of the repository to fork.
    pub of: String,
    /// The login of the account that gets the fork.
    pub account: String,
    /// The fork's name. The default is the repository's.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether the fork gets only the default branch.
    #[serde(default)]
    pub default_branch_only: bool,
}

impl State {
    /// The root of a network of forks.
    pub(crate) fn source<'a>(&'a self, repository: &'a Repository) -> &'a Repository {
        let mut found = repository;
        while let Some(parent) = found.parent.and_then(|parent| self.repositories.get(&parent)) {
            found = parent;
        }
        found
    }

    /// The repository of an account in the network of another one. GitHub permits only one.
    pub(crate) fn in_network(&self, repository: &Repository, account: u64) -> Option<&Repository> {
        let source = self.source(repository).id;
        self.repositories.values().find(|found| found.owner == account && self.source(found).id == source)
    }

    /// The full names of the forks of `owner/name`, the oldest first.
    pub(crate) fn forks_of(&self, full_name: &str) -> Result<Vec<String>, ControlError> {
        let parent = Some(self.by_full_name(full_name)?.id);
        let forks = self.repositories.values().filter(|found| found.parent == parent);
        Ok(forks.map(|fork| self.full_name(fork)).collect())
    }

    /// Forks like a person: into any account, with only the rules of the network.
    pub(crate) fn fork_by_hand(&mut self, fork: &Fork) -> Result<u64, ControlError> {
        let of = self.by_full_name(&fork.of)?.id;
        let account = self.account(&fork.account).ok_or_else(|| ControlError::not_found("account", &fork.account))?.id;
        let id = self.fork(of, account, fork.name.as_deref(), fork.default_branch_only, self.person)?;
        id.ok_or_else(|| ControlError::not_found("repository", &fork.of))
    }

    /// Forks into an account. A repository of the account in this network already is its fork, under any name. `None`
    /// if there is nothing to fork.
    pub(crate) fn fork(
        &mut self,
        of: u64,
        account: u64,
        name: Option<&str>,
        default_branch_only: bool,
        actor: u64,
    ) -> Result<Option<u64>, GitError> {
        let Some(parent) = self.repositories.get(&of).cloned() else { return Ok(None) };
        if let Some(existing) = self.in_network(&parent, account) {
            return Ok(Some(existing.id));
        }
        let name = self.free_name(account, name.filter(|name| !name.is_empty()).unwrap_or(&parent.name));
        let (id, now) = (self.new_id(), self.now());
        let delay = SignedDuration::try_from(self.fork_delay).unwrap_or(SignedDuration::MAX);
        let ready = now.saturating_add(delay).unwrap_or(Timestamp::MAX);
        let fork = Repository {
            id,
            owner: account,
            name,
            archived: false,
            parent: Some(of),
            forking: Some(Forking { ready, default_branch_only }),
            bare: self.new_bare(id, &parent.default_branch, &[])?,
            refs: std::collections::BTreeMap::new(),
            next_number: 1,
            created: now,
            updated: now,
            ..parent
        };
        // The name no longer leads to the repository that had it before.
        self.moved.remove(&self.full_name(&fork).to_lowercase());
        self.repositories.insert(id, fork.clone());
        self.settle_forks();
        self.announce_fork(of, &fork, actor);
        self.announce_repository("created", &fork, None);
        Ok(Some(id))
    }

    /// A free name in an account: GitHub appends a number to a name that is taken.
    fn free_name(&self, account: u64, wanted: &str) -> String {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        let wanted: String = wanted.chars().map(|letter| if allowed(letter) { letter } else { '-' }).collect();
        let owner = self.login(account);
        if self.repository(owner, &wanted).is_none() {
            return wanted;
        }
        let counted = wanted.rsplit_once('-').and_then(|(stem, count)| Some((stem, count.parse::<u64>().ok()?)));
        let (stem, count) = counted.unwrap_or((&wanted, 0));
        let next = (count + 1..).map(|count| format!("{stem}-{count}"));
        next.into_iter().find(|name| self.repository(owner, name).is_none()).unwrap_or(wanted.clone())
    }

    /// Whether there is a fork whose time has come.
    pub(crate) fn forks_due(&self) -> bool {
        let now = self.now();
        self.repositories.values().any(|found| found.forking.as_ref().is_some_and(|forking| forking.ready <= now))
    }

    /// Fills the forks whose time has come.
    pub(crate) fn settle_forks(&mut self) {
        self.settle_forks_of(self.now());
    }

    /// Fills all forks.
    pub(crate) fn finish_forks(&mut self) {
        self.settle_forks_of(Timestamp::MAX);
    }

    fn settle_forks_of(&mut self, until: Timestamp) {
        let due = |found: &&Repository| found.forking.as_ref().is_some_and(|forking| forking.ready <= until);
        let due: Vec<u64> = self.repositories.values().filter(due).map(|found| found.id).collect();
        for id in due {
            if let Err(error) = self.fill(id) {
                tracing::error!(error = &error as &dyn std::error::Error, id, "a fork was not filled");
            }
        }
    }

    /// Copies the current objects of the parent. This is not a push, so there is no event.
    fn fill(&mut self, id: u64) -> Result<(), GitError> {
        let Some(fork) = self.repositories.get_mut(&id) else { return Ok(()) };
        let (Some(forking), Some(parent)) = (fork.forking.take(), fork.parent) else { return Ok(()) };
        let (bare, branch) = (fork.bare.clone(), fork.default_branch.clone());
        let Some(parent) = self.repositories.get(&parent) else { return Ok(()) };
        if forking.default_branch_only {
            bare.fetch(&parent.bare, &[&format!("refs/heads/{branch}:refs/heads/{branch}")])?;
        } else {
            bare.fetch(&parent.bare, &["refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*"])?;
        }
        let refs = bare.refs()?;
        if let Some(fork) = self.repositories.get_mut(&id) {
            fork.refs = refs;
        }
        Ok(())
    }
}
