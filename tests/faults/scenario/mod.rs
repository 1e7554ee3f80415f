//! The scenarios: lives of one thing each, short, with what can happen to it.
//!
//! What one of them has covered, such as the App's connection, is not recorded in another.

mod app_hook;
mod fork;
mod hook;
mod push;
mod token;
mod workspace;

use super::judge::Counts;
use super::point::{Fault, Point};
use super::run::Run;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use github_sim::Seed;
use landfall_world::seed;
use serde_json::{Value, json};

/// What is counted where the operator's own tokens are minted, which are never published.
const MINTED: &str = "tokens minted";

/// How a life ended: what was counted, and the end state, masked.
pub type Told = Result<(Counts, Value), String>;

/// A scenario.
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// What GitHub begins with.
    pub seed: fn() -> Seed,
    /// Plays it.
    pub life: Life,
    /// Which points are this scenario's; what others cover is left out.
    pub records: fn(&Point) -> bool,
    /// Whether this fault is tried at the point with this index.
    pub faults: fn(usize, Fault) -> bool,
    /// What a fault at the point with this index explains, by the recorded run.
    pub allowance: fn(&[(Point, &'static str)], usize, Fault) -> Counts,
}

/// All of them.
pub static ALL: [Scenario; 8] = [TOKEN, HOOK, FORK, APP_HOOK, PUSH, WS_CREATE, WS_SUSPEND, WS_DELETE];

/// Plays it.
type Life = for<'a> fn(&'a Run) -> LocalBoxFuture<'a, Told>;

/// A scenario that begins as usual and records all, and in which a fault costs tokens that the operator reads with.
const fn usual(name: &'static str, life: Life) -> Scenario {
    Scenario { name, seed: shop, life, records: |_| true, faults: |_, _| true, allowance: own_tokens }
}

/// The same with workspaces, and the points that are theirs.
const fn of_workspaces(name: &'static str, life: Life) -> Scenario {
    Scenario {
        records: workspace::records,
        faults: workspace::faults,
        allowance: workspace::allowance,
        ..usual(name, life)
    }
}

/// A token's life.
pub const TOKEN: Scenario =
    Scenario { allowance: token::allowance, ..usual("token", |run| token::life(run).boxed_local()) };
/// The life of a repository's own webhook.
pub const HOOK: Scenario = usual("hook", |run| hook::life(run).boxed_local());
/// A fork's.
pub const FORK: Scenario = Scenario { seed: fork::seed, ..usual("fork", |run| fork::life(run).boxed_local()) };
/// That of the App's webhook.
pub const APP_HOOK: Scenario = usual("app-hook", |run| app_hook::life(run).boxed_local());
/// What pushes roll.
pub const PUSH: Scenario = usual("push", |run| push::life(run).boxed_local());
/// A workspace, until it can be worked in.
pub const WS_CREATE: Scenario = of_workspaces("ws-create", |run| workspace::create(run).boxed_local());
/// One that is suspended with work in it, and resumed.
pub const WS_SUSPEND: Scenario = of_workspaces("ws-suspend", |run| workspace::suspend(run).boxed_local());
/// One that is deleted with work in it.
pub const WS_DELETE: Scenario = of_workspaces("ws-delete", |run| workspace::delete(run).boxed_local());

/// The usual beginning, with the repository alone that is used: each takes the simulator a while to make.
fn shop() -> Seed {
    let mut seed = seed();
    seed.repositories.retain(|repository| repository.name == "shop");
    seed
}

/// The operator's own tokens are in its memory alone, so the next one cannot take them up. One that dies loses the token
/// that it reads with, and those of the step that it was at; and the webhook is examined anew: three at most. Any other
/// fault costs the tokens of one step, which is done anew: two at most, to look for a fork and to make it.
fn own_tokens(_: &[(Point, &'static str)], _: usize, fault: Fault) -> Counts {
    [(MINTED, if fault.kills() { 3 } else { 2 })].into()
}

/// Team-a may do this with all of acme's repositories.
fn tenants(permissions: &Value) -> Value {
    json!([{
        "name": "acme", "account": "acme", "repositories": ["*"], "maxPermissions": permissions, "namespaces": {"names": ["team-a"]},
    }])
}
