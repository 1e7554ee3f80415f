//! GitHub's limits: one tenant that uses them up stops no other.

use crate::repository::{follow, status};
use crate::scene::{connected, granted, is_alive, published, says, token_in, value};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use landfall::api::{GitHubApp, InstallationToken};
use landfall_world::inbox::logged;
use landfall_world::operator::Operator;
use landfall_world::{World, objects, text};
use serde_json::{Value, json};

/// The installation on acme.
const INSTALLATION: u64 = 501;

/// Both teams may read shop.
fn two_tenants() -> Value {
    let mut tenants = objects::tenants();
    tenants[0]["namespaces"]["names"] = json!(["team-a", "team-b"]);
    tenants
}

/// A token that git can try, one that it cannot, and so on.
fn spec(number: usize) -> Value {
    if number.is_multiple_of(2) { json!({}) } else { json!({"permissions": {"pull_requests": "write"}}) }
}

async fn publish_all(world: &World, names: &[String]) {
    for (number, name) in names.iter().enumerate() {
        world.apply::<InstallationToken>(&objects::token(name, &spec(number))).await;
    }
    for name in names {
        world.until_reason::<InstallationToken>("team-a", name, "Published").await;
    }
}

/// Lets somebody else's tokens use up the installation's limit for more than two hours, which is two windows of
/// GitHub's and two lives of a token. Every published token works all the time.
async fn lives_through_a_spent_limit(size: usize) {
    let (world, operator): (World, Operator) = granted(&two_tenants()).await;
    let names: Vec<_> = (0..size).map(|number| format!("shop-{number}")).collect();
    publish_all(&world, &names).await;
    let mut other = objects::token("busy", &json!({}));
    other["metadata"]["namespace"] = json!("team-b");
    world.apply::<InstallationToken>(&other).await;
    world.until_reason::<InstallationToken>("team-b", "busy", "Published").await;
    for minutes in 0..45 {
        world.sim.spend_rate_limit(INSTALLATION);
        world.live_through(&operator, SignedDuration::from_mins(3)).await;
        for name in &names {
            let token = token_in(&world, &format!("{name}-git")).await.expect("a token");
            assert!(is_alive(&world, &token), "{name} has a dead token after {} minutes", 3 * (minutes + 1));
        }
    }
    let busy = world.get::<Secret>("team-b", "busy-git").await.expect("a Secret");
    assert!(is_alive(&world, &text(&busy, "password").unwrap()), "its own limit does not stop its token either");
    for (number, name) in names.iter().enumerate() {
        let message = world.until_reason::<InstallationToken>("team-a", name, "Published").await;
        assert_eq!(message.contains("without a call to try it"), number % 2 == 1, "{message}");
    }
    assert!(world.mints() <= (size + 1) * 4, "{} mints for {} tokens", world.mints(), size + 1);
    operator.stop().await;
}

#[tokio::test]
async fn a_spent_limit_of_an_installation_lets_no_token_run_out() {
    lives_through_a_spent_limit(2).await;
}

#[tokio::test]
async fn a_spent_limit_of_an_installation_lets_none_of_many_tokens_run_out() {
    lives_through_a_spent_limit(20).await;
}

#[tokio::test]
async fn a_first_token_is_published_although_the_limit_is_spent() {
    let (world, operator) = connected().await;
    world.sim.spend_rate_limit(INSTALLATION);
    // git tries it.
    let message = {
        world.apply::<InstallationToken>(&objects::token("tried", &spec(0))).await;
        world.until_reason::<InstallationToken>("team-a", "tried", "Published").await
    };
    assert!(!message.contains("without a call"), "{message}");
    // Nothing can try this one.
    world.apply::<InstallationToken>(&objects::token("untried", &spec(1))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "untried", "RateLimited").await;
    says(&message, &["rate limit of the installation", "a minute after"]);
    assert_eq!(token_in(&world, "untried-git").await, None);
    world.live_through(&operator, SignedDuration::from_secs(61)).await;
    let message = world.until_reason::<InstallationToken>("team-a", "untried", "Published").await;
    says(&message, &["without a call to try it", "rate limit of the installation"]);
    for name in ["tried-git", "untried-git"] {
        assert!(is_alive(&world, &token_in(&world, name).await.unwrap()), "{name}");
    }
    operator.stop().await;
}

