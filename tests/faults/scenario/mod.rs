//! The scenarios: lives of one thing each, short, with what can happen to it.
//!
//! What one of them has covered, such as the App's connection, is not recorded in another.

mod app_hook;
mod fork;
mod hook;
mod push;
mod token;

use super::judge::Counts;
use super::point::{Fault, Point};
use super::run::Run;
use crate::world::seed;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use github_sim::Seed;
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
    pub life: for<'a> fn(&'a Run) -> LocalBoxFuture<'a, Told>,
    /// What a fault at the point with this index explains, by the recorded run.
    pub allowance: fn(&[(Point, &'static str)], usize, Fault) -> Counts,
}

/// All of them.
pub static ALL: [Scenario; 5] = [TOKEN, HOOK, FORK, APP_HOOK, PUSH];

/// A token's life.
pub const TOKEN: Scenario =
    Scenario { name: "token", seed: shop, life: |run| token::life(run).boxed_local(), allowance: token::allowance };
/// The life of a repository's own webhook.
pub const HOOK: Scenario =
    Scenario { name: "hook", seed: shop, life: |run| hook::life(run).boxed_local(), allowance: own_tokens };
/// A fork's.
pub const FORK: Scenario =
    Scenario { name: "fork", seed: fork::seed, life: |run| fork::life(run).boxed_local(), allowance: own_tokens };
/// That of the App's webhook.
pub const APP_HOOK: Scenario =
    Scenario { name: "app-hook", seed: shop, life: |run| app_hook::life(run).boxed_local(), allowance: own_tokens };
/// What pushes roll.
pub const PUSH: Scenario =
    Scenario { name: "push", seed: shop, life: |run| push::life(run).boxed_local(), allowance: own_tokens };

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
        "account": "acme", "repositories": ["*"], "maxPermissions": permissions, "namespaces": {"names": ["team-a"]},
    }])
}
