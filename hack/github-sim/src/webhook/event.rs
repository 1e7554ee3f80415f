//! The hooks that get an event, and its payload.

use serde_json::{Value, json};

use super::send::Attempt;
use crate::access::{Level, level_of};
use crate::bare::{Commit, Person, ZERO};
use crate::clock::stamp;
use crate::model::{Coverage, Hook, HookOwner, Installation, Repository};
use crate::seed::AccountType;
use crate::shapes::{self, Links, node_id, simple_user};
use crate::state::State;

/// A ref that moved.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    pub(crate) name: String,
    pub(crate) before: String,
    pub(crate) after: String,
}

/// The most commits in a push event.
const MOST_COMMITS: usize = 2048;
/// The most bytes of a payload. A larger one is neither delivered nor logged.
const MOST_PAYLOAD: usize = 25 * 1024 * 1024;
/// The most tags or branches that can move at once. For more, GitHub sends no event.
const MOST_TAGS: usize = 3;
const MOST_BRANCHES: usize = 5000;

impl State {
    fn event_links(&self) -> Links {
        Links { web: self.web.clone(), api: format!("{}/api/v3", self.web) }
    }

    /// An `installation` event to the App.
    pub(crate) fn announce_installation(&mut self, action: &str, installation: &Installation, sender: u64) {
        let links = self.event_links();
        let mut payload = json!({
            "action": action,
            "installation": shapes::installation(self, installation, &links),
            "sender": self.accounts.get(&sender).map(|sender| simple_user(sender, &links)),
        });
        let repositories: Value =
            self.reached_by(installation).into_iter().map(|repository| shapes::trivial(self, repository)).collect();
        payload["repositories"] = repositories;
        if action == "created" {
            payload["requester"] = Value::Null;
        }
        self.organization(&mut payload, installation.account, &links);
        self.deliver_to_app(installation, "installation", &payload);
    }

    /// An `installation_repositories` event to the App.
    pub(crate) fn announce_selection(&mut self, installation: &Installation, added: &[Value], removed: &[Value]) {
        let links = self.event_links();
        let action = if added.is_empty() && !removed.is_empty() { "removed" } else { "added" };
        let shape = shapes::installation(self, installation, &links);
        let mut payload = json!({
            "action": action,
            "repository_selection": shape["repository_selection"],
            "installation": shape,
            "repositories_added": added,
            "repositories_removed": removed,
            "requester": null,
            "sender": self.accounts.get(&self.person).map(|sender| simple_user(sender, &links)),
        });
        self.organization(&mut payload, installation.account, &links);
        self.deliver_to_app(installation, "installation_repositories", &payload);
    }

    /// An `installation_target` event to the Apps on an account whose login was `old`.
    pub(crate) fn announce_account(&mut self, account: u64, old: &str) {
        let links = self.event_links();
        let Some(found) = self.accounts.get(&account) else { return };
        let kind = if found.kind == AccountType::Organization { "Organization" } else { "User" };
        let mut payload = json!({
            "action": "renamed",
            "account": simple_user(found, &links),
            "changes": {"login": {"from": old}},
            "target_type": kind,
            "sender": self.accounts.get(&self.person).map(|sender| simple_user(sender, &links)),
        });
        self.organization(&mut payload, account, &links);
        let installations: Vec<Installation> =
            self.installations.values().filter(|installation| installation.account == account).cloned().collect();
        for installation in installations {
            payload["installation"] = json!({"id": installation.id, "node_id": node_id("I", installation.id)});
            self.deliver_to_app(&installation, "installation_target", &payload);
        }
    }

    /// `push` events for moved refs.
    pub(crate) fn announce_push(&mut self, repository: u64, moved: &[Moved], pusher: u64) {
        let tags = moved.iter().filter(|moved| moved.name.starts_with("refs/tags/")).count();
        let branches = moved.len() - tags;
        for moved in moved {
            let tag = moved.name.starts_with("refs/tags/");
            if (tag && tags > MOST_TAGS) || (!tag && branches > MOST_BRANCHES) {
                continue;
            }
            // git takes a while to list the commits of a push.
            if self.watchers(repository, "push", false).is_empty() {
                continue;
            }
            let Some(payload) = self.push_payload(repository, moved, pusher) else { continue };
            self.deliver_to_watchers(repository, "push", &payload);
        }
    }

