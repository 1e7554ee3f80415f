//! GitHub's data: accounts, Apps, repositories, installations, tokens, hooks, deliveries, pull requests.
//!
//! Only data. Access is decided where requests come in, and `shapes` has its format.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::access::Permissions;
use crate::bare::Bare;
use crate::seed::AccountType;

#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) id: u64,
    pub(crate) login: String,
    pub(crate) kind: AccountType,
    pub(crate) plan: String,
    pub(crate) created: Timestamp,
}

#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) id: u64,
    pub(crate) client_id: String,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) owner: u64,
    /// The account `slug[bot]`.
    pub(crate) bot: u64,
    /// Public keys as DER; GitHub accepts a JWT signed by any of them.
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) permissions: Permissions,
    pub(crate) events: Vec<String>,
    /// The hook that every App has. Without a URL nothing is delivered.
    pub(crate) hook: u64,
    pub(crate) created: Timestamp,
}

#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) id: u64,
    pub(crate) owner: u64,
    pub(crate) name: String,
    pub(crate) private: bool,
    pub(crate) archived: bool,
    pub(crate) description: Option<String>,
    pub(crate) default_branch: String,
    /// The repository that it is a fork of.
    pub(crate) parent: Option<u64>,
    /// Set while it is a fork without objects.
    pub(crate) forking: Option<Forking>,
    pub(crate) bare: Bare,
    /// Full ref names and their objects, as of the last push that was taken in.
    pub(crate) refs: BTreeMap<String, String>,
    /// Issues and pull requests share one sequence.
    pub(crate) next_number: u64,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) pushed: Timestamp,
}

impl Repository {
    pub(crate) fn branch(&self, name: &str) -> Option<&String> {
        self.refs.get(&format!("refs/heads/{name}"))
    }
}

/// A fork that was created and is still being copied.
#[derive(Clone, Debug)]
pub(crate) struct Forking {
    /// The time when its objects are complete.
    pub(crate) ready: Timestamp,
    /// Whether it gets only the default branch.
    pub(crate) default_branch_only: bool,
}

/// The repositories an installation covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Coverage {
    All,
    Selected(BTreeSet<u64>),
}

#[derive(Clone, Debug)]
pub(crate) struct Installation {
    pub(crate) id: u64,
    pub(crate) app: u64,
    pub(crate) account: u64,
    pub(crate) coverage: Coverage,
    pub(crate) permissions: Permissions,
    pub(crate) suspended: Option<(Timestamp, u64)>,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
}

impl Installation {
    /// Whether it reaches a repository now.
    pub(crate) fn reaches(&self, repository: &Repository) -> bool {
        self.account == repository.owner
            && match &self.coverage {
                Coverage::All => true,
                Coverage::Selected(ids) => ids.contains(&repository.id),
            }
    }
}

/// An installation token, stored by the digest of its text. The text is only in the answer that minted it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) installation: u64,
    pub(crate) permissions: Permissions,
    /// `None`: all repositories of the installation.
    pub(crate) repositories: Option<BTreeSet<u64>>,
    pub(crate) minted: Timestamp,
    pub(crate) expires: Timestamp,
    /// The remaining refusals of a fresh token, which part of GitHub may not know for seconds, and their status.
    pub(crate) refusals: u32,
    pub(crate) refusal_status: u16,
    pub(crate) uses: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookOwner {
    App(u64),
    Repository(u64),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct HookConfig {
    pub(crate) url: Option<String>,
    pub(crate) content_type: String,
    pub(crate) secret: Option<String>,
    pub(crate) insecure_ssl: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub(crate) id: u64,
    pub(crate) owner: HookOwner,
    pub(crate) config: HookConfig,
    pub(crate) events: Vec<String>,
    pub(crate) active: bool,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    /// Code, status and message of the newest delivery.
    pub(crate) last_response: (Option<u16>, String, Option<String>),
}

/// One attempt to deliver an event to a hook.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) id: u64,
    pub(crate) hook: u64,
    pub(crate) guid: String,
    pub(crate) delivered: Timestamp,
    pub(crate) redelivery: bool,
    /// Seconds.
    pub(crate) duration: f64,
    pub(crate) status: String,
    /// 0 without an answer.
    pub(crate) status_code: u16,
    pub(crate) event: String,
    pub(crate) action: Option<String>,
    pub(crate) installation: Option<u64>,
    pub(crate) repository: Option<u64>,
    pub(crate) url: String,
    pub(crate) request_headers: BTreeMap<String, String>,
    pub(crate) payload: Value,
    pub(crate) response_headers: BTreeMap<String, String>,
    pub(crate) response_body: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Pull {
    pub(crate) id: u64,
    pub(crate) number: u64,
    pub(crate) repository: u64,
    pub(crate) title: String,
    pub(crate) body: Option<String>,
    pub(crate) author: u64,
    pub(crate) draft: bool,
    pub(crate) open: bool,
    pub(crate) maintainer_can_modify: bool,
    /// The repository of the head, which may be a fork.
    pub(crate) head_repository: u64,
    pub(crate) head: String,
    pub(crate) head_sha: String,
    pub(crate) base: String,
    pub(crate) base_sha: String,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) closed: Option<Timestamp>,
    pub(crate) merged: Option<Timestamp>,
    /// In the order of their addition.
    pub(crate) labels: Vec<Label>,
}

/// A label of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    pub(crate) id: u64,
    pub(crate) name: String,
}

/// The control API's information about a live token, without the token.
#[derive(Clone, Debug, Serialize)]
pub struct TokenInfo {
    /// SHA-256 of the token in hexadecimal. A test that has the token can compare it.
    pub sha256: String,
    /// The installation it belongs to.
    pub installation_id: u64,
    /// The App it belongs to.
    pub app_id: u64,
    pub permissions: Permissions,
    /// The repositories it was narrowed to; `None` for all of the installation.
    pub repository_ids: Option<Vec<u64>>,
    /// When it was minted.
    pub minted_at: Timestamp,
    /// The time of its expiry.
    pub expires_at: Timestamp,
    /// How often it was used.
    pub uses: u64,
}
