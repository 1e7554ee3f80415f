//! Forks: who may make one, what is answered before there is one, and how they are kept in step.

use std::time::Duration;

use github_sim::{Fork, Install, Push, RepositorySeed, Selection};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{INSTALLATION, World, refused, succeeded};

/// A world whose App is installed on all of `acme`, which has a token for it, and a public repository elsewhere.
async fn world() -> (World, String) {
    let world = World::new().await;
    world.sim.select_repositories(INSTALLATION, &Selection::All).unwrap();
    let lib = RepositorySeed { owner: "globex".into(), name: "lib".into(), ..RepositorySeed::default() };
    world.sim.create_repository(&lib).unwrap();
    let token = world.token(json!({})).await;
    (world, token)
}

fn push(repository: &str, path: &str, content: &str) -> Push {
    let (repository, path, content) = (repository.into(), path.into(), content.into());
    Push { repository, path, content, ..Push::default() }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["full_name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_fork_answers_before_it_is_there() {
    let (world, token) = world().await;
    world.sim.set_fork_delay(Duration::from_mins(1));
    let made = world.post("/repos/globex/lib/forks", &token, json!({"organization": "acme"})).await;
    assert_eq!(made.status, StatusCode::ACCEPTED, "{:?}", made.body);
    assert_eq!((&made.body["full_name"], &made.body["fork"]), (&json!("acme/lib"), &json!(true)));
    assert_eq!(
        (&made.body["parent"]["full_name"], &made.body["source"]["full_name"]),
        (&json!("globex/lib"), &json!("globex/lib"))
    );
    let read = world.get("/repos/acme/lib", &token).await.body;
    assert_eq!(
        (&read["id"], &read["fork"], &read["parent"]["id"]),
        (&made.body["id"], &json!(true), &made.body["parent"]["id"])
    );

    // Everything that asks git finds nothing.
    let commits = world.get("/repos/acme/lib/commits", &token).await;
    assert_eq!((commits.status, commits.message()), (StatusCode::CONFLICT, "Git Repository is empty."));
    assert_eq!(world.get("/repos/acme/lib/branches/main", &token).await.message(), "Branch not found");
    let (at, url) = (world.folder.path(), world.url("acme/lib"));
    for (token, version) in [(token.as_str(), "protocol.version=2"), ("", "protocol.version=0")] {
        let said = refused(&world.git(at, token, &["-c", version, "ls-remote", &url]).await);
        assert!(said.contains("remote error: access denied or repository not exported"), "{said}");
    }

    world.sim.advance(Duration::from_mins(1));
    succeeded(&world.git(at, &token, &["clone", "-q", &url, "lib"]).await);
    assert_eq!(world.sim.head("acme/lib", "main"), world.sim.head("globex/lib", "main"));
    assert_eq!(world.get("/repos/globex/lib", &token).await.body["forks_count"], 1);
    // Or as soon as a test wants it.
    let second = world.sim.fork(&Fork { of: "globex/lib".into(), account: "mona".into(), ..Fork::default() }).unwrap();
    assert_eq!((world.sim.repository_id("mona/lib"), world.sim.head("mona/lib", "main")), (Some(second), None));
    world.sim.finish_forks();
    assert!(world.sim.head("mona/lib", "main").is_some());
}

#[tokio::test]
async fn what_the_account_has_of_a_network_is_its_fork_under_any_name() {
    let (world, token) = world().await;
    let wish = json!({"organization": "acme", "name": "our lib"});
    let made = world.post("/repos/globex/lib/forks", &token, wish).await;
    assert_eq!(made.body["full_name"], "acme/our-lib", "a name that cannot be is made one that can");
    world.sim.rename_repository("acme/our-lib", "theirs").unwrap();
    let again = world.post("/repos/globex/lib/forks", &token, json!({"name": "lib"})).await;
    assert_eq!((again.status, &again.body["full_name"]), (StatusCode::ACCEPTED, &json!("acme/theirs")));
    assert_eq!(again.body["id"], made.body["id"]);
    assert_eq!(world.sim.forks("globex/lib").unwrap(), ["acme/theirs"]);

    // Its own repository is no fork of itself; nor does the upstream get a fork of its fork.
    let own = world.post("/repos/acme/site/forks", &token, json!({})).await;
    assert_eq!(
        (own.status, &own.body["full_name"], &own.body["fork"]),
        (StatusCode::ACCEPTED, &json!("acme/site"), &json!(false))
    );
    assert!(own.body.get("parent").is_none());
    let back = Fork { of: "acme/theirs".into(), account: "globex".into(), ..Fork::default() };
    assert_eq!(world.sim.fork(&back).unwrap(), world.sim.repository_id("globex/lib").unwrap());

    // The oldest is what a fork of a fork comes from, as long as it is there.
    let of_fork = Fork { of: "acme/theirs".into(), account: "mona".into(), ..Fork::default() };
    world.sim.fork(&of_fork).unwrap();
    let fork = world.get("/repos/mona/theirs", &token).await.body;
    assert_eq!(
        (&fork["parent"]["full_name"], &fork["source"]["full_name"]),
        (&json!("acme/theirs"), &json!("globex/lib"))
    );
    world.sim.delete_repository("acme/theirs").unwrap();
    assert_eq!(world.get("/repos/mona/theirs", &token).await.body["parent"]["full_name"], "globex/lib");
    world.sim.delete_repository("globex/lib").unwrap();
    assert_eq!(world.get("/repos/mona/theirs", &token).await.body["fork"], false);
}

#[tokio::test]
async fn a_name_that_is_taken_is_counted_on() {
    let (world, token) = world().await;
    let taken = |name: &str| {
        let seed = RepositorySeed { owner: "acme".into(), name: name.into(), ..RepositorySeed::default() };
        world.sim.create_repository(&seed).unwrap();
    };
    taken("lib");
    taken("lib-1");
    let made = world.post("/repos/globex/lib/forks", &token, json!({})).await;
    assert_eq!(made.body["full_name"], "acme/lib-2");
    assert_eq!(made.body["parent"]["full_name"], "globex/lib");
    let other = RepositorySeed { owner: "globex".into(), name: "v-9".into(), ..RepositorySeed::default() };
    world.sim.create_repository(&other).unwrap();
    taken("v-9");
    assert_eq!(world.post("/repos/globex/v-9/forks", &token, json!({})).await.body["name"], "v-10");
}

#[tokio::test]
async fn who_may_fork_reaches_all_of_the_destination() {
    let (world, token) = world().await;
    let forks = "/repos/globex/lib/forks";
    let not_accessible = (StatusCode::FORBIDDEN, "Resource not accessible by integration");
    for wish in [
        json!({"repositories": ["shop"]}),
        json!({"permissions": {"administration": "read", "contents": "write"}}),
        json!({"permissions": {"administration": "write"}}),
    ] {
        let narrow = world.token(wish.clone()).await;
        let said = world.post(forks, &narrow, json!({"organization": "acme"})).await;
        assert_eq!((said.status, said.message()), not_accessible, "{wish}");
    }
    let elsewhere = world.post(forks, &token, json!({"organization": "globex"})).await;
    assert_eq!((elsewhere.status, elsewhere.message()), not_accessible);
    assert_eq!(elsewhere.header("x-accepted-github-permissions"), "administration=write,contents=read");
    let private = world.post("/repos/globex/vault/forks", &token, json!({"organization": "acme"})).await;
    assert_eq!((private.status, private.message()), (StatusCode::NOT_FOUND, "Not Found"));
    // Also where the same App is installed on both sides: a token sees one.
    world.sim.install(&Install { app: "landfall".into(), account: "globex".into(), ..Install::default() }).unwrap();
    assert_eq!(world.post("/repos/globex/vault/forks", &token, json!({})).await.status, StatusCode::NOT_FOUND);

    let invalid = json!([{"resource": "Fork", "field": "organization", "code": "invalid"}]);
    let unknown = world.post(forks, &token, json!({"organization": "nobody"})).await;
    assert_eq!((unknown.message(), &unknown.body["errors"]), ("Validation Failed", &invalid));
    let person = world.post(forks, &token, json!({"organization": "mona"})).await;
    assert!(person.message().starts_with("'mona' is the login for a user account."), "{}", person.message());
    assert_eq!(person.body["errors"], invalid);
    assert_eq!(world.post(forks, "", json!({})).await.message(), "You must be logged in to do that.");

    world.sim.select_repositories(INSTALLATION, &Selection::Selected(vec!["shop".into()])).unwrap();
    let some = world.post(forks, &token, json!({"organization": "acme"})).await;
    assert_eq!((some.status, some.message()), not_accessible);
    assert!(world.sim.repository_id("acme/lib").is_none());
}

#[tokio::test]
async fn an_empty_repository_cannot_be_forked() {
    let (world, token) = world().await;
    let blank =
        RepositorySeed { owner: "globex".into(), name: "blank".into(), empty: true, ..RepositorySeed::default() };
    world.sim.create_repository(&blank).unwrap();
    let said = world.post("/repos/globex/blank/forks", &token, json!({})).await;
    assert_eq!(said.status, StatusCode::FORBIDDEN);
    assert_eq!(
        said.message(),
        "The repository exists, but it contains no Git content. Empty repositories cannot be forked."
    );
}

#[tokio::test]
async fn forks_are_listed_page_by_page() {
    let (world, token) = world().await;
    world.post("/repos/globex/lib/forks", &token, json!({"default_branch_only": true})).await;
    world.sim.fork(&Fork { of: "globex/lib".into(), account: "mona".into(), ..Fork::default() }).unwrap();
    let newest = world.get("/repos/globex/lib/forks?per_page=1", &token).await;
    assert_eq!(names(&newest.body), ["mona/lib"]);
    let next = newest.header("link").split(['<', '>']).nth(1).unwrap().to_owned();
    assert_eq!(names(&world.get(&next, &token).await.body), ["acme/lib"]);
    assert_eq!(names(&world.get("/repos/globex/lib/forks?sort=oldest", "").await.body), ["acme/lib", "mona/lib"]);
}

#[tokio::test]
async fn a_fork_can_have_the_default_branch_alone() {
    let (world, token) = world().await;
    world.sim.push(&Push { branch: Some("next".into()), ..push("globex/lib", "n", "n") }).unwrap();
    world.post("/repos/globex/lib/forks", &token, json!({"default_branch_only": true})).await;
    assert!(world.sim.head("acme/lib", "main").is_some() && world.sim.head("acme/lib", "next").is_none());
    world.sim.fork(&Fork { of: "globex/lib".into(), account: "mona".into(), ..Fork::default() }).unwrap();
    assert_eq!(world.sim.head("mona/lib", "next"), world.sim.head("globex/lib", "next"));
}

#[tokio::test]
async fn a_fork_is_brought_to_its_upstream() {
    let (world, token) = world().await;
    world.post("/repos/globex/lib/forks", &token, json!({})).await;
    let (sync, main) = ("/repos/acme/lib/merge-upstream", json!({"branch": "main"}));
    let same = world.post(sync, &token, main.clone()).await;
    assert_eq!(
        same.body,
        json!({"message": "This branch is not behind the upstream globex:main.", "merge_type": "none", "base_branch": "globex:main"})
    );
    let ahead = world.sim.push(&push("globex/lib", "a", "a")).unwrap();
    let forward = world.post(sync, &token, main.clone()).await;
    assert_eq!((forward.status, &forward.body["merge_type"]), (StatusCode::OK, &json!("fast-forward")));
    assert_eq!(world.sim.head("acme/lib", "main"), Some(ahead));

    let ours = world.sim.push(&push("acme/lib", "ours", "1")).unwrap();
    let theirs = world.sim.push(&push("globex/lib", "theirs", "1")).unwrap();
    assert_eq!(world.post(sync, &token, main.clone()).await.body["merge_type"], "merge");
    let merged = world.get("/repos/acme/lib/commits/main", &token).await.body;
    let parents: Vec<&Value> = merged["parents"].as_array().unwrap().iter().map(|parent| &parent["sha"]).collect();
    assert_eq!(parents, [&json!(ours), &json!(theirs)]);
    assert_eq!(merged["commit"]["message"], "Merge branch 'globex:main' into main");
    for file in ["a", "ours", "theirs"] {
        assert_eq!(world.get(&format!("/repos/acme/lib/contents/{file}"), &token).await.status, StatusCode::OK);
    }

    world.sim.push(&push("globex/lib", "both", "theirs")).unwrap();
    let before = world.sim.push(&push("acme/lib", "both", "ours")).unwrap();
    let conflict = world.post(sync, &token, main.clone()).await;
    assert_eq!((conflict.status, conflict.message()), (StatusCode::CONFLICT, "There are merge conflicts"));
    assert_eq!(world.sim.head("acme/lib", "main"), Some(before), "what cannot be merged stays as it was");
    let missing = world.post(sync, &token, json!({"branch": "nothing"})).await;
    assert_eq!((missing.status, missing.message()), (StatusCode::NOT_FOUND, "Branch not found"));
    assert_eq!(world.post("/repos/acme/site/merge-upstream", &token, main.clone()).await.status.as_u16(), 422);
    let read = world.token(json!({"permissions": {"contents": "read"}})).await;
    assert_eq!(world.post(sync, &read, main).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn workflows_of_the_upstream_need_a_permission_of_their_own() {
    let (world, token) = world().await;
    world.post("/repos/globex/lib/forks", &token, json!({})).await;
    world.sim.push(&push("globex/lib", ".github/workflows/ci.yml", "on: push\n")).unwrap();
    let without = world.token(json!({"permissions": {"contents": "write"}})).await;
    let (sync, main) = ("/repos/acme/lib/merge-upstream", json!({"branch": "main"}));
    let said = world.post(sync, &without, main.clone()).await;
    assert_eq!(said.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(said.message().contains("`.github/workflows/ci.yml` without `workflows` permission"), "{}", said.message());
    assert_eq!(world.post(sync, &token, main.clone()).await.body["merge_type"], "fast-forward");
    // What is already there may be synced on.
    world.sim.push(&push("globex/lib", "b", "b")).unwrap();
    assert_eq!(world.post(sync, &without, main).await.body["merge_type"], "fast-forward");
}

#[tokio::test]
async fn commits_are_compared_across_a_network() {
    let (world, token) = world().await;
    world.post("/repos/globex/lib/forks", &token, json!({})).await;
    let compare = |basehead: &str| {
        let path = format!("/repos/acme/lib/compare/{basehead}");
        let (world, token) = (&world, &token);
        async move { world.get(&path, token).await }
    };
    let same = compare("globex:main...main").await;
    assert_eq!((same.status, &same.body["status"]), (StatusCode::OK, &json!("identical")), "{:?}", same.body);
    let common = world.sim.head("globex/lib", "main").unwrap();
    let theirs = world.sim.push(&push("globex/lib", "theirs", "1")).unwrap();
    let behind = compare("globex:main...acme:lib:main").await.body;
    assert_eq!(
        (&behind["status"], &behind["behind_by"], &behind["ahead_by"]),
        (&json!("behind"), &json!(1), &json!(0))
    );
    let ours = [
        world.sim.push(&push("acme/lib", "ours", "1")).unwrap(),
        world.sim.push(&push("acme/lib", "ours", "2")).unwrap(),
    ];
    let diverged = compare("globex:main...main").await.body;
    assert_eq!(
        (&diverged["status"], &diverged["behind_by"], &diverged["ahead_by"]),
        (&json!("diverged"), &json!(1), &json!(2))
    );
    assert_eq!(
        (&diverged["base_commit"]["sha"], &diverged["merge_base_commit"]["sha"]),
        (&json!(theirs), &json!(common))
    );
    let listed: Vec<&Value> = diverged["commits"].as_array().unwrap().iter().map(|commit| &commit["sha"]).collect();
    assert_eq!((listed, &diverged["total_commits"]), (vec![&json!(ours[0]), &json!(ours[1])], &json!(2)));
    let files: Vec<&Value> = diverged["files"].as_array().unwrap().iter().map(|file| &file["filename"]).collect();
    assert_eq!(files, ["ours"], "only what the head changed since both were one");
    let page = compare("globex:main...main?per_page=1&page=2").await;
    assert_eq!(page.body["commits"][0]["sha"], ours[1]);
    assert!(page.body.get("files").is_none());
    for missing in ["globex:main...nothing", "nobody:main...main", "acme:site:main...main", "main"] {
        assert_eq!(compare(missing).await.status, StatusCode::NOT_FOUND, "{missing}");
    }
}

#[tokio::test]
async fn an_archived_fork_is_not_synced() {
    let (world, token) = world().await;
    world.post("/repos/globex/lib/forks", &token, json!({})).await;
    world.sim.set_archived("acme/lib", true).unwrap();
    let said = world.ask(Method::POST, "/repos/acme/lib/merge-upstream", &token, &[], json!({"branch": "main"})).await;
    assert_eq!((said.status, said.message()), (StatusCode::FORBIDDEN, "Repository was archived so is read-only."));
}