    fn push_payload(&self, repository: u64, moved: &Moved, pusher: u64) -> Option<Value> {
        let links = self.event_links();
        let found = self.repositories.get(&repository)?;
        let (created, deleted) = (moved.before == ZERO, moved.after == ZERO);
        let web = format!("{}/{}", self.web, self.full_name(found));
        let base = if created { known_before(found, moved) } else { Some(moved.before.clone()) };
        let commits = if deleted {
            Vec::new()
        } else {
            found.bare.between(base.as_deref(), &moved.after, MOST_COMMITS).unwrap_or_default()
        };
        let describe = |commit: &Commit| self.pushed_commit(found, commit, &web);
        let described: Vec<_> = commits.iter().map(describe).collect();
        let head = match commits.last() {
            Some(newest) if newest.sha == moved.after => described.last().cloned(),
            _ if deleted => None,
            _ => found.bare.commit(&moved.after).ok().flatten().as_ref().map(describe),
        };
        let pusher_login = self.login(pusher);
        let short = |sha: &str| sha.get(..12).unwrap_or(sha).to_owned();
        let compare = if created {
            format!("{web}/compare/{}", moved.name.rsplit('/').next().unwrap_or_default())
        } else {
            format!("{web}/compare/{}...{}", short(&moved.before), short(&moved.after))
        };
        let mut payload = json!({
            "ref": moved.name,
            "before": moved.before,
            "after": moved.after,
            "base_ref": null,
            "created": created,
            "deleted": deleted,
            "forced": !created && !deleted && !found.bare.is_ancestor(&moved.before, &moved.after),
            "compare": compare,
            "commits": described,
            "head_commit": head,
            "repository": self.pushed_repository(found, &links),
            "pusher": {"name": pusher_login, "email": format!("{pusher}+{pusher_login}@users.noreply.github.com")},
            "sender": self.accounts.get(&pusher).map(|sender| simple_user(sender, &links)),
        });
        self.organization(&mut payload, found.owner, &links);
        Some(payload)
    }

    fn pushed_commit(&self, found: &Repository, commit: &Commit, web: &str) -> Value {
        let changes = found.bare.changes(commit.parents.first().map(String::as_str), &commit.sha).unwrap_or_default();
        let paths = |wanted: char| -> Vec<&str> {
            changes.iter().filter(|change| change.status == wanted).map(|change| change.path.as_str()).collect()
        };
        let person = |person: &Person| {
            let mut shape = json!({"name": person.name, "email": person.email, "date": stamp(person.at)});
            let account = person.email.split_once('+').and_then(|(id, _)| self.accounts.get(&id.parse().ok()?));
            if let Some(account) = account {
                shape["username"] = json!(account.login);
            }
            shape
        };
        json!({
            "id": commit.sha,
            "tree_id": commit.tree,
            "distinct": true,
            "message": commit.message,
            "timestamp": stamp(commit.committer.at),
            "url": format!("{web}/commit/{}", commit.sha),
            "author": person(&commit.author),
            "committer": person(&commit.committer),
            "added": paths('A'),
            "removed": paths('D'),
            "modified": paths('M'),
        })
    }

    /// The repository in push events: times in seconds, an owner with a name, and a few older fields.
    fn pushed_repository(&self, found: &Repository, links: &Links) -> Value {
        let mut shape = shapes::repository(self, found, links);
        shape["created_at"] = json!(found.created.as_second());
        shape["pushed_at"] = json!(found.pushed.as_second());
        shape["stargazers"] = json!(0);
        shape["master_branch"] = json!(found.default_branch);
        shape["owner"]["name"] = json!(self.login(found.owner));
        shape["owner"]["email"] = Value::Null;
        if self.accounts.get(&found.owner).is_some_and(|owner| owner.kind == AccountType::Organization) {
            shape["organization"] = json!(self.login(found.owner));
        }
        shape
    }

