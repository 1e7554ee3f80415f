use super::*;
use crate::github::scripted::{Scripted, answer, refusal};
use crate::ids::id;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Scene {
    scripted: Scripted,
    tokens: RepositoryTokens,
}

fn key(level: &str) -> Key {
    Key {
        app: "landfall".into(),
        connection: "c".into(),
        installation: id(501),
        repository: id(9001),
        permissions: [("contents".to_owned(), level.to_owned()), ("metadata".to_owned(), "read".to_owned())].into(),
    }
}

/// A GitHub whose tokens have numbers. `change` changes what it answers to a mint.
fn scene(change: impl Fn(&mut serde_json::Value) + Send + Sync + 'static) -> Scene {
    let number = AtomicUsize::new(0);
    let scripted = Scripted::new(move |sent| {
        if sent.method == "DELETE" {
            return answer(204, &[], "");
        }
        let body: serde_json::Value = serde_json::from_str(&sent.body).unwrap();
        let mut minted = json!({
            "token": format!("ghs_{}", number.fetch_add(1, Ordering::SeqCst)), "expires_at": "2026-11-21T02:00:00Z",
            "permissions": body["permissions"], "repository_selection": "selected",
            "repositories": [{"id": 9001, "node_id": "R", "name": "shop", "full_name": "acme/shop", "private": true}],
        });
        change(&mut minted);
        answer(201, &[], &minted.to_string())
    });
    let clock = Arc::clone(&scripted.clock) as Arc<dyn Clock>;
    let tokens = RepositoryTokens::new(clock, Arc::default(), Metrics::new());
    Scene { scripted, tokens }
}

impl Scene {
    async fn issue(
        &self,
        gateway: &str,
        held: Option<&HeldToken>,
        refused: Option<&Token>,
    ) -> Result<HeldToken, Denied> {
        self.issue_for(&key("read"), gateway, held, refused).await
    }

    async fn issue_for(
        &self,
        key: &Key,
        gateway: &str,
        held: Option<&HeldToken>,
        refused: Option<&Token>,
    ) -> Result<HeldToken, Denied> {
        let payer = Caller { uid: "gateway: 9001", namespace: "team-a", app: "landfall" };
        let (held, refused) = (held.cloned().into_iter().collect(), refused.cloned().into_iter().collect());
        let asked = Asked { gateway, payer, limits: Limits::OfGitHub, held, refused };
        self.tokens.issue(key, asked, &self.scripted.github).await
    }

    fn held(&self, token: &str, minutes: i64) -> HeldToken {
        let expires_at = self.scripted.clock.now() + SignedDuration::from_mins(minutes);
        HeldToken { token: Token::new(token.into()), expires_at, key: key("read").digest() }
    }

    /// How many tokens were minted and how many revoked.
    fn calls(&self) -> [usize; 2] {
        ["POST", "DELETE"].map(|method| self.scripted.lines().iter().filter(|line| line.starts_with(method)).count())
    }

    fn pass(&self, minutes: i64) {
        self.scripted.clock.advance(SignedDuration::from_mins(minutes));
    }
}

#[tokio::test]
async fn one_token_serves_all_and_is_renewed_before_its_end() {
    let scene = scene(|_| {});
    let first = scene.issue("a", None, None).await.unwrap();
    for gateway in ["a", "b"] {
        assert_eq!(scene.issue(gateway, Some(&first), None).await.unwrap(), first);
        assert_eq!(scene.issue(gateway, None, None).await.unwrap(), first);
    }
    assert_eq!(scene.calls(), [1, 0]);
    scene.pass(51);
    let second = scene.issue("a", Some(&first), None).await.unwrap();
    assert!(second.token != first.token && scene.calls() == [2, 0]);
}

/// This process has just started: it knows no token, and a gateway names one.
#[tokio::test]
async fn a_token_that_a_gateway_holds_is_taken_over_while_it_is_good() {
    let scene = scene(|_| {});
    let held = scene.held("ghs_held", 40);
    assert_eq!(scene.issue("a", Some(&held), None).await.unwrap(), held);
    assert_eq!(scene.issue("b", None, None).await.unwrap(), held, "another gateway gets it as well");
    assert_eq!(scene.calls(), [0, 0]);
    for (minutes, refused) in [(5, None), (-1, None), (600, None), (40, Some("ghs_held"))] {
        let scene = self::scene(|_| {});
        let held = scene.held("ghs_held", minutes);
        let refused = refused.map(|token: &str| Token::new(token.into()));
        let issued = scene.issue("a", Some(&held), refused.as_ref()).await.unwrap();
        assert!(issued.token != held.token && scene.calls() == [1, 0], "{minutes} {refused:?}");
    }
}

