//! Where the agents of workspaces report, within the cluster: `POST /v1/report`.
//!
//! The invariant: a report is that of the pod whose token came with it, and of no other, whatever else the request says: the API
//! server says whose token it is ([`proof`]), and there is no other way for a name to get in. Without it, whoever can run a
//! pod could have another's workspace shown as clean, or be told what becomes of it.
//!
//! What a report says stays the word of a stranger's container: see [`crate::agent::report`].

pub mod proof;
pub mod server;

pub use server::{BindError, Reports};

use crate::agent::report::{Answer, Report};

/// The audience of the tokens with which agents report; no other token is taken, and these are good for nothing else.
pub const AUDIENCE: &str = "landfall";

/// A pod, as the API server knows it from its token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a pod of the same name that came before or after is another.
    pub uid: String,
}

/// Why a report is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another process leads; 503.
    NotLeading,
    /// The pod is that of no workspace; 403.
    Unknown,
    /// The pod reports too often; 429.
    TooMany,
}

/// Takes reports.
pub trait Desk: Send + Sync + 'static {
    /// Takes one of a pod whose identity is proven, and says what its agent is to do.
    ///
    /// # Errors
    /// It is not taken.
    fn receive(&self, from: &PodIdentity, report: Report) -> Result<Answer, Refused>;
}
