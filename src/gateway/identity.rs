//! Whose request it is: from the bearer of a token to a pod, from the pod to a workspace, and from there to its rights.
//!
//! The invariant: nothing in a request says whose it is but the token, which the API server reviews
//! ([`crate::reports::identity`]). The path of the request must name the repository that the workspace has; it gives none.

use super::messages::Caller;
use super::refs::PushPolicy;
use super::route::Route;
use crate::github::Token;
use crate::ids::RepositoryId;
use crate::reports::PodIdentity;
use crate::reports::identity::{IdentityError, PodIdentities};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::{HeaderMap, header};
use std::net::IpAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The audience of the tokens with which git of workspaces proves its pod. It is not that of reports, which cross the network in
/// plain http.
pub const AUDIENCE: &str = "landfall-git";

/// Knows the pods of tokens.
pub trait Identities: Send + Sync + 'static {
    /// The pod of a token that was sent from an address.
    fn identify<'a>(&'a self, token: &'a Token, from: IpAddr) -> BoxFuture<'a, Result<PodIdentity, IdentityError>>;
}

/// By the API server's review.
impl Identities for PodIdentities {
    fn identify<'a>(&'a self, token: &'a Token, from: IpAddr) -> BoxFuture<'a, Result<PodIdentity, IdentityError>> {
        Box::pin(PodIdentities::identify(self, token, from))
    }
}

/// What a pod may do for its workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The pod, and the address that its token came from.
    pub caller: Caller,
    /// The name of the Workspace.
    pub workspace: String,
    /// Its uid.
    pub uid: String,
    /// The name of the `GitHubApp`.
    pub app: String,
    /// The host of GitHub's web pages, with its port unless that is 443.
    pub host: String,
    pub repository: RepositoryId,
    pub policy: PushPolicy,
}

/// Why a pod has no access. The words are for the person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAccess {
    /// 403: the pod is no workspace's, sends from another address than its own, or the grant is gone.
    #[error("{0}")]
    Refused(String),
    /// 503: it passes.
    #[error("{0}")]
    Unavailable(String),
}

/// Knows the workspaces of pods.
pub trait Workspaces: Send + Sync + 'static {
    /// The access of the workspace to which this pod belongs now.
    fn access<'a>(&'a self, caller: &'a Caller) -> BoxFuture<'a, Result<Arc<Access>, NoAccess>>;
}

impl Access {
    /// Whether a request is for the workspace's repository.
    #[must_use]
    pub fn is_for(&self, route: &Route) -> bool {
        (route.host.as_str(), route.repository) == (self.host.as_str(), self.repository)
    }
}

/// The token of a request: the password of Basic authentication (RFC 7617), as git sends it, or a bearer's (RFC 6750). A request
/// with two such headers has none, because a proxy could have looked at the other.
#[must_use]
pub fn token(headers: &HeaderMap) -> Option<Token> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    let token = if scheme.eq_ignore_ascii_case("basic") {
        let pair = Zeroizing::new(STANDARD.decode(credentials.trim()).ok()?);
        str::from_utf8(&pair).ok()?.split_once(':')?.1.to_owned()
    } else if scheme.eq_ignore_ascii_case("bearer") {
        credentials.trim().to_owned()
    } else {
        return None;
    };
    (!token.is_empty()).then(|| Token::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_token_of_a_request() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            token(&headers).map(|token| token.expose().to_owned())
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert_eq!(of(&[&basic("landfall:a.b.c")]).as_deref(), Some("a.b.c"));
        assert_eq!(of(&[&basic(":a:b")]).as_deref(), Some("a:b"));
        assert_eq!(of(&["bearer a.b.c"]).as_deref(), Some("a.b.c"));
        let colonless = basic("landfall");
        for none in
            [&[][..], &["Basic"], &["Basic !"], &["Bearer "], &["Digest x"], &["Bearer a", "Bearer b"], &[&colonless]]
        {
            assert_eq!(of(none), None, "{none:?}");
        }
        assert_eq!(of(&[&basic("landfall:")]), None);
        assert_eq!(of(&[&basic("a:b"), &basic("a:b")]), None);
    }
}
