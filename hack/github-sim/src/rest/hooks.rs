//! Hooks of repositories and of the App, with GitHub's rules for them, and their deliveries.

use http::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Access, Call, Reply, Route};
use crate::access::Level;
use crate::model::{Delivery, Hook, HookConfig, HookOwner};
use crate::refusal::Refusal;
use crate::shapes;

const READ: Access = Access::Repository("repository_hooks", Level::Read);
const WRITE: Access = Access::Repository("repository_hooks", Level::Write);

pub(crate) const ROUTES: &[Route] = &[
    Route::on(
        Method::GET,
        "/app/hook/config",
        "apps/webhooks#get-a-webhook-configuration-for-an-app",
        Access::App,
        config,
    ),
    Route::on(
        Method::PATCH,
        "/app/hook/config",
        "apps/webhooks#update-a-webhook-configuration-for-an-app",
        Access::App,
        update_config,
    ),
    Route::on(
        Method::GET,
        "/app/hook/deliveries",
        "apps/webhooks#list-deliveries-for-an-app-webhook",
        Access::App,
        deliveries,
    ),
    Route::on(
        Method::GET,
        "/app/hook/deliveries/{delivery_id}",
        "apps/webhooks#get-a-delivery-for-an-app-webhook",
        Access::App,
        delivery,
    ),
    Route::on(
        Method::POST,
        "/app/hook/deliveries/{delivery_id}/attempts",
        "apps/webhooks#redeliver-a-delivery-for-an-app-webhook",
        Access::App,
        redeliver,
    ),
    Route::on(Method::GET, "/repos/{owner}/{repo}/hooks", "repos/webhooks#list-repository-webhooks", READ, list),
    Route::on(Method::POST, "/repos/{owner}/{repo}/hooks", "repos/webhooks#create-a-repository-webhook", WRITE, create),
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}/hooks/{hook_id}",
        "repos/webhooks#get-a-repository-webhook",
        READ,
        get,
    ),
    Route::on(
        Method::PATCH,
        "/repos/{owner}/{repo}/hooks/{hook_id}",
        "repos/webhooks#update-a-repository-webhook",
        WRITE,
        update,
    ),
    Route::on(
        Method::DELETE,
        "/repos/{owner}/{repo}/hooks/{hook_id}",
        "repos/webhooks#delete-a-repository-webhook",
        WRITE,
        delete,
    ),
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}/hooks/{hook_id}/config",
        "repos/webhooks#get-a-webhook-configuration-for-a-repository",
        READ,
        config,
    ),
    Route::on(
        Method::PATCH,
        "/repos/{owner}/{repo}/hooks/{hook_id}/config",
        "repos/webhooks#update-a-webhook-configuration-for-a-repository",
        WRITE,
        update_config,
    ),
    Route::on(
        Method::POST,
        "/repos/{owner}/{repo}/hooks/{hook_id}/pings",
        "repos/webhooks#ping-a-repository-webhook",
        READ,
        ping,
    ),
    Route::on(
        Method::POST,
        "/repos/{owner}/{repo}/hooks/{hook_id}/tests",
        "repos/webhooks#test-the-push-repository-webhook",
        READ,
        test,
    ),
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}/hooks/{hook_id}/deliveries",
        "repos/webhooks#list-deliveries-for-a-repository-webhook",
        READ,
        deliveries,
    ),
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}/hooks/{hook_id}/deliveries/{delivery_id}",
        "repos/webhooks#get-a-delivery-for-a-repository-webhook",
        READ,
        delivery,
    ),
    Route::on(
        Method::POST,
        "/repos/{owner}/{repo}/hooks/{hook_id}/deliveries/{delivery_id}/attempts",
        "repos/webhooks#redeliver-a-delivery-for-a-repository-webhook",
        WRITE,
        redeliver,
    ),
];

/// The most hooks of a repository for one event.
const MOST_PER_EVENT: usize = 20;

/// The possible events of a repository's hook ("Webhook events and payloads").
const EVENTS: &[&str] = &[
    "*",
    "branch_protection_configuration",
    "branch_protection_rule",
    "check_run",
    "check_suite",
    "code_scanning_alert",
    "commit_comment",
    "create",
    "custom_property",
    "custom_property_values",
    "delete",
    "dependabot_alert",
    "deploy_key",
    "deployment",
    "deployment_status",
    "discussion",
    "discussion_comment",
    "fork",
    "gollum",
    "issue_comment",
    "issue_dependencies",
    "issues",
    "label",
    "member",
    "merge_group",
    "meta",
    "milestone",
    "package",
    "page_build",
    "project",
    "project_card",
    "project_column",
    "public",
    "pull_request",
    "pull_request_review",
    "pull_request_review_comment",
    "pull_request_review_thread",
    "push",
    "registry_package",
    "release",
    "repository",
    "repository_advisory",
    "repository_dispatch",
    "repository_import",
    "repository_ruleset",
    "repository_vulnerability_alert",
    "secret_scanning_alert",
    "secret_scanning_alert_location",
    "secret_scanning_scan",
    "security_and_analysis",
    "star",
    "status",
    "sub_issues",
    "team_add",
    "watch",
    "workflow_dispatch",
    "workflow_job",
    "workflow_run",
];

