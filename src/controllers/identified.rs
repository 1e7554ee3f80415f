//! The repository with an id, also while the rate limit of its installation is spent.
//!
//! That limit belongs to all tokens of the installation, so any tenant can spend it for an hour. Invariant: a push and the
//! end of a workspace wait for no limit that another tenant can spend. The App asks then, and the mint that it takes is
//! one of the namespace's share.

use super::rations::{Caller, Limits, Purpose};
use super::shared::Shared;
use crate::github::{Error, GitHub, Repository, Token};
use crate::ids::{InstallationId, RepositoryId};

/// Asks GitHub for the repository with this id.
///
/// # Errors
/// The repository is missing, or both the installation's limit and the namespace's share of the App's are spent.
pub async fn repository(
    shared: &Shared,
    github: &GitHub,
    token: &Token,
    (installation, id): (InstallationId, RepositoryId),
    caller: Caller<'_>,
) -> Result<Repository, Error> {
    let (target, until, secondary) = match github.repository(token, id).await {
        Err(Error::RateLimited { target, until, secondary }) => (target, until, secondary),
        asked => return asked,
    };
    let spent = shared.rations.mint(caller, Purpose::First, Limits::of(github), shared.now());
    if let Err(wait) = spent {
        return Err(Error::RateLimited { target, until: until.min(wait.until), secondary });
    }
    github.repository_by_mint(installation, id).await
}
