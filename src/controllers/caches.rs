//! The caches of the watched objects, found by type.
//!
//! Invariant: a type without a watch reads as empty. To the other kinds, a kind whose feature is off is therefore a
//! kind without objects. The caches are set once, before anything runs.

use super::index::Index;
use super::object::ScopeApi;
use super::refused::RefusedNamespaces;
use futures::future::BoxFuture;
use kube::Resource;
use kube::runtime::reflector::store::WriterDropped;
use kube::runtime::reflector::{ObjectRef, Store};
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

/// A type whose objects can be watched.
pub trait Watched:
    Resource<DynamicType = (), Scope: ScopeApi<Self>> + Clone + DeserializeOwned + Debug + Unpin + Send + Sync + 'static
{
}
impl<T> Watched for T where
    T: Resource<DynamicType = (), Scope: ScopeApi<T>>
        + Clone
        + DeserializeOwned
        + Debug
        + Unpin
        + Send
        + Sync
        + 'static
{
}

/// A change that a watch brings.
pub enum News<'a, T> {
    /// The object was created or changed.
    Changed(&'a T),
    /// The object was deleted.
    Gone(&'a T),
    /// A whole listing was taken. Objects may have been deleted unseen before it.
    Listed,
}

/// A function that is called with each change of an object of a type.
pub type Listener<T> = Arc<dyn Fn(&News<'_, T>) + Send + Sync>;

type ByType = HashMap<TypeId, Box<dyn Any + Send + Sync>>;
type Filled = Box<dyn Fn() -> BoxFuture<'static, Result<(), WriterDropped>> + Send + Sync>;

#[derive(Default)]
pub struct Caches {
    contents: OnceLock<Contents>,
    /// The objects by those that they refer to.
    pub index: Index,
    /// The namespaces whose Secrets Kubernetes does not let the operator list.
    pub refused: Arc<RefusedNamespaces>,
}

/// The caches and their listeners, while the watches are being declared.
#[derive(Default)]
pub struct Contents {
    /// `Vec<Store<T>>` by `T`.
    stores: ByType,
    /// `Vec<Listener<T>>` by `T`.
    listeners: ByType,
    filled: Vec<Filled>,
}

impl Contents {
    /// Adds a cache of a type. A type may have several.
    pub fn add_store<T: Watched>(&mut self, store: Store<T>) {
        self.await_store(&store);
        let stores = self.stores.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(Vec::<Store<T>>::new()));
        if let Some(stores) = stores.downcast_mut::<Vec<Store<T>>>() {
            stores.push(store);
        }
    }

    /// Has [`Caches::wait_until_filled`] wait for a store that is not one of the caches.
    pub fn await_store<T: Watched>(&mut self, store: &Store<T>) {
        let copy = store.clone();
        self.filled.push(Box::new(move || {
            let store = copy.clone();
            Box::pin(async move { store.wait_until_ready().await })
        }));
    }

    /// Adds a listener for [`Caches::announce`].
    pub fn add_listener<T: 'static>(&mut self, listener: Listener<T>) {
        let listeners = self.listeners.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(Vec::<Listener<T>>::new()));
        if let Some(listeners) = listeners.downcast_mut::<Vec<Listener<T>>>() {
            listeners.push(listener);
        }
    }
}

impl Caches {
    /// Sets the caches. Only the first call has an effect.
    pub fn set(&self, contents: Contents) {
        if self.contents.set(contents).is_err() {
            tracing::error!("the caches were set twice; the first ones stay");
        }
    }

    fn stores<T: Watched>(&self) -> &[Store<T>] {
        let stores = self.contents.get().and_then(|contents| contents.stores.get(&TypeId::of::<T>()));
        stores.and_then(|stores| stores.downcast_ref::<Vec<Store<T>>>()).map_or(&[], Vec::as_slice)
    }

    /// The object of this name.
    #[must_use]
    pub fn get<T: Watched>(&self, reference: &ObjectRef<T>) -> Option<Arc<T>> {
        self.stores::<T>().iter().find_map(|store| store.get(reference))
    }

    /// The object of this name in this namespace.
    #[must_use]
    pub fn named<T: Watched>(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.get(&ObjectRef::new(name).within(namespace))
    }

    /// All objects of the type.
    #[must_use]
    pub fn all<T: Watched>(&self) -> Vec<Arc<T>> {
        self.stores::<T>().iter().flat_map(Store::state).collect()
    }

    /// How many objects of the type there are.
    #[must_use]
    pub fn count<T: Watched>(&self) -> usize {
        self.stores::<T>().iter().map(Store::len).sum()
    }

    /// The cache of a kind, for kube's runner. `None`: no watch keeps one.
    #[must_use]
    pub fn store<T: Watched>(&self) -> Option<Store<T>> {
        self.stores::<T>().first().cloned()
    }

    /// Calls the listeners of a type, as if its watch had brought a change.
    pub fn announce<T: 'static>(&self, changed: &T) {
        let listeners = self.contents.get().and_then(|contents| contents.listeners.get(&TypeId::of::<T>()));
        let listeners = listeners.and_then(|listeners| listeners.downcast_ref::<Vec<Listener<T>>>());
        for listener in listeners.into_iter().flatten() {
            listener(&News::Changed(changed));
        }
    }

    /// Resolves when all caches were filled once.
    ///
    /// # Errors
    /// A watch ended before that.
    pub async fn wait_until_filled(&self) -> Result<(), WriterDropped> {
        for filled in self.contents.get().into_iter().flat_map(|contents| &contents.filled) {
            filled().await?;
        }
        Ok(())
    }
}
