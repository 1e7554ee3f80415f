//! The reports of pods. They go into status and cause a reconcile. No decision depends on them.

use super::memory::WorkspaceMemory;
use super::objects;
use crate::agent::report::{Answer, OnStop, Report};
use crate::api::Workspace;
use crate::controllers::shared::Shared;
use crate::reports::{PodIdentity, Refused, ReportHandler};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Handles reports for the workspace controller, while this process is the leader.
pub struct WorkspaceReports {
    shared: Arc<Shared>,
    memory: Arc<WorkspaceMemory>,
    leads: Arc<AtomicBool>,
}

impl WorkspaceReports {
    /// `memory`: where reports are stored. `leads`: whether this process is the leader, which writes.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, memory: &Arc<WorkspaceMemory>, leads: Arc<AtomicBool>) -> Self {
        Self { shared: Arc::clone(shared), memory: Arc::clone(memory), leads }
    }
}

impl ReportHandler for WorkspaceReports {
    fn receive(&self, from: &PodIdentity, report: Report) -> Result<Answer, Refused> {
        if !self.leads.load(Ordering::SeqCst) {
            return Err(Refused::NotLeading);
        }
        let caches = &self.shared.caches;
        let pod = caches.named::<Pod>(&from.namespace, &from.name).ok_or(Refused::Unknown)?;
        let is_that_pod = pod.metadata.uid.as_deref() == Some(from.uid.as_str());
        let (name, _) = objects::workspace_of(&pod).ok_or(Refused::Unknown)?;
        let reference = ObjectRef::<Workspace>::new(name).within(&from.namespace);
        let workspace = caches.get(&reference).ok_or(Refused::Unknown)?;
        // It has to be the only pod of this workspace, by its owner and its name.
        let is_its = is_that_pod && objects::is_ours(&*pod, &workspace) && pod.name_any() == objects::name(&workspace);
        if !self.shared.guards.reporter(is_its) {
            return Err(Refused::Unknown);
        }
        let is_ending = workspace.metadata.deletion_timestamp.is_some()
            || self.shared.namespace(&from.namespace).is_none_or(|namespace| namespace.terminating)
            || caches
                .named::<PersistentVolumeClaim>(&from.namespace, &from.name)
                .is_some_and(|claim| claim.metadata.deletion_timestamp.is_some());
        let uid = workspace.uid().unwrap_or_default();
        let pod = self.shared.guards.reporting_pod(from.uid.clone(), &self.shared, &workspace);
        if !self.memory.heard(&uid, &pod, report, self.shared.now()) {
            return Err(Refused::TooMany);
        }
        self.shared.lanes.look_now(&reference);
        Ok(Answer { on_stop: if is_ending { OnStop::Save } else { OnStop::Autosave } })
    }
}
