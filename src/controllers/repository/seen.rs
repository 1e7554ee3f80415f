//! What is seen of a `ProjectRepository` and around it: all that a decision needs, and no more.
//!
//! Invariant: what is here is what was found, with nothing decided yet; the plan is a pure function of it and of `now`.
//! What GitHub said comes from [`super::memory`], never from status: a tenant may be able to write status.

use super::memory::{About, Failed, Remembered, Task};
use super::rollout;
use crate::api::{DeliveryResult, DeploymentResult, DeploymentStatus, ProjectRepository, REDEPLOY_ANNOTATION};
use crate::controllers::deliveries::Mark;
use crate::controllers::object::requested_look;
use crate::controllers::reference::Terms;
use crate::controllers::standing::{Standing, State};
use crate::git::Address;
use crate::github::{GitHub, Permissions as GitHubPermissions, Transport};
use crate::grant::Grant;
use crate::ids::{AccountId, InstallationId, RepositoryId};
use crate::webhook::AppIdentity;
use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;

/// Which way leads to the repository.
#[derive(Clone, Debug)]
pub enum Way {
    /// Nothing is known yet, so nothing is done.
    NotYetKnown,
    /// There is none now, or not for this namespace.
    Blocked {
        /// Why.
        standing: Standing,
        /// It will not open by itself.
        permanent: bool,
    },
    /// By the App.
    GitHub(Granted),
    /// By its address alone.
    Address(Address),
}

/// An installation that this namespace may use.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The `GitHubApp`.
    pub app: String,
    /// The installation's id.
    pub installation: InstallationId,
    /// The account's login.
    pub account: String,
    /// The account's id.
    pub account_id: AccountId,
    /// The installation's settings page.
    pub settings_url: String,
    /// What the namespace may ask for.
    pub grant: Grant,
    /// What the account lets the App do.
    pub permissions: GitHubPermissions,
}

/// Which webhook of its own the repository is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookWish {
    /// None.
    None,
    /// One that delivers below this address, signed with a secret from the root key of this id.
    Own {
        /// `spec.webhook.url` of the `GitHubApp`.
        base: String,
        /// The root key's id.
        key_id: String,
    },
    /// One, but where it is to deliver to, or what is to sign, is not known.
    Unknown(Standing),
}

/// A delivery that was not marked yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// What it is marked as, once it was looked after it, or at once if that is not needed.
    pub mark: Mark,
    /// It may concern the branch, or the repository.
    pub needs_look: bool,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The object.
    pub object: Arc<ProjectRepository>,
    /// It holds the finalizer.
    pub has_finalizer: bool,
    /// It, its installation or its App is paused.
    pub is_paused: bool,
    /// Which way leads to the repository.
    pub way: Way,
    /// The way that is left to take its webhook away, where its installation or its App is being deleted.
    pub way_out: Option<Granted>,
    /// Which webhook it is to have.
    pub hook: HookWish,
    /// The deliveries that wait.
    pub pending: Vec<Pending>,
    /// A waiting delivery says that the repository itself is another than before.
    pub is_repository_news: bool,
    /// When it may take a step out of its turn.
    pub allowed_at: Timestamp,
    /// What this process knows.
    pub known: Remembered,
    /// What acting takes, and no decision.
    pub tools: Tools,
}

/// What acting takes.
#[derive(Clone, Default)]
pub struct Tools {
    /// The client, where the way leads through GitHub and the App's credentials can be used.
    pub github: Option<Arc<GitHub>>,
    /// What tells the App's connection from others.
    pub identity: String,
    /// The App whose webhooks are meant, if it was looked at.
    pub app: Option<AppIdentity>,
    /// The way to the App's GitHub, for git.
    pub git: Option<Transport>,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The most that is shown of why a delivery came to nothing, in characters: the API takes some more.
const LONGEST_MESSAGE: usize = 1000;

impl Seen {
    /// The id the object is bound to: what GitHub answered to this process, else what the spec says, else what status
    /// remembers. That last is believed as far as the grant reaches, for a tenant may have written it.
    #[must_use]
    pub fn bound_id(&self) -> Option<RepositoryId> {
        let said = self.object.spec.source.existing.as_ref().and_then(|existing| existing.id);
        let stored = || self.object.status.as_ref().and_then(|status| status.id);
        let remembered = self.known.facts.as_ref().map(|facts| facts.repository.id);
        remembered.or(said).or_else(stored)
    }

    /// The branch the spec names.
    #[must_use]
    pub fn branch(&self) -> Option<&str> {
        self.object.spec.branch.as_deref()
    }

    /// The head was confirmed by id since it was looked at.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        let (Some(head), Some(looked)) = (&self.known.head, &self.known.looked) else { return false };
        self.known.confirmed.as_ref().is_some_and(|(sha, at)| *sha == head.sha && *at == looked.at)
    }

