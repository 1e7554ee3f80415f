//! The calls for webhooks of repositories and of the App.
//!
//! The invariant: a configuration is sent completely, with its secret, or not at all. GitHub removes the secret if a
//! configuration has none (in `PATCH …/hooks/{hook_id}`; <https://docs.github.com/en/rest/repos/webhooks>), and then sends
//! unsigned deliveries, which anybody can forge.
use std::collections::BTreeSet;

use serde::Serialize;

use super::{Error, GitHub, NO_BODY, Route};
use crate::github::models::{Hook, HookConfig};
use crate::github::secret::{Token, WebhookSecret};
use crate::github::stack::auth::Credential;
use crate::ids::HookId;

const LIST: Route = Route { method: "GET", template: "/repos/{owner}/{repo}/hooks" };
const CREATE: Route = Route { method: "POST", template: "/repos/{owner}/{repo}/hooks" };
const UPDATE: Route = Route { method: "PATCH", template: "/repos/{owner}/{repo}/hooks/{hook_id}" };
const UPDATE_CONFIG: Route = Route { method: "PATCH", template: "/repos/{owner}/{repo}/hooks/{hook_id}/config" };
const DELETE: Route = Route { method: "DELETE", template: "/repos/{owner}/{repo}/hooks/{hook_id}" };
const APP_CONFIG: Route = Route { method: "GET", template: "/app/hook/config" };
const UPDATE_APP_CONFIG: Route = Route { method: "PATCH", template: "/app/hook/config" };

const JSON: &str = "json";

/// The configuration of a hook: JSON, signed, to a host with a valid certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookConfigWanted {
    pub url: String,
    pub secret: WebhookSecret,
}

/// An active hook of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookWanted {
    /// Names of events, at least one.
    pub events: Vec<String>,
    pub config: HookConfigWanted,
}

impl HookConfigWanted {
    /// Whether a configuration is this one. GitHub shows that there is a secret, but not which.
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
    /// Whether a hook is active and sends exactly these events. [`HookConfigWanted::is_met_by`] compares the configuration.
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
    /// `GET /repos/{owner}/{repo}/hooks`, every page.
    pub async fn hooks(&self, token: &Token, owner: &str, name: &str) -> Result<Vec<Hook>, Error> {
        let path = format!("{}/hooks", self.repository_path(LIST, owner, name)?);
        self.pages(LIST, &Credential::Token(token.clone()), &path).await
    }

    /// `POST /repos/{owner}/{repo}/hooks`: creates a hook.
    ///
    /// Not idempotent: if the answer is lost, list the hooks before asking again.
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

    /// `PATCH /repos/{owner}/{repo}/hooks/{hook_id}`: makes it active, with these events and no others. It does not
    /// send the configuration in `wanted`, which [`update_hook_config`](Self::update_hook_config) does.
    pub async fn update_hook(
        &self,
        token: &Token,
        owner: &str,
        name: &str,
        id: HookId,
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
        id: HookId,
        wanted: &HookConfigWanted,
    ) -> Result<HookConfig, Error> {
        let path = format!("{}/hooks/{id}/config", self.repository_path(UPDATE_CONFIG, owner, name)?);
        self.patch_config(UPDATE_CONFIG, Credential::Token(token.clone()), &path, wanted).await
    }

