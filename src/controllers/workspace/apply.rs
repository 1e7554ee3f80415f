//! Carries out one step. What GitHub and the remote said goes into [`super::memory`], where the next plan finds it.
//!
//! All calls are made with the workspace's own token, from its Secret: what the workspace may not do, is not done for it.

use super::gather::Found;
use super::keep;
use super::memory::{Failed, Pull, Remote, Safe, Task};
use super::objects;
use super::plan::{Step, taken};
use super::pods::Trouble;
use super::pull;
use super::seen::{PodSeen, Repository, Way};
use crate::api::{
    FIELD_MANAGER, InstallationToken, MANAGED_BY, RETAINED_LABEL, Reason, SAVED_ANNOTATION, WORK_FINALIZER,
    WORKSPACE_LABEL, Workspace,
};
use crate::controllers::context::{Context, requested_look, set_finalizer};
use crate::controllers::lenient::Lenient;
use crate::controllers::standing::{Again, Standing, git_failure, github_failure};
use crate::git::{self, BasicAuth};
use crate::github::{GitHub, Token};
use crate::workspace::evidence::{Evidence, Listed, autosave_ref, wip_digest, wip_prefix};
use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;

/// A step that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// GitHub, or the remote, did not do it. Not tried again before its time.
    #[error("{}", .0.message)]
    Remote(Standing, Again),
    /// Kubernetes did not do it.
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
}

impl Failure {
    /// Something is not there yet.
    fn waiting(message: impl Into<String>) -> Self {
        Self::Remote(Standing::reconciling(Reason::WaitingForReference, message), Again::Backoff)
    }
}

/// Carries it out. Gives back the object where the step changed it.
///
/// # Errors
/// Why it did not work, and when to try again.
pub async fn apply(context: &Context, found: &Found, step: Step) -> Result<Option<Workspace>, Failure> {
    let seen = &found.seen;
    let object = &seen.object;
    match step {
        Step::AddFinalizer => return Ok(Some(set_finalizer(&context.client, &**object, WORK_FINALIZER, true).await?)),
        Step::RemoveFinalizer => {
            return Ok(Some(set_finalizer(&context.client, &**object, WORK_FINALIZER, false).await?));
        }
        Step::Resolve => resolve(context, found).await?,
        Step::MakeToken => {
            let Way::Open(repository) = &seen.way else { return Ok(None) };
            let wanted = token(context, object, repository);
            create(context, object, &wanted, |it: &InstallationToken| objects::is_ours(it, object)).await?;
        }
        Step::RepairToken => {
            let Way::Open(repository) = &seen.way else { return Ok(None) };
            let wanted = token(context, object, repository);
            // The whole of it: what a merge does not name stays.
            let change = json!([{"op": "replace", "path": "/spec", "value": wanted["spec"]}]);
            let change = serde_json::from_value(change).map_err(kube::Error::SerdeError)?;
            api::<InstallationToken>(context, object)
                .patch(&objects::name(object), &PatchParams::default(), &Patch::Json::<()>(change))
                .await?;
        }
        Step::DropToken => drop_token(context, object).await?,
        Step::MakeVolume => make_volume(context, found).await?,
        Step::HoldVolume => {
            let claim = claim(context, object).await?;
            if let Some(claim) = claim {
                set_finalizer(&context.client, &claim, WORK_FINALIZER, true).await?;
            }
        }
        Step::ReleaseVolume => release_volume(context, object).await?,
        Step::KeepVolume(why) => Box::pin(keep::keep_volume(context, found, &why)).await?,
        Step::GiveUp(why) => give_up(context, found, &why).await,
        Step::StartPod => Box::pin(start_pod(context, found)).await?,
        Step::EndPod => {
            let PodSeen::Ours(pod) = &seen.pod else { return Ok(None) };
            if let Some(trouble) = pod.failed.as_ref().filter(|_| seen.is_wanted()) {
                pod_failed(context, found, &pod.name, trouble).await;
            }
            // What the remote has by then is another thing than what it had.
            context.workspaces.update(uid(object), |known| known.remote = None);
            delete::<Pod>(context, object, &pod.name, Some(pod.uid.clone())).await?;
        }
        Step::Save(attempt) => {
            let target = seen.target.as_ref().ok_or_else(|| Failure::waiting("the repository is not known yet"))?;
            let job = objects::job(object, attempt, &seen.branch(), target, &context.settings.workspaces);
            create(context, object, &job, |it: &Job| objects::is_ours(it, object)).await?;
            let request = requested_look(&**object).cloned();
            context.workspaces.update(uid(object), |known| known.request = request);
            // The last two are there for who wants to know; with spec.save.onFailure: Block there is one each half hour.
            if let Some(old) = attempt.checked_sub(2).filter(|old| *old > 0) {
                delete::<Job>(context, object, &objects::job_name(object, old), None).await?;
            }
        }
        Step::Look => {
            let remote = look(context, found).await?;
            let request = requested_look(&**object).cloned();
            context.workspaces.update(uid(object), |known| {
                let before = known.remote.as_ref().and_then(|before| before.listed.branch.as_ref());
                if known.request != request || before != remote.listed.branch.as_ref() {
                    // It may have been merged or closed: looked for again, which costs a call.
                    known.pull = known.pull.take().filter(|pull| matches!(pull, Pull::None { .. }));
                }
                known.remote = Some(remote);
                known.request = request;
            });
        }
        Step::Believe(evidence) => believe(context, found, &evidence).await?,
        Step::FindPull => pull::find(context, found).await?,
        Step::OpenPull => Box::pin(pull::open(context, found)).await?,
        Step::FinishPull => Box::pin(pull::finish(context, found)).await?,
    }
    Ok(None)
}

