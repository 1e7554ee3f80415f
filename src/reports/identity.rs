//! The pod that a token belongs to, according to the API server.
//!
//! Invariant: a name comes from the answer to a `TokenReview` for the expected audience, and never from the caller. An answer is
//! cached for a minute under the token's digest, so an agent that reports often costs the API server little; a caller whose
//! tokens are refused costs it a few reviews per minute.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    cache: Mutex<HashMap<[u8; 32], (PodIdentity, Timestamp)>>,
    refusals: Mutex<HashMap<IpAddr, Allowance>>,
    /// The reviews that wait or are in progress, by address.
    waiting: Mutex<HashMap<IpAddr, usize>>,
    /// The last review failed, which is logged as a warning once.
    is_failing: AtomicBool,
}

/// The place of one review among those of its address, until it is dropped.
struct Place<'a> {
    waiting: &'a Mutex<HashMap<IpAddr, usize>>,
    from: IpAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = waiting.entry(self.from) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
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
            self.cache(key, &pod);
            return Ok(pod);
        }
        self.count_refusal(from);
        Err(IdentityError::Refused)
    }

    fn take_place(&self, from: IpAddr) -> Option<Place<'_>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(from).or_default();
        (*count < REVIEWS_PER_ADDRESS).then(|| {
            *count += 1;
            Place { waiting: &self.waiting, from }
        })
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
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (pod, at) = cache.get(key)?;
        is_fresh(*at, self.clock.now()).then(|| pod.clone())
    }

    fn cache(&self, key: [u8; 32], pod: &PodIdentity) {
        let now = self.clock.now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MOST_CACHED {
            cache.retain(|_, (_, at)| is_fresh(*at, now));
        }
        // A token that finds no room is reviewed again.
        if cache.len() < MOST_CACHED {
            cache.insert(key, (pod.clone(), now));
        }
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

    #[test]
    fn an_answer_is_fresh_for_a_minute() {
        let at = Timestamp::UNIX_EPOCH;
        let after = |seconds| is_fresh(at, at + SignedDuration::from_secs(seconds));
        assert!(after(0) && after(59) && !after(60) && !after(-1));
    }
}
