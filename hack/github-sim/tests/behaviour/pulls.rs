//! Pull requests, by REST and by GraphQL.

use github_sim::{Fork, Push};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{World, seed};

const PULLS: &str = "/repos/acme/shop/pulls";

/// A world whose shop has a branch with a commit of its own.
async fn world() -> World {
    let world = World::new().await;
    branch(&world, "work").await;
    world
}

async fn branch(world: &World, name: &str) {
    let main = world.sim.head("acme/shop", "main").unwrap();
    let token = world.token(json!({})).await;
    let made = json!({"ref": format!("refs/heads/{name}"), "sha": main});
    assert_eq!(world.post("/repos/acme/shop/git/refs", &token, made).await.status, StatusCode::CREATED);
    commit(world, name);
}

fn commit(world: &World, branch: &str) -> String {
    let (repository, branch) = ("acme/shop".into(), Some(branch.into()));
    world
        .sim
        .push(&Push {
            repository,
            branch,
            path: "work".into(),
            content: format!("{:?}", world.sim.now()),
            message: None,
        })
        .unwrap()
}

#[tokio::test]
async fn opens_lists_changes_and_follows() {
    let world = world().await;
    let token = world.token(json!({})).await;
    let wish = json!({"title": "Work", "head": "work", "base": "main", "draft": true});
    let made = world.post(PULLS, &token, wish).await;
    assert_eq!(made.status, StatusCode::CREATED, "{:?}", made.body);
    assert_eq!(
        (&made.body["number"], &made.body["draft"], &made.body["commits"]),
        (&json!(1), &json!(true), &json!(1))
    );
    assert_eq!(made.body["user"]["login"], "landfall[bot]");
    assert_eq!(made.body["head"]["label"], "acme:work");
    let found = world.get(&format!("{PULLS}?head=acme:work&state=open"), &token).await;
    assert_eq!(found.body[0]["number"], 1);
    assert_eq!(world.get(&format!("{PULLS}?head=acme:other"), &token).await.body, json!([]));
    let newer = commit(&world, "work");
    assert_eq!(world.get(&format!("{PULLS}/1"), &token).await.body["head"]["sha"], json!(newer));
    let closed =
        world.ask(Method::PATCH, &format!("{PULLS}/1"), &token, &[], json!({"state": "closed", "title": "Done"})).await;
    assert_eq!((&closed.body["state"], &closed.body["title"]), (&json!("closed"), &json!("Done")));
    assert_eq!(world.get(PULLS, &token).await.body, json!([]));
    let reopened = world.ask(Method::PATCH, &format!("{PULLS}/1"), &token, &[], json!({"state": "open"})).await;
    assert_eq!((&reopened.body["state"], &reopened.body["closed_at"]), (&json!("open"), &Value::Null));
    let gone = world.ask(Method::DELETE, "/repos/acme/shop/git/refs/heads/work", &token, &[], Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get(&format!("{PULLS}/1"), &token).await.body["state"], "closed");
    let version = [("X-GitHub-Api-Version", "2026-03-10")];
    let newest = world.ask(Method::GET, &format!("{PULLS}/1"), &token, &version, Value::Null).await;
    assert!(newest.body.get("merge_commit_sha").is_none());
}

