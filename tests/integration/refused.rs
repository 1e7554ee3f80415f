//! `InstallationToken`s that cannot be published: each has its reason, and a message that says what to do.

use crate::scene::{connected, only_token, publish, says};
use github_sim::{Because, Fault, FaultKind};
use landfall::api::InstallationToken;
use landfall_world::{World, objects};
use serde_json::{Value, json};

/// Applies an object that the API server must refuse, and returns the message.
async fn refused(world: &World, spec: &Value) -> String {
    match world.try_apply::<InstallationToken>(&objects::token("bad", spec)).await {
        Ok(_) => panic!("{spec} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_at_once() {
    let world = World::new().await;
    world.namespace("team-a", &[]).await;
    for (spec, words) in [
        (json!({"repositorySelection": "All"}), "exactly one of spec.repositories and spec.repositorySelection: All"),
        (json!({"repositories": null}), "a token for every repository must be asked for"),
        (json!({"repositories": []}), "exactly one of spec.repositories"),
        (json!({"repositories": [{"name": "acme/shop"}]}), "without its owner: shop, not acme/shop"),
        (json!({"repositories": [{"name": "shop", "id": 9001}]}), "exactly one of name and id must be set"),
        (json!({"repositories": [{"name": "shop"}, {"id": 9002}]}), "all by name or all by id"),
        (json!({"permissions": {"contents": "maintain"}}), "Unsupported value"),
        (json!({"permissions": {}}), "spec.permissions"),
        (json!({"renewBefore": "soon"}), "a duration between 1m and 1h, such as 10m"),
        (json!({"renewBefore": "10s"}), "a duration between 1m and 1h"),
        (json!({"renewBefore": "2h"}), "a duration between 1m and 1h"),
        (json!({"secret": {"name": "Shop_Git"}}), "must be a DNS name"),
        (json!({"secret": {"name": "x", "labels": {"landfall.dev/app": "x"}}}), "spec.secret.labels must not use"),
        (
            json!({"secret": {"name": "x", "annotations": {"landfall.dev/expiration-time": "x"}}}),
            "spec.secret.annotations must not use keys",
        ),
        (json!({"secret": {"name": "x", "format": "Pickled"}}), "spec.secret.format"),
        (json!({"installationRef": null}), "spec.installationRef"),
    ] {
        says(&refused(&world, &spec).await, &[words]);
    }
}

#[tokio::test]
async fn what_was_not_granted_is_refused_with_whom_to_ask() {
    let (world, operator) = connected().await;
    let gone = json!({"installationRef": {"name": "globex"}});
    for (name, spec, reason, words) in [
        (
            "vault",
            json!({"repositories": [{"name": "vault"}]}),
            "RepositoryNotGranted",
            &["team-a", "vault", "acme", "status.granted", "spec.tenants[].repositories"][..],
        ),
        (
            "vault-id",
            json!({"repositories": [{"id": 9003}]}),
            "RepositoryNotGranted",
            &["id 9003", "spec.tenants[].repositories"],
        ),
        (
            "both",
            json!({"repositories": [{"name": "shop"}, {"name": "vault"}]}),
            "RepositoryNotGranted",
            &["was not granted vault of acme"],
        ),
        (
            "all",
            json!({"repositories": null, "repositorySelection": "All"}),
            "RepositoryNotGranted",
            &["spec.repositorySelection All needs a grant of \"*\"", "name spec.repositories"],
        ),
        (
            "admin",
            json!({"permissions": {"contents": "admin", "secrets": "read"}}),
            "InsufficientPermissions",
            &["contents: admin (has write)", "secrets: read", "maxPermissions"],
        ),
        (
            "unknown",
            json!({"repositories": [{"name": "lib-none"}]}),
            "RepositoryNotFound",
            &["lib-none", "does not exist", "Correct spec.repositories", "add the repository to the installation"],
        ),
        ("no-ref", gone, "WaitingForReference", &["there is no GitHubInstallation globex", "there are: acme"]),
    ] {
        world.apply::<InstallationToken>(&objects::token(name, &spec)).await;
        let message = world.until_reason::<InstallationToken>("team-a", name, reason).await;
        says(&message, words);
    }
    operator.settled().await;
    assert!(world.sim.live_tokens().is_empty());

    // A correction takes effect at once.
    publish(&world, "unknown", &json!({"repositories": [{"name": "lib-core"}]})).await;
    publish(&world, "vault", &json!({})).await;
    operator.stop().await;
}

#[tokio::test]
async fn beyond_the_installation_there_is_nothing_to_grant() {
    let mut seed = landfall_world::seed();
    let granted = serde_json::from_value(json!({"contents": "read", "metadata": "read"})).unwrap();
    seed.installations[0].permissions = Some(granted);
    let world = World::with(seed).await;
    world.namespace("team-a", &[]).await;
    let operator = world.operator().await;
    world.apply::<landfall::api::GitHubApp>(&objects::app(&world, &objects::tenants())).await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({}))).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "InsufficientPermissions").await;
    says(&message, &["the installation on acme does not have contents: write (has read)", "accept it at https://"]);
    assert_eq!(world.mints(), 0, "what GitHub would refuse is not asked for");

    // The account accepts the permissions. The next look finds that.
    let accepted = serde_json::from_value(json!({"contents": "write", "metadata": "read"})).unwrap();
    world.sim.grant(501, accepted).unwrap();
    crate::scene::look(&world).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    only_token(&world, "shop-git").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_mistake_does_not_take_away_what_was_published() {
    let (world, operator) = connected().await;
    publish(&world, "shop", &json!({})).await;
    let token = only_token(&world, "shop-git").await;
    world.apply::<InstallationToken>(&objects::token("shop", &json!({"repositories": [{"name": "vault"}]}))).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "RepositoryNotGranted").await;
    operator.settled().await;
    assert_eq!(only_token(&world, "shop-git").await, token);
    publish(&world, "shop", &json!({})).await;
    assert_eq!(only_token(&world, "shop-git").await, token);
    operator.stop().await;
}

