//! Looks at workloads and restarts them, as the `ServiceAccount`.
//!
//! Invariant: a workload is changed only in the version that was planned for, so that the change of a faster client,
//! for example an earlier leader, is not overwritten.

use super::account::{Account, Refused, is_name};
use super::progress::{self, progress};
use super::seen::{Stamp, Targets, Trouble, Workload};
use crate::api::{
    FIELD_MANAGER, PushAction, REPOSITORY_ANNOTATION, Reason, SEQUENCE_ANNOTATION, SHA_ANNOTATION, WorkloadKind,
};
use crate::runtime::lenient::Lenient;
use kube::api::{GetParams, ListParams, Patch, PatchParams};
use kube::core::{Request, Selector};
use serde::Deserialize;
use serde_json::json;

/// The most workloads that one selector may select.
const MOST: u32 = 100;

/// The relevant fields of all three kinds.
#[derive(Debug, Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: progress::Spec,
    #[serde(default)]
    status: progress::Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    uid: String,
    resource_version: String,
    generation: i64,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
struct List {
    items: Vec<Lenient<Object>>,
    #[serde(default)]
    metadata: ListMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListMetadata {
    r#continue: Option<String>,
}

/// Looks at all workloads that the actions name. `source`: the repository whose rollouts are followed.
///
/// # Errors
/// Failures that will pass.
pub async fn look(account: &Account<'_>, actions: &[PushAction], source: Option<&str>) -> Result<Targets, kube::Error> {
    let mut targets = Targets::default();
    for action in actions {
        let restart = &action.rollout_restart;
        let found = match (&restart.name, &restart.selector) {
            (Some(name), _) => by_name(account, restart.kind, name).await.map(|object| vec![object]),
            (None, Some(selector)) => match Selector::try_from(selector.clone()) {
                Ok(selector) => by_selector(account, restart.kind, &selector).await,
                Err(error) => Err(invalid(&format!("rolloutRestart.selector cannot be used: {error}"))),
            },
            (None, None) => Err(invalid("rolloutRestart has neither name nor selector")),
        };
        match found {
            Ok(found) => {
                for workload in found.into_iter().map(|object| workload(restart.kind, object, source)) {
                    if !targets.workloads.iter().any(|known| known.uid == workload.uid) {
                        targets.workloads.push(workload);
                    }
                }
            }
            Err(Refused::Passing(error)) => return Err(error),
            Err(refused) => targets.troubles.extend(trouble(refused, "the workloads")),
        }
    }
    Ok(targets)
}

async fn by_name(account: &Account<'_>, kind: WorkloadKind, name: &str) -> Result<Object, Refused> {
    if !is_name(name) {
        return Err(invalid(&format!("rolloutRestart.name {name:?} is no name of a {kind:?}")));
    }
    let what = format!("{kind:?} {name}");
    let request = Request::new(account.path(kind)).get(name, &GetParams::default());
    let missing = |message| Refused::Trouble(Trouble { reason: Reason::WaitingForReference, message });
    let object = match account.ask::<Lenient<Object>>(request, kind, "get", &what).await {
        Ok(object) => object.read().map_err(Refused::Passing)?,
        Err(Refused::Missing) => {
            return Err(missing(format!("{what} does not exist: make it, or correct spec.onPush.actions")));
        }
        Err(refused) => return Err(refused),
    };
    if object.metadata.deletion_timestamp.is_some() {
        return Err(missing(format!("{what} is being deleted")));
    }
    Ok(object)
}

async fn by_selector(account: &Account<'_>, kind: WorkloadKind, selector: &Selector) -> Result<Vec<Object>, Refused> {
    let what = format!("{kind:?}s with {selector}");
    let request = Request::new(account.path(kind)).list(&ListParams::default().labels_from(selector).limit(MOST));
    let list = account.ask::<List>(request, kind, "list", &what).await?;
    if list.metadata.r#continue.is_some_and(|rest| !rest.is_empty()) {
        return Err(invalid(&format!("there are more than {MOST} {what}: select fewer")));
    }
    let mut found = Vec::new();
    for object in list.items {
        let object = object.read().map_err(Refused::Passing)?;
        if object.metadata.deletion_timestamp.is_none() {
            found.push(object);
        }
    }
    if found.is_empty() {
        let message = format!("there are no {what}: label one, or correct spec.onPush.actions");
        return Err(Refused::Trouble(Trouble { reason: Reason::WaitingForReference, message }));
    }
    Ok(found)
}

fn workload(kind: WorkloadKind, object: Object, source: Option<&str>) -> Workload {
    let Object { metadata, spec, status } = object;
    let annotation = |name| spec.template.metadata.annotations.as_ref()?.get(name);
    let is_others = annotation(REPOSITORY_ANNOTATION).zip(source).is_some_and(|(whose, source)| whose != source);
    Workload {
        kind,
        stamp: annotation(SHA_ANNOTATION).filter(|_| !is_others).map(|sha| Stamp {
            sha: sha.clone(),
            sequence: annotation(SEQUENCE_ANNOTATION)
                .and_then(|text| text.parse().ok())
                .filter(|sequence| (0..=1 << 50).contains(sequence))
                .unwrap_or(0),
        }),
        progress: progress(kind, metadata.generation, &spec, &status),
        name: metadata.name,
        uid: metadata.uid,
        version: metadata.resource_version,
        hindrance: None,
    }
}

/// Writes the commit and its repository into a workload's template.
///
/// # Errors
/// The reason why it was not changed.
pub async fn roll(
    account: &Account<'_>,
    workload: &Workload,
    stamp: &Stamp,
    source: Option<&str>,
) -> Result<(), Refused> {
    let sequence = stamp.sequence.to_string();
    let annotations = json!({SHA_ANNOTATION: stamp.sha, SEQUENCE_ANNOTATION: sequence, REPOSITORY_ANNOTATION: source});
    let patch = json!({
        "metadata": {"resourceVersion": workload.version},
        "spec": {"template": {"metadata": {"annotations": annotations}}},
    });
    let manager = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let request = Request::new(account.path(workload.kind)).patch(&workload.name, &manager, &Patch::Merge(&patch));
    account.ask::<serde::de::IgnoredAny>(request, workload.kind, "patch", &workload.to_string()).await.map(drop)
}

/// The problem to report to a person after a refusal that does not pass.
#[must_use]
pub fn trouble(refused: Refused, what: &str) -> Option<Trouble> {
    let (reason, message) = match refused {
        Refused::Trouble(trouble) => return Some(trouble),
        Refused::Missing => (Reason::WaitingForReference, format!("{what} was deleted meanwhile")),
        Refused::Changed => (
            Reason::KubernetesRefused,
            format!(
                "{what} is changed by others all the time, so it could not be changed: see its metadata.managedFields"
            ),
        ),
        Refused::Passing(_) => return None,
    };
    Some(Trouble { reason, message })
}

fn invalid(message: &str) -> Refused {
    Refused::Trouble(Trouble { reason: Reason::InvalidSpec, message: format!("in spec.onPush.actions {message}") })
}
