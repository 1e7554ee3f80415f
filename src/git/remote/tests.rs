//! The exchange with scripted servers. The exchange with git itself: tests/git.rs.
use std::convert::Infallible;
use std::sync::Mutex;

use http_body_util::Full;
use hyper::body::Bytes;
use tower::service_fn;

use super::super::ls_refs::Head;
use super::super::{AllowedHosts, Reach};
use super::*;
use crate::github::{Connect as _, HttpsConnect, Outlook, PlainHttp};
use crate::runtime::clock::ManualClock;

const NOW: &str = "2026-11-21T01:00:00Z";
const MAIN: &str = "0050aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HEAD symref-target:refs/heads/main\n0000";
const PASSWORD: &str = "hunter2-is-no-token";

/// `GET https://…`, its headers, and its body.
type Sent = (String, HeaderMap, String);

struct World<T = Refs> {
    outcome: Result<T, Error>,
    sent: Vec<Sent>,
}

fn credentials() -> BasicAuth {
    BasicAuth::new("me".into(), Token::new(PASSWORD.into())).unwrap()
}

/// Asks for `main` with credentials, and answers with these in turn.
async fn ask(answers: Vec<Response<String>>) -> World {
    ask_as(Some(&credentials()), answers).await
}

async fn ask_as(credentials: Option<&BasicAuth>, answers: Vec<Response<String>>) -> World {
    let clock = ManualClock::new(NOW.parse::<Timestamp>().unwrap());
    let (transport, sent) = answering(answers);
    let outcome = refs(&transport, &shop(), credentials, None, &clock).await;
    World { outcome, sent: std::mem::take(&mut *sent.lock().unwrap()) }
}

/// Asks for the refs below prefixes.
async fn list(prefixes: &[&str], answers: Vec<Response<String>>) -> World<BTreeMap<String, Sha>> {
    let clock = ManualClock::new(NOW.parse::<Timestamp>().unwrap());
    let (transport, sent) = answering(answers);
    let outcome = listed(&transport, &shop(), Some(&credentials()), prefixes, &clock).await;
    World { outcome, sent: std::mem::take(&mut *sent.lock().unwrap()) }
}

/// A transport that answers with these in turn, and the requests that were sent over it.
fn answering(answers: Vec<Response<String>>) -> (Transport, Arc<Mutex<Vec<Sent>>>) {
    let (sent, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answers.into_iter())));
    let log = Arc::clone(&sent);
    let transport = Transport::new(service_fn(move |request: Request<OctoBody>| {
        let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
        async move {
            let (parts, body) = request.into_parts();
            let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
            log.lock().unwrap().push((format!("{} {}", parts.method, parts.uri), parts.headers, body));
            let answer = answers.lock().unwrap().next().expect("a further request");
            Ok::<_, Infallible>(answer.map(|body| Full::new(Bytes::from(body))))
        }
    }));
    (transport, sent)
}

fn shop() -> Remote {
    let endpoint = Endpoint::parse("https://h.example/api/v3", None, None, PlainHttp::OnLoopback).unwrap();
    Remote::github(&endpoint, "acme/shop").unwrap()
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response<String> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.to_owned()).unwrap()
}

fn result(body: &str) -> Response<String> {
    answer(200, &[("content-type", RESULT)], body)
}

fn advertised(lines: &[&str]) -> Response<String> {
    let packets: String = lines.iter().map(|line| super::super::pkt_line::encode(line)).collect();
    answer(200, &[("content-type", ADVERTISEMENT)], &(packets + "0000"))
}

fn plain(status: u16, body: &str) -> Response<String> {
    answer(status, &[("content-type", "text/plain; charset=utf-8")], body)
}

#[tokio::test]
async fn one_request_carries_the_question_and_the_credentials() {
    let world = ask(vec![result(MAIN)]).await;
    assert!(matches!(world.outcome.unwrap().head, Head::At { .. }));
    let [(line, headers, body)] = &world.sent[..] else { panic!("{} requests", world.sent.len()) };
    assert_eq!(line, "POST https://h.example/acme/shop.git/git-upload-pack");
    assert_eq!(headers["git-protocol"], "version=2");
    assert_eq!(headers["content-type"], REQUEST);
    let authorization = &headers["authorization"];
    assert!(authorization.is_sensitive());
    assert_eq!(authorization, &format!("Basic {}", STANDARD.encode(format!("me:{PASSWORD}"))));
    assert!(body.starts_with("0014command=ls-refs\n0001"), "{body}");

    let world = ask_as(None, vec![result(MAIN)]).await;
    assert!(!world.sent[0].1.contains_key("authorization"));
    let token = BasicAuth::installation(Token::new("ghs_1".into()));
    let world = ask_as(Some(&token), vec![result(MAIN)]).await;
    assert_eq!(world.sent[0].1["authorization"], "Basic eC1hY2Nlc3MtdG9rZW46Z2hzXzE=");
}