/// The object's uid.
pub fn uid(object: &Workspace) -> &str {
    object.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg_attr(not(feature = "sabotage"), expect(unused_variables, reason = "what a test takes out is in it"))]
fn token(context: &Context, object: &Workspace, repository: &Repository) -> Value {
    let token = objects::token(object, &repository.installation, repository.id);
    #[cfg(feature = "sabotage")]
    if context.sabotage.any_repository {
        let mut token = token;
        token["spec"]["repositories"] = json!([]);
        token["spec"]["allRepositories"] = json!(true);
        return token;
    }
    token
}

fn api<K>(context: &Context, object: &Workspace) -> Api<Lenient<K>>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default())
}

/// Makes an object. Should it be there by now, the cache was behind: the next look finds it. What is not ours, no look finds.
async fn create<K>(
    context: &Context,
    object: &Workspace,
    wanted: &Value,
    is_ours: impl Fn(&K) -> bool,
) -> Result<(), Failure>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + DeserializeOwned
        + serde::Serialize
        + Clone
        + Debug,
{
    let wanted: K = serde_json::from_value(wanted.clone()).map_err(kube::Error::SerdeError)?;
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let (name, api) = (wanted.name_any(), api::<K>(context, object));
    match api.create(&params, &Lenient::from(wanted)).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    let there = api.get_opt(&name).await?.map(Lenient::read).transpose()?;
    let is_watched = |there: &K| is_ours(there) && there.labels().get(WORKSPACE_LABEL) == Some(&object.name_any());
    match there {
        Some(there) if !is_watched(&there) => {
            let is_kept = there.labels().contains_key(RETAINED_LABEL);
            Err(Failure::Remote(taken(&K::kind(&()), &name, is_kept), Again::Backoff))
        }
        _ => Ok(()),
    }
}

