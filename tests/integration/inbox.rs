//! `WebhookInbox`: nothing that a receiver acknowledged is lost, whatever process is killed and whatever object is deleted.

use crate::inlet::Inlet;
use crate::repository::{follow, is_git, looks, status};
use crate::scene::{connected, value};
use github_sim::RepositorySeed;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use landfall::api::{ProjectRepository, WebhookInbox};
use landfall::controllers::deliveries::TAKEN_OUT_AFTER;
use landfall_world::inbox::INBOX;
use landfall_world::{SYSTEM, World};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::RwLock;

/// No poll finds anything during a test.
fn unpolled() -> Value {
    json!({"pollInterval": "24h"})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pod_of_the_receiver_has_an_inbox_for_as_long_as_it_is_needed() {
    let (world, operator) = connected().await;
    follow(&world, "shop", &unpolled(), "Observed").await;
    world.receiver("receiver-7").await;
    let made = async || world.get::<WebhookInbox>(SYSTEM, "receiver-7").await;
    let inbox = world.until("the pod has an inbox", made).await;
    let pod = world.get::<Pod>(SYSTEM, "receiver-7").await.unwrap();
    let owner = &inbox.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("Pod", pod.metadata.uid.as_ref()));

    // A person deletes it while a delivery waits in it: the operator looks, and makes another.
    operator.settled().await;
    let pushed = world.push("acme/shop", "main");
    let delivery = json!({
        "id": 1, "appName": "landfall", "namespace": "team-a", "repositoryName": "shop", "guid": "a", "event": "push",
        "ref": "refs/heads/main", "receiptTime": format!("{:.6}", world.now()),
    });
    let delivery = json!([{"op": "add", "path": "/status/deliveries/-", "value": delivery.to_string()}]);
    world.patch_inbox("receiver-7", &delivery).await;
    world.delete::<WebhookInbox>(SYSTEM, "receiver-7").await;
    let uid = inbox.metadata.uid;
    let another = async || world.get::<WebhookInbox>(SYSTEM, "receiver-7").await.filter(|it| it.metadata.uid != uid);
    world.until("another inbox", another).await;
    let seen = async || (status(&world, "shop").await["head"]["sha"] == json!(pushed)).then_some(());
    world.until("the push is seen", seen).await;

    // With its pod it goes, and stays away.
    world.delete_now::<Pod>(SYSTEM, "receiver-7").await;
    world.until_gone::<WebhookInbox>(SYSTEM, "receiver-7").await;
    operator.settled().await;
    assert!(world.get::<WebhookInbox>(SYSTEM, "receiver-7").await.is_none());
    operator.stop().await;
}

#[tokio::test]
async fn deliveries_for_nobody_go_and_those_for_all_make_the_operator_look_at_all() {
    let (world, operator) = connected().await;
    for name in ["shop", "lib-core"] {
        follow(&world, name, &json!({"pollInterval": "24h", "source": {"existing": {"name": name}}}), "Observed").await;
    }
    operator.settled().await;
    world.sim.reset_requests();
    world.deliver(("team-a", "nobody"), "nobody", &json!({"ref": "refs/heads/main"})).await;
    world.until_taken_out(&operator).await;
    operator.settled().await;
    assert_eq!(looks(&world), 0);

    let pushed = ["shop", "lib-core"].map(|name| (name, world.push(&format!("acme/{name}"), "main")));
    world.deliver_to_app("all", &json!({"everyRepository": true, "mergedCount": 600})).await;
    for (name, sha) in pushed {
        let seen = async || (status(&world, name).await["head"]["sha"] == json!(sha)).then_some(());
        world.until(&format!("{name} was looked at"), seen).await;
    }
    world.until_taken_out(&operator).await;
    operator.stop().await;
}

