//! Apps (`integration`) and their installations.

use serde_json::{Value, json};

use super::{Links, node_id, simple_user};
use crate::access::Permissions;
use crate::clock::stamp;
use crate::model::{App, Coverage, Installation};
use crate::seed::AccountType;
use crate::state::State;

/// Permissions in answers. `metadata: read` is always there.
pub(crate) fn permissions(granted: &Permissions) -> Value {
    let mut granted = granted.clone();
    granted.entry("metadata".to_owned()).or_insert(crate::access::Level::Read);
    json!(granted)
}

/// `integration`.
pub(crate) fn app(state: &State, app: &App, links: &Links) -> Value {
    let mut shape = json!({
        "id": app.id,
        "slug": app.slug,
        "node_id": node_id("A", app.id),
        "client_id": app.client_id,
        "owner": state.accounts.get(&app.owner).map(|owner| simple_user(owner, links)),
        "name": app.name,
        "description": "",
        "external_url": format!("{}/apps/{}", links.web, app.slug),
        "html_url": format!("{}/apps/{}", links.web, app.slug),
        "created_at": stamp(app.created),
        "updated_at": stamp(app.created),
        "permissions": permissions(&app.permissions),
        "events": app.events,
    });
    shape["installations_count"] =
        json!(state.installations.values().filter(|installation| installation.app == app.id).count());
    shape
}

/// `installation`.
pub(crate) fn installation(state: &State, installation: &Installation, links: &Links) -> Value {
    let app = state.apps.get(&installation.app);
    let account = state.accounts.get(&installation.account);
    let organization = account.is_some_and(|account| account.kind == AccountType::Organization);
    let login = state.login(installation.account);
    let settings = if organization {
        format!("{}/organizations/{login}/settings/installations/{}", links.web, installation.id)
    } else {
        format!("{}/settings/installations/{}", links.web, installation.id)
    };
    json!({
        "id": installation.id,
        "client_id": app.map(|app| &app.client_id),
        "account": account.map(|account| simple_user(account, links)),
        "repository_selection": selection(installation),
        "access_tokens_url": format!("{}/app/installations/{}/access_tokens", links.api, installation.id),
        "repositories_url": format!("{}/installation/repositories", links.api),
        "html_url": settings,
        "app_id": installation.app,
        "app_slug": app.map(|app| &app.slug),
        "target_id": installation.account,
        "target_type": if organization { "Organization" } else { "User" },
        "permissions": permissions(&installation.permissions),
        "events": app.map(|app| &app.events),
        "created_at": stamp(installation.created),
        "updated_at": stamp(installation.updated),
        "single_file_name": null,
        "has_multiple_single_files": false,
        "single_file_paths": [],
        "suspended_by": installation.suspended
            .and_then(|(_, by)| state.accounts.get(&by))
            .map(|by| simple_user(by, links)),
        "suspended_at": installation.suspended.map(|(at, _)| stamp(at)),
    })
}

fn selection(installation: &Installation) -> &'static str {
    match installation.coverage {
        Coverage::All => "all",
        Coverage::Selected(_) => "selected",
    }
}
