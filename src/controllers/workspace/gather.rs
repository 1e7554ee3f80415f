//! Reads everything that a decision about a `Workspace` needs, from caches and memory. While the workspace is being
//! deleted, it reads the volume's claim from the API server, because a late cache may not have the volume and its work
//! yet.

use super::WorkspaceKind;
use super::memory::{Remembered, Safe};
use super::objects::{self, Gateway, ROLE_LABEL, Target};
use super::pods::{self, Ended, PodView};
use super::seen::{
    JobEnd, JobSeen, NoTarget, PodSeen, Repository, Seen, TokenSeen, TokenState, Tools, VolumeSeen, Way, Workflows,
};
use super::volume;
use crate::api::{
    GitAuthor, InstallationToken, ProjectRepository, RETAINED_LABEL, Reason, SAVED_ANNOTATION, WORK_FINALIZER,
    Workspace,
};
use crate::controllers::connection::Connection;
use crate::controllers::object::has_finalizer;
use crate::controllers::reference::{Access, Purpose, Referred, refer};
use crate::controllers::standing::Standing;
use crate::github::{GitHub, Level};
use crate::runtime::lenient::Lenient;
use crate::settings::WorkspaceSettings;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;

/// Gathers the state.
///
/// # Errors
/// The volume's claim cannot be read.
pub async fn gather(kind: &WorkspaceKind, object: &Arc<Workspace>) -> Result<Seen, kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let uid = object.uid().unwrap_or_default();
    let name = objects::name(object);
    let shared = &*kind.shared;
    let claim: Option<Arc<PersistentVolumeClaim>> = if object.metadata.deletion_timestamp.is_some() {
        live(kind, object).await?.map(Arc::new)
    } else {
        shared.caches.named::<PersistentVolumeClaim>(&namespace, &name)
    };
    let ours = claim.as_ref().filter(|claim| objects::is_our_claim(claim, object));
    if let Some(safe) = ours.and_then(|claim| noted(claim)).filter(|_| is_to_go(object, claim.as_deref())) {
        kind.memory.update(&uid, |known| known.safe = known.safe.take().or(Some(safe)));
    }
    if let Some(claim) = ours.filter(|_| is_to_go(object, claim.as_deref()))
        && kind.memory.get(&uid).cloned != claim.metadata.uid
        && volume::has_mark(shared, claim).await?
    {
        kind.memory.update(&uid, |known| known.cloned.clone_from(&claim.metadata.uid));
    }
    if is_to_go(object, ours.map(|claim| &**claim)) {
        kind.memory.update(&uid, |known| known.ending_since = known.ending_since.or(Some(shared.now())));
    }
    let known = kind.memory.get(&uid);

    let token = shared.caches.named::<InstallationToken>(&namespace, &name);
    let (repository, missing) = repository(kind, object, token.as_deref());
    let referred = repository.as_ref().map(|repository| {
        let purpose = if object.metadata.deletion_timestamp.is_some() { Purpose::Removal } else { Purpose::Use };
        refer(shared, &namespace, &repository.installation, purpose)
    });
    let workflows = referred.as_ref().map_or(Workflows::Unknown, |referred| workflows(&referred.access));
    let unreferenced = repository.as_ref().and_then(|repository| unreferenced(kind, object, repository));
    let way = match (&referred, repository) {
        (Some(referred), Some(repository)) => way(referred, repository),
        _ => Way::Blocked { standing: missing, permanent: object.metadata.deletion_timestamp.is_some() },
    };
    let connection = referred.as_ref().and_then(|referred| referred.connection.as_ref());
    let github = connection.and_then(|connection| connection.github.clone());
    let target = connection.zip(github.as_deref()).ok_or(NoTarget::App).and_then(|(connection, github)| {
        let has_ca = referred.as_ref().and_then(|referred| referred.app.as_ref()?.spec.ca_bundle.as_ref()).is_some();
        target(object, &known, connection, github, &shared.settings.workspaces, has_ca)
    });
    let mut pod = shared.caches.named::<Pod>(&namespace, &name);
    if pod.is_none() && object.metadata.deletion_timestamp.is_some() {
        // The cache may not have it yet, or no longer, if its label was removed.
        pod = live::<Pod>(kind, object).await?.map(Arc::new);
    }
    let pod = match pod {
        None => PodSeen::Absent,
        Some(pod) if !kind.shared.guards.owner(objects::is_ours(&*pod, object)) => PodSeen::Foreign,
        Some(pod) => PodSeen::Ours(Box::new(PodView::of(&pod))),
    };
    if let PodSeen::Ours(pod) = &pod {
        kind.memory.update(&uid, |known| watch(known, pod, shared.now()));
    }
    let known = kind.memory.get(&uid);
    let job = newest_job(kind, object, &known);
    let (saver, ended) = last_saver(kind, object, &known, job.as_ref());
    let paused = |referred: &Referred| {
        referred.installation.as_ref().is_some_and(|installation| installation.spec.paused)
            || referred.app.as_ref().is_some_and(|app| app.spec.paused)
    };
    let seen = Seen {
        has_finalizer: has_finalizer(&**object, WORK_FINALIZER),
        is_paused: object.spec.paused || referred.as_ref().is_some_and(paused),
        has_gateway: shared.settings.workspaces.gateway.is_some(),
        is_namespace_going: shared.namespace(&namespace).is_none_or(|namespace| namespace.terminating),
        way,
        unreferenced,
        target,
        token: token.map_or(TokenSeen::Absent, |token| token_seen(kind, &token, object, workflows)),
        workflows,
        is_marked: known.cloned.is_some() && ours.is_some_and(|claim| claim.metadata.uid == known.cloned),
        volume: claim
            .as_ref()
            .map_or(VolumeSeen::Absent, |claim| volume_seen(kind, claim, object, known.grown_to.as_ref())),
        ended: ended.filter(|_| saver.is_none() || known.disbelieved.as_ref().is_none_or(|its| its.pod != saver)),
        saver,
        pod,
        job,
        known,
        object: Arc::clone(object),
        guards: shared.guards,
        tools: Tools {
            github,
            git: connection.and_then(|connection| connection.git.clone()),
            installation: referred.as_ref().and_then(|referred| match &referred.access {
                Access::Granted { installation, .. } => Some((referred.app_name.clone()?, *installation)),
                _ => None,
            }),
        },
    };
    Ok(shared.guards.workspace(seen))
}

