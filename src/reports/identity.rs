//! The pod that a token belongs to, according to the API server.
//!
//! Invariant: a name comes from the answer to a `TokenReview` for the expected audience, and never from the caller. An answer is
//! cached for a minute under the token's digest, so an agent that reports often costs the API server little; a caller whose
//! tokens are refused costs it a few reviews per minute. A pod has one place in the cache, and a namespace at most half of the
//! reviews at once, however many tokens it makes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroize as _;

use super::PodIdentity;
use crate::github::Token;
use crate::runtime::allowance::{Allowance, Rate};
use crate::runtime::clock::Clock;

/// How long an answer is cached. A deleted pod can go on reporting for this long.
const CACHE_TIME: SignedDuration = SignedDuration::from_secs(60);
const MOST_CACHED: usize = 8192;
/// The most bytes of a token; kubelet's have about 1000.
const MOST_TOKEN: usize = 8 << 10;
/// Reviews at once.
const REVIEWS: usize = 8;
/// Reviews from one address that wait or are in progress, so that a few pods cannot keep the others' waiting. An agent has one.
const REVIEWS_PER_ADDRESS: usize = 2;
/// The same, from the addresses of one namespace's pods.
const REVIEWS_PER_NAMESPACE: usize = REVIEWS / 2;
/// How long a caller waits until its review can begin.
const QUEUE_TIME: Duration = Duration::from_secs(2);
const REVIEW_TIME: Duration = Duration::from_secs(10);
/// How many tokens from one address may be refused.
const REFUSALS: Rate = Rate { burst: 20.0, every: SignedDuration::from_secs(3) };
/// At this many addresses, those with their whole allowance are dropped.
const SWEEP_AT: usize = 1024;

/// Why the pod of a token is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the token does not belong to a running pod, or is for another audience")]
    Refused,
    #[error("too many tokens wait for a review; try again")]
    TooMany,
    #[error("the API server does not answer the token review; try again")]
    Unavailable,
}

/// The tokens that count.
#[derive(Clone, Debug)]
pub struct Expected {
    audience: &'static str,
    /// `NAMESPACE:NAME`.
    account: Option<String>,
}

impl Expected {
    /// The tokens of all pods for an audience.
    #[must_use]
    pub fn pods(audience: &'static str) -> Self {
        Self { audience, account: None }
    }

    /// The tokens of the pods of one `ServiceAccount`.
    #[must_use]
    pub fn account(audience: &'static str, namespace: &str, name: &str) -> Self {
        Self { audience, account: Some(format!("{namespace}:{name}")) }
    }
}

/// Asks the API server which pods tokens belong to.
pub struct PodIdentities {
    expected: Expected,
    reviews: Api<TokenReview>,
    clock: Arc<dyn Clock>,
    slots: Semaphore,
    cache: Mutex<Cache>,
    refusals: Mutex<HashMap<IpAddr, Allowance>>,
    /// The reviews that wait or are in progress.
    waiting: Mutex<HashMap<Source, usize>>,
    /// The last review failed, which is logged as a warning once.
    is_failing: AtomicBool,
}

/// Where tokens come from: an address, or the namespace of the pod that was last found there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    Namespace(String),
}

impl Source {
    fn most(&self) -> usize {
        match self {
            Self::Address(_) => REVIEWS_PER_ADDRESS,
            Self::Namespace(_) => REVIEWS_PER_NAMESPACE,
        }
    }
}

/// The place of one review among those of its sources, until it is dropped.
struct Place<'a> {
    waiting: &'a Mutex<HashMap<Source, usize>>,
    from: Vec<Source>,
}

