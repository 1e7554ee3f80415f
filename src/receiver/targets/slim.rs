//! The fields of a `ProjectRepository` that the receiver matches by.
//!
//! Invariant: a tenant's odd value counts as absent and affects no other field. All other fields are not read at all.

use crate::api::{ProjectRepository, WebhookMode};
use crate::ids::RepositoryId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;

#[derive(Clone, Debug, Deserialize)]
pub struct SlimRepository {
    #[serde(default, deserialize_with = "slim")]
    pub metadata: ObjectMeta,
    #[serde(default, deserialize_with = "loose")]
    pub spec: Spec,
    #[serde(default, deserialize_with = "loose")]
    pub status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    #[serde(default, deserialize_with = "loose")]
    pub installation_ref: Named,
    #[serde(default, deserialize_with = "loose")]
    pub source: Source,
    #[serde(default, deserialize_with = "loose")]
    pub webhook: Webhook,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Named {
    #[serde(default, deserialize_with = "loose")]
    pub name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Source {
    #[serde(default, deserialize_with = "loose")]
    pub existing: Existing,
    #[serde(default, deserialize_with = "loose")]
    pub fork: Fork,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Existing {
    #[serde(default, deserialize_with = "loose")]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "loose")]
    pub id: Option<RepositoryId>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Fork {
    #[serde(default, deserialize_with = "loose")]
    pub of: Option<String>,
    #[serde(default, deserialize_with = "loose")]
    pub name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Webhook {
    #[serde(default, deserialize_with = "loose")]
    pub mode: WebhookMode,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Status {
    #[serde(default, deserialize_with = "loose", rename = "repositoryID")]
    pub repository_id: Option<RepositoryId>,
}

/// Labels, annotations and managed fields are the larger part of an object, and matching does not need them.
fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        name: Option<String>,
        namespace: Option<String>,
        // A watch goes on from there.
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
    }
    let Slim { name, namespace, resource_version, deletion_timestamp } = Slim::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, resource_version, deletion_timestamp, ..ObjectMeta::default() })
}

/// The value, or the default if it has another type.
fn loose<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    // The API server limits its size, and Lenient has built it already.
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

impl SlimRepository {
    /// The name of the repository that this object waits for while it has no id.
    pub fn awaited_name(&self) -> Option<&str> {
        let Source { existing, fork } = &self.spec.source;
        let of = || fork.of.as_deref().and_then(|of| of.split_once('/')).map(|(_, name)| name);
        existing.name.as_deref().or(fork.name.as_deref()).or_else(of)
    }

    /// The id of the repository that the object is bound to, from status, which a tenant may have written, or from spec.
    pub fn id(&self) -> Option<RepositoryId> {
        self.status.repository_id.or(self.spec.source.existing.id)
    }
}

impl Resource for SlimRepository {
    type DynamicType = ();
    type Scope = <ProjectRepository as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        ProjectRepository::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        ProjectRepository::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        ProjectRepository::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        ProjectRepository::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
