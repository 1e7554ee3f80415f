use super::*;
use crate::gateway::messages::Caller;
use crate::gateway::refs::{Beside, Origin, OwnBranch, PushPolicy, PushRefs};
use crate::github::{Endpoint, PlainHttp, Transport};
use crate::ids::id;
use crate::runtime::clock::ManualClock;
use http_body_util::Full;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How the controller answers.
#[derive(Clone)]
enum Answer {
    Issues,
    Refuses,
    /// It denies these workspaces for now, and issues to others.
    NotNow(Vec<&'static str>),
    Away,
}

struct Controller {
    answer: Mutex<Answer>,
    clock: Arc<ManualClock>,
    asked: AtomicUsize,
    minted: AtomicUsize,
    released: Mutex<Vec<String>>,
    full_name: Mutex<String>,
    /// The digest of the tokens for a workspace, unless it is that of all others.
    keys: Mutex<HashMap<&'static str, &'static str>>,
}

fn upstream(full_name: &str, token: &Token) -> Upstream {
    let endpoint = Endpoint::parse("https://h.example/api/v3", None, None, PlainHttp::OnLoopback).unwrap();
    let transport = Transport::new(tower::service_fn(|_| async {
        Ok::<_, Infallible>(http::Response::new(Full::new(bytes::Bytes::new())))
    }));
    Upstream::new(&endpoint, full_name, transport, token.clone()).unwrap()
}

impl Issuer for Controller {
    fn issue<'a>(&'a self, wish: Wish<'a>) -> BoxFuture<'a, Result<Issued, NotIssued>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let answer = self.answer.lock().unwrap().clone();
            match answer {
                Answer::Refuses => Err(NotIssued::Denied(NoUpstream::Refused("not granted".into()))),
                Answer::Away => Err(NotIssued::Away("away".into())),
                Answer::NotNow(uids) if uids.contains(&wish.access.uid.as_str()) => {
                    Err(NotIssued::Denied(NoUpstream::Unavailable("not now".into())))
                }
                Answer::NotNow(_) | Answer::Issues => {
                    let expiry = |token: &Token| token.expose().rsplit_once('-').unwrap().1.parse::<i64>().unwrap();
                    let is_good = |token: &&Token| {
                        Timestamp::from_second(expiry(token)).unwrap().duration_since(self.clock.now()) > MARGIN
                            && !wish.refused.contains(token)
                    };
                    let key = self.keys.lock().unwrap().get(wish.access.uid.as_str()).copied().unwrap_or("k");
                    let mut held = wish.held.iter().filter(|held| held.key == key).map(|held| &held.token);
                    let token = held.find(is_good).cloned().unwrap_or_else(|| {
                        let number = self.minted.fetch_add(1, Ordering::SeqCst);
                        let end = self.clock.now().as_second() + 3600;
                        Token::new(format!("ghs_{number}_{:?}-{end}", wish.right))
                    });
                    let expires_at = Timestamp::from_second(expiry(&token)).unwrap();
                    let full_name = self.full_name.lock().unwrap().clone();
                    Ok(Issued { upstream: upstream(&full_name, &token), expires_at, key: key.into() })
                }
            }
        })
    }

    fn release<'a>(&'a self, _: &'a str, token: &'a Token) -> BoxFuture<'a, ()> {
        self.released.lock().unwrap().push(token.expose().to_owned());
        Box::pin(std::future::ready(()))
    }
}

fn access(uid: &str, repository: i64) -> Access {
    let branch = OwnBranch { name: "x".into(), beside: Beside::No, origin: Origin::Workspace };
    Access {
        caller: Caller {
            namespace: "team-a".into(),
            name: "ws-try".into(),
            uid: format!("pod of {uid}"),
            address: "10.0.0.7".parse().unwrap(),
        },
        workspace: "try".into(),
        uid: uid.into(),
        app: "landfall".into(),
        host: "h.example".into(),
        repository: id(repository),
        policy: PushPolicy::new("try", uid, branch, PushRefs::default(), vec![]),
    }
}

struct Scene {
    controller: Arc<Controller>,
    clock: Arc<ManualClock>,
    tokens: Tokens,
}

