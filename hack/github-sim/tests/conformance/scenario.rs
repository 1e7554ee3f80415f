//! What is played: each route with success, and the refusals that clients meet.

use github_sim::{Push, Selection, WebhookSeed};
use http::Method;
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::recorder::{Recorder, Report};
use crate::webhooks;
use crate::world::{INSTALLATION, World, seed};

const SHOP: &str = "/repos/acme/shop";

/// Plays everything in one version.
pub async fn play(version: &'static str, report: &mut Report) {
    let receiver = Receiver::start().await;
    let (mut seed, key) = seed();
    let (url, secret) = (receiver.url.clone(), Some("secret".to_owned()));
    seed.apps[0].webhook = Some(WebhookSeed { url, secret, content_type: Some("json".into()) });
    seed.apps[0].events.push("fork".into());
    let world = World::with(seed, key).await;
    let mut recorder = Recorder { world: &world, version, report };
    public(&mut recorder).await;
    let token = installations(&mut recorder).await;
    repositories(&mut recorder, &token).await;
    refs(&mut recorder, &token).await;
    pulls(&mut recorder, &token).await;
    forks(&mut recorder).await;
    hooks(&mut recorder, &token, &receiver.url).await;
    refusals(&mut recorder, &token).await;
    webhooks::play(&mut recorder, &receiver).await;
    deliveries(&mut recorder).await;
    ending(&mut recorder, &token).await;
}

fn push(branch: &str, path: &str) -> Push {
    let (repository, content) = ("acme/shop".into(), format!("{branch}\n"));
    Push { repository, branch: Some(branch.into()), path: path.into(), content, message: None }
}

/// What needs no credential, and the App itself.
async fn public(recorder: &mut Recorder<'_>) {
    let jwt = recorder.world.jwt();
    for path in ["/", "/meta", "/versions", "/rate_limit", "/apps/landfall", "/orgs/acme", "/users/mona", "/users/acme"]
    {
        recorder.get(path, "").await;
    }
    recorder.get("/users/landfall%5Bbot%5D", "").await;
    recorder.get("/repos/acme/site", "").await;
    recorder.get("/app", &jwt).await;
    recorder.refused(401, Method::GET, "/user", "", Value::Null).await;
}

/// Installations and tokens; returns a token for all that the installation has.
async fn installations(recorder: &mut Recorder<'_>) -> String {
    let (jwt, world) = (recorder.world.jwt(), recorder.world);
    world
        .sim
        .install(&github_sim::Install { app: "landfall".into(), account: "mona".into(), ..Default::default() })
        .unwrap();
    let installation = format!("/app/installations/{INSTALLATION}");
    let listed = recorder.get("/app/installations?per_page=1", &jwt).await;
    assert_eq!(listed.as_array().unwrap().len(), 1);
    for path in ["/orgs/acme/installation", "/users/mona/installation", "/repos/acme/shop/installation", &installation]
    {
        recorder.get(path, &jwt).await;
    }
    recorder.done(Method::PUT, &format!("{installation}/suspended"), &jwt, Value::Null).await;
    recorder.get(&installation, &jwt).await;
    recorder.refused(403, Method::POST, &format!("{installation}/access_tokens"), &jwt, json!({})).await;
    recorder.done(Method::DELETE, &format!("{installation}/suspended"), &jwt, Value::Null).await;
    let narrow = json!({"repositories": ["shop"], "permissions": {"contents": "read"}});
    let narrow = recorder.post(&format!("{installation}/access_tokens"), &jwt, narrow).await;
    let narrow = narrow["token"].as_str().unwrap();
    recorder.get("/installation/repositories", narrow).await;
    recorder.done(Method::DELETE, "/installation/token", narrow, Value::Null).await;
    recorder.refused(401, Method::GET, "/installation/repositories", narrow, Value::Null).await;
    for wish in [json!({"repositories": ["attic"]}), json!({"permissions": {"issues": "write"}})] {
        recorder.refused(422, Method::POST, &format!("{installation}/access_tokens"), &jwt, wish).await;
    }
    let whole = recorder.post(&format!("{installation}/access_tokens"), &jwt, json!({})).await;
    let token = whole["token"].as_str().unwrap().to_owned();
    recorder.get("/installation/repositories?per_page=1&page=2", &token).await;
    recorder.get("/rate_limit", &token).await;
    recorder.refused(403, Method::GET, "/user", &token, Value::Null).await;
    token
}

