//! The scenario: a token's life from the App's connection to a neighbour's deletion, with each thing that can happen to it.
//!
//! Invariant: an act begins only when the one before has come to its end and the operator has nothing to do, and its end
//! is something that can be seen from outside. So the same acts lead to the same points, and a fault's consequences
//! are over before the next act, or it did not converge. Time passes only where an act says so, and, after a fault, from
//! one due time to the next until the act's end is reached.

use super::between::Between;
use super::end::{self, fingerprint};
use super::point::{Fault, Point};
use crate::world::operator::{Operator, Start};
use crate::world::{World, objects, ready, seed};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken};
use landfall::controller::Sabotage;
use serde_json::{Value, json};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The act in which the token's Secret is deleted, and the one in which it is edited: until the token that was in it is
/// revoked, only the operator's memory knows it.
pub const DELETED: &str = "its Secret is deleted";
/// See [`DELETED`].
pub const EDITED: &str = "its Secret is edited";

/// How long, in real time, nothing may happen on the way to an act's end.
const PATIENCE: Duration = Duration::from_mins(1);
/// A due time that is nearer than this is another try, which pauses for at most five minutes.
const NEAR: SignedDuration = SignedDuration::from_mins(6);
/// How much time all tries within one act may take, by the moved clock.
const MOST_TRIES: SignedDuration = SignedDuration::from_mins(4);

/// What came of a run.
pub struct Outcome {
    /// The points, in order, with their acts.
    pub points: Vec<(Point, &'static str)>,
    /// The fault happened.
    pub struck: bool,
    /// How many tokens were minted until the last act was over.
    pub mints: usize,
    /// How many tokens were alive then.
    pub live: usize,
    /// The end state, an hour later: masked.
    pub end: Value,
}

/// Plays the scenario with this fault, or none, in a world on this lane.
pub async fn play(lane: usize, planned: Option<(Point, Fault)>, sabotage: Sabotage) -> Result<Outcome, String> {
    let world = World::on(lane, seed()).await;
    world.namespace("team-a", &[]).await;
    let between = Between::new(planned);
    let run = Run { world, between, sabotage, looks_wanted: Cell::new(0) };
    run.start().await;
    let result = run.acts().await;
    if let Some(operator) = run.between.take() {
        operator.kill();
    }
    result
}

struct Run {
    world: World,
    between: Arc<Between>,
    sabotage: Sabotage,
    /// How often the list of installations must have been asked for, so that the running operator knows GitHub.
    looks_wanted: Cell<usize>,
}

impl Run {
    async fn acts(&self) -> Result<Outcome, String> {
        let world = &self.world;

        self.act("the App is connected");
        world.apply::<GitHubApp>(&objects::app(world, &objects::tenants())).await;
        self.reach("App and installation are ready", async || self.is_connected().await).await?;

        self.act("a token is created");
        world.apply::<InstallationToken>(&objects::token("a", &json!({}))).await;
        let minted = self.published("a", |_| true).await?;

        self.act("it is renewed");
        self.live_until(minted.expires_at - SignedDuration::from_mins(10)).await?;
        let renewed = self.published("a", |token| token.fingerprint != minted.fingerprint).await?;

        self.act("its scope is changed");
        let narrower = json!({"permissions": {"contents": "read"}});
        world.apply::<InstallationToken>(&objects::token("a", &narrower)).await;
        let narrowed =
            self.published("a", |token| token.fingerprint != renewed.fingerprint && token.contents == "read").await?;

        self.act(DELETED);
        world.delete::<Secret>("team-a", "a-git").await;
        let repaired = self.published("a", |token| token.fingerprint != narrowed.fingerprint).await?;

        self.act(EDITED);
        world.put_secret("team-a", "a-git", &[("password", "edited-by-hand")]).await;
        self.published("a", |token| token.fingerprint != repaired.fingerprint).await?;

        self.act("the operator is restarted");
        if let Some(operator) = self.between.take() {
            operator.stop().await;
        }
        self.start().await;
        self.published("a", |_| true).await?;

        self.act("another token is created");
        world.apply::<InstallationToken>(&objects::token("b", &json!({}))).await;
        self.published("b", |_| true).await?;

        self.act("the other token is deleted");
        world.delete::<InstallationToken>("team-a", "b").await;
        self.reach("it is gone", async || world.get::<InstallationToken>("team-a", "b").await.is_none()).await?;
        self.reach("App and installation are ready", async || self.is_connected().await).await?;
        let last = self.published("a", |_| true).await?;
        self.between.act(None);
        let (mints, live) = (world.mints(), world.sim.live_tokens().len());

        // What was lost dies within the hour. After the next renewal, and twenty minutes, all tokens from before are over.
        self.live_until(last.expires_at - SignedDuration::from_mins(10)).await?;
        let renewed = self.published("a", |token| token.fingerprint != last.fingerprint).await?;
        self.live_until(renewed.minted_at + SignedDuration::from_mins(20)).await?;
        let end = end::state(world).await;
        Ok(Outcome { points: self.between.recorded(), struck: self.between.struck(), mints, live, end })
    }

