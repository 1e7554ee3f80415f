//! Volumes that are kept after their workspace, because the work on them could not be pushed.
//!
//! Invariant: a volume whose claim is deleted while its work is not known to be on the remote is retained first. The
//! same holds for the claim of a deleted workspace, whose finalizer nobody else would remove. That happens, for
//! example, if somebody removed the workspace's finalizer by hand.

use super::WorkspaceKind;
use super::apply::{claim, uid};
use super::objects;
use super::seen::{Seen, VolumeSeen};
use super::volume::bound;
use crate::api::{RETAINED_ANNOTATION, RETAINED_LABEL, Reason, WORK_FINALIZER};
use crate::controllers::reconcile::Failure;
use crate::controllers::shared::Shared;
use crate::runtime::lenient::Lenient;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Retains the volume, and notes on it which workspace it belonged to and why it is kept. The claim may be deleted with
/// its namespace; the volume stays.
///
/// # Errors
/// Kubernetes refused a request.
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
    // The claim is deleted with its namespace.
    let remedy = if seen.is_namespace_going {
        "remove its spec.claimRef, bind it to another claim, and mount that".to_owned()
    } else {
        format!("mount its claim {} in a pod", objects::name(object))
    };
    let message = format!(
        "the volume of Workspace {namespace}/{name} is kept, because the work on it could not be pushed: {why}. It is \
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
            "the volume of Workspace {namespace}/{name} is gone, or another claim's, and the work on it was not pushed: {why}"
        )
    };
    // The event comes before the last write, because no reconcile follows that.
    let reason = if is_kept { Reason::VolumeKept } else { Reason::VolumeLost };
    kind.shared.warn(&**object, reason, &message).await;
    if let Some(claim) = claim {
        let_go(&kind.shared, &claim, &record).await?;
    }
    kind.memory.update(uid(object), |known| known.is_parted = true);
    Ok(())
}

/// Retains a claim's volume. Returns false if there is none, or it belongs to another claim.
pub async fn retain(
    shared: &Shared,
    claim: &PersistentVolumeClaim,
    volume: &str,
    record: &Value,
    message: &str,
) -> Result<bool, kube::Error> {
    let spec = PersistentVolumeSpec {
        persistent_volume_reclaim_policy: Some("Retain".to_owned()),
        ..PersistentVolumeSpec::default()
    };
    let change = PersistentVolume { metadata: retained(record), spec: Some(spec), status: None };
    let Some(volume) = bound(shared, claim, volume).await? else { return Ok(false) };
    let volumes = Api::<Lenient<PersistentVolume>>::all(shared.client.clone());
    let kept = volumes.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?.read()?;
    shared.warn(&kept, Reason::VolumeKept, message).await;
    Ok(true)
}

/// The label and annotation of an object that was kept, with the reason.
fn retained(record: &Value) -> ObjectMeta {
    let pair = |key: &str, value: String| Some(BTreeMap::from([(key.to_owned(), value)]));
    ObjectMeta {
        labels: pair(RETAINED_LABEL, "true".to_owned()),
        annotations: pair(RETAINED_ANNOTATION, record.to_string()),
        ..ObjectMeta::default()
    }
}

/// Removes the finalizer of a claim whose volume is kept, and notes the reason on it.
pub async fn let_go(shared: &Shared, claim: &PersistentVolumeClaim, record: &Value) -> Result<(), kube::Error> {
    let finalizers: Vec<_> = claim.finalizers().iter().filter(|name| *name != WORK_FINALIZER).cloned().collect();
    let metadata =
        ObjectMeta { resource_version: claim.resource_version(), finalizers: Some(finalizers), ..retained(record) };
    let change = PersistentVolumeClaim { metadata, ..PersistentVolumeClaim::default() };
    let namespace = claim.namespace().unwrap_or_default();
    let claims = Api::<Lenient<PersistentVolumeClaim>>::namespaced(shared.client.clone(), &namespace);
    claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}
