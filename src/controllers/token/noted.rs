//! Notes about the Secrets of `InstallationToken`s, so that a Secret is read once and not at each look.
//!
//! The watch brings the metadata of the operator's Secrets, and the API server gives a resource version only once. The
//! content of a Secret that this process read or wrote is therefore known as long as the watch shows that version, or
//! has brought nothing since. Invariant: a note is about a Secret of the operator, or about none. A look that finds
//! another version, another spec or other certificates reads the Secret again. The watch shows only Secrets with the
//! operator's label, so before something is minted, revoked, withdrawn or deleted because a Secret is absent, it was
//! read once.

use super::format::Facts;
use super::secret::{self, About, Content};
use super::seen::{Known, Published, SecretSeen};
use crate::api::InstallationToken;
use crate::controllers::watches::SecretMeta;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Namespace and name of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

impl Place {
    /// The place in the spec.
    #[must_use]
    pub fn of(token: &InstallationToken) -> Self {
        Self { namespace: token.namespace().unwrap_or_default(), name: token.spec.secret.name.clone() }
    }

    #[must_use]
    pub fn of_secret(secret: &SecretMeta) -> Self {
        Self { namespace: secret.namespace().unwrap_or_default(), name: secret.name_any() }
    }
}

/// The state of the watch before a request. The answer is newer than the watch as long as this stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// The version of the Secret in the cache.
    version: Option<String>,
    /// The number of deletions that the watch had brought. A Secret that is absent from the cache may otherwise be
    /// made and deleted again without a difference.
    deletions: u64,
}

/// A digest of [`About`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    uid: Option<String>,
    generation: Option<i64>,
    ca_bundle: Option<Vec<u8>>,
    facts: Option<Facts>,
}

impl From<About<'_>> for Subject {
    fn from(About { token, ca_bundle, facts }: About<'_>) -> Self {
        Self {
            uid: token.uid(),
            generation: token.metadata.generation,
            ca_bundle: ca_bundle.map(|bundle| digest(&SHA256, bundle.as_bytes()).as_ref().to_vec()),
            facts: facts.cloned(),
        }
    }
}

enum Note {
    /// The Secret is read at the next look.
    Doubted,
    Absent {
        before: Before,
        at: Timestamp,
    },
    Ours(Box<Ours>),
}

struct Ours {
    /// `None`: the answer was not newer than the watch.
    before: Option<Before>,
    version: Option<String>,
    subject: Subject,
    at: Timestamp,
    published: Published,
    content: Option<Arc<Content>>,
}

/// The state of a Secret.
pub struct Found {
    pub state: SecretSeen,
    pub known: Known,
    /// The Secret, if it was read now.
    pub secret: Option<Secret>,
    /// The token in it, with all the content of the Secret.
    pub content: Option<Arc<Content>>,
}

/// The notes about all Secrets.
#[derive(Default)]
pub struct SecretNotes {
    notes: Mutex<HashMap<Place, Note>>,
    deletions: AtomicU64,
}

impl SecretNotes {
    /// The state of the watch now. `cached`: the Secret's metadata in the cache.
    #[must_use]
    pub fn before(&self, cached: Option<&SecretMeta>) -> Before {
        Before { version: cached.and_then(ResourceExt::resource_version), deletions: self.deletions() }
    }

    /// The state of a Secret that does not have to be read.
    #[must_use]
    pub fn recall(&self, place: &Place, about: About<'_>, cached: Option<&SecretMeta>) -> Option<Found> {
        let now = self.before(cached);
        let absent = |known| Found { state: SecretSeen::Absent, known, secret: None, content: None };
        match self.lock().get(place) {
            None if cached.is_none() => Some(absent(Known::Cached)),
            Some(Note::Absent { before, at }) if cached.is_none() || *before == now => Some(absent(Known::Noted(*at))),
            Some(Note::Ours(ours))
                if (ours.before.as_ref() == Some(&now) || cached.is_some() && ours.version == now.version)
                    && ours.subject == Subject::from(about) =>
            {
                Some(Found {
                    state: SecretSeen::Ours(ours.published.clone()),
                    known: Known::Noted(ours.at),
                    secret: None,
                    content: ours.content.clone(),
                })
            }
            _ => None,
        }
    }

    /// Notes a Secret of the operator that was read or written.
    pub fn ours(
        &self,
        about: About<'_>,
        secret: &Secret,
        minted: Option<&Content>,
        before: Option<Before>,
        at: Timestamp,
    ) -> (Published, Option<Arc<Content>>) {
        let published = secret::published(secret, about, minted);
        let content = secret::content(secret).map(Arc::new);
        let note = Ours {
            before,
            version: secret.resource_version(),
            subject: about.into(),
            at,
            published: published.clone(),
            content: content.clone(),
        };
        self.lock().insert(Place::of(about.token), Note::Ours(Box::new(note)));
        (published, content)
    }

    /// Notes that there is no Secret.
    pub fn absent(&self, place: Place, before: Before, at: Timestamp) {
        self.lock().insert(place, Note::Absent { before, at });
    }

    /// Has the Secret read at the next look.
    pub fn doubt(&self, place: Place) {
        self.lock().insert(place, Note::Doubted);
    }

    pub fn forget(&self, place: &Place) {
        self.lock().remove(place);
    }

    /// Called when the watch brings a deletion, before the look that follows from it.
    pub fn deleted(&self, place: &Place) {
        self.deletions.fetch_add(1, Ordering::SeqCst);
        self.forget(place);
    }

    /// Called after a whole listing, which replaces the cache and brings no deletions.
    pub fn listed(&self, is_cached: impl Fn(&Place) -> bool) {
        self.deletions.fetch_add(1, Ordering::SeqCst);
        self.lock().retain(|place, _| is_cached(place));
    }

