//! `GitHubApp`: keeps the connection, looks at GitHub for all dependents, and creates the objects of its installations.

mod desired;
mod hook;
mod look;
mod made;
mod plan;

use super::deliveries::{Mark, deliveries, log};
use super::dependents::{app_concerned, dependents_of, installations_of};
use super::newest::Newest;
use super::object::{has_finalizer, requested_look, set_finalizer};
use super::reconcile::{Done, Failure, Kind, Plan};
use super::shared::{Asked, Shared};
use super::standing::{Again, Standing};
use super::watches::{Select, Watches};
use crate::api::{
    DEPENDENTS_FINALIZER, GitHubApp, GitHubAppStatus, GitHubInstallation, InstallationToken, ProjectRepository, Reason,
    WebhookInbox, WebhookPolicy,
};
use crate::features::Feature;
use crate::manifests::{READ, Rule, RuleSet};
use crate::runtime::due::{Due, Places};
use crate::webhook::ROOT_KEYS_SECRET;
use desired::desired;
use hook::HookState;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use plan::{Seen, Step};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

/// The controller of `GitHubApp`s. Its memory is in [`Shared::connections`], because the other kinds read it.
pub struct AppKind {
    shared: Arc<Shared>,
    lane: Due<GitHubApp>,
    newest: Newest<GitHubApp>,
}

impl AppKind {
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<GitHubApp>) -> Self {
        Self { shared: Arc::clone(shared), lane, newest: Newest::default() }
    }

    /// Namespace and name of those of these installations that tokens and repositories refer to.
    fn in_use(&self, installations: &[Arc<GitHubInstallation>]) -> BTreeSet<(String, String)> {
        let index = &self.shared.caches.index;
        let places = installations.iter().map(|it| (it.namespace().unwrap_or_default(), it.name_any()));
        let is_used = |(namespace, name): &(String, String)| {
            index.tokens.has(namespace, name) || index.repositories.has(namespace, name)
        };
        places.filter(is_used).collect()
    }

    /// The objects that need the App while it is being deleted.
    async fn dependents(&self, installations: &[Arc<GitHubInstallation>]) -> Result<Vec<String>, kube::Error> {
        let mut dependents = Vec::new();
        for installation in installations {
            let namespace = installation.namespace().unwrap_or_default();
            let is_namespace_going = self.shared.is_namespace_going(&namespace, Asked::Cache).await?;
            dependents.extend(dependents_of(&self.shared, installation, is_namespace_going));
        }
        Ok(dependents)
    }

    async fn adjust(&self, seen: &Seen) -> Done<GitHubApp> {
        let failures = made::adjust(&self.shared, &seen.app, &seen.desired).await;
        if failures.is_empty() {
            // The watch brings the created objects.
            let (standing, again) = plan::settled(seen, self.shared.now());
            return Done::Waits { standing, again };
        }
        let message = format!(
            "Kubernetes refused {} GitHubInstallations, which is tried again by itself: {}",
            failures.len(),
            failures.join("; ")
        );
        let standing = Standing::reconciling(Reason::KubernetesRefused, message);
        Done::Waits { standing, again: Some(Again::Backoff) }
    }

    async fn withdraw(&self, app: &GitHubApp, left: Vec<Arc<GitHubInstallation>>) -> Result<(), kube::Error> {
        let mut refused = None;
        for installation in left {
            if let Err(error) = made::delete(&self.shared, &installation).await {
                refused.get_or_insert(error);
                continue;
            }
            let uid = installation.uid();
            self.shared.connections.update(&app.name_any(), |connection| connection.withdrawn.extend(uid));
            self.shared.lanes.look_now(&ObjectRef::from_obj(&*installation));
        }
        refused.map_or(Ok(()), Err)
    }
}

impl Kind for AppKind {
    type Object = GitHubApp;
    type Seen = Seen;
    type Step = Step;
    type Task = Infallible;

