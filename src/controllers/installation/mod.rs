//! `GitHubInstallation`: shows the grant of an account to a namespace, and waits for its tokens when it is deleted.
//!
//! It makes no calls of its own, because the App's last look contains everything. Invariant: without a grant, status
//! shows nothing of the account.

mod plan;

use super::access::{AccountAccess, access};
use super::dependents::{dependents_of, going, what_access_depends_on};
use super::index::keep;
use super::object::{has_finalizer, requested_look, set_finalizer};
use super::reconcile::{Done, Failure, Kind, Plan};
use super::shared::{Asked, Shared};
use super::standing::{Again, Standing};
use super::watches::{Select, Watches};
use crate::api::{
    AccountStatus, DEPENDENTS_FINALIZER, GitHubApp, GitHubInstallation, GitHubInstallationStatus, InstallationToken,
    ProjectRepository, Reason, RepositorySelection,
};
use crate::features::Feature;
use crate::github;
use crate::manifests::{READ, Rule, RuleSet, WRITE};
use crate::runtime::due::Due;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use plan::{Seen, Step};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

pub struct InstallationKind {
    shared: Arc<Shared>,
    lane: Due<GitHubInstallation>,
    /// By uid, the value of the annotation for which a look was requested. The cache may still hold the object without
    /// the status that says so.
    requested: Mutex<BTreeMap<String, String>>,
}

impl InstallationKind {
    /// A controller that has noted no request.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<GitHubInstallation>) -> Self {
        Self { shared: Arc::clone(shared), lane, requested: Mutex::default() }
    }

    /// Notes a request for a look. Returns whether it is new.
    fn note_request(&self, installation: &GitHubInstallation, request: &str) -> bool {
        let uid = installation.uid().unwrap_or_default();
        let mut requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        requested.insert(uid, request.to_owned()).as_deref() != Some(request)
    }
}

impl Kind for InstallationKind {
    type Object = GitHubInstallation;
    type Seen = Seen;
    type Step = Step;
    type Task = Infallible;

