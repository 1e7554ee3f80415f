//! The root keys of webhooks: creates them once, reads them, and reads them again after a change.
//!
//! Invariant: an existing Secret is never overwritten. If it were, GitHub's deliveries would be refused until each
//! webhook got its new secret, and nothing would show the cause.

use crate::runtime::lenient::Lenient;
use crate::webhook::{CURRENT, CURRENT_ID, KEY_LENGTH, ROOT_KEYS_SECRET, RootKeyError, RootKeys};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The last keys that this process read.
#[derive(Default)]
pub struct KnownRootKeys(Mutex<Knowledge>);

#[derive(Default)]
struct Knowledge {
    keys: Option<Arc<RootKeys>>,
    /// The Secret has not changed since it was read.
    is_fresh: bool,
}

/// The reason why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kubernetes refused a read or the creation of the Secret.
    #[error("Secret {ROOT_KEYS_SECRET}, from which the secrets of webhooks are derived, cannot be read or made")]
    Kubernetes(#[source] kube::Error),
    /// The Secret has no valid keys.
    #[error("Secret {ROOT_KEYS_SECRET}")]
    Unusable(#[source] RootKeyError),
    #[error("the system gave no random bytes for Secret {ROOT_KEYS_SECRET}")]
    NoRandomness,
}

impl KnownRootKeys {
    /// The last keys that this process read.
    #[must_use]
    pub fn known(&self) -> Option<Arc<RootKeys>> {
        self.knowledge().keys.clone()
    }

    /// Called when the Secret changed: the next [`ensure`](Self::ensure) reads it again.
    pub fn changed(&self) {
        self.knowledge().is_fresh = false;
    }

    /// The keys, and whether they differ from the last ones. Reads them if the Secret changed, and creates them if
    /// there are none.
    ///
    /// # Errors
    /// There are no keys, and none can be created.
    pub async fn ensure(&self, client: &Client, namespace: &str) -> Result<(Arc<RootKeys>, bool), Error> {
        {
            let mut known = self.knowledge();
            if let (Some(keys), true) = (&known.keys, known.is_fresh) {
                return Ok((Arc::clone(keys), false));
            }
            // Set before the read, so that a change during the read causes another.
            known.is_fresh = true;
        }
        let keys = Arc::new(read_or_make(client, namespace).await.inspect_err(|_| self.changed())?);
        let mut known = self.knowledge();
        let is_other = known.keys.as_ref().is_none_or(|before| before.current.id() != keys.current.id());
        known.keys = Some(Arc::clone(&keys));
        Ok((keys, is_other))
    }

    // A panic while the lock was held leaves a consistent value.
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
            // Another client was faster.
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use std::convert::Infallible;

    /// A Kubernetes API server that answers each request with the next of these, and the requests that it got.
    fn scripted(answers: Vec<(u16, serde_json::Value)>) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answers) = (Arc::clone(&asked), Mutex::new(answers.into_iter()));
        let service = tower::service_fn(move |request: Request<Body>| {
            log.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
            let (status, body) = answers.lock().unwrap().next().expect("no more was to be asked");
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            async move { Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap()) }
        });
        (Client::new(service, "landfall-system"), asked)
    }

    fn refusal(code: u16, reason: &str) -> (u16, serde_json::Value) {
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "", "reason": reason,
        });
        (code, status)
    }

    fn secret(id: &str, byte: u8) -> (u16, serde_json::Value) {
        let data = [(CURRENT_ID, id.as_bytes().to_vec()), (CURRENT, vec![byte; KEY_LENGTH])];
        let data = data.map(|(name, value)| (name.to_owned(), ByteString(value))).into();
        let mut secret = fresh().unwrap();
        secret.data = Some(data);
        (200, serde_json::to_value(secret).unwrap())
    }

    const PLACE: &str = "/api/v1/namespaces/landfall-system/secrets";

    #[tokio::test]
    async fn made_once_and_read_again_only_when_they_were_changed() {
        let made = secret("k1", 1);
        let (client, asked) = scripted(vec![refusal(404, "NotFound"), made.clone(), made, secret("k2", 2)]);
        let keys = KnownRootKeys::default();
        let ensure = async || {
            keys.ensure(&client, "landfall-system").await.map(|(keys, new)| (keys.current.id().to_owned(), new))
        };
        assert_eq!(ensure().await.unwrap(), ("k1".into(), true));
        assert_eq!(ensure().await.unwrap(), ("k1".into(), false));
        keys.changed();
        assert_eq!(keys.known().unwrap().current.id(), "k1", "until they were read again these count");
        assert_eq!(ensure().await.unwrap(), ("k1".into(), false));
        keys.changed();
        assert_eq!(ensure().await.unwrap(), ("k2".into(), true));
        let name = format!("GET {PLACE}/{ROOT_KEYS_SECRET}");
        assert_eq!(*asked.lock().unwrap(), [name.clone(), format!("POST {PLACE}"), name.clone(), name]);
    }

    #[tokio::test]
    async fn what_is_there_is_never_overwritten() {
        // Another client was faster; the existing Secret is invalid; Kubernetes does not answer.
        let (client, _) = scripted(vec![refusal(404, "NotFound"), refusal(409, "AlreadyExists"), secret("theirs", 3)]);
        let (keys, _) = KnownRootKeys::default().ensure(&client, "landfall-system").await.unwrap();
        assert_eq!(keys.current.id(), "theirs");
        let mut broken = secret("k1", 1);
        broken.1["data"][CURRENT] = serde_json::to_value(ByteString(b"canary".to_vec())).unwrap();
        let (client, asked) = scripted(vec![broken, refusal(503, "ServiceUnavailable")]);
        let keys = KnownRootKeys::default();
        let error = keys.ensure(&client, "landfall-system").await.unwrap_err();
        assert!(matches!(error, Error::Unusable(RootKeyError::Length(..))), "{error:?}");
        assert!(!format!("{error:?}").contains("canary"));
        assert!(matches!(keys.ensure(&client, "landfall-system").await, Err(Error::Kubernetes(_))));
        assert!(asked.lock().unwrap().iter().all(|line| line.starts_with("GET ")), "{asked:?}");
    }

    #[test]
    fn a_fresh_secret_is_whole_and_no_two_are_alike() {
        let read = |secret: &Secret| {
            let data = secret.data.clone().unwrap();
            RootKeys::read(|name| data.get(name).map(|value| value.0.as_slice()))
                .map(|keys| keys.current.id().to_owned())
        };
        let (one, other) = (fresh().unwrap(), fresh().unwrap());
        assert_ne!(read(&one).unwrap(), read(&other).unwrap());
        let key = |secret: &Secret| secret.data.as_ref().unwrap()[CURRENT].0.clone();
        assert_ne!(key(&one), key(&other));
        assert_eq!(key(&one).len(), KEY_LENGTH);
    }
}
