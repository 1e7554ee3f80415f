//! Installations of the calling App, and the repositories of an installation.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Access, Call, Reply, Route};
use crate::model::{Installation, Repository};
use crate::refusal::Refusal;
use crate::seed::AccountType;
use crate::shapes;

pub(crate) const ROUTES: &[Route] = &[
    Route::on(
        Method::GET,
        "/app/installations",
        "apps/apps#list-installations-for-the-authenticated-app",
        Access::App,
        list,
    ),
    Route::on(
        Method::GET,
        "/app/installations/{installation_id}",
        "apps/apps#get-an-installation-for-the-authenticated-app",
        Access::App,
        get,
    ),
    Route::on(
        Method::DELETE,
        "/app/installations/{installation_id}",
        "apps/apps#delete-an-installation-for-the-authenticated-app",
        Access::App,
        delete,
    ),
    Route::on(
        Method::PUT,
        "/app/installations/{installation_id}/suspended",
        "apps/apps#suspend-an-app-installation",
        Access::App,
        suspend,
    ),
    Route::on(
        Method::DELETE,
        "/app/installations/{installation_id}/suspended",
        "apps/apps#unsuspend-an-app-installation",
        Access::App,
        unsuspend,
    ),
    Route::on(
        Method::GET,
        "/orgs/{org}/installation",
        "apps/apps#get-an-organization-installation-for-the-authenticated-app",
        Access::App,
        of_organization,
    ),
    Route::on(
        Method::GET,
        "/users/{username}/installation",
        "apps/apps#get-a-user-installation-for-the-authenticated-app",
        Access::App,
        of_user,
    ),
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}/installation",
        "apps/apps#get-a-repository-installation-for-the-authenticated-app",
        Access::AppOfRepository,
        of_repository,
    ),
    Route::on(
        Method::GET,
        "/installation/repositories",
        "apps/installations#list-repositories-accessible-to-the-app-installation",
        Access::Installation,
        repositories,
    ),
];

fn list(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let app = call.app()?;
    let since = call.asked.query("since").and_then(|since| since.parse::<jiff::Timestamp>().ok());
    let links = call.links();
    let found = call
        .state
        .installations
        .values()
        .filter(|installation| installation.app == app)
        .filter(|installation| since.is_none_or(|since| installation.updated >= since))
        .collect();
    let shape = |installation: &Installation| shapes::installation(call.state, installation, &links);
    Reply::page(call.asked, found, shape, Value::Array)
}

/// An installation of the calling App. Another App's gets a 404.
pub(super) fn own<'a>(call: &'a Call<'_>) -> Result<&'a Installation, Refusal> {
    let (app, id) = (call.app()?, call.number("installation_id")?);
    call.state.installations.get(&id).filter(|installation| installation.app == app).ok_or_else(Refusal::not_found)
}

fn get(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    Reply::ok(shapes::installation(call.state, own(call)?, &call.links()))
}

fn delete(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let id = own(call)?.id;
    call.state.uninstall(id).map_err(|_| Refusal::not_found())?;
    let status = if call.asked.newest() { StatusCode::ACCEPTED } else { StatusCode::NO_CONTENT };
    Ok(Reply { status, body: None, headers: Vec::new() })
}

fn suspend(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let id = own(call)?.id;
    call.state.suspend(id).map_err(|_| Refusal::not_found())?;
    Reply::nothing()
}

fn unsuspend(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let id = own(call)?.id;
    call.state.unsuspend(id).map_err(|_| Refusal::not_found())?;
    Reply::nothing()
}

fn of_organization(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    of_account(call, "org", AccountType::Organization)
}

fn of_user(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    of_account(call, "username", AccountType::User)
}

fn of_account(call: &Call<'_>, parameter: &str, kind: AccountType) -> Result<Reply, Refusal> {
    let account = call.state.account(call.parameter(parameter)).filter(|account| account.kind == kind);
    let account = account.ok_or_else(Refusal::not_found)?.id;
    reply(call, |installation| installation.account == account)
}

fn of_repository(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let repository = call.repository()?;
    reply(call, |installation| installation.reaches(repository))
}

fn reply(call: &Call<'_>, wanted: impl Fn(&Installation) -> bool) -> Result<Reply, Refusal> {
    let app = call.app()?;
    let mut own = call.state.installations.values().filter(|installation| installation.app == app);
    let found = own.find(|installation| wanted(installation)).ok_or_else(Refusal::not_found)?;
    Reply::ok(shapes::installation(call.state, found, &call.links()))
}

fn repositories(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let crate::credential::Credential::Installation(_, token) = &call.who else {
        return Err(Refusal::not_accessible());
    };
    let links = call.links();
    let reached = |found: &&Repository| call.state.token_reaches(token, found);
    let found: Vec<_> = call.state.repositories.values().filter(reached).collect();
    let all = token.repositories.is_none()
        && call
            .state
            .installations
            .get(&token.installation)
            .is_some_and(|installation| installation.coverage == crate::model::Coverage::All);
    let total = found.len();
    let selection = if all { "all" } else { "selected" };
    Reply::page(
        call.asked,
        found,
        |found| shapes::repository(call.state, found, &links),
        |page| json!({"total_count": total, "repository_selection": selection, "repositories": page}),
    )
}
