//! The simulator as its clients see it: over TLS, by REST, git and webhooks.

mod git;
mod identity;
mod names;
mod tokens;
mod world;
