//! The calls about webhooks: a repository's, and the App's own.
//!
//! The invariant: a configuration is sent whole, with its secret, or not at all. GitHub takes a configuration without a
//! secret for one that is to have none (in `PATCH …/hooks/{hook_id}`; <https://docs.github.com/en/rest/repos/webhooks>), and
//! then sends deliveries that anybody could have written.
use std::collections::BTreeSet;

use serde::Serialize;

use super::{Error, GitHub, NO_BODY, Route};
use crate::github::models::{Hook, HookConfig};
use crate::github::secret::{Token, WebhookSecret};
use crate::github::stack::auth::Credential;

const LIST: Route = Route { method: "GET", template: "/repos/{owner}/{repo}/hooks" };
const CREATE: Route = Route { method: "POST", template: "/repos/{owner}/{repo}/hooks" };
const UPDATE: Route = Route { method: "PATCH", template: "/repos/{owner}/{repo}/hooks/{hook_id}" };
const UPDATE_CONFIG: Route = Route { method: "PATCH", template: "/repos/{owner}/{repo}/hooks/{hook_id}/config" };
const DELETE: Route = Route { method: "DELETE", template: "/repos/{owner}/{repo}/hooks/{hook_id}" };
const APP_CONFIG: Route = Route { method: "GET", template: "/app/hook/config" };
const UPDATE_APP_CONFIG: Route = Route { method: "PATCH", template: "/app/hook/config" };

const JSON: &str = "json";

/// Where a hook is to send to: as JSON, signed, and only to a host whose certificate is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookConfigWanted {
    /// Where to.
    pub url: String,
    /// What deliveries are signed with.
    pub secret: WebhookSecret,
}

/// A repository's hook that is to be there, and to be active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookWanted {
    /// What it is to send: names of events, at least one.
    pub events: Vec<String>,
    /// Where to.
    pub config: HookConfigWanted,
}

impl HookConfigWanted {
    /// Whether a configuration is this one, as far as GitHub tells: it says that there is a secret, not which.
    #[must_use]
    pub fn is_met_by(&self, config: &HookConfig) -> bool {
        config.url.as_deref() == Some(&self.url)
            && config.content_type.as_deref() == Some(JSON)
            && !config.insecure_ssl
            && config.has_secret
    }

    fn body(&self) -> Result<ConfigRequest<'_>, &'static str> {
        if self.secret.expose().is_empty() {
            return Err("the secret is empty, and GitHub would sign nothing");
        }
        Ok(ConfigRequest { url: &self.url, content_type: JSON, insecure_ssl: "0", secret: self.secret.expose() })
    }
}

impl HookWanted {
    /// Whether a hook sends these events and no others. Its configuration is [`HookConfigWanted::is_met_by`]'s.
    #[must_use]
    pub fn sends_as(&self, hook: &Hook) -> bool {
        hook.active && hook.events.iter().collect::<BTreeSet<_>>() == self.events.iter().collect()
    }

    fn events(&self) -> Result<&[String], &'static str> {
        if self.events.is_empty() {
            return Err("no event was named, which GitHub takes for push alone, or for none; name what is to be sent");
        }
        Ok(&self.events)
    }
}

#[derive(Serialize)]
struct ConfigRequest<'a> {
    url: &'a str,
    content_type: &'a str,
    insecure_ssl: &'a str,
    secret: &'a str,
}

#[derive(Serialize)]
struct CreateRequest<'a> {
    name: &'a str,
    active: bool,
    events: &'a [String],
    config: ConfigRequest<'a>,
}

#[derive(Serialize)]
struct UpdateRequest<'a> {
    active: bool,
    events: &'a [String],
}

impl GitHub {
    /// `GET /repos/{owner}/{repo}/hooks`, every page. Which of them is ours is for the caller to say, before it makes one.
    pub async fn hooks(&self, token: &Token, owner: &str, name: &str) -> Result<Vec<Hook>, Error> {
        let path = format!("{}/hooks", self.repository_path(LIST, owner, name)?);
        self.pages(LIST, &Credential::Token(token.clone()), &path).await
    }

