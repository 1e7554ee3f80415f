//! The simulator as its clients see it: over TLS, by REST, GraphQL, git and webhooks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod clients;
mod control;
mod faults;
mod forks;
mod git;
mod hooks;
mod identity;
mod names;
mod program;
mod pulls;
mod receiver;
mod refs;
mod seeds;
mod settings;
mod tokens;
mod traps;
mod webhooks;
mod world;
