//! The Secrets with the Apps' credentials.
//!
//! Each change of an App's objects wakes the App, and each look needs its key. Invariant: a Secret is read once, and again
//! after the watch brought a change of it, or when half an hour has passed. A read during which the watch brought
//! something is not kept.

use super::caches::News;
use crate::runtime::lenient::Lenient;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PartialObjectMeta};
use kube::{Client, ResourceExt};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How long a Secret is not read again, in case the watch lost a change.
const KEPT: SignedDuration = SignedDuration::from_mins(30);

#[derive(Default)]
pub struct Credentials(Mutex<Knowledge>);

#[derive(Default)]
struct Knowledge {
    /// By name. `None`: there is no such Secret.
    secrets: HashMap<String, (Option<Secret>, Timestamp)>,
    /// How often the watch brought something.
    news: u64,
}

impl Credentials {
    /// The Secret of this name in the operator's namespace.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read(
        &self,
        client: &Client,
        namespace: &str,
        name: &str,
        now: Timestamp,
    ) -> Result<Option<Secret>, kube::Error> {
        let before = {
            let known = self.lock();
            let is_recent = |at: &Timestamp| at.checked_add(KEPT).is_ok_and(|end| end > now);
            if let Some((secret, _)) = known.secrets.get(name).filter(|(_, at)| is_recent(at)) {
                return Ok(secret.clone());
            }
            known.news
        };
        let secrets = Api::<Lenient<Secret>>::namespaced(client.clone(), namespace);
        let secret = secrets.get_opt(name).await?.map(Lenient::read).transpose()?;
        let mut known = self.lock();
        if known.news == before {
            known.secrets.insert(name.to_owned(), (secret.clone(), now));
        }
        Ok(secret)
    }

    /// Called with what the watch brings, before it wakes anything.
    pub fn hear(&self, news: &News<'_, PartialObjectMeta<Secret>>) {
        let mut known = self.lock();
        known.news += 1;
        match news {
            News::Changed(changed) => {
                let version = |secret: &Option<Secret>| secret.as_ref().and_then(ResourceExt::resource_version);
                let name = changed.name_any();
                if known.secrets.get(&name).is_some_and(|(secret, _)| version(secret) != changed.resource_version()) {
                    known.secrets.remove(&name);
                }
            }
            News::Gone(gone) => drop(known.secrets.remove(&gone.name_any())),
            // A Secret may have been deleted unseen.
            News::Listed => known.secrets.clear(),
        }
    }

    // A panic while the lock was held leaves a consistent value.
    fn lock(&self) -> MutexGuard<'_, Knowledge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::scripted::{Call, client, refusal};
    use serde_json::json;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn meta(version: &str) -> PartialObjectMeta<Secret> {
        serde_json::from_value(json!({"metadata": {"name": "github-app", "resourceVersion": version}})).unwrap()
    }

    #[tokio::test]
    async fn a_secret_is_read_once_and_again_after_a_change() {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let api = client(move |_: Call| {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let metadata = json!({"name": "github-app", "resourceVersion": number.to_string()});
            // The third answer is that the Secret is gone.
            let answer = if number == 2 { refusal(404, "NotFound") } else { (200, json!({"metadata": metadata})) };
            std::future::ready(answer)
        });
        let credentials = Credentials::default();
        let at = |minutes: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        let read = async |now| {
            let secret = credentials.read(&api, "landfall-system", "github-app", now).await.unwrap();
            (secret.and_then(|secret| secret.metadata.resource_version), reads.load(Ordering::SeqCst))
        };
        let version = |version: &str| Some(version.to_owned());
        assert_eq!(read(at(0)).await, (version("0"), 1));
        assert_eq!(read(at(29)).await, (version("0"), 1));
        credentials.hear(&News::Changed(&meta("0")));
        assert_eq!(read(at(29)).await, (version("0"), 1), "the watch brings what was read");
        credentials.hear(&News::Changed(&meta("1")));
        assert_eq!(read(at(29)).await, (version("1"), 2));
        credentials.hear(&News::Gone(&meta("1")));
        assert_eq!(read(at(29)).await, (None, 3));
        assert_eq!(read(at(29)).await, (None, 3));
        credentials.hear(&News::Changed(&meta("3")));
        assert_eq!(read(at(29)).await, (version("3"), 4));
        assert_eq!(read(at(59)).await, (version("4"), 5), "half an hour has passed");
        credentials.hear(&News::Listed);
        assert_eq!(read(at(59)).await, (version("5"), 6));
    }

    #[tokio::test]
    async fn a_read_during_a_change_is_not_kept() {
        let credentials = Arc::new(Credentials::default());
        let heard = Arc::clone(&credentials);
        let api = client(move |_: Call| {
            heard.hear(&News::Changed(&meta("9")));
            let metadata = json!({"name": "github-app", "resourceVersion": "8"});
            std::future::ready((200, json!({"metadata": metadata})))
        });
        credentials.read(&api, "landfall-system", "github-app", Timestamp::UNIX_EPOCH).await.unwrap();
        assert!(credentials.lock().secrets.is_empty());
    }
}
