//! The controllers: for each kind gather → plan → apply → status.
//!
//! This module owns how the controllers are fed and run, and the one list of the kinds. Invariant: every reconcile
//! comes from the due queue, one at a time for each object, and queues its next look there. kube's own requeueing is
//! not used.
//!
//! Modules import from modules further up in this list, and kinds from all of it: `object`, `standing`; `deliveries`;
//! `caches`, `lanes`, `newest`; `connection`, `credentials`, `access`, `rations`; `shared`, `waiting`, `identified`; `watches`, `reference`,
//! `dependents`; `reconcile`; the kinds.

mod access;
mod app;
pub mod caches;
pub mod connection;
pub mod credentials;
pub mod deliveries;
mod dependents;
mod drive;
mod identified;
mod inbox;
pub mod index;
mod installation;
mod kinds;
pub mod lanes;
mod newest;
mod object;
pub mod rations;
mod reconcile;
mod reference;
pub mod refused;
pub(crate) mod repository;
pub mod shared;
mod standing;
pub(crate) mod token;
mod waiting;
pub mod watches;
pub(crate) mod workspace;

pub use drive::InFlight;
pub use inbox::receiver::make_inbox;
pub use workspace::{GatewayAnswers, WorkspaceReports};

use crate::features::{Feature, Features};
use crate::manifests::Rule;
use crate::runtime::due::{DueQueue, Feed};
use drive::{drive, kind_name};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kinds::kinds;
use lanes::Lanes;
use reconcile::Kind;
use shared::Shared;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use watches::{AllWatches, Select};

// A new kind is its folder and a line here: docs/src/adding-a-kind.md.
kinds! {
    apps: app::AppKind;
    installations: installation::InstallationKind;
    tokens: token::TokenKind;
    repositories: repository::RepositoryKind;
    workspaces: workspace::WorkspaceKind where tokens, repositories;
    claims: workspace::claim::ClaimKind;
    inboxes: inbox::InboxKind where repositories;
    receivers: inbox::receiver::ReceiverKind;
}

/// The controller of a kind, and the objects that are due. `None` if the kind's feature is off.
struct Controller<K: Kind> {
    kind: Arc<K>,
    feed: Option<Feed<K::Object>>,
}

impl<K: Kind> Controller<K> {
    fn leave_out(&self, watches: &mut AllWatches) {
        if self.feed.is_none() {
            watches.leave_out::<K::Object>();
        }
    }

    fn watch(&self, shared: &Arc<Shared>, watches: &mut AllWatches) {
        if self.feed.is_some() {
            watches.own(Select::own(K::PLACE, K::LABEL), self.kind.lane());
            self.kind.watches(&mut watches.of(shared, self.kind.lane()));
        }
    }

    fn count(&self, shared: &Arc<Shared>) {
        if self.feed.is_some() && K::DEFINITION.is_some() {
            let counted = Arc::clone(shared);
            shared.metrics.count_objects(kind_name::<K>(), move || counted.count::<K::Object>());
        }
    }
}

impl Kinds {
    /// The resources that all kinds share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Registers the metrics of the deliveries that wait.
    pub fn count_deliveries(&self) {
        let shared = Arc::clone(&self.shared);
        self.shared.metrics.watch_inboxes(move || shared.waiting_times());
    }

    /// Takes the reports of workspaces' pods. `leads`: whether this process is the leader, which writes.
    #[must_use]
    pub fn reports(&self, leads: Arc<std::sync::atomic::AtomicBool>) -> WorkspaceReports {
        self.workspaces.kind.reports(leads)
    }

    /// Answers the gateway. `leads`: whether this process is the leader, which decides.
    #[must_use]
    pub fn gateway(&self, leads: Arc<std::sync::atomic::AtomicBool>) -> GatewayAnswers {
        GatewayAnswers::new(&self.workspaces.kind, &self.shared.rations, leads)
    }

    /// Called when the gateway has other certificates: workspaces wait for them before they have a pod.
    #[must_use]
    pub fn when_gateway_changes(&self) -> Box<dyn Fn() + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        Box::new(move || {
            for workspace in shared.caches.all::<crate::api::Workspace>() {
                shared.lanes.look_now(&kube::runtime::reflector::ObjectRef::from_obj(&*workspace));
            }
        })
    }
}

#[cfg(test)]
mod tests;
