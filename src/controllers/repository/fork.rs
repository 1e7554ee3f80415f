//! Ensures a fork, and synchronizes it with its upstream.
//!
//! Invariant: an existing fork is found, under any name, before one is created; the parent of the fork that is used is
//! the one in the spec; and a fork with commits of its own is never changed. GitHub answers a second request with the
//! fork of the first, so a lost answer makes no second fork. The fork is compared with the upstream that GitHub
//! reports, not the one in the spec, because the token that reads it may reach repositories of others.

use super::RepositoryKind;
use super::apply::{allowed, ask_whole, client, fits, git_failure, read, refs_of, remote, spend, uid};
use super::memory::{Facts, InStep};
use super::seen::{Granted, Seen, Way};
use crate::api::{ForkBranches, ForkSource, Permissions, Reason, default_permissions};
use crate::controllers::reconcile::Failure;
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::git;
use crate::github::{self, GitHub, Level, Repositories, Repository, Scope};
use crate::grant::Known;
use jiff::SignedDuration;
use std::sync::Arc;

/// The permission to change files in `.github/workflows`.
const WORKFLOWS: &str = "workflows";

fn permissions(list: &[(&str, &str)]) -> Permissions {
    list.iter().map(|(name, level)| ((*name).to_owned(), (*level).to_owned())).collect()
}

/// Finds the fork, or creates it.
///
/// # Errors
/// It cannot be created.
pub async fn ensure(kind: &RepositoryKind, seen: &Seen) -> Result<(), Failure> {
    let (Way::GitHub(granted), Some(source)) = (&seen.way, &seen.object.spec.source.fork) else {
        return Ok(());
    };
    let (owner, upstream) = source.of.split_once('/').unwrap_or(("", &source.of));
    if owner.eq_ignore_ascii_case(&granted.account) {
        return Err(Failure::stalled(
            Reason::ForkImpossible,
            format!("{} is {}'s own, and cannot be forked there: use spec.source.existing", source.of, granted.account),
        ));
    }
    let github = client(seen)?;
    let name = source.name.as_deref().unwrap_or(upstream);
    let known = Known { name: Some(name.to_owned()), id: None };
    // Without a grant, GitHub is not even asked whether the repository exists.
    allowed(granted, known.clone(), &default_permissions())?;
    let fork = match existing(kind, seen, granted, github, name).await? {
        Some(there) => there,
        None => make(kind, seen, granted, (source, name), known).await?,
    };
    // A fork that was found under another name may not be granted.
    fits(granted, &fork, seen)?;
    held_against(&fork, &source.of)?;
    let now = kind.shared.now();
    tracing::info!(fork = fork.full_name, id = fork.id.get(), of = source.of, "the fork is there, or on its way");
    kind.memory.update(uid(&seen.object), |known| {
        known.facts = Some(Facts { repository: Arc::new(fork), at: now });
    });
    Ok(())
}

/// The repository with the fork's name, if there is one.
async fn existing(
    kind: &RepositoryKind,
    seen: &Seen,
    granted: &Granted,
    github: &GitHub,
    name: &str,
) -> Result<Option<Repository>, Failure> {
    let key = (seen.tools.identity.as_str(), granted.installation);
    spend(kind, seen, granted)?;
    let read = match kind.readers.by_name(github, key, name, kind.shared.now()).await {
        Ok(read) => read,
        Err(github::Error::Unprocessable { .. }) => return Ok(None),
        Err(error) => return Err(remote(github_failure(&error, &format!("looking for {}/{name}", granted.account)))),
    };
    let Some(id) = read.said.first().map(|repository| repository.id) else { return Ok(None) };
    let asked = github.repository(&read.token, id).await;
    asked.map(Some).map_err(|error| remote(github_failure(&error, "asking what a repository is a fork of")))
}

/// Refuses a repository that is not a fork of `of`. A fork of another fork has that fork's commits, and would be
/// synchronized with it.
fn held_against(fork: &Repository, of: &str) -> Result<(), Failure> {
    let what = match &fork.parent {
        Some(parent) if parent.full_name.eq_ignore_ascii_case(of) => return Ok(()),
        Some(parent) => format!("a fork of {}", parent.full_name),
        None if fork.fork == Some(true) => "a fork of a repository that the App may not see".to_owned(),
        None => "no fork".to_owned(),
    };
    let name = &fork.full_name;
    Err(Failure::stalled(
        Reason::ForkImpossible,
        format!(
            "{name} is there, and is {what}, not of {of}. An account has one fork of a network of forks: correct spec.source.fork.of, use \
             spec.source.existing, or rename or remove {name}; if it is no fork, another spec.source.fork.name does as well"
        ),
    ))
}

