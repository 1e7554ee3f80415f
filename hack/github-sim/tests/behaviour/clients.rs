//! Requests of other people's clients, and of careless and hostile ones.

use std::process::Output;

use github_sim::Push;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{INSTALLATION, World, refused, succeeded};

const SHOP: &str = "/repos/acme/shop";

/// A world with pull request 1 from `work` to `main` in shop, and a token.
async fn world() -> (World, String) {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    let main = world.sim.head("acme/shop", "main").unwrap();
    let made = json!({"ref": "refs/heads/work", "sha": main});
    assert_eq!(world.post(&format!("{SHOP}/git/refs"), &token, made).await.status, StatusCode::CREATED);
    commit(&world, "a change\n");
    let wish = json!({"title": "Work", "body": "a < b", "head": "work", "base": "main", "draft": true});
    assert_eq!(world.post(&format!("{SHOP}/pulls"), &token, wish).await.status, StatusCode::CREATED);
    (world, token)
}

fn commit(world: &World, content: &str) -> String {
    let (repository, branch) = ("acme/shop".into(), Some("work".into()));
    let push = Push { repository, branch, path: "work".into(), content: content.into(), message: None };
    world.sim.push(&push).unwrap()
}

async fn accepting(world: &World, token: &str, path: &str, accept: &str) -> (u16, String, Value) {
    let answer = world.ask(Method::GET, path, token, &[("Accept", accept)], Value::Null).await;
    (answer.status.as_u16(), answer.header("content-type").to_owned(), answer.body)
}

/// `ghinstallation`, and with it Argo CD, sends `null`.
#[tokio::test]
async fn a_body_that_is_null_is_none() {
    let world = World::new().await;
    let path = format!("/app/installations/{INSTALLATION}/access_tokens");
    let minted = world.post(&path, &world.jwt(), json!("null")).await;
    assert_eq!(minted.status, StatusCode::CREATED, "{:?}", minted.body);
    assert!(minted.body.get("repositories").is_none(), "it is not narrowed");
    let refused = world.post(&path, &world.jwt(), json!("[]")).await;
    assert_eq!((refused.status.as_u16(), refused.message()), (400, "Body should be a JSON object"));
}

#[tokio::test]
async fn labels_come_in_each_form_of_the_description() {
    let (world, token) = world().await;
    let path = format!("{SHOP}/issues/1/labels");
    for (wish, count) in [
        (json!({"labels": ["one"]}), 1),
        (json!(["two"]), 2),
        (json!([{"name": "three"}]), 3),
        (json!({"labels": [{"name": "four"}]}), 4),
        (json!("\"five\""), 5),
    ] {
        let put = world.post(&path, &token, wish.clone()).await;
        assert_eq!((put.status.as_u16(), put.body.as_array().map(Vec::len)), (200, Some(count)), "{wish}");
    }
    let put = world.post(&path, &token, json!([1])).await;
    assert_eq!(put.status, StatusCode::UNPROCESSABLE_ENTITY, "{:?}", put.body);
    let labels = world.get(&format!("{SHOP}/pulls/1"), &token).await.body["labels"].clone();
    for field in ["archived_at", "archived_by"] {
        assert_eq!(labels[0].get(field), Some(&Value::Null), "{field}");
    }
}

#[tokio::test]
async fn a_query_that_never_ends_is_refused() {
    let (world, token) = world().await;
    let url = format!("{}/api/graphql", world.sim.base_url());
    let deep = format!("{}{}", "{ viewer ".repeat(1000), "}".repeat(1000));
    let value = format!("{{ node(id: {}1{}) {{ id }} }}", "[".repeat(100_000), "]".repeat(100_000));
    let doubled = |to: usize| {
        let fragments = (0..to).map(|at| format!("fragment F{at} on Bot {{ ...F{0} ...F{0} }}", at + 1));
        fragments.collect::<Vec<_>>().join(" ")
    };
    let laughs = format!("{{ viewer {{ ...F0 }} }} {} fragment F60 on Bot {{ login }}", doubled(60));
    let chain = format!("{{ viewer {{ ...F0 }} }} {} fragment F5000 on Bot {{ login }}", doubled(5000));
    let inline = format!("{{ viewer {{ {} login {} }} }}", "... {".repeat(50_000), "}".repeat(50_000));
    for (query, message) in [
        (
            "{ viewer { ...A } } fragment A on Bot { ...B } fragment B on Bot { ...A }",
            "Fragment A contains an infinite loop",
        ),
        ("{ viewer { ...A } } fragment A on Bot { login ...A }", "Fragment A contains an infinite loop"),
        (&deep, "Parse error: the document is nested more than 100 levels deep"),
        (&value, "Parse error: the document is nested more than 100 levels deep"),
        (&inline, "Parse error: the document is nested more than 100 levels deep"),
        (&laughs, "This query exceeds the maximum limit of 500000 nodes."),
        (&chain, "Parse error: the document has more than 100 fragments"),
    ] {
        let answer = world.post(&url, &token, json!({"query": query})).await;
        let start: String = query.chars().take(60).collect();
        assert_eq!(
            (answer.status.as_u16(), answer.body["errors"][0]["message"].as_str(), answer.body.get("data")),
            (200, Some(message), None),
            "{start}"
        );
    }
    assert_eq!(world.get(SHOP, &token).await.status, StatusCode::OK, "it is still there");
}

