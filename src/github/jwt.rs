//! The JSON web tokens with which an App authenticates to GitHub, and the signers that make them.
//!
//! A [`Signer`] is a seam: [`PemSigner`] signs with a key in this process, and another implementation can ask a key
//! management service that never exports its key. The invariant: one JWT is signed for [`REUSED`] and by one call at a
//! time, however many calls need one, because a signature costs milliseconds here and a paid request there.
//!
//! Source: <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use tokio::sync::Mutex;

use super::secret::Token;

/// GitHub advises to date a JWT back by this, because clocks differ.
const BACKDATED: SignedDuration = SignedDuration::from_secs(60);
/// GitHub accepts ten minutes at most, counted by its own clock.
const LIFE: SignedDuration = SignedDuration::from_mins(9);
/// How long a JWT is reused. It then has five minutes left, for a clock here that is behind GitHub's.
const REUSED: SignedDuration = SignedDuration::from_mins(4);

/// The claims of an App's JWT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// When the JWT was issued, in seconds since 1970.
    pub iat: i64,
    /// When it expires, in seconds since 1970.
    pub exp: i64,
    /// The App's client id or id.
    pub iss: String,
}

impl Claims {
    fn new(issuer: &str, now: Timestamp) -> Self {
        let at = |distance| now.saturating_add(distance).unwrap_or(now).as_second();
        Self { iat: at(-BACKDATED), exp: at(LIFE), iss: issuer.to_owned() }
    }
}

/// The reason why there is no signature. The message contains no part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SignError(pub String);

/// Signs an App's JSON web tokens with RS256, the only algorithm that GitHub takes.
pub trait Signer: Send + Sync {
    /// A JWT with these claims. The call may take as long as a request; the caller bounds the time.
    fn sign<'a>(&'a self, claims: &'a Claims) -> BoxFuture<'a, Result<Token, SignError>>;
}

/// Signs with a private key in memory.
pub struct PemSigner {
    key: EncodingKey,
}

impl PemSigner {
    /// Takes a key that [`super::private_key::read`] has checked.
    pub(super) fn new(key: EncodingKey) -> Self {
        Self { key }
    }
}

impl Signer for PemSigner {
    fn sign<'a>(&'a self, claims: &'a Claims) -> BoxFuture<'a, Result<Token, SignError>> {
        let jwt = encode(&Header::new(Algorithm::RS256), claims, &self.key);
        let jwt = jwt.map(Token::new).map_err(|error| SignError(error.to_string()));
        async move { jwt }.boxed()
    }
}

/// A JWT, and whether GitHub may have seen it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Jwt {
    pub token: Token,
    pub origin: Origin,
}

/// The origin of a JWT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was signed for this call.
    Signed,
    /// It was signed for an earlier call.
    Cached,
}

/// A signer, and the JWT that it signed last.
pub(super) struct CachedSigner {
    signer: Arc<dyn Signer>,
    // Held while a JWT is signed, so that calls at the same time share one signature.
    last: Mutex<Option<(Token, Timestamp)>>,
}

impl CachedSigner {
    pub fn new(signer: Arc<dyn Signer>) -> Self {
        Self { signer, last: Mutex::default() }
    }

    pub async fn jwt(&self, issuer: &str, now: Timestamp) -> Result<Jwt, SignError> {
        let mut last = self.last.lock().await;
        // If the clock is set back, the JWT comes from the future, and GitHub refuses it.
        let serves = |signed: Timestamp| signed <= now && now.duration_since(signed) < REUSED;
        if let Some((token, _)) = last.as_ref().filter(|(_, signed)| serves(*signed)) {
            return Ok(Jwt { token: token.clone(), origin: Origin::Cached });
        }
        let token = self.signer.sign(&Claims::new(issuer, now)).await?;
        *last = Some((token.clone(), now));
        Ok(Jwt { token, origin: Origin::Signed })
    }

    pub async fn forget(&self) {
        *self.last.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Signer for Counting {
        fn sign<'a>(&'a self, claims: &'a Claims) -> BoxFuture<'a, Result<Token, SignError>> {
            async move {
                // Other calls run in between, as during a request to a key management service.
                tokio::task::yield_now().await;
                self.0.fetch_add(1, Ordering::Relaxed);
                Ok(Token::new(format!("{}", claims.iat)))
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn one_signature_serves_for_minutes_and_for_all_who_call_at_once() {
        let counting = Arc::new(Counting::default());
        let signer = CachedSigner::new(counting.clone());
        let begin: Timestamp = "2026-11-21T01:00:00Z".parse().unwrap();
        let at = |seconds| begin + SignedDuration::from_secs(seconds);
        let count = || counting.0.load(Ordering::Relaxed);

        let (one, two) = tokio::join!(signer.jwt("7", at(0)), signer.jwt("7", at(0)));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!((one.origin, two.origin, count()), (Origin::Signed, Origin::Cached, 1));
        assert_eq!(one.token, two.token);
        assert_eq!(signer.jwt("7", at(239)).await.unwrap().token, one.token);
        assert_eq!(count(), 1);
        let later = signer.jwt("7", at(240)).await.unwrap();
        assert_eq!((later.origin, count()), (Origin::Signed, 2));
        assert_ne!(later.token, one.token);

        // The clock is set back.
        assert_eq!(signer.jwt("7", at(100)).await.unwrap().origin, Origin::Signed);
        assert_eq!(count(), 3);
        signer.forget().await;
        assert_eq!(signer.jwt("7", at(101)).await.unwrap().origin, Origin::Signed);
        assert_eq!(count(), 4);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        struct FailsOnce(AtomicUsize);
        impl Signer for FailsOnce {
            fn sign<'a>(&'a self, _: &'a Claims) -> BoxFuture<'a, Result<Token, SignError>> {
                let calls = self.0.fetch_add(1, Ordering::Relaxed);
                let answer = if calls == 0 { Err(SignError("sealed".into())) } else { Ok(Token::new("jwt".into())) };
                async move { answer }.boxed()
            }
        }
        let signer = CachedSigner::new(Arc::new(FailsOnce(AtomicUsize::new(0))));
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(signer.jwt("7", now).await, Err(SignError("sealed".into())));
        assert_eq!(signer.jwt("7", now).await.unwrap().origin, Origin::Signed);
    }
}