async fn make(
    kind: &RepositoryKind,
    seen: &Seen,
    granted: &Granted,
    (source, name): (&ForkSource, &str),
    known: Known,
) -> Result<Repository, Failure> {
    let github = client(seen)?;
    let needed = permissions(&[("administration", "write"), ("contents", "write"), ("metadata", "read")]);
    allowed(granted, known, &needed)?;
    // A token cannot be limited to a repository that does not exist yet, so it is revoked at once.
    let scope = Scope { repositories: Repositories::All, permissions: needed };
    spend(kind, seen, granted)?;
    let minted = github.mint(granted.installation, &scope).await;
    let token = minted.map_err(|error| forbidden(&error, granted, github, source))?.token;
    let organization =
        kind.shared.connections.is_organization(&granted.app, granted.account_id).then_some(granted.account.as_str());
    let (owner, upstream) = source.of.split_once('/').unwrap_or(("", &source.of));
    let branches = match source.branches {
        ForkBranches::Default => github::ForkBranches::Default,
        ForkBranches::All => github::ForkBranches::All,
    };
    let made = github.create_fork(&token, owner, upstream, organization, Some(name), branches).await;
    if let Err(error) = github.revoke(&token).await {
        tracing::info!(%error, "the token for making a fork was not revoked, and expires within the hour");
    }
    let fork = made.map_err(|error| forbidden(&error, granted, github, source))?;
    if fork.full_name.eq_ignore_ascii_case(&source.of)
        || fork.owner.as_ref().is_some_and(|o| o.id != granted.account_id)
    {
        return Err(Failure::stalled(
            Reason::ForkImpossible,
            format!(
                "{} cannot be forked to {}: GitHub answered with a repository that is not there",
                source.of, granted.account
            ),
        ));
    }
    Ok(fork)
}

fn forbidden(error: &github::Error, granted: &Granted, github: &GitHub, source: &ForkSource) -> Failure {
    let (of, account, web) = (&source.of, &granted.account, github.endpoint().web_url());
    match error {
        github::Error::Forbidden { message, .. } if message.to_ascii_lowercase().contains("empty") => Failure::stalled(
            Reason::ForkImpossible,
            format!("{of} is empty, and GitHub forks no empty repository: push a commit to it first"),
        ),
        github::Error::Forbidden { .. } | github::Error::NotFound { .. } | github::Error::Unprocessable { .. } => {
            Failure::stalled(
                Reason::ForkForbidden,
                format!(
                    "{error}. The App has to be installed on all repositories of {account} with administration: write (see {}), and \
                     on {of} if that is private. Or fork it by hand at {web}/{of}/fork, where it is found by its name; what differs \
                     is shown at {web}/{of}/compare",
                    granted.settings_url
                ),
            )
        }
        other => remote(github_failure(other, &format!("forking {of}"))),
    }
}

/// Checks whether the fork lacks commits, and fast-forwards it if it has none of its own.
///
/// # Errors
/// GitHub did not answer, or refused.
pub async fn sync(kind: &RepositoryKind, seen: &Seen) -> Result<(), Failure> {
    let (Way::GitHub(granted), Some(source)) = (&seen.way, &seen.object.spec.source.fork) else { return Ok(()) };
    let Some(head) = &seen.known.head else { return Ok(()) };
    let github = client(seen)?;
    let (token, facts) = read(kind, seen, granted).await?;
    let facts = if facts.repository.parent.is_some() {
        facts
    } else {
        ask_whole(kind, seen, granted, &token, facts.repository.id).await?
    };
    let fork = &facts.repository;
    let Some(parent) = fork.parent.as_ref().map(|parent| parent.full_name.as_str()) else {
        let message = format!("{} is no fork any more: use spec.source.existing, or remove it", fork.full_name);
        return Err(Failure::stalled(Reason::ForkImpossible, message));
    };
    let refs = refs_of(kind, seen, parent, &token, Some(&head.branch)).await;
    let refs = refs.map_err(|error| git_failure(&error))?;
    let Some(upstream) = refs.head.sha().map(git::Sha::to_string) else {
        let message = format!("{parent} has no branch {}, so the fork's is in step with none", head.branch);
        return Err(Failure::Remote(Standing::ready(Reason::BranchNotFound, message), Again::Person));
    };
    let is_compared = |known: &InStep| known.upstream == upstream && known.own == head.sha;
    let in_step = match &seen.known.in_step {
        Some(known) if is_compared(known) => known.clone(),
        _ if upstream == head.sha => InStep { upstream, own: head.sha.clone(), behind_by: 0, ahead_by: 0 },
        _ => {
            let owner = parent.split_once('/').map_or("", |(owner, _)| owner);
            let (own, name) = fork.full_name.split_once('/').unwrap_or(("", &fork.name));
            let base = format!("{owner}:{}", head.branch);
            let compared = github.compare(&token, own, name, &base, &head.branch).await;
            let compared =
                compared.map_err(|error| remote(github_failure(&error, "comparing the fork with its upstream")))?;
            InStep { upstream, own: head.sha.clone(), behind_by: compared.behind_by, ahead_by: compared.ahead_by }
        }
    };
    let is_behind = in_step.behind_by > 0 && in_step.ahead_by == 0;
    if is_behind {
        merge(kind, seen, granted, fork, &head.branch).await?;
    }
    // No commit lies between the two different heads, so the known head of the fork is outdated. It was merged before
    // and the answer was lost, or somebody else merged it.
    let has_moved = in_step.behind_by == 0 && in_step.ahead_by == 0 && in_step.upstream != head.sha;
    let now = kind.shared.now();
    let interval = source.sync.interval.parse().unwrap_or(SignedDuration::from_mins(10));
    let next = kind.shared.spread(now, interval);
    kind.memory.update(uid(&seen.object), |known| {
        known.next_sync = next;
        if is_behind || has_moved {
            // The fork has another head now. The next look shows the head that it is compared with.
            known.in_step = Some(InStep { own: in_step.upstream.clone(), behind_by: 0, ..in_step });
            if let Some(looked) = &mut known.looked {
                looked.next = now;
            }
        } else {
            known.in_step = Some(in_step);
        }
    });
    Ok(())
}