/// Repositories, by name and by id, before and after a rename, with what is in them.
async fn repositories(recorder: &mut Recorder<'_>, token: &str) {
    let world = recorder.world;
    world.sim.push(&push("main", "docs/guide.md")).unwrap();
    world.sim.push(&push("feature/x", "x.txt")).unwrap();
    let shop = recorder.get(SHOP, token).await;
    let by_id = format!("/repositories/{}", shop["id"]);
    recorder.get(&by_id, token).await;
    recorder.get("/repos/acme/site", token).await;
    recorder.done(Method::PATCH, SHOP, token, json!({"description": "What is sold"})).await;
    let head = world.sim.head("acme/shop", "main").unwrap();
    for path in ["branches", "branches/main", "branches/feature/x", "commits", "commits/main", "contents/docs/guide.md"]
    {
        recorder.get(&format!("{SHOP}/{path}"), token).await;
    }
    recorder.get(&format!("{SHOP}/commits?per_page=1"), token).await;
    recorder.get(&format!("{SHOP}/commits/{head}"), token).await;
    recorder.get(&format!("{by_id}/branches"), token).await;
    let etag = recorder.ask(Method::GET, SHOP, token, Value::Null).await.header("etag").to_owned();
    let same = recorder.ask_with(Method::GET, SHOP, token, &[("If-None-Match", &etag)], Value::Null).await;
    assert_eq!(same.status.as_u16(), 304);
    recorder.done(Method::PATCH, SHOP, token, json!({"name": "store"})).await;
    recorder.refused(301, Method::GET, SHOP, token, Value::Null).await;
    recorder.refused(307, Method::PATCH, SHOP, token, json!({"name": "shop"})).await;
    recorder.done(Method::PATCH, "/repos/acme/store", token, json!({"name": "shop"})).await;
    recorder.refused(404, Method::GET, "/repos/acme/attic", token, Value::Null).await;
    recorder.refused(404, Method::GET, &format!("{SHOP}/branches/nothing"), token, Value::Null).await;
    recorder.refused(404, Method::GET, &format!("{SHOP}/contents/nothing"), token, Value::Null).await;
    recorder.refused(422, Method::GET, &format!("{SHOP}/commits/nothing"), token, Value::Null).await;
    recorder.refused(422, Method::PATCH, SHOP, token, json!({"name": "site"})).await;
}

async fn refs(recorder: &mut Recorder<'_>, token: &str) {
    let head = recorder.world.sim.head("acme/shop", "main").unwrap();
    let refs = format!("{SHOP}/git/refs");
    recorder.post(&refs, token, json!({"ref": "refs/heads/work", "sha": head})).await;
    recorder.refused(422, Method::POST, &refs, token, json!({"ref": "refs/heads/work", "sha": head})).await;
    recorder.refused(422, Method::POST, &refs, token, json!({"ref": "work", "sha": head})).await;
    recorder.get(&format!("{SHOP}/git/ref/heads/work"), token).await;
    recorder.get(&format!("{SHOP}/git/matching-refs/heads/"), token).await;
    recorder.refused(404, Method::GET, &format!("{SHOP}/git/ref/heads/nothing"), token, Value::Null).await;
    let feature = recorder.world.sim.head("acme/shop", "feature/x").unwrap();
    recorder.done(Method::PATCH, &format!("{refs}/heads/work"), token, json!({"sha": feature, "force": true})).await;
    recorder.post(&refs, token, json!({"ref": "refs/tags/v1", "sha": head})).await;
    recorder.done(Method::DELETE, &format!("{refs}/tags/v1"), token, Value::Null).await;
    recorder.refused(422, Method::DELETE, &format!("{refs}/tags/v1"), token, Value::Null).await;
}

