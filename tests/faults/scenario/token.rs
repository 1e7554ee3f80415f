//! The life of a token, from the App's connection to the deletion of another token, with each event that can happen to
//! it.

use super::Told;
use crate::end::fingerprint;
use crate::judge::Counts;
use crate::point::{Fault, Point};
use crate::run::Run;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use landfall::api::InstallationToken;
use landfall_world::objects;
use serde_json::json;

const MINTED: &str = "tokens minted";
const LIVE: &str = "tokens live";
/// The act in which the token's Secret is deleted, and the one in which it is edited. Until the token from it is
/// revoked, only the operator's memory has it.
const DELETED: &str = "its Secret is deleted";
const EDITED: &str = "its Secret is edited";

pub async fn life(run: &Run) -> Told {
    let world = &run.world;
    run.begin().await;

    run.act("the App is connected");
    run.connect(&objects::app(world, &objects::tenants())).await?;

    run.act("a token is created");
    world.apply::<InstallationToken>(&objects::token("a", &json!({}))).await;
    let minted = published(run, "a", |_| true).await?;

    run.act("it is renewed");
    run.live_until(minted.expires_at - SignedDuration::from_mins(10)).await?;
    let renewed = published(run, "a", |token| token.fingerprint != minted.fingerprint).await?;

    run.act("its scope is changed");
    let narrower = json!({"permissions": {"contents": "read"}});
    world.apply::<InstallationToken>(&objects::token("a", &narrower)).await;
    let is_narrowed = |token: &Published| token.fingerprint != renewed.fingerprint && token.contents == "read";
    let narrowed = published(run, "a", is_narrowed).await?;

    run.act(DELETED);
    world.delete::<Secret>("team-a", "a-git").await;
    let repaired = published(run, "a", |token| token.fingerprint != narrowed.fingerprint).await?;

    run.act(EDITED);
    world.put_secret("team-a", "a-git", &[("password", "edited-by-hand")]).await;
    published(run, "a", |token| token.fingerprint != repaired.fingerprint).await?;

    run.act("the operator is restarted");
    run.restart().await;
    published(run, "a", |_| true).await?;

    run.act("another token is created");
    world.apply::<InstallationToken>(&objects::token("b", &json!({}))).await;
    published(run, "b", |_| true).await?;

    run.act("the other token is deleted");
    world.delete::<InstallationToken>("team-a", "b").await;
    run.reach("it is gone", async || world.get::<InstallationToken>("team-a", "b").await.is_none()).await?;
    run.connected().await?;
    let last = published(run, "a", |_| true).await?;
    run.between.act(None);
    let counts = [(MINTED, world.mints()), (LIVE, world.sim.live_tokens().len())].into();

    // A lost token expires within the hour. After the next renewal and twenty minutes, all earlier tokens have expired.
    run.live_until(last.expires_at - SignedDuration::from_mins(10)).await?;
    let renewed = published(run, "a", |token| token.fingerprint != last.fingerprint).await?;
    run.live_until(renewed.minted_at + SignedDuration::from_mins(20)).await?;
    let mut end = run.state().await;
    end["live tokens"] = world.sim.live_tokens().len().into();
    Ok((counts, end))
}

/// The cost that a fault may have. One more token is allowed only if the fault explains it: it was minted and not
/// published yet, so that it was lost, or it was removed from its Secret and not revoked yet.
pub fn allowance(points: &[(Point, &'static str)], index: usize, fault: Fault) -> Counts {
    let lost: Counts = [(MINTED, 1), (LIVE, 1)].into();
    let (point, act) = &points[index];
    if is_mint(point) {
        return if fault.has_effect() { lost } else { Counts::new() };
    }
    if !fault.kills() {
        return Counts::new();
    }
    // The points that the operator had passed when it was killed.
    let done = &points[..index + usize::from(fault.has_effect())];
    let last = done.iter().rev().find(|(point, _)| is_mint(point) || is_publication(point));
    if last.is_some_and(|(point, _)| is_mint(point)) {
        return lost;
    }
    let revoked = done.iter().any(|(point, other)| other == act && is_revocation(point));
    if [DELETED, EDITED].contains(act) && !revoked {
        return [(LIVE, 1)].into();
    }
    Counts::new()
}

fn is_mint(point: &Point) -> bool {
    point.kind.ends_with("/access_tokens")
}

fn is_publication(point: &Point) -> bool {
    point.kind.starts_with("POST secrets ") || point.kind.starts_with("PATCH secrets ")
}

fn is_revocation(point: &Point) -> bool {
    point.kind == "DELETE /installation/token"
}

/// Waits until a token is published, its status shows that, and it is as `wanted`.
async fn published(run: &Run, name: &str, wanted: impl Fn(&Published) -> bool) -> Result<Published, String> {
    let mut found = None;
    run.reach(&format!("token {name} is published as it should be"), async || {
        found = look(run, name).await.filter(&wanted);
        found.is_some()
    })
    .await?;
    found.ok_or_else(|| "it is published, and was not found".to_owned())
}

async fn look(run: &Run, name: &str) -> Option<Published> {
    if !run.is_ready::<InstallationToken>("team-a", name, "Published").await {
        return None;
    }
    let status = run.world.get::<InstallationToken>("team-a", name).await?.status?;
    let secret = run.world.get::<Secret>("team-a", status.secret_name.as_deref()?).await?;
    let in_secret = fingerprint(&secret)?;
    let published = Published {
        expires_at: status.expiration_time?.0,
        minted_at: status.mint_time?.0,
        contents: status.permissions.get("contents").cloned()?,
        fingerprint: status.fingerprint?,
    };
    (published.fingerprint == in_secret).then_some(published)
}

/// The token's properties in status.
struct Published {
    fingerprint: String,
    contents: String,
    minted_at: Timestamp,
    expires_at: Timestamp,
}