/// A configuration in a request.
#[derive(Clone, Deserialize, Default)]
struct GivenConfig {
    url: Option<String>,
    content_type: Option<String>,
    secret: Option<String>,
    insecure_ssl: Option<Value>,
}

impl GivenConfig {
    /// The configuration after this change of `before`. Fields that are not given stay unchanged.
    fn over(self, before: HookConfig) -> Result<HookConfig, Refusal> {
        let url = self.url.or(before.url);
        let text = url.as_deref().unwrap_or_default();
        if text.is_empty() {
            return Err(Refusal::custom("Hook", "Config must contain URL for webhooks"));
        }
        match url::Url::parse(text) {
            Ok(parsed) if ["http", "https"].contains(&parsed.scheme()) && parsed.has_host() => {}
            Ok(_) => return Err(Refusal::custom("Hook", "url scheme must be http or https")),
            Err(url::ParseError::RelativeUrlWithoutBase) => {
                return Err(Refusal::custom("Hook", "url is missing a scheme"));
            }
            Err(_) => return Err(Refusal::custom("Hook", "url is malformed")),
        }
        let content_type = self.content_type.unwrap_or(before.content_type);
        if !["json", "form"].contains(&content_type.as_str()) {
            return Err(Refusal::custom("Hook", "content_type must be json or form"));
        }
        let insecure_ssl = match self.insecure_ssl {
            Some(Value::String(text)) => text,
            Some(Value::Number(number)) => number.to_string(),
            _ => before.insecure_ssl,
        };
        let secret = self.secret.or(before.secret).filter(|secret| !secret.is_empty());
        Ok(HookConfig { url, content_type, secret, insecure_ssl })
    }
}

/// The default configuration: a form, with TLS verified.
fn unset() -> HookConfig {
    HookConfig { content_type: "form".to_owned(), insecure_ssl: "0".to_owned(), ..HookConfig::default() }
}

fn events(given: &[String]) -> Result<(), Refusal> {
    if given.iter().all(|event| EVENTS.contains(&event.as_str())) {
        return Ok(());
    }
    Err(Refusal::field("Hook", "events", "invalid"))
}

/// The hook in a path: the App's, or one of the repository's.
fn named<'a>(call: &'a Call<'_>) -> Result<&'a Hook, Refusal> {
    if call.parameter("hook_id").is_empty() {
        let app = call.state.apps.get(&call.app()?).ok_or_else(Refusal::not_found)?;
        return call.state.hooks.get(&app.hook).ok_or_else(Refusal::not_found);
    }
    let owner = HookOwner::Repository(call.repository);
    let hook = call.state.hooks.get(&call.number("hook_id")?);
    hook.filter(|hook| hook.owner == owner).ok_or_else(Refusal::not_found)
}

fn config(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    Reply::ok(shapes::config(&named(call)?.config))
}

/// The only way to change a part of a configuration: a secret that is not given stays.
fn update_config(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let given: GivenConfig = call.body()?;
    let hook = named(call)?.clone();
    let config = given.over(hook.config)?;
    store(call, hook.id, |hook| hook.config = config);
    self::config(call)
}

fn store(call: &mut Call<'_>, id: u64, change: impl FnOnce(&mut Hook)) {
    let now = call.state.now();
    if let Some(hook) = call.state.hooks.get_mut(&id) {
        change(hook);
        hook.updated = now;
    }
}

fn own<'a>(call: &'a Call<'_>) -> impl Iterator<Item = &'a Hook> {
    let owner = HookOwner::Repository(call.repository);
    call.state.hooks.values().filter(move |hook| hook.owner == owner)
}

fn list(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let links = call.links();
    Reply::page(call.asked, own(call).collect(), |hook| shapes::hook(call.state, hook, &links), Value::Array)
}

fn get(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    Reply::ok(shapes::hook(call.state, named(call)?, &call.links()))
}

#[derive(Deserialize)]
struct NewHook {
    name: Option<String>,
    config: Option<GivenConfig>,
    events: Option<Vec<String>>,
    active: Option<bool>,
}

