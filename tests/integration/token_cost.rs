//! The cost of tokens at the API server, in its audit log.

use crate::scene::{connected, publish};
use landfall::api::InstallationToken;
use landfall_cluster::{Entry, Mark};
use landfall_world::{OPERATOR, World, objects};
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
    let mut found = by_kind(&world, mark);
    found.retain(|request, _| request.contains("installationtokens") || request.contains("secrets"));
    // The App's key is read for each look at GitHub.
    let expected = [("patch secrets", 1), ("patch installationtokens status", 1)];
    for (request, count) in expected {
        assert_eq!(found.get(request), Some(&count), "{request}: {found:?}");
    }
    let entries = world.audit.since(mark).unwrap();
    let reads =
        entries.iter().filter(|entry| entry.user == OPERATOR && entry.verb == "get" && entry.name == "shop-git");
    assert_eq!(reads.count(), 1);
    operator.stop().await;
}
