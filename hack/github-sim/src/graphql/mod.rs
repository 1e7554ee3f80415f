//! The part of GraphQL without a REST equivalent, which makes drafts ready, and the reads that belong to it.
//!
//! An object is made with all fields that the simulator has, and then the requested ones are selected. An unknown field
//! is an error as on GitHub, never a null.

mod parse;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::access::Level;
use crate::clock::stamp;
use crate::credential::Credential;
use crate::model::{Pull, Repository};
use crate::refusal::Refusal;
use crate::rest::{Call, Reply, permitted};
use crate::shapes::{id_of_node, node_id};
use parse::{Document, Selection};

#[derive(Deserialize)]
struct Wish {
    query: String,
    #[serde(default)]
    variables: Value,
}

/// The number of nodes that a query may ask for.
const MOST_NODES: u64 = 500_000;
/// The kinds of errors that make a document invalid, whatever the data is.
const INVALID: [&str; 2] = ["undefinedField", "undefinedFragment"];

/// The reason why one field has no answer. It comes inside a 200.
struct Unanswered {
    kind: &'static str,
    message: String,
}

impl Unanswered {
    fn not_found(id: &str) -> Self {
        Self { kind: "NOT_FOUND", message: format!("Could not resolve to a node with the global id of '{id}'") }
    }

    fn forbidden() -> Self {
        Self { kind: "FORBIDDEN", message: "Resource not accessible by integration".to_owned() }
    }

    fn undefined(field: &str, on: &str) -> Self {
        Self { kind: "undefinedField", message: format!("Field '{field}' doesn't exist on type '{on}'") }
    }
}

/// Answers `POST /graphql`.
pub(crate) fn answer(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    if !matches!(call.who, Credential::Installation(..)) {
        return Err(Refusal::new(http::StatusCode::UNAUTHORIZED, "This endpoint requires you to be authenticated."));
    }
    let wish: Wish = call.body()?;
    let document = match parse::document(&wish.query, &wish.variables) {
        Ok(document) => document,
        Err(message) => return Reply::ok(json!({"errors": [{"message": format!("Parse error: {message}")}]})),
    };
    if let Some(name) = document.circle() {
        let message = format!("Fragment {name} contains an infinite loop");
        return Reply::ok(json!({"errors": [{"message": message, "extensions": {"code": "infiniteLoop"}}]}));
    }
    if document.size() > MOST_NODES {
        let message = format!("This query exceeds the maximum limit of {MOST_NODES} nodes.");
        return Reply::ok(json!({"errors": [{"type": "MAX_NODE_LIMIT_EXCEEDED", "message": message}]}));
    }
    let (mut data, mut errors, mut invalid, mut changes) = (Map::new(), Vec::new(), Vec::new(), Vec::new());
    for selection in &document.selections {
        let Selection::Field { key, name, arguments, selections } = selection else {
            invalid.push(json!({"message": "Fragments are not answered at the root"}));
            continue;
        };
        let found = if document.mutation {
            change(call, name, arguments).map(|(found, changed)| (found, Some(changed)))
        } else {
            look(call, name, arguments).map(|found| (found, None))
        };
        match found.and_then(|(found, changed)| Ok((picked(&found, selections, &document)?, changed))) {
            Ok((value, changed)) => {
                data.insert(key.clone(), value);
                changes.extend(changed);
            }
            Err(Unanswered { kind, message }) if INVALID.contains(&kind) => {
                let operation = if document.mutation { "mutation" } else { "query" };
                invalid.push(json!({"path": [operation, key], "message": message, "extensions": {"code": kind}}));
            }
            Err(Unanswered { kind, message }) => {
                data.insert(key.clone(), Value::Null);
                errors.push(json!({"type": kind, "path": [key], "message": message}));
            }
        }
    }
    // GitHub validates the whole document before any of it takes effect.
    if !invalid.is_empty() {
        return Reply::ok(json!({"errors": invalid}));
    }
    for pull in changes {
        call.state.pulls.insert((pull.repository, pull.number), pull);
    }
    let mut body = json!({"data": data});
    if !errors.is_empty() {
        body["errors"] = json!(errors);
    }
    Reply::ok(body)
}

/// The requested fields of an object. Its `__typename` decides which fragments apply.
fn picked(found: &Value, selections: &[Selection], document: &Document) -> Result<Value, Unanswered> {
    if let Value::Array(items) = found {
        return items.iter().map(|item| picked(item, selections, document)).collect();
    }
    let Some(fields) = found.as_object() else { return Ok(found.clone()) };
    let own = fields.get("__typename").and_then(Value::as_str).unwrap_or_default();
    let mut answer = Map::new();
    for selection in selections {
        let (on, nested) = match selection {
            Selection::Field { key, name, selections, .. } => {
                let value = fields.get(name).ok_or_else(|| Unanswered::undefined(name, own))?;
                answer.insert(key.clone(), picked(value, selections, document)?);
                continue;
            }
            Selection::Inline { on, selections } => (on.as_deref(), selections),
            Selection::Spread(name) => {
                let unknown = || Unanswered {
                    kind: "undefinedFragment",
                    message: format!("Fragment {name} was used, but not defined"),
                };
                let (on, selections) = document.fragments.get(name).ok_or_else(unknown)?;
                (Some(on.as_str()), selections)
            }
        };
        if on.is_none_or(|on| on == own)
            && let Value::Object(more) = picked(found, nested, document)?
        {
            answer.extend(more);
        }
    }
    Ok(Value::Object(answer))
}

