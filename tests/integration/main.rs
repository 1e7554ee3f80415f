//! The operator against a real API server, with the chart's rules, and a simulated GitHub.

#[path = "../world/mod.rs"]
mod world;

mod token;
