use std::sync::Mutex;
use std::time::Duration;

use http::Request;
use http_body_util::Empty;
use jiff::{SignedDuration, Timestamp};
use tower::service_fn;

use super::*;
use crate::github::block::Block;
use crate::github::error::Outlook;
use crate::github::scripted::{APP, NOW, Scripted, Sent, answer, refusal};
use crate::github::test_keys::KEYS;
use crate::github::{Repositories, Revocation, Scope, Token};
use crate::ids::id;
use crate::runtime::metrics::Answer;
use crate::runtime::telemetry::{self, LogFormat};

fn token() -> Token {
    Token::new("ghs_7_eyJh.eyJi.c2ln-x".into())
}

fn scope() -> Scope {
    Scope { repositories: Repositories::Ids(vec![id(1)]), permissions: [("contents".into(), "read".into())].into() }
}

#[tokio::test]
async fn every_request_says_who_asks_for_what() {
    let github = Scripted::new(|_| answer(200, &[], APP));
    github.github.app().await.unwrap();
    let sent = github.sent.lock().unwrap()[0].clone();
    assert_eq!(sent.line(), "GET https://h.example/api/v3/app");
    for (name, value) in [
        ("user-agent", concat!("landfall/", env!("CARGO_PKG_VERSION"))),
        ("accept", "application/vnd.github+json"),
        ("x-github-api-version", "2022-11-28"),
    ] {
        assert_eq!(sent.headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
    }
    let claims = KEYS[0].verify(sent.bearer().unwrap()).unwrap();
    assert_eq!(claims["iss"], "7");
    assert!(sent.headers["authorization"].is_sensitive());
}

#[tokio::test]
async fn each_call_carries_its_own_credential() {
    let github = Scripted::new(|sent| match sent.method.as_str() {
        "DELETE" => answer(204, &[], ""),
        _ if sent.url.contains("/users/") => answer(200, &[], r#"{"id": 9, "login": "landfall[bot]", "type": "Bot"}"#),
        _ => answer(200, &[], "{}"),
    });
    github.github.verify(&token()).await.unwrap();
    assert_eq!(github.github.revoke(&token()).await.unwrap(), Revocation::Revoked);
    assert_eq!(github.github.bot_user("landfall").await.unwrap().id, id(9));
    let sent = github.sent.lock().unwrap().clone();
    assert_eq!(
        sent.iter().map(|sent| sent.bearer()).collect::<Vec<_>>(),
        [Some(token().expose()), Some(token().expose()), None]
    );
}

#[tokio::test]
async fn when_one_key_is_refused_the_other_is_tried_once_and_then_preferred() {
    let github = Scripted::new(|sent| match sent.key() {
        Some(1) => answer(200, &[], APP),
        _ => refusal(401, "A JSON web token could not be decoded"),
    });
    github.github.app().await.unwrap();
    github.github.app().await.unwrap();
    assert_eq!(github.keys(), [Some(0), Some(1), Some(1)]);
}

#[tokio::test]
async fn when_both_keys_are_refused_it_ends_there() {
    let github = Scripted::new(|_| refusal(401, "A JSON web token could not be decoded"));
    let error = github.github.app().await.unwrap_err();
    assert!(
        matches!(&error, Error::CredentialsRefused { message, .. } if message == "A JSON web token could not be decoded"),
        "{error}"
    );
    assert_eq!(github.keys(), [Some(0), Some(1)]);
    // An installation token has no other key, so the call is not tried again.
    github.github.verify(&token()).await.unwrap_err();
    assert_eq!(github.keys().len(), 3);
}

#[tokio::test]
async fn a_jwt_serves_for_minutes_and_is_signed_anew_when_github_refuses_it() {
    let refused = Arc::new(Mutex::new(None::<String>));
    let expired = Arc::clone(&refused);
    let github = Scripted::new(move |sent| {
        let is_expired = expired.lock().unwrap().as_deref() == sent.bearer();
        if is_expired { refusal(401, "'Expiration time' claim ('exp') must be …") } else { answer(200, &[], APP) }
    });
    let bearers = || {
        let sent = github.sent.lock().unwrap();
        sent.iter().map(|sent| sent.bearer().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        github.github.app().await.unwrap();
        github.clock.advance(Duration::from_mins(1));
    }
    let [one, two, three] = &bearers()[..] else { panic!("{} requests", bearers().len()) };
    assert!(one == two && two == three, "one signature for all");
    *refused.lock().unwrap() = Some(one.clone());
    github.github.app().await.unwrap();
    assert_eq!(github.keys(), [Some(0); 5]);
    let [.., refused, accepted] = &bearers()[..] else { panic!("{} requests", bearers().len()) };
    assert!(refused == one && accepted != one);
}

#[tokio::test]
async fn trouble_at_github_does_not_change_the_preferred_key() {
    let github = Scripted::new(|sent| if sent.key() == Some(1) { answer(502, &[], "") } else { refusal(401, "no") });
    for _ in 0..2 {
        assert!(matches!(github.github.app().await, Err(Error::Server { status: 502, .. })));
    }
    assert_eq!(github.keys(), [Some(0), Some(1), Some(0), Some(1)]);
}

#[tokio::test]
async fn a_redirect_keeps_method_body_and_credentials() {
    for (method, status) in [("GET", 301), ("GET", 302), ("GET", 307), ("GET", 308), ("POST", 307), ("POST", 308)] {
        let github = Scripted::new(move |sent| match (sent.url.ends_with("/moved"), sent.method.as_str()) {
            (false, _) => answer(status, &[("location", "/api/v3/moved")], ""),
            (true, "GET") => answer(200, &[], APP),
            (true, _) => answer(
                201,
                &[],
                r#"{"token": "ghs_x", "expires_at": "2026-11-21T02:00:00Z", "repository_selection": "selected"}"#,
            ),
        });
        match method {
            "GET" => drop(github.github.app().await.unwrap()),
            _ => drop(github.github.mint(id(3), &scope()).await.unwrap()),
        }
        let sent = github.sent.lock().unwrap().clone();
        assert_eq!(sent.len(), 2, "{method} {status}");
        assert_eq!(sent[1].line(), format!("{method} https://h.example/api/v3/moved"));
        assert_eq!(sent[1].body, sent[0].body);
        assert_eq!(sent[1].key(), Some(0));
    }
}

#[tokio::test]
async fn a_post_is_not_followed_where_clients_have_made_it_a_get() {
    for status in [301, 302, 303] {
        let github = Scripted::new(move |_| answer(status, &[("location", "/api/v3/moved")], ""));
        let error = github.github.mint(id(3), &scope()).await.unwrap_err();
        assert!(
            error.to_string().contains(&format!("it answered {status}, which is no answer to this call")),
            "{error}"
        );
        assert_eq!(github.lines().len(), 1);
    }
}

#[tokio::test]
async fn redirects_end() {
    let github = Scripted::new(|_| answer(307, &[("location", "/api/v3/app")], ""));
    let error = github.github.app().await.unwrap_err();
    assert!(error.to_string().contains("it redirects more than 3 times"), "{error}");
    assert_eq!(github.lines().len(), 4);
    let github = Scripted::new(|_| answer(307, &[], ""));
    let error = github.github.app().await.unwrap_err();
    assert!(error.to_string().contains("it redirects (307 Temporary Redirect) to no readable address"), "{error}");
}

#[tokio::test]
async fn nothing_leaves_for_another_place_than_the_api() {
    for location in [
        "https://evil.example/api/v3/app",
        "//evil.example/api/v3/app",
        "https://h.example:444/api/v3/app",
        "http://h.example/api/v3/app",
        "https://h.example@evil.example/api/v3/app",
        "https://h.example/login",
        "/api/v3/../../login",
    ] {
        let github = Scripted::new(move |_| answer(307, &[("location", location)], ""));
        let error = github.github.verify(&token()).await.unwrap_err();
        assert!(error.to_string().contains(", outside of https://h.example/api/v3"), "{location}: {error}");
        assert_eq!(github.lines().len(), 1, "{location}");
    }
}

#[tokio::test]
async fn after_a_limit_nothing_goes_out_before_its_time_and_only_for_its_holder() {
    let github = Scripted::new(|sent| match sent.key() {
        Some(_) => answer(429, &[("retry-after", "90")], r#"{"message": "You have exceeded a secondary rate limit"}"#),
        None => answer(200, &[], "{}"),
    });
    let until = github.clock.now() + SignedDuration::from_secs(90);
    for _ in 0..2 {
        let error = github.github.app().await.unwrap_err();
        assert_eq!(error.outlook(), Outlook::Waits(until));
        assert!(matches!(error, Error::RateLimited { secondary: true, .. }));
    }
    assert_eq!(github.lines().len(), 1, "the second was refused here");
    github.github.verify(&token()).await.unwrap();
    github.clock.advance(Duration::from_secs(89));
    github.github.app().await.unwrap_err();
    assert_eq!(github.lines().len(), 2);
    github.clock.advance(Duration::from_secs(1));
    github.github.app().await.unwrap_err();
    assert_eq!(github.lines().len(), 3);
}

#[tokio::test]
async fn an_installations_limit_is_one_for_all_of_its_tokens_and_none_of_anothers() {
    let minted = r#"{"token": "ghs_x", "expires_at": "2026-11-21T02:00:00Z", "repository_selection": "all"}"#;
    let count = Mutex::new(0);
    let github = Scripted::new(move |sent| match sent.method.as_str() {
        "POST" => {
            *count.lock().unwrap() += 1;
            answer(201, &[], &minted.replace("ghs_x", &format!("ghs_{}", count.lock().unwrap())))
        }
        _ => answer(403, &[("retry-after", "90")], r#"{"message": "You have exceeded a secondary rate limit"}"#),
    });
    let mint = async |id| github.github.mint(id, &scope()).await.unwrap().token;
    let (one, another, elsewhere) = (mint(id(3)).await, mint(id(3)).await, mint(id(4)).await);
    assert_ne!(one, another);
    let sent = || github.lines().len();
    github.github.verify(&one).await.unwrap_err();
    assert_eq!(sent(), 4);
    github.github.verify(&another).await.unwrap_err();
    assert_eq!(sent(), 4, "refused here");
    github.github.verify(&elsewhere).await.unwrap_err();
    assert_eq!(sent(), 5);
    mint(id(3)).await;
    assert_eq!(sent(), 6, "minting is the App's");
}

#[tokio::test]
async fn an_apps_own_calls_keep_the_secondary_limits_of_github_com() {
    const MINTED: &str =
        r#"{"token": "ghs_x", "expires_at": "2026-11-21T02:00:00Z", "repository_selection": "selected"}"#;
    let script = |sent: &Sent| if sent.method == "POST" { answer(201, &[], MINTED) } else { answer(200, &[], APP) };
    let github = Scripted::at("https://api.github.com", script);
    let mint = async || github.github.mint(id(3), &scope()).await;
    for _ in 0..170 {
        mint().await.unwrap();
    }
    let error = mint().await.unwrap_err();
    let minute: Timestamp = NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(61);
    assert_eq!(error.outlook(), Outlook::Waits(minute), "{error}");
    github.github.app().await.expect("a look at the App has room");
    assert_eq!(github.lines().len(), 171, "the refused mint was not sent");
    github.github.verify(&token()).await.expect("an installation has limits of its own");
    github.clock.advance(Duration::from_secs(61));
    mint().await.unwrap();

    // A GitHub Enterprise Server has no such limits by default.
    let server = Scripted::new(script);
    for _ in 0..200 {
        server.github.mint(id(3), &scope()).await.unwrap();
    }
}

#[tokio::test]
async fn the_last_call_of_the_hour_succeeds_and_the_next_waits() {
    let reset = NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_mins(20);
    let seconds = reset.as_second().to_string();
    let github =
        Scripted::new(move |_| answer(200, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &seconds)], APP));
    github.github.app().await.unwrap();
    assert_eq!(github.github.app().await.unwrap_err().outlook(), Outlook::Waits(reset));
    github.clock.set(reset);
    github.github.app().await.unwrap();
}

#[tokio::test]
async fn a_call_is_observed_by_its_template() {
    let github = Scripted::new(|_| answer(404, &[("x-ratelimit-remaining", "4999")], ""));
    github.github.mint(id(77), &scope()).await.unwrap_err();
    let exchange = github.exchanges.lock().unwrap()[0];
    assert_eq!(
        exchange.route,
        Route { method: "POST", template: "/app/installations/{installation_id}/access_tokens" }
    );
    assert_eq!((exchange.answer, exchange.credential, exchange.remaining), (Answer::Status(404), "app", Some(4999)));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_of_a_secret_reaches_the_log() {
    // While there is one subscriber only, tracing decides about a line by the thread that comes upon it first, which in tests
    // may be one that has none. A second one makes it ask them all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let log = Log::default();
    let writer = log.clone();
    let everything = telemetry::subscriber("trace,landfall=trace", LogFormat::Json, move || writer.clone()).unwrap();
    let guard = tracing::subscriber::set_default(everything);
    let github = Scripted::new(|sent| match sent.key() {
        Some(1) => answer(200, &[("x-github-request-id", "0FA1:2")], APP),
        _ => refusal(401, &format!("bad token {}", sent.bearer().unwrap_or_default())),
    });
    github.github.app().await.unwrap();
    let error = github.github.verify(&token()).await.unwrap_err();
    drop(guard);
    let secrets: Vec<String> =
        github.sent.lock().unwrap().iter().filter_map(|sent| sent.bearer().map(str::to_owned)).collect();
    assert_eq!(secrets.len(), 3);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let text = format!("{log} {error} {error:?} {:?}", github.github);
    assert!(
        text.contains("called GitHub") && text.contains("0FA1:2") && text.contains("bad token [redacted]"),
        "{text}"
    );
    for part in secrets.iter().flat_map(|secret| secret.split('.')) {
        assert!(!text.contains(part), "{part} in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends() {
    let silent = Transport::new(service_fn(|_: Request<OctoBody>| {
        std::future::pending::<Result<Response<Empty<Bytes>>, std::io::Error>>()
    }));
    let begun = tokio::time::Instant::now();
    let error = Scripted::over(silent).github.app().await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    assert!(matches!(error, Error::Unreachable { reason: Unreached::TimedOut, .. }), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_not_read() {
    let github = Scripted::new(|_| answer(200, &[], &" ".repeat(BODY_LIMIT + 1)));
    let error = github.github.app().await.unwrap_err();
    assert!(error.to_string().contains("its answer is larger than 4 MiB"), "{error}");
}

const CHECK_URL: &str = "check that spec.apiURL is GitHub's API and that no proxy answers instead";
const WRONG_KEY: &str = "check that spec.appID or spec.clientID and private-key.pem belong to the same App, \
    and that the key was not deleted in the App's settings";

#[tokio::test]
async fn refusals_of_the_app_are_told_apart() {
    use Outlook::Stalls;
    let table = [
        (
            refusal(401, "Bad credentials"),
            Stalls,
            format!("GitHub refused the App's credentials: Bad credentials; {WRONG_KEY}"),
        ),
        (
            answer(
                401,
                &[("date", "Sat, 21 Nov 2026 00:50:00 GMT")],
                r#"{"message": "'exp' is too far in the future"}"#,
            ),
            Stalls,
            "GitHub refused the App's credentials: 'exp' is too far in the future; \
             the clock here is 600 s ahead of GitHub's: correct it, because the JWT carries times"
                .into(),
        ),
        (
            refusal(404, "Integration not found"),
            Stalls,
            format!("GitHub refused the App's credentials: Integration not found; {WRONG_KEY}"),
        ),
        (
            answer(200, &[], r#"{"id": "ghs_abc"}"#),
            Stalls,
            format!(
                "its answer cannot be read at `id` (invalid type: string \"[redacted]\", expected i64 at line 1 column 16); {CHECK_URL}"
            ),
        ),
        (answer(304, &[], ""), Stalls, format!("it answered 304, which is no answer to this call; {CHECK_URL}")),
        (
            answer(429, &[("retry-after", "60")], ""),
            Outlook::Waits("2026-11-21T01:01:00Z".parse().unwrap()),
            "a secondary rate limit of GitHub reached; calls go on at 2026-11-21T01:01:00Z".into(),
        ),
    ];
    for (response, outlook, expected) in table {
        let error = Scripted::new(move |_| response.clone()).github.app().await.unwrap_err();
        assert_eq!((error.to_string(), error.outlook()), (format!("GET /app at h.example: {expected}"), outlook));
    }
}

#[tokio::test]
async fn refusals_of_a_token_are_told_apart() {
    use Outlook::{Passes, Stalls};
    let errors = r#"[{"resource": "Hook", "field": "url", "code": "custom", "message": "is taken"}, {"code": "missing"}, "words"]"#;
    let table = [
        (refusal(401, "Bad credentials"), Passes, "GitHub refused the installation token: Bad credentials; a fresh one is minted".to_owned()),
        (refusal(404, "Not Found"), Stalls, "Not Found; it does not exist, or the App has no access to it".into()),
        (
            refusal(403, "This installation has been suspended"),
            Stalls,
            "This installation has been suspended; an owner of the account can unsuspend it in the account's settings under GitHub Apps".into(),
        ),
        (
            refusal(403, "Resource not accessible by integration"),
            Stalls,
            "GitHub forbids it: Resource not accessible by integration; check the App's permissions, \
             that the account has accepted them, and the account's policies"
                .into(),
        ),
        (
            answer(422, &[], &format!(r#"{{"message": "Validation Failed", "errors": {errors}}}"#)),
            Stalls,
            "GitHub refused it: Validation Failed (Hook.url: is taken; missing; words)".into(),
        ),
        (refusal(400, "Problems parsing JSON"), Stalls, "GitHub answered 400: Problems parsing JSON".into()),
        (refusal(410, "Gone"), Stalls, "Gone; it does not exist, or the App has no access to it".into()),
        (
            refusal(451, "Repository access blocked"),
            Stalls,
            format!("Repository access blocked; {}", Block::Withdrawn.remedy()),
        ),
        (
            answer(403, &[], r#"{"message": "Repository access blocked", "block": {"reason": "billing"}}"#),
            Stalls,
            format!("Repository access blocked; {}", Block::Billing.remedy()),
        ),
        (
            refusal(403, "Resource protected by organization SAML enforcement. You must grant your OAuth token access."),
            Stalls,
            format!(
                "Resource protected by organization SAML enforcement. You must grant your OAuth token access.; {}",
                Block::SingleSignOn.remedy()
            ),
        ),
        (
            refusal(403, "The `acme` organization has an IP allow list enabled."),
            Stalls,
            format!("The `acme` organization has an IP allow list enabled.; {}", Block::IpAddress.remedy()),
        ),
        (
            refusal(403, "Repository has been locked for migration."),
            Passes,
            format!("Repository has been locked for migration.; {}", Block::Locked.remedy()),
        ),
        (
            answer(403, &[("content-type", "text/html")], "<html>secret</html>"),
            Passes,
            "an HTML page came in place of GitHub's answer, with status 403; if this persists, check that no proxy or \
             firewall answers instead of GitHub, and https://www.githubstatus.com"
                .into(),
        ),
        (
            answer(503, &[("content-type", "text/html")], "<html>Unicorn!</html>"),
            Passes,
            "GitHub failed with 503; see https://www.githubstatus.com if this persists".into(),
        ),
        (
            refusal(403, "Repository was archived so is read-only."),
            Stalls,
            "the repository is archived (Repository was archived so is read-only.); \
             its administrators can unarchive it in its settings"
                .into(),
        ),
        (
            refusal(409, "Git Repository is empty."),
            Passes,
            "GitHub reports a conflict with the current state: Git Repository is empty.".into(),
        ),
        (
            answer(502, &[], "<html>secret</html>"),
            Passes,
            "GitHub failed with 502; see https://www.githubstatus.com if this persists".into(),
        ),
        (answer(418, &[], "<html>secret</html>"), Stalls, "GitHub answered 418: I'm a teapot".into()),
        (
            answer(200, &[], "<html>"),
            Stalls,
            format!("its answer cannot be read at `.` (expected value at line 1 column 1); {CHECK_URL}"),
        ),
    ];
    for (response, outlook, expected) in table {
        let error = Scripted::new(move |_| response.clone()).github.verify(&token()).await.unwrap_err();
        let expected = format!("GET /installation/repositories at h.example: {expected}");
        assert_eq!((error.to_string(), error.outlook()), (expected, outlook));
    }
}

#[tokio::test]
async fn what_keeps_an_answer_from_coming_is_told_apart() {
    use Outlook::{Passes, Stalls};
    let certificate = |error| std::io::Error::other(rustls::Error::InvalidCertificate(error));
    for (error, outlook, expected) in [
        (
            std::io::Error::from(std::io::ErrorKind::ConnectionReset),
            Passes,
            "the connection ended before the answer was complete (connection reset); if this persists, check the network between here and GitHub",
        ),
        (
            certificate(rustls::CertificateError::UnknownIssuer),
            Stalls,
            "the certificate is signed by an authority that is not trusted here (invalid peer certificate: UnknownIssuer); \
             put that authority's certificate into spec.caBundle",
        ),
        (
            certificate(rustls::CertificateError::NotValidForName),
            Stalls,
            "the certificate is not good for this host (invalid peer certificate: NotValidForName); \
             check spec.apiURL and the certificate GitHub's host presents",
        ),
    ] {
        let error = Arc::new(Mutex::new(Some(error)));
        let cut = Transport::new(service_fn(move |_: Request<OctoBody>| {
            let error = error.lock().unwrap().take().unwrap();
            async move { Err::<Response<Empty<Bytes>>, _>(error) }
        }));
        let error = Scripted::over(cut).github.app().await.unwrap_err();
        assert_eq!(error.to_string(), format!("GET /app at h.example: {expected}"));
        assert_eq!(error.outlook(), outlook);
    }
}
