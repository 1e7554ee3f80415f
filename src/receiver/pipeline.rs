//! The steps of one delivery: find its webhook, verify its signature, parse it, match objects, store it.
//!
//! Invariant: the order. A request for an unknown webhook costs a lookup in a table, and one for a known webhook an HMAC.
//! Only a payload with a valid signature is parsed, and only a delivery that concerns an object is written.

use super::answer::{Outcome, Refusal};
use super::event::{Head, Payload};
use super::inbox::{DeliveryHint, Inbox};
use super::keys::{Keys, Verdict};
use super::log_limiter::LogLimiter;
use super::metrics::Metrics;
use super::rate::Buckets;
use super::signature::Signature;
use super::targets::{Object, Targets};
use crate::guards::Guards;
use crate::ids::RepositoryId;
use crate::runtime::clock::Clock;
use crate::webhook::{AppIdentity, Hook};
use http::request::Parts;
use http::{HeaderMap, Method, header};
use jiff::SignedDuration;
use std::sync::Arc;
use tokio::time::sleep;

pub struct Pipeline {
    pub targets: Targets,
    pub keys: Arc<Keys>,
    pub inbox: Inbox,
    pub buckets: Arc<Buckets>,
    pub metrics: Metrics,
    pub clock: Arc<dyn Clock>,
    /// For lines about wrong signatures.
    pub log_limiter: LogLimiter,
    /// The guards that tests take out.
    pub guards: Guards,
}

/// A request for a known webhook, with a signature that is not verified yet.
pub struct Addressed {
    app: String,
    hook: Hook,
    identity: AppIdentity,
    signature: Signature,
    headers: HeaderMap,
}

/// The subject of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// GitHub tests the webhook.
    Webhook,
    /// An installation of the App, and the repositories that it can access.
    Installation,
    /// The webhook was deleted.
    WebhookDeleted,
    /// A repository's branches.
    Push,
    /// A repository itself: it was renamed, archived, transferred, deleted.
    Repository,
    /// Any other event. The operator does not use them: created and deleted branches come as pushes as well, and forks, issues,
    /// checks and people who authorize the App do not concern it.
    Other,
}

impl Subject {
    fn of(event: &str) -> Self {
        match event {
            "ping" => Self::Webhook,
            "installation" | "installation_repositories" | "installation_target" => Self::Installation,
            "meta" => Self::WebhookDeleted,
            "push" => Self::Push,
            "repository" => Self::Repository,
            _ => Self::Other,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Webhook => "ping",
            Self::Installation => "installation",
            Self::WebhookDeleted => "meta",
            Self::Push => "push",
            Self::Repository => "repository",
            Self::Other => "other",
        }
    }
}

