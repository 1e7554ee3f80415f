use http::Response;
use serde_json::{Value, json};

use super::*;
use crate::github::scripted::{Scripted, answer, refusal};
use crate::github::{Outlook, PullState};
use crate::ids::id;

fn token() -> Token {
    Token::new("ghs_7_a.b-c".into())
}

fn pull(number: u64, branch: &str, repository: &Value) -> Value {
    json!({
        "number": number, "node_id": format!("PR_{number}"), "html_url": format!("https://h.example/acme/shop/pull/{number}"),
        "state": "open", "merged_at": null, "draft": true, "title": "Work", "locked": false, "labels": [],
        "head": {"ref": branch, "sha": "a".repeat(40), "label": "x", "repo": repository},
        "base": {"ref": "main", "sha": "b".repeat(40), "repo": {"id": 5}},
    })
}

fn shop() -> Value {
    json!({"id": 5, "full_name": "acme/shop"})
}

const WANTED: NewPull<'_> = NewPull {
    title: "A \"title\" with {braces} and $id",
    head: "fix/a\"b",
    base: "main",
    body: "line\nline",
    draft: true,
};

async fn refused(response: impl Fn() -> Response<String> + Send + Sync + 'static) -> Error {
    let github = Scripted::new(move |_| response());
    github.github.open_pull_request(&token(), "acme", "shop", &WANTED).await.unwrap_err()
}

fn invalid(errors: &Value) -> Response<String> {
    answer(422, &[], &json!({"message": "Validation Failed", "errors": errors, "status": "422"}).to_string())
}

