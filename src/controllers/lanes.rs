//! The lanes of the due queue, found by kind.
//!
//! Invariant: waking a kind without a lane, because its feature is off, does nothing.

use crate::runtime::due::{Due, DueQueue};
use futures::StreamExt;
use futures::stream::BoxStream;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use std::any::{Any, TypeId};
use std::collections::HashMap;

/// The objects of a kind that are due.
pub type Fed<K> = BoxStream<'static, ObjectRef<K>>;

/// The lanes of all kinds whose feature is on.
#[derive(Default)]
pub struct Lanes(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Lanes {
    /// Makes the lane of a kind. Without the feature there is no lane and no stream.
    pub fn add<K: Resource<DynamicType = ()> + 'static>(
        &mut self,
        queue: &DueQueue,
        is_on: bool,
    ) -> (Due<K>, Option<Fed<K>>) {
        let (due, stream) = queue.register::<K>();
        if !is_on {
            return (due, None);
        }
        self.0.insert(TypeId::of::<K>(), Box::new(due.clone()));
        (due, Some(stream.boxed()))
    }

    /// Queues an object to be looked at as soon as its controller is free.
    pub fn look_now<K: Resource<DynamicType = ()> + 'static>(&self, object: &ObjectRef<K>) {
        if let Some(due) = self.0.get(&TypeId::of::<K>()).and_then(|due| due.downcast_ref::<Due<K>>()) {
            due.look_now(object);
        }
    }
}
