//! Repositories by name and by id.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Access, Call, Reply, Route};
use crate::access::Level;
use crate::credential::Credential;
use crate::refusal::Refusal;
use crate::shapes;

pub(crate) const ROUTES: &[Route] = &[
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}",
        "repos/repos#get-a-repository",
        Access::Repository("metadata", Level::Read),
        get,
    ),
    Route::on(
        Method::PATCH,
        "/repos/{owner}/{repo}",
        "repos/repos#update-a-repository",
        Access::Repository("administration", Level::Write),
        update,
    ),
    Route::on(
        Method::DELETE,
        "/repos/{owner}/{repo}",
        "repos/repos#delete-a-repository",
        Access::Repository("administration", Level::Write),
        delete,
    ),
];

fn get(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let repository = call.repository()?;
    let mut shape = shapes::full(call.state, repository, &call.links());
    if let Credential::Installation(_, token) = &call.who {
        let reached = call.state.token_reaches(token, repository);
        let level =
            |name, level| reached && call.state.token_level(token, name).is_some_and(|granted| granted >= level);
        shape["permissions"] = json!({
            "admin": level("administration", Level::Write),
            "maintain": false,
            "push": level("contents", Level::Write),
            "triage": level("issues", Level::Write),
            "pull": !repository.private || level("contents", Level::Read),
        });
    }
    Reply::ok(shape)
}

#[derive(Deserialize)]
struct Changes {
    name: Option<String>,
    description: Option<String>,
    private: Option<bool>,
    archived: Option<bool>,
    default_branch: Option<String>,
}

fn update(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let changes: Changes = call.body()?;
    let repository = call.repository()?;
    if repository.archived && changes.archived != Some(false) {
        return Err(Refusal::archived());
    }
    let missing = |branch: &str| Refusal::custom("Repository", format!("The branch {branch} was not found."));
    if let Some(branch) = changes.default_branch.as_deref().filter(|branch| repository.branch(branch).is_none()) {
        return Err(missing(branch));
    }
    let (mut full_name, old, owner) = (call.state.full_name(repository), repository.name.clone(), repository.owner);
    let state = &mut *call.state;
    let name = changes.name.as_deref().map(taken).transpose()?;
    if let Some(name) = name.filter(|name| *name != old) {
        state
            .rename_repository(&full_name, &name)
            .map_err(|_| Refusal::custom("Repository", "name already exists on this account"))?;
        full_name = format!("{}/{name}", state.login(owner));
    }
    let gone = |_| Refusal::not_found();
    if let Some(description) = changes.description {
        state.describe(&full_name, description).map_err(gone)?;
    }
    if let Some(private) = changes.private {
        state.set_private(&full_name, private).map_err(gone)?;
    }
    if let Some(branch) = changes.default_branch {
        state.set_default_branch(&full_name, &branch).map_err(|_| missing(&branch))?;
    }
    if let Some(archived) = changes.archived {
        state.set_archived(&full_name, archived).map_err(gone)?;
    }
    get(call)
}

/// The name that GitHub gives to a repository for a wished name. Characters that are not allowed become hyphens.
fn taken(name: &str) -> Result<String, Refusal> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(allowed).collect();
    let name = name.strip_suffix(".git").unwrap_or(&name);
    if ["", ".", ".."].contains(&name) {
        let (resource, field, message) = ("Repository", "name", "name is reserved");
        let error = json!({"resource": resource, "field": field, "code": "custom", "message": message});
        return Err(Refusal::invalid(vec![error]));
    }
    Ok(name.to_owned())
}

fn delete(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let full_name = call.state.full_name(call.repository()?);
    call.state.delete_repository(&full_name).map_err(|_| Refusal::not_found())?;
    Reply::nothing()
}
