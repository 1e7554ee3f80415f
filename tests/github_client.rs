//! The GitHub client against a GitHub that behaves, over TLS, as on GitHub Enterprise Server with a private authority.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use github_sim::{
    AccountSeed, AccountType, AppKey, AppSeed, Caller, Fault, FaultKind, Install, Level, Options, Permissions, Push,
    RepositorySeed, Seed, Selection, Sim,
};
use landfall::github::{
    AppCredentials, Connect, Endpoint, Error, ForkBranches, GitHub, HookConfigWanted, HookWanted, HttpsConnect, Ignore,
    MergeType, NewPull, NotOpened, Outlook, PlainHttp, PullState, Relation, Repositories, RepositorySelection,
    Revocation, Scope, Token, Unreached, WebhookSecret,
};
use landfall::ids::NotAnId;
use landfall::runtime::clock::{Clock, ManualClock};

struct World {
    sim: Sim,
    key: AppKey,
    clock: Arc<ManualClock>,
    github: GitHub,
}

fn as_id<I: TryFrom<u64, Error = NotAnId>>(number: u64) -> I {
    number.try_into().unwrap()
}

fn account(login: &str) -> AccountSeed {
    AccountSeed { login: login.into(), kind: AccountType::Organization, ..AccountSeed::default() }
}

fn permissions() -> Permissions {
    [
        ("administration", Level::Write),
        ("contents", Level::Write),
        ("metadata", Level::Read),
        ("pull_requests", Level::Write),
        ("repository_hooks", Level::Write),
    ]
    .map(|(name, level)| (name.to_owned(), level))
    .into()
}

impl World {
    async fn new(accounts: Vec<AccountSeed>) -> Self {
        let key = AppKey::generate().unwrap();
        let app = AppSeed {
            name: "Landfall".into(),
            owner: "acme".into(),
            id: Some(4711),
            public_key: Some(key.public_pem().into()),
            permissions: permissions(),
            ..AppSeed::default()
        };
        let repository = |name: &str| RepositorySeed {
            owner: "acme".into(),
            name: name.into(),
            private: true,
            empty: true,
            ..RepositorySeed::default()
        };
        let seed = Seed {
            accounts: accounts.into_iter().chain([account("acme")]).collect(),
            apps: vec![app],
            repositories: vec![repository("shop"), repository("till")],
            ..Seed::default()
        };
        let sim = Sim::start(Options { listen: "127.0.0.1:0".parse().unwrap(), tls: true, seed }).await.unwrap();
        let clock = Arc::new(ManualClock::new(sim.now()));
        let github = client(&sim, &clock, Some(sim.ca_pem()), key.private_pem(), None);
        Self { sim, key, clock, github }
    }

    fn install(&self) -> u64 {
        self.sim.install(&Install { app: "landfall".into(), account: "acme".into(), ..Install::default() }).unwrap()
    }

    /// A token of a new installation in acme, for all of its repositories.
    async fn token(&self, written: &[&str]) -> Token {
        let permissions = written.iter().map(|name| (String::from(*name), "write".to_owned())).collect();
        let scope = Scope { repositories: Repositories::All, permissions };
        self.github.mint(as_id(self.install()), &scope).await.unwrap().token
    }

    fn advance(&self, by: Duration) {
        self.sim.advance(by);
        self.clock.advance(by);
    }
}

fn client(sim: &Sim, clock: &Arc<ManualClock>, ca: Option<&str>, key: &str, next: Option<&str>) -> GitHub {
    let endpoint = Endpoint::parse(&sim.api_url(), None, None, PlainHttp::OnLoopback).unwrap();
    let transport = HttpsConnect::new().connect(ca.map(str::as_bytes)).unwrap();
    let credentials = AppCredentials::parse("4711", key.as_bytes(), next.map(str::as_bytes)).unwrap();
    let clock: Arc<dyn Clock> = clock.clone();
    GitHub::new(endpoint, transport, credentials, clock, Arc::new(Ignore))
}