#[tokio::test]
async fn what_a_server_can_do_is_asked_only_of_one_that_did_not_understand() {
    let sha = "c".repeat(64);
    let line = format!("{sha} HEAD symref-target:refs/heads/main");
    let of_sha256 = super::super::pkt_line::encode(&line) + "0000";
    for first in ["", "000eERR what?\n"] {
        let capabilities = advertised(&["version 2", "ls-refs", "object-format=sha256"]);
        let world = ask(vec![result(first), capabilities, result(&of_sha256)]).await;
        assert_eq!(world.outcome.unwrap().head.sha().unwrap().as_str(), sha);
        let lines: Vec<&str> = world.sent.iter().map(|sent| sent.0.as_str()).collect();
        assert_eq!(
            lines,
            [
                "POST https://h.example/acme/shop.git/git-upload-pack",
                "GET https://h.example/acme/shop.git/info/refs?service=git-upload-pack",
                "POST https://h.example/acme/shop.git/git-upload-pack",
            ]
        );
        assert!(world.sent.iter().all(|sent| sent.1["git-protocol"] == "version=2"));
        assert!(world.sent[2].2.contains("object-format=sha256") && !world.sent[2].2.contains("unborn"));
    }
    // The server has the assumed capabilities, so the same question would get the same answer.
    let world = ask(vec![result(""), advertised(&["version 2", "ls-refs=unborn"])]).await;
    let error = world.outcome.unwrap_err();
    assert!(matches!(error, Error::Protocol { source: AnswerError::Cut, .. }), "{error}");
    assert_eq!(error.outlook(), Outlook::Passes);
    // And there are never more than three requests.
    let world = ask(vec![result(""), advertised(&["version 2", "ls-refs"]), result("")]).await;
    assert!(matches!(world.outcome, Err(Error::Protocol { source: AnswerError::Cut, .. })));

    // A server of an earlier version has listed its refs by then.
    let head = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HEAD\0multi_ack symref=HEAD:refs/heads/main";
    for (old, expected) in [
        (&["version 1"][..], Head::Empty),
        (&[], Head::Empty),
        (&["version 1", head], Head::At { branch: "main".parse().unwrap(), sha: "a".repeat(40).parse().unwrap() }),
    ] {
        let world = ask(vec![result(""), advertised(old)]).await;
        assert_eq!((world.outcome.unwrap().head, world.sent.len()), (expected, 2));
    }
    let error = ask(vec![result(""), advertised(&["what?"])]).await.outcome.unwrap_err();
    assert_eq!(
        error.to_string(),
        "https://h.example/acme/shop.git: a line of it is no ref; \
         check that it is the address of a repository on a server that speaks git's smart HTTP"
    );
    assert_eq!(error.outlook(), Outlook::Stalls);
}

/// Asks the repository at a hand-written address.
async fn ask_manual(answers: Vec<Response<String>>) -> World {
    let clock = ManualClock::new(NOW.parse::<Timestamp>().unwrap());
    let hosts = AllowedHosts::parse(&["git.example.com"], Reach::Public).unwrap();
    let remote = Remote::manual(&hosts.check("https://git.example.com/group/lib").unwrap());
    let (transport, sent) = answering(answers);
    let outcome = refs(&transport, &remote, Some(&credentials()), None, &clock).await;
    World { outcome, sent: std::mem::take(&mut *sent.lock().unwrap()) }
}

