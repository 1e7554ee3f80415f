//! Git objects: refs, branches, commits, file contents.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Links, node_id, simple_user};
use crate::bare::{Change, Commit, Person};
use crate::clock::stamp;
use crate::model::Repository;
use crate::state::State;

/// The API's URL of a repository.
fn api_of(state: &State, repository: &Repository, links: &Links) -> String {
    format!("{}/repos/{}", links.api, state.full_name(repository))
}

/// `git-ref`.
pub(crate) fn reference(state: &State, repository: &Repository, name: &str, sha: &str, links: &Links) -> Value {
    let api = api_of(state, repository, links);
    let kind = if name.starts_with("refs/tags/") {
        repository.bare.kind(sha).unwrap_or_else(|| "commit".to_owned())
    } else {
        "commit".to_owned()
    };
    json!({
        "ref": name,
        "node_id": format!("{}:{name}", node_id("REF", repository.id)),
        "url": format!("{api}/git/{name}"),
        "object": {"sha": sha, "type": kind, "url": format!("{api}/git/{kind}s/{sha}")},
    })
}

/// `short-branch`.
pub(crate) fn short_branch(state: &State, repository: &Repository, name: &str, sha: &str, links: &Links) -> Value {
    let url = format!("{}/commits/{sha}", api_of(state, repository, links));
    json!({"name": name, "commit": {"sha": sha, "url": url}, "protected": false})
}

/// `branch-with-protection`.
pub(crate) fn branch(state: &State, repository: &Repository, name: &str, head: &Commit, links: &Links) -> Value {
    let api = api_of(state, repository, links);
    json!({
        "name": name,
        "commit": commit(state, repository, head, None, links),
        "_links": {
            "self": format!("{api}/branches/{name}"),
            "html": format!("{}/{}/tree/{name}", links.web, state.full_name(repository)),
        },
        "protected": false,
        "protection": {
            "enabled": false,
            "required_status_checks": {"enforcement_level": "off", "contexts": [], "checks": []},
        },
        "protection_url": format!("{api}/branches/{name}/protection"),
    })
}

/// `commit`, with its changes if they are given.
pub(crate) fn commit(
    state: &State,
    repository: &Repository,
    commit: &Commit,
    changes: Option<&[Change]>,
    links: &Links,
) -> Value {
    let api = api_of(state, repository, links);
    let web = format!("{}/{}", links.web, state.full_name(repository));
    let sha = &commit.sha;
    let mut shape = json!({
        "sha": sha,
        "node_id": format!("{}:{sha}", node_id("C", repository.id)),
        "url": format!("{api}/commits/{sha}"),
        "html_url": format!("{web}/commit/{sha}"),
        "comments_url": format!("{api}/commits/{sha}/comments"),
        "commit": {
            "url": format!("{api}/git/commits/{sha}"),
            "author": person(&commit.author),
            "committer": person(&commit.committer),
            "message": commit.message,
            "comment_count": 0,
            "tree": {"sha": commit.tree, "url": format!("{api}/git/trees/{}", commit.tree)},
            "verification": {
                "verified": false, "reason": "unsigned", "signature": null, "payload": null, "verified_at": null,
            },
        },
        "author": account(state, &commit.author, links),
        "committer": account(state, &commit.committer, links),
        "parents": commit.parents.iter().map(|parent| json!({
            "sha": parent,
            "url": format!("{api}/commits/{parent}"),
            "html_url": format!("{web}/commit/{parent}"),
        })).collect::<Vec<_>>(),
    });
    if let Some(changes) = changes {
        let (additions, deletions) =
            changes.iter().fold((0, 0), |sum, change| (sum.0 + change.additions, sum.1 + change.deletions));
        shape["stats"] = json!({"total": additions + deletions, "additions": additions, "deletions": deletions});
        shape["files"] = files(state, repository, sha, changes, links);
    }
    shape
}

/// `diff-entry`, one for each changed file.
pub(crate) fn files(state: &State, repository: &Repository, sha: &str, changes: &[Change], links: &Links) -> Value {
    let api = api_of(state, repository, links);
    let web = format!("{}/{}", links.web, state.full_name(repository));
    let entry = |change: &Change| {
        json!({
            "sha": change.blob,
            "filename": change.path,
            "status": match change.status { 'A' => "added", 'D' => "removed", _ => "modified" },
            "additions": change.additions,
            "deletions": change.deletions,
            "changes": change.additions + change.deletions,
            "blob_url": format!("{web}/blob/{sha}/{}", change.path),
            "raw_url": format!("{web}/raw/{sha}/{}", change.path),
            "contents_url": format!("{api}/contents/{}?ref={sha}", change.path),
        })
    };
    changes.iter().map(entry).collect()
}

fn person(person: &Person) -> Value {
    json!({"name": person.name, "email": person.email, "date": stamp(person.at)})
}

/// The account of a no-reply address.
fn account(state: &State, person: &Person, links: &Links) -> Option<Value> {
    let (id, _) = person.email.split_once('+')?;
    state.accounts.get(&id.parse().ok()?).map(|account| simple_user(account, links))
}

/// `content-file`.
pub(crate) fn content(
    state: &State,
    repository: &Repository,
    (revision, path): (&str, &str),
    (sha, bytes): (&str, &[u8]),
    links: &Links,
) -> Value {
    let api = api_of(state, repository, links);
    let web = format!("{}/{}", links.web, state.full_name(repository));
    let own = format!("{api}/contents/{path}?ref={revision}");
    let blob = format!("{api}/git/blobs/{sha}");
    let html = format!("{web}/blob/{revision}/{path}");
    json!({
        "type": "file",
        "encoding": "base64",
        "size": bytes.len(),
        "name": path.rsplit('/').next(),
        "path": path,
        "content": STANDARD.encode(bytes),
        "sha": sha,
        "url": own,
        "git_url": blob,
        "html_url": html,
        "download_url": format!("{web}/raw/{revision}/{path}"),
        "_links": {"self": own, "git": blob, "html": html},
    })
}
