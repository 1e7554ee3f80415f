//! Landfall: ties GitHub to a Kubernetes cluster through a GitHub App.

pub mod agent;
pub mod api;
pub mod cli;
pub mod controllers;
pub mod features;
pub mod gateway;
pub mod git;
pub mod github;
pub mod grant;
pub mod guards;
pub mod ids;
pub mod internal;
pub mod manifests;
mod metrics_reference;
pub mod operator;
pub mod receiver;
pub mod reports;
pub mod runtime;
pub mod settings;
pub mod uninstall;
pub mod webhook;
