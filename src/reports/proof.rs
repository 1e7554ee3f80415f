//! Whose token it is, by the API server's word.
//!
//! The invariant: a name comes from the answer to a `TokenReview` for our audience, and from nothing that the caller says. An answer
//! is remembered for a minute, under the token's digest, so an agent that reports often costs the API server little; who
//! sends tokens that are refused costs it no more than a few reviews in a minute.

use std::collections::HashMap;
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

use super::{AUDIENCE, PodIdentity};
use crate::github::Token;
use crate::runtime::allowance::{Allowance, Rate};
use crate::runtime::clock::Clock;

/// For how long an answer is good. A pod that is deleted may go on reporting for so long.
const REMEMBERED: SignedDuration = SignedDuration::from_secs(60);
/// How many answers are remembered.
const MOST_REMEMBERED: usize = 8192;
/// The most bytes of a token; kubelet's have about 1000.
const MOST_TOKEN: usize = 8 << 10;
/// Reviews at once.
const REVIEWS: usize = 8;
/// How long a caller waits for its turn.
const TURN: Duration = Duration::from_secs(2);
/// How long a review may take.
const REVIEW: Duration = Duration::from_secs(10);
/// How many tokens of one address may be refused.
const REFUSALS: Rate = Rate { burst: 20.0, every: SignedDuration::from_secs(3) };
/// At how many addresses those that were well-behaved since are forgotten.
const SWEEP_AT: usize = 1024;

/// Why nobody knows whose token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// It is not one of a pod's for us, or no longer.
    #[error("the token is not one of a running pod for audience {AUDIENCE}")]
    Refused,
    /// There are more than are asked for.
    #[error("too many tokens to be reviewed; try again")]
    TooMany,
    /// The API server does not say.
    #[error("the API server does not review the token; try again")]
    Unavailable,
}

/// Asks the API server whose tokens are whose.
pub struct Proofs {
    reviews: Api<TokenReview>,
    clock: Arc<dyn Clock>,
    turns: Semaphore,
    remembered: Mutex<HashMap<[u8; 32], (PodIdentity, Timestamp)>>,
    refused: Mutex<HashMap<IpAddr, Allowance>>,
    /// The API server did not answer last time: said once.
    silent: AtomicBool,
}

impl Proofs {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>) -> Self {
        Self {
            reviews: Api::all(client),
            clock,
            turns: Semaphore::new(REVIEWS),
            remembered: Mutex::default(),
            refused: Mutex::default(),
            silent: AtomicBool::new(false),
        }
    }

    /// Whose token this is, that came from an address.
    ///
    /// # Errors
    /// Nobody says so.
    pub async fn whose(&self, token: &Token, from: IpAddr) -> Result<PodIdentity, Unproven> {
        // What is no JSON Web Token cannot be a pod's, and costs nobody anything.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let text = token.expose();
        if text.len() > MOST_TOKEN || text.split('.').count() != 3 || !text.chars().all(plain) {
            return Err(Unproven::Refused);
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        if let Some(pod) = self.recall(&key) {
            return Ok(pod);
        }
        if self.is_suspect(from) {
            return Err(Unproven::TooMany);
        }
        let Ok(Ok(_turn)) = timeout(TURN, self.turns.acquire()).await else { return Err(Unproven::TooMany) };
        let status = self.review(token).await?;
        if let Some(pod) = identity(&status) {
            self.remember(key, &pod);
            return Ok(pod);
        }
        self.suspect(from);
        Err(Unproven::Refused)
    }

    async fn review(&self, token: &Token) -> Result<TokenReviewStatus, Unproven> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: token.expose().to_owned() };
        let mut review = TokenReview { spec, ..TokenReview::default() };
        let answer = timeout(REVIEW, self.reviews.create(&PostParams::default(), &review)).await;
        review.spec.token.zeroize();
        match answer {
            Ok(Ok(mut answer)) => {
                self.silent.store(false, Ordering::Relaxed);
                answer.spec.token.zeroize();
                Ok(answer.status.unwrap_or_default())
            }
            failed => {
                // An error of kube's has what the API server says of the request, and never the request.
                let error = failed.map_or_else(
                    |_| "no answer in time".to_owned(),
                    |answer| answer.err().map_or_else(String::new, |error| error.to_string()),
                );
                if self.silent.swap(true, Ordering::Relaxed) {
                    tracing::debug!(error, "a token of a workspace's agent is not reviewed");
                } else {
                    tracing::warn!(
                        error,
                        "tokens of workspaces' agents are not reviewed; said once until they are again"
                    );
                }
                Err(Unproven::Unavailable)
            }
        }
    }

    fn recall(&self, key: &[u8; 32]) -> Option<PodIdentity> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (pod, at) = remembered.get(key)?;
        is_fresh(*at, self.clock.now()).then(|| pod.clone())
    }

    fn remember(&self, key: [u8; 32], pod: &PodIdentity) {
        let now = self.clock.now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, (_, at)| is_fresh(*at, now));
        }
        // One that there is no room for is asked about again.
        if remembered.len() < MOST_REMEMBERED {
            remembered.insert(key, (pod.clone(), now));
        }
    }

    fn is_suspect(&self, from: IpAddr) -> bool {
        let now = self.clock.now();
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(&from).is_some_and(|left| left.next(now) > now)
    }

    fn suspect(&self, from: IpAddr) {
        let now = self.clock.now();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= SWEEP_AT {
            refused.retain(|_, left| !left.is_full(now));
        }
        // Those that were under way when the last one was taken may find none.
        let _ = refused.entry(from).or_insert_with(|| Allowance::full(REFUSALS, now)).take(now);
    }
}

/// A clock that was set back makes no answer good for longer.
fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    (SignedDuration::ZERO..REMEMBERED).contains(&now.duration_since(at))
}

/// The pod that an answer is about; none if it is about no pod's token for us.
///
/// A bound token's claims come in `extra`: <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>.
fn identity(status: &TokenReviewStatus) -> Option<PodIdentity> {
    let for_us = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
    let user = status.user.as_ref().filter(|_| status.authenticated == Some(true) && for_us)?;
    let account = user.username.as_ref()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, _) =
        account.split_once(':').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())?;
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
        identity(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn only_a_pods_token_for_us_says_who_it_is() {
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
    fn an_answer_is_good_for_a_minute() {
        let at = Timestamp::UNIX_EPOCH;
        let after = |seconds| is_fresh(at, at + SignedDuration::from_secs(seconds));
        assert!(after(0) && after(59) && !after(60) && !after(-1));
    }
}