    /// Another head than is shown was read from what has the name now, and nobody asked whose it is: neither before it was
    /// read nor since.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        let (Way::GitHub(_), Some(looked), Some(head)) = (&self.way, &self.known.looked, &self.known.head) else {
            return false;
        };
        let shown = self.object.status.as_ref().and_then(|status| status.head.as_ref());
        let confirmed = self.known.confirmed.as_ref().map(|(sha, _)| sha);
        self.known.facts.as_ref().is_none_or(|facts| facts.at < looked.at)
            && shown.is_none_or(|shown| shown.sha != head.sha)
            && confirmed != Some(&head.sha)
    }

    /// The head as it may be acted on: confirmed, or the one that is deployed anyway.
    #[must_use]
    pub fn confirmed_head(&self) -> Option<rollout::ConfirmedHead> {
        let (Some(head), Some(looked)) = (&self.known.head, &self.known.looked) else { return None };
        let is_at_rest = self.deployment().is_some_and(|deployment| {
            deployment.sha == head.sha
                && (deployment.result == DeploymentResult::Succeeded
                    || (deployment.result == DeploymentResult::Failed
                        && deployment.sequence > 0
                        && !self.is_redeploy_asked()))
        });
        (is_at_rest || self.is_confirmed())
            .then(|| rollout::ConfirmedHead { sha: head.sha.clone(), looked_at: looked.at })
    }

    /// What was deployed last.
    #[must_use]
    pub fn deployment(&self) -> Option<&DeploymentStatus> {
        let stored = self.object.status.as_ref().and_then(|status| status.deployment.as_ref());
        self.known.deployment.as_ref().or(stored)
    }

    /// What a rollout says of whose it is: the repository's id, or its address. As long as it was not looked at, what status
    /// says, for nothing is rolled then.
    #[must_use]
    pub fn source(&self) -> Option<String> {
        match &self.way {
            Way::Address(address) => Some(address.url().to_string()),
            _ => self.bound_id().map(|id| id.to_string()),
        }
    }

    /// Somebody asks for a failed deployment to be done again.
    #[must_use]
    pub fn is_redeploy_asked(&self) -> bool {
        self.redeploy_wish().is_some_and(|wish| self.handled_redeploy() != Some(wish))
    }

    /// The annotation asks for a look, and none has covered it yet.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        let handled = self.object.status.as_ref().and_then(|status| status.last_handled_reconcile.as_ref());
        let covered = self.known.request.as_ref().or(handled);
        requested_look(&*self.object).is_some_and(|request| covered != Some(request))
    }

    /// Whether a delivery waits for a look.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.pending.iter().any(|pending| pending.needs_look && !self.known.heard.contains(&pending.mark.announced))
    }

    /// The deliveries that can be marked.
    #[must_use]
    pub fn marks(&self) -> Vec<Pending> {
        let lost = [Task::Look, Task::Fork].into_iter().filter_map(|task| self.lost(task)).collect::<Vec<_>>();
        let marked = |pending: &Pending| {
            let announced = &pending.mark.announced;
            if !pending.needs_look || self.known.heard.contains(announced) {
                return Some(pending.clone());
            }
            let failed = lost.iter().find(|failed| failed.heard.contains(announced))?;
            let message = Some(failed.standing.message.chars().take(LONGEST_MESSAGE).collect());
            let mut pending = pending.clone();
            (pending.mark.result, pending.mark.message) = (DeliveryResult::Failed, message);
            Some(pending)
        };
        self.pending.iter().filter_map(marked).collect()
    }

    /// It failed, and only a person can mend it.
    fn lost(&self, task: Task) -> Option<&Failed> {
        self.known.failed.get(&task).filter(|failed| failed.standing.state == State::Stalled)
    }

    /// A failure of this task that is still to be waited for, and until when: a delivery that came since may tell that it
    /// was mended, and so may another spec, as often as the object may take steps out of its turn.
    #[must_use]
    pub fn waits(&self, task: Task, now: Timestamp) -> Option<Failed> {
        let failed = self.known.failed.get(&task)?;
        let is_news = |pending: &Pending| pending.needs_look && !failed.heard.contains(&pending.mark.announced);
        let may_be_mended = matches!(task, Task::Look | Task::Fork)
            && failed.standing.state == State::Stalled
            && self.pending.iter().any(is_news);
        let is_other = may_be_mended || failed.about != self.about();
        let until = if is_other { failed.until.min(self.allowed_at) } else { failed.until };
        (until > now).then(|| Failed { until, ..failed.clone() })
    }

    /// What the way to it depends on.
    #[must_use]
    pub fn access(&self) -> Option<Terms> {
        let Way::GitHub(granted) = &self.way else { return None };
        Some(Terms {
            installation: granted.installation,
            permissions: granted.permissions.clone(),
            grant: granted.grant.clone(),
        })
    }

    /// What failures are about.
    #[must_use]
    pub fn about(&self) -> About {
        About {
            generation: self.object.metadata.generation,
            request: requested_look(&*self.object).cloned(),
            hook: self.hook.clone(),
            access: self.access(),
        }
    }

    /// The value of the annotation that asks for a failed deployment to be done again, as it was handled last.
    #[must_use]
    pub fn handled_redeploy(&self) -> Option<&String> {
        let stored = || self.object.status.as_ref().and_then(|status| status.last_handled_redeploy.as_ref());
        self.known.redeploy.as_ref().or_else(stored)
    }

    /// The value of that annotation.
    #[must_use]
    pub fn redeploy_wish(&self) -> Option<&String> {
        self.object.metadata.annotations.as_ref().and_then(|all| all.get(REDEPLOY_ANNOTATION))
    }
}
