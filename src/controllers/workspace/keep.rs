//! Volumes that outlive their workspace, for what is on them could not be pushed.
//!
//! Invariant: a volume whose claim goes while nobody knows that its work is elsewhere is set to be kept first. So is that of a
//! claim whose workspace is gone, which nobody else would let go of: the finalizer was taken off the workspace by hand, say.

use super::apply::{Failure, claim, tell, uid};
use super::gather::{Found, noted};
use super::objects;
use super::seen::VolumeSeen;
use crate::api::{
    RETAINED_ANNOTATION, RETAINED_LABEL, Reason, WORK_FINALIZER, WORKSPACE_LABEL, WORKSPACE_UID_ANNOTATION, Workspace,
};
use crate::controllers::context::Context;
use crate::controllers::object::{has_finalizer, set_finalizer};
use crate::runtime::lenient::Lenient;
use crate::runtime::metrics::Outcome;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::sync::Arc;

/// Keeps the volume and says on it whose it was and why: the claim may go with its namespace, the volume does not.
///
/// # Errors
/// What Kubernetes refused.
pub async fn keep_volume(context: &Context, found: &Found, why: &str) -> Result<(), Failure> {
    let object = &found.seen.object;
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let VolumeSeen::Ours { volume: Some(volume), .. } = &found.seen.volume else { return Ok(()) };
    let record = json!({
        "workspace": name, "namespace": namespace, "uid": uid(object), "branch": found.seen.branch(),
        "repository": found.seen.known.repository.as_ref().map(|(repository, _)| &repository.full_name),
        "at": context.clock.now().to_string(), "why": why,
    });
    let why = why.trim_end_matches('.');
    // The claim goes with its namespace.
    let remedy = if found.seen.is_namespace_going {
        "remove its spec.claimRef, bind it to another claim, and mount that".to_owned()
    } else {
        format!("mount its claim {} in a pod", objects::name(object))
    };
    let message = format!(
        "the volume of Workspace {namespace}/{name} is kept, for what is on it could not be pushed: {why}. It is \
         PersistentVolume {volume}, and stays until somebody deletes it. To get at it, {remedy}"
    );
    let claim = claim(context, object).await?;
    let is_kept = match &claim {
        Some(claim) => retain(context, claim, volume, &record, &message).await?,
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
    tell(context, object, reason, &message).await;
    if let Some(claim) = claim {
        let_go(context, &claim, &record).await?;
    }
    context.workspaces.update(uid(object), |known| known.is_parted = true);
    Ok(())
}

/// Sets a claim's volume to be kept; false, if there is none, or it is another's.
async fn retain(
    context: &Context,
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
    let volumes = Api::<Lenient<PersistentVolume>>::all(context.client.clone());
    let bound = volumes.get_opt(volume).await?.map(Lenient::read).transpose()?;
    // A claim names its volume; whose the volume is, it says itself. Who can make claims could have another's kept.
    let is_its = |volume: &PersistentVolume| {
        let of = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
        context.guards.volume(of.is_some() && of == claim.uid())
    };
    let Some(volume) = bound.filter(is_its) else { return Ok(false) };
    let kept = volumes.patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?.read()?;
    let about = kept.object_ref(&());
    context.events.transition(&about, EventType::Warning, Reason::VolumeKept.as_str(), message).await;
    Ok(true)
}

/// Takes the finalizer off a claim whose volume is kept, and says on it why.
async fn let_go(context: &Context, claim: &PersistentVolumeClaim, record: &Value) -> Result<(), kube::Error> {
    let finalizers: Vec<_> = claim.finalizers().iter().filter(|name| *name != WORK_FINALIZER).cloned().collect();
    let change = json!({"metadata": {
        "resourceVersion": claim.resource_version(), "finalizers": finalizers,
        "labels": {RETAINED_LABEL: "true"}, "annotations": {RETAINED_ANNOTATION: record.to_string()},
    }});
    let namespace = claim.namespace().unwrap_or_default();
    let claims = Api::<Lenient<PersistentVolumeClaim>>::namespaced(context.client.clone(), &namespace);
    claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}

/// Whether a claim is being deleted and held for a workspace.
#[must_use]
pub fn is_held_back(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_some() && has_finalizer(claim, WORK_FINALIZER)
}

/// One look at a claim: where the workspace that it is held for is gone, its volume is kept and it is let go.
///
/// # Errors
/// What Kubernetes refused.
pub async fn reconcile(claim: Arc<PersistentVolumeClaim>, context: Arc<Context>) -> Result<Outcome, kube::Error> {
    let context = &*context;
    let namespace = claim.namespace().unwrap_or_default();
    let named = (claim.labels().get(WORKSPACE_LABEL), claim.annotations().get(WORKSPACE_UID_ANNOTATION));
    let (Some(name), uid) = named else { return Ok(Outcome::Ok) };
    if !is_held_back(&claim) {
        return Ok(Outcome::Ok);
    }
    let workspaces = Api::<Workspace>::namespaced(context.client.clone(), &namespace);
    let there = workspaces.get_metadata_opt(name).await?;
    if there.is_some_and(|there| there.metadata.uid.as_ref() == uid) {
        return Ok(Outcome::Ok);
    }
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    // Where nothing was ever on it, or all of it was read back, nothing is kept.
    let Some(volume) = volume.filter(|_| noted(&claim).is_none()) else {
        set_finalizer(&context.client, &*claim, WORK_FINALIZER, false).await?;
        return Ok(Outcome::Ok);
    };
    let why = "its Workspace is gone without its work having been saved";
    let record = json!({
        "workspace": name, "namespace": namespace, "uid": uid, "at": context.clock.now().to_string(), "why": why,
    });
    let message = format!(
        "PersistentVolumeClaim {namespace}/{} is deleted, and {why}: PersistentVolume {volume} is kept until somebody deletes it",
        claim.name_any()
    );
    tracing::warn!(message, "a volume is kept");
    retain(context, &claim, volume, &record, &message).await?;
    let_go(context, &claim, &record).await?;
    Ok(Outcome::Ok)
}
