//! The gathered state of a `ProjectRepository` and its surroundings: all that a decision needs, and no more.
//!
//! Invariant: the state contains findings and no decisions; the plan is a pure function of it and of `now`. GitHub's
//! answers come from [`super::memory`], never from status, because a tenant may be able to write status.

use super::memory::{About, Failed, Remembered, Task};
use super::rollout;
use crate::api::{
    DeliveryResult, DeploymentResult, DeploymentStatus, ProjectRepository, ProjectRepositoryStatus,
    REDEPLOY_ANNOTATION, Reason,
};
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

/// The way to the repository.
#[derive(Clone, Debug)]
pub enum Way {
    /// Nothing is known yet, so nothing is done.
    NotYetKnown,
    /// There is no way now, or not for this namespace.
    Blocked {
        /// The standing that says why.
        standing: Standing,
        /// It will not pass by itself.
        permanent: bool,
    },
    /// Through the App.
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
    pub account_id: AccountId,
    /// The installation's settings page.
    pub settings_url: String,
    /// The permissions and repositories that the namespace may request.
    pub grant: Grant,
    /// The permissions that the account gives the App.
    pub permissions: GitHubPermissions,
}

/// The webhook of its own that the repository should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookWish {
    /// No webhook.
    None,
    /// A webhook that delivers below this address, signed with a secret from the root key with this id.
    Own {
        /// `spec.webhook.url` of the `GitHubApp`.
        base: String,
        /// The root key's id.
        key_id: String,
    },
    /// A webhook, but its address or its root key is not known.
    Unknown(Standing),
}

/// A delivery that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// Its effect, after the look, or now if no look is needed.
    pub mark: Mark,
    /// It may concern the branch, or the repository.
    pub needs_look: bool,
}

/// The status of an object, unless it was written for a predecessor of the same name.
#[must_use]
pub fn own_status(object: &ProjectRepository) -> Option<&ProjectRepositoryStatus> {
    let status = object.status.as_ref()?;
    status.uid.as_ref().is_none_or(|uid| Some(uid) == object.metadata.uid.as_ref()).then_some(status)
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub object: Arc<ProjectRepository>,
    pub has_finalizer: bool,
    /// It, its installation or its App is paused.
    pub is_paused: bool,
    /// The way to the repository.
    pub way: Way,
    /// The remaining way to remove its webhook, if its installation or its App is being deleted.
    pub way_out: Option<Granted>,
    /// The webhook that it should have.
    pub hook: HookWish,
    /// The deliveries that wait.
    pub pending: Vec<Pending>,
    /// A waiting delivery says that the repository itself changed.
    pub is_repository_news: bool,
    /// When it may take an extra step.
    pub allowed_at: Timestamp,
    /// The memory of this process about it.
    pub known: Remembered,
    /// The clients and data that steps need, and decisions do not.
    pub tools: Tools,
}

/// The clients and data that steps need.
#[derive(Clone, Default)]
pub struct Tools {
    /// The client, if the way leads through GitHub and the App's credentials can be used.
    pub github: Option<Arc<GitHub>>,
    /// The identity of the App's connection.
    pub identity: String,
    /// The App whose webhooks are meant, if this process has looked at it.
    pub app: Option<AppIdentity>,
    /// The transport to the App's GitHub, for git.
    pub git: Option<Transport>,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The most characters of the reason why a delivery had no effect. The API's limit is a little higher.
const LONGEST_MESSAGE: usize = 1000;

impl Seen {
    /// The id that the object is bound to: from GitHub's answer to this process, else from the spec, else from status.
    /// The id from status is used only within the grant, because a tenant may have written it.
    #[must_use]
    pub fn bound_id(&self) -> Option<RepositoryId> {
        let said = self.object.spec.source.existing.as_ref().and_then(|existing| existing.id);
        let stored = || self.object.status.as_ref().and_then(|status| status.repository_id);
        let remembered = self.known.facts.as_ref().map(|facts| facts.repository.id);
        remembered.or(said).or_else(stored)
    }

    /// The branch in the spec.
    #[must_use]
    pub fn branch(&self) -> Option<&str> {
        self.object.spec.branch.as_deref()
    }

    /// Whether the head was confirmed by id since the last look.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        let (Some(head), Some(looked)) = (&self.known.head, &self.known.looked) else { return false };
        self.known.confirmed.as_ref().is_some_and(|(sha, at)| *sha == head.sha && *at == looked.at)
    }

    /// Whether the repository that has the name now has another head than the shown one, and nobody asked which
    /// repository it is, neither before the read nor since.
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

    /// The head, if it may be acted on: it is confirmed, or is the deployed one anyway.
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

    /// The last deployment.
    #[must_use]
    pub fn deployment(&self) -> Option<&DeploymentStatus> {
        let stored = self.object.status.as_ref().and_then(|status| status.deployment.as_ref());
        self.known.deployment.as_ref().or(stored)
    }

    /// The source that a rollout records: the repository's id, or its address. Before the first look the id may come
    /// from status, which is harmless because nothing is rolled out then.
    #[must_use]
    pub fn source(&self) -> Option<String> {
        match &self.way {
            Way::Address(address) => Some(address.url().to_string()),
            _ => self.bound_id().map(|id| id.to_string()),
        }
    }

