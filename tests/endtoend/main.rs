//! Landfall on a real node: installed with Helm, with pods, volumes and a network, against a simulated GitHub.
//!
//! `hack/endtoend` starts the cluster and runs this within its network; without it the tests are ignored. Each test has
//! its own namespace, GitHubApp, account and repository, so that they can run concurrently. A test that disturbs the
//! node itself waits until no other test runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod comparing;
mod node;
mod tokens;
mod workspace;
mod world;