    /// `DELETE /repos/{owner}/{repo}/hooks/{hook_id}`. It is no error if there is none, or no such repository.
    pub async fn delete_hook(&self, token: &Token, owner: &str, name: &str, id: HookId) -> Result<(), Error> {
        let path = format!("{}/hooks/{id}", self.repository_path(DELETE, owner, name)?);
        match self.send(DELETE, Credential::Token(token.clone()), &path, NO_BODY).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `GET /app/hook/config`: the address to which GitHub sends the App's events. [`Error::NotFound`] for an App
    /// without a webhook, which only a person can add in the App's settings. GitHub does not show whether the webhook
    /// is active.
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::github::scripted::{Scripted, answer, refusal};
    use crate::ids::id;

    const SECRET: &str = "b0a1c2d3e4f5061728394a5b6c7d8e9fb0a1c2d3e4f5061728394a5b6c7d8e9f";
    const HOOKS: &str = "https://h.example/api/v3/repos/acme/shop/hooks";

    fn token() -> Token {
        Token::new("ghs_7_a.b-c".into())
    }

    fn wanted() -> HookWanted {
        let config = HookConfigWanted { url: "https://l.example/h".into(), secret: WebhookSecret::new(SECRET.into()) };
        HookWanted { events: vec!["push".into(), "repository".into()], config }
    }

    fn hook(id: u64) -> Value {
        json!({
            "id": id, "name": "web", "active": true, "events": ["repository", "push"],
            "config": {"url": "https://l.example/h", "content_type": "json", "insecure_ssl": "0", "secret": "********"},
        })
    }

    /// Answers all calls as if each had succeeded.
    fn obliging() -> Scripted {
        Scripted::new(|sent| match sent.method.as_str() {
            "DELETE" => answer(204, &[], ""),
            _ if sent.url.ends_with("/config") => answer(200, &[], &hook(1)["config"].to_string()),
            _ => answer(200, &[], &hook(1).to_string()),
        })
    }

    #[tokio::test]
    async fn hooks_are_read_from_every_page() {
        let next: &[_] = &[("link", "<?per_page=100&page=2>; rel=\"next\"")];
        let github = Scripted::new(move |sent| {
            let (headers, id) = if sent.url.ends_with("&page=2") { (&[][..], 2) } else { (next, 1) };
            answer(200, headers, &json!([hook(id)]).to_string())
        });
        let found = github.github.hooks(&token(), "acme", "shop").await.unwrap();
        assert_eq!(found.iter().map(|hook| hook.id.get()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(github.lines(), [format!("GET {HOOKS}?per_page=100"), format!("GET {HOOKS}?per_page=100&page=2")]);
        assert!(github.sent.lock().unwrap().iter().all(|sent| sent.bearer() == Some("ghs_7_a.b-c")));
    }

    #[tokio::test]
    async fn a_configuration_is_sent_with_its_secret_and_a_change_without_it_has_none() {
        let github = obliging();
        let (client, wanted) = (&github.github, wanted());
        client.create_hook(&token(), "acme", "shop", &wanted).await.unwrap();
        client.update_hook(&token(), "acme", "shop", id(1), &wanted).await.unwrap();
        client.update_hook_config(&token(), "acme", "shop", id(1), &wanted.config).await.unwrap();
        client.update_app_hook_config(&wanted.config).await.unwrap();
        client.app_hook_config().await.unwrap();
        client.delete_hook(&token(), "acme", "shop", id(1)).await.unwrap();
        let config =
            json!({"url": "https://l.example/h", "content_type": "json", "insecure_ssl": "0", "secret": SECRET});
        let events = json!(["push", "repository"]);
        let sent: Vec<(String, Value)> = github
            .sent
            .lock()
            .unwrap()
            .iter()
            .map(|sent| (sent.line(), serde_json::from_str(&sent.body).unwrap_or(Value::Null)))
            .collect();
        assert_eq!(
            sent,
            [
                (format!("POST {HOOKS}"), json!({"name": "web", "active": true, "events": events, "config": config})),
                (format!("PATCH {HOOKS}/1"), json!({"active": true, "events": events})),
                (format!("PATCH {HOOKS}/1/config"), config.clone()),
                ("PATCH https://h.example/api/v3/app/hook/config".into(), config),
                ("GET https://h.example/api/v3/app/hook/config".into(), Value::Null),
                (format!("DELETE {HOOKS}/1"), Value::Null),
            ]
        );
        let callers: Vec<_> = github.exchanges.lock().unwrap().iter().map(|exchange| exchange.credential).collect();
        assert_eq!(callers, ["installation", "installation", "installation", "app", "app", "installation"]);
    }

    #[tokio::test]
    async fn what_would_sign_or_send_nothing_is_not_sent() {
        let github = obliging();
        let client = &github.github;
        let silent = HookWanted { events: vec![], ..wanted() };
        let unsigned = HookConfigWanted { secret: WebhookSecret::new(String::new()), ..wanted().config };
        let unsigned = HookWanted { config: unsigned, ..wanted() };
        for error in [
            client.create_hook(&token(), "acme", "shop", &silent).await.unwrap_err(),
            client.update_hook(&token(), "acme", "shop", id(1), &silent).await.unwrap_err(),
            client.create_hook(&token(), "acme", "shop", &unsigned).await.unwrap_err(),
            client.update_hook_config(&token(), "acme", "shop", id(1), &unsigned.config).await.unwrap_err(),
            client.update_app_hook_config(&unsigned.config).await.unwrap_err(),
            client.hooks(&token(), "acme", "..").await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Unsent { .. }), "{error}");
        }
        assert_eq!(github.lines(), [""; 0]);
    }

    #[tokio::test]
    async fn a_change_is_not_sent_on_to_where_a_name_has_moved() {
        let github =
            Scripted::new(|_| answer(307, &[("location", "https://h.example/api/v3/repositories/9/hooks")], ""));
        let (client, wanted) = (&github.github, wanted());
        for error in [
            client.create_hook(&token(), "acme", "shop", &wanted).await.unwrap_err(),
            client.update_hook(&token(), "acme", "shop", id(1), &wanted).await.unwrap_err(),
            client.update_hook_config(&token(), "acme", "shop", id(1), &wanted.config).await.unwrap_err(),
            client.delete_hook(&token(), "acme", "shop", id(1)).await.unwrap_err(),
            client
                .create_fork(&token(), "acme", "shop", None, None, crate::github::ForkBranches::Default)
                .await
                .unwrap_err(),
            client.merge_upstream(&token(), "acme", "shop", "main").await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Moved { .. }), "{error}");
        }
        assert_eq!(github.lines().len(), 6);
    }

    #[tokio::test]
    async fn a_hook_that_is_not_there_is_deleted_and_other_refusals_stay() {
        for (status, gone) in [(404, true), (410, true), (403, false), (500, false), (401, false)] {
            let github = Scripted::new(move |_| refusal(status, "no"));
            let result = github.github.delete_hook(&token(), "acme", "shop", id(1)).await;
            assert_eq!(result.is_ok(), gone, "{status} {result:?}");
        }
    }

    #[tokio::test]
    async fn an_app_without_a_webhook_is_told_apart_from_credentials_that_are_refused() {
        let github = Scripted::new(|_| refusal(404, "Not Found"));
        for error in [
            github.github.app_hook_config().await.unwrap_err(),
            github.github.update_app_hook_config(&wanted().config).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::NotFound { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_secret_is_in_no_error_and_in_no_debug() {
        // A proxy that echoes the request.
        let github = Scripted::new(|sent| {
            let errors = json!([{"resource": "Hook", "code": "custom", "message": sent.body}]);
            answer(422, &[], &json!({"message": format!("cannot read {}", sent.body), "errors": errors}).to_string())
        });
        let wanted = wanted();
        let created = github.github.create_hook(&token(), "acme", "shop", &wanted).await.unwrap_err();
        let patched = github.github.update_app_hook_config(&wanted.config).await.unwrap_err();
        assert!(matches!(created, Error::Unprocessable { .. }), "{created}");
        let text = format!("{created} {created:?} {patched} {patched:?} {wanted:?}");
        assert!(text.contains("l.example") && text.contains("[redacted]"), "{text}");
        assert!(!text.contains(&SECRET[..16]), "{text}");
    }

    #[test]
    fn drift_is_seen_but_for_the_secret_of_which_only_that_there_is_one() {
        let wanted = wanted();
        let parse = |hook: Value| serde_json::from_value::<Hook>(hook).unwrap();
        let good = parse(hook(1));
        assert!(wanted.sends_as(&good) && wanted.config.is_met_by(&good.config));
        for (pointer, value) in [
            ("/active", json!(false)),
            ("/events", json!(["push"])),
            ("/events", json!(["push", "repository", "fork"])),
        ] {
            let mut hook = hook(1);
            *hook.pointer_mut(pointer).unwrap() = value.clone();
            assert!(!wanted.sends_as(&parse(hook)), "{pointer} {value}");
        }
        for (field, value, met) in [
            ("url", json!("https://l.example/other"), false),
            ("url", Value::Null, false),
            ("content_type", json!("form"), false),
            ("insecure_ssl", json!("1"), false),
            ("insecure_ssl", json!(1), false),
            ("insecure_ssl", json!(0), true),
            ("insecure_ssl", Value::Null, true),
            ("secret", json!(""), false),
            ("secret", Value::Null, false),
        ] {
            let mut hook = hook(1);
            hook["config"][field] = value.clone();
            assert_eq!(wanted.config.is_met_by(&parse(hook).config), met, "{field} {value}");
        }
        let service = parse(json!({"id": 2, "name": "email", "active": true, "config": {"address": "a@b.example"}}));
        assert!(!wanted.config.is_met_by(&service.config));
    }
}