#[tokio::test]
async fn a_repository_made_anew_under_the_same_name_is_not_taken_for_the_old_one() {
    let (world, operator) = connected().await;
    publish(&world, "shop", &json!({})).await;
    world.sim.delete_repository("acme/shop").unwrap();
    let seed = serde_json::from_value(json!({"owner": "acme", "name": "shop", "private": true})).unwrap();
    let other = world.sim.create_repository(&seed).unwrap();
    world.live_through(&operator, jiff::SignedDuration::from_mins(65)).await;
    let message = world.until_reason::<InstallationToken>("team-a", "shop", "RepositoryNotFound").await;
    says(&message, &["deleted and made anew", "delete Secret shop-git"]);
    assert!(world.sim.live_tokens().is_empty());
    world.delete::<k8s_openapi::api::core::v1::Secret>("team-a", "shop-git").await;
    world.live_through(&operator, jiff::SignedDuration::from_mins(40)).await;
    world.until_reason::<InstallationToken>("team-a", "shop", "Published").await;
    assert_eq!(world.sim.live_tokens()[0].repository_ids, Some(vec![other]));
    operator.stop().await;
}

#[tokio::test]
async fn a_refusal_that_no_permission_changes_has_its_reason_and_remedy() {
    let (world, operator) = connected().await;
    for (because, reason, words) in [
        (
            Because::IpAllowList,
            "IPAddressNotAllowed",
            &["IP allow list enabled", "add the cluster's outgoing address"][..],
        ),
        (Because::SingleSignOn, "SingleSignOnRequired", &["SAML enforcement", "authorize these credentials"]),
        (Because::Billing, "BillingLocked", &["Repository access blocked", "settle it in its billing settings"]),
        (Because::ProxyPage, "APIFailed", &["an HTML page came", "403", "no proxy or firewall"]),
        (Because::SecondaryLimit, "RateLimited", &["secondary rate limit"]),
    ] {
        let refusal = FaultKind::Refuse { because };
        world.sim.inject(Fault::new("POST", "/app/installations/*/access_tokens", refusal));
        let name = format!("for-{}", reason.to_lowercase());
        world.apply::<InstallationToken>(&objects::token(&name, &json!({}))).await;
        let message = world.until_reason::<InstallationToken>("team-a", &name, reason).await;
        says(&message, words);
    }
    operator.stop().await;
}
