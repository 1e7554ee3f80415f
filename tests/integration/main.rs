//! The operator against a real API server, with the chart's rules, and a simulated GitHub.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod anew;
mod app;
mod app_refused;
mod bound;
mod canary;
mod deliveries;
mod election;
mod fairness;
mod features;
mod forks;
mod forks_taken;
mod health;
mod hooks;
mod inbox;
mod inlet;
mod installation;
mod limits;
mod looks;
mod not_granted;
mod quiescence;
mod refused;
mod removal;
mod renewal;
mod reports;
mod repository;
mod rollout;
mod scene;
mod tenant;
mod token;
mod token_cost;
mod token_formats;
mod token_kept;
mod uninstall;
mod urls;
mod webhooks_left;
mod workspace;
mod workspace_token;
