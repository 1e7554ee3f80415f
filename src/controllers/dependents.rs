//! The dependents of an App or installation that is being deleted. The deletion waits for them, but not forever.

use super::caches::Watched;
use super::index::Index;
use super::object::has_finalizer;
use super::shared::Shared;
use super::watches::{Select, Turn, Watches};
use crate::api::{
    GitHubApp, GitHubAppStatus, GitHubInstallation, InstallationToken, WEBHOOK_FINALIZER, WORK_FINALIZER, Workspace,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::collections::HashSet;
use std::sync::Arc;

/// How long the deletion of an object waits for its dependents.
pub const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(15);

/// The time until which a terminating object waits. `None`: it has waited long enough.
#[must_use]
pub fn waited_long_enough<K: Resource>(object: &K, now: Timestamp) -> Option<Timestamp> {
    let until = object.meta().deletion_timestamp.as_ref()?.0.checked_add(LONGEST_WAIT).ok()?;
    (until > now).then_some(until)
}

/// Whether a terminating workspace has yet to save its work with this token. Until then, neither the token nor the
/// objects that it is minted with are removed, because the deletion of a namespace deletes all of them at once.
#[must_use]
pub fn is_needed(shared: &Shared, token: &InstallationToken, is_namespace_going: bool) -> bool {
    let namespace = token.namespace().unwrap_or_default();
    let owner = token.owner_references().iter().find(|owner| owner.kind == "Workspace");
    let workspace = owner.and_then(|owner| {
        let workspace = shared.caches.named::<Workspace>(&namespace, &owner.name)?;
        (workspace.uid().as_ref() == Some(&owner.uid)).then_some(workspace)
    });
    let is_going = |workspace: &Workspace| workspace.metadata.deletion_timestamp.is_some() || is_namespace_going;
    has_finalizer(token, WORK_FINALIZER)
        && workspace.is_some_and(|workspace| is_going(&workspace) && has_finalizer(&*workspace, WORK_FINALIZER))
}

/// The objects that need an installation for their cleanup: tokens that are published for it, according to their
/// status, which is a hint; tokens that are being revoked, or with which a workspace saves; and repositories whose own
/// webhooks may still exist. The wait for them is bounded.
#[must_use]
pub fn dependents_of(shared: &Shared, installation: &GitHubInstallation, is_namespace_going: bool) -> Vec<String> {
    let namespace = installation.namespace().unwrap_or_default();
    let name = installation.name_any();
    let index = &shared.caches.index;
    let tokens = index.tokens.of(&namespace, &name);
    let used = tokens.iter().filter_map(|token| shared.caches.get(token)).filter(|token| {
        token.spec.installation_ref.name == name
            && (token.metadata.deletion_timestamp.is_some()
                || token.status.as_ref().is_some_and(|status| status.fingerprint.is_some())
                || is_needed(shared, token, is_namespace_going))
    });
    let repositories = index.repositories.of(&namespace, &name);
    let hooked = repositories.iter().filter_map(|it| shared.caches.get(it)).filter(|repository| {
        has_finalizer(&**repository, WEBHOOK_FINALIZER)
            && repository.spec.installation_ref.as_ref().is_some_and(|of| of.name == name)
    });
    let used = used.map(|token| format!("InstallationToken {namespace}/{}", token.name_any()));
    used.chain(hooked.map(|repository| format!("ProjectRepository {namespace}/{}", repository.name_any()))).collect()
}

/// Declares the objects that wake an object with an installation reference: the installation, its App, and the
/// namespace, because grants select by its labels. `referring`: the objects that refer to the installation of this
/// namespace and name.
pub fn woken_by_access<K: Watched>(
    watches: &mut Watches<'_, K>,
    referring: fn(&Index, &str, &str) -> Vec<ObjectRef<K>>,
) {
    watches.woken_by_part(Select::All, what_access_depends_on, move |shared, app: &GitHubApp, _| {
        all_referring(shared, &shared.caches.index.by_app.under(&app.name_any()), referring)
    });
    watches.woken_by(Select::All, move |shared, installation: &GitHubInstallation, _| {
        let namespace = installation.namespace().unwrap_or_default();
        referring(&shared.caches.index, &namespace, &installation.name_any())
    });
    watches.woken_by(Select::All, move |shared, namespace: &PartialObjectMeta<Namespace>, _| {
        all_referring(shared, &shared.caches.index.by_namespace.under(&namespace.name_any()), referring)
    });
}

/// The part of a `GitHubApp` that access through it depends on. The deliveries, the conditions and the counts in its
/// status change all the time, strangers can cause that, and nobody else needs them.
#[must_use]
pub fn what_access_depends_on(app: &GitHubApp) -> (Option<String>, Option<i64>, bool, Option<GitHubAppStatus>) {
    let status = app.status.clone().map(|mut status| {
        status.tenants.iter_mut().for_each(|tenant| tenant.namespace_count = Some(0));
        GitHubAppStatus {
            deliveries: Vec::new(),
            conditions: Vec::new(),
            observed_generation: None,
            last_handled_reconcile: None,
            ..status
        }
    });
    (app.uid(), app.metadata.generation, app.metadata.deletion_timestamp.is_some(), status)
}

#[must_use]
pub fn installations_of(shared: &Shared, app: &str) -> Vec<Arc<GitHubInstallation>> {
    let found = shared.caches.index.by_app.under(app);
    let found = found.iter().filter_map(|reference| shared.caches.get(reference));
    found.filter(|installation| installation.spec.app_ref.name == app).collect()
}

fn all_referring<K: Watched>(
    shared: &Shared,
    installations: &[ObjectRef<GitHubInstallation>],
    referring: fn(&Index, &str, &str) -> Vec<ObjectRef<K>>,
) -> Vec<ObjectRef<K>> {
    let each = installations.iter().flat_map(|installation| {
        let namespace = installation.namespace.as_deref().unwrap_or_default();
        referring(&shared.caches.index, namespace, &installation.name)
    });
    // A namespace may have several installations to which the same object refers.
    each.collect::<HashSet<_>>().into_iter().collect()
}

/// The installation of this name, if it is being deleted and so waits for the objects that refer to it.
#[must_use]
pub fn going(shared: &Shared, namespace: Option<String>, installation: &str) -> Vec<ObjectRef<GitHubInstallation>> {
    let place = ObjectRef::<GitHubInstallation>::new(installation).within(&namespace.unwrap_or_default());
    let is_going = shared.caches.get(&place).is_some_and(|there| there.metadata.deletion_timestamp.is_some());
    if is_going { vec![place] } else { Vec::new() }
}

/// The App of an installation, if an object that refers to the installation was deleted, or the App is being deleted. A
/// terminating App waits for the objects that refer to its installations. An installation that was made for a removed
/// grant is deleted when its last dependent is.
#[must_use]
pub fn app_concerned(
    shared: &Shared,
    namespace: Option<String>,
    installation: &str,
    turn: Turn,
) -> Vec<ObjectRef<GitHubApp>> {
    let Some(installation) = shared.caches.named::<GitHubInstallation>(&namespace.unwrap_or_default(), installation)
    else {
        return Vec::new();
    };
    let app = ObjectRef::<GitHubApp>::new(&installation.spec.app_ref.name);
    let is_going = || shared.caches.get(&app).is_some_and(|app| app.metadata.deletion_timestamp.is_some());
    if turn == Turn::Gone || is_going() { vec![app] } else { Vec::new() }
}