#[tokio::test]
async fn a_redirect_of_a_hand_written_address_is_followed_once_within_its_origin() {
    let redirect = |to: &str| answer(301, &[("location", to)], "");
    let to = "https://git.example.com/group/lib.git/info/refs?service=git-upload-pack";
    for first in [plain(404, ""), plain(422, ""), redirect("/group/lib.git/git-upload-pack")] {
        let world = ask_manual(vec![first, redirect(to), result(MAIN)]).await;
        assert!(matches!(world.outcome.unwrap().head, Head::At { .. }));
        let lines: Vec<&str> = world.sent.iter().map(|sent| sent.0.as_str()).collect();
        assert_eq!(
            lines,
            [
                "POST https://git.example.com/group/lib/git-upload-pack",
                "GET https://git.example.com/group/lib/info/refs?service=git-upload-pack",
                "POST https://git.example.com/group/lib.git/git-upload-pack",
            ]
        );
    }
    for to in [
        "https://evil.example/group/lib.git/info/refs?service=git-upload-pack",
        "http://git.example.com/group/lib.git/info/refs",
        "https://git.example.com:8443/group/lib.git/info/refs",
        "https://me@git.example.com/group/lib.git/info/refs",
        "https://git.example.com/users/sign_in",
        "https://git.example.com/info/refs",
    ] {
        let world = ask_manual(vec![plain(404, ""), redirect(to)]).await;
        assert!(matches!(world.outcome, Err(Error::Moved { .. })), "{to}");
        assert_eq!(world.sent.len(), 2, "{to}");
    }
    let further = "https://git.example.com/other/lib.git/info/refs";
    let world = ask_manual(vec![plain(404, ""), redirect(to), plain(404, ""), redirect(further)]).await;
    let error = world.outcome.unwrap_err();
    assert!(matches!(&error, Error::Moved { to: Some(to), .. } if to.ends_with("/other/lib.git")), "{error}");
    assert_eq!(world.sent.len(), 4);
    // If there is no repository, both requests get 404.
    let world = ask_manual(vec![plain(404, "no"), plain(404, "no")]).await;
    assert!(matches!(world.outcome, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_listing_is_asked_for_and_kept_from_harm_as_a_head_is() {
    let (a, b) = ("a".repeat(40), "b".repeat(64));
    let lines = |lines: &[&str]| lines.iter().map(|line| super::super::pkt_line::encode(line)).collect::<String>();
    let body = lines(&[&format!("{a} refs/heads/x/1"), &format!("{a} refs/heads/xy")]) + "0000";
    let world = list(&["refs/heads/x", "refs/landfall/"], vec![result(&body)]).await;
    assert_eq!(world.outcome.unwrap(), [("refs/heads/x/1".to_owned(), a.parse().unwrap())].into());
    let [(line, headers, question)] = &world.sent[..] else { panic!("{} requests", world.sent.len()) };
    assert_eq!(line, "POST https://h.example/acme/shop.git/git-upload-pack");
    assert_eq!(&headers["authorization"], &format!("Basic {}", STANDARD.encode(format!("me:{PASSWORD}"))));
    assert!(question.ends_with("ref-prefix refs/heads/x\n001eref-prefix refs/landfall/\n0000"), "{question}");

    // A repository with SHA-256 objects, which the first request does not support.
    let body = lines(&[&format!("{b} refs/heads/x")]) + "0000";
    let capabilities = advertised(&["version 2", "ls-refs", "object-format=sha256"]);
    let world = list(&["refs/heads/x"], vec![result(""), capabilities, result(&body)]).await;
    assert_eq!(world.outcome.unwrap()["refs/heads/x"].as_str(), b);
    assert_eq!(world.sent.len(), 3);

    // An incomplete answer is an error, because a ref that it leaves out would count as missing.
    let cut = lines(&[&format!("{a} refs/heads/x/1")]);
    let world = list(&["refs/heads/x"], vec![result(&cut), advertised(&["version 2", "ls-refs=unborn"])]).await;
    assert!(matches!(world.outcome, Err(Error::Protocol { source: AnswerError::Cut, .. })));
    let other = lines(&[&format!("{a} refs/tags/{}", "x".repeat(900))]);
    let world = list(&["refs/heads/x"], vec![result(&other.repeat(ANSWER_LIMIT / other.len() + 1))]).await;
    assert!(world.outcome.unwrap_err().to_string().contains("its answer is too long"));
    for (status, expected) in [(404, "there is no such repository"), (401, "the credentials were refused")] {
        let error = list(&["refs/heads/x"], vec![plain(status, "x")]).await.outcome.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    for prefixes in [&["HEAD"][..], &["refs/heads/a", "refs/heads/a\n0000"], &["refs/"], &[""]] {
        let world = list(prefixes, vec![]).await;
        assert!(matches!(world.outcome, Err(Error::Branch { .. })), "{prefixes:?}");
    }
    assert_eq!(list(&[], vec![]).await.outcome.unwrap(), BTreeMap::new());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for (status, location, expected) in [
        (301, "https://h.example/acme/store.git/git-upload-pack", Some("https://h.example/acme/store.git")),
        (307, "https://me:x@evil.example/x?token=1#y", Some("https://evil.example/x")),
        (302, "/login", Some("https://h.example/login")),
        (308, "http://[", None),
    ] {
        let world = ask(vec![answer(status, &[("location", location)], "")]).await;
        assert_eq!(world.sent.len(), 1);
        let error = world.outcome.unwrap_err();
        assert_eq!(error.outlook(), Outlook::Stalls);
        let Error::Moved { to, .. } = error else { panic!("{error}") };
        assert_eq!(to.as_deref(), expected);
    }
    assert!(matches!(ask(vec![answer(304, &[], "")]).await.outcome, Err(Error::Moved { to: None, .. })));
}

#[tokio::test]
async fn each_refusal_has_its_meaning() {
    let limited = |headers: &[(&str, &str)], status| answer(status, headers, "");
    let cases: [(Response<String>, &str, Outlook); 18] = [
        (plain(404, "Repository not found."), "there is no such repository", Outlook::Stalls),
        (plain(410, ""), "there is no such repository", Outlook::Stalls),
        (plain(401, "Invalid username or token."), "the credentials were refused (Invalid username", Outlook::Passes),
        (
            plain(403, "Write access to repository not granted."),
            "reading it is forbidden (Write access",
            Outlook::Stalls,
        ),
        (plain(451, ""), "reading it is forbidden (451", Outlook::Stalls),
        (plain(403, "You have exceeded a secondary rate limit."), "asked again at", until("2026-11-21T01:01:00Z")),
        (
            plain(403, "The `acme` organization has an IP allow list enabled."),
            "add the cluster's outgoing address to its IP allow list",
            Outlook::Stalls,
        ),
        (
            plain(403, "This repository has been locked for migration."),
            "wait for the end of the migration",
            Outlook::Passes,
        ),
        (
            answer(403, &[("content-type", "text/html")], "<html>"),
            "with an HTML page, which may be that of a proxy or firewall",
            Outlook::Stalls,
        ),
        (plain(400, "no"), "the server refused: no", Outlook::Stalls),
        (
            answer(405, &[("content-type", "text/html")], "<b>"),
            "the server refused: 405 Method Not Allowed",
            Outlook::Stalls,
        ),
        (plain(500, "x"), "the server failed with 500", Outlook::Passes),
        (plain(408, "x"), "the server failed with 408", Outlook::Passes),
        (limited(&[("retry-after", "120")], 429), "asked again at 2026-11-21T01:02:00Z", until("2026-11-21T01:02:00Z")),
        (limited(&[("retry-after", "5")], 403), "asked again at 2026-11-21T01:00:05Z", until("2026-11-21T01:00:05Z")),
        (limited(&[], 429), "asked again at 2026-11-21T01:01:00Z", until("2026-11-21T01:01:00Z")),
        (limited(&[("retry-after", "4294967295")], 429), "asked again at", until("2026-11-21T02:00:00Z")),
        (
            limited(&[("retry-after", "Sat, 21 Nov 2026 01:10:00 GMT")], 429),
            "asked again at 2026-11-21T01:10:00Z",
            until("2026-11-21T01:10:00Z"),
        ),
    ];
    for (response, expected, outlook) in cases {
        // A server that does not understand the request is asked for its capabilities.
        let error = ask(vec![response, advertised(&["version 2", "ls-refs=unborn"])]).await.outcome.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("https://h.example/acme/shop.git: ") && text.contains(expected), "{text}");
        assert_eq!(error.outlook(), outlook, "{text}");
    }
    let nobody = ask_as(None, vec![plain(401, "Repository not found.")]).await.outcome;
    assert!(matches!(nobody, Err(Error::NotFound { .. })));
}

fn until(at: &str) -> Outlook {
    Outlook::Waits(at.parse().unwrap())
}

#[tokio::test]
async fn what_is_not_git_is_told_from_what_is() {
    for response in [
        answer(200, &[("content-type", "text/html")], MAIN),
        answer(200, &[], MAIN),
        result("<!DOCTYPE html><html></html>"),
        result("0032"),
        result("0007abc0000"),
    ] {
        let body = response.body().clone();
        let cut = body == "0032";
        let answers = if cut { vec![response, advertised(&["version 2", "ls-refs=unborn"])] } else { vec![response] };
        let error = ask(answers).await.outcome.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{body}: {error}");
        assert_eq!(error.outlook(), if cut { Outlook::Passes } else { Outlook::Stalls });
    }
    let lenient = answer(200, &[("content-type", "Application/X-Git-Upload-Pack-Result; x=y")], MAIN);
    assert!(ask(vec![lenient]).await.outcome.is_ok());
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let line = super::super::pkt_line::encode(&format!("{} refs/heads/{}", "a".repeat(40), "x".repeat(900)));
    let error = ask(vec![result(&line.repeat(ANSWER_LIMIT / line.len() + 1))]).await.outcome.unwrap_err();
    assert!(error.to_string().contains("its answer is too long"), "{error}");
}

#[tokio::test]
async fn credentials_are_in_no_error() {
    let encoded = STANDARD.encode(format!("me:{PASSWORD}"));
    let echo = format!("Authorization: Basic {encoded} for me:{PASSWORD}");
    let err = super::super::pkt_line::encode(&format!("ERR {echo}"));
    for answers in [
        vec![plain(401, &echo)],
        vec![plain(403, &echo)],
        vec![plain(400, &echo), advertised(&["version 2", "ls-refs=unborn"])],
        vec![result(&err), advertised(&["version 2", "ls-refs=unborn"])],
        vec![answer(301, &[("location", &format!("https://{PASSWORD}.example/{encoded}"))], "")],
    ] {
        let error = ask(answers).await.outcome.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("[redacted]") && !text.contains(PASSWORD) && !text.contains(&encoded), "{text}");
    }
    assert_eq!(format!("{:?}", credentials()), r#"BasicAuth { username: "me", password: [redacted] }"#);
    for (username, password) in [("a:b", "x"), ("a\n", "x"), ("a", "x\r\ny: z")] {
        assert_eq!(BasicAuth::new(username.into(), Token::new(password.into())), Err(BasicAuthError));
    }
}

#[tokio::test]
async fn names_are_checked_before_anything_is_sent() {
    let transport = Transport::new(service_fn(|_: Request<OctoBody>| async {
        Err::<Response<Full<Bytes>>, _>(std::io::Error::other("sent"))
    }));
    let clock = ManualClock::new(NOW.parse::<Timestamp>().unwrap());
    for branch in ["", "a b", "a\n0000", "a..b", "refs/heads/"] {
        let error = refs(&transport, &shop(), None, Some(branch), &clock).await.unwrap_err();
        assert!(matches!(error, Error::Branch { .. }), "{branch:?}: {error}");
        assert_eq!(error.outlook(), Outlook::Stalls);
    }
    let error = refs(&transport, &shop(), None, Some("--upload-pack=x"), &clock).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Unreached::Cut, .. }), "{error}");

    let endpoint = Endpoint::parse("https://h.example/api/v3", None, None, PlainHttp::OnLoopback).unwrap();
    for name in
        ["", "shop", "/shop", "acme/", "acme/..", "./shop", "acme/shop/x", "acme/sh%6fp", "acme/shop?x", "a@b/c", "é/x"]
    {
        assert_eq!(Remote::github(&endpoint, name), Err(FullNameError), "{name}");
    }
}

