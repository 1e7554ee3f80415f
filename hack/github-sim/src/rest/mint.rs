//! Installation tokens: minted within the installation's grant, and revoked by their holder.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Access, Call, Reply, Route, installations};
use crate::access::{Permissions, covers};
use crate::clock::stamp;
use crate::credential::Credential;
use crate::model::Installation;
use crate::refusal::Refusal;
use crate::shapes;

pub(crate) const ROUTES: &[Route] = &[
    Route::on(
        Method::POST,
        "/app/installations/{installation_id}/access_tokens",
        "apps/apps#create-an-installation-access-token-for-an-app",
        Access::App,
        mint,
    ),
    Route::on(
        Method::DELETE,
        "/installation/token",
        "apps/installations#revoke-an-installation-access-token",
        Access::Installation,
        revoke,
    ),
];

/// The most repositories that one token can be narrowed to.
const MOST_REPOSITORIES: usize = 500;

#[derive(Deserialize)]
struct Wish {
    repositories: Option<Vec<String>>,
    repository_ids: Option<Vec<u64>>,
    permissions: Option<Permissions>,
}

fn mint(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let wish: Wish = call.body()?;
    let installation = installations::own(call)?.clone();
    if installation.suspended.is_some() {
        return Err(Refusal::suspended());
    }
    if wish.permissions.as_ref().is_some_and(|wanted| !covers(&installation.permissions, wanted)) {
        return Err(Refusal::unprocessable("The permissions requested are not granted to this installation."));
    }
    let repositories = narrowed(call, &installation, &wish)?;
    let mut permissions =
        wish.permissions.filter(|wanted| !wanted.is_empty()).unwrap_or_else(|| installation.permissions.clone());
    permissions.entry("metadata".to_owned()).or_insert(crate::access::Level::Read);
    let (text, token) = call.state.mint(&installation, permissions, repositories, call.asked.fresh_token);
    let selected = token.repositories.is_some() || installation.coverage != crate::model::Coverage::All;
    let mut body = json!({
        "token": text,
        "expires_at": stamp(token.expires),
        "permissions": shapes::permissions(&token.permissions),
        "repository_selection": if selected { "selected" } else { "all" },
    });
    if let Some(ids) = &token.repositories {
        let links = call.links();
        let found = ids.iter().filter_map(|id| call.state.repositories.get(id));
        body["repositories"] = found.map(|found| shapes::repository(call.state, found, &links)).collect();
    }
    Ok(Reply::new(StatusCode::CREATED, body))
}

/// The repositories in the request. All of them must belong to the installation.
fn narrowed(call: &Call<'_>, installation: &Installation, wish: &Wish) -> Result<Option<BTreeSet<u64>>, Refusal> {
    let unknown = || {
        Refusal::unprocessable(
            "There is at least one repository that does not exist or is not accessible to the parent installation.",
        )
    };
    let names = wish.repositories.as_deref().unwrap_or_default();
    let ids = wish.repository_ids.as_deref().unwrap_or_default();
    if names.len() + ids.len() > MOST_REPOSITORIES {
        return Err(Refusal::unprocessable(format!("Only {MOST_REPOSITORIES} repositories are allowed.")));
    }
    if names.is_empty() && ids.is_empty() {
        return Ok(None);
    }
    let reached = call.state.reached_by(installation);
    let by_name = names.iter().map(|name| reached.iter().find(|found| found.name.eq_ignore_ascii_case(name)));
    let by_id = ids.iter().map(|id| reached.iter().find(|found| found.id == *id));
    by_name
        .chain(by_id)
        .map(|found| found.map(|found| found.id).ok_or_else(unknown))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn revoke(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    if let Credential::Installation(digest, _) = &call.who {
        call.state.tokens.remove(digest);
    }
    Reply::nothing()
}