/// Somebody with a stolen token of the receiver writes into its inbox.
#[tokio::test]
async fn a_forged_entry_is_taken_out_and_freezes_nothing() {
    let (world, operator) = connected().await;
    follow(&world, "shop", &unpolled(), "Observed").await;
    operator.settled().await;
    let first = world.push("acme/shop", "main");
    world.deliver(("team-a", "shop"), "old", &json!({"receiptTime": "-009999-01-02T00:00:00Z"})).await;
    world.deliver(("team-a", "shop"), "new", &json!({"receiptTime": "9999-12-30T00:00:00Z"})).await;
    let text = json!([{"op": "add", "path": "/status/deliveries/-", "value": "no delivery"}]);
    world.patch_inbox(INBOX, &text).await;
    let seen = async |sha: &str| {
        let is_seen = async || (status(&world, "shop").await["head"]["sha"] == json!(sha)).then_some(());
        world.until("the push is seen", is_seen).await;
    };
    seen(&first).await;
    let is_empty = async || {
        operator.settled().await;
        world.advance(TAKEN_OUT_AFTER);
        let inbox = world.get::<WebhookInbox>(SYSTEM, INBOX).await?;
        inbox.status?.deliveries.is_empty().then_some(())
    };
    world.until("the forged entries are taken out", is_empty).await;
    let shown = status(&world, "shop").await["deliveries"].to_string();
    assert!(["old", "new"].iter().all(|guid| !shown.contains(*guid)));

    let second = world.push("acme/shop", "main");
    world.deliver(("team-a", "shop"), "real", &json!({"ref": "refs/heads/main"})).await;
    seen(&second).await;
    operator.stop().await;
}

/// The write after which a delivery may be taken out shows what became of it.
#[tokio::test]
async fn a_delivery_costs_a_write_of_status_and_one_of_the_inbox() {
    let (world, operator) = connected().await;
    follow(&world, "shop", &unpolled(), "Observed").await;
    operator.settled().await;
    let mark = world.audit.mark().unwrap();
    let pushed = world.push("acme/shop", "main");
    for guid in ["one", "two", "three"] {
        world.deliver(("team-a", "shop"), guid, &json!({"ref": "refs/heads/main", "sha": pushed})).await;
    }
    world.until_taken_out(&operator).await;
    operator.settled().await;
    let writes = world.writes_since(mark);
    let count = |resource: &str| writes.iter().filter(|write| write.resource == resource).count();
    // Each delivery may come after the look for the one before.
    assert!((1..=3).contains(&count("projectrepositories")), "{writes:?}");
    assert!((1..=3).contains(&count("webhookinboxes")), "{writes:?}");
    assert_eq!(writes.len(), count("projectrepositories") + count("webhookinboxes"), "{writes:?}");
    let log = value::<ProjectRepository>(&world, "team-a", "shop").await["status"].clone();
    let guids: Vec<_> = log["deliveries"].as_array().unwrap().iter().map(|logged| logged["guid"].clone()).collect();
    assert_eq!(guids, ["three", "two", "one"]);
    assert_eq!(world.get::<WebhookInbox>(SYSTEM, INBOX).await.unwrap().status.unwrap().deliveries, []);
    operator.stop().await;
}

const REPOSITORIES: usize = 10;
const DELIVERIES: usize = 5000;

fn name(number: usize) -> String {
    format!("lib-{number}")
}

fn push_of(id: u64, name: &str) -> Value {
    json!({
        "ref": "refs/heads/main", "before": "1".repeat(40), "after": "2".repeat(40),
        "repository": {"id": id, "name": name, "full_name": format!("acme/{name}"), "owner": {"id": 7001, "login": "acme"}},
    })
}

/// The replicas of the receiver that run.
type Replicas = RwLock<Vec<Inlet>>;