#[tokio::test]
async fn a_transport_goes_no_further_than_its_reach() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let clock = ManualClock::new(NOW.parse::<Timestamp>().unwrap());
    for host in ["localhost", "127.0.0.1"] {
        let entry = format!("{host}:{port}");
        let hosts = AllowedHosts::parse(&[&entry], Reach::Private).unwrap();
        let remote = Remote::manual(&hosts.check(&format!("https://{entry}/x")).unwrap());
        // The same address over a transport for public ones only.
        let transport = HttpsConnect::new().connect_within(Reach::Public, None).unwrap();
        let error = refs(&transport, &remote, None, None, &clock).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "https://{entry}/x: its host has no address to which the operator may connect; \
                 private addresses need the permission of the operator's administrator"
            )
        );
        assert_eq!(error.outlook(), Outlook::Stalls);
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody connected");
    // Without the guard, somebody connects.
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let unguarded = HttpsConnect::new().connect(None).unwrap();
    let hosts = AllowedHosts::parse(&[format!("127.0.0.1:{port}")], Reach::Private).unwrap();
    let remote = Remote::manual(&hosts.check(&format!("https://127.0.0.1:{port}/x")).unwrap());
    tokio::select! {
        accepted = listener.accept() => drop(accepted.unwrap()),
        asked = refs(&unguarded, &remote, None, None, &clock) => panic!("not connected: {asked:?}"),
    }
}