    const FEATURE: Feature = Feature::Tokens;
    // Connecting an App and granting it to namespaces is the task of the cluster's administrators, so no role for
    // people has it.
    const RULES: &'static [Rule] = &[
        Rule::new(RuleSet::Cluster, "landfall.dev", &["githubapps"], &["get", "list", "watch", "patch"]),
        Rule::new(RuleSet::Cluster, "landfall.dev", &["githubapps/status"], &["patch"]),
        // An owner reference with blockOwnerDeletion needs this if OwnerReferencesPermissionEnforcement is on.
        Rule::new(RuleSet::Cluster, "landfall.dev", &["githubapps/finalizers"], &["update"]),
        // The operator reads the Apps' private keys, and creates the root keys of webhooks at its first start. It never
        // changes them: people replace them, with permissions of their own.
        Rule::new(RuleSet::Own, "", &["secrets"], &["get", "list", "watch", "create"]),
        Rule::new(RuleSet::Receiver, "landfall.dev", &["githubapps"], READ),
    ];
    const DEFINITION: Option<fn() -> CustomResourceDefinition> = Some(crate::api::definition::<GitHubApp>);

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lane(&self) -> &Due<GitHubApp> {
        &self.lane
    }

    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, GitHubApp>) {
        watches.woken_by(Select::All, |_, installation: &GitHubInstallation, _| {
            vec![ObjectRef::new(&installation.spec.app_ref.name)]
        });
        watches.woken_by(Select::All, |shared, _: &PartialObjectMeta<Namespace>, _| {
            shared.caches.all::<GitHubApp>().iter().map(|app| ObjectRef::from_obj(&**app)).collect()
        });
        watches.woken_by(Select::All, |shared, token: &InstallationToken, turn| {
            app_concerned(shared, token.namespace(), &token.spec.installation_ref.name, turn)
        });
        watches.woken_by(Select::All, |shared, repository: &ProjectRepository, turn| {
            let reference = repository.spec.installation_ref.as_ref();
            reference.map(|its| app_concerned(shared, repository.namespace(), &its.name, turn)).unwrap_or_default()
        });
        watches.woken_by_deliveries(|_, inbox: &WebhookInbox| {
            let own = deliveries(inbox).filter(|delivery| delivery.is_for_app());
            own.map(|delivery| ObjectRef::new(&delivery.app)).collect()
        });
        watches.woken_by_credentials(|shared, secret, _| {
            let name = secret.name_any();
            let are_keys = name == ROOT_KEYS_SECRET;
            if are_keys {
                shared.root_keys.changed();
            }
            let is_concerned = |app: &&Arc<GitHubApp>| {
                app.spec.credentials_secret_ref.name == name || (are_keys && app.spec.webhook.is_some())
            };
            let apps = shared.caches.all::<GitHubApp>();
            apps.iter().filter(is_concerned).map(|app| ObjectRef::from_obj(&**app)).collect()
        });
    }

    fn places(&self, app: &GitHubApp) -> Places {
        vec![format!("app {}", app.name_any())]
    }

    /// Requests a look if a delivery or the annotation does.
    fn begin(&self, app: Arc<GitHubApp>) -> Arc<GitHubApp> {
        let name = app.name_any();
        let handled = app.status.as_ref().and_then(|status| status.last_handled_reconcile.as_ref());
        let is_asked = requested_look(&*app).is_some_and(|request| handled != Some(request));
        let waiting = self.shared.waiting_for_app(&name).into_iter().map(|waiting| waiting.announced).collect();
        let is_told = self.shared.connections.are_new(&name, waiting);
        if is_asked || is_told {
            self.shared.connections.request_look(&name, self.shared.now());
        }
        app
    }

    async fn gather(&self, app: &Arc<GitHubApp>) -> Result<Seen, kube::Error> {
        let shared = &*self.shared;
        let name = app.name_any();
        let (system, credentials) = (&shared.settings.namespace, &app.spec.credentials_secret_ref.name);
        let secret = shared.credentials.read(&shared.client, system, credentials, shared.now()).await?;
        let connection = shared.connections.get(&name);
        // They are created if there are none, because everything about webhooks depends on them.
        let keys = match &app.spec.webhook {
            Some(_) => Some(shared.ensure_root_keys().await.map_err(|error| hook::keyless(&error))),
            None => None,
        };
        let look = connection.as_ref().and_then(|connection| connection.look.as_deref());
        let all = shared.caches.all::<GitHubInstallation>();
        let installations = installations_of(shared, &name);
        let desired = desired(app, look, &shared.namespaces(), &all, &self.in_use(&installations));
        let is_going = app.metadata.deletion_timestamp.is_some();
        Ok(Seen {
            has_finalizer: has_finalizer(&**app, DEPENDENTS_FINALIZER),
            made_from: look::made_from(app, secret.as_ref()),
            waiting: shared.waiting_for_app(&name),
            dependents: if is_going { self.dependents(&installations).await? } else { Vec::new() },
            app: Arc::clone(app),
            secret,
            connection,
            keys,
            installations,
            desired,
        })
    }

    fn newest(&self) -> Option<&Newest<GitHubApp>> {
        Some(&self.newest)
    }

    fn plan(seen: &Seen, now: Timestamp) -> Plan<Step> {
        plan::plan(seen, now)
    }

    fn task(_: &Step) -> Option<Infallible> {
        None
    }

    async fn apply(&self, seen: &Seen, step: Step) -> Result<Done<GitHubApp>, Failure> {
        let (app, client) = (&*seen.app, &self.shared.client);
        match step {
            Step::AddFinalizer => {
                return Ok(Done::Again(Some(set_finalizer(client, app, DEPENDENTS_FINALIZER, true).await?)));
            }
            Step::RemoveFinalizer { forsaken } => {
                if !forsaken.is_empty() {
                    let note = format!(
                        "gone after 15 minutes, though this still needed it (tokens expire within the hour, webhooks stay): {}",
                        forsaken.join(", ")
                    );
                    self.shared.warn(app, Reason::WaitingForDependents, &note).await;
                }
                set_finalizer(client, app, DEPENDENTS_FINALIZER, false).await?;
                self.newest.forget(app);
                self.shared.connections.forget(&app.name_any());
                self.shared.metrics.forget_app(&app.name_any());
                return Ok(Done::Finished);
            }
            Step::Connect => look::connect(&self.shared, seen),
            Step::Look => look::look(self, seen).await,
            Step::EnsureHook => hook::ensure(self, seen).await,
            Step::Adjust => return Ok(self.adjust(seen).await),
            Step::Withdraw(left) => self.withdraw(app, left).await?,
        }
        Ok(Done::Again(None))
    }

    fn succeeded(&self, _: &Seen, task: Infallible) {
        match task {}
    }

    fn failed(&self, _: &Seen, _: Option<Infallible>, _: Standing, _: Again) {}

    /// The log has the deliveries now, so they can be taken out of their inboxes.
    fn concluded(&self, seen: &Seen) {
        let marks = seen.marks();
        for Mark { delivery, result, .. } in &marks {
            tracing::info!(delivery = delivery.guid, event = delivery.event, ?result, "a delivery was dealt with");
        }
        let taken: BTreeSet<_> = marks.into_iter().map(|mark| mark.announced).collect();
        self.shared.mark_dealt_with(taken.iter().cloned());
        self.shared.connections.update(&seen.app.name_any(), |its| its.heard.retain(|heard| !taken.contains(heard)));
    }

    fn status(&self, seen: &Seen, _: Option<&Standing>) -> GitHubAppStatus {
        status(seen, self.shared.now())
    }
}

