//! Reading objects that others can write to, without being stopped by what they wrote.
//!
//! Whoever may patch an object may set `metadata.managedFields` to times that no parser of ours takes; the API server
//! accepts them. Parsed as they come, one such object fails every list of its kind: the caches are never filled again,
//! nobody leads, and kube's client logs the body it could not read. Invariant: everything that is read of an object
//! that a tenant can write goes through [`Lenient`], which leaves the times of the managed fields out and keeps an object that still
//! cannot be read as an error of its own.

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::{self, Event};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::borrow::Cow;

/// An object, or why it cannot be read.
#[derive(Clone, Debug)]
pub struct Lenient<K> {
    object: Result<K, String>,
    /// Of an object that cannot be read: its name and namespace, and no more.
    meta: ObjectMeta,
}

impl<K> Lenient<K> {
    /// The object.
    ///
    /// # Errors
    /// When it cannot be read. The error names the field, never a value.
    pub fn read(self) -> Result<K, kube::Error> {
        self.object.map_err(|what| kube::Error::SerdeError(serde_json::Error::custom(what)))
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        for entry in value.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            entry.as_object_mut().map(|entry| entry.remove("time"));
        }
        let text = |key: &str| value["metadata"][key].as_str().map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            // A watch goes on from here.
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        let object = K::deserialize(&value)
            .or_else(|_| {
                // Status is ours to write and anybody's to forge: what is wrong there is written anew.
                value.as_object_mut().map(|object| object.remove("status"));
                K::deserialize(&value)
            })
            // serde's words can quote the value; only the kind of mistake is kept.
            .map_err(|error| format!("it cannot be read ({:?})", error.classify()));
        Ok(Self { object, meta })
    }
}

impl<K: Serialize> Serialize for Lenient<K> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.as_ref().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<K> From<K> for Lenient<K> {
    fn from(object: K) -> Self {
        Self { object: Ok(object), meta: ObjectMeta::default() }
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        self.object.as_ref().map_or(&self.meta, Resource::meta)
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.object {
            Ok(object) => object.meta_mut(),
            Err(_) => &mut self.meta,
        }
    }
}

/// The objects of a watch that can be read. What cannot is logged and left out: nothing can be done about it but by
/// whoever wrote it.
pub fn readable<K>(
    watch: impl Stream<Item = watcher::Result<Event<Lenient<K>>>> + Send,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource<DynamicType: Default> + Send,
{
    let read = |lenient: Lenient<K>| {
        let meta = lenient.meta.clone();
        lenient.object.inspect_err(|error| {
            let (kind, name, namespace) = (K::kind(&K::DynamicType::default()).into_owned(), meta.name, meta.namespace);
            tracing::error!(kind, namespace, name, error, "an object is left out");
        })
    };
    watch.filter_map(move |event| {
        let event = match event {
            Ok(Event::Apply(object)) => read(object).ok().map(|object| Ok(Event::Apply(object))),
            Ok(Event::Delete(object)) => read(object).ok().map(|object| Ok(Event::Delete(object))),
            Ok(Event::InitApply(object)) => read(object).ok().map(|object| Ok(Event::InitApply(object))),
            Ok(Event::Init) => Some(Ok(Event::Init)),
            Ok(Event::InitDone) => Some(Ok(Event::InitDone)),
            Err(error) => Some(Err(error)),
        };
        std::future::ready(event)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    fn secret(metadata: &Value) -> Value {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "git", "namespace": "a"}});
        for (key, value) in metadata.as_object().into_iter().flatten() {
            secret["metadata"][key] = value.clone();
        }
        secret["data"] = json!({"password": "Y2FuYXJ5"});
        secret
    }

    #[test]
    fn managed_fields_of_any_time_do_not_matter() {
        let odd = secret(
            &json!({"managedFields": [{"time": "9999-12-31T23:59:59Z", "manager": "m", "operation": "Update"}]}),
        );
        serde_json::from_value::<Secret>(odd.clone()).expect_err("which is why this type is there");
        assert!(serde_json::from_value::<Lenient<Secret>>(odd).unwrap().read().is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_of_its_own_without_its_values() {
        let odd = secret(&json!({"deletionTimestamp": "canary-in-a-time"}));
        let lenient = serde_json::from_value::<Lenient<Secret>>(odd).unwrap();
        assert_eq!(lenient.meta().name.as_deref(), Some("git"));
        let error = lenient.read().unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}