async fn merge(
    kind: &RepositoryKind,
    seen: &Seen,
    granted: &Granted,
    fork: &Repository,
    branch: &str,
) -> Result<(), Failure> {
    let github = client(seen)?;
    let mut needed = permissions(&[("contents", "write"), ("metadata", "read")]);
    let known = Known { name: Some(fork.name.clone()), id: Some(fork.id) };
    allowed(granted, known.clone(), &needed)?;
    // GitHub takes commits that change a workflow file with this permission alone.
    let mut with_workflows = needed.clone();
    with_workflows.insert(WORKFLOWS.to_owned(), "write".to_owned());
    let is_given = granted.permissions.get(WORKFLOWS).is_some_and(|level| matches!(level, Level::Write | Level::Admin));
    if is_given && allowed(granted, known, &with_workflows).is_ok() {
        needed = with_workflows;
    }
    let scope = Scope { repositories: Repositories::Ids(vec![fork.id]), permissions: needed };
    let doing = format!("bringing {} in step with its upstream", fork.full_name);
    spend(kind, seen, granted)?;
    let minted = github.mint(granted.installation, &scope).await;
    let token = minted.map_err(|error| remote(github_failure(&error, &doing)))?.token;
    let (owner, name) = fork.full_name.split_once('/').unwrap_or(("", &fork.name));
    let merged = github.merge_upstream(&token, owner, name, branch).await;
    if let Err(error) = github.revoke(&token).await {
        tracing::info!(%error, "the token for merging the upstream was not revoked, and expires within the hour");
    }
    match merged {
        Ok(_) => {
            tracing::info!(fork = fork.full_name, branch, "the fork was brought in step with its upstream");
            Ok(())
        }
        Err(github::Error::Conflict { .. }) => {
            let name = &seen.object.metadata.name;
            tracing::info!(fork = fork.full_name, ?name, "the fork got commits of its own meanwhile");
            Err(Failure::Remote(
                Standing::ready(Reason::Diverged, format!("{doing}: both have commits that the other has not")),
                Again::Backoff,
            ))
        }
        Err(error) if error.to_string().contains(WORKFLOWS) => Err(without_workflows(&error, granted, fork, is_given)),
        Err(error) => Err(remote(github_failure(&error, &doing))),
    }
}

/// The upstream changed a workflow file, and the token must not.
fn without_workflows(error: &github::Error, granted: &Granted, fork: &Repository, is_given: bool) -> Failure {
    let remedy = if is_given {
        format!(
            "ask the administrator of GitHubApp {} to add workflows: write to spec.tenants[].maxPermissions",
            granted.app
        )
    } else {
        format!(
            "the App needs it on GitHub, {} has to accept it at {}, and GitHubApp {} has to grant it in \
             spec.tenants[].maxPermissions",
            granted.account, granted.settings_url, granted.app
        )
    };
    let message = format!(
        "{} stays behind its upstream, which changed a workflow file: that takes the permission workflows: write ({error}). Either \
         {remedy}, or bring the fork in step by hand",
        fork.full_name
    );
    Failure::stalled(Reason::InsufficientPermissions, message)
}