#[tokio::test]
async fn those_of_one_head_are_listed_and_no_others_whatever_is_answered() {
    let others = [
        pull(1, "work", &json!({"id": 6, "full_name": "mona/shop"})),
        pull(2, "works", &shop()),
        pull(3, "work", &Value::Null),
        pull(4, "work", &json!({"id": 5, "full_name": "Acme/shop"})),
    ];
    let second = "https://h.example/api/v3/repositories/5/pulls?page=2";
    let github = Scripted::new(move |sent| {
        if sent.url == second {
            answer(200, &[], &json!([pull(5, "work", &shop())]).to_string())
        } else {
            answer(200, &[("link", &format!("<{second}>; rel=\"next\""))], &json!(others).to_string())
        }
    });
    let found = github.github.pull_requests(&token(), "acme", "shop", "acme:work").await.unwrap();
    assert_eq!(found.iter().map(|pull| pull.number).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(
        github.lines(),
        [
            "GET https://h.example/api/v3/repos/acme/shop/pulls?state=all&head=acme%3Awork&per_page=100",
            &format!("GET {second}")
        ]
    );
    github.github.pull_requests(&token(), "acme", "shop", "acme:a/b?state=x&c#d").await.unwrap();
    assert_eq!(
        github.lines()[2],
        "GET https://h.example/api/v3/repos/acme/shop/pulls?state=all&head=acme%3Aa%2Fb%3Fstate%3Dx%26c%23d&per_page=100"
    );
    // GitHub would answer these with all pull requests.
    let sent = github.lines().len();
    for head in ["", "work", ":work", "acme:"] {
        let error = github.github.pull_requests(&token(), "acme", "shop", head).await.unwrap_err();
        assert!(matches!(error, Error::Unsent { .. }), "{error}");
    }
    assert_eq!(github.lines().len(), sent);
}

#[tokio::test]
async fn one_is_opened_with_what_was_said_read_and_closed() {
    let github = Scripted::new(|sent| {
        let mut pull = pull(7, "fix/a\"b", &shop());
        if sent.method == "PATCH" {
            pull["state"] = json!("closed");
            pull["merged_at"] = json!("2026-11-21T01:00:00Z");
        }
        answer(if sent.method == "POST" { 201 } else { 200 }, &[], &pull.to_string())
    });
    let opened = github.github.open_pull_request(&token(), "acme", "shop", &WANTED).await.unwrap();
    assert_eq!((opened.number, opened.state, opened.draft, opened.merged_at), (7, PullState::Open, true, None));
    assert_eq!(opened.head.repo.map(|repo| (repo.id, repo.full_name)), Some((id(5), "acme/shop".into())));
    assert_eq!((opened.head.branch.as_str(), opened.base.branch.as_str()), ("fix/a\"b", "main"));
    let body: Value = serde_json::from_str(&github.sent.lock().unwrap()[0].body).unwrap();
    let expected = json!({
        "title": "A \"title\" with {braces} and $id", "head": "fix/a\"b", "base": "main", "body": "line\nline", "draft": true,
    });
    assert_eq!(body, expected);

    github.github.pull_request(&token(), "acme", "shop", 7).await.unwrap();
    let closed = github.github.close_pull_request(&token(), "acme", "shop", 7).await.unwrap();
    assert_eq!((closed.state, closed.merged_at.is_some()), (PullState::Closed, true));
    assert_eq!(github.sent.lock().unwrap()[2].body, r#"{"state":"closed"}"#);
    assert_eq!(
        github.lines(),
        [
            "POST https://h.example/api/v3/repos/acme/shop/pulls",
            "GET https://h.example/api/v3/repos/acme/shop/pulls/7",
            "PATCH https://h.example/api/v3/repos/acme/shop/pulls/7",
        ]
    );
}

#[tokio::test]
async fn why_none_was_opened_is_told_by_githubs_words() {
    let custom = |message: &str| json!([{"resource": "PullRequest", "code": "custom", "message": message}]);
    let field = |name: &str| json!([{"resource": "PullRequest", "field": name, "code": "invalid"}]);
    for (errors, expected) in [
        (custom("A pull request already exists for acme:fix."), Some(NotOpened::AlreadyExists)),
        (custom("No commits between main and fix"), Some(NotOpened::NoCommits)),
        (custom("No commits between main and A pull request already exists for x"), Some(NotOpened::NoCommits)),
        (field("base"), Some(NotOpened::BaseInvalid)),
        (field("head"), Some(NotOpened::HeadInvalid)),
        (
            json!([{"resource": "PullRequest", "field": "base", "code": "invalid", "message": "base is not a branch"}]),
            Some(NotOpened::BaseInvalid),
        ),
        (json!([{"resource": "PullRequest", "field": "title", "code": "missing_field"}]), None),
        (json!([{"resource": "Issue", "code": "custom", "message": "No commits between a and b"}]), None),
        (custom("Something that GitHub has not said before"), None),
        (json!([]), None),
    ] {
        let words = errors.to_string();
        let error = refused(move || invalid(&errors)).await;
        assert_eq!(NotOpened::of(&error), expected, "{words}");
    }
    let error = refused(|| refusal(422, "Draft pull requests are not supported in this repository.")).await;
    assert_eq!(NotOpened::of(&error), Some(NotOpened::DraftUnsupported));
    // The same message in another refusal has another meaning.
    let error = refused(|| refusal(403, "Draft pull requests are not supported in this repository.")).await;
    assert_eq!(NotOpened::of(&error), None);
    let error = refused(|| answer(502, &[], "")).await;
    assert_eq!(NotOpened::of(&error), None);
}

#[tokio::test]
async fn labels_are_put_on_by_name_and_none_is_no_call() {
    let github = Scripted::new(|_| answer(200, &[], r#"[{"id": 1, "name": "bot"}]"#));
    github.github.add_labels(&token(), "acme", "shop", 7, &[]).await.unwrap();
    assert_eq!(github.lines(), [""; 0]);
    github.github.add_labels(&token(), "acme", "shop", 7, &["bot", "needs \"review\""]).await.unwrap();
    let sent = github.sent.lock().unwrap().pop().unwrap();
    assert_eq!(sent.line(), "POST https://h.example/api/v3/repos/acme/shop/issues/7/labels");
    assert_eq!(sent.body, r#"{"labels":["bot","needs \"review\""]}"#);
}

#[tokio::test]
async fn ready_is_said_by_graphql_with_the_id_as_a_variable() {
    let done = r#"{"data": {"markPullRequestReadyForReview": {"pullRequest": {"isDraft": false}}}}"#;
    let github = Scripted::new(move |_| answer(200, &[], done));
    github.github.ready_for_review(&token(), "PR_x\"}) { evil").await.unwrap();
    let sent = github.sent.lock().unwrap().pop().unwrap();
    assert_eq!(sent.line(), "POST https://h.example/api/graphql");
    assert_eq!(sent.bearer(), Some("ghs_7_a.b-c"));
    let body: Value = serde_json::from_str(&sent.body).unwrap();
    assert_eq!(body, json!({"query": READY, "variables": {"id": "PR_x\"}) { evil"}}));
}

#[tokio::test]
async fn what_graphql_refuses_inside_a_200_is_an_error() {
    type Expected = fn(&Error) -> bool;
    let reset = "1795225200";
    let cases: [(&str, Expected, Outlook); 9] = [
        (
            r#"{"data": {"markPullRequestReadyForReview": null}, "errors": [{"type": "NOT_FOUND", "message": "no node"}]}"#,
            |error| matches!(error, Error::NotFound { message, .. } if message == "no node"),
            Outlook::Stalls,
        ),
        (
            r#"{"data": null, "errors": [{"type": "FORBIDDEN", "message": "Resource not accessible by integration"}]}"#,
            |error| matches!(error, Error::Forbidden { .. }),
            Outlook::Stalls,
        ),
        (
            r#"{"errors": [{"type": "UNPROCESSABLE", "message": "Pull request is closed"}]}"#,
            |error| matches!(error, Error::Unprocessable { message, .. } if message == "Pull request is closed"),
            Outlook::Stalls,
        ),
        (
            r#"{"errors": [{"extensions": {"code": "undefinedField"}, "message": "Field 'x' doesn't exist"}]}"#,
            |error| matches!(error, Error::Unprocessable { .. }),
            Outlook::Stalls,
        ),
        (
            r#"{"errors": [{"type": "RATE_LIMITED", "message": "API rate limit exceeded"}]}"#,
            |error| matches!(error, Error::RateLimited { .. }),
            Outlook::Waits("2026-11-21T01:40:00Z".parse().unwrap()),
        ),
        (
            r#"{"data": null, "errors": [{"message": "Something went wrong while executing your query."}]}"#,
            |error| matches!(error, Error::Server { .. }),
            Outlook::Passes,
        ),
        (
            r#"{"data": {"markPullRequestReadyForReview": {"pullRequest": {"isDraft": true}}}}"#,
            |error| matches!(error, Error::Malformed { .. }),
            Outlook::Stalls,
        ),
        (r#"{"data": null}"#, |error| matches!(error, Error::Malformed { .. }), Outlook::Stalls),
        ("[]", |error| matches!(error, Error::Malformed { .. }), Outlook::Stalls),
    ];
    for (body, expected, outlook) in cases {
        let github = Scripted::new(move |_| answer(200, &[("x-ratelimit-reset", reset)], body));
        let error = github.github.ready_for_review(&token(), "PR_7").await.unwrap_err();
        assert!(expected(&error), "{body}: {error}");
        assert_eq!(error.outlook(), outlook, "{body}");
    }
}
