//! The actions of a person on github.com: install, suspend, select, rename, push. Each change causes its events.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::access::Permissions;
use crate::bare::{GitError, ZERO};
use crate::keys::{self, KeyError};
use crate::model::{Coverage, HookOwner, Installation, Repository};
use crate::seed::{AccountSeed, RepositorySeed, Selection};
use crate::state::State;
use crate::webhook::{Moved, RETENTION_DAYS};

/// The most keys of an App.
const MOST_KEYS: usize = 25;

/// The reason why an action is impossible.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The object does not exist.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// The kind of the object.
        kind: &'static str,
        /// Its name or number.
        name: String,
    },
    /// The object exists already.
    #[error("{name:?} already exists")]
    Exists { name: String },
    /// An App has at most 25 keys.
    #[error("an App has at most {MOST_KEYS} keys")]
    TooManyKeys,
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// git failed.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl ControlError {
    pub(crate) fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound { kind, name: name.into() }
    }
}

/// An App to be installed on an account.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// The slug of the App.
    pub app: String,
    /// The login of the account.
    pub account: String,
    /// All repositories (the default) or some.
    #[serde(default)]
    pub selection: Selection,
    /// The granted permissions. The default is the App's requested ones.
    #[serde(default)]
    pub permissions: Option<Permissions>,
}

/// A file to be committed to a branch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// `owner/name`.
    pub repository: String,
    /// The branch. The default is the default branch. It is created, without a parent, if it does not exist.
    #[serde(default)]
    pub branch: Option<String>,
    /// The path of the file.
    pub path: String,
    /// The new content of the file.
    pub content: String,
    /// The commit's message.
    #[serde(default)]
    pub message: Option<String>,
}

impl State {
    pub(crate) fn install(&mut self, install: &Install, given: Option<u64>) -> Result<u64, ControlError> {
        let app = self.app_by_slug(&install.app).ok_or_else(|| ControlError::not_found("App", &install.app))?;
        let (app, asked) = (app.id, app.permissions.clone());
        let account = self.account(&install.account);
        let account = account.ok_or_else(|| ControlError::not_found("account", &install.account))?.id;
        if self.installations.values().any(|found| found.app == app && found.account == account) {
            return Err(ControlError::Exists { name: format!("{} on {}", install.app, install.account) });
        }
        let coverage = self.coverage(account, &install.selection)?;
        let now = self.now();
        let installation = Installation {
            id: self.id_or_new(given),
            app,
            account,
            coverage,
            permissions: install.permissions.clone().unwrap_or(asked),
            suspended: None,
            created: now,
            updated: now,
        };
        self.installations.insert(installation.id, installation.clone());
        self.announce_installation("created", &installation, self.person);
        Ok(installation.id)
    }

    fn coverage(&self, account: u64, selection: &Selection) -> Result<Coverage, ControlError> {
        let Selection::Selected(names) = selection else { return Ok(Coverage::All) };
        let login = self.login(account);
        let id = |name: &String| {
            let found = self.repository(login, name);
            found.map(|found| found.id).ok_or_else(|| ControlError::not_found("repository", format!("{login}/{name}")))
        };
        names.iter().map(id).collect::<Result<BTreeSet<_>, _>>().map(Coverage::Selected)
    }

    fn installation(&self, id: u64) -> Result<Installation, ControlError> {
        self.installations.get(&id).cloned().ok_or_else(|| ControlError::not_found("installation", id.to_string()))
    }