fn status(seen: &Seen, now: Timestamp) -> GitHubAppStatus {
    let app = &seen.app;
    let stored = app.status.clone().unwrap_or_default();
    if app.metadata.deletion_timestamp.is_some() {
        return stored;
    }
    let ensured = match hook::state(seen, now) {
        HookState::Rests(hook) => hook.ensured,
        HookState::Unmanaged | HookState::Keyless(_) | HookState::Due => None,
    };
    let status = GitHubAppStatus {
        webhook: if app.spec.webhook.as_ref().is_some_and(|webhook| webhook.policy != WebhookPolicy::Manual) {
            // As long as the state of the webhook is unknown, the stored address shows which one was the operator's.
            ensured.or_else(|| stored.webhook.clone())
        } else {
            None
        },
        tenants: seen.desired.tenants.clone(),
        deliveries: log(&stored.deliveries, &seen.marks()),
        last_handled_reconcile: requested_look(&**app).cloned(),
        ..stored.clone()
    };
    let look = seen.connection.as_ref().and_then(|connection| connection.look.as_ref());
    let Some(look) = look else { return status };
    GitHubAppStatus {
        app_id: Some(look.app.id),
        slug: look.app.slug().map(str::to_owned),
        name: Some(look.app.name.clone()),
        owner_login: look.app.owner.as_ref().map(|owner| owner.login.clone()),
        html_url: Some(look.app.html_url.clone()),
        bot_user_id: look.bot_user_id,
        permissions: look.app.permissions.iter().map(|(name, level)| (name.clone(), level.to_string())).collect(),
        events: look.app.events.clone(),
        ..status
    }
}