/// Deletes an object, if it is still that one.
async fn delete<K>(context: &Context, object: &Workspace, name: &str, uid: Option<String>) -> Result<(), Failure>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let preconditions = uid.map(|uid| kube::api::Preconditions { uid: Some(uid), resource_version: None });
    let params = DeleteParams {
        preconditions,
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    match api::<K>(context, object).delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn drop_token(context: &Context, object: &Workspace) -> Result<(), Failure> {
    let name = objects::name(object);
    let token = api::<InstallationToken>(context, object).get_opt(&name).await?.map(Lenient::read).transpose()?;
    let Some(token) = token.filter(|token| objects::is_ours(token, object)) else { return Ok(()) };
    if token.finalizers().iter().any(|finalizer| finalizer == WORK_FINALIZER) {
        set_finalizer(&context.client, &token, WORK_FINALIZER, false).await?;
    }
    delete::<InstallationToken>(context, object, &name, token.uid()).await
}

pub async fn claim(context: &Context, object: &Workspace) -> Result<Option<PersistentVolumeClaim>, Failure> {
    let claim = api::<PersistentVolumeClaim>(context, object).get_opt(&objects::name(object)).await?;
    let claim = claim.map(Lenient::read).transpose()?;
    let is_ours = |claim: &PersistentVolumeClaim| objects::is_our_claim(claim, object);
    #[cfg(feature = "sabotage")]
    let is_ours = |claim: &PersistentVolumeClaim| context.sabotage.any_owner || is_ours(claim);
    Ok(claim.filter(is_ours))
}

async fn make_volume(context: &Context, found: &Found) -> Result<(), Failure> {
    let object = &found.seen.object;
    let was_cloned = object.status.as_ref().and_then(|status| status.timings.as_ref()?.cloned.as_ref()).is_some();
    let was_parted = found.seen.known.safe.is_some() || found.seen.known.is_parted;
    create(context, object, &objects::claim(object), |it: &PersistentVolumeClaim| objects::is_our_claim(it, object))
        .await?;
    if was_cloned && !was_parted {
        let message = format!(
            "the volume went without the operator: what was on it and not pushed is lost, but for autosaves at refs/landfall/wip/{}. \
             The repository is cloned anew",
            uid(object)
        );
        tell(context, object, Reason::VolumeLost, &message).await;
    }
    context.workspaces.update(uid(object), |known| {
        known.safe = None;
        known.is_parted = false;
        known.ended.clear();
        known.last_pod.clear();
        known.report = None;
    });
    Ok(())
}

async fn start_pod(context: &Context, found: &Found) -> Result<(), Failure> {
    let object = &found.seen.object;
    let target = found.seen.target.as_ref().ok_or_else(|| Failure::waiting("the repository is not known yet"))?;
    context.workspaces.update(uid(object), |known| {
        // What an earlier pod saved says nothing of what this one's will have to.
        known.safe = None;
        known.is_parted = false;
        known.ended.clear();
        known.last_pod.clear();
        known.remote = None;
        known.report = None;
    });
    let pod = objects::pod(object, target, &context.settings.workspaces);
    #[cfg(feature = "sabotage")]
    let pod = with_raw_fields(context, object, pod).await?;
    create(context, object, &pod, |it: &Pod| objects::is_ours(it, object)).await
}

/// All that the spec says of the pod, as it says it.
#[cfg(feature = "sabotage")]
async fn with_raw_fields(context: &Context, object: &Workspace, mut pod: Value) -> Result<Value, Failure> {
    if !context.sabotage.raw_pod_fields {
        return Ok(pod);
    }
    let path = Workspace::url_path(&(), object.namespace().as_deref());
    let get = http::Request::get(format!("{path}/{}", object.name_any())).body(Vec::new());
    let raw: Value = context.client.request(get.map_err(kube::Error::HttpError)?).await?;
    json_patch::merge(&mut pod["spec"], &raw["spec"]["pod"]);
    Ok(pod)
}

/// The longest wait before a pod that failed is followed by another.
const LONGEST_REST: SignedDuration = SignedDuration::from_mins(5);

/// Says why a pod failed, and lets some time pass before the next: a node that refuses it would have one a second.
async fn pod_failed(context: &Context, found: &Found, pod: &str, trouble: &Trouble) {
    let (object, now) = (&found.seen.object, context.clock.now());
    let about = found.seen.about();
    let before = found.seen.known.failed.get(&Task::Run).filter(|before| {
        before.about == about && before.until.checked_add(2 * LONGEST_REST).is_ok_and(|end| end > now)
    });
    let times = before.map_or(0, |before| before.times) + 1;
    let rest = SignedDuration::from_secs(1 << times.min(9)).min(LONGEST_REST);
    let until = now.checked_add(rest).unwrap_or(now);
    let Trouble { reason, message } = trouble;
    let message =
        format!("pod {pod} failed: {reason}: {}; another follows, on the same volume", message.trim_end_matches('.'));
    tell(context, object, Reason::PodFailed, &message).await;
    let standing = Standing::reconciling(Reason::PodFailed, message);
    context.workspaces.update(uid(object), |known| {
        known.failed.insert(Task::Run, Failed { standing, until, times, about });
    });
}

async fn release_volume(context: &Context, object: &Workspace) -> Result<(), Failure> {
    let Some(claim) = claim(context, object).await? else { return Ok(()) };
    if claim.metadata.deletion_timestamp.is_none() {
        delete::<PersistentVolumeClaim>(context, object, &claim.name_any(), claim.uid()).await?;
    }
    // With the finalizer on, it is still there.
    if let Some(claim) = self::claim(context, object).await?
        && claim.finalizers().iter().any(|finalizer| finalizer == WORK_FINALIZER)
    {
        set_finalizer(&context.client, &claim, WORK_FINALIZER, false).await?;
    }
    Ok(())
}

/// Says what is given up, before it is.
async fn give_up(context: &Context, found: &Found, why: &str) {
    let object = &found.seen.object;
    let seen = object.status.as_ref().and_then(|status| status.git.as_ref());
    let what = seen.map_or_else(
        || "nothing is known of what is on it".to_owned(),
        |git| {
            format!(
                "as it was last reported: {} changed and {} untracked files, {} commits that the remote does not have",
                git.dirty, git.untracked, git.unpushed
            )
        },
    );
    let how = match found.seen.pod {
        PodSeen::Ours(_) => "and nobody waits for its work to be pushed, which the pod still tries as it ends",
        PodSeen::Absent | PodSeen::Foreign => "without its work having been pushed",
    };
    let message = format!("the volume is deleted, {how}; {what}: {why}");
    tell(context, object, Reason::WorkDiscarded, &message).await;
    context.workspaces.update(uid(object), |known| known.is_parted = true);
}

/// An event that somebody should see.
pub async fn tell(context: &Context, object: &Workspace, reason: Reason, message: &str) {
    context.events.transition(&object.object_ref(&()), EventType::Warning, reason.as_str(), message).await;
}

/// The client.
///
/// # Errors
/// The App's credentials cannot be used.
pub fn client(found: &Found) -> Result<&Arc<GitHub>, Failure> {
    found.github.as_ref().ok_or_else(|| {
        Failure::waiting(
            "the GitHubApp's credentials cannot be used; its conditions say why, and this goes on as soon as they can",
        )
    })
}

/// The workspace's token, from its Secret.
///
/// # Errors
/// It is not there.
pub async fn own_token(context: &Context, object: &Workspace) -> Result<Token, Failure> {
    let name = objects::name(object);
    let secret = api::<Secret>(context, object).get_opt(&name).await?.map(Lenient::read).transpose()?;
    let token = context
        .stores
        .tokens
        .get(&kube::runtime::reflector::ObjectRef::new(&name).within(&object.namespace().unwrap_or_default()));
    let uid = token.as_ref().and_then(|token| token.uid());
    let is_ours = |secret: &Secret| {
        uid.is_some()
            && secret.labels().get(crate::api::MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)
            && secret.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
    };
    #[cfg(feature = "sabotage")]
    let is_ours = |secret: &Secret| context.sabotage.any_owner || is_ours(secret);
    let Some(secret) = secret.filter(is_ours) else {
        // A namespace that is being deleted takes Secrets first. This process may have minted what was in it.
        let minted = uid.as_ref().and_then(|uid| context.memory.content(uid));
        return minted
            .map(|minted| minted.token)
            .ok_or_else(|| Failure::waiting(format!("Secret {name} is not there yet")));
    };
    let password = secret.data.as_ref().and_then(|data| data.get("password")).map(|bytes| bytes.0.clone());
    let password = password.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty());
    password.map(Token::new).ok_or_else(|| Failure::waiting(format!("Secret {name} has no password")))
}