    fn act(&self, name: &'static str) {
        self.between.act(Some(name));
    }

    async fn start(&self) {
        let looks = self.looks();
        let start = Start { sabotage: self.sabotage, ..self.between.start() };
        self.between.bury();
        self.between.put(self.world.start(start).await);
        let has_app = self.world.get::<GitHubApp>("", "landfall").await.is_some();
        self.looks_wanted.set(if has_app { looks + 1 } else { 0 });
    }

    fn looks(&self) -> usize {
        self.world.calls("GET", "/app/installations")
    }

    /// Waits until the operator, which is started anew if it was killed, has nothing to do.
    async fn settled(&self) -> Result<(), String> {
        let began = Instant::now();
        let mut quiet = 0;
        while quiet < 8 {
            quiet = match self.between.with(|operator| operator.activity().is_idle()) {
                Some(true) => quiet + 1,
                Some(false) => 0,
                None => {
                    self.start().await;
                    0
                }
            };
            if began.elapsed() > PATIENCE {
                return Err("the operator does not come to rest".into());
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        Ok(())
    }

    /// Waits until an act has come to its end: in real time, and from one of the operator's tries to the next.
    async fn reach(&self, what: &str, mut end: impl AsyncFnMut() -> bool) -> Result<(), String> {
        let mut waiting = Instant::now();
        let began = self.world.now();
        loop {
            let knows_github = self.looks() >= self.looks_wanted.get();
            self.settled().await?;
            if knows_github && end().await {
                return Ok(());
            }
            let now = self.world.now();
            match self.between.with(Operator::next_due).flatten() {
                Some(due) if due <= now + NEAR && due <= began + MOST_TRIES => {
                    self.world.advance(due.duration_since(now).max(SignedDuration::ZERO));
                    waiting = Instant::now();
                }
                due if waiting.elapsed() > PATIENCE => {
                    let after = now.duration_since(began);
                    let state = end::state(&self.world).await;
                    return Err(format!("after {after:#} not yet: {what}; next due {due:?} at {now}; {state:#}"));
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Lets time pass from due time to due time.
    async fn live_until(&self, end: Timestamp) -> Result<(), String> {
        loop {
            self.reach("the operator is at rest", async || true).await?;
            let now = self.world.now();
            if now >= end {
                return Ok(());
            }
            let due = self.between.with(Operator::next_due).flatten();
            let next = due.unwrap_or(end).min(end);
            self.world.advance(next.duration_since(now).max(SignedDuration::ZERO));
        }
    }

    async fn is_connected(&self) -> bool {
        let app = self.world.get::<GitHubApp>("", "landfall").await;
        let installation = self.world.get::<GitHubInstallation>("team-a", "acme").await;
        is_ready(app.as_ref(), "Connected") && is_ready(installation.as_ref(), "Active")
    }

    /// Waits until a token is published, its status says so, and it is as `wanted`.
    async fn published(&self, name: &str, wanted: impl Fn(&Published) -> bool) -> Result<Published, String> {
        let mut found = None;
        self.reach(&format!("token {name} is published as it should be"), async || {
            found = self.look(name).await.filter(&wanted);
            found.is_some()
        })
        .await?;
        found.ok_or_else(|| "it is published, and was not found".to_owned())
    }

    async fn look(&self, name: &str) -> Option<Published> {
        let token = self.world.get::<InstallationToken>("team-a", name).await;
        if !is_ready(token.as_ref(), "Published") {
            return None;
        }
        let status = token?.status?;
        let secret = self.world.get::<Secret>("team-a", status.secret_name.as_deref()?).await?;
        let in_secret = fingerprint(&secret)?;
        let published = Published {
            expires_at: status.expires_at?.0,
            minted_at: status.minted_at?.0,
            contents: status.permissions.get("contents").cloned()?,
            fingerprint: status.fingerprint?,
        };
        (published.fingerprint == in_secret).then_some(published)
    }
}

/// What a token's status says of it.
struct Published {
    fingerprint: String,
    contents: String,
    minted_at: Timestamp,
    expires_at: Timestamp,
}

/// Whether an object is ready for this reason, in its present generation.
fn is_ready<K: serde::Serialize>(object: Option<&K>, reason: &str) -> bool {
    let object = serde_json::to_value(object).expect("json");
    let ready = ready(&object);
    ready["status"] == "True"
        && ready["reason"] == reason
        && ready["observedGeneration"] == object["metadata"]["generation"]
}