    /// A `repository` event.
    pub(crate) fn announce_repository(&mut self, action: &str, repository: &Repository, changes: Option<Value>) {
        let links = self.event_links();
        let mut payload = json!({
            "action": action,
            "repository": shapes::repository(self, repository, &links),
            "sender": self.accounts.get(&self.person).map(|sender| simple_user(sender, &links)),
        });
        if let Some(changes) = changes {
            payload["changes"] = changes;
        }
        self.organization(&mut payload, repository.owner, &links);
        self.deliver_to_watchers(repository.id, "repository", &payload);
    }

    /// A `fork` event to the watchers of the source.
    pub(crate) fn announce_fork(&mut self, of: u64, fork: &Repository, sender: u64) {
        let links = self.event_links();
        let Some(repository) = self.repositories.get(&of) else { return };
        let mut forkee = shapes::repository(self, fork, &links);
        forkee["public"] = json!(!fork.private);
        // The documented payload is older than these fields.
        for (of, field) in [("", "has_discussions"), ("/owner", "user_view_type")] {
            forkee.pointer_mut(of).and_then(Value::as_object_mut).and_then(|fields| fields.remove(field));
        }
        let owner = repository.owner;
        let mut payload = json!({
            "forkee": forkee,
            "repository": shapes::repository(self, repository, &links),
            "sender": self.accounts.get(&sender).map(|sender| simple_user(sender, &links)),
        });
        self.organization(&mut payload, owner, &links);
        self.deliver_to_watchers(of, "fork", &payload);
    }

    /// The former owner of a transferred repository.
    pub(crate) fn former_owner(&self, account: u64) -> Value {
        let links = self.event_links();
        let mut from = json!({});
        self.organization(&mut from, account, &links);
        if from.get("organization").is_none() {
            from["user"] = json!(self.accounts.get(&account).map(|user| simple_user(user, &links)));
        }
        from
    }

    pub(crate) fn ping(&mut self, hook: u64) {
        let links = self.event_links();
        let Some(found) = self.hooks.get(&hook).cloned() else { return };
        let mut payload = json!({
            "zen": "Keep it logically awesome.",
            "hook_id": hook,
            "sender": self.accounts.get(&self.person).map(|sender| simple_user(sender, &links)),
        });
        match found.owner {
            HookOwner::Repository(id) => {
                let Some(repository) = self.repositories.get(&id) else { return };
                payload["hook"] = shapes::hook(self, &found, &links);
                payload["repository"] = shapes::repository(self, repository, &links);
                let owner = repository.owner;
                self.organization(&mut payload, owner, &links);
            }
            HookOwner::App(id) => {
                payload["hook"] = json!({
                    "type": "App",
                    "id": hook,
                    "name": "web",
                    "active": true,
                    "events": found.events,
                    "config": shapes::config(&found.config),
                    "updated_at": stamp(found.updated),
                    "created_at": stamp(found.created),
                    "app_id": id,
                    "deliveries_url": format!("{}/app/hook/deliveries", links.api),
                });
            }
        }
        self.deliver_to_hook(&found, "ping", payload, None);
    }

    /// Sends the newest push of the default branch to a hook, if it wants pushes.
    pub(crate) fn test_push(&mut self, hook: &Hook, repository: u64, pusher: u64) {
        let Some(found) = self.repositories.get(&repository).filter(|_| wants(hook, "push")) else { return };
        let Some(after) = found.branch(&found.default_branch).cloned() else { return };
        let parent = found.bare.commit(&after).ok().flatten().and_then(|head| head.parents.first().cloned());
        let (name, before) =
            (format!("refs/heads/{}", found.default_branch), parent.unwrap_or_else(|| ZERO.to_owned()));
        if let Some(payload) = self.push_payload(repository, &Moved { name, before, after }, pusher) {
            self.deliver_to_hook(hook, "push", payload, None);
        }
    }

