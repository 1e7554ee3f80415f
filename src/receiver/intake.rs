//! The way of one delivery: who it says it is for, whether it may, what it says, whom it concerns, and into the inbox.
//!
//! Invariant: the order. A stranger costs a look into a table; who knows a webhook costs an HMAC; only who has its
//! secret has the payload read, and only what concerns something is written.

use super::answer::{Outcome, Refusal};
use super::complaints::Complaints;
use super::event::{Head, Payload};
use super::inbox::{Hint, Inbox};
use super::keys::{Keys, Verdict};
use super::metrics::Metrics;
use super::rate::Buckets;
use super::signature::Signature;
use super::targets::{Object, Targets};
use crate::guards::Guards;
use crate::runtime::clock::Clock;
use crate::webhook::{AppIdentity, Hook};
use futures::future::join_all;
use http::request::Parts;
use http::{HeaderMap, Method};
use jiff::SignedDuration;
use std::sync::Arc;
use tokio::time::sleep;

/// What deliveries are judged by, and where they go.
pub struct Intake {
    /// Whom they may concern.
    pub targets: Targets,
    /// Their keys.
    pub keys: Arc<Keys>,
    /// Where they are stored.
    pub inbox: Inbox,
    /// How many may be.
    pub buckets: Arc<Buckets>,
    /// What is counted.
    pub metrics: Metrics,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How many lines about wrong signatures are left.
    pub complaints: Complaints,
    /// The guards that tests take out.
    pub guards: Guards,
}

/// A request that says whom it is for and that it is signed.
pub struct Addressed {
    app: String,
    hook: Hook,
    identity: AppIdentity,
    signature: Signature,
    headers: HeaderMap,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// GitHub tries the webhook.
    Webhook,
    /// Where the App is installed, and what it sees there.
    Installation,
    /// The webhook was deleted.
    WebhookDeleted,
    /// A repository's branches.
    Push,
    /// A repository itself: it was renamed, archived, transferred, deleted.
    Repository,
    /// Anything else, which changes nothing that the operator follows: branches that come and go are pushed, forks that
    /// others make are theirs, and issues and checks are nobody's here.
    Other,
}

impl About {
    fn of(event: &str) -> Self {
        match event {
            "ping" => Self::Webhook,
            "installation" | "installation_repositories" | "installation_target" | "github_app_authorization" => {
                Self::Installation
            }
            "meta" => Self::WebhookDeleted,
            "push" => Self::Push,
            "repository" => Self::Repository,
            _ => Self::Other,
        }
    }

    fn word(self) -> &'static str {
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

impl Intake {
    /// Looks at a request before its body is read.
    ///
    /// # Errors
    /// When its body need not be read at all.
    pub fn address(&self, request: Parts) -> Result<Addressed, Refusal> {
        let (hook, app) = Hook::of_path(request.uri.path()).ok_or(Refusal::Path)?;
        if request.method != Method::POST {
            return Err(Refusal::Method);
        }
        // What was not listed yet may be what this is for.
        let unknown = || if self.targets.are_listed() { Refusal::Target } else { Refusal::Starting };
        let identity = self.targets.knows(app, hook).ok_or_else(unknown)?;
        let identity = self.guards.identity(identity, &request.headers);
        let signature = Signature::of(&request.headers).ok_or(Refusal::Signature)?;
        Ok(Addressed { app: app.to_owned(), hook, identity, signature, headers: request.headers })
    }

    /// Takes a delivery.
    ///
    /// # Errors
    /// When nothing was stored of it.
    pub async fn take(&self, addressed: Addressed, body: &[u8]) -> Result<Outcome, Refusal> {
        let Addressed { app, hook, identity, signature, headers } = addressed;
        let verdict = self.keys.judge(&identity, hook, &signature, body).await;
        match self.guards.verdict(verdict) {
            Verdict::Right => {}
            Verdict::NoKeys => return Err(Refusal::Keys),
            Verdict::Wrong => {
                self.complain(&app, hook);
                return Err(Refusal::Signature);
            }
        }
        let head = Head::read(&headers)?;
        let payload = Payload::read(&head, body)?;
        let about = About::of(&head.event);
        let (guid, event) = (head.guid.clone(), head.event.clone());
        let (repository, sha) = (payload.repository.as_ref().map(|repository| repository.id), payload.sha.clone());
        let result = self.store(&app, hook, about, head, payload).await;
        let word = result.as_ref().map_or("refused", Outcome::word);
        self.metrics.delivered(about.word(), word);
        let reason = result.as_ref().err().map(Refusal::word);
        tracing::info!(app, guid, event, repository, sha, result = word, reason, "delivery");
        result
    }

