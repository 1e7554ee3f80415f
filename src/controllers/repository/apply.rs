//! Carries out one step. GitHub's answers go into [`super::memory`], where the next plan finds them.

use super::RepositoryKind;
use super::answers::{Answer, Need, Question};
use super::followed::Followed;
use super::listing::{self, Listing};
use super::memory::{Facts, Looked};
use super::plan::Step;
use super::seen::{Granted, Seen, Way};
use super::{address, fork, hook, rollout};
use crate::api::{HeadStatus, ProjectRepository, Reason, WEBHOOK_FINALIZER, default_permissions};
use crate::controllers::identified;
use crate::controllers::object::{requested_look, set_finalizer};
use crate::controllers::rations::{Caller, Limits, Purpose};
use crate::controllers::reconcile::{Done, Failure};
use crate::controllers::standing::{self, Again, Standing, github_failure, whole_second};
use crate::git::{self, BasicAuth, Head, Refs, Remote};
use crate::github::{self, GitHub, Repository, Token};
use crate::grant::{Known, Reach};
use crate::ids::RepositoryId;
use crate::runtime::lenient::Lenient;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// How long GitHub's answer about a repository is used without asking again: one call a day.
const FACTS_HOLD: SignedDuration = SignedDuration::from_hours(24);

/// How long a fork may take before it is reported. GitHub says to wait five minutes, and to contact its support after
/// that. <https://docs.github.com/en/rest/repos/forks#create-a-fork>
const FORK_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Carries out a step. Returns the object if the step changed it.
///
/// # Errors
/// The reason why it failed, and when to try again.
pub async fn apply(kind: &RepositoryKind, seen: &Seen, step: Step) -> Result<Done<ProjectRepository>, Failure> {
    let (object, client) = (&*seen.object, &kind.shared.client);
    // The state of workloads is known only in the step after the look at them.
    kind.memory.update(uid(object), |known| known.rollout.go_on(&step));
    match step {
        Step::AddFinalizer => {
            return Ok(Done::Again(Some(set_finalizer(client, object, WEBHOOK_FINALIZER, true).await?)));
        }
        Step::RemoveFinalizer => {
            let changed = set_finalizer(client, object, WEBHOOK_FINALIZER, false).await?;
            if object.metadata.deletion_timestamp.is_some() {
                kind.memory.forget(uid(object));
                kind.newest.forget(object);
                return Ok(Done::Finished);
            }
            return Ok(Done::Again(Some(changed)));
        }
        Step::LeaveHook(why) => {
            let name = object.status.as_ref().and_then(|status| status.full_name.clone()).unwrap_or_default();
            let note = format!(
                "the webhook of {name} stays on GitHub, because it cannot be removed; delete it in the repository's \
                 settings: {why}"
            );
            kind.shared.warn(object, Reason::WebhookRefused, &note).await;
            kind.memory.update(uid(object), |known| known.is_hook_removed = true);
        }
        Step::Look => look(kind, seen).await?,
        Step::Confirm => confirm(kind, seen).await?,
        Step::Fork => fork::ensure(kind, seen).await?,
        Step::Sync => fork::sync(kind, seen).await?,
        Step::EnsureHook => hook::ensure(kind, seen).await?,
        Step::RemoveHook => hook::remove(kind, seen).await?,
        Step::LookAtWorkloads => rollout::look(kind, seen).await?,
        Step::Record { deployment, handled } => {
            return Ok(Done::Again(Some(rollout::record(kind, seen, deployment, handled).await?)));
        }
        Step::Roll { stamp, workloads } => rollout::roll(kind, seen, &stamp, &workloads).await?,
        Step::Settle { settlement, handled, standing, again } => {
            rollout::settle(kind, seen, *settlement, handled);
            return Ok(Done::Waits { standing, again });
        }
    }
    Ok(Done::Again(None))
}

pub fn uid(object: &ProjectRepository) -> &str {
    object.metadata.uid.as_deref().unwrap_or_default()
}

