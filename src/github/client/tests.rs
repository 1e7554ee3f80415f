use std::sync::Mutex;

use super::*;
use crate::github::scripted::{Scripted, Sent, answer, refusal};
use crate::github::{Level, Outlook, RepositorySelection};
use crate::ids::id;

fn installations(ids: &[u64]) -> String {
    let installations: Vec<_> = ids
        .iter()
        .map(|id| {
            serde_json::json!({
                "id": id, "app_id": 7, "account": {"id": id + 100, "login": format!("a{id}"), "type": "Organization"},
                "repository_selection": "selected", "permissions": {"contents": "read"}, "events": [],
                "html_url": "https://h.example/x", "suspended_at": null, "suspended_by": null,
            })
        })
        .collect();
    serde_json::Value::from(installations).to_string()
}

const MINTED: &str = r#"{"token": "ghs_7_a.b-c", "expires_at": "2026-11-21T02:00:00Z", "permissions": {"contents": "read", "metadata": "read"},
    "repository_selection": "selected", "repositories": [{"id": 5, "node_id": "R_5", "name": "shop", "full_name": "acme/shop", "private": true}]}"#;

fn scope(repositories: Repositories) -> Scope {
    Scope { repositories, permissions: [("contents".into(), "read".into())].into() }
}

#[tokio::test]
async fn all_pages_are_read_and_what_moved_between_pages_counts_once() {
    let first = r#"<https://h.example/api/v3/app/installations?per_page=100&page=2>; rel="next", <https://h.example/x>; rel="last""#;
    let last = r#"<https://h.example/api/v3/app/installations?per_page=100>; rel="prev""#;
    let github = Scripted::new(move |sent| {
        let (link, ids) = if sent.url.ends_with("page=2") { (last, [1, 2]) } else { (first, [3, 1]) };
        answer(200, &[("link", link)], &installations(&ids))
    });
    let found = github.github.installations().await.unwrap();
    assert_eq!(found.iter().map(|installation| installation.id.get()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(
        github.lines(),
        [
            "GET https://h.example/api/v3/app/installations?per_page=100",
            "GET https://h.example/api/v3/app/installations?per_page=100&page=2",
        ]
    );
    assert!(github.keys().iter().all(|key| *key == Some(0)), "every page is asked for as the App");
}

#[tokio::test]
async fn a_page_elsewhere_is_an_error_and_nothing_is_sent_there() {
    for link in
        ["https://evil.example/api/v3/app/installations?page=2", "https://h.example/other?page=2", "//evil.example/x"]
    {
        let github =
            Scripted::new(move |_| answer(200, &[("link", &format!("<{link}>; rel=\"next\""))], &installations(&[1])));
        let error = github.github.installations().await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("outside of https://h.example/api/v3"), "{error}");
        assert_eq!(github.lines().len(), 1);
    }
}

#[tokio::test]
async fn pages_that_lead_in_circles_end() {
    let github =
        Scripted::new(|sent| answer(200, &[("link", &format!("<{}>; rel=\"next\"", sent.url))], &installations(&[1])));
    let error = github.github.installations().await.unwrap_err();
    assert!(error.to_string().contains("its pages lead in circles"), "{error}");
    assert_eq!(github.lines().len(), 1);
}

#[tokio::test]
async fn an_app_with_many_installations_is_read_and_an_endless_list_ends() {
    let number = |url: &str| -> u64 { url.rsplit_once("&page=").map_or(1, |(_, number)| number.parse().unwrap()) };
    let endless = move |sent: &Sent| {
        let (base, page) = ("https://h.example/api/v3/app/installations?per_page=100", number(&sent.url));
        (format!("<{base}&page={}>; rel=\"next\"", page + 1), page)
    };
    let github = Scripted::new(move |sent| {
        let (next, page) = endless(sent);
        let link = if page < 250 { next } else { String::new() };
        answer(200, &[("link", &link)], &installations(&[page]))
    });
    assert_eq!(github.github.installations().await.unwrap().len(), 250);
    let github = Scripted::new(move |sent| {
        let (next, page) = endless(sent);
        answer(200, &[("link", &next)], &installations(&[page]))
    });
    let error = github.github.installations().await.unwrap_err();
    assert!(error.to_string().contains("it has more than 1000 pages"), "{error}");
}

#[test]
fn a_link_header_is_read_as_rfc_8288_writes_it() {
    let next = |link: &str| {
        let headers = [(header::LINK, link.parse().unwrap())].into_iter().collect();
        next_page(&headers, "https://h.example/a?page=1").map(|url| url.map(String::from))
    };
    let table = [
        (r#"<https://h.example/a?page=2>; rel="next""#, Ok(Some("https://h.example/a?page=2"))),
        ("<?page=2>;rel=next", Ok(Some("https://h.example/a?page=2"))),
        (
            r#"<https://h.example/a?x=1,2>; rel="prev", <https://h.example/a?x=1,3>; title="t"; rel="next""#,
            Ok(Some("https://h.example/a?x=1,3")),
        ),
        (r#"<https://h.example/a?page=9>; rel="last""#, Ok(None)),
        ("", Ok(None)),
        ("<https://h.example/a", Err("its Link header has no `>`")),
        ("<https://[>; rel=next", Err("its Link header names no address")),
    ];
    for (link, expected) in table {
        assert_eq!(next(link), expected.map(|url| url.map(str::to_owned)), "{link}");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_with_exactly_the_scope() {
    let github = Scripted::new(|_| answer(201, &[], MINTED));
    for (repositories, body) in [
        (Repositories::All, r#"{"permissions":{"contents":"read"}}"#),
        (Repositories::Names(vec!["shop".into()]), r#"{"repositories":["shop"],"permissions":{"contents":"read"}}"#),
        (Repositories::Ids(vec![id(5)]), r#"{"repository_ids":[5],"permissions":{"contents":"read"}}"#),
    ] {
        let minted = github.github.mint(id(3), &scope(repositories)).await.unwrap();
        assert_eq!(minted.token.expose(), "ghs_7_a.b-c");
        assert_eq!(minted.permissions["contents"], Level::Read);
        assert_eq!(minted.repository_selection, Some(RepositorySelection::Selected));
        assert_eq!(minted.repositories.unwrap()[0].id, id(5));
        let sent = github.sent.lock().unwrap().pop().unwrap();
        assert_eq!(
            (sent.line().as_str(), sent.body.as_str()),
            ("POST https://h.example/api/v3/app/installations/3/access_tokens", body)
        );
    }
}

#[tokio::test]
async fn what_github_would_take_for_everything_is_not_sent() {
    let github = Scripted::new(|_| answer(201, &[], MINTED));
    let no_permission = Scope { repositories: Repositories::All, permissions: BTreeMap::new() };
    for (scope, expected) in [
        (scope(Repositories::Names(vec![])), "not sent: no repository was named, which GitHub takes for all of them"),
        (scope(Repositories::Ids(vec![])), "not sent: no repository was named, which GitHub takes for all of them"),
        (no_permission, "not sent: no permission was named, which GitHub takes for all that the installation has"),
        (
            scope(Repositories::Ids((1..=501).map(id).collect())),
            "not sent: 501 repositories were named, and GitHub takes 500",
        ),
    ] {
        let error = github.github.mint(id(3), &scope).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.outlook(), Outlook::Stalls);
    }
    assert_eq!(github.lines(), [""; 0]);
}

#[tokio::test]
async fn a_token_that_github_does_not_know_is_dead() {
    let calls = Mutex::new(0);
    let github = Scripted::new(move |_| {
        *calls.lock().unwrap() += 1;
        if *calls.lock().unwrap() == 1 { answer(204, &[], "") } else { refusal(401, "Bad credentials") }
    });
    let token = Token::new("ghs_x".into());
    assert_eq!(github.github.revoke(&token).await.unwrap(), Revocation::Revoked);
    assert_eq!(github.github.revoke(&token).await.unwrap(), Revocation::AlreadyDead);
    assert_eq!(github.lines(), ["DELETE https://h.example/api/v3/installation/token"; 2]);
}

#[tokio::test]
async fn a_bots_name_is_escaped_as_a_segment() {
    let github = Scripted::new(|_| answer(200, &[], r#"{"id": 9, "login": "x", "type": "Bot"}"#));
    github.github.bot_user("my-app").await.unwrap();
    github.github.bot_user("../../login?x=1#").await.unwrap();
    assert_eq!(
        github.lines(),
        [
            "GET https://h.example/api/v3/users/my-app%5Bbot%5D",
            "GET https://h.example/api/v3/users/..%2F..%2Flogin%3Fx%3D1%23%5Bbot%5D",
        ]
    );
}
