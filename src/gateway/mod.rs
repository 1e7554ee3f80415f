//! `landfall gateway`: the way of workspaces' git to GitHub, so that their pods hold no credential.
//!
//! Owns the requests of git that pods send ([`route`]), whose they are ([`identity`]), the commands of a push ([`commands`]), the
//! refs that a workspace may push ([`refs`]), git's answer to a refused push ([`report_status`]), the exchange with GitHub
//! ([`upstream`], [`stream`], [`fast_forward`]), the tokens for it ([`tokens`]), and the server ([`server`]).
//!
//! The invariant: nothing of a push goes to GitHub before all of its commands were read and allowed, and GitHub gets the commands
//! that were checked: they are written anew ([`commands::Push::encode`]). A reader of GitHub's that takes the same bytes for other
//! commands could otherwise be led past the policy.

pub mod answer;
pub mod certificate;
pub mod commands;
pub mod controller;
pub mod fast_forward;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzed;
pub mod identity;
pub mod limits;
pub mod messages;
pub mod metrics;
pub mod process;
pub mod refs;
pub mod report_status;
pub mod route;
pub mod server;
pub mod stream;
pub mod tokens;
pub mod upstream;
