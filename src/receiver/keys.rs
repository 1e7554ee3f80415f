//! The root keys that the receiver derives secrets from, kept as new as what they are read from.
//!
//! Invariant: the receiver reads files that were mounted for it, or, in `landfall all` alone, the Secret: a process that
//! faces the internet needs no right to read Secrets. Keys are read every few seconds, so that one that was withdrawn
//! ends to count, and once more when a signature is wrong, so that a rotation refuses no delivery. Keys that cannot be
//! read leave those of before.

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

/// How often the keys are read.
const READ_EVERY: Duration = Duration::from_secs(5);
/// How soon a wrong signature may have them read again: whoever sends nonsense must not keep the receiver reading.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Where the keys are.
pub enum KeySource {
    /// The Secret's files.
    Directory(PathBuf),
    /// The Secret itself, in this namespace: where the process may read it anyway.
    Secret(String),
}

/// Why the keys could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the webhooks' root keys cannot be used")]
    Keys(#[from] RootKeyError),
    #[error("the Secret {ROOT_KEYS_SECRET} cannot be read")]
    Kubernetes(#[source] Box<kube::Error>),
}

/// The keys.
pub struct Keys {
    source: KeySource,
    client: kube::Client,
    known: RwLock<Option<Arc<RootKeys>>>,
    /// When they were last read; held while they are.
    read_at: tokio::sync::Mutex<Option<Instant>>,
    check: Check,
}

/// What is to be said of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was made with the hook's secret.
    Right,
    /// It was not.
    Wrong,
    /// No key was ever read.
    NoKeys,
}

impl Keys {
    /// Not read yet. `check` passes from the first keys on.
    #[must_use]
    pub fn new(source: KeySource, client: kube::Client, check: Check) -> Self {
        Self { source, client, known: RwLock::default(), read_at: tokio::sync::Mutex::default(), check }
    }

    /// Reads them again and again, until shutdown.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            self.read_unless(Duration::ZERO).await;
            tokio::select! {
                () = tokio::time::sleep(READ_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Whether a signature is right by the current key or the one before.
    ///
    /// Secrets are derived anew for each delivery: that takes some microseconds, and a cache of them would have to be
    /// bounded, emptied and wiped.
    pub async fn judge(&self, app: &AppIdentity, hook: Hook, signature: &Signature, body: &[u8]) -> Verdict {
        let verdict = self.by_known(app, hook, signature, body);
        if verdict != Verdict::Right && self.read_unless(READ_AGAIN).await {
            return self.by_known(app, hook, signature, body);
        }
        verdict
    }

    fn by_known(&self, app: &AppIdentity, hook: Hook, signature: &Signature, body: &[u8]) -> Verdict {
        let Some(keys) = self.known.read().unwrap_or_else(PoisonError::into_inner).clone() else {
            return Verdict::NoKeys;
        };
        let mut roots = std::iter::once(&keys.current).chain(&keys.previous);
        let is_right = roots.any(|root| signature.is_of(&root.secret(app, hook), body));
        if is_right { Verdict::Right } else { Verdict::Wrong }
    }

    /// Reads them, unless they were read so recently. Whether they were.
    async fn read_unless(&self, recent: Duration) -> bool {
        // Whoever cannot have it now would find them read recently.
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
                    self.check.ready_but(format!("{words}; those of before are used"));
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
    async fn a_rotation_refuses_nothing_and_a_key_that_was_withdrawn_ends_to_count() {
        let directory = std::env::temp_dir().join(format!("landfall-keys-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let readiness = Readiness::new();
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let keys = Keys::new(KeySource::Directory(directory.clone()), client, readiness.check("keys"));
        let app = AppIdentity { host: "api.github.com".into(), app_id: 1 };
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
        let judge = async |root| keys.judge(&app, Hook::App, &signed(root), b"body").await;

        assert_eq!(judge(1).await, Verdict::NoKeys);
        assert!(!readiness.report().passed);
        put(&directory, 1, None);
        assert_eq!(judge(1).await, Verdict::NoKeys, "read a moment ago");
        tokio::time::advance(READ_AGAIN).await;
        assert_eq!(judge(1).await, Verdict::Right);
        assert!(readiness.report().passed);

        put(&directory, 2, Some(1));
        assert_eq!(judge(2).await, Verdict::Wrong, "read a moment ago");
        tokio::time::advance(READ_AGAIN).await;
        assert_eq!((judge(2).await, judge(1).await), (Verdict::Right, Verdict::Right));

        put(&directory, 2, None);
        keys.read_unless(Duration::ZERO).await;
        assert_eq!((judge(2).await, judge(1).await), (Verdict::Right, Verdict::Wrong));

        std::fs::remove_dir_all(&directory).unwrap();
        keys.read_unless(Duration::ZERO).await;
        assert_eq!(judge(2).await, Verdict::Right, "those of before");
        assert!(readiness.report().passed);
    }
}
