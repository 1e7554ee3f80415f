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
    if let Some(branch) = &changes.default_branch
        && repository.branch(branch).is_none()
    {
        return Err(Refusal::custom("Repository", format!("The branch {branch} was not found.")));
    }
    let (full_name, now) = (call.state.full_name(repository), call.state.now());
    if let Some(name) = changes.name.filter(|name| *name != repository.name) {
        call.state
            .rename_repository(&full_name, &name)
            .map_err(|_| Refusal::custom("Repository", "name already exists on this account"))?;
    }
    let id = call.repository;
    let repository = call.state.repositories.get_mut(&id).ok_or_else(Refusal::not_found)?;
    repository.description = changes.description.or(repository.description.take());
    repository.private = changes.private.unwrap_or(repository.private);
    repository.archived = changes.archived.unwrap_or(repository.archived);
    repository.updated = now;
    if let Some(branch) = changes.default_branch {
        repository.default_branch = branch;
    }
    get(call)
}

fn delete(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let full_name = call.state.full_name(call.repository()?);
    call.state.delete_repository(&full_name).map_err(|_| Refusal::not_found())?;
    Reply::nothing()
}
