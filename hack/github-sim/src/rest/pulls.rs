//! Pull requests, with GitHub's reasons for not opening one.

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Access, Call, Reply, Route};
use crate::access::Level;
use crate::model::{Label, Pull, Repository};
use crate::refusal::Refusal;
use crate::shapes;

const READ: Access = Access::Repository("pull_requests", Level::Read);
const WRITE: Access = Access::Repository("pull_requests", Level::Write);

pub(crate) const ROUTES: &[Route] = &[
    Route::on(Method::GET, "/repos/{owner}/{repo}/pulls", "pulls/pulls#list-pull-requests", READ, list),
    Route::on(Method::POST, "/repos/{owner}/{repo}/pulls", "pulls/pulls#create-a-pull-request", WRITE, create),
    Route::on(Method::GET, "/repos/{owner}/{repo}/pulls/{pull_number}", "pulls/pulls#get-a-pull-request", READ, get),
    Route::on(
        Method::PATCH,
        "/repos/{owner}/{repo}/pulls/{pull_number}",
        "pulls/pulls#update-a-pull-request",
        WRITE,
        update,
    ),
    Route::on(
        Method::POST,
        "/repos/{owner}/{repo}/issues/{issue_number}/labels",
        "issues/labels#add-labels-to-an-issue",
        WRITE,
        label,
    ),
];

fn list(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let query = |name| call.asked.query(name);
    let state = query("state").unwrap_or_else(|| "open".to_owned());
    let (head, base, links) = (query("head"), query("base"), call.links());
    let matches = |pull: &&Pull| {
        let label = || format!("{}:{}", owner_of(call, pull.head_repository), pull.head);
        (state == "all" || pull.open == (state == "open"))
            && head.as_ref().is_none_or(|head| label().eq_ignore_ascii_case(head))
            && base.as_ref().is_none_or(|base| pull.base == *base)
    };
    let home = call.repository;
    let mut found: Vec<&Pull> =
        call.state.pulls.range((home, 0)..=(home, u64::MAX)).map(|(_, pull)| pull).filter(matches).collect();
    if query("sort").is_some_and(|sort| sort == "updated") {
        found.sort_by_key(|pull| pull.updated);
    }
    if query("direction").is_none_or(|direction| direction == "desc") {
        found.reverse();
    }
    Reply::page(call.asked, found, |pull| shapes::pull_simple(call.state, pull, &links), Value::Array)
}

fn owner_of<'a>(call: &'a Call<'_>, repository: u64) -> &'a str {
    call.state.repositories.get(&repository).map_or("ghost", |found| call.state.login(found.owner))
}

fn named<'a>(call: &'a Call<'_>, parameter: &str) -> Result<&'a Pull, Refusal> {
    let number = call.number(parameter)?;
    call.state.pulls.get(&(call.repository, number)).ok_or_else(Refusal::not_found)
}

fn get(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let pull = named(call, "pull_number")?;
    if let Some(kind) = call.asked.accepted(&["diff", "patch"]) {
        let bare = &call.repository()?.bare;
        let since = bare.merge_base(&pull.base_sha, &pull.head_sha);
        return Reply::text(&kind, bare.shown(&kind, since.as_deref(), &pull.head_sha)?);
    }
    let mut shape = shapes::pull(call.state, pull, &call.links());
    if let Some(kind) = call.asked.accepted(&["full", "text", "html"]) {
        shapes::in_media_type(&mut shape, &kind);
    }
    Reply::ok(shape)
}

#[derive(Deserialize)]
struct NewPull {
    title: Option<String>,
    head: Option<String>,
    base: Option<String>,
    body: Option<String>,
    draft: Option<bool>,
    maintainer_can_modify: Option<bool>,
}

fn create(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let wish: NewPull = call.body()?;
    let missing = |field| Refusal::field("PullRequest", field, "missing_field");
    let invalid = |field| Refusal::field("PullRequest", field, "invalid");
    let title = wish.title.filter(|title| !title.is_empty()).ok_or_else(|| missing("title"))?;
    let (head, base) = (wish.head.ok_or_else(|| missing("head"))?, wish.base.ok_or_else(|| missing("base"))?);
    let home = call.repository()?;
    let base_sha = home.branch(&base).cloned().ok_or_else(|| invalid("base"))?;
    // A head is a branch of this repository, or OWNER:BRANCH, in which OWNER has this repository or a fork of it.
    let (owner, head) = head.split_once(':').unwrap_or((call.state.login(home.owner), &head));
    let account = call.state.account(owner).ok_or_else(|| invalid("head"))?.id;
    let from = if account == home.owner { Some(home) } else { call.state.in_network(home, account) };
    let from = from.ok_or_else(|| invalid("head"))?;
    let head_sha = from.branch(head).cloned().ok_or_else(|| invalid("head"))?;
    if from.id != home.id {
        home.bare.fetch(&from.bare, &[&head_sha])?;
    }
    let label = format!("{owner}:{head}");
    if home.bare.is_ancestor(&head_sha, &base_sha) {
        return Err(Refusal::custom("PullRequest", format!("No commits between {base} and {head}")));
    }
    let same = |pull: &Pull| pull.open && pull.head_repository == from.id && pull.head == head && pull.base == base;
    if call.state.pulls.range((home.id, 0)..=(home.id, u64::MAX)).any(|(_, pull)| same(pull)) {
        return Err(Refusal::custom("PullRequest", format!("A pull request already exists for {label}.")));
    }
    let draft = wish.draft.unwrap_or(false);
    if draft && !drafts(call, home) {
        return Err(Refusal::unprocessable("Draft pull requests are not supported in this repository."));
    }
    let (number, home_id, from, head) = (home.next_number, home.id, from.id, head.to_owned());
    let (now, author, id) = (call.state.now(), call.actor(), call.state.new_id());
    let pull = Pull {
        id,
        number,
        repository: home_id,
        title,
        body: wish.body,
        author,
        draft,
        open: true,
        maintainer_can_modify: wish.maintainer_can_modify.unwrap_or(false),
        head_repository: from,
        head,
        head_sha,
        base,
        base_sha,
        created: now,
        updated: now,
        closed: None,
        merged: None,
        labels: Vec::new(),
    };
    if let Some(home) = call.state.repositories.get_mut(&home_id) {
        home.next_number += 1;
        home.show_pull(number, &pull.head_sha)?;
    }
    let shape = shapes::pull(call.state, &pull, &call.links());
    call.state.pulls.insert((home_id, number), pull);
    Reply::created(shape)
}

