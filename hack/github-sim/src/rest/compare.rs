//! The comparison of two commits, also across the repositories of a network of forks.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Access, Call, Reply, Route, branches, visible};
use crate::access::Level;
use crate::bare::Commit;
use crate::model::Repository;
use crate::refusal::Refusal;
use crate::shapes;

pub(crate) const ROUTES: &[Route] = &[Route::on(
    Method::GET,
    "/repos/{owner}/{repo}/compare/{*basehead}",
    "commits/commits#compare-two-commits",
    Access::Repository("contents", Level::Read),
    compare,
)];

/// The number of listed commits without a page in the request, and of listed files.
const MOST_COMMITS: usize = 250;
const MOST_FILES: usize = 300;
/// The number of commits on all pages.
const MOST_PAGED: usize = 10_000;

/// The commit of `BRANCH`, `OWNER:BRANCH` or `OWNER:REPOSITORY:BRANCH`, and the login of its owner. Afterwards its
/// objects are in the repository of the path.
fn named(call: &Call<'_>, name: &str) -> Result<(Commit, String), Refusal> {
    let home = call.repository()?;
    let (owner, name) = match name.split_once(':') {
        Some((owner, name)) => (call.state.account(owner).ok_or_else(Refusal::not_found)?.id, name),
        None => (home.owner, name),
    };
    let (repository, name) = match name.split_once(':') {
        Some((repository, name)) => (call.state.repository(call.state.login(owner), repository), name),
        None if owner == home.owner => (Some(home), name),
        None => (call.state.in_network(home, owner), name),
    };
    let same_network = |found: &&Repository| call.state.source(found).id == call.state.source(home).id;
    let repository = repository.filter(same_network).ok_or_else(Refusal::not_found)?;
    visible(call.state, &call.who, repository)?;
    let commit = branches::resolved(repository, name)?.ok_or_else(Refusal::not_found)?;
    if repository.id != home.id {
        home.bare.fetch(&repository.bare, &[&commit.sha])?;
    }
    Ok((commit, call.state.login(owner).to_owned()))
}

fn compare(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let (asked, repository, links) = (call.parameter("basehead"), call.repository()?, call.links());
    let (base_name, head_name) = asked.split_once("...").ok_or_else(Refusal::not_found)?;
    let ((base, base_owner), (head, head_owner)) = (named(call, base_name)?, named(call, head_name)?);
    let bare = &repository.bare;
    let unrelated =
        || Refusal::new(StatusCode::NOT_FOUND, format!("No common ancestor between {base_name} and {head_name}."));
    let common = bare.merge_base(&base.sha, &head.sha).ok_or_else(unrelated)?;
    if let Some(kind) = call.asked.accepted(&["diff", "patch"]) {
        return Reply::text(&kind, bare.shown(&kind, Some(&common), &head.sha)?);
    }
    let (ahead, behind) = (bare.count(&base.sha, &head.sha)?, bare.count(&head.sha, &base.sha)?);
    let status = match (ahead, behind) {
        (0, 0) => "identical",
        (_, 0) => "ahead",
        (0, _) => "behind",
        _ => "diverged",
    };
    let api = format!("{}/repos/{}/compare", links.api, call.state.full_name(repository));
    let web = format!("{}/{}/compare", links.web, call.state.full_name(repository));
    let short = |sha: &str| sha.get(..7).unwrap_or(sha).to_owned();
    let permanent = format!("{base_owner}:{}...{head_owner}:{}", short(&base.sha), short(&head.sha));
    let shape = |commit: &Commit| shapes::commit(call.state, repository, commit, None, &links);
    let mut body = json!({
        "url": format!("{api}/{asked}"),
        "html_url": format!("{web}/{asked}"),
        "permalink_url": format!("{web}/{permanent}"),
        "diff_url": format!("{web}/{asked}.diff"),
        "patch_url": format!("{web}/{asked}.patch"),
        "base_commit": shape(&base),
        "merge_base_commit": bare.commit(&common)?.as_ref().map(shape),
        "status": status,
        "ahead_by": ahead,
        "behind_by": behind,
        "total_commits": ahead,
    });
    let page = call.asked.query("page");
    if page.as_deref().is_none_or(|page| page == "1") {
        let mut changes = bare.changes(Some(&common), &head.sha)?;
        changes.truncate(MOST_FILES);
        body["files"] = shapes::files(call.state, repository, &head.sha, &changes, &links);
    }
    let paged = page.is_some() || call.asked.query("per_page").is_some();
    let most = if paged { MOST_PAGED } else { MOST_COMMITS };
    let commits = bare.between(Some(&base.sha), &head.sha, most)?;
    if paged {
        return Reply::page(
            call.asked,
            commits,
            |commit| shape(&commit),
            |commits| {
                body["commits"] = Value::Array(commits);
                body
            },
        );
    }
    body["commits"] = commits.iter().map(shape).collect();
    Reply::ok(body)
}
