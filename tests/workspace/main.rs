//! The programs in a workspace's pod: Landfall's binary, the machine's git, and a simulated GitHub with TLS.
//!
//! The tests read the remote with a comparison of their own, not with the tested code.

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
mod large;
mod place;
mod refused;
mod repositories;
mod save;
mod scene;
mod tools;
