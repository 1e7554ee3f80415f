//! The cost of an hour in which nothing happens, in the records of the API server and of GitHub.

use crate::scene::{connected, only_token, publish, sha256, token_in};
use github_sim::{Entry, Install};
use jiff::SignedDuration;
use landfall::api::{GitHubApp, GitHubInstallation};
use landfall_world::operator::Start;
use landfall_world::{OPERATOR, World, objects};
use serde_json::json;

/// Routes of a token's renewal.
const MINT: &str = "/app/installations/{installation_id}/access_tokens";
const VERIFY: &str = "/installation/repositories";

fn count(requests: &[Entry], route: &str) -> usize {
    requests.iter().filter(|request| request.route.as_deref() == Some(route)).count()
}

/// Checks that only renewals wrote: the Secret once, and status. A look that begins before the cache has the new status
/// may write the same status again, which changes nothing.
fn only_renewed(writes: &[landfall_cluster::Entry], renewals: usize) {
    let of = |resource: &str, subresource: &str| {
        writes.iter().filter(|write| write.resource == resource && write.subresource == subresource).count()
    };
    let (secrets, status) = (of("secrets", ""), of("installationtokens", "status"));
    assert_eq!(secrets, renewals, "{writes:?}");
    assert!((renewals..=2 * renewals).contains(&status), "{writes:?}");
    assert_eq!(writes.len(), secrets + status + of("leases", ""), "{writes:?}");
    assert!(writes.iter().all(|write| write.user == OPERATOR && write.succeeded()), "{writes:?}");
}

#[tokio::test]
async fn an_idle_hour_costs_no_write_and_hardly_a_call() {
    let world = World::new().await;
    for namespace in ["team-a", "team-b"] {
        world.namespace(namespace, &[]).await;
    }
    world.sim.install(&Install { app: "landfall".into(), account: "globex".into(), ..Install::default() }).unwrap();
    let operator = world.start(Start { elects: true, ..Start::default() }).await;
    operator.ready().await;
    let tenants = json!([
        {"name": "acme", "account": "acme", "repositories": ["shop", "lib-*"], "maxPermissions": {"contents": "write"},
            "namespaces": {"names": ["team-a", "team-b"]}},
        {"name": "globex", "account": "globex", "repositories": ["*"], "namespaces": {"names": ["team-a"]}},
        {"name": "monalisa", "account": "monalisa", "repositories": ["*"], "namespaces": {"names": ["team-b"]}},
    ]);
    world.apply::<GitHubApp>(&objects::app(&world, &tenants)).await;
    world.until_reason::<GitHubInstallation>("team-a", "acme", "Active").await;
    world.until_reason::<GitHubInstallation>("team-a", "globex", "Active").await;
    world.until_reason::<GitHubInstallation>("team-b", "monalisa", "NotInstalled").await;
    // Objects of all kinds, in all lasting states: ready, denied, waiting.
    publish(&world, "shop", &json!({})).await;
    let opaque = json!({"repositories": [{"name": "lib-core"}], "secret": {"name": "libs-git", "format": "Opaque"}});
    publish(&world, "libs", &opaque).await;
    for (name, spec, reason) in [
        ("denied", json!({"repositories": [{"name": "vault"}]}), "RepositoryNotGranted"),
        ("waits", json!({"installationRef": {"name": "nobody"}}), "WaitingForReference"),
    ] {
        world.apply::<landfall::api::InstallationToken>(&objects::token(name, &spec)).await;
        world.until_reason::<landfall::api::InstallationToken>("team-a", name, reason).await;
    }
    operator.settled().await;

    let mark = world.audit.mark().unwrap();
    world.sim.reset_requests();
    world.live_through(&operator, SignedDuration::from_mins(40)).await;
    // Tokens are renewed ten to fifteen minutes before the end of their hour, so no renewal was due.
    let (writes, calls) = (world.writes_since(mark), world.sim.requests());
    let but_leases: Vec<_> = writes.iter().filter(|write| write.resource != "leases").collect();
    assert!(but_leases.is_empty(), "{but_leases:?}");
    assert_eq!((count(&calls, MINT), count(&calls, VERIFY)), (0, 0));

    world.live_through(&operator, SignedDuration::from_mins(20)).await;
    let (writes, calls) = (world.writes_since(mark), world.sim.requests());
    let renewals = 2;
    assert_eq!(
        (count(&calls, MINT), count(&calls, VERIFY)),
        (renewals, renewals),
        "both were due, and the clock ticks"
    );
    let looks = calls.len() - 2 * renewals;
    // Six calls for the App, and one for each of the two installations.
    assert!((2..=8).contains(&looks), "{looks} calls in an hour: {calls:?}");
    only_renewed(&writes, renewals);
    world
        .until("the audit log sees the Lease", async || {
            world.writes_since(mark).iter().any(|write| write.resource == "leases").then_some(())
        })
        .await;
    operator.stop().await;
}

#[tokio::test]
async fn a_token_due_at_minute_thirty_is_renewed_then_and_nothing_else_happens() {
    let (world, operator) = connected().await;
    world.sim.set_token_life(std::time::Duration::from_mins(45));
    publish(&world, "shop", &json!({"renewBefore": "12m"})).await;
    // Jitter adds at most half as much again: 45 - 18 = 27 minutes at the earliest, 33 at the latest.
    operator.settled().await;
    let first = only_token(&world, "shop-git").await;
    let mark = world.audit.mark().unwrap();
    world.sim.reset_requests();
    world.live_through(&operator, SignedDuration::from_mins(26)).await;
    assert_eq!(token_in(&world, "shop-git").await.unwrap(), first);
    assert!(world.writes_since(mark).is_empty());
    world.live_through(&operator, SignedDuration::from_mins(8)).await;
    let second = token_in(&world, "shop-git").await.unwrap();
    assert_ne!(sha256(&second), sha256(&first));
    world.live_through(&operator, SignedDuration::from_mins(26)).await;
    // The hour contains this renewal, and perhaps the next one, which is due from minute 54 on.
    let calls = world.sim.requests();
    let renewals = count(&calls, MINT);
    assert!((1..=2).contains(&renewals), "{renewals}");
    assert_eq!(count(&calls, VERIFY), renewals);
    let writes = world.writes_since(mark);
    only_renewed(&writes, renewals);
    assert!(calls.len() - 2 * renewals <= 7, "{calls:?}");
    operator.stop().await;
}

#[tokio::test]
async fn the_apps_rights_suffice_and_nothing_is_tried_beyond_them() {
    let (world, operator) = connected().await;
    publish(&world, "shop", &json!({})).await;
    world.delete::<landfall::api::InstallationToken>("team-a", "shop").await;
    world.until_gone::<landfall::api::InstallationToken>("team-a", "shop").await;
    world.delete::<GitHubApp>("", "landfall").await;
    world.until_gone::<GitHubApp>("", "landfall").await;
    let refused: Vec<_> = world.asked().into_iter().filter(|entry| matches!(entry.code, 401 | 403)).collect();
    assert!(refused.is_empty(), "{refused:?}");
    operator.stop().await;
}