/// The client of the App's GitHub.
///
/// # Errors
/// The App's credentials cannot be used.
pub fn client(seen: &Seen) -> Result<&Arc<GitHub>, Failure> {
    seen.tools.github.as_ref().ok_or_else(|| {
        let message =
            "the GitHubApp's credentials cannot be used; its conditions say why, and this goes on as soon as they can";
        Failure::Remote(Standing::reconciling(Reason::WaitingForReference, message), Again::Backoff)
    })
}

/// Finds the repository, if it is unknown, and reads its head.
async fn look(kind: &RepositoryKind, seen: &Seen) -> Result<(), Failure> {
    let now = kind.shared.now();
    let (refs, name, facts, at) = match &seen.way {
        Way::GitHub(granted) => {
            let (refs, facts, at) = by_app(kind, seen, granted).await?;
            (refs, facts.repository.full_name.clone(), Some(facts), at)
        }
        Way::Address(address) => {
            let credentials = credentials(kind, &seen.object, address).await?;
            let transport = kind.shared.connect.connect_within(kind.shared.settings.git_hosts.reach(), None);
            let transport = transport.map_err(|error| Failure::stalled(Reason::APIFailed, error.to_string()))?;
            let remote = Remote::manual(address);
            let refs = git::refs(&transport, &remote, credentials.as_ref(), seen.branch(), &*kind.shared.clock).await;
            let refs = refs.map_err(|error| address::failure(&error, &seen.object))?;
            (refs, address.url().to_string(), None, now)
        }
        Way::NotYetKnown | Way::Blocked { .. } => return Ok(()),
    };
    let refs = kind.shared.guards.refs(refs, seen);
    remember(kind, seen, (refs, name, facts), at);
    Ok(())
}

fn remember(kind: &RepositoryKind, seen: &Seen, (refs, name, facts): (Refs, String, Option<Facts>), began: Timestamp) {
    let interval = seen.object.spec.poll_interval.parse().unwrap_or(SignedDuration::from_mins(10));
    let next = kind.shared.spread(began, interval).unwrap_or(began);
    let stored = seen.object.status.as_ref();
    let head = match &refs.head {
        Head::At { branch, sha } => {
            let before = [seen.known.head.as_ref(), stored.and_then(|status| status.head.as_ref())];
            let is_same = |head: &&&HeadStatus| head.branch == branch.as_str() && head.sha == sha.as_str();
            let same = before.iter().flatten().find(is_same).map(|head| (*head).clone());
            let is_news = same.is_none() && before.iter().any(Option::is_some);
            let is_told = seen.announcing(sha.as_str()).next().is_some();
            let head = same.unwrap_or_else(|| HeadStatus {
                branch: branch.to_string(),
                sha: sha.to_string(),
                observation_time: Time(whole_second(kind.shared.now())),
            });
            Some((head, is_news && !is_told))
        }
        _ => None,
    };
    let heard = seen.pending.iter().filter(|pending| pending.needs_look).map(|pending| pending.mark.announced.clone());
    kind.memory.update(uid(&seen.object), |known| {
        known.facts = facts.or_else(|| known.facts.take());
        known.looked = Some(Looked {
            refs,
            asked: seen.branch().map(str::to_owned),
            access: seen.access(),
            name,
            at: began,
            next,
        });
        known.heard = heard.collect();
        known.covered = seen.known.wanted;
        known.request = requested_look(&*seen.object).cloned();
        if matches!(&head, Some((_, true))) || seen.is_asked() {
            // A poll found a push that no delivery announced, so the webhook may be gone; or a person requested a look.
            known.examine_hook_at = Some(began);
        }
        if seen.is_asked() {
            known.next_sync = Some(began);
        }
        known.head = head.map(|(head, _)| head);
    });
    kind.lane.succeeded(&ObjectRef::from_obj(&*seen.object));
}

