//! The claims of deleted workspaces: removes the finalizer of such a claim, and keeps its volume.

use super::gather::noted;
use super::keep::{let_go, retain};
use super::volume;
use crate::api::{WORK_FINALIZER, WORKSPACE_LABEL, WORKSPACE_UID_ANNOTATION, Workspace, without_status};
use crate::controllers::object::{has_finalizer, set_finalizer};
use crate::controllers::reconcile::{self, Done, Failure, Kind};
use crate::controllers::shared::Shared;
use crate::controllers::standing::{Again, Standing};
use crate::controllers::watches::{Select, Turn, Watches};
use crate::features::Feature;
use crate::manifests::{Rule, RuleSet};
use crate::runtime::due::Due;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;

/// The controller of the claims of workspaces. It has no memory.
pub struct ClaimKind {
    shared: Arc<Shared>,
    lane: Due<PersistentVolumeClaim>,
}

/// The gathered state of a claim.
pub struct Seen {
    claim: Arc<PersistentVolumeClaim>,
    /// The deleted workspace that the finalizer is for. `None`: there is no finalizer, or the workspace exists and
    /// removes it itself.
    gone: Option<Gone>,
}

/// A deleted workspace.
struct Gone {
    name: String,
    uid: Option<String>,
    /// The volume has the mark of a clone. Without it, the claim may be anybody's, and there is no work on its volume.
    is_marked: bool,
    /// A pod has the volume.
    is_mounted: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Remove the finalizer of a claim whose volume nobody needs.
    Release,
    /// Keep this volume, and then remove the claim's finalizer.
    Keep(String),
}

// Kubernetes owns the status of a claim.
without_status!(PersistentVolumeClaim);

impl ClaimKind {
    /// A controller with this lane.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<PersistentVolumeClaim>) -> Self {
        Self { shared: Arc::clone(shared), lane }
    }

    /// Keeps the volume of a claim whose workspace was deleted, and removes the claim's finalizer.
    async fn keep(&self, seen: &Seen, volume: &str) -> Result<(), kube::Error> {
        let (claim, shared) = (&*seen.claim, &*self.shared);
        let Some(Gone { name, uid, .. }) = &seen.gone else { return Ok(()) };
        let namespace = claim.namespace().unwrap_or_default();
        let why = "its Workspace is gone without its work having been saved";
        let record = json!({
            "workspace": name, "namespace": namespace, "uid": uid, "at": shared.now().to_string(), "why": why,
        });
        let message = format!(
            "PersistentVolumeClaim {namespace}/{} is deleted, and {why}: PersistentVolume {volume} is kept until somebody deletes it",
            claim.name_any()
        );
        tracing::warn!(message, "a volume is kept");
        retain(shared, claim, volume, &record, &message).await?;
        let_go(shared, claim, &record).await
    }
}

/// Whether a claim is being deleted and has the finalizer.
fn is_held_back(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_some() && has_finalizer(claim, WORK_FINALIZER)
}

impl Kind for ClaimKind {
    type Object = PersistentVolumeClaim;
    type Seen = Seen;
    type Step = Step;
    type Task = Infallible;

    const FEATURE: Feature = Feature::Workspaces;
    const RULES: &'static [Rule] = &[
        // The claim of a workspace's volume has a finalizer until the work on it is safe.
        Rule::new(
            RuleSet::Cluster,
            "",
            &["persistentvolumeclaims"],
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        // A volume is retained if its work could not be pushed.
        Rule::new(RuleSet::Cluster, "", &["persistentvolumes"], &["get", "patch"]),
    ];
    const DEFINITION: Option<fn() -> CustomResourceDefinition> = None;
    const LABEL: Option<&'static str> = Some(WORKSPACE_LABEL);

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lane(&self) -> &Due<PersistentVolumeClaim> {
        &self.lane
    }

    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, PersistentVolumeClaim>) {
        watches.woken_by(Select::All, |shared, workspace: &Workspace, turn| {
            if turn == Turn::Changed {
                return Vec::new();
            }
            let claims = shared.caches.all::<PersistentVolumeClaim>();
            let held = claims.iter().filter(|it| it.namespace() == workspace.namespace() && is_held_back(it));
            held.map(|claim| ObjectRef::from_obj(&**claim)).collect()
        });
    }

    async fn gather(&self, claim: &Arc<PersistentVolumeClaim>) -> Result<Seen, kube::Error> {
        let named = (claim.labels().get(WORKSPACE_LABEL), claim.annotations().get(WORKSPACE_UID_ANNOTATION));
        let nobody = Seen { claim: Arc::clone(claim), gone: None };
        let (Some(name), uid) = named else { return Ok(nobody) };
        if !is_held_back(claim) {
            return Ok(nobody);
        }
        let namespace = claim.namespace().unwrap_or_default();
        let workspaces = Api::<Workspace>::namespaced(self.shared.client.clone(), &namespace);
        let there = workspaces.get_metadata_opt(name).await?;
        if there.is_some_and(|there| there.metadata.uid.as_ref() == uid) {
            return Ok(nobody);
        }
        let is_marked = volume::has_mark(&self.shared, claim).await?;
        let is_mounted = is_marked && {
            let pods = volume::mounted_by(&self.shared, &namespace, &claim.name_any()).await?;
            !pods.is_empty()
        };
        let gone = Gone { name: name.clone(), uid: uid.cloned(), is_marked, is_mounted };
        Ok(Seen { claim: Arc::clone(claim), gone: Some(gone) })
    }

    fn plan(seen: &Seen, _: Timestamp) -> reconcile::Plan<Step> {
        let Some(gone) = &seen.gone else { return reconcile::Plan::nothing() };
        // A volume whose work was read back from the remote is not kept, unless a pod may have written to it since.
        let has_work = gone.is_marked && (gone.is_mounted || noted(&seen.claim).is_none());
        match volume::name_of(&seen.claim).filter(|_| has_work) {
            Some(volume) => reconcile::Plan::Do(Step::Keep(volume.to_owned())),
            None => reconcile::Plan::Do(Step::Release),
        }
    }

    fn task(_: &Step) -> Option<Infallible> {
        None
    }

    async fn apply(&self, seen: &Seen, step: Step) -> Result<Done<PersistentVolumeClaim>, Failure> {
        match step {
            Step::Release => {
                set_finalizer(&self.shared.client, &*seen.claim, WORK_FINALIZER, false).await?;
            }
            Step::Keep(volume) => self.keep(seen, &volume).await?,
        }
        Ok(Done::Finished)
    }

    fn succeeded(&self, _: &Seen, task: Infallible) {
        match task {}
    }

    fn failed(&self, _: &Seen, _: Option<Infallible>, _: Standing, _: Again) {}

    fn status(&self, _: &Seen, _: Option<&Standing>) {}
}
