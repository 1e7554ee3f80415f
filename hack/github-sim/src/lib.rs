//! A simulated GitHub: REST, GraphQL, git over HTTPS and webhooks, in memory and on one port.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use github_sim::{AppKey, AppSeed, Options, Seed, Sim};
//!
//! let key = AppKey::generate()?;
//! let app = AppSeed {
//!     name: "Landfall".into(),
//!     owner: "acme".into(),
//!     public_key: Some(key.public_pem().into()),
//!     ..AppSeed::default()
//! };
//! let seed = Seed { apps: vec![app], ..Seed::from_yaml("accounts: [{login: acme, type: Organization}]")? };
//! let sim = Sim::start(Options { listen: "127.0.0.1:0".parse()?, tls: true, seed }).await?;
//! println!("{} trusts {}", sim.api_url(), sim.ca_pem());
//! # Ok(())
//! # }
//! ```

mod access;
mod bare;
mod because;
mod begin;
mod clock;
mod control;
mod credential;
mod fault;
mod forking;
mod git_http;
mod graphql;
mod hooking;
mod journal;
mod jwt;
mod keys;
mod model;
mod person;
mod pulling;
mod rate;
mod refusal;
mod rest;
mod secondary;
mod seed;
mod server;
mod settings;
mod shapes;
mod sim;
mod state;
mod tls;
mod token;
mod webhook;

pub use access::{Level, Permissions};
pub use bare::GitError;
pub use because::Because;
pub use begin::BeginError;
pub use clock::Clock;
pub use fault::{Fault, FaultKind, Injected};
pub use forking::Fork;
pub use hooking::{HookChange, HookInfo, NewHook};
pub use journal::{Caller, Count, Entry};
pub use keys::{AppKey, KeyError};
pub use model::TokenInfo;
pub use person::{ControlError, Install, Push};
pub use pulling::PullInfo;
pub use secondary::SecondaryLimits;
pub use seed::{
    AccountSeed, AccountType, AppSeed, InstallationSeed, RepositorySeed, Seed, SeedError, Selection, WebhookSeed,
};
pub use sim::{Options, Sim, Site, StartError};
pub use tls::TlsError;
pub use webhook::signature;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks the state. A handler that panicked may have left it incomplete, but it can still be read.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