fn create(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let wish: NewHook = call.body()?;
    if wish.name.is_some_and(|name| name != "web") {
        return Err(Refusal::field("Hook", "name", "invalid"));
    }
    let config = wish.config.unwrap_or_default().over(unset())?;
    let mut wanted = wish.events.filter(|events| !events.is_empty()).unwrap_or_else(|| vec!["push".to_owned()]);
    events(&wanted)?;
    wanted.sort_unstable();
    wanted.dedup();
    let same = |hook: &Hook| hook.config.url == config.url && hook.events == wanted;
    if own(call).any(same) {
        return Err(Refusal::custom("Hook", "Hook already exists on this repository"));
    }
    for event in &wanted {
        if own(call).filter(|hook| hook.events.contains(event)).count() >= MOST_PER_EVENT {
            let message = format!("The \"{event}\" event cannot have more than {MOST_PER_EVENT} hooks");
            return Err(Refusal::custom("Hook", message));
        }
    }
    let owner = HookOwner::Repository(call.repository);
    let id = call.state.add_hook(owner, config, wanted, wish.active.unwrap_or(true));
    let hook = call.state.hooks.get(&id).ok_or_else(Refusal::not_found)?;
    let shape = shapes::hook(call.state, hook, &call.links());
    call.state.ping(id);
    Reply::created(shape)
}

#[derive(Deserialize)]
struct Changes {
    config: Option<GivenConfig>,
    events: Option<Vec<String>>,
    #[serde(default)]
    add_events: Vec<String>,
    #[serde(default)]
    remove_events: Vec<String>,
    active: Option<bool>,
}

/// A configuration given here replaces the whole one. Without a secret, it removes the secret.
fn update(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let changes: Changes = call.body()?;
    let hook = named(call)?.clone();
    let config = changes.config.map_or(Ok(hook.config), |given| given.over(unset()))?;
    let mut wanted = changes.events.unwrap_or(hook.events);
    wanted.extend(changes.add_events);
    wanted.retain(|event| !changes.remove_events.contains(event));
    events(&wanted)?;
    wanted.sort_unstable();
    wanted.dedup();
    store(call, hook.id, |hook| {
        hook.config = config;
        hook.events = wanted;
        hook.active = changes.active.unwrap_or(hook.active);
    });
    get(call)
}

fn delete(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let id = named(call)?.id;
    call.state.hooks.remove(&id);
    Reply::nothing()
}

fn ping(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let id = named(call)?.id;
    call.state.ping(id);
    Reply::nothing()
}

/// Sends the newest push of the default branch to the hook, if it wants pushes.
fn test(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let hook = named(call)?.clone();
    call.state.test_push(&hook, call.repository, call.actor());
    Reply::nothing()
}

/// The hook's deliveries, the newest first, from a cursor on.
fn deliveries(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    call.state.forget_old_deliveries();
    let hook = named(call)?.id;
    let size = call.asked.query("per_page").and_then(|size| size.parse::<usize>().ok()).unwrap_or(30).clamp(1, 100);
    let invalid = || Refusal::new(StatusCode::BAD_REQUEST, "Invalid cursor");
    let before: u64 = match call.asked.query("cursor") {
        Some(cursor) => cursor.strip_prefix("v1_").and_then(|id| id.parse().ok()).ok_or_else(invalid)?,
        None => u64::MAX,
    };
    let wanted = |delivery: &&Delivery| match call.asked.query("status").as_deref() {
        Some("success") => (200..400).contains(&delivery.status_code),
        // Deliveries that were never answered have no such code, so they are in neither list.
        Some("failure") => (400..600).contains(&delivery.status_code),
        _ => true,
    };
    let mut found = call.state.deliveries.range(..before).rev().map(|(_, delivery)| delivery);
    let page: Vec<&Delivery> =
        found.by_ref().filter(|delivery| delivery.hook == hook).filter(wanted).take(size).collect();
    let more = found.any(|delivery| delivery.hook == hook && wanted(&delivery));
    let mut reply = Reply::new(StatusCode::OK, page.iter().map(|delivery| shapes::delivery_item(delivery)).collect());
    if let Some(last) = page.last().filter(|_| more) {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let kept = url::form_urlencoded::parse(call.asked.query.as_bytes()).filter(|(key, _)| key != "cursor");
        query.extend_pairs(kept).append_pair("cursor", &format!("v1_{}", last.id));
        let url = format!("{}{}?{}", call.asked.api, call.asked.path, query.finish());
        reply.headers.push((header::LINK, format!("<{url}>; rel=\"next\"")));
    }
    Ok(reply)
}

fn logged<'a>(call: &'a Call<'_>) -> Result<&'a Delivery, Refusal> {
    let hook = named(call)?.id;
    let found = call.state.deliveries.get(&call.number("delivery_id")?);
    found.filter(|delivery| delivery.hook == hook).ok_or_else(Refusal::not_found)
}

fn delivery(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    call.state.forget_old_deliveries();
    Reply::ok(shapes::delivery(logged(call)?))
}

/// Adds a new row with the same guid, and leaves the old one unchanged.
fn redeliver(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    call.state.forget_old_deliveries();
    let delivery = logged(call)?.id;
    call.state.redeliver(delivery).map_err(|_| Refusal::not_found())?;
    Ok(Reply::new(StatusCode::ACCEPTED, json!({})))
}
