//! The gateway between the machine's own git and a simulated GitHub, both with TLS. In most tests, pods' tokens are those that the
//! test gives out; in [`whole`], the gateway is a process of its own beside an operator and an API server.
//!
//! The tests read GitHub's repositories with git itself, not through the gateway.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod attacks;
mod clone;
mod pod;
mod push;
mod raw;
mod refused;
mod scene;
mod steal;
mod transfers;
mod whole;
mod workspace;
