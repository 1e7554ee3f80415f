//! Calls to GitHub and the remote, and the check of a save.
//!
//! All calls use the workspace's own token, from its Secret, so the operator does nothing for a workspace that its
//! token does not permit. Work is safe when the remote lists the commits of the save. The evidence of a save alone is
//! never enough.

use super::WorkspaceKind;
use super::apply::{claim, has_it, uid};
use super::gather::{api, live};
use super::memory::{Disbelieved, Remote, Safe};
use super::objects;
use super::seen::{Seen, Way};
use super::volume;
use crate::agent::evidence::{Evidence, Listed, autosave_ref, wip_digest, wip_prefix};
use crate::api::{InstallationToken, MANAGED_BY, Reason, SAVED_ANNOTATION, Workspace};
use crate::controllers::identified;
use crate::controllers::rations::Caller;
use crate::controllers::reconcile::Failure;
use crate::controllers::standing::{Again, Standing, git_failure, github_failure};
use crate::git::{self, BasicAuth};
use crate::github::{GitHub, Token};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;

/// The client of the App's GitHub.
///
/// # Errors
/// The App's credentials cannot be used.
pub fn client(seen: &Seen) -> Result<&Arc<GitHub>, Failure> {
    seen.tools.github.as_ref().ok_or_else(|| {
        Failure::waiting(
            "the GitHubApp's credentials cannot be used; its conditions say why, and this goes on as soon as they can",
        )
    })
}

/// The workspace's token, from its Secret.
///
/// # Errors
/// It does not exist.
pub async fn own_token(kind: &WorkspaceKind, object: &Workspace) -> Result<Token, Failure> {
    let name = objects::name(object);
    let secret = live::<Secret>(kind, object).await?;
    let token = kind.shared.caches.named::<InstallationToken>(&object.namespace().unwrap_or_default(), &name);
    let uid = token.as_ref().and_then(|token| token.uid());
    let is_ours = |secret: &Secret| {
        uid.is_some()
            && secret.labels().get(crate::api::MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)
            && secret.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
    };
    let Some(secret) = secret.filter(|secret| kind.shared.guards.owner(is_ours(secret))) else {
        // The deletion of a namespace deletes Secrets first. This process may have minted the token in it.
        let minted = uid.as_ref().and_then(|uid| kind.tokens.content(uid));
        return minted
            .map(|minted| minted.token.clone())
            .ok_or_else(|| Failure::waiting(format!("Secret {name} is not there yet")));
    };
    let password = secret.data.as_ref().and_then(|data| data.get("password")).map(|bytes| bytes.0.clone());
    let password = password.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty());
    password.map(Token::new).ok_or_else(|| Failure::waiting(format!("Secret {name} has no password")))
}

/// Asks GitHub for the repository's current name.
pub async fn resolve(kind: &WorkspaceKind, seen: &Seen) -> Result<(), Failure> {
    let Way::Open(repository) = &seen.way else { return Ok(()) };
    let (github, object) = (client(seen)?, &seen.object);
    let token = own_token(kind, object).await?;
    let now = kind.shared.now();
    let namespace = object.namespace().unwrap_or_default();
    let asked = match &seen.tools.installation {
        Some((app, installation)) => {
            let caller = Caller { uid: uid(object), namespace: &namespace, app };
            identified::repository(&kind.shared, github, &token, (*installation, repository.id), caller).await
        }
        None => github.repository(&token, repository.id).await,
    };
    let repository = asked.map_err(|error| {
        let (mut standing, again) =
            github_failure(&error, &format!("asking for the repository with id {}", repository.id));
        if standing.reason == Reason::InstallationNotFound {
            standing.reason = Reason::RepositoryNotFound;
        }
        Failure::Remote(standing, again)
    })?;
    kind.memory.update(uid(object), |known| known.repository = Some((Arc::new(repository), now)));
    Ok(())
}

