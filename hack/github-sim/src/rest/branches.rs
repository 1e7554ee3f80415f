//! Branches, commits, and the contents of files.

use http::{Method, StatusCode};
use serde_json::Value;

use super::{Access, Call, Reply, Route};
use crate::access::Level;
use crate::bare::Commit;
use crate::model::Repository;
use crate::refusal::Refusal;
use crate::shapes;

const CONTENTS: Access = Access::Repository("contents", Level::Read);

pub(crate) const ROUTES: &[Route] = &[
    Route::on(Method::GET, "/repos/{owner}/{repo}/branches", "branches/branches#list-branches", CONTENTS, list),
    Route::on(Method::GET, "/repos/{owner}/{repo}/branches/{*branch}", "branches/branches#get-a-branch", CONTENTS, get),
    Route::on(Method::GET, "/repos/{owner}/{repo}/commits", "commits/commits#list-commits", CONTENTS, commits),
    Route::on(Method::GET, "/repos/{owner}/{repo}/commits/{*ref}", "commits/commits#get-a-commit", CONTENTS, commit),
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}/contents/{*path}",
        "repos/contents#get-repository-content",
        CONTENTS,
        contents,
    ),
];

fn list(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let (repository, links) = (call.repository()?, call.links());
    // No branch is protected here.
    let none = call.asked.query("protected").is_some_and(|protected| protected == "true");
    let branches = repository.refs.iter().filter(|_| !none);
    let branches = branches.filter_map(|(name, sha)| Some((name.strip_prefix("refs/heads/")?, sha))).collect();
    let shape = |(name, sha): (&str, &String)| shapes::short_branch(call.state, repository, name, sha, &links);
    Reply::page(call.asked, branches, shape, Value::Array)
}

fn get(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let (repository, name) = (call.repository()?, call.parameter("branch"));
    let missing = || Refusal::new(StatusCode::NOT_FOUND, "Branch not found");
    let sha = repository.branch(name).ok_or_else(missing)?;
    let head = repository.bare.commit(sha)?.ok_or_else(missing)?;
    Reply::ok(shapes::branch(call.state, repository, name, &head, &call.links()))
}

fn named(call: &Call<'_>, name: &str) -> Result<Option<Commit>, Refusal> {
    resolved(call.repository()?, name)
}

/// The commit that a branch, a tag or an object id names.
pub(super) fn resolved(repository: &Repository, name: &str) -> Result<Option<Commit>, Refusal> {
    let known = [format!("refs/heads/{name}"), format!("refs/tags/{name}"), format!("refs/{name}")];
    let sha = known.iter().find_map(|full| repository.refs.get(full)).map_or(name, String::as_str);
    if repository.bare.kind(sha).is_none() {
        return Ok(None);
    }
    Ok(repository.bare.commit(sha)?)
}

fn empty() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "Git Repository is empty.")
}

fn commits(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let (repository, links) = (call.repository()?, call.links());
    if repository.refs.is_empty() {
        return Err(empty());
    }
    let start = call.asked.query("sha").unwrap_or_else(|| repository.default_branch.clone());
    let head = named(call, &start)?.ok_or_else(Refusal::not_found)?;
    let mut found = repository.bare.between(None, &head.sha, 1000)?;
    found.reverse();
    let shape = |commit: Commit| shapes::commit(call.state, repository, &commit, None, &links);
    Reply::page(call.asked, found, shape, Value::Array)
}

fn commit(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let (repository, name) = (call.repository()?, call.parameter("ref"));
    if repository.refs.is_empty() {
        return Err(empty());
    }
    let missing = || Refusal::unprocessable(format!("No commit found for SHA: {name}"));
    let commit = named(call, name)?.ok_or_else(missing)?;
    if let Some(kind) = call.asked.accepted(&["sha"]) {
        return Reply::text(&kind, commit.sha);
    }
    if let Some(kind) = call.asked.accepted(&["diff", "patch"]) {
        return Reply::text(&kind, repository.bare.shown(&kind, None, &commit.sha)?);
    }
    let changes = repository.bare.changes(commit.parents.first().map(String::as_str), &commit.sha)?;
    Reply::ok(shapes::commit(call.state, repository, &commit, Some(&changes), &call.links()))
}

/// Files only. A directory gets a 404.
fn contents(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let (repository, path) = (call.repository()?, call.parameter("path"));
    let revision = call.asked.query("ref").unwrap_or_else(|| repository.default_branch.clone());
    let head = named(call, &revision)?.ok_or_else(Refusal::not_found)?;
    let (sha, bytes) = repository.bare.file(&head.sha, path)?.ok_or_else(Refusal::not_found)?;
    if let Some(kind) = call.asked.accepted(&["raw"]) {
        return Reply::text(&kind, bytes);
    }
    Reply::ok(shapes::content(call.state, repository, (&revision, path), (&sha, &bytes), &call.links()))
}