async fn by_app(kind: &RepositoryKind, seen: &Seen, granted: &Granted) -> Result<(Refs, Facts, Timestamp), Failure> {
    let (token, mut facts) = read(kind, seen, granted).await?;
    let is_old = facts.at.checked_add(FACTS_HOLD).is_ok_and(|end| end <= kind.shared.now());
    if is_old || seen.is_repository_news || seen.is_asked() {
        facts = ask(kind, seen, granted, &token, facts.repository.id).await?;
    }
    let Answer { refs: answered, at, .. } = refs(kind, (seen, granted), &facts.repository, &token).await;
    match answered {
        Ok(refs) => Ok((refs, facts, at)),
        Err(git::Error::Moved { .. } | git::Error::NotFound { .. }) => {
            // The id finds the repository under any name.
            let now = ask(kind, seen, granted, &token, facts.repository.id).await?;
            let answer = refs(kind, (seen, granted), &now.repository, &token).await;
            let refs = answer.refs.map_err(|error| match error {
                error if is_on_its_way(seen, &error) => pending(seen, &now.repository, kind.shared.now()),
                git::Error::Moved { .. } => moved(&now.repository),
                other => git_failure(&other),
            })?;
            Ok((refs, now, answer.at))
        }
        Err(error) => {
            if matches!(error, git::Error::CredentialsRefused { .. }) {
                kind.readers.refused((&seen.tools.identity, granted.installation), &token).await;
            }
            Err(if is_on_its_way(seen, &error) {
                pending(seen, &facts.repository, kind.shared.now())
            } else {
                git_failure(&error)
            })
        }
    }
}

/// Whether GitHub may still be making the fork: nobody has read it yet, and the error concerns the fork itself.
fn is_on_its_way(seen: &Seen, error: &git::Error) -> bool {
    let was_read = seen.known.looked.is_some() || seen.object.status.as_ref().is_some_and(|it| it.head.is_some());
    let is_its_own = !matches!(
        error,
        git::Error::Unreachable { .. }
            | git::Error::RateLimited { .. }
            | git::Error::AddressRefused { .. }
            | git::Error::Branch { .. }
            | git::Error::Moved { .. }
            | git::Error::Blocked { .. }
    );
    seen.object.spec.source.fork.is_some() && !was_read && is_its_own
}

/// The time of the fork comes from `Ready`'s transition time, so that the message is the same after a restart.
fn pending(seen: &Seen, repository: &Repository, now: Timestamp) -> Failure {
    let name = &repository.full_name;
    let mut message = format!("GitHub is still making {name}; it is looked at again by itself, with growing pauses");
    let conditions = seen.object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let is_pending = |its: &&Condition| its.type_ == "Ready" && its.reason == Reason::ForkPending.as_str();
    let since = conditions.iter().find(is_pending).map(|ready| ready.last_transition_time.0);
    if let Some(since) = since.filter(|since| since.checked_add(FORK_PATIENCE).is_ok_and(|end| end <= now)) {
        message =
            format!("{message}. That has lasted since {since}: large ones take longer; else ask GitHub's support");
    }
    Failure::Remote(Standing::reconciling(Reason::ForkPending, message), Again::Backoff)
}

fn moved(repository: &Repository) -> Failure {
    let message = format!("{} is being renamed or transferred; it is looked at again by itself", repository.full_name);
    Failure::Remote(Standing::reconciling(Reason::RepositoryNotFound, message), Again::Backoff)
}

