//! What every process of Landfall stands on, and no more: time, the queue of due times, telemetry, readiness, the
//! election of a leader, an orderly end. Nothing here knows GitHub or one of our kinds.

pub mod allowance;
pub mod clock;
pub mod due;
pub mod events;
pub mod health;
pub mod heartbeat;
pub mod http_server;
pub mod jitter;
pub mod lease;
pub mod lenient;
pub mod metrics;
pub mod readiness;
pub mod shutdown;
pub mod telemetry;

#[cfg(test)]
mod scripted;