/// Drafts in private repositories are not part of the Free plan.
fn drafts(call: &Call<'_>, repository: &Repository) -> bool {
    let plan = call.state.accounts.get(&repository.owner).map_or("free", |owner| owner.plan.as_str());
    !repository.private || plan != "free"
}

#[derive(Deserialize)]
struct Changes {
    title: Option<String>,
    body: Option<String>,
    state: Option<String>,
    base: Option<String>,
    maintainer_can_modify: Option<bool>,
}

fn update(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let changes: Changes = call.body()?;
    let (key, now) = ((call.repository, call.number("pull_number")?), call.state.now());
    let mut pull = named(call, "pull_number")?.clone();
    let home = call.repository()?;
    if let Some(base) = changes.base {
        pull.base_sha = home.branch(&base).cloned().ok_or_else(|| Refusal::field("PullRequest", "base", "invalid"))?;
        pull.base = base;
    }
    match changes.state.as_deref() {
        Some("closed") if pull.open => (pull.open, pull.closed) = (false, Some(now)),
        Some("open") if !pull.open => {
            let head = call.state.repositories.get(&pull.head_repository).and_then(|from| from.branch(&pull.head));
            let head = head.filter(|_| pull.merged.is_none());
            let gone =
                || Refusal::custom("PullRequest", "state cannot be changed. The head branch was deleted or merged.");
            pull.head_sha = head.cloned().ok_or_else(gone)?;
            (pull.open, pull.closed) = (true, None);
        }
        None | Some("open" | "closed") => {}
        Some(_) => return Err(Refusal::field("PullRequest", "state", "invalid")),
    }
    pull.title = changes.title.filter(|title| !title.is_empty()).unwrap_or(pull.title);
    pull.body = changes.body.or(pull.body);
    pull.maintainer_can_modify = changes.maintainer_can_modify.unwrap_or(pull.maintainer_can_modify);
    pull.updated = now;
    call.state.pulls.insert(key, pull);
    get(call)
}

/// The names of labels in a body, which is an object with a list, the list alone, or one name. An entry of the list is a
/// name or an object with a name.
fn label_names(body: &Value) -> Result<Vec<String>, Refusal> {
    let invalid = || {
        Refusal::unprocessable(format!(
            "Invalid request.\n\nNo subschema in \"oneOf\" matched.\n{body} is not a list of labels."
        ))
    };
    let name = |label: &Value| Some(label.as_str().or_else(|| label["name"].as_str())?.to_owned());
    match body {
        Value::String(name) => Ok(vec![name.clone()]),
        Value::Object(fields) => fields.get("labels").map_or_else(|| Ok(Vec::new()), label_names),
        Value::Array(labels) => labels.iter().map(|label| name(label).ok_or_else(invalid)).collect(),
        _ => Err(invalid()),
    }
}

/// Adds labels, and creates missing ones in the repository. Names are not case-sensitive.
fn label(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let wish = label_names(&call.any_json()?)?;
    let (home, now) = (call.repository, call.state.now());
    let mut pull = named(call, "issue_number")?.clone();
    for name in wish {
        if name.is_empty() || name.chars().count() > 50 {
            return Err(Refusal::field("Label", "name", "invalid"));
        }
        let same = |label: &&Label| label.name.to_lowercase() == name.to_lowercase();
        if pull.labels.iter().any(|label| same(&label)) {
            continue;
        }
        let pulls = call.state.pulls.range((home, 0)..=(home, u64::MAX));
        let known = pulls.flat_map(|(_, pull)| &pull.labels).find(same).cloned();
        let label = known.unwrap_or_else(|| Label { id: call.state.new_id(), name });
        pull.labels.push(label);
    }
    pull.updated = now;
    let (repository, links) = (call.repository()?, call.links());
    let shape = pull.labels.iter().map(|label| shapes::label(call.state, repository, label, &links)).collect();
    call.state.pulls.insert((home, pull.number), pull);
    Reply::ok(Value::Array(shape))
}
