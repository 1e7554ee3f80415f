//! The chart and config/ as their users meet them: Helm and kubectl themselves, and a real API server that judges what
//! they give it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod admission;
mod caller;
mod cluster;
mod controller;
mod deployer;
mod gateway;
mod programs;
mod receiver;
mod refused;
mod render;
mod values;
