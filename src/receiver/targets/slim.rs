//! A `ProjectRepository` as the receiver reads it: only what it matches by, and the log's keys.
//!
//! Invariant: whatever a tenant wrote into the rest, spec or status, does not matter; and of what is read, an odd value
//! counts as absent and takes nothing else with it.

use crate::api::{DeliveryResult, ProjectRepository, WebhookMode};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The object.
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
    pub id: Option<u64>,
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
    #[serde(default, deserialize_with = "loose")]
    pub id: Option<u64>,
    #[serde(default, deserialize_with = "loose")]
    pub deliveries: BTreeMap<String, SlimDelivery>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlimDelivery {
    #[serde(default, deserialize_with = "loose")]
    pub receipt_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "loose")]
    pub attempts: Option<u32>,
    #[serde(default, deserialize_with = "loose")]
    pub event: Option<String>,
    #[serde(default, deserialize_with = "loose")]
    pub result: Option<DeliveryResult>,
}

/// Labels, annotations and managed fields are the larger part of an object, and nothing here is matched by them.
fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        name: Option<String>,
        namespace: Option<String>,
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
    }
    let Slim { name, namespace, resource_version, deletion_timestamp } = Slim::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, resource_version, deletion_timestamp, ..ObjectMeta::default() })
}

/// The value, or the default if it is an odd one.
fn loose<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    // The API server has bounded it, and Lenient has built it already.
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

impl SlimRepository {
    /// By which name the repository will be known that this object waits for, as long as it has no id.
    pub fn awaited(&self) -> Option<&str> {
        let Source { existing, fork } = &self.spec.source;
        let of = || fork.of.as_deref().and_then(|of| of.split_once('/')).map(|(_, name)| name);
        existing.name.as_deref().or(fork.name.as_deref()).or_else(of)
    }

    /// The repository it is bound to: by what status says, which a tenant may have written, or by its own words.
    pub fn id(&self) -> Option<u64> {
        self.status.id.or(self.spec.source.existing.id)
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
