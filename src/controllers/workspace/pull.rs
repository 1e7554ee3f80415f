//! The pull request. The operator looks for one by its branch before it opens one, so that there is never a second.

use super::WorkspaceKind;
use super::apply::{remember, uid};
use super::memory::Pull;
use super::remote::{client, own_token};
use super::seen::Seen;
use crate::api::{PullRequestMode, PullRequestOnDelete, Reason};
use crate::controllers::reconcile::Failure;
use crate::controllers::standing::{Again, Standing, github_failure};
use crate::github::{Error, GitHub, NewPull, NotOpened, PullState, Repository, Token};
use kube::ResourceExt;
use std::sync::Arc;

/// The parameters of all calls.
pub(crate) struct Asking<'a> {
    pub(crate) github: &'a Arc<GitHub>,
    pub(crate) token: Token,
    repository: &'a Repository,
    pub(crate) owner: &'a str,
    pub(crate) name: &'a str,
}

async fn asking<'a>(kind: &WorkspaceKind, seen: &'a Seen) -> Result<Asking<'a>, Failure> {
    let github = client(seen)?;
    let known = seen.known.repository.as_ref().map(|(repository, _)| &**repository);
    let named = known.and_then(|repository| Some((repository, repository.full_name.split_once('/')?)));
    let Some((repository, (owner, name))) = named else {
        let standing = Standing::reconciling(Reason::WaitingForReference, "the repository is not known yet");
        return Err(Failure::Remote(standing, Again::Backoff));
    };
    let token = own_token(kind, &seen.object).await?;
    Ok(Asking { github, token, repository, owner, name })
}

fn refused(error: &Error, what: &str) -> Failure {
    github_failure(error, what).into()
}

/// Looks for the pull request: an open one, else the newest closed one.
pub async fn find(kind: &WorkspaceKind, seen: &Seen) -> Result<(), Failure> {
    let asking = asking(kind, seen).await?;
    remember(kind, &seen.object, look(seen, &asking).await?);
    Ok(())
}

async fn look(seen: &Seen, asking: &Asking<'_>) -> Result<Pull, Failure> {
    let head = format!("{}:{}", asking.owner, seen.branch());
    let all = asking.github.pull_requests(&asking.token, asking.owner, asking.name, &head).await;
    let mut all = all.map_err(|error| refused(&error, "looking for the pull request"))?;
    all.retain(|pull| pull.head.repo.as_ref().is_none_or(|repository| repository.id == asking.repository.id));
    all.sort_by_key(|pull| (pull.state == PullState::Open, pull.number));
    Ok(all.pop().map_or(Pull::None { tried: None }, |pull| Pull::Found(Box::new(pull))))
}

/// Opens the pull request.
pub async fn open(kind: &WorkspaceKind, seen: &Seen) -> Result<(), Failure> {
    let asking = asking(kind, seen).await?;
    let object = &seen.object;
    let wish = &object.spec.pull_request;
    let (branch, target) = (seen.branch(), seen.target_branch());
    let name = object.name_any();
    let wanted = NewPull {
        title: wish.title.as_deref().unwrap_or(&name),
        head: &branch,
        base: &target,
        body: wish.body.as_deref().unwrap_or_default(),
        draft: wish.mode == PullRequestMode::Draft,
    };
    let wanted = kind.shared.guards.new_pull(wanted);
    let opened = asking.github.open_pull_request(&asking.token, asking.owner, asking.name, &wanted).await;
    match opened {
        Ok(pull) => {
            let number = pull.number;
            remember(kind, object, Pull::Found(Box::new(pull)));
            let labels: Vec<_> = wish.labels.iter().map(String::as_str).collect();
            if !labels.is_empty()
                && let Err(error) =
                    asking.github.add_labels(&asking.token, asking.owner, asking.name, number, &labels).await
            {
                // The pull request exists, and anybody can add the labels.
                tracing::warn!(%error, number, "the pull request's labels were not put on");
            }
            Ok(())
        }
        Err(error) => match NotOpened::of(&error) {
            Some(NotOpened::AlreadyExists) => {
                remember(kind, object, look(seen, &asking).await?);
                Ok(())
            }
            Some(NotOpened::NoCommits) => {
                let tried = seen.known.remote.as_ref().and_then(|remote| remote.listed.branch.clone());
                remember(kind, object, Pull::None { tried });
                Ok(())
            }
            Some(NotOpened::DraftUnsupported) => Err(Failure::Remote(
                Standing::stalled(
                    Reason::DraftUnsupported,
                    format!(
                        "GitHub refuses drafts in {}/{}, a private repository of a free plan: set spec.pullRequest.mode to Ready, or None",
                        asking.owner, asking.name
                    ),
                ),
                Again::Person,
            )),
            Some(NotOpened::BaseInvalid) => Err(Failure::Remote(
                Standing::stalled(
                    Reason::BranchNotFound,
                    format!("there is no branch {target} to merge into: push it, or correct spec.pullRequest.target"),
                ),
                Again::Person,
            )),
            Some(NotOpened::HeadInvalid) | None => {
                // GitHub may have opened it, or the branch was deleted. It is looked for again before another attempt.
                kind.memory.update(uid(object), |known| {
                    known.pull = None;
                    known.remote = None;
                });
                Err(refused(&error, "opening the pull request"))
            }
        },
    }
}

/// Closes or marks the pull request when the workspace is deleted.
pub async fn finish(kind: &WorkspaceKind, seen: &Seen) -> Result<(), Failure> {
    let asking = asking(kind, seen).await?;
    let object = &seen.object;
    let pull = look(seen, &asking).await?;
    let Pull::Found(pull) = kind.shared.guards.pull(pull, object, &asking).await else {
        kind.memory.update(uid(object), |known| known.is_pull_settled = true);
        return Ok(());
    };
    let is_open = pull.state == PullState::Open;
    let Asking { github, token, owner, name, .. } = &asking;
    match object.spec.pull_request.on_delete {
        PullRequestOnDelete::MarkReady if is_open && pull.draft => {
            let marked = github.ready_for_review(token, &pull.node_id).await;
            marked.map_err(|error| refused(&error, "marking the pull request as ready for review"))?;
        }
        PullRequestOnDelete::Close if is_open => {
            let closed = github.close_pull_request(token, owner, name, pull.number).await;
            closed.map_err(|error| refused(&error, "closing the pull request"))?;
        }
        PullRequestOnDelete::Keep | PullRequestOnDelete::MarkReady | PullRequestOnDelete::Close => {}
    }
    kind.memory.update(uid(object), |known| known.is_pull_settled = true);
    Ok(())
}
