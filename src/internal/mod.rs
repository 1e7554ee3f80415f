//! The controller's internal API: what the gateway asks the controller, at a port of its own.
//!
//! The invariant: only the gateway's `ServiceAccount` is answered, by a token for an audience of its own, over TLS with a
//! certificate of the operator's authority. An answer is decided from the controller's own caches, while this process leads.

pub mod authority;
pub mod certificates;
pub mod server;

use crate::gateway::messages::{AccessAnswer, Caller, ReleaseRequest, TokenAnswer, TokenRequest};
use crate::reports::PodIdentity;
use futures::future::BoxFuture;

/// Why a request of the gateway's is not answered. The words are for the person whose git asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Another replica leads; 421.
    NotLeading,
    /// 403.
    Refused(String),
    /// The pod is gone, or not here yet; 404. What was allowed before does not count.
    Unknown(String),
    /// It passes; 409. This concerns the one pod, and what was allowed before does not count.
    NotNow(String),
}

/// Decides for the gateway.
pub trait GatewayHandler: Send + Sync + 'static {
    /// What a pod may do.
    fn access(&self, caller: &Caller) -> Result<AccessAnswer, Denied>;

    /// A token for the repository of a pod's workspace.
    fn token<'a>(
        &'a self,
        gateway: &'a PodIdentity,
        request: TokenRequest,
    ) -> BoxFuture<'a, Result<TokenAnswer, Denied>>;

    /// A gateway does not use a token any more.
    fn release<'a>(&'a self, gateway: &'a PodIdentity, request: ReleaseRequest) -> BoxFuture<'a, Result<(), Denied>>;
}
