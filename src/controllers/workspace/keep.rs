//! Volumes that outlive their workspace, for what is on them could not be pushed.
//!
//! Invariant: a volume whose claim goes while nobody knows that its work is elsewhere is set to be kept first. So is that of a
//! claim whose workspace is gone, which nobody else would let go of: the finalizer was taken off the workspace by hand, say.

use super::WorkspaceKind;
use super::apply::{claim, uid};
use super::objects;
use super::seen::{Seen, VolumeSeen};
use crate::api::{RETAINED_ANNOTATION, RETAINED_LABEL, Reason, WORK_FINALIZER};
use crate::controllers::reconcile::Failure;
use crate::controllers::shared::Shared;
use crate::runtime::lenient::Lenient;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

/// Keeps the volume and says on it whose it was and why: the claim may go with its namespace, the volume does not.
///
/// # Errors
/// What Kubernetes refused.
pub async fn keep_volume(kind: &WorkspaceKind, seen: &Seen, why: &str) -> Result<(), Failure> {
    let object = &seen.object;
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let VolumeSeen::Ours { volume: Some(volume), .. } = &seen.volume else { return Ok(()) };
    let record = json!({
        "workspace": name, "namespace": namespace, "uid": uid(object), "branch": seen.branch(),
        "repository": seen.known.repository.as_ref().map(|(repository, _)| &repository.full_name),
        "at": kind.shared.now().to_string(), "why": why,
    });
    let why = why.trim_end_matches('.');
    // The claim goes with its namespace.
    let remedy = if seen.is_namespace_going {
        "remove its spec.claimRef, bind it to another claim, and mount that".to_owned()
    } else {
        format!("mount its claim {} in a pod", objects::name(object))
    };
    let message = format!(
        "the volume of Workspace {namespace}/{name} is kept, for what is on it could not be pushed: {why}. It is \
         PersistentVolume {volume}, and stays until somebody deletes it. To get at it, {remedy}"
    );
    let claim = claim(kind, object).await?;
    let is_kept = match &claim {
        Some(claim) => retain(&kind.shared, claim, volume, &record, &message).await?,
        None => false,
    };
    let message = if is_kept {
        message
    } else {
        format!(
            "the volume of Workspace {namespace}/{name} is gone, or another claim's, and what was on it was not pushed: {why}"
        )
    };
    // Before the last write, after which nobody comes back to it.
    let reason = if is_kept { Reason::VolumeKept } else { Reason::VolumeLost };
    kind.shared.warn(&**object, reason, &message).await;
    if let Some(claim) = claim {
        let_go(&kind.shared, &claim, &record).await?;
    }
    kind.memory.update(uid(object), |known| known.is_parted = true);
    Ok(())
}

/// Sets a claim's volume to be kept; false, if there is none, or it is another's.
pub async fn retain(
    shared: &Shared,
    claim: &PersistentVolumeClaim,
    volume: &str,
    record: &Value,
    message: &str,
) -> Result<bool, kube::Error> {
    let change = json!({
        "metadata": {
            "labels": {RETAINED_LABEL: "true"}, "annotations": {RETAINED_ANNOTATION: record.to_string()},
        },
        "spec": {"persistentVolumeReclaimPolicy": "Retain"},
    });
    let volumes = Api::<Lenient<PersistentVolume>>::all(shared.client.clone());
    let bound = volumes.get_opt(volume).await?.map(Lenient::read).transpose()?;
    // A claim names its volume; whose the volume is, it says itself. Who can make claims could have another's kept.
    let is_its = |volume: &PersistentVolume| {
        let of = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
        shared.guards.volume(of.is_some() && of == claim.uid())
    };
    let Some(volume) = bound.filter(is_its) else { return Ok(false) };
    let kept = volumes.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?.read()?;
    shared.warn(&kept, Reason::VolumeKept, message).await;
    Ok(true)
}

/// Takes the finalizer off a claim whose volume is kept, and says on it why.
pub async fn let_go(shared: &Shared, claim: &PersistentVolumeClaim, record: &Value) -> Result<(), kube::Error> {
    let finalizers: Vec<_> = claim.finalizers().iter().filter(|name| *name != WORK_FINALIZER).cloned().collect();
    let change = json!({"metadata": {
        "resourceVersion": claim.resource_version(), "finalizers": finalizers,
        "labels": {RETAINED_LABEL: "true"}, "annotations": {RETAINED_ANNOTATION: record.to_string()},
    }});
    let namespace = claim.namespace().unwrap_or_default();
    let claims = Api::<Lenient<PersistentVolumeClaim>>::namespaced(shared.client.clone(), &namespace);
    claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}