/// Sends until a replica has acknowledged it.
async fn acknowledged(replicas: &Replicas, number: usize, (id, name): (u64, &str)) {
    let guid = format!("00000000-0000-4000-8000-{number:012x}");
    for attempt in 0.. {
        assert!(attempt < 200, "{guid} is never acknowledged");
        let (delivery, address) = {
            let replicas = replicas.read().await;
            let replica = &replicas[(number + attempt) % replicas.len()];
            (replica.delivery("push", &guid, &push_of(id, name)), replica.address)
        };
        // A replica that is killed breaks the connection off.
        let answer = tokio::spawn(async move { delivery.send(address).await.status }).await;
        if answer.is_ok_and(|status| status == 202) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Kills a replica, and starts one in another pod. Kubernetes deletes the killed one's inbox with its pod.
async fn replace(world: &World, replicas: &Replicas, number: usize) {
    let new = Inlet::in_pod(world, &format!("receiver-{number}")).await;
    let old = std::mem::replace(&mut replicas.write().await[number % 2], new);
    let pod = old.pod.clone();
    old.kill();
    world.delete_now::<Pod>(SYSTEM, &pod).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_thousand_deliveries_with_replicas_killed_in_between_are_all_looked_after() {
    let (world, mut operator) = connected().await;
    let mut ids = Vec::new();
    for number in 0..REPOSITORIES {
        let seed = RepositorySeed { owner: "acme".into(), name: name(number), private: true, ..Default::default() };
        ids.push(world.sim.create_repository(&seed).expect("a repository"));
        let spec = json!({"pollInterval": "24h", "source": {"existing": {"name": name(number)}}});
        follow(&world, &name(number), &spec, "Observed").await;
    }
    let replicas = Arc::new(RwLock::new(vec![Inlet::of(&world).await, Inlet::in_pod(&world, "receiver-1").await]));
    let (sent, ids) = (Arc::new(AtomicUsize::new(0)), Arc::new(ids));
    let senders: Vec<_> = (0..16)
        .map(|_| {
            let (sent, ids, replicas) = (Arc::clone(&sent), Arc::clone(&ids), Arc::clone(&replicas));
            tokio::spawn(async move {
                loop {
                    let number = sent.fetch_add(1, Ordering::SeqCst);
                    if number >= DELIVERIES {
                        return;
                    }
                    let of = number % REPOSITORIES;
                    acknowledged(&replicas, number, (ids[of], &name(of))).await;
                }
            })
        })
        .collect();
    for number in 2..7 {
        let half = DELIVERIES / 7 * (number - 1);
        world.until("some more were sent", async || (sent.load(Ordering::SeqCst) > half).then_some(())).await;
        replace(&world, &replicas, number).await;
        if number % 2 == 0 {
            operator.kill();
            operator = world.operator().await;
        }
    }
    for sender in senders {
        sender.await.expect("all are acknowledged");
    }
    // The last push to each repository. Its replica is killed as soon as it has acknowledged it.
    let mut begun = Vec::new();
    for of in 0..REPOSITORIES {
        let pushed = world.push(&format!("acme/{}", name(of)), "main");
        begun.push((pushed, world.sim.requests().len()));
        acknowledged(&replicas, DELIVERIES + of, (ids[of], &name(of))).await;
    }
    for number in 7..9 {
        replace(&world, &replicas, number).await;
    }
    operator.kill();
    let operator = world.operator().await;
    world.live_through(&operator, SignedDuration::from_mins(2)).await;
    world.until_taken_out(&operator).await;
    for (of, (pushed, before)) in begun.iter().enumerate() {
        let path = format!("/acme/{}.git/", name(of));
        let later = world.sim.requests().into_iter().skip(*before);
        assert!(later.into_iter().any(|request| is_git(&request) && request.path.starts_with(&path)), "{path}");
        assert_eq!(status(&world, &name(of)).await["head"]["sha"], json!(pushed));
    }
    let left: HashSet<String> = ["receiver-7".to_owned(), "receiver-8".to_owned()].into();
    world
        .until("the inboxes of killed replicas are gone", async || {
            let inboxes = world.list_inboxes().await;
            (inboxes == left).then_some(())
        })
        .await;
    operator.stop().await;
}