/// The API for objects in the workspace's namespace.
pub fn api<K>(kind: &WorkspaceKind, object: &Workspace) -> Api<Lenient<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(kind.shared.client.clone(), &object.namespace().unwrap_or_default())
}

/// The object with the name of the workspace's objects, from the API server.
///
/// # Errors
/// It cannot be read.
pub async fn live<K>(kind: &WorkspaceKind, object: &Workspace) -> Result<Option<K>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    api::<K>(kind, object).get_opt(&objects::name(object)).await?.map(Lenient::read).transpose()
}

/// The repository of the workspace: that of the workspace's token, so that it stays the same whatever happens to the
/// `ProjectRepository`; before there is a token, that of the `ProjectRepository`.
pub(super) fn repository(
    kind: &WorkspaceKind,
    object: &Workspace,
    token: Option<&InstallationToken>,
) -> (Option<Repository>, Standing) {
    let bound = token.filter(|token| objects::is_ours(*token, object)).and_then(|token| {
        let id = token.spec.repositories.first()?.id?;
        Some(Repository { installation: token.spec.installation_ref.name.clone(), id })
    });
    let name = &object.spec.repository_ref.name;
    let wait = |message: String| Standing::reconciling(Reason::WaitingForReference, message);
    if bound.is_some() {
        return (bound, wait(String::new()));
    }
    let namespace = object.namespace().unwrap_or_default();
    let Some(project) = kind.shared.caches.named::<ProjectRepository>(&namespace, name) else {
        let message = format!(
            "there is no ProjectRepository {name} in namespace {namespace}: create it, or make a Workspace with another \
             spec.repositoryRef; it is picked up as soon as it is there"
        );
        return (None, wait(message));
    };
    let Some(installation) = &project.spec.installation_ref else {
        let message = format!(
            "ProjectRepository {name} has a spec.source.url: a workspace needs one that the GitHub App reaches, with an \
             installationRef and source.existing or source.fork"
        );
        return (None, Standing::stalled(Reason::InvalidSpec, message));
    };
    let found =
        kind.repositories.known_id(&project).map(|id| Repository { installation: installation.name.clone(), id });
    (found, wait(not_found_yet(name)))
}