fn scope(repositories: Repositories, level: &str) -> Scope {
    Scope { repositories, permissions: BTreeMap::from([("contents".into(), level.into())]) }
}

fn shop() -> Scope {
    scope(Repositories::Names(vec!["shop".into()]), "read")
}

#[tokio::test]
async fn a_token_lives_from_mint_to_revocation() {
    let world = World::new(vec![]).await;
    let github = &world.github;
    let id = world.install();

    let app = github.app().await.unwrap();
    assert_eq!(
        (app.id, app.slug().unwrap(), app.owner.as_ref().unwrap().login.as_str()),
        (as_id(4711), "landfall", "acme")
    );
    let bot = github.bot_user("landfall").await.unwrap();
    assert_eq!((bot.login.as_str(), bot.kind.as_str()), ("landfall[bot]", "Bot"));
    let installations = github.installations().await.unwrap();
    let [installation] = &installations[..] else { panic!("{} installations", installations.len()) };
    assert_eq!((installation.id, installation.account.as_ref().unwrap().login.as_str()), (as_id(id), "acme"));

    let before = world.sim.now();
    let minted = github.mint(as_id(id), &shop()).await.unwrap();
    assert_eq!(minted.repository_selection, Some(RepositorySelection::Selected));
    let repositories = minted.repositories.unwrap();
    assert_eq!(repositories.len(), 1);
    assert_eq!(repositories[0].full_name, "acme/shop");
    assert_eq!(Some(repositories[0].id), world.sim.repository_id("acme/shop").map(as_id));
    assert_eq!(minted.permissions["contents"], landfall::github::Level::Read);
    // GitHub writes whole seconds.
    let possible = before.as_second() + 3600..=world.sim.now().as_second() + 3600;
    assert!(possible.contains(&minted.expires_at.as_second()), "{} is not in {possible:?}", minted.expires_at);

    github.verify(&minted.token).await.unwrap();
    assert_eq!(world.sim.live_tokens().len(), 1);
    assert_eq!(github.revoke(&minted.token).await.unwrap(), Revocation::Revoked);
    assert_eq!(world.sim.live_tokens().len(), 0);
    assert_eq!(github.revoke(&minted.token).await.unwrap(), Revocation::AlreadyDead);
    assert!(matches!(github.verify(&minted.token).await, Err(Error::TokenRefused { .. })));

    let requests = world.sim.requests();
    assert!(requests.iter().all(|request| !request.unknown && request.user_agent.starts_with("landfall/")));
    let callers: Vec<_> = requests.iter().map(|request| request.caller).collect();
    let (app, installation) = (Caller::App(4711), Caller::Installation(id));
    let expected = [app, Caller::None, app, app, installation, installation, Caller::None, Caller::None];
    assert_eq!(callers, expected, "{requests:#?}");
}

#[tokio::test]
async fn every_page_of_installations_is_read() {
    let logins: Vec<String> = (0..104).map(|number| format!("team-{number}")).collect();
    let world = World::new(logins.iter().map(|login| account(login)).collect()).await;
    for login in &logins {
        world.sim.install(&Install { app: "landfall".into(), account: login.clone(), ..Install::default() }).unwrap();
    }
    assert_eq!(world.github.installations().await.unwrap().len(), 104);
    assert_eq!(world.sim.requests().len(), 2);
}

#[tokio::test]
async fn only_a_known_authority_is_trusted() {
    let world = World::new(vec![]).await;
    let stranger = client(&world.sim, &world.clock, None, world.key.private_pem(), None);
    let error = stranger.app().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Unreached::Untrusted, .. }), "{error}");
    assert!(error.to_string().ends_with("put that authority's certificate into spec.caBundle"), "{error}");
    assert_eq!(error.outlook(), Outlook::Stalls);
    assert!(world.sim.requests().is_empty());
}