/// A gateway names a token of the same repository, which GitHub gave for something else.
#[tokio::test]
async fn a_token_for_something_else_is_not_taken_over() {
    let scene = scene(|_| {});
    let wide = key("write");
    let given = scene.issue_for(&wide, "a", None, None).await.unwrap();
    // As it is, and as a gateway would name it that says otherwise.
    for held in [given.clone(), HeldToken { key: key("read").digest(), ..given.clone() }] {
        let issued = scene.issue("a", Some(&held), None).await.unwrap();
        assert!(issued.token != given.token && scene.calls() == [2, 0]);
    }
    // After a start of this process, the digest alone tells.
    let change: [fn(&mut Key); 5] = [
        |key| key.app = "other".into(),
        |key| key.connection = "other".into(),
        |key| key.installation = id(502),
        |key| key.repository = id(9002),
        |key| drop(key.permissions.insert("workflows".into(), "write".into())),
    ];
    for change in change {
        let scene = self::scene(|_| {});
        let mut other = key("read");
        change(&mut other);
        let held = HeldToken { key: other.digest(), ..scene.held("ghs_held", 40) };
        let issued = scene.issue("a", Some(&held), None).await.unwrap();
        assert!(issued.token != held.token && scene.calls() == [1, 0], "{other:?}");
    }
}

#[tokio::test]
async fn a_token_is_revoked_when_nobody_uses_it() {
    let scene = scene(|_| {});
    let token = scene.issue("a", None, None).await.unwrap();
    scene.issue("b", None, None).await.unwrap();
    assert!(!scene.tokens.release("a", "landfall-system", &token.token), "another gateway uses it");
    assert!(scene.tokens.release("b", "landfall-system", &token.token));
    scene.tokens.revoke(&scene.scripted.github, &token.token).await;
    // The gateway that still holds it gets another one.
    assert!(scene.issue("a", Some(&token), None).await.unwrap().token != token.token);
    assert_eq!(scene.calls(), [2, 1]);
    assert_eq!(scene.tokens.unused(), []);
    scene.pass(44);
    assert_eq!(scene.tokens.unused(), [], "a push may go on");
    scene.pass(1);
    let unused = scene.tokens.unused();
    assert_eq!(unused.len(), 1);
    assert_eq!(scene.tokens.unused(), []);
    // Of tokens that this process does not know, GitHub is sent a few.
    let unknown = (0..20).filter(|n| scene.tokens.release("a", "landfall-system", &Token::new(format!("ghs_x{n}"))));
    assert!((1..10).contains(&unknown.count()));
}

#[tokio::test]
async fn a_token_that_github_refused_is_replaced_once() {
    let scene = scene(|_| {});
    let token = scene.issue("a", None, None).await.unwrap();
    let github = &scene.scripted.github;
    assert!(!scene.tokens.refuse(&key("write"), &token.token, github).await);
    assert!(scene.tokens.refuse(&key("read"), &token.token, github).await);
    assert!(!scene.tokens.refuse(&key("read"), &token.token, github).await);
    let second = scene.issue("a", Some(&token), Some(&token.token)).await.unwrap();
    assert!(second.token != token.token);
    assert_eq!(scene.issue("b", Some(&token), Some(&token.token)).await.unwrap(), second);
    assert_eq!(scene.calls(), [2, 1]);
}

#[tokio::test]
async fn a_token_with_more_than_was_asked_for_is_revoked() {
    let changes: [fn(&mut serde_json::Value); 3] = [
        |minted| minted["permissions"]["contents"] = json!("write"),
        |minted| minted["permissions"]["issues"] = json!("read"),
        |minted| minted["repositories"][0]["id"] = json!(9002),
    ];
    for change in changes {
        let scene = scene(change);
        let refused = scene.issue("a", None, None).await.unwrap_err();
        assert!(matches!(&refused, Denied::NotNow(words) if words.contains("it was revoked")), "{refused:?}");
        assert_eq!(scene.calls(), [1, 1]);
    }
}

/// An outage costs no ration, and a token that ends soon serves on. Without a person nothing gets better after a refusal.
#[tokio::test]
async fn github_does_not_mint() {
    let scripted = Scripted::new(|_| refusal(502, "Bad Gateway"));
    let tokens = RepositoryTokens::new(Arc::clone(&scripted.clock) as _, Arc::default(), Metrics::new());
    let scene = Scene { scripted, tokens };
    assert!(matches!(scene.issue("a", None, None).await, Err(Denied::NotNow(_))));
    let held = scene.held("ghs_held", 5);
    assert_eq!(scene.issue("a", Some(&held), None).await.unwrap(), held, "it ends soon");
    let scripted = Scripted::new(|_| refusal(403, "Resource not accessible by integration"));
    let tokens = RepositoryTokens::new(Arc::clone(&scripted.clock) as _, Arc::default(), Metrics::new());
    let scene = Scene { scripted, tokens };
    assert!(matches!(scene.issue("a", None, None).await, Err(Denied::Refused(_))));
}
