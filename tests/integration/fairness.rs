//! No tenant delays another one: pushes come before polls and first looks, namespaces take turns, and a host that never
//! answers holds up its own objects alone.

use crate::repository::{comes_to, follow, is_git, status};
use crate::scene::granted;
use github_sim::RepositorySeed;
use jiff::SignedDuration;
use landfall::api::ProjectRepository;
use landfall::git::{AllowedHosts, Reach};
use landfall_world::inbox::logged;
use landfall_world::operator::{Operator, Start};
use landfall_world::{World, objects};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

/// The turns that the operator gives at the same time at one place.
const SLOTS: usize = 8;

/// A world in which team-b may read many-* of acme besides.
async fn two_tenants() -> (World, Operator) {
    let mut tenants = objects::tenants();
    let other = json!({
        "name": "others", "account": "acme", "repositories": ["many-*"],
        "maxPermissions": {"contents": "read", "metadata": "read"}, "namespaces": {"names": ["team-b"]},
    });
    tenants.as_array_mut().expect("a list").push(other);
    granted(&tenants).await
}

fn repository(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut object = objects::repository(name, spec);
    object["metadata"]["namespace"] = json!(namespace);
    object
}

/// The names of the repositories whose heads were asked for, in this order.
fn asked(world: &World) -> Vec<String> {
    let name = |path: &str| Some(path.split_once(".git/")?.0.rsplit('/').next()?.to_owned());
    world.sim.requests().iter().filter(|request| is_git(request)).filter_map(|request| name(&request.path)).collect()
}

#[tokio::test]
async fn after_a_restart_a_push_is_looked_after_before_the_first_looks_of_others() {
    const MANY: usize = 60;
    let (world, operator) = two_tenants().await;
    for number in 0..MANY {
        let name = format!("many-{number}");
        let seed = RepositorySeed { owner: "acme".into(), name: name.clone(), private: true, ..Default::default() };
        world.sim.create_repository(&seed).expect("a repository");
        world.apply::<ProjectRepository>(&repository("team-b", &name, &json!({}))).await;
    }
    follow(&world, "shop", &json!({}), "Observed").await;
    for number in 0..MANY {
        world.until_reason::<ProjectRepository>("team-b", &format!("many-{number}"), "Observed").await;
    }
    operator.stop().await;
    let pushed = world.push("acme/shop", "main");
    world.deliver(("team-a", "shop"), "pushed", &json!({"ref": "refs/heads/main", "sha": pushed})).await;
    world.sim.reset_requests();

    let operator = world.operator().await;
    world
        .until("the push is dealt with", async || {
            (logged(&status(&world, "shop").await, "pushed")["result"] == "Handled").then_some(())
        })
        .await;
    operator.settled().await;
    let asked = asked(&world);
    let turn = asked.iter().position(|name| name == "shop").expect("a look at the pushed repository");
    assert!(turn < SLOTS, "it was number {turn} of {asked:?}");
    assert_eq!(asked.len(), MANY + 1, "each of the others was looked at, too");
    // The ids in status are believed because a listing has them, so that one token reads them all.
    assert_eq!(world.calls("GET", "/installation/repositories"), 1);
    assert!(world.mints() <= 3, "{} mints", world.mints());
    comes_to(&world, "shop", "Observed").await;
    operator.stop().await;
}

#[tokio::test]
async fn new_repositories_are_found_by_listing_the_installation() {
    const MANY: usize = 130;
    let (world, operator) = two_tenants().await;
    operator.stop().await;
    for number in 0..MANY {
        let name = format!("many-{number}");
        let seed = RepositorySeed { owner: "acme".into(), name: name.clone(), private: true, ..Default::default() };
        world.sim.create_repository(&seed).expect("a repository");
        world.apply::<ProjectRepository>(&repository("team-b", &name, &json!({}))).await;
    }
    world.sim.reset_requests();
    let operator = world.operator().await;
    for number in 0..MANY {
        world.until_reason::<ProjectRepository>("team-b", &format!("many-{number}"), "Observed").await;
    }
    operator.settled().await;
    assert_eq!(world.calls("GET", "/installation/repositories"), 2, "a page for each hundred");
    assert!(world.mints() <= 3, "{} mints", world.mints());
    assert_eq!(world.calls("GET", "/repositories/{repository_id}"), 0);
    assert_eq!(asked(&world).len(), MANY);
    operator.stop().await;
}