    fn deletions(&self) -> u64 {
        self.deletions.load(Ordering::SeqCst)
    }

    // A panic while the lock was held leaves a consistent map, because every change is one insertion or removal.
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::id;
    use serde_json::json;

    fn token(generation: i64) -> InstallationToken {
        serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken",
            "metadata": {"name": "shop", "namespace": "team-a", "uid": "uid-1", "generation": generation},
            "spec": {"installationRef": {"name": "acme"}, "repositories": [{"name": "shop"}], "secret": {"name": "git"}},
        }))
        .unwrap()
    }

    fn secret(version: &str) -> Secret {
        let token = token(1);
        let content = Content {
            token: crate::github::Token::new("ghs_1".into()),
            scope: super::super::scope::Scope::wanted(&token, id(5)),
            repository_ids: vec![id(7)],
            expires_at: Timestamp::UNIX_EPOCH,
            minted_at: Timestamp::UNIX_EPOCH,
        };
        let about = About { token: &token, ca_bundle: None, facts: None };
        let mut secret = secret::build(about, &content).unwrap();
        secret.metadata.resource_version = Some(version.into());
        secret
    }

    fn cached(version: &str) -> SecretMeta {
        let metadata = json!({"name": "git", "namespace": "team-a", "resourceVersion": version});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn recalled(notes: &SecretNotes, cached: Option<&SecretMeta>) -> Option<(bool, Known)> {
        let token = token(1);
        let found = notes.recall(&Place::of(&token), About { token: &token, ca_bundle: None, facts: None }, cached)?;
        Some((matches!(found.state, SecretSeen::Ours(_)), found.known))
    }

    const OURS: Option<(bool, Known)> = Some((true, Known::Noted(NOW)));

    #[test]
    fn a_written_secret_is_known_until_the_watch_brings_something_else() {
        let (notes, token) = (SecretNotes::default(), token(1));
        let about = About { token: &token, ca_bundle: None, facts: None };
        assert_eq!(recalled(&notes, None), Some((false, Known::Cached)));
        assert_eq!(recalled(&notes, Some(&cached("3"))), None, "it was never read");
        let before = notes.before(None);
        notes.ours(about, &secret("5"), None, Some(before), NOW);
        assert_eq!(recalled(&notes, None), OURS, "the watch is late");
        assert_eq!(recalled(&notes, Some(&cached("5"))), OURS);
        assert_eq!(recalled(&notes, Some(&cached("6"))), None, "somebody changed it");
        // The same object with another spec, another object, and other certificates.
        let place = Place::of(&token);
        let changed = super::tests::token(2);
        assert!(
            notes.recall(&place, About { token: &changed, ca_bundle: None, facts: None }, Some(&cached("5"))).is_none()
        );
        let mut anew = token.clone();
        anew.metadata.uid = Some("uid-2".into());
        assert!(
            notes.recall(&place, About { token: &anew, ca_bundle: None, facts: None }, Some(&cached("5"))).is_none()
        );
        assert!(
            notes
                .recall(&place, About { token: &token, ca_bundle: Some("PEM"), facts: None }, Some(&cached("5")))
                .is_none()
        );
    }

    #[test]
    fn a_secret_that_was_deleted_before_the_answer_to_its_creation_is_read() {
        let (notes, token) = (SecretNotes::default(), token(1));
        let before = notes.before(None);
        notes.deleted(&Place::of(&token));
        notes.ours(About { token: &token, ca_bundle: None, facts: None }, &secret("5"), None, Some(before), NOW);
        assert_eq!(recalled(&notes, None), None);
        assert_eq!(recalled(&notes, Some(&cached("5"))), OURS);
    }

    #[test]
    fn a_deletion_and_a_listing_end_a_note() {
        let (notes, token) = (SecretNotes::default(), token(1));
        let place = Place::of(&token);
        let note = || {
            let before = notes.before(None);
            notes.ours(About { token: &token, ca_bundle: None, facts: None }, &secret("5"), None, Some(before), NOW);
        };
        note();
        notes.deleted(&place);
        assert_eq!(recalled(&notes, None), Some((false, Known::Cached)), "the absence is to be read before it counts");
        note();
        notes.listed(|_| true);
        assert_eq!(recalled(&notes, None), None);
        assert_eq!(recalled(&notes, Some(&cached("5"))), OURS);
        notes.listed(|_| false);
        assert_eq!(recalled(&notes, Some(&cached("5"))), None);
    }

    #[test]
    fn an_answer_that_is_no_newer_than_the_watch_counts_for_its_version_alone() {
        let (notes, token) = (SecretNotes::default(), token(1));
        notes.ours(About { token: &token, ca_bundle: None, facts: None }, &secret("5"), None, None, NOW);
        assert_eq!(recalled(&notes, Some(&cached("5"))), OURS);
        assert_eq!(recalled(&notes, Some(&cached("6"))), None);
        assert_eq!(recalled(&notes, None), None);
    }

    #[test]
    fn an_absent_secret_is_read_again_when_the_watch_brings_one() {
        let (notes, token) = (SecretNotes::default(), token(1));
        let place = Place::of(&token);
        let absent = Some((false, Known::Noted(NOW)));
        // It was deleted, and the cache still has it.
        notes.absent(place.clone(), notes.before(Some(&cached("5"))), NOW);
        assert_eq!(recalled(&notes, Some(&cached("5"))), absent);
        assert_eq!(recalled(&notes, None), absent);
        assert_eq!(recalled(&notes, Some(&cached("6"))), None);
        notes.doubt(place);
        assert_eq!(recalled(&notes, None), None);
    }
}
