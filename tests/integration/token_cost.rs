//! The cost of tokens at the API server, in its audit log.

use crate::scene::{connected, is_alive, publish, token_in};
use k8s_openapi::api::core::v1::Secret;
use landfall::api::InstallationToken;
use landfall_cluster::{Entry, Mark};
use landfall_world::{OPERATOR, SYSTEM, World, objects};
use serde_json::json;
use std::collections::BTreeMap;

/// The operator's requests since a mark, by verb, resource and subresource.
fn by_kind(world: &World, since: Mark) -> BTreeMap<String, usize> {
    let entries = world.audit.since(since).unwrap();
    let mut counts = BTreeMap::new();
    for Entry { verb, resource, subresource, .. } in entries.into_iter().filter(|entry| entry.user == OPERATOR) {
        *counts.entry(format!("{verb} {resource} {subresource}").trim_end().to_owned()).or_default() += 1;
    }
    counts
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.map(|(request, count)| (request.to_owned(), count)).into()
}

#[tokio::test]
async fn a_new_token_costs_three_writes_and_one_read() {
    let (world, operator) = connected().await;
    operator.settled().await;
    let mark = world.audit.mark().unwrap();
    let names: Vec<_> = (0..5).map(|number| format!("shop-{number}")).collect();
    for name in &names {
        world.apply::<InstallationToken>(&objects::token(name, &json!({}))).await;
    }
    for name in &names {
        world.until_reason::<InstallationToken>("team-a", name, "Published").await;
    }
    operator.settled().await;
    let expected = counts([
        ("create secrets", 5),
        ("get secrets", 5),
        ("patch installationtokens", 5),
        ("patch installationtokens status", 5),
    ]);
    assert_eq!(by_kind(&world, mark), expected);
    operator.stop().await;
}

#[tokio::test]
async fn a_renewal_costs_two_writes_and_one_read() {
    let (world, operator) = connected().await;
    publish(&world, "shop", &json!({})).await;
    operator.settled().await;
    let mark = world.audit.mark().unwrap();
    world.live_through(&operator, jiff::SignedDuration::from_mins(55)).await;
    assert_eq!(world.mints(), 2);
    let found = by_kind(&world, mark);
    for (request, count) in [("patch secrets", 1), ("patch installationtokens status", 1)] {
        assert_eq!(found.get(request), Some(&count), "{request}: {found:?}");
    }
    assert_eq!(found.get("create events"), None, "{found:?}");
    let entries = world.audit.since(mark).unwrap();
    let reads =
        entries.iter().filter(|entry| entry.user == OPERATOR && entry.verb == "get" && entry.name == "shop-git");
    assert_eq!(reads.count(), 1);
    operator.stop().await;
}

#[tokio::test]
async fn a_restart_reads_the_published_tokens_by_one_list() {
    let (world, operator) = connected().await;
    let names: Vec<_> = (0..10).map(|number| format!("shop-{number}")).collect();
    for name in &names {
        world.apply::<InstallationToken>(&objects::token(name, &json!({}))).await;
    }
    for name in &names {
        world.until_reason::<InstallationToken>("team-a", name, "Published").await;
    }
    operator.settled().await;
    let mints = world.mints();
    operator.kill();
    let mark = world.audit.mark().unwrap();
    let operator = world.operator().await;
    operator.ready().await;
    operator.settled().await;
    let entries = world.audit.since(mark).unwrap();
    let ours: Vec<_> = entries.iter().filter(|entry| entry.user == OPERATOR).collect();
    let of = |verb: &str, namespace: &str| {
        ours.iter().filter(|it| it.verb == verb && it.resource == "secrets" && it.namespace == namespace).count()
    };
    assert_eq!((of("get", "team-a"), of("list", "")), (0, 1), "the watch streams, so this list is all: {ours:?}");
    let lists: Vec<_> = ours.iter().filter(|it| it.verb == "list").map(|it| it.resource.as_str()).collect();
    assert_eq!(lists, ["secrets"], "every watch begins by a stream");
    // The App's key and the root keys of webhooks. The key is read again if its watch begins meanwhile.
    assert!((1..=3).contains(&of("get", SYSTEM)), "{ours:?}");
    let writes: Vec<_> = ours.iter().filter(|entry| entry.is_write()).collect();
    assert!(writes.is_empty(), "{writes:?}");
    assert_eq!(world.mints(), mints);

    // The token in a Secret that is deleted now is known, so it is revoked, although another process minted it.
    let first = token_in(&world, "shop-0-git").await.unwrap();
    world.delete::<Secret>("team-a", "shop-0-git").await;
    world.until("the Secret is back", async || token_in(&world, "shop-0-git").await).await;
    operator.settled().await;
    assert!(!is_alive(&world, &first));
    operator.stop().await;
}
