//! Hooks on a person's settings page: read, created, changed and removed by hand, and redeliveries. GitHub's rules for
//! API clients do not apply here.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Hook, HookConfig, HookOwner};
use crate::person::ControlError;
use crate::state::State;
use crate::webhook::Attempt;

/// A hook, with only a digest of its secret: a test that derives the secret can compare it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookInfo {
    /// Its number.
    pub id: u64,
    /// The address of its deliveries; an App's hook can have none.
    pub url: Option<String>,
    /// `json` or `form`.
    pub content_type: String,
    /// SHA-256 of the secret in hexadecimal.
    pub secret_sha256: Option<String>,
    /// Whether receivers' certificates are not verified.
    pub insecure_ssl: bool,
    pub events: Vec<String>,
    /// Whether it is active.
    pub active: bool,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The time of its last change.
    pub updated_at: Timestamp,
}

/// A hook to be created by hand.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewHook {
    /// The address of its deliveries.
    pub url: String,
    /// `form` (the default) or `json`.
    pub content_type: Option<String>,
    /// The secret that signs them.
    pub secret: Option<String>,
    /// Its events. The default is `push`.
    pub events: Option<Vec<String>>,
    /// Whether it is not active.
    pub inactive: bool,
}

/// A change of a hook by hand. Fields that are not given stay unchanged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HookChange {
    /// The address of its deliveries.
    pub url: Option<String>,
    /// `form` or `json`.
    pub content_type: Option<String>,
    /// The secret that signs them. An empty one removes it.
    pub secret: Option<String>,
    pub events: Option<Vec<String>>,
    /// Whether it is active.
    pub active: Option<bool>,
}

fn info(hook: &Hook) -> HookInfo {
    let sha256 = |secret: &String| hex::encode(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
    HookInfo {
        id: hook.id,
        url: hook.config.url.clone(),
        content_type: hook.config.content_type.clone(),
        secret_sha256: hook.config.secret.as_ref().map(sha256),
        insecure_ssl: hook.config.insecure_ssl == "1",
        events: hook.events.clone(),
        active: hook.active,
        created_at: hook.created,
        updated_at: hook.updated,
    }
}

impl State {
    /// The hooks of `owner/name`, the oldest first.
    pub(crate) fn hooks_of(&self, full_name: &str) -> Result<Vec<HookInfo>, ControlError> {
        let owner = HookOwner::Repository(self.by_full_name(full_name)?.id);
        Ok(self.hooks.values().filter(|hook| hook.owner == owner).map(info).collect())
    }

    pub(crate) fn hook_of_app(&self, slug: &str) -> Result<HookInfo, ControlError> {
        let hook = self.app_by_slug(slug).and_then(|app| self.hooks.get(&app.hook));
        hook.map(info).ok_or_else(|| ControlError::not_found("App", slug))
    }

    pub(crate) fn create_hook(&mut self, full_name: &str, hook: &NewHook) -> Result<u64, ControlError> {
        let owner = HookOwner::Repository(self.by_full_name(full_name)?.id);
        let config = HookConfig {
            url: Some(hook.url.clone()),
            content_type: hook.content_type.clone().unwrap_or_else(|| "form".to_owned()),
            secret: hook.secret.clone().filter(|secret| !secret.is_empty()),
            insecure_ssl: "0".to_owned(),
        };
        let events = hook.events.clone().unwrap_or_else(|| vec!["push".to_owned()]);
        let id = self.add_hook(owner, config, events, !hook.inactive);
        self.ping(id);
        Ok(id)
    }

    pub(crate) fn change_hook(&mut self, id: u64, change: HookChange) -> Result<(), ControlError> {
        let now = self.now();
        let hook = self.hooks.get_mut(&id).ok_or_else(|| ControlError::not_found("hook", id.to_string()))?;
        hook.config.url = change.url.or(hook.config.url.take());
        hook.config.content_type = change.content_type.unwrap_or(std::mem::take(&mut hook.config.content_type));
        hook.config.secret = change.secret.or(hook.config.secret.take()).filter(|secret| !secret.is_empty());
        hook.events = change.events.unwrap_or(std::mem::take(&mut hook.events));
        hook.active = change.active.unwrap_or(hook.active);
        hook.updated = now;
        Ok(())
    }

    /// Removes a repository's hook; an App always has its own.
    pub(crate) fn delete_hook(&mut self, id: u64) -> Result<(), ControlError> {
        let of_repository = |hook: &Hook| matches!(hook.owner, HookOwner::Repository(_));
        if self.hooks.get(&id).is_some_and(of_repository) {
            self.hooks.remove(&id);
            return Ok(());
        }
        Err(ControlError::not_found("hook of a repository", id.to_string()))
    }

    /// Sets the addresses that deliveries connect to instead of a `host:port`.
    pub(crate) fn resolve_webhooks(&mut self, resolve: BTreeMap<String, SocketAddr>) {
        self.webhook_resolve = resolve.into_iter().map(|(asked, address)| (asked.to_lowercase(), address)).collect();
    }

    /// Redelivers: adds a new row with the same guid, and leaves the old one unchanged.
    pub(crate) fn redeliver(&mut self, delivery: u64) -> Result<(), ControlError> {
        let missing = || ControlError::not_found("delivery", delivery.to_string());
        let id = self.new_id();
        let delivery = self.deliveries.get(&delivery).ok_or_else(missing)?;
        let hook = self.hooks.get(&delivery.hook).ok_or_else(missing)?;
        let attempt = Attempt::again(id, delivery, hook);
        self.send(attempt);
        Ok(())
    }
}
