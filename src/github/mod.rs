//! GitHub, as the controllers call it.
//!
//! Owns every request to GitHub's API: where GitHub is ([`endpoint`]), how bytes get there ([`transport`]), as whom
//! ([`credentials`], [`jwt`], [`secret`]), what all calls have in common ([`stack`]), the calls themselves ([`client`]), their answers
//! ([`models`]) and their failures ([`error`]).
//!
//! octocrab builds requests and reads answers. Its authentication, retries, cache and redirects are not used: it signs only
//! for api.github.com, refreshes a token once per clone, mints no narrowed tokens, keys its cache by address alone so that
//! one installation could read another's answers, and repeats a POST.

pub mod client;
pub mod credentials;
pub mod endpoint;
pub mod error;
pub mod jwt;
pub mod models;
mod private_key;
pub mod redact;
pub mod secret;
pub mod stack;
pub mod transport;

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
pub(crate) mod test_keys;

pub use self::client::hooks::{HookConfigWanted, HookWanted};
pub use self::client::pulls::{NewPull, NotOpened};
pub use self::client::{GitHub, Repositories, Revocation, Scope};
pub use self::credentials::{AppCredentials, CredentialsError};
pub use self::endpoint::{Endpoint, EndpointError, PlainHttp};
pub use self::error::{Error, FieldError, Outlook, Unreached};
pub use self::jwt::{Claims, SignError, Signer};
pub use self::models::{
    Account, App, Comparison, Hook, HookConfig, Installation, Level, MergeType, Merged, Minted, Permissions, PullBase,
    PullHead, PullRepository, PullRequest, PullState, Relation, Repository, RepositorySelection,
};
pub use self::private_key::KeyProblem;
pub use self::secret::{PrivateKeyPem, Token, WebhookSecret};
pub use self::stack::{Count, Exchange, Ignore, Observe};
pub use self::transport::{CaBundleError, Connect, HttpsConnect, Transport};