/// The App's own limit pays for what a push cannot do without, for an operator that knows the repository and for one that
/// has just started, whether few or many repositories are followed.
#[tokio::test]
async fn a_push_is_seen_although_the_limit_is_spent() {
    let (world, operator) = connected().await;
    let names: Vec<_> = (0..9).map(|number| format!("shop-{number}")).collect();
    for name in &names {
        follow(&world, name, &json!({"source": {"existing": {"name": "shop"}}}), "Observed").await;
    }
    operator.settled().await;
    let sees = async |guid: &str| {
        // What is known of the repository is older than the push.
        world.advance(SignedDuration::from_secs(1));
        let pushed = world.push("acme/shop", "main");
        for name in &names {
            let delivery = json!({"ref": "refs/heads/main", "sha": pushed});
            world.deliver(("team-a", name), &format!("{guid}-{name}"), &delivery).await;
        }
        for name in &names {
            let is_seen = async || (status(&world, name).await["head"]["sha"] == json!(pushed)).then_some(());
            world.until(&format!("{name} shows the push"), is_seen).await;
        }
    };
    world.sim.spend_rate_limit(INSTALLATION);
    world.sim.reset_requests();
    sees("first").await;
    assert!((1..=names.len()).contains(&world.mints()), "{} mints", world.mints());
    operator.kill();
    let operator = world.operator().await;
    operator.ready().await;
    sees("second").await;
    operator.stop().await;
}

/// A tenant writes tokens into a Secret of the operator, which revokes and removes them, because nothing is granted.
#[tokio::test]
async fn tokens_that_somebody_makes_up_reach_github_a_few_times_and_no_more() {
    let (world, operator) = published(&json!({})).await;
    let uid = value::<InstallationToken>(&world, "team-a", "shop").await["metadata"]["uid"].clone();
    let mut tenants = objects::tenants();
    tenants[0]["repositories"] = json!(["lib-*"]);
    world.apply::<GitHubApp>(&objects::app(&world, &tenants)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "RepositoryNotGranted").await;
    world.until_gone::<Secret>("team-a", "shop-git").await;
    operator.settled().await;
    world.sim.reset_requests();
    for number in 0..60 {
        let made_up = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
            "metadata": {
                "name": "shop-git", "namespace": "team-a", "labels": {"app.kubernetes.io/managed-by": "landfall"},
                "ownerReferences": [{"apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken", "name": "shop",
                    "uid": uid, "controller": true}],
            },
            "stringData": {"username": "x", "password": format!("ghs_made_up_{number}")},
        });
        world.apply::<Secret>(&made_up).await;
        operator.settled().await;
    }
    let sent = world.calls("DELETE", "/installation/token");
    assert!((1..=4).contains(&sent), "{sent} tokens that GitHub does not know were sent there");
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "RateLimited").await;
    says(&message, &["tokens that GitHub does not know", "goes on by itself, at 20"]);
    world.live_through(&operator, SignedDuration::from_mins(3)).await;
    world.until_gone::<Secret>("team-a", "shop-git").await;
    operator.stop().await;
}

/// How many reconciles of a kind came to an end.
async fn reconciles(operator: &Operator, kind: &str) -> u64 {
    let (_, metrics) = operator.serves("/metrics").await;
    let is_its =
        |line: &&str| line.starts_with("landfall_reconciles_total{") && line.contains(&format!("kind=\"{kind}\""));
    let counts = metrics.lines().filter(is_its).filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    counts.sum()
}

/// An event about the App is written into its status, and changes nothing for anybody else.
#[tokio::test]
async fn a_delivery_for_the_app_wakes_no_other_object() {
    let (world, operator) = connected().await;
    for number in 0..3 {
        world.apply::<InstallationToken>(&objects::token(&format!("shop-{number}"), &json!({}))).await;
        world.until_reason::<InstallationToken>("team-a", &format!("shop-{number}"), "Published").await;
    }
    operator.settled().await;
    let before = [reconciles(&operator, "InstallationToken").await, reconciles(&operator, "GitHubInstallation").await];
    assert!(before.iter().all(|count| *count > 0), "{before:?}");
    for number in 0..3 {
        let guid = format!("event-{number}");
        world.deliver_to_app(&guid, &json!({"event": "installation", "action": "new_permissions_accepted"})).await;
        world
            .until("the App's log has it", async || {
                let app = value::<GitHubApp>(&world, "", "landfall").await;
                (logged(&app["status"], &guid)["result"] == "Handled").then_some(())
            })
            .await;
    }
    operator.settled().await;
    let after = [reconciles(&operator, "InstallationToken").await, reconciles(&operator, "GitHubInstallation").await];
    assert_eq!(after, before);
    operator.stop().await;
}
