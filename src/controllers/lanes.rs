//! The lanes of the due queue, found by kind.
//!
//! Invariant: waking a kind without a lane, because its feature is off, does nothing.

use crate::runtime::due::{Due, DueQueue, Feed};
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use std::any::{Any, TypeId};
use std::collections::HashMap;

/// The lanes of all kinds whose feature is on.
#[derive(Default)]
pub struct Lanes(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Lanes {
    /// Makes the lane of a kind. Without the feature there is no lane and no feed.
    pub fn add<K: Resource<DynamicType = ()> + 'static>(
        &mut self,
        queue: &DueQueue,
        is_on: bool,
    ) -> (Due<K>, Option<Feed<K>>) {
        let (due, feed) = queue.register::<K>();
        if !is_on {
            return (due, None);
        }
        self.0.insert(TypeId::of::<K>(), Box::new(due.clone()));
        (due, Some(feed))
    }

    /// Queues an object to be looked at as soon as it is its turn, because something changed.
    pub fn look_now<K: Resource<DynamicType = ()> + 'static>(&self, object: &ObjectRef<K>) {
        if let Some(due) = self.of::<K>() {
            due.look_now(object);
        }
    }

    /// The same after a delivery.
    pub fn look_after_delivery<K: Resource<DynamicType = ()> + 'static>(&self, object: &ObjectRef<K>) {
        if let Some(due) = self.of::<K>() {
            due.look_after_delivery(object);
        }
    }

    fn of<K: 'static>(&self) -> Option<&Due<K>> {
        self.0.get(&TypeId::of::<K>())?.downcast_ref()
    }
}
