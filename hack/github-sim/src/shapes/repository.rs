//! Repositories: `repository` in lists, `full-repository` alone, and the few fields installation events carry.

use serde_json::{Value, json};

use super::{Links, node_id, simple_user};
use crate::clock::stamp;
use crate::model::Repository;
use crate::seed::AccountType;
use crate::state::State;

/// URLs under the API's repository, by field.
const API_URLS: [(&str, &str); 37] = [
    ("archive_url", "/{archive_format}{/ref}"),
    ("assignees_url", "/assignees{/user}"),
    ("blobs_url", "/git/blobs{/sha}"),
    ("branches_url", "/branches{/branch}"),
    ("collaborators_url", "/collaborators{/collaborator}"),
    ("comments_url", "/comments{/number}"),
    ("commits_url", "/commits{/sha}"),
    ("compare_url", "/compare/{base}...{head}"),
    ("contents_url", "/contents/{+path}"),
    ("contributors_url", "/contributors"),
    ("deployments_url", "/deployments"),
    ("downloads_url", "/downloads"),
    ("events_url", "/events"),
    ("forks_url", "/forks"),
    ("git_commits_url", "/git/commits{/sha}"),
    ("git_refs_url", "/git/refs{/sha}"),
    ("git_tags_url", "/git/tags{/sha}"),
    ("hooks_url", "/hooks"),
    ("issue_comment_url", "/issues/comments{/number}"),
    ("issue_events_url", "/issues/events{/number}"),
    ("issues_url", "/issues{/number}"),
    ("keys_url", "/keys{/key_id}"),
    ("labels_url", "/labels{/name}"),
    ("languages_url", "/languages"),
    ("merges_url", "/merges"),
    ("milestones_url", "/milestones{/number}"),
    ("notifications_url", "/notifications{?since,all,participating}"),
    ("pulls_url", "/pulls{/number}"),
    ("releases_url", "/releases{/id}"),
    ("stargazers_url", "/stargazers"),
    ("statuses_url", "/statuses/{sha}"),
    ("subscribers_url", "/subscribers"),
    ("subscription_url", "/subscription"),
    ("tags_url", "/tags"),
    ("teams_url", "/teams"),
    ("trees_url", "/git/trees{/sha}"),
    ("url", ""),
];

/// `repository`.
pub(crate) fn repository(state: &State, repository: &Repository, links: &Links) -> Value {
    let owner = state.login(repository.owner);
    let full_name = format!("{owner}/{}", repository.name);
    let web = format!("{}/{full_name}", links.web);
    let host = links.web.split_once("://").map_or(links.web.as_str(), |(_, host)| host);
    let open_pulls =
        state.pulls.range((repository.id, 0)..=(repository.id, u64::MAX)).filter(|(_, pull)| pull.open).count();
    let mut shape = json!({
        "id": repository.id,
        "node_id": node_id("R", repository.id),
        "name": repository.name,
        "full_name": full_name,
        "owner": state.accounts.get(&repository.owner).map(|owner| simple_user(owner, links)),
        "private": repository.private,
        "html_url": web,
        "description": repository.description,
        "fork": repository.parent.is_some(),
        "git_url": format!("git://{host}/{full_name}.git"),
        "ssh_url": format!("git@{}:{full_name}.git", host.split(':').next().unwrap_or(host)),
        "clone_url": format!("{web}.git"),
        "svn_url": web,
        "mirror_url": null,
        "homepage": null,
        "language": null,
        "license": null,
        "size": 0,
        "default_branch": repository.default_branch,
        "is_template": false,
        "topics": [],
        "archived": repository.archived,
        "disabled": false,
        "visibility": if repository.private { "private" } else { "public" },
        "pushed_at": stamp(repository.pushed),
        "created_at": stamp(repository.created),
        "updated_at": stamp(repository.updated),
        "open_issues_count": open_pulls,
        "open_issues": open_pulls,
    });
    for (field, rest) in API_URLS {
        shape[field] = json!(format!("{}/repos/{full_name}{rest}", links.api));
    }
    for field in ["stargazers_count", "watchers_count", "watchers"] {
        shape[field] = json!(0);
    }
    let forks = state.repositories.values().filter(|found| found.parent == Some(repository.id)).count();
    for field in ["forks_count", "forks"] {
        shape[field] = json!(forks);
    }
    for field in ["has_issues", "has_projects", "has_wiki", "has_downloads", "allow_forking"] {
        shape[field] = json!(true);
    }
    for field in ["has_pages", "has_discussions", "web_commit_signoff_required"] {
        shape[field] = json!(false);
    }
    shape
}

/// `full-repository`.
pub(crate) fn full(state: &State, found: &Repository, links: &Links) -> Value {
    let mut shape = repository(state, found, links);
    for field in ["allow_rebase_merge", "allow_squash_merge", "allow_merge_commit"] {
        shape[field] = json!(true);
    }
    for field in ["allow_auto_merge", "delete_branch_on_merge", "allow_update_branch", "use_squash_pr_title_as_default"]
    {
        shape[field] = json!(false);
    }
    shape["squash_merge_commit_title"] = json!("COMMIT_OR_PR_TITLE");
    shape["squash_merge_commit_message"] = json!("COMMIT_MESSAGES");
    shape["merge_commit_title"] = json!("MERGE_MESSAGE");
    shape["merge_commit_message"] = json!("PR_TITLE");
    shape["network_count"] = json!(0);
    shape["subscribers_count"] = json!(0);
    if let Some(owner) = state.accounts.get(&found.owner).filter(|owner| owner.kind == AccountType::Organization) {
        shape["organization"] = simple_user(owner, links);
    }
    if let Some(parent) = found.parent.and_then(|parent| state.repositories.get(&parent)) {
        shape["parent"] = repository(state, parent, links);
        shape["source"] = repository(state, state.source(found), links);
    }
    shape
}

/// The fields of a repository in installation events.
pub(crate) fn trivial(state: &State, repository: &Repository) -> Value {
    json!({
        "id": repository.id,
        "node_id": node_id("R", repository.id),
        "name": repository.name,
        "full_name": state.full_name(repository),
        "private": repository.private,
    })
}