#[tokio::test]
async fn one_question_serves_all_objects_that_follow_a_branch() {
    const MANY: usize = 20;
    let (world, operator) = granted(&objects::tenants()).await;
    let name = |number: usize| format!("shop-{number}");
    for number in 0..MANY {
        follow(&world, &name(number), &json!({"source": {"existing": {"name": "shop"}}}), "Observed").await;
    }
    operator.settled().await;
    // All polls are due within the same minutes.
    world.sim.reset_requests();
    world.live_through(&operator, crate::repository::A_POLL).await;
    assert!((1..=3).contains(&asked(&world).len()), "{} questions for {MANY} polls", asked(&world).len());

    // A push is announced to each of them.
    operator.stop().await;
    let pushed = world.push("acme/shop", "main");
    for number in 0..MANY {
        let delivery = json!({"ref": "refs/heads/main", "sha": pushed});
        world.deliver(("team-a", &name(number)), &format!("pushed-{number}"), &delivery).await;
    }
    world.sim.reset_requests();
    let operator = world.operator().await;
    for number in 0..MANY {
        let is_handled = async || {
            let status = status(&world, &name(number)).await;
            let is_it = logged(&status, &format!("pushed-{number}"))["result"] == "Handled";
            (is_it && status["head"]["sha"] == json!(pushed)).then_some(())
        };
        world.until("the push is seen", is_handled).await;
    }
    assert!((1..=2).contains(&asked(&world).len()), "{} questions for {MANY} deliveries", asked(&world).len());
    // A later push is not taken for seen.
    operator.settled().await;
    let later = world.push("acme/shop", "main");
    let delivery = json!({"ref": "refs/heads/main", "sha": later});
    world.deliver(("team-a", "shop-7"), "later", &delivery).await;
    let is_seen = async || (status(&world, "shop-7").await["head"]["sha"] == json!(later)).then_some(());
    world.until("the later push is seen", is_seen).await;
    operator.stop().await;
}

/// A server that accepts connections and never answers. Returns its port and the number of connections.
async fn silent() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (port, came) = (listener.local_addr().expect("an address").port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    (port, came)
}

#[tokio::test]
async fn a_host_that_never_answers_delays_its_own_repositories_alone() {
    let (world, operator) = two_tenants().await;
    follow(&world, "shop", &json!({}), "Observed").await;
    operator.stop().await;
    let (port, came) = silent().await;
    let host = format!("127.0.0.1:{port}");
    let git_hosts = AllowedHosts::parse(&[host.as_str()], Reach::Private).expect("hosts");
    let operator = world.start(Start { git_hosts, ..Start::default() }).await;
    operator.ready().await;
    for number in 0..3 * SLOTS {
        let spec = json!({"installationRef": null, "source": {"url": format!("https://{host}/lib-{number}")}});
        world.apply::<ProjectRepository>(&repository("team-b", &format!("silent-{number}"), &spec)).await;
    }
    let are_taken = async || (came.load(Ordering::SeqCst) >= SLOTS).then_some(());
    world.until("the host's slots are taken", are_taken).await;
    let pushed = world.push("acme/shop", "main");
    world.deliver(("team-a", "shop"), "pushed", &json!({"ref": "refs/heads/main", "sha": pushed})).await;
    world
        .until("the push is dealt with", async || {
            (logged(&status(&world, "shop").await, "pushed")["result"] == "Handled").then_some(())
        })
        .await;
    assert_eq!(came.load(Ordering::SeqCst), SLOTS, "the push waited for none of them");
    operator.kill();
}

/// Their owner keeps them by a finalizer, and names repositories that do not exist.
#[tokio::test]
async fn objects_that_go_and_forged_ids_cost_others_no_token() {
    const MANY: usize = 256;
    let (world, operator) = two_tenants().await;
    follow(&world, "shop", &json!({}), "Observed").await;
    operator.stop().await;
    for number in 0..MANY {
        let name = format!("many-{number}");
        let mut object = repository("team-b", &name, &json!({}));
        object["metadata"]["finalizers"] = json!(["example.com/held"]);
        world.apply::<ProjectRepository>(&object).await;
        let status = json!({"id": 100_000 + number, "fullName": format!("acme/{name}")});
        world.merge_status::<ProjectRepository>("team-b", &name, &status).await.expect("a forged status");
        world.delete::<ProjectRepository>("team-b", &name).await;
    }
    world.sim.reset_requests();
    let operator = world.operator().await;
    operator.ready().await;
    // Tokens of an hour are minted anew.
    world.live_through(&operator, SignedDuration::from_hours(2)).await;
    assert!((1..=3).contains(&world.mints()), "{} mints for one repository in two hours", world.mints());
    comes_to(&world, "shop", "Observed").await;
    operator.stop().await;
}