fn look(call: &mut Call<'_>, name: &str, arguments: &Map<String, Value>) -> Result<Value, Unanswered> {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
    match name {
        "viewer" => {
            let account = call.actor();
            let login = call.state.login(account);
            Ok(json!({"__typename": "Bot", "login": login, "databaseId": account, "id": node_id("BOT", account)}))
        }
        "rateLimit" => {
            let (budget, now) = (call.who.budget(), call.state.now());
            let standing = call.state.rates.standing(budget, now);
            let reset = jiff::Timestamp::from_second(standing.reset).unwrap_or(now);
            Ok(json!({
                "__typename": "RateLimit", "cost": 1, "limit": standing.limit, "remaining": standing.remaining(),
                "used": standing.used, "resetAt": stamp(reset),
            }))
        }
        "repository" => {
            let (owner, name) = (text("owner"), text("name"));
            let message = format!("Could not resolve to a Repository with the name '{owner}/{name}'.");
            let missing = || Unanswered { kind: "NOT_FOUND", message };
            let found = call.state.repository(owner, name);
            let found = found.filter(|found| allowed(call, found, "metadata", Level::Read)).ok_or_else(missing)?;
            Ok(repository(call, found))
        }
        "node" => {
            let id = text("id");
            if let Some(found) = id_of_node("R", id).and_then(|id| call.state.repositories.get(&id)) {
                return allowed(call, found, "metadata", Level::Read)
                    .then(|| repository(call, found))
                    .ok_or_else(|| Unanswered::not_found(id));
            }
            named(call, id).map(|found| pull(call, found))
        }
        _ => Err(Unanswered::undefined(name, "Query")),
    }
}

/// `markPullRequestReadyForReview` and its inverse. Both need `contents: write` in addition to `pull_requests: write`.
/// Returns the answer and the changed pull request, and does not store it.
fn change(call: &Call<'_>, name: &str, arguments: &Map<String, Value>) -> Result<(Value, Pull), Unanswered> {
    let (draft, payload) = match name {
        "markPullRequestReadyForReview" => (false, "MarkPullRequestReadyForReviewPayload"),
        "convertPullRequestToDraft" => (true, "ConvertPullRequestToDraftPayload"),
        _ => return Err(Unanswered::undefined(name, "Mutation")),
    };
    let input = arguments.get("input").cloned().unwrap_or_default();
    let mut changed = named(call, input["pullRequestId"].as_str().unwrap_or_default())?.clone();
    let home = call.state.repositories.get(&changed.repository).ok_or_else(Unanswered::forbidden)?;
    if ["pull_requests", "contents"].iter().any(|permission| !allowed(call, home, permission, Level::Write)) {
        return Err(Unanswered::forbidden());
    }
    if !changed.open {
        return Err(Unanswered { kind: "UNPROCESSABLE", message: "Pull request is closed".to_owned() });
    }
    changed.draft = draft;
    changed.updated = call.state.now();
    let shape = pull(call, &changed);
    let answer = json!({"__typename": payload, "pullRequest": shape, "clientMutationId": input["clientMutationId"]});
    Ok((answer, changed))
}

fn allowed(call: &Call<'_>, repository: &Repository, permission: &str, level: Level) -> bool {
    permitted(call.state, &call.who, repository, permission, level).is_ok()
}

/// The pull request of a node id, if the caller may see it.
fn named<'a>(call: &'a Call<'_>, id: &str) -> Result<&'a Pull, Unanswered> {
    let number = id_of_node("PR", id);
    let found = call.state.pulls.values().find(|pull| Some(pull.id) == number);
    let seen = |pull: &&Pull| {
        let home = call.state.repositories.get(&pull.repository);
        home.is_some_and(|home| allowed(call, home, "pull_requests", Level::Read))
    };
    found.filter(seen).ok_or_else(|| Unanswered::not_found(id))
}

fn repository(call: &Call<'_>, found: &Repository) -> Value {
    let full_name = call.state.full_name(found);
    json!({
        "__typename": "Repository",
        "id": node_id("R", found.id),
        "databaseId": found.id,
        "name": found.name,
        "nameWithOwner": full_name,
        "url": format!("{}/{full_name}", call.state.web),
        "isPrivate": found.private,
        "isArchived": found.archived,
        "defaultBranchRef": {"__typename": "Ref", "name": found.default_branch},
    })
}

fn pull(call: &Call<'_>, found: &Pull) -> Value {
    let home = call.state.repositories.get(&found.repository);
    let url = home.map(|home| format!("{}/{}/pull/{}", call.state.web, call.state.full_name(home), found.number));
    let state = match (found.merged.is_some(), found.open) {
        (true, _) => "MERGED",
        (false, true) => "OPEN",
        (false, false) => "CLOSED",
    };
    json!({
        "__typename": "PullRequest",
        "id": node_id("PR", found.id),
        "databaseId": found.id,
        "number": found.number,
        "title": found.title,
        "body": found.body.clone().unwrap_or_default(),
        "url": url,
        "state": state,
        "isDraft": found.draft,
        "closed": !found.open,
        "merged": found.merged.is_some(),
        "headRefName": found.head,
        "headRefOid": found.head_sha,
        "baseRefName": found.base,
        "baseRefOid": found.base_sha,
        "createdAt": stamp(found.created),
        "updatedAt": stamp(found.updated),
        "repository": home.map(|home| repository(call, home)),
    })
}