    async fn store(
        &self,
        app: &str,
        hook: Hook,
        about: About,
        head: Head,
        payload: Payload,
    ) -> Result<Outcome, Refusal> {
        if about == About::Webhook {
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
        let objects = match (about, hook, repository) {
            (About::Installation | About::WebhookDeleted, Hook::App, _) => {
                let is_selection = head.event == "installation_repositories";
                let selected = payload.selection.as_ref().filter(|_| is_selection);
                let mut objects = vec![Object::App(app.into())];
                objects.extend(selected.into_iter().flat_map(|selection| self.targets.selected(app, selection)));
                objects
            }
            (About::Push, _, Some(repository)) | (About::WebhookDeleted, Hook::Repository(_), Some(repository)) => {
                self.targets.bound_to(app, repository)
            }
            (About::Repository, _, Some(repository)) => {
                let mut objects = self.targets.bound_to(app, repository);
                // Who has the secret of one repository's webhook speaks of that one alone, and not by names.
                if hook == Hook::App {
                    objects.extend(self.targets.waiting_for(app, repository));
                }
                objects
            }
            _ => return Ok(Outcome::Ignored("the operator does not look after such events")),
        };
        if objects.is_empty() {
            return Ok(Outcome::Ignored("nothing here is bound to this repository and was granted it"));
        }
        let now = self.clock.now();
        let target = repository.filter(|_| !matches!(objects[0], Object::App(_))).map(|repository| repository.id);
        let Payload { action, reference, sha, .. } = payload;
        let hint = Hint { guid: head.guid, event: head.event, action, reference, sha, received_at: now };
        if let Err(after) = self.buckets.take(app, target, now) {
            self.store_later(app, target, objects, hint, after);
            return Err(Refusal::Rate(after));
        }
        let results = join_all(objects.into_iter().map(|object| self.inbox.store(object, hint.clone()))).await;
        let mut failures = results.iter().filter_map(|result| result.err());
        // What no repeat would mend does not keep the sender from hearing that the others have it: it is one tenant's.
        if let Some(error) = failures.clone().find(|error| error.will_pass()) {
            return Err(error.into());
        }
        match failures.next() {
            Some(error) if results.iter().all(Result::is_err) => Err(error.into()),
            _ => Ok(Outcome::Accepted),
        }
    }

    /// Of all that was refused for coming too often, one is stored as soon as there is room, and says of which branch it was no
    /// more: whatever else was refused meanwhile, the operator looks. Otherwise a push that comes just behind many others
    /// would be seen by the next poll only.
    fn store_later(&self, app: &str, target: Option<u64>, objects: Vec<Object>, hint: Hint, mut after: SignedDuration) {
        if !self.buckets.wait(app, target) {
            return;
        }
        let (buckets, inbox, clock) = (Arc::clone(&self.buckets), self.inbox.clone(), Arc::clone(&self.clock));
        let (app, hint) = (app.to_owned(), Hint { reference: None, sha: None, ..hint });
        // Nobody was told that it is stored, so the end of the process does not wait for it.
        tokio::spawn(async move {
            loop {
                sleep(after.unsigned_abs()).await;
                match buckets.take(&app, target, clock.now()) {
                    Ok(()) => break,
                    Err(longer) => after = longer,
                }
            }
            buckets.waited(&app, target);
            let hint = Hint { received_at: clock.now(), ..hint };
            join_all(objects.into_iter().map(|object| inbox.store(object, hint.clone()))).await;
        });
    }

    fn complain(&self, app: &str, hook: Hook) {
        if self.complaints.may() {
            tracing::warn!(
                app,
                ?hook,
                "a signature is wrong: somebody else sends this, or the webhook has another secret"
            );
        }
    }
}