impl Scene {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-21T01:00:00Z".parse().unwrap()));
        let controller = Arc::new(Controller {
            answer: Mutex::new(Answer::Issues),
            clock: Arc::clone(&clock),
            asked: AtomicUsize::new(0),
            minted: AtomicUsize::new(0),
            released: Mutex::default(),
            full_name: Mutex::new("acme/shop".into()),
            keys: Mutex::default(),
        });
        let tokens =
            Tokens::new(Arc::<Controller>::clone(&controller), Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>);
        Self { controller, clock, tokens }
    }

    fn answers(&self, answer: Answer) {
        *self.controller.answer.lock().unwrap() = answer;
    }

    async fn open(&self, uid: &str, repository: i64, right: Right) -> Result<Arc<Upstream>, NoUpstream> {
        self.tokens.open(&access(uid, repository), right).await
    }

    fn after(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }

    fn minted(&self) -> usize {
        self.controller.minted.load(Ordering::SeqCst)
    }

    fn asked(&self) -> usize {
        self.controller.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_thousand_workspaces_of_ten_repositories_take_twenty_tokens() {
    let scene = Scene::new();
    for repository in 1..=10 {
        let all = (0..100).map(|number| {
            let scene = &scene;
            async move {
                let uid = format!("{repository}-{number}");
                scene.open(&uid, repository, Right::Read).await.unwrap();
                scene.open(&uid, repository, Right::Write).await.unwrap();
            }
        });
        futures::future::join_all(all).await;
    }
    assert_eq!((scene.minted(), scene.tokens.count().await), (20, 20));
}

#[tokio::test]
async fn a_decision_counts_for_a_second_and_a_withdrawn_grant_is_refused_then() {
    let scene = Scene::new();
    let first = scene.open("a", 1, Right::Read).await.unwrap();
    assert!(Arc::ptr_eq(&first, &scene.open("a", 1, Right::Read).await.unwrap()));
    assert_eq!(scene.asked(), 1);
    // Another workspace's decision is its own, also for the token that is held already.
    scene.answers(Answer::Refuses);
    assert!(matches!(scene.open("b", 1, Right::Read).await, Err(NoUpstream::Refused(_))));
    assert!(scene.open("a", 1, Right::Read).await.is_ok(), "within the second");
    scene.after(1);
    assert!(matches!(scene.open("a", 1, Right::Read).await, Err(NoUpstream::Refused(_))));
    // What was refused once is not served while the controller is away.
    scene.answers(Answer::Away);
    assert!(matches!(scene.open("a", 1, Right::Read).await, Err(NoUpstream::Unavailable(_))));
    scene.after(1);
    scene.answers(Answer::Issues);
    assert!(Arc::ptr_eq(&first, &scene.open("a", 1, Right::Read).await.unwrap()));
    assert_eq!(scene.minted(), 1);
}

/// Whoever makes the controller deny for now keeps nothing by it, and takes nothing from others.
#[tokio::test]
async fn a_denial_that_passes_ends_the_decision_about_that_workspace_alone() {
    let scene = Scene::new();
    for uid in ["a", "b"] {
        scene.open(uid, 1, Right::Read).await.unwrap();
    }
    scene.after(1);
    scene.answers(Answer::NotNow(vec!["a"]));
    assert!(matches!(scene.open("a", 1, Right::Read).await, Err(NoUpstream::Unavailable(words)) if words == "not now"));
    let asked = scene.asked();
    assert!(scene.open("b", 1, Right::Read).await.is_ok());
    assert!(scene.open("c", 1, Right::Read).await.is_ok(), "a workspace that is new");
    assert_eq!(scene.asked() - asked, 2, "both are decided about");
    scene.answers(Answer::Away);
    scene.after(1);
    assert!(scene.open("a", 1, Right::Read).await.is_err());
    assert!(scene.open("b", 1, Right::Read).await.is_ok());
}

#[tokio::test]
async fn without_the_controller_what_is_held_serves_on_until_it_ends() {
    let scene = Scene::new();
    scene.open("a", 1, Right::Read).await.unwrap();
    scene.answers(Answer::Away);
    for _ in 0..59 {
        scene.after(60);
        assert!(scene.open("a", 1, Right::Read).await.is_ok());
    }
    assert!(scene.open("b", 1, Right::Read).await.is_err(), "a workspace that was never allowed");
    assert!(scene.open("a", 1, Right::Write).await.is_err(), "a right that is not held");
    scene.after(60);
    assert!(scene.open("a", 1, Right::Read).await.is_err());
    scene.answers(Answer::Issues);
    assert!(scene.open("a", 1, Right::Read).await.is_err(), "it gave no answer a moment ago");
    scene.after(1);
    assert!(scene.open("a", 1, Right::Read).await.is_ok());
    assert_eq!(scene.minted(), 2);
}

/// The controller gives two workspaces of a repository tokens with other permissions.
#[tokio::test]
async fn a_workspace_gets_no_token_that_is_for_something_else() {
    let scene = Scene::new();
    scene.controller.keys.lock().unwrap().insert("b", "workflows");
    let first = scene.open("a", 1, Right::Write).await.unwrap();
    let second = scene.open("b", 1, Right::Write).await.unwrap();
    assert!(first.token() != second.token() && scene.minted() == 2);
    for answer in [Answer::Issues, Answer::Away] {
        scene.answers(answer);
        scene.after(1);
        for _ in 0..2 {
            assert!(Arc::ptr_eq(&first, &scene.open("a", 1, Right::Write).await.unwrap()));
            assert!(Arc::ptr_eq(&second, &scene.open("b", 1, Right::Write).await.unwrap()));
        }
    }
    assert_eq!(scene.minted(), 2);
    // The permissions change: the former token goes, also while the new one is used.
    scene.answers(Answer::Issues);
    scene.controller.keys.lock().unwrap().insert("a", "workflows");
    let was = first.token().expose().to_owned();
    drop(first);
    for _ in 0..11 {
        scene.after(60);
        assert!(Arc::ptr_eq(&second, &scene.open("a", 1, Right::Write).await.unwrap()));
    }
    scene.tokens.sweep().await;
    assert_eq!((scene.tokens.count().await, scene.controller.released.lock().unwrap().clone()), (1, vec![was]));
}

#[tokio::test]
async fn the_token_of_a_transfer_that_goes_on_is_not_revoked() {
    let scene = Scene::new();
    let transfer = scene.open("a", 1, Right::Write).await.unwrap();
    scene.after(30 * 60);
    scene.tokens.sweep().await;
    assert_eq!(scene.tokens.count().await, 1);
    assert!(scene.controller.released.lock().unwrap().is_empty());
    // Another stranger's refusal of it is no transfer.
    scene.tokens.refused(&access("a", 1), Right::Write, &transfer);
    drop(transfer);
    scene.tokens.sweep().await;
    assert_eq!(scene.tokens.count().await, 0);
}

#[tokio::test]
async fn a_token_is_replaced_ahead_of_its_end_and_after_a_refusal() {
    let scene = Scene::new();
    let first = scene.open("a", 1, Right::Write).await.unwrap();
    scene.after(49 * 60);
    assert!(Arc::ptr_eq(&first, &scene.open("a", 1, Right::Write).await.unwrap()));
    scene.after(60);
    let second = scene.open("a", 1, Right::Write).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second) && scene.minted() == 2);
    let workspace = access("a", 1);
    // The first is no longer held, so its refusal concerns nobody.
    scene.tokens.refused(&workspace, Right::Write, &first);
    assert!(Arc::ptr_eq(&second, &scene.open("a", 1, Right::Write).await.unwrap()));
    scene.tokens.refused(&workspace, Right::Write, &second);
    let third = scene.open("a", 1, Right::Write).await.unwrap();
    assert!(!Arc::ptr_eq(&second, &third) && scene.minted() == 3, "a stranger revoked it");
    assert!(Arc::ptr_eq(&third, &scene.open("a", 1, Right::Write).await.unwrap()));
}

