//! Carries out one step. Created objects and answers go into [`super::memory`], where the next plan finds them.

use super::WorkspaceKind;
use super::gather::{api, live};
use super::keep;
use super::memory::{Failed, Pull, Task};
use super::objects;
use super::plan::{Step, taken};
use super::pods::Trouble;
use super::pull;
use super::remote::{believe, look, resolve};
use super::seen::{Holder, PodSeen, Repository, Seen, VolumeSeen, Way};
use super::volume;
use crate::api::{
    FIELD_MANAGER, InstallationToken, Reason, SAVED_ANNOTATION, WORK_FINALIZER, WORKSPACE_LABEL,
    WORKSPACE_REPOSITORY_ANNOTATION, WORKSPACE_UID_ANNOTATION, Workspace,
};
use crate::controllers::object::{requested_look, set_finalizer};
use crate::controllers::reconcile::{Done, Failure};
use crate::controllers::standing::{Again, Standing};
use crate::runtime::lenient::Lenient;
use jiff::SignedDuration;
use json_patch::jsonptr::PointerBuf;
use json_patch::{PatchOperation, ReplaceOperation};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

/// Carries out a step. Returns the object if the step changed it.
///
/// # Errors
/// The reason why it failed, and when to try again.
pub async fn apply(kind: &WorkspaceKind, seen: &Seen, step: Step) -> Result<Done<Workspace>, Failure> {
    let object = &seen.object;
    // Watches bring creations and deletions. Until then, the caches have the earlier state.
    let waits = makes_others(&step) || (step == Step::ReleaseVolume && !seen.is_going());
    match step {
        Step::AddFinalizer => {
            return Ok(Done::Again(Some(set_finalizer(&kind.shared.client, &**object, WORK_FINALIZER, true).await?)));
        }
        Step::RemoveFinalizer => {
            set_finalizer(&kind.shared.client, &**object, WORK_FINALIZER, false).await?;
            // The memory about the object stays until the cache no longer has the object. A queued reconcile may still
            // find it there, without its volume, and would otherwise report its work as lost.
            return Ok(Done::Finished);
        }
        Step::Resolve => resolve(kind, seen).await?,
        Step::MakeToken => {
            let Way::Open(repository) = &seen.way else { return Ok(Done::Again(None)) };
            let wanted = token(kind, seen, repository);
            create(kind, object, wanted, |it| objects::is_ours(it, object)).await?;
        }
        Step::RepairToken => {
            let Way::Open(repository) = &seen.way else { return Ok(Done::Again(None)) };
            let wanted = token(kind, seen, repository);
            // The whole spec is replaced, because a merge would keep fields that it does not name.
            let value = serde_json::to_value(wanted.spec).map_err(kube::Error::SerdeError)?;
            let path = PointerBuf::from_tokens(["spec"]);
            let change = json_patch::Patch(vec![PatchOperation::Replace(ReplaceOperation { path, value })]);
            api::<InstallationToken>(kind, object)
                .patch(&objects::name(object), &PatchParams::default(), &Patch::Json::<()>(change))
                .await?;
        }
        Step::DropToken => drop_token(kind, object).await?,
        Step::MakeVolume => make_volume(kind, seen).await?,
        Step::HoldVolume => {
            let claim = claim(kind, object).await?;
            if let Some(claim) = claim {
                set_finalizer(&kind.shared.client, &claim, WORK_FINALIZER, true).await?;
            }
        }
        Step::AdoptVolume(former) => {
            if let Some(standing) = adopt_volume(kind, seen, &former).await? {
                return Ok(Done::Waits { standing, again: Some(Again::Person) });
            }
        }
        Step::MarkVolume => {
            if let Some(claim) = claim(kind, object).await? {
                match volume::mark(&kind.shared, &claim).await {
                    // A policy of the cluster may refuse it. Then this process and status remember the clone.
                    Err(kube::Error::Api(refused)) if matches!(refused.code, 403 | 422) => {
                        tracing::warn!(%refused, "a volume cannot be marked");
                    }
                    marked => marked?,
                }
                kind.memory.update(uid(object), |known| known.cloned = claim.metadata.uid);
            }
        }
        Step::GrowVolume => grow_volume(kind, object).await?,
        Step::ReleaseVolume => Box::pin(release_volume(kind, seen)).await?,
        Step::KeepVolume(why) => Box::pin(keep::keep_volume(kind, seen, &why)).await?,
        Step::GiveUp(why) => give_up(kind, seen, &why).await,
        Step::StartPod => Box::pin(start_pod(kind, seen)).await?,
        Step::EndPod => {
            let PodSeen::Ours(pod) = &seen.pod else { return Ok(Done::Again(None)) };
            if let Some(trouble) = pod.failed.as_ref().filter(|_| seen.is_wanted()) {
                pod_failed(kind, seen, &pod.name, trouble).await;
            }
            // The remote's branches may change until then.
            kind.memory.update(uid(object), |known| known.remote = None);
            delete::<Pod>(kind, object, &pod.name, Some(pod.uid.clone())).await?;
        }
        Step::Save(attempt) => {
            let target = seen.target.as_ref().map_err(|_| Failure::waiting("the repository is not known yet"))?;
            let job = objects::job(object, attempt, &seen.branch(), target, &kind.shared.settings.workspaces);
            create(kind, object, job, |it| objects::is_ours(it, object)).await?;
            let request = requested_look(&**object).cloned();
            kind.memory.update(uid(object), |known| known.request = request);
            // The last two Jobs stay for people who look for the cause. With spec.save.onFailure: Block there is one
            // each half hour.
            if let Some(old) = attempt.checked_sub(2).filter(|old| *old > 0) {
                delete::<Job>(kind, object, &objects::job_name(object, old), None).await?;
            }
        }
        Step::Look => {
            let remote = look(kind, seen).await?;
            let request = requested_look(&**object).cloned();
            kind.memory.update(uid(object), |known| {
                let before = known.remote.as_ref().and_then(|before| before.listed.branch.as_ref());
                if known.request != request || before != remote.listed.branch.as_ref() {
                    // The pull request may have been merged or closed, so it is looked for again, which costs a call.
                    known.pull = known.pull.take().filter(|pull| matches!(pull, Pull::None { .. }));
                }
                known.remote = Some(remote);
                known.request = request;
            });
        }
        Step::Believe(evidence) => believe(kind, seen, &evidence).await?,
        Step::FindPull => pull::find(kind, seen).await?,
        Step::OpenPull => Box::pin(pull::open(kind, seen)).await?,
        Step::FinishPull => Box::pin(pull::finish(kind, seen)).await?,
    }
    if waits {
        let reason = if seen.is_wanted() { Reason::PodStarting } else { Reason::Saving };
        return Ok(Done::Waits { standing: Standing::reconciling(reason, progress(seen)), again: None });
    }
    Ok(Done::Again(None))
}

