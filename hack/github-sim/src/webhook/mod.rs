//! Webhooks: an event becomes a delivery for each hook that wants it, sent once, signed, and logged.
//!
//! As on GitHub, nothing is sent again automatically, deliveries may overtake each other, and a receiver has ten
//! seconds.

mod connect;
mod event;
mod send;
mod signature;

pub(crate) use event::Moved;
pub(crate) use send::{Attempt, Sender};
pub use signature::signature;

/// The time in which a receiver has to answer, in real time: GitHub's ten seconds.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// For how many days deliveries can be looked up and sent again.
pub(crate) const RETENTION_DAYS: i64 = 3;
