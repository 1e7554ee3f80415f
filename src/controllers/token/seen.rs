//! What is seen of an `InstallationToken` and around it: all that a decision needs, and no more.
//!
//! Invariant: what is here is what was found, with nothing decided yet; the plan is a pure function of it and of `now`.

use super::memory::FailedFor;
use super::scope::Scope;
use crate::api::InstallationToken;
use crate::controllers::reference::Access;
use crate::controllers::standing::Standing;
use crate::github::GitHub;
use crate::ids::RepositoryId;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use std::fmt;
use std::sync::Arc;

/// The Secret of the name in the spec.
#[derive(Clone, Debug)]
pub enum SecretSeen {
    /// There is none.
    Absent,
    /// It was not made for this object.
    Foreign,
    /// It is ours.
    Ours(Published),
}

/// What our Secret says of the token in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The fingerprint of the token that is in the data, if there is one.
    pub fingerprint: Option<String>,
    /// The fingerprint that was noted when it was published. Another one: somebody edited the data.
    pub noted_fingerprint: Option<String>,
    /// What it was asked for.
    pub scope: Option<Scope>,
    /// The repositories it reaches; none for all.
    pub repository_ids: Vec<RepositoryId>,
    /// When it ends to be valid.
    pub expires_at: Option<Timestamp>,
    /// When it was minted.
    pub minted_at: Option<Timestamp>,
    /// Type, labels, annotations and the other keys are as the spec wants them.
    pub as_wanted: bool,
    /// The Secret is being deleted.
    pub going: bool,
}

/// A token that this process minted and remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its fingerprint.
    pub fingerprint: String,
    /// What it was asked for.
    pub scope: Scope,
    /// Where it is on its way.
    pub stage: Stage,
    /// When it ends to be valid.
    pub expires_at: Timestamp,
}

/// The way of a token from mint to Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not used yet, or refused so many times: a fresh token can be refused for some seconds.
    Minted {
        /// How often it was refused.
        refusals: u32,
    },
    /// Used once with success.
    Verified,
    /// GitHub gave more than was granted: it is never published.
    Unfit,
    /// In the Secret. Remembered so that it can be revoked if the Secret goes first.
    Published,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The object.
    pub token: Arc<InstallationToken>,
    /// We are asked before it goes.
    pub has_finalizer: bool,
    /// It, its installation or its App is paused.
    pub is_paused: bool,
    /// Whether it may be minted.
    pub access: Access,
    /// It is a workspace's that is going, and whose work is not saved yet: with it revoked, nothing could be.
    pub is_needed: bool,
    /// The Secret.
    pub secret: SecretSeen,
    /// Names of Secrets that are ours and not wanted: the spec named them before.
    pub former_secrets: Vec<String>,
    /// What this process remembers.
    pub held: Option<Held>,
    /// The fingerprint of the token that was last revoked for this object.
    pub revoked: Option<String>,
    /// What failed last, as long as it is not to be tried again.
    pub failed: Failures,
    /// What a failure of a call would be about.
    pub about: FailedFor,
    /// What acting takes, and no decision.
    pub tools: Tools,
}

/// What acting takes.
#[derive(Clone, Default)]
pub struct Tools {
    /// The Secret of the name in the spec.
    pub secret: Option<Secret>,
    /// The certificates to hand on.
    pub ca_bundle: Option<String>,
    /// The client, unless the App's credentials cannot be used at all.
    pub github: Option<Arc<GitHub>>,
    /// The name of the `GitHubApp`, if it is there.
    pub app: Option<String>,
}

/// There is a Secret in it.
impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("app", &self.app).finish_non_exhaustive()
    }
}

/// The calls that failed. Those that ask for a token and those that revoke one fail each for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Minting or trying out.
    pub asking: Option<Failed>,
    /// Revoking.
    pub revoking: Option<Failed>,
}

/// A call that failed and is not repeated before its time, whatever else wakes the controller up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// How the object stands since.
    pub standing: Standing,
    /// When it is tried again.
    pub until: Timestamp,
}

impl Published {
    /// The token in the data is the one that was published.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.fingerprint.is_some() && self.fingerprint == self.noted_fingerprint
    }
}
