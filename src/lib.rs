//! Landfall: ties GitHub to a Kubernetes cluster through a GitHub App.

pub mod github;
pub mod runtime;