fn not_found_yet(name: &str) -> String {
    format!(
        "ProjectRepository {name} was not found on GitHub yet: `kubectl describe projectrepository {name}` says why; this goes on \
         as soon as it is"
    )
}

/// Whether `spec.repositoryRef` still leads to the workspace's repository. A running pod goes on without it, and so does a save.
fn unreferenced(kind: &WorkspaceKind, object: &Workspace, repository: &Repository) -> Option<Standing> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), &object.spec.repository_ref.name);
    let Some(project) = kind.shared.caches.named::<ProjectRepository>(&namespace, name) else {
        let message = format!(
            "there is no ProjectRepository {name} in namespace {namespace} any more, so no pod is started: create it again, with \
             the same repository, or delete this Workspace, which saves its work"
        );
        return Some(Standing::reconciling(Reason::WaitingForReference, message));
    };
    let Some(id) = kind.repositories.known_id(&project) else {
        return Some(Standing::reconciling(Reason::WaitingForReference, not_found_yet(name)));
    };
    if id == repository.id {
        return None;
    }
    let message = format!(
        "ProjectRepository {name} is the repository with id {id} now, and the volume has a clone of the one with id {}, so \
         no pod is started: make another Workspace, and delete this one, which saves its work",
        repository.id
    );
    Some(Standing::stalled(Reason::InvalidSpec, message))
}

fn way(referred: &Referred, repository: Repository) -> Way {
    match &referred.access {
        Access::NotYetKnown => Way::NotYetKnown,
        Access::Unavailable(standing) => Way::Blocked { standing: standing.clone(), permanent: false },
        Access::Dead(standing) | Access::Denied(standing) => {
            Way::Blocked { standing: standing.clone(), permanent: true }
        }
        Access::Granted { .. } => Way::Open(repository),
    }
}

/// The parameters of the containers, once the repository's name is known from GitHub.
fn target(
    object: &Workspace,
    known: &Remembered,
    connection: &Connection,
    github: &GitHub,
    settings: &WorkspaceSettings,
    has_ca: bool,
) -> Result<Target, NoTarget> {
    let (repository, _) = known.repository.as_ref().ok_or(NoTarget::Repository)?;
    let endpoint = github.endpoint();
    let remote = crate::git::Remote::github(endpoint, &repository.full_name).map_err(|_| NoTarget::Repository)?;
    let author = object.spec.author.clone().or_else(|| bot(connection, github)).ok_or(NoTarget::App)?;
    let gateway = settings.gateway.as_ref().map(|gateway| {
        let authority = gateway.authority.pem().ok_or(NoTarget::Gateway)?.to_string();
        Ok(Gateway { url: gateway.url.repository(&endpoint.web_host(), repository.id), authority })
    });
    let gateway = gateway.transpose()?;
    Ok(Target { url: remote.to_string(), gateway, has_ca, author_name: author.name, author_email: author.email })
}

