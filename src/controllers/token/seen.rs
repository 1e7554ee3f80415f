//! The gathered state of an `InstallationToken` and its surroundings: all that a decision needs, and no more.
//!
//! Invariant: the state contains findings and no decisions; the plan is a pure function of it and of `now`.

use super::format::Facts;
use super::memory::FailedFor;
use super::scope::Scope;
use super::secret::Content;
use crate::api::InstallationToken;
use crate::controllers::reference::Access;
use crate::controllers::standing::Standing;
use crate::github::{GitHub, Transport};
use crate::ids::RepositoryId;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use std::fmt;
use std::sync::Arc;

/// The Secret with the name in the spec.
#[derive(Clone, Debug)]
pub enum SecretSeen {
    /// It does not exist.
    Absent,
    /// It was not made for this object.
    Foreign,
    /// It is the operator's.
    Ours(Published),
    /// Kubernetes does not let the operator read it.
    OutOfReach(Standing),
}

/// How the state of the Secret is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// From the cache alone, which has no Secret of this name with the operator's label.
    Cached,
    /// From a read or a write of this process at this time. Nothing that the watch brought since contradicts it.
    Noted(Timestamp),
    /// It was read for this decision.
    Read,
}

/// The content of the operator's Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The fingerprint of the token in the data, if there is one.
    pub fingerprint: Option<String>,
    /// The fingerprint at the time of publishing. It differs if somebody edited the data.
    pub noted_fingerprint: Option<String>,
    /// The scope that was requested.
    pub scope: Option<Scope>,
    /// The repositories that it reaches. Empty for all.
    pub repository_ids: Vec<RepositoryId>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When it was minted.
    pub minted_at: Option<Timestamp>,
    /// Type, labels, annotations and the other keys match the spec.
    pub as_wanted: bool,
    /// The Secret is being deleted.
    pub going: bool,
}

/// A token that this process minted and remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub fingerprint: String,
    /// The scope that was requested.
    pub scope: Scope,
    pub stage: Stage,
    pub trial: Trial,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Whether GitHub accepted a token before it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    Accepted,
    /// GitHub's rate limit allowed no call with the token, and git could not try it either.
    LeftOut,
    /// Another process published it, according to its Secret, which a tenant can edit.
    Unknown,
}

/// The stages of a token from mint to Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not used yet, or refused so many times. GitHub can refuse a fresh token for some seconds.
    Minted {
        /// How often it was refused.
        refusals: u32,
    },
    /// Used once with success, or not tried for the reason in [`Trial`].
    Verified,
    /// GitHub gave more than was granted. It is never published.
    Unfit,
    /// In the Secret. It is remembered so that it can be revoked if the Secret is deleted first.
    Published,
}

#[expect(clippy::struct_excessive_bools, reason = "facts that do not exclude each other")]
#[derive(Clone, Debug)]
pub struct Seen {
    /// The object.
    pub token: Arc<InstallationToken>,
    pub has_finalizer: bool,
    /// It, its installation or its App is paused.
    pub is_paused: bool,
    /// Whether it may be minted.
    pub access: Access,
    /// It belongs to a terminating workspace whose work is not saved yet. The save needs the token.
    pub is_needed: bool,
    /// Its namespace is being deleted.
    pub is_namespace_going: bool,
    /// The reason why no Secret can be written in the format that the spec asks for.
    pub unwritable: Option<Standing>,
    pub secret: SecretSeen,
    /// How the state of the Secret is known.
    pub known: Known,
    /// Names of Secrets of the operator that are no longer wanted, because the spec named them before.
    pub former_secrets: Vec<String>,
    /// The token in the memory of this process.
    pub held: Option<Held>,
    /// The fingerprint of the token that was last revoked for this object.
    pub revoked: Option<String>,
    /// The last failures whose retry is not due yet.
    pub failed: Failures,
    /// The circumstances of a failure now.
    pub about: FailedFor,
    /// The clients and data that steps need, and decisions do not.
    pub tools: Tools,
}

/// The clients and data that steps need.
#[derive(Clone, Default)]
pub struct Tools {
    /// The Secret with the name in the spec, if it was read for this decision.
    pub secret: Option<Secret>,
    /// The token in the operator's Secret.
    pub content: Option<Arc<Content>>,
    /// The certificates to write into the Secret.
    pub ca_bundle: Option<String>,
    /// The facts to write into the Secret.
    pub facts: Option<Facts>,
    /// The client, unless the App's credentials cannot be used at all.
    pub github: Option<Arc<GitHub>>,
    /// The transport to the same GitHub for git.
    pub git: Option<Transport>,
    /// The name of the `GitHubApp`, if it exists.
    pub app: Option<String>,
}

/// Omits the Secret and the token.
impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("app", &self.app).finish_non_exhaustive()
    }
}

/// The failed calls. Those that request a token and those that revoke one fail separately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Minting or trying.
    pub asking: Option<Failed>,
    pub revoking: Option<Failed>,
}

/// A call that failed and is not repeated before its time, whatever wakes the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The standing of the object since then.
    pub standing: Standing,
    /// When to retry the call.
    pub until: Timestamp,
}

impl Published {
    /// Whether the token in the data is the one that was published.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.fingerprint.is_some() && self.fingerprint == self.noted_fingerprint
    }
}