/// What the repository is called now.
async fn resolve(context: &Context, found: &Found) -> Result<(), Failure> {
    let Way::Open(repository) = &found.seen.way else { return Ok(()) };
    let (github, object) = (client(found)?, &found.seen.object);
    let token = own_token(context, object).await?;
    let now = context.clock.now();
    let repository = github.repository(&token, repository.id).await.map_err(|error| {
        let (mut standing, again) =
            github_failure(&error, &format!("asking for the repository with id {}", repository.id));
        if standing.reason == Reason::InstallationNotFound {
            standing.reason = Reason::RepositoryNotFound;
        }
        Failure::Remote(standing, again)
    })?;
    context.workspaces.update(uid(object), |known| known.repository = Some((Arc::new(repository), now)));
    Ok(())
}

/// Lists the workspace's branches.
async fn look(context: &Context, found: &Found) -> Result<Remote, Failure> {
    let (github, object) = (client(found)?, &found.seen.object);
    let (Some((repository, _)), Some(transport)) = (&found.seen.known.repository, &found.git) else {
        return Err(Failure::waiting("the repository is not known yet"));
    };
    let now = context.clock.now();
    let remote = git::Remote::github(github.endpoint(), &repository.full_name)
        .map_err(|error| Failure::waiting(error.to_string()))?;
    let credentials = BasicAuth::installation(own_token(context, object).await?);
    let (name, uid, branch) = (object.name_any(), uid(object), found.seen.branch());
    let target = found.seen.target_branch();
    let heads = |branch: &str| format!("refs/heads/{branch}");
    let (branch_ref, target_ref) = (heads(&branch), heads(&target));
    let (wip, autosave) = (wip_prefix(&name, uid), autosave_ref(uid));
    let prefixes = [branch_ref.as_str(), target_ref.as_str(), wip.as_str(), autosave.as_str()];
    let refs = git::listed(transport, &remote, Some(&credentials), &prefixes, &*context.clock).await;
    let refs = refs.map_err(|error| {
        if matches!(error, git::Error::Moved { .. }) {
            // By its id it is found under any name.
            context.workspaces.update(uid, |known| known.repository = None);
        }
        let (standing, again) = git_failure(&error);
        Failure::Remote(standing, again)
    })?;
    let named = |name: &str| refs.get(name).map(|sha| sha.as_str().to_owned());
    let in_progress = refs.iter().filter(|(name, _)| name.starts_with(&wip));
    let report = found.seen.known.report.as_ref().map(|(_, report)| report);
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

/// Holds what a save said of the remote against the remote. Only then is the work safe.
async fn believe(context: &Context, found: &Found, evidence: &Evidence) -> Result<(), Failure> {
    let object = &found.seen.object;
    let remote = look(context, found).await?;
    let is_there = evidence.is_of_nothing()
        || (remote.listed.branch == evidence.remote.branch && remote.listed.wip == evidence.remote.wip);
    #[cfg(feature = "sabotage")]
    let is_there = is_there || context.sabotage.believe_agent;
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
        note(context, object, safe).await?;
        // The object will be gone, and this stays for a while.
        let commit = safe.commit.as_deref().map(|commit| format!(" ({commit})")).unwrap_or_default();
        let message = format!("read back at the end: {}{commit}", safe.message);
        context.events.transition(&object.object_ref(&()), EventType::Normal, Reason::Saved.as_str(), &message).await;
    }
    context.workspaces.update(uid(object), |known| {
        if safe.is_none() {
            // Somebody pushed meanwhile, or it was not said by our save: a Job saves again.
            known.disbelieved.clone_from(&found.seen.saver);
        }
        known.remote = Some(remote);
        known.safe = safe;
    });
    if !is_there {
        return Err(Failure::Remote(
            Standing::reconciling(
                Reason::Saving,
                "the remote does not have what was said to be saved, or more was pushed meanwhile: it is saved again",
            ),
            Again::Backoff,
        ));
    }
    Ok(())
}

/// Notes on the claim that its work was read back, so that it goes should this process end before it does.
async fn note(context: &Context, object: &Workspace, safe: &Safe) -> Result<(), Failure> {
    let Some(claim) = claim(context, object).await? else { return Ok(()) };
    let note = serde_json::to_string(safe).map_err(kube::Error::SerdeError)?;
    let change = json!({"metadata": {"uid": claim.uid(), "annotations": {SAVED_ANNOTATION: note}}});
    let claims = api::<PersistentVolumeClaim>(context, object);
    claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}

/// In words, where the work is.
fn saved(evidence: &Evidence) -> String {
    let places = evidence.saved.iter().map(|place| format!("{} at {}", place.what, place.name));
    let places = places.collect::<Vec<_>>().join(", ");
    match (places.is_empty(), evidence.more) {
        (true, _) => "the remote has all of it".to_owned(),
        (false, 0) => format!("the remote has {places}"),
        (false, more) => format!("the remote has {places}, and {more} more"),
    }
}

/// Remembers what became of the pull request.
pub fn remember(context: &Context, object: &Workspace, pull: Pull) {
    context.workspaces.update(uid(object), |known| known.pull = Some(pull));
}
