//! The scenarios: the short life of one object each, with the events that can happen to it.
//!
//! Points that one scenario covers, such as the App's connection, are not recorded in another.

mod app_hook;
mod bound;
mod fork;
mod hook;
mod push;
mod token;
mod uninstall;
mod workspace;

use super::judge::Counts;
use super::point::{Fault, Point};
use super::run::Run;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use github_sim::Seed;
use landfall_world::seed;
use serde_json::{Value, json};

/// The name of the count of the operator's own tokens, which are never published.
const MINTED: &str = "tokens minted";

/// The end of a life: the counts, and the masked end state.
pub type Told = Result<(Counts, Value), String>;

pub struct Scenario {
    pub name: &'static str,
    /// GitHub's initial state.
    pub seed: fn() -> Seed,
    /// The function that plays it.
    pub life: Life,
    /// Whether a point belongs to this scenario. Points that others cover are left out.
    pub records: fn(&Point) -> bool,
    /// Whether this fault is tried at the point with this index.
    pub faults: fn(usize, Fault) -> bool,
    /// The costs that a fault at the point with this index explains, according to the recorded run.
    pub allowance: fn(&[(Point, &'static str)], usize, Fault) -> Counts,
}

pub static ALL: [Scenario; 11] =
    [TOKEN, HOOK, FORK, APP_HOOK, PUSH, WS_CREATE, WS_SUSPEND, WS_DELETE, WS_LARGE, BOUND, UNINSTALL];

/// The type of the function that plays it.
type Life = for<'a> fn(&'a Run) -> LocalBoxFuture<'a, Told>;

/// A scenario with the usual beginning that records all points, and in which a fault costs some of the operator's own
/// tokens.
const fn usual(name: &'static str, life: Life) -> Scenario {
    Scenario { name, seed: shop, life, records: |_| true, faults: |_, _| true, allowance: own_tokens }
}

/// The same with workspaces, and only their points.
const fn of_workspaces(name: &'static str, life: Life) -> Scenario {
    Scenario {
        records: workspace::records,
        faults: workspace::faults,
        allowance: workspace::allowance,
        ..usual(name, life)
    }
}

/// The life of a token.
pub const TOKEN: Scenario =
    Scenario { allowance: token::allowance, ..usual("token", |run| token::life(run).boxed_local()) };
/// The life of a repository's own webhook.
pub const HOOK: Scenario = usual("hook", |run| hook::life(run).boxed_local());
pub const FORK: Scenario = Scenario { seed: fork::seed, ..usual("fork", |run| fork::life(run).boxed_local()) };
/// The life of the App's webhook.
pub const APP_HOOK: Scenario = usual("app-hook", |run| app_hook::life(run).boxed_local());
/// The rollouts of pushes.
pub const PUSH: Scenario = usual("push", |run| push::life(run).boxed_local());
/// A workspace, until it is ready.
pub const WS_CREATE: Scenario = of_workspaces("ws-create", |run| workspace::create(run).boxed_local());
/// A workspace that is suspended with work in it, and resumed.
pub const WS_SUSPEND: Scenario = of_workspaces("ws-suspend", |run| workspace::suspend(run).boxed_local());
/// A workspace that is deleted with work in it.
pub const WS_DELETE: Scenario = of_workspaces("ws-delete", |run| workspace::delete(run).boxed_local());

/// A workspace that is deleted with a large file whose content only the volume has.
pub const WS_LARGE: Scenario = Scenario {
    records: workspace::records_keeping,
    ..of_workspaces("ws-large", |run| workspace::delete_large(run).boxed_local())
};
/// A namespace that is deleted, in which the operator may not read Secrets any more.
pub const BOUND: Scenario = Scenario {
    records: bound::records,
    faults: workspace::faults,
    allowance: bound::allowance,
    ..usual("bound", |run| bound::life(run).boxed_local())
};
/// An uninstallation with an object of every kind, and a workspace with work in it.
pub const UNINSTALL: Scenario = Scenario {
    faults: uninstall::faults,
    allowance: |_, _, _| Counts::new(),
    ..usual("uninstall", |run| uninstall::life(run).boxed_local())
};

/// The usual beginning, with only the repository that is used, because the simulator takes a while to create one.
fn shop() -> Seed {
    let mut seed = seed();
    seed.repositories.retain(|repository| repository.name == "shop");
    seed
}

/// The operator's own tokens are only in its memory, so the next operator cannot use them. An operator that is killed
/// loses its token for reading and those of its current step, and the webhook is examined again: three tokens at most.
/// Any other fault costs the tokens of one step, which is repeated: two at most, to look for a fork and to create it.
fn own_tokens(_: &[(Point, &'static str)], _: usize, fault: Fault) -> Counts {
    [(MINTED, if fault.kills() { 3 } else { 2 })].into()
}

/// Team-a has these permissions on all of acme's repositories.
fn tenants(permissions: &Value) -> Value {
    json!([{
        "name": "acme", "account": "acme", "repositories": ["*"], "maxPermissions": permissions, "namespaces": {"names": ["team-a"]},
    }])
}