/// Whether a step creates or deletes an object whose cache does not have the change yet.
fn makes_others(step: &Step) -> bool {
    matches!(
        step,
        Step::MakeToken
            | Step::RepairToken
            | Step::DropToken
            | Step::MakeVolume
            | Step::HoldVolume
            | Step::AdoptVolume(_)
            | Step::StartPod
            | Step::EndPod
            | Step::Save(_)
    )
}

fn progress(seen: &Seen) -> &'static str {
    if seen.is_going() {
        "it is being deleted; the work on its volume is saved first"
    } else if seen.is_wanted() {
        "its token, its volume and its pod are being made"
    } else {
        "its pod is being ended"
    }
}

pub fn uid(object: &Workspace) -> &str {
    object.metadata.uid.as_deref().unwrap_or_default()
}

fn token(kind: &WorkspaceKind, seen: &Seen, repository: &Repository) -> InstallationToken {
    let token = objects::token(&seen.object, &repository.installation, repository.id, seen.workflows);
    kind.shared.guards.token_scope(token)
}

/// Creates an object. If it exists by now, the cache was late, and the next reconcile finds it. An object of somebody
/// else is a failure.
async fn create<K>(
    kind: &WorkspaceKind,
    object: &Workspace,
    wanted: K,
    is_ours: impl Fn(&K) -> bool,
) -> Result<(), Failure>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + DeserializeOwned
        + serde::Serialize
        + Clone
        + Debug,
{
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let (name, api) = (wanted.name_any(), api::<K>(kind, object));
    match api.create(&params, &Lenient::from(wanted)).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    let there = api.get_opt(&name).await?.map(Lenient::read).transpose()?;
    let is_watched = |there: &K| is_ours(there) && there.labels().get(WORKSPACE_LABEL) == Some(&object.name_any());
    match there {
        Some(there) if !is_watched(&there) => {
            let of = objects::holder(&there, object);
            Err(Failure::Remote(taken(&K::kind(&()), &name, &of), Again::Backoff))
        }
        _ => Ok(()),
    }
}