/// The App's bot, with the email address that GitHub assigns to it.
/// <https://docs.github.com/en/account-and-profile/reference/email-addresses-reference>
fn bot(connection: &Connection, github: &GitHub) -> Option<GitAuthor> {
    let look = connection.look.as_ref()?;
    let slug = look.app.slug()?;
    let domain = github.endpoint().noreply_domain();
    let name = format!("{slug}[bot]");
    let email = match look.bot_user_id {
        Some(id) => format!("{id}+{name}@{domain}"),
        None => format!("{name}@{domain}"),
    };
    Some(GitAuthor { name, email })
}

/// Remembers since when this process knows a pod, and since when that pod is ending.
fn watch(known: &mut Remembered, pod: &PodView, now: Timestamp) {
    let is_of = |seen: &Option<(String, Timestamp)>| seen.as_ref().is_some_and(|(uid, _)| *uid == pod.uid);
    if !is_of(&known.heard) {
        known.heard = Some((pod.uid.clone(), now));
    }
    if pod.going.is_some() && !is_of(&known.pod_ending) {
        known.pod_ending = Some((pod.uid.clone(), now));
    }
}

/// Whether a token may have `workflows: write`.
pub(super) fn workflows(access: &Access) -> Workflows {
    const NAME: &str = "workflows";
    let Access::Granted { grant, permissions, .. } = access else { return Workflows::Unknown };
    if grant.effective().permissions.get(NAME).map(String::as_str) != Some("write") {
        Workflows::NotGranted
    } else if permissions.get(NAME) == Some(&Level::Write) {
        Workflows::Allowed
    } else {
        Workflows::NotInstalled
    }
}

fn token_seen(kind: &WorkspaceKind, token: &InstallationToken, object: &Workspace, workflows: Workflows) -> TokenSeen {
    if !kind.shared.guards.owner(objects::is_ours(token, object)) {
        return TokenSeen::Foreign;
    }
    let status = token.status.as_ref();
    let ready = status.and_then(|status| status.conditions.iter().find(|its| its.type_ == "Ready"));
    let is_stalled =
        status.is_some_and(|status| status.conditions.iter().any(|its| its.type_ == "Stalled" && its.status == "True"));
    let reason = ready.and_then(|ready| Reason::ALL.iter().find(|reason| reason.as_str() == ready.reason).copied());
    let is_going = token.metadata.deletion_timestamp.is_some();
    // A deletion increases the generation without a change to the spec.
    let is_current = is_going || status.is_some_and(|status| status.observed_generation == token.metadata.generation);
    // An expired token is renewed or refused soon, whatever its condition says.
    let is_expired = status
        .and_then(|status| status.expiration_time.as_ref())
        .is_some_and(|expiration| expiration.0 <= kind.shared.now());
    let right = token.spec.repositories.first().and_then(|it| it.id).map(|id| {
        let workflows = match workflows {
            Workflows::Unknown if token.spec.permissions.contains_key("workflows") => Workflows::Allowed,
            workflows => workflows,
        };
        let wanted = objects::token(object, &token.spec.installation_ref.name, id, workflows);
        wanted.spec == token.spec
    });
    TokenSeen::Ours {
        state: match reason {
            _ if is_current && !is_expired && ready.is_some_and(|ready| ready.status == "True") => TokenState::Ready,
            Some(Reason::SecretNotOurs) => TokenState::SecretNameTaken,
            Some(reason) if is_current && is_stalled => TokenState::Stalled(reason),
            _ => TokenState::Pending,
        },
        message: ready.map_or_else(|| "it was not minted yet".to_owned(), |ready| ready.message.clone()),
        is_going,
        is_held: has_finalizer(token, WORK_FINALIZER),
        is_right: right.unwrap_or(false),
    }
}