impl Pipeline {
    /// Checks the head of a request; after an error its body need not be read.
    pub fn address(&self, request: Parts) -> Result<Addressed, Refusal> {
        let (hook, app) = Hook::of_path(request.uri.path()).ok_or(Refusal::Path)?;
        if request.method != Method::POST {
            return Err(Refusal::Method);
        }
        // An incomplete cache may not have the target yet.
        let unknown = || if self.targets.are_listed() { Refusal::Target } else { Refusal::Starting };
        let identity = self.targets.identity_of(app, hook).ok_or_else(unknown)?;
        let identity = self.guards.identity(identity, &request.headers);
        // GitHub signs the bytes before a proxy compressed them, so any secret would look wrong.
        if request
            .headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(Refusal::Encoding);
        }
        let signature = Signature::of(&request.headers).ok_or(Refusal::Signature)?;
        Ok(Addressed { app: app.to_owned(), hook, identity, signature, headers: request.headers })
    }

    /// Processes a delivery once its body was read.
    pub async fn process(&self, addressed: Addressed, body: &[u8]) -> Result<Outcome, Refusal> {
        let Addressed { app, hook, identity, signature, headers } = addressed;
        let verdict = self.keys.verify(&identity, hook, &signature, body).await;
        match self.guards.verdict(verdict) {
            Verdict::Right => {}
            Verdict::NoKeys => return Err(Refusal::Keys),
            Verdict::Wrong => {
                self.log_wrong_signature(&app, hook);
                return Err(Refusal::Signature);
            }
        }
        let head = Head::read(&headers)?;
        let payload = Payload::read(&head, body)?;
        let subject = Subject::of(&head.event);
        let (guid, event) = (head.guid.clone(), head.event.clone());
        let (repository, sha) =
            (payload.repository.as_ref().map(|repository| repository.id.get()), payload.sha.clone());
        let result = self.store(&app, hook, subject, head, payload).await;
        let label = result.as_ref().map_or("refused", Outcome::label);
        self.metrics.delivered(subject.label(), label);
        let reason = result.as_ref().err().map(Refusal::label);
        tracing::info!(app, guid, event, repository, sha, result = label, reason, "delivery");
        result
    }

    async fn store(
        &self,
        app: &str,
        hook: Hook,
        subject: Subject,
        head: Head,
        payload: Payload,
    ) -> Result<Outcome, Refusal> {
        if subject == Subject::Webhook {
            return Ok(Outcome::Pong);
        }
        if !self.targets.are_listed() {
            return Err(Refusal::Starting);
        }
        let repository = payload.repository.as_ref();
        let is_other = |id| repository.is_none_or(|repository| repository.id != id);
        if let Hook::Repository(id) = hook
            && self.guards.other_repository(is_other(id))
        {
            return Err(Refusal::OtherRepository);
        }
        if subject == Subject::Installation
            && let Some(account) = &payload.account
            && !self.targets.grants_account(app, account)
        {
            return Ok(Outcome::Ignored("the App grants this account to nobody"));
        }
        let objects = match (subject, hook, repository) {
            (Subject::Installation | Subject::WebhookDeleted, Hook::App, _) => {
                let is_selection = head.event == "installation_repositories";
                let selected = payload.selection.as_ref().filter(|_| is_selection);
                let mut objects = vec![Object::App(app.into())];
                objects.extend(selected.into_iter().flat_map(|selection| self.targets.selected(app, selection)));
                objects
            }
            (Subject::Push, _, Some(repository)) | (Subject::WebhookDeleted, Hook::Repository(_), Some(repository)) => {
                self.targets.bound_to(app, repository)
            }
            (Subject::Repository, _, Some(repository)) => {
                let mut objects = self.targets.bound_to(app, repository);
                // The secret of a repository's webhook is for that repository alone, whatever name the payload gives it.
                if hook == Hook::App {
                    objects.extend(self.targets.waiting_for(app, repository));
                }
                objects
            }
            _ => return Ok(Outcome::Ignored("the operator does not use this event")),
        };
        if objects.is_empty() {
            return Ok(Outcome::Ignored("no object is bound to this repository and was granted it"));
        }
        let now = self.clock.now();
        let target = repository.filter(|_| !matches!(objects[0], Object::App(_))).map(|repository| repository.id);
        let Payload { action, reference, sha, .. } = payload;
        let hint = DeliveryHint {
            app: app.to_owned(),
            guid: head.guid,
            event: head.event,
            action,
            reference,
            sha,
            received_at: now,
        };
        if let Err(after) = self.buckets.take(app, target, now) {
            self.coalesce(app, target, objects, hint, after);
            return Err(Refusal::Rate(after));
        }
        self.inbox.store(objects, &hint).await?;
        Ok(Outcome::Accepted)
    }

    /// Coalesces rate-limited deliveries: stores one, without its branch, once the limit allows it, so that the operator looks
    /// at all branches. Otherwise the next poll would be the first to notice a push that comes just after many others.
    fn coalesce(
        &self,
        app: &str,
        target: Option<RepositoryId>,
        objects: Vec<Object>,
        hint: DeliveryHint,
        mut after: SignedDuration,
    ) {
        if !self.buckets.begin_coalescing(app, target) {
            return;
        }
        let (buckets, inbox, clock) = (Arc::clone(&self.buckets), self.inbox.clone(), Arc::clone(&self.clock));
        let (app, hint) = (app.to_owned(), DeliveryHint { reference: None, sha: None, ..hint });
        // The sender got a refusal, so the end of the process does not wait for this.
        tokio::spawn(async move {
            loop {
                sleep(after.unsigned_abs()).await;
                match buckets.take(&app, target, clock.now()) {
                    Ok(()) => break,
                    Err(longer) => after = longer,
                }
            }
            buckets.end_coalescing(&app, target);
            let hint = DeliveryHint { received_at: clock.now(), ..hint };
            if let Err(error) = inbox.store(objects, &hint).await {
                tracing::warn!(%error, "merged deliveries were not stored; the next poll finds what they announced");
            }
        });
    }

    fn log_wrong_signature(&self, app: &str, hook: Hook) {
        if self.log_limiter.allows() {
            tracing::warn!(
                app,
                ?hook,
                "a signature is wrong: the sender is not GitHub, or the webhook has another secret than the receiver expects"
            );
        }
    }
}
