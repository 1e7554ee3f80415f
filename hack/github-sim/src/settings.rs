//! The settings of a repository other than its name. Each change causes its events.

use serde_json::{Value, json};

use crate::model::{Coverage, Repository};
use crate::person::ControlError;
use crate::state::State;

impl State {
    fn set(&mut self, id: u64, set: impl FnOnce(&mut Repository)) -> Option<Repository> {
        let now = self.now();
        let repository = self.repositories.get_mut(&id)?;
        set(repository);
        repository.updated = now;
        Some(repository.clone())
    }

    /// Changes a setting, and sends an event with this action.
    fn set_and_tell(&mut self, id: u64, action: &str, changes: Option<Value>, set: impl FnOnce(&mut Repository)) {
        if let Some(repository) = self.set(id, set) {
            self.announce_repository(action, &repository, changes);
        }
    }

    /// Archives a repository, or unarchives it.
    pub(crate) fn set_archived(&mut self, full_name: &str, archived: bool) -> Result<(), ControlError> {
        let repository = self.by_full_name(full_name)?;
        if repository.archived != archived {
            let action = if archived { "archived" } else { "unarchived" };
            self.set_and_tell(repository.id, action, None, |found| found.archived = archived);
        }
        Ok(())
    }

    /// Hides a repository from those without access, or shows it to all.
    pub(crate) fn set_private(&mut self, full_name: &str, private: bool) -> Result<(), ControlError> {
        let repository = self.by_full_name(full_name)?;
        if repository.private != private {
            let action = if private { "privatized" } else { "publicized" };
            self.set_and_tell(repository.id, action, None, |found| found.private = private);
        }
        Ok(())
    }

    /// Sets the description of a repository.
    pub(crate) fn describe(&mut self, full_name: &str, description: String) -> Result<(), ControlError> {
        let repository = self.by_full_name(full_name)?;
        if repository.description.as_ref() != Some(&description) {
            let changes = json!({"description": {"from": repository.description}});
            self.set_and_tell(repository.id, "edited", Some(changes), |found| found.description = Some(description));
        }
        Ok(())
    }

    /// Sets the default branch, also for git.
    pub(crate) fn set_default_branch(&mut self, full_name: &str, branch: &str) -> Result<(), ControlError> {
        let repository = self.by_full_name(full_name)?;
        if repository.branch(branch).is_none() {
            return Err(ControlError::not_found("branch", branch));
        }
        if repository.default_branch != branch {
            repository.bare.set_head(branch)?;
            let changes = json!({"default_branch": {"from": repository.default_branch}});
            self.set_and_tell(repository.id, "edited", Some(changes), |found| {
                branch.clone_into(&mut found.default_branch);
            });
        }
        Ok(())
    }

    /// Transfers a repository to another account. The old name redirects, and only the new owner's Apps get events.
    pub(crate) fn transfer_repository(&mut self, full_name: &str, owner: &str) -> Result<(), ControlError> {
        let repository = self.by_full_name(full_name)?;
        let (id, name, from) = (repository.id, repository.name.clone(), repository.owner);
        let owner = self.account(owner).ok_or_else(|| ControlError::not_found("account", owner))?.id;
        if owner == from {
            return Ok(());
        }
        let new_name = format!("{}/{name}", self.login(owner));
        // An account cannot have a second repository of a network either.
        if self.by_full_name(&new_name).is_ok() || self.in_network(repository, owner).is_some() {
            return Err(ControlError::Exists { name: new_name });
        }
        self.moved.insert(full_name.to_lowercase(), id);
        self.moved.remove(&new_name.to_lowercase());
        for installation in self.installations.values_mut() {
            if let Coverage::Selected(ids) = &mut installation.coverage {
                ids.remove(&id);
            }
        }
        let changes = json!({"owner": {"from": self.former_owner(from)}});
        self.set_and_tell(id, "transferred", Some(changes), |found| found.owner = owner);
        Ok(())
    }
}
