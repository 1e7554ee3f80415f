//! The pods of the receiver: makes a `WebhookInbox` for each.

use crate::api::{WebhookInbox, WebhookInboxSpec, without_status};
use crate::controllers::reconcile::{self, Done, Failure, Kind};
use crate::controllers::shared::Shared;
use crate::controllers::standing::{Again, Standing};
use crate::controllers::watches::{Place, Select, Watches};
use crate::features::Feature;
use crate::manifests::{Rule, RuleSet};
use crate::runtime::due::Due;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;

/// A pod without its spec and status.
type PodMeta = PartialObjectMeta<Pod>;

/// The controller of the receiver's pods. It has no memory.
pub struct ReceiverKind {
    shared: Arc<Shared>,
    lane: Due<PodMeta>,
}

/// The gathered state of a pod.
pub struct Seen {
    pod: Arc<PodMeta>,
    has_inbox: bool,
}

/// Makes the pod's inbox.
#[derive(Debug, PartialEq, Eq)]
pub struct Make;

// Kubernetes owns the status of a pod.
without_status!(PodMeta);

impl ReceiverKind {
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<PodMeta>) -> Self {
        Self { shared: Arc::clone(shared), lane }
    }
}

/// Makes an inbox, unless there is one of this name.
///
/// Without field managers, the API server does not keep track of them either, which takes two fifths of its time for a patch of
/// a small inbox. An inbox has one writer for additions and one for removals, and none of them uses server-side apply.
///
/// # Errors
/// Kubernetes refused it.
pub async fn make_inbox(
    client: &Client,
    namespace: &str,
    name: &str,
    owner: Option<OwnerReference>,
) -> Result<(), kube::Error> {
    let mut inbox = WebhookInbox::new(name, WebhookInboxSpec {});
    inbox.metadata.namespace = Some(namespace.to_owned());
    inbox.metadata.owner_references = owner.map(|owner| vec![owner]);
    let inboxes = Api::<WebhookInbox>::namespaced(client.clone(), namespace);
    match inboxes.create(&PostParams::default(), &inbox).await {
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
        made => drop(made?),
    }
    let no_field_managers = json!({"metadata": {"managedFields": [{}]}});
    inboxes.patch_metadata(name, &PatchParams::default(), &Patch::Merge(no_field_managers)).await?;
    Ok(())
}

impl Kind for ReceiverKind {
    type Object = PodMeta;
    type Seen = Seen;
    type Step = Make;
    type Task = Infallible;

    const FEATURE: Feature = Feature::Tokens;
    const RULES: &'static [Rule] = &[
        // The receiver may make nothing, so the operator makes an inbox for each of its pods.
        Rule::new(RuleSet::Own, "", &["pods"], &["get", "list", "watch"]),
    ];
    const DEFINITION: Option<fn() -> CustomResourceDefinition> = None;
    const LABEL: Option<&'static str> = Some("app.kubernetes.io/component=receiver");
    const PLACE: Place = Place::OwnNamespace;

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lane(&self) -> &Due<PodMeta> {
        &self.lane
    }

    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, PodMeta>) {
        // An inbox that somebody deleted is made again. With the pod, Kubernetes deletes the inbox.
        watches.woken_by(Select::OwnNamespace(None), |shared, inbox: &WebhookInbox, _| {
            vec![ObjectRef::new(&inbox.name_any()).within(&shared.settings.namespace)]
        });
    }

    async fn gather(&self, pod: &Arc<PodMeta>) -> Result<Seen, kube::Error> {
        let inbox = self.shared.caches.named::<WebhookInbox>(&self.shared.settings.namespace, &pod.name_any());
        Ok(Seen { pod: Arc::clone(pod), has_inbox: inbox.is_some() })
    }

    fn plan(seen: &Seen, _: Timestamp) -> reconcile::Plan<Make> {
        if seen.has_inbox || seen.pod.metadata.deletion_timestamp.is_some() {
            return reconcile::Plan::nothing();
        }
        reconcile::Plan::Do(Make)
    }

    fn task(_: &Make) -> Option<Infallible> {
        None
    }

    async fn apply(&self, seen: &Seen, _: Make) -> Result<Done<PodMeta>, Failure> {
        let name = seen.pod.name_any();
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: name.clone(),
            uid: seen.pod.uid().unwrap_or_default(),
            ..OwnerReference::default()
        };
        make_inbox(&self.shared.client, &self.shared.settings.namespace, &name, Some(owner)).await?;
        self.lane.succeeded(&ObjectRef::from_obj(&*seen.pod));
        // The watch brings the inbox.
        Ok(Done::Finished)
    }

    fn succeeded(&self, _: &Seen, task: Infallible) {
        match task {}
    }

    fn failed(&self, _: &Seen, _: Option<Infallible>, _: Standing, _: Again) {}

    fn status(&self, _: &Seen, _: Option<&Standing>) {}
}