#[tokio::test]
async fn the_next_key_takes_over_when_the_current_one_is_deleted() {
    let world = World::new(vec![]).await;
    let deleted = AppKey::generate().unwrap();
    let ca = Some(world.sim.ca_pem());
    let github = client(&world.sim, &world.clock, ca, deleted.private_pem(), Some(world.key.private_pem()));
    github.app().await.unwrap();
    github.app().await.unwrap();
    let statuses: Vec<_> = world.sim.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(401), Some(200), Some(200)]);

    let github = client(&world.sim, &world.clock, ca, deleted.private_pem(), None);
    let error = github.app().await.unwrap_err();
    assert!(matches!(error, Error::CredentialsRefused { skew: None, .. }), "{error}");
    assert_eq!(error.outlook(), Outlook::Stalls);
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named() {
    let world = World::new(vec![]).await;
    world.clock.advance(Duration::from_mins(15));
    let error = world.github.app().await.unwrap_err().to_string();
    assert!(error.contains(" s ahead of GitHub's: correct it"), "{error}");
}

#[tokio::test]
async fn what_a_person_changed_is_told_apart() {
    let world = World::new(vec![]).await;
    let github = &world.github;
    let id = world.install();

    let wider = scope(Repositories::All, "admin");
    for scope in [wider, Scope { permissions: [("issues".into(), "read".into())].into(), ..shop() }] {
        let error = github.mint(as_id(id), &scope).await.unwrap_err();
        assert!(matches!(error, Error::Unprocessable { .. }), "{error}");
    }
    world.sim.select_repositories(id, &Selection::Selected(vec!["till".into()])).unwrap();
    let error = github.mint(as_id(id), &shop()).await.unwrap_err();
    assert!(matches!(error, Error::Unprocessable { .. }), "{error}");

    world.sim.suspend(id).unwrap();
    let error = github.mint(as_id(id), &scope(Repositories::All, "read")).await.unwrap_err();
    assert!(matches!(error, Error::Suspended { .. }), "{error}");
    let installations = github.installations().await.unwrap();
    assert_eq!(installations.len(), 1, "suspended installations are listed");
    assert!(installations[0].suspended_at.is_some());

    world.sim.uninstall(id).unwrap();
    let error = github.mint(as_id(id), &scope(Repositories::All, "read")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_eq!(github.installations().await.unwrap(), []);
    assert_eq!(world.sim.live_tokens().len(), 0);
}

#[tokio::test]
async fn a_lost_answer_is_not_asked_for_again() {
    let world = World::new(vec![]).await;
    let id = world.install();
    let mint = "/app/installations/*/access_tokens";
    for (kind, tokens) in [(FaultKind::Cut, 0), (FaultKind::LoseResponse, 1)] {
        // On a connection that was used before, too: there a client may take the cut for one from before the request.
        world.github.app().await.unwrap();
        world.sim.inject(Fault::new("POST", mint, kind));
        let error = world.github.mint(as_id(id), &shop()).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { reason: Unreached::Cut, .. }), "{error}");
        assert_eq!(error.outlook(), Outlook::Passes);
        assert_eq!(world.sim.live_tokens().len(), tokens);
    }
    assert_eq!(world.sim.requests().len(), 4);

    world.sim.inject(Fault::new("POST", mint, FaultKind::FreshToken { uses: 1, status: 401 }));
    let minted = world.github.mint(as_id(id), &shop()).await.unwrap();
    let error = world.github.verify(&minted.token).await.unwrap_err();
    assert_eq!(error.outlook(), Outlook::Passes);
    world.github.verify(&minted.token).await.unwrap();
}

#[tokio::test]
async fn an_empty_budget_waits_for_its_reset_and_leaves_others_alone() {
    let world = World::new(vec![]).await;
    world.sim.set_rate_limit(3);
    let id = world.install();
    let minted = world.github.mint(as_id(id), &shop()).await.unwrap();
    world.github.app().await.unwrap();
    world.github.app().await.unwrap();
    let asked = world.sim.requests().len();
    let error = world.github.app().await.unwrap_err();
    let Outlook::Waits(until) = error.outlook() else { panic!("{error}") };
    assert!(matches!(error, Error::RateLimited { secondary: false, .. }), "{error}");
    assert_eq!(world.sim.requests().len(), asked, "GitHub was not asked");
    world.github.verify(&minted.token).await.unwrap();
    world.advance(Duration::try_from(until.duration_since(world.clock.now())).unwrap() + Duration::from_secs(1));
    world.github.app().await.unwrap();
}