    /// Whether another try of a failed deployment is requested.
    #[must_use]
    pub fn is_redeploy_asked(&self) -> bool {
        self.redeploy_wish().is_some_and(|wish| self.handled_redeploy() != Some(wish))
    }

    /// Whether the annotation requests a look that has not happened yet.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        let handled = self.object.status.as_ref().and_then(|status| status.last_handled_reconcile.as_ref());
        let covered = self.known.request.as_ref().or(handled);
        requested_look(&*self.object).is_some_and(|request| covered != Some(request))
    }

    /// Whether this process requested a look that has not happened yet.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.known.wanted != self.known.covered
    }

    /// Whether a delivery waits for a look.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.pending.iter().any(|pending| pending.needs_look && !self.known.heard.contains(&pending.mark.announced))
    }

    /// The GUIDs of the deliveries that announced a commit, those that wait first.
    pub fn announcing<'a>(&'a self, sha: &'a str) -> impl Iterator<Item = &'a str> {
        let waiting = self.pending.iter().map(|pending| &pending.mark.delivery);
        let waiting = waiting.map(|delivery| (delivery.guid.as_str(), delivery.sha.as_deref()));
        let logged = self.object.status.iter().flat_map(|status| &status.deliveries);
        let logged = logged.map(|delivery| (delivery.guid.as_str(), delivery.sha.as_deref()));
        waiting.chain(logged).filter(move |(_, announced)| *announced == Some(sha)).map(|(guid, _)| guid)
    }

    /// The standing of an object at which nobody can look now. A look comes first when that ends, so deliveries need not
    /// wait for it.
    #[must_use]
    pub fn hindrance(&self) -> Option<Standing> {
        match &self.way {
            Way::Blocked { standing, .. } => Some(standing.clone()),
            _ if self.is_paused && self.object.spec.source.fork.is_some() && self.bound_id().is_none() => {
                Some(Standing::ready(Reason::Paused, "spec.paused: true holds back the making of the fork"))
            }
            _ => None,
        }
    }

    /// The deliveries that were dealt with.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        let shortened = |standing: &Standing| Some(standing.message.chars().take(LONGEST_MESSAGE).collect());
        if let Some(standing) = self.hindrance() {
            let failed = |pending: &Pending| Mark {
                result: DeliveryResult::Failed,
                message: shortened(&standing),
                ..pending.mark.clone()
            };
            return self.pending.iter().map(failed).collect();
        }
        let lost = [Task::Look, Task::Fork].into_iter().filter_map(|task| self.lost(task)).collect::<Vec<_>>();
        let marked = |pending: &Pending| {
            let announced = &pending.mark.announced;
            if !pending.needs_look || self.known.heard.contains(announced) {
                return Some(pending.mark.clone());
            }
            let failed = lost.iter().find(|failed| failed.heard.contains(announced))?;
            let message = shortened(&failed.standing);
            Some(Mark { result: DeliveryResult::Failed, message, ..pending.mark.clone() })
        };
        self.pending.iter().filter_map(marked).collect()
    }

    /// The failure of this task, if only a person can repair it.
    fn lost(&self, task: Task) -> Option<&Failed> {
        self.known.failed.get(&task).filter(|failed| failed.standing.state == State::Stalled)
    }

    /// The failure of this task that has to be waited for. A later delivery, or a changed spec, may mean that the
    /// problem was repaired, so they cause a retry as often as the object may take extra steps.
    #[must_use]
    pub fn waits(&self, task: Task, now: Timestamp) -> Option<Failed> {
        let failed = self.known.failed.get(&task)?;
        let is_news = |pending: &Pending| pending.needs_look && !failed.heard.contains(&pending.mark.announced);
        let may_be_mended = matches!(task, Task::Look | Task::Fork)
            && failed.standing.state == State::Stalled
            && (self.known.wanted != failed.wanted || self.pending.iter().any(is_news));
        let is_other = may_be_mended || failed.about != self.about();
        let until = if is_other { failed.until.min(self.allowed_at) } else { failed.until };
        (until > now).then(|| Failed { until, ..failed.clone() })
    }

    #[must_use]
    pub fn access(&self) -> Option<Terms> {
        let Way::GitHub(granted) = &self.way else { return None };
        Some(Terms {
            installation: granted.installation,
            permissions: granted.permissions.clone(),
            grant: granted.grant.clone(),
        })
    }

    /// The circumstances of a failure now.
    #[must_use]
    pub fn about(&self) -> About {
        About {
            generation: self.object.metadata.generation,
            request: requested_look(&*self.object).cloned(),
            hook: self.hook.clone(),
            access: self.access(),
        }
    }

    /// The last handled value of the annotation that requests another try of a failed deployment.
    #[must_use]
    pub fn handled_redeploy(&self) -> Option<&String> {
        let stored = || self.object.status.as_ref().and_then(|status| status.last_handled_redeploy.as_ref());
        self.known.redeploy.as_ref().or_else(stored)
    }

    /// The current value of that annotation.
    #[must_use]
    pub fn redeploy_wish(&self) -> Option<&String> {
        self.object.metadata.annotations.as_ref().and_then(|all| all.get(REDEPLOY_ANNOTATION))
    }
}
