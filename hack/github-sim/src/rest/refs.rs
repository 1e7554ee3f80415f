//! Refs: read, created, moved and deleted. Each change counts as a push.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::{Access, Call, Reply, Route};
use crate::access::Level;
use crate::bare::{Bare, GitError, PULLS};
use crate::refusal::Refusal;
use crate::shapes;

const READ: Access = Access::Repository("contents", Level::Read);
const WRITE: Access = Access::Repository("contents", Level::Write);

pub(crate) const ROUTES: &[Route] = &[
    Route::on(Method::GET, "/repos/{owner}/{repo}/git/ref/{*ref}", "git/refs#get-a-reference", READ, get),
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}/git/matching-refs/{*ref}",
        "git/refs#list-matching-references",
        READ,
        matching,
    ),
    Route::on(Method::POST, "/repos/{owner}/{repo}/git/refs", "git/refs#create-a-reference", WRITE, create),
    Route::on(Method::PATCH, "/repos/{owner}/{repo}/git/refs/{*ref}", "git/refs#update-a-reference", WRITE, update),
    Route::on(Method::DELETE, "/repos/{owner}/{repo}/git/refs/{*ref}", "git/refs#delete-a-reference", WRITE, delete),
];

fn not_empty(call: &Call<'_>) -> Result<(), Refusal> {
    if call.repository()?.refs.is_empty() {
        return Err(Refusal::new(StatusCode::CONFLICT, "Git Repository is empty."));
    }
    Ok(())
}

fn full(call: &Call<'_>) -> String {
    format!("refs/{}", call.parameter("ref"))
}

fn shape(call: &Call<'_>, name: &str) -> Result<Value, Refusal> {
    let repository = call.repository()?;
    let of_pull = if name.starts_with(PULLS) { repository.bare.tip(name) } else { None };
    let sha = of_pull.as_ref().or_else(|| repository.refs.get(name)).ok_or_else(Refusal::not_found)?;
    Ok(shapes::reference(call.state, repository, name, sha, &call.links()))
}

fn get(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    not_empty(call)?;
    shape(call, &full(call)).and_then(Reply::ok)
}

fn matching(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    not_empty(call)?;
    let (prefix, repository) = (full(call), call.repository()?);
    let names = repository.refs.keys().filter(|name| name.starts_with(&prefix));
    let found = names.map(|name| shape(call, name)).collect::<Result<Vec<Value>, _>>()?;
    Reply::page(call.asked, found, |shape| shape, Value::Array)
}

#[derive(Deserialize)]
struct NewRef {
    #[serde(rename = "ref")]
    name: Option<String>,
    sha: Option<String>,
}

fn create(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let wish: NewRef = call.body()?;
    not_empty(call)?;
    let (Some(name), Some(sha)) = (wish.name, wish.sha) else {
        return Err(Refusal::unprocessable("Invalid request.\n\n\"ref\", \"sha\" weren't supplied."));
    };
    let bare = call.repository()?.bare.clone();
    if !name.starts_with("refs/") || name.split('/').count() < 3 || !bare.is_ref_name(&name) {
        return Err(Refusal::unprocessable("Reference name is invalid."));
    }
    if call.repository()?.refs.contains_key(&name) {
        return Err(Refusal::unprocessable("Reference already exists"));
    }
    exists(call, &name, &sha)?;
    set(&bare, &name, &sha)?;
    call.state.take_in(call.repository, call.actor())?;
    shape(call, &name).and_then(Reply::created)
}

/// Sets or moves a ref. git allows no ref below another one, and GitHub lets nobody write those of pull requests.
fn set(bare: &Bare, name: &str, sha: &str) -> Result<(), Refusal> {
    let failed = || Refusal::unprocessable("Reference update failed");
    if name.starts_with(PULLS) {
        return Err(failed());
    }
    bare.set_ref(name, sha).map_err(|error| match error {
        GitError::Failed { .. } => failed(),
        error => error.into(),
    })
}

/// A branch can only point to a commit; any other ref can point to any object.
fn exists(call: &Call<'_>, name: &str, sha: &str) -> Result<(), Refusal> {
    let kind = call.repository()?.bare.kind(sha);
    let fits = kind.is_some_and(|kind| kind == "commit" || !name.starts_with("refs/heads/"));
    if fits { Ok(()) } else { Err(Refusal::unprocessable("Object does not exist")) }
}

#[derive(Deserialize)]
struct Move {
    sha: Option<String>,
    #[serde(default)]
    force: bool,
}

fn update(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let wish: Move = call.body()?;
    let (name, sha) = (full(call), wish.sha.unwrap_or_default());
    let missing = || Refusal::unprocessable("Reference does not exist");
    let repository = call.repository()?;
    let before = repository.refs.get(&name).ok_or_else(missing)?;
    exists(call, &name, &sha)?;
    if !wish.force && !repository.bare.is_ancestor(before, &sha) {
        return Err(Refusal::unprocessable("Update is not a fast forward"));
    }
    set(&repository.bare, &name, &sha)?;
    call.state.take_in(call.repository, call.actor())?;
    shape(call, &name).and_then(Reply::ok)
}

fn delete(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let (name, repository) = (full(call), call.repository()?);
    if !repository.refs.contains_key(&name) {
        return Err(Refusal::unprocessable("Reference does not exist"));
    }
    if name == format!("refs/heads/{}", repository.default_branch) {
        return Err(Refusal::unprocessable("Cannot delete the default branch"));
    }
    repository.bare.delete_ref(&name)?;
    call.state.take_in(call.repository, call.actor())?;
    Reply::nothing()
}
