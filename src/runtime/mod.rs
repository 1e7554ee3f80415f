//! The parts that every process of Landfall uses: time, the queue of due times, telemetry, readiness, HTTP, leader
//! election, shutdown. Nothing here knows GitHub or one of our kinds.

pub(crate) mod allowance;
pub mod clock;
pub(crate) mod due;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod heartbeat;
pub(crate) mod http_server;
pub mod jitter;
pub mod lease;
pub(crate) mod lenient;
mod listen;
pub(crate) mod metrics;
pub(crate) mod pruned;
pub(crate) mod readiness;
pub(crate) mod shutdown;
pub(crate) mod streamed;
pub mod telemetry;

#[cfg(test)]
pub(crate) mod scripted;
