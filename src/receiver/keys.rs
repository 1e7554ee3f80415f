//! The root keys from which the receiver derives the secrets of webhooks, read again when they change.
//!
//! Invariant: the receiver reads mounted files; only `landfall all` reads the Secret. A process that faces the internet
//! needs no right to read Secrets. Keys are read every few seconds, so that a removed key is no longer accepted, and again
//! after a wrong signature, so that a rotation refuses no delivery. If they cannot be read, the former keys stay.

use super::signature::Signature;
use crate::runtime::lenient::Lenient;
use crate::runtime::readiness::Check;
use crate::webhook::{AppIdentity, Hook, ROOT_KEYS_SECRET, RootKeyError, RootKeys};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const READ_EVERY: Duration = Duration::from_secs(5);
/// The shortest time until a wrong signature causes another read: wrong signatures must not keep the receiver reading.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The place of the keys.
pub enum KeySource {
    /// The directory in which the Secret is mounted.
    Directory(PathBuf),
    /// The Secret itself, in this namespace, for a process that may read it anyway.
    Secret(String),
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the webhooks' root keys are not usable")]
    Keys(#[from] RootKeyError),
    #[error("the Secret {ROOT_KEYS_SECRET} cannot be read")]
    Kubernetes(#[source] Box<kube::Error>),
}

pub struct Keys {
    source: KeySource,
    client: kube::Client,
    known: RwLock<Option<Arc<RootKeys>>>,
    /// When they were last read; locked during a read.
    read_at: tokio::sync::Mutex<Option<Instant>>,
    check: Check,
}

/// The result of verifying a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// No key has been read yet.
    NoKeys,
}

impl Keys {
    /// `check` passes once keys were read.
    pub fn new(source: KeySource, client: kube::Client, check: Check) -> Self {
        Self { source, client, known: RwLock::default(), read_at: tokio::sync::Mutex::default(), check }
    }

    /// Reads the keys every few seconds until shutdown.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            self.read_unless(Duration::ZERO).await;
            tokio::select! {
                () = tokio::time::sleep(READ_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Verifies a signature with the current key and the previous one.
    ///
    /// The secret is derived again for each delivery: that takes some microseconds, and a cache would have to be limited,
    /// emptied and wiped.
    pub async fn verify(&self, app: &AppIdentity, hook: Hook, signature: &Signature, body: &[u8]) -> Verdict {
        let verdict = self.verify_with_known(app, hook, signature, body);
        if verdict != Verdict::Right && self.read_unless(READ_AGAIN).await {
            return self.verify_with_known(app, hook, signature, body);
        }
        verdict
    }

    fn verify_with_known(&self, app: &AppIdentity, hook: Hook, signature: &Signature, body: &[u8]) -> Verdict {
        let Some(keys) = self.known.read().unwrap_or_else(PoisonError::into_inner).clone() else {
            return Verdict::NoKeys;
        };
        let mut roots = std::iter::once(&keys.current).chain(&keys.previous);
        let is_right = roots.any(|root| signature.matches(&root.secret(app, hook), body));
        if is_right { Verdict::Right } else { Verdict::Wrong }
    }

    /// Reads the keys, unless that was done within `recent`. True if new keys were read.
    async fn read_unless(&self, recent: Duration) -> bool {
        // If the lock is taken, they are being read right now.
        let Ok(mut read_at) = self.read_at.try_lock() else { return false };
        if read_at.is_some_and(|at| at.elapsed() < recent) {
            return false;
        }
        *read_at = Some(Instant::now());
        let read = match &self.source {
            KeySource::Directory(directory) => RootKeys::read_directory(directory).map_err(Into::into),
            KeySource::Secret(namespace) => read_secret(&self.client, namespace).await,
        };
        match read {
            Ok(keys) => {
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
                self.check.ready();
                true
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                let words = format!("{error}{cause}");
                if self.known.read().unwrap_or_else(PoisonError::into_inner).is_some() {
                    self.check.ready_but(format!("{words}; the former keys stay in use"));
                } else {
                    self.check.not_ready(words);
                }
                false
            }
        }
    }
}

async fn read_secret(client: &kube::Client, namespace: &str) -> Result<RootKeys, ReadError> {
    let secrets: Api<Lenient<Secret>> = Api::namespaced(client.clone(), namespace);
    let failed = |error| ReadError::Kubernetes(Box::new(error));
    let secret = secrets.get(ROOT_KEYS_SECRET).await.map_err(failed)?.read().map_err(failed)?;
    let data = secret.data.unwrap_or_default();
    Ok(RootKeys::read(|key| data.get(key).map(|value| value.0.as_slice()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;
    use crate::runtime::readiness::Readiness;
    use crate::webhook::{CURRENT, CURRENT_ID, KEY_LENGTH, PREVIOUS, PREVIOUS_ID};
    use std::path::Path;

    fn put(directory: &Path, current: u8, previous: Option<u8>) {
        let write = |name, content: &[u8]| std::fs::write(directory.join(name), content).unwrap();
        write(CURRENT, &[current; KEY_LENGTH]);
        write(CURRENT_ID, format!("k{current}").as_bytes());
        for name in [PREVIOUS, PREVIOUS_ID] {
            let _ = std::fs::remove_file(directory.join(name));
        }
        if let Some(previous) = previous {
            write(PREVIOUS, &[previous; KEY_LENGTH]);
            write(PREVIOUS_ID, format!("k{previous}").as_bytes());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotation_refuses_nothing_and_a_removed_key_is_no_longer_accepted() {
        let directory = std::env::temp_dir().join(format!("landfall-keys-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let readiness = Readiness::new();
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let keys = Keys::new(KeySource::Directory(directory.clone()), client, readiness.check("keys"));
        let app = AppIdentity { host: "api.github.com".into(), app_id: id(1) };
        let signed = |root: u8| {
            let root = RootKeys::read(|name| match name {
                CURRENT => Some(match root {
                    1 => &[1; KEY_LENGTH][..],
                    _ => &[2; KEY_LENGTH],
                }),
                _ => Some(b"k"),
            });
            let secret = root.unwrap().current.secret(&app, Hook::App);
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.expose().as_bytes());
            let value = format!("sha256={}", hex::encode(aws_lc_rs::hmac::sign(&key, b"body")));
            Signature::of(
                &[(super::super::signature::HEADER.parse().unwrap(), value.parse().unwrap())].into_iter().collect(),
            )
            .unwrap()
        };
        let verify = async |root| keys.verify(&app, Hook::App, &signed(root), b"body").await;

        assert_eq!(verify(1).await, Verdict::NoKeys);
        assert!(!readiness.report().passed);
        put(&directory, 1, None);
        assert_eq!(verify(1).await, Verdict::NoKeys, "read a moment ago");
        tokio::time::advance(READ_AGAIN).await;
        assert_eq!(verify(1).await, Verdict::Right);
        assert!(readiness.report().passed);

        put(&directory, 2, Some(1));
        assert_eq!(verify(2).await, Verdict::Wrong, "read a moment ago");
        tokio::time::advance(READ_AGAIN).await;
        assert_eq!((verify(2).await, verify(1).await), (Verdict::Right, Verdict::Right));

        put(&directory, 2, None);
        keys.read_unless(Duration::ZERO).await;
        assert_eq!((verify(2).await, verify(1).await), (Verdict::Right, Verdict::Wrong));

        std::fs::remove_dir_all(&directory).unwrap();
        keys.read_unless(Duration::ZERO).await;
        assert_eq!(verify(2).await, Verdict::Right, "the former keys");
        assert!(readiness.report().passed);
    }
}