    /// `POST /repos/{owner}/{repo}/hooks`: one more hook.
    ///
    /// Not idempotent: when no answer comes ([`Error::may_have_happened`]), list the hooks before asking again.
    /// [`Error::Unprocessable`] if there is a hook with the same address and events, or if an event has its twenty hooks.
    pub async fn create_hook(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        wanted: &HookWanted,
    ) -> Result<Hook, Error> {
        let path = format!("{}/hooks", self.repository_path(CREATE, owner, name)?);
        let unsent = |what| self.unsent(CREATE, what);
        let (events, config) = (wanted.events().map_err(unsent)?, wanted.config.body().map_err(unsent)?);
        let body = CreateRequest { name: "web", active: true, events, config };
        let answer = self.send(CREATE, Credential::Token(token.clone()), &path, Some(&body)).await?;
        self.read(CREATE, answer).await
    }

    /// `PATCH /repos/{owner}/{repo}/hooks/{hook_id}`: makes it active, with these events and no others. Of `wanted` the
    /// configuration is left out: that is [`update_hook_config`](Self::update_hook_config)'s.
    pub async fn update_hook(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        id: u64,
        wanted: &HookWanted,
    ) -> Result<Hook, Error> {
        let path = format!("{}/hooks/{id}", self.repository_path(UPDATE, owner, name)?);
        let events = wanted.events().map_err(|what| self.unsent(UPDATE, what))?;
        let body = UpdateRequest { active: true, events };
        let answer = self.send(UPDATE, Credential::Token(token.clone()), &path, Some(&body)).await?;
        self.read(UPDATE, answer).await
    }

    /// `PATCH /repos/{owner}/{repo}/hooks/{hook_id}/config`: all of it, with the secret.
    pub async fn update_hook_config(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        id: u64,
        wanted: &HookConfigWanted,
    ) -> Result<HookConfig, Error> {
        let path = format!("{}/hooks/{id}/config", self.repository_path(UPDATE_CONFIG, owner, name)?);
        self.patch_config(UPDATE_CONFIG, Credential::Token(token.clone()), &path, wanted).await
    }

    /// `DELETE /repos/{owner}/{repo}/hooks/{hook_id}`. It is no error if there is none, or no such repository.
    pub async fn delete_hook(&self, token: &Token, owner: &str, name: &str, id: u64) -> Result<(), Error> {
        let path = format!("{}/hooks/{id}", self.repository_path(DELETE, owner, name)?);
        match self.send(DELETE, Credential::Token(token.clone()), &path, NO_BODY).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `GET /app/hook/config`: where GitHub sends the App's events. [`Error::NotFound`] for an App that has no webhook: a
    /// person gives it one in the App's settings. Whether the webhook is active GitHub does not tell.
    pub async fn app_hook_config(&self) -> Result<HookConfig, Error> {
        let answer = self.send(APP_CONFIG, Credential::App, APP_CONFIG.template, NO_BODY).await?;
        self.read(APP_CONFIG, answer).await
    }

    /// `PATCH /app/hook/config`: all of it, with the secret. [`Error::NotFound`] as above.
    pub async fn update_app_hook_config(&self, wanted: &HookConfigWanted) -> Result<HookConfig, Error> {
        self.patch_config(UPDATE_APP_CONFIG, Credential::App, UPDATE_APP_CONFIG.template, wanted).await
    }

    async fn patch_config(
        &self,
        route: Route,
        credential: Credential,
        path: &str,
        wanted: &HookConfigWanted,
    ) -> Result<HookConfig, Error> {
        let body = wanted.body().map_err(|what| self.unsent(route, what))?;
        let answer = self.send(route, credential, path, Some(&body)).await?;
        self.read(route, answer).await
    }
}
