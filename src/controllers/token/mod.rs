//! `InstallationToken`: mints a token, tries it, publishes it in a Secret, renews it, and revokes it in the end.

mod apply;
mod format;
mod gather;
mod listing;
mod memory;
mod noted;
mod owned;
mod plan;
mod scope;
pub(crate) mod secret;
mod seen;
mod spend;
mod template;
mod trial;

pub use memory::TokenMemory;
pub use seen::{SecretSeen, Seen};

use super::caches::News;
use super::dependents::woken_by_access;
use super::index::keep;
use super::newest::Newest;
use super::object::requested_look;
use super::reconcile::{Done, Failure, Kind, Plan};
use super::shared::Shared;
use super::standing::{Again, Standing, State, matters_to_app, whole_second};
use super::watches::{SecretMeta, Select, Turn, Watches};
use crate::api::{InstallationToken, InstallationTokenStatus, Workspace};
use crate::features::Feature;
use crate::manifests::{READ, Rule, RuleSet, WRITE};
use crate::runtime::due::{Due, Places};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use noted::{Place, SecretNotes};
use owned::OwnedSecrets;
use plan::{Call, Step};
use seen::Failed;
use std::sync::Arc;

pub struct TokenKind {
    shared: Arc<Shared>,
    lane: Due<InstallationToken>,
    memory: Arc<TokenMemory>,
    notes: Arc<SecretNotes>,
    owned: Arc<OwnedSecrets>,
    newest: Newest<InstallationToken>,
}

impl TokenKind {
    /// A controller with an empty memory.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, lane: Due<InstallationToken>) -> Self {
        Self {
            shared: Arc::clone(shared),
            lane,
            memory: Arc::default(),
            notes: Arc::default(),
            owned: Arc::default(),
            newest: Newest::default(),
        }
    }

    /// The tokens that this process minted.
    #[must_use]
    pub fn memory(&self) -> &Arc<TokenMemory> {
        &self.memory
    }

    /// When to retry a failed call. A failure that only a person can repair is retried soon for a few times, because a
    /// single odd answer should not cost half an hour. While a published token runs out, the wait is at most a third of
    /// its remaining life.
    fn again_at(&self, seen: &Seen, again: Again) -> Timestamp {
        const SOON: u32 = 3;
        let reference = ObjectRef::from_obj(&*seen.token);
        let at = match again {
            Again::Person => {
                let retry = self.lane.retry(&reference);
                if retry.attempt <= SOON { retry.at } else { self.shared.resolve(&self.lane, &reference, again) }
            }
            other => self.shared.resolve(&self.lane, &reference, other),
        };
        let SecretSeen::Ours(published) = &seen.secret else { return at };
        let now = self.shared.now();
        let left = published.expires_at.map(|end| end.duration_since(now)).filter(SignedDuration::is_positive);
        let soonest = left.map(|left| now + (left / 3).max(SignedDuration::from_secs(5)));
        match (again, soonest) {
            // GitHub allows no earlier retry.
            (Again::At(_), _) | (_, None) => at,
            (_, Some(soonest)) => at.min(soonest),
        }
    }
}

fn uid(token: &InstallationToken) -> &str {
    token.metadata.uid.as_deref().unwrap_or_default()
}

impl Kind for TokenKind {
    type Object = InstallationToken;
    type Seen = Seen;
    type Step = Step;
    type Task = Call;

