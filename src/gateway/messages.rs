//! The messages between the gateway and the controller's internal API.
//!
//! The invariant: a message names the pod and the address that a request of git came from, and the controller derives everything
//! else from its own caches. Tokens are in these messages and in no other place outside of the memory of the two processes.

use super::identity::Access;
use super::refs::{Beside, Origin, OwnBranch, PushPolicy, PushRefs, RefPattern, RefPatternError};
use super::upstream::Right;
use crate::github::Token;
use crate::ids::RepositoryId;
use crate::reports::PodIdentity;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use std::net::IpAddr;

/// The audience of the tokens by which the gateway proves itself to the controller.
pub const AUDIENCE: &str = "landfall-internal";
/// The access of a pod's workspace.
pub const ACCESS: &str = "/v1/access";
/// A token for the repository of a pod's workspace.
pub const TOKEN: &str = "/v1/token";
/// The end of the use of a token.
pub const RELEASE: &str = "/v1/release";

/// The status of a decision that passes. It is none that a failure of the server's own has, because it concerns one pod alone.
pub const NOT_NOW: StatusCode = StatusCode::CONFLICT;

/// A pod whose token the gateway had reviewed, and the address that it sent the token from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub address: IpAddr,
}

impl Caller {
    #[must_use]
    pub fn new(pod: &PodIdentity, address: IpAddr) -> Self {
        Self { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone(), address }
    }

    #[must_use]
    pub fn pod(&self) -> PodIdentity {
        PodIdentity { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }
}

/// The answer to [`ACCESS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessAnswer {
    /// The name of the Workspace.
    pub workspace: String,
    /// Its uid.
    pub uid: String,
    /// The name of the `GitHubApp`.
    pub app: String,
    /// The host of GitHub's web pages, with its port unless that is 443.
    pub host: String,
    pub repository: RepositoryId,
    /// The workspace's branch, without `refs/heads/`.
    pub branch: String,
    pub beside: Beside,
    pub origin: Origin,
    pub asked: Patterns,
    pub granted: Vec<Patterns>,
}

/// Patterns of refs, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patterns {
    #[serde(default)]
    pub refs: Vec<String>,
    #[serde(default)]
    pub force: Vec<String>,
}

impl TryFrom<&Patterns> for PushRefs {
    type Error = RefPatternError;

    fn try_from(patterns: &Patterns) -> Result<Self, RefPatternError> {
        let parsed = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<RefPattern>, _>>();
        Ok(Self { refs: parsed(&patterns.refs)?, force: parsed(&patterns.force)? })
    }
}

impl AccessAnswer {
    /// The access of the pod that it was asked for.
    pub fn read(self, caller: &Caller) -> Result<Access, RefPatternError> {
        let branch = OwnBranch { name: self.branch, beside: self.beside, origin: self.origin };
        let granted = self.granted.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Access {
            caller: caller.clone(),
            policy: PushPolicy::new(&self.workspace, &self.uid, branch, (&self.asked).try_into()?, granted),
            workspace: self.workspace,
            uid: self.uid,
            app: self.app,
            host: self.host,
            repository: self.repository,
        })
    }
}

/// A request to [`TOKEN`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRequest {
    pub caller: Caller,
    pub right: Right,
    /// The tokens that the gateway holds for this repository and right. At most one is what the workspace may have.
    #[serde(default)]
    pub held: Vec<HeldToken>,
    /// The tokens that GitHub refused.
    #[serde(default, serialize_with = "all_exposed")]
    pub refused: Vec<Token>,
}

/// A token, its end, and a digest of its App, GitHub, installation, repository and permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldToken {
    #[serde(serialize_with = "exposed")]
    pub token: Token,
    pub expires_at: Timestamp,
    pub key: String,
}

/// The answer to [`TOKEN`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenAnswer {
    #[serde(flatten)]
    pub issued: HeldToken,
    /// The base of GitHub's REST API.
    pub api_url: String,
    /// The base of its web pages and of git.
    pub web_url: String,
    /// `owner/name` of the repository now.
    pub full_name: String,
    /// Certificate authorities of this GitHub, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
}

/// A request to [`RELEASE`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseRequest {
    /// The name of the `GitHubApp`.
    pub app: String,
    #[serde(serialize_with = "exposed")]
    pub token: Token,
}

fn exposed<S: Serializer>(token: &Token, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}

fn all_exposed<S: Serializer>(tokens: &[Token], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(tokens.iter().map(Token::expose))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_through_and_prints_no_token() {
        let held =
            HeldToken { token: Token::new("ghs_secret".into()), expires_at: Timestamp::UNIX_EPOCH, key: "k".into() };
        let caller = Caller {
            namespace: "team-a".into(),
            name: "ws-try".into(),
            uid: "u".into(),
            address: "10.0.0.7".parse().unwrap(),
        };
        let request = TokenRequest {
            caller,
            right: Right::Write,
            held: vec![held.clone()],
            refused: vec![Token::new("ghs_refused".into())],
        };
        assert!(!format!("{request:?}").contains("ghs_"));
        let read: TokenRequest = serde_json::from_str(&serde_json::to_string(&request).unwrap()).unwrap();
        assert_eq!((read.held, read.refused), (vec![held.clone()], request.refused));
        let answer = TokenAnswer {
            issued: held,
            api_url: "https://api.github.com".into(),
            web_url: "https://github.com".into(),
            full_name: "acme/shop".into(),
            ca_bundle: None,
        };
        let read: TokenAnswer = serde_json::from_str(&serde_json::to_string(&answer).unwrap()).unwrap();
        assert_eq!(read, answer);
    }
}