#[tokio::test]
async fn labels_are_put_on_once_and_made_where_there_are_none() {
    let world = world().await;
    branch(&world, "more").await;
    let token = world.token(json!({})).await;
    for head in ["work", "more"] {
        let opened = world.post(PULLS, &token, json!({"title": head, "head": head, "base": "main"})).await;
        assert_eq!(opened.status, StatusCode::CREATED);
    }
    let labels = |number: u64| format!("/repos/acme/shop/issues/{number}/labels");
    let first = world.post(&labels(1), &token, json!({"labels": ["bot", "needs review"]})).await;
    let again = world.post(&labels(1), &token, json!({"labels": ["Bot", "third"]})).await;
    let names = |body: &Value| body.as_array().unwrap().iter().map(|label| label["name"].clone()).collect::<Vec<_>>();
    assert_eq!((first.status, names(&first.body)), (StatusCode::OK, vec![json!("bot"), json!("needs review")]));
    assert_eq!(names(&again.body), ["bot", "needs review", "third"]);
    let other = world.post(&labels(2), &token, json!({"labels": ["BOT"]})).await;
    assert_eq!(other.body[0]["id"], first.body[0]["id"], "a repository has one label of a name");
    assert_eq!(world.get(&format!("{PULLS}/1"), &token).await.body["labels"], again.body);
    let told = world.sim.pull_requests("acme/shop").unwrap();
    assert_eq!(told.iter().map(|pull| (pull.number, pull.labels.len())).collect::<Vec<_>>(), [(1, 3), (2, 1)]);
    let read = world.token(json!({"permissions": {"pull_requests": "read"}})).await;
    assert_eq!(world.post(&labels(1), &read, json!({"labels": ["x"]})).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn refuses_in_githubs_words() {
    let world = world().await;
    let token = world.token(json!({})).await;
    let opened = world.post(PULLS, &token, json!({"title": "Work", "head": "work", "base": "main"})).await;
    assert_eq!(opened.status, StatusCode::CREATED);
    let same = json!({"ref": "refs/heads/same", "sha": world.sim.head("acme/shop", "main")});
    world.post("/repos/acme/shop/git/refs", &token, same).await;
    let custom = |message: &str| json!([{"resource": "PullRequest", "code": "custom", "message": message}]);
    let field = |field: &str, code: &str| json!([{"resource": "PullRequest", "field": field, "code": code}]);
    for (wish, errors) in [
        (json!({"title": "x", "head": "same", "base": "main"}), custom("No commits between main and same")),
        (
            json!({"title": "x", "head": "acme:work", "base": "main"}),
            custom("A pull request already exists for acme:work."),
        ),
        (json!({"title": "x", "head": "nothing", "base": "main"}), field("head", "invalid")),
        (json!({"title": "x", "head": "work", "base": "nothing"}), field("base", "invalid")),
        (json!({"head": "work", "base": "main"}), field("title", "missing_field")),
    ] {
        let refused = world.post(PULLS, &token, wish).await;
        assert_eq!(
            (refused.status.as_u16(), refused.message(), &refused.body["errors"]),
            (422, "Validation Failed", &errors)
        );
    }
    let read = world.token(json!({"permissions": {"pull_requests": "read"}})).await;
    let denied = world.post(PULLS, &read, json!({"title": "x", "head": "work", "base": "main"})).await;
    assert_eq!(denied.message(), "Resource not accessible by integration");
}

#[tokio::test]
async fn the_free_plan_has_no_drafts_in_private_repositories() {
    let (mut seed, key) = seed();
    seed.accounts[0].plan = Some("free".into());
    let world = World::with(seed, key).await;
    branch(&world, "work").await;
    let token = world.token(json!({})).await;
    let refused = world.post(PULLS, &token, json!({"title": "x", "head": "work", "base": "main", "draft": true})).await;
    assert_eq!(
        (refused.status.as_u16(), refused.message()),
        (422, "Draft pull requests are not supported in this repository.")
    );
}

#[tokio::test]
async fn ready_for_review_needs_contents_besides() {
    let world = world().await;
    let token = world.token(json!({})).await;
    let wish = json!({"title": "Work", "head": "work", "base": "main", "draft": true});
    let id = world.post(PULLS, &token, wish).await.body["node_id"].clone();
    let mutation = json!({
        "query": "mutation($id: ID!) { markPullRequestReadyForReview(input: {pullRequestId: $id}) { pullRequest { number isDraft } } }",
        "variables": {"id": id},
    });
    let url = format!("{}/api/graphql", world.sim.base_url());
    let narrow = world.token(json!({"permissions": {"pull_requests": "write", "contents": "read"}})).await;
    let refused = world.post(&url, &narrow, mutation.clone()).await;
    assert_eq!((refused.status.as_u16(), &refused.body["errors"][0]["type"]), (200, &json!("FORBIDDEN")));
    assert_eq!(world.get(&format!("{PULLS}/1"), &token).await.body["draft"], true);
    let done = world.post(&url, &token, mutation).await;
    let pull = json!({"number": 1, "isDraft": false});
    assert_eq!(done.body, json!({"data": {"markPullRequestReadyForReview": {"pullRequest": pull}}}));
    assert_eq!(world.get(&format!("{PULLS}/1"), &token).await.body["draft"], false);

    let query =
        json!({"query": "{ viewer { login } repository(owner: \"acme\", name: \"shop\") { databaseId nope } }"});
    let answer = world.post(&format!("{}/graphql", world.sim.base_url()), &token, query).await;
    assert_eq!(answer.body["errors"][0]["message"], "Field 'nope' doesn't exist on type 'Repository'");
    assert!(answer.body.get("data").is_none(), "a document is validated before any of it is answered");
    let query = json!({"query": "{ viewer { login } repository(owner: \"acme\", name: \"nothing\") { databaseId } }"});
    let answer = world.post(&url, &token, query).await;
    assert_eq!(answer.body["data"], json!({"viewer": {"login": "landfall[bot]"}, "repository": null}));
    let unknown = json!({"query": "{ node(id: \"PR_x\") { id } }"});
    assert_eq!(world.post(&url, &token, unknown).await.body["errors"][0]["type"], "NOT_FOUND");
    assert_eq!(world.post(&url, "", json!({"query": "{ viewer { login } }"})).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_pull_request_can_come_from_a_fork() {
    let world = World::new().await;
    let token = world.token(json!({})).await;
    world.sim.fork(&Fork { of: "acme/site".into(), account: "mona".into(), ..Fork::default() }).unwrap();
    let push = Push { repository: "mona/site".into(), path: "a".into(), content: "a".into(), ..Push::default() };
    let head = world.sim.push(&push).unwrap();
    let wish = json!({"title": "From a fork", "head": "mona:main", "base": "main"});
    let made = world.post("/repos/acme/site/pulls", &token, wish).await;
    assert_eq!(made.status, StatusCode::CREATED, "{:?}", made.body);
    assert_eq!((&made.body["head"]["sha"], &made.body["head"]["label"]), (&json!(head), &json!("mona:main")));
    assert_eq!(made.body["head"]["repo"]["full_name"], "mona/site");
    let nobody = json!({"title": "x", "head": "globex:main", "base": "main"});
    assert_eq!(world.post("/repos/acme/site/pulls", &token, nobody).await.status.as_u16(), 422);
}
