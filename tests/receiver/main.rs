//! The receiver against a real API server, with the chart's rules: what is stored, what is refused, and what clients can
//! do to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod attacks;
mod examples;
mod limits;
mod proxy;
mod refused;
mod scene;
mod stored;
mod storing;
