//! Carries out one step. What was made, or said, goes into [`super::memory`], where the next plan finds it.

use super::gather::{Found, api, live};
use super::keep;
use super::memory::{Failed, Pull, Task};
use super::objects;
use super::plan::{Step, taken};
use super::pods::Trouble;
use super::pull;
use super::remote::{believe, look, resolve};
use super::seen::{PodSeen, Repository, Way};
use crate::api::{
    FIELD_MANAGER, InstallationToken, RETAINED_LABEL, Reason, WORK_FINALIZER, WORKSPACE_LABEL, Workspace,
};
use crate::controllers::context::Context;
use crate::controllers::object::{requested_look, set_finalizer};
use crate::controllers::standing::{Again, Standing};
use crate::runtime::lenient::Lenient;
use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

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
    pub(super) fn waiting(message: impl Into<String>) -> Self {
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
        Step::GrowVolume => grow_volume(context, object).await?,
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
        token["spec"]["repositorySelection"] = json!("All");
        return token;
    }
    token
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
    let token = live::<InstallationToken>(context, object).await?;
    let Some(token) = token.filter(|token| objects::is_ours(token, object)) else { return Ok(()) };
    set_finalizer(&context.client, &token, WORK_FINALIZER, false).await?;
    delete::<InstallationToken>(context, object, &token.name_any(), token.uid()).await
}

pub async fn claim(context: &Context, object: &Workspace) -> Result<Option<PersistentVolumeClaim>, Failure> {
    let claim = live::<PersistentVolumeClaim>(context, object).await?;
    let is_ours = |claim: &PersistentVolumeClaim| objects::is_our_claim(claim, object);
    #[cfg(feature = "sabotage")]
    let is_ours = |claim: &PersistentVolumeClaim| context.sabotage.any_owner || is_ours(claim);
    Ok(claim.filter(is_ours))
}

async fn make_volume(context: &Context, found: &Found) -> Result<(), Failure> {
    let object = &found.seen.object;
    let was_cloned = object.status.as_ref().and_then(|status| status.timings.as_ref()?.cloned_time.as_ref()).is_some();
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

async fn grow_volume(context: &Context, object: &Workspace) -> Result<(), Failure> {
    let size = &object.spec.storage.size;
    let Some(claim) = claim(context, object).await? else { return Ok(()) };
    if objects::asks_for_less(&claim, size) {
        let change = json!({
            "metadata": {"resourceVersion": claim.metadata.resource_version},
            "spec": {"resources": {"requests": {"storage": size}}},
        });
        api::<PersistentVolumeClaim>(context, object)
            .patch(&objects::name(object), &PatchParams::default(), &Patch::Merge(change))
            .await?;
    }
    context.workspaces.update(uid(object), |known| known.grown_to = Some(size.clone()));
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
    if let Some(claim) = self::claim(context, object).await? {
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

/// Remembers what became of the pull request.
pub fn remember(context: &Context, object: &Workspace, pull: Pull) {
    context.workspaces.update(uid(object), |known| known.pull = Some(pull));
}