/// A token that reads the repository, within the grant, and GitHub's last answer about it.
///
/// # Errors
/// The repository is missing or not granted.
pub async fn read(kind: &RepositoryKind, seen: &Seen, granted: &Granted) -> Result<(Token, Facts), Failure> {
    let github = client(seen)?;
    let now = kind.shared.now();
    let key = (seen.tools.identity.as_str(), granted.installation);
    let sighted = sight(kind, seen, granted).await?;
    let sighted_id = sighted.as_ref().map(|facts| facts.repository.id);
    let (read, id) = if let Some(id) = seen.bound_id().or(sighted_id) {
        // A repository that was refused is requested alone, because GitHub would refuse the token for all of them.
        let is_lost = seen.known.is_lost();
        let through =
            Followed { app: &granted.app, identity: &seen.tools.identity, installation: granted.installation };
        let others = || if is_lost { Vec::new() } else { kind.followed_by(through) };
        if !kind.readers.has(key, id, now).await {
            spend(kind, seen, granted)?;
        }
        let read = kind.readers.by_id(github, key, id, others, now).await;
        (read.map_err(|error| unread(&error, granted, &format!("id {id}")))?, id)
    } else {
        let name = seen.object.spec.source.existing.as_ref().and_then(|existing| existing.name.clone());
        let name = name.unwrap_or_default();
        let known = Known { name: Some(name.clone()), id: None };
        allowed(granted, known, &default_permissions())?;
        spend(kind, seen, granted)?;
        let read = kind.readers.by_name(github, key, &name, now).await;
        let called = format!("{}/{name}", granted.account);
        let read = read.map_err(|error| unread(&error, granted, &called))?;
        let id = read.said.first().map(|repository| repository.id).ok_or_else(|| gone(granted, &called))?;
        (read, id)
    };
    charge(kind, &read.refused);
    let mut said: HashMap<_, _> =
        read.said.into_iter().map(|repository| (repository.id, Arc::new(repository))).collect();
    kind.memory.heard_of(&said, now);
    let said = said.remove(&id).map(Arc::unwrap_or_clone);
    let before = seen.known.facts.clone().or(sighted);
    let facts = match (said, &before) {
        (Some(mut repository), before) => {
            // Only the longer answers have these fields, so they are kept.
            if let Some(before) = before.as_ref().filter(|before| before.repository.id == id) {
                repository.parent = repository.parent.or_else(|| before.repository.parent.clone());
                repository.source = repository.source.or_else(|| before.repository.source.clone());
            }
            Facts { repository: Arc::new(repository), at: now }
        }
        (None, Some(facts)) if facts.repository.id == id => facts.clone(),
        (None, _) => return Ok((read.token.clone(), ask(kind, seen, granted, &read.token, id).await?)),
    };
    fits(granted, &facts.repository, seen)?;
    Ok((read.token, facts))
}

/// The repository in a listing of the installation, if this process does not know it yet, and a listing is worth its
/// calls.
///
/// # Errors
/// The repository is not granted, or GitHub did not answer.
async fn sight(kind: &RepositoryKind, seen: &Seen, granted: &Granted) -> Result<Option<Facts>, Failure> {
    let source = &seen.object.spec.source;
    if seen.known.facts.is_some() || seen.known.is_lost() || source.fork.is_some() && seen.bound_id().is_none() {
        return Ok(None);
    }
    let name = source.existing.as_ref().and_then(|existing| existing.name.as_deref());
    if let Some(name) = name.filter(|_| seen.bound_id().is_none()) {
        allowed(granted, Known { name: Some(name.to_owned()), id: None }, &default_permissions())?;
    }
    let find = |listing: &Listing| listing.find(seen.bound_id(), name, seen.known.first_heard);
    let key = (seen.tools.identity.as_str(), granted.installation);
    let mut found = kind.listings.last(key.0, key.1, kind.shared.now()).and_then(|listing| find(&listing));
    if found.is_none() {
        let unknown = kind.unknown_through(&granted.app, granted.installation, listing::MOST_UNKNOWN);
        let began = (kind.answers.next_moment(), kind.shared.now());
        let listed = kind.listings.first_sight(client(seen)?, key, unknown, began).await;
        let listing =
            listed.map_err(|error| remote(github_failure(&error, "listing the installation's repositories")))?;
        if let Some(listing) = listing {
            kind.memory.listed(&listing, granted.account_id);
            found = find(&listing);
        }
    }
    if let Some(facts) = &found {
        fits(granted, &facts.repository, seen)?;
    }
    Ok(found)
}

