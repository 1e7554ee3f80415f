//! What runs inside of a workspace's pod, as programs: our binary, the machine's git, and a simulated GitHub behind TLS.
//!
//! What a remote has is read by a comparison of the tests' own, not by what is tested.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod agent;
mod attacks;
mod beside;
mod canary;
mod clone;
mod compare;
mod credential;
mod evidence;
mod first;
mod hostile;
mod refused;
mod repositories;
mod save;
mod scene;
mod tools;