/// Lists the workspace's branches.
pub async fn look(kind: &WorkspaceKind, seen: &Seen) -> Result<Remote, Failure> {
    let (github, object) = (client(seen)?, &seen.object);
    let (Some((repository, _)), Some(transport)) = (&seen.known.repository, &seen.tools.git) else {
        return Err(Failure::waiting("the repository is not known yet"));
    };
    let now = kind.shared.now();
    let remote = git::Remote::github(github.endpoint(), &repository.full_name)
        .map_err(|error| Failure::waiting(error.to_string()))?;
    let credentials = BasicAuth::installation(own_token(kind, object).await?);
    let (name, uid, branch) = (object.name_any(), uid(object), seen.branch());
    let target = seen.target_branch();
    let heads = |branch: &str| format!("refs/heads/{branch}");
    let (branch_ref, target_ref) = (heads(&branch), heads(&target));
    let (wip, autosave) = (wip_prefix(&name, uid), autosave_ref(uid));
    let prefixes = [branch_ref.as_str(), target_ref.as_str(), wip.as_str(), autosave.as_str()];
    let refs = git::listed(transport, &remote, Some(&credentials), &prefixes, &*kind.shared.clock).await;
    let refs = refs.map_err(|error| {
        if matches!(error, git::Error::Moved { .. }) {
            // The id finds the repository under any name.
            kind.memory.update(uid, |known| known.repository = None);
        }
        Failure::from(git_failure(&error))
    })?;
    let named = |name: &str| refs.get(name).map(|sha| sha.as_str().to_owned());
    let in_progress = refs.iter().filter(|(name, _)| name.starts_with(&wip));
    let report = seen.known.report.as_ref().map(|(_, report)| report);
    Ok(Remote {
        listed: Listed {
            branch: named(&branch_ref),
            wip: wip_digest(in_progress.map(|(name, sha)| (name.as_str(), sha.as_str()))),
            autosave: named(&autosave),
        },
        target: named(&target_ref),
        asked: branch,
        heard: report.and_then(|report| report.remote_head.clone()),
        heard_save: report.and_then(|report| Some(report.autosave.as_ref()?.commit.clone())),
        at: now,
    })
}

/// Compares the evidence of a save with the remote. Only if they agree is the work safe.
pub async fn believe(kind: &WorkspaceKind, seen: &Seen, evidence: &Evidence) -> Result<(), Failure> {
    let object = &seen.object;
    let remote = look(kind, seen).await?;
    let is_there = evidence.is_of_nothing()
        || (remote.listed.branch == evidence.remote.branch && remote.listed.wip == evidence.remote.wip);
    let is_there = kind.shared.guards.saved(is_there);
    let namespace = object.namespace().unwrap_or_default();
    let pods = volume::mounted_by(&kind.shared, &namespace, &objects::name(object)).await?;
    let why = if pods.is_empty() {
        "the remote does not have the commits of the save, or more was pushed meanwhile".to_owned()
    } else {
        format!("{} while its work was saved, and may have written to it; delete what else mounts it", has_it(&pods))
    };
    let is_there = is_there && pods.is_empty();
    let branch = format!("refs/heads/{}", remote.asked);
    let safe = is_there.then(|| {
        let place = evidence.saved.first();
        Safe {
            commit: place.map(|place| place.commit.to_string()).or_else(|| evidence.remote.branch.clone()),
            is_on_branch: evidence.more == 0 && evidence.saved.iter().all(|place| place.name == branch),
            reference: place.map_or_else(|| branch.clone(), |place| place.name.clone()),
            at: remote.at,
            message: saved(evidence),
        }
    });
    if let Some(safe) = &safe {
        note(kind, object, safe).await?;
        // The event stays for a while after the object is deleted.
        let commit = safe.commit.as_deref().map(|commit| format!(" ({commit})")).unwrap_or_default();
        let message = format!("read back at the end: {}{commit}", safe.message);
        kind.shared
            .events
            .transition(&object.object_ref(&()), EventType::Normal, Reason::Saved.as_str(), &message)
            .await;
    }
    kind.memory.update(uid(object), |known| {
        if safe.is_none() {
            // Somebody pushed meanwhile, or the evidence is not from the operator's save. A Job saves again.
            known.disbelieved = Some(Disbelieved { pod: seen.saver.clone(), why: why.clone() });
        }
        known.remote = Some(remote);
        known.safe = safe;
    });
    if !is_there {
        return Err(Failure::Remote(
            Standing::reconciling(Reason::Saving, format!("{why}: it is saved again")),
            Again::Backoff,
        ));
    }
    Ok(())
}

/// Notes on the claim that its work was read back, so that it is deleted even if this process ends before that.
async fn note(kind: &WorkspaceKind, object: &Workspace, safe: &Safe) -> Result<(), Failure> {
    let Some(claim) = claim(kind, object).await? else { return Ok(()) };
    let note = serde_json::to_string(safe).map_err(kube::Error::SerdeError)?;
    let change = json!({"metadata": {"uid": claim.uid(), "annotations": {SAVED_ANNOTATION: note}}});
    let claims = api::<PersistentVolumeClaim>(kind, object);
    claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}

/// A description of where the work is.
fn saved(evidence: &Evidence) -> String {
    let places = evidence.saved.iter().map(|place| format!("{} at {}", place.what, place.name));
    let places = places.collect::<Vec<_>>().join(", ");
    match (places.is_empty(), evidence.more) {
        (true, _) => "the remote has all of it".to_owned(),
        (false, 0) => format!("the remote has {places}"),
        (false, more) => format!("the remote has {places}, and {more} more"),
    }
}