fn caller<'a>(seen: &'a Seen, granted: &'a Granted) -> Caller<'a> {
    let namespace = seen.object.metadata.namespace.as_deref().unwrap_or_default();
    Caller { uid: uid(&seen.object), namespace, app: &granted.app }
}

/// Takes a mint out of the namespace's share of the App's.
///
/// # Errors
/// When there may be one.
pub fn spend(kind: &RepositoryKind, seen: &Seen, granted: &Granted) -> Result<(), Failure> {
    let (caller, limits) = (caller(seen, granted), Limits::of(client(seen)?));
    kind.shared.rations.mint(caller, Purpose::First, limits, kind.shared.now()).map_err(|wait| {
        let message = format!(
            "namespace {} has used up its share of the tokens that GitHubApp {} may ask for: find the person or program that makes \
             or changes objects there all the time, or use another App. It goes on by itself, at {}",
            caller.namespace,
            caller.app,
            whole_second(wait.until)
        );
        Failure::Remote(Standing::reconciling(Reason::RateLimited, message), Again::At(wait.until))
    })
}

/// Charges the namespaces that follow these repositories, which are gone, with a call for each.
fn charge(kind: &RepositoryKind, refused: &[RepositoryId]) {
    if refused.is_empty() {
        return;
    }
    let mut namespaces: HashMap<RepositoryId, BTreeSet<String>> = HashMap::new();
    for repository in kind.shared.caches.all::<ProjectRepository>() {
        let facts = kind.memory.get(uid(&repository)).facts;
        if let (Some(facts), Some(namespace)) = (facts, repository.namespace()) {
            namespaces.entry(facts.repository.id).or_default().insert(namespace);
        }
    }
    let charged = refused.iter().filter_map(|id| namespaces.get(id)).flatten().map(String::as_str);
    kind.memory.charge(charged, kind.shared.now());
}

/// Asks GitHub for the repository with this id, also while the installation's limit is spent. The answer may have no parent.
///
/// # Errors
/// The repository is missing or not granted.
pub async fn ask(
    kind: &RepositoryKind,
    seen: &Seen,
    granted: &Granted,
    token: &Token,
    id: RepositoryId,
) -> Result<Facts, Failure> {
    let (caller, place) = (caller(seen, granted), (granted.installation, id));
    let mut asked = identified::repository(&kind.shared, client(seen)?, token, place, caller).await;
    if let (Ok(repository), Some(before)) = (&mut asked, &seen.known.facts)
        && before.repository.id == id
        && repository.fork != Some(false)
    {
        // The answer to a mint says that it is a fork, and not of what.
        repository.parent = repository.parent.take().or_else(|| before.repository.parent.clone());
        repository.source = repository.source.take().or_else(|| before.repository.source.clone());
    }
    take(kind, (seen, granted), token, id, asked).await
}

/// Asks GitHub for all that it says about the repository with this id.
///
/// # Errors
/// The repository is missing or not granted, or the installation's limit is spent.
pub async fn ask_whole(
    kind: &RepositoryKind,
    seen: &Seen,
    granted: &Granted,
    token: &Token,
    id: RepositoryId,
) -> Result<Facts, Failure> {
    let asked = client(seen)?.repository(token, id).await;
    take(kind, (seen, granted), token, id, asked).await
}

async fn take(
    kind: &RepositoryKind,
    (seen, granted): (&Seen, &Granted),
    token: &Token,
    id: RepositoryId,
    asked: Result<Repository, github::Error>,
) -> Result<Facts, Failure> {
    if let Err(github::Error::TokenRefused { .. } | github::Error::NotFound { .. }) = &asked {
        // The cause may be the token, which may be older than the current selection of the installation.
        kind.readers.refused((&seen.tools.identity, granted.installation), token).await;
    }
    let repository = asked.map_err(|error| match error {
        github::Error::NotFound { .. } => gone(granted, &format!("id {id}")),
        other => remote(github_failure(&other, "asking for the repository by its id")),
    })?;
    fits(granted, &repository, seen)?;
    let facts = Facts { repository: Arc::new(repository), at: kind.shared.now() };
    kind.memory.update(uid(&seen.object), |known| known.facts = Some(facts.clone()));
    Ok(facts)
}

