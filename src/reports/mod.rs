//! The endpoint inside the cluster at which the agents of workspaces report: `POST /v1/report`.
//!
//! Invariant: a report belongs to the pod whose token came with it, whatever else the request says. The API server
//! identifies the token ([`identity`]), and no name comes from anywhere else. Without that, anybody who can run a pod could
//! have another's workspace shown as clean, or learn that it is being deleted.
//!
//! The content of a report stays untrusted: see [`crate::agent::report`].

pub mod identity;
pub mod server;

pub use server::ReportServer;

use crate::agent::report::{Answer, Report};

/// The audience of the tokens with which agents report; no other token is accepted, and these are good for nothing else.
pub const AUDIENCE: &str = "landfall";

/// A pod, as the API server knows it from its token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodIdentity {
    pub namespace: String,
    pub name: String,
    /// Tells it from an earlier or later pod of the same name.
    pub uid: String,
}

/// Why a report is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another replica leads; 503.
    NotLeading,
    /// The pod does not belong to a workspace; 403.
    Unknown,
    /// The pod reports too often; 429.
    TooMany,
}

/// Handles reports of pods whose identity is proven.
pub trait ReportHandler: Send + Sync + 'static {
    /// Takes a report; the answer tells the agent how to stop.
    fn receive(&self, from: &PodIdentity, report: Report) -> Result<Answer, Refused>;
}
