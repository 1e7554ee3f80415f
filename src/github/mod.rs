//! The client of GitHub's API.
//!
//! Owns every request to the API: its addresses ([`endpoint`]), the transport ([`transport`], [`proxy`]), the credentials ([`credentials`],
//! [`jwt`], [`secret`]), the layers that all calls share ([`stack`]), the calls ([`client`]), their answers ([`models`]) and their
//! errors ([`error`]).
//!
//! octocrab builds requests and reads answers. Landfall does not use its authentication, retries, cache and redirects: it signs
//! only for api.github.com, refreshes a token once per clone, mints no narrowed tokens, keys its cache by address alone so that
//! one installation could read another's answers, and repeats a POST.

pub mod client;
pub mod credentials;
pub mod endpoint;
pub mod error;
pub mod jwt;
pub mod models;
mod private_key;
pub mod proxy;
pub mod redact;
pub mod secret;
pub mod stack;
pub mod transport;
pub(crate) mod tunnel;

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
pub(crate) mod test_keys;

pub use self::client::forks::ForkBranches;
pub use self::client::hooks::{HookConfigWanted, HookWanted};
pub use self::client::pulls::{NewPull, NotOpened};
pub use self::client::repositories::Listed;
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
pub use self::proxy::{PodProxy, Proxies, ProxiesError};
pub use self::secret::{PrivateKeyPem, Token, WebhookSecret};
pub use self::stack::{Count, Exchange, Ignore, Observe};
pub use self::transport::{CaBundleError, Connect, HttpsConnect, Transport};