/// Checks that the repository belongs to the account, and that its current name is granted.
pub fn fits(granted: &Granted, repository: &Repository, seen: &Seen) -> Result<(), Failure> {
    if repository.owner.as_ref().is_some_and(|owner| owner.id != granted.account_id) {
        return Err(gone(granted, &format!("id {}", repository.id)));
    }
    let said = seen.object.spec.source.existing.as_ref().and_then(|existing| existing.name.as_ref());
    let known = Known { name: Some(repository.name.clone()), id: Some(repository.id) };
    allowed(granted, known, &default_permissions()).map_err(|failure| match (failure, said) {
        // A spec with another name, or with an id, must not learn the name from the message.
        (Failure::Remote(standing, again), said) if said.is_none_or(|said| !said.eq_ignore_ascii_case(&repository.name)) => {
            let message = format!(
                "the repository with id {} is not, or by a new name no longer, within what GitHubApp {} grants this namespace of {}: \
                 ask its administrator to add it to spec.tenants[].repositories",
                repository.id, granted.app, granted.account
            );
            Failure::Remote(Standing { message, ..standing }, again)
        }
        (failure, _) => failure,
    })
}

/// Checks that the grant has the repository and the permissions.
///
/// # Errors
/// The missing part, and where it is granted.
pub fn allowed(granted: &Granted, known: Known, permissions: &crate::api::Permissions) -> Result<(), Failure> {
    use crate::grant::Refusal;
    let name = known.name.clone().unwrap_or_default();
    match granted.grant.allows(&Reach::Only(&[known]), permissions) {
        Ok(()) => Ok(()),
        Err(Refusal::Repositories(_)) => Err(Failure::stalled(
            Reason::RepositoryNotGranted,
            format!(
                "GitHubApp {} does not grant {name} of {} to this namespace: ask its administrator to add it to spec.tenants[].repositories",
                granted.app, granted.account
            ),
        )),
        Err(Refusal::Permissions(missing)) => {
            let missing: Vec<_> = missing
                .iter()
                .map(|(name, level, has)| format!("{name}: {level} (has {})", has.as_deref().unwrap_or("none")))
                .collect();
            Err(Failure::stalled(
                Reason::InsufficientPermissions,
                format!(
                    "this needs more than GitHubApp {} grants this namespace of {name}: {}; ask its administrator to raise \
                     spec.tenants[].maxPermissions",
                    granted.app,
                    missing.join(", ")
                ),
            ))
        }
    }
}

pub fn gone(granted: &Granted, what: &str) -> Failure {
    Failure::stalled(
        Reason::RepositoryNotFound,
        format!(
            "the repository ({what}) was deleted or transferred, or was removed from the installation, which can be seen at {}. If \
             another one has the name now, make another ProjectRepository to accept it",
            granted.settings_url
        ),
    )
}

fn unread(error: &github::Error, granted: &Granted, what: &str) -> Failure {
    match error {
        error if error.lacks_permissions() => Failure::stalled(
            Reason::InsufficientPermissions,
            format!(
                "reading {what} takes the permission contents: read, which {} has not accepted for the App: see {}",
                granted.account, granted.settings_url
            ),
        ),
        github::Error::Unprocessable { .. } => gone(granted, what),
        other => remote(github_failure(other, &format!("minting a token that reads {what}"))),
    }
}

/// The failure of a call to GitHub.
pub fn remote(failure: (Standing, Again)) -> Failure {
    failure.into()
}

/// The refs of the repository, which GitHub is asked for once for all objects that follow the same branch.
async fn refs(
    kind: &RepositoryKind,
    (seen, granted): (&Seen, &Granted),
    repository: &Repository,
    token: &Token,
) -> Answer {
    let now = || kind.shared.now();
    let (question, need) = (Question::of(seen, granted, repository), Need::of(seen, now()));
    let ask = refs_of(kind, seen, &repository.full_name, token, seen.branch());
    kind.answers.get(question, &need, &kind.shared.caches, now, ask).await
}

