//! Landfall on a real node: installed with Helm, with pods, volumes and a network, against a simulated GitHub.
//!
//! `hack/endtoend` brings the cluster up and runs this within its network; without it the tests are ignored. Each has a
//! namespace, a GitHubApp, an account and a repository of its own, so that they can run side by side; what strikes the
//! node itself waits until no other test runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod comparing;
mod node;
mod tokens;
mod workspace;
mod world;