    pub(crate) fn uninstall(&mut self, id: u64) -> Result<(), ControlError> {
        let installation = self.installation(id)?;
        self.announce_installation("deleted", &installation, self.person);
        self.installations.remove(&id);
        self.tokens.retain(|_, token| token.installation != id);
        Ok(())
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Installation)) -> Result<Installation, ControlError> {
        let now = self.now();
        let found =
            self.installations.get_mut(&id).ok_or_else(|| ControlError::not_found("installation", id.to_string()))?;
        change(found);
        found.updated = now;
        Ok(found.clone())
    }

    pub(crate) fn suspend(&mut self, id: u64) -> Result<(), ControlError> {
        let suspended = Some((self.now(), self.person));
        let installation = self.change(id, |found| found.suspended = suspended)?;
        self.announce_installation("suspend", &installation, self.person);
        Ok(())
    }

    pub(crate) fn unsuspend(&mut self, id: u64) -> Result<(), ControlError> {
        let installation = self.change(id, |found| found.suspended = None)?;
        self.announce_installation("unsuspend", &installation, self.person);
        Ok(())
    }

    /// Replaces the public keys (PEM) of an App, like its owner adding and deleting keys.
    pub(crate) fn set_app_keys(&mut self, slug: &str, keys: &[String]) -> Result<(), ControlError> {
        if keys.len() > MOST_KEYS {
            return Err(ControlError::TooManyKeys);
        }
        let id = self.app_by_slug(slug).ok_or_else(|| ControlError::not_found("App", slug))?.id;
        let keys = keys.iter().map(|key| keys::public_der(key)).collect::<Result<_, _>>()?;
        if let Some(app) = self.apps.get_mut(&id) {
            app.keys = keys;
        }
        Ok(())
    }

    /// Grants other permissions, like an account that accepts an App's request.
    pub(crate) fn grant(&mut self, id: u64, permissions: Permissions) -> Result<(), ControlError> {
        let installation = self.change(id, |found| found.permissions = permissions)?;
        self.announce_installation("new_permissions_accepted", &installation, self.person);
        Ok(())
    }

    /// For a change from all to selected repositories, `repositories_removed` is empty, as on GitHub: a receiver has to
    /// list them again.
    pub(crate) fn select_repositories(&mut self, id: u64, selection: &Selection) -> Result<(), ControlError> {
        let before = self.installation(id)?;
        let had: BTreeSet<u64> = self.reached_by(&before).iter().map(|found| found.id).collect();
        let coverage = self.coverage(before.account, selection)?;
        let installation = self.change(id, |found| found.coverage = coverage)?;
        let has: BTreeSet<u64> = self.reached_by(&installation).iter().map(|found| found.id).collect();
        let tell = |ids: &mut dyn Iterator<Item = &u64>| {
            ids.filter_map(|id| self.repositories.get(id)).map(|found| crate::shapes::trivial(self, found)).collect()
        };
        let (added, removed): (Vec<_>, Vec<_>) = match before.coverage {
            Coverage::All => (tell(&mut has.iter()), Vec::new()),
            Coverage::Selected(_) => (tell(&mut has.difference(&had)), tell(&mut had.difference(&has))),
        };
        self.announce_selection(&installation, &added, &removed);
        Ok(())
    }

    /// Creates an account, which may have a name that another one had before.
    pub(crate) fn create_account(&mut self, seed: &AccountSeed) -> Result<u64, ControlError> {
        if self.account(&seed.login).is_some() {
            return Err(ControlError::Exists { name: seed.login.clone() });
        }
        Ok(self.add_account(seed.id, &seed.login, seed.kind, seed.plan.as_deref().unwrap_or("team")))
    }

    /// Renames an account. The names of its repositories redirect, its own name does not, and its Apps get an event.
    pub(crate) fn rename_account(&mut self, login: &str, new: &str) -> Result<(), ControlError> {
        let account = self.account(login).ok_or_else(|| ControlError::not_found("account", login))?;
        let (id, old) = (account.id, account.login.clone());
        if self.account(new).is_some_and(|found| found.id != id) {
            return Err(ControlError::Exists { name: new.to_owned() });
        }
        for repository in self.repositories.values().filter(|found| found.owner == id) {
            self.moved.insert(format!("{old}/{}", repository.name).to_lowercase(), repository.id);
            self.moved.remove(&format!("{new}/{}", repository.name).to_lowercase());
        }
        if let Some(account) = self.accounts.get_mut(&id) {
            new.clone_into(&mut account.login);
        }
        self.announce_account(id, &old);
        Ok(())
    }

    /// The repository of an `owner/name`.
    pub(crate) fn by_full_name(&self, full_name: &str) -> Result<&Repository, ControlError> {
        let found = full_name.split_once('/').and_then(|(owner, name)| self.repository(owner, name));
        found.ok_or_else(|| ControlError::not_found("repository", full_name))
    }

    pub(crate) fn create_repository(&mut self, seed: &RepositorySeed) -> Result<u64, ControlError> {
        let owner = self.account(&seed.owner).ok_or_else(|| ControlError::not_found("account", &seed.owner))?.id;
        if self.repository(&seed.owner, &seed.name).is_some() {
            return Err(ControlError::Exists { name: format!("{}/{}", seed.owner, seed.name) });
        }
        let id = self.id_or_new(seed.id);
        let branch = seed.default_branch.clone().unwrap_or_else(|| "main".to_owned());
        let readme = format!("# {}\n", seed.name);
        let mut files: Vec<(&str, &[u8])> =
            seed.files.iter().map(|(path, content)| (path.as_str(), content.as_bytes())).collect();
        if files.is_empty() && !seed.empty {
            files.push(("README.md", readme.as_bytes()));
        }
        let bare = self.new_bare(id, &branch, &files)?;
        let now = self.now();
        let repository = Repository {
            id,
            owner,
            name: seed.name.clone(),
            private: seed.private,
            archived: seed.archived,
            description: seed.description.clone(),
            default_branch: branch,
            parent: None,
            forking: None,
            refs: bare.refs()?,
            bare,
            next_number: 1,
            created: now,
            updated: now,
            pushed: now,
        };
        // The name no longer leads to the repository that had it before.
        self.moved.remove(&self.full_name(&repository).to_lowercase());
        self.repositories.insert(id, repository.clone());
        self.announce_repository("created", &repository, None);
        Ok(id)
    }

    /// The installations with selected repositories that include this one.
    fn choosing(&self, repository: u64) -> Vec<Installation> {
        let chosen = |found: &&Installation| {
            matches!(&found.coverage, Coverage::Selected(ids) if ids.contains(&repository)) && found.suspended.is_none()
        };
        self.installations.values().filter(chosen).cloned().collect()
    }

    pub(crate) fn rename_repository(&mut self, full_name: &str, name: &str) -> Result<(), ControlError> {
        let repository = self.by_full_name(full_name)?;
        let (id, old, owner) = (repository.id, repository.name.clone(), self.login(repository.owner).to_owned());
        if self.repository(&owner, name).is_some_and(|found| found.id != id) {
            return Err(ControlError::Exists { name: format!("{owner}/{name}") });
        }
        self.moved.insert(format!("{owner}/{old}").to_lowercase(), id);
        self.moved.remove(&format!("{owner}/{name}").to_lowercase());
        let now = self.now();
        if let Some(repository) = self.repositories.get_mut(&id) {
            name.clone_into(&mut repository.name);
            repository.updated = now;
            let repository = repository.clone();
            let changes = json!({"repository": {"name": {"from": old}}});
            self.announce_repository("renamed", &repository, Some(changes));
        }
        Ok(())
    }

    pub(crate) fn delete_repository(&mut self, full_name: &str) -> Result<(), ControlError> {
        let repository = self.by_full_name(full_name)?.clone();
        let (id, told) = (repository.id, [crate::shapes::trivial(self, &repository)]);
        self.announce_repository("deleted", &repository, None);
        // An installation with selected repositories gets an event about the removal of this one from its selection,
        // not about its deletion.
        for installation in self.choosing(id) {
            self.announce_selection(&installation, &[], &told);
        }
        self.repositories.remove(&id);
        // Its forks become forks of its parent.
        for fork in self.repositories.values_mut().filter(|found| found.parent == Some(id)) {
            fork.parent = repository.parent;
        }
        self.moved.retain(|_, target| *target != id);
        self.hooks.retain(|_, hook| hook.owner != HookOwner::Repository(id));
        self.pulls.retain(|(home, _), _| *home != id);
        for installation in self.installations.values_mut() {
            if let Coverage::Selected(ids) = &mut installation.coverage {
                ids.remove(&id);
            }
        }
        // The directory's name is the id, which no other repository gets. It is removed with the simulator at the
        // latest.
        let _ = std::fs::remove_dir_all(repository.bare.path());
        Ok(())
    }

    pub(crate) fn push(&mut self, push: &Push) -> Result<String, ControlError> {
        let repository = self.by_full_name(&push.repository)?;
        if repository.forking.is_some() {
            return Err(ControlError::not_found("git directory of", &push.repository));
        }
        let (id, bare) = (repository.id, repository.bare.clone());
        let branch = push.branch.clone().unwrap_or_else(|| repository.default_branch.clone());
        let message = push.message.clone().unwrap_or_else(|| format!("Update {}", push.path));
        let files = [(push.path.as_str(), push.content.as_bytes())];
        let sha = bare.write(&branch, &files, &message, &self.committer(self.person))?;
        self.take_in(id, self.person)?;
        Ok(sha)
    }

    /// Reads a repository's refs after a push or another change, and sends the events of the moved refs.
    pub(crate) fn take_in(&mut self, id: u64, pusher: u64) -> Result<(), GitError> {
        let now = self.now();
        let Some(repository) = self.repositories.get_mut(&id) else { return Ok(()) };
        let refs = repository.bare.refs()?;
        let names: BTreeSet<&String> = repository.refs.keys().chain(refs.keys()).collect();
        let zero = || ZERO.to_owned();
        let moved: Vec<Moved> = names
            .into_iter()
            .map(|name| Moved {
                name: name.clone(),
                before: repository.refs.get(name).cloned().unwrap_or_else(zero),
                after: refs.get(name).cloned().unwrap_or_else(zero),
            })
            .filter(|moved| moved.before != moved.after)
            .collect();
        repository.refs = refs;
        if moved.is_empty() {
            return Ok(());
        }
        repository.pushed = now;
        repository.updated = now;
        self.follow_pulls(id, &moved)?;
        self.announce_push(id, &moved, pusher);
        Ok(())
    }

    /// Removes deliveries that are older than three days.
    pub(crate) fn forget_old_deliveries(&mut self) {
        let kept = SignedDuration::from_hours(24 * RETENTION_DAYS);
        let oldest = self.now().checked_sub(kept).unwrap_or(Timestamp::MIN);
        self.deliveries.retain(|_, delivery| delivery.delivered >= oldest);
    }
}