#[tokio::test]
async fn a_mutation_with_an_unknown_field_has_no_effect() {
    let (world, token) = world().await;
    let url = format!("{}/api/graphql", world.sim.base_url());
    let pull = world.get(&format!("{SHOP}/pulls/1"), &token).await.body;
    let ready = |fields: &str| {
        let input = format!("{{pullRequestId: {}}}", pull["node_id"]);
        format!("markPullRequestReadyForReview(input: {input}) {{ pullRequest {{ {fields} }} }}")
    };
    for query in [
        format!("mutation {{ {} }}", ready("number nope")),
        format!("mutation {{ good: {} bad: {} }}", ready("number"), ready("nope")),
        format!("mutation {{ {} }} ", ready("...Nothing")),
    ] {
        let answer = world.post(&url, &token, json!({"query": query})).await;
        assert!(answer.body["errors"][0]["message"].is_string() && answer.body.get("data").is_none(), "{answer:?}");
        let draft = world.get(&format!("{SHOP}/pulls/1"), &token).await.body["draft"].clone();
        assert_eq!(draft, true, "{query}");
    }
}

#[tokio::test]
async fn names_that_git_refuses_are_refused() {
    let (world, token) = world().await;
    let sha = json!(world.sim.head("acme/shop", "main").unwrap());
    let made = world.post(&format!("{SHOP}/git/refs"), &token, json!({"ref": "refs/heads/main/sub", "sha": sha})).await;
    assert_eq!((made.status.as_u16(), made.message()), (422, "Reference update failed"));
    for path in ["contents/%00", "contents/a%00b", "branches/%00", "commits/%00", "git/ref/heads/%00"] {
        let found = world.get(&format!("{SHOP}/{path}"), &token).await;
        assert_eq!(found.status, StatusCode::NOT_FOUND, "{path}: {:?}", found.body);
    }
    let path = format!("/repositories/{}", world.sim.repository_id("acme/site").unwrap());
    let rename = async |name: &str| world.ask(Method::PATCH, &path, &token, &[], json!({"name": name})).await;
    for name in [".git", ".", ".."] {
        let renamed = rename(name).await;
        let errors =
            json!([{"resource": "Repository", "field": "name", "code": "custom", "message": "name is reserved"}]);
        assert_eq!((renamed.status.as_u16(), &renamed.body["errors"]), (422, &errors), "{name}");
    }
    for (name, taken) in [("a b", "a-b"), ("../x", "..-x"), ("spät", "sp-t"), ("tool.git", "tool")] {
        let renamed = rename(name).await;
        assert_eq!((renamed.status.as_u16(), &renamed.body["name"]), (200, &json!(taken)), "{name}");
    }
}

#[tokio::test]
async fn an_answer_has_the_accepted_media_type() {
    let (world, token) = world().await;
    let head = world.sim.head("acme/shop", "work").unwrap();
    let sent = async |path: &str, kind: &str| {
        accepting(&world, &token, &format!("{SHOP}/{path}"), &format!("application/vnd.github.{kind}")).await
    };
    let kind = |kind: &str| format!("application/vnd.github.{kind}; charset=utf-8");
    for accept in ["sha", "v3.sha"] {
        assert_eq!(sent("commits/work", accept).await, (200, kind(accept), json!(head)));
    }
    for path in ["commits/work", "pulls/1", "compare/main...work"] {
        let (status, content_type, diff) = sent(path, "diff").await;
        assert_eq!((status, content_type), (200, kind("diff")), "{path}");
        let diff = diff.as_str().unwrap().to_owned();
        assert!(diff.starts_with("diff --git a/work b/work\n") && diff.contains("\n+a change\n"), "{path}: {diff}");
        let (_, _, patch) = sent(path, "patch").await;
        let patch = patch.as_str().unwrap().to_owned();
        assert!(patch.starts_with(&format!("From {head} ")) && patch.contains("\n+a change\n"), "{path}: {patch}");
    }
    let (status, content_type, raw) = sent("contents/work?ref=work", "raw").await;
    assert_eq!((status, content_type, raw), (200, kind("raw"), json!("a change\n")));
    let (status, content_type, full) = sent("pulls/1", "full+json").await;
    assert_eq!((status, content_type), (200, "application/json; charset=utf-8".to_owned()));
    assert_eq!(
        (&full["body"], &full["body_text"], &full["body_html"]),
        (&json!("a < b"), &json!("a < b"), &json!("<p>a &lt; b</p>"))
    );
    for accept in
        ["application/json", "*/*", "application/vnd.github+json, application/xml", "application/vnd.github.v3+json"]
    {
        assert_eq!(accepting(&world, &token, SHOP, accept).await.0, 200, "{accept}");
    }
    let (status, _, body) = accepting(&world, &token, SHOP, "application/xml").await;
    let message = "Unsupported 'Accept' header: 'application/xml'. Must accept 'application/json'.";
    assert_eq!((status, &body["message"]), (415, &json!(message)));
}