/// Deletes an object, if it still has this uid.
async fn delete<K>(kind: &WorkspaceKind, object: &Workspace, name: &str, uid: Option<String>) -> Result<(), Failure>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let preconditions = uid.map(|uid| kube::api::Preconditions { uid: Some(uid), resource_version: None });
    let params = DeleteParams {
        preconditions,
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    match api::<K>(kind, object).delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn drop_token(kind: &WorkspaceKind, object: &Workspace) -> Result<(), Failure> {
    let token = live::<InstallationToken>(kind, object).await?;
    let Some(token) = token.filter(|token| objects::is_ours(token, object)) else { return Ok(()) };
    set_finalizer(&kind.shared.client, &token, WORK_FINALIZER, false).await?;
    delete::<InstallationToken>(kind, object, &token.name_any(), token.uid()).await
}

pub async fn claim(kind: &WorkspaceKind, object: &Workspace) -> Result<Option<PersistentVolumeClaim>, Failure> {
    let claim = live::<PersistentVolumeClaim>(kind, object).await?;
    Ok(claim.filter(|claim| kind.shared.guards.owner(objects::is_our_claim(claim, object))))
}

async fn make_volume(kind: &WorkspaceKind, seen: &Seen) -> Result<(), Failure> {
    let object = &seen.object;
    let was_cloned = object.status.as_ref().and_then(|status| status.timings.as_ref()?.clone_time.as_ref()).is_some();
    let was_parted = seen.known.safe.is_some() || seen.known.is_parted;
    let Way::Open(repository) = &seen.way else { return Ok(()) };
    create(kind, object, objects::claim(object, repository.id), |it| objects::is_our_claim(it, object)).await?;
    if was_cloned && !was_parted {
        let message = format!(
            "the volume was deleted without the operator: work on it that was not pushed is lost, except for autosaves at \
             refs/landfall/wip/{}. The repository is cloned again",
            uid(object)
        );
        kind.shared.warn(&**object, Reason::VolumeLost, &message).await;
    }
    kind.memory.update(uid(object), |known| {
        known.safe = None;
        known.is_parted = false;
        known.ended.clear();
        known.last_pod.clear();
        known.report = None;
    });
    Ok(())
}

/// Makes the claim of an earlier workspace of the same name this workspace's own. That workspace is gone, because this one has its
/// name. Returns the standing if its volume has a clone of another repository, whose readers may not be those of this one.
async fn adopt_volume(kind: &WorkspaceKind, seen: &Seen, former: &str) -> Result<Option<Standing>, Failure> {
    let object = &*seen.object;
    let Way::Open(repository) = &seen.way else { return Ok(None) };
    let claim = live::<PersistentVolumeClaim>(kind, object).await?;
    let is_its = |claim: &PersistentVolumeClaim| objects::holder(claim, object) == Holder::Former(former.to_owned());
    let Some(claim) = claim.filter(is_its) else { return Ok(None) };
    let of = claim.annotations().get(WORKSPACE_REPOSITORY_ANNOTATION);
    if of != Some(&repository.id.to_string()) {
        let of = of.map_or("one that its annotations do not name", String::as_str);
        let message = format!(
            "PersistentVolumeClaim {} cannot be taken over: the earlier Workspace was of the repository with id {of}, and this one is \
             of the repository with id {}. Mount the claim in a pod to get at the work, or make a Workspace of another name",
            claim.name_any(),
            repository.id
        );
        return Ok(Some(Standing::stalled(Reason::NameTaken, message)));
    }
    let change = json!({"metadata": {
        "resourceVersion": claim.metadata.resource_version,
        "annotations": {WORKSPACE_UID_ANNOTATION: uid(object), SAVED_ANNOTATION: null},
    }});
    let claims = api::<PersistentVolumeClaim>(kind, object);
    claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
    let message =
        format!("PersistentVolumeClaim {} of the Workspace with uid {former} is taken over", claim.name_any());
    kind.shared.events.transition(&object.object_ref(&()), EventType::Normal, Reason::Cloned.as_str(), &message).await;
    Ok(None)
}

async fn grow_volume(kind: &WorkspaceKind, object: &Workspace) -> Result<(), Failure> {
    let size = &object.spec.storage.size;
    let Some(claim) = claim(kind, object).await? else { return Ok(()) };
    if objects::asks_for_less(&claim, size) {
        let change = json!({
            "metadata": {"resourceVersion": claim.metadata.resource_version},
            "spec": {"resources": {"requests": {"storage": size}}},
        });
        api::<PersistentVolumeClaim>(kind, object)
            .patch(&objects::name(object), &PatchParams::default(), &Patch::Merge(change))
            .await?;
    }
    kind.memory.update(uid(object), |known| known.grown_to = Some(size.clone()));
    Ok(())
}

async fn start_pod(kind: &WorkspaceKind, seen: &Seen) -> Result<(), Failure> {
    let object = &seen.object;
    let target = seen.target.as_ref().map_err(|_| Failure::waiting("the repository is not known yet"))?;
    kind.memory.update(uid(object), |known| {
        // The new pod will have other work to save than an earlier one.
        known.safe = None;
        known.is_parted = false;
        known.ended.clear();
        known.last_pod.clear();
        known.remote = None;
        known.report = None;
    });
    let pod = objects::pod(object, target, &kind.shared.settings.workspaces);
    let pod = kind.shared.guards.pod(pod, &kind.shared.client, object).await;
    create(kind, object, pod, |it| objects::is_ours(it, object)).await
}

/// The longest wait before a failed pod is replaced.
const LONGEST_REST: SignedDuration = SignedDuration::from_mins(5);

/// Reports why a pod failed, and delays the next one: a node that refuses the pod would otherwise get one each second.
async fn pod_failed(kind: &WorkspaceKind, seen: &Seen, pod: &str, trouble: &Trouble) {
    let (object, now) = (&seen.object, kind.shared.now());
    let about = seen.about();
    let before = seen.known.failed.get(&Task::Run).filter(|before| {
        before.about == about && before.until.checked_add(2 * LONGEST_REST).is_ok_and(|end| end > now)
    });
    let times = before.map_or(0, |before| before.times) + 1;
    let rest = SignedDuration::from_secs(1 << times.min(9)).min(LONGEST_REST);
    let until = now.checked_add(rest).unwrap_or(now);
    let Trouble { reason, message } = trouble;
    let message =
        format!("pod {pod} failed: {reason}: {}; another follows, on the same volume", message.trim_end_matches('.'));
    kind.shared.warn(&**object, Reason::PodFailed, &message).await;
    let standing = Standing::reconciling(Reason::PodFailed, message);
    kind.memory.update(uid(object), |known| {
        known.failed.insert(Task::Run, Failed { standing, until, times, about });
    });
}

async fn release_volume(kind: &WorkspaceKind, seen: &Seen) -> Result<(), Failure> {
    let object = &seen.object;
    let Some(claim) = claim(kind, object).await? else { return Ok(()) };
    if claim.metadata.deletion_timestamp.is_none() {
        delete::<PersistentVolumeClaim>(kind, object, &claim.name_any(), claim.uid()).await?;
    }
    // From here on, no further pod gets the volume. A pod that has it may have written after the work was read back.
    let has_work = !seen.known.is_parted && matches!(seen.volume, VolumeSeen::Ours { volume: Some(_), .. });
    if has_work {
        let namespace = object.namespace().unwrap_or_default();
        let pods = volume::mounted_by(&kind.shared, &namespace, &claim.name_any()).await?;
        if !pods.is_empty() {
            let why = format!("{} when it was to be deleted", has_it(&pods));
            return Box::pin(keep::keep_volume(kind, seen, &why)).await;
        }
    }
    // Because of the finalizer, the claim still exists.
    if let Some(claim) = self::claim(kind, object).await? {
        set_finalizer(&kind.shared.client, &claim, WORK_FINALIZER, false).await?;
    }
    Ok(())
}

/// The pods that have a volume, for a message.
pub fn has_it(pods: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = pods.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match pods.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        Some(more) => format!("pods {shown} and {more} more had the volume"),
        None if pods.len() == 1 => format!("pod {shown} had the volume"),
        None => format!("pods {shown} had the volume"),
    }
}