    fn deliver_to_app(&mut self, installation: &Installation, event: &str, payload: &Value) {
        let hook = self.apps.get(&installation.app).and_then(|app| self.hooks.get(&app.hook)).cloned();
        if let Some(hook) = hook {
            self.deliver_to_hook(&hook, event, payload.clone(), Some(installation.id));
        }
    }

    /// Delivers to all watchers of a repository.
    fn deliver_to_watchers(&mut self, repository: u64, event: &str, payload: &Value) {
        for (hook, installation) in self.watchers(repository, event, payload["action"] == "deleted") {
            let mut payload = payload.clone();
            if let Some(installation) = installation {
                payload["installation"] = json!({"id": installation, "node_id": node_id("I", installation)});
            }
            self.deliver_to_hook(&hook, event, payload, installation);
        }
    }

    /// The watchers of a repository that have an address: its own hooks, and the installed Apps that subscribe.
    fn watchers(&self, repository: u64, event: &str, is_deletion: bool) -> Vec<(Hook, Option<u64>)> {
        let Some(found) = self.repositories.get(&repository) else { return Vec::new() };
        let own = self.hooks.values();
        let own =
            own.filter(|hook| hook.owner == HookOwner::Repository(repository) && hook.active && wants(hook, event));
        let needed = if ["push", "fork"].contains(&event) { "contents" } else { "metadata" };
        let apps = self
            .installations
            .values()
            .filter(|installation| installation.suspended.is_none() && installation.reaches(found))
            .filter(|installation| installation.coverage == Coverage::All || !is_deletion)
            .filter(|installation| level_of(&installation.permissions, needed) >= Some(Level::Read))
            .filter_map(|installation| {
                let app = self.apps.get(&installation.app)?;
                let subscribed = app.events.iter().any(|subscribed| subscribed == event);
                Some((self.hooks.get(&app.hook).filter(|_| subscribed)?, Some(installation.id)))
            });
        let all = own.map(|hook| (hook, None)).chain(apps).filter(|(hook, _)| hook.config.url.is_some());
        all.map(|(hook, installation)| (hook.clone(), installation)).collect()
    }

    fn deliver_to_hook(&mut self, hook: &Hook, event: &str, payload: Value, installation: Option<u64>) {
        if hook.config.url.is_none() || payload.to_string().len() > MOST_PAYLOAD {
            return;
        }
        let id = self.new_id();
        let attempt = Attempt::new(id, hook, event, payload, installation);
        self.send(attempt);
    }

    fn organization(&self, payload: &mut Value, account: u64, links: &Links) {
        let Some(account) = self.accounts.get(&account).filter(|found| found.kind == AccountType::Organization) else {
            return;
        };
        let user = simple_user(account, links);
        let api = format!("{}/orgs/{}", links.api, account.login);
        payload["organization"] = json!({
            "login": user["login"], "id": user["id"], "node_id": user["node_id"], "avatar_url": user["avatar_url"],
            "url": api, "repos_url": format!("{api}/repos"), "events_url": format!("{api}/events"),
            "hooks_url": format!("{api}/hooks"), "issues_url": format!("{api}/issues"),
            "members_url": format!("{api}/members{{/member}}"),
            "public_members_url": format!("{api}/public_members{{/member}}"), "description": null,
        });
    }
}

fn wants(hook: &Hook, event: &str) -> bool {
    hook.events.iter().any(|wanted| wanted == event || wanted == "*")
}

/// For a new branch: the commit where it left the default branch, so that only its own commits are listed.
fn known_before(found: &Repository, moved: &Moved) -> Option<String> {
    let default = found.branch(&found.default_branch)?;
    if *default == moved.after && moved.name == format!("refs/heads/{}", found.default_branch) {
        return None;
    }
    found.bare.merge_base(default, &moved.after)
}
