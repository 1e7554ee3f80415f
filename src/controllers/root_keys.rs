//! The root keys of webhooks: made once, read, and read again when they are changed.
//!
//! Invariant: a Secret that is there is never overwritten. Were it, every webhook's deliveries would be refused until each
//! got its new secret, and nobody could tell why.

use crate::controllers::lenient::Lenient;
use crate::webhook::{CURRENT, CURRENT_ID, KEY_LENGTH, ROOT_KEYS_SECRET, RootKeyError, RootKeys};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The keys as this process knows them.
#[derive(Default)]
pub struct KnownRootKeys(Mutex<Knowledge>);

#[derive(Default)]
struct Knowledge {
    keys: Option<Arc<RootKeys>>,
    /// The Secret is as it was read.
    is_fresh: bool,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kubernetes refused to give or to make the Secret.
    #[error("Secret {ROOT_KEYS_SECRET}, from which the secrets of webhooks are derived, cannot be read or made")]
    Kubernetes(#[source] kube::Error),
    /// What is in it is of no use.
    #[error("Secret {ROOT_KEYS_SECRET}")]
    Unusable(#[source] RootKeyError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes for Secret {ROOT_KEYS_SECRET}")]
    NoRandomness,
}

impl KnownRootKeys {
    /// The keys, as they were read last.
    #[must_use]
    pub fn known(&self) -> Option<Arc<RootKeys>> {
        self.knowledge().keys.clone()
    }

    /// The Secret was changed: it is read again at the next [`ensure`](Self::ensure).
    pub fn changed(&self) {
        self.knowledge().is_fresh = false;
    }

    /// The keys, read if the Secret was changed, made if there are none. The other answer is whether they are others than
    /// before.
    ///
    /// # Errors
    /// There are none, and none can be made.
    pub async fn ensure(&self, client: &Client, namespace: &str) -> Result<(Arc<RootKeys>, bool), Error> {
        {
            let known = self.knowledge();
            if let (Some(keys), true) = (&known.keys, known.is_fresh) {
                return Ok((Arc::clone(keys), false));
            }
        }
        let keys = Arc::new(read_or_make(client, namespace).await?);
        let mut known = self.knowledge();
        let is_other = known.keys.as_ref().is_none_or(|before| before.current.id() != keys.current.id());
        *known = Knowledge { keys: Some(Arc::clone(&keys)), is_fresh: true };
        Ok((keys, is_other))
    }

    // No code that holds the lock can leave it half changed.
    fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_or_make(client: &Client, namespace: &str) -> Result<RootKeys, Error> {
    let secrets: Api<Lenient<Secret>> = Api::namespaced(client.clone(), namespace);
    let read = async || secrets.get_opt(ROOT_KEYS_SECRET).await?.map(Lenient::read).transpose();
    let secret = match read().await.map_err(Error::Kubernetes)? {
        Some(secret) => secret,
        None => match secrets.create(&PostParams::default(), &Lenient::from(fresh()?)).await {
            Ok(made) => {
                tracing::info!(secret = ROOT_KEYS_SECRET, namespace, "made the root key of webhooks");
                made.read().map_err(Error::Kubernetes)?
            }
            // Somebody was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let there = read().await.map_err(Error::Kubernetes)?;
                there.ok_or(Error::Unusable(RootKeyError::Missing(CURRENT)))?
            }
            Err(error) => return Err(Error::Kubernetes(error)),
        },
    };
    let data = secret.data.unwrap_or_default();
    RootKeys::read(|name| data.get(name).map(|value| value.0.as_slice())).map_err(Error::Unusable)
}

/// A Secret with a new key.
///
/// # Errors
/// The system gave no random bytes.
pub fn fresh() -> Result<Secret, Error> {
    let (id, key) = new_key()?;
    let data: BTreeMap<_, _> =
        [(CURRENT_ID.to_owned(), ByteString(id.into())), (CURRENT.to_owned(), ByteString(key))].into();
    Ok(Secret {
        metadata: ObjectMeta { name: Some(ROOT_KEYS_SECRET.to_owned()), ..ObjectMeta::default() },
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}

/// A new key and its id.
///
/// # Errors
/// The system gave no random bytes.
pub fn new_key() -> Result<(String, Vec<u8>), Error> {
    let mut bytes = [0; KEY_LENGTH + 4];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    Ok((format!("k{}", hex::encode(&bytes[KEY_LENGTH..])), bytes[..KEY_LENGTH].to_vec()))
}
