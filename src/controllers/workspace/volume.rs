//! The volume of a workspace's claim: the mark of a clone on it, and the pods that have it.
//!
//! Invariant: the mark is on the `PersistentVolume`, which tenants cannot write. A volume with the mark had a clone, so a
//! save that finds nothing on it is not believed; and only the claim of a marked volume is kept after its workspace is
//! gone.

use crate::api::CLONED_ANNOTATION;
use crate::controllers::shared::Shared;
use crate::runtime::lenient::Lenient;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

/// How many pods a page of a list has.
const PAGE: u32 = 100;
/// Pods that have a node and did not end.
const RUNNING: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";

/// The volume that is bound to a claim.
///
/// # Errors
/// It cannot be read.
pub async fn bound(
    shared: &Shared,
    claim: &PersistentVolumeClaim,
    volume: &str,
) -> Result<Option<PersistentVolume>, kube::Error> {
    let volumes = Api::<Lenient<PersistentVolume>>::all(shared.client.clone());
    let volume = volumes.get_opt(volume).await?.map(Lenient::read).transpose()?;
    // A claim names its volume, but only the volume's claimRef is proof. Otherwise everyone who can create claims could
    // have the volume of another claim retained.
    let is_its = |volume: &PersistentVolume| {
        let of = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
        shared.guards.volume(of.is_some() && of == claim.uid())
    };
    Ok(volume.filter(is_its))
}

/// The name of a claim's volume. `None`: it has none yet.
#[must_use]
pub fn name_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether the volume of a claim has the mark of a clone.
///
/// # Errors
/// It cannot be read.
pub async fn has_mark(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<bool, kube::Error> {
    let Some(volume) = name_of(claim) else { return Ok(false) };
    Ok(bound(shared, claim, volume).await?.is_some_and(|volume| is_marked(&volume, claim)))
}

fn is_marked(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.annotations().get(CLONED_ANNOTATION).is_some_and(|of| Some(of) == claim.metadata.uid.as_ref())
}

/// Puts the mark of a clone on the volume of a claim, unless it has it.
///
/// # Errors
/// Kubernetes refused a request.
pub async fn mark(shared: &Shared, claim: &PersistentVolumeClaim) -> Result<(), kube::Error> {
    let Some(name) = name_of(claim) else { return Ok(()) };
    let Some(volume) = bound(shared, claim, name).await?.filter(|volume| !is_marked(volume, claim)) else {
        return Ok(());
    };
    let change = json!({"metadata": {"uid": volume.uid(), "annotations": {CLONED_ANNOTATION: claim.uid()}}});
    let volumes = Api::<Lenient<PersistentVolume>>::all(shared.client.clone());
    volumes.patch(name, &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}

/// The names of the running pods that mount a claim.
///
/// # Errors
/// They cannot be listed.
pub async fn mounted_by(shared: &Shared, namespace: &str, claim: &str) -> Result<Vec<String>, kube::Error> {
    let pods = Api::<Lenient<Pod>>::namespaced(shared.client.clone(), namespace);
    let mut params = ListParams::default().fields(RUNNING).limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = pods.list(&params).await?;
        for pod in page.items {
            let pod = pod.read()?;
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
            if claims.any(|mounted| mounted.claim_name == claim) {
                found.push(pod.name_any());
            }
        }
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok(found),
        }
    }
}