fn volume_seen(
    kind: &WorkspaceKind,
    claim: &PersistentVolumeClaim,
    object: &Workspace,
    grown_to: Option<&Quantity>,
) -> VolumeSeen {
    if !kind.shared.guards.owner(objects::is_our_claim(claim, object)) {
        return VolumeSeen::Foreign { of: objects::holder(claim, object) };
    }
    let is_held = has_finalizer(claim, WORK_FINALIZER);
    VolumeSeen::Ours {
        volume: claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty()),
        is_going: claim.metadata.deletion_timestamp.is_some(),
        is_held,
        // One write removes the finalizer and adds the label. A label that somebody else added keeps nothing.
        is_kept: !is_held && claim.labels().contains_key(RETAINED_LABEL),
        is_small: grown_to != Some(&object.spec.storage.size)
            && objects::asks_for_less(claim, &object.spec.storage.size),
    }
}

/// The note on a claim that its work was read back from the remote.
#[must_use]
pub fn noted(claim: &PersistentVolumeClaim) -> Option<Safe> {
    serde_json::from_str(claim.annotations().get(SAVED_ANNOTATION)?).ok()
}

/// Whether the claim may be deleted. The note means nothing on a claim that is in use.
fn is_to_go(object: &Workspace, claim: Option<&PersistentVolumeClaim>) -> bool {
    object.metadata.deletion_timestamp.is_some()
        || claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
}

fn newest_job(kind: &WorkspaceKind, object: &Workspace, known: &Remembered) -> Option<JobSeen> {
    let namespace = object.namespace();
    let jobs = kind.shared.caches.all::<Job>();
    let ours = jobs.iter().filter(|job| job.namespace() == namespace && objects::is_ours(&***job, object));
    let job = ours.max_by_key(|job| objects::attempt(job))?;
    let began = job.metadata.creation_timestamp.as_ref().map_or(kind.shared.now(), |time| time.0);
    // The whole cluster may have been away before, so that nothing ended the Job.
    let began = known.ending_since.map_or(began, |since| since.max(began));
    let until = began.checked_add(SignedDuration::from_secs(objects::job_seconds(object) + 60)).unwrap_or(began);
    Some(JobSeen {
        name: job.name_any(),
        uid: job.uid(),
        attempt: objects::attempt(job),
        ended: job_end(job),
        is_going: job.metadata.deletion_timestamp.is_some(),
        until,
    })
}

fn job_end(job: &Job) -> Option<JobEnd> {
    let conditions = job.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    let ended =
        conditions.iter().find(|its| (its.type_ == "Complete" || its.type_ == "Failed") && its.status == "True")?;
    let words = [ended.reason.as_deref(), ended.message.as_deref()].into_iter().flatten().collect::<Vec<_>>();
    let at = ended.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some(JobEnd { is_success: ended.type_ == "Complete", message: words.join(": "), at })
}

/// The uid of the pod that should have saved last, and how it ended: the newest pod of the newest Job, else the pod in
/// which work was done.
fn last_saver(
    kind: &WorkspaceKind,
    object: &Workspace,
    known: &Remembered,
    job: Option<&JobSeen>,
) -> (Option<String>, Option<Ended>) {
    let (namespace, uid) = (object.namespace(), object.uid().unwrap_or_default());
    let Some(job) = job else {
        let last = namespace.as_deref().and_then(|namespace| known.last_pod.get(namespace));
        let last = kind.shared.guards.last_pod(last, &known.last_pod);
        return (last.cloned(), last.and_then(|last| known.ended.get(last)).cloned());
    };
    let all = kind.shared.caches.all::<Pod>();
    let of_job = all.iter().filter(|pod| {
        pod.namespace() == namespace
            && pod.labels().get(ROLE_LABEL).is_some_and(|role| role == "save")
            && objects::workspace_of(pod).is_some_and(|(_, its)| its == uid)
            && pod.owner_references().iter().any(|owner| Some(&owner.uid) == job.uid.as_ref())
    });
    let Some(newest) = of_job.max_by_key(|pod| pod.creation_timestamp().map(|time| time.0)) else {
        return (None, None);
    };
    let pod = newest.uid();
    let ended = pods::ended(newest).or_else(|| known.ended.get(pod.as_ref()?).cloned());
    (pod, ended)
}