    const FEATURE: Feature = Feature::Tokens;
    const RULES: &'static [Rule] = &[
        Rule::new(
            RuleSet::Cluster,
            "landfall.dev",
            &["githubinstallations"],
            // An App's installations are created in the namespaces of its tenants, and removed with the App.
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        Rule::new(RuleSet::Cluster, "landfall.dev", &["githubinstallations/status"], &["patch"]),
        Rule::new(RuleSet::Receiver, "landfall.dev", &["githubinstallations"], READ),
        Rule::new(RuleSet::View, "landfall.dev", &["githubinstallations"], READ),
        // Declaring an installation grants nothing, because the GitHubApp's tenants decide what it may do.
        Rule::new(RuleSet::Admin, "landfall.dev", &["githubinstallations"], WRITE),
    ];
    const DEFINITION: Option<fn() -> CustomResourceDefinition> = Some(crate::api::definition::<GitHubInstallation>);

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lane(&self) -> &Due<GitHubInstallation> {
        &self.lane
    }

    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, GitHubInstallation>) {
        keep(watches, |index| &index.by_app, |it| Some((it.spec.app_ref.name.clone(), it.namespace()?)));
        keep(watches, |index| &index.by_namespace, |it| Some((it.namespace()?, it.spec.app_ref.name.clone())));
        watches.woken_by_part(Select::All, what_access_depends_on, |shared, app: &GitHubApp, _| {
            shared.caches.index.by_app.under(&app.name_any())
        });
        watches.woken_by(Select::All, |shared, namespace: &PartialObjectMeta<Namespace>, _| {
            shared.caches.index.by_namespace.under(&namespace.name_any())
        });
        watches.woken_by(Select::All, |shared, token: &InstallationToken, _| {
            going(shared, token.namespace(), &token.spec.installation_ref.name)
        });
        watches.woken_by(Select::All, |shared, repository: &ProjectRepository, _| {
            let reference = repository.spec.installation_ref.as_ref();
            reference.map(|its| going(shared, repository.namespace(), &its.name)).unwrap_or_default()
        });
    }

    async fn gather(&self, installation: &Arc<GitHubInstallation>) -> Result<Seen, kube::Error> {
        let shared = &*self.shared;
        let namespace = installation.namespace().unwrap_or_default();
        let app_name = &installation.spec.app_ref.name;
        let has_finalizer = has_finalizer(&**installation, DEPENDENTS_FINALIZER);
        let dependents = if installation.metadata.deletion_timestamp.is_some() && has_finalizer {
            let is_namespace_going = shared.is_namespace_going(&namespace, Asked::ApiServer).await?;
            dependents_of(shared, installation, is_namespace_going)
        } else {
            Vec::new()
        };
        let access = shared.namespace(&namespace).map(|namespace| {
            let app = shared.caches.get(&ObjectRef::<GitHubApp>::new(app_name));
            let connection = shared.connections.get(app_name);
            access(app.as_deref(), connection.as_ref(), &installation.spec.account, &namespace, shared.now())
        });
        Ok(Seen { installation: Arc::clone(installation), has_finalizer, access, dependents })
    }

    fn plan(seen: &Seen, now: Timestamp) -> Plan<Step> {
        plan::plan(seen, now)
    }

    fn task(_: &Step) -> Option<Infallible> {
        None
    }

    async fn apply(&self, seen: &Seen, step: Step) -> Result<Done<GitHubInstallation>, Failure> {
        let (installation, client) = (&*seen.installation, &self.shared.client);
        match step {
            Step::AddFinalizer => {
                Ok(Done::Again(Some(set_finalizer(client, installation, DEPENDENTS_FINALIZER, true).await?)))
            }
            Step::RemoveFinalizer { forsaken } => {
                if !forsaken.is_empty() {
                    let note = format!(
                        "gone after 15 minutes, though this still needed it (tokens expire within the hour, webhooks stay): {}",
                        forsaken.join(", ")
                    );
                    self.shared.warn(installation, Reason::WaitingForDependents, &note).await;
                }
                set_finalizer(client, installation, DEPENDENTS_FINALIZER, false).await?;
                let uid = installation.uid().unwrap_or_default();
                self.requested.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
                Ok(Done::Finished)
            }
        }
    }

    fn succeeded(&self, _: &Seen, task: Infallible) {
        match task {}
    }

    fn failed(&self, _: &Seen, _: Option<Infallible>, _: Standing, _: Again) {}

    /// Requests a look at the App, if the annotation does and the account is granted.
    fn settled(&self, seen: &Seen, _: Option<&Standing>) {
        let handled = seen.installation.status.as_ref().and_then(|status| status.last_handled_reconcile.as_ref());
        let request = requested_look(&*seen.installation).filter(|request| handled != Some(request));
        let is_granted = seen
            .access
            .as_ref()
            .is_some_and(|access| !matches!(access, AccountAccess::NoApp | AccountAccess::NotGranted));
        let is_new = |request| self.note_request(&seen.installation, request);
        if is_granted && seen.installation.metadata.deletion_timestamp.is_none() && request.is_some_and(|it| is_new(it))
        {
            self.shared.look_at_app(&seen.installation.spec.app_ref.name);
        }
    }

    fn status(&self, seen: &Seen, _: Option<&Standing>) -> GitHubInstallationStatus {
        let stored = seen.installation.status.clone().unwrap_or_default();
        match &seen.access {
            Some(access) if seen.installation.metadata.deletion_timestamp.is_none() => {
                shown(access, stored, requested_look(&*seen.installation).cloned())
            }
            _ => stored,
        }
    }
}

/// The fields to show in status.
fn shown(
    access: &AccountAccess,
    stored: GitHubInstallationStatus,
    handled: Option<String>,
) -> GitHubInstallationStatus {
    let shown = match access {
        AccountAccess::Active(installation, grant) | AccountAccess::Suspended(installation, grant) => {
            GitHubInstallationStatus {
                installation_id: Some(installation.id),
                account: installation.account.as_ref().map(|account| AccountStatus {
                    id: account.id,
                    login: account.login.clone(),
                    kind: account.kind.clone(),
                }),
                repository_selection: match &installation.repository_selection {
                    github::RepositorySelection::All => Some(RepositorySelection::All),
                    github::RepositorySelection::Selected => Some(RepositorySelection::Selected),
                    github::RepositorySelection::Other(_) => None,
                },
                permissions: installation
                    .permissions
                    .iter()
                    .map(|(name, level)| (name.clone(), level.to_string()))
                    .collect(),
                events: installation.events.clone(),
                suspension_time: installation.suspended_at.map(Time),
                suspended_by: installation.suspended_by.as_ref().map(|by| by.login.clone()),
                html_url: Some(installation.html_url.clone()),
                granted: Some(grant.effective()),
                ..GitHubInstallationStatus::default()
            }
        }
        // The old id stays, because it shows that the App was installed there before.
        AccountAccess::NotInstalled { grant, .. } => GitHubInstallationStatus {
            installation_id: stored.installation_id,
            account: stored.account,
            granted: Some(grant.effective()),
            ..GitHubInstallationStatus::default()
        },
        AccountAccess::NoLook(_) | AccountAccess::NotYetKnown => stored,
        AccountAccess::NoApp | AccountAccess::NotGranted | AccountAccess::TakenOver { .. } => {
            GitHubInstallationStatus::default()
        }
    };
    GitHubInstallationStatus { last_handled_reconcile: handled, ..shown }
}