#[tokio::test]
async fn a_repository_that_moved_is_reached_by_its_new_name_with_the_same_token() {
    let scene = Scene::new();
    let first = scene.open("a", 1, Right::Read).await.unwrap();
    *scene.controller.full_name.lock().unwrap() = "acme/store".into();
    scene.after(1);
    let second = scene.open("a", 1, Right::Read).await.unwrap();
    assert_eq!(second.remote().to_string(), "https://h.example/acme/store.git");
    assert!(first.token() == second.token() && scene.minted() == 1);
}

#[tokio::test]
async fn what_nobody_uses_is_revoked_and_forgotten() {
    let scene = Scene::new();
    scene.open("a", 1, Right::Read).await.unwrap();
    scene.open("a", 2, Right::Read).await.unwrap();
    scene.after(9 * 60);
    scene.open("a", 2, Right::Read).await.unwrap();
    scene.tokens.sweep().await;
    assert_eq!(scene.tokens.count().await, 2);
    scene.after(60);
    scene.tokens.sweep().await;
    let released = || scene.controller.released.lock().unwrap().len();
    assert_eq!((scene.tokens.count().await, released()), (1, 1));
    scene.after(3600);
    scene.tokens.sweep().await;
    assert_eq!(released(), 1, "one that has ended needs no revocation");
    assert!(scene.tokens.entries.lock().unwrap().is_empty());
}