/// The refs of a repository on the App's GitHub, by a name that GitHub gave.
///
/// # Errors
/// The remote's errors.
pub async fn refs_of(
    kind: &RepositoryKind,
    seen: &Seen,
    full_name: &str,
    token: &Token,
    branch: Option<&str>,
) -> Result<Refs, git::Error> {
    let unnamed = |what: String| git::Error::NotFound { remote: full_name.to_owned(), message: what };
    let github =
        seen.tools.github.as_ref().ok_or_else(|| unnamed("the App's credentials cannot be used".to_owned()))?;
    let remote = Remote::github(github.endpoint(), full_name).map_err(|error| unnamed(error.to_string()))?;
    let transport = seen.tools.git.as_ref().ok_or_else(|| unnamed("there is no connection".to_owned()))?;
    git::refs(transport, &remote, Some(&BasicAuth::installation(token.clone())), branch, &*kind.shared.clock).await
}

/// The failure of a request to a remote.
pub fn git_failure(error: &git::Error) -> Failure {
    let (standing, again) = standing::git_failure(error);
    Failure::Remote(standing, again)
}

/// Asks by id whether the head was read from the same repository.
async fn confirm(kind: &RepositoryKind, seen: &Seen) -> Result<(), Failure> {
    let known = &seen.known;
    let (Some(looked), Some(head)) = (&known.looked, &known.head) else { return Ok(()) };
    if let Way::GitHub(granted) = &seen.way {
        let (token, before) = read(kind, seen, granted).await?;
        let facts = ask(kind, seen, granted, &token, before.repository.id).await?;
        if facts.repository.full_name != looked.name {
            // The name belongs to another repository now. The head is read again, by the new name.
            let now = kind.shared.now();
            kind.memory.update(uid(&seen.object), |known| {
                if let Some(looked) = &mut known.looked {
                    looked.next = now;
                }
            });
            return Ok(());
        }
    }
    let at = looked.at;
    kind.memory.update(uid(&seen.object), |known| known.confirmed = Some((head.sha.clone(), at)));
    Ok(())
}

/// The credentials for an address, if there are any. They are used for its host and no other.
async fn credentials(
    kind: &RepositoryKind,
    object: &ProjectRepository,
    address: &git::Address,
) -> Result<Option<BasicAuth>, Failure> {
    let Some(reference) = &object.spec.source.credentials_secret_ref else { return Ok(None) };
    let name = &reference.name;
    let secrets: Api<Lenient<Secret>> =
        Api::namespaced(kind.shared.client.clone(), &object.namespace().unwrap_or_default());
    let secret = secrets.get_opt(name).await?.map(Lenient::read).transpose()?;
    let invalid = |what: &str| Failure::stalled(Reason::CredentialsInvalid, format!("Secret {name}: {what}"));
    let secret = secret.ok_or_else(|| {
        let message = format!("there is no Secret {name}, which spec.source.credentialsSecretRef names");
        Failure::Remote(Standing::reconciling(Reason::WaitingForReference, message), Again::Backoff)
    })?;
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).map(str::to_owned)
    };
    let host = text("host").ok_or_else(|| {
        invalid(&format!("it has no key host, which says what host it is for: set it to {} if it is", address.host()))
    })?;
    if !address.takes_credentials_for(&host) {
        return Err(invalid(&format!(
            "its key host is for another host than {}, so it is not sent there",
            address.host()
        )));
    }
    let (Some(username), Some(password)) = (text("username"), text(&reference.key)) else {
        return Err(invalid(&format!("it needs the keys username and {}", reference.key)));
    };
    BasicAuth::new(username, Token::new(password)).map(Some).map_err(|error| invalid(&error.to_string()))
}
