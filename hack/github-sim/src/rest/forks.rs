//! Forks: created, listed, and synchronized with their upstream.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Access, Call, Reply, Route, visible};
use crate::access::Level;
use crate::credential::Credential;
use crate::model::{Coverage, Repository};
use crate::refusal::Refusal;
use crate::seed::AccountType;
use crate::shapes;

pub(crate) const ROUTES: &[Route] = &[
    Route::on(
        Method::GET,
        "/repos/{owner}/{repo}/forks",
        "repos/forks#list-forks",
        Access::Repository("metadata", Level::Read),
        list,
    ),
    Route::on(Method::POST, "/repos/{owner}/{repo}/forks", "repos/forks#create-a-fork", Access::Source, create),
    Route::on(
        Method::POST,
        "/repos/{owner}/{repo}/merge-upstream",
        "branches/branches#sync-a-fork-branch-with-the-upstream-repository",
        Access::Repository("contents", Level::Write),
        merge_upstream,
    ),
];

/// The forks that the caller sees, by default the newest first.
fn list(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let (id, links) = (call.repository, call.links());
    let mut forks: Vec<&Repository> = call
        .state
        .repositories
        .values()
        .filter(|found| found.parent == Some(id) && visible(call.state, &call.who, found).is_ok())
        .collect();
    if call.asked.query("sort").as_deref() != Some("oldest") {
        forks.reverse();
    }
    Reply::page(call.asked, forks, |fork| shapes::repository(call.state, fork, &links), Value::Array)
}

#[derive(Deserialize)]
struct Wish {
    organization: Option<String>,
    name: Option<String>,
    #[serde(default)]
    default_branch_only: bool,
}

/// Answers before the fork has objects. If the account has a repository of this network already, under any name,
/// answers with that: an earlier fork, or, for its owner, the repository itself.
fn create(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let wish: Wish = call.body()?;
    let account = destination(call, wish.organization.as_deref())?;
    if call.repository()?.refs.is_empty() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "The repository exists, but it contains no Git content. Empty repositories cannot be forked.",
        ));
    }
    let (of, actor) = (call.repository, call.actor());
    let fork = call.state.fork(of, account, wish.name.as_deref(), wish.default_branch_only, actor)?;
    let fork = fork.and_then(|id| call.state.repositories.get(&id)).ok_or_else(Refusal::not_found)?;
    Ok(Reply::new(StatusCode::ACCEPTED, shapes::full(call.state, fork, &call.links())))
}

/// The account into which a token may fork: its installation's. The token must reach all of it.
fn destination(call: &Call<'_>, organization: Option<&str>) -> Result<u64, Refusal> {
    let Credential::Installation(_, token) = &call.who else { return Err(Refusal::not_accessible()) };
    let installation = call.state.installations.get(&token.installation).ok_or_else(Refusal::not_accessible)?;
    if let Some(login) = organization {
        let invalid = || Refusal::field("Fork", "organization", "invalid");
        let account = call.state.account(login).ok_or_else(invalid)?;
        if account.kind != AccountType::Organization {
            let message = format!(
                "'{}' is the login for a user account. You must pass the login for an organization account.",
                account.login
            );
            return Err(Refusal { message, ..invalid() });
        }
        if account.id != installation.account {
            return Err(Refusal::not_accessible());
        }
    }
    let may = |permission, level| call.state.token_level(token, permission) >= Some(level);
    let all = installation.coverage == Coverage::All && token.repositories.is_none();
    if all && may("administration", Level::Write) && may("contents", Level::Read) {
        return Ok(installation.account);
    }
    Err(Refusal::not_accessible())
}

#[derive(Deserialize)]
struct Branch {
    branch: String,
}

/// Moves a branch to the upstream's branch of the same name, or merges that if both have new commits.
fn merge_upstream(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let Branch { branch } = call.body()?;
    let fork = call.repository()?;
    let parent = fork.parent.and_then(|parent| call.state.repositories.get(&parent));
    let parent = parent.ok_or_else(|| Refusal::unprocessable("The repository is not a fork."))?;
    let missing = || Refusal::new(StatusCode::NOT_FOUND, "Branch not found");
    let ours = fork.branch(&branch).ok_or_else(missing)?;
    let theirs = parent.branch(&branch).ok_or_else(missing)?;
    let upstream = format!("{}:{branch}", call.state.login(parent.owner));
    fork.bare.fetch(&parent.bare, &[theirs])?;
    if fork.bare.is_ancestor(theirs, ours) {
        return synced("none", &format!("This branch is not behind the upstream {upstream}."), &upstream);
    }
    no_new_workflow(call, fork, theirs)?;
    let (id, actor) = (fork.id, call.actor());
    let (kind, how) = if fork.bare.is_ancestor(ours, theirs) {
        fork.bare.set_ref(&format!("refs/heads/{branch}"), theirs)?;
        ("fast-forward", "fast-forwarded")
    } else {
        let conflict = || Refusal::new(StatusCode::CONFLICT, "There are merge conflicts");
        let tree = fork.bare.merged_tree(ours, theirs)?.ok_or_else(conflict)?;
        let message = format!("Merge branch '{upstream}' into {branch}");
        fork.bare.merge(&branch, (theirs, &tree), &message, &call.state.committer(actor))?;
        ("merge", "merged")
    };
    call.state.take_in(id, actor)?;
    synced(kind, &format!("Successfully fetched and {how} from upstream {upstream}."), &upstream)
}

fn synced(kind: &str, message: &str, upstream: &str) -> Result<Reply, Refusal> {
    Reply::ok(json!({"message": message, "merge_type": kind, "base_branch": upstream}))
}

/// Workflow files of the upstream need `workflows`, like those of a push.
fn no_new_workflow(call: &Call<'_>, fork: &Repository, head: &str) -> Result<(), Refusal> {
    let granted = match &call.who {
        Credential::Installation(_, token) => call.state.token_level(token, "workflows") >= Some(Level::Write),
        _ => false,
    };
    match fork.bare.newly_touched(head, ".github/workflows")? {
        Some(file) if !granted => Err(Refusal::unprocessable(format!(
            "refusing to allow a GitHub App to create or update workflow `{file}` without `workflows` permission"
        ))),
        _ => Ok(()),
    }
}