#[tokio::test]
async fn a_secondary_limit_without_a_time_waits_a_minute() {
    let world = World::new(vec![]).await;
    let message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
    let body = Some(serde_json::json!({ "message": message }));
    world.sim.inject(Fault::new("GET", "/app", FaultKind::Status { status: 403, body, headers: BTreeMap::new() }));
    for _ in 0..2 {
        let error = world.github.app().await.unwrap_err();
        assert_eq!(error.outlook(), Outlook::Waits(world.clock.now() + Duration::from_mins(1)), "{error}");
    }
    assert_eq!(world.sim.requests().len(), 1);
    world.advance(Duration::from_mins(1));
    world.github.app().await.unwrap();
}

fn hook() -> HookWanted {
    // Nobody listens there: what GitHub sends is of no matter here.
    let url = "https://127.0.0.1:9/webhooks/repo/landfall/1".into();
    let config = HookConfigWanted { url, secret: WebhookSecret::new("5ec4e7".repeat(10)) };
    HookWanted { events: vec!["push".into(), "repository".into()], config }
}

#[tokio::test]
async fn a_repository_is_found_by_its_id_whatever_it_is_called() {
    let world = World::new(vec![]).await;
    let github = &world.github;
    let token = world.token(&["contents", "pull_requests"]).await;
    let id = as_id(world.sim.repository_id("acme/shop").unwrap());
    let shop = github.repository(&token, id).await.unwrap();
    assert_eq!((shop.id, shop.full_name.as_str()), (id, "acme/shop"));
    assert_eq!((shop.archived, shop.disabled, shop.fork, shop.private), (Some(false), Some(false), Some(false), true));
    assert_eq!((shop.default_branch.as_deref(), shop.owner.as_ref().unwrap().login.as_str()), (Some("main"), "acme"));
    assert!(shop.clone_url.as_ref().unwrap().ends_with("/acme/shop.git"), "{shop:?}");

    world.sim.rename_repository("acme/shop", "store").unwrap();
    let store = github.repository(&token, shop.id).await.unwrap();
    assert_eq!((store.id, store.full_name.as_str()), (shop.id, "acme/store"));
    let pulls = async || github.pull_requests(&token, "acme", "shop", "acme:main").await;
    pulls().await.expect("a former name is redirected");

    let seed = RepositorySeed { owner: "acme".into(), name: "shop".into(), private: true, ..RepositorySeed::default() };
    world.sim.create_repository(&seed).unwrap();
    assert_eq!(github.repository(&token, shop.id).await.unwrap().full_name, "acme/store", "also once it is taken");

    world.sim.delete_repository("acme/store").unwrap();
    let error = github.repository(&token, shop.id).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_hook_is_made_found_mended_and_removed() {
    let world = World::new(vec![]).await;
    let github = &world.github;
    let token = world.token(&["repository_hooks"]).await;
    let wanted = hook();
    assert_eq!(github.hooks(&token, "acme", "shop").await.unwrap(), []);
    let made = github.create_hook(&token, "acme", "shop", &wanted).await.unwrap();
    assert!(wanted.sends_as(&made) && wanted.config.is_met_by(&made.config), "{made:?}");
    let error = github.create_hook(&token, "acme", "shop", &wanted).await.unwrap_err();
    let Error::Unprocessable { errors, .. } = &error else { panic!("{error}") };
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((error.resource.as_str(), error.code.as_str()), ("Hook", "custom"));
    assert_eq!(error.to_string(), "Hook: Hook already exists on this repository");
    assert_eq!(github.hooks(&token, "acme", "shop").await.unwrap(), std::slice::from_ref(&made));

    let other = HookConfigWanted { url: "https://127.0.0.1:9/other".into(), ..wanted.config.clone() };
    let config = github.update_hook_config(&token, "acme", "shop", made.id, &other).await.unwrap();
    assert!(other.is_met_by(&config), "{config:?}");
    let narrower = HookWanted { events: vec!["push".into()], ..wanted.clone() };
    let changed = github.update_hook(&token, "acme", "shop", made.id, &narrower).await.unwrap();
    assert!(narrower.sends_as(&changed), "{changed:?}");
    assert!(other.is_met_by(&changed.config), "its configuration is left as it was, secret and all: {changed:?}");

    for _ in 0..2 {
        github.delete_hook(&token, "acme", "shop", made.id).await.unwrap();
    }
    assert_eq!(github.hooks(&token, "acme", "shop").await.unwrap(), []);
    let error = github.update_hook(&token, "acme", "shop", made.id, &wanted).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn hooks_are_found_on_every_page() {
    let world = World::new(vec![]).await;
    let token = world.token(&["repository_hooks"]).await;
    let events = ["push", "fork", "star", "watch", "release", "issues"];
    for number in 0..104 {
        let mut wanted = hook();
        wanted.events = vec![events[number / 20].into()];
        wanted.config.url = format!("https://127.0.0.1:9/{number}");
        world.github.create_hook(&token, "acme", "shop", &wanted).await.unwrap();
    }
    let asked = world.sim.requests().len();
    assert_eq!(world.github.hooks(&token, "acme", "shop").await.unwrap().len(), 104);
    assert_eq!(world.sim.requests().len(), asked + 2);
}

#[tokio::test]
async fn a_hook_is_not_made_at_a_repository_that_took_another_name() {
    let world = World::new(vec![]).await;
    let token = world.token(&["repository_hooks"]).await;
    world.sim.rename_repository("acme/shop", "store").unwrap();
    let error = world.github.create_hook(&token, "acme", "shop", &hook()).await.unwrap_err();
    assert!(matches!(error, Error::Moved { .. }), "{error}");
    assert_eq!(error.outlook(), Outlook::Passes);
    assert_eq!(world.github.hooks(&token, "acme", "store").await.unwrap(), []);
}

#[tokio::test]
async fn a_token_without_the_permission_is_told_apart() {
    let world = World::new(vec![]).await;
    let token = world.token(&["contents"]).await;
    let error = world.github.create_hook(&token, "acme", "shop", &hook()).await.unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
}

#[tokio::test]
async fn an_archived_repository_is_told_and_is_not_changed() {
    let world = World::new(vec![]).await;
    let token = world.token(&["repository_hooks"]).await;
    world.sim.set_archived("acme/shop", true).unwrap();
    assert_eq!(
        world.github.repository(&token, as_id(world.sim.repository_id("acme/shop").unwrap())).await.unwrap().archived,
        Some(true)
    );
    let error = world.github.create_hook(&token, "acme", "shop", &hook()).await.unwrap_err();
    assert!(matches!(error, Error::Archived { .. }), "{error}");
}

#[tokio::test]
async fn the_apps_hook_is_read_and_set() {
    let world = World::new(vec![]).await;
    let wanted = hook().config;
    let before = world.github.app_hook_config().await.unwrap();
    assert_eq!((before.url.as_deref(), before.has_secret), (None, false));
    let after = world.github.update_app_hook_config(&wanted).await.unwrap();
    assert!(wanted.is_met_by(&after), "{after:?}");
    assert_eq!(world.github.app_hook_config().await.unwrap(), after);
}

#[tokio::test]
async fn a_fork_is_made_once_and_kept_in_step_until_it_has_gone_its_own_way() {
    let world = World::new(vec![account("up")]).await;
    let (sim, github) = (&world.sim, &world.github);
    let repository = |name: &str, empty| RepositorySeed {
        owner: "up".into(),
        name: name.into(),
        empty,
        ..RepositorySeed::default()
    };
    let source = sim.create_repository(&repository("lib", false)).unwrap();
    sim.create_repository(&repository("hollow", true)).unwrap();
    sim.install(&Install { app: "landfall".into(), account: "up".into(), ..Install::default() }).unwrap();
    let token = world.token(&["administration", "contents"]).await;
    let push = |repository: &str, content: &str| {
        let push = Push {
            repository: repository.into(),
            path: "a.txt".into(),
            content: content.into(),
            message: Some("Change a".into()),
            ..Push::default()
        };
        sim.push(&push).unwrap()
    };
    let merge = async || github.merge_upstream(&token, "acme", "lib", "main").await;
    let compare = async || github.compare(&token, "acme", "lib", "up:main", "main").await.unwrap();

    let fork = github.create_fork(&token, "up", "lib", Some("acme"), None, ForkBranches::Default).await.unwrap();
    assert_eq!((fork.full_name.as_str(), fork.fork), ("acme/lib", Some(true)));
    assert_eq!(fork.parent.as_ref().map(|parent| parent.id), Some(as_id(source)));
    let again = github.create_fork(&token, "up", "lib", None, Some("other"), ForkBranches::Default).await.unwrap();
    assert_eq!((again.id, again.full_name.as_str()), (fork.id, "acme/lib"), "one that is there, under its own name");
    let error = github.create_fork(&token, "up", "hollow", None, None, ForkBranches::Default).await.unwrap_err();
    assert!(matches!(&error, Error::Forbidden { message, .. } if message.contains("cannot be forked")), "{error}");

    assert_eq!(compare().await.status, Relation::Identical);
    let head = push("up/lib", "one");
    let behind = compare().await;
    assert_eq!((behind.status, behind.ahead_by, behind.behind_by), (Relation::Behind, 0, 1));
    assert_eq!(merge().await.unwrap().merge_type, Some(MergeType::FastForward));
    assert_eq!(sim.head("acme/lib", "main"), Some(head));
    assert_eq!(merge().await.unwrap().merge_type, Some(MergeType::None));

    push("up/lib", "two");
    push("acme/lib", "three");
    let diverged = compare().await;
    assert_eq!((diverged.status, diverged.ahead_by, diverged.behind_by), (Relation::Diverged, 1, 1));
    let error = merge().await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");

    let error = github.merge_upstream(&token, "acme", "lib", "nowhere").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = github.merge_upstream(&token, "acme", "shop", "main").await.unwrap_err();
    assert!(matches!(error, Error::Unprocessable { .. }), "{error}");
}

/// A world whose shop has a commit on `main`, and one more on `work`.
async fn with_work() -> World {
    let world = World::new(vec![]).await;
    for branch in ["main", "work"] {
        push(&world, "acme/shop", branch);
    }
    world
}

/// A commit on a branch, which begins at `main` if it is not there yet.
fn push(world: &World, repository: &str, branch: &str) {
    let push = Push {
        repository: repository.into(),
        branch: Some(branch.into()),
        path: branch.into(),
        content: "text".into(),
        message: None,
    };
    world.sim.push(&push).unwrap();
}

const WORK: NewPull<'_> = NewPull { title: "Work", head: "work", base: "main", body: "Of today.", draft: true };

#[tokio::test]
async fn a_pull_request_is_opened_found_made_ready_and_closed() {
    let world = with_work().await;
    let (github, token) = (&world.github, world.token(&["contents", "pull_requests"]).await);
    assert_eq!(github.pull_requests(&token, "acme", "shop", "acme:work").await.unwrap(), []);
    let opened = github.open_pull_request(&token, "acme", "shop", &WORK).await.unwrap();
    assert_eq!((opened.number, &opened.state, opened.draft), (1, &PullState::Open, true));
    assert_eq!(Some(&opened.head.sha), world.sim.head("acme/shop", "work").as_ref());
    assert_eq!(opened.head.repo.as_ref().map(|repo| repo.id), world.sim.repository_id("acme/shop").map(as_id));
    let found = github.pull_requests(&token, "acme", "shop", "acme:work").await.unwrap();
    assert_eq!(found, std::slice::from_ref(&opened));
    assert_eq!(github.pull_requests(&token, "acme", "shop", "acme:main").await.unwrap(), []);

    github.add_labels(&token, "acme", "shop", 1, &["bot", "needs review"]).await.unwrap();
    github.ready_for_review(&token, &opened.node_id).await.unwrap();
    assert!(!github.pull_request(&token, "acme", "shop", 1).await.unwrap().draft);
    let closed = github.close_pull_request(&token, "acme", "shop", 1).await.unwrap();
    assert_eq!((&closed.state, closed.merged_at), (&PullState::Closed, None));
    assert_eq!(github.pull_requests(&token, "acme", "shop", "acme:work").await.unwrap(), [closed]);

    let error = github.ready_for_review(&token, &opened.node_id).await.unwrap_err();
    assert!(matches!(&error, Error::Unprocessable { message, .. } if message == "Pull request is closed"), "{error}");
    let error = github.ready_for_review(&token, "PR_nothing").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn ready_for_review_takes_contents_besides() {
    let world = with_work().await;
    let (github, narrow) = (&world.github, world.token(&["pull_requests"]).await);
    let opened = github.open_pull_request(&narrow, "acme", "shop", &WORK).await.unwrap();
    let error = github.ready_for_review(&narrow, &opened.node_id).await.unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert!(github.pull_request(&narrow, "acme", "shop", 1).await.unwrap().draft);
}

#[tokio::test]
async fn why_a_pull_request_is_not_opened_is_told_apart() {
    let world = with_work().await;
    let (github, token) = (&world.github, world.token(&["contents", "pull_requests"]).await);
    let mut found = Vec::new();
    for wanted in [
        WORK,
        NewPull { draft: false, ..WORK },
        NewPull { draft: false, head: "acme:work", ..WORK },
        NewPull { draft: false, head: "main", ..WORK },
        NewPull { draft: false, head: "nothing", ..WORK },
        NewPull { draft: false, base: "nothing", ..WORK },
        NewPull { draft: false, title: "", ..WORK },
    ] {
        let error = github.open_pull_request(&token, "acme", "shop", &wanted).await.err();
        found.push(error.as_ref().map(NotOpened::of));
    }
    let expected = [
        None,
        Some(Some(NotOpened::AlreadyExists)),
        Some(Some(NotOpened::AlreadyExists)),
        Some(Some(NotOpened::NoCommits)),
        Some(Some(NotOpened::HeadInvalid)),
        Some(Some(NotOpened::BaseInvalid)),
        Some(None),
    ];
    assert_eq!(found, expected);
    // One whose answer was lost is there all the same.
    github.close_pull_request(&token, "acme", "shop", 1).await.unwrap();
    world.sim.inject(Fault::new("POST", "/repos/*/pulls", FaultKind::LoseResponse));
    let error = github.open_pull_request(&token, "acme", "shop", &WORK).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { reason: Unreached::Cut, .. }), "{error}");
    let found = github.pull_requests(&token, "acme", "shop", "acme:work").await.unwrap();
    assert_eq!(found.iter().map(|pull| pull.number).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn where_drafts_are_not_supported_that_is_told() {
    let world = World::new(vec![AccountSeed { plan: Some("free".into()), ..account("globex") }]).await;
    let lib = RepositorySeed {
        owner: "globex".into(),
        name: "lib".into(),
        private: true,
        empty: true,
        ..RepositorySeed::default()
    };
    world.sim.create_repository(&lib).unwrap();
    for branch in ["main", "work"] {
        push(&world, "globex/lib", branch);
    }
    let install = Install { app: "landfall".into(), account: "globex".into(), ..Install::default() };
    let permissions = ["contents", "pull_requests"].map(|name| (name.to_owned(), "write".to_owned())).into();
    let scope = Scope { repositories: Repositories::All, permissions };
    let token = world.github.mint(as_id(world.sim.install(&install).unwrap()), &scope).await.unwrap().token;
    let error = world.github.open_pull_request(&token, "globex", "lib", &WORK).await.unwrap_err();
    assert_eq!(NotOpened::of(&error), Some(NotOpened::DraftUnsupported), "{error}");
    let ready = NewPull { draft: false, ..WORK };
    assert_eq!(world.github.open_pull_request(&token, "globex", "lib", &ready).await.unwrap().number, 1);
}