async fn pulls(recorder: &mut Recorder<'_>, token: &str) {
    let pulls = format!("{SHOP}/pulls");
    recorder.world.sim.push(&push("work", "work.txt")).unwrap();
    let wish = json!({"title": "Work", "head": "work", "base": "main", "body": "Done.", "draft": true});
    let made = recorder.post(&pulls, token, wish.clone()).await;
    recorder.refused(422, Method::POST, &pulls, token, wish).await;
    recorder.refused(422, Method::POST, &pulls, token, json!({"title": "x", "head": "none", "base": "main"})).await;
    let labels = format!("{SHOP}/issues/1/labels");
    recorder.done(Method::POST, &labels, token, json!({"labels": ["bot", "needs review"]})).await;
    recorder.refused(422, Method::POST, &labels, token, json!({"labels": ["l".repeat(51)]})).await;
    let nowhere = format!("{SHOP}/issues/9/labels");
    recorder.refused(404, Method::POST, &nowhere, token, json!({"labels": ["bot"]})).await;
    recorder.get(&pulls, token).await;
    recorder.get(&format!("{pulls}/1"), token).await;
    let ready = json!({
        "query": "mutation($id: ID!) { markPullRequestReadyForReview(input: {pullRequestId: $id}) { pullRequest { isDraft } } }",
        "variables": {"id": made["node_id"]},
    });
    let graphql = format!("{}/graphql", recorder.world.sim.base_url());
    recorder.post(&graphql, token, ready).await;
    recorder.done(Method::PATCH, &format!("{pulls}/1"), token, json!({"state": "closed"})).await;
    recorder.get(&format!("{pulls}?state=all"), token).await;
    recorder.get(&format!("{pulls}/1"), token).await;
    recorder.refused(404, Method::GET, &format!("{pulls}/9"), token, Value::Null).await;
}

/// A public repository, forked to a person's account, compared with and brought to its upstream.
async fn forks(recorder: &mut Recorder<'_>) {
    let (jwt, world) = (recorder.world.jwt(), recorder.world);
    let person = recorder.get("/users/mona/installation", &jwt).await["id"].clone();
    let whole = recorder.post(&format!("/app/installations/{person}/access_tokens"), &jwt, json!({})).await;
    let token = whole["token"].as_str().unwrap();
    let (forks, ours) = ("/repos/acme/site/forks", "/repos/mona/site");
    world.sim.set_fork_delay(std::time::Duration::from_mins(1));
    recorder.post(forks, token, Value::Null).await;
    recorder.refused(409, Method::GET, &format!("{ours}/commits"), token, Value::Null).await;
    recorder.refused(404, Method::GET, &format!("{ours}/compare/main...main"), token, Value::Null).await;
    world.sim.finish_forks();
    recorder.post(forks, token, json!({"default_branch_only": true})).await;
    recorder.refused(422, Method::POST, forks, token, json!({"organization": "mona"})).await;
    recorder.refused(403, Method::POST, forks, token, json!({"organization": "acme"})).await;
    recorder.refused(401, Method::POST, forks, "", json!({})).await;
    recorder.refused(404, Method::POST, "/repos/acme/shop/forks", token, json!({})).await;
    recorder.get(&format!("{forks}?per_page=1"), token).await;
    recorder.get(ours, token).await;
    let to = |repository: &str, content: &str| Push {
        repository: repository.into(),
        path: "both".into(),
        content: content.into(),
        ..Push::default()
    };
    let sync = format!("{ours}/merge-upstream");
    recorder.post(&sync, token, json!({"branch": "main"})).await;
    world.sim.push(&to("acme/site", "one")).unwrap();
    recorder.get(&format!("{ours}/compare/acme:main...main"), token).await;
    recorder.get(&format!("{ours}/compare/main...acme:main?per_page=1"), token).await;
    recorder.post(&sync, token, json!({"branch": "main"})).await;
    world.sim.push(&to("acme/site", "two")).unwrap();
    world.sim.push(&to("mona/site", "three")).unwrap();
    recorder.get(&format!("{ours}/compare/acme:main...mona:main"), token).await;
    recorder.refused(409, Method::POST, &sync, token, json!({"branch": "main"})).await;
    recorder.refused(404, Method::POST, &sync, token, json!({"branch": "nothing"})).await;
    recorder.refused(422, Method::POST, &sync, token, json!({})).await;
    recorder.done(Method::PATCH, ours, token, json!({"archived": true})).await;
    recorder.refused(403, Method::POST, &sync, token, json!({"branch": "main"})).await;
    recorder.refused(403, Method::POST, &format!("{ours}/hooks"), token, json!({})).await;
    recorder.refused(403, Method::PATCH, ours, token, json!({"description": "x"})).await;
    recorder.done(Method::PATCH, ours, token, json!({"archived": false, "private": true})).await;
    recorder.done(Method::PATCH, ours, token, json!({"private": false})).await;
}

