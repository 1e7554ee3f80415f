//! The reports of pods. They are shown in status and cause a reconcile; nothing is decided by them.

use super::objects;
use crate::agent::report::{Answer, OnStop, Report};
use crate::controllers::context::Context;
use crate::reports::{PodIdentity, Refused, ReportHandler};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Handles reports for the workspaces' controller, while it leads.
pub struct WorkspaceReports {
    context: Arc<Context>,
    leads: Arc<AtomicBool>,
}

impl WorkspaceReports {
    /// `leads`: whether this process is the one that writes.
    #[must_use]
    pub fn new(context: Arc<Context>, leads: Arc<AtomicBool>) -> Self {
        Self { context, leads }
    }

    /// The workspace's pod, whoever it is that reports.
    #[cfg(feature = "sabotage")]
    fn worker(&self, workspace: &crate::api::Workspace) -> Option<String> {
        let pod = ObjectRef::new(&objects::name(workspace)).within(&workspace.namespace()?);
        self.context.stores.pods.get(&pod)?.uid()
    }
}

impl ReportHandler for WorkspaceReports {
    fn receive(&self, from: &PodIdentity, report: Report) -> Result<Answer, Refused> {
        if !self.leads.load(Ordering::SeqCst) {
            return Err(Refused::NotLeading);
        }
        let stores = &self.context.stores;
        let pod = stores.pods.get(&ObjectRef::new(&from.name).within(&from.namespace)).ok_or(Refused::Unknown)?;
        let is_that_pod = pod.metadata.uid.as_deref() == Some(from.uid.as_str());
        let (name, _) = objects::workspace_of(&pod).ok_or(Refused::Unknown)?;
        let reference = ObjectRef::new(name).within(&from.namespace);
        let workspace = stores.workspaces.get(&reference).ok_or(Refused::Unknown)?;
        // The one pod of this workspace: its owner, and its name.
        let is_its = is_that_pod && objects::is_ours(&*pod, &workspace) && pod.name_any() == objects::name(&workspace);
        #[cfg(feature = "sabotage")]
        let is_its = is_its || self.context.sabotage.any_reporter;
        if !is_its {
            return Err(Refused::Unknown);
        }
        let is_ending = workspace.metadata.deletion_timestamp.is_some()
            || self.context.namespace(&from.namespace).is_none_or(|namespace| namespace.terminating)
            || stores
                .claims
                .get(&ObjectRef::new(&from.name).within(&from.namespace))
                .is_some_and(|claim| claim.metadata.deletion_timestamp.is_some());
        let uid = workspace.uid().unwrap_or_default();
        let speaks_as = from.uid.clone();
        #[cfg(feature = "sabotage")]
        let speaks_as = self.worker(&workspace).filter(|_| self.context.sabotage.any_reporter).unwrap_or(speaks_as);
        if !self.context.workspaces.heard(&uid, &speaks_as, report, self.context.clock.now()) {
            return Err(Refused::TooMany);
        }
        self.context.due.workspaces.look_now(&reference);
        Ok(Answer { on_stop: if is_ending { OnStop::Save } else { OnStop::Autosave } })
    }
}
