//! What people do to a repository while somebody works with it.

use github_sim::{AccountSeed, AccountType, Fork, Install, Push, RepositorySeed, Selection, WebhookSeed};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::world::{INSTALLATION, World, refused, seed, succeeded};

/// A world in which both Apps deliver: `landfall` on acme, `other` on globex.
async fn world() -> (World, [Receiver; 2]) {
    let receivers = [Receiver::start().await, Receiver::start().await];
    let (mut seed, key) = seed();
    for (app, receiver) in seed.apps.iter_mut().zip(&receivers) {
        let (url, content_type) = (receiver.url.clone(), Some("json".to_owned()));
        app.webhook = Some(WebhookSeed { url, content_type, secret: None });
    }
    (World::with(seed, key).await, receivers)
}

async fn actions(receiver: &Receiver, count: usize) -> Vec<String> {
    let told = receiver.events("repository", count).await;
    let mut actions: Vec<String> =
        told.iter().map(|event| event.payload()["action"].as_str().unwrap().to_owned()).collect();
    actions.sort_unstable();
    actions
}

#[tokio::test]
async fn an_archived_repository_is_read_only() {
    let (world, [receiver, _]) = world().await;
    let token = world.token(json!({})).await;
    let at = world.folder.path();
    succeeded(&world.git(at, &token, &["clone", "-q", &world.url("acme/shop"), "shop"]).await);
    let wish = json!({"config": {"url": "http://127.0.0.1:1/x"}});
    let hook = world.post("/repos/acme/shop/hooks", &token, wish.clone()).await.body;
    let hook = hook["url"].as_str().unwrap();
    world.sim.set_archived("acme/shop", true).unwrap();
    assert_eq!(actions(&receiver, 1).await, ["archived"]);

    let push = refused(&world.git(&at.join("shop"), &token, &["push", "origin", "main:x"]).await);
    assert!(push.contains("This repository was archived so it is read-only."), "{push}");
    let read_only = (StatusCode::FORBIDDEN, "Repository was archived so is read-only.");
    let head = world.sim.head("acme/shop", "main").unwrap();
    for (method, path, body) in [
        (Method::POST, "/repos/acme/shop/hooks", wish),
        (Method::PATCH, hook, json!({"active": false})),
        // So who made a hook cannot take it away again.
        (Method::DELETE, hook, Value::Null),
        (Method::POST, "/repos/acme/shop/git/refs", json!({"ref": "refs/heads/x", "sha": head})),
        (Method::PATCH, "/repos/acme/shop", json!({"description": "x"})),
    ] {
        let said = world.ask(method.clone(), path, &token, &[], body).await;
        assert_eq!((said.status, said.message()), read_only, "{method} {path}");
    }
    // It is read as before, and its hooks are.
    succeeded(&world.git(at, &token, &["ls-remote", &world.url("acme/shop")]).await);
    assert_eq!(world.get("/repos/acme/shop", &token).await.body["archived"], true);
    assert_eq!(world.get(hook, &token).await.status, StatusCode::OK);
    let again = world.ask(Method::PATCH, "/repos/acme/shop", &token, &[], json!({"archived": false})).await;
    assert_eq!((again.status, &again.body["archived"]), (StatusCode::OK, &json!(false)));
    assert_eq!(actions(&receiver, 2).await, ["archived", "unarchived"]);
    assert_eq!(world.ask(Method::DELETE, hook, &token, &[], Value::Null).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn another_default_branch_is_told_and_git_follows() {
    let (world, [receiver, _]) = world().await;
    let token = world.token(json!({})).await;
    let push = Push { repository: "acme/shop".into(), path: "n".into(), ..Push::default() };
    world.sim.push(&Push { branch: Some("next".into()), ..push }).unwrap();
    world.sim.set_default_branch("acme/shop", "next").unwrap();
    let edited = receiver.events("repository", 1).await[0].payload();
    assert_eq!(
        (&edited["action"], &edited["changes"]),
        (&json!("edited"), &json!({"default_branch": {"from": "main"}}))
    );
    assert_eq!(edited["repository"]["default_branch"], "next");
    assert_eq!(world.get("/repos/acme/shop", &token).await.body["default_branch"], "next");
    let head =
        world.git(world.folder.path(), &token, &["ls-remote", "--symref", &world.url("acme/shop"), "HEAD"]).await;
    assert!(succeeded(&head).starts_with("ref: refs/heads/next\tHEAD"));
    assert!(world.sim.set_default_branch("acme/shop", "nothing").is_err());
    world.ask(Method::PATCH, "/repos/acme/shop", &token, &[], json!({"default_branch": "main"})).await;
    assert_eq!(receiver.events("repository", 2).await[1].payload()["changes"]["default_branch"]["from"], "next");
}

#[tokio::test]
async fn a_transfer_is_told_to_the_new_owner_alone() {
    let (world, [old, new]) = world().await;
    let token = world.token(json!({})).await;
    let id = world.sim.repository_id("acme/shop").unwrap();
    world.sim.transfer_repository("acme/shop", "globex").unwrap();
    let told = new.events("repository", 1).await[0].payload();
    assert_eq!((&told["action"], &told["repository"]["full_name"]), (&json!("transferred"), &json!("globex/shop")));
    assert_eq!(told["changes"]["owner"]["from"]["organization"]["login"], "acme");
    assert_eq!((&told["installation"]["id"], &told["repository"]["id"]), (&json!(4343), &json!(id)));
    // The installation that had it has lost it, and is not told why.
    assert_eq!(world.get(&format!("/repositories/{id}"), &token).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/repos/acme/shop", &token).await.status, StatusCode::NOT_FOUND);
    world.sim.rename_repository("acme/site", "page").unwrap();
    assert_eq!(actions(&old, 1).await, ["renamed"], "nothing else came to the old owner's App");
    // Who may see it under its new owner is led there.
    world.sim.install(&Install { app: "landfall".into(), account: "globex".into(), ..Install::default() }).unwrap();
    let moved = world.get("/repos/acme/shop/installation", &world.jwt()).await;
    assert_eq!(moved.status, StatusCode::MOVED_PERMANENTLY);
    let taken = RepositorySeed { owner: "mona".into(), name: "shop".into(), ..RepositorySeed::default() };
    world.sim.create_repository(&taken).unwrap();
    assert!(world.sim.transfer_repository("globex/shop", "mona").is_err(), "the name is taken there");
    let fork = Fork { of: "globex/shop".into(), account: "acme".into(), ..Fork::default() };
    world.sim.fork(&fork).unwrap();
    assert!(world.sim.transfer_repository("globex/shop", "acme").is_err(), "there is a fork of it");
}

#[tokio::test]
async fn a_repository_is_made_and_deleted_and_made_again() {
    let (world, [receiver, _]) = world().await;
    world.sim.select_repositories(INSTALLATION, &Selection::All).unwrap();
    let new = RepositorySeed { owner: "acme".into(), name: "new".into(), private: true, ..RepositorySeed::default() };
    let first = world.sim.create_repository(&new).unwrap();
    world.sim.delete_repository("acme/new").unwrap();
    let second = world.sim.create_repository(&new).unwrap();
    assert_eq!(actions(&receiver, 3).await, ["created", "created", "deleted"]);
    let told = receiver.events("repository", 3).await;
    let mut ids: Vec<u64> = told.iter().map(|event| event.payload()["repository"]["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [first, first, second]);
    let token = world.token(json!({})).await;
    assert_eq!(world.get("/repos/acme/new", &token).await.body["id"], second);
}

#[tokio::test]
async fn a_mint_tells_all_of_the_repositories_it_was_narrowed_to() {
    let world = World::new().await;
    world.sim.set_archived("acme/site", true).unwrap();
    let minted = world.mint(json!({"repositories": ["shop", "site"]})).await.body;
    let told: Vec<&Value> = minted["repositories"].as_array().unwrap().iter().collect();
    let field = |name: &str| told.iter().map(|repository| repository[name].clone()).collect::<Vec<Value>>();
    assert_eq!(field("full_name"), [json!("acme/shop"), json!("acme/site")]);
    assert_eq!(
        (field("archived"), field("private")),
        (vec![json!(false), json!(true)], vec![json!(true), json!(false)])
    );
    assert_eq!((field("disabled"), field("fork")), (vec![json!(false); 2], vec![json!(false); 2]));
    assert_eq!(field("default_branch"), ["main", "main"]);
    assert_eq!(field("clone_url")[0], world.url("acme/shop"));
    assert_eq!(field("html_url")[0], format!("{}/acme/shop", world.sim.base_url()));
}

#[tokio::test]
async fn an_account_is_renamed_and_somebody_takes_its_name() {
    let (world, [receiver, _]) = world().await;
    let token = world.token(json!({})).await;
    let id = world.sim.repository_id("acme/shop").unwrap();
    world.sim.rename_account("acme", "acme-inc").unwrap();
    let told = receiver.events("installation_target", 1).await[0].payload();
    assert_eq!((&told["action"], &told["changes"]), (&json!("renamed"), &json!({"login": {"from": "acme"}})));
    assert_eq!((&told["account"]["login"], &told["installation"]["id"]), (&json!("acme-inc"), &json!(INSTALLATION)));
    assert_eq!(world.get("/users/acme", "").await.status, StatusCode::NOT_FOUND, "nothing redirects to an account");
    let moved = world.get("/repos/acme/shop", &token).await;
    assert_eq!(moved.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(world.get(moved.header("location"), &token).await.body["full_name"], "acme-inc/shop");
    succeeded(&world.git(world.folder.path(), &token, &["ls-remote", &world.url("acme/shop")]).await);

    let seed = AccountSeed { login: "acme".into(), kind: AccountType::Organization, ..AccountSeed::default() };
    assert_ne!(world.sim.create_account(&seed).unwrap(), 0);
    assert!(world.sim.create_account(&seed).is_err() && world.sim.rename_account("globex", "acme").is_err());
    let shop = RepositorySeed { owner: "acme".into(), name: "shop".into(), ..RepositorySeed::default() };
    let theirs = world.sim.create_repository(&shop).unwrap();
    let named = world.get("/repos/acme/shop", &token).await;
    assert_eq!((named.status, &named.body["id"]), (StatusCode::OK, &json!(theirs)), "what is public is anybody's");
    assert_eq!(world.get(&format!("/repositories/{id}"), &token).await.body["full_name"], "acme-inc/shop");
}
