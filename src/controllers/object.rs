//! Reads and changes one object of any kind.

use crate::api::RECONCILE_ANNOTATION;
use crate::runtime::lenient::Lenient;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

/// The value of the annotation that requests a look now.
#[must_use]
pub fn requested_look<K: Resource>(object: &K) -> Option<&String> {
    object.meta().annotations.as_ref()?.get(RECONCILE_ANNOTATION)
}

/// The API for an object, whether its kind is namespaced or not.
pub trait ScopeApi<K> {
    /// The API that reaches `object`.
    fn api(client: Client, object: &K) -> Api<Lenient<K>>;
    /// The API for the objects in a namespace, or for all objects of a kind that has no namespaces.
    fn within(client: Client, namespace: &str) -> Api<Lenient<K>>;
}

impl<K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>> ScopeApi<K>
    for kube::core::ClusterResourceScope
{
    fn api(client: Client, _: &K) -> Api<Lenient<K>> {
        Api::all(client)
    }
    fn within(client: Client, _: &str) -> Api<Lenient<K>> {
        Api::all(client)
    }
}

impl<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>> ScopeApi<K>
    for kube::core::NamespaceResourceScope
{
    fn api(client: Client, object: &K) -> Api<Lenient<K>> {
        Api::namespaced(client, object.meta().namespace.as_deref().unwrap_or_default())
    }
    fn within(client: Client, namespace: &str) -> Api<Lenient<K>> {
        Api::namespaced(client, namespace)
    }
}

pub fn has_finalizer<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.finalizers().iter().any(|name| name == finalizer)
}

/// Adds or removes a finalizer, unless that is done already, with the resource version that was read. On a conflict
/// another client was faster, and the watch brings the object again.
///
/// # Errors
/// The API server's errors, including conflicts.
pub async fn set_finalizer<K>(client: &Client, object: &K, finalizer: &str, present: bool) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = (), Scope: ScopeApi<K>> + Clone + DeserializeOwned + Serialize + Debug,
{
    if has_finalizer(object, finalizer) == present {
        return Ok(object.clone());
    }
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|name| name != finalizer);
    if present {
        finalizers.push(finalizer.to_owned());
    }
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
    let api = <K::Scope as ScopeApi<K>>::api(client.clone(), object);
    api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?.read()
}