/// Reports the work that is given up, before it is.
async fn give_up(kind: &WorkspaceKind, seen: &Seen, why: &str) {
    let object = &seen.object;
    let reported = object.status.as_ref().and_then(|status| status.git.as_ref());
    let counts = reported.and_then(|git| Some((git.changed_files?, git.untracked_files?, git.unpushed_commits?)));
    let what = counts.map_or_else(
        || "nothing is known about its content".to_owned(),
        |(changed, untracked, unpushed)| {
            format!(
                "as it was last reported: {changed} changed and {untracked} untracked files, {unpushed} commits that the \
                 remote does not have",
            )
        },
    );
    let how = match seen.pod {
        PodSeen::Ours(_) => {
            "and the operator does not wait for its work to be pushed, which the pod still tries as it ends"
        }
        PodSeen::Absent | PodSeen::Foreign => "without its work having been pushed",
    };
    let message = format!("the volume is deleted, {how}; {what}: {why}");
    kind.shared.warn(&**object, Reason::WorkDiscarded, &message).await;
    kind.memory.update(uid(object), |known| known.is_parted = true);
}

/// Remembers the result for the pull request.
pub fn remember(kind: &WorkspaceKind, object: &Workspace, pull: Pull) {
    kind.memory.update(uid(object), |known| known.pull = Some(pull));
}
