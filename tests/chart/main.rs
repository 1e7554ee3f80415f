//! The chart and config/ as their users meet them: Helm and kubectl themselves, and a real API server that judges what
//! they give it.

mod cluster;
mod programs;
mod refused;
mod render;