#[tokio::test]
async fn the_rest_of_http() {
    let (world, token) = world().await;
    let limits = world.get("/rate_limit", &token).await;
    assert_eq!(limits.body["resources"]["integration_manifest"]["limit"], 5000);

    let anonymous = world.ask(Method::GET, SHOP, &token, &[("User-Agent", "")], Value::Null).await;
    let text = anonymous.body.as_str().unwrap_or_default();
    assert!(anonymous.status == StatusCode::FORBIDDEN && text.contains("User-Agent header"), "{anonymous:?}");

    let (get, head) = (world.get(SHOP, &token).await, world.ask(Method::HEAD, SHOP, &token, &[], Value::Null).await);
    assert_eq!((head.status, head.header("etag"), &head.body), (StatusCode::OK, get.header("etag"), &Value::Null));
    let missing = world.ask(Method::HEAD, "/repos/acme/nothing", &token, &[], Value::Null).await;
    assert_eq!((missing.status, &missing.body), (StatusCode::NOT_FOUND, &Value::Null));

    let options = world.ask(Method::OPTIONS, SHOP, "", &[], Value::Null).await;
    assert_eq!(options.status, StatusCode::NO_CONTENT);
    assert_eq!(options.header("access-control-allow-methods"), "GET, POST, PATCH, PUT, DELETE");

    let updated: jiff::Timestamp = get.body["updated_at"].as_str().unwrap().parse().unwrap();
    let modified = updated.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    assert_eq!(get.header("last-modified"), modified);
    let same = world.ask(Method::GET, SHOP, &token, &[("If-Modified-Since", &modified)], Value::Null).await;
    assert_eq!((same.status, &same.body), (StatusCode::NOT_MODIFIED, &Value::Null));

    let url = format!("{}/api/graphql", world.sim.base_url());
    let incomplete = world.post(&url, &token, json!({})).await;
    assert_eq!(
        (incomplete.status.as_u16(), incomplete.message()),
        (422, "Invalid request.\n\n\"query\" wasn't supplied.")
    );
}

#[tokio::test]
async fn the_head_of_a_pull_request_is_a_ref_that_none_can_push() {
    let (world, token) = world().await;
    let clone = world.folder.path().join("clone");
    let git = async |arguments: &[&str]| -> Output { world.git(&clone, &token, arguments).await };
    std::fs::create_dir(&clone).unwrap();
    succeeded(&git(&["clone", "-q", &world.url("acme/shop"), "."]).await);
    succeeded(&git(&["fetch", "-q", "origin", "pull/1/head"]).await);
    let fetched = succeeded(&git(&["rev-parse", "FETCH_HEAD"]).await);
    assert_eq!(fetched.trim(), world.sim.head("acme/shop", "work").unwrap());
    let newer = commit(&world, "another change\n");
    succeeded(&git(&["fetch", "-q", "origin", "pull/1/head"]).await);
    assert_eq!(succeeded(&git(&["rev-parse", "FETCH_HEAD"]).await).trim(), newer);
    let pushed = refused(&git(&["push", "origin", "HEAD:refs/pull/1/head"]).await);
    assert!(pushed.contains("deny updating a hidden ref"), "{pushed}");
    let found = world.get(&format!("{SHOP}/git/ref/pull/1/head"), &token).await;
    assert_eq!((found.status, &found.body["object"]["sha"]), (StatusCode::OK, &json!(newer)));
    let made = json!({"ref": "refs/pull/7/head", "sha": newer});
    let made = world.post(&format!("{SHOP}/git/refs"), &token, made).await;
    assert_eq!((made.status.as_u16(), made.message()), (422, "Reference update failed"));
}