async fn hooks(recorder: &mut Recorder<'_>, token: &str, url: &str) {
    let hooks = format!("{SHOP}/hooks");
    let config = json!({"url": url, "content_type": "json", "secret": "hidden"});
    let wish = json!({"config": config, "events": ["*"]});
    let made = recorder.post(&hooks, token, wish.clone()).await;
    let hook = format!("{hooks}/{}", made["id"]);
    recorder.refused(422, Method::POST, &hooks, token, wish).await;
    recorder.refused(422, Method::POST, &hooks, token, json!({"config": {}})).await;
    recorder.refused(422, Method::POST, &hooks, token, json!({"config": config, "events": ["nothing"]})).await;
    for path in [&hooks, &hook, &format!("{hook}/config")] {
        recorder.get(path, token).await;
    }
    recorder.done(Method::PATCH, &hook, token, json!({"add_events": ["push"], "remove_events": ["*"]})).await;
    recorder.done(Method::PATCH, &hook, token, json!({"events": ["*"]})).await;
    recorder.done(Method::PATCH, &format!("{hook}/config"), token, json!({"insecure_ssl": "0"})).await;
    for action in ["pings", "tests"] {
        recorder.done(Method::POST, &format!("{hook}/{action}"), token, Value::Null).await;
    }
    let deliveries = format!("{hook}/deliveries");
    let rows = webhooks::logged(recorder, &deliveries, token, 1).await;
    let delivery = format!("{deliveries}/{}", rows[0]["id"]);
    recorder.get(&delivery, token).await;
    recorder.post(&format!("{delivery}/attempts"), token, Value::Null).await;
    recorder.refused(404, Method::GET, &format!("{hooks}/1"), token, Value::Null).await;
    let form = json!({"config": {"url": url}, "events": ["push"]});
    let form = recorder.post(&hooks, token, form).await;
    recorder.done(Method::DELETE, &format!("{hooks}/{}", form["id"]), token, Value::Null).await;
}

/// The App's own hook: its configuration and what was delivered to it.
async fn deliveries(recorder: &mut Recorder<'_>) {
    let jwt = recorder.world.jwt();
    recorder.get("/app/hook/config", &jwt).await;
    recorder.done(Method::PATCH, "/app/hook/config", &jwt, json!({"content_type": "json"})).await;
    recorder.refused(422, Method::PATCH, "/app/hook/config", &jwt, json!({"url": "nothing"})).await;
    let rows = webhooks::logged(recorder, "/app/hook/deliveries?per_page=5", &jwt, 5).await;
    let delivery = format!("/app/hook/deliveries/{}", rows[0]["id"]);
    recorder.get(&delivery, &jwt).await;
    recorder.post(&format!("{delivery}/attempts"), &jwt, Value::Null).await;
    recorder.refused(404, Method::GET, "/app/hook/deliveries/1", &jwt, Value::Null).await;
    recorder.refused(400, Method::GET, "/app/hook/deliveries?cursor=nothing", &jwt, Value::Null).await;
}

/// What is refused whichever route it is.
async fn refusals(recorder: &mut Recorder<'_>, token: &str) {
    let (jwt, world) = (recorder.world.jwt(), recorder.world);
    let mint = format!("/app/installations/{INSTALLATION}/access_tokens");
    recorder.refused(401, Method::GET, "/app", "nonsense", Value::Null).await;
    recorder.refused(401, Method::GET, SHOP, "ghs_nonsense", Value::Null).await;
    recorder.refused(404, Method::GET, "/app/installations/1", &jwt, Value::Null).await;
    recorder.refused(404, Method::GET, "/orgs/globex/installation", &jwt, Value::Null).await;
    recorder.refused(400, Method::POST, &mint, &jwt, json!("{")).await;
    let read = json!({"permissions": {"metadata": "read"}});
    let read = recorder.post(&mint, &jwt, read).await["token"].as_str().unwrap().to_owned();
    recorder.refused(403, Method::GET, &format!("{SHOP}/pulls"), &read, Value::Null).await;
    recorder.refused(403, Method::POST, &format!("{SHOP}/hooks"), &read, json!({})).await;
    world.sim.set_rate_limit(1);
    recorder.refused(403, Method::GET, SHOP, token, Value::Null).await;
    world.sim.set_rate_limit(5000);
}

/// What goes away.
async fn ending(recorder: &mut Recorder<'_>, token: &str) {
    let jwt = recorder.world.jwt();
    recorder.world.sim.select_repositories(INSTALLATION, &Selection::All).unwrap();
    recorder.done(Method::DELETE, "/repos/acme/attic", token, Value::Null).await;
    recorder.done(Method::DELETE, &format!("/app/installations/{INSTALLATION}"), &jwt, Value::Null).await;
    recorder.refused(404, Method::GET, &format!("/app/installations/{INSTALLATION}"), &jwt, Value::Null).await;
}
