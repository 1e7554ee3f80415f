//! The simulator as its clients see it: over TLS, by REST, GraphQL, git and webhooks.

mod control;
mod faults;
mod git;
mod hooks;
mod identity;
mod names;
mod pulls;
mod receiver;
mod refs;
mod seeds;
mod tokens;
mod traps;
mod webhooks;
mod world;