    const FEATURE: Feature = Feature::Tokens;
    const RULES: &'static [Rule] = &[
        Rule::new(RuleSet::Cluster, "landfall.dev", &["installationtokens"], &["get", "list", "watch", "patch"]),
        Rule::new(RuleSet::Cluster, "landfall.dev", &["installationtokens/status"], &["patch"]),
        Rule::new(RuleSet::Cluster, "landfall.dev", &["installationtokens/finalizers"], &["update"]),
        Rule::new(RuleSet::Secrets, "", &["secrets"], &["get", "list", "watch", "create", "patch", "delete"]),
        Rule::new(RuleSet::View, "landfall.dev", &["installationtokens"], READ),
        // A token gives no more access than the namespace was granted, and this role reads Secrets anyway.
        Rule::new(RuleSet::Edit, "landfall.dev", &["installationtokens"], WRITE),
    ];
    const DEFINITION: Option<fn() -> CustomResourceDefinition> = Some(crate::api::definition::<InstallationToken>);
    // Its condition says so, and namespaces may have thousands of tokens.
    const TELLS_FIRST_READY: bool = false;

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn lane(&self) -> &Due<InstallationToken> {
        &self.lane
    }

    fn watches(self: &Arc<Self>, watches: &mut Watches<'_, InstallationToken>) {
        let key = |token: &InstallationToken| Some((token.namespace()?, token.spec.installation_ref.name.clone()));
        keep(watches, |index| &index.tokens, key);
        woken_by_access(watches, |index, namespace, name| index.tokens.of(namespace, name));
        // Declared before the wake-up, so that the look finds the index changed and the note gone.
        let (notes, owned, shared) = (Arc::clone(&self.notes), Arc::clone(&self.owned), Arc::clone(&self.shared));
        watches.hear_our_secrets(move |news| match news {
            News::Changed(secret) => owned.changed(secret),
            News::Gone(secret) => {
                owned.deleted(&Place::of_secret(secret));
                notes.deleted(&Place::of_secret(secret));
            }
            News::Listed => {
                owned.set(|| shared.caches.all::<SecretMeta>());
                notes.listed(|place| shared.caches.named::<SecretMeta>(&place.namespace, &place.name).is_some());
            }
        });
        watches.woken_by_our_secrets(|_, secret, _| {
            let namespace = secret.namespace().unwrap_or_default();
            let owners = secret.owner_references().iter().filter(|owner| owner.kind == "InstallationToken");
            owners.map(|owner| ObjectRef::new(&owner.name).within(&namespace)).collect()
        });
        // The token of a terminating workspace may wait for it.
        watches.woken_by(Select::All, |shared, workspace: &Workspace, turn| {
            if turn == Turn::Changed {
                return Vec::new();
            }
            let uid = workspace.uid();
            let mut tokens = shared.caches.index.tokens.under(&workspace.namespace().unwrap_or_default());
            tokens.retain(|token| {
                let token = shared.caches.get(token);
                token.is_some_and(|it| it.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref()))
            });
            tokens
        });
    }

    async fn prepare(&self) {
        // The caches are filled, and the listeners may be late.
        self.owned.set(|| self.shared.caches.all::<SecretMeta>());
        listing::note_published(self).await;
    }

    fn places(&self, token: &InstallationToken) -> Places {
        self.shared.place_of_app(token.namespace(), &token.spec.installation_ref.name)
    }

    async fn gather(&self, token: &Arc<InstallationToken>) -> Result<Seen, kube::Error> {
        gather::gather(self, token).await
    }

    fn newest(&self) -> Option<&Newest<InstallationToken>> {
        Some(&self.newest)
    }

    fn plan(seen: &Seen, now: Timestamp) -> Plan<Step> {
        plan::plan(seen, now)
    }

    fn task(step: &Step) -> Option<Call> {
        step.call()
    }

    async fn apply(&self, seen: &Seen, step: Step) -> Result<Done<InstallationToken>, Failure> {
        apply::apply(self, seen, step).await
    }

    fn succeeded(&self, seen: &Seen, call: Call) {
        self.memory.succeeded(uid(&seen.token), call);
    }

    fn failed(&self, seen: &Seen, call: Option<Call>, standing: Standing, again: Again) {
        // While the App does not work, its tokens make no calls.
        if matters_to_app(&standing)
            && let Some(app) = &seen.tools.app
        {
            self.shared.look_at_app(app);
        }
        let until = self.again_at(seen, again);
        let failed = Failed { standing, until };
        self.memory.failed(uid(&seen.token), call.unwrap_or(Call::Asks), failed, seen.about.clone());
    }

    /// Remembers the good token in the Secret, even if another process minted it, so that it can be revoked when the
    /// Secret is deleted first.
    fn settled(&self, seen: &Seen, standing: Option<&Standing>) {
        if standing.is_some_and(|standing| standing.state == State::Ready)
            && seen.held.as_ref().is_none_or(|held| held.expires_at <= self.shared.now())
            && let Some(content) = &seen.tools.content
        {
            self.memory.found(uid(&seen.token), Arc::clone(content), self.shared.now());
        }
    }

    /// The properties of the published token, read from the Secret and not from the plan.
    fn status(&self, seen: &Seen, _: Option<&Standing>) -> InstallationTokenStatus {
        let last_handled_reconcile = requested_look(&*seen.token).cloned();
        if let SecretSeen::OutOfReach(_) = seen.secret {
            let stored = seen.token.status.clone().unwrap_or_default();
            return InstallationTokenStatus { last_handled_reconcile, ..stored };
        }
        let SecretSeen::Ours(published) = &seen.secret else {
            return InstallationTokenStatus { last_handled_reconcile, ..InstallationTokenStatus::default() };
        };
        InstallationTokenStatus {
            expiration_time: published.expires_at.map(Time),
            mint_time: published.minted_at.map(whole_second).map(Time),
            repository_selection: published.scope.as_ref().map(|scope| scope.repositories.selection()),
            repository_ids: published.repository_ids.clone(),
            permissions: published.scope.as_ref().map(|scope| scope.permissions.clone()).unwrap_or_default(),
            secret_name: Some(seen.token.spec.secret.name.clone()),
            fingerprint: published.fingerprint.clone(),
            last_handled_reconcile,
            ..InstallationTokenStatus::default()
        }
    }
}
