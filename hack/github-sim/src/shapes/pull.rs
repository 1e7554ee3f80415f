//! Pull requests: `pull-request` alone, `pull-request-simple` in lists.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::{Links, node_id, repository, simple_user};
use crate::clock::stamp;
use crate::model::{Label, Pull, Repository};
use crate::state::State;

/// `pull-request-simple`.
pub(crate) fn pull_simple(state: &State, pull: &Pull, links: &Links) -> Value {
    let Some(home) = state.repositories.get(&pull.repository) else { return Value::Null };
    let full_name = state.full_name(home);
    let web = format!("{}/{full_name}/pull/{}", links.web, pull.number);
    let api = format!("{}/repos/{full_name}", links.api);
    let own = format!("{api}/pulls/{}", pull.number);
    let issue = format!("{api}/issues/{}", pull.number);
    let statuses = format!("{api}/statuses/{}", pull.head_sha);
    let side = |id: u64, branch: &str, sha: &str| {
        let Some(found) = state.repositories.get(&id) else { return Value::Null };
        json!({
            "label": format!("{}:{branch}", state.login(found.owner)),
            "ref": branch,
            "sha": sha,
            "user": state.accounts.get(&found.owner).map(|owner| simple_user(owner, links)),
            "repo": repository(state, found, links),
        })
    };
    let reached = [
        ("self", own.clone()),
        ("html", web.clone()),
        ("issue", issue.clone()),
        ("comments", format!("{issue}/comments")),
        ("review_comments", format!("{own}/comments")),
        ("review_comment", format!("{api}/pulls/comments{{/number}}")),
        ("commits", format!("{own}/commits")),
        ("statuses", statuses.clone()),
    ];
    let linked: Map<String, Value> =
        reached.into_iter().map(|(name, url)| (name.to_owned(), json!({"href": url}))).collect();
    json!({
        "_links": linked,
        "id": pull.id,
        "node_id": node_id("PR", pull.id),
        "url": own,
        "html_url": web,
        "diff_url": format!("{web}.diff"),
        "patch_url": format!("{web}.patch"),
        "issue_url": issue,
        "commits_url": format!("{own}/commits"),
        "review_comments_url": format!("{own}/comments"),
        "review_comment_url": format!("{api}/pulls/comments{{/number}}"),
        "comments_url": format!("{issue}/comments"),
        "statuses_url": statuses,
        "number": pull.number,
        "state": if pull.open { "open" } else { "closed" },
        "locked": false,
        "active_lock_reason": null,
        "title": pull.title,
        "body": pull.body,
        "user": state.accounts.get(&pull.author).map(|author| simple_user(author, links)),
        "labels": pull.labels.iter().map(|found| label(state, home, found, links)).collect::<Vec<_>>(),
        "milestone": null,
        "assignee": null,
        "assignees": [],
        "requested_reviewers": [],
        "requested_teams": [],
        "created_at": stamp(pull.created),
        "updated_at": stamp(pull.updated),
        "closed_at": pull.closed.map(stamp),
        "merged_at": pull.merged.map(stamp),
        "merge_commit_sha": pull.merged.map(|_| &pull.head_sha),
        "draft": pull.draft,
        "head": side(pull.head_repository, &pull.head, &pull.head_sha),
        "base": side(pull.repository, &pull.base, &pull.base_sha),
        "author_association": "CONTRIBUTOR",
        "auto_merge": null,
    })
}

/// Adds the forms of the body that a media type asks for: text, HTML, or both.
pub(crate) fn in_media_type(shape: &mut Value, kind: &str) {
    let body = shape["body"].as_str().unwrap_or_default().to_owned();
    let escaped = body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !kind.contains("html") {
        shape["body_text"] = json!(body);
    }
    if !kind.contains("text") {
        shape["body_html"] = json!(format!("<p>{escaped}</p>"));
    }
    if !kind.contains("full")
        && let Some(fields) = shape.as_object_mut()
    {
        fields.remove("body");
    }
}

/// `label`.
pub(crate) fn label(state: &State, home: &Repository, label: &Label, links: &Links) -> Value {
    let name = utf8_percent_encode(&label.name, NON_ALPHANUMERIC);
    json!({
        "id": label.id,
        "node_id": node_id("LA", label.id),
        "url": format!("{}/repos/{}/labels/{name}", links.api, state.full_name(home)),
        "name": label.name,
        "description": "",
        "color": "ededed",
        "default": false,
        "archived_at": null,
        "archived_by": null,
    })
}

/// `pull-request`.
pub(crate) fn pull(state: &State, found: &Pull, links: &Links) -> Value {
    let mut shape = pull_simple(state, found, links);
    let bare = state.repositories.get(&found.repository).map(|home| &home.bare);
    let fork_point = bare.and_then(|bare| bare.merge_base(&found.base_sha, &found.head_sha));
    let commits =
        bare.and_then(|bare| bare.between(fork_point.as_deref(), &found.head_sha, 250).ok()).unwrap_or_default();
    let changes = bare.and_then(|bare| bare.changes(fork_point.as_deref(), &found.head_sha).ok()).unwrap_or_default();
    shape["merged"] = json!(found.merged.is_some());
    shape["mergeable"] = if found.open { json!(true) } else { Value::Null };
    shape["rebaseable"] = shape["mergeable"].clone();
    shape["mergeable_state"] = json!(match (found.open, found.draft) {
        (true, true) => "draft",
        (true, false) => "clean",
        (false, _) => "unknown",
    });
    shape["merged_by"] = Value::Null;
    shape["comments"] = json!(0);
    shape["review_comments"] = json!(0);
    shape["maintainer_can_modify"] = json!(found.maintainer_can_modify);
    shape["commits"] = json!(commits.len());
    shape["additions"] = json!(changes.iter().map(|change| change.additions).sum::<u64>());
    shape["deletions"] = json!(changes.iter().map(|change| change.deletions).sum::<u64>());
    shape["changed_files"] = json!(changes.len());
    shape
}