impl<'a> Place<'a> {
    /// None if one of the sources has too many.
    fn take(waiting: &'a Mutex<HashMap<Source, usize>>, from: Vec<Source>) -> Option<Self> {
        let mut counts = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = |source: &Source| counts.get(source).is_none_or(|count| *count < source.most());
        if !from.iter().all(has_room) {
            return None;
        }
        for source in &from {
            *counts.entry(source.clone()).or_default() += 1;
        }
        drop(counts);
        Some(Self { waiting, from })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for source in self.from.drain(..) {
            if let Entry::Occupied(mut count) = waiting.entry(source) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

/// The pods of tokens, by the tokens' digests.
#[derive(Default)]
struct Cache {
    pods: HashMap<[u8; 32], Known>,
    /// The digest of each pod's newest token, by the pod's uid.
    newest: HashMap<String, [u8; 32]>,
    /// The namespaces of the pods that were last found at addresses.
    namespaces: HashMap<IpAddr, String>,
}

struct Known {
    pod: PodIdentity,
    from: IpAddr,
    at: Timestamp,
}

impl Cache {
    fn get(&self, key: &[u8; 32], now: Timestamp) -> Option<PodIdentity> {
        self.pods.get(key).filter(|known| is_fresh(known.at, now)).map(|known| known.pod.clone())
    }

    /// Takes a pod. Its newest token replaces the one before, so that nobody fills the cache by many tokens.
    fn insert(&mut self, key: [u8; 32], known: Known) {
        if let Some(before) = self.newest.get(&known.pod.uid) {
            self.pods.remove(before);
        }
        if self.pods.len() >= MOST_CACHED {
            self.pods.retain(|_, other| is_fresh(other.at, known.at));
            let pods = &self.pods;
            self.newest.retain(|_, digest| pods.contains_key(digest));
            let addresses: HashSet<_> = pods.values().map(|other| other.from).collect();
            self.namespaces.retain(|address, _| addresses.contains(address));
        }
        // A token that finds no room is reviewed again.
        if self.pods.len() < MOST_CACHED {
            self.newest.insert(known.pod.uid.clone(), key);
            self.namespaces.insert(known.from, known.pod.namespace.clone());
            self.pods.insert(key, known);
        }
    }
}

impl PodIdentities {
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>, expected: Expected) -> Self {
        Self {
            expected,
            reviews: Api::all(client),
            clock,
            slots: Semaphore::new(REVIEWS),
            cache: Mutex::default(),
            refusals: Mutex::default(),
            waiting: Mutex::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Identifies the pod of a token that was sent from an address.
    pub async fn identify(&self, token: &Token, from: IpAddr) -> Result<PodIdentity, IdentityError> {
        // A text that is not a JSON Web Token cannot be a pod's, and costs no review.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let text = token.expose();
        if text.len() > MOST_TOKEN || text.split('.').count() != 3 || !text.chars().all(plain) {
            return Err(IdentityError::Refused);
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        if let Some(pod) = self.cached(&key) {
            return Ok(pod);
        }
        if self.is_blocked(from) {
            return Err(IdentityError::TooMany);
        }
        let _place = self.take_place(from).ok_or(IdentityError::TooMany)?;
        let Ok(Ok(_slot)) = timeout(QUEUE_TIME, self.slots.acquire()).await else {
            return Err(IdentityError::TooMany);
        };
        let status = self.review(token).await?;
        if let Some(pod) = identity(&status, &self.expected) {
            self.cache(key, &pod, from);
            return Ok(pod);
        }
        self.count_refusal(from);
        Err(IdentityError::Refused)
    }

    fn take_place(&self, from: IpAddr) -> Option<Place<'_>> {
        let namespace = self.cache.lock().unwrap_or_else(PoisonError::into_inner).namespaces.get(&from).cloned();
        let sources = [Some(Source::Address(from)), namespace.map(Source::Namespace)];
        Place::take(&self.waiting, sources.into_iter().flatten().collect())
    }

    async fn review(&self, token: &Token) -> Result<TokenReviewStatus, IdentityError> {
        let spec = TokenReviewSpec {
            audiences: Some(vec![self.expected.audience.to_owned()]),
            token: token.expose().to_owned(),
        };
        let mut review = TokenReview { spec, ..TokenReview::default() };
        let answer = timeout(REVIEW_TIME, self.reviews.create(&PostParams::default(), &review)).await;
        review.spec.token.zeroize();
        match answer {
            Ok(Ok(mut answer)) => {
                self.is_failing.store(false, Ordering::Relaxed);
                answer.spec.token.zeroize();
                Ok(answer.status.unwrap_or_default())
            }
            failed => {
                // kube's errors carry the API server's answer, and never the request with its token.
                let error = failed.map_or_else(
                    |_| "no answer in time".to_owned(),
                    |answer| answer.err().map_or_else(String::new, |error| error.to_string()),
                );
                if self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::debug!(error, "cannot review the token of a pod");
                } else {
                    tracing::warn!(error, "cannot review tokens of pods; this is logged once until a review succeeds");
                }
                Err(IdentityError::Unavailable)
            }
        }
    }

    fn cached(&self, key: &[u8; 32]) -> Option<PodIdentity> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(key, self.clock.now())
    }

    fn cache(&self, key: [u8; 32], pod: &PodIdentity, from: IpAddr) {
        let known = Known { pod: pod.clone(), from, at: self.clock.now() };
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(key, known);
    }

    fn is_blocked(&self, from: IpAddr) -> bool {
        let now = self.clock.now();
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.get(&from).is_some_and(|left| left.next(now) > now)
    }

    fn count_refusal(&self, from: IpAddr) {
        let now = self.clock.now();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= SWEEP_AT {
            refusals.retain(|_, left| !left.is_full(now));
        }
        // Reviews that were in progress when the allowance ran out may find none left.
        let _ = refusals.entry(from).or_insert_with(|| Allowance::full(REFUSALS, now)).take(now);
    }
}

/// An answer from the future, after the clock was set back, is not fresh either.
fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    (SignedDuration::ZERO..CACHE_TIME).contains(&now.duration_since(at))
}

/// The pod of a reviewed token; none if it is not an expected one.
///
/// The claims of a token that is bound to a pod are in `extra`: <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>.
fn identity(status: &TokenReviewStatus, expected: &Expected) -> Option<PodIdentity> {
    let for_us = status.audiences.iter().flatten().any(|audience| audience == expected.audience);
    let user = status.user.as_ref().filter(|_| status.authenticated == Some(true) && for_us)?;
    let account = user.username.as_ref()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, _) =
        account.split_once(':').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())?;
    if expected.account.as_deref().is_some_and(|expected| expected != account) {
        return None;
    }
    let extra = |key: &str| match user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{key}"))?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    Some(PodIdentity { namespace: namespace.to_owned(), name: extra("pod-name")?, uid: extra("pod-uid")? })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(status: Value) -> Option<PodIdentity> {
        identity(&serde_json::from_value(status).unwrap(), &Expected::pods("landfall"))
    }

    #[test]
    fn another_account_is_not_the_expected_one() {
        let status = json!({
            "authenticated": true, "audiences": ["landfall-internal"],
            "user": {"username": "system:serviceaccount:landfall-system:landfall-gateway", "uid": "1", "extra": {
                "authentication.kubernetes.io/pod-name": ["gateway-1"], "authentication.kubernetes.io/pod-uid": ["u"],
            }},
        });
        let read =
            |status: &Value, expected: &Expected| identity(&serde_json::from_value(status.clone()).unwrap(), expected);
        let expected = Expected::account("landfall-internal", "landfall-system", "landfall-gateway");
        assert_eq!(read(&status, &expected).unwrap().name, "gateway-1");
        for name in ["landfall-system:landfall", "team-a:landfall-gateway", "landfall-system:landfall-gateway2"] {
            let mut other = status.clone();
            other["user"]["username"] = json!(format!("system:serviceaccount:{name}"));
            assert_eq!(read(&other, &expected), None, "{name}");
        }
        assert_eq!(read(&status, &Expected::account("landfall", "landfall-system", "landfall-gateway")), None);
    }

    #[test]
    fn only_a_pods_token_for_our_audience_identifies_it() {
        let fine = json!({
            "authenticated": true, "audiences": ["landfall"],
            "user": {"username": "system:serviceaccount:team-a:default", "uid": "1", "extra": {
                "authentication.kubernetes.io/pod-name": ["ws-try"], "authentication.kubernetes.io/pod-uid": ["u"],
            }},
        });
        let pod = PodIdentity { namespace: "team-a".into(), name: "ws-try".into(), uid: "u".into() };
        assert_eq!(read(fine.clone()), Some(pod));
        for (field, value) in [
            ("/authenticated", json!(false)),
            ("/authenticated", json!(null)),
            ("/audiences", json!(["https://kubernetes.default.svc"])),
            ("/audiences", json!(null)),
            ("/user", json!(null)),
            ("/user/username", json!("mona")),
            ("/user/username", json!("system:serviceaccount:")),
            ("/user/username", json!("system:serviceaccount:team-a")),
            ("/user/username", json!("system:serviceaccount::default")),
            ("/user/extra", json!(null)),
            ("/user/extra/authentication.kubernetes.io~1pod-uid", json!([])),
            ("/user/extra/authentication.kubernetes.io~1pod-uid", json!([""])),
            ("/user/extra/authentication.kubernetes.io~1pod-uid", json!(["u", "v"])),
            ("/user/extra/authentication.kubernetes.io~1pod-name", json!([])),
        ] {
            let mut status = fine.clone();
            *status.pointer_mut(field).unwrap() = value.clone();
            assert_eq!(read(status), None, "{field} {value}");
        }
        assert_eq!(read(json!({})), None);
    }

    fn known(namespace: &str, uid: &str, host: u8, second: i64) -> Known {
        let pod = PodIdentity { namespace: namespace.into(), name: "ws".into(), uid: uid.into() };
        let at = Timestamp::from_second(second).unwrap();
        Known { pod, from: IpAddr::from([10, 0, 0, host]), at }
    }

    #[test]
    fn the_tokens_of_one_pod_do_not_fill_the_cache() {
        let key = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            key
        };
        let mut cache = Cache::default();
        for n in 0..=MOST_CACHED {
            cache.insert(key(n), known("team-a", "a", 1, 0));
        }
        cache.insert(key(usize::MAX), known("team-b", "b", 2, 0));
        assert_eq!(cache.pods.len(), 2);
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(cache.get(&key(usize::MAX), now).unwrap().uid, "b");
        assert_eq!(cache.get(&key(MOST_CACHED), now).unwrap().uid, "a", "its newest");
        assert_eq!(cache.get(&key(0), now), None);
        // Pods that are gone leave nothing behind.
        for n in 0..MOST_CACHED {
            cache.insert(key(n), known("team-c", &n.to_string(), 3, 0));
        }
        cache.insert(key(0), known("team-d", "d", 4, 61));
        assert_eq!((cache.pods.len(), cache.newest.len(), cache.namespaces.len()), (1, 1, 1));
    }

    #[test]
    fn a_namespace_has_half_of_the_reviews() {
        let waiting = Mutex::default();
        let take = |host: u8, namespace: &str| {
            let sources = vec![Source::Address(IpAddr::from([10, 0, 0, host])), Source::Namespace(namespace.into())];
            Place::take(&waiting, sources)
        };
        let held = [1, 1, 2, 2].map(|host| take(host, "team-a").unwrap());
        assert!(take(1, "team-a").is_none() && take(3, "team-a").is_none());
        assert!(take(4, "team-b").is_some());
        drop(held);
        assert!(take(3, "team-a").is_some());
        assert!(waiting.lock().unwrap().is_empty());
    }

    #[test]
    fn an_answer_is_fresh_for_a_minute() {
        let at = Timestamp::UNIX_EPOCH;
        let after = |seconds| is_fresh(at, at + SignedDuration::from_secs(seconds));
        assert!(after(0) && after(59) && !after(60) && !after(-1));
    }
}
